"""For torchreid's engines (https://github.com/KaiyangZhou/deep-person-reid)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from keepaugment.adapters.step import Step, run_step


class KeepEngine:
    """A step in any of torchreid's image engines, to be put before it.

        class Engine(KeepEngine, torchreid.engine.ImageTripletEngine):
            pass

        keep = KeepRandomErasing(lambda images: model(images)[0])
        engine = Engine(datamanager, model, optimizer, scheduler=scheduler, step=keep)
        engine.run(max_epoch=60, eval_freq=10)

    Leave torchreid's own "random_erase" out of the data manager's transforms. A model for
    `loss="triplet"` returns (logits, features) while it trains, so the map is given the first; for
    `loss="softmax"` the model itself will do: `KeepRandomErasing(model)`. An early head's loss
    belongs into a `compute_loss` of the class.

    Args:
        *args: the engine's.
        step: such as `KeepRandomErasing(model)`; the labels that it gets are the persons.
        **options: the engine's.
    """

    def __init__(self, *args: Any, step: Step, **options: Any) -> None:
        super().__init__(*args, **options)
        self.step = step

    def parse_data_for_train(self, data: Any) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), changed, and persons (B,) of a training batch.

        Raises:
            ValueError: The step mixes labels, which torchreid's losses do not take.
        """
        engine: Any = super()
        images, persons = engine.parse_data_for_train(data)
        if self.use_gpu:  # type: ignore[attr-defined]
            images, persons = tree_map(Tensor.cuda, (images, persons))  # images may be two views
        images, targets = run_step(self.step, images, persons)
        if not isinstance(targets, Tensor) or targets.ndim != 1:
            kind = f"weights {tuple(targets.shape)}" if isinstance(targets, Tensor) else "targets"
            raise ValueError(
                f"torchreid's losses take persons (B,), not class {kind}; take a step that cuts, "
                "such as KeepRandomErasing"
            )
        return images, targets
