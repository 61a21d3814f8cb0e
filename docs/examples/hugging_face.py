"""The Trainer of Hugging Face's transformers: python hugging_face.py."""

import tempfile

import torch
import transformers
from example_data import digits
from torch.utils.data import Dataset
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from keepaugment import KeepCutout, adapters  # keep


class Digits(Dataset):
    def __init__(self) -> None:
        self.digits = digits(number=128)

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, label = self.digits[index]
        return {"pixel_values": image, "labels": label}


class Trainer(
    adapters.KeepTrainer,  # keep
    transformers.Trainer,
):
    pass


def main() -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=32, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            model,
            arguments,
            train_dataset=Digits(),
            step=KeepCutout(lambda images: model(images).logits, size=16),  # keep
        )
        result = trainer.train()
    print(f"loss {result.training_loss:.3f}")


if __name__ == "__main__":
    main()
