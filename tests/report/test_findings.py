from __future__ import annotations

import math
from typing import Any

import pytest
from aradals.results.names import Variant
from synthetic_results import make_audit, make_comparisons, make_diagnosis, make_row, make_study

from aradals.report import diagnosis_headlines, study_headlines
from aradals.report.findings import WARNING, outstanding_classes
from aradals.report.view import Measure, compare, gap_interval, measure, threshold_text


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
    assert sentence_with(sentences, "ECE") == (
        "ECE on clean data: vanilla 0.045 (0.035 to 0.055), more than noise; "
        "lower: AR-AdaLS 0.012 (0.000 to 0.020; within noise)."
    )


def test_a_clear_deterioration_is_said() -> None:
    sentences = study_headlines(two_methods((0.03, 0.02, 0.035), (0.06, 0.05, 0.07)))
    assert "; higher: AR-AdaLS 0.060 (0.050 to 0.070)." in sentence_with(sentences, "ECE")
    assert "lower" not in " ".join(sentences)


@pytest.mark.parametrize(
    ("vanilla", "words"),
    [
        ((0.016, 0.001, 0.02), "more than noise"),  # above the 95th percentile of 0.015, without zero
        ((0.016, 0.0, 0.02), "within noise at this size"),  # zero is in the interval
        ((0.014, 0.001, 0.02), "within noise at this size"),  # chance explains it
    ],
)
def test_more_than_noise_needs_both_its_floor_and_its_interval(vanilla: tuple[float, float, float], words: str) -> None:
    assert f", {words};" in sentence_with(study_headlines(two_methods(vanilla, (0.01, 0.0, 0.02))), "ECE")


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
    assert sentence_with(sentences, "ECE").endswith(f"; not told apart from vanilla: AR-AdaLS {other[0]:.3f}.")
    assert not any(word in " ".join(sentences) for word in ("lower", "higher"))


def make_large_study() -> dict[str, Any]:
    """Many methods, with all the optional parts and both kinds of trouble."""
    methods = {"vanilla": 1.0, "ar_adals": 0.2, **{f"method_number_{index}": 0.1 * index for index in range(1, 16)}}
    study = make_study(methods=methods)
    study["comparisons"] = make_comparisons(study)
    study["training"][1]["at_lower_bound"] = [0]
    study["calibrators"][0]["temperature"] = 100.0
    study["costs"] = [
        {"method": method, "seed": 0, "relative_cost": 1.0 + index} for index, method in enumerate(methods)
    ]
    study["stability"] = [
        {
            "method": method, "models": "seeds", "seed": None, "subset": None, "matched_prediction_variance": value,
            "matched_prediction_variance_low": value - 0.001, "matched_prediction_variance_high": value + 0.001,
        }
        for method, value in (("vanilla", 0.03), ("ar_adals", 0.02), ("method_number_1", 0.0305))
    ]  # fmt: skip
    return study


def test_a_dozen_sentences_at_most_and_none_of_them_long() -> None:
    sentences = study_headlines(make_large_study())
    assert len(sentences) == 12
    assert max(map(len, sentences)) < 600
    assert "; lower: AR-AdaLS by " in sentence_with(sentences, "ECE on clean data")
    for words in (
        "Of 17 others on the least robust decile, ",
        "; AR-AdaLS is overconfident by 5.6 points (95 % interval ",
    ):
        sentence_with(sentences, words)


def test_paired_differences_decide_where_there_are_some() -> None:
    study = two_methods((0.05, 0.03, 0.07), (0.03, 0.01, 0.05))
    assert "not told apart from vanilla: AR-AdaLS" in sentence_with(study_headlines(study), "ECE on clean")
    row: dict[str, Any] = {"method": "ar_adals", "calibrator": "none"}
    row |= {"reference_method": "vanilla", "reference_calibrator": "none"}
    row |= {"condition": "clean", "metric": "ece", "difference": -0.02, "low": -0.031, "high": -0.009}
    sentences = study_headlines(study | {"comparisons": [row]})
    assert "; lower: AR-AdaLS by 0.020 (0.009 to 0.031)." in sentence_with(sentences, "ECE on clean")
    assert sentences[-1].endswith(
        "Differences are paired; each has its own 95 % interval, not widened for their number."
    )
    clear = two_methods((0.05, 0.04, 0.055), (0.03, 0.02, 0.035)) | {"comparisons": [row | {"high": 0.001}]}
    assert "not told apart from vanilla: AR-AdaLS" in sentence_with(study_headlines(clear), "ECE on clean")
    unknown = two_methods((0.05, 0.04, 0.055), (0.03, 0.02, 0.035)) | {"comparisons": [row | {"high": None}]}
    assert "; lower: AR-AdaLS 0.030 (" in sentence_with(study_headlines(unknown), "ECE on clean")


