"""What all adapters share: the step, and what it gives."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]]
"""images (B, C, H, W), labels (B,) -> new images, or these and class weights (B, K)."""


def run_step(step: Step, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """New images (B, C, H, W), and class weights (B, K) or else the labels (B,) as they were."""
    result = step(images, labels)
    return result if isinstance(result, tuple) else (result, labels)
