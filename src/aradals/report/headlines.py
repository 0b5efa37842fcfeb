"""What the numbers say, in sentences; each claim with its uncertainty.

The rule, in one place (`aradals.report.summary.compare`): a method is called lower, higher or better only where the
95 % intervals do not overlap; all else "cannot be told apart at this size". A calibration error at or below the 95th
percentile of its noise floor, what a perfectly calibrated model would show on as many examples, is "within noise";
two methods within noise are not told apart, whatever their intervals. A gap is called over- or underconfidence
only where its interval excludes zero. Classes are tested together (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from aradals.metrics.functional import wilson_interval
from aradals.report.summary import (
    CLEAN,
    NOISE_LIMITS,
    Condition,
    Measure,
    Results,
    Variant,
    compare,
    diagnosis_results,
    least_robust,
    main_variants,
    measure,
    most_robust,
    num_examples,
    num_subsets,
    number,
    reference,
    seeds_of,
    share_interval,
    shift_conditions,
    variants,
)

WARNING = "Warning: "
"""How a sentence starts that must not be overlooked."""


def study_headlines(results: Results) -> list[str]:
    """The findings of a study or an evaluation, warnings first. The rule of comparison is the module's."""
    if not results["rows"]:
        return ["There are no results yet."]
    sentences = [*_warnings(results), *_gap_sentences(results), *_ece_sentences(results)]
    if len(variants(results)) > 1:
        sentences += _rival_sentence(results)
        if num_subsets(results) > 1:
            sentences += _lowest(
                results, "subset_calibration_error", "subset calibration error", "on clean data", [CLEAN]
            )
        if shifts := shift_conditions(results):
            where = f"under shift (mean over {len(shifts)} condition{'s' if len(shifts) > 1 else ''})"
            sentences += _lowest(results, "ece", "ECE", where, shifts)
            if num_subsets(results) > 1:
                sentences += _lowest(results, "subset_calibration_error", "subset calibration error", where, shifts)
        sentences += _accuracy_sentence(results)
    elif shifts := shift_conditions(results):
        sentences += _shift_sentence(results, shifts)
    return [*sentences, _scope(results)]


def diagnosis_headlines(diagnosis: Results) -> list[str]:
    """The findings about one model. The rule of comparison is the module's."""
    results = diagnosis_results(diagnosis)
    model = variants(results)[0]
    accuracy, confidence = (measure(results, model, key) for key in ("accuracy", "confidence"))
    overall = (
        f"{_start(_gap_words('the model', measure(results, model, 'gap'), 'on all examples'))}: it is right in "
        f"{100 * accuracy.value:.1f} % of them and says {100 * confidence.value:.1f} %."
    )
    return [
        overall,
        *(_gap_sentences(results) if num_subsets(results) > 1 else []),
        *_ece_sentences(results),
        *_class_sentence(diagnosis),
        *(_threshold_sentence(threshold) for threshold in diagnosis.get("confidence_thresholds", [])),
        f"Intervals (95 %) cover the sampling of the {num_examples(results):,} examples.",
    ]


def outstanding_classes(diagnosis: Results) -> list[Mapping[str, Any]]:
    """Classes over-represented in the least robust subset beyond chance.

    Their share's Wilson interval, at a level of 1 - 0.05/K for K classes tested, lies above their share of all
    examples.
    """
    classes = diagnosis.get("least_robust_classes", [])
    level = 1 - 0.05 / max(1, diagnosis.get("num_classes") or len(classes))
    return [row for row in classes if share_interval(row, level=level)[0] > number(row.get("base_share"))]


def _warnings(results: Results) -> list[str]:
    found = []
    for training in results.get("training", []):
        if bound := training.get("at_lower_bound"):
            subsets = f"subset{'s' if len(bound) > 1 else ''} {_join([str(subset) for subset in bound])}"
            found.append(
                f"{WARNING}{Variant(training['method']).label}, seed {training['seed']}: the target of {subsets} ran "
                "down to its lower bound 1/K (wind-up; try a smaller update_rate or leak > 0)."
            )
    for calibrator in results.get("calibrators", []):
        if calibrator.get("at_bound"):
            label = Variant(calibrator["method"], calibrator["calibrator"]).label
            found.append(
                f"{WARNING}{label}, seed {calibrator['seed']}: the temperature is at the bound of its search, "
                f"{number(calibrator.get('temperature')):.3g} (try a larger calibration split, and see whether the "
                "model is right everywhere or no better than chance)."
            )
    return found


