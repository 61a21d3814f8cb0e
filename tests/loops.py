"""The tables of docs/loops.md: what the examples change, and each method, target and loop tried.

PYTHONPATH=core:. python tests/loops.py writes them into the page anew.
"""

from __future__ import annotations

import ast
import contextlib
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from keepaugment import (
    BoxSaliency,
    GradientSaliency,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    KeypointSaliency,
    MaskSaliency,
    adapters,
)
from keepaugment.adapters import TwoViews

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "loops.md"
EXAMPLES = sorted(
    path for path in (ROOT / "docs" / "examples").glob("*.py") if path.stem != "example_data"
)
BATCH, CLASSES, SIDE = 4, 3, 16
YES = "yes"
Step = Callable[[Any, Any], Any]


class Network(nn.Module):
    """Images (B, 3, H, W) to logits (B, CLASSES)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CLASSES, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).tanh().mean((2, 3))


NETWORK = Network()
IMAGES = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[2.0, 2, 6, 6]])
MASKS = F.pad(torch.ones(1, 4, 4, dtype=torch.uint8), (2, SIDE - 6, 2, SIDE - 6))
POINTS = torch.tensor([[[4.0, 4, 1]]])
TARGETS: dict[str, tuple[Any, Any]] = {
    "labels (B,)": (torch.arange(BATCH) % CLASSES, GradientSaliency(NETWORK)),
    "class weights (B, K)": (torch.eye(CLASSES)[[0, 1, 2, 0]], GradientSaliency(NETWORK)),
    "boxes": ([{"boxes": BOXES}] * BATCH, BoxSaliency()),
    "masks": ([{"masks": MASKS}] * BATCH, MaskSaliency()),
    "keypoints": ([{"keypoints": POINTS}] * BATCH, KeypointSaliency()),
}
"""By name, a batch's targets and what takes importance from them."""


def _paste(saliency: Any) -> Step:
    paste = KeepPaste(size=8, saliency=saliency)
    return lambda images, targets: paste(images, images.flip(3), targets)


def _paste_views(saliency: Any) -> Step:
    paste = KeepPaste(size=8, saliency=saliency)
    return lambda images, targets: paste(*images, targets)


METHODS: dict[str, Callable[[Any], Step]] = {
    "KeepCutout": lambda saliency: KeepCutout(size=8, saliency=saliency),
    "KeepRandomErasing": lambda saliency: KeepRandomErasing(p=1.0, saliency=saliency),
    "KeepCutMix": lambda saliency: KeepCutMix(None, CLASSES, saliency=saliency),
    "KeepPaste": _paste,
    "TwoViews, KeepPaste": _paste_views,
}


def _samples(method: str) -> list[Any]:
    """What a data set gives: images (C, H, W), or two views of each."""
    if "TwoViews" not in method:
        return list(IMAGES)
    identity = v2.Identity()
    return [*map(TwoViews(identity, v2.RandomHorizontalFlip(1.0), identity), IMAGES)]


def _own(step: Step, samples: list[Any], targets: Any) -> Tensor:
    result = step(default_collate(samples), targets)
    return result[0] if isinstance(result, tuple) else result


def _batch_transform(step: Step, samples: list[Any], targets: Any) -> Tensor:
    return v2.Compose([adapters.KeepTransform(step)])(default_collate(samples), targets)[0]


def _sample_transform(step: Step, samples: list[Any], targets: Any) -> Tensor:
    size = (SIDE, SIDE)
    kinds: dict[str, Callable[[Any], Any]] = {
        "boxes": lambda x: tv_tensors.BoundingBoxes(x, format="XYXY", canvas_size=size),
        "masks": tv_tensors.Mask,
        "keypoints": lambda x: tv_tensors.KeyPoints(x[..., :2], canvas_size=size),
    }
    target = targets[0]
    if isinstance(target, dict):
        target = {name: kinds[name](value) for name, value in target.items()}
    elif target.ndim == 0:
        target = int(target)
    transform = v2.Compose([adapters.Erasing(step)])  # type: ignore[arg-type]
    return transform(tv_tensors.Image(samples[0]), target)[0]


def _timm(step: Step, samples: list[Any], targets: Any) -> Tensor:
    from timm.loss import SoftTargetCrossEntropy

    changed, weights = adapters.KeepMixup(step, CLASSES)(default_collate(samples), targets)
    SoftTargetCrossEntropy()(NETWORK(changed), weights).backward()
    return changed


def _collate(samples: list[tuple[Any, Any]]) -> list[Any]:
    """Images and targets of a batch; dicts stay in a list, as for detectors."""
    images, targets = zip(*samples, strict=True)
    own = list(targets) if isinstance(targets[0], dict) else torch.stack(targets)
    return [default_collate(images), own]