def test_accuracy_lost_is_told_as_a_paired_difference() -> None:
    study = make_study(methods={"vanilla": 1.0, "ar_adals": 0.1}, calibrators=("none",), shifts=())
    study["rows"][11]["accuracy"] -= 0.02
    study["comparisons"] = make_comparisons(study)
    expected = "; AR-AdaLS is lower on clean data by 2.0 points (1.5 to 2.5)."
    assert expected in sentence_with(study_headlines(study), "Accuracy: vanilla")


def test_stability_and_cost() -> None:
    sentences = study_headlines(make_large_study())
    assert sentence_with(sentences, "Stability").endswith(
        "over seeds at equal mean confidence: vanilla 0.0300 (0.0290 to 0.0310); lower: AR-AdaLS 0.0200 (0.0190 to "
        "0.0210); not told apart from it: method number 1 0.0305 (0.0295 to 0.0315)."
    )
    expected = "as a multiple of vanilla: from 2.0 (AR-AdaLS) to 17.0 (method number 15); on one machine."
    assert expected in sentence_with(sentences, "Cost")
    dearer = make_large_study()
    dearer["costs"][1]["relative_cost"] = 5.0
    expected = "from 3.0 (method number 1) to 17.0 (method number 15); 5.0 (AR-AdaLS); on one machine."
    assert expected in sentence_with(study_headlines(dearer), "Cost")


@pytest.mark.parametrize(("limit", "words"), [(0.02, "within noise at this size"), (0.014, "more than noise")])
def test_noise_of_the_subset_calibration_error_is_its_95th_percentile(limit: float, words: str) -> None:
    study = make_study(methods={"vanilla": 0.15, "mixup": 1.0}, calibrators=("none",), shifts=())
    for row in study["rows"]:
        row |= {"subset_noise_floor": 0.001, "subset_noise_floor_p95": limit}
    start = "Subset calibration error on clean data: vanilla 0.018"
    assert f"{words};" in sentence_with(study_headlines(study), start)


def test_gap_of_vanilla_is_stated_with_its_interval() -> None:
    study = make_study(shifts=())
    gap = measure(study, Variant("vanilla"), "gap", subset=0)
    sentence = study_headlines(study)[0]
    assert sentence.startswith(
        "On the least robust decile vanilla is overconfident by 28.0 points "
        f"(95 % interval {100 * gap.low:.1f} to {100 * gap.high:.1f}); "
    )
    assert "on the most robust decile its gap cannot be told apart from zero (-" in sentence


def set_gap(study: dict[str, Any], method: str, confidence: float) -> None:
    """Give a method's least robust subset an accuracy of 0.7 ± 0.05 and this confidence ± 0.01."""
    row = next(row for row in study["rows"] if row["method"] == method and row["subset"] == 0)
    row |= {"accuracy": 0.7, "accuracy_low": 0.65, "accuracy_high": 0.75}
    row |= {"confidence": confidence, "confidence_low": confidence - 0.01, "confidence_high": confidence + 0.01}


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        (
            {"label_smoothing": -0.2, "adals": 0.01, "ar_adals": 0.25},
            "Others on the least robust decile – underconfident: label smoothing by 20.0 points (14.9 to 25.1); "
            "not told apart from zero: AdaLS (-4.1 to 6.1); "
            "overconfident: AR-AdaLS by 25.0 points (19.9 to 30.1); only AR-AdaLS cannot",
        ),
        ({"label_smoothing": 0.0, "ar_adals": 0.0}, "label smoothing (-5.1 to 5.1), AR-AdaLS (-5.1 to 5.1); all can"),
        ({"label_smoothing": 0.2, "ar_adals": 0.2}, "AR-AdaLS by 20.0 points (14.9 to 25.1); none can"),
        ({"label_smoothing": 0.2, "adals": 0.2, "ar_adals": 0.1}, "; only AR-AdaLS can"),
        (
            {"ar_adals": 0.0},
            "Others on the least robust decile – not told apart from zero: AR-AdaLS (-5.1 to 5.1); it can",
        ),
    ],
)
def test_gaps_of_the_others_and_whether_they_differ(gaps: dict[str, float], expected: str) -> None:
    study = make_study(methods={"vanilla": 1.0, **dict.fromkeys(gaps, 0.5)}, calibrators=("none",), shifts=())
    for method, gap in {"vanilla": 0.25, **gaps}.items():
        set_gap(study, method, 0.7 + gap)
    assert f"{expected} be told apart from vanilla." in study_headlines(study)[1]


