"""Fine-tune a detector with Detectron2's own trainer and evaluator."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import weakref
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detection.checkpoints import check_last, last_checkpoint, make_checkpointer
from detection.config import Config
from detection.data import TOY, Split, open_data
from detection.detectron import its_warnings, require
from detection.erasing import make_mapper
from detection.evaluation import image_precisions
from detection.pictures import draw_run
from detection.settings import Backbone, make_cfg, open_backbone
from detection.sources import sha256
from detection.toy import write_toy
from detection.verify import check_loaded
from keepbench.files import digest
from keepbench.identity import Identity
from keepbench.leaving import PREEMPTED, Stop, resume_command
from keepbench.machine import find_device
from keepbench.processes import Processes
from keepbench.right import write_items
from keepbench.run import Run, check_folder

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KEPT = 2  # checkpoints before the last

Row = dict[str, Any]


def metrics_row(results: Mapping[str, float]) -> Row:
    """Detectron2's results for boxes as a row: AP in %, None where there is nothing to find.

    Without a single prediction Detectron2 gives NaN and no classes; AP, AP50 and AP75 are 0 then.
    What a run adds to them, the seconds of the test and the mean of the images' APs, follows.
    """

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    row: Row = {f"test_{name}": number(results.get(name, math.nan)) for name in METRICS}
    for name in METRICS[:3]:
        row[f"test_{name}"] = row[f"test_{name}"] or 0.0
    row |= {f"test_{name}": results[name] for name in ("image_AP", "seconds") if name in results}
    classes = {k.removeprefix("AP-"): number(v) for k, v in results.items() if k.startswith("AP-")}
    return row | {"test_AP_by_class": classes}


def make_trainer(
    config: Config, cfg: Any, backbone: Backbone, run: Run | None, images: int, stop: Stop
) -> Any:
    """Detectron2's trainer, which writes a row of metrics after each test.

    Alone, it stops when asked, and saves; one of several processes does not hear of it.

    Args:
        config: the run's settings.
        cfg: Detectron2's config.
        backbone: what it starts from.
        run: the folder; None in all processes but the first.
        images: with boxes, in the training set.
        stop: whether a signal asked to.
    """
    from detectron2.data import build_detection_train_loader
    from detectron2.engine import DefaultTrainer, hooks
    from detectron2.evaluation import COCOEvaluator
    from detectron2.utils import comm
    from detectron2.utils.events import CommonMetricPrinter, JSONWriter

    class Evaluator(COCOEvaluator):
        def _derive_coco_results(self, coco_eval: Any, *words: Any, **given: Any) -> Any:
            results = super()._derive_coco_results(coco_eval, *words, **given)
            if config.record and trainer.iter + 1 >= trainer.max_iter:
                boxes = self._coco_api.anns.values()
                trainer.precisions = (
                    image_precisions(coco_eval)
                    if coco_eval  # None if nothing was predicted
                    else torch.zeros(len({b["image_id"] for b in boxes if not b["iscrowd"]}))
                )
                results["image_AP"] = 100 * float(trainer.precisions.mean())
            return results

    class Trainer(DefaultTrainer):
        precisions: Tensor | None = None  # of each test image with objects, in the last test

        @classmethod
        def test(cls, *words: Any, **given: Any) -> Any:
            begun = time.perf_counter()
            results = super().test(*words, **given)
            if results:  # in the first process
                results["bbox"]["seconds"] = time.perf_counter() - begun
            return results

        @classmethod
        def build_train_loader(cls, cfg: Any) -> Any:
            return build_detection_train_loader(cfg, mapper=make_mapper(config, cfg))

        @classmethod
        def build_evaluator(cls, cfg: Any, dataset_name: str) -> Any:
            folder = str(Path(cfg.OUTPUT_DIR, "inference"))
            return Evaluator(dataset_name, ("bbox",), True, folder, use_fast_impl=False)

        def build_writers(self) -> list[Any]:
            losses = JSONWriter(str(Path(self.cfg.OUTPUT_DIR, "losses.jsonl")))
            return [CommonMetricPrinter(self.max_iter), losses]

        def build_hooks(self) -> list[Any]:
            self.checkpointer = make_checkpointer(  # in place of Detectron2's own, before its hook
                self.model,
                self.cfg.OUTPUT_DIR,
                backbone.weights,
                run.identity if run else None,
                trainer=weakref.proxy(self),
            )
            found = super().build_hooks()
            for hook in found:
                if isinstance(hook, hooks.PeriodicCheckpointer):
                    hook.max_to_keep = KEPT
            return found

    class LogRow(hooks.HookBase):
        logged: Any = None

        def after_step(self) -> None:
            results = getattr(self.trainer, "_last_eval_results", None)
            if run and results and results is not self.logged:
                self.logged = results
                log_test(run, self.trainer, results["bbox"], images)

        after_train = after_step

    class SaveWhenAsked(hooks.HookBase):
        def after_step(self) -> None:
            trainer, done = self.trainer, self.trainer.iter + 1
            if stop.asked and done < trainer.max_iter:
                trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
                print(
                    f"stopped after step {done} of {trainer.max_iter} and saved; go on with: "
                    f"{resume_command()}",
                    file=sys.stderr,
                )
                sys.exit(PREEMPTED)

    trainer = Trainer(cfg)
    trainer.register_hooks([LogRow()] + ([SaveWhenAsked()] if comm.get_world_size() == 1 else []))
    return trainer


def log_test(run: Run, trainer: Any, results: Mapping[str, float], images: int) -> None:
    """Add a test's row to the metrics, unless a run that was over is gone over again.

    What each image got in the last test is stored before.
    """
    done = min(trainer.iter + 1, trainer.max_iter)
    epoch = done * trainer.cfg.SOLVER.IMS_PER_BATCH / images
    if trainer.precisions is not None:
        write_items(run.folder, trainer.precisions, round(epoch))
    rows = run.rows()
    if rows and rows[-1]["iteration"] >= done:
        return
    row: Row = {"iteration": done, "iterations": trainer.max_iter, "epoch": epoch}
    histories = trainer.storage.histories()
    for name, ours in (("lr", "lr"), ("total_loss", "train_loss"), ("time", "step_seconds")):
        if name in histories:  # not if no step was made since the start
            row[ours] = histories[name].median(20)
    run.log(**row, **metrics_row(results))


def register(name: str, split: Split) -> None:
    """Make a set known to Detectron2, in place of one of that name."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, str(split.boxes), str(split.images))


