"""A pretrained network on photographs of one's own, some thousand of them.

Rate, momentum and weight decay are those that ResNets are usually fine-tuned with (Li et al., ICLR
2020, arXiv:2002.11770, section 1). Epochs, batch, cosine and the new classifier's tenfold rate are
ours, not tuned. Cutout hides a quarter of an image, as it does on CIFAR.
"""

from __future__ import annotations

from dataclasses import replace

from classification.config import Config
from classification.importance import Teacher
from classification.methods import Cutout, KeepCut

PLAIN = Config(
    dataset="images", data="data/photographs", arch="resnet18.a1_in1k", weights="timm",
    classifier_lr=10.0, epochs=30, batch_size=64, lr=0.01, weight_decay=1e-4,
)  # fmt: skip
CUTOUT = replace(PLAIN, cut=Cutout(size=PLAIN.image_size // 2))  # timm's size of the network

FINETUNING = {
    "finetune": PLAIN,
    "finetune-cutout": CUTOUT,
    "finetune-keep_cutout_teacher": replace(CUTOUT, keep=KeepCut(map=Teacher())),
}
