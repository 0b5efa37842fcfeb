"""Resampling of examples: all metrics and all models use the same draws."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from aradals.checks import Values, check_subsets
from aradals.errors import InputError
from aradals.metrics.noise_floor import chunk_sizes
from aradals.metrics.outcomes import Outcomes, assign_bins, membership, outcomes, subset_membership
from aradals.metrics.selective import aurc_terms, auroc_terms, ranked_auroc

MEANS = ("accuracy", "confidence", "nll", "brier")
"""Metrics that are means over examples."""

LINEARIZED = ("aurc", "error_auroc")
"""Metrics that are means to first order in the resampling."""

MIN_EXAMPLES = 50
"""The least number of examples whose resamples give an interval; ``docs/metrics.md`` has the coverage with fewer."""

KEPT_COUNTS = 2**24
"""Largest number of resampling counts that are kept for the next call: 16 MB."""


def resampled_metrics(
    labels: Values,
    *,
    logits: Values,
    subsets: Values | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
    metrics: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Compute the plain metrics on each of many resamples of the examples.

    Two models on the same N examples in the same order get the same resamples (for the same seed). The difference of
    their results is therefore a paired bootstrap of the difference. See `compare_methods`.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K).
        subsets: integer >= 0, shape (N,); adds the subset calibration error.
        num_bins: bins of the ECE.
        num_resamples: B, the number of resamples.
        seed: seed of the resamples.
        metrics: the keys to return; by default all except ``aurc`` and ``error_auroc``.

    Returns:
        Keys ``accuracy, confidence, nll, brier, ece``; with subsets also ``subset_calibration_error``; on request also
        ``aurc`` and ``error_auroc``, which are exact to first order in the resampling. Values are float64, shape (B,).
        The subset calibration error of a resample is the mean over the subsets that have examples in the resample.

    Raises:
        InputError: see `outcomes`; wrong ``subsets``; a metric that is unknown, or that needs subsets.
    """
    examples = outcomes(labels, logits=logits)
    subsets = None if subsets is None else check_subsets(subsets, len(labels))
    columns = metric_columns(examples, subsets, num_bins)
    values = replicates(Bootstrap(num_resamples, seed=seed).resample(columns))
    if metrics is None:
        metrics = [name for name in values if name not in LINEARIZED]
    unknown = [name for name in metrics if name not in values]
    if unknown:
        raise InputError(
            expected="metrics among " + ", ".join(values),
            got=", ".join(unknown),
            hint="one of these metrics, or passing subsets= for the subset calibration error",
        )
    return {name: values[name] for name in metrics}


def metric_columns(examples: Outcomes, subsets: Tensor | None, num_bins: int) -> dict[str, Tensor]:
    """Compute the columns whose means give the plain metrics: one row for each example, float64, shape (N, C) each.

    Raises:
        InputError: ``subsets`` are wrong.
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
    """Settings of the resamples, and the nominal coverage of their intervals.

    Raises:
        InputError: ``level`` is not in (0, 1), or there are fewer than 2 resamples.
    """

    num_resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.num_resamples < 2:
            raise InputError(
                expected="level in (0, 1) and num_resamples >= 2",
                got=f"level={self.level} and num_resamples={self.num_resamples}",
                hint="level=0.95 and num_resamples=1000",
            )

    def resample(self, columns: Mapping[str, Tensor]) -> Resampled:
        """Compute means of columns of shape (N, C) each, on all examples and on resamples, which all columns share."""
        table, widths = torch.cat(list(columns.values()), 1), [column.shape[1] for column in columns.values()]
        resampled = resample_means(table, self.num_resamples, self.seed)
        means, parts = table.mean(0).split(widths), resampled.split(widths, 1)
        return Resampled(dict(zip(columns, means, strict=True)), dict(zip(columns, parts, strict=True)))


@dataclass(frozen=True)
class Resampled:
    """Means of named columns.

    Attributes:
        means: means over the examples, shape (C,) each.
        resampled: means over each resample of the examples, shape (B, C) each.
    """

    means: dict[str, Tensor]
    resampled: dict[str, Tensor]

    def gaps(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the means of columns, and the deviations of the resamples from these means."""
        return self.means[name], self.resampled[name] - self.means[name]


def replicates(sample: Resampled) -> dict[str, Tensor]:
    """Compute the plain metrics of each resample, float64, shape (B,), from resamples of `metric_columns`."""
    found = sample.resampled
    values = {name: found[name][:, 0].contiguous() for name in (*MEANS, *LINEARIZED)}
    values["ece"] = found["width_gaps"].abs().sum(1)
    if "subset_gaps" in found:
        values["subset_calibration_error"] = (found["subset_gaps"] / found["subset_shares"]).abs().nanmean(1)
    return values


def resample_means(columns: Tensor, num_resamples: int, seed: int) -> Tensor:
    """Compute column means of resamples with replacement; (N, C) -> (num_resamples, C).

    A resample is a vector of multinomial counts, so that all columns cost only one matrix product.
    """
    n = len(columns)
    # Most calls of one study have the same number of examples. Their counts are drawn once, if they are not too large.
    draw = _kept_counts if num_resamples * n <= KEPT_COUNTS else _drawn_counts
    return torch.cat([counts.double() @ columns / n for counts in draw(n, num_resamples, seed)])


@lru_cache(maxsize=4)
def _kept_counts(n: int, num_resamples: int, seed: int) -> list[Tensor]:
    # A count fits into one byte: the chance that an example is drawn 256 times is below 1e-500, and 0 for n < 256.
    return [counts.byte() for counts in _drawn_counts(n, num_resamples, seed)]


def _drawn_counts(n: int, num_resamples: int, seed: int) -> Iterator[Tensor]:
    """Draw the number of times that each of n examples is in each resample, in chunks of shape (rows, n)."""
    generator = torch.Generator().manual_seed(seed)
    for rows in chunk_sizes(num_resamples, n):
        drawn = torch.randint(n, (rows, n), generator=generator)
        drawn += n * torch.arange(rows)[:, None]
        yield torch.bincount(drawn.view(-1), minlength=rows * n).view(rows, n)
