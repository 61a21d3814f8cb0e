"""Maps of a compiled model, and of one that two processes train together."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diagnosing.checks import (
    Finding,
    differ,
    reason_of,
    same_gradients,
    step_gradients,
    traceless,
)
from diagnosing.subject import Subject
from keepaugment import saliency_map
from keepaugment.no_trace import Forward

PATIENCE = 240  # seconds that two processes may take


def check_compiled(
    subject: Subject, model: nn.Module, images: Tensor, labels: Tensor, backend: str
) -> Finding:
    """Whether a compiled model has the map of the model itself, and trains on after it."""
    check = f"torch.compile ({backend})"
    try:
        logits: Forward = subject.logits(torch.compile(model, backend=backend))
        step_gradients(model, logits, images, labels)
    except Exception as error:  # compilers raise anything
        return Finding(check, "skip", f"the model alone does not compile ({reason_of(error)})")
    expected = saliency_map(subject.logits(model), images, labels)
    finding = traceless(
        check, model, lambda: differ(saliency_map(logits, images, labels), expected)
    )
    try:
        step_gradients(model, logits, images, labels)
    except Exception as error:  # likewise
        return Finding(check, "FAIL", reason_of(error))
    return finding


def _gradients(
    subject: Subject, model: nn.Module, images: Tensor, labels: Tensor, maps: bool
) -> list[Tensor | None]:
    """Two steps' gradients of a model in DistributedDataParallel, maps around each or not."""
    wrapped = DistributedDataParallel(model)
    logits = subject.logits(wrapped)
    result: list[Tensor | None] = []
    for _ in range(2):
        if maps:
            saliency_map(logits, images, labels)
        torch.manual_seed(7)
        loss = torch.nn.functional.cross_entropy(logits(images), labels)
        if maps:  # between the passes the reducer waits for the gradients
            saliency_map(logits, images, labels)
        model.zero_grad()
        loss.backward()
        result += [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return result


def _shared(gradients: list[Tensor | None]) -> bool:
    """Whether all processes hold the same gradients."""
    mine = torch.cat([each.flatten().float() for each in gradients if each is not None])
    first = mine.clone()
    dist.broadcast(first, 0)
    return torch.equal(mine, first)


def _examine(subject: Subject, images: Tensor, labels: Tensor) -> tuple[str, str]:
    """A verdict and its reason, in one process."""
    plain = subject.make()
    twin = copy.deepcopy(plain)
    try:
        expected = _gradients(subject, plain, images, labels, maps=False)
    except Exception as error:  # the user's own, of any kind
        return "skip", f"the model alone does not train so ({reason_of(error)})"
    found = _gradients(subject, twin, images, labels, maps=True)
    same = torch.tensor(
        [same_gradients(expected, found), _shared(found), *map(torch.equal, *_buffers(plain, twin))]
    )
    if not bool(same[0]):
        return "FAIL", "gradients differ after a map"
    if not bool(same[1]):
        return "FAIL", "the processes' gradients differ after a map"
    if not bool(same.all()):
        return "FAIL", "buffers differ after a map"
    return "pass", "gradients of two steps are equal bit by bit, with maps and without"


def _buffers(a: nn.Module, b: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    return list(a.buffers()), list(b.buffers())


def _process(rank: int, subject: Subject, folder: str, images: Tensor, labels: Tensor) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        verdict = _examine(subject, images[rank::2], labels[rank::2])
    except Exception as error:  # the user's own, of any kind
        verdict = "FAIL", reason_of(error)
    Path(folder, f"{rank}.json").write_text(json.dumps(verdict))
    dist.destroy_process_group()


def check_distributed(subject: Subject, images: Tensor, labels: Tensor) -> Finding:
    """Whether two processes train as without maps: DistributedDataParallel, gloo, on the CPU."""
    check = "DistributedDataParallel, two processes (gloo, CPU)"
    if not (dist.is_available() and dist.is_gloo_available()):
        return Finding(check, "skip", "this torch has no gloo")
    with tempfile.TemporaryDirectory() as folder:
        words: Any = (subject, folder, images.cpu(), labels.cpu())
        running = mp.start_processes(_process, words, nprocs=2, join=False, start_method="spawn")
        assert running is not None
        late = time.monotonic() + PATIENCE
        try:
            while not running.join(timeout=1):
                if time.monotonic() > late:
                    return Finding(check, "FAIL", f"no end after {PATIENCE} seconds")
        except Exception as error:  # what ended a process
            return Finding(check, "FAIL", reason_of(error))
        finally:
            for process in running.processes:
                process.kill()
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]
    order = ["FAIL", "skip", "pass"]
    return Finding(check, *min(found, key=lambda each: order.index(each[0])))
