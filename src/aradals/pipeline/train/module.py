"""The training step and the adaptive update, as a LightningModule."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from aradals._internal.ids import first_of_each
from aradals._internal.processes import of_all_processes
from aradals.data import AUGMENTATIONS, Augmentation, augmix
from aradals.geometry import exact_dtype
from aradals.inference.ensemble import Ensemble
from aradals.inference.outputs import logit_model
from aradals.inference.predictions import Batch
from aradals.losses import jensen_shannon
from aradals.objectives import Objective, StatefulObjective, takes_target_prob
from aradals.pipeline.config import TrainingConfig
from aradals.pipeline.health import check_changed, check_depends_on_parameters, check_finite, not_finite
from aradals.pipeline.train.loggers import epoch_metrics, validation_metrics
from aradals.smoothing.adaptive import AdaptiveSmoothing


def member_seed(seed: int, member: int) -> int:
    """Derive the seed of an ensemble's member from the study's seed; the first member has the study's seed."""
    return seed + 10_000_019 * member


def epoch_seed(seed: int, epoch: int) -> int:
    """Derive the seed of the random numbers of one epoch of one run."""
    return seed * 100_003 + epoch


def by_id(ids: Tensor, subsets: Tensor | None) -> Tensor:
    """Index subsets by example id, with -1 for ids outside of the split; without subsets, all examples are in 0."""
    table = torch.full((int(ids.max()) + 1,), -1, dtype=torch.int64)
    table[ids] = 0 if subsets is None else subsets
    return table


def _whole_split(ids: Tensor, *columns: Tensor) -> list[Tensor]:
    """Gather the columns of all processes in the order of the ids, each id once."""
    ids, *columns_of_all = (torch.cat(of_all_processes(part.cpu())) for part in (ids, *columns))
    first = first_of_each(ids)
    return [column[first].to(given.device) for column, given in zip(columns_of_all, columns, strict=True)]


