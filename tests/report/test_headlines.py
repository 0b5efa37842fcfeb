from __future__ import annotations

import math
from typing import Any

import pytest
from synthetic_results import make_diagnosis, make_row, make_study

from aradals.report import diagnosis_headlines, study_headlines
from aradals.report.headlines import WARNING, outstanding_classes
from aradals.report.summary import Measure, Variant, compare, gap_interval, measure


def two_methods(
    vanilla: tuple[float, float, float], other: tuple[float, float, float], floor: float = 0.01
) -> dict[str, Any]:
    """Clean, unsubdivided results of vanilla and AR-AdaLS with the given ECE (value, low, high)."""
    rows = []
    for method, (value, low, high) in (("vanilla", vanilla), ("ar_adals", other)):
        row = make_row(0.9, 0.9 + value, 800, ece=value)
        row |= {"ece_low": low, "ece_high": high, "ece_noise_floor": floor, "ece_noise_floor_p95": 1.5 * floor}
        keys = {"method": method, "calibrator": "none", "seed": 0, "corruption": "none", "severity": 0, "subset": None}
        rows.append(keys | row)
    return {"kind": "study", "rows": rows}


def sentence_with(sentences: list[str], words: str) -> str:
    found = [sentence for sentence in sentences if words in sentence]
    assert len(found) == 1, (words, sentences)
    return found[0]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Measure(0.1, 0.08, 0.12), Measure(0.2, 0.18, 0.22), "lower"),
        (Measure(0.2, 0.18, 0.22), Measure(0.1, 0.08, 0.12), "higher"),
        (Measure(0.1, 0.08, 0.15), Measure(0.2, 0.15, 0.22), "unclear"),  # they touch
        (Measure(0.1), Measure(0.2), "unclear"),  # no intervals
        (Measure(math.nan), Measure(0.2, 0.18, 0.22), "unclear"),
        (Measure(0.3, 0.08, 0.12), Measure(0.2, 0.18, 0.22), "unclear"),  # estimates in the other order
    ],
)
def test_compare_needs_disjoint_intervals(first: Measure, second: Measure, expected: str) -> None:
    assert compare(first, second) == expected


def test_a_clear_improvement_is_said_and_so_is_what_is_left() -> None:
    sentences = study_headlines(two_methods((0.045, 0.035, 0.055), (0.012, 0.0, 0.02)))
    assert sentence_with(sentences, "AR-AdaLS lowers ECE") == (
        "AR-AdaLS lowers ECE from 0.045 to 0.012 (95 % interval 0.000 to 0.020); the noise floor is 0.010, "
        "so what is left is within noise."
    )
    assert "so this is more than noise" in sentence_with(sentences, "Vanilla has an ECE of 0.045")


def test_a_clear_deterioration_is_said() -> None:
    sentences = study_headlines(two_methods((0.03, 0.02, 0.035), (0.06, 0.05, 0.07)))
    assert "AR-AdaLS raises ECE from 0.030 to 0.060" in sentence_with(sentences, "raises ECE")
    assert not any("lowers" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("vanilla", "other"),
    [
        ((0.045, 0.03, 0.06), (0.03, 0.015, 0.045)),  # intervals overlap
        ((0.014, 0.013, 0.015), (0.005, 0.004, 0.006)),  # disjoint, yet both within noise
        ((0.03, 0.015, 0.045), (0.045, 0.03, 0.06)),
    ],
)
def test_no_claim_without_evidence(vanilla: tuple[float, float, float], other: tuple[float, float, float]) -> None:
    sentences = study_headlines(two_methods(vanilla, other))
    assert "AR-AdaLS" in sentence_with(sentences, "cannot be told apart from vanilla 0.0")
    text = " ".join(sentences)
    assert not any(word in text for word in ("lowers", "raises", "is lower", "has the lowest ECE"))


def test_gap_of_vanilla_is_stated_with_its_interval() -> None:
    study = make_study(shifts=())
    gap = measure(study, Variant("vanilla"), "gap", subset=0)
    sentence = sentence_with(
        study_headlines(study), "Vanilla is overconfident by 28.0 points on the least robust tenth"
    )
    assert f"(95 % interval {100 * gap.low:.1f} to {100 * gap.high:.1f})" in sentence
    assert "on the most robust tenth its gap" in sentence
    assert "cannot be told apart from zero" in sentence


def test_underconfidence_is_mirrored() -> None:
    results = two_methods((0.05, 0.04, 0.06), (0.05, 0.04, 0.06))
    results["rows"] = results["rows"][:1]
    results["rows"][0] |= {"confidence": 0.80, "confidence_low": 0.79, "confidence_high": 0.81}
    results["rows"][0] |= {"accuracy": 0.90, "accuracy_low": 0.88, "accuracy_high": 0.91}
    low, high = 10 - 100 * math.hypot(0.01, 0.02), 10 + 100 * math.hypot(0.01, 0.01)
    expected = f"Vanilla is underconfident by 10.0 points on all examples (95 % interval {low:.1f} to {high:.1f})."
    assert expected in study_headlines(results)


def test_gap_interval_holds_that_of_the_accuracy() -> None:
    row = {"accuracy": 0.8, "accuracy_low": 0.77, "accuracy_high": 0.83, "confidence": 0.9}
    gap, low, high = gap_interval(row | {"confidence_low": 0.9, "confidence_high": 0.9})
    assert (gap, low, high) == pytest.approx((0.1, 0.07, 0.13))


