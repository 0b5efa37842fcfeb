"""The subsets that a method trains with, before it starts: by robustness, confidence, chance, or a column."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aradals.data import load_column
from aradals.errors import InputError
from aradals.pipeline.artifacts import settings_digest
from aradals.pipeline.config import ColumnSubsets, RandomSubsets, RankedSubsets
from aradals.pipeline.score import scores_of
from aradals.smoothing.subsets import (
    assign_subsets,
    column_subsets,
    fold_of,
    match_subsets,
    random_subsets,
    subset_thresholds,
)

if TYPE_CHECKING:
    from aradals.pipeline.study.seed import SeedRun

ReadySubsets = RankedSubsets | RandomSubsets | ColumnSubsets
"""Subsets that are known before training."""


@dataclass(frozen=True)
class TrainingSubsets:
    """Subset of each example, int64, in the order of its split.

    Attributes:
        train: of the training split.
        validation: of the validation split.
        tables: score tables that they come from.
        scorers: checkpoints of the models that scored, but for those that the recipe gives.
    """

    train: Tensor
    validation: Tensor
    tables: list[Path] = field(default_factory=list)
    scorers: list[Path] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Of which example is in which subset."""
        return settings_digest([self.train.tolist(), self.validation.tolist()])


def training_subsets(run: SeedRun, settings: ReadySubsets) -> TrainingSubsets:
    """The subsets of the training and of the validation split, as the method's settings say."""
    match settings:
        case RandomSubsets(count):
            train, validation = run.splits.train.ids, run.splits.validation.ids
            return TrainingSubsets(random_subsets(train, count, run.seed), random_subsets(validation, count, run.seed))
        case ColumnSubsets():
            return _by_column(run, settings)
        case RankedSubsets(folds=2):
            return _cross_fitted(run, settings)
        case RankedSubsets():
            return _ranked(run, settings)


def _ranked(run: SeedRun, settings: RankedSubsets) -> TrainingSubsets:
    """Both splits scored by the scoring model of the seed."""
    train, validation = run.splits.train, run.splits.validation
    tables = [run.scores(split, attack=attack_of(settings)) for split in ("train", "validation")]
    scores = [scores_of(table, split.ids) for table, split in zip(tables, (train, validation), strict=True)]
    return TrainingSubsets(
        _matched(scores[0], train.ids, scores[1], settings),
        assign_subsets(scores[1], settings.count, validation.ids),
        tables,
        [] if run.config.scoring.checkpoint else [run.scorer()],
    )


def attack_of(settings: RankedSubsets) -> str | None:
    """The score that ranks examples, where it is another than the recipe's."""
    return "log_odds" if settings.by == "confidence" else None


def _matched(train_scores: Tensor, train_ids: Tensor, validation_scores: Tensor, settings: RankedSubsets) -> Tensor:
    """Training subsets: by rank, or by the thresholds between the validation subsets."""
    if settings.matching == "thresholds":
        return match_subsets(train_scores, subset_thresholds(validation_scores, settings.count))
    return assign_subsets(train_scores, settings.count, train_ids)


def _cross_fitted(run: SeedRun, settings: RankedSubsets) -> TrainingSubsets:
    """Each half of the training split scored by a model that was trained on the other half.

    Two models' scores are not on one scale, so training examples are grouped within their half. Validation examples,
    which both models score, are grouped by the mean of their two ranks.
    """
    train, validation = run.splits.train, run.splits.validation
    attack = attack_of(settings)
    folds = fold_of(train.ids, run.seed)
    subsets = torch.empty(len(train), dtype=torch.int64)
    ranks = torch.zeros_like(validation.ids)
    tables: list[Path] = []
    for fold in (0, 1):
        half = train.ids[folds == fold]
        own = [run.scores(split, attack=attack, fold=fold) for split in ("train", "validation")]
        validation_scores = scores_of(own[1], validation.ids)
        subsets[folds == fold] = _matched(scores_of(own[0], half), half, validation_scores, settings)
        ranks += assign_subsets(validation_scores, len(validation), validation.ids)  # each a subset of its own
        tables += own
    return TrainingSubsets(
        subsets,
        assign_subsets(ranks, settings.count, validation.ids),
        tables,
        [run.fold_scorer(fold) for fold in (0, 1)],
    )


def _by_column(run: SeedRun, settings: ColumnSubsets) -> TrainingSubsets:
    """One subset for each value of a column of categories, or the ranks of a column of numbers with a fraction."""
    train, validation, count = run.splits.train, run.splits.validation, settings.count
    values = load_column(run.config.data_sets[0], "train", settings.column)
    if values.dtype.kind == "f":
        scores = torch.tensor(values)
        return TrainingSubsets(
            assign_subsets(scores[train.ids], count, train.ids),
            assign_subsets(scores[validation.ids], count, validation.ids),
        )
    subsets, names = column_subsets(values)
    if len(names) != count:
        raise InputError(
            expected=f"count={len(names)}, one for each value of the column {settings.column}",
            got=str(count),
            hint=f"count={len(names)}",
        )
    return TrainingSubsets(subsets[train.ids], subsets[validation.ids])
