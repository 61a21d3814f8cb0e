"""Conditions for maps to be safe in a training loop, each as a finding."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnosing.traces import same, state_of, trace_of
from keepaugment import EarlyHead, GradientSaliency, Saliency, saliency_map
from keepaugment.no_trace import Forward, MapWarning, no_trace


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
        check: what was asked.
        verdict: "pass", "FAIL" or "skip".
        reason: why it failed or was skipped, or what was done.
    """

    check: str
    verdict: str
    reason: str


def reason_of(error: BaseException) -> str:
    """An error in a line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _verdict(check: str, wrong: str, right: str) -> Finding:
    return Finding(check, "FAIL" if wrong else "pass", wrong or right)


def check_aspects(
    model: nn.Module, maps: Mapping[str, Saliency], images: Tensor, labels: Tensor
) -> Iterator[Finding]:
    """Findings on the maps of all kinds, and for each aspect of the state."""
    traces: dict[str, dict[str, list[str]]] = {}
    empty: list[str] = []
    said: dict[str, None] = {}
    for kind, saliency in maps.items():
        found: list[Tensor] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MapWarning)
            traces[kind] = trace_of(model, lambda: found.append(saliency(images, labels)))  # noqa: B023
        said |= {str(each.message): None for each in caught if each.category is MapWarning}
        if number := int((found[0].flatten(1).amax(1) == 0).sum()):
            empty.append(f"{kind} ({number} of {len(images)})")
    yield _verdict("maps warn of nothing", "; ".join(said), f"maps {', '.join(maps)}")
    yield _verdict(
        "no map is zero everywhere",
        f"no gradient reaches the image in maps {', '.join(empty)}" if empty else "",
        f"maps {', '.join(maps)}",
    )
    for aspect, values in state_of(model).items():
        check = f"left alone: {aspect}"
        if not values:
            cuda = "CUDA" in aspect
            yield Finding(check, "skip", "no CUDA here" if cuda else "the model has none")
            continue
        guilty: dict[str, list[str]] = {}
        for kind, changed in traces.items():
            if aspect in changed:
                guilty.setdefault(_listed(changed[aspect]), []).append(kind)
        names = [f"{names} (by maps {', '.join(kinds)})" for names, kinds in guilty.items()]
        wrong = f"changed {'; '.join(names)}" if names else ""
        yield _verdict(check, wrong, f"by maps {', '.join(maps)}")


def traceless(check: str, model: nn.Module, action: Callable[[], str]) -> Finding:
    """Run an action, which returns what is wrong with its result, and look for a trace."""
    said: list[str] = []
    try:
        traces = trace_of(model, lambda: said.append(action()))
    except Exception as error:  # the user's model may raise anything
        return Finding(check, "FAIL", reason_of(error))
    wrong = [
        *filter(None, said),
        *(f"changed {_listed(names)}" for names in traces.values()),
    ]
    return _verdict(check, "; ".join(wrong), "no trace")


def differ(a: Tensor, b: Tensor, tolerance: float = 1e-2) -> str:
    """Empty if two maps are the same but for rounding, else by how much they differ."""
    if not bool(a.isfinite().all() & b.isfinite().all()):
        return "the map is not finite"
    far = ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
    return f"the map differs by {far:.1%} of its maximum" if far > tolerance else ""


def check_situations(
    model: nn.Module, logits: Forward, images: Tensor, labels: Tensor
) -> Iterator[Finding]:
    """Full maps as they come about in training loops: of one image, without gradients, ..."""
    full = GradientSaliency(logits)
    whole = full(images, labels)

    def single() -> str:
        return differ(full(images[:1], labels[:1]), whole[:1])

    def without_gradients() -> str:
        with torch.no_grad():
            return differ(full(images, labels), whole)

    def other_noise() -> str:
        with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
            torch.manual_seed(1)
            return differ(full(images, labels), whole)

    def failing() -> str:
        def raises(images: Tensor) -> Tensor:
            logits(images)
            raise MemoryError

        try:
            saliency_map(raises, images, labels)
        except MemoryError:
            return ""
        return "an error of the model was lost"

    def mixed_precision() -> str:
        with torch.autocast(images.device.type, torch.bfloat16):
            return "" if full(images, labels).isfinite().all() else "the map is not finite"

    yield traceless("a batch of one image (B = 1), with its map in a batch", model, single)
    yield traceless("inside no_grad", model, without_gradients)
    yield traceless("no noise in the map", model, other_noise)
    yield traceless("after an error in the model", model, failing)
    yield traceless("under autocast (bfloat16)", model, mixed_precision)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """The whole model in evaluation mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_evaluation(
    model: nn.Module, logits: Forward, images: Tensor, labels: Tensor
) -> Iterator[Finding]:
    """Whether the map of a model that trains is that of one in evaluation mode, and that one's."""
    check = "the map is that in evaluation mode"
    full = GradientSaliency(logits)

    def shape() -> tuple[int, ...] | None:
        with torch.no_grad(), no_trace(logits, images.device):
            return getattr(logits(images), "shape", None)

    found, trained = full(images, labels), shape()
    with _evaluation(model):
        try:
            same_outputs = shape() == trained
        except Exception:  # the user's model may raise anything
            same_outputs = False
        if not same_outputs:
            yield Finding(check, "skip", "the model gives other outputs there")
            return
        yield traceless(check, model, lambda: differ(found, full(images, labels)))
        yield traceless(
            "a batch of one image in evaluation mode, with its map in a batch",
            model,
            lambda: differ(full(images[:1], labels[:1]), full(images, labels)[:1]),
        )


