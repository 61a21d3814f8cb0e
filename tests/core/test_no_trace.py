"""A map leaves no trace in the model and computes as in evaluation."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from small import (
    MODELS,
    FeaturesInEval,
    Wrapper,
    evaluating,
    labels,
    make,
    network,
    randn,
    state,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from keepaugment import saliency_map

every_model = pytest.mark.parametrize("name", MODELS)
IMAGES, LABELS = randn(4, 3, 8, 8, seed=9), labels(4)


def plain_map(logits: Callable[[Tensor], Tensor]) -> Tensor:
    """The definition, for a model that is in evaluation."""
    images = IMAGES.clone().requires_grad_()
    chosen = logits(images)[range(4), LABELS]
    return torch.autograd.grad(chosen.sum(), images)[0].abs().amax(1)


def train_step(model: Callable[[Tensor], Tensor], module: nn.Module) -> list[Tensor]:
    """The gradients of one training pass, the same noise every time."""
    torch.manual_seed(7)
    parameters = [p for p in module.parameters() if p.requires_grad]
    return list(torch.autograd.grad(F.cross_entropy(model(IMAGES), LABELS), parameters))


def equal(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# No trace


@pytest.mark.parametrize("grad", ["none", "set"])
@pytest.mark.parametrize("fails", [False, True])
@every_model
def test_the_model_is_left_as_it_was(name: str, fails: bool, grad: str) -> None:
    model = make(name)
    if grad == "set":
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)

    def logits(images: Tensor) -> Tensor:
        result = model(images)  # every layer has run when it fails
        if fails:
            raise RuntimeError("out of memory")
        return result

    before = list(state(model))
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            saliency_map(logits, IMAGES, LABELS)
    else:
        saliency_map(logits, IMAGES, LABELS)
    assert list(state(model)) == before


@every_model
def test_a_map_is_that_of_the_model_in_evaluation(name: str) -> None:
    model = make(name)
    saliency = saliency_map(model, IMAGES, LABELS)
    torch.testing.assert_close(saliency, plain_map(evaluating(model)), rtol=1e-5, atol=1e-7)
    torch.manual_seed(123)
    assert torch.equal(saliency, saliency_map(model, IMAGES, LABELS))  # nothing is random in it


@every_model
def test_training_goes_on_as_if_there_had_been_no_map(name: str) -> None:
    model = make(name)
    twin = copy.deepcopy(model)
    saliency_map(model, IMAGES, LABELS)
    expected = train_step(twin, twin)
    assert equal(train_step(model, model), expected)
    assert equal(model.buffers(), twin.buffers())


def test_a_map_between_forward_and_backward_changes_nothing() -> None:
    model = make("batch norm")
    expected = train_step(model, model)
    loss = F.cross_entropy(model(IMAGES), LABELS)
    saliency_map(model, IMAGES, LABELS)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert equal(gradients, expected)


def test_a_map_does_not_call_the_hooks_of_parameters() -> None:
    model, calls = make("batch norm"), []
    for parameter in model.parameters():
        parameter.register_hook(calls.append)
        parameter.register_post_accumulate_grad_hook(calls.append)
    saliency_map(model, IMAGES, LABELS)
    assert calls == []
    model(IMAGES).sum().backward()  # and they still work
    assert len(calls) == 2 * len(list(model.parameters()))


def test_a_model_in_evaluation_stays_there() -> None:
    model = make("dropout").eval()
    before = list(state(model))
    saliency = saliency_map(model, IMAGES, LABELS)
    assert list(state(model)) == before
    assert torch.equal(saliency, plain_map(model))


def test_weights_that_autocast_has_in_its_cache_still_learn() -> None:
    """Autocast keeps cast weights for the rest of its region: a map must not leave frozen ones."""
    model = make("batch norm")
    with torch.autocast("cpu", torch.bfloat16):
        expected = train_step(model, model)
    with torch.autocast("cpu", torch.bfloat16):
        saliency_map(model, IMAGES, LABELS)
        gradients = train_step(model, model)
    assert equal(gradients, expected)


def test_the_users_images_are_left_as_they_were() -> None:
    images = IMAGES.clone().requires_grad_()
    version = images._version
    saliency_map(make("batch norm"), images, LABELS)
    assert (images.grad, images.requires_grad, images._version) == (None, True, version)


def test_checkpointed_layers_recompute_the_same_map() -> None:
    model = make("functional dropout")
    checkpointed = network(*model[1:-2])
    checkpointed.load_state_dict(model.state_dict())
    checkpointed[1].forward = functools.partial(  # type: ignore[method-assign]
        checkpoint, checkpointed[1].forward, use_reentrant=False
    )
    saliency = saliency_map(checkpointed, IMAGES, LABELS)
    torch.testing.assert_close(saliency, saliency_map(model, IMAGES, LABELS))


@pytest.mark.parametrize("fails", [False, True])
def test_random_numbers_that_a_model_always_draws_are_given_back(fails: bool) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rand(x.shape)

    model = network(Noisy())
    before = torch.get_rng_state()
    if fails:
        with pytest.raises(ValueError, match="labels"):
            saliency_map(model, IMAGES, LABELS + 100)
    else:
        saliency_map(model, IMAGES, LABELS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrapped", ["not", "compiled", "distributed", "both"])
@pytest.mark.usefixtures("process_group")
def test_a_whole_model_may_be_named_after_its_noise(wrapped: str) -> None:
    """Only blocks are known by their name: this model gives features in evaluation."""

    class ShakeDropNet(FeaturesInEval):
        pass

    model = module = ShakeDropNet()
    if wrapped in ("distributed", "both"):
        model = DistributedDataParallel(model)
    if wrapped in ("compiled", "both"):
        model = torch.compile(model, backend="eager")
    expected = plain_map(evaluating(module))
    torch.testing.assert_close(saliency_map(model, IMAGES, LABELS), expected)


# Whatever the model hides in


class Trainer:
    """An object that has a model, and is a callable to logits."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.name = "trainer"

    def logits(self, images: Tensor) -> Tensor:
        return self.model(images)

    __call__ = logits