def test_lowest_method_is_named_only_when_it_stands_out() -> None:
    alone = study_headlines(make_study(methods={"vanilla": 1.0, "ar_adals": 0.1}, calibrators=("none",)))
    assert "AR-AdaLS has the lowest subset calibration error on clean data" in " ".join(alone)
    assert "AR-AdaLS has the lowest subset calibration error under shift (mean over 4 conditions)" in " ".join(alone)
    tied = " ".join(study_headlines(make_study(methods={"vanilla": 0.5, "ar_adals": 0.48}, calibrators=("none",))))
    assert "No method stands out by its subset calibration error on clean data" in tied
    assert "has the lowest" not in tied


def test_the_rival_is_temperature_scaling() -> None:
    sentence = sentence_with(study_headlines(make_study()), "AR-AdaLS beside vanilla + temperature scaling")
    assert "ECE is lower" in sentence
    assert "subset calibration error is lower" in sentence


def test_accuracy_lost_is_said() -> None:
    study = make_study(methods={"vanilla": 1.0, "ar_adals": 0.1}, calibrators=("none",), shifts=())
    assert "no method can be told apart" in sentence_with(study_headlines(study), "In accuracy")
    for row in study["rows"]:
        if row["method"] == "ar_adals" and row["subset"] is None:
            row |= {"accuracy": 0.7, "accuracy_low": 0.69, "accuracy_high": 0.71}
    assert "AR-AdaLS is lower, 70.0 %" in sentence_with(study_headlines(study), "Accuracy of vanilla")


def test_warnings_come_first() -> None:
    study = make_study(shifts=())
    study["training"][-1]["at_lower_bound"] = [0, 3]
    study["calibrators"][0] |= {"at_bound": True, "temperature": 100.0}
    first, second, third, *_ = study_headlines(study)
    assert first.startswith(WARNING)
    assert "AR-AdaLS, seed 0: the target of subsets 0 and 3" in first
    assert "wind-up; try a smaller update_rate or leak > 0" in first
    assert "vanilla + temperature scaling, seed 0: the temperature is at the bound" in second
    assert not third.startswith(WARNING)


def test_intervals_over_seeds_are_wider_than_within_one() -> None:
    one, three = make_study(shifts=()), make_study(shifts=(), seeds=(0, 1, 2))
    single, several = (measure(study, Variant("vanilla"), "ece") for study in (one, three))
    assert single.num_seeds == 1
    assert math.isnan(single.spread)
    assert several.num_seeds == 3
    values = [
        row["ece"]
        for row in three["rows"]
        if (row["method"], row["calibrator"], row["subset"]) == ("vanilla", "none", None)
    ]
    mean = sum(values) / 3
    assert several.value == pytest.approx(mean)
    assert several.spread == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in values) / 2))
    half_width = math.hypot((single.high - single.low) / 2, 4.303 * several.spread / math.sqrt(3))
    assert (several.high - several.low) / 2 == pytest.approx(half_width)
    assert study_headlines(three)[-1].startswith("Means over 3 seeds")
    assert study_headlines(one)[-1].startswith("One seed")


def test_a_mean_that_lacks_a_condition_is_not_shown() -> None:
    study = make_study(shifts=(("fog", 1), ("fog", 5)), methods={"vanilla": 1.0}, calibrators=("none",))
    conditions = [("fog", 1), ("fog", 5)]
    assert measure(study, Variant("vanilla"), "nll", conditions=conditions).known
    next(row for row in study["rows"] if row["severity"] == 5 and row["subset"] is None)["nll"] = None
    assert not measure(study, Variant("vanilla"), "nll", conditions=conditions).known


@pytest.mark.parametrize(
    ("count", "words"), [(1, "on all examples"), (3, "least robust third"), (7, "least robust of 7 subsets")]
)
def test_subsets_are_named_by_their_number(count: int, words: str) -> None:
    text = " ".join(study_headlines(make_study(num_subsets=count, shifts=(), calibrators=("none",))))
    assert f"points on {'' if count == 1 else 'the '}{words.removeprefix('on ')}" in text


def test_diagnosis() -> None:
    sentences = diagnosis_headlines(make_diagnosis())
    assert sentences[0].startswith("The model is overconfident by 12.1 points on all examples")
    assert "by 28.0 points on the least robust tenth" in sentences[1]
    assert "cat (30 % of it, 10 % of all)" in sentence_with(sentences, "Over-represented")
    assert "At no confidence threshold is the error 1 % or less." in sentences
    assert "at least 0.98: that keeps 40.0 % of the examples, 4.5 % of them wrong" in sentence_with(
        sentences, "at most 5 %"
    )


def test_classes_within_chance_do_not_stand_out() -> None:
    diagnosis = make_diagnosis()
    for row in diagnosis["least_robust_classes"]:
        row |= {"n": 115, "share": 0.115}  # of 1,000, with 10 % expected: 1.6 standard deviations
    assert outstanding_classes(diagnosis) == []
    assert "No class stands out" in " ".join(diagnosis_headlines(diagnosis))


def test_diagnosis_without_subsets() -> None:
    diagnosis = make_diagnosis() | {"subsets": [], "least_robust_classes": []}
    sentences = diagnosis_headlines(diagnosis)
    assert not any("robust" in sentence for sentence in sentences)
    assert len([sentence for sentence in sentences if "overconfident" in sentence]) == 1
