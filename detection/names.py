"""Which weights a residual network has, under torchvision's names and under Detectron2's.

torchvision and timm name the layers of ResNet-18 to 152 (He et al., arXiv:1512.03385) alike.
Detectron2 calls its stages `res2` to `res5`, and a normalisation layer by the convolution before
it. Nothing here needs Detectron2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Residual blocks in each of the four stages, by depth; basic ones below 50, then bottlenecks."""
HEADS = ("fc.", "head.", "early_head.")
"""How the names of classifiers begin; no detector has them."""
_COUNTERS = ("num_batches_tracked", "n_averaged")
_VARIANTS = {
    r"(^|\.)conv1\.\d": "a stem of several convolutions (resnet50c, d, s, t)",
    r"downsample\.\d\.(0|1)\.|downsample\.2\.": "average pooling in its shortcuts (resnet50d)",
    r"\.se\.": "squeeze-and-excitation (seresnet)",
}

Shape = tuple[int, ...]


def is_left_out(name: str) -> bool:
    """Whether a weight belongs to a classifier or only counts, so that no detector needs it."""
    return name.startswith(HEADS) or name.endswith(_COUNTERS)


def to_detectron2(name: str) -> str:
    """Detectron2's name of a weight: `layer1.0.bn2.bias` becomes `res2.0.conv2.norm.bias`."""
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    stage = re.match(r"layer(\d)\.", name)
    return f"res{int(stage[1]) + 1}.{name[stage.end() :]}" if stage else f"stem.{name}"


def _convolution(name: str, channels: int, inputs: int, kernel: int) -> dict[str, Shape]:
    """The shapes of a convolution and of the normalisation after it."""
    norm = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.weight": (channels, inputs, kernel, kernel)} | {
        f"{name}.norm.{part}": (channels,) for part in norm
    }


def backbone_shapes(depth: int) -> dict[str, Shape]:
    """The weights that Detectron2's ResNet of a depth holds, by name, with their shapes."""
    check_depth(depth)
    bottleneck = depth >= 50
    shapes = _convolution("stem.conv1", 64, 3, 7)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS[depth]):
        width = 64 * 2**stage
        outputs = 4 * width if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        for block in range(blocks):
            name, taken = f"res{stage + 2}.{block}", inputs
            for number, kernel in enumerate(kernels, 1):
                given = outputs if number == len(kernels) else width
                shapes |= _convolution(f"{name}.conv{number}", given, taken, kernel)
                taken = given
            if inputs != outputs:
                shapes |= _convolution(f"{name}.shortcut", outputs, inputs, 1)
            inputs = outputs
    return shapes


def check_depth(depth: int) -> None:
    """Raise ValueError unless Detectron2 has a ResNet of this depth."""
    if depth not in BLOCKS:
        raise ValueError(f"Detectron2 has ResNets of depth {', '.join(map(str, BLOCKS))}; {depth}?")


def depth_of(names: list[str]) -> int:
    """The depth of the residual network with weights of these names, torchvision's.

    Raises:
        ValueError: It is none of `BLOCKS`; the message tells a variant by its weights.
    """
    for pattern, variant in _VARIANTS.items():
        found = next((name for name in names if re.search(pattern, name)), "")
        if found:
            raise ValueError(f"{found} tells of {variant}, which Detectron2's ResNet does not have")
    blocks = tuple(
        len({name.split(".")[1] for name in names if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    bottleneck = any(name.endswith(".conv3.weight") for name in names)
    for depth, known in BLOCKS.items():
        if blocks == known and bottleneck == (depth >= 50):
            return depth
    kind = "bottleneck" if bottleneck else "basic"
    raise ValueError(
        f"{blocks} {kind} blocks in layer1 to layer4 are no ResNet-18, 34, 50, 101 or 152; "
        f"the first weights are {names[:4]}"
    )


def check_shapes(weights: Mapping[str, Shape], depth: int) -> None:
    """Raise ValueError unless these are the weights, by Detectron2's names, of a ResNet's depth."""
    needed = backbone_shapes(depth)
    problems = {
        "missing": sorted(needed.keys() - weights.keys()),
        "unmatched": sorted(weights.keys() - needed.keys()),
        "of another shape": [
            f"{name} {weights[name]} instead of {shape}"
            for name, shape in needed.items()
            if name in weights and weights[name] != shape
        ],
    }
    found = [
        f"{len(names)} {problem}: {', '.join(names[:6])}{', ...' * (len(names) > 6)}"
        for problem, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(f"these are not the weights of a plain ResNet-{depth}: {'; '.join(found)}")


def convert(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The backbone's weights under Detectron2's names, without classifiers and counters.

    Args:
        weights: by torchvision's names.
        depth: the network's.

    Raises:
        ValueError: A weight is missing, not matched or of another shape; all are named.
    """
    renamed = {to_detectron2(n): value for n, value in weights.items() if not is_left_out(n)}
    check_shapes({name: tuple(value.shape) for name, value in renamed.items()}, depth)
    return renamed
