"""The model in training as its own scoring model, so that the subsets need no second model."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from aradals.data import Examples
from aradals.errors import InputError, TrainingFailed
from aradals.pipeline.train.batches import part_of
from aradals.pipeline.train.module import AdaptiveClassifier, by_id
from aradals.robustness.scores import score, score_together
from aradals.smoothing.subsets import assign_subsets

ATTACK = "first_order_margin"


class SelfScoring(Callback):
    """Callback that scores the training and the validation split every few epochs, and cuts new subsets.

    The callback scores before an epoch, not after one. So scoring comes before the module seeds the epoch, and changes
    no random number of the training. Scoring also comes after the finished epoch is saved, so that a training that is
    killed in a scoring continues from there, and scores again with the same weights. No scoring follows the last epoch,
    because no training would use the scores.

    If several processes train together, each scores a part of the splits, and all cut the same subsets from all scores.

    Args:
        train: the training split, which is scored without augmentation.
        validation: the validation split.
        every: epochs between two scorings.
        log: called with a line for each scoring.
        shape: targets of the subsets from the first scoring on, shape (R,); None if a rule changes the targets.
    """

    def __init__(
        self,
        train: Examples,
        validation: Examples,
        every: int,
        log: Callable[[str], None],
        shape: Tensor | None = None,
    ) -> None:
        self.train, self.validation, self.every = train, validation, every
        self.log_line, self.shape = log, shape

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score if a scoring is due, and record its cost.

        Raises:
            TrainingFailed: the model cannot be scored, because it predicts the same for every input.
        """
        assert isinstance(pl_module, AdaptiveClassifier)
        epoch = pl_module.current_epoch
        if epoch == 0 or epoch % self.every:
            return
        started = time.perf_counter()
        model, num_subsets = pl_module.model, pl_module.criterion.num_subsets
        parts = [part_of(split, trainer.global_rank, trainer.world_size) for split in (self.train, self.validation)]
        try:
            with trainer.precision_plugin.forward_context():
                tables = [score_together(partial(score, model, part.batches(), ATTACK)) for part in parts]
        except InputError as error:
            raise TrainingFailed(f"the model cannot score itself after epoch {epoch}: {error}") from error
        for subsets, table in zip((pl_module.train_subsets, pl_module.validation_subsets), tables, strict=True):
            subsets.copy_(by_id(table.ids, assign_subsets(table.ranking, num_subsets, table.ids)))
        if self.shape is not None:
            pl_module.criterion.target_prob.copy_(self.shape)
        scoring = {
            "epoch": epoch,
            "seconds": time.perf_counter() - started,
            "num_forward": sum(int(table.num_forward.sum()) for table in tables),
            "num_backward": sum(int(table.num_backward.sum()) for table in tables),
            "num_failed": sum(table.num_failed for table in tables),
        }
        pl_module.scorings.append(scoring)
        sizes = " + ".join(f"{len(table):,}" for table in tables)
        failed = f", {scoring['num_failed']:,} without a gradient" if scoring["num_failed"] else ""
        if any(table.by_margin for table in tables):
            failed += "; too many, so that the logit margin ranks instead"
        share = scoring["seconds"] / pl_module.epochs[-1]["seconds"]
        self.log_line(
            f"scored {sizes} examples by {ATTACK} in {scoring['seconds']:.1f} s ({share:.1f} epochs' worth){failed}"
        )
