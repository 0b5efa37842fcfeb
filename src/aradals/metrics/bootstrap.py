"""Resampling of examples: one draw for all metrics, the same for all models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from aradals.checks import check_subsets
from aradals.errors import InputError
from aradals.metrics.noise_floor import chunk_sizes
from aradals.metrics.outcomes import Outcomes, assign_bins, membership, outcomes, subset_membership
from aradals.metrics.selective import aurc_terms, auroc_terms, ranked_auroc

MEANS = ("accuracy", "confidence", "nll", "brier")
"""Metrics that are means over examples."""

LINEARIZED = ("aurc", "error_auroc")
"""Metrics that are so to first order in the resampling."""

KEPT_COUNTS = 2**24
"""Counts of resamples that are kept for the next call: 16 MB."""


def resampled_metrics(
    labels: Tensor,
    *,
    logits: Tensor,
    subsets: Tensor | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
    metrics: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The plain metrics on each of many resamples of the examples.

    Two models on the same N examples in the same order see the same resamples (given one seed), so that the
    difference of their results is the paired bootstrap of the difference. See `compare_methods`.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K).
        subsets: integer >= 0, shape (N,); adds the subset calibration error.
        num_bins: bins of the ECE.
        num_resamples: B, the number of resamples.
        seed: of the resamples.
        metrics: the keys that are wanted; by default all but ``aurc`` and ``error_auroc``.

    Returns:
        Keys ``accuracy, confidence, nll, brier, ece``, with subsets ``subset_calibration_error``, and where they are
        asked for ``aurc`` and ``error_auroc``, these two to first order in the resampling; float64, shape (B,). In a
        resample the subset calibration error is the mean over the subsets that it holds.

    Raises:
        InputError: see `outcomes`; wrong ``subsets``; a metric that is unknown, or that needs subsets.
    """
    examples = outcomes(labels, logits=logits)
    columns = metric_columns(examples, subsets, num_bins)
    values = replicates(Bootstrap(num_resamples, seed=seed).resample(columns))
    if metrics is None:
        metrics = [name for name in values if name not in LINEARIZED]
    unknown = [name for name in metrics if name not in values]
    if unknown:
        raise InputError(
            expected="metrics among " + ", ".join(values),
            got=", ".join(unknown),
            hint="these, or subsets= for the subset calibration error",
        )
    return {name: values[name] for name in metrics}


def metric_columns(examples: Outcomes, subsets: Tensor | None, num_bins: int) -> dict[str, Tensor]:
    """The columns whose means make the plain metrics: one row for each example, float64, shape (N, C) each.

    Raises:
        InputError: wrong ``subsets``.
    """
    if subsets is not None:
        check_subsets(subsets, len(examples.confidence))
    examples = examples.cpu()
    gap, ranking = examples.gap[:, None], examples.ranking
    columns = {
        "accuracy": examples.correct[:, None],
        "confidence": examples.confidence[:, None],
        "nll": examples.nll[:, None],
        "brier": examples.brier[:, None],
        "aurc": aurc_terms(ranking)[:, None],
        "error_auroc": auroc_terms(ranking, ranked_auroc(ranking))[:, None],
        "width_gaps": gap * membership(assign_bins(examples.confidence, num_bins), num_bins),
    }
    if subsets is not None:
        members = subset_membership(subsets.cpu())
        columns |= {"subset_gaps": gap * members, "subset_shares": members}
    return columns


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of the examples, and the nominal coverage of the intervals that they give.

    Raises:
        InputError: a ``level`` that is not in (0, 1), or fewer than 2 resamples.
    """

    num_resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.num_resamples < 2:
            raise InputError(
                expected="level in (0, 1) and num_resamples >= 2",
                got=f"{self.level} and {self.num_resamples}",
                hint="0.95 and 1000",
            )

    def resample(self, columns: Mapping[str, Tensor]) -> Resampled:
        """The means of columns of shape (N, C) each, and those of their resamples, the same for all columns."""
        table, widths = torch.cat(list(columns.values()), 1), [column.shape[1] for column in columns.values()]
        resampled = resample_means(table, self.num_resamples, self.seed)
        means, parts = table.mean(0).split(widths), resampled.split(widths, 1)
        return Resampled(dict(zip(columns, means, strict=True)), dict(zip(columns, parts, strict=True)))


@dataclass(frozen=True)
class Resampled:
    """Means of named columns.

    Attributes:
        means: over the examples, shape (C,) each.
        resampled: over each resample of the examples, shape (B, C) each.
    """

    means: dict[str, Tensor]
    resampled: dict[str, Tensor]

    def gaps(self, name: str) -> tuple[Tensor, Tensor]:
        """The means of columns, and the deviations of the resamples from them."""
        return self.means[name], self.resampled[name] - self.means[name]


def replicates(sample: Resampled) -> dict[str, Tensor]:
    """The plain metrics of each resample, float64, shape (B,), from resamples of `metric_columns`."""
    found = sample.resampled
    values = {name: found[name][:, 0].contiguous() for name in (*MEANS, *LINEARIZED)}
    values["ece"] = found["width_gaps"].abs().sum(1)
    if "subset_gaps" in found:
        values["subset_calibration_error"] = (found["subset_gaps"] / found["subset_shares"]).abs().nanmean(1)
    return values


def resample_means(columns: Tensor, num_resamples: int, seed: int) -> Tensor:
    """Column means of resamples with replacement; (N, C) -> (num_resamples, C).

    A resample is a vector of multinomial counts, so all columns cost one matrix product.
    """
    n = len(columns)
    # Rows of one study have the same few numbers of examples: their counts are drawn once, if they are not too large.
    draw = _kept_counts if num_resamples * n <= KEPT_COUNTS else _drawn_counts
    return torch.cat([counts.double() @ columns / n for counts in draw(n, num_resamples, seed)])


@lru_cache(maxsize=4)
def _kept_counts(n: int, num_resamples: int, seed: int) -> list[Tensor]:
    # In one byte: the chance that an example is drawn 256 times is below 1e-500, and 0 for n < 256.
    return [counts.byte() for counts in _drawn_counts(n, num_resamples, seed)]


def _drawn_counts(n: int, num_resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each of n examples is in each resample, a few resamples at a time; shape (rows, n)."""
    generator = torch.Generator().manual_seed(seed)
    for rows in chunk_sizes(num_resamples, n):
        drawn = torch.randint(n, (rows, n), generator=generator)
        drawn += n * torch.arange(rows)[:, None]
        yield torch.bincount(drawn.view(-1), minlength=rows * n).view(rows, n)
