from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keepbench.images import read_image
from keepbench.processes import Processes
from reid.config import Config
from reid.toy import write_toy

pytest.importorskip("torchreid", reason="data are read by torchreid's parts")
from reid.data import Data, open_data  # noqa: E402

CPU = Processes(torch.device("cpu"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("toy") / "people"
    write_toy(folder, num_train=6, num_test=3, cameras=3, images=3, strangers=2)
    for path in sorted((folder / "bounding_box_train").glob("0001*"))[2:]:
        path.unlink()  # a person with two images only
    return Config(dataset="toy", data=str(folder), height=64, width=32, workers=0,
                  num_ids=2, num_instances=4)  # fmt: skip


@pytest.fixture(scope="module")
def data(config: Config) -> Data:
    return open_data(config, CPU)


def test_images_are_scaled_as_bag_of_tricks_does(data: Data) -> None:
    assert data.images.shape == (47, 3, 64, 32) and data.images.dtype == torch.uint8
    for number in (0, 20):
        with Image.open(data.listing.train[number].path) as image:
            expected = np.asarray(image.resize((32, 64), Image.Resampling.BILINEAR))
        assert np.array_equal(data.images[number].permute(1, 2, 0).numpy(), expected)


def test_images_of_16_bits_and_turned_ones_are_read_as_they_look(tmp_path: Path) -> None:
    write_toy(tmp_path / "a", num_train=2, num_test=1, cameras=2, images=2, strangers=0)
    config = Config(dataset="toy", data=str(tmp_path / "a"), height=128, width=64, workers=0,
                    num_ids=2, num_instances=2)  # fmt: skip
    ramp = np.arange(128 * 64).reshape(128, 64) // 32
    first, second = sorted((tmp_path / "a" / "bounding_box_train").iterdir())[:2]
    Image.fromarray((ramp * 257).astype(np.uint16)).save(first.with_suffix(".png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(ramp)).astype(np.uint8)
    Image.fromarray(turned).save(second.with_suffix(".png"), exif=exif)
    first.unlink()
    second.unlink()
    images = open_data(config, CPU).images[:2]
    assert (images == torch.from_numpy(ramp).to(torch.uint8)).all()


def test_images_keep_their_people_and_cameras(data: Data) -> None:
    assert data.labels.unique().tolist() == [0, 1, 2, 3, 4, 5] and data.num_classes == 6
    for number, photo in enumerate(data.listing.train):
        assert int(data.labels[number]) == photo.person - 1
    for shown, photos in ((data.query, data.listing.query), (data.gallery, data.listing.gallery)):
        assert shown.people.tolist() == [photo.person for photo in photos]
        assert shown.cameras.tolist() == [photo.camera for photo in photos]
        assert len(shown.pixels) == len(photos)
    assert data.listing.why_not == "the pedestrians are drawn"


def test_a_step_has_p_people_with_k_images_each(data: Data) -> None:
    steps = data.batches(0, 0, 8)
    assert 3 <= len(steps) <= 5  # of 11 groups of four images
    for step in steps:
        assert [data.labels[step].tolist().count(i) for i in data.labels[step].unique()] == [4, 4]
    of_first = (data.labels == 0).nonzero()[:, 0]
    taken = steps[torch.isin(steps, of_first)]
    assert len(taken) == 4  # twice each, since there are two


def test_an_epoch_follows_from_its_seed_alone(data: Data) -> None:
    first = data.batches(0, 0, 8)
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    before = random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(data.batches(0, 0, 8), first)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    for seed, epoch in ((0, 1), (1, 0)):
        assert data.batches(seed, epoch, 8).tolist() != first.tolist()


def test_processes_share_out_the_test_images_only(config: Config, data: Data) -> None:
    shares = [open_data(config, Processes(CPU.device, rank, 2)) for rank in (0, 1)]
    for part in ("query", "gallery"):
        whole = getattr(data, part).pixels
        for rank, share in enumerate(shares):
            assert torch.equal(getattr(share, part).pixels, whole[rank::2])
            assert len(getattr(share, part).people) == len(whole)
    assert torch.equal(shares[1].images, data.images)


def test_workers_read_the_same(config: Config, data: Data) -> None:
    assert torch.equal(open_data(replace(config, workers=1), CPU).images, data.images)


def test_too_few_people_for_a_batch_are_refused(config: Config) -> None:
    with pytest.raises(ValueError, match="a batch of 7 identities .* found 6; lower --num-ids"):
        open_data(replace(config, num_ids=7), CPU)


def test_drawn_pedestrians_are_drawn_where_there_are_none(tmp_path: Path) -> None:
    from reid.experiments import BUDGETS, EXPERIMENTS

    smoke = BUDGETS["smoke"](EXPERIMENTS["market-resnet101-keep_erasing_low"].config)
    data = open_data(replace(smoke, data=str(tmp_path / "a")), CPU)
    assert data.num_classes == 4
    assert read_image(data.query.photos[0].path).shape == (3, 128, 64)
