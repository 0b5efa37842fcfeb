"""Names and choices for readers of results: labels, short texts, and the variants that a page shows first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from aradals.errors import InputError
from aradals.metrics import wilson_interval
from aradals.results.aggregate import places
from aradals.results.failed import join
from aradals.results.records import ClassShare, Condition, Metric, Place, Results, Variant

MAX_SHOWN = 12
"""A page shows at most so many variants; if there are more, it shows the main ones and folds the rest."""

MAX_KEY = 6
"""Number of variants with a figure that is not folded."""

FRACTIONS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 10: "decile"}

TREATMENTS = {"none": "as trained", "temperature": "temperature scaling"}

TWO_SEEDS = "Two seeds give no intervals over seeds, so that no difference is called significant."

PLACES: dict[Place, str] = {"clean": "clean", "all_shifts": "under shift"}

METRIC_NAMES: dict[Metric, str] = {
    "nll": "NLL",
    "brier": "Brier score",
    "brier_calibration": "Brier: calibration",
    "brier_refinement": "Brier: refinement",
    "ece": "ECE",
    "ece_noise_floor": "ECE: noise floor",
    "ece_noise_floor_p95": "ECE: 95 % of noise",
    "binary_ece": "binary ECE",
    "adaptive_ece": "adaptive ECE",
    "classwise_ece": "classwise ECE",
    "mce": "largest bin error",
    "smooth_ece": "smooth ECE",
    "debiased_l2_ece": "debiased L2 ECE",
    "ks_error": "KS error",
    "aurc": "AURC",
    "error_auroc": "AUROC of errors",
    "ood_auroc": "AUROC of other data",
    "coverage_at_error_1": "coverage at 1 % error",
    "coverage_at_error_5": "coverage at 5 % error",
    "subset_noise_floor": "subset error: noise floor",
    "subset_noise_floor_p95": "subset error: 95 % of noise",
    "largest_subset_calibration_error": "largest subset gap",
    "largest_subset_noise_floor": "largest subset gap: noise floor",
    "largest_subset_noise_floor_p95": "largest subset gap: 95 % of noise",
}
"""Names of metrics in tables; other metrics have their own names, with spaces."""


def label(results: Results, variant: Variant) -> str:
    """Name a variant: ``vanilla + temperature scaling``."""
    method = results.method(variant.method).label
    return f"{method} + {treatment(variant.calibrator)}" if variant.is_calibrated else method


def short_label(results: Results, variant: Variant) -> str:
    """Name a variant in a narrow place: ``vanilla + T``."""
    return label(results, variant).replace(" + temperature scaling", " + T")


def treatment(calibrator: str) -> str:
    """Name a calibrator: ``temperature scaling``; ``as trained`` if there is none."""
    return TREATMENTS.get(calibrator) or calibrator.replace("_", " ")


def metric_name(metric: Metric) -> str:
    """Name a metric: ``ECE``."""
    return METRIC_NAMES.get(metric) or metric.replace("_", " ")


def reference(results: Results) -> Variant:
    """Choose the variant to compare with: the reference as trained, or the first variant with rows."""
    wanted = Variant(results.reference)
    if not results.variants:
        raise InputError(expected="results with rows", got="none", hint="results of a run that has not failed")
    return wanted if wanted in results.variants else results.variants[0]


def main_methods(results: Results) -> list[str]:
    """List methods that have rows, and are not variants of another method that has rows."""
    found = list(dict.fromkeys(variant.method for variant in results.variants))
    return [name for name in found if results.method(name).variant_of not in found]


def main_variants(results: Results) -> list[Variant]:
    """List main methods as trained, and the reference with each calibrator, which rivals other training methods."""
    first, main = reference(results).method, main_methods(results)
    return [v for v in results.variants if v.method in main and (not v.is_calibrated or v.method == first)]


def shown_variants(results: Results) -> list[Variant]:
    """List all variants of a small study, or the main ones of a large study."""
    return list(results.variants) if len(results.variants) <= MAX_SHOWN else main_variants(results)


def key_variants(results: Results) -> list[Variant]:
    """List the variants whose figures are not folded; only main variants if there are many."""
    found = results.variants if len(results.variants) <= MAX_KEY else main_variants(results)
    return list(found)[:MAX_KEY]


def shift_name(results: Results) -> str:
    """Name the conditions of the mean under shift: ``4 corruption types, severities 1, 3 and 5``."""
    shifts = results.shifts
    if len(shifts) <= 2:
        return ", ".join(shift.label for shift in shifts)
    types = list(dict.fromkeys(shift.corruption for shift in shifts))
    severities = sorted({shift.severity for shift in shifts})
    if len(types) == 1:
        return f"{types[0].replace('_', ' ')}, {_severities(severities)}"
    full = len(shifts) == len(types) * len(severities)
    return f"{len(types)} corruption types, {_severities(severities) if full else f'{len(shifts)} conditions'}"


def shift_mean(results: Results) -> str:
    """Name the mean: ``mean over 4 corruption types, severities 1 to 5``, or the only condition."""
    return shift_name(results) if len(results.shifts) == 1 else f"mean over {shift_name(results)}"


def other_data(results: Results) -> str:
    """Name the out-of-distribution data: ``svhn, 1,000 examples``."""
    return ", ".join(f"{name}, {count:,} examples" for name, count in results.data.ood.items())


def places_by_name(results: Results) -> dict[str, tuple[Condition, ...]]:
    """Return the conditions of ``clean`` and, if there are shifts, of ``under shift``."""
    return {PLACES[place]: conditions for place, conditions in places(results).items()}


def least_robust(count: int) -> str:
    """Name subset 0: ``least robust decile``, or ``least robust of 7 subsets``."""
    return f"least robust {FRACTIONS[count]}" if count in FRACTIONS else f"least robust of {count} subsets"


def subset_name(subset: int, count: int) -> str:
    """Name a subset: ``subset 0 (least robust)``."""
    ends = {0: " (least robust)", count - 1: " (most robust)"} if count > 1 else {}
    return f"subset {subset}{ends.get(subset, '')}"


def seeds_text(results: Results) -> str:
    """Write ``seed 0``, or ``3 seeds``."""
    return f"seed {results.seeds[0]}" if len(results.seeds) == 1 else f"{len(results.seeds)} seeds"


def share_interval(row: ClassShare, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's interval for a class's share of the least robust subset."""
    if not row.share > 0:
        return math.nan, math.nan
    low, high = wilson_interval(torch.tensor(row.n), torch.tensor(round(row.n / row.share)), level=level)
    return float(low), float(high)


def threshold_text(threshold: float) -> str:
    """Write a confidence, rounded up, to three digits of its distance from 1: ``0.845``, ``0.99272``, ``0.999985``."""
    digits = 2 if threshold >= 1 else max(3, 2 - math.floor(math.log10(1 - threshold)))
    up = math.ceil(round(threshold * 10**digits, 6)) / 10**digits
    return f"{up:.{digits}f}".rstrip("0").rstrip(".")


def _severities(severities: Sequence[int]) -> str:
    if len(severities) > 2 and severities[-1] - severities[0] == len(severities) - 1:
        return f"severities {severities[0]} to {severities[-1]}"
    words = "severity" if len(severities) == 1 else "severities"
    return f"{words} {join([str(severity) for severity in severities])}"
