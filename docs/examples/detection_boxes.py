"""A detector of torchvision, with boxes as importance: python detection_boxes.py.

No box loses more than 30 % of its pixels. The line goes into a data set's v2 transforms as here,
for instance in references/detection/presets.py, where workers may run it: it needs no model.
"""

import torch
from example_data import shapes
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from keepaugment import BoxSaliency, KeepRandomErasing, adapters  # keep

KEEP = KeepRandomErasing(saliency=BoxSaliency())  # keep
TRANSFORMS = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        adapters.Erasing(KEEP, min_visible=0.7, protect=True),  # keep
        v2.SanitizeBoundingBoxes(),
    ]
)


class Shapes(Dataset):
    def __init__(self) -> None:
        self.shapes = shapes()

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image, boxes, classes = self.shapes[index]
        wrapped = BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[1:])
        return TRANSFORMS(image, {"boxes": wrapped, "labels": classes})


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(
        Shapes(), batch_size=8, shuffle=True, collate_fn=lambda b: tuple(zip(*b, strict=True))
    )
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    for images, targets in loader:
        losses = model(images, targets)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
