"""An evaluation as a Python function: what it takes, what it gives, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from aradals import InputError, Results, calibrate, evaluate, score_dataset
from aradals.data import Examples, corrupt
from aradals.inference.accelerate import accelerated
from aradals.inference.predictions import Predictions, predict
from aradals.metrics import expected_calibration_error, nll
from aradals.pipeline import predict as predicting
from aradals.pipeline.artifacts import merge_parquet
from aradals.pipeline.classifier import as_classifier
from aradals.pipeline.evaluate import evaluate_predictions
from aradals.results import CLEAN, Condition, Variant
from aradals.results.files import plain
from aradals.results.records import Measure
from aradals.smoothing.subsets import assign_subsets
from in_memory import check_results, make_model, make_tensors, no_temporary_files, three_kinds

pytestmark = pytest.mark.filterwarnings("ignore:90 calibration examples")

DATA = make_tensors(1)
SHIFT: dict[str, Any] = {"corruptions": ["contrast"], "severities": [1, 5]}
CONDITIONS = [CLEAN, Condition("contrast", 1), Condition("contrast", 5)]


def quiet(line: str) -> None:
    """No log."""


@pytest.fixture(scope="module")
def results() -> Results:
    model = make_model()
    calibrators = {
        "temperature": calibrate(model, make_tensors(2)),
        "vector": calibrate(model, make_tensors(2), method="vector"),
    }
    scores = score_dataset(model, DATA)
    return evaluate(
        model,
        DATA,
        calibrators=calibrators,
        scores=scores,
        num_subsets=3,
        **SHIFT,
        log=quiet,
    )


def test_every_condition_calibrator_and_subset_has_a_row(results: Results) -> None:
    assert (results.kind, results.name, results.reference) == ("evaluation", "Sequential", "Sequential")
    assert results.variants == tuple(Variant("Sequential", name) for name in ("none", "temperature", "vector"))
    assert [(row.condition, row.calibrator, row.subset) for row in results.rows] == [
        (condition, variant.calibrator, subset)
        for condition in CONDITIONS
        for variant in results.variants
        for subset in (None, 0, 1, 2)
    ]
    assert all(row.n == (90 if row.subset is None else 30) for row in results.rows)
    assert [each.condition for each in results.reliability if each.calibrator == "none"] == CONDITIONS
    assert all(sum(bin.count for bin in each.bins) == 90 for each in results.reliability)


def test_numbers_are_those_of_the_metrics(results: Results) -> None:
    model, (inputs, labels) = make_model(), DATA
    calibrator = calibrate(model, make_tensors(2))
    ids = torch.arange(len(labels))
    subsets = assign_subsets(score_dataset(model, DATA).for_ids(ids).score.double(), 3, ids)
    for condition in CONDITIONS:
        changed = inputs if condition.is_clean else corrupt(inputs, ids, *condition)
        logits = predict(model, [(ids, changed, labels)]).logits
        for name, given in (("none", logits), ("temperature", calibrator.predict_logits(logits))):
            for subset in (None, 0, 1, 2):
                [row] = results.by_key[Variant("Sequential", name), condition, subset].values()
                member = torch.ones(90, dtype=torch.bool) if subset is None else subsets == subset
                own = given[member]
                assert row["accuracy"].value == pytest.approx((own.argmax(1) == labels[member]).double().mean().item())
                assert row["nll"].value == pytest.approx(nll(labels[member], logits=own), abs=1e-5)
                expected = expected_calibration_error(labels[member], logits=own)
                assert row["ece"].value == pytest.approx(expected, abs=1e-5)


def test_calibrators_are_compared_with_the_model_as_it_is(results: Results) -> None:
    plain_model = Variant("Sequential")
    for name in ("temperature", "vector"):
        found = results.by_comparison[Variant("Sequential", name), plain_model, "clean", "nll"]
        rows = [results.by_key[variant, CLEAN, None][0]["nll"].value for variant in (found.variant, found.reference)]
        assert found.difference == pytest.approx(rows[0] - rows[1])
        assert found.low < found.difference < found.high
    assert {row.place for row in results.comparisons} == {"clean", "all_shifts"}


def test_what_can_be_done_with_results(results: Results, tmp_path: Path) -> None:
    check_results(results, tmp_path)
    assert results.classes
    assert results.pictures.least_robust
    assert [each.attack.split("(")[0] for each in results.scoring] == ["secant"]


@pytest.mark.parametrize("kind", ["loader", "examples"])
def test_the_same_rows_for_all_kinds_of_data(kind: str) -> None:
    model, data = make_model(), three_kinds(DATA)
    first, other = (evaluate(model, data[each], **SHIFT, log=quiet) for each in ("tensors", kind))
    assert first.rows == other.rows
    assert plain(first.reliability) == plain(other.reliability)
    assert plain(first.pictures) == plain(other.pictures)


def test_nothing_is_left_behind_without_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = no_temporary_files(tmp_path, monkeypatch)
    evaluate(make_model(), DATA, log=quiet)
    assert list(folder.iterdir()) == []
    with pytest.raises(InputError, match="no score for 90 of 90"):
        evaluate(make_model(), DATA, scores=score_dataset(make_model(), shifted_ids()), log=quiet)
    assert list(folder.iterdir()) == []


def shifted_ids() -> Examples:
    """Other examples than those of `DATA`."""
    return Examples(*DATA, num_classes=3, ids=1000 + torch.arange(90))


def test_an_interrupted_call_goes_on(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Path] = []
    limit = 2

    def save(path: Path, *arguments: Any) -> None:
        if len(saved) == limit:
            raise KeyboardInterrupt
        saved.append(path)
        merge_parquet(path, *arguments)

    monkeypatch.setattr(predicting, "merge_parquet", save)
    with pytest.raises(KeyboardInterrupt):
        evaluate(make_model(), DATA, **SHIFT, output=tmp_path, log=quiet)
    assert len(saved) == limit
    saved.clear()
    found = evaluate(make_model(), DATA, **SHIFT, output=str(tmp_path), log=quiet)
    assert len(saved) == 1
    plain_rows = [row for row in results.rows if row.subset is None and row.calibrator == "none"]
    assert {row.condition: row["nll"] for row in found.rows} == {row.condition: row["nll"] for row in plain_rows}

    saved.clear()
    log: list[str] = []
    again = evaluate(make_model(), DATA, **SHIFT, output=tmp_path, log=log.append)
    assert (again.rows, saved) == (found.rows, [])
    done, unchecked = log
    assert done == "predictions: done before, inputs unchanged"
    assert unchecked.startswith("warning: could not be checked: the model was not fitted on ")
    limit = -1
    assert evaluate(make_model(seed=5), DATA, **SHIFT, output=tmp_path, log=quiet).rows != found.rows


def test_the_fast_copy_of_the_model_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.nn.Module] = []

    def make(model: torch.nn.Module, inputs: torch.Tensor) -> torch.nn.Module:
        made.append(accelerated(model, inputs))
        return made[-1]

    monkeypatch.setattr("aradals.pipeline.classifier.accelerated", make)
    assert len({row.condition for row in evaluate(make_model(), DATA, **SHIFT, log=quiet).rows}) > 1
    assert len(made) == 1


def test_other_data_are_told_by_the_confidence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((50, 3, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "noise.npz", inputs=noise, labels=np.arange(50) % 37)  # other classes than the model's
    model = make_model()
    temperature = calibrate(model, make_tensors(2))
    found = evaluate(model, DATA, calibrators={"t": temperature}, ood=str(tmp_path / "noise.npz"), log=quiet)
    judged = [row for row in found.rows if row["ood_auroc"].known]
    assert [(row.calibrator, row.n) for row in judged] == [("none", 90), ("t", 90)]
    assert found.data.ood == {"noise": 50}
    with torch.no_grad():
        inside, outside = (model(inputs).softmax(1).amax(1) for inputs in (DATA[0], torch.from_numpy(noise)))
    expected = roc_auc_score([1] * 90 + [0] * 50, torch.cat([inside, outside]))
    assert judged[0]["ood_auroc"].value == pytest.approx(expected, abs=1e-3)
    assert judged[0]["ood_auroc"].low < expected < judged[0]["ood_auroc"].high


def test_predictions_are_enough(results: Results) -> None:
    model, (inputs, labels) = make_model(), DATA
    ids = torch.arange(len(labels))
    predictions = predict(model, [(ids, inputs, labels)])
    scores = score_dataset(model, DATA)
    found = evaluate_predictions(iter([(CLEAN, predictions)]), name="mine", data="noise", scores=scores, num_subsets=3)
    assert (found.name, found.data.name, found.reference) == ("mine", "noise", "mine")
    assert [row.subset for row in found.rows] == [None, 0, 1, 2]
    for row in found.rows:
        [other] = results.by_key[Variant("Sequential"), CLEAN, row.subset].values()
        assert row.metrics.keys() == other.metrics.keys()
        assert row["nll"].value == pytest.approx(other["nll"].value, abs=1e-5)
    alone = evaluate_predictions([(CLEAN, predictions)], name="mine", data="noise")
    assert [row.subset for row in alone.rows] == [None]
    assert alone.scoring == ()


def test_a_perfect_model_has_no_pictures_of_errors() -> None:
    inputs, _ = DATA
    with torch.no_grad():
        labels = make_model()(inputs).argmax(1)
    found = evaluate(make_model(), (inputs, labels), log=quiet)
    [row] = found.rows
    assert row["accuracy"].value == 1
    assert row["error_auroc"] == Measure() or not row["error_auroc"].known
    assert found.pictures.most_wrongly_confident == ()


def test_not_on_training_examples() -> None:
    examples = Examples(*DATA, num_classes=3)
    tried = as_classifier(make_model(), examples)
    trained = replace(tried, fitted_examples=examples.hashes)
    with pytest.raises(InputError, match="examples that the model was not fitted on"):
        evaluate(trained, examples, log=quiet)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"corruptions": ["mist"]}, "'mist'"),
        ({"corruptions": ["fog"], "preset": "mnist"}, "'mnist'"),
        ({"corruptions": ["fog"], "severities": [6]}, "6"),
        ({"preset": "cifar", "corrupted": "copy"}, "one of them"),
        ({"ood": "nosuch.npz"}, "nosuch"),
    ],
)
def test_refused_before_anything_is_predicted(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        evaluate(make_model(), DATA, **settings, output=tmp_path / "out", log=quiet)
    assert not (tmp_path / "out").exists()


def test_predictions_keep_their_type(results: Results) -> None:
    """A class that no example has is no row of classes."""
    logits = torch.eye(4)[torch.arange(12) % 3] * 3.0
    predictions = Predictions(torch.arange(12), logits, torch.arange(12) % 3)
    found = evaluate_predictions([(CLEAN, predictions)], name="mine", data="few", class_names=["a", "b"])
    assert [(row.label, row.name, row.n) for row in found.classes] == [(0, "a", 4), (1, "b", 4), (2, "2", 4)]
    assert found.data.num_classes == 4
