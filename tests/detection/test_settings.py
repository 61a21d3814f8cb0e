from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detection.cli import cost
from detection.config import Config
from detection.experiments import BUDGETS, EXPERIMENTS, NOTES
from detection.export import export, settings_text
from detection.export_cli import main as export_main
from detection.pickles import write_pickle
from detection.settings import NONE, open_backbone
from detection.sources import open_source
from detection.train import metrics_row


@pytest.fixture
def exported(resnet18: Path, tmp_path: Path) -> Path:
    path = tmp_path / "R18.pkl"
    export(open_source(resnet18), "detectron2", path, compare=False)
    return path


def test_table_11_is_whole() -> None:
    table = {name: each for name, each in EXPERIMENTS.items() if each.table == "11"}
    cells = {
        (each.config.detector, each.config.depth, each.config.backbone, each.config.smooth_l1_beta)
        for each in table.values()
    }
    assert len(table) == len(cells) == 2 * 4 * 3  # depths, detectors, backbones
    base = EXPERIMENTS["coco-faster_rcnn_c4-r101-torchvision"]
    kept = EXPERIMENTS["coco-faster_rcnn_c4-r101-keepcutmix"]
    assert (base.paper, kept.paper) == ("41.1", "42.2")
    old = EXPERIMENTS["coco-retinanet-r50-torchvision-beta0.1"]
    new = EXPERIMENTS["coco-retinanet-r50-torchvision-beta0.0"]
    assert (old.paper, new.paper) == ("37.9", "38.7*")
    assert EXPERIMENTS["coco-retinanet-r101-keepcutmix-beta0.0"].paper == "41.2?"


def test_the_arms_of_a_detector_differ_in_the_backbone_alone() -> None:
    for name, each in EXPERIMENTS.items():
        if "-keepcutmix" in name:
            for arm in ("random" if "_small" in name else "torchvision", "cutmix"):
                other = EXPERIMENTS[name.replace("keepcutmix", arm)].config
                assert replace(other, backbone=each.config.backbone) == each.config
                assert other.backbone == "none" if arm == "random" else arm in other.backbone


def test_the_random_control_differs_in_the_backbone_alone() -> None:
    control = EXPERIMENTS["coco-faster_rcnn_fpn-r50-random"].config
    arm = EXPERIMENTS["coco-faster_rcnn_fpn-r50-keepcutmix"].config
    assert replace(control, backbone=arm.backbone) == arm


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_experiment_has_every_budget(budget: str) -> None:
    for each in EXPERIMENTS.values():
        config = BUDGETS[budget](each.config)
        assert (config == each.config) is (budget == "paper")
        assert "images" in cost(config)


def test_the_paper_trains_on_coco_36_times() -> None:
    assert cost(EXPERIMENTS["coco-retinanet-r50-cutmix-beta0.0"].config) == "4,320.0k images"


def test_the_list_tells_of_the_errata(capsys: pytest.CaptureFixture[str]) -> None:
    from detection.cli import main

    with pytest.raises(SystemExit):
        main(["--list"])
    printed = capsys.readouterr().out
    assert NOTES in printed
    assert len(printed.splitlines()) == len(NOTES.splitlines()) + 2 + len(EXPERIMENTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_size": 1334}, "min_size 1334 is above max_size 1333"),
        ({"smooth_l1_beta": 0.1}, "smooth_l1_beta is RetinaNet's"),
        ({"detector": "faster_rcnn_c4", "depth": 18}, "no C4 head for ResNet-18"),
        ({"gpus": 3}, "batch_size=16 does not divide by 3 processes"),
    ],
)
def test_contradicting_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**change)


def test_the_yaml_says_what_the_weights_need(exported: Path) -> None:
    backbone = open_backbone(Config(backbone=str(exported), depth=18))
    assert backbone.settings == {
        "VERSION": 2,
        "INPUT": {"FORMAT": "RGB"},
        "MODEL": {
            "PIXEL_MEAN": [123.675, 116.28, 103.53],
            "PIXEL_STD": [58.395, 57.12, 57.375],
            "RESNETS": {
                "DEPTH": 18,
                "NORM": "FrozenBN",
                "STRIDE_IN_1X1": False,
                "RES2_OUT_CHANNELS": 64,
            },
        },
    }
    assert backbone.checked == "names and shapes"


