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
from aradals.pipeline.config import MethodConfig
from aradals.pipeline.score import scores_of
from aradals.pipeline.study.checks import data_sets
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


def training_subsets(run: SeedRun, settings: MethodConfig) -> TrainingSubsets:
    """Make the subsets of the training and validation split by the method's settings."""
    train, validation, count = run.splits.train, run.splits.validation, settings.num_subsets
    if settings.grouping == "random":
        return TrainingSubsets(
            random_subsets(train.ids, count, run.seed), random_subsets(validation.ids, count, run.seed)
        )
    if settings.grouping == "column":
        return _by_column(run, settings)
    if settings.cross_fit:
        return _cross_fitted(run, settings)
    tables = [run.scores(split, attack=attack_of(settings)) for split in ("train", "validation")]
    scores = [scores_of(table, split.ids) for table, split in zip(tables, (train, validation), strict=True)]
    return TrainingSubsets(
        _matched(scores[0], train.ids, scores[1], settings),
        assign_subsets(scores[1], count, validation.ids),
        tables,
        [] if run.config.scoring.checkpoint else [run.scorer()],
    )


def attack_of(settings: MethodConfig) -> str | None:
    """Return the score that ranks examples, if it differs from the recipe's score."""
    return "log_odds" if settings.grouping == "confidence" else None


def _matched(train_scores: Tensor, train_ids: Tensor, validation_scores: Tensor, settings: MethodConfig) -> Tensor:
    """Training subsets: by rank, or by the thresholds between the validation subsets."""
    if settings.matching == "thresholds":
        return match_subsets(train_scores, subset_thresholds(validation_scores, settings.num_subsets))
    return assign_subsets(train_scores, settings.num_subsets, train_ids)


def _cross_fitted(run: SeedRun, settings: MethodConfig) -> TrainingSubsets:
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
        assign_subsets(ranks, settings.num_subsets, validation.ids),
        tables,
        [run.fold_scorer(fold) for fold in (0, 1)],
    )


def _by_column(run: SeedRun, settings: MethodConfig) -> TrainingSubsets:
    """One subset for each value of a column of categories, or the ranks of a column of numbers with a fraction."""
    assert settings.group_column is not None
    train, validation, count = run.splits.train, run.splits.validation, settings.num_subsets
    values = load_column(data_sets(run.config)[0], "train", settings.group_column)
    if values.dtype.kind == "f":
        scores = torch.tensor(values)
        return TrainingSubsets(
            assign_subsets(scores[train.ids], count, train.ids),
            assign_subsets(scores[validation.ids], count, validation.ids),
        )
    subsets, names = column_subsets(values)
    if len(names) != count:
        raise InputError(
            expected=f"num_subsets={len(names)}, one for each value of the column {settings.group_column}",
            got=str(count),
            hint=f"num_subsets={len(names)}",
        )
    return TrainingSubsets(subsets[train.ids], subsets[validation.ids])
