"""KeepAugment: data augmentation that always keeps the important region of an image.

Gong, Wang, Li, Chandra and Liu, CVPR 2021, https://arxiv.org/abs/2011.11778.
"""

from keepaugment.attention import AttentionSaliency
from keepaugment.cached import CachedSaliency, box_agreement
from keepaugment.cutting import (
    CutMix,
    Cutout,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomErasing,
)
from keepaugment.draws import SampleDraws
from keepaugment.early_head import EarlyHead
from keepaugment.no_trace import computing_map
from keepaugment.policies import AugMix, AutoAugment, RandAugment, TrivialAugment
from keepaugment.recycled import RecycledSaliency
from keepaugment.regions import region_scores
from keepaugment.saliency import (
    CentreSaliency,
    GradientSaliency,
    InvertedSaliency,
    RandomSaliency,
    Saliency,
    ShuffledSaliency,
    saliency_map,
)
from keepaugment.selective import allowed_regions, selective_cut, selective_paste
from keepaugment.stored import ScaledView, View

__all__ = [
    "AttentionSaliency",
    "AugMix",
    "AutoAugment",
    "CachedSaliency",
    "CentreSaliency",
    "CutMix",
    "Cutout",
    "EarlyHead",
    "GradientSaliency",
    "InvertedSaliency",
    "KeepCutMix",
    "KeepCutout",
    "KeepPaste",
    "KeepRandomErasing",
    "RandAugment",
    "RandomErasing",
    "RandomSaliency",
    "RecycledSaliency",
    "SampleDraws",
    "Saliency",
    "ScaledView",
    "ShuffledSaliency",
    "TrivialAugment",
    "View",
    "allowed_regions",
    "box_agreement",
    "computing_map",
    "region_scores",
    "saliency_map",
    "selective_cut",
    "selective_paste",
]
