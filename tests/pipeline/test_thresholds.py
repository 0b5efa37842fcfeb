"""Thresholds of a diagnosis and of an evaluation: for all examples, for each subset and with each calibrator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aradals import InputError, Results
from aradals.calibration import TemperatureScaling
from aradals.inference.predictions import Predictions
from aradals.metrics import confidence_threshold, confidence_threshold_by_subset
from aradals.pipeline.diagnose import diagnose_predictions
from aradals.pipeline.evaluate import evaluate_predictions
from aradals.report.findings import verdict
from aradals.report.tables import threshold_rows
from aradals.results import read_results
from aradals.results.records import CLEAN
from aradals.robustness.scores import ScoreTable
from aradals.smoothing.subsets import assign_subsets

NUM_EXAMPLES = 2000


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    generator = torch.Generator().manual_seed(0)
    clean = 4 * torch.randn(NUM_EXAMPLES, 5, generator=generator, dtype=torch.float64)
    labels = (clean + torch.randn(NUM_EXAMPLES, 5, generator=generator)).argmax(1)
    return Predictions(logits=2 * clean, labels=labels, ids=torch.arange(NUM_EXAMPLES))


@pytest.fixture(scope="module")
def scores(predictions: Predictions) -> ScoreTable:
    """The margin of the logits as the robustness."""
    first, second = predictions.logits.topk(2).values.unbind(1)
    nothing = torch.zeros(NUM_EXAMPLES, dtype=torch.int64)
    margin, found = first - second, torch.ones(NUM_EXAMPLES, dtype=torch.bool)
    return ScoreTable(predictions.ids, nothing, margin, margin, margin, found, nothing, nothing, "margin")


@pytest.fixture(scope="module")
def diagnosis(predictions: Predictions, scores: ScoreTable) -> Results:
    wishes = [0.02, 0.1, 0.02]
    return diagnose_predictions(
        predictions, name="net", data="made up", scores=scores, num_subsets=4, max_errors=wishes
    )


def test_all_examples_and_each_subset(diagnosis: Results, predictions: Predictions, scores: ScoreTable) -> None:
    labels, logits = predictions.labels, predictions.logits
    subsets = assign_subsets(scores.ranking, 4, scores.ids)
    found = {(row.max_error, row.subset): row for row in diagnosis.thresholds}
    assert list(found) == [(share, subset) for share in (0.02, 0.1) for subset in (None, 0, 1, 2, 3)]
    for (share, subset), row in found.items():
        by_subset = confidence_threshold_by_subset(labels, subsets, share, logits=logits)
        expected = confidence_threshold(labels, share, logits=logits) if subset is None else by_subset[subset]
        assert row.is_guaranteed == (expected is not None)
        assert row.level == pytest.approx(0.95 if subset is None else 1 - 0.05 / 4)
        if expected is not None:
            assert (row.threshold, row.n, row.bound) == (expected.threshold, expected.n, expected.bound)
    assert [found[0.1, subset].is_guaranteed for subset in (None, 0, 3)] == [True, False, True]


def test_the_report_says_for_whom_a_promise_holds(diagnosis: Results, tmp_path: Path) -> None:
    notes = verdict(diagnosis).notes
    assert any(
        note.startswith("With 95 % certainty each, the error on new examples of this kind is at most 2 %")
        for note in notes
    )
    kept = [
        sum(row.is_guaranteed for row in diagnosis.thresholds if row.subset is not None and row.max_error == share)
        for share in (0.02, 0.1)
    ]
    assert (
        "A threshold of its own, which keeps the promise within the subset, exists in "
        f"{kept[0]} of 4 subsets for 2 % and {kept[1]} of 4 subsets for 10 %." in notes
    )
    table = threshold_rows(diagnosis, by_subset=True)
    assert table.columns[:2] == ("subset", "error at most")
    assert [cell.text for cell in table.rows[0]] == ["subset 0 (least robust)", "2 %", "none", "–", "–", "–"]
    assert len(threshold_rows(diagnosis).rows) == 2
    assert "Thresholds of the robustness subsets" in diagnosis.report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert read_results(diagnosis.save(tmp_path / "diagnosis.json")).thresholds == diagnosis.thresholds


def test_each_calibrator_has_thresholds_of_its_confidence(predictions: Predictions) -> None:
    generator = torch.Generator().manual_seed(1)
    held_out = 4 * torch.randn(NUM_EXAMPLES, 5, generator=generator)
    labels = (held_out + 3 * torch.randn(NUM_EXAMPLES, 5, generator=generator)).argmax(1)
    calibrator = TemperatureScaling().fit(labels, logits=2 * held_out)
    found = evaluate_predictions(
        [(CLEAN, predictions)], name="net", data="made up", calibrators={"temperature": calibrator}, max_errors=[0.05]
    )
    plain, scaled = found.thresholds
    assert (plain.calibrator, scaled.calibrator) == ("none", "temperature")
    expected = confidence_threshold(predictions.labels, 0.05, logits=predictions.logits / calibrator.temperature)
    assert expected is not None
    assert scaled.threshold == pytest.approx(expected.threshold)
    assert [row[0].text for row in threshold_rows(found).rows] == ["as trained", "temperature scaling"]
    assert any("the error of net + temperature scaling on new examples" in note for note in verdict(found).notes)


def test_promises_that_cannot_be_given(predictions: Predictions) -> None:
    few = predictions.select(torch.arange(200))
    for wish, says in (
        (
            0.01,
            "200 examples are too few to promise an error of at most 1 % with 95 % certainty: 299 accepted examples "
            "without any error are needed.",
        ),
        (0.0, "No number of examples is enough to promise an error of 0 %."),
    ):
        assert says in verdict(diagnose_predictions(few, name="net", data="made up", max_errors=[wish])).notes
    nothing = diagnose_predictions(few, name="net", data="made up", max_errors=[])
    assert nothing.thresholds == ()
    generator = torch.Generator().manual_seed(0)
    wrong = replace(predictions, labels=predictions.labels[torch.randperm(NUM_EXAMPLES, generator=generator)])
    assert (
        "2,000 examples show no confidence threshold from which on the error is at most 1 % with 95 % certainty."
        in verdict(diagnose_predictions(wrong, name="net", data="made up")).notes
    )
    with pytest.raises(InputError, match="max_error"):
        diagnose_predictions(few, name="net", data="made up", max_errors=[1.5])
