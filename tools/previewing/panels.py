"""Data of every image in a preview page: the picture, its map, its augmented copies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from keepaugment.no_trace import no_trace
from keeppolicies import AutoAugment, RandAugment
from previewing.images import Pictures, as_uri, packed_bits, packed_map
from previewing.networks import Network

MAGNITUDES = (6, 12, 18, 24)  # of Table 3
DRAWS = 3


def chosen_labels(network: Network, inputs: Tensor, label: int | None) -> tuple[Tensor, list[str]]:
    """The label that each map explains, (B,), and its name with the network's confidence."""
    with no_trace(network.logits, inputs.device), torch.no_grad():
        logits = network.logits(inputs)
    if label is not None and not 0 <= label < logits.shape[1]:
        raise ValueError(f"--label must be in [0, {logits.shape[1]}), found {label}")
    labels = logits.argmax(1) if label is None else torch.full_like(logits[:, 0], label).long()
    shares = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    pairs = zip(labels.tolist(), shares.tolist(), strict=True)
    classes = logits.shape[1]
    return labels, [f"{network.name(n, classes)}, {100 * share:.0f} %" for n, share in pairs]


def _policies(fill: list[int], small: bool, seed: int) -> dict[str, list[Any]]:
    """Policies by name, one for each magnitude; all draw the same operations."""

    def draws() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    policy = "cifar10" if small else "imagenet"
    return {
        "RandAugment": [RandAugment(2, m, fill=fill, generator=draws()) for m in MAGNITUDES],
        "AutoAugment": [AutoAugment(policy, fill=fill, generator=draws())],
    }


def _augmented(pixels: Tensor, fill: list[int], seed: int) -> list[dict[str, Any]]:
    """Augmented copies of images (B, 3, H, W) uint8, by image, policy, magnitude and draw.

    With each copy goes where it differs from the image, as the copy itself may be a lossy JPEG.
    """
    images: list[dict[str, Any]] = [{} for _ in pixels]
    for draw in range(DRAWS):
        policies = _policies(fill, max(pixels.shape[2:]) <= 64, seed + draw)
        for name, levels in policies.items():
            for level, policy in enumerate(levels):
                copies = policy(pixels)
                changed = (copies != pixels).any(1)
                for image, copy, mask in zip(images, copies, changed, strict=True):
                    steps = image.setdefault(name, [[] for _ in levels])
                    steps[level].append(
                        {"picture": as_uri(copy, lossless=False), "changed": packed_bits(mask)}
                    )
    return images


def _colours() -> list[list[int]]:
    """Matplotlib's inferno in 33 steps."""
    from matplotlib import colormaps

    return [[round(255 * part) for part in colormaps["inferno"](n / 32)[:3]] for n in range(33)]


def default_length(side: int) -> int:
    """A cut of the usual share: 16 of 32 pixels; on photographs less, as the paper's 40 of 224."""
    return side // 2 if side <= 64 else round(side * 3 / 8)


def preview_data(
    network: Network,
    pictures: Pictures,
    *,
    label: int | None,
    tau: float,
    length: int | None,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """All that the page computes with: plain numbers and text.

    Args:
        network: whose maps are shown.
        pictures: the images.
        label: that the maps explain; None is each image's largest logit.
        tau: where its slider stands first.
        length: of the box, likewise; None takes a usual one.
        seed: of the policies.
        device: to compute on.
    """
    side = pictures.pixels.shape[-1]
    inputs = network.inputs(pictures.pixels.to(device))
    labels, explained = chosen_labels(network, inputs, label)
    maps = network.saliency(inputs, labels)
    mean, std = (list(v) * (3 // len(v)) for v in (network.mean, network.std))
    fill = [round(255 * value) for value in mean]
    images = [
        {
            "name": name,
            "explained": text,
            "picture": as_uri(pixels),
            "map": packed_map(saliency),
            "copies": copies,
        }
        for name, text, pixels, saliency, copies in zip(
            pictures.names,
            explained,
            pictures.pixels,
            maps,
            _augmented(pictures.pixels, fill, seed),
            strict=True,
        )
    ]
    return {
        "side": side,
        "tau": tau,
        "length": default_length(side) if length is None else length,
        "magnitudes": list(MAGNITUDES),
        "draws": DRAWS,
        "fill": fill,
        "std": [255 * value for value in std],
        "colours": _colours(),
        "images": images,
    }
