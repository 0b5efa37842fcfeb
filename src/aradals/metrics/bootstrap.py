"""Resampling of examples: all metrics and all models use the same draws."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from aradals.checks import check_subsets
from aradals.errors import InputError
from aradals.metrics.noise_floor import chunk_sizes
from aradals.metrics.outcomes import assign_bins, membership, outcomes, subset_membership
from aradals.metrics.selective import aurc_terms, auroc_terms, ranked_auroc

KEPT_COUNTS = 2**24
"""Largest number of resampling counts that are kept for the next call: 16 MB."""


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
    examples = outcomes(labels, logits=logits).cpu()
    ranking = examples.ranking
    columns = {
        "accuracy": examples.correct,
        "confidence": examples.confidence,
        "nll": examples.nll,
        "brier": examples.brier,
        "aurc": aurc_terms(ranking),
        "error_auroc": auroc_terms(ranking, ranked_auroc(ranking)),
    }
    gap = examples.gap[:, None]
    bins = membership(assign_bins(examples.confidence, num_bins), num_bins)
    if subsets is None:
        members = bins[:, :0]
    else:
        check_subsets(subsets, len(gap))
        members = subset_membership(subsets.cpu())

    means = torch.stack(list(columns.values()), 1)
    resampled = resample_means(torch.cat([means, gap * bins, gap * members, members], 1), num_resamples, seed)
    sizes = (len(columns), num_bins, members.shape[1], members.shape[1])
    means, bin_gaps, subset_gaps, subset_shares = resampled.split(sizes, 1)
    values = dict(zip(columns, means.T.contiguous(), strict=True))
    values["ece"] = bin_gaps.abs().sum(1)
    if subsets is not None:
        values["subset_calibration_error"] = (subset_gaps / subset_shares).abs().nanmean(1)
    if metrics is None:
        metrics = [name for name in values if name not in ("aurc", "error_auroc")]
    unknown = [name for name in metrics if name not in values]
    if unknown:
        raise InputError(
            expected="metrics among " + ", ".join(values),
            got=", ".join(unknown),
            hint="one of these metrics, or passing subsets= for the subset calibration error",
        )
    return {name: values[name] for name in metrics}


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
