"""The methods that KeepAugment is compared with in its Tables 4 and 5.

GridMask, mixup, manifold mixup and Attentive CutMix change a batch of normalised images on its own
device, as the classes of `keepaugment.cutting` do; DropBlock, dropout and stochastic depth change
the model. Cutout, Random Erasing and CutMix are in `keepaugment`, AutoAugment and AugMix in
`keeppolicies.policies`.
"""

from classification.comparisons.attentive_cutmix import AttentiveCutMix, attention_of
from classification.comparisons.drop_block import add_dropblock, set_drop_block
from classification.comparisons.grid_mask import GridMask
from classification.comparisons.manifold_mixup import ManifoldMixup
from classification.comparisons.mixup import Mixup
from classification.comparisons.regularisers import check_regularised, regularisers

__all__ = [
    "AttentiveCutMix",
    "GridMask",
    "ManifoldMixup",
    "Mixup",
    "add_dropblock",
    "attention_of",
    "check_regularised",
    "regularisers",
    "set_drop_block",
]
