"""Answers from the results of a study: claims of the paper, comparisons of methods, and the choice for a situation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from aradals.report.view import METRIC_NAMES, label
from aradals.results.aggregate import by_seed, mean_over_seeds, measure, places, relative_cost
from aradals.results.compare import holm, paired_t_test
from aradals.results.records import CLEAN, Comparison, Measure, Metric, Place, Results, Variant

GAPS: tuple[Metric, ...] = ("ece", "subset_calibration_error")
JUDGED = (*GAPS, "nll", "aurc")
NAMES: dict[Metric, str] = {**METRIC_NAMES, "subset_calibration_error": "subset CE"}
PLACES: dict[Place, str] = {"clean": "clean", "all_shifts": "shift"}
PAPER_RULE = "ar_adals_plain"
"""The method of the paper to the letter, in every recipe that has it."""
PAPER_OTHERS = ("label_smoothing", "mixup", "ccat", "adals")
"""The methods that the paper compares with, beside the vanilla one; AdaLS is the method without robustness."""
PAPER_ENSEMBLES = ("ensemble_of_ar_adals", "ar_adals_of_ensemble")
"""The ensembles of the paper, which it compares with the one of vanilla models."""
TUNED_ON = {"letter": "shaped", "demo": "shaped"}
"""Study -> the methods, by the start of their names, that have a setting that was chosen on this study."""
SITUATIONS: dict[str, tuple[Place, Metric]] = {
    "cannot retrain": ("clean", "nll"),
    "can retrain": ("clean", "nll"),
    "shift expected": ("all_shifts", "nll"),
    "need to abstain": ("clean", "aurc"),
    "ensemble affordable": ("clean", "nll"),
}


@dataclass(frozen=True)
class Answer:
    """An answer to a claim: a difference, its interval and its p value.

    Attributes:
        claim: a sentence; or, for two methods, the measure that is lower for the first one.
        method: name of the first method.
        other: name of the second method.
    """

    claim: str
    answer: str
    difference: Measure
    p: float = math.nan
    method: str = ""
    other: str = ""


@dataclass(frozen=True)
class Choice:
    """A variant for a situation, beside vanilla with a temperature, which is the baseline.

    Attributes:
        answer: whether the variant is lower: shown, not shown, contradicted, or none for the baseline.
        difference: variant minus baseline.
        cost: multiple of plain training.
    """

    situation: str
    variant: str
    metric: str
    value: Measure
    answer: str = "none"
    difference: Measure = field(default_factory=Measure)
    cost: float = math.nan


def judge(difference: Measure, p: float, *, expected: int) -> str:
    """Apply `RULE`; ``expected`` is the sign of the difference that the claim predicts."""
    if not difference.sign or not p < 0.05:
        return "not shown"
    return "shown" if difference.sign == expected else "contradicted"


def claims(results: Results) -> tuple[Answer, ...]:
    """Answer the claims of the paper, as far as the study has the methods; they are one family of tests."""
    tests = [*_by_robustness(results), *_by_paper(results), *_by_stability(results)]
    corrected = holm([p for *_, p, _ in tests])
    return tuple(
        Answer(claim, judge(change, p, expected=expected), change, p)
        for (claim, change, _, expected), p in zip(tests, corrected, strict=True)
    )


Test = tuple[str, Measure, float, int]
"""A claim, the difference, the p value, and the sign of the difference that the claim predicts."""


def _by_robustness(results: Results) -> Iterator[Test]:
    """Compare the least robust subset with the most robust one: the gap as trained, and how much trainings vary."""
    if results.num_subsets < 2:
        return
    subsets = (0, results.num_subsets - 1)
    reference = Variant(results.reference)
    least, most = (by_seed(results, reference, "gap", (CLEAN,), subset) for subset in subsets)
    seeds = sorted(least.keys() & most.keys())
    # The two subsets have no example in common. The ends of both intervals bound the difference.
    ends = [measure(results, reference, "gap", subset=subset).size for subset in subsets]
    p = paired_t_test(*([abs(part[seed].value) for seed in seeds] for part in (least, most)))
    yield "the least robust subset has a larger gap than the most robust one, clean", minus(*ends), p, 1
    least, most = (_variances(results, subset).get(results.reference, {}) for subset in subsets)
    if least.keys() & most.keys():
        name = results.method(results.reference).label
        claim = f"trainings of {name} vary more in the least robust subset than in the most robust one, clean"
        yield claim, *_paired(least, most), 1


def _by_paper(results: Results) -> Iterator[Test]:
    """Compare the gaps of the method and the ensembles of the paper with what the paper compares them with."""
    single, baseline = Variant(PAPER_RULE), Variant(results.reference, "temperature")
    pairs = [(single, Variant(results.reference)), (single, baseline)]
    for other in PAPER_OTHERS:
        calibrator = "temperature" if _is_chosen(results, other) else "none"
        pairs.append((Variant(PAPER_RULE, calibrator), Variant(other, calibrator)))
    pairs += [(Variant(ensemble), Variant("ensemble")) for ensemble in PAPER_ENSEMBLES]
    for ours, theirs in (pair for pair in pairs if set(pair) <= set(results.variants)):
        names = _in_sentence(results, ours), results.method(theirs.method).label
        ending = ", both with a temperature" * (ours.calibrator != "none") + " with a temperature" * (
            theirs == baseline
        )
        for place, metric in ((place, metric) for place in places(results) for metric in GAPS):
            if found := _compared(results, ours, theirs, place, metric):
                claim = f"{names[0]} has a lower {NAMES[metric]} than {names[1]}{ending}, {PLACES[place]}"
                yield claim, found.measure, found.p, -1


def _is_chosen(results: Results, name: str) -> bool:
    """Return True if a setting of a method was chosen, by the NLL after a temperature."""
    return bool(results.config.get("methods", {}).get(name, {}).get("choose"))


def _in_sentence(results: Results, variant: Variant) -> str:
    """Return the label of a method, with a second comma if it has a first one."""
    found = results.method(variant.method).label
    return found + "," * ("," in found)


def _by_stability(results: Results) -> Iterator[Test]:
    """Compare how much trainings of the method of the paper vary with those of the reference."""
    found = _variances(results, None)
    own, reference = found.get(PAPER_RULE, {}), found.get(results.reference, {})
    if own.keys() & reference.keys():
        name, other = _in_sentence(results, Variant(PAPER_RULE)), results.method(results.reference).label
        yield f"trainings of {name} vary less than those of {other}, clean", *_paired(own, reference), -1


def _variances(results: Results, subset: int | None) -> dict[str, dict[int, Measure]]:
    """Collect how much the members of ensembles vary, at equal mean confidence, by method and seed."""
    found: dict[str, dict[int, Measure]] = {}
    for row in results.stability:
        if row.models == "members" and row.subset == subset and row.seed is not None:
            found.setdefault(row.method, {})[row.seed] = row.matched_prediction_variance
    return found


def _paired(first: dict[int, Measure], second: dict[int, Measure]) -> tuple[Measure, float]:
    """Compute the difference of the means, and p of the test that is paired by seed."""
    seeds = sorted(first.keys() & second.keys())
    ours, theirs = ([part[seed] for seed in seeds] for part in (first, second))
    p = paired_t_test([each.value for each in ours], [each.value for each in theirs])
    return minus(*(mean_over_seeds(part, "brier") for part in (ours, theirs))), p


def minus(first: Measure, second: Measure) -> Measure:
    """Subtract; the ends of both intervals bound that of the difference."""
    return Measure(first.value - second.value, first.low - second.high, first.high - second.low)


def comparisons(results: Results) -> Iterator[Answer]:
    """Compare every method of ``compare_with`` with the others, all after a temperature."""
    for name in results.config.get("compare_with", ()):
        is_ensemble = results.method(name).num_members > 1
        others = [
            each
            for each in results.methods
            if each.name != name and (each.num_members > 1) == is_ensemble and (is_ensemble or not each.variant_of)
        ]
        for other in others:
            pair = Variant(name, "temperature"), Variant(other.name, "temperature")
            for place, metric in ((place, metric) for place in places(results) for metric in JUDGED):
                if found := _compared(results, *pair, place, metric):
                    answer, where = judge(found.measure, found.p_holm, expected=-1), f"{NAMES[metric]}, {PLACES[place]}"
                    labels = results.method(name).label, other.label
                    yield Answer(where, answer, found.measure, found.p_holm, *labels)


def _compared(results: Results, first: Variant, second: Variant, place: Place, metric: Metric) -> Comparison | None:
    """Return the comparison of the second variant with the first one, or else the reverse, as first minus second."""
    if found := results.by_comparison.get((second, first, place, metric)):
        return replace(found, difference=-found.difference, low=-found.high, high=-found.low)
    return results.by_comparison.get((first, second, place, metric))


def choices(results: Results) -> Iterator[Choice]:
    """List the variants for each situation, if the study has more than adaptive targets."""
    if "label_smoothing" not in {method.name for method in results.methods}:
        return
    baseline = Variant(results.reference, "temperature")
    for situation, (place, metric) in SITUATIONS.items():
        if place not in places(results):
            continue
        for variant in (each for each in results.variants if _is_choice(results, each, situation)):
            value = measure(results, variant, metric, conditions=places(results)[place])
            if not value.known:
                continue
            choice = Choice(situation, label(results, variant), f"{NAMES[metric]}, {PLACES[place]}", value)
            choice = replace(choice, cost=relative_cost(results, variant.method))
            if found := results.by_comparison.get((variant, baseline, place, metric)):
                answer = judge(found.measure, found.p_holm, expected=-1)
                choice = replace(choice, answer=answer, difference=found.measure)
            yield choice


def _is_choice(results: Results, variant: Variant, situation: str) -> bool:
    """Return True if a variant is possible in a situation, and no setting of it was chosen on this study."""
    ensembles = results.config.get("ensembles", {})
    method = ensembles.get(variant.method, {}).get("method", variant.method)
    if results.name in TUNED_ON and method.startswith(TUNED_ON[results.name]):
        return False
    if situation == "shift expected" and variant.calibrator == "batch_temperature" and is_on_table(results):
        return False
    if situation == "cannot retrain":
        return variant.method == results.reference
    return (results.method(variant.method).num_members > 1) == (situation == "ensemble affordable")


def is_on_table(results: Results) -> bool:
    """Return True if the shift is noise and lost columns, of which the batch temperature makes its domains, too."""
    return any(row.condition.corruption in ("column_noise", "missing_columns") for row in results.rows)