the_model = nn.Module()  # what a script has at module level


def named_globally(images: Tensor) -> Tensor:
    return the_model(images)


def times(factor: float, model: nn.Module, images: Tensor) -> Tensor:
    return factor * model(images)


CALLABLES: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "lambda": lambda model: lambda x: model(x),
    "lambda that calls a method": lambda model: lambda x: model.forward(x),
    "partial": lambda model: functools.partial(times, 1.0, model),
    "partial by keyword": lambda model: functools.partial(lambda x, net: net(x), net=model),
    "bound method": lambda model: model.forward,
    "method of an object": lambda model: Trainer(model).logits,
    "object": Trainer,
    "lambda on an object": lambda model: (lambda trainer: lambda x: trainer.model(x))(
        Trainer(model)
    ),
    "lambda on a partial": lambda model: (lambda call: lambda x: call(x))(
        functools.partial(times, 1.0, model)
    ),
    "lambda on a method of an object": lambda model: (lambda call: lambda x: call(x))(
        Trainer(model).logits
    ),
    "lambda on a lambda": lambda model: (lambda call: lambda x: call(x))(lambda x: model(x)),
    "global name": lambda model: named_globally,
    "lambda on a global name": lambda model: lambda x: named_globally(x),
    "wrapper": Wrapper,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "lambda on a compiled module": lambda model: (lambda call: lambda x: call(x))(
        torch.compile(model, backend="eager")
    ),
    "compiled function": lambda model: torch.compile(lambda x: model(x), backend="eager"),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("how", CALLABLES)
def test_a_model_is_found_in_a_callable(how: str, fails: bool) -> None:
    model = network(nn.BatchNorm2d(6), nn.Dropout())
    model(IMAGES)
    globals()["the_model"] = model
    logits = CALLABLES[how](model)
    expected = plain_map(evaluating(model))
    before = list(state(model))
    if fails:
        with pytest.raises(ValueError, match="labels"):
            saliency_map(logits, IMAGES, LABELS + 100)
    else:
        torch.testing.assert_close(saliency_map(logits, IMAGES, LABELS), expected)
    assert list(state(model)) == before


