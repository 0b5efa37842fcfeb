"""All metrics of a set of predictions, from one softmax and one sort."""

from __future__ import annotations

from aradals.checks import Values
from aradals.metrics.calibration import (
    binary_gap,
    debiased_l2_gap,
    equal_mass_sums,
    equal_width_sums,
    largest_abs_gap,
    largest_cumulative_gap,
    mean_abs_gap,
    mean_class_gap,
)
from aradals.metrics.outcomes import ClassGaps, Outcomes, outcomes_and_class_gaps
from aradals.metrics.proper import brier_calibration_part, brier_refinement_part
from aradals.metrics.selective import largest_coverage, most_confident, ranked_auroc, selective_risk
from aradals.metrics.smooth import grid_gaps, smooth_error


def all_metrics(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    num_bins: int = 15,
    coverage: float = 0.9,
) -> dict[str, float]:
    """Compute every metric of this package that needs only labels and predictions, with the keys of `summarize`.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        num_bins: bins of all binned metrics.
        coverage: the coverage of ``accuracy_at_coverage_<percent>``.

    Returns:
        The metric of each key of `family`, ``binary_ece`` only for two classes. ``nll`` is inf if a label has
        probability 0; ``error_auroc`` is NaN if all predictions are right or all are wrong.

    Raises:
        InputError: see `outcomes`; a wrong ``num_bins`` or ``coverage``.
    """
    examples, gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=num_bins)
    return family(examples, gaps, coverage=coverage)


def family(examples: Outcomes, gaps: ClassGaps, *, coverage: float = 0.9) -> dict[str, float]:
    """Compute `all_metrics` from known outcomes, with the bins of ``gaps``."""
    num_examples, num_bins = len(examples.confidence), gaps.gap.shape[1]
    width_bins = equal_width_sums(examples.confidence, examples.correct, num_bins)
    mass_bins = equal_mass_sums(examples.ranking, num_bins)
    return {
        "accuracy": float(examples.correct.mean()),
        "confidence": float(examples.confidence.mean()),
        "nll": float(examples.nll.mean()),
        "brier": float(examples.brier.mean()),
        "brier_calibration": brier_calibration_part(gaps, num_examples),
        "brier_refinement": brier_refinement_part(examples, gaps),
        "ece": mean_abs_gap(width_bins),
        **({"binary_ece": binary_gap(gaps, num_examples)} if len(gaps.gap) == 2 else {}),
        "adaptive_ece": mean_abs_gap(mass_bins),
        "classwise_ece": mean_class_gap(gaps, num_examples),
        "mce": largest_abs_gap(width_bins),
        "smooth_ece": smooth_error(grid_gaps(examples.confidence, examples.gap) / num_examples),
        "debiased_l2_ece": debiased_l2_gap(mass_bins),
        "ks_error": largest_cumulative_gap(examples.ranking),
        "aurc": float(selective_risk(examples.ranking).mean()),
        "error_auroc": ranked_auroc(examples.ranking),
        coverage_key(coverage): float(most_confident(examples.ranking, coverage).mean()),
        "coverage_at_error_1": largest_coverage(examples.ranking, 0.01),
        "coverage_at_error_5": largest_coverage(examples.ranking, 0.05),
    }


def coverage_key(coverage: float) -> str:
    """Return the key of the accuracy at a coverage; it contains the coverage in percent."""
    return f"accuracy_at_coverage_{100 * coverage:g}"