def _gap_sentences(results: Results) -> list[str]:
    """Where the reference is wrong, by robustness; and what the others do there."""
    first, count = reference(results), num_subsets(results)
    if count < 2:
        gap = measure(results, first, "gap")
        return [_start(_gap_words(first.label, gap, "on all examples")) + "."] if gap.known else []
    least, most = (measure(results, first, "gap", subset=subset) for subset in (0, count - 1))
    if not least.known:
        return []
    sentence = _start(_gap_words(first.label, least, f"on the {least_robust(count)}"))
    if most.known:
        sentence += f"; {_gap_words('it', most, f'on the {most_robust(count)}')}"
    others = [
        f"{variant.label} {_points(gap)}"
        for variant in main_variants(results)
        if variant != first and (gap := measure(results, variant, "gap", subset=0)).known
    ]
    return [
        f"{sentence}.",
        *(
            [f"There the gap (confidence - accuracy) of the others is, in points: {'; '.join(others)}."]
            if others
            else []
        ),
    ]


def _ece_sentences(results: Results) -> list[str]:
    """ECE of the reference and its noise floor, then each method against it; those not told apart in one sentence."""
    first = reference(results)
    before = measure(results, first, "ece")
    if not before.known:
        return []
    sentences, unclear = (
        [f"{_start(first.label)} has an ECE of {_fraction(before)}; {_left(results, first)}."],
        [],
    )
    for variant in main_variants(results):
        after = measure(results, variant, "ece")
        if variant == first or not after.known:
            continue
        relation = _relation(results, variant, first, "ece", [CLEAN])
        if relation == "unclear":
            unclear.append(f"{variant.label} {_fraction(after, name=False)}")
        else:
            verb = "lowers" if relation == "lower" else "raises"
            sentences.append(
                f"{_start(variant.label)} {verb} ECE from {before.value:.3f} to {_fraction(after)}; "
                f"{_left(results, variant)}."
            )
    if unclear:
        sentences.append(
            f"In ECE {_join(unclear)} cannot be told apart from {first.label} "
            f"{_fraction(before, name=False)} at this size."
        )
    return sentences


def _rival_sentence(results: Results) -> list[str]:
    """AR-AdaLS against the cheap cure."""
    ours, rival = Variant("ar_adals"), Variant(reference(results).method, "temperature")
    if ours not in variants(results) or rival not in variants(results):
        return []
    parts = []
    for key, name in (("ece", "ECE"), ("subset_calibration_error", "subset calibration error")):
        mine, theirs = measure(results, ours, key), measure(results, rival, key)
        if not (mine.known and theirs.known):
            continue
        relation = _relation(results, ours, rival, key, [CLEAN])
        verdict = "cannot be told apart at this size" if relation == "unclear" else f"is {relation}"
        values = f"{_fraction(mine, name=False)} against {_fraction(theirs, name=False)}"
        parts.append(f"{name} {verdict}, {values}")
    return [f"{_start(ours.label)} beside {rival.label}: {'; '.join(parts)}."] if parts else []


def _lowest(results: Results, key: str, name: str, where: str, conditions: Sequence[Condition]) -> list[str]:
    """Which variant has the lowest value, and which others it cannot be told apart from."""
    found = {v: measure(results, v, key, conditions=conditions) for v in variants(results)}
    ranked = sorted((v for v in found if found[v].known), key=lambda v: found[v].value)
    if len(ranked) < 2:
        return []
    best, *others = ranked
    tied = [v for v in others if _relation(results, best, v, key, conditions) == "unclear"]
    value = _fraction(found[best])
    if not tied:
        return [
            f"{_start(best.label)} has the lowest {name} {where}: {value}; next is {others[0].label} "
            f"with {_fraction(found[others[0]], name=False)}."
        ]
    if len(tied) == len(others):
        rest = "any other" if len(others) > 1 else others[0].label
        return [
            f"No method stands out by its {name} {where}: the lowest estimate, {value} of {best.label}, "
            f"cannot be told apart from {'that of ' + rest if len(others) == 1 else rest} at this size."
        ]
    return [
        f"{_start(best.label)} has the lowest estimate of the {name} {where}, {value}, but cannot be told apart "
        f"from {_join([v.label for v in tied])} at this size; it is lower than all others."
    ]


def _accuracy_sentence(results: Results) -> list[str]:
    """Calibration must not be bought with accuracy unnoticed."""
    first = reference(results)
    before = measure(results, first, "accuracy")
    others = [v for v in variants(results) if v.calibrator == "none" and v != first]
    if not before.known or not others:
        return []
    clear = []
    for variant in others:
        after = measure(results, variant, "accuracy")
        if (relation := compare(after, before)) != "unclear":
            clear.append(
                f"{variant.label} is {relation}, {100 * after.value:.1f} % {_interval(after, 100, name=False)}"
            )
    own = f"{100 * before.value:.1f} % {_interval(before, 100)}"
    if not clear:
        return [f"In accuracy no method can be told apart from {first.label}, {own}, at this size."]
    rest = "; the others cannot be told apart from it at this size" if len(clear) < len(others) else ""
    return [f"Accuracy of {first.label} is {own}; {_join(clear)}{rest}."]


