import pickle
import warnings

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from classification.image_trees import Batches, load_folders
from keepbench.images import read_image
from keepbench.order import EpochBatches
from runs import CPU

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # fewer cores than workers
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),  # Python 3.12 on fork
]


def picture(number, height=30, width=40):
    """Smooth colours, other ones for each number."""
    generator = torch.Generator().manual_seed(number)
    small = torch.rand(1, 3, 4, 5, generator=generator)
    big = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return to_pil_image(big[0])


def grow(root, parts=("train", "val"), classes=("ant", "bee", "cat"), each=4):
    """A tree of PNG images of several sizes."""
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for n in range(each):
                number = 100 * len(part) + 10 * classes.index(name) + n
                image = picture(number, 20 + 7 * n, 40 - 3 * n)
                image.save(root / part / name / f"{n}.png")
    return root


@pytest.fixture
def tree(tmp_path):
    return grow(tmp_path)


def spoil(path):
    """A JPEG whose second half is missing."""
    picture(0, 64, 64).save(path, quality=95)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def train(data, epoch, batch_size, seed=0, start=0, workers=0):
    steps = EpochBatches(
        num_images=data.num_train, batch_size=batch_size, seed=seed, epoch=epoch, start=start
    )
    return data.train_batches(steps, CPU.device, workers)


def shown(data, workers=0, rank=0, world_size=1):
    return data.test_batches(CPU.device, workers, rank, world_size)


def joined(batches):
    """Images and labels of all batches."""
    parts = [batch[1:3] if len(batch) > 2 else batch for batch in batches]
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_batches_are_bytes_of_one_size(tree):
    data = load_folders(tree, size=16)
    assert data.classes == ["ant", "bee", "cat"]
    batches = train(data, 0, 5)
    assert isinstance(batches, Batches) and len(batches) == 3
    found = list(batches)
    assert [tuple(batch.images.shape) for batch in found] == [(5, 3, 16, 16)] * 2 + [(2, 3, 16, 16)]
    assert all(batch.images.dtype == torch.uint8 for batch in found)
    assert all(batch.images.is_contiguous() for batch in found)
    assert all(batch.labels.dtype == torch.int64 for batch in found)
    assert torch.cat([batch.labels for batch in found]).bincount().tolist() == [4, 4, 4]


