"""`aradals evaluate` under shift: corruptions made on the fly, by groups and presets, or from a copy of others'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Outcome, Study, aradals, run_once
from sklearn.metrics import roc_auc_score

from aradals.data import corrupt, load_data
from aradals.pipeline.artifacts import load_predictions
from aradals.results import Metric


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_once(tmp_path_factory.getbasetemp() / "tiny-study")


@pytest.fixture
def corrupted_copy(tmp_path: Path) -> Path:
    """The digits as CIFAR-10-C is laid out: an array for each corruption, five severities one after the other."""
    examples = load_data("digits", "test")
    ids, inputs, labels = examples.batch(range(len(examples)))
    folder = tmp_path / "digits-c"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels.numpy(), 5))
    for name in ("shot_noise", "contrast"):
        levels = torch.cat([corrupt(inputs, ids, name, severity) for severity in range(1, 6)]) * 255
        np.save(folder / f"{name}.npy", levels.round().byte().movedim(1, 3).numpy())
    return folder


def evaluate(study: Study, output: Path, *more: object) -> Outcome:
    arguments = ("--checkpoint", study.checkpoint, "--data", "digits", "--json", "--output", output)
    return aradals("evaluate", *arguments, *more)


def metrics(outcome: Outcome) -> dict[tuple[str, int], Any]:
    assert outcome.code == 0, outcome.err
    keys: tuple[Metric, ...] = ("accuracy", "confidence", "nll", "ece")
    return {
        (row.corruption, row.severity): [row[key].value for key in keys]
        for row in outcome.results.rows
        if row.calibrator == "none"
    }


def test_a_corrupted_copy_gives_what_corrupting_on_the_fly_gives(
    study: Study, corrupted_copy: Path, tmp_path: Path
) -> None:
    limit = ("--limit", 300)
    made = metrics(evaluate(study, tmp_path / "made", "--corruptions", "shot_noise,contrast", *limit))
    copied = metrics(evaluate(study, tmp_path / "copied", "--corrupted", corrupted_copy, *limit))
    assert len(copied) == 1 + 2 * 5
    assert copied.keys() == made.keys()
    for condition, values in made.items():
        assert copied[condition] == pytest.approx(values, rel=1e-6)
    chosen = ("--corrupted", corrupted_copy, "--corruptions", "contrast", "--severities", "5")
    assert metrics(evaluate(study, tmp_path / "chosen", *chosen)).keys() == {("none", 0), ("contrast", 5)}


def test_groups_and_presets(study: Study, tmp_path: Path) -> None:
    cifar = metrics(evaluate(study, tmp_path / "cifar", "--corruptions", "noise", "--severities", "3"))
    assert list(cifar) == [("none", 0), *((name, 3) for name in ("gaussian_noise", "shot_noise", "impulse_noise"))]
    # In the same folder: nothing stale is taken.
    harder = ("--corruptions", "gaussian_noise", "--severities", "3", "--preset", "imagenet", "--overwrite")
    imagenet = metrics(evaluate(study, tmp_path / "cifar", *harder))
    assert imagenet["gaussian_noise", 3][0] < cifar["gaussian_noise", 3][0]
    assert imagenet["none", 0] == cifar["none", 0]


def test_out_of_distribution_is_told_by_confidence(study: Study, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((200, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "noise.npz", inputs=noise, labels=np.arange(200) % 37)  # other classes than the model's
    outcome = evaluate(study, tmp_path / "out", "--ood", tmp_path / "noise.npz")
    assert outcome.code == 0, outcome.err
    [row] = [row for row in outcome.results.rows if row["ood_auroc"].known]
    parts = [
        load_predictions(tmp_path / "out" / folder / "predictions-none-0.parquet")[0].probs.amax(1)
        for folder in ("predictions", "ood")
    ]
    inside = torch.cat([torch.ones(len(parts[0])), torch.zeros(len(parts[1]))])
    assert row["ood_auroc"].value == pytest.approx(roc_auc_score(inside, torch.cat(parts)))
    assert (row.n, row.subset, row.condition.severity, outcome.results.data.ood) == (800, None, 0, {"noise": 200})


def test_several_calibrators(study: Study, tmp_path: Path) -> None:
    examples = load_data("digits", "train")
    held_out = tmp_path / "held-out.npz"
    _, inputs, labels = examples.batch(range(len(examples)))
    # A change of every image, so that none of them is one that the model was trained on.
    np.savez(held_out, inputs=(0.97 * inputs + 0.01).numpy(), labels=labels.numpy())
    files = []
    for method in ("temperature", "vector", "robustness_temperature"):
        files.append(tmp_path / f"{method}.json")
        arguments = ("--checkpoint", study.checkpoint, "--data", held_out, "--output", files[-1])
        assert aradals("calibrate", "--method", method, *arguments).code == 0
    outcome = evaluate(study, tmp_path / "out", "--calibrator", ",".join(map(str, files)))
    assert outcome.code == 0, outcome.err
    assert [row.calibrator for row in outcome.results.rows] == ["none", *(file.stem for file in files)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--corruptions", "mist"), "'mist'"),
        (("--corruptions", "fog", "--preset", "mnist"), "'mnist'"),
        (("--corrupted", "digits"), "expected a corrupted data set"),
        (("--corrupted", "COPY", "--preset", "cifar"), "one of them"),
        (("--corrupted", "COPY", "--corruptions", "fog"), "got fog"),
        (("--ood", "nosuch.npz"), "nosuch"),
    ],
)
def test_refused_before_anything_is_predicted(
    arguments: tuple[str, ...], says: str, study: Study, corrupted_copy: Path, tmp_path: Path
) -> None:
    given = [str(corrupted_copy) if argument == "COPY" else argument for argument in arguments]
    outcome = evaluate(study, tmp_path / "out", *given)
    assert outcome.code == 2
    assert says in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "out" / "predictions").exists()
