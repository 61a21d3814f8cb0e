"""How long a detector trains and how fast: one rule for every batch size and dataset.

Detectron2's schedules are written for 16 images a step and COCO train2017. Here a schedule is a
number of passes over the data, which is the same for any data, and the learning rate follows the
batch size in proportion (Goyal et al., arXiv:1706.02677).
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 16
COCO_IMAGES = 117_266
"""Images of train2017 with boxes to learn from: Detectron2 leaves out the other 1,021."""
STEPS_1X = 90_000
DROPS = (210 / 270, 250 / 270)
"""Where the learning rate falls to a tenth: shares of a 3x schedule."""
WARMUP = 1000


@dataclass(frozen=True)
class Schedule:
    """Steps of a run and its learning rate.

    Attributes:
        iterations: steps.
        drops: the steps from which the learning rate is a tenth of what it was.
        warmup: steps in which it rises to its peak.
        lr: at the peak.
    """

    iterations: int
    drops: tuple[int, ...]
    warmup: int
    lr: float


def make_schedule(
    *,
    images: int,
    batch_size: int,
    zoo_lr: float,
    schedule: float = 3.0,
    iterations: int = 0,
    lr: float = 0.0,
) -> Schedule:
    """The rule.

        steps = 90,000 x schedule x (images / 117,266) x (16 / batch), unless they are given
        drops at 210/270 and 250/270 of the steps
        warm-up = 1000 x (16 / batch) steps, and no more than a tenth of all
        lr = the zoo's x (batch / 16), unless it is given

    On COCO in batches of 16 this is the zoo's own 3x schedule: 270,000 steps, drops at 210,000 and
    250,000, a warm-up of 1000.

    Args:
        images: with boxes, in the training set.
        batch_size: images in a step, over all processes.
        zoo_lr: the model zoo's rate, for batches of 16.
        schedule: 3.0 is the zoo's "3x".
        iterations: in place of the rule's; 0 is the rule's.
        lr: in place of the rule's; 0 is the rule's.

    Raises:
        ValueError: There are no images.
    """
    if images < 1:
        raise ValueError("no training image has a box")
    passes = STEPS_1X * schedule * BATCH / COCO_IMAGES
    steps = iterations or max(1, round(passes * images / batch_size))
    drops = sorted({round(share * steps) for share in DROPS} - {0, steps})
    return Schedule(
        iterations=steps,
        drops=tuple(drops),
        warmup=min(round(WARMUP * BATCH / batch_size), steps // 10),
        lr=lr or zoo_lr * batch_size / BATCH,
    )
