"""What a Keep method does, as a picture: image, map, allowed boxes, cuts."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

COLUMNS = ("image", "importance", "Cutout", "centres Keep allows", "KeepCutout")


def draw_cuts(
    images: Tensor,
    saliency: Tensor,
    allowed: Tensor,
    cut: tuple[Tensor, Tensor],
    names: Sequence[str],
) -> Figure:
    """One row per image: the plain method and its Keep arm side by side.

    Args:
        images: (B, C, H, W) uint8, as people see them.
        saliency: (B, H, W).
        allowed: (B, H, W) bool, true at the centres of boxes that the Keep method may cut; the
            plain one may cut at any.
        cut: for the plain and the Keep method, (B, C, H, W) uint8, the images after a cut.
        names: of the images' classes.

    Returns:
        The figure; `savefig` writes it.
    """
    rows = len(images)
    figure = Figure(figsize=(1.6 * len(COLUMNS), 1.6 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, len(COLUMNS), squeeze=False)
    for row in range(rows):
        picture = _as_picture(images[row])
        panels = (
            (picture, None),
            (saliency[row], None),
            (_as_picture(cut[0][row]), None),
            (picture, allowed[row]),
            (_as_picture(cut[1][row]), None),
        )
        for axis, title, (panel, centres) in zip(axes[row], COLUMNS, panels, strict=True):
            grey = "gray" if panel.ndim == 2 else None
            axis.imshow(panel, cmap="inferno" if title == "importance" else grey)
            if centres is not None:
                shade = centres.float().numpy()
                axis.imshow(shade, cmap="RdYlGn", vmin=0, vmax=1, alpha=0.45)
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(title, fontsize=8)
        axes[row][0].set_ylabel(names[row], fontsize=8)
    return figure


def _as_picture(image: Tensor) -> Tensor:
    """(C, H, W) to what Matplotlib draws: (H, W) or (H, W, 3)."""
    return image[0] if len(image) == 1 else image.permute(1, 2, 0)
