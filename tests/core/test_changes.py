"""What a model moves for a map, wherever it keeps it, is put back or told."""

from __future__ import annotations

import copy
import random
import threading
import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import NUM_CLASSES, conv, labels, network, randn, seeded
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from keepaugment import saliency_map
from keepaugment.changes import content_of, held_values, is_array
from keepaugment.generators import generator_state, is_generator
from keepaugment.no_trace import MapWarning

IMAGES, LABELS = randn(4, 3, 8, 8, seed=9), labels(4)
LARGE = 1 << 17  # numbers, more than are copied if nobody is known to hold them


class Moving(nn.Module):
    """A model that moves something in each pass, and whose logits depend on it."""

    steps = 0

    def __init__(self, held: Any, move: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv, self.fc = conv(), nn.Linear(6, NUM_CLASSES)
        self.held, self.move = held, move

    def forward(self, images: Tensor) -> Tensor:
        factor = self.move(self)
        features = torch.tanh(self.conv(images)) * factor
        return self.fc(features.mean((2, 3)))


@dataclass
class Record:
    steps: int = 0
    mean: Tensor = field(default_factory=lambda: torch.ones(1))


class Slotted:
    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps = 0


def codebook(size: int = 1) -> nn.Parameter:
    return nn.Parameter(torch.ones(size))


def add_one(tensor: Tensor) -> Tensor:
    """The number that a tensor counts, which no gradient goes through."""
    tensor.detach().add_(1)
    return tensor.detach().flatten()[0].clone()


def step(record: Any) -> int:
    record.steps += 1
    return record.steps


def appended(numbers: Any) -> int:
    numbers.append(len(numbers))
    return 2 + numbers[-1]


def counted(counts: dict[str, int]) -> int:
    counts["images"] = counts.get("images", 0) + 1
    return counts["images"]


def counted_by_class(model: Any) -> int:
    type(model).steps += 1
    return type(model).steps


NOISE = np.random.default_rng(0)


class Noisy(nn.Module):
    """A model that draws from a generator of its script."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * NOISE.random()


def replace_parameter(model: Any) -> Tensor:
    model.held = nn.Parameter(model.held.detach() + 1)
    return model.held


def replace_data(model: Any) -> Tensor:
    model.held.data = model.held.data + 1
    return model.held.detach().clone()


def write_numpy(model: Any) -> float:
    model.held.detach().numpy()[:] += 1
    return float(model.held.detach()[0])


def follow(model: Any) -> Tensor:
    """A teacher's running average, as functions of many tensors compute it."""
    teacher = [*model.held[0].parameters()]
    torch._foreach_add_([each.data for each in teacher], 1.0)
    return teacher[0].detach().flatten()[0].clone()


def lazily(model: Any) -> Tensor:
    if not hasattr(model, "scale"):
        model.scale = nn.Parameter(torch.full((1,), 2.0))
        model.norm = nn.BatchNorm2d(6)
    return model.scale.detach()


def hooked(model: Any) -> int:
    model.register_forward_hook(lambda module, args, output: None)
    return len(model._forward_hooks)


def large(model: Any) -> Tensor:
    torch.mul(model.held.data, 2, out=model.held.data)
    model.held.data[0] = 5.0
    return model.held.detach()[:2].sum()


MOVES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "tensor": (lambda: torch.zeros(1), lambda m: add_one(m.held)),
    "tensor, nested": (lambda: [{"a": (torch.zeros(1),)}], lambda m: add_one(m.held[0]["a"][0])),
    "tensor of an object": (Record, lambda m: add_one(m.held.mean)),
    "part of a tensor": (lambda: torch.zeros(4, 4), lambda m: add_one(m.held.t()[1:3])),
    "codebook": (codebook, lambda m: add_one(m.held)),
    "codebook, new": (codebook, replace_parameter),
    "codebook, new data": (codebook, replace_data),
    "codebook, by NumPy": (codebook, write_numpy),
    "codebook, large": (lambda: codebook(LARGE), large),
    "teacher": (lambda: [nn.Linear(400, 400)], follow),
    "embedding": (
        lambda: nn.Embedding(1, 1, max_norm=1e-3),
        lambda m: m.held(torch.tensor([[0]])).detach(),
    ),
    "counter": (lambda: 0, lambda m: setattr(m, "held", m.held + 1) or m.held),
    "counter of an object": (Record, lambda m: step(m.held)),
    "counter in slots": (Slotted, lambda m: step(m.held)),
    "counter, nested": (lambda: {"a": [SimpleNamespace(steps=0)]}, lambda m: step(m.held["a"][0])),
    "counter of the class": (lambda: None, counted_by_class),
    "list": (lambda: [[0]], lambda m: appended(m.held[0])),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda m: appended(m.held)),
    "dict": (dict, lambda m: counted(m.held)),
    "ordered dict": (OrderedDict, lambda m: counted(m.held)),
    "counts": (Counter, lambda m: counted(m.held)),
    "set": (set, lambda m: m.held.add(len(m.held)) or 1 + len(m.held)),
    "array": (lambda: {"a": np.zeros(3)}, lambda m: m.held["a"].__iadd__(1)[0]),
    "lazy": (lambda: None, lazily),
    "hook": (lambda: None, hooked),
    "cache": (dict, lambda m: m.held.setdefault((8, 8), torch.ones(1))),
}
DRAWS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch": (seeded, lambda m: torch.rand(4, 1, 1, 1, generator=m.held)),
    "torch, in place": (
        lambda: [seeded()],
        lambda m: torch.empty(4, 1, 1, 1).uniform_(generator=m.held[0]),
    ),
    "torch, seeded anew": (seeded, lambda m: m.held.manual_seed(5).initial_seed()),
    "NumPy": (lambda: {"a": np.random.default_rng(0)}, lambda m: m.held["a"].random()),
    "NumPy's old": (lambda: np.random.RandomState(0), lambda m: m.held.rand()),
    "Python": (lambda: random.Random(0), lambda m: m.held.random()),
}


