from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from detection import detectron
from detection.export import NOT_COMPARED, to_onnx, to_timm, to_torchvision, verdict
from detection.export_cli import main
from detection.sources import open_source
from detection.verify import (
    STAGES,
    TOLERANCE,
    differences,
    load_backbone,
    normalised,
    photograph,
    source_models,
    stage_features,
)


def test_both_libraries_give_the_features_of_a_hand_written_forward(resnet18: Path) -> None:
    source = open_source(resnet18)
    images = normalised(photograph(), source).float()
    found = {n: stage_features(m, images) for n, m in source_models(source).items()}
    assert [tuple(v.shape[1:]) for v in found["timm"].values()] == [
        (64, 80, 104), (64, 80, 104), (128, 40, 52), (256, 20, 26), (512, 10, 13),
    ]  # fmt: skip
    assert max(differences(found["timm"], found["torchvision"]).values()) < TOLERANCE
    model = torchvision.models.resnet18()
    model.load_state_dict(source.weights)
    model.eval()
    pooled = found["torchvision"]["res5"].mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(model.fc(pooled), model(images), rtol=1e-4, atol=1e-4)


def test_the_photograph_is_normalised_as_torchvision_does(resnet18: Path) -> None:
    source = open_source(resnet18)
    image = photograph()
    theirs = torchvision.transforms.functional.normalize(
        image.double() / 255, list(source.mean), list(source.std)
    )
    torch.testing.assert_close(normalised(image, source)[0], theirs)


def test_differences_are_found_where_they_are() -> None:
    these = {"stem": torch.zeros(2, 3), "res2": torch.ones(4)}
    those = {"stem": torch.zeros(2, 3), "res2": torch.tensor([1.0, 1.0, 0.75, 1.5])}
    assert differences(these, those) == {"stem": 0.0, "res2": 0.5}
    with pytest.raises(ValueError, match="other sizes"):
        differences(these, {"stem": torch.zeros(2, 3), "res2": torch.ones(5)})


def test_another_epsilon_is_refused(resnet18: Path) -> None:
    model = timm.create_model("resnet18")
    model.bn1.eps = 1e-3
    with pytest.raises(ValueError, match="epsilon"):
        load_backbone(model, open_source(resnet18).weights)


@pytest.mark.usefixtures("small_photograph")
@pytest.mark.parametrize(("write", "ending"), [(to_torchvision, ".pth"), (to_timm, ".safetensors")])
def test_what_is_written_loads_strictly(
    resnet18: Path, tmp_path: Path, write: object, ending: str
) -> None:
    if ending == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is optional")
    source = open_source(resnet18)
    found = write(source, tmp_path / f"a{ending}", True)  # type: ignore[operator]
    assert set(found) == {"torchvision", "timm"}
    assert all(value < TOLERANCE for stages in found.values() for value in stages.values())
    again = open_source(tmp_path / f"a{ending}")
    model = torchvision.models.resnet18()
    missing = model.load_state_dict(again.weights, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert torch.equal(model.fc.weight, source.weights["fc.weight"])


@pytest.mark.usefixtures("small_photograph")
def test_onnx_gives_the_same_features_at_two_sizes(resnet18: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is optional")
    found = to_onnx(open_source(resnet18), tmp_path / "a.onnx", True)
    assert list(found) == ["onnxruntime", "onnxruntime/half"]
    assert all(list(stages) == list(STAGES) for stages in found.values())
    assert all(0 < value < TOLERANCE for stages in found.values() for value in stages.values())


def test_without_detectron2_names_are_checked_and_said_so(
    resnet18: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(detectron, "is_installed", lambda: False)
    main([str(resnet18), "--out", str(tmp_path / "a.pkl"), "--verify"])
    assert NOT_COMPARED in capsys.readouterr().out
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["checked"] == "names and shapes"
    assert record["left_out"] == ["fc.weight", "fc.bias"]
    with pytest.raises(ValueError, match="pip install"):
        detectron.require()


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ({}, "names and shapes"),
        ({"a": {"stem": 1e-5}, "b": {"stem": 1e-4}}, "features"),
        ({"a": {"stem": 0.0}, "b": {"stem": 2e-4}}, "the features differ"),
        ({"a": {"stem": 0.0, "res2": float("nan")}}, "the features differ"),
    ],
)
def test_a_record_proves_what_was_compared(
    differences: dict[str, dict[str, float]], word: str
) -> None:
    assert verdict({"differences": differences, "tolerance": 1e-4}) == word
