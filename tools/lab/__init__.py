"""The preview lab: KeepAugment on one's own images, a training image as it was, affinity."""
