"""Training and test images in a folder of Market-1501's layout.

Everything odd is counted, and what is done about it is said in `Listing.notes`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reid.files import (
    DISTRACTOR,
    PARTS,
    Photo,
    cameras,
    find_root,
    named,
    people,
    read_names,
    readable,
)

OFFICIAL = {"train": 12_936, "query": 3_368, "gallery": 15_913, "gallery with junk": 19_732}
"""Images of Market-1501."""


@dataclass(frozen=True)
class Listing:
    """Training and test images.

    Attributes:
        train: images of known people.
        query: images to find others of.
        gallery: images to find them in.
        junk: images of person -1 that were left out.
        notes: what was found and decided, a sentence each.
        why_not: why figures are not comparable with published ones; "" if they are.
    """

    train: list[Photo]
    query: list[Photo]
    gallery: list[Photo]
    junk: int = 0
    notes: tuple[str, ...] = ()
    why_not: str = ""

    def contents(self) -> Iterator[str]:
        """Name, size, person and camera of each image, to tell whether they changed."""
        for photo in (*self.train, *self.query, *self.gallery):
            path = photo.path
            yield f"{path.name} {path.stat().st_size} {photo.person} {photo.camera}"

    def counts(self) -> dict[str, int]:
        """Images by part, under the names of `OFFICIAL`."""
        gallery = len(self.gallery)
        return {
            "train": len(self.train),
            "query": len(self.query),
            "gallery": gallery,
            "gallery with junk": gallery + self.junk,
        }

    def noted(self, note: str) -> Listing:
        """The same with a note more."""
        return replace(self, notes=(*self.notes, note))


def list_market(
    folder: str | Path,
    *,
    split_seed: int = 0,
    subset: int = 0,
    test_subset: int = 0,
    skip_bad: bool = False,
    workers: int = 4,
) -> Listing:
    """List a folder in Market-1501's layout, and decode every image once to find broken ones.

    Without `query` and `bounding_box_test` the people of `bounding_box_train` are split into as
    many to train as to test on, by `split_seed` (see `split_people`).

    Args:
        folder: the dataset's.
        split_seed: draws the split, `subset` and `test_subset`.
        subset: as many people to train on; 0 takes all.
        test_subset: as many people to query for, in a gallery of these alone; 0 takes all.
        skip_bad: leave out names outside the pattern and broken images instead of refusing them.
        workers: threads that decode.

    Raises:
        ValueError: No such folder, bad files (without `skip_bad`), no training images, no queries
            or none that can be answered, people who are in training and test.
    """
    root = find_root(Path(folder).expanduser())
    whole = (root / PARTS["query"]).is_dir()
    names = {part: read_names(root / PARTS[part]) for part in (PARTS if whole else ["train"])}
    wrong = [name for each in names.values() for name in each.wrong]
    bad = [f"{name} (not like 0002_c1s1_000451_03.jpg)" for name in wrong]
    listing = _people_only({part: each.photos for part, each in names.items()})
    for part, each in names.items():
        if each.left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(each.left_out.items()))
            listing = listing.noted(f"{PARTS[part]}: no images and left out: {kinds}")
    if not whole:
        listing = _split(listing, split_seed)
    listing = _smaller(listing, subset, test_subset, split_seed)
    for part in ("train", "query", "gallery"):
        good, broken = readable(getattr(listing, part), workers)
        change: dict[str, Any] = {part: good}
        listing, bad = replace(listing, **change), bad + broken
    if bad and not skip_bad:
        raise ValueError(
            f"{len(bad)} bad files in {root}: {named(bad)}; mend them, or leave them out with "
            "--bad-files skip"
        )
    if bad:
        listing = listing.noted(f"{len(bad)} bad files are left out: {named(bad)}")
    return _compared(_examined(listing), bool(bad))


def _people_only(parts: dict[str, list[Photo]]) -> Listing:
    """The parts that are there without junk, and without distractors outside the gallery."""
    lowest = {"train": DISTRACTOR + 1, "query": DISTRACTOR + 1, "gallery": DISTRACTOR}
    kept = {
        part: [photo for photo in parts.get(part, []) if photo.person >= least]
        for part, least in lowest.items()
    }
    dropped = {part: len(parts.get(part, [])) - len(photos) for part, photos in kept.items()}
    listing = Listing(kept["train"], kept["query"], kept["gallery"], junk=dropped["gallery"])
    outside = dropped["train"] + dropped["query"]
    if outside:
        note = f"{outside} images of person 0 or -1 to train on or query for are left out"
        listing = listing.noted(note)
    return listing


def _draw(numbers: Iterable[int], count: int, seed: str) -> set[int]:
    """`count` of the numbers at random, all if it is 0."""
    known = sorted(numbers)
    if count > len(known):
        raise ValueError(f"{count} identities were asked for, there are {len(known)}")
    return set(random.Random(seed).sample(known, count) if count else known)


def split_people(photos: list[Photo], seed: int) -> tuple[list[Photo], list[Photo], list[Photo]]:
    """Split images of known people into train, query and gallery by identity.

    Half of the people who were seen by two cameras or more are tested, as in Market-1501, and all
    others trained on. A query is one image of every camera that took two of its person at least, so
    that each has a right answer by another camera.
    """
    known = people(photos)
    several = [person for person, seen in known.items() if len(cameras(seen)) > 1]
    tested = _draw(several, len(several) // 2, f"people-{seed}") if len(several) > 1 else set()
    query: list[Photo] = []
    for person in sorted(tested):
        for camera in sorted(cameras(known[person])):
            taken = [photo for photo in known[person] if photo.camera == camera]
            if len(taken) > 1:
                query.append(random.Random(f"query-{seed}-{person}-{camera}").choice(taken))
    asked = set(query)
    train = [photo for photo in photos if photo.person not in tested]
    gallery = [photo for photo in photos if photo.person in tested and photo not in asked]
    return train, query, gallery


def _split(listing: Listing, seed: int) -> Listing:
    train, query, gallery = split_people(listing.train, seed)
    why = "the split is ours, not Market-1501's"
    return replace(listing, train=train, query=query, gallery=gallery, why_not=why).noted(
        f"there is only {PARTS['train']}: half of its people who were seen by two cameras are "
        f"tested, by split seed {seed}"
    )


def _smaller(listing: Listing, subset: int, test_subset: int, seed: int) -> Listing:
    """The listing with fewer people, if fewer are asked for."""
    if subset:
        chosen = _draw(people(listing.train), subset, f"train-{seed}")
        train = [photo for photo in listing.train if photo.person in chosen]
        why = listing.why_not or f"trained on {subset} people only"
        listing = replace(listing, train=train, why_not=why)
    if test_subset:
        chosen = _draw(people(listing.query), test_subset, f"test-{seed}")
        query, gallery = (
            [photo for photo in part if photo.person in chosen]
            for part in (listing.query, listing.gallery)
        )
        why = listing.why_not or f"tested on {test_subset} people only"
        listing = replace(listing, query=query, gallery=gallery, why_not=why)
    return listing


def answerable(listing: Listing) -> list[bool]:
    """Whether each query has an image of its person by another camera in the gallery."""
    gallery = {person: cameras(seen) for person, seen in people(listing.gallery).items()}
    return [bool(gallery.get(photo.person, set()) - {photo.camera}) for photo in listing.query]


def _examined(listing: Listing) -> Listing:
    """The listing without what cannot be used, with a note for each decision."""
    if not listing.train:
        raise ValueError(f"there are no images of known people in {PARTS['train']}")
    if not listing.query:
        raise ValueError(
            "there are no queries: no image in the folder query, or, where only "
            f"{PARTS['train']} is there, no two people seen by two cameras"
        )
    if not listing.gallery:
        raise ValueError("the gallery is empty")
    both = sorted({*people(listing.train)} & {*people(listing.query), *people(listing.gallery)})
    if both:
        raise ValueError(
            f"{len(both)} people are in training and test: {named([str(p) for p in both])}"
        )
    unanswered = len(listing.query) - sum(answerable(listing))
    if unanswered == len(listing.query):
        raise ValueError("no query has an image of its person by another camera in the gallery")
    single = sum(len(cameras(seen)) == 1 for seen in people(listing.train).values())
    distractors = sum(photo.person == DISTRACTOR for photo in listing.gallery)
    for number, decision in (
        (listing.junk, "junk images (person -1) are left out of the gallery"),
        (distractors, "distractors (person 0) stay in the gallery"),
        (single, "people to train on were seen by one camera only; they stay"),
        (unanswered, "queries have no right answer by another camera; they stay out of the means"),
    ):
        if number:
            listing = listing.noted(f"{number} {decision}")
    return listing


def _compared(listing: Listing, skipped: bool) -> Listing:
    """The listing, not comparable if its counts are not the official ones."""
    if listing.why_not:
        return listing
    if listing.counts() != OFFICIAL:
        return replace(listing, why_not="the numbers of images are not Market-1501's")
    return replace(listing, why_not="bad files were left out") if skipped else listing


def comparison(listing: Listing) -> str:
    """Whether figures may stand beside published ones, as the end of every table says it."""
    if listing.why_not:
        return f"NOT comparable with published figures: {listing.why_not}"
    return "comparable with published figures: the images are Market-1501's, all of them"


def described(listing: Listing) -> list[str]:
    """Counts beside the official ones, and every note, in lines for the terminal."""
    lines = [f"{'images':20s} {'found':>7s} {'official':>9s} {'people':>7s} {'cameras':>8s}"]
    for part, number in listing.counts().items():
        line = f"{part:20s} {number:7,d} {OFFICIAL[part]:9,d}"
        if part in PARTS:
            photos = getattr(listing, part)
            line += f" {len(people(photos)):7,d} {len(cameras(photos)):8,d}"
        lines.append(line)
    return [*lines, *listing.notes, comparison(listing)]
