"""One process or several: `torchrun` starts them, DistributedDataParallel keeps them equal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from keepbench.machine import find_device
from keepbench.settings import flat


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

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, by rank; every process must call."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def check_same(self, settings: Any) -> None:
        """Raise ValueError in all processes if the settings of any two differ."""
        everyone = self.gathered(flat(settings))
        differences = [
            f"{name}: {value!r} in process 0, {other[name]!r} in process {rank}"
            for rank, other in enumerate(everyone)
            for name, value in everyone[0].items()
            if other[name] != value
        ]
        if differences:
            raise ValueError(f"processes have different settings ({'; '.join(differences)})")

    def share_buffers(self, module: nn.Module) -> None:
        """Give a module's buffers, such as BatchNorm's statistics, the first process's values."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

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
    try:
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:  # a port in use, an address that is not there
        raise ValueError(f"processes cannot meet: {str(error).splitlines()[0]}") from None
    try:
        yield Processes(found, dist.get_rank(), world_size)
        dist.barrier()  # nobody leaves while another still talks to it
    finally:
        dist.destroy_process_group()
