"""Ensembles of a method in a study: whose models they use, and what their rows, calibrators and costs are."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from small_study import ADAPTIVE, VANILLA, save_digits, seed_run, small_config, trainings, weights
from torch import Tensor

from aradals import load_calibrator
from aradals._internal.json_files import load_json
from aradals.calibration import ConditionalTemperature, TemperatureScaling
from aradals.inference.ensemble import Ensemble
from aradals.inference.predictions import Predictions
from aradals.models import build_model, load_checkpoint
from aradals.pipeline.artifacts import load_predictions
from aradals.pipeline.config import (
    AdaptiveTargets,
    EnsembleConfig,
    MethodConfig,
    RankedSubsets,
    SplitConfig,
    StudyConfig,
    TrainingConfig,
)
from aradals.pipeline.study import run_study
from aradals.results import Results, Row
from aradals.robustness.scores import score

ENSEMBLES = {
    "trio": EnsembleConfig("vanilla", num_members=3),
    "pair_in_step": EnsembleConfig("adaptive", num_members=2, in_step=True),
}
METHODS = {
    "vanilla": VANILLA,
    "adaptive": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2), smoothing=0.7)),
}


@dataclass(frozen=True)
class Finished:
    """A study of one seed."""

    config: StudyConfig
    folder: Path
    results: Results
    log: list[str]

    def row(self, **keys: object) -> Row:
        """The one row of these keys."""
        [row] = (row for row in self.results.rows if all(getattr(row, key) == value for key, value in keys.items()))
        return row

    def predictions(self, owner: str, file: str) -> Predictions:
        """Stored predictions of a model."""
        return load_predictions(self.folder / "seed-0" / owner / "predict" / f"{file}.parquet")[0]

    def pooled(self, file: str, owners: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Mean of the members' probabilities, and the labels."""
        members = [self.predictions(owner, file) for owner in owners]
        return torch.stack([member.logits.double().softmax(1) for member in members]).mean(0), members[0].labels


TRIO = ("vanilla", "vanilla/member-1", "vanilla/member-2")
PAIR = ("pair_in_step/member-0", "pair_in_step/member-1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ensembles")
    calibrators = ["temperature", "margin_temperature", "robustness_temperature"]
    data = save_digits(folder / "digits.npz", num_train=260)
    splits = SplitConfig(validation=40, calibration=120, train=100)  # fewer are too few for a curve of temperatures
    training = TrainingConfig(epochs=4, batch_size=10, learning_rate=0.01)
    config = small_config(data, METHODS, ensembles=ENSEMBLES, calibrators=calibrators, splits=splits, training=training)
    log: list[str] = []
    return Finished(config, folder / "out", run_study(config, folder / "out", name="test", log=log.append), log)


def test_the_first_member_is_the_model_of_the_method(finished: Finished) -> None:
    assert trainings(finished.log) == [
        "[seed 0] vanilla: train",
        "[seed 0] adaptive: train",
        "[seed 0] vanilla: train member 1",
        "[seed 0] vanilla: train member 2",
        "[seed 0] pair_in_step: train",
    ]
    predicted = [line for line in finished.log if ": predict: " in line]
    assert not [line for line in predicted if "done before" in line]


def test_members_differ(finished: Finished) -> None:
    folder = finished.folder / "seed-0"
    members = [weights(folder / owner / "train" / "model.safetensors") for owner in TRIO]
    members += [weights(folder / "pair_in_step" / "train" / f"model-{m}.safetensors") for m in (0, 1)]
    assert not any(members[a].equal(members[b]) for a in range(5) for b in range(a))


def test_only_the_members_that_are_missing_are_trained(finished: Finished, tmp_path: Path) -> None:
    config = replace(finished.config, ensembles={"ensemble": EnsembleConfig("vanilla", num_members=2)})
    run, log = seed_run(config, tmp_path)
    first = run.checkpoints("ensemble")
    assert trainings(log) == ["[seed 0] vanilla: train", "[seed 0] vanilla: train member 1"]
    larger, log = seed_run(replace(config, ensembles={"ensemble": EnsembleConfig("vanilla", num_members=3)}), tmp_path)
    second = larger.checkpoints("ensemble")
    assert trainings(log) == ["[seed 0] vanilla: train member 2"]
    assert second[:2] == first
    expected = finished.folder / "seed-0" / "vanilla" / "member-2" / "train" / "model.safetensors"
    assert weights(second[2]).equal(weights(expected))


