"""Named experiments: Table 11 with the controls that it lacks, and small runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from detection.config import Config
from keepbench.settings import Experiment

COCO = Config()
PUBLISHED = (
    ("faster_rcnn_c4", 50, 0.0, "38.4", "39.5"),
    ("faster_rcnn_fpn", 50, 0.0, "40.2", "40.7"),
    ("retinanet", 50, 0.1, "37.9", "39.1?"),
    ("retinanet", 50, 0.0, "38.7*", "39.1?"),
    ("faster_rcnn_c4", 101, 0.0, "41.1", "42.2"),
    ("faster_rcnn_fpn", 101, 0.0, "42.0", "42.9"),
    ("retinanet", 101, 0.1, "39.9", "41.2?"),
    ("retinanet", 101, 0.0, "40.4*", "41.2?"),
)
"""Table 11 in box AP: detector, depth, smooth_l1_beta, Detectron2, KeepCutMix; see `NOTES`."""
NOTES = """\
Table 11 gives box AP on val2017. Its Detectron2 column is the model zoo's 3x baselines, which
start from MSRA's weights, not from "PyTorch provided models" as section 4.5 says; the figures stand
here beside the torchvision arms. RetinaNet's 37.9 and 39.9 are those before 18 May 2020, with
smooth_l1_beta 0.1; with 0.0, today's, the zoo has 38.7 and 40.4, marked "*", which the paper has
not. Which one KeepCutMix's 39.1 and 41.2 were trained with is not known, so they are marked "?" in
both arms. The paper has no CutMix backbone, and so cannot tell KeepAugment's part of the gain from
CutMix's. Backbones: torchvision's V1 weights, our CutMix run and our KeepCutMix run, exported.
"""

Table = dict[str, Experiment]


def _table11() -> Table:
    rows: Table = {}
    for detector, depth, beta, zoo, ours in PUBLISHED:
        base = replace(COCO, detector=detector, depth=depth, smooth_l1_beta=beta)
        end = f"-beta{beta}" if detector == "retinanet" else ""
        for arm, figure in {"torchvision": zoo, "cutmix": "", "keepcutmix": ours}.items():
            config = replace(base, backbone=f"backbones/R{depth}_{arm}.pkl")
            rows[f"coco-{detector}-r{depth}-{arm}{end}"] = Experiment(config, "11", figure, 1)
    return rows


def _controls() -> Table:
    """No pre-training at all: what is left of the gain when a backbone is random."""
    config = replace(COCO, backbone="none")
    return {"coco-faster_rcnn_fpn-r50-random": Experiment(config, "control")}


SMALL = replace(COCO, backbone="none", depth=18, min_size=128, max_size=512, workers=2)


def _small() -> Table:
    """Runs for two CPU cores.

    The over-fitting one learns four images by heart. The others ask what a backbone is worth, with
    backbones of classification runs that a CPU can make, too.
    """
    toy = replace(SMALL, dataset="toy", data="", batch_size=4, iterations=300, tests=3)
    overfit = replace(
        SMALL, data="data/coco_small", subset=4, seed=41, test_on_train=True, flip=False,
        batch_size=2, iterations=320, lr=0.02, tests=4,
        extra="MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 64",  # a third of the time
    )  # fmt: skip
    few = replace(
        SMALL, data="data/coco_small", batch_size=4, iterations=400, tests=2,
        extra="MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 64",
    )  # fmt: skip
    arms = {"random": "none"}
    arms |= {name: f"backbones/R18_{name}.pkl" for name in ("cutmix", "keepcutmix")}
    return {
        **{
            f"coco_small-faster_rcnn_fpn-r18-{arm}": Experiment(
                replace(few, backbone=backbone), "small", "", 3
            )
            for arm, backbone in arms.items()
        },
        "toy-faster_rcnn_fpn-r18-random": Experiment(toy),
        "toy-retinanet-r18-random": Experiment(replace(toy, detector="retinanet")),
        "overfit-faster_rcnn_fpn-r18-random": Experiment(overfit),
    }


EXPERIMENTS: Table = {**_small(), **_controls(), **_table11()}
"""Six detectors with three backbones, RetinaNet with both losses, the controls, and small runs.

`python tools/run_detection.py --list` prints them with the paper's figures.
"""


def _smoke(config: Config) -> Config:
    """A few steps on a few small images, the whole way.

    On two CPU cores some ten seconds; a C4 detector, whose last stage sees every region, minutes.
    """
    return replace(
        config,
        iterations=4,
        batch_size=2,
        subset=4,
        test_subset=2,
        min_size=96,
        max_size=128,
        tests=2,
        pictures=2,
        workers=0,
    )


def _short(config: Config) -> Config:
    """A tenth of the schedule, which is a third of Detectron2's 1x."""
    return replace(config, schedule=config.schedule / 10, iterations=config.iterations // 10)


BUDGETS: dict[str, Callable[[Config], Config]] = {
    "smoke": _smoke,
    "short": _short,
    "paper": lambda config: config,
}
