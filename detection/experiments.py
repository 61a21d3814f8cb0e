"""Named experiments: Table 11 with the controls that it lacks, and small runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from detection.config import Config
from keepbench.experiments import Experiment
from keepbench.paper import figure_of

COCO = Config()
DETECTORS = (
    ("faster_rcnn_c4", 0.0),
    ("faster_rcnn_fpn", 0.0),
    ("retinanet", 0.1),
    ("retinanet", 0.0),
)
"""Those of Table 11 with their smooth_l1_beta, of depth 50 and 101; see `NOTES`."""
ZOO = {50: "38.7*", 101: "40.4*"}
"""Today's box AP of RetinaNet in the model zoo, by depth."""
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


def _figure(detector: str, depth: int, beta: float, arm: str) -> str:
    """Table 11's figure for a cell, or nearly: see `NOTES`."""
    if detector != "retinanet":
        return figure_of(f"coco-{detector}-r{depth}-{arm}")
    if arm == "torchvision" and not beta:
        return ZOO[depth]
    figure = figure_of(f"coco-retinanet-r{depth}-{arm}-beta0.1")
    return f"{figure}?" if arm == "keepcutmix" else figure


def _table11() -> Table:
    rows: Table = {}
    for depth in (50, 101):
        for detector, beta in DETECTORS:
            base = replace(COCO, detector=detector, depth=depth, smooth_l1_beta=beta)
            end = f"-beta{beta}" if detector == "retinanet" else ""
            for arm in ("torchvision", "cutmix", "keepcutmix"):
                config = replace(base, backbone=f"backbones/R{depth}_{arm}.pkl")
                figure = _figure(detector, depth, beta, arm)
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
