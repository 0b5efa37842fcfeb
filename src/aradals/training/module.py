"""The training step and the adaptive update, as a LightningModule."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from aradals.adaptive_smoothing import AdaptiveSmoothing
from aradals.config import TrainingConfig
from aradals.data import AUGMENTATIONS
from aradals.errors import InputError
from aradals.inference import Batch


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of the random numbers of one epoch of one run."""
    return seed * 100_003 + epoch


def by_id(ids: Tensor, subsets: Tensor | None) -> Tensor:
    """Subset by example id, -1 where the id is not in the split; every example in subset 0 where there are none."""
    table = torch.full((int(ids.max()) + 1,), -1, dtype=torch.int64)
    table[ids] = 0 if subsets is None else subsets
    return table


class AdaptiveClassifier(LightningModule):
    """A classifier whose targets adapt after each pass over the validation split.

    Args:
        model: inputs in [0, 1] to logits.
        criterion: the loss and its state; vanilla training and label smoothing are settings of it.
        train_subsets: subset by example id, see `by_id`, shape (largest id + 1,).
        validation_subsets: the same for the validation split.
        config: optimizer, schedule, augmentation.
        seed: of the random numbers of each epoch.
        scores_itself: the subsets given mean nothing, others are put in their place in the course of training
            (`SelfScoring`): targets move as one until then, and checkpoints hold the subsets.

    Attributes:
        epochs: one record per finished epoch; its ``seconds`` hold training and validation, not scoring.
        scorings: one record per scoring by the model itself.
    """

    train_subsets: Tensor
    validation_subsets: Tensor

    def __init__(
        self,
        model: nn.Module,
        criterion: AdaptiveSmoothing,
        train_subsets: Tensor,
        validation_subsets: Tensor,
        config: TrainingConfig,
        seed: int,
        *,
        scores_itself: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.register_buffer("train_subsets", train_subsets, persistent=scores_itself)
        self.register_buffer("validation_subsets", validation_subsets, persistent=scores_itself)
        self.scores_itself = scores_itself
        self.config = config
        self.seed = seed
        self.epochs: list[dict[str, float]] = []
        self.scorings: list[dict[str, float]] = []
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []
        self._reset_epoch()

    def _reset_epoch(self) -> None:
        self._loss_sum, self._num_correct, self._num_seen = torch.zeros(()), torch.zeros(()), 0
        self._started = time.perf_counter()

    def seconds_in_epoch(self) -> float:
        """Seconds since the current epoch began."""
        return time.perf_counter() - self._started

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, so that a resumed run draws the augmentations and masks of an uninterrupted one."""
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch))
        self._reset_epoch()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, each example with the target of its robustness subset."""
        ids, inputs, labels = batch
        logits = self.model(AUGMENTATIONS[self.config.augment](inputs))
        loss: Tensor = self.criterion(logits, labels, self.train_subsets[ids])
        self._loss_sum = self._loss_sum.to(loss.device) + loss.detach() * len(ids)
        self._num_correct = self._num_correct.to(loss.device) + (logits.argmax(1) == labels).sum()
        self._num_seen += len(ids)
        return loss

    def on_train_epoch_end(self) -> None:
        """Record the epoch.

        Raises:
            InputError: the loss is not finite any more.
        """
        loss = self._loss_sum.item() / self._num_seen
        if not loss < float("inf"):
            raise InputError(
                expected="a finite training loss",
                got=f"{loss} in epoch {self.current_epoch + 1}",
                hint=f"a learning rate below {self.config.learning_rate} (--training.learning_rate)",
            )
        self.epochs.append(
            {
                "epoch": self.current_epoch + 1,
                "loss": loss,
                "accuracy": self._num_correct.item() / self._num_seen,
                "seconds": self.seconds_in_epoch(),
            }
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the logits of the validation split."""
        ids, inputs, labels = batch
        self._validation.append((ids, self.model(inputs), labels))

    def on_validation_epoch_end(self) -> None:
        """The adaptive update: measure the gap per subset, and step the targets."""
        ids, logits, labels = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        self._validation.clear()
        if self.trainer.sanity_checking:
            return
        if self.scores_itself and not self.scorings:
            self.criterion.update_as_one(logits, labels)
        else:
            self.criterion.update(logits, labels, self.validation_subsets[ids])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and schedule as the recipe names them."""
        config, parameters = self.config, self.model.parameters()
        rate, decay = config.learning_rate, config.weight_decay
        optimizer: torch.optim.Optimizer
        match config.optimizer:
            case "adam":
                optimizer = torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
            case "adamw":
                optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
            case "sgd":
                optimizer = torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)
        schedules = torch.optim.lr_scheduler
        num_steps = int(self.trainer.estimated_stepping_batches)
        schedule: torch.optim.lr_scheduler.LRScheduler
        match config.schedule:
            case "constant":
                return optimizer
            case "one_cycle":
                schedule = schedules.OneCycleLR(optimizer, max_lr=rate, total_steps=num_steps)
            case "cosine":
                schedule = schedules.CosineAnnealingLR(optimizer, T_max=num_steps)
            case "steps":
                milestones = [epoch * num_steps // config.epochs for epoch in config.milestones]
                schedule = schedules.MultiStepLR(optimizer, milestones, gamma=config.gamma)
        # Per step, also `steps`: Lightning saves a finished epoch before schedules per epoch have moved on, so that
        # training resumed from there would be one epoch behind.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the records of finished epochs and of scorings."""
        checkpoint["epochs"], checkpoint["scorings"] = self.epochs, self.scorings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the records of finished epochs and of scorings."""
        self.epochs, self.scorings = list(checkpoint["epochs"]), list(checkpoint["scorings"])
