"""A YOLO of Ultralytics (AGPL-3.0), whose boxes are importance: python ultralytics_yolo.py."""

import tempfile
from pathlib import Path

import torch
from example_data import shapes
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import to_pil_image
from ultralytics.models.yolo.detect import DetectionTrainer

from keepaugment import BoxSaliency, KeepRandomErasing  # keep


def write_shapes(folder: Path) -> Path:
    """A data set in YOLO's layout, and the file that names it."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index, (image, boxes, classes) in enumerate(shapes(size=64)):
        to_pil_image(image).save(folder / "images" / f"{index}.png")
        rows = box_convert(boxes / 64, "xyxy", "cxcywh").tolist()
        lines = [
            f"{kind - 1} {' '.join(map(str, row))}" for kind, row in zip(classes, rows, strict=True)
        ]
        (folder / "labels" / f"{index}.txt").write_text("\n".join(lines))
    path = folder / "shapes.yaml"
    path.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [square, disc]\n")
    return path


def boxes_of(batch: dict) -> list[torch.Tensor]:
    """The boxes of each image of a batch, (N, 4) xyxy in pixels."""
    height, width = batch["img"].shape[2:]
    sides = batch["bboxes"].new_tensor([width, height, width, height])
    boxes = box_convert(batch["bboxes"] * sides, "cxcywh", "xyxy")
    return [boxes[batch["batch_idx"] == index] for index in range(len(batch["img"]))]


class Trainer(DetectionTrainer):
    keep = KeepRandomErasing(saliency=BoxSaliency())  # keep

    def preprocess_batch(self, batch: dict) -> dict:
        batch = super().preprocess_batch(batch)
        batch["img"] = self.keep(batch["img"], boxes_of(batch))  # keep
        return batch


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = {"imgsz": 64, "batch": 8, "epochs": 1, "mosaic": 0.0, "project": folder}
        options |= {"workers": 0, "device": "cpu", "val": False, "plots": False}
        data = str(write_shapes(Path(folder)))
        trainer = Trainer(overrides={"model": "yolo11n.yaml", "data": data, **options})
        trainer.train()
    print(f"loss {float(trainer.loss):.3f}")


if __name__ == "__main__":
    main()