def _shift_sentence(results: Results, shifts: Sequence[Condition]) -> list[str]:
    only = variants(results)[0]
    clean, shifted = (measure(results, only, "ece", conditions=conditions) for conditions in ([CLEAN], shifts))
    if not (clean.known and shifted.known):
        return []
    verb = {
        "higher": "rises to",
        "lower": "falls to",
        "unclear": "cannot be told apart from that on clean data:",
    }
    return [
        f"Under shift (mean over {len(shifts)} conditions) ECE {verb[compare(shifted, clean)]} {_fraction(shifted)}."
    ]


def _scope(results: Results) -> str:
    seeds = len(seeds_of(results))
    if results.get("kind") == "evaluation":
        covered = f"Intervals (95 %) cover the sampling of the {num_examples(results):,} examples, nothing else."
    elif seeds == 1:
        covered = (
            "One seed: intervals (95 %) cover the sampling of the test set, not the randomness of training; "
            "other seeds may rank the methods differently."
        )
    else:
        covered = f"Means over {seeds} seeds; intervals (95 %) cover the sampling of the test set and the seeds."
    return f"{covered} Those of calibration errors are for the true error, which the estimate tends to exceed."


def _class_sentence(diagnosis: Results) -> list[str]:
    if not diagnosis.get("least_robust_classes"):
        return []
    part = least_robust(len(diagnosis["subsets"]))
    if not (found := outstanding_classes(diagnosis)):
        return [f"No class stands out in the {part} at this size."]
    named = [
        f"{row['name']} ({100 * row['share']:.2g} % of it, {100 * row['base_share']:.2g} % of all)" for row in found[:3]
    ]
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"Over-represented in the {part} beyond chance: {', '.join(named)}{more}."]


def _threshold_sentence(row: Mapping[str, Any]) -> str:
    error = f"{100 * row['max_error']:g} %"
    if row.get("threshold") is None:
        return f"At no confidence threshold is the error {error} or less."
    low, high = wilson_interval(torch.tensor(round(row["error"] * row["n"])), torch.tensor(row["n"]))
    return (
        f"For at most {error} error, accept predictions with a confidence of at least {row['threshold']:.4g}: that "
        f"keeps {100 * row['coverage']:.1f} % of the examples, {100 * row['error']:.2g} % of them wrong (95 % interval "
        f"{100 * float(low):.2g} to {100 * float(high):.2g}; chosen on these very examples, so check it on others)."
    )


def _relation(results: Results, first: Variant, second: Variant, key: str, conditions: Sequence[Condition]) -> str:
    """`compare`, but "unclear" where both values are within noise."""
    pair = [measure(results, v, key, conditions=conditions) for v in (first, second)]
    floors = [measure(results, v, NOISE_LIMITS[key], conditions=conditions) for v in (first, second)]
    if all(value.value <= floor.value for value, floor in zip(pair, floors, strict=True)):
        return "unclear"
    return compare(*pair)


def _left(results: Results, variant: Variant) -> str:
    """What an ECE on clean data means beside its noise floor."""
    ece, floor, limit = (measure(results, variant, key) for key in ("ece", "ece_noise_floor", "ece_noise_floor_p95"))
    if not (floor.known and limit.known):
        return "its noise floor is not known"
    verdict = "within noise" if ece.value <= limit.value else "more than noise"
    if variant != reference(results):
        return f"the noise floor is {floor.value:.3f}, so what is left is {verdict}"
    return (
        f"the noise floor at n = {num_examples(results):,} is {floor.value:.3f} (up to {limit.value:.3f} by chance), "
        f"so this is {verdict}"
    )


def _gap_words(name: str, gap: Measure, where: str) -> str:
    if gap.low > 0:
        return f"{name} is overconfident by {100 * gap.value:.1f} points {where} {_interval(gap, 100)}"
    if gap.high < 0:
        mirrored = Measure(-gap.value, -gap.high, -gap.low)
        return f"{name} is underconfident by {100 * mirrored.value:.1f} points {where} {_interval(mirrored, 100)}"
    whose = "its" if name == "it" else f"{name}'s"
    return f"{where} {whose} gap of {_points(gap, ' points')} cannot be told apart from zero at this size"


def _points(gap: Measure, unit: str = "") -> str:
    known = math.isfinite(gap.low) and math.isfinite(gap.high)
    return (
        f"{100 * gap.value:+.1f}{unit} ({f'{100 * gap.low:+.1f} to {100 * gap.high:+.1f}' if known else 'no interval'})"
    )


def _fraction(value: Measure, *, name: bool = True) -> str:
    """``0.018 (95 % interval 0.004 to 0.025)``, or without the name of the interval; errors are not negative."""
    return f"{value.value:.3f} {_interval(value, 1, digits=3, name=name)}"


def _interval(value: Measure, scale: float, *, digits: int = 1, name: bool = True) -> str:
    low, high = scale * value.low, scale * value.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return "(no interval)"
    return f"({'95 % interval ' if name else ''}{low:.{digits}f} to {high:.{digits}f})"


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
