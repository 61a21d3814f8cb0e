"""Image classification with KeepAugment: the paper's Tables 1-5 and 8, Figures 2 and 3."""
