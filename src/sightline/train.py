"""Training on Lightning's Trainer: a module around `Guided`, a run directory, and resuming to the same bits."""

import csv
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from jsonargparse import Namespace
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from sightline import __version__
from sightline.augment import Augmented
from sightline.compat import repair_torchvision, require
from sightline.data import Source
from sightline.errors import SightlineError
from sightline.files import read_json, whole, write_json, write_text
from sightline.listing import some
from sightline.loading import BalancedSampler, MixedSampler, Seeded, divided, plain_failures
from sightline.models import Classifier, last_linear, save
from sightline.objectives import Guided, Objective
from sightline.objectives.base import classification_loss
from sightline.passes import logits_of, rank
from sightline.recipe import Recipe, build, differences, dump, part, read
from sightline.seeds import reseed
from sightline.types import Batch
from sightline.versions import versions

repair_torchvision()

import lightning as L  # noqa: E402
from lightning.fabric.plugins import TorchCheckpointIO  # noqa: E402
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger  # noqa: E402

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.ckpt"
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def train(
    config: Namespace | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    devices: int = 1,
    nodes: int = 1,
    accelerator: str = "auto",
) -> Path:
    """Train a recipe into the run directory `out`.

    The directory receives recipe.yaml, run.json, metrics.csv, checkpoint.ckpt (after every epoch) and, at the end,
    model.safetensors. All randomness is a function of the seed, the epoch, the batch and the rank, so a run that was
    killed and resumed ends, on a CPU with as many threads, with the bits of one that was not. Sets torch's global seed
    and, if the recipe says so, its number of threads.

    Args:
        config: what `sightline.recipe.read` returned, or a recipe's file.
        out: the run directory; made if missing.
        resume: go on from the last whole epoch in `out`.
        devices: processes per node; torchrun may start them, otherwise this does.
        nodes: number of machines.
        accelerator: "auto", "cpu" or "gpu".

    Returns:
        The run directory.

    Raises:
        SightlineError: `out` holds another run, the recipe has changed since, the loss is not finite, or bad data.
    """
    out = Path(out)
    config = config if isinstance(config, Namespace) else read(config)
    _quieten()
    if _finished(out, dump(config), resume):
        return out
    torch.manual_seed(config.seed)
    # Ahead of the data: networks that draw masks compute with as many threads as the training does.
    if threads := part(config, "training").threads:
        torch.set_num_threads(threads)
    recipe = build(config)
    checkpoint = out / CHECKPOINT
    start = checkpoint if resume and checkpoint.exists() else None
    kept = torch.load(start, weights_only=True, mmap=True) if start else {"global_step": 0, "epoch": -1}
    module = Module(recipe, kept["epoch"] + 1)
    watched = sys.stdout.isatty()
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        max_epochs=recipe.training.epochs,
        precision="bf16-mixed" if recipe.training.precision == "bf16" else "32-true",
        check_val_every_n_epoch=recipe.training.validate_every,
        accumulate_grad_batches=recipe.training.accumulate,
        gradient_clip_val=recipe.training.clip,
        callbacks=[_checkpoints(out), Progress(refresh_rate=10) if watched else Lines()],
        enable_progress_bar=watched,
        plugins=[WholeCheckpoints()],
        logger=_loggers(out, recipe, kept["global_step"]),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_model_summary=False,
        default_root_dir=out,
    )
    # Nothing is written before everything has been built: a mistake in the recipe leaves no run directory behind.
    record = _record(out, recipe, module)
    if trainer.is_global_zero:
        write_text(out / "recipe.yaml", dump(config))
        write_json(out / "run.json", record)
    try:
        with plain_failures():
            trainer.fit(module, ckpt_path=start, weights_only=True if start else None)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise (KeyboardInterrupt if trainer.interrupted else error) from error
    if trainer.is_global_zero:
        save(module.model, out / "model.safetensors")
        _join_logs(out)
        write_json(out / "run.json", record | {"finished": True, "minutes": round(module.minutes, 2)})
    return out


