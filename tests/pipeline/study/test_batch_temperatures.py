"""A batch temperature in a study: fitted on drifted copies of the calibration split, of a model and of an ensemble."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import VANILLA, SeedRun, save_digits, small_config

from aradals.calibration import BatchTemperature, load_calibrator
from aradals.errors import InputError
from aradals.inference.ensemble import Ensemble
from aradals.models import build_model, load_checkpoint
from aradals.pipeline.artifacts import load_predictions
from aradals.pipeline.config import EnsembleConfig, EvaluationConfig, SplitConfig, TrainingConfig
from aradals.pipeline.domains import fit_on_domains
from aradals.pipeline.study import run_study
from aradals.results import Variant
from aradals.results.records import CLEAN


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SeedRun:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("batch")
    config = small_config(
        save_digits(folder / "digits.npz", num_train=260),
        {"vanilla": VANILLA},
        calibrators=["batch_temperature"],
        ensembles={"pair": EnsembleConfig("vanilla", num_members=2)},
        splits=SplitConfig(validation=40, calibration=120, train=100),
        training=TrainingConfig(epochs=6, batch_size=25, learning_rate=0.01),
    )
    return SeedRun(config, folder / "out", 0, lambda line: None)


@pytest.mark.parametrize(("name", "members"), [("vanilla", [0]), ("pair", [0, 1])])
def test_it_is_fitted_on_copies_of_the_calibration_split(run: SeedRun, name: str, members: list[int]) -> None:
    task = run.plan.calibrate(name)
    assert task is not None
    [path] = run.finish(task)
    fitted = load_calibrator(path)
    models = []
    for member in members:
        model = build_model("small_cnn", num_classes=10, input_shape=run.splits.test.input_shape, width=4)
        load_checkpoint(model, run.finish(run.plan.train("vanilla", member))[-1])
        models.append(model.eval())
    expected = BatchTemperature()
    fit_on_domains(expected, models[0] if len(models) == 1 else Ensemble(models), run.splits.calibration)
    assert isinstance(fitted, BatchTemperature)
    assert fitted.coefficients == pytest.approx(expected.coefficients, abs=1e-6)
    assert fitted.coefficients[1] != 0
    assert set(fitted.origin.example_hashes.tolist()) == set(run.splits.calibration.hashes.tolist())


def test_each_condition_is_one_batch(run: SeedRun) -> None:
    config = run.plan.config
    results = run_study(config, run.folder, name="test", log=lambda line: None)
    fitted = load_calibrator(run.folder / "seed-0/vanilla/calibrate/batch_temperature.json")
    for condition in {row.condition for row in results.rows}:
        name = "none-0" if condition == CLEAN else f"{condition.corruption}-{condition.severity}"
        predictions, _ = load_predictions(run.folder / f"seed-0/vanilla/predict/predictions-{name}.parquet")
        confidence = fitted.predict_proba(predictions.logits).amax(1).mean()
        [row] = [
            row
            for row in results.rows
            if (row.variant, row.condition, row.subset) == (Variant("vanilla", "batch_temperature"), condition, None)
        ]
        assert row["confidence"].value == pytest.approx(float(confidence), abs=1e-6)


def test_inputs_that_no_drift_is_made_of_are_refused_before_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}_{split}": values
        for split, num in (("train", 200), ("test", 40))
        for name, values in (("x", rng.random((num, 5, 4), np.float32)), ("y", rng.integers(0, 3, num)))
    }
    np.savez(tmp_path / "sequences.npz", allow_pickle=False, **arrays)
    config = small_config(
        str(tmp_path / "sequences.npz"),
        {"vanilla": VANILLA},
        model="mlp",
        model_args={},
        calibrators=["batch_temperature"],
        evaluation=EvaluationConfig(num_subsets=2, corruptions=[]),
    )
    with pytest.raises(InputError, match="images or the rows of a table"):
        run_study(config, tmp_path / "out", name="test", log=lambda line: None)
    assert not list((tmp_path / "out").rglob("*.safetensors"))
