from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aradals.errors import InputError
from aradals.results import CLEAN, Condition, Measure, Method, Results, Row, Variant
from aradals.results.records import METRICS, Comparison, DataSummary, measured

METHODS = (Method("vanilla", "vanilla"), Method("ours", "Ours"), Method("lost", "lost"))


def row(method: str = "vanilla", calibrator: str = "none", seed: int = 0, severity: int = 0, **more: int | None) -> Row:
    metrics = {"ece": Measure(0.1), "accuracy": Measure(0.8, 0.7, 0.9)}
    corruption = "fog_and_rain" if severity else "none"
    subset, n = more.get("subset"), more.get("n") or 100
    return Row(method, calibrator, seed, corruption, severity, n, metrics, subset)  # type: ignore[arg-type]


def results_of(*rows: Row, methods: tuple[Method, ...] = METHODS, reference: str = "vanilla") -> Results:
    return Results("study", "made up", DataSummary("digits", 10), methods, reference, rows)


# Measures


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_a_sign_is_significant_where_the_interval_excludes_zero(value: float, low: float, high: float) -> None:
    sign = Measure(value, low, high).sign
    assert (sign == 1) == (value > 0 and low > 0)
    assert (sign == -1) == (value < 0 and high < 0)
    assert Measure(value).sign == 0


def test_size_and_units() -> None:
    assert Measure(-0.1, -0.2, 0.05).size == Measure(0.1, -0.05, 0.2)
    assert Measure(0.1, -0.05, 0.2).size == Measure(0.1, -0.05, 0.2)
    percent = Measure(0.1, 0.05, 0.2).times(100)
    assert (percent.value, percent.low, percent.high) == pytest.approx((10, 5, 20))


def test_what_is_known() -> None:
    assert not Measure().known
    assert not Measure(0.1).has_interval
    assert not Measure(0.1, 0.0, math.inf).has_interval
    assert Measure(0.1, 0.0, 0.2).has_interval


def test_records_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        row().n = 3  # type: ignore[misc]


# Rows


def test_a_row_knows_its_variant_and_condition() -> None:
    found = row("ours", "temperature", severity=3)
    assert (found.variant, found.condition) == (Variant("ours", "temperature"), Condition("fog_and_rain", 3))
    assert (found.condition.label, CLEAN.label) == ("fog and rain 3", "clean")
    assert (found.condition.is_clean, row().condition.is_clean) == (False, True)
    assert (Variant("ours").is_calibrated, found.variant.is_calibrated) == (False, True)


def test_a_metric_that_a_row_lacks_is_unknown() -> None:
    assert row()["ece"] == Measure(0.1)
    assert all(not row()[metric].known for metric in METRICS if metric not in ("ece", "accuracy"))
    assert not row()["gap"].known


def test_the_gap_is_confidence_minus_accuracy() -> None:
    gap = measured({"accuracy": Measure(0.8, 0.7, 0.85), "confidence": Measure(0.9, 0.88, 0.93)}, "gap")
    expected = (0.1, 0.1 - math.hypot(0.02, 0.05), 0.1 + math.hypot(0.03, 0.1))
    assert (gap.value, gap.low, gap.high) == pytest.approx(expected)
    assert not measured({"accuracy": Measure(0.8), "confidence": Measure(0.9)}, "gap").has_interval


def test_a_comparison_is_a_measure_between_two_variants() -> None:
    found = Comparison("ours", "none", "vanilla", "temperature", "clean", "ece", 3, 0.1, 0.2, -0.1, -0.2, -0.05)
    assert (found.variant, found.reference) == (Variant("ours"), Variant("vanilla", "temperature"))
    assert found.measure == Measure(-0.1, -0.2, -0.05)
    results = replace(results_of(row()), comparisons=(found,))
    assert results.by_comparison[found.variant, found.reference, "clean", "ece"] is found


# Results


def test_results_name_what_they_hold() -> None:
    rows = [
        row(method, calibrator, seed, severity, subset=subset, n=100 if subset is None else 50)
        for method in ("ours", "vanilla")
        for calibrator in ("temperature", "none")
        for seed in (5, 4)
        for severity in (3, 0, 1)
        for subset in (None, 0, 1)
    ]
    results = results_of(*rows)
    assert results.variants == tuple(Variant(m, c) for m in ("vanilla", "ours") for c in ("none", "temperature"))
    assert results.shifts == (Condition("fog_and_rain", 3), Condition("fog_and_rain", 1))
    assert results.seeds == (5, 4)
    assert (results.num_subsets, results.num_examples) == (2, 100)
    found = results.by_key[Variant("ours", "temperature"), Condition("fog_and_rain", 1), 1]
    assert list(found) == [5, 4]
    assert found[4] == row("ours", "temperature", 4, 1, subset=1, n=50)
    assert len(results.by_key) * 2 == len(rows)
    assert (results_of(row()).num_subsets, results_of(row()).shifts) == (0, ())


def test_methods_are_found_by_name() -> None:
    assert results_of(row()).method("ours").label == "Ours"
    with pytest.raises(InputError, match="a method of the results: vanilla, ours, lost, got 'theirs'"):
        results_of(row()).method("theirs")


def test_rows_of_other_methods_are_refused() -> None:
    with pytest.raises(InputError, match="rows of the methods of the results"):
        results_of(row("theirs"))
    with pytest.raises(InputError, match="a reference among the methods lost, ours, vanilla"):
        results_of(row(), reference="theirs")


@pytest.mark.parametrize("subset", [10**12, -1, "0", 1.5, [0]])
def test_a_subset_is_a_number_of_one(subset: object) -> None:
    with pytest.raises(InputError, match="subsets numbered from 0"):
        results_of(row(), replace(row(), subset=subset))  # type: ignore[arg-type]


def test_two_rows_of_the_same_key_are_refused() -> None:
    with pytest.raises(InputError, match="one row for each variant, seed, condition and subset"):
        _ = results_of(row(), row()).by_key


@pytest.mark.parametrize(
    ("name", "label"), [("digits", "digits"), ("/data/of/mine", "mine"), ("./mine", "mine"), ("org/name", "org/name")]
)
def test_data_are_labeled_by_the_end_of_a_path(name: str, label: str) -> None:
    assert DataSummary(name, 10).label == label


def test_results_show_write_and_save_themselves(tmp_path: Path) -> None:
    results = results_of(row(), row("ours"))
    assert "Ours" in str(results.table())
    assert "<table>" in results._repr_html_()
    assert results.report(tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert results.save(tmp_path / "results.json").exists()
    frame = results.to_frame()
    assert list(frame["method"]) == ["vanilla", "ours"]
    assert list(frame["accuracy_high"]) == [0.9, 0.9]