@pytest.mark.parametrize(("name", "owners"), [("trio", TRIO), ("pair_in_step", PAIR)])
@pytest.mark.parametrize(("corruption", "severity"), [("none", 0), ("contrast", 5)])
def test_rows_are_those_of_the_averaged_probabilities(
    finished: Finished, name: str, owners: tuple[str, ...], corruption: str, severity: int
) -> None:
    probs, labels = finished.pooled(f"predictions-{corruption}-{severity}", owners)
    row = finished.row(method=name, calibrator="none", corruption=corruption, severity=severity, subset=None)
    confidence, predicted = probs.max(1)
    correct = (predicted == labels).double()
    assert row["accuracy"].value == pytest.approx(correct.mean().item())
    assert row["confidence"].value == pytest.approx(confidence.mean().item())
    assert row["nll"].value == pytest.approx(-probs.gather(1, labels[:, None]).log().mean().item())
    in_bin = (confidence * 15).ceil()
    gaps = [(confidence - correct)[in_bin == b].sum().abs().item() for b in range(1, 16)]
    assert row["ece"].value == pytest.approx(sum(gaps) / len(labels))


@pytest.mark.parametrize(("name", "owners"), [("trio", TRIO), ("pair_in_step", PAIR)])
def test_the_temperature_is_fitted_after_pooling(finished: Finished, name: str, owners: tuple[str, ...]) -> None:
    probs, labels = finished.pooled("calibration", owners)

    def nll(log_temperature: float) -> float:
        log_probs = (probs.log() / np.exp(log_temperature)).log_softmax(1)
        pull = log_temperature**2 / 2
        return pull - float(log_probs.gather(1, labels[:, None]).sum())

    fitted = load_calibrator(finished.folder / "seed-0" / name / "calibrate" / "temperature.json")
    assert isinstance(fitted, TemperatureScaling)
    best = minimize_scalar(nll, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8})
    assert float(fitted.temperature) == pytest.approx(float(np.exp(best.x)), rel=1e-4)

    probs, labels = finished.pooled("predictions-none-0", owners)
    scaled = (probs.log() / float(fitted.temperature)).softmax(1)
    row = finished.row(method=name, calibrator="temperature", corruption="none", subset=None)
    assert row["confidence"].value == pytest.approx(scaled.amax(1).mean().item(), rel=1e-5)


def test_calibrators_that_need_a_members_margins_are_left_out(finished: Finished) -> None:
    calibrators: dict[str, set[str]] = {}
    for row in finished.results.rows:
        calibrators.setdefault(row.method, set()).add(row.calibrator)
    everything = {"none", "temperature", "margin_temperature", "robustness_temperature"}
    assert calibrators["vanilla"] == calibrators["adaptive"] == everything
    assert calibrators["trio"] == calibrators["pair_in_step"] == everything - {"robustness_temperature"}
    for owner in (*TRIO[1:], *PAIR):  # nor are they measured
        assert finished.predictions(owner, "predictions-none-0").scores is None


def test_robustness_temperature_is_fitted_and_used_with_the_models_own_margins(finished: Finished) -> None:
    model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
    load_checkpoint(model, finished.folder / "seed-0" / "adaptive" / "train" / "model.safetensors")
    splits = seed_run(finished.config, finished.folder)[0].splits
    stored = {}
    for file, examples in (("calibration", splits.calibration), ("predictions-none-0", splits.test)):
        stored[file] = finished.predictions("adaptive", file)
        expected = score(model, examples.batches(), "first_order_margin").score.double()
        torch.testing.assert_close(stored[file].scores, expected, rtol=1e-4, atol=1e-6)
    calibration, test = stored["calibration"], stored["predictions-none-0"]
    for name, calibrator in (
        ("robustness_temperature", ConditionalTemperature("first_order_margin")),
        ("margin_temperature", ConditionalTemperature("logit_margin")),
    ):
        fitted = calibrator.fit(calibration.labels, logits=calibration.logits, scores=calibration.scores)
        confidence = fitted.predict_proba(test.logits, test.scores).amax(1).mean().item()
        row = finished.row(method="adaptive", calibrator=name, corruption="none", subset=None)
        assert row["confidence"].value == pytest.approx(confidence)
    shifted = finished.predictions("adaptive", "predictions-contrast-5").scores
    assert shifted is not None
    assert test.scores is not None
    assert not torch.equal(shifted, test.scores)


