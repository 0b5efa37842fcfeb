"""The verdict: what is called wrong, what is recommended, and what is claimed only with evidence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from synthetic_results import (
    METHODS,
    changed,
    clean,
    compared,
    make_audit,
    make_diagnosis,
    make_metrics,
    make_study,
    without_subsets,
)

from aradals.report import Verdict, verdict
from aradals.report.findings import WARNING, outstanding_classes, recommend
from aradals.report.tables import threshold_rows
from aradals.report.view import threshold_text
from aradals.results.aggregate import is_noise, measure, relation
from aradals.results.records import (
    ClassRow,
    Comparison,
    Cost,
    DataSummary,
    FailedRun,
    Measure,
    Method,
    Results,
    Row,
    Stability,
    Threshold,
    Variant,
)

VANILLA, OURS = Variant("vanilla"), Variant("ar_adals")

Numbers = tuple[float, float, float]


def two_methods(vanilla: Numbers, other: Numbers, floor: float = 0.01) -> Results:
    """Clean results without subsets of vanilla and AR-AdaLS with the given ECE (value, low, high)."""
    rows = []
    for method, ece in (("vanilla", vanilla), ("ar_adals", other)):
        metrics = make_metrics(0.9, 0.9 + ece[0], 800, ece=ece[0])
        metrics |= {
            "ece": Measure(*ece),
            "ece_noise_floor": Measure(floor),
            "ece_noise_floor_p95": Measure(1.5 * floor),
        }
        rows.append(Row(method, "none", 0, "none", 0, 800, metrics))
    methods = (Method("vanilla", "vanilla"), Method("ar_adals", "AR-AdaLS"))
    return Results("study", "two", DataSummary("demo", 10), methods, "vanilla", tuple(rows))


def paired(difference: float, low: float, high: float) -> Comparison:
    """AR-AdaLS minus vanilla in ECE on clean data."""
    return Comparison("ar_adals", "none", "vanilla", "none", "clean", "ece", 1, 0.0, 0.0, difference, low, high)


def advice(found: Verdict) -> str:
    """The sentence about the cure, which comes first if there is one."""
    return next(sentence for sentence in found.sentences if not sentence.startswith("On "))


def problem(found: Verdict) -> str:
    return next(sentence for sentence in found.sentences if sentence.startswith("On "))


def all_sentences(found: Verdict) -> list[str]:
    return [*found.warnings, *found.sentences, *found.notes]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.1, 0.08, 0.12), (0.2, 0.18, 0.22), -1),
        ((0.2, 0.18, 0.22), (0.1, 0.08, 0.12), 1),
        ((0.1, 0.08, 0.15), (0.2, 0.15, 0.22), 0),  # they touch
        ((0.1, math.nan, math.nan), (0.2, math.nan, math.nan), 0),
        ((math.nan, math.nan, math.nan), (0.2, 0.18, 0.22), 0),
        ((0.3, 0.08, 0.12), (0.2, 0.18, 0.22), 0),  # estimates in the other order
    ],
)
def test_without_pairs_a_difference_needs_disjoint_intervals(first: Numbers, second: Numbers, expected: int) -> None:
    assert relation(two_methods(first, second), VANILLA, OURS, "ece") == expected


def test_a_clear_improvement_is_recommended() -> None:
    found = verdict(two_methods((0.045, 0.035, 0.055), (0.012, 0.0, 0.02)))
    assert (found.reference, found.best) == (VANILLA, OURS)
    expected = (
        "Use AR-AdaLS: it lowers the mean gap between confidence and accuracy (ECE, more than noise) of vanilla from "
        "4.5 to 1.2 points."
    )
    assert advice(found) == expected


def test_a_clear_deterioration_is_not() -> None:
    sentences = verdict(two_methods((0.03, 0.02, 0.035), (0.06, 0.05, 0.07))).sentences
    assert sentences[1] == (
        "Keep vanilla: no other variant significantly lowers the ECE of vanilla (0.030 and more than noise)."
    )


@pytest.mark.parametrize(
    ("vanilla", "words"),
    [
        ((0.016, 0.001, 0.02), "more than noise"),  # above the 95th percentile of 0.015, without zero
        ((0.016, 0.0, 0.02), "more than noise"),  # the interval does not matter
        ((0.014, 0.001, 0.02), "within noise"),  # chance explains it
    ],
)
def test_the_noise_floor_says_what_is_more_than_noise(vanilla: Numbers, words: str) -> None:
    results = two_methods(vanilla, (0.01, 0.0, 0.02))
    assert f" and {words})" in advice(verdict(results))
    assert is_noise(results, VANILLA, "ece") is (words == "within noise")


@pytest.mark.parametrize(
    ("vanilla", "other"),
    [
        ((0.045, 0.03, 0.06), (0.03, 0.015, 0.045)),  # intervals overlap
        ((0.014, 0.013, 0.015), (0.005, 0.004, 0.006)),  # disjoint, yet both within noise
        ((0.03, 0.015, 0.045), (0.045, 0.03, 0.06)),
    ],
)
def test_no_claim_without_evidence(vanilla: Numbers, other: Numbers) -> None:
    sentences = verdict(two_methods(vanilla, other)).sentences
    assert sentences[1].startswith("Keep vanilla: no other variant significantly lowers the ECE of vanilla")
    assert not any(word in " ".join(sentences) for word in ("it lowers", "higher", "raises"))


def test_paired_differences_decide_where_there_are_some() -> None:
    overlapping = two_methods((0.05, 0.03, 0.07), (0.03, 0.01, 0.05))
    assert advice(verdict(overlapping)).startswith("Keep vanilla")
    found = verdict(replace(overlapping, comparisons=(paired(-0.02, -0.031, -0.009),)))
    assert advice(found).endswith(
        "(ECE, more than noise) of vanilla from 5.0 to 3.0 points (95 % interval of the difference 0.9 to 3.1)."
    )
    disjoint = two_methods((0.05, 0.04, 0.055), (0.03, 0.02, 0.035))
    unclear = verdict(replace(disjoint, comparisons=(paired(-0.02, -0.031, 0.001),)))
    assert advice(unclear).startswith("Keep vanilla")
    unknown = verdict(replace(disjoint, comparisons=(paired(-0.02, math.nan, math.nan),)))
    assert advice(unknown).endswith("from 5.0 to 3.0 points.")


def make_large_study() -> Results:
    """Many methods, with all the optional parts and all kinds of trouble."""
    methods = {"vanilla": 1.0, "ar_adals": 0.2, **{f"method_number_{index}": 0.1 * index for index in range(1, 16)}}
    study = compared(make_study(methods=methods))
    return replace(
        study,
        training=tuple(replace(run, at_lower_bound=tuple(range(9))) for run in study.training),
        calibrators=tuple(replace(fitted, parameters={"problem": "chance"}) for fitted in study.calibrators),
        costs=tuple(Cost(method, 0, relative_cost=1.0 + index) for index, method in enumerate(methods)),
        failed=tuple(FailedRun(method, 1, "training diverged in epoch 3") for method in methods),
        stability=tuple(Stability(method, "seeds", 3, 100) for method in methods),
    )


LARGE = make_large_study()


@pytest.mark.parametrize(
    "results",
    [LARGE, make_study(), make_study(num_subsets=1), make_study(seeds=(0, 1, 2), calibrators=("none",)),
     make_diagnosis(), without_subsets(make_diagnosis()), replace(compared(make_study()), kind="evaluation")],
)  # fmt: skip
def test_three_sentences_and_none_of_them_long(results: Results) -> None:
    found = verdict(results)
    assert len(found.sentences) == 3
    assert len(found.warnings) <= 3
    assert max(map(len, found.sentences)) < 400
    assert max(map(len, found.notes), default=0) < 400
    assert all(sentence.endswith(".") for sentence in all_sentences(found))


def test_cost_and_effect_of_what_is_recommended() -> None:
    methods = {"vanilla": 1.0, "ar_adals": 0.12}
    study = compared(make_study(methods=methods, calibrators=("none",)))
    study = replace(study, costs=(Cost("vanilla", 0, relative_cost=1.0), Cost("ar_adals", 0, relative_cost=2.3)))
    found = verdict(study)
    before = measure(study, VANILLA, "subset_calibration_error").value
    lowered = before - measure(study, OURS, "subset_calibration_error").value
    change = f"from {100 * before:.1f} to {100 * (before - lowered):.1f} points"
    interval = f"95 % interval of the difference {100 * lowered - 0.5:.1f} to {100 * lowered + 0.5:.1f}"
    assert advice(found).startswith(
        "Use AR-AdaLS, which takes 2.3 times the training time: it lowers the mean gap between confidence and accuracy "
        f"(subset calibration error, more than noise) of vanilla {change} ({interval}), and under shift from "
    )


def test_a_variant_that_loses_accuracy_is_never_recommended() -> None:
    study = make_study(methods={"vanilla": 1.0, "mixup": 0.5, "ar_adals": 0.1}, calibrators=("none",), shifts=())
    assert verdict(study).best == OURS
    worse = changed(study, clean("ar_adals"), accuracy=Measure(0.78, 0.772, 0.788))
    assert verdict(worse).best == Variant("mixup")
    # Intervals that overlap: only the paired difference shows the loss.
    slightly = changed(study, clean("ar_adals"), accuracy=Measure(0.794, 0.786, 0.802))
    assert verdict(slightly).best == OURS
    assert verdict(compared(slightly)).best == Variant("mixup")
    nothing_else = compared(changed(slightly, clean("mixup"), accuracy=Measure(0.7, 0.69, 0.71)))
    found = verdict(nothing_else)
    assert found.best is None
    assert advice(found).startswith("Keep vanilla: ")


def test_the_cheap_cure_is_preferred_when_nothing_beats_it() -> None:
    study = make_study(methods={"vanilla": 1.0, "ar_adals": 0.58}, shifts=())
    study = changed(study, clean("ar_adals", "temperature"), subset_calibration_error=Measure(0.070, 0.062, 0.078))
    found = verdict(study)  # 0.073 by temperature scaling of vanilla, and 0.070: nobody knows
    assert found.best == Variant("vanilla", "temperature")
    assert advice(found).startswith(
        "Use temperature scaling, which costs no training, and no other training method is significantly better: it "
        "lowers the mean gap between confidence and accuracy (subset calibration error, more than noise) of "
        "vanilla from 12.1 to 7.3 points."
    )
    better = changed(study, clean("ar_adals", "temperature"), subset_calibration_error=Measure(0.02, 0.012, 0.028))
    assert verdict(better).best == Variant("ar_adals", "temperature")
    alone = verdict(make_study(methods={"vanilla": 1.0}, shifts=()))
    assert advice(alone).startswith("Use temperature scaling, which costs no training: it lowers")


@pytest.mark.parametrize(("limit", "words"), [(0.02, "within noise"), (0.014, "more than noise")])
def test_noise_of_the_subset_calibration_error_is_its_95th_percentile(limit: float, words: str) -> None:
    study = make_study(methods={"vanilla": 0.15, "mixup": 1.0}, calibrators=("none",), shifts=())
    study = changed(study, lambda row: True, subset_noise_floor=Measure(0.001), subset_noise_floor_p95=Measure(limit))
    assert f"subset calibration error of vanilla (0.018 and {words})" in advice(verdict(study))


def test_the_gap_of_the_reference_is_stated_with_its_interval() -> None:
    study = make_study(shifts=())
    gap, overall = (measure(study, VANILLA, "gap", subset=subset) for subset in (0, None))
    assert problem(verdict(study)) == (
        "On the least robust decile of the examples, vanilla is overconfident by 28.0 points "
        f"(95 % interval {100 * gap.low:.1f} to {100 * gap.high:.1f}); on all examples, it is overconfident by "
        f"{100 * overall.value:.1f} points (95 % interval {100 * overall.low:.1f} to {100 * overall.high:.1f})."
    )


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (-0.2, "vanilla is underconfident by 20.0 points (95 % interval 14.9 to 25.1);"),
        (0.01, "vanilla has no significant gap between confidence and accuracy (95 % interval -4.1 to 6.1);"),
        (0.25, "vanilla is overconfident by 25.0 points (95 % interval 19.9 to 30.1);"),
    ],
)
def test_a_gap_has_a_sign_only_where_its_interval_excludes_zero(gap: float, words: str) -> None:
    """The least robust subset has an accuracy of 0.7 ± 0.05 and a confidence ± 0.01."""
    confidence = 0.7 + gap
    study = changed(
        make_study(shifts=()),
        clean("vanilla", subset=0),
        accuracy=Measure(0.7, 0.65, 0.75),
        confidence=Measure(confidence, confidence - 0.01, confidence + 0.01),
    )
    assert words in problem(verdict(study))


@pytest.mark.parametrize("gap", [-0.0004, -0.0, 0.0004])
def test_no_minus_zero(gap: float) -> None:
    study = changed(
        make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=(), num_subsets=2),
        clean("vanilla", subset=0),
        accuracy=Measure(1.0, 0.981, 1.0),
        confidence=Measure(1.0 + gap, 1.0 + gap, 1.0 + gap),
    )
    sentence = problem(verdict(study))
    assert "95 % interval 0.0 to " in sentence
    assert "-0.0" not in sentence
    assert "+" not in sentence


def test_underconfidence_is_mirrored() -> None:
    results = changed(
        two_methods((0.05, 0.04, 0.06), (0.05, 0.04, 0.06)),
        clean("vanilla"),
        confidence=Measure(0.80, 0.79, 0.81),
        accuracy=Measure(0.90, 0.88, 0.91),
    )
    low, high = 10 - 100 * math.hypot(0.01, 0.02), 10 + 100 * math.hypot(0.01, 0.01)
    expected = f"On all 800 examples, vanilla is underconfident by 10.0 points (95 % interval {low:.1f} to {high:.1f})."
    assert problem(verdict(results)) == expected


def test_under_shift_the_recommendation_is_judged_again() -> None:
    study = make_study(methods={"vanilla": 1.0, "ar_adals": 0.1}, calibrators=("none",))
    assert ", and under shift from 19.4 to 1.9 points." in advice(verdict(study))
    for error, words in (
        (Measure(0.15, 0.0, 1.0), "it does not change it significantly."),
        (Measure(0.5, 0.4, 0.6), "it raises it from 19.4 to 50.0 points."),
    ):
        other = changed(
            study,
            lambda row: row.method == "ar_adals" and not row.condition.is_clean,
            subset_calibration_error=error,
        )
        assert advice(verdict(other)).endswith(f", and under shift {words}")
    assert "shift" not in " ".join(verdict(make_study(shifts=())).sentences)


def test_warnings_one_for_each_kind() -> None:
    study = make_study(shifts=(), seeds=(0, 1))
    training = list(study.training)
    training[3] = replace(training[3], at_lower_bound=(2,))
    training[-1] = replace(training[-1], at_lower_bound=(0, 3))
    first_fit = replace(study.calibrators[0], temperature=0.5, parameters={"problem": "chance"})
    troubled = replace(study, training=tuple(training), calibrators=(first_fit, *study.calibrators[1:]))
    targets, temperatures = verdict(troubled).warnings
    assert targets == (
        f"{WARNING}targets ran down to their lower bound 1/K (wind-up; use a smaller rate or leak > 0): "
        "AR-AdaLS, seed 0 (subset 2); AR-AdaLS, seed 1 (subsets 0 and 3)."
    )
    assert temperatures.startswith(f"{WARNING}the calibration split could not decide some temperatures")
    assert temperatures.endswith(": vanilla + temperature scaling, seed 0 (0.5).")
    assert verdict(study).warnings == []
    assert verdict(LARGE).warnings[1].endswith(" and 15 more.")


def test_the_scope_names_the_seeds_and_the_choice() -> None:
    one, three = make_study(shifts=()), make_study(shifts=(), seeds=(0, 1, 2))
    assert verdict(three).sentences[-1] == (
        "The 95 % intervals cover the sampling of the 8,000 examples and of 3 seeds; the choice among 8 variants was "
        "made on these examples, too."
    )
    assert "not the randomness of training (there is one seed)" in verdict(one).sentences[-1]
    assert "seed" not in verdict(replace(one, kind="evaluation")).sentences[-1]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "On all 8,000 examples, vanilla is overconfident by "),
        (3, "On the least robust third of the examples, vanilla is overconfident by "),
        (7, "On the least robust of 7 subsets of the examples, vanilla is overconfident by "),
    ],
)
def test_subsets_are_named_by_their_number(count: int, words: str) -> None:
    study = make_study(num_subsets=count, shifts=(), calibrators=("none",))
    assert problem(verdict(study)).startswith(words)


def test_diagnosis() -> None:
    found = verdict(make_diagnosis())
    wrong, advice, scope = found.sentences
    assert wrong == (
        "On the least robust decile of the examples, resnet29 is overconfident by 28.0 points (95 % interval 26.0 to "
        "30.0); on all examples, it is overconfident by 12.1 points (95 % interval 11.5 to 12.7)."
    )
    assert advice.startswith("Its subset calibration error of 0.121 (95 % interval 0.113 to 0.129) is more than noise:")
    assert "`aradals calibrate`" in advice
    assert scope.startswith("The intervals cover the sampling of the 10,000 examples")
    assert found.best is None
    classes, thresholds, never, searches = found.notes
    assert searches == (
        "deepfool found no boundary for 3 of 10,000 examples of test, which are ranked by their logit margin."
    )
    assert "cat (30 % of it, 10 % of all)" in classes
    assert thresholds == (
        "With 95 % certainty, the error on new examples of this kind is at most 5 % from a confidence of 0.98 on (40 % "
        "of the examples, n = 4,000; upper bound 4.5 %)."
    )
    assert never == (
        "10,000 examples show no confidence threshold from which on the error is at most 1 % with 95 % certainty."
    )


def test_a_threshold_without_a_bound_is_not_shown() -> None:
    for bound in (math.nan, 0.051):
        results = replace(make_diagnosis(), thresholds=(Threshold(0.05, 0.98, 0.4, 4000, 0.045, bound),))
        _, sentence, _ = verdict(results).notes
        assert "show no confidence threshold from which on the error is at most 5 %" in sentence
        assert [cell.text for cell in threshold_rows(results).rows[0]] == ["5 %", "none", "–", "–", "–"]


def test_nothing_is_called_noise_or_more_where_the_noise_floor_is_not_known() -> None:
    unknown = changed(make_diagnosis(), lambda row: True, subset_noise_floor_p95=Measure())
    assert "to 0.129) has no known noise floor: fit a calibrator" in advice(verdict(unknown))
    study = changed(make_study(shifts=()), lambda row: True, subset_noise_floor_p95=Measure())
    assert "noise" not in advice(verdict(study))


def test_a_model_whose_errors_are_noise_needs_no_repair() -> None:
    diagnosis = make_diagnosis()
    noise = Measure(0.5)
    results = changed(diagnosis, lambda row: True, ece_noise_floor_p95=noise, subset_noise_floor_p95=noise)
    expected = "There is nothing to repair: its calibration errors are within noise at 10,000 examples."
    assert advice(verdict(results)) == expected


@pytest.mark.parametrize(
    ("threshold", "text"),
    [(0.5, "0.5"), (0.8449, "0.845"), (0.99271, "0.99271"), (0.9998975, "0.999898"), (0.98, "0.98"), (1.0, "1")],
)
def test_thresholds_have_the_digits_that_matter_and_are_rounded_up(threshold: float, text: str) -> None:
    assert threshold_text(threshold) == text


def test_classes_within_chance_do_not_stand_out() -> None:
    diagnosis = make_diagnosis()
    shares = (replace(row, n=115, share=0.115) for row in diagnosis.least_robust_classes)  # 1.6 standard deviations
    even = replace(diagnosis, least_robust_classes=tuple(shares))
    assert outstanding_classes(even) == []
    assert verdict(even).notes[0] == "No class is over-represented in the least robust decile beyond chance."


def test_diagnosis_without_subsets() -> None:
    found = verdict(without_subsets(make_diagnosis()))
    assert not any("robust" in sentence or "subset" in sentence for sentence in found.sentences[:1] + found.notes)
    assert len([sentence for sentence in all_sentences(found) if "overconfident" in sentence]) == 1


def test_the_audit_of_the_ranking_is_told_last_unless_it_is_poor() -> None:
    diagnosis = make_diagnosis()
    good, poor, none = (
        verdict(replace(diagnosis, audit=audit)) for audit in (diagnosis.audit, make_audit(0.9, 0.5), None)
    )
    assert good.sentences[-1].endswith("; ddn puts 96 % of a sample into the same robustness subset.")
    assert good.warnings == none.warnings == []
    (warning,) = poor.warnings
    assert warning.startswith(f"{WARNING}the ranking by robustness is too coarse for 10 subsets")
    assert poor.sentences == none.sentences
    assert poor.sentences[:-1] == good.sentences[:-1]


@pytest.mark.parametrize("reference", METHODS)
def test_any_method_can_be_the_reference(reference: str) -> None:
    study = replace(make_study(shifts=()), reference=reference)
    found = verdict(study)
    assert found.reference == Variant(reference)
    best, is_better = recommend(study)
    assert found.best == best != found.reference
    assert is_better == (reference != "ar_adals")
    assert advice(found).startswith("Use" if is_better else "Keep AR-AdaLS: no other variant")


def test_a_reference_whose_runs_failed_is_replaced_by_the_first_method_that_has_rows() -> None:
    study = make_study(shifts=())
    left = replace(study, rows=tuple(row for row in study.rows if row.method != "vanilla"))
    assert verdict(left).reference == Variant("label_smoothing")


def test_the_comparisons_of_a_study_decide_about_all_of_its_variants() -> None:
    study = make_study()
    assert recommend(study) == recommend(compared(study)) == (Variant("ar_adals", "temperature"), True)
    wide = compared(study, half_width=1.0)
    assert recommend(wide) == (Variant("ar_adals", "temperature"), False)  # the one that comes nearest
    assert advice(verdict(wide)).startswith("Keep vanilla")


@pytest.mark.parametrize(
    ("accuracy", "confidence", "words"),
    [
        (Measure(0.11, 0.09, 0.13), Measure(0.5, 0.49, 0.51), "not significantly more than chance (10 %)"),
        (Measure(0.02, 0.01, 0.03), Measure(0.3, 0.29, 0.31), "not significantly more than chance (10 %)"),
        (Measure(0.95, 0.94, 0.96), Measure(0.17, 0.16, 0.18), "78 points apart: check that the model returns logits"),
    ],
)
def test_a_probable_mistake_comes_first(accuracy: Measure, confidence: Measure, words: str) -> None:
    results = make_diagnosis()
    rows = [
        replace(row, metrics={**row.metrics, "accuracy": accuracy, "confidence": confidence})
        if row.subset is None
        else row
        for row in results.rows
    ]
    found = verdict(replace(results, rows=tuple(rows)))
    assert words in found.warnings[0]
    assert found.warnings[0].startswith(WARNING)


def test_one_class_is_a_probable_mistake() -> None:
    results = make_diagnosis()
    metrics = results.rows[0].metrics
    alone = replace(results, classes=(ClassRow(results.reference, "none", 0, "cat", 9, metrics),))
    assert "all examples have one class (cat)" in verdict(alone).warnings[0]
    assert not any("one class" in warning for warning in verdict(results).warnings)


@pytest.mark.parametrize(
    ("auroc", "interval"),
    [(Measure(0.912, 0.9, 0.92), "(95 % interval 90.0 to 92.0)"), (Measure(0.912), "(no interval)")],
)
def test_the_auroc_for_other_data_is_told(auroc: Measure, interval: str) -> None:
    results = make_study()
    assert not any("Other data" in note for note in verdict(results).notes)
    rows = [
        replace(row, metrics={**row.metrics, "ood_auroc": auroc})
        if row.condition.is_clean and row.subset is None
        else row
        for row in results.rows
        if row.seed == results.seeds[0]
    ]
    told = verdict(replace(results, rows=tuple(rows), data=replace(results.data, ood={"svhn": 1000}))).notes
    [sentence] = [note for note in told if "Other data" in note]
    assert sentence.startswith("Other data (svhn, 1,000 examples): vanilla")
    assert sentence.endswith(f"with a probability of 91.2 % {interval}. This is the AUROC.")
