"""AutoAugment, RandAugment, TrivialAugment and AugMix on a batch of uint8 images.

What KeepAutoAugment and KeepRandAugment paste on: `keepaugment.KeepPaste` takes any augmented
batch. Here an image has operations of its own, on the batch's device and without a loop.
"""

from keeppolicies.policies import AugMix, AutoAugment, RandAugment, TrivialAugment

__all__ = ["AugMix", "AutoAugment", "RandAugment", "TrivialAugment"]
