"""Memory of a step serves the next one."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from classification.train import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_used_again() -> None:
    """64 MiB are 16,384 pages of 4 KiB; the second time all of them are there."""
    keep_freed_memory()
    faults = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(2**24).fill_(1.0)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[1] < 100