def test_an_object_may_hold_itself() -> None:
    trainer = Trainer(make("dropout"))
    trainer.me = trainer  # type: ignore[attr-defined]
    assert torch.equal(saliency_map(trainer, IMAGES), saliency_map(trainer.model, IMAGES))


@pytest.mark.parametrize("owner", ["Ada", 7, None, ("Ada", 7)])
def test_a_model_may_have_an_owner(owner: object) -> None:
    model = make("dropout")
    model.owner = owner  # type: ignore[assignment]
    assert saliency_map(model, IMAGES).shape == (4, 8, 8)


def test_features_in_eval_are_not_explained() -> None:
    """Six features, five classes: only the logits have no number 5."""
    with pytest.raises(ValueError, match=r"labels must be in \[0, 5\)"):
        saliency_map(FeaturesInEval(), IMAGES, torch.full((4,), 5))


# Compiled and distributed


@pytest.mark.parametrize(
    "name", ["batch norm", "dropout", "functional dropout", "functional batch norm", "attention"]
)
def test_a_compiled_model_has_the_same_map(name: str) -> None:
    model = make(name)
    compiled = torch.compile(model, backend="eager")
    before = list(state(model))
    saliency = saliency_map(compiled, IMAGES, LABELS)
    torch.testing.assert_close(saliency, plain_map(evaluating(model)), rtol=1e-5, atol=1e-7)
    assert list(state(model)) == before
    assert equal(train_step(compiled, model), train_step(model, model))  # it trains as before


def train_distributed(map_of: str, **options: bool) -> tuple[list[Tensor], int]:
    """Three steps' gradients of a DDP model with maps in between, and its reducer's buckets."""
    torch.manual_seed(0)
    model = DistributedDataParallel(network(nn.BatchNorm2d(6)), **options)
    buckets, gradients = [], []

    def reduce(state, bucket):  # without annotations: torch compares them with the classes
        buckets.append(bucket.index())
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    model.register_comm_hook(None, reduce)
    explained = {
        "none": None,
        "model": model,
        "lambda": lambda x: model(x),
        "wrapper": Wrapper(model),
        "compiled": torch.compile(model, backend="eager"),
        "lambda on compiled": (lambda call: lambda x: call(x))(
            torch.compile(model, backend="eager")
        ),
    }[map_of]
    for _ in range(3):
        if explained is not None:
            saliency_map(explained, IMAGES, LABELS)
        loss = F.cross_entropy(model(IMAGES), LABELS)
        if explained is not None:
            saliency_map(explained, IMAGES, LABELS)
        model.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return gradients, len(buckets)


@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True}, {"static_graph": True}])
@pytest.mark.parametrize("map_of", ["model", "lambda", "wrapper", "compiled", "lambda on compiled"])
@pytest.mark.usefixtures("process_group")
def test_the_reducer_of_ddp_sees_no_map(map_of: str, options: dict[str, bool]) -> None:
    expected, num_buckets = train_distributed("none", **options)
    gradients, num_buckets_seen = train_distributed(map_of, **options)
    assert equal(gradients, expected)
    assert num_buckets_seen == num_buckets == 3


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.usefixtures("process_group")
def test_a_ddp_model_has_the_map_of_its_module(fails: bool) -> None:
    module = make("batch norm")
    model = DistributedDataParallel(module)
    before = list(state(model))
    for explained in (model, lambda x: model(x)):
        if fails:
            with pytest.raises(ValueError, match="labels"):
                saliency_map(explained, IMAGES, LABELS + 100)
        else:
            expected = plain_map(evaluating(module))
            torch.testing.assert_close(saliency_map(explained, IMAGES, LABELS), expected)
        assert list(state(model)) == before
