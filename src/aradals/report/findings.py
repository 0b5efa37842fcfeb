"""What the numbers say, in a dozen sentences at most; each claim with its uncertainty.

The rule: a method is called lower or higher only where the 95 % interval of the paired difference excludes zero
(`aradals.report.view.difference`), or, where results hold no such difference, where the two 95 % intervals do not
overlap (`aradals.report.view.compare`); all else "cannot be told apart". A calibration error is more than noise only
where it exceeds the 95th percentile of its noise floor, what a perfectly calibrated model would show on as many
examples, and its interval excludes zero; two methods within noise are not told apart, whatever their intervals. A gap
is called over- or underconfidence only where its interval excludes zero. Classes are tested together (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aradals.calibration.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE
from aradals.report.view import (
    CLEAN,
    NOISE_FLOORS,
    NOISE_LIMITS,
    Condition,
    Measure,
    compare,
    diagnosis_results,
    difference,
    indexed,
    least_robust,
    main_methods,
    main_variants,
    measure,
    most_robust,
    num_examples,
    num_subsets,
    number,
    reference,
    row_interval,
    seeds_of,
    share_interval,
    shift_conditions,
    shift_mean,
    threshold_text,
    variants,
)
from aradals.results.failed import describe_failed
from aradals.results.names import Results, Variant, join
from aradals.robustness.audit import describe_audit

WARNING = "Warning: "
"""How a sentence starts that must not be overlooked."""

MAX_CLASSES = 4
"""How many classes a sentence names at most; the figure has the rest."""

MAX_NAMED = 2
"""How many methods a sentence names of a kind where there are more than `FEW`; the tables have the rest."""

FEW = 4

ERRORS = {"ece": "ECE", "subset_calibration_error": "subset calibration error"}


def study_headlines(results: Results) -> list[str]:
    """List the findings of a study or evaluation, warnings first. The module defines the rule of comparison."""
    if not results["rows"]:
        return ["There are no results yet."]
    results = indexed(results)
    return [
        *_warnings(results),
        *_gap_sentences(results),
        *(sentence for where in _places(results) for sentence in _error_sentence(results, "ece", where)),
        *_error_sentence(results, "subset_calibration_error", "on clean data"),
        *_rival_sentence(results),
        *_accuracy_sentence(results),
        *_stability_sentence(results),
        *_cost_sentence(results),
        _scope(results),
    ]


def diagnosis_headlines(diagnosis: Results) -> list[str]:
    """List the findings about one model. The module defines the rule of comparison."""
    results = diagnosis_results(diagnosis)
    model, count, n = variants(results)[0], num_subsets(results), num_examples(results)
    gap, accuracy, confidence, ece, floor, limit = (
        measure(results, model, key)
        for key in ("gap", "accuracy", "confidence", "ece", "ece_noise_floor", "ece_noise_floor_p95")
    )
    sentences = [
        f"{_start(_gap_words(model.label, gap))}: it says {100 * confidence.value:.1f} % on average and is right in "
        f"{100 * accuracy.value:.1f} % of {n:,} examples."
    ]
    if count > 1:
        sentences += _gap_sentences(results)
        gaps = [measure(results, model, "gap", subset=subset).value for subset in range(count)]
        if (worst := max(range(count), key=lambda subset: abs(gaps[subset]))) != 0:
            sentences[-1] += f" The largest gap estimated is {100 * abs(gaps[worst]):.1f} points, in subset {worst}."
    if ece.known:
        expected = (
            f"; a calibrated model would show about {floor.value:.3f}, by chance up to {limit.value:.3f}"
            if floor.known and limit.known
            else ""
        )
        sentences.append(f"ECE: {_fraction(ece)}{_noise_words(results, model, [CLEAN])}{expected}.")
    sentences += [
        *_class_sentence(diagnosis),
        *_threshold_sentence(diagnosis),
        f"In brackets: 95 % intervals, which cover the sampling of the {n:,} examples and nothing else.",
    ]
    if not (audit := diagnosis.get("audit")):
        return sentences
    ranking = describe_audit(audit)
    return [ranking, *sentences] if ranking.startswith(WARNING) else [*sentences, ranking]


def outstanding_classes(diagnosis: Results) -> list[Mapping[str, Any]]:
    """Classes over-represented in the least robust subset beyond chance.

    Their share's Wilson interval, at a level of 1 - 0.05/K for K classes tested, lies above their share of all
    examples.
    """
    classes = diagnosis.get("least_robust_classes", [])
    level = 1 - 0.05 / max(1, diagnosis.get("num_classes") or len(classes))
    return [row for row in classes if share_interval(row, level=level)[0] > number(row.get("base_share"))]


def _warnings(results: Results) -> list[str]:
    """One sentence per kind of trouble."""
    targets = [
        f"{Variant(run['method']).label}, seed {run['seed']} (subset{'s' if len(bound) > 1 else ''} "
        f"{join([str(subset) for subset in bound])})"
        for run in results.get("training", [])
        if (bound := run.get("at_lower_bound"))
    ]
    temperatures = [
        f"{Variant(row['method'], row['calibrator']).label}, seed {row['seed']} ({row['temperature']:g})"
        for row in results.get("calibrators", [])
        if row.get("temperature") in (MIN_TEMPERATURE, MAX_TEMPERATURE)
    ]
    sentences = []
    if failed := describe_failed(results):
        sentences.append(f"{WARNING}{failed}. Nothing is said of these runs; means are over the seeds that are left.")
    if targets:
        sentences.append(
            f"{WARNING}targets ran down to their lower bound 1/K (wind-up; try a smaller rate or leak > 0): "
            f"{_first(targets, '; ')}."
        )
    if temperatures:
        sentences.append(
            f"{WARNING}temperatures at the bound of their search (try a larger calibration split, and see whether the "
            f"model is right everywhere there or no better than chance): {_first(temperatures, '; ')}."
        )
    return sentences


def _gap_sentences(results: Results) -> list[str]:
    """Where the reference is wrong, by robustness; and what the others do there."""
    first, count = reference(results), num_subsets(results)
    subset, where = (0, f"the {least_robust(count)}") if count > 1 else (None, "all examples")
    before = measure(results, first, "gap", subset=subset)
    if not before.known:
        return []
    sentence = f"On {where} {_gap_words(first.label, before)}"
    if count > 1 and (most := measure(results, first, "gap", subset=count - 1)).known:
        sentence += f"; on the {most_robust(count)} {_gap_words('it', most)}"
    gaps = {v: measure(results, v, "gap", subset=subset) for v in main_variants(results) if v != first}
    return [f"{sentence}.", *_other_gaps(where, first, before, {v: gap for v, gap in gaps.items() if gap.known})]


def _other_gaps(where: str, first: Variant, before: Measure, gaps: Mapping[Variant, Measure]) -> list[str]:
    """Describe the gaps of the other methods, after the gap of the reference."""
    if not gaps:
        return []
    if len(gaps) > FEW:
        return _many_gaps(where, gaps)
    groups: dict[str, list[str]] = {}
    clear: list[str] = []
    unclear: list[str] = []
    for variant, gap in gaps.items():
        word, size = _gap(gap)
        groups.setdefault(word or "not told apart from zero", []).append(f"{variant.label} {size}")
        (unclear if compare(gap, before) == "unclear" else clear).append(variant.label)
    fewer, verb = (clear, "can") if len(clear) <= len(unclear) else (unclear, "cannot")
    if fewer:
        verdict = f"only {join(fewer)} {verb}"
    elif len(gaps) == 1:
        verdict = "it can" if clear else "it cannot"
    else:
        verdict = "all can" if clear else "none can"
    words = [f"{word}: {', '.join(names)}" for word, names in groups.items()]
    return [f"Others on {where} – {'; '.join(words)}; {verdict} be told apart from {first.label}."]


def _many_gaps(where: str, gaps: Mapping[Variant, Measure]) -> list[str]:
    """How many of the others are over- and underconfident, the ends of each group, and where AR-AdaLS is."""
    groups: dict[str, list[Variant]] = {}
    for variant, gap in sorted(gaps.items(), key=lambda item: abs(item[1].value)):
        groups.setdefault(_gap(gap)[0], []).append(variant)
    parts = []
    for word in ("overconfident", "underconfident"):
        if found := groups.get(word):
            ends = found if len(found) < 3 else [found[0], found[-1]]
            named = " to ".join(f"{variant.label} {_gap(gaps[variant])[1]}" for variant in ends)
            parts.append(f"{len(found)} {_are(found)} {word}{', from' if len(ends) > 1 else ':'} {named}")
    if found := groups.get(""):
        parts.append(
            f"{len(found)} {_are(found)} not told apart from zero: {_first([variant.label for variant in found])}"
        )
    ours = Variant("ar_adals")
    own = f"; {_gap_words(ours.label, gaps[ours])}" if ours in gaps else ""
    return [f"Of {len(gaps)} others on {where}, {'; '.join(parts)}{own}."]


def _error_sentence(results: Results, key: str, where: str) -> list[str]:
    """Describe a calibration error of the reference, then the errors of the other methods by comparison."""
    first, conditions = reference(results), _places(results)[where]
    before = measure(results, first, key, conditions=conditions)
    if not before.known:
        return []
    mean = "" if conditions == [CLEAN] else f" ({shift_mean(results)})"
    groups: dict[str, list[tuple[float, str]]] = {"lower": [], "higher": [], "unclear": []}
    for variant in main_variants(results):
        after = measure(results, variant, key, conditions=conditions)
        if variant == first or not after.known:
            continue
        relation = _relation(results, variant, first, key, conditions)
        paired = difference(results, variant, first, key, conditions)
        if relation == "unclear":
            value = f"{after.value:.3f}"
        elif paired:
            value = _size(paired)
        else:
            value = _fraction(after)
        if relation == "lower" and _within_noise(results, variant, key, conditions):
            value = f"{value.removesuffix(')')}; within noise)"
        # AR-AdaLS is named whatever else is.
        order = -math.inf if variant.method == "ar_adals" else -abs(after.value - before.value)
        groups[relation].append((order, f"{variant.label} {value}"))
    names = {"lower": "lower", "higher": "higher", "unclear": f"not told apart from {first.label}"}
    many = sum(map(len, groups.values())) > FEW
    parts = [
        f"{names[relation]}: {_first([text for _, text in (sorted(group) if many else group)], all_of=not many)}"
        for relation, group in groups.items()
        if group
    ]
    own = f"{first.label} {_fraction(before)}{_noise_words(results, first, conditions, key)}"
    return [f"{'; '.join([f'{_start(ERRORS[key])} {where}{mean}: {own}', *parts])}."]


def _rival_sentence(results: Results) -> list[str]:
    """AR-AdaLS against the cheap cure."""
    ours, rival = Variant("ar_adals"), Variant(reference(results).method, "temperature")
    if ours not in variants(results) or rival not in variants(results):
        return []
    found: dict[tuple[str, str], list[str]] = {}
    for key, name in ERRORS.items():
        places: dict[str, list[str]] = {}
        for where, conditions in _places(results).items():
            if all(measure(results, v, key, conditions=conditions).known for v in (ours, rival)):
                relation = _relation(results, ours, rival, key, conditions)
                paired = difference(results, ours, rival, key, conditions)
                size = f" {_size(paired)}" if paired and relation != "unclear" else ""
                places.setdefault(relation, []).append(f"{where}{size}")
        for relation, where_found in places.items():
            found.setdefault((relation, join(where_found)), []).append(name)
    words = {"lower": "lower in", "higher": "higher in", "unclear": "not told apart in"}
    parts = [f"{words[relation]} {join(names)} {where}" for (relation, where), names in found.items()]
    return [f"{ours.label} against {rival.label}: {'; '.join(parts)}."] if parts else []


def _accuracy_sentence(results: Results) -> list[str]:
    """Calibration must not be bought with accuracy unnoticed."""
    first = reference(results)
    others = [v for v in main_variants(results) if v.calibrator == "none" and v != first]
    own, clear = [], []
    for where, conditions in _places(results).items():
        before = measure(results, first, "accuracy", conditions=conditions)
        if not before.known:
            continue
        own.append(f"{_percent(before)} {where}")
        for variant in others:
            after = measure(results, variant, "accuracy", conditions=conditions)
            relation = _relation(results, variant, first, "accuracy", conditions)
            if relation != "unclear":
                paired = difference(results, variant, first, "accuracy", conditions)
                value = f" by {_points(paired)}" if paired else f", {_percent(after)}"
                clear.append((-abs(after.value - before.value), f"{variant.label} is {relation} {where}{value}"))
    if not own:
        return []
    named = [text for _, text in (sorted(clear) if len(clear) > FEW else clear)]
    parts = [f"Accuracy: {first.label} {' and '.join(own)}", *(named if len(named) <= FEW else named[:MAX_NAMED])]
    if more := len(named) - (len(parts) - 1):
        parts.append(f"{more} more differences from {first.label} are smaller")
    if len(clear) < len(others) * len(own):
        parts.append(f"{'nothing else' if clear else 'no method'} can be told apart from {first.label}")
    return [f"{'; '.join(parts)}."]


def _stability_sentence(results: Results) -> list[str]:
    """Do independently trained models agree? At equal mean confidence, since soft predictions vary less for free."""
    first, methods = reference(results).method, set(main_methods(results))
    rows = [row for row in results.get("stability", []) if row["subset"] is None and row["method"] in methods]
    for models, over in (("seeds", "seeds"), ("members", "ensemble members")):
        found: dict[str, Measure] = {}
        for row in rows:
            if row["models"] == models:
                found.setdefault(row["method"], Measure(*row_interval(row, "matched_prediction_variance")))
        if first in found and len(found) > 1:
            before = found.pop(first)
            groups: dict[str, list[str]] = {"lower": [], "higher": [], "unclear": []}
            for method, after in found.items():
                groups[compare(after, before)].append(f"{Variant(method).label} {_fraction(after, 4)}")
            names = {"lower": "lower", "higher": "higher", "unclear": "not told apart from it"}
            parts = [f"{names[relation]}: {_first(group)}" for relation, group in groups.items() if group]
            own = f"{Variant(first).label} {_fraction(before, 4)}"
            start = f"Stability, the prediction variance over {over} at equal mean confidence: {own}"
            return [f"{'; '.join([start, *parts])}."]
    return []


def _cost_sentence(results: Results) -> list[str]:
    """Describe the cost of the other training methods."""
    found: dict[str, list[float]] = {}
    for row in results.get("costs", []):
        if row.get("relative_cost") is not None and row["method"] in main_methods(results):
            found.setdefault(row["method"], []).append(row["relative_cost"])
    costs = {method: sum(values) / len(values) for method, values in found.items()}
    costs.pop(reference(results).method, None)
    if not costs:
        return []
    ours, *ends = ("ar_adals", min(costs, key=costs.__getitem__), max(costs, key=costs.__getitem__))
    named = [f"{costs[method]:.1f} ({Variant(method).label})" for method in dict.fromkeys(ends)]
    words = f"from {named[0]} to {named[1]}" if len(named) == 2 else named[0]
    own = f"; {costs[ours]:.1f} ({Variant(ours).label})" if ours in costs and ours not in ends else ""
    return [f"Cost of training, as a multiple of {reference(results).label}: {words}{own}; on one machine."]


def _scope(results: Results) -> str:
    seeds, size = len(seeds_of(results)), f"{num_examples(results):,} test examples"
    paired = (
        " Differences are paired; each has its own 95 % interval, not widened for their number."
        if (results.get("comparisons"))
        else ""
    )
    if results.get("kind") == "evaluation":
        size = size.replace("test ", "")
        return f"In brackets: 95 % intervals, which cover the sampling of the {size} and nothing else."
    if seeds == 1:
        return (
            f"In brackets: 95 % intervals, which cover the sampling of the {size} but, with one seed, not the "
            f"randomness of training; other seeds may rank the methods differently.{paired}"
        )
    return (
        f"Means over {seeds} seeds; in brackets 95 % intervals, which cover the sampling of the {size} and the seeds."
        f"{paired}"
    )


def _class_sentence(diagnosis: Results) -> list[str]:
    if not diagnosis.get("least_robust_classes"):
        return []
    part = least_robust(len(diagnosis["subsets"]))
    if not (found := outstanding_classes(diagnosis)):
        return [f"No class is over-represented in the {part} beyond chance."]
    named = [
        f"{row['name']} ({100 * row['share']:.2g} % of it, {100 * row['base_share']:.2g} % of all)"
        for row in found[:MAX_CLASSES]
    ]
    more = [f"{len(found) - MAX_CLASSES} more"] if len(found) > MAX_CLASSES else []
    return [f"Over-represented in the {part} beyond chance: {join([*named, *more])}."]


def _threshold_sentence(diagnosis: Results) -> list[str]:
    """From which confidence on predictions can be accepted."""
    rows = diagnosis.get("confidence_thresholds", [])
    parts = [
        f"{100 * row['max_error']:g} % from a confidence of {threshold_text(row['threshold'])} on "
        f"({100 * row['coverage']:.0f} % of the examples)"
        for row in rows
        if row["threshold"] is not None
    ]
    sentences = []
    if parts:
        sentences.append(
            f"The error is at most {' and at most '.join(parts)}. These thresholds were chosen on the same examples: "
            "check them on others."
        )
    if never := [f"{100 * row['max_error']:g} %" for row in rows if row["threshold"] is None]:
        sentences.append(f"At no confidence threshold is the error {' or '.join(never)} or less.")
    return sentences


def _places(results: Results) -> dict[str, list[Condition]]:
    """Clean data, and all shifted conditions where there are any."""
    shifts = shift_conditions(results)
    return {"on clean data": [CLEAN], **({"under shift": shifts} if shifts else {})}


def _relation(results: Results, first: Variant, second: Variant, key: str, conditions: Sequence[Condition]) -> str:
    """Apply the rule of the module: lower, higher or unclear."""
    if key in NOISE_LIMITS and all(_within_noise(results, variant, key, conditions) for variant in (first, second)):
        return "unclear"
    if paired := difference(results, first, second, key, conditions):
        return compare(paired, Measure(0.0, 0.0, 0.0))
    return compare(*(measure(results, variant, key, conditions=conditions) for variant in (first, second)))


def _within_noise(results: Results, variant: Variant, key: str, conditions: Sequence[Condition]) -> bool | None:
    """Whether chance explains a calibration error; None where its noise floor is not known."""
    names = (key, NOISE_LIMITS[key], NOISE_FLOORS[key])
    error, limit, floor = (measure(results, variant, name, conditions=conditions) for name in names)
    limit = limit if limit.known else floor
    return error.value <= limit.value or error.low <= 0 if limit.known else None


def _noise_words(results: Results, variant: Variant, conditions: Sequence[Condition], key: str = "ece") -> str:
    words = {True: ", within noise at this size", False: ", more than noise", None: ""}
    return words[_within_noise(results, variant, key, conditions)]


def _first(names: Sequence[str], separator: str = ", ", *, all_of: bool = False) -> str:
    """Write the first names and the number of the others."""
    if all_of or len(names) <= MAX_NAMED + 1:
        return separator.join(names)
    return f"{separator.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more"


def _are(found: Sequence[object]) -> str:
    return "is" if len(found) == 1 else "are"


def _size(paired: Measure) -> str:
    """``by 0.020 (0.012 to 0.028)``, without the sign."""
    low, high = sorted((abs(paired.low), abs(paired.high)))
    return f"by {abs(paired.value):.3f} {_interval(low, high, 1, 3)}"


def _points(paired: Measure) -> str:
    low, high = sorted((abs(paired.low), abs(paired.high)))
    return f"{100 * abs(paired.value):.1f} points {_interval(low, high, 100, 1)}"


def _gap(gap: Measure, *, name: bool = False) -> tuple[str, str]:
    """Over- or underconfident (neither where zero is in the interval), and the size of it."""
    if not (gap.low > 0 or gap.high < 0):
        return "", _interval(gap.low, gap.high, 100, 1)
    sign, word = (1, "overconfident") if gap.low > 0 else (-1, "underconfident")
    low, high = sorted((sign * gap.low, sign * gap.high))
    return word, f"by {100 * sign * gap.value:.1f} points {_interval(low, high, 100, 1, name=name)}"


def _gap_words(label: str, gap: Measure) -> str:
    """``vanilla is overconfident by 5.3 points (95 % interval 1.0 to 10.9)``."""
    word, size = _gap(gap, name=True)
    if word:
        return f"{label} is {word} {size}"
    return f"{'its gap' if label == 'it' else f'the gap of {label}'} cannot be told apart from zero {size}"


def _percent(value: Measure) -> str:
    return f"{100 * value.value:.1f} % {_interval(value.low, value.high, 100, 1)}"


def _fraction(value: Measure, digits: int = 3) -> str:
    return f"{value.value:.{digits}f} {_interval(value.low, value.high, 1, digits)}"


def _interval(low: float, high: float, scale: float, digits: int, *, name: bool = False) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "(no interval)"
    return f"({'95 % interval ' if name else ''}{scale * low:z.{digits}f} to {scale * high:z.{digits}f})"


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]
