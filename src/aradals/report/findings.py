"""The verdict of a report: the examples with wrong confidence, the cure, and the certainty of both.

These are the rules. A gap is called over- or underconfidence only if its 95 % interval excludes zero. A variant is
called better only if the difference is significant, see `aradals.results.aggregate.relation`. Calibration is judged by
the subset calibration error on clean data, because opposite gaps of different subsets cancel in the ECE; without
robustness subsets, the ECE decides. A variant that is significantly less accurate is not recommended. Among the other
variants, the best one is recommended if it is significantly better than the reference. The best calibrator of the
reference, which costs no training, comes before it if the difference between these two is not significant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from aradals.metrics import min_accepted
from aradals.report.view import (
    TWO_SEEDS,
    label,
    least_robust,
    other_data,
    reference,
    share_interval,
    threshold_text,
    treatment,
)
from aradals.results.aggregate import difference, is_noise, measure, places, relation, relative_cost
from aradals.results.failed import describe_failed, describe_lost_searches, join
from aradals.results.records import ClassShare, Measure, Metric, Place, Results, Threshold, Variant
from aradals.robustness.audit import describe_audit

WARNING = "Warning: "
"""Start of a sentence that the reader must not miss."""

MAX_GAP = 0.5
"""A larger gap between confidence and accuracy is more probably a mistake than a finding."""

MAX_NAMED = 2
"""Largest number of cases that a warning names for one kind of problem."""

ERRORS: dict[Metric, str] = {"ece": "ECE", "subset_calibration_error": "subset calibration error"}


@dataclass(frozen=True)
class Verdict:
    """The first lines of a report.

    Attributes:
        sentences: about the problem, the cure, and the certainty of both; a cure that works comes first.
        reference: the variant with the problem.
        best: the variant that is recommended instead, or else the best other variant; None if there is no other.
        warnings: one sentence for each kind of problem, which starts with `WARNING`.
        notes: further sentences.
        names: what each of the three sentences is about.
    """

    sentences: list[str]
    reference: Variant
    best: Variant | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ("What is wrong", "What to do", "How sure")


def verdict(results: Results) -> Verdict:
    """Judge results that have rows."""
    first = reference(results)
    doubts = [*(_doubts(results, first) if results.kind != "study" else ()), *_searches(results, lost=True)]
    if results.kind == "diagnosis":
        warned = [text] if results.audit and (text := describe_audit(results.audit)).startswith(WARNING) else []
        thresholds = _threshold_sentences(results, first)
        notes = [*_class_sentence(results), *thresholds, *_searches(results, lost=False)]
        sentences = [_gap_sentence(results, first), _advice_for_one(results, first), _scope_of_one(results)]
        return Verdict(sentences, first, None, [*doubts, *warned], notes)
    best, is_better = recommend(results)
    advice = _advice_for_one(results, first)
    if len(results.variants) > 1:
        advice = _advice(results, first, best if is_better else None)
    said = (_gap_sentence(results, first), advice, _scope(results))
    order = (1, 0, 2) if is_better else (0, 1, 2)
    accepting = best if best and best.method == first.method else first
    notes = [
        *_threshold_sentences(results, accepting),
        *_ood_sentence(results, accepting),
        *_searches(results, lost=False),
    ]
    warned, names = [*doubts, *_warnings(results)], tuple(Verdict.names[place] for place in order)
    return Verdict([said[place] for place in order], first, best, warned, notes, names)


def recommend(results: Results) -> tuple[Variant | None, bool]:
    """Choose the variant to use instead of the reference, and say whether it is significantly better calibrated."""
    first, metric = reference(results), judged_by(results)
    errors = {
        variant: error.value
        for variant in results.variants
        if variant != first
        and relation(results, variant, first, "accuracy") >= 0
        and (error := measure(results, variant, metric)).known
    }
    if not errors:
        return None, False
    best = min(errors, key=errors.__getitem__)
    cures = [variant for variant in errors if variant.method == first.method]
    cure = min(cures, key=errors.__getitem__, default=best)
    if relation(results, cure, first, metric) < 0 and relation(results, best, cure, metric) >= 0:
        return cure, True
    return best, relation(results, best, first, metric) < 0


def judged_by(results: Results) -> Metric:
    """Return the calibration error that decides."""
    return "subset_calibration_error" if results.num_subsets > 1 else "ece"


def outstanding_classes(results: Results) -> list[ClassShare]:
    """List classes that are over-represented in the least robust subset beyond chance.

    For such a class, the Wilson interval of its share, at a level of 1 - 0.05/K for K tested classes (Bonferroni), is
    above its share of all examples.
    """
    level = 1 - 0.05 / max(1, results.data.num_classes)
    return [row for row in results.least_robust_classes if share_interval(row, level=level)[0] > row.base_share]


def _gap_sentence(results: Results, variant: Variant) -> str:
    """Name the examples for which the confidence of a variant is wrong."""
    name, overall = label(results, variant), measure(results, variant, "gap")
    if results.num_subsets < 2:
        return f"On all {results.num_examples:,} examples, {name} {_gap_words(overall)}."
    where = f"the {least_robust(results.num_subsets)} of the examples"
    worst = measure(results, variant, "gap", subset=0)
    return f"On {where}, {name} {_gap_words(worst)}; on all examples, it {_gap_words(overall)}."


def _ood_sentence(results: Results, variant: Variant) -> list[str]:
    """Say how well the confidence of a variant distinguishes other data from the evaluated examples."""
    auroc = measure(results, variant, "ood_auroc")
    if not auroc.known:
        return []
    return [
        f"Other data ({other_data(results)}): {label(results, variant)} has more confidence in an evaluated example "
        f"than in one of these with a probability of {100 * auroc.value:.1f} % {_interval(auroc, 100, 1)}. "
        "This is the AUROC."
    ]


def _gap_words(gap: Measure) -> str:
    """Write ``is overconfident by 5.3 points (95 % interval 1.0 to 10.9)``."""
    if not gap.has_interval:
        return f"has a gap between confidence and accuracy of {100 * gap.value:+z.1f} points (no interval)"
    if not gap.sign:
        return f"has no significant gap between confidence and accuracy {_interval(gap, 100, 1)}"
    word = "overconfident" if gap.sign > 0 else "underconfident"
    return f"is {word} by {100 * abs(gap.value):.1f} points {_interval(gap.size, 100, 1)}"


def _advice(results: Results, first: Variant, best: Variant | None) -> str:
    """Recommend a variant, with its cost and its effect."""
    metric, name = judged_by(results), label(results, first)
    if best is None:
        return f"Keep {name}: no other variant significantly lowers the {_error(results, first, metric)}."
    use, cost = label(results, best), relative_cost(results, best.method)
    if best.method == first.method:
        others = len({variant.method for variant in results.variants}) > 1
        beside = ", and no other training method is significantly better" if others else ""
        use = f"{treatment(best.calibrator)}, which costs no training{beside}"
    elif math.isfinite(cost):
        use += f", which takes {cost:.1f} times the training time"
    error = ", ".join(filter(None, [ERRORS[metric], _noise(results, first, metric)]))
    effect = (
        f"it lowers the mean gap between confidence and accuracy ({error}) of {name} "
        f"{_change(results, best, first, metric, 'clean')}"
    )
    if results.shifts:
        change = _change(results, best, first, metric, "all_shifts")
        effect += {
            -1: f", and under shift {change}",
            0: ", and under shift it does not change it significantly",
            1: f", and under shift it raises it {change}",
        }[relation(results, best, first, metric, "all_shifts")]
    return f"Use {use}: {effect}."


def _error(results: Results, variant: Variant, metric: Metric) -> str:
    """Write ``ECE of vanilla (0.020 and more than noise)``."""
    error = measure(results, variant, metric)
    words = " and ".join(filter(None, [f"{error.value:.3f}", _noise(results, variant, metric)]))
    known = f" ({words})" if error.known else ""
    return f"{ERRORS[metric]} of {label(results, variant)}{known}"


def _noise(results: Results, variant: Variant, metric: Metric) -> str:
    """Say how an error compares with its noise floor; empty if the floor is unknown."""
    return {True: "within noise", False: "more than noise", None: ""}[is_noise(results, variant, metric)]


def _change(results: Results, best: Variant, first: Variant, metric: Metric, place: Place) -> str:
    """Write ``from 4.1 to 2.1 points (95 % interval of the difference 1.2 to 2.8)``, if the pair was compared."""
    conditions = places(results)[place]
    before, after = (measure(results, each, metric, conditions=conditions).value for each in (first, best))
    change = f"from {100 * before:.1f} to {100 * after:.1f} points"
    if (paired := difference(results, best, first, metric, place)).has_interval:
        low, high = 100 * paired.size.low, 100 * paired.size.high
        change += f" (95 % interval of the difference {low:z.1f} to {high:z.1f})"
    return change


def _advice_for_one(results: Results, variant: Variant) -> str:
    """Recommend a cure for a single model, which was compared with no other."""
    metrics: list[Metric] = [judged_by(results), "ece"]
    if all(is_noise(results, variant, metric) for metric in metrics):
        return (
            f"There is nothing to repair: its calibration errors are within noise at {results.num_examples:,} examples."
        )
    error = measure(results, variant, metrics[0])
    noise = _noise(results, variant, metrics[0])
    where = "these subsets" if results.num_subsets > 1 else "other ones"
    return (
        f"Its {ERRORS[metrics[0]]} of {error.value:.3f} {_interval(error, 1, 3)} "
        f"{f'is {noise}' if noise else 'has no known noise floor'}: fit a calibrator on "
        f"held-out examples (`aradals calibrate`), and judge it on {where} (`aradals evaluate`)."
    )


def _scope_of_one(results: Results) -> str:
    """Describe the certainty of a diagnosis."""
    sampling = f"The intervals cover the sampling of the {results.num_examples:,} examples, and no other chance"
    if results.audit is None or describe_audit(results.audit).startswith(WARNING):
        return f"{sampling}."
    found, attack = results.audit.agreement.same_subset, results.audit.attack_names
    if not found.value > 0:
        return f"{sampling}."
    put = "put" if " and " in attack else "puts"
    return f"{sampling}; {attack} {put} {100 * found.value:.0f} % of a sample into the same robustness subset."


def _scope(results: Results) -> str:
    """Describe the certainty of a study."""
    size, seeds, count = f"{results.num_examples:,} examples", len(results.seeds), len(results.variants)
    chosen = f"; the choice among {count} variants was made on these examples, too" if count > 2 else ""
    if seeds == 2:
        return TWO_SEEDS
    covered = f"the sampling of the {size}"
    if results.kind == "study":
        covered += f" and of {seeds} seeds" if seeds > 1 else ", not the randomness of training (there is one seed)"
    return f"The 95 % intervals cover {covered}{chosen}."


def _doubts(results: Results, variant: Variant) -> list[str]:
    """Name what is more probably a mistake in the labels, the inputs or the outputs than a finding."""
    accuracy, gap = measure(results, variant, "accuracy"), measure(results, variant, "gap")
    chance, name = 1 / max(results.data.num_classes, 1), label(results, variant)
    classes = {row.name for row in results.classes}
    sentences = []
    if accuracy.has_interval and accuracy.low <= chance:
        sentences.append(
            f"{name} is right in {100 * accuracy.value:.1f} %, which is not significantly more than chance "
            f"({100 * chance:.3g} %): check labels, the numbering of the classes and the normalization of the inputs"
        )
    if abs(gap.value) > MAX_GAP:
        sentences.append(
            f"confidence and accuracy of {name} are {100 * abs(gap.value):.0f} points apart: check that the model "
            "returns logits, and check its labels and inputs"
        )
    if len(classes) == 1 and results.data.num_classes > 1:
        sentences.append(f"all examples have one class ({', '.join(classes)}): check how the labels were read")
    return [f"{WARNING}{sentence}." for sentence in sentences]


def _warnings(results: Results) -> list[str]:
    """Name each kind of problem in one sentence."""
    targets = [
        f"{label(results, Variant(run.method))}, seed {run.seed} (subset{'s' if len(run.at_lower_bound) > 1 else ''} "
        f"{join([str(subset) for subset in run.at_lower_bound])})"
        for run in results.training
        if run.at_lower_bound
    ]
    temperatures = [
        f"{label(results, fitted.variant)}, seed {fitted.seed} ({fitted.temperature:g})"
        for fitted in results.calibrators
        if fitted.parameters.get("problem")
    ]
    sentences = []
    if failed := describe_failed(results):
        sentences.append(f"{failed}. These runs are in no table and in no mean.")
    if targets:
        sentences.append(
            f"targets ran down to their lower bound 1/K (wind-up; use a smaller rate or leak > 0): {_first(targets)}."
        )
    if temperatures:
        sentences.append(
            "the calibration split could not decide some temperatures (use a larger one, and check that the model is "
            f"neither right everywhere there nor no better than chance): {_first(temperatures)}."
        )
    return [f"{WARNING}{sentence}" for sentence in sentences]


def _searches(results: Results, *, lost: bool) -> list[str]:
    """Count examples without a boundary: those of rankings that are lost because of them, or those of the others."""
    found = [text for each in results.scoring if each.by_margin == lost and (text := describe_lost_searches(each))]
    return [f"{WARNING}{_first(found)}"] if lost and found else [_first(found)] if found else []


def _class_sentence(results: Results) -> list[str]:
    """Name the classes that are less robust than others."""
    if not results.least_robust_classes:
        return []
    part = least_robust(results.num_subsets)
    if not (found := outstanding_classes(results)):
        return [f"No class is over-represented in the {part} beyond chance."]
    named = [f"{row.name} ({100 * row.share:.2g} % of it, {100 * row.base_share:.2g} % of all)" for row in found[:4]]
    more = [f"{len(found) - 4} more"] if len(found) > 4 else []
    return [f"Over-represented in the {part} beyond chance: {join([*named, *more])}."]


def _threshold_sentences(results: Results, variant: Variant) -> list[str]:
    """Describe the confidence thresholds above which predictions can be accepted."""
    found = [row for row in results.thresholds if row.calibrator == variant.calibrator]
    overall = [row for row in found if row.subset is None]
    whose = f"the error of {label(results, variant)}" if variant.is_calibrated else "the error"
    parts = [
        f"at most {_percent(row)} from a confidence of {threshold_text(row.threshold)} on "
        f"({100 * row.coverage:.0f} % of the examples, n = {row.n:,}; upper bound {100 * row.bound:.2g} %)"
        for row in overall
        if row.threshold is not None and row.is_guaranteed
    ]
    each = " each" if len(parts) > 1 else ""
    return [
        *([f"With 95 % certainty{each}, {whose} on new examples of this kind is {join(parts)}."] if parts else []),
        *(_no_threshold(row, results.num_examples, whose) for row in overall if not row.is_guaranteed),
        *_subset_threshold_sentence([row for row in found if row.subset is not None]),
    ]


def _no_threshold(row: Threshold, num_examples: int, whose: str) -> str:
    """Say why a promise cannot be given."""
    needed = min_accepted(row.max_error, level=row.level)
    if needed == math.inf:
        return "No number of examples is enough to promise an error of 0 %."
    promise = f"at most {_percent(row)} with 95 % certainty"
    if num_examples < needed:
        least = f"{needed:,} accepted examples without any error are needed"
        return f"{num_examples:,} examples are too few to promise an error of {promise}: {least}."
    return f"{num_examples:,} examples show no confidence threshold from which on {whose} is {promise}."


def _subset_threshold_sentence(rows: Sequence[Threshold]) -> list[str]:
    """Count the robustness subsets within which predictions can be accepted."""
    parts = []
    for max_error in dict.fromkeys(row.max_error for row in rows):
        own = [row for row in rows if row.max_error == max_error]
        parts.append(f"{sum(row.is_guaranteed for row in own)} of {len(own)} subsets for {_percent(own[0])}")
    if not parts:
        return []
    return [f"A threshold of its own, which keeps the promise within the subset, exists in {join(parts)}."]


def _percent(row: Threshold) -> str:
    return f"{100 * row.max_error:g} %"


def _first(names: Sequence[str]) -> str:
    """Write the first names and the number of the others."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{'; '.join(names[:MAX_NAMED])}{more}"


def _interval(measure: Measure, scale: float, digits: int) -> str:
    if not measure.has_interval:
        return "(no interval)"
    return f"(95 % interval {scale * measure.low:z.{digits}f} to {scale * measure.high:z.{digits}f})"
