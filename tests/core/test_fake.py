"""A step never waits for a GPU, proved by fake tensors: they have shapes and devices, no values.

Whatever needs a value on the host raises, and so does a tensor on another device. Autograd knows no
fake CUDA, so maps and training steps are traced on a CPU, whose fake tensors have no values either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import PooledLinear, randn
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from keepaugment import (
    BoxSaliency,
    CachedSaliency,
    CentreSaliency,
    CutMix,
    Cutout,
    EarlyHead,
    GradientSaliency,
    InvertedSaliency,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    KeypointSaliency,
    MaskSaliency,
    RandomErasing,
    RandomSaliency,
    RecycledSaliency,
    SampleDraws,
    ScaledView,
    ShuffledSaliency,
    Spare,
    View,
)
from keepaugment.changes import _DRAWS
from keepaugment.no_trace import no_trace
from keeppolicies import AugMix, AutoAugment, RandAugment, TrivialAugment


class Step:
    """A step's tensors on a device that need not be there."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.images = torch.empty(8, 3, 32, 32, device=device)
        self.pixels = torch.empty(8, 3, 32, 32, dtype=torch.uint8, device=device)
        self.labels = torch.empty(8, dtype=torch.int64, device=device)
        self.index = torch.empty(8, dtype=torch.int64, device=device)
        self.draws = SampleDraws(0)
        self.draws.at(0, self.index)

    def given(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return torch.empty(8, 32, 32, device=self.device)

    def objects(self, *shape: int) -> list[Tensor]:
        return [torch.empty(i, *shape, device=self.device) for i in range(1, 9)]

    def view(self) -> View:
        return View(self.index, self.index, self.index > 0)

    def scaled(self) -> ScaledView:
        edge = torch.empty(8, device=self.device)
        return ScaledView(edge, edge, edge, edge, edge > 0)


@pytest.fixture(params=["cuda", "cpu"])
def step(request: pytest.FixtureRequest) -> Iterator[Step]:
    with FakeTensorMode():
        yield Step(request.param)


def cached(step: Step, view: Any) -> Tensor:
    saliency = CachedSaliency(step.given, 50, (32, 32), device=step.device)
    for epoch in (0, 3):  # computes, reads
        saliency.at(step.index, view, epoch=epoch)
        read = saliency(step.images, step.labels)
    saliency.merge()
    return read


def recycled(step: Step, view: Any) -> Tensor:
    saliency = RecycledSaliency(50, (32, 32), device=step.device)
    saliency.at(step.index, view)
    inputs = KeepCutout(saliency=saliency, generator=step.draws)(step.images, step.labels)
    inputs.requires_grad_().grad = torch.empty_like(inputs)
    saliency.take(inputs)
    saliency.merge()
    return saliency.read(step.index, view, (32, 32))


METHODS: dict[str, Callable[[Step], Tensor]] = {
    "Cutout": lambda s: Cutout(generator=s.draws)(s.images),
    "KeepCutout": lambda s: KeepCutout(saliency=s.given, generator=s.draws)(s.images, s.labels),
    "KeepCutout, equal area": lambda s: KeepCutout(
        saliency=s.given, match_area=True, generator=s.draws
    )(s.images, s.labels),
    "torch's own numbers": lambda s: KeepCutout(saliency=s.given)(s.images, s.labels),
    "RandomErasing": lambda s: RandomErasing(fill="random", generator=s.draws)(s.images),
    "KeepRandomErasing": lambda s: KeepRandomErasing(
        saliency=s.given, fill=(0.0, 1.0, 2.0), generator=s.draws
    )(s.images, s.labels),
    "CutMix": lambda s: CutMix(5, generator=s.draws)(s.images, s.labels)[0],
    "KeepCutMix": lambda s: KeepCutMix(None, 5, saliency=s.given, generator=s.draws)(
        s.images, s.labels
    )[0],
    "KeepPaste": lambda s: KeepPaste(saliency=s.given, generator=s.draws)(
        s.images, s.images, s.labels
    ),
    **{
        policy.__name__: lambda s, policy=policy: policy(generator=s.draws)(s.pixels)  # type: ignore[misc]
        for policy in (AugMix, AutoAugment, RandAugment, TrivialAugment)
    },
    "boxes": lambda s: KeepRandomErasing(saliency=BoxSaliency(), generator=s.draws)(
        s.images, s.objects(4)
    ),
    "masks": lambda s: MaskSaliency()(s.images, s.objects(32, 32)),
    "keypoints": lambda s: KeypointSaliency()(s.images, s.objects(17, 3)),
    "spared boxes": lambda s: Cutout(generator=s.draws).mask(
        s.images, spare=Spare(torch.stack(s.objects(4)[:1] * 8).long(), s.index[:, None])
    ),
    "random map": lambda s: RandomSaliency(s.draws)(s.images),
    "shuffled map": lambda s: ShuffledSaliency(s.given, s.draws)(s.images),
    "inverted map": lambda s: InvertedSaliency(s.given)(s.images),
    "centre map": lambda s: CentreSaliency()(s.images),
    "cached maps": lambda s: cached(s, s.view()),
    "cached maps of crops": lambda s: cached(s, s.scaled()),
    "recycled maps": lambda s: recycled(s, s.view()),
    "recycled maps of crops": lambda s: recycled(s, s.scaled()),
}


@pytest.mark.parametrize("method", METHODS)
def test_no_method_waits(step: Step, method: str) -> None:
    result = METHODS[method](step)
    assert result.device == step.images.device and len(result) == 8


def test_the_proof_notices_what_waits(step: Step) -> None:
    with pytest.raises(DataDependentOutputException):
        step.labels.max().item()
    with pytest.raises(Exception, match="data|nonzero"):
        step.images[step.images > 0]
    if step.device.type == "cuda":
        with pytest.raises(RuntimeError, match="two (different )?devices"):
            step.images + torch.empty(8, 3, 32, 32)


def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(), PooledLinear(2, 3)
    )


