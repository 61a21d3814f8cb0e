from __future__ import annotations

import os
from pathlib import Path

import pytest

from keepbench.trees import list_here, list_tree


def grow(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_tree_has_every_image_once_and_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, store = tmp_path / "tree", tmp_path / "store"
    grow(store, "4.png", "5.png")
    grow(root, "bee/2.png", "bee/1.JPG", "bee/deep/3.png", "bee/._1.JPG", "bee/a.txt", "ant/0.png")
    grow(root, ".cache/0.png", "readme.txt")
    os.mkfifo(root / "bee" / "pipe.png")
    for name, target in {
        "bee/more": store,  # a link to another place is followed once, by the first
        "bee/again": store,
        "bee/up": "..",
        "bee/ant.png": "../ant/0.png",  # else a bee's image, too
        "wasp": "bee",
    }.items():
        (root / name).symlink_to(target)
    tree = list_tree(root)
    assert tree.classes == ["ant", "bee"]
    names = [os.path.relpath(path, root) for path in tree.paths]
    images = ["1.JPG", "2.png", "again/4.png", "again/5.png", "deep/3.png"]
    assert names == ["ant/0.png", *(f"bee/{name}" for name in images)]
    assert tree.labels == [0] + 5 * [1]
    said = "left out 1 .txt, 2 hidden, 4 link back into the tree, 1 no class's folder, 1 no regular"
    assert said in capsys.readouterr().err


def test_contents_tell_whether_a_tree_changed(tmp_path: Path) -> None:
    grow(tmp_path / "a", "x/0.png", "y/1.png")
    (tmp_path / "a").rename(tmp_path / "b")
    before = list(list_tree(tmp_path / "b").contents())
    assert before == ["x/0.png 0 0", "y/1.png 0 1"]  # wherever it lies
    (tmp_path / "b" / "x" / "0.png").write_bytes(b"1")
    assert list(list_tree(tmp_path / "b").contents()) != before


def test_trees_without_classes_or_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        list_tree(tmp_path / "nowhere")
    (tmp_path / "ant").mkdir()
    with pytest.raises(ValueError, match="no images of class ant"):
        list_tree(tmp_path)


def test_a_folder_alone_has_every_image_once_and_counts_the_rest(tmp_path: Path) -> None:
    inside, store = tmp_path / "a", tmp_path / "store"
    for folder in (inside / "x.jpg", inside / ".git", store):
        folder.mkdir(parents=True)
    for name in ("b.jpg", "c.JPEG", "a.png", "._b.jpg", "d.gif", "notes"):
        (inside / name).touch()
    (store / "1").touch()
    os.mkfifo(inside / "pipe.jpg")
    for name, target in {
        "0.jpg": "b.jpg",  # once, by its own name
        "d.txt": store / "1",  # no image under this name
        "e.jpg": store / "1",  # a link out of a data set is how large files are kept
        "f.jpg": store / "1",
        "broken.jpg": "nowhere",
        "up": "..",
        "loop.jpg": "loop.jpg",
    }.items():
        (inside / name).symlink_to(target)
    paths, left_out = list_here(inside)
    assert [path.name for path in paths] == ["a.png", "b.jpg", "c.JPEG", "e.jpg"]
    assert left_out == {
        "hidden": 2, "folder": 2, "no regular file": 3, ".gif": 1, "no ending": 1, ".txt": 1,
        "link back into the tree": 2,
    }  # fmt: skip
