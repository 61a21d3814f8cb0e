"""Test a re-identification network: features of query and gallery, scores, a sheet of rankings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keepbench.processes import Processes
from keepbench.right import write_items
from reid.config import Config
from reid.data import Data, Shown
from reid.evaluation import (
    Seen,
    average_precisions,
    cosine_distances,
    nearest,
    reranked_distances,
    retrieval_scores,
)
from reid.model import ReidModel
from reid.sheet import NEAREST, ranked_sheet, spread

TEST_BATCH = 256


class Tester:
    """Ranks the gallery for every query by the cosine of features; all processes must call.

    Args:
        config: the run's settings.
        data: with what it tests on.
        model: what is tested; left in training.
        inputs: what the network sees of images (B, 3, H, W) uint8.
        processes: this process among those of the run.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        model: ReidModel,
        inputs: Callable[[Tensor], Tensor],
        processes: Processes,
    ) -> None:
        self.config, self.data, self.model = config, data, model
        self.inputs, self.processes = inputs, processes
        self.precisions: Tensor | None = None

    @torch.no_grad()
    def features(self, shown: Shown) -> Tensor:
        """The features (N, D) float32 of images, in all processes, each of which takes a share."""
        model, processes, device = self.model, self.processes, self.processes.device
        features = torch.zeros(len(shown.people), model.classifier.in_features, device=device)
        parts = []
        model.eval()
        for pixels in shown.pixels.split(TEST_BATCH):
            with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
                parts.append(model(self.inputs(pixels.to(device))).feature.float())
        model.train()
        if parts:
            features[processes.rank :: processes.world_size] = torch.cat(parts)
        return processes.total(features)

    def seen(self, shown: Shown) -> Seen:
        """Who is in images and who took them, on the device."""
        return Seen(shown.people.to(self.processes.device), shown.cameras.to(self.processes.device))

    def scores(self, *, last: bool = False) -> dict[str, Any]:
        """A row of scores; after the last epoch with those of re-ranking too, if asked for.

        "comparable" says whether they may stand beside published figures, "why_not" why not.
        """
        data, started = self.data, time.perf_counter()
        query, gallery = self.features(data.query), self.features(data.gallery)
        asked, seen = self.seen(data.query), self.seen(data.gallery)
        row: dict[str, Any] = retrieval_scores(cosine_distances(query, gallery), asked, seen)
        row["test_seconds"] = time.perf_counter() - started
        if last and self.config.record:
            self.precisions = average_precisions(cosine_distances(query, gallery), asked, seen)
        row |= {"comparable": not data.listing.why_not, "why_not": data.listing.why_not}
        if last and self.config.rerank:
            again = None
            if self.processes.first:  # the others wait for it
                again = retrieval_scores(reranked_distances(query, gallery), asked, seen)
            again = self.processes.shared(again)
            row |= {f"reranked_{name}": again[name] for name in ("rank1", "mAP")}
        return row

    def record(self, folder: Path, epoch: int) -> None:
        """Store the average precision of each query in the last test; all processes must call."""
        if self.precisions is None:  # resumed after its end
            self.scores(last=True)
        if self.processes.first:
            assert self.precisions is not None
            write_items(folder, self.precisions, epoch)

    def draw(self, path: Path) -> None:
        """Write the ranked lists of some queries as a picture."""
        data = self.data
        query, gallery = self.features(data.query), self.features(data.gallery)
        if not self.processes.first:
            return
        some = spread(len(query), self.config.sheet)
        asked = Seen(*(values[some.to(values.device)] for values in self.seen(data.query)))
        order, right = nearest(
            query[some.to(query.device)], gallery, asked, self.seen(data.gallery), NEAREST
        )
        photos = [data.query.photos[number] for number in some.tolist()]
        names = [f"{photo.person}, camera {photo.camera}" for photo in photos]
        files = [photo.path for photo in data.gallery.photos]
        ranked_sheet([p.path for p in photos], files, order, right, names).savefig(path, dpi=150)
