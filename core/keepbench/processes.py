"""One process or several: `torchrun` starts them, DistributedDataParallel keeps them equal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from keepbench.machine import find_device


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        device: that it computes on.
        rank: its number, from 0.
        world_size: how many there are.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.rank == 0

    def total(self, sums: Tensor) -> Tensor:
        """Sums over all processes; every process must call."""
        if self.world_size > 1:
            dist.all_reduce(sums)
        return sums

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process; every process must call."""
        return bool(self.total(torch.tensor(float(flag), device=self.device)))

    def shared(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, device=self.device)
        return box[0]


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the other processes of `torchrun`, if it started this one, and leave them at the end.

    Raises:
        ValueError: The device is not there.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(find_device(device))
        return
    found = find_device(device)
    if found.type == "cuda":
        found = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(found)
    dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    try:
        yield Processes(found, dist.get_rank(), world_size)
        dist.barrier()  # nobody leaves while another still talks to it
    finally:
        dist.destroy_process_group()