def _warn_of_gaps(objectives: Sequence[Objective], data: Source) -> None:
    """Say what these objectives cannot learn from these training images."""
    names = ", ".join(type(objective).__name__ for objective in objectives)
    if not any(objective.teaches for objective in objectives):
        log.warning(
            "nothing among %s teaches the classes: add CE, or ContextSwap, JTT or GroupDRO in its place.", names
        )
    if unguided := [type(o).__name__ for o in objectives if "masks" in o.needs and not data.has_mask.any()]:
        log.warning(
            "no training image of %s has a mask: %s will learn nothing. See docs/data.md on where masks lie.",
            data.name, ", ".join(unguided),
        )  # fmt: skip
    shown = data.labels[data.has_label]
    seen = set(shown.nonzero()[1] if shown.ndim > 1 else shown)
    if len(shown) and (absent := [name for number, name in enumerate(data.classes) if number not in seen]):
        log.warning("no training image of %s shows %s: it cannot be learned.", data.name, some(absent))


class Module(L.LightningModule):
    """`Guided` as Lightning wants it: seeded steps, finite losses, one optimiser and its schedule.

    `first` is the epoch this start begins with.
    """

    def __init__(self, recipe: Recipe, first: int = 0) -> None:
        super().__init__()
        self.recipe, self.first = recipe, first
        self.guided = Guided(recipe.classifier(), recipe.objectives, recipe.data.size)
        met = self._data("train")
        _warn_of_gaps(recipe.objectives, met)
        self.guided.meet(met.groups.tolist(), met.ids, met.has_label.tolist())
        if recipe.training.unlabelled_batch_size:
            divided(met.has_label)
        if recipe.training.balance:
            BalancedSampler(met.groups)
        self._parameter_groups()
        if recipe.training.augment:
            Augmented(met, recipe.training.augment, met.channels)
        self.earlier, self.began = 0.0, time.monotonic()
        self.layout = LAYOUTS.get(rank(self.model)) if recipe.training.channels_last else None
        if self.layout:
            self.guided.to(memory_format=self.layout)  # type: ignore[call-overload]

    @property
    def model(self) -> Classifier:
        """The classifier that is being trained."""
        return cast(Classifier, self.guided.model)

    @property
    def minutes(self) -> float:
        """Wall time so far, of this start and of those it resumes."""
        return self.earlier + (time.monotonic() - self.began) / 60

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; everything random in it depends on where in the run it is, not on what came before."""
        reseed(_seed(self.recipe.seed, self.current_epoch, batch_idx, self.global_rank), self.device)
        self.guided.epoch = self.current_epoch + batch_idx / self.trainer.num_training_batches
        loss: Tensor
        loss, terms = self.guided(self._laid_out(batch))
        for name, term in {**terms, "loss": loss}.items():
            if not bool(torch.isfinite(term)):
                kept = f"The last whole epoch is kept in {CHECKPOINT}. " if self.current_epoch else ""
                raise SightlineError(
                    f"the term {name!r} is {float(term)} at step {self.global_step} (epoch {self.current_epoch}). "
                    f"{kept}Lower optimizer.lr or set training.clip=1, and train into another --out."
                )
        self.log_dict({"loss": loss.detach(), **terms}, prog_bar=True)
        return loss * self._share(batch_idx)

    def _share(self, batch_idx: int) -> float:
        """What makes a mean of the gradients where an epoch ends before `accumulate` batches have come together."""
        accumulate, batches = self.recipe.training.accumulate, int(self.trainer.num_training_batches)
        left = batches % accumulate
        return accumulate / left if batch_idx >= batches - left else 1.0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Cross-entropy and, for one label per image, accuracy on the validation split."""
        logits = logits_of(self.model(self._laid_out(batch).image)).float()
        measured = {"val_loss": classification_loss(logits, batch.label)}
        if batch.label.ndim == 1:
            measured["val_accuracy"] = (logits.argmax(1) == batch.label).float().mean()
        self.log_dict(measured, prog_bar=True, sync_dist=True, batch_size=len(logits))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.earlier = checkpoint["minutes"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to replace a good checkpoint by one with broken weights."""
        checkpoint["minutes"] = self.minutes
        for name, value in checkpoint["state_dict"].items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise SightlineError(
                    f"the weights {name!r} are no longer finite after step {self.global_step}; not saved."
                )

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, with its schedule stepped after every batch."""
        settings, groups = self.recipe.optimizer, self._parameter_groups()
        optimizer: torch.optim.Optimizer
        if settings.name == "sgd":
            optimizer = torch.optim.SGD(
                groups,
                settings.lr,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
            )
        else:
            optimizer = torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay)
        scheduler = self._schedule(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> "DataLoader[Batch]":
        return self._loader("train")

    def val_dataloader(self) -> "DataLoader[Batch] | list[Any]":
        return self._loader("val") if "val" in self.recipe.data.splits else []

    def _schedule(self, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
        schedule, steps = self.recipe.schedule, int(self.trainer.estimated_stepping_batches)
        if schedule.name == "cosine":
            return CosineAnnealingLR(optimizer, steps)
        if schedule.name == "onecycle":
            # SGD keeps the momentum the recipe states; AdamW's first beta is cycled, as is PyTorch's default.
            cycled = self.recipe.optimizer.name == "adamw"
            rates = [group["lr"] for group in optimizer.param_groups]
            return OneCycleLR(optimizer, rates, steps, pct_start=schedule.warmup, cycle_momentum=cycled)
        if schedule.name == "step":
            epochs = self.recipe.training.epochs
            ends = schedule.milestones or range(schedule.every, epochs + 1, schedule.every)
            return MultiStepLR(optimizer, [end * max(1, steps // epochs) for end in ends], schedule.gamma)
        return None

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters by learning rate: all of them, or the last linear layer's apart."""
        rate, name = self.recipe.optimizer.head_lr, last_linear(self.model.net)
        if rate is None:
            return [{"params": list(self.parameters())}]
        if name is None:
            raise SightlineError("optimizer.head_lr: this network has no last linear layer. Leave it out.")
        head = dict.fromkeys(self.model.net.get_submodule(name).parameters())
        rest = [parameter for parameter in self.parameters() if parameter not in head]
        return [{"params": rest}, {"params": list(head), "lr": rate}]

    def _data(self, split: str) -> Source:
        own = self.recipe.data
        return own if own.split == split else own.on(split)

    def _loader(self, split: str) -> "DataLoader[Batch]":
        """Seeded order per epoch, shared out over the processes; incomplete training batches are dropped."""
        data, settings, ranks = self._data(split), self.recipe.training, self.trainer.world_size
        training, size, seed = split == "train", settings.batch_size, self.recipe.seed
        drop = training and len(data) >= size * ranks
        sampler: BalancedSampler | MixedSampler | DistributedSampler[Any] | Seeded
        if training and (beside := settings.unlabelled_batch_size):
            sampler = MixedSampler(data.has_label, size, beside, rank=self.trainer.global_rank, ranks=ranks, seed=seed)
            size, drop = size + beside, False
        elif training and settings.balance:
            sampler = BalancedSampler(data.groups, rank=self.trainer.global_rank, ranks=ranks, seed=seed)
        else:
            sampler = DistributedSampler(
                data, ranks, self.trainer.global_rank, shuffle=training, seed=seed, drop_last=drop
            )
        read: Dataset[Batch] = data
        if training and settings.augment:
            read = Augmented(data, settings.augment, data.channels)
            sampler = Seeded(sampler, rank=self.trainer.global_rank, seed=seed)
        # Workers begin to read before Lightning tells the sampler which epoch a resumed run is in.
        sampler.set_epoch(self.first)
        return DataLoader(
            read, size, sampler=sampler, drop_last=drop, num_workers=settings.workers,
            persistent_workers=settings.workers > 0, pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )  # fmt: skip

    def _laid_out(self, batch: Batch) -> Batch:
        if self.layout is None or batch.image.ndim != rank(self.model) + 2:  # views lie side by side
            return batch
        return batch._replace(image=batch.image.contiguous(memory_format=self.layout))


class Progress(TQDMProgressBar):
    """Lightning's bar without the logger's version, which says nothing here."""

    def get_metrics(self, *args: Any) -> dict[str, int | str | float | dict[str, float]]:
        """The loss, its terms and the validation accuracy."""
        return {name: value for name, value in super().get_metrics(*args).items() if name != "v_num"}


class Lines(Callback):
    """A line for each epoch instead of a bar, where the output goes to a file."""

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Say what a bar would."""
        if trainer.is_global_zero:
            numbers = (f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items())
            print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}:", ", ".join(numbers), flush=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that a kill or a full disk cannot leave half-written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write to a temporary name, then rename; through memory, since torch names no reason when a disk is full."""
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        with whole(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())


def _finished(out: Path, text: str, resume: bool) -> bool:
    """Whether the run in `out` is the one asked for, and complete; every process asks alike, and none writes."""
    recipe = out / "recipe.yaml"
    if recipe.exists() and not resume:
        if _follows():
            return False
        raise SightlineError(f"{out} already holds a run. Choose another --out, or go on with it: --resume.")
    if not recipe.exists():
        if resume:
            raise SightlineError(
                f"there is nothing to resume in {out}: it holds no recipe.yaml. Leave --resume out to begin."
            )
        return False
    old, new = (yaml.safe_load(t) | {"about": None} for t in (recipe.read_text(encoding="utf-8"), text))
    changed = differences(old, new)
    if changed:
        raise SightlineError(
            f"{out} was begun with another recipe: {'; '.join(changed)}. "
            "Resume with the same one, or choose another --out."
        )
    return (out / "run.json").exists() and bool(read_json(out / "run.json")["finished"])


def _follows() -> bool:
    """Whether another process goes first, and may have written by now what this one finds."""
    return any(os.environ.get(rank, "0") != "0" for rank in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def _record(out: Path, recipe: Recipe, module: Module) -> dict[str, Any]:
    """What run.json says at the start, or said when the run being resumed was started."""
    path = out / "run.json"
    if path.exists():
        return dict(read_json(path))
    layers = {type(o).__name__: [repr(e) for e in o.explainers] for o in recipe.objectives if o.explainers}
    return {
        "name": out.name,
        "sightline": __version__,
        "versions": versions(),
        "seed": recipe.seed,
        "data": {
            "name": recipe.data.name,
            "hash": recipe.data.hash(),
            "images": len(recipe.data),
            "size": list(recipe.data.size),
            "classes": list(recipe.data.classes),
        }
        | recipe.data.facts(),
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "explainers": layers,
        "threads": torch.get_num_threads(),
        "minutes": 0.0,
        "finished": False,
    }


def _checkpoints(out: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        out, filename=CHECKPOINT.removesuffix(".ckpt"), enable_version_counter=False, save_on_train_epoch_end=True
    )


def _loggers(out: Path, recipe: Recipe, step: int) -> list[Logger]:
    """A CSV log of its own for each start; `_join_logs` makes one of them."""
    loggers: list[Logger] = [CSVLogger(out, name="log", version=f"{step:08d}", flush_logs_every_n_steps=50)]
    if recipe.training.log == "tensorboard":
        require("tensorboard", "tensorboard")
        loggers.append(TensorBoardLogger(out, name="tensorboard", version="", default_hp_metric=False))
    return loggers


def _join_logs(out: Path) -> None:
    """Write metrics.csv: of each start's log, the steps before the next start."""
    logs = sorted((out / "log").glob("*/metrics.csv"))
    ends = [*(int(log.parent.name) for log in logs[1:]), float("inf")][: len(logs)]
    rows = [row for log, end in zip(logs, ends, strict=True) for row in _rows(log) if int(row["step"]) < end]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with whole(out / "metrics.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _rows(log: Path) -> Iterator[dict[str, str]]:
    with log.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _seed(*position: int) -> int:
    return int(np.random.SeedSequence(position).generate_state(1)[0])


def _quieten() -> None:
    """Silence advice that does not fit: the sets are small, and the settings chosen on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*Total length of `list` across ranks is zero.*",  # there may be no validation split
        ".*LeafSpec.*",
        ".*log_every_n_steps.*",
    ):
        warnings.filterwarnings("ignore", message)
