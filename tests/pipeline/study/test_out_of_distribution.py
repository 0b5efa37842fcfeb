"""Out-of-distribution data in a study: every variant is judged by how well its confidence tells them from the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from small_study import VANILLA, save_digits, small_config

from aradals.calibration import BatchTemperature, load_calibrator
from aradals.data import load_data
from aradals.errors import InputError
from aradals.pipeline.artifacts import load_predictions
from aradals.pipeline.config import EnsembleConfig, EvaluationConfig, SplitConfig, StudyConfig
from aradals.pipeline.predict import load_other_data, pool_members
from aradals.pipeline.study import run_study
from aradals.results import Variant
from aradals.results.records import CLEAN, Results


def evaluation(ood: str | None) -> EvaluationConfig:
    return EvaluationConfig(num_subsets=2, corruptions=["contrast"], severities=[5], num_resamples=50, ood=ood)


def config_of(folder: Path, ood: str | None) -> StudyConfig:
    return small_config(
        save_digits(folder / "digits.npz", num_train=260),
        {"vanilla": VANILLA},
        calibrators=["temperature"],
        reference_calibrators=["batch_temperature", "margin_temperature"],
        ensembles={"pair": EnsembleConfig("vanilla", num_members=2)},
        splits=SplitConfig(validation=40, calibration=120, train=100),
        evaluation=evaluation(ood),
    )


def save_noise(path: Path, shape: tuple[int, ...] = (1, 12, 12)) -> str:
    rng = np.random.default_rng(0)
    np.savez(path, inputs=rng.random((70, *shape), np.float32), labels=np.arange(70) % 37)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path, StudyConfig]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ood")
    config = config_of(folder, save_noise(folder / "noise.npz"))  # of another size, and of other classes
    return run_study(config, folder / "out", name="test", log=lambda line: None), folder / "out", config


def test_every_variant_has_the_auroc_on_clean_data(run: tuple[Results, Path, StudyConfig]) -> None:
    results, folder, _ = run
    assert results.data.ood == {"noise": 70}
    inside, outside = (
        {
            name: [load_predictions(folder / "seed-0" / home / file)[0] for home in homes]
            for name, homes in (("vanilla", ["vanilla"]), ("pair", ["vanilla", "vanilla/member-1"]))
        }
        for file in ("predict/predictions-none-0.parquet", "ood/predictions.parquet")
    )
    assert len(results.variants) == 6
    for variant in results.variants:
        parts = [pool_members(members[variant.method]) for members in (inside, outside)]
        logits = torch.cat([each.logits for each in parts])
        if variant.is_calibrated:
            path = folder / f"seed-0/{variant.method}/calibrate/{variant.calibrator}.json"
            given = [each.scores for each in parts if each.scores is not None]
            logits = load_calibrator(path).predict_logits(logits, torch.cat(given) if given else None)
        expected = roc_auc_score([1] * 100 + [0] * 70, logits.double().softmax(1).amax(1))
        row = results.by_key[variant, CLEAN, None][0]
        found = row["ood_auroc"]
        assert found.value == pytest.approx(expected, abs=1e-9)
        assert found.low < found.value < found.high
    assert all(row["ood_auroc"].known == (row.condition == CLEAN and row.subset is None) for row in results.rows)


def test_a_batch_calibrator_does_not_know_which_examples_are_which(run: tuple[Results, Path, StudyConfig]) -> None:
    """One temperature for both data sets keeps nearly all ranks; a batch of noise alone would be scaled by another."""
    results, folder, _ = run
    row, plain = (
        results.by_key[Variant("vanilla", calibrator), CLEAN, None][0]["ood_auroc"].value
        for calibrator in ("batch_temperature", "none")
    )
    fitted = load_calibrator(folder / "seed-0/vanilla/calibrate/batch_temperature.json")
    assert isinstance(fitted, BatchTemperature)
    assert row == pytest.approx(plain, abs=0.1)


def test_variants_are_compared_by_it(run: tuple[Results, Path, StudyConfig]) -> None:
    results, *_ = run
    found = {
        each.variant: each
        for each in results.comparisons
        if each.metric == "ood_auroc" and each.reference == Variant("vanilla")
    }
    assert {each.place for each in found.values()} == {"clean"}
    pair = found[Variant("pair")]
    values = [results.by_key[Variant(name), CLEAN, None][0]["ood_auroc"].value for name in ("pair", "vanilla")]
    assert pair.difference == pytest.approx(values[0] - values[1])
    assert pair.low < pair.difference < pair.high


def test_other_data_change_no_training(run: tuple[Results, Path, StudyConfig], tmp_path: Path) -> None:
    results, folder, _ = run
    log: list[str] = []
    other = save_noise(tmp_path / "other.npz", (1, 8, 8))
    again = run_study(config_of(folder.parent, other), folder, name="test", log=log.append)
    repeated = {line.split("] ")[1] for line in log if "done before" not in line and line.startswith("[seed 0]")}
    assert not any("train" in line or "calibrate" in line for line in repeated)
    assert again.weights == results.weights
    assert [row["ece"] for row in again.rows] == [row["ece"] for row in results.rows]
    without = run_study(config_of(folder.parent, None), folder, name="test", log=lambda line: None)
    assert not any(row["ood_auroc"].known for row in without.rows)
    assert without.data.ood == {}


@pytest.mark.parametrize(
    ("ood", "message"),
    [
        ("fitted.npz", r"examples that every model was not fitted on, got fitted"),
        ("tested.npz", r"out-of-distribution data without the examples of the test split, got tested, with 40 of 40"),
        ("rows.npz", r"images in rows, which can be resized to 8x8"),
        ("colors.npz", r"inputs of shape \(1, 8, 8\) in colors, as in digits\S*, got \(3, 8, 8\)"),
        ("missing.npz", "missing.npz"),
    ],
)
def test_unfit_data_are_refused_before_training(tmp_path: Path, ood: str, message: str) -> None:
    save_noise(tmp_path / "colors.npz", (3, 9, 9))
    save_noise(tmp_path / "rows.npz", (5,))
    config = config_of(tmp_path, str(tmp_path / ood))
    for name, split, rows in (("fitted", "train", range(260)), ("tested", "test", range(40))):
        np.savez(tmp_path / f"{name}.npz", allow_pickle=False, inputs=load_data("digits", split).batch(rows)[1].numpy())
    with pytest.raises(InputError, match=message):
        run_study(config, tmp_path / "out", name="test", log=lambda line: None)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_images_of_another_size_are_resized(tmp_path: Path) -> None:
    log: list[str] = []
    other = load_other_data(save_noise(tmp_path / "noise.npz"), load_data("digits"), log.append)
    assert other.input_shape == (1, 8, 8)
    assert log == ["noise: images are resized to 8x8; proportions are not kept"]
    _, inputs, labels = other.batch([0, 69])
    raw = torch.from_numpy(np.load(tmp_path / "noise.npz")["inputs"][[0, 69]])
    expected = torch.nn.functional.interpolate(raw, (8, 8), mode="bilinear", antialias=True)
    assert torch.allclose(inputs, expected, atol=1e-6)
    assert labels.tolist() == [0, 0]
