from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reid.files import Photo, cameras, people, read_names
from reid.market import (
    OFFICIAL,
    Listing,
    answerable,
    comparison,
    described,
    list_market,
    split_people,
)

# Person 1 and 2 are trained on, 7 and 8 tested; camera and number of the shot follow.
TRAIN = ["0001_c1s1_000001_00", "0001_c2s1_000002_00", "0002_c3s1_000003_00", "0002_c3s1_000004_00"]
QUERY = ["0007_c1s1_000005_00", "0008_c2s1_000006_00"]
GALLERY = ["0007_c2s1_000007_00", "0007_c1s1_000008_00", "0008_c2s1_000009_00",
           "0000_c4s1_000010_00", "-1_c5s1_000011_00"]  # fmt: skip


def fill(root: Path, **parts: list[str]) -> Path:
    """A folder of Market-1501's layout whose images are grey."""
    for part, names in parts.items():
        (root / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.new("RGB", (4, 8), (90, 90, 90)).save(root / part / f"{name}.jpg")
    return root


def official(root: Path) -> Path:
    return fill(root, bounding_box_train=TRAIN, query=QUERY, bounding_box_test=GALLERY)


def test_a_name_says_who_was_seen_by_which_camera(tmp_path: Path) -> None:
    root = fill(tmp_path, a=["0002_c1s1_000451_03", "-1_c6s2_000001_01", "1501_c3s1_000001_00.jpg"])
    photos, wrong, _ = read_names(root / "a")
    assert {(photo.person, photo.camera) for photo in photos} == {(2, 1), (-1, 6), (1501, 3)}
    assert not wrong


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path) -> None:
    root = official(tmp_path)
    for name in ("Thumbs.db", "._0001_c1s1_000001_00.jpg", "0001_c1s1_000001_00.gif"):
        (root / "bounding_box_train" / name).touch()
    (root / "bounding_box_train" / "0003_c1s1_000001_00.jpg").mkdir()
    os.mkfifo(root / "query" / "0007_c1s1_000006_00.jpg")
    listing = list_market(root)
    assert listing.counts()["train"] == 4 and listing.counts()["query"] == 2
    assert listing.notes[:2] == (
        "bounding_box_train: no images and left out: 1 .db, 1 .gif, 1 folder, 1 hidden",
        "query: no images and left out: 1 no regular file",
    )


def test_pixels_whose_white_is_unknown_are_refused_by_name(tmp_path: Path) -> None:
    root = official(tmp_path)
    Image.new("F", (4, 8)).save(root / "bounding_box_train" / "0001_c1s1_000009_00.tif")
    with pytest.raises(ValueError, match=r"1 bad files .*0001_c1s1_000009_00.tif .*floating-point"):
        list_market(root)


@pytest.mark.parametrize("name", ["someone", "0002", "c1s1_000451_03", "0002_1_000451", "x2_c1s1"])
def test_a_name_outside_the_pattern_is_named_and_counted(name: str, tmp_path: Path) -> None:
    root = fill(official(tmp_path), query=[name])
    with pytest.raises(ValueError, match=rf"1 bad files .*{name}.jpg .*--bad-files skip"):
        list_market(root)
    listing = list_market(root, skip_bad=True)
    assert len(listing.query) == 2
    assert any(f"1 bad files are left out: {name}.jpg" in note for note in listing.notes)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_broken_image_is_named_and_counted(content: bytes | None, tmp_path: Path) -> None:
    path = official(tmp_path) / "bounding_box_train" / f"{TRAIN[0]}.jpg"
    if content is None:  # cut off in the middle
        content = path.read_bytes()
        content = content[: len(content) // 2]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=TRAIN[0]):
        list_market(tmp_path)
    listing = list_market(tmp_path, skip_bad=True)
    assert [photo.path.stem for photo in listing.train] == TRAIN[1:]


def test_junk_is_left_out_and_distractors_stay(tmp_path: Path) -> None:
    listing = list_market(official(tmp_path))
    assert listing.counts() == {"train": 4, "query": 2, "gallery": 4, "gallery with junk": 5}
    assert sorted(people(listing.gallery)) == [0, 7, 8]
    notes = " ".join(listing.notes)
    assert "1 junk images" in notes and "1 distractors" in notes
    assert "1 people to train on were seen by one camera only" in notes  # person 2
    assert "1 queries have no right answer" in notes  # person 8 is with camera 2 alone
    assert answerable(listing) == [True, False]


def test_the_archives_own_folder_is_found_inside(tmp_path: Path) -> None:
    official(tmp_path / "Market-1501-v15.09.15")
    assert list_market(tmp_path).counts()["query"] == 2


def test_counts_stand_beside_the_official_ones(tmp_path: Path) -> None:
    lines = described(list_market(official(tmp_path)))
    assert lines[1].split() == ["train", "4", "12,936", "2", "3"]
    assert lines[4].split() == ["gallery", "with", "junk", "5", "19,732"]
    assert lines[-1].startswith("NOT comparable") and "not Market-1501's" in lines[-1]


def test_only_the_official_numbers_are_comparable() -> None:
    assert OFFICIAL["gallery with junk"] - OFFICIAL["gallery"] == 3_819
    assert comparison(Listing([], [], [])).startswith("comparable")
    assert comparison(Listing([], [], [], why_not="drawn")).endswith("drawn")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": []}, "there are no queries"),
        ({"bounding_box_test": []}, "the gallery is empty"),
        ({"bounding_box_train": []}, "no images of known people"),
        ({"bounding_box_train": ["-1_c1s1_000000_00"]}, "no images of known people"),
        ({"query": ["0008_c2s1_000006_00"]}, "no query has an image of its person"),
        ({"bounding_box_train": [*TRAIN, "0007_c1s1_1"]}, "1 people are in training and test: 7"),
    ],
)
def test_what_cannot_be_used_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    parts = {"bounding_box_train": TRAIN, "query": QUERY, "bounding_box_test": GALLERY}
    with pytest.raises(ValueError, match=message):
        list_market(fill(tmp_path, **(parts | change)))


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no bounding_box_train .*--data"):
        list_market(tmp_path / "nowhere")
    fill(tmp_path, bounding_box_train=TRAIN, query=QUERY)
    with pytest.raises(ValueError, match="has query but no bounding_box_test"):
        list_market(tmp_path)


