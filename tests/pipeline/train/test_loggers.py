"""Loggers get the course of a training, and change nothing of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger
from torch import nn
from training_tools import assert_same, digits

from aradals.errors import MissingExtraError
from aradals.inference.predictions import predict
from aradals.metrics import expected_calibration_error, nll
from aradals.pipeline.config import AdaptiveTargets, MethodConfig, RankedSubsets, TrainingConfig
from aradals.pipeline.train import TrainedModel, fit_classifier, loggers
from aradals.smoothing.update_rules import UpdateRule
from processes import in_two_processes
from tensorboard_files import read_events

TRAIN, VALIDATION = digits(0, 110), digits(110, 61)  # 61 examples, so that two devices repeat one
PLAIN = TrainingConfig(epochs=3, batch_size=20, learning_rate=0.01)
LOGGED = replace(PLAIN, logger="tensorboard")
TARGETS = AdaptiveTargets(UpdateRule(rate=0.2), RankedSubsets(3))
METHOD = MethodConfig(targets=TARGETS)


def network() -> nn.Module:
    """A network without statistics of the batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def fit(training: TrainingConfig, folder: Path, method: MethodConfig = METHOD, **more: Any) -> TrainedModel:
    has_subsets = method.num_subsets > 1
    return fit_classifier(
        network(),
        TRAIN,
        VALIDATION,
        method=method,
        training=training,
        seed=0,
        train_subsets=torch.arange(len(TRAIN)) % 3 if has_subsets else None,
        validation_subsets=torch.arange(len(VALIDATION)) % 3 if has_subsets else None,
        device="cpu",
        logs=folder,
        run="run",
        **more,
    )


def test_tensorboard_shows_the_course_of_the_training(tmp_path: Path) -> None:
    trained, plain = fit(LOGGED, tmp_path / "logs"), fit(PLAIN, tmp_path / "none")
    assert_same(trained, plain)
    assert not (tmp_path / "none").exists()
    found = read_events(tmp_path / "logs" / "run")
    assert found["train/loss"] == pytest.approx({k + 1: each["loss"] for k, each in enumerate(trained.epochs)})
    for subset in range(3):
        course = {k + 1: each["target_prob"][subset] for k, each in enumerate(trained.updates)}
        assert found[f"target_prob/{subset}"] == pytest.approx(course)
        last = trained.updates[-1]
        assert found[f"gap/{subset}"][3] == pytest.approx(last["confidence"][subset] - last["accuracy"][subset])
    logits = predict(trained.model, VALIDATION.batches()).logits
    assert found["validation/nll"][3] == pytest.approx(nll(VALIDATION.labels, logits=logits), rel=1e-4)
    error = expected_calibration_error(VALIDATION.labels, logits=logits)
    assert found["validation/ece"][3] == pytest.approx(error, rel=1e-4)


def test_epochs_without_a_validation_have_no_values_of_one(tmp_path: Path) -> None:
    method = MethodConfig(targets=replace(TARGETS, update_every=2))
    fit(LOGGED, tmp_path, method)
    found = read_events(tmp_path / "run")
    assert set(found["validation/nll"]) == set(found["gap/0"]) == {2}
    assert set(found["train/loss"]) == set(found["target_prob/0"]) == {1, 2, 3}


def test_the_targets_of_vanilla_training_stay(tmp_path: Path) -> None:
    fit(LOGGED, tmp_path, MethodConfig())
    found = read_events(tmp_path / "run")
    assert set(found["target_prob/0"].values()) == {1.0}
    assert set(found["validation/ece"]) == {1, 2, 3}


@pytest.mark.slow
def test_one_of_two_devices_logs(tmp_path: Path) -> None:
    fit(LOGGED, tmp_path / "one")
    in_two_processes(fit, replace(LOGGED, devices=2), tmp_path / "two")
    assert len(list((tmp_path / "two" / "run").glob("events.*"))) == 1
    found, expected = (read_events(tmp_path / name / "run") for name in ("two", "one"))
    assert found.keys() == expected.keys()
    for name, course in expected.items():
        assert found[name] == pytest.approx(course, abs=1e-5), name


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_missing_package_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"ar-adals\[{name}\]"):
        fit(replace(PLAIN, logger=name), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("server", ["", "http://server"])
def test_mlflow_gets_a_run(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def record(self: MLFlowLogger, *names: str, **settings: Any) -> None:
        made.append({"names": names, **settings})

    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setattr(MLFlowLogger, "__init__", record)
    monkeypatch.setattr(MLFlowLogger, "experiment", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    loggers.make_logger(replace(PLAIN, logger="mlflow"), tmp_path, "vanilla-seed-0")
    files = {"artifact_location": (tmp_path / "mlruns").as_uri()}
    place = {"tracking_uri": server} if server else {"tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}", **files}
    assert made == [{"names": ("ar-adals",), "run_name": "vanilla-seed-0", **place}]


def test_a_real_mlflow_has_the_values(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    trained = fit(replace(PLAIN, logger="mlflow"), tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("ar-adals").experiment_id])
    found = {each.step: each.value for each in client.get_metric_history(run.info.run_id, "train/loss")}
    assert found == pytest.approx({k + 1: each["loss"] for k, each in enumerate(trained.epochs)})
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")


def test_a_real_wandb_has_a_run_of_each_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        fit(replace(PLAIN, logger="wandb"), tmp_path)
        assert wandb.run is None
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