def test_a_test_folder_serves_as_well(tmp_path):
    data = load_folders(grow(tmp_path, ("train", "test")), size=8)
    assert joined(shown(data))[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_testing_takes_the_middle(tmp_path):
    """A white square on black, just the part that testing looks at."""
    grow(tmp_path)
    wide = torch.zeros(3, 256, 512, dtype=torch.uint8)
    wide[:, 16:240, 144:368] = 255  # the middle 224 pixels
    to_pil_image(wide).save(tmp_path / "val" / "ant" / "0.png")
    image = joined(shown(load_folders(tmp_path)))[0][0]
    assert image.shape == (3, 224, 224) and (image == 255).all()
    image = joined(shown(load_folders(tmp_path, size=56)))[0][0]
    assert image.shape == (3, 56, 56) and (image[:, 2:-2, 2:-2] == 255).all()


def test_batches_do_not_depend_on_workers_or_batch_size(tree):
    data = load_folders(tree, size=16)
    alone = joined(train(data, 3, 4, seed=7))
    assert same(alone, joined(train(data, 3, 4, seed=7, workers=2)))
    assert same(alone, joined(train(data, 3, 5, seed=7)))
    assert same(joined(shown(data)), joined(shown(data, workers=2)))


def test_epochs_and_seeds_differ(tree):
    data = load_folders(tree, size=16)
    first = joined(train(data, 0, 12, seed=1))
    assert same(first, joined(train(data, 0, 12, seed=1)))
    for epoch, seed in ((1, 1), (0, 2)):
        other = joined(train(data, epoch, 12, seed=seed))
        assert not torch.equal(first[1], other[1]) and not torch.equal(first[0], other[0])


def test_crops_differ_by_image_and_epoch(tree):
    """Twelve copies of one picture: no two crops are alike, neither in an epoch nor in the next."""
    for path in (tree / "train").rglob("*.png"):
        picture(0).save(path)
    data = load_folders(tree, size=16)
    images = torch.cat([joined(train(data, epoch, 12))[0] for epoch in range(2)])
    assert len(images.flatten(1).unique(dim=0)) == 24


def test_global_random_numbers_are_left_alone(tree):
    data = load_folders(tree, size=16)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = joined(train(data, 0, 4))
    joined(shown(data))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert same(first, joined(train(data, 0, 4)))


def test_an_epoch_resumes_in_its_middle(tree):
    data = load_folders(tree, size=16)
    whole = list(train(data, 2, 5, seed=1))
    for start in range(4):
        rest = train(data, 2, 5, seed=1, start=start)
        assert len(rest) == 3 - start
        assert all(map(same, rest, whole[start:]))


def test_test_images_are_in_one_process_each(tree):
    data = load_folders(tree, size=16)
    whole = joined(shown(data))
    for rank in range(5):
        part = joined(shown(data, rank=rank, world_size=5))
        assert same(part, [values[rank::5] for values in whole])


def test_any_colour_mode_becomes_rgb(tmp_path):
    rgb = picture(1)
    rgb.convert("L").save(tmp_path / "grey.png")
    rgb.convert("L").save(tmp_path / "grey.jpg")
    rgb.convert("RGBA").save(tmp_path / "alpha.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    rgb.convert("P").save(tmp_path / "palette.png", transparency=bytes(range(256)))
    rgb.save(tmp_path / "rgb.png")
    pixels = {path.name: read_image(path) for path in tmp_path.iterdir()}
    assert {(tuple(p.shape), p.dtype) for p in pixels.values()} == {((3, 30, 40), torch.uint8)}
    assert torch.equal(pixels["alpha.png"], pixels["rgb.png"])
    assert torch.equal(pixels["grey.png"][0], pixels["grey.png"][2])
    difference = pixels["cmyk.jpg"].float() - pixels["rgb.png"].float()
    assert difference.abs().mean() < 6  # not its negative


@pytest.fixture
def spoiled(tree):
    """A truncated JPEG and a text in a class, and a text among the test images."""
    spoil(tree / "train" / "bee" / "1.jpg")
    (tree / "train" / "bee" / "1.png").unlink()
    (tree / "train" / "bee" / "2.png").write_text("not an image")
    (tree / "val" / "cat" / "zero.jpg").write_bytes(b"")
    return tree


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_refused_by_name(spoiled, workers):
    data = load_folders(spoiled, size=16)
    with pytest.raises(ValueError, match=r"bee/[12]\.(jpg|png).*--unreadable skip"):
        list(train(data, 0, 12, workers=workers))
    with pytest.raises(ValueError, match=r"val/cat/zero\.jpg"):
        list(shown(data, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_of_the_class_stands_in(spoiled, workers):
    data = load_folders(spoiled, size=16, unreadable="skip")
    with pytest.warns(UserWarning, match="replaced") as said:
        images, labels = joined(train(data, 0, 4, workers=workers))
    assert len(said) == 2 and len(data.unreadable_files) == 2
    assert images.shape == (12, 3, 16, 16) and labels.bincount().tolist() == [4, 4, 4]
    with warnings.catch_warnings():  # each file is named once
        warnings.simplefilter("error")
        again = joined(train(data, 0, 5))
    assert same((images, labels), again)


def test_the_stand_in_is_the_next_readable_one(spoiled):
    """Image 1 of the class is shown as image 3 is: 2 is unreadable as well."""
    data = load_folders(spoiled, size=16, unreadable="skip")
    reader = train(data, 0, 12).loader.dataset
    reader.transform = lambda pixels: (pixels, ())
    third = read_image(spoiled / "train" / "bee" / "3.png")
    assert torch.equal(reader[5].crop[0], third) and torch.equal(reader[6].crop[0], third)
    assert reader[5].label == 1 and len(reader[5].failures) == 2
    spoil(spoiled / "train" / "bee" / "3.png")
    assert torch.equal(reader[6].crop[0], read_image(spoiled / "train" / "bee" / "0.png"))


def test_a_class_without_readable_images_is_refused(spoiled):
    for n in (0, 3):
        spoil(spoiled / "train" / "bee" / f"{n}.png")
    data = load_folders(spoiled, size=16, unreadable="skip")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no readable image"):
        list(train(data, 0, 12))


def test_testing_leaves_unreadable_images_out(spoiled):
    data = load_folders(spoiled, size=16, unreadable="skip")
    with pytest.warns(UserWarning, match="left out"):
        images, labels = joined(shown(data))
    assert len(images) == 12 and labels.bincount().tolist() == [4, 4, 4]


def test_readers_can_be_sent_to_a_new_process(tree):
    reader = train(load_folders(tree, size=16), 0, 4).loader.dataset
    assert torch.equal(pickle.loads(pickle.dumps(reader))[3].crop[0], reader[3].crop[0])


def test_a_tree_must_be_whole(tmp_path):
    with pytest.raises(ValueError, match="no folder .*train"):
        load_folders(tmp_path)
    grow(tmp_path, ("train",))
    with pytest.raises(ValueError, match="no folder .*test"):
        load_folders(tmp_path)
    (tmp_path / "val" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match="no images of class images"):
        load_folders(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "val" / "images" / "0.png")
    with pytest.raises(ValueError, match="different classes"):
        load_folders(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").touch()
    with pytest.raises(ValueError, match="not sorted by class"):
        load_folders(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0}, "size"),
        ({"unreadable": "ignore"}, "'refuse' or 'skip'"),
    ],
)
def test_settings_are_checked(tree, settings, said):
    with pytest.raises(ValueError, match=said):
        load_folders(tree, **settings)
