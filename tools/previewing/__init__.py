"""KeepAugment on one's own images, and the affinity of augmentations: `tools/preview.py`."""
