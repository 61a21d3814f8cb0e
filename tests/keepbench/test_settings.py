from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kinds import (
    OWN,
    Config,
    Cutout,
    Erasing,
    Gradient,
    KeepCut,
    KeepPaste,
    Random,
    Shuffled,
)

from keepbench.maps import Gradient as RealGradient
from keepbench.settings import (
    changed,
    check_lengths,
    defaults,
    differences,
    flat,
    from_flat,
    with_role,
)

KEPT = Config(cut=Cutout(size=8), keep=KeepCut(map=Shuffled(scale=0.25), tau=0.3), lr=0.5)


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, r"lr must be in \(0, 1\], found 0.0"),
        ({"lr": 1.01}, r"lr must be in \(0, 1\], found 1.01"),
        ({"lr": float("nan")}, r"lr must be in \(0, 1\], found nan"),
        ({"lr": "0.1"}, "lr must be a number, found '0.1'"),
        ({"lr": True}, "lr must be a number, found True"),
        ({"lr": [0.1]}, r"lr must be a number, found \[0.1\]"),
        ({"epochs": 0}, r"epochs must be in \[1, 100\], found 0"),
        ({"epochs": 10**400}, r"epochs must be in \[1, 100\], found 1000"),
        ({"epochs": 2.0}, "epochs must be a whole number, found 2.0"),
        ({"epochs": "2"}, "epochs must be a whole number, found '2'"),
        ({"epochs": False}, "epochs must be a whole number, found False"),
        ({"flip": 1}, "flip must be true or false, found 1"),
        ({"order": "middle"}, "order must be one of 'first', 'last', found 'middle'"),
        ({"order": ["first"]}, r"order must be printable text, found \['first'\]"),
        ({"note": None}, "note must be printable text, found None"),
        ({"note": "a\x1b[31m"}, "note must be printable text, found 'a"),
        ({"note": "\ud800"}, "note must be printable text, found '"),
        ({"cut": "cutout"}, "cut must be a Cut or None, found 'cutout'"),
        ({"cut": KeepCut()}, "cut must be a Cut or None, found KeepCut"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Config(**change)


def test_a_kind_checks_its_own_settings() -> None:
    with pytest.raises(ValueError, match=r"^size must be in \[0, 64\], found 65"):
        Cutout(size=65)
    with pytest.raises(ValueError, match="^map must be a Map, found None"):
        KeepCut(map=None)  # type: ignore[arg-type]


def test_settings_at_the_ends_of_their_ranges() -> None:
    Config(lr=1, epochs=1, workers=8, note="größe 16, 画像")
    Config(lr=1e-9, epochs=100, workers=0)


def test_lengths_fit_in_the_shorter_side() -> None:
    check_lengths((40, 32), size=32, padding=31)
    with pytest.raises(ValueError, match="size must be at most 32 for 40x32 images, found 33"):
        check_lengths((40, 32), padding=4, size=33)
    with pytest.raises(ValueError, match="padding must be at most 31 for 40x32 images, found 32"):
        check_lengths((40, 32), padding=32)  # a crop could miss the image
    RealGradient(scale=0.25).check_image_size((8, 8))
    with pytest.raises(ValueError, match="scale must leave 2 pixels of a side of 8x8 images"):
        RealGradient(scale=0.125).check_image_size((8, 8))  # every region would score the same


def test_roles() -> None:
    assert with_role(Config(), "neutral") == {"workers", "seed"}


# By name


def test_settings_are_flat_by_name() -> None:
    assert flat(KEPT) == {
        "arch": "small", "epochs": 3, "lr": 0.5, "flip": True,
        "cut": "cutout", "cut.size": 8, "cut.p": 1.0,
        "keep": "cut", "keep.map": "shuffled", "keep.map.scale": 0.25, "keep.tau": 0.3,
        "keep.match_area": False, "workers": 4, "order": "first", "seed": 0, "note": "",
    }  # fmt: skip


@pytest.mark.parametrize("config", [Config(), KEPT, Config(keep=KeepPaste(map=Random(), size=4))])
def test_flat_settings_are_read_back(config: Config) -> None:
    assert from_flat(Config, flat(config)) == config


def test_a_change_by_name_is_one_of_values() -> None:
    found = changed(KEPT, {"cut.p": 0.5, "keep.map.scale": 1.0, "epochs": 5})
    keep = KeepCut(map=Shuffled(scale=1.0), tau=0.3)
    assert found == Config(cut=Cutout(size=8, p=0.5), keep=keep, lr=0.5, epochs=5)
    assert changed(KEPT, {"cut": "", "keep": ""}) == Config(lr=0.5)


def test_another_kind_keeps_what_was_set_of_the_one_before() -> None:
    assert changed(KEPT, {"keep": "paste"}).keep == KeepPaste(map=Shuffled(scale=0.25), tau=0.3)
    assert changed(KEPT, {"keep.map": "gradient"}).keep == replace(
        KEPT.keep, map=Gradient(scale=0.25)
    )
    # Cutout's p was not set, so erasing has its own
    assert changed(KEPT, {"cut": "erasing"}).cut == Erasing(p=0.5)
    assert changed(Config(cut=Cutout(p=0.1)), {"cut": "erasing"}).cut == Erasing(p=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, "epoch is no setting; did you mean epochs"),
        ({"lr.size": 3}, "lr.size is no setting"),
        ({"cut.width": 3}, r"cut.width is no setting of cutout.*\(it has size, p\)"),
        ({"cut": "erasing", "cut.size": 3}, r"cut.size is no setting of erasing.*has p, law\)"),
        ({"keep.map": "random", "keep.map.scale": 1.0}, r"of random \(it has none\)"),
        ({"cut": "cutmix"}, "cut must be one of 'cutout', 'erasing', found 'cutmix'"),
        ({"cut": 1}, "cut must be a name, '' for none, found 1"),
        ({"cut": None}, "cut must be a name, '' for none, found None"),
        ({"cut": {"a": "b"}}, "cut must be a name, '' for none, found {'a': 'b'}"),
        ({"keep.map": "depth"}, "keep.map must be one of 'gradient', 'shuffled', 'random', found"),
        ({"keep.map": ""}, "keep.map must be a Map, found None"),
        ({"keep.map.scale": 3}, r"keep.map.scale must be in \(0, 1\], found 3"),
        ({"keep.tau": "0.6"}, "keep.tau must be a number, found '0.6'"),
        ({"keep": "", "keep.tau": 0.5}, "keep.tau needs keep, which is none"),
        ({"lr": 2.0}, r"lr must be in \(0, 1\], found 2.0"),
    ],
)
def test_a_change_that_cannot_be_is_named_in_full(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}"):
        changed(KEPT, change)