def test_distractors_outside_the_gallery_are_left_out(tmp_path: Path) -> None:
    root = fill(official(tmp_path), query=["0000_c1s1_1"], bounding_box_train=["-1_c1s1_2"])
    listing = list_market(root)
    assert len(listing.query) == 2 and len(listing.train) == 4
    assert any(note.startswith("2 images of person 0 or -1") for note in listing.notes)


def photos_of(seen: list[tuple[int, int]]) -> list[Photo]:
    return [Photo(Path(f"{number}.jpg"), *who) for number, who in enumerate(seen)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), max_size=60), st.integers(0, 9))
def test_a_split_is_by_person_and_every_query_has_an_answer(
    seen: list[tuple[int, int]], seed: int
) -> None:
    photos = photos_of(seen)
    train, query, gallery = split_people(photos, seed)
    assert sorted(train + query + gallery) == sorted(photos)
    assert not {*people(train)} & {*people(query), *people(gallery)}
    assert all(answerable(Listing(train, query, gallery)))
    for person, taken in people(photos).items():
        if len(cameras(taken)) == 1:
            assert person in people(train)
    each = [(photo.person, photo.camera) for photo in query]
    assert len(each) == len(set(each))
    assert (train, query, gallery) == split_people(photos, seed)


def test_a_folder_of_training_images_alone_is_split_and_says_so(tmp_path: Path) -> None:
    source = random.Random(0)
    names = [f"{person:04d}_c{camera}s1_{source.randrange(999999):06d}_00"
             for person in range(1, 9) for camera in (1, 2) for _ in range(3)]  # fmt: skip
    listing = list_market(fill(tmp_path, bounding_box_train=names))
    assert len(people(listing.train)) == len(people(listing.query)) == 4
    assert listing.counts() | {"train": 24, "query": 8} == listing.counts()
    assert "the split is ours" in comparison(listing)
    other = list_market(tmp_path, split_seed=1)
    assert {*people(other.train)} != {*people(listing.train)}


def test_a_subset_is_of_people_and_says_so(tmp_path: Path) -> None:
    listing = list_market(official(tmp_path), subset=1)
    assert len(people(listing.train)) == 1 and listing.why_not == "trained on 1 people only"
    listing = list_market(tmp_path, test_subset=1, split_seed=2)
    assert len(people(listing.query)) == 1 and listing.why_not == "tested on 1 people only"
    with pytest.raises(ValueError, match="5 identities were asked for, there are 2"):
        list_market(tmp_path, subset=5)


def test_torchreid_lists_the_same(tmp_path: Path) -> None:
    pytest.importorskip("torchreid", reason="the comparison is with torchreid")
    from reid.torchreid_import import torchreid

    official(tmp_path / "market1501" / "Market-1501-v15.09.15")
    theirs = torchreid().data.datasets.image.Market1501(str(tmp_path), verbose=False)
    ours = list_market(tmp_path / "market1501")
    for part in ("query", "gallery"):
        listed = {(path, person, camera + 1) for path, person, camera, _ in getattr(theirs, part)}
        assert listed == {(str(p.path), p.person, p.camera) for p in getattr(ours, part)}
    assert {row[0] for row in theirs.train} == {str(photo.path) for photo in ours.train}
    assert theirs.num_train_pids == len(people(ours.train))
