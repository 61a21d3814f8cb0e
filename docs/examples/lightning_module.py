"""A module of Lightning: python lightning_module.py.

`keepaugment.adapters.KeepCallback` does the same from outside a module.
"""

import lightning
import torch
import torch.nn.functional as F
from example_data import digits
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models import resnet18

from keepaugment import KeepCutout  # keep


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = resnet18(num_classes=10)
        self.keep = KeepCutout(self.model, size=16)  # keep

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        images = self.keep(images, labels)  # keep
        loss = F.cross_entropy(self.model(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(digits(), batch_size=64, shuffle=True))
    print(f"loss {trainer.callback_metrics['loss']:.3f}")


if __name__ == "__main__":
    main()
