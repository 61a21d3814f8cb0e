"""An auxiliary classifier on an early stage of any model, for cheap saliency maps.

KeepAugment section 3.1, "early loss": global average pooling and a linear layer after an early
stage, trained beside the main loss with weight 0.3 (as in Inception, Szegedy et al., 2015).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from keepaugment.no_trace import computing_map, innermost, no_trace

_PROBE_SIZES = (64, 32, 224, 256, 128, 384, 448, 512)  # a ViT accepts only the one it was built for


def _in_backward() -> bool:
    """Whether a backward pass runs, in which checkpointing computes a stage once more."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class _StageReached(Exception):  # noqa: N818 - a signal, not an error
    """Carries a stage's output out of the model, whose remaining layers need not run."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """The module called `layer` in `model.named_modules()`.

    Raises:
        ValueError: There is none; the message names the model's own layers.
    """
    layers = dict(model.named_modules())
    if not layer or layer not in layers:
        names = list(dict(model.named_children()))
        near = difflib.get_close_matches(layer, layers, n=3)
        raise ValueError(
            f"no layer {layer!r} in {type(model).__name__}; it has {', '.join(names)}"
            + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    return layers[layer]


def grey_images(model: nn.Module) -> Iterator[Tensor]:
    """Images (1, C, S, S) of which a model takes one, unless its sizes are unusual."""
    parameters = list(model.parameters())
    if any(map(is_lazy, parameters)):
        raise ValueError("the model has lazy layers: run it once before you make its head")
    like = parameters[0] if parameters else torch.empty(0)
    stems = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    planes = [stem.in_channels for stem in stems]  # the first defined need not be the stem
    few = [number for number in planes if number < planes[0]]
    for number, side in itertools.product(dict.fromkeys([*planes[:1], *few, 3]), _PROBE_SIZES):
        yield like.new_zeros(1, number, side, side)


class EarlyHead(nn.Module):
    """Global average pooling and a linear layer on a stage of a model.

    The head is a module beside the model, not inside it: the model's state dict stays as it was.
    Give the optimiser both. A hook on the stage keeps the means of its first output in the latest
    training pass:

        head = EarlyHead(model, "layer1", num_classes=10)
        optimizer = SGD([*model.parameters(), *head.parameters()], lr=0.1)
        keep = KeepCutout(saliency=GradientSaliency(model, scale=0.5, head=head))
        for images, labels in loader:
            logits = model(keep(images, labels))
            loss = cross_entropy(logits, labels) + head.loss(labels)

    Make the head before the model is compiled; `head.compile()` then compiles the way to the stage,
    which is not that of the whole model. With DistributedDataParallel put model and head into
    one module, so that the gradients of both are averaged.

    Args:
        model: any network, convolutional or transformer.
        layer: the stage's name, as in `model.named_modules()`, for instance "layer1" or "blocks.2".
        num_classes: of the linear layer.
        weight: of the auxiliary loss.
        num_features: channels of the stage's output; None finds them out by running the model up to
            the stage on one grey image.

    Raises:
        ValueError: An unknown layer (with the names that exist), or a stage whose output is no
            tensor, whose channels are not found by the grey image, or are not `num_features`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        num_classes: int,
        *,
        weight: float = 0.3,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        model = innermost(model)
        stage = find_layer(model, layer)
        self.layer = layer
        self.weight = weight
        self.owner = (model,)  # in a tuple: not a submodule
        self.features: Tensor | None = None
        self.ran = False  # the stage, in the present pass
        self.stopping = False
        self.compiled: Callable[[Tensor], Tensor] | None = None
        self.hooks = (
            model.register_forward_pre_hook(self._on_pass),
            stage.register_forward_hook(self._on_stage),
        )
        try:
            num_features, self.channel_axis = self._probe(num_features)
        except ValueError:
            self.remove()
            raise
        like = next(model.parameters(), torch.empty(0))
        self.classifier = nn.Linear(num_features, num_classes, device=like.device, dtype=like.dtype)

    def _on_pass(self, model: nn.Module, args: tuple) -> None:
        if not computing_map():
            self.ran = False

    def _on_stage(self, stage: nn.Module, args: tuple, output: Tensor) -> None:
        if self.stopping:
            raise _StageReached(output)
        wanted = self.owner[0].training and torch.is_grad_enabled() and not computing_map()
        if wanted and not self.ran and not _in_backward():
            self.features, self.ran = self._pooled(output), True  # what follows may work in place

    def _run_to_stage(self, images: Tensor) -> Tensor | None:
        """The stage's output; the layers after it do not run. None if the stage does not run."""
        self.stopping = True
        try:
            self.owner[0](images)
        except _StageReached as reached:
            return reached.output
        finally:
            self.stopping = False
        return None

    def _checked(self, output: Tensor | None) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
            found = "nothing" if output is None else type(output).__name__
            raise ValueError(
                f"layer {self.layer!r} must give a tensor (B, C, h, w), (B, h, w, C), (B, N, C) or "
                f"(B, C), found {found}; choose another layer"
            )
        return output

    def _probe(self, num_features: int | None) -> tuple[int, int | None]:
        """Channels of the stage's output, and their axis among four if a grey image finds it."""
        first_error: Exception | None = None
        squares: list[int] = []  # sizes of outputs (1, C, C, C), whose axes another may tell apart
        for grey in grey_images(self.owner[0]):
            try:
                with no_trace(self.owner[0], grey.device), torch.no_grad():
                    output = self._run_to_stage(grey)
            except Exception as error:  # models refuse sizes and planes in many ways
                first_error = first_error or error
                continue
            shape = self._checked(output).shape
            if len(shape) == 4 and shape[1] == shape[2] == shape[3]:
                squares.append(shape[1])
                continue
            last = len(shape) == 3 or (len(shape) == 4 and shape[1] == shape[2])
            axis = -1 if last else 1
            return self._same(shape[axis], num_features), axis
        if squares:  # only transformers take images of a single size
            return self._same(squares[0], num_features), -1 if len(squares) == 1 else 1
        if num_features is None:
            raise ValueError(
                f"the channels of layer {self.layer!r} were not found ({first_error}); "
                "give num_features"
            ) from first_error
        return num_features, None

    def _same(self, found: int, num_features: int | None) -> int:
        if num_features not in (None, found):
            raise ValueError(
                f"layer {self.layer!r} gives {found} channels, not num_features={num_features}"
            )
        return found

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, K) from a stage's output: (B, C, h, w), (B, h, w, C), (B, N, C) or (B, C)."""
        return self.classifier(self._pooled(features))

    def _pooled(self, features: Tensor) -> Tensor:
        """The means of a stage's channels (B, C)."""
        channels = self.classifier.in_features
        axis = self.channel_axis or (1 if features.shape[1] == channels else -1)
        axis = (-1 if features.ndim == 3 else axis) % features.ndim
        if features.shape[axis] != channels:
            raise ValueError(
                f"layer {self.layer!r} gives {tuple(features.shape)}, not {channels} channels"
            )
        pooled = [other for other in range(1, features.ndim) if other != axis]
        return features.mean(pooled) if pooled else features.clone()

    def early_logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W), running the model only up to the stage."""
        return (self.compiled or self._early_logits)(images)

    def _early_logits(self, images: Tensor) -> Tensor:
        return self(self._checked(self._run_to_stage(images)))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile `early_logits`; arguments as of `torch.compile`."""
        self.compiled = torch.compile(self._early_logits, *args, **kwargs)

    def loss(
        self, targets: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    ) -> Tensor:
        """The weighted auxiliary loss of the model's latest training pass, to add to the main one.

        Args:
            targets: as `criterion` takes them, for instance labels (B,).
            criterion: (logits, targets) -> loss.
        """
        if self.features is None:
            raise ValueError(
                "no features yet: run the model in training mode and with gradients before "
                "head.loss; checkpointing around the stage needs use_reentrant=False"
            )
        logits, self.features, self.ran = self.classifier(self.features), None, False
        return self.weight * criterion(logits, targets)

    def __getstate__(self) -> dict[str, Any]:
        """All but the latest pass's features, for which a copy need not wait, and compiled code."""
        return {**vars(self), "features": None, "compiled": None}

    def remove(self) -> None:
        """Take the head off the model."""
        for hook in self.hooks:
            hook.remove()
        self.features = None
