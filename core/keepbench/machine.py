"""The machine and the code that a run computes on."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import torch
from torch import nn


def keep_freed_memory() -> None:
    """Have glibc keep this process's freed memory for later tensors; elsewhere nothing changes.

    It gives tensors above 32 MiB, such as those of a ResNet-18's first stage for 128 CIFAR images,
    back to the system at once, which then clears every page anew in each step.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt, trim_threshold, mmap_max = ctypes.CDLL(None).mallopt, -1, -4  # see malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


def find_device(name: str) -> torch.device:
    """A device by name, to compute on; "auto" takes an accelerator if there is one.

    On a CPU the process keeps its freed memory from then on (`keep_freed_memory`).

    Raises:
        ValueError: The device is not there.
    """
    if name == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    else:
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    if device.type == "cpu":
        keep_freed_memory()
    return device


def commit(folder: Path) -> str | None:
    """The commit of the code in `folder`, with "+changes" if files differ; None outside git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware(device: torch.device) -> str:
    """The processor or accelerator that a run computes on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"{name or platform.machine()}, {torch.get_num_threads()} threads"


def flop_per_second(device: torch.device) -> float:
    """Floating-point operations that training does on the device in a second, in float32.

    Measured in some tenths of a second on a block as ResNet-18's first ones: a 3x3 convolution of
    64 channels with its normalisation, forward and backward. On a CPU the networks of 10^9
    operations and more reach that; ResNet-8 and air32_64_128 take up to 1.8 times as long.
    """
    layer = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()).to(device)
    images = torch.randn(64, 64, 32, 32, device=device, requires_grad=True)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        layer(images).sum().backward()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 3 * 2 * 64 * 64 * 9 * 64 * 32 * 32 / min(seconds[1:])


def bfloat16() -> str:
    """The processor's instructions for bfloat16, and so whether `--bf16` pays, in words."""
    try:
        found = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # an earlier torch, or a system that does not tell
        return "Whether this CPU has bfloat16 instructions is not known: measure --bf16 first."
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "bf16": "Arm's"}
    units = [name for key, name in names.items() if found.get(key)]
    if not units:
        return "This CPU has no bfloat16 instructions: --channels-last may pay, --bf16 does not."
    return f"This CPU has bfloat16 instructions ({', '.join(units)}): --bf16 --channels-last pay."


def versions() -> dict[str, str]:
    """Python's and the main packages' versions."""
    found = {"python": platform.python_version()}
    for name in ("keepaugment", "torch", "torchvision", "timm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
