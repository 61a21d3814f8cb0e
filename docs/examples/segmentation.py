"""Segmentation, with the gradient of the network's own loss as importance: python segmentation.py.

What is cut is not asked for: its pixels become 255, which the loss ignores.
"""

import torch
import torch.nn.functional as F
from example_data import shapes
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from keepaugment import GradientSaliency, KeepCutout  # keep


def per_image_loss(outputs: dict[str, Tensor], masks: Tensor) -> Tensor:
    """Cross-entropy (B,) of outputs with masks (B, H, W) of classes."""
    return F.cross_entropy(outputs["out"], masks, reduction="none").mean((1, 2))


def main() -> None:
    torch.manual_seed(0)
    images = torch.stack([image for image, _, _ in shapes()]).float() / 255
    masks = (images[:, 0] == 1) + 2 * (images[:, 1] == 1)  # 0 is the background
    loader = DataLoader(TensorDataset(images, masks), batch_size=8, shuffle=True)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    keep = KeepCutout(saliency=GradientSaliency(model, objective=per_image_loss))  # keep
    for images, masks in loader:
        images = keep(images, masks)  # keep
        loss = F.cross_entropy(model(images)["out"], masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