def test_an_export_is_the_same_again(resnet18: Path, exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pkl"
    export(open_source(resnet18), "detectron2", again, compare=False)
    assert again.read_bytes() == exported.read_bytes()
    assert again.with_suffix(".json").read_text() == exported.with_suffix(".json").read_text()


def test_random_weights_freeze_nothing() -> None:
    backbone = open_backbone(Config(backbone=NONE))
    assert backbone.path is None
    assert backbone.settings["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0
    assert backbone.settings["MODEL"]["RESNETS"]["NORM"] == "GN"


def test_a_backbone_that_does_not_fit_is_refused(exported: Path, tmp_path: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            open_backbone(Config(**({"backbone": str(exported), "depth": 18} | options)))

    refused("holds a ResNet-18, the run wants 50", depth=50)
    refused("give --backbone", backbone="")
    refused("no backbone .* tools/export_backbone.py", backbone=str(tmp_path / "none.pkl"))
    refused("a backbone is a .pkl", backbone=str(tmp_path / "x.pth"))
    record = exported.with_suffix(".json")
    about = json.loads(record.read_text())
    record.write_text(json.dumps(about | {"checked": "the features differ"}))
    refused("says that the features differ")
    for name, file in (("sha256", "R18.pkl"), ("settings_sha256", "R18.yaml")):
        record.write_text(json.dumps(about | {name: "0"}))
        refused(f"tells of another file than .*{file}")
    for text in ("[]", "{", "3"):
        record.write_text(text)
        refused("R18.json (cannot be read|holds no object)")
    record.unlink()
    assert open_backbone(Config(backbone=str(exported), depth=18)).checked.startswith("nothing")
    settings = exported.with_suffix(".yaml")
    settings.write_text(settings.read_text().replace("DEPTH: 18", "DEPTH: 34"))
    refused("not the weights of a plain ResNet-34", depth=34)
    for text in ("MODEL: {}", "- 1", "a: [", "!!python/name:os.system"):
        settings.write_text(text)
        refused("no MODEL.RESNETS.DEPTH")
    settings.unlink()
    refused("the settings of .* are missing")


def test_foreign_weights_are_refused(exported: Path) -> None:
    import torch

    write_pickle(exported, {"stem.conv1.weight": torch.ones(64, 3, 3, 3)})
    exported.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"missing.*stem.conv1.weight \(64, 3, 3, 3\)"):
        open_backbone(Config(backbone=str(exported), depth=18))


def test_the_statistics_are_the_sources(resnet18: Path) -> None:
    source = open_source(resnet18, mean=[0.5, 0.25, 0.75], std=[0.2, 0.2, 0.4])
    assert "- 127.5\n  - 63.75\n  - 191.25" in settings_text(source)


def test_results_without_objects_are_none_and_without_predictions_zero() -> None:
    nan = float("nan")
    row = metrics_row({"AP": 12.5, "AP50": 30.0, "AP75": 0.0, "APs": nan, "AP-cat": 25.0})
    assert row == {
        "test_AP": 12.5, "test_AP50": 30.0, "test_AP75": 0.0,
        "test_APs": None, "test_APm": None, "test_APl": None,
        "test_AP_by_class": {"cat": 25.0},
    }  # fmt: skip
    nothing = metrics_row(dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), nan))
    assert nothing["test_AP"] == nothing["test_AP50"] == 0.0
    json.dumps(nothing, allow_nan=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.pth"], "writes .pkl files"),
        (["--out", "x.pkl", "--arch", "resnet50"], "those of resnet18, not of resnet50"),
        (["--to", "onnx", "--out", "x.pkl"], "writes .onnx files"),
    ],
)
def test_a_wrong_export_ends_with_an_error(resnet18: Path, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        export_main([str(resnet18), *words])