@pytest.mark.parametrize("gap", [-0.0004, -0.0, 0.0004])
def test_no_minus_zero(gap: float) -> None:
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=(), num_subsets=2)
    row = study["rows"][-1] | {"accuracy_high": 1.0, "accuracy": 1.0, "confidence": 1.0 + gap}
    study["rows"][-1] = row | {"accuracy_low": 0.981, "confidence_low": 1.0 + gap, "confidence_high": 1.0 + gap}
    sentence = study_headlines(study)[0]
    assert "-0.0" not in sentence
    assert "+" not in sentence


def test_underconfidence_is_mirrored() -> None:
    results = two_methods((0.05, 0.04, 0.06), (0.05, 0.04, 0.06))
    results["rows"] = results["rows"][:1]
    results["rows"][0] |= {"confidence": 0.80, "confidence_low": 0.79, "confidence_high": 0.81}
    results["rows"][0] |= {"accuracy": 0.90, "accuracy_low": 0.88, "accuracy_high": 0.91}
    low, high = 10 - 100 * math.hypot(0.01, 0.02), 10 + 100 * math.hypot(0.01, 0.01)
    expected = f"On all examples vanilla is underconfident by 10.0 points (95 % interval {low:.1f} to {high:.1f})."
    assert expected in study_headlines(results)


def test_gap_interval_holds_that_of_the_accuracy() -> None:
    row = {"accuracy": 0.8, "accuracy_low": 0.77, "accuracy_high": 0.83, "confidence": 0.9}
    gap, low, high = gap_interval(row | {"confidence_low": 0.9, "confidence_high": 0.9})
    assert (gap, low, high) == pytest.approx((0.1, 0.07, 0.13))


def test_the_rival_is_temperature_scaling() -> None:
    study = make_study()
    sentence = (
        "AR-AdaLS against vanilla + temperature scaling: lower in ECE and subset calibration error on clean data "
    )
    assert f"{sentence}and under shift." in study_headlines(study)
    for row in study["rows"]:
        if row["method"] == "ar_adals" and row["severity"] > 0 and row["subset"] is None:
            row |= {"ece_high": 1.0}  # under shift it might be anything
    expected = "lower in ECE on clean data; not told apart in ECE under shift; lower in subset calibration error on"
    assert expected in sentence_with(study_headlines(study), "AR-AdaLS against")


def test_shift_is_told_beside_clean_data() -> None:
    sentences = study_headlines(make_study(methods={"vanilla": 0.5, "ar_adals": 0.48}, calibrators=("none",)))
    assert "; not told apart from vanilla: AR-AdaLS 0." in sentence_with(
        sentences, "ECE under shift (mean over 3 corruption types, 4 conditions): vanilla 0."
    )
    assert not any("under shift" in sentence for sentence in study_headlines(make_study(shifts=())))


def test_accuracy_lost_is_said() -> None:
    study = make_study(methods={"vanilla": 1.0, "ar_adals": 0.1}, calibrators=("none",))
    assert "; no method can be told apart from vanilla." in sentence_with(study_headlines(study), "Accuracy: vanilla")
    for row in study["rows"]:
        if row["method"] == "ar_adals" and row["subset"] is None and row["severity"] == 0:
            row |= {"accuracy": 0.7, "accuracy_low": 0.69, "accuracy_high": 0.71}
    expected = "; AR-AdaLS is lower on clean data, 70.0 % (69.0 to 71.0); nothing else can be told apart from vanilla."
    assert expected in sentence_with(study_headlines(study), "Accuracy: vanilla 80.0 % (")