def _lightning(step: Step, samples: list[Any], targets: Any) -> Tensor:
    import lightning

    seen = []

    class Keep(adapters.KeepCallback, lightning.Callback):  # type: ignore[misc, name-defined]
        pass

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def training_step(self, batch: Any, index: int) -> Tensor:
            seen.append(batch[0])
            return self.network(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Keep(step)],
    )  # fmt: skip
    data = list(zip(samples, targets, strict=True))
    trainer.fit(Module(), DataLoader(data, batch_size=BATCH, collate_fn=_collate))
    return seen[0]


def _transformers(step: Step, samples: list[Any], targets: Any) -> Tensor:
    import transformers

    seen = []

    class Model(Network):
        def forward(self, pixel_values: Tensor, labels: Any = None) -> Any:
            seen.append(pixel_values)
            logits = super().forward(pixel_values)
            return {"loss": logits.square().mean(), "logits": logits}

    class Trainer(adapters.KeepTrainer, transformers.Trainer):  # type: ignore[misc, name-defined]
        pass

    arguments = transformers.TrainingArguments(
        max_steps=1, per_device_train_batch_size=BATCH, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    Trainer(
        Model(), arguments, train_dataset=list(zip(samples, targets, strict=True)), step=step,
        data_collator=lambda s: dict(zip(("pixel_values", "labels"), _collate(s), strict=True)),
        compute_loss_func=adapters.mixed_loss if isinstance(targets, Tensor) else None,
    ).train()  # fmt: skip
    return seen[0]


def _torchreid(step: Step, samples: list[Any], targets: Any) -> Tensor:
    import torchreid

    class Engine(adapters.KeepEngine, torchreid.engine.ImageSoftmaxEngine):  # type: ignore[misc]
        def __init__(self) -> None:
            self.step, self.use_gpu = step, False

    return Engine().parse_data_for_train({"img": default_collate(samples), "pid": targets})[0]


LOOPS: dict[str, Callable[[Step, list[Any], Any], Tensor]] = {
    "own loop": _own,
    "torchvision v2, batch": _batch_transform,
    "torchvision v2, sample": _sample_transform,
    "timm": _timm,
    "Lightning": _lightning,
    "Transformers": _transformers,
    "torchreid": _torchreid,
}


def tried(method: str, target: str, loop: str) -> str:
    """`YES` if a step changes the images of a loop, else the error's words."""
    targets, saliency = TARGETS[target]
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the packages' own
            changed = LOOPS[loop](METHODS[method](saliency), _samples(method), targets)
    except ValueError as error:
        return re.sub(r"\s+", " ", str(error))
    first = IMAGES[: len(changed)] if changed.ndim == 4 else IMAGES[0]
    return "the images are as they were" if torch.equal(changed, first) else YES


def cells() -> Iterator[str]:
    """Lines of Markdown: a row for each method and target, and the reasons of refusals."""
    reasons: dict[str, int] = {}
    yield f"| method | target | {' | '.join(LOOPS)} |"
    yield "|---" * (len(LOOPS) + 2) + "|"
    for method in METHODS:
        for target in TARGETS:
            row = []
            for loop in LOOPS:
                said = tried(method, target, loop)
                known = said == YES or reasons.setdefault(said, len(reasons) + 1)
                row.append(YES if said == YES else f"[{known}]")
            yield f"| {method} | {target} | {' | '.join(row)} |"
    yield ""
    for said, number in reasons.items():
        yield f"{number}. {said}"


def is_changed(line: str) -> bool:
    """Whether a line of an example is there for Keep: without these it is the plain loop."""
    return line.endswith("  # keep")


def examples() -> Iterator[str]:
    """Lines of Markdown: a row for each example."""
    yield "| example | what it is | lines | changed |"
    yield "|---|---|---|---|"
    for path in EXAMPLES:
        lines = path.read_text().splitlines()
        about = (ast.get_docstring(ast.parse(path.read_text())) or "").split(":")[0].splitlines()[0]
        link = f"[{path.name}](examples/{path.name})"
        changed = sum(map(is_changed, lines))
        yield f"| {link} | {about.rstrip('.')} | {len(lines)} | {changed} |"


def with_table(page: str, name: str, lines: Iterable[str]) -> str:
    """A page whose part between <!-- name --> and <!-- end --> is these lines."""
    start = f"<!-- {name} -->\n"
    head, found, rest = page.partition(start)
    assert found, f"no {start!r}"
    body = "\n".join(lines)
    return f"{head}{start}\n{body}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"


if __name__ == "__main__":
    text = with_table(PAGE.read_text(), "examples", examples())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        PAGE.write_text(with_table(text, "cells", cells()))