def test_margin_temperature_of_an_ensemble_has_the_pooled_margins(finished: Finished) -> None:
    probs, labels = finished.pooled("calibration", TRIO)
    fitted = ConditionalTemperature("logit_margin").fit(labels, logits=probs.log())
    probs, _ = finished.pooled("predictions-none-0", TRIO)
    row = finished.row(method="trio", calibrator="margin_temperature", corruption="none", subset=None)
    assert row["confidence"].value == pytest.approx(fitted.predict_proba(probs.log()).amax(1).mean().item(), rel=1e-4)


def test_members_in_step_lie_in_separate_files_and_share_their_targets(finished: Finished) -> None:
    folder = finished.folder / "seed-0" / "pair_in_step"
    assert {path.name for path in (folder / "train").glob("*.safetensors")} == {
        "model-0.safetensors",
        "model-1.safetensors",
    }
    [record] = [each for each in finished.results.training if each.method == "pair_in_step"]
    assert record.settings["num_members"] == 2
    assert len(record.updates) == 4
    assert len(set(record.target_prob)) == 2
    # The last update saw the final weights, so that its measurement can be made again from the checkpoints.
    members = []
    for member in (0, 1):
        model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
        load_checkpoint(model, folder / "train" / f"model-{member}.safetensors")
        members.append(model)
    splits = seed_run(finished.config, finished.folder)[0].splits
    _, inputs, _ = splits.validation.batch(list(range(len(splits.validation))))
    measured = [value for value in record.updates[-1].confidence if value is not None]
    assert len(measured) == 2
    with torch.no_grad():
        confidence = Ensemble(members).eval()(inputs).softmax(1).amax(1).mean().item()
    assert np.mean(measured) == pytest.approx(confidence, abs=1e-5)


def test_costs_of_ensembles_add_up_over_members(finished: Finished) -> None:
    costs = {cost.method: cost for cost in finished.results.costs}
    folder = finished.folder / "seed-0"
    seconds = {
        owner: load_json(folder / owner / "train" / "history.json")["seconds"]
        for owner in (*TRIO, "adaptive", "pair_in_step")
    }
    assert costs["trio"].training_seconds == pytest.approx(sum(seconds[owner] for owner in TRIO))
    assert costs["trio"].seconds == costs["trio"].training_seconds
    assert costs["trio"].relative_cost == pytest.approx(sum(seconds[o] for o in TRIO) / seconds["vanilla"])
    for name in ("adaptive", "pair_in_step"):
        assert costs[name].training_seconds == pytest.approx(seconds[name])
        assert costs[name].scorer_seconds == pytest.approx(seconds["vanilla"])
        assert costs[name].scoring_seconds == costs["adaptive"].scoring_seconds > 0


def test_results_of_ensembles_are_json_without_nan(finished: Finished) -> None:
    text = (finished.folder / "results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["kind"] == "study"
    missing = {name for row in finished.results.rows for name, measure in row.metrics.items() if not measure.known}
    assert missing <= {"error_auroc"}  # undefined without errors


def test_stability_over_members_is_that_of_models_trained_alone(finished: Finished) -> None:
    rows = [row for row in finished.results.stability if row.subset is None]
    assert [(row.method, row.models, row.num_models, row.seed) for row in rows] == [("vanilla", "members", 3, 0)]
    logits = torch.stack([finished.predictions(owner, "predictions-none-0").logits.double() for owner in TRIO])
    variance = logits.softmax(2).var(0).sum(1)
    assert rows[0].prediction_variance.value == pytest.approx(variance.mean().item(), rel=1e-2)  # float16 on disk
    predicted = logits.argmax(2)
    pairs = torch.stack([predicted[a] != predicted[b] for a, b in ((0, 1), (0, 2), (1, 2))])
    assert rows[0].disagreement.value == pytest.approx(pairs.double().mean().item(), abs=1e-6)


@pytest.mark.parametrize("member", [0, 1])
def test_with_fixed_targets_members_in_step_are_those_trained_alone(
    member: int, finished: Finished, tmp_path: Path
) -> None:
    ensembles = {"in_step": EnsembleConfig("smooth", num_members=2, in_step=True)}
    methods = {"smooth": MethodConfig(targets=AdaptiveTargets(replace(ADAPTIVE, rate=0.0), smoothing=0.1))}
    run, _ = seed_run(small_config(str(finished.config.data), methods, ensembles=ensembles), tmp_path)
    together = run.train_in_step("in_step")
    assert [path.name for path in together] == ["model-0.safetensors", "model-1.safetensors"]
    assert weights(together[member]).equal(weights(run.train("smooth", member)))
