"""What must hold for the maps of a network, each as "yes" or a reason why not."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diagnosing.checks import differ, reason_of
from diagnosing.traces import trace_of
from keepaugment import AttentionSaliency, EarlyHead, GradientSaliency, early_stage
from keepaugment.early_stage import Stage
from keepaugment.no_trace import Forward
from sweeping.networks import NUM_CLASSES, fitting, logits_of, make, randomise

Row = dict[str, Any]

COLUMNS = {
    "map": "is the gradient that autograd gives of a copy in evaluation",
    "no trace": "modes, buffers, parameters, gradients and random numbers are what they were",
    "half": "the same of half the resolution",
    "early": "the same of an early head",
    "attention": "`AttentionSaliency` gives a finite map and leaves no trace",
    "alone": "the map of an image alone is that in its batch",
    "channels-last": "the same as `map` in that memory layout",
    "bf16": "the same as `map` under autocast, within a tenth of the largest value",
}
"""What is asked, by column."""

YES = "yes"
BATCH = 2
ROUNDING = 1e-4  # of a map's maximum, between two computations of the same
ROUGH = 3e-2  # the same where other kernels may run
BF16 = 0.1  # the same in bfloat16, whose 8 bits many layers round


class Subject:
    """A network, its twin in evaluation, and images for them."""

    def __init__(self, library: str, name: str) -> None:
        self.options, self.size = fitting(library, name)
        torch.manual_seed(0)
        self.network = make(library, name, **self.options)
        self.images = torch.randn(BATCH, 3, self.size, self.size)
        self.labels = torch.arange(BATCH) % NUM_CLASSES
        self.picked = not isinstance(randomise(self.network, self.images), Tensor)
        self.stage: Stage | None = None
        self.twin = make(library, name, **self.options).eval()
        self.twin.load_state_dict(self.network.state_dict())

    def logits(self, images: Tensor) -> Tensor:
        """Of the network, which trains: (B, K)."""
        return logits_of(self.network(images))

    def map(self, **options: Any) -> GradientSaliency:
        """The library's map of the network."""
        return GradientSaliency(self.logits if self.picked else self.network, **options)


def reference(logits: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """The absolute gradient of each label's logit, its maximum over channels: (B, H, W)."""
    inputs = images.clone().requires_grad_()
    chosen = logits(inputs).gather(1, labels[:, None])
    return torch.autograd.grad(chosen.sum(), inputs)[0].abs().amax(1).float()


def _compared(found: Tensor, expected: Tensor, tolerance: float = ROUNDING) -> str:
    if not expected.any():
        return "no gradient reaches the images"
    return differ(found, expected, tolerance) or YES


def _same(subject: Subject, tolerance: float = ROUNDING) -> str:
    """Whether the map is the reference, in the precision and the layout of the moment."""
    images, labels = subject.images, subject.labels
    expected = reference(lambda x: logits_of(subject.twin(x)), images, labels)
    return _compared(subject.map()(images, labels), expected, tolerance)


def _traced(subject: Subject, saliency: Callable[..., Tensor]) -> tuple[Tensor, str]:
    """A map and "yes" if it leaves no trace, else what it changed."""
    maps: list[Tensor] = []
    changed = trace_of(
        subject.network, lambda: maps.append(saliency(subject.images, subject.labels))
    )
    names = [f"{aspect} ({', '.join(which[:2])})" for aspect, which in changed.items()]
    return maps[0], f"changed {'; '.join(names)}" if names else YES


def _no_trace(subject: Subject) -> str:
    return _traced(subject, subject.map())[1]


def _half(subject: Subject) -> str:
    images, labels = subject.images, subject.labels
    half = round(subject.size / 2)
    small = F.interpolate(images, (half, half), mode="bicubic", align_corners=False)
    found = subject.map(scale=0.5)(images, labels)
    expected = reference(lambda x: logits_of(subject.twin(x)), small, labels)
    return _compared(found, F.interpolate(expected[:, None], images.shape[2:])[:, 0])


def _early(subject: Subject) -> str:
    images, labels = subject.images, subject.labels
    subject.stage = early_stage(subject.network, images)
    head = EarlyHead(subject.network, subject.stage.name, NUM_CLASSES)
    stages: list[Tensor] = []
    stage = subject.twin.get_submodule(head.layer)
    hook = stage.register_forward_hook(lambda module, args, output: stages.append(output.clone()))

    def logits(inputs: Tensor) -> Tensor:
        subject.twin(inputs)
        return head(stages[0])

    try:
        found, trace = _traced(subject, subject.map(head=head))
        same = _compared(found, reference(logits, images, labels))
        return trace if same == YES else same
    finally:
        head.remove()
        hook.remove()


def _attention(subject: Subject) -> str:
    found, trace = _traced(subject, AttentionSaliency(subject.network))
    if not found.isfinite().all() or not (found.amax((1, 2)) > found.amin((1, 2))).all():
        return "the map is not finite or the same everywhere"
    return trace


def _alone(subject: Subject) -> str:
    images, labels, saliency = subject.images, subject.labels, subject.map()
    found = _compared(saliency(images[:1], labels[:1]), saliency(images, labels)[:1], ROUGH)
    if found == YES:
        return YES
    whole, single = (
        reference(lambda x: logits_of(subject.twin(x)), images[:n], labels[:n])[:1] for n in (2, 1)
    )
    too = differ(single, whole, ROUGH)
    return f"{found}, and so does autograd's gradient of the copy" if too else found


def _bf16(subject: Subject) -> str:
    with torch.autocast("cpu", torch.bfloat16):
        return _same(subject, BF16)


def _channels_last(subject: Subject) -> str:
    for network in (subject.network, subject.twin):
        network.to(memory_format=torch.channels_last)
    subject.images = subject.images.to(memory_format=torch.channels_last)
    return _same(subject)


CHECKS: dict[str, Callable[[Subject], str]] = {
    "map": _same, "no trace": _no_trace, "half": _half, "early": _early, "attention": _attention,
    "alone": _alone, "bf16": _bf16, "channels-last": _channels_last,
}  # fmt: skip
"""By column; the last changes the subject."""


class OutOfTimeError(BaseException):
    """Passes by whoever catches a network's errors."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError within, after so many seconds of the processor; in the main thread."""

    def stop(signum: int, frame: Any) -> None:
        raise OutOfTimeError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _verdict(check: Callable[[Subject], str], subject: Subject) -> str:
    try:
        return check(subject)
    except ValueError as error:  # the library's words
        return f"refused: {error}"
    except Exception as error:  # a network's, of any kind
        return reason_of(error)


def examine(library: str, name: str, seconds: float) -> Row:
    """A row of the table: what the network is, and each column's "yes" or reason.

    A network that cannot be made or run, or not in time, has the reason as its "error".
    """
    row: Row = {"library": library, "network": name}
    begun = time.process_time()
    try:
        with time_limit(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject = Subject(library, name)
            row |= {
                "class": type(subject.network).__name__,
                "parameters": sum(p.numel() for p in subject.network.parameters()),
                "size": subject.size,
                "options": subject.options,
                "picked": subject.picked,
            }
            for column, check in CHECKS.items():
                row[column] = _verdict(check, subject)
            if subject.stage:
                row |= {"stage": subject.stage.name, "share": round(subject.stage.share, 3)}
    except OutOfTimeError as error:
        undone = [column for column in COLUMNS if column not in row]
        row |= dict.fromkeys(undone, str(error)) if "class" in row else {"error": str(error)}
    except Exception as error:  # a network's, of any kind
        row["error"] = reason_of(error)
    return row | {"seconds": round(time.process_time() - begun, 1)}