def test_warnings_come_first_one_for_each_kind() -> None:
    study = make_study(shifts=(), seeds=(0, 1))
    study["training"][-1]["at_lower_bound"] = [0, 3]
    study["training"][3]["at_lower_bound"] = [2]
    study["calibrators"][0]["temperature"] = 100.0
    first, second, third, *_ = study_headlines(study)
    assert first == (
        f"{WARNING}targets ran down to their lower bound 1/K (wind-up; try a smaller rate or leak > 0): "
        "AR-AdaLS, seed 0 (subset 2); AR-AdaLS, seed 1 (subsets 0 and 3)."
    )
    assert second.startswith(f"{WARNING}temperatures at the bound of their search")
    assert second.endswith(": vanilla + temperature scaling, seed 0 (100).")
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
    assert study_headlines(three)[-1].startswith("Means over 3 seeds; in brackets 95 % intervals")
    assert "with one seed, not the randomness of training" in study_headlines(one)[-1]


def test_a_mean_that_lacks_a_condition_is_not_shown() -> None:
    study = make_study(shifts=(("fog", 1), ("fog", 5)), methods={"vanilla": 1.0}, calibrators=("none",))
    conditions = [("fog", 1), ("fog", 5)]
    assert measure(study, Variant("vanilla"), "nll", conditions=conditions).known
    next(row for row in study["rows"] if row["severity"] == 5 and row["subset"] is None)["nll"] = None
    assert not measure(study, Variant("vanilla"), "nll", conditions=conditions).known


@pytest.mark.parametrize(
    ("count", "words"), [(1, "all examples"), (3, "the least robust third"), (7, "the least robust of 7 subsets")]
)
def test_subsets_are_named_by_their_number(count: int, words: str) -> None:
    sentence = study_headlines(make_study(num_subsets=count, shifts=(), calibrators=("none",)))[0]
    assert sentence.startswith(f"On {words} vanilla is overconfident by ")


def test_diagnosis() -> None:
    sentences = diagnosis_headlines(make_diagnosis())
    assert sentences[0].startswith(
        "The model is overconfident by 12.1 points (95 % interval 11.5 to 12.7): it says 92.1 %"
    )
    assert sentences[1].startswith("On the least robust decile the model is overconfident by 28.0 points")
    assert sentences[1].endswith("The largest gap estimated is 31.0 points, in subset 1.")
    assert "more than noise; a calibrated model would show about 0.004, by chance up to 0.006." in sentences[2]
    assert "cat (30 % of it, 10 % of all)" in sentence_with(sentences, "Over-represented")
    assert "At no confidence threshold is the error 1 % or less." in sentences
    expected = "The error is at most 5 % from a confidence of 0.98 on (40 % of the examples)."
    assert expected in sentence_with(sentences, "These thresholds were chosen on the same examples")


@pytest.mark.parametrize(
    ("threshold", "text"),
    [(0.5, "0.5"), (0.8449, "0.84"), (0.99271, "0.9927"), (0.9998975, "0.9999"), (0.9999848, "0.999985"), (1.0, "1")],
)
def test_thresholds_have_the_digits_that_matter(threshold: float, text: str) -> None:
    assert threshold_text(threshold) == text


def test_classes_within_chance_do_not_stand_out() -> None:
    diagnosis = make_diagnosis()
    for row in diagnosis["least_robust_classes"]:
        row |= {"n": 115, "share": 0.115}  # of 1,000, with 10 % expected: 1.6 standard deviations
    assert outstanding_classes(diagnosis) == []
    assert "No class is over-represented in the least robust decile beyond chance." in " ".join(
        diagnosis_headlines(diagnosis)
    )


def test_diagnosis_without_subsets() -> None:
    diagnosis = make_diagnosis() | {"subsets": [], "least_robust_classes": [], "audit": None}
    sentences = diagnosis_headlines(diagnosis)
    assert not any("robust" in sentence for sentence in sentences)
    assert len([sentence for sentence in sentences if "overconfident" in sentence]) == 1


def test_the_audit_of_the_ranking_is_told_last_unless_it_is_poor() -> None:
    diagnosis = make_diagnosis()
    good = diagnosis_headlines(diagnosis)
    assert "96.1 % (95 % interval 91.1 to 98.1) are in the same subset as by ddn" in good[-1]
    poor = diagnosis_headlines(diagnosis | {"audit": make_audit(0.9, 0.5)})
    assert poor[0].startswith(f"{WARNING}the ranking by robustness is too coarse for 10 subsets")
    assert poor[1:] == good[:-1] == diagnosis_headlines(diagnosis | {"audit": None})
