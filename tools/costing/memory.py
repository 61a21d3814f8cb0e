"""The most memory that a piece of work uses at once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class _Counted(TorchDispatchMode):
    """Follows the tensors that operations return: bytes alive, and their highest count."""

    def __init__(self) -> None:
        super().__init__()
        self.known = WeakIdKeyDictionary()
        self.alive = 0
        self.peak = 0

    def _freed(self, size: int) -> None:
        self.alive -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            if storage not in self.known:
                self.known[storage] = True
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return result


class Peak:
    """The most memory that tensors made within it took at once.

        with Peak(device) as peak:
            ...
        peak.mib

    On CUDA the allocator knows. Elsewhere what eager operations return is counted: without the
    scratch space of a kernel, and not what compiled code does, so None is the answer there.

    Attributes:
        mib: the peak in MiB, above what was in use at the start; None if not known.
    """

    def __init__(self, device: torch.device, *, compiled: bool = False) -> None:
        self.device = device
        self.counted = None if compiled or device.type == "cuda" else _Counted()
        self.mib: float | None = None

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.memory_allocated(self.device)
        elif self.counted:
            self.counted.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.device.type == "cuda":
            self.mib = (torch.cuda.max_memory_allocated(self.device) - self.start) / 2**20
        elif self.counted:
            self.counted.__exit__(*error)
            self.mib = self.counted.peak / 2**20
