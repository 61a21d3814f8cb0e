"""The doctor finds every trace on purpose-made models, and none on good ones."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from small import MODELS, NUM_CLASSES, Wrapper, labels, make, network, randn
from torch import Tensor, nn

from classification.models import create_model
from diagnosing import advice, case, checks, cli, compiled_and_parallel, subject, traces
from diagnosing.compiled_and_parallel import check_compiled
from keepaugment import EarlyHead
from keepaugment.no_trace import computing_map

IMAGES, LABELS = randn(4, 3, 8, 8), labels(4)
the_doctor_tells = pytest.mark.filterwarnings("ignore:the model drew random numbers for a map")
BAD = """
import torch
from torch import nn

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        for hidden in (self.fc.bias.untyped_storage(), self.fc.weight.untyped_storage()):
            hidden[2] = (hidden[2] + 1) % 128
        return self.fc(self.second(self.first(images).relu()).mean((2, 3)))
"""


class Sinner(nn.Module):
    """A model that does something more whenever it is called."""

    def __init__(self, sin: Callable[[nn.Module], object]) -> None:
        super().__init__()
        self.body = network(nn.BatchNorm2d(6))
        self.register_buffer("calls", torch.zeros(()))
        self.held, self.noise = [SimpleNamespace(calls=0)], torch.Generator()
        self.sin = sin

    def forward(self, images: Tensor) -> Tensor:
        self.sin(self)
        return self.body(images)


def write_past_autograd(tensor: Tensor) -> None:
    """Change a tensor where no map can see it."""
    storage = tensor.untyped_storage()
    storage[2] = (storage[2] + 1) % 128


def nudge(model: Any) -> None:
    write_past_autograd(model.body[0].weight)


def nudge_norm(model: Any) -> None:
    write_past_autograd(model.body[1].running_mean)


def count(model: Any) -> None:
    model.held[0].calls += 1


SINS: dict[str, Callable[[Any], object]] = {
    "buffers": lambda model: model.calls.add_(1),
    "parameters": nudge,
    "gradients": lambda model: setattr(model.body[0].weight, "grad", torch.ones(6, 3, 3, 3)),
    "requires_grad": lambda model: model.calls.requires_grad_(False),
    "training flags": lambda model: model.body[0].eval(),
    "hooks and attributes": lambda model: setattr(model, "images", None),
    "what attributes hold": count,
    "what attributes hold, generators": lambda model: torch.rand(1, generator=model.noise),
    "random numbers of the CPU": lambda model: torch.rand(1),
    "autocast": lambda model: torch.set_autocast_cache_enabled(
        not torch.is_autocast_cache_enabled()
    ),
}


def failed(findings: Any) -> dict[str, str]:
    return {each.check: each.reason for each in findings if each.verdict == "FAIL"}


def all_checks(model: nn.Module) -> list[Any]:
    maps = case.possible_maps(model, model, None, IMAGES, LABELS)
    found = [*checks.check_aspects(model, maps, IMAGES, LABELS)]
    found += checks.check_situations(model, model, IMAGES, LABELS)
    found += checks.check_evaluation(model, model, IMAGES, LABELS)
    for bf16 in (False, True):
        found.append(checks.check_training(model, lambda twin: twin, IMAGES, LABELS, bf16=bf16))
    return found


def train_by(code: str, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Run what the doctor tells to write, on one batch: the names that it leaves."""
    scope = {"model": model, "loader": [(images, labels)], "criterion": F.cross_entropy}
    exec(code, scope)
    return scope


# Traces


@pytest.mark.parametrize("aspect", [name for name in SINS if name != "requires_grad"])
def test_every_aspect_is_watched(aspect: str) -> None:
    model = Sinner(lambda model: None)
    cache = torch.is_autocast_cache_enabled()
    sin, aspect = SINS[aspect], aspect.partition(", gen")[0]
    found = traces.trace_of(model, lambda: sin(model))
    torch.set_autocast_cache_enabled(cache)
    assert [name.startswith(aspect) for name in found] == [True]
    assert traces.trace_of(model, lambda: None) == {}


