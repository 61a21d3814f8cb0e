"""Which image files a folder holds, by one rule for every reader.

Hidden names are left out, and so is whatever is no regular file. A link that leads back into the
tree would show an image twice, perhaps under another label, so it is left out too; links to other
places are followed once. What is left out is counted, for the reader to say.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keepbench.images import IMAGE_ENDINGS
from keepbench.order import even_subset
from keepbench.progress import say


@dataclass
class _Walk:
    """A walk through folders that reads no place twice.

    Attributes:
        bases: real paths of what is walked through anyway; links into them are left out.
        seen: real paths of links that were followed.
        left_out: how many entries were left out, by what they are.
    """

    bases: list[str]
    seen: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)

    def leads_back(self, link: str) -> bool:
        """Whether a link leads to where the walk comes anyway, or has been."""
        real = os.path.realpath(link)
        known = any(os.path.commonpath((real, base)) in (real, base) for base in self.bases)
        if known or real in self.seen:
            return True
        self.seen.add(real)
        return False

    def files(self, root: str, below: bool = True) -> Iterator[str]:
        """The image files in a folder and those `below` it, folder by folder, sorted."""
        found: dict[str, list[str]] = {}
        todo = [root]
        while todo:
            place = todo.pop()
            names = found.setdefault(place, [])
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    ending = os.path.splitext(entry.name)[1].lower()
                    folder, file = _kind(entry)
                    if entry.name.startswith("."):
                        self.left_out["hidden"] += 1
                    elif not (folder or file):
                        self.left_out["no regular file"] += 1
                    elif file and ending not in IMAGE_ENDINGS:
                        self.left_out[ending or "no ending"] += 1
                    elif folder and not below:
                        self.left_out["folder"] += 1
                    elif entry.is_symlink() and self.leads_back(entry.path):
                        self.left_out["link back into the tree"] += 1
                    elif folder:
                        todo.append(entry.path)
                    else:
                        names.append(entry.name)
        for place, names in sorted(found.items()):
            yield from (os.path.join(place, name) for name in sorted(names))


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is, or a link leads to, a folder or a regular file; no link raises."""
    if entry.is_symlink():
        return os.path.isdir(entry.path), os.path.isfile(entry.path)
    return entry.is_dir(), entry.is_file()


@dataclass(frozen=True)
class ImageTree:
    """The image files of a class-folder tree `root/<class>/**`.

    Attributes:
        root: of the tree.
        classes: their names, sorted; labels count them from 0.
        paths: of the files, class by class.
        labels: of each.
    """

    root: Path
    classes: list[str]
    paths: list[str]
    labels: list[int]

    def subset(self, number: int, seed: int) -> ImageTree:
        """As many images only, drawn by `seed` evenly from the classes; 0 takes all."""
        chosen = even_subset(self.labels, number, seed)
        paths, labels = [self.paths[n] for n in chosen], [self.labels[n] for n in chosen]
        return ImageTree(self.root, self.classes, paths, labels)

    def contents(self) -> Iterator[str]:
        """Each file's place, size and label, to tell whether images changed."""
        for path, label in zip(self.paths, self.labels, strict=True):
            yield f"{os.path.relpath(path, self.root)} {os.path.getsize(path)} {label}"


def _say(folder: Path, left_out: Counter[str]) -> None:
    """Say what was left out, once if there are several processes."""
    if left_out and os.environ.get("RANK", "0") == "0":
        words = ", ".join(f"{number} {what}" for what, number in sorted(left_out.items()))
        say(f"{folder}: left out {words}")


def list_tree(root: Path) -> ImageTree:
    """List a class-folder tree; no file is opened.

    Raises:
        ValueError: It is no folder, or has no class, or a class has no images.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; give the one with a folder for each class")
    walk = _Walk([os.path.realpath(root)])
    classes: list[str] = []
    paths: list[str] = []
    labels: list[int] = []
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            walk.left_out["hidden" if folder.name.startswith(".") else "no class's folder"] += 1
            continue
        if folder.is_symlink() and walk.leads_back(str(folder)):
            walk.left_out["link back into the tree"] += 1
            continue
        walk.bases[1:] = [os.path.realpath(folder)]
        files = list(walk.files(str(folder)))
        if not files:
            raise ValueError(f"no images of class {folder.name} in {folder}")
        labels += [len(classes)] * len(files)
        classes.append(folder.name)
        paths += files
    _say(root, walk.left_out)
    if not classes:
        raise ValueError(f"no images of classes in {root}: it has no folder for a class")
    return ImageTree(root, classes, paths, labels)


def list_below(folder: Path) -> list[str]:
    """The image files in a folder and below it, by path.

    Raises:
        ValueError: It is no folder, or holds none.
    """
    if not folder.is_dir():
        raise ValueError(f"no images in {folder}: there is no such folder")
    walk = _Walk([os.path.realpath(folder)])
    paths = list(walk.files(str(folder)))
    _say(folder, walk.left_out)
    if not paths:
        raise ValueError(f"no images in {folder}")
    return paths


def list_here(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The image files right in a folder, by name, and how many other entries, by what they are."""
    walk = _Walk([os.path.realpath(folder)])
    return [Path(path) for path in walk.files(str(folder), below=False)], walk.left_out