def step_gradients(
    model: nn.Module, logits: Forward, images: Tensor, labels: Tensor
) -> list[Tensor | None]:
    """The gradients of a training pass, the same noise every time."""
    torch.manual_seed(7)
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = F.cross_entropy(logits(images).float(), labels)
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def same_gradients(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    """Whether two lists of gradients are the same, bit by bit."""
    return all(same(first, second) for first, second in zip(a, b, strict=True))


def check_training(
    model: nn.Module,
    logits_of: Callable[[nn.Module], Forward],
    images: Tensor,
    labels: Tensor,
    *,
    bf16: bool,
) -> Finding:
    """Whether the step after a map is the one that it would have been, inside one autocast."""
    check = "the next training step" + (" under autocast" if bf16 else "") + " is the same"
    try:
        twins = [copy.deepcopy(model) for _ in range(3)]
    except Exception as error:  # the user's own, of any kind
        return Finding(check, "skip", f"the model cannot be copied ({reason_of(error)})")
    gradients = []
    for number, twin in enumerate(twins):
        logits = logits_of(twin)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            try:
                if number == 2:
                    saliency_map(logits, images, labels)
                gradients.append(step_gradients(twin, logits, images, labels))
            except Exception as error:  # likewise
                verdict = "FAIL" if number == 2 else "skip"
                return Finding(check, verdict, reason_of(error))
    if not same_gradients(gradients[0], gradients[1]):
        return Finding(check, "skip", "no two steps of this model are the same without maps either")
    if same_gradients(gradients[0], gradients[2]):
        return Finding(check, "pass", "gradients are equal bit by bit")
    return Finding(check, "FAIL", "its gradients differ after a map")


def check_head(logits: Forward, head: EarlyHead, images: Tensor, labels: Tensor) -> Finding:
    """Whether an early head's loss reaches the head and the layers before it."""
    check = f"an early head on {head.layer} learns"
    try:
        logits(images)
        parameters = [*head.owner[0].parameters(), *head.parameters()]
        wanted = [p for p in parameters if p.requires_grad]
        gradients = torch.autograd.grad(head.loss(labels), wanted, allow_unused=True)
    except Exception as error:  # the user's own, of any kind
        return Finding(check, "FAIL", reason_of(error))
    learning = sum(each is not None and bool((each != 0).any()) for each in gradients)
    if learning > len(list(head.parameters())):
        return Finding(check, "pass", f"its loss trains {learning} of {len(wanted)} parameters")
    return Finding(check, "FAIL", "its loss does not reach the model's layers")