def state(value: Any) -> Any:
    """All that a value is, so that `==` compares."""
    if isinstance(value, Tensor):
        return value.tolist(), value.requires_grad, value._version
    if is_array(value):
        return value.tolist()
    if is_generator(value):
        return repr(generator_state(value))
    if isinstance(value, nn.Module):
        held = {name: state(each) for name, each in vars(value).items()}
        return held, getattr(type(value), "steps", None)
    if isinstance(content := content_of(value), dict):
        return {str(key): state(part) for key, part in content.items()}
    return repr(value) if content is None else [*map(state, content)]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", MOVES)
def test_what_moves_is_put_back(name: str, fails: bool) -> None:
    held, move = MOVES[name]
    model = Moving(held(), move)
    before, ids = state(model), {key: id(part) for key, part in vars(model).items()}
    if fails:
        with pytest.raises(ValueError, match="labels"):
            saliency_map(model, IMAGES, LABELS + 100)
    else:
        first = saliency_map(model, IMAGES, LABELS)
        assert torch.equal(saliency_map(model, IMAGES, LABELS), first) and first.any()
    assert state(model) == before
    assert {key: id(part) for key, part in vars(model).items()} == ids
    model(IMAGES)
    assert state(model) != before  # it does move


@pytest.mark.parametrize("name", DRAWS)
def test_generators_of_its_own_are_given_back_and_told(name: str) -> None:
    held, draw = DRAWS[name]
    model = Moving(held(), draw)
    before = state(model)
    with pytest.warns(MapWarning, match="drew random numbers for a map"):
        saliency_map(model, IMAGES, LABELS)
    assert state(model) == before


def test_a_generator_that_the_model_names_is_given_back_and_told() -> None:
    before = repr(NOISE.bit_generator.state)
    with pytest.warns(MapWarning, match="drew random numbers for a map"):
        saliency_map(Noisy(), IMAGES, LABELS)
    assert repr(NOISE.bit_generator.state) == before


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("name", ["tensor, nested", "codebook", "counter", "dict"])
def test_what_compiled_code_moves_is_put_back(name: str, later: bool) -> None:
    """At first all its tensors are copied, later those that moved."""
    held, move = MOVES[name]
    model = Moving(held(), move)
    compiled = torch.compile(model, backend="eager")
    for _ in range(3 * later):
        saliency_map(compiled, IMAGES, LABELS)
    before = state(model)
    saliency_map(compiled, IMAGES, LABELS)
    assert state(model) == before
    compiled(IMAGES)
    assert state(model) != before


def test_what_cannot_be_put_back_is_told() -> None:
    model = Moving(torch.zeros(2), lambda m: len(m.held.resize_(len(m.held) + 1).fill_(1.0)))
    with pytest.warns(MapWarning, match=r"changed Moving.held for a map where .* not be put back"):
        saliency_map(model, IMAGES, LABELS)


