"""Advice for one's own training loop and model."""

from __future__ import annotations

from classification.auto_map import Choice
from diagnosing.subject import Subject
from keepaugment.early_stage import Stage

FAILED = """
CHECKS FAILED, see above. A map runs the model as in evaluation; only the outermost module keeps its
training flag, since some models give no logits without it. What changes then, the model changes in
evaluation, too, or by that flag. Let it do so in training alone:

    from keepaugment import computing_map

    if self.training and not computing_map():
        ..."""


def _head(stage: Stage, classes: int) -> str:
    features = f", num_features={stage.num_features}" if stage.num_features else ""
    return f'head = EarlyHead(model, "{stage.name}", num_classes={classes}{features})'


def training_loop(
    subject: Subject, stage: Stage | None, classes: int, box: int, *, half: bool
) -> str:
    """Code for a loop with one kind of map.

    It expects `model`, `loader` and `criterion`.

    Args:
        subject: the model.
        stage: of the early head that gives the map, or None.
        classes: K.
        box: length of Cutout's box, in pixels.
        half: take the map of images of half the size.
    """
    names = ["EarlyHead"] if stage else []
    picked = subject.output != ""
    explained = "logits" if picked else "model"
    parts = [explained, *(["scale=0.5"] if half else []), *(["head=head"] if stage else [])]
    learned = "[*model.parameters(), *head.parameters()]" if stage else "model.parameters()"
    auxiliary = " + head.loss(labels)" if stage else ""
    return "\n".join(
        [
            "import torch",
            f"from keepaugment import {', '.join([*names, 'GradientSaliency', 'KeepCutout'])}",
            "",
            *([f"def logits(images):\n    return {subject.code()}\n"] if picked else []),
            *([_head(stage, classes)] if stage else []),
            f"optimizer = torch.optim.SGD({learned}, lr=0.1)",
            f"saliency = GradientSaliency({', '.join(parts)})",
            f"keep = KeepCutout(saliency=saliency, size={box})",
            "for images, labels in loader:  # normalised, on the model's device",
            "    images = keep(images, labels)",
            f"    loss = criterion({explained}(images), labels){auxiliary}",
            "    optimizer.zero_grad()",
            "    loss.backward()",
            "    optimizer.step()",
        ]
    )


def remarks(choice: Choice, stage: Stage | None) -> list[str]:
    """Remarks beside the table."""
    lines = [
        f"Of these the cheapest that agrees to {choice.min_agreement} with full maps is "
        f"{choice.kind}; the "
        "code below takes it. Random weights agree otherwise than trained ones: give --weights "
        "and --images of your own."
    ]
    if any(row["map"] == "recycled" for row in choice.rows):
        lines.append(
            "Recycled maps, of four training steps here, cost next to nothing; they need the "
            "numbers of the images and their crops (keepaugment.RecycledSaliency)."
        )
    if choice.rows:
        lines.append(
            "A network that is trained already, or begins pretrained, can give its maps once for "
            "all images: then they are free in every step (keepaugment.TeacherSaliency)."
        )
    if stage:
        lines.append(
            "The early head above was never trained, so its rows are the least that it will do; "
            "in your loop it learns with the model."
        )
    return lines
