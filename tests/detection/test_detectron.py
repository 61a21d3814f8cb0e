from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detection import detectron, train
from detection.cli import main
from detection.config import Config
from detection.erasing import ErasingMapper, draw_region, make_mapper
from detection.experiments import EXPERIMENTS
from detection.export import export
from detection.export_cli import main as export_main
from detection.names import BLOCKS, backbone_shapes
from detection.pickles import read_pickle
from detection.schedule import COCO_IMAGES
from detection.settings import make_cfg, open_backbone
from detection.sources import open_source
from detection.verify import STAGES, check_loaded, compare_detectors, load_detector
from keepbench.leaving import PREEMPTED
from keepbench.right import is_recorded, mean_of_items, read_items

from .conftest import save_resnet

pytestmark = pytest.mark.skipif(
    not detectron.is_installed(), reason="Detectron2 is optional (make detectron2)"
)


@pytest.fixture(scope="module")
def exported(resnet18: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "R18.pkl"
    export(open_source(resnet18), "detectron2", path, compare=False)
    return path


@pytest.mark.parametrize("depth", BLOCKS)
def test_detectron2_has_these_weights(depth: int) -> None:
    detectron.require()
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    cfg = detectron.zoo_config("faster_rcnn_fpn", depth)
    with torch.device("meta"):
        resnet = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    state = {name: tuple(value.shape) for name, value in resnet.state_dict().items()}
    assert state == backbone_shapes(depth)


@pytest.mark.usefixtures("small_photograph")
def test_an_export_of_resnet18_proves_itself(
    resnet18: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "R18.pkl"
    export_main([str(resnet18), "--out", str(path), "--verify"])
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["checked"] == "features"
    assert set(record["differences"]) == {"faster_rcnn_fpn/torchvision", "faster_rcnn_fpn/timm"}
    for stages in record["differences"].values():
        assert set(stages) == set(STAGES)
        assert max(stages.values()) < 1e-5
    assert "faster_rcnn_fpn/timm: stem" in capsys.readouterr().out
    assert "detectron2" in record["versions"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_an_export_of_a_bottleneck_network_proves_itself(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "a.pkl"
    record = export(open_source(save_resnet(tmp_path, depth)), "detectron2", path, compare=True)
    assert set(record["differences"]) == {
        f"{detector}/{library}"
        for detector in ("faster_rcnn_fpn", "faster_rcnn_c4")
        for library in ("torchvision", "timm")
    }
    assert max(max(stages.values()) for stages in record["differences"].values()) < 1e-5


@pytest.mark.usefixtures("small_photograph")
def test_other_settings_do_not_pass(resnet18: Path, exported: Path, tmp_path: Path) -> None:
    right = exported.with_suffix(".yaml").read_text()
    settings = tmp_path / "wrong.yaml"
    settings.write_text(right.replace("- 123.675", "- 123.6"))  # a thousandth of red
    found = compare_detectors(open_source(resnet18), settings, exported, read_pickle(exported))
    assert all(stages["stem"] > 1e-4 for stages in found.values())


@pytest.mark.slow
def test_the_stride_of_other_networks_does_not_pass(tmp_path: Path) -> None:
    source, path = open_source(save_resnet(tmp_path, 50)), tmp_path / "a.pkl"
    export(source, "detectron2", path, compare=False)
    settings = path.with_suffix(".yaml")
    settings.write_text(settings.read_text().replace("1X1: false", "1X1: true"))
    for stages in compare_detectors(source, settings, path, read_pickle(path)).values():
        assert stages["res2"] < 1e-5  # whose stride is 1
        assert min(stages[name] for name in ("res3", "res4", "res5")) > 1e-4


def test_weights_that_detectron2_passes_over_are_found(exported: Path) -> None:
    weights = read_pickle(exported)
    settings = exported.with_suffix(".yaml")
    model = load_detector("retinanet", 18, settings, exported, weights)
    check_loaded(model, weights)
    odd = weights | {"res3.0.conv1.weight": torch.ones(1, 1, 3, 3)}
    broken = load_detector("retinanet", 18, settings, exported, odd)  # logs it, and goes on
    with pytest.raises(ValueError, match="1 weights of the backbone .* res3.0.conv1.weight"):
        check_loaded(broken, weights)
    with pytest.raises(ValueError, match="stem.conv2.weight"):
        check_loaded(model, weights | {"stem.conv2.weight": torch.ones(1)})


def cfg_of(config: Config, **options: Any) -> Any:
    options = {"images": COCO_IMAGES, "classes": 80, "device": "cpu"} | options
    return make_cfg(config, open_backbone(config), Path("folder"), **options)


def test_table_11_has_the_zoos_own_schedule() -> None:
    for each in EXPERIMENTS.values():
        if each.table != "11":
            continue
        zoo = detectron.zoo_config(each.config.detector, each.config.depth)
        random = Config(**(vars(each.config) | {"backbone": "none"}))
        cfg = cfg_of(random)
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (270_000, (210_000, 250_000))
        for name in ("MAX_ITER", "STEPS", "IMS_PER_BATCH", "BASE_LR", "WARMUP_ITERS", "GAMMA"):
            assert cfg.SOLVER[name] == zoo.SOLVER[name], name
        assert zoo.INPUT.MIN_SIZE_TRAIN == cfg.INPUT.MIN_SIZE_TRAIN
        assert cfg.MODEL.RETINANET.SMOOTH_L1_LOSS_BETA == each.config.smooth_l1_beta


def test_a_backbones_settings_reach_detectron2(exported: Path) -> None:
    cfg = cfg_of(Config(backbone=str(exported), depth=18), classes=3)
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("RGB", False)
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.NORM) == (2, "FrozenBN")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 3
    assert cfg.MODEL.WEIGHTS == str(exported)


def test_colours_of_another_scale_are_refused() -> None:
    extra = "MODEL.PIXEL_MEAN [31537.0,29651.0,26402.0]"
    with pytest.raises(ValueError, match="divide those of bytes by 255"):
        cfg_of(Config(backbone="none", extra=extra))
    extra = "MODEL.PIXEL_MEAN [0.485,0.456,0.406] MODEL.PIXEL_STD [0.229,0.224,0.225]"
    with pytest.raises(ValueError, match="multiply it and PIXEL_MEAN by 255"):
        cfg_of(Config(backbone="none", extra=extra))


def test_a_yaml_with_other_keys_is_refused(exported: Path, tmp_path: Path) -> None:
    for ending in (".pkl", ".yaml"):
        (tmp_path / f"a{ending}").write_bytes(exported.with_suffix(ending).read_bytes())
    with (tmp_path / "a.yaml").open("a") as file:
        file.write("NO_SUCH: 1\n")
    with pytest.raises(ValueError, match="a.yaml is not for Detectron2: .*NO_SUCH"):
        cfg_of(Config(backbone=str(tmp_path / "a.pkl"), depth=18))


def test_more_settings_may_be_given() -> None:
    extra = "MODEL.FPN.OUT_CHANNELS 64 SOLVER.BASE_LR 0.5"
    cfg = cfg_of(Config(backbone="none", extra=extra))
    assert (cfg.MODEL.FPN.OUT_CHANNELS, cfg.SOLVER.BASE_LR) == (64, 0.5)
    for wrong in ("MODEL.NO_SUCH 1", "MODEL.FPN.OUT_CHANNELS", "SOLVER.BASE_LR text"):
        with pytest.raises(ValueError, match="is not for Detectron2"):
            cfg_of(Config(backbone="none", extra=wrong))
    for wrong in ("MODEL.WEIGHTS detectron2://x.pkl", "OUTPUT_DIR elsewhere"):
        with pytest.raises(ValueError, match="give weights by --backbone, the folder by --out"):
            cfg_of(Config(backbone="none", extra=wrong))


def test_a_random_backbone_learns_everywhere() -> None:
    detectron.require()
    from detectron2.modeling import build_model

    cfg = cfg_of(Config(backbone="none", depth=18))
    with detectron.its_warnings():
        model = build_model(cfg)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(type(m).__name__ == "FrozenBatchNorm2d" for m in model.modules())


FAST = (
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 "  # something is always predicted
    "MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.RPN.POST_NMS_TOPK_TRAIN 50 "
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 16 MODEL.ROI_BOX_HEAD.FC_DIM 32"
)


def run_toy(folder: Path, *words: str, backbone: str = "none") -> list[dict[str, Any]]:
    main(
        ["toy-faster_rcnn_fpn-r18-random", "--budget", "smoke", "--backbone", backbone, "--record",
         "--extra", FAST, "--device", "cpu", "--out", str(folder), *words]
    )  # fmt: skip
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_fine_tuning_from_an_export_runs_stops_and_goes_on(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    rows = run_toy(folder, backbone=str(exported))
    assert [row["iteration"] for row in rows] == [2, 4]
    assert rows[-1]["test_AP_by_class"].keys() == {"square", "disc", "triangle"}
    assert rows[-1]["epoch"] == 4 * 2 / 4
    assert "box AP" in capsys.readouterr().out
    setup = json.loads((folder / "setup.json").read_text())
    assert setup["backbone"]["checked"] == "names and shapes"
    assert (setup["test"]["images"], setup["test"]["of"]) == (2, 8)
    assert len(read_items(folder)) == 2
    assert rows[-1]["test_image_AP"] == pytest.approx(mean_of_items(folder), abs=1e-9)
    assert "test_image_AP" not in rows[0] and all(row["test_seconds"] > 0 for row in rows)
    assert len(list((folder / "pictures").iterdir())) == 2
    trained = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    weights, moved = read_pickle(exported), {}
    for own, place in detectron.backbone_places(list(trained)).items():
        moved[own] = not torch.equal(trained[place], weights[own])
    assert not any(moved[own] for own in moved if own.startswith(("stem", "res2")) or "norm" in own)
    assert all(moved[own] for own in moved if own.startswith("res3") and "norm" not in own)

    (folder / "last_checkpoint").write_text("trap.pkl")
    with pytest.raises(SystemExit, match="names 'trap.pkl', which is no model_"):
        run_toy(folder, "--resume", backbone=str(exported))
    (folder / "last_checkpoint").write_text("model_0000001.pth")  # as if it had stopped there
    (folder / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (folder / "items.json").unlink()
    again = run_toy(folder, "--resume", backbone=str(exported))
    assert [row["iteration"] for row in again] == [2, 4]
    assert is_recorded(folder)
    assert run_toy(folder, "--resume", backbone=str(exported)) == again  # a run that is over
    with pytest.raises(SystemExit, match="already holds a run"):
        run_toy(folder, backbone=str(exported))


def test_images_of_a_run_that_predicts_nothing_get_0(tmp_path: Path) -> None:
    nothing = FAST.replace("SCORE_THRESH_TEST 0.0", "SCORE_THRESH_TEST 1.0")
    (row,) = run_toy(
        tmp_path, "--iterations", "1", "--tests", "1", "--pictures", "0", "--extra", nothing
    )
    assert row["test_AP"] == row["test_image_AP"] == 0.0 and not row["test_AP_by_class"]
    assert read_items(tmp_path).tolist() == [0.0, 0.0]


def test_ctrl_c_saves_after_the_step_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = train.log_test

    def log_and_stop(run: Any, trainer: Any, *words: Any) -> None:
        log(run, trainer, *words)
        if trainer.iter < trainer.max_iter - 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "log_test", log_and_stop)
    with pytest.raises(SystemExit, match=str(PREEMPTED)):
        run_toy(tmp_path)
    assert "stopped after step 2 of 4 and saved; go on with: " in capsys.readouterr().err
    rows = run_toy(tmp_path, "--resume")
    assert [row["iteration"] for row in rows] == [2, 4]
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert json.loads(state["run"])["experiment"] == "toy-faster_rcnn_fpn-r18-random"
    torch.save(state | {"run": '{"experiment": "another"}'}, tmp_path / "model_final.pth")
    with pytest.raises(SystemExit, match="experiment: 'another' then"):
        run_toy(tmp_path, "--resume")


def test_a_run_erases_by_its_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    protecting: list[bool] = []

    def draw(erasing: Any, image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        protecting.append(erasing.protect)
        return draw_region(erasing, image, boxes)

    monkeypatch.setattr("detection.erasing.draw_region", draw)
    run_toy(tmp_path / "run", "--erasing", "keep", "--iterations", "1", "--pictures", "0")
    assert protecting and all(protecting)
    config = EXPERIMENTS["toy-faster_rcnn_fpn-r18-random"].config
    cfg = detectron.zoo_config("faster_rcnn_fpn", 18)
    plain = make_mapper(replace(config, erasing="plain"), cfg)
    assert isinstance(plain, ErasingMapper) and not plain.erasing.protect
    assert type(make_mapper(config, cfg)).__name__ == "DatasetMapper"


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="gpus=2"):
        run_toy(tmp_path / "run", "--gpus", "2")


def test_settings_that_cannot_be_used_leave_no_run(tmp_path: Path) -> None:
    for words in (["--dataset", "coco", "--data", "none"], ["--extra", "NO 1"]):
        with pytest.raises(SystemExit, match="no boxes at|is not for Detectron2"):
            run_toy(tmp_path / "run", *words)
        assert not (tmp_path / "run" / "run.json").exists()


def test_a_c4_head_on_basic_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="bottleneck"):
        detectron.zoo_config("faster_rcnn_c4", 34)


def test_the_last_stage_of_a_c4_detector_is_found() -> None:
    names = ["backbone.res4.0.conv1.weight", "roi_heads.res5.0.conv1.weight", "roi_heads.box.bias"]
    names += ["backbone.bottom_up.stem.conv1.weight", "backbone.fpn_output5.weight"]
    assert detectron.backbone_places(names) == {
        "res4.0.conv1.weight": "backbone.res4.0.conv1.weight",
        "res5.0.conv1.weight": "roi_heads.res5.0.conv1.weight",
        "stem.conv1.weight": "backbone.bottom_up.stem.conv1.weight",
    }