def test_operators_of_ones_own_are_seen_to_write() -> None:
    with torch.library._scoped_library("keepaugment_test", "FRAGMENT") as library:
        library.define("bump(Tensor(a!) x) -> ()")
        library.impl("bump", lambda x: x.add_(1) and None, "CompositeExplicitAutograd")
        bump = torch.ops.keepaugment_test.bump.default
        model = Moving(torch.zeros(1), lambda m: bump(m.held) or m.held.clone())
        before = state(model)
        saliency_map(model, IMAGES, LABELS)
        assert state(model) == before


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "function",
    [torch.batch_norm, F.batch_norm, F.instance_norm, torch.ops.aten.batch_norm],
)
def test_functions_that_normalise_do_so_as_in_evaluation(function: Any, plain: bool) -> None:
    """In the outermost module, which keeps its flag, by buffers or by plain tensors."""

    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = conv(), nn.Linear(6, NUM_CLASSES)
            self.register_buffer("mean", torch.full((6,), 0.1))
            self.register_buffer("var", torch.full((6,), 2.0))
            if plain:
                mean, var = self.mean, self.var
                del self.mean, self.var
                self.mean, self.var = mean, var

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            if function in (torch.batch_norm, torch.ops.aten.batch_norm):
                statistics = self.mean, self.var, self.training
                x = function(x, None, None, *statistics, 0.1, 1e-5, False)
            else:
                x = function(x, self.mean, self.var, None, None, self.training)
            return self.fc(x.tanh().mean((2, 3)))

    model = Normalising()
    before = state(model)
    found = saliency_map(model, IMAGES, LABELS)
    assert state(model) == before
    torch.testing.assert_close(found, saliency_map(model.eval(), IMAGES, LABELS))


def test_a_model_that_was_exported_in_training_is_explained_as_in_evaluation() -> None:
    layers = nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(NUM_CLASSES)
    model = nn.Sequential(conv(), *layers)
    model(IMAGES)
    exported = torch.export.export(model, (IMAGES,)).module()
    before = state(exported)
    found = saliency_map(exported, IMAGES, LABELS)
    assert state(exported) == before
    torch.testing.assert_close(found, saliency_map(model.eval(), IMAGES, LABELS))


def test_a_moving_model_may_be_asked_between_forward_and_backward() -> None:
    """What a graph has saved is what it was, and autograd knows it."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6, 1, 1))
            self.seen = torch.ones(6, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.scale.mul_(0.9)
            self.seen.mul_(0.9)
            return x * self.scale * self.seen

    model = network(Scaled())
    twin = copy.deepcopy(model)
    F.cross_entropy(twin(IMAGES), LABELS).backward()
    loss = F.cross_entropy(model(IMAGES), LABELS)
    saliency_map(model, IMAGES, LABELS)
    loss.backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other) and torch.equal(mine.grad, other.grad)


def test_weights_that_parametrizations_have_in_their_cache_still_learn() -> None:
    model = network()
    parametrizations.weight_norm(model[0])
    with parametrize.cached():
        saliency_map(model, IMAGES, LABELS)
        F.cross_entropy(model(IMAGES), LABELS).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_that_a_hook_computed_still_learn() -> None:
    """A penalty on `weight`, which weight_norm's hook sets in each pass, also a map's."""
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[0])
    model(IMAGES)
    saliency_map(model, IMAGES, LABELS)
    assert model[0].weight.requires_grad


def test_lazy_layers_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(NUM_CLASSES))
    with pytest.raises(ValueError, match="lazy layers: run it once before its first map"):
        saliency_map(model, IMAGES, LABELS)
    model(IMAGES)
    assert saliency_map(model, IMAGES, LABELS).any()


def test_what_other_threads_share_is_not_looked_into() -> None:
    shared = SimpleNamespace(lock=threading.Lock(), numbers=[1])
    module = nn.Module()
    module.shared, module.own = shared, SimpleNamespace(numbers=[1])
    assert [name for name, *_ in held_values(module, set())] == ["shared", "own", "own.numbers"]
    assert content_of(shared) is None


def test_modules_and_values_that_hold_one_another() -> None:
    module = nn.Module()
    module.own = [module]
    module.own.append(module.own)
    assert [name for name, *_ in held_values(module, set())] == ["own", "own.0"]
