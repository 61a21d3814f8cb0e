"""A map leaves no trace in the model and computes as in evaluation."""

from __future__ import annotations

import copy
import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from small import (
    MODELS,
    FeaturesInEval,
    NoisyBlock,
    PooledLinear,
    Wrapper,
    conv,
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

from keepaugment import computing_map, saliency_map

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


def test_gradients_accumulate_over_maps() -> None:
    model = make("batch norm")
    twin = copy.deepcopy(model)
    for number in range(2):
        saliency_map(model, IMAGES + number, LABELS)
        for each in (model, twin):
            F.cross_entropy(each(IMAGES + number), LABELS).backward()
    grads = ([parameter.grad for parameter in each.parameters()] for each in (model, twin))
    assert equal(*grads)


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


class InPlace(nn.Module):
    """A model whose first operations write to its input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.1).div_(2)
        x[:, 0] *= 2
        return self.model(F.leaky_relu_(x))


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("grad", [False, True])
def test_the_users_images_are_left_as_they_were(scale: float, grad: bool) -> None:
    model = InPlace(make("batch norm"))
    images = IMAGES.clone().requires_grad_(grad)
    version = images._version
    saliency = saliency_map(model, images, LABELS, scale=scale)
    assert (images.grad, images.requires_grad, images._version) == (None, grad, version)
    assert torch.equal(images, IMAGES)
    if scale == 1.0:
        expected = plain_map(lambda x: evaluating(model)(x.clone()))
        torch.testing.assert_close(saliency, expected)


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
        with pytest.warns(UserWarning, match="drew random numbers"):
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

    def first(self, images: Tensor) -> Tensor:
        return self.model[0](images)  # type: ignore[index]


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


class Slots:
    """An object without `__dict__`."""

    __slots__ = ("model",)

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, images: Tensor) -> Tensor:
        return self.model(images)


class Hiding(nn.Module):
    """A module that does not register another."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.models = [model]

    def forward(self, images: Tensor) -> Tensor:
        return self.models[0](images)


def called_by(function: Callable) -> Callable:
    return lambda x: function(x)


registry: dict[str, nn.Module] = {}


def from_registry() -> nn.Module:
    return globals()["registry"]["net"]


HIDDEN: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "list": lambda model: (lambda held: lambda x: held[0](x))([model]),
    "dict": lambda model: (lambda held: lambda x: held["net"](x))({"net": model}),
    "object with a list": lambda model: Trainer([model]).first,  # type: ignore[arg-type]
    "objects nine deep": lambda model: functools.reduce(
        lambda held, _: Trainer(held), range(9), model
    ),
    "slots": Slots,
    "default argument": lambda model: lambda x, net=model: net(x),
    "functions five deep": lambda model: called_by(called_by(called_by(called_by(model.forward)))),
    "unregistered": Hiding,
    "unregistered, wrapped": lambda model: Wrapper(Hiding(model)),
    "found at run time": lambda model: registry.update(net=model) or (lambda x: from_registry()(x)),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("how", HIDDEN)
def test_a_hidden_model_is_switched_when_it_is_called(how: str, fails: bool) -> None:
    model = network(nn.BatchNorm2d(6, momentum=None), nn.Dropout(), NoisyBlock())
    model(IMAGES)
    logits = HIDDEN[how](model)
    expected = plain_map(evaluating(model))
    before = list(state(model))
    if fails:
        with pytest.raises(ValueError, match="labels"):
            saliency_map(logits, IMAGES, LABELS + 100)
    else:
        torch.testing.assert_close(saliency_map(logits, IMAGES, LABELS), expected)
    assert list(state(model)) == before


def test_a_closure_may_name_a_variable_that_is_not_set() -> None:
    def logits(images: Tensor) -> Tensor:
        return model(images) if True else unset(images)

    model = make("dropout")
    expected = plain_map(evaluating(model))
    torch.testing.assert_close(saliency_map(logits, IMAGES, LABELS), expected)
    unset = model


def test_other_threads_and_other_modules_are_none_of_a_maps_business() -> None:
    """Maps of one model in two threads take turns; a module that trains meanwhile is not met."""
    model, noise = make("batch norm"), []
    registry["net"] = nn.Dropout()
    expected = plain_map(evaluating(model))

    def logits(images: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: noise.append(from_registry()(torch.ones(100))))
        thread.start()
        thread.join()
        return model(images)

    before = list(state(model))[1:]  # dropout draws
    with ThreadPoolExecutor(2) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = list(pool.map(lambda _: saliency_map(logits, IMAGES, LABELS), range(6)))
    for saliency in maps:
        torch.testing.assert_close(saliency, expected)
    assert list(state(model))[1:] == before
    assert len(noise) == 6 and all((mask == 0).any() for mask in noise)


# State that no flag guards


class Counting(nn.Module):
    """Statistics, caches and counters that are written whether it trains or not, in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("codes", torch.zeros(6))
        self.register_buffer("queue", torch.zeros(10, 6))
        self.calls, self.cache, self.seen = 0, {}, []

    def forward(self, x: Tensor) -> Tensor:
        means = x.detach().mean((0, 2, 3))
        self.mean = 0.9 * self.mean + 0.1 * means
        self.codes.data.mul_(0.9).add_(means)
        self.queue[self.calls % 10] = means
        self.calls += 1
        if self.training:
            self.last = means
        self.seen.append(means)
        weight = self.conv.weight if self.training else self.cache.get("w", self.conv.weight)
        self.cache["w"] = self.conv.weight.detach().clone()
        return F.conv2d(x, weight) * (1 + self.queue.sum())


@pytest.mark.parametrize("fails", [False, True])
def test_buffers_and_attributes_that_always_change_are_put_back(fails: bool) -> None:
    class Root(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = conv(), PooledLinear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(super().forward(self.first(x)))

    def everything() -> list:
        return [
            list(state(model)),
            [(m.calls, str(m.cache), str(m.seen)) for m in model.modules() if hasattr(m, "calls")],
        ]

    model = Wrapper(Root())
    model(IMAGES)
    before = everything()
    if fails:
        with pytest.raises(ValueError, match="labels"):
            saliency_map(model, IMAGES, LABELS + 100)
    else:
        saliency_map(model, IMAGES, LABELS)
    assert everything() == before


def test_quantisation_aware_training_goes_on_as_without_a_map() -> None:
    fake = torch.ao.quantization.FakeQuantize(torch.ao.quantization.MovingAverageMinMaxObserver)
    model = network(nn.BatchNorm2d(6), fake)
    model(IMAGES)
    before = list(state(model))
    saliency_map(model, 3 * IMAGES, LABELS)
    assert list(state(model)) == before


@pytest.mark.filterwarnings("ignore")
def test_a_traced_model_is_left_as_it_was() -> None:
    """Its batch normalisation always trains: its map is another, but its statistics stay."""
    model = torch.jit.trace(make("batch norm"), IMAGES, check_trace=False)
    before = [buffer.clone() for buffer in model.buffers()]
    saliency_map(model, IMAGES, LABELS)
    assert equal(model.buffers(), before)


def test_a_buffer_that_a_graph_has_saved_may_be_put_back() -> None:
    """A map between forward and backward, of a model with a buffer that the gradient needs."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(6, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    model = network(Scaled())
    loss = F.cross_entropy(model(IMAGES), LABELS)
    saliency_map(model, IMAGES, LABELS)
    loss.backward()


# What cannot be switched


class NoisyRoot(FeaturesInEval):
    """Random in training in the module that gives logits in training alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.rand(1) if self.training else x)


class PoliteRoot(FeaturesInEval):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.rand(1) if self.training and not computing_map() else x)


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapper, nn.DataParallel])
def test_randomness_that_cannot_be_switched_is_told(wrap: Callable) -> None:
    model = NoisyRoot()
    before = list(state(model))
    with pytest.warns(UserWarning, match=r"self.training and not keepaugment.computing_map\(\)"):
        saliency_map(wrap(model), IMAGES, LABELS)
    assert list(state(model)) == before
    polite = PoliteRoot()
    expected = plain_map(evaluating(polite))
    torch.testing.assert_close(saliency_map(wrap(polite), IMAGES, LABELS), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_functional_dropout_in_torchscript_is_told() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = conv(), PooledLinear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.dropout(self.conv(x), 0.5, self.training))

    with pytest.warns(UserWarning, match="drew random numbers"):
        saliency_map(torch.jit.script(Net()), IMAGES, LABELS)


@pytest.mark.parametrize("wrap", [Wrapper, nn.DataParallel, lambda m: nn.Sequential(nn.Tanh(), m)])
def test_a_network_in_a_wrapper_is_no_block(wrap: Callable) -> None:
    """It gives features in evaluation, and its classifier is no linear layer."""

    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.classifier = conv(), nn.Conv2d(6, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.classifier(x).mean((2, 3)) if self.training else x.mean((2, 3))

    model = Convolutional()
    logits = lambda x: model.classifier(model.body(x)).mean((2, 3))  # noqa: E731
    before = nn.Tanh() if isinstance(wrap(model), nn.Sequential) else nn.Identity()
    expected = plain_map(lambda x: logits(before(x)))
    torch.testing.assert_close(saliency_map(wrap(model), IMAGES, LABELS), expected)


def test_ddp_that_hides_is_refused(process_group: None) -> None:
    registry["net"] = DistributedDataParallel(make("batch norm"))
    logits = HIDDEN["found at run time"](registry["net"])
    with pytest.raises(ValueError, match="DistributedDataParallel runs in a map"):
        saliency_map(logits, IMAGES, LABELS)


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