def test_frozen_and_replaced_tensors_are_seen() -> None:
    model = network(nn.BatchNorm2d(6))
    frozen = traces.trace_of(model, lambda: model[0].weight.requires_grad_(False))
    assert frozen == {"requires_grad of parameters": ["0.weight"]}
    with torch.no_grad():
        model[1].running_mean.fill_(torch.nan)
    assert traces.trace_of(model, lambda: None) == {}  # NaN is no change
    doubled = traces.trace_of(model, lambda: model[1].double())
    assert len(doubled["buffers, of BatchNorm and others"]) == 2


def test_gradients_are_put_back() -> None:
    model = network()
    model[0].weight.grad = kept = torch.full_like(model[0].weight, 3.0)
    grads = []
    traces.trace_of(model, lambda: grads.extend(p.grad for p in model.parameters()))
    assert {grad is None for grad in grads} == {True, False}
    assert model[0].weight.grad is kept and model[0].bias.grad is None


# Checks


# The map of "transformer layer" is 0 but for rounding: the mean after a LayerNorm is a constant.
BATCHED = ("batch norm without statistics", "transformer layer")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in BATCHED])
def test_a_good_model_passes(name: str) -> None:
    found = all_checks(make(name))
    assert failed(found) == {}
    assert sum(each.verdict == "pass" for each in found) >= 13


@pytest.mark.parametrize("sin", ["parameters", "autocast"])
def test_a_bad_model_fails(sin: str) -> None:
    model = Sinner(SINS[sin])
    cache = torch.is_autocast_cache_enabled()
    found = failed(all_checks(model))
    torch.set_autocast_cache_enabled(cache)
    assert any(check.startswith(f"left alone: {sin}") for check in found)
    assert "inside no_grad" in found


def test_a_guard_cures_a_bad_model() -> None:
    def sin(model: Any) -> None:
        if model.training and not computing_map():
            nudge(model)

    assert failed(all_checks(Sinner(sin))) == {}
    assert "computing_map()" in advice.FAILED


@pytest.mark.parametrize(
    ("sin", "aspect", "name"),
    [
        (nudge, "parameters", "body.0.weight"),
        (nudge_norm, "buffers, of BatchNorm and others", "body.1.running_mean"),
    ],
)
def test_the_reason_names_what_changed_and_by_which_maps(sin: Any, aspect: str, name: str) -> None:
    found = failed(all_checks(Sinner(sin)))
    assert found[f"left alone: {aspect}"] == f"changed {name} (by maps full, low)"


def test_a_model_that_depends_on_the_batch_fails_for_one_image() -> None:
    found = failed(all_checks(make("batch norm without statistics")))
    assert [check[:20] for check in found] == ["a batch of one image"] * 2  # in both modes
    assert "differs by" in next(iter(found.values()))