class AdaptiveClassifier(LightningModule):
    """A classifier, or an ensemble in step, whose targets adapt after each pass over the validation split.

    The members of an ensemble share the targets, which follow the averaged prediction. Each member has a separate part
    of every batch (see `member_batches`), so that its order and its loss are the same as in a training alone.

    Args:
        model: model from inputs in [0, 1] to logits.
        objective: the loss of a batch; an objective with a state becomes part of the state of the training.
        criterion: the targets and their state; targets of vanilla training and of label smoothing do not change.
        train_subsets: subset by example id, see `by_id`, shape (largest id + 1,).
        validation_subsets: subset by example id for the validation split.
        config: settings of optimizer and schedule.
        augment: random changes to the training inputs.
        consistency: weight of the Jensen-Shannon term between inputs and two AugMix views of them.
        seed: seed of the random numbers of each epoch.
        scores_itself: ignore the given subsets, which `SelfScoring` replaces in the course of training. Before this,
            all subsets share one target. Checkpoints contain the subsets.

    Attributes:
        epochs: one record for each finished epoch; its ``seconds`` include training and validation, not scoring.
        scorings: one record for each scoring by the model itself.
    """

    train_subsets: Tensor
    validation_subsets: Tensor

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        criterion: AdaptiveSmoothing,
        train_subsets: Tensor,
        validation_subsets: Tensor,
        config: TrainingConfig,
        seed: int,
        *,
        augment: Augmentation = AUGMENTATIONS["none"],
        consistency: float = 0.0,
        scores_itself: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        members = model.members if isinstance(model, Ensemble) else [model]
        self.members = [logit_model(member) for member in members]  # a list, because `model` has registered them
        self.objective, self.augment, self.consistency = objective, augment, consistency
        self.criterion = criterion
        self.register_buffer("train_subsets", train_subsets, persistent=scores_itself)
        self.register_buffer("validation_subsets", validation_subsets, persistent=scores_itself)
        self.scores_itself = scores_itself
        self.config = config
        self.seed = seed
        self.epochs: list[dict[str, float]] = []
        self.scorings: list[dict[str, float]] = []
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []
        self._before: list[Tensor] | None = None
        # These buffers are equal in all processes that train the model, so that DDP need not send them at every step.
        self._ddp_params_and_buffers_to_ignore = [
            *("train_subsets", "validation_subsets"),
            *(f"criterion.{name}" for name, _ in criterion.named_buffers()),
        ]
        # Some models keep infinite values in a buffer on purpose, such as an attention mask.
        self._not_finite_at_first = not_finite(model) - {name for name, _ in model.named_parameters()}
        self._reset_epoch()

    def _reset_epoch(self) -> None:
        self._loss_sum, self._num_correct, self._num_seen = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        self._logged: dict[str, float] = {}
        self._started = time.perf_counter()

    def seconds_in_epoch(self) -> float:
        """Measure the seconds since the start of the current epoch."""
        return time.perf_counter() - self._started

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, so that a resumed run draws the augmentations and masks of an uninterrupted one.

        Each process that trains the model has its own seed, so that it draws other augmentations than the others.
        """
        torch.manual_seed(epoch_seed(member_seed(self.seed, self.global_rank), self.current_epoch))
        self._reset_epoch()
        # With 16-mixed, Lightning may skip the first steps until the scale of the loss fits.
        if self.current_epoch == 0 and self.config.precision != "16-mixed":
            self._before = [parameter.clone() for parameter in self._trainable()]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of one batch, summed over members; each example has the target of its robustness subset."""
        parts = zip(self.members, *(column.chunk(len(self.members)) for column in batch), strict=True)
        loss = torch.stack([self._member_loss(*part) for part in parts]).sum()
        check_depends_on_parameters(loss)
        return loss

    def _member_loss(self, member: nn.Module, ids: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        target_prob = self.criterion.target_prob_for(labels, self.train_subsets[ids])
        smoothed = {"target_prob": target_prob} if takes_target_prob(self.objective) else {}
        views = self.augment(inputs)
        loss, logits = self.objective(member, views, labels, **smoothed)
        if self.consistency:
            loss = loss + self.consistency * jensen_shannon([logits, member(augmix(views)), member(augmix(views))])
        self._loss_sum = self._loss_sum.to(loss.device, exact_dtype(loss.device)) + loss.detach() * len(ids)
        self._num_correct = self._num_correct.to(loss.device) + (logits.argmax(1) == labels).sum()
        self._num_seen += len(ids)
        return loss

    def on_train_epoch_end(self) -> None:
        """Check and record the epoch; its state is saved after this hook.

        Raises:
            TrainingFailed: the loss or the weights are not finite any more, or no parameter has changed.
        """
        self._check_finite()
        if self._before is not None:
            check_changed(self._before, self._trainable(), self.config.learning_rate)
            self._before = None
        self.epochs.append(
            {
                "epoch": self.current_epoch + 1,
                "loss": self._mean_loss(),
                "accuracy": self._sum_of_all(self._num_correct) / self._sum_of_all(self._num_seen),
                "seconds": self.seconds_in_epoch(),
            }
        )
        for logger in self.loggers:
            logger.log_metrics(
                epoch_metrics(self.epochs[-1], self._logged, self.criterion), step=self.current_epoch + 1
            )

    def _trainable(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.model.parameters() if parameter.requires_grad]

    def _mean_loss(self) -> float:
        return self._sum_of_all(self._loss_sum) / self._sum_of_all(self._num_seen)

    def _sum_of_all(self, value: Tensor | int) -> float:
        """Sum over all processes that train the model, so that all of them record and check the same."""
        return sum(of_all_processes(float(value)))

    def _check_finite(self, logits: Tensor | None = None) -> None:
        check_finite(
            self._mean_loss(),
            not_finite(self.model) - self._not_finite_at_first,
            None if logits is None else torch.cat(of_all_processes(logits.abs().max().cpu()[None])),
            epoch=self.current_epoch + 1,
            learning_rate=self.config.learning_rate,
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the logits of the validation split."""
        ids, inputs, labels = batch
        model = self.model if isinstance(self.model, Ensemble) else self.members[0]
        self._validation.append((ids, model(inputs), labels))

    def on_validation_epoch_end(self) -> None:
        """Run the adaptive update: measure the gap of each subset, and update the targets.

        Raises:
            TrainingFailed: the loss, the weights or the logits are not finite any more.
        """
        ids, logits, labels = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        self._validation.clear()
        self._check_finite(logits)
        if self.scores_itself and not self.scorings:
            self.criterion.update_as_one(labels, logits, ids)
        else:
            self.criterion.update(labels, logits, self.validation_subsets[ids], ids)
        if isinstance(self.objective, StatefulObjective) or self.config.logger != "none":
            labels, logits = _whole_split(ids, labels, logits)
        if isinstance(self.objective, StatefulObjective):
            self.objective.update(labels, logits)
        if self.config.logger != "none":
            self._logged = validation_metrics(labels, logits)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer and the schedule that the recipe names."""
        config, parameters = self.config, self.parameters()  # of the model, and of an objective that has some
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
        # Every schedule moves at each step, also `steps`: Lightning saves a finished epoch before schedules of epochs
        # move, so that a resumed training would be one epoch behind.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the records of finished epochs and of scorings."""
        checkpoint["epochs"], checkpoint["scorings"] = self.epochs, self.scorings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the records of finished epochs and of scorings."""
        self.epochs, self.scorings = checkpoint["epochs"], checkpoint["scorings"]
        if not all(isinstance(record["seconds"], float) for record in (*self.epochs, *self.scorings)):
            raise ValueError("records of epochs without seconds")
