"""The average precision of each test image, by what COCO's evaluation has matched."""

from __future__ import annotations

from contextlib import redirect_stdout
from copy import copy
from io import StringIO
from typing import Any

import torch
from torch import Tensor


def image_precisions(found: Any) -> Tensor:
    """COCO's AP of each image as if it were the whole test set: (N,) in [0, 1], by its number.

    The mean over the thresholds of IoU, 0.50:0.95, and over the classes that the image has objects
    of; images without objects are left out. Nothing is matched anew.

    Args:
        found: pycocotools' COCOeval after its `evaluate`; left as it is.
    """
    images, areas = found.params.imgIds, len(found.params.areaRng)
    alone, params = copy(found), copy(found.params)
    params.areaRng, params.maxDets = params.areaRng[:1], params.maxDets[-1:]  # any size, 100 boxes
    alone.params = alone._paramsEval = params
    values = []
    for place, image in enumerate(images):
        classes = found.evalImgs[place :: areas * len(images)]  # of any size
        alone.evalImgs = [each for each in classes if each and not all(each["gtIgnore"])]
        if alone.evalImgs:
            params.imgIds = [image]
            params.catIds = [each["category_id"] for each in alone.evalImgs]
            with redirect_stdout(StringIO()):
                alone.accumulate()
            values.append(alone.eval["precision"].mean())
    return torch.tensor(values, dtype=torch.float64)
