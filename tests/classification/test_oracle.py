"""Ground truth in place of maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from classification.augmentation import Augmented
from classification.config import Config
from classification.data import open_data
from classification.importance import InvertedOracle, Oracle
from classification.methods import Cutout, KeepCut
from classification.train import Trainer, train
from keepbench.ground_truth import HEADER
from runs import CPU, assert_resumes

BOX = (2, 3, 7, 9)  # left, top, right, bottom


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Oracle boxes on 24 images of 16 pixels: grey noise, and green where the object is."""
    lines = [",".join(HEADER)]
    for part in ("train", "test"):
        for label in range(2):
            folder = tmp_path / "tree" / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = torch.randint(0, 200, (1, 16, 16), dtype=torch.uint8).repeat(3, 1, 1)
                pixels[:, BOX[1] : BOX[3], BOX[0] : BOX[2]] = torch.tensor([0, 255, 0])[
                    :, None, None
                ]
                to_pil_image(pixels).save(folder / f"{number}.png")
                lines += [f"class{label}/{number}.png,{','.join(map(str, BOX))}"] * (
                    part == "train"
                )
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    return Config(
        dataset="folder", data=str(tmp_path / "tree"), objects=str(tmp_path / "boxes.csv"),
        arch="resnet8", epochs=2, batch_size=12, padding=2, cut=Cutout(size=5),
        keep=KeepCut(map=Oracle(), tau=0.2, match_area=True),
    )  # fmt: skip


def green_pixels(config: Config) -> Iterator[Tensor]:
    """Of each training image in an epoch, before and after the cut: (B, 2)."""
    trainer = Trainer(config, open_data(config, CPU.device), CPU)
    seen: dict[str, Tensor] = {}

    def listen(name: str, batch: Augmented) -> None:
        seen[name] = batch.inputs

    for step, batch in enumerate(trainer.batches()):
        trainer.augment(0, step, batch, listen)
        green = [
            (seen[name][:, 1] > seen[name][:, (0, 2)].amax(1) + 1).sum((1, 2))
            for name in ("colour", "cut")
        ]
        yield torch.stack(green, 1)


def test_a_cut_spares_the_object_wherever_crop_and_flip_put_it(config: Config) -> None:
    before, after = torch.cat(list(green_pixels(config))).unbind(1)
    assert before.min() > 0 and torch.equal(before, after)


def test_an_inverted_oracle_hides_more_of_the_object_than_the_plain_cut(config: Config) -> None:
    kept = replace(config.keep, map=InvertedOracle())
    arms = replace(config, keep=kept), config.plain
    inverted, plain = (torch.cat(list(green_pixels(arm)))[:, 1].sum() for arm in arms)
    assert inverted < 0.9 * plain


def test_a_run_with_an_oracle_goes_on(config: Config, tmp_path: Path) -> None:
    def make() -> Trainer:
        return Trainer(config, open_data(config, CPU.device), CPU)

    rows = assert_resumes(make, 3, tmp_path)
    assert all(0 <= row["cache_agreement"] <= 1 for row in rows)


def test_other_boxes_are_other_data(config: Config, tmp_path: Path) -> None:
    train("a", replace(config, epochs=1), tmp_path / "run", CPU)
    boxes = Path(config.objects)
    boxes.write_text(boxes.read_text().replace("2,3,7,9", "2,3,7,8", 1))
    with pytest.raises(ValueError, match="what objects names has changed"):
        train("a", replace(config, epochs=1), tmp_path / "run", CPU, resume=True)


def test_an_oracle_needs_objects_that_are_known_by_their_files(config: Config) -> None:
    with pytest.raises(ValueError, match="keep.map=oracle needs --objects"):
        replace(config, objects="")
    with pytest.raises(ValueError, match="which digits has none of"):
        open_data(replace(config, dataset="digits"), CPU.device)
