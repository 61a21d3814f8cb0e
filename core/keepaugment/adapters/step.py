"""The step that all adapters share, and its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Step = Callable[[Any, Any], Tensor | tuple[Tensor, Any]]
"""images (B, C, H, W), targets -> new images, or these and new targets.

Images may be two batches, the views of a data set with `TwoViews`, which the step makes one.
Targets are labels (B,), to which new ones are class weights (B, K), or what the step's map takes.
"""


def run_step(step: Step, images: Any, targets: Any) -> tuple[Tensor, Any]:
    """New images (B, C, H, W), and the step's new targets or else those that were there."""
    result = step(images, targets)
    return result if isinstance(result, tuple) else (result, targets)
