"""An evaluation compares the calibrators of one model by paired differences, and all its tables use these."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from aradals.inference.predictions import Predictions
from aradals.metrics import resampled_metrics
from aradals.pipeline.evaluate import evaluate_predictions
from aradals.report.tables import comparison_rows, main_table_note, methods_table
from aradals.report.terminal import results_table
from aradals.results import Condition, Results, Variant, difference, measure
from aradals.results.aggregate import relation
from aradals.results.compare import COMPARED
from aradals.results.records import CLEAN

PLAIN, SOFTER = Variant("net"), Variant("net", "softer")


def calibrator(temperature: float) -> Any:
    def predict_logits(logits: Tensor, scores: Tensor | None = None) -> Tensor:
        return logits / temperature

    return SimpleNamespace(predict_logits=predict_logits, score=None)


def predictions(n: int = 400) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(n, 5, generator=generator)
    labels = (clean + torch.randn(n, 5, generator=generator)).argmax(1)
    return Predictions(logits=2.5 * clean, labels=labels, ids=torch.arange(n))


def evaluation(n: int = 400) -> Results:
    given = predictions(n)
    calibrators = {"softer": calibrator(1.15), "softest": calibrator(4.0)}
    shifted = Condition("fog", 1)
    return evaluate_predictions([(CLEAN, given), (shifted, given)], name="net", data="made up", calibrators=calibrators)


@pytest.fixture(scope="module")
def results() -> Results:
    return evaluation()


def test_every_metric_of_every_calibrator_is_compared(results: Results) -> None:
    found = {(each.variant, each.metric, each.place) for each in results.comparisons if each.reference == PLAIN}
    metrics = set(COMPARED) - {"subset_calibration_error", "ood_auroc"}  # there are no subsets, and no other data
    assert {"nll", "brier"} < metrics
    assert found == {
        (Variant("net", name), metric, place)
        for name in ("softer", "softest")
        for metric in metrics
        for place in ("clean", "all_shifts")
    }


@pytest.mark.parametrize("metric", ["nll", "brier"])
def test_differences_come_from_shared_resamples(results: Results, metric: Any) -> None:
    given = predictions()
    before, after = (resampled_metrics(given.labels, logits=given.logits / t)[metric] for t in (1.0, 1.15))
    paired = after - before
    low, high = (paired - paired.mean()).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    found = difference(results, SOFTER, PLAIN, metric)
    assert found.value == pytest.approx(measure(results, SOFTER, metric).value - measure(results, PLAIN, metric).value)
    assert (found.low, found.high) == pytest.approx((found.value + low, found.value + high), abs=1e-6)
    assert found.high - found.low < 0.2 * (measure(results, PLAIN, metric).high - measure(results, PLAIN, metric).low)


@pytest.mark.parametrize("metric", ["nll", "brier"])
def test_a_paired_difference_is_significant_although_the_intervals_overlap(results: Results, metric: Any) -> None:
    before, after = measure(results, PLAIN, metric), measure(results, SOFTER, metric)
    assert after.high > before.low
    assert relation(results, SOFTER, PLAIN, metric) == -1
    assert relation(results, SOFTER, PLAIN, "accuracy") == 0


def test_the_report_and_the_terminal_use_the_paired_differences(results: Results, tmp_path: Path) -> None:
    assert "because the 95 % interval of the paired difference excludes zero" in main_table_note(results)
    table = methods_table(results)
    [row] = [row for row in table.rows if row[0].text == "net + softer"]
    assert row[table.columns.index("NLL")].change == "better"
    assert "▼" in str(results_table(results))
    clean, _ = comparison_rows(results)
    assert clean.columns[1:6] == ("ECE", "subset cal. error", "accuracy, points", "NLL", "Brier score")
    assert [row[0].text for row in clean.rows] == ["net + softer", "net + softest"]
    for row, variant in zip(clean.rows, (SOFTER, Variant("net", "softest")), strict=True):
        for cell, metric in ((row[4], "nll"), (row[5], "brier")):
            found = difference(results, variant, PLAIN, metric)  # type: ignore[arg-type]
            assert cell.text == f"{found.value:+.3f}"
            assert cell.note == f"{found.low:.3f} to {found.high:.3f}"
    page = results.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Differences between calibrators" in page
    assert "Paired differences from net" in page


def test_few_examples_have_no_paired_intervals() -> None:
    few = evaluation(40)
    assert not any(each.measure.has_interval for each in few.comparisons)
    assert relation(few, Variant("net", "softest"), PLAIN, "nll") == 0
