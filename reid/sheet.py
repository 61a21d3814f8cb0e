"""A picture of ranked lists: some queries with the nearest ten of their galleries."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from keepbench.images import read_image

NEAREST = 10
_RIGHT, _WRONG = "#1a9850", "#d73027"


def draw_sheet(
    queries: list[Tensor], answers: list[list[Tensor]], right: Tensor, names: list[str]
) -> Figure:
    """A row per query: the query, then the nearest images, framed green if right and red if not.

    Right and wrong also stand above each image, for whom the colours look alike.

    Args:
        queries: Q images (3, H, W) uint8.
        answers: for each, its nearest images.
        right: (Q, at least as many) bool.
        names: captions of the queries.

    Returns:
        The figure; `savefig` writes it.
    """
    columns = 1 + max(len(row) for row in answers)
    size = (0.75 * columns, 1.65 * len(queries) + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(queries), columns, squeeze=False)
    for row, query in enumerate(queries):
        for column, axis in enumerate(axes[row]):
            axis.set(xticks=[], yticks=[])
            if column > len(answers[row]):
                axis.set_axis_off()
                continue
            image = answers[row][column - 1] if column else query
            axis.imshow(image.permute(1, 2, 0).numpy())
            title, colour = names[row], "black"
            if column:
                good = bool(right[row, column - 1])
                title, colour = ("right", _RIGHT) if good else ("wrong", _WRONG)
            axis.set_title(title, fontsize=6, color=colour)
            axis.spines[:].set(color=colour, linewidth=2.5)
    return figure


def ranked_sheet(
    query_files: list, gallery_files: list, order: Tensor, right: Tensor, names: list[str]
) -> Figure:
    """`draw_sheet` of files: queries, gallery, and the ranking of `reid.evaluation.nearest`."""
    rows = [[read_image(gallery_files[number]) for number in row] for row in order.tolist()]
    return draw_sheet([read_image(file) for file in query_files], rows, right.cpu(), names)


def spread(total: int, number: int) -> Tensor:
    """Up to `number` of `total` queries, evenly from all."""
    number = min(total, number)
    return torch.arange(number) * total // max(1, number)