def _write_setup(folder: Path, cfg: Any, backbone: Backbone, splits: tuple[Split, Split]) -> None:
    """Record Detectron2's config, the data and the backbone."""
    (folder / "config.yaml").write_text(cfg.dump())
    file = backbone.path
    about: dict[str, dict[str, Any]] = {
        "versions": {name: metadata.version(name) for name in ("detectron2", "pycocotools")},
        "backbone": {
            "file": file.name if file else "none",
            "sha256": sha256(file) if file else "",
            "checked": backbone.checked,
        },
    }
    for name, split in zip(("train", "test"), splits, strict=True):
        about[name] = {
            "images": len(split.content["images"]),
            "of": split.whole,
            "with_boxes": split.with_boxes,
            "boxes": len(split.content["annotations"]),
            **split.changes,
        }
    (folder / "setup.json").write_text(json.dumps(about, indent=2) + "\n")


def train(
    name: str,
    config: Config,
    folder: Path,
    device: str,
    *,
    resume: bool = False,
    budget: str = "paper",
) -> None:
    """Run an experiment into its folder, in this process or one per GPU.

    A resumed run goes on from the weights, optimiser and schedule of Detectron2's last checkpoint;
    the order of images begins anew.

    Raises:
        ValueError: Bad settings, data or weights that cannot be used, a folder with another run.
        FloatingPointError: The loss is not finite.
    """
    require()
    from detectron2.engine import launch

    found = find_device(device)
    count = torch.cuda.device_count()
    if config.gpus > 1 and (found.type != "cuda" or count < config.gpus):
        raise ValueError(f"gpus={config.gpus}, but {count if found.type == 'cuda' else 0} are here")
    identity = Identity(name, config)
    check_folder(folder, identity, resume=resume)  # before anything is read or made
    check_last(folder, identity)
    work = partial(train_process, name, config, folder, found, resume=resume, budget=budget)
    launch(work, config.gpus, dist_url="auto")


def train_process(
    name: str, config: Config, folder: Path, device: torch.device, *, resume: bool, budget: str
) -> None:
    """One process of a run; `train` starts it."""
    require()
    from detectron2.utils import comm

    first = comm.is_main_process()
    backbone = open_backbone(config)
    if first and config.dataset == "toy":
        write_toy(folder / TOY)
    comm.synchronize()
    train_set, test_set = splits = open_data(config, folder)
    cfg = make_cfg(
        config, backbone, folder, images=train_set.with_boxes, classes=len(train_set.classes),
        device="cuda" if config.gpus > 1 else str(device),
    )  # fmt: skip
    # only now, so that settings that cannot be used leave no run behind
    data = digest(part for split in splits for part in split.contents())
    run = None
    if first:
        run = Run(folder, name, config, device, resume=resume, budget=budget, data=data)
    try:
        if run:
            if last_checkpoint(folder) is None:
                run.load()  # sets aside what was measured before any checkpoint
            for split in splits:
                split.write()
            for note in sorted({split.note() for split in splits} - {""}):
                print(note)
            _write_setup(folder, cfg, backbone, splits)
        comm.synchronize()
        register(cfg.DATASETS.TRAIN[0], train_set)
        register(cfg.DATASETS.TEST[0], test_set)
        with its_warnings():
            _train(config, cfg, backbone, run, train_set.with_boxes, resume)
        if run:
            predicted = folder / "inference" / "coco_instances_results.json"
            draw_run(test_set, predicted, folder / "pictures", config.pictures)
    finally:
        if run:
            run.close()


def _train(
    config: Config, cfg: Any, backbone: Backbone, run: Run | None, images: int, resume: bool
) -> None:
    """Train and test, with Detectron2's log in the run's folder."""
    from detectron2.utils import comm
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.logger import setup_logger

    for package in ("fvcore", "detectron2"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=package)
    logging.getLogger("detectron2.engine.defaults").setLevel(logging.WARNING)  # prints the model
    seed_all_rng(config.seed + comm.get_rank())
    stop = Stop(Processes(torch.device(cfg.MODEL.DEVICE)))
    trainer = make_trainer(config, cfg, backbone, run, images, stop)
    trainer.resume_or_load(resume=resume)
    if backbone.path and trainer.start_iter == 0:
        check_loaded(trainer.checkpointer.model, backbone.weights)
    with stop.listening():
        trainer.train()
