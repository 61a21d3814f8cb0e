"""KeepAugment: data augmentation that always keeps the important region of an image.

Gong, Wang, Li, Chandra and Liu, CVPR 2021, https://arxiv.org/abs/2011.11778.
"""

from keepaugment.attention import AttentionSaliency
from keepaugment.cached import CachedSaliency, box_agreement
from keepaugment.cutmix import CutMix, KeepCutMix
from keepaugment.cutting import (
    Cutout,
    Keep,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomErasing,
)
from keepaugment.draws import SampleDraws
from keepaugment.early_head import EarlyHead
from keepaugment.early_stage import early_stage
from keepaugment.no_trace import computing_map
from keepaugment.recycled import RecycledSaliency
from keepaugment.regions import Spare, region_scores
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
from keepaugment.sources import BoxSaliency, KeypointSaliency, MaskSaliency, SavedSaliency
from keepaugment.stored import ScaledView, TeacherSaliency, View

__all__ = [
    "AttentionSaliency",
    "BoxSaliency",
    "CachedSaliency",
    "CentreSaliency",
    "CutMix",
    "Cutout",
    "EarlyHead",
    "GradientSaliency",
    "InvertedSaliency",
    "Keep",
    "KeepCutMix",
    "KeepCutout",
    "KeepPaste",
    "KeepRandomErasing",
    "KeypointSaliency",
    "MaskSaliency",
    "RandomErasing",
    "RandomSaliency",
    "RecycledSaliency",
    "SampleDraws",
    "Saliency",
    "SavedSaliency",
    "ScaledView",
    "ShuffledSaliency",
    "Spare",
    "TeacherSaliency",
    "View",
    "allowed_regions",
    "box_agreement",
    "computing_map",
    "early_stage",
    "region_scores",
    "saliency_map",
    "selective_cut",
    "selective_paste",
]