MAPS: dict[str, Callable[[nn.Module, EarlyHead], GradientSaliency]] = {
    "full": lambda model, head: GradientSaliency(model),
    "half": lambda model, head: GradientSaliency(model, 0.5),
    "early": lambda model, head: GradientSaliency(model, head=head),
    "both": lambda model, head: GradientSaliency(model, 0.5, head),
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", MAPS)
def test_no_map_waits_nor_does_the_step_after_it(kind: str, bf16: bool) -> None:
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        step, network = Step("cpu"), model()
        head = EarlyHead(network, "1", 5, num_features=6)
        keep = KeepCutout(saliency=MAPS[kind](network, head), generator=step.draws)
        inputs = keep(step.images, step.labels)
        loss = F.cross_entropy(network(inputs), step.labels) + head.loss(step.labels)
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())


def test_a_loop_with_recycled_maps_does_not_wait() -> None:
    with FakeTensorMode():
        step, network, saliency = Step("cpu"), model(), RecycledSaliency(50, (32, 32))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        keep = KeepCutout(saliency=saliency, generator=step.draws)
        for _ in range(2):
            step.draws.at(0, step.index)
            saliency.at(step.index, step.view())
            inputs = keep(step.images, step.labels).requires_grad_()
            F.cross_entropy(network(inputs), step.labels).backward()
            optimizer.step()
            saliency.take(inputs)


# A map's random numbers


class Noisy(nn.Module):
    """A model that draws random numbers for a map, for the outermost module is not switched."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.draw = draw
        self.fc = nn.Linear(3 * 8 * 8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.draw(self.fc(images.flatten(1)))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU's generator that is the CPU's, and what was asked of it."""
    calls: list[str] = []

    def get(device: torch.device) -> Tensor:
        calls.append("read")
        return torch.default_generator.get_state()

    monkeypatch.setattr(torch.cuda, "get_rng_state", get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: calls.append("put back"))
    return calls


def run(network: nn.Module) -> None:
    images = randn(2, 3, 8, 8)
    with no_trace(network, torch.device("cuda")):
        network(images)


def test_a_map_that_draws_nothing_asks_no_gpu(gpu: list[str]) -> None:
    """What CUDA graphs forbid while they are captured."""
    run(Noisy(lambda x: F.dropout(x, 0.5)))
    run(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3 * 8 * 8, 5)))
    assert gpu == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: x * torch.rand(2, 1),
        lambda x: x + torch.randn_like(x),
        lambda x: x * torch.empty(2, 1).bernoulli_(0.5),
        lambda x: F.gumbel_softmax(x),
        lambda x: x[torch.randperm(2)],
    ],
)
def test_a_map_that_draws_puts_a_gpus_numbers_back(
    draw: Callable[[Tensor], Tensor], gpu: list[str]
) -> None:
    network, before = Noisy(draw), torch.get_rng_state()
    with pytest.warns(UserWarning, match="the model drew random numbers for a map"):
        run(network)
    assert gpu == ["read", "read", "put back"]  # before the first draw, and at the end
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_model_that_hides_its_calls_is_not_trusted(gpu: list[str]) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    run(torch.jit.script(Plain()))
    assert gpu == ["read", "read", "put back"]


def test_every_random_operation_of_torch_is_known() -> None:
    """By name, but for those that a map switches off: dropout, attention, recurrent layers."""
    off = "dropout", "attention", "sdp", "rrelu", "rnn", "lstm", "gru", "nested"
    tag, missed = torch.Tag.nondeterministic_seeded, []
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("aten::"):
            continue
        base, _, overload = name.removeprefix("aten::").partition(".")
        operation = getattr(getattr(torch.ops.aten, base), overload or "default", None)
        known = any(word in base for word in off) or _DRAWS.search(base)
        if operation is not None and tag in operation.tags and not known:
            missed.append(base)
    assert missed == []