def test_defaults_are_those_of_the_kinds() -> None:
    """A `Keep` has a map at half scale; a map that is chosen has a whole one."""
    assert defaults(KEPT)["keep.map.scale"] == 1.0 and defaults(KEPT)["cut"] == ""
    assert defaults(Config(keep=KeepCut()))["keep.map.scale"] == 0.5


def test_differences_are_what_is_to_be_said() -> None:
    assert differences(Config()) == ""
    assert differences(KEPT) == (
        "lr=0.5 cut=cutout cut.size=8 keep=cut keep.map=shuffled keep.map.scale=0.25 keep.tau=0.3"
    )
    assert differences(Config(keep=KeepCut())) == "keep=cut"
    assert differences(Config(keep=KeepCut(map=Gradient()))) == "keep=cut keep.map.scale=1.0"


# Classes of the user's own


def test_an_own_class_is_a_kind(own: str) -> None:
    config = changed(Config(), {"cut": f"{own}:Stripe", "cut.width": 4})
    assert flat(config)["cut"] == f"{own}:Stripe" and flat(config)["cut.width"] == 4
    assert changed(KEPT, {"keep.map": f"{own}:Depth"}).keep.map.power == 1.0  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"cut.width must be in \[1, 9\], found 10"):
        changed(config, {"cut.width": 10})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OWN:Depth", "cut must be a subclass of kinds.Cut, found .*own.py:Depth"),
        ("OWN:Gone", "cut .*own.py:Gone cannot be called"),
        ("gone.py:Gone", "cut gone.py:Gone cannot be called"),
        ("OWN:Undecorated", "Undecorated has width, so it needs @dataclass"),
        ("OWN:Bare", "Bare has width, which must be a keepbench.settings.setting"),
        ("OWN:Pair", "Pair has sides, whose default must be true or false, a whole number"),
        ("OWN:Idle", r"Idle has needs=\('width',\), but no setting width"),
        ("OWN:Begun", "Begun cannot be made: TypeError: .*missing 1 required .*'width'"),
        ("OWN:Lost", r"Lost cannot be made: .*own.py, line \d+: KeyError: 'lost'"),
        ("kinds:Cut", "cut must be a subclass of kinds.Cut, found kinds:Cut"),
    ],
)
def test_a_class_that_is_no_kind_is_refused(name: str, message: str, own: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(Config(), {"cut": name.replace("OWN", own)})


def test_one_of_ours_by_its_path_is_itself() -> None:
    assert changed(Config(), {"cut": "kinds:Cutout"}) == Config(cut=Cutout())
    assert Cutout.name == "cutout"


def test_a_class_that_is_left_has_the_settings_that_are_given(own: str) -> None:
    settings = {
        "cut": f"{own}:Stripe", "cut.width": 4, "cut.size": 0.5, "cut.law": "any",
        "keep": "paste", "keep.map": f"{own}:Depth", "keep.map.power": 2.0, "seed": 3,
    }  # fmt: skip
    run = changed(Config(), settings)
    Path(own).unlink()
    left = changed(Config(), settings, code="leave")
    assert flat(left) == flat(run)
    assert changed(left, {"cut.width": 5}, code="leave").cut.width == 5
    assert changed(left, {"cut": "cutout", "cut.size": 8}, code="leave").cut == Cutout(size=8)
    with pytest.raises(ValueError, match=r"keep.size must be in \[1, 64\], found 65"):
        changed(left, {"keep.size": 65}, code="leave")


@pytest.mark.parametrize(
    "settings",
    [{"cut": "OWN:Stripe"}, {"keep": "cut", "keep.map": "OWN:Depth"}, {"arch": "OWN:Stripe"}],
)
def test_what_a_record_says_runs_no_code(settings: dict[str, Any], own: str) -> None:
    Path(own).write_text("raise AssertionError('it was run')")
    settings = {name: value.replace("OWN", own) for name, value in settings.items()}
    with pytest.raises(ValueError, match="is code, which is not run because a file says so"):
        from_flat(Config, settings)
