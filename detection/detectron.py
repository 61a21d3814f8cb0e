"""The one door to Detectron2, which is optional and warns while it is imported."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detection.names import check_depth

DETECTORS = {
    "faster_rcnn_c4": "faster_rcnn_R_{}_C4_3x",
    "faster_rcnn_fpn": "faster_rcnn_R_{}_FPN_3x",
    "retinanet": "retinanet_R_{}_FPN_3x",
}
"""By name, the files of Detectron2's model zoo with their 3x schedules; {} is the depth."""
INSTALL = (
    "pip install 'setuptools<81' wheel ninja && pip install --no-build-isolation "
    "git+https://github.com/facebookresearch/detectron2.git"
)


def is_installed() -> bool:
    """Whether Detectron2 is there."""
    return importlib.util.find_spec("detectron2") is not None


@contextmanager
def its_warnings() -> Iterator[None]:
    """Within, what Detectron2 does that torch and setuptools call outdated stays unsaid.

    So does its list of the heads' weights, which no backbone has: `verify.check_loaded` compares
    what was loaded value by value.
    """
    logger = logging.getLogger("fvcore.common.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            old = ("pkg_resources", "torch.jit.script", "torch.meshgrid", "The 'warn' method")
            for message in (f".*{name}" for name in old):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)


def require() -> None:
    """Import Detectron2's parts once, quietly.

    Raises:
        ValueError: It is not installed; the message has the command.
    """
    if not is_installed():
        raise ValueError(f"Detectron2 is not installed: {INSTALL}")
    with its_warnings():
        import detectron2.checkpoint
        import detectron2.engine
        import detectron2.evaluation
        import detectron2.model_zoo
        import detectron2.modeling  # noqa: F401


def zoo_config(detector: str, depth: int) -> Any:
    """A detector of the model zoo with a backbone of a depth, freshly made: a CfgNode.

    The zoo has depths 50 and 101; others take the file of 50. Its weights are left out.

    Raises:
        ValueError: No such detector, or a C4 one with basic blocks: its head is a bottleneck stage.
    """
    require()
    from detectron2.config import get_cfg
    from detectron2.model_zoo import get_config_file

    if detector not in DETECTORS:
        raise ValueError(f"no detector {detector!r}; there are {', '.join(DETECTORS)}")
    check_depth(depth)
    if detector == "faster_rcnn_c4" and depth < 50:
        raise ValueError(
            f"Detectron2's C4 head is a stage of bottleneck blocks, which ResNet-{depth} has not; "
            "take faster_rcnn_fpn or a depth of 50, 101 or 152"
        )
    name = DETECTORS[detector].format(depth if depth in (50, 101) else 50)
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(f"COCO-Detection/{name}.yaml"))
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.WEIGHTS = ""
    return cfg


def backbone_places(names: list[str]) -> dict[str, str]:
    """Where a detector keeps its ResNet: the model's names of weights, by the backbone's own.

    Args:
        names: keys of the detector's state dict.
    """
    prefixes = ("backbone.bottom_up.", "backbone.", "roi_heads.")
    stages = ("stem.", "res2.", "res3.", "res4.", "res5.")
    places = {}
    for name in names:
        for prefix in prefixes:
            own = name.removeprefix(prefix)
            if name.startswith(prefix) and own.startswith(stages):
                places[own] = name
    return places