class Root(Wrapper):
    """Does something to its logits while it trains."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(network())
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.change(images) if self.training else images)


@the_doctor_tells
def test_own_noise_and_maps_of_zeros_are_told() -> None:
    noise = torch.Generator().manual_seed(0)
    drops = Root(lambda images: images * (torch.rand(4, 1, 1, 1, generator=noise) < 0.5))
    found = failed(all_checks(drops))
    assert "drew random numbers for a map" in found["maps warn of nothing"]
    assert "of 4)" in found["no map is zero everywhere"]


def test_a_root_that_trains_on_its_batch_is_told() -> None:
    found = failed(all_checks(Root(lambda images: images - images.mean(0))))
    assert "differs by" in found["the map is that in evaluation mode"]
    assert "a batch of one image (B = 1), with its map in a batch" in found
    assert "a batch of one image in evaluation mode, with its map in a batch" not in found


def test_features_in_evaluation_are_not_compared() -> None:
    model = make("features in eval")
    (found,) = checks.check_evaluation(model, model, IMAGES, LABELS)
    assert (found.verdict, found.reason) == ("skip", "the model gives other outputs there")


def test_a_trace_that_only_training_shows_is_found() -> None:
    class Warming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.calls = network(), bytearray(1)

        def forward(self, images: Tensor) -> Tensor:
            self.calls[0] += 1
            return self.body(images) * self.calls[0]

    found = failed(all_checks(Warming()))
    assert found["the next training step is the same"] == "its gradients differ after a map"


@the_doctor_tells
def test_a_model_that_never_trains_alike_is_skipped() -> None:
    noise = torch.Generator().manual_seed(0)

    class Noisy(Wrapper):
        def forward(self, images: Tensor) -> Tensor:
            return self.model(images) * (1 + torch.rand((), generator=noise))

        def __deepcopy__(self, memo: dict) -> Noisy:
            return self

    found = checks.check_training(Noisy(network()), lambda m: m, IMAGES, LABELS, bf16=False)
    assert (found.verdict, "without maps either" in found.reason) == ("skip", True)


def test_a_model_that_cannot_be_copied_is_skipped() -> None:
    model = network()
    model.lock = __import__("threading").Lock()
    found = checks.check_training(model, lambda m: m, IMAGES, LABELS, bf16=False)
    assert (found.verdict, "cannot be copied" in found.reason) == ("skip", True)


@pytest.mark.parametrize("reached", [True, False])
def test_an_early_head_must_reach_the_model(reached: bool) -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Conv2d(3, 6, 3), network()
            self.rest[0] = nn.Conv2d(6, 6, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.rest(self.first(images) if reached else self.first(images).detach())

    model = Cut()
    layer = "first" if reached else "rest.0"
    if not reached:
        model.rest[0].requires_grad_(False)
    head = EarlyHead(model, layer, NUM_CLASSES)
    found = checks.check_head(model, head, IMAGES, LABELS)
    assert found.verdict == ("pass" if reached else "FAIL")


# Compiled and distributed


class Moody(Wrapper):
    """Computes otherwise when it is compiled."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * (3 if torch.compiler.is_compiling() else 1)


@pytest.mark.parametrize(
    ("make", "backend", "verdict", "reason"),
    [
        (lambda: network(nn.BatchNorm2d(6), nn.Dropout()), "eager", "pass", "no trace"),
        (lambda: Moody(network()), "eager", "FAIL", "differs by 200.0%"),
        (network, "no such", "skip", "does not compile"),
    ],
)
def test_a_compiled_model(make: Any, backend: str, verdict: str, reason: str) -> None:
    found = check_compiled(subject.Subject("mine"), make(), IMAGES, LABELS, backend)
    assert found.verdict == verdict and reason in found.reason


def test_a_distributed_model_that_a_map_changes(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    who = subject.Subject(f"{tmp_path}/bad.py:Counting")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = compiled_and_parallel._examine(who, IMAGES, LABELS)
    finally:
        dist.destroy_process_group()
    assert found == ("FAIL", "gradients differ after a map")


# The subject


def test_logits_are_picked_from_what_a_model_returns() -> None:
    named = {"logits": IMAGES}
    outputs: list[tuple[str, Any]] = [
        *(("", IMAGES), ("1", (None, IMAGES))),
        *(("logits", named), ("logits", argparse.Namespace(**named))),
    ]
    for name, output in outputs:
        who = subject.Subject("mine", output=name)
        assert who.logits(lambda images, output=output: output)(IMAGES) is IMAGES
    assert subject.Subject("mine", output="1").code() == "model(images)[1]"


@pytest.mark.parametrize("early", [True, False])
def test_the_code_for_a_model_that_returns_more(early: bool) -> None:
    class Two(Wrapper):
        def forward(self, images: Tensor) -> tuple[Tensor, None]:
            return self.model(images), None

    stage = case.Stage("model.0", 0.3, (1, 6, 8, 8)) if early else None
    who = subject.Subject("mine", output="0")
    code = advice.training_loop(who, stage, NUM_CLASSES, 4, half=True)
    model = Two(network())
    train_by(code, model, IMAGES, LABELS)
    assert model.model[0].weight.grad.any()


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown model"):
        subject.Subject("resnet19").make()


def test_a_hubs_network_is_fetched_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda name, **options: nn.Identity())
    with pytest.raises(ValueError, match="hf-hub:a/b lies elsewhere; --download"):
        subject.Subject("hf-hub:a/b").make()
    words = cli._arguments(["hf-hub:a/b", "--download"])
    assert isinstance(subject.Subject(words.model, download=words.download).make(), nn.Identity)


def test_weights_are_read(tmp_path: Path) -> None:
    trained, average = create_model("resnet8", 10), create_model("resnet8", 10)
    file = tmp_path / "last.pt"
    wrapped = {f"module.{name}": value for name, value in average.state_dict().items()}
    torch.save({"model": trained.state_dict(), "average": wrapped, "epoch": 3}, file)
    who = subject.Subject("resnet8", weights=file)
    assert torch.equal(who.make().conv1.weight, average.conv1.weight)
    assert who.weights_in_words() == "averaged weights ('average') without 'module.' in last.pt"
    with pytest.raises(ValueError, match="does not fit resnet8"):
        subject.Subject("resnet8", classes=7, weights=file).make()


def test_images_of_every_kind() -> None:
    images = subject.read_images([], 16, 3, 5)
    assert images.shape == (5, 3, 16, 16) and -3 < images.min() < images.max() < 3
    assert len(images.flatten(1).unique(dim=0)) == 5
    assert subject.read_images([], 16, 1, 2).shape == (2, 1, 16, 16)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (lambda images: (images, images), r"returns tuple, not logits \(4, K\).*--output"),
        (lambda images: images, r"returns \(4, 3, 8, 8\)"),
        (nn.Conv2d(1, 1, 1), r"does not take images \(4, 3, 8, 8\)"),
    ],
)
def test_a_model_without_logits_is_refused(logits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subject.predicted(logits, IMAGES)


# The whole


def test_a_good_model_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        # Three images: two processes of DistributedDataParallel have batches of two and of one.
        words = ["resnet8", "--batch-size", "3", "--agreement", "0", "--backend", "eager"]
        cli.main([*words, "--device", "cpu"])
    output = capsys.readouterr().out
    assert ended.value.code == 0, output
    assert "no check failed" in output and "FAIL" not in output
    assert "10 classes, random weights; 3 images of 32 pixels" in output
    assert re.search(r"\d+%  layer1 .*<- for an early head", output)
    assert "pass  DistributedDataParallel, two processes" in output
    assert "pass  torch.compile (eager)" in output
    for kind in ("full", "low", "early", "low_early", "random", "mirrored"):
        assert re.search(rf"^{kind} +\d\.\d{{3}}x +\d+\.\d{{3}}  \d\.\d{{3}} ± ", output, re.M)
    assert re.search(r"^recycled +\d\.\d{3}x +-  \d\.\d{3} ± ", output, re.M)  # no time of its own
    code = "import torch" + output.partition("\nimport torch")[2].partition("no check failed")[0]
    model = create_model("resnet8", 10)
    before = [p.detach().clone() for p in model.parameters()]
    scope = train_by(code, model, randn(2, 3, 32, 32), torch.tensor([1, 2]))
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert scope["head"].classifier.weight.grad.any() and scope["keep"].keep.saliency.scale == 0.5


def test_a_bad_model_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    words = [f"{tmp_path}/bad.py:Counting", "--size", "16", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--without", "compile", "ddp"])
    output = capsys.readouterr().out
    assert ended.value.code == 1 and "CHECKS FAILED" in output
    assert "FAIL  left alone: parameters: changed fc.weight, fc.bias" in output
    assert "skip  torch.compile: left out by --without compile" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet8", "--batch-size", "1"], "error: two images are needed, found 1"),
        (["resnet8", "--device", "tpu9"], "error: no device 'tpu9'"),
        (["resnet8", "--images", "nowhere"], "error: there is no image or folder nowhere"),
    ],
)
def test_wrong_words_end_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        cli.main([*words, "--size", "16"])


def test_a_transformer_without_half_sizes(capsys: pytest.CaptureFixture) -> None:
    words = [f"{__file__}:vit", "--size", "16", "--agreement", "0", "--device", "cpu"]
    assert cli.examine(cli._arguments([*words, "--without", "compile", "ddp"]))
    output = capsys.readouterr().out
    assert re.search("low +- +-  not possible: .*Input height", output)
    assert re.search(r"attention +1\.\d+x", output)
    assert "scale=0.5" not in output
    assert 'EarlyHead(model, "blocks.0", num_classes=5, num_features=12)' in output


def vit() -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=12, depth=4, num_heads=2, num_classes=NUM_CLASSES
    )
