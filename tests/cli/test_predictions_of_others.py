"""Commands for people who have predictions, but no torch model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from command_line import aradals

from aradals import load_calibrator
from aradals.calibration import TemperatureScaling
from aradals.metrics import accuracy, brier_score, confidence_threshold, expected_calibration_error, nll
from aradals.results import Metric, read_results

Array = npt.NDArray[np.float64]


def problem(n: int, seed: int) -> tuple[Array, Array]:
    """Labels, and logits that are over-confident by a temperature of 2."""
    generator = np.random.default_rng(seed)
    logits = 4 * generator.standard_normal((n, 3))
    probs = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    return np.array([generator.choice(3, p=row) for row in probs]), logits


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "validation.npz", tmp_path / "test.npz"
    for seed, path in enumerate(paths):
        labels, logits = problem(500, seed)
        np.savez(path, logits=logits, labels=labels)
    return paths


def test_calibrate_evaluates_on_other_predictions(files: tuple[Path, Path], tmp_path: Path) -> None:
    validation, test = files
    ran = aradals("calibrate", "--predictions", validation, "--evaluate-on", test, "--output", tmp_path / "t.json")
    assert ran.code == 0, ran.err
    labels, logits = problem(500, 0)
    ours = TemperatureScaling().fit(labels, logits=logits)
    fitted = load_calibrator(tmp_path / "t.json")
    assert isinstance(fitted, TemperatureScaling)
    assert fitted.temperature == ours.temperature
    assert f"temperature {ours.temperature:.4g}, fitted on 500 examples" in ran.out
    new_labels, new_logits = problem(500, 1)
    for given in (new_logits, fitted.predict_logits(new_logits)):
        error = expected_calibration_error(new_labels, logits=given)
        assert f"{error:.3f}" in ran.out
    assert "noise" in ran.out
    assert "labels from labels" in ran.err


def test_a_calibrator_of_python_is_the_same_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    validation, test = files
    assert (
        aradals("calibrate", "--predictions", validation, "--evaluate-on", test, "--output", tmp_path / "a.json").code
        == 0
    )
    labels, logits = problem(500, 0)
    TemperatureScaling().fit(labels, logits=logits).save(tmp_path / "b.json")
    ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert list(ours) == list(theirs)
    assert list(ours["fitted_on"]) == list(theirs["fitted_on"])
    for key in ("n", "num_classes", "row_hashes", "example_hashes", "weights"):
        assert ours["fitted_on"][key] == theirs["fitted_on"][key]
    for name in ("a.json", "b.json"):
        ran = aradals(
            "evaluate", "--predictions", test, "--calibrator", tmp_path / name, "--output", tmp_path / name[0]
        )
        assert ran.code == 0, ran.err
    rows = [read_results(tmp_path / name).rows[1] for name in "ab"]
    assert rows[0].metrics == rows[1].metrics


def test_a_part_is_held_out(files: tuple[Path, Path], tmp_path: Path) -> None:
    command = ("calibrate", "--predictions", files[0], "--output", tmp_path / "t.json")
    ran = aradals(*command, "--method", "isotonic", "--held-out", "0.3")
    assert ran.code == 0, ran.err
    assert "150 examples that were held out of the fit" in " ".join(ran.out.split())
    assert load_calibrator(tmp_path / "t.json").origin.num_examples == 350
    assert aradals(*command, "--held-out", "1.5").code == 2
    assert "nothing at" in aradals(*command).err  # the file is that of another method
    assert aradals(*command, "--overwrite").code == 0


def test_predictions_of_the_fit_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    assert aradals("calibrate", "--predictions", files[0], "--output", path).code == 0
    labels, logits = problem(500, 0)
    np.savez(tmp_path / "again.npz", logits=logits[::-1], label=labels[::-1])
    for again in (files[0], tmp_path / "again.npz"):
        ran = aradals("evaluate", "--predictions", again, "--calibrator", path, "--output", tmp_path / "out")
        assert ran.code == 2
        assert "of which about 80 % of the rows are from its fit" in ran.err
    ran = aradals("calibrate", "--predictions", files[0], "--evaluate-on", files[0], "--output", tmp_path / "u.json")
    assert ran.code == 2
    assert "about 100 % of the rows" in ran.err
    assert not (tmp_path / "u.json").exists()


def test_repeated_predictions_are_no_sign_of_the_same_examples(tmp_path: Path) -> None:
    """A decision tree has few different predictions."""
    generator = np.random.default_rng(0)
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    for name in ("a", "b"):
        leaves = generator.integers(3, size=200)
        labels = (generator.random(200) < probs[leaves, 1]).astype(int)
        np.savez(tmp_path / f"{name}.npz", probs=probs[leaves], labels=labels)
    arguments = ("--predictions", tmp_path / "a.npz", "--evaluate-on", tmp_path / "b.npz")
    ran = aradals("calibrate", *arguments, "--output", tmp_path / "t.json")
    assert ran.code == 0, ran.err
    assert "could not be checked" in ran.err


def test_two_models_are_compared_by_example(files: tuple[Path, Path], tmp_path: Path) -> None:
    labels, logits = problem(500, 1)
    noise = np.random.default_rng(2).standard_normal(logits.shape)
    np.savez(tmp_path / "other.npz", logits=logits / 2 + noise, labels=labels)
    arguments = ("--predictions", files[1], "--compare", tmp_path / "other.npz", "--output", tmp_path / "out")
    ran = aradals("evaluate", *arguments)
    assert ran.code == 0, ran.err
    found = {each.metric: each for each in read_results(tmp_path / "out").comparisons}
    resamples = np.random.default_rng(3).integers(500, size=(1000, 500))
    metrics: dict[Metric, object] = {"accuracy": accuracy, "nll": nll, "brier": brier_score}
    for name, metric in metrics.items():
        values = [metric(labels, logits=each) for each in (logits / 2 + noise, logits)]  # type: ignore[operator]
        assert found[name].difference == pytest.approx(values[0] - values[1], abs=1e-6)
        assert f"minus test, paired by example: {'NLL' if name == 'nll' else name}".lower() in ran.out.lower()
    own = [np.array([metric_of(rows, labels, each) for rows in resamples]) for each in (logits / 2 + noise, logits)]
    low, high = np.quantile(own[0] - own[1], [0.025, 0.975])
    assert found["nll"].low == pytest.approx(low, abs=0.02)
    assert found["nll"].high == pytest.approx(high, abs=0.02)
    assert found["ece"].low < found["ece"].difference < found["ece"].high


def metric_of(rows: npt.NDArray[np.int64], labels: Array, logits: Array) -> float:
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels.astype(int)]
    return float(losses[rows].mean())


def test_compared_files_have_the_same_examples(files: tuple[Path, Path], tmp_path: Path) -> None:
    ran = aradals("evaluate", "--predictions", files[0], "--compare", files[1], "--output", tmp_path / "out")
    assert ran.code == 2
    assert "rows with different labels" in ran.err
    ran = aradals("evaluate", "--compare", files[1], "--data", "digits", "--output", tmp_path / "out")
    assert ran.code == 2
    assert "--compare beside --predictions" in ran.err


def test_a_label_of_probability_0_has_an_infinite_nll_until_it_is_calibrated(tmp_path: Path) -> None:
    labels, logits = problem(400, 0)
    probs = torch.from_numpy(logits).softmax(1).numpy()
    probs[probs < 1e-3] = 0  # as a file with three digits has it
    probs /= probs.sum(1, keepdims=True)
    assert (probs[np.arange(400), labels] == 0).any()
    np.savez(tmp_path / "p.npz", probs=probs, labels=labels)
    ran = aradals(
        "calibrate", "--predictions", tmp_path / "p.npz", "--method", "isotonic", "--output", tmp_path / "c.json"
    )
    assert ran.code == 0, ran.err
    ran = aradals("evaluate", "--predictions", tmp_path / "p.npz", "--json", "--output", tmp_path / "out")
    assert ran.code == 0, ran.err
    (row,) = ran.results.rows
    assert not math.isfinite(row["nll"].value)
    assert math.isfinite(row["brier"].value)
    assert aradals("diagnose", "--predictions", tmp_path / "p.npz", "--output", tmp_path / "diagnosis").code == 0


def test_names_of_classes_reach_the_report(tmp_path: Path) -> None:
    labels, logits = problem(200, 0)
    names = np.array(["cat", "dog", "eel"])
    lines = ["cat,dog,eel,y_true"]
    probs = torch.from_numpy(logits).softmax(1).numpy()
    lines += [",".join([*map(str, row), name]) for row, name in zip(probs, names[labels], strict=True)]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    ran = aradals("diagnose", "--predictions", tmp_path / "p.csv", "--json", "--output", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert [row.name for row in ran.results.classes] == ["cat", "dog", "eel"]


def test_labels_of_another_file(tmp_path: Path) -> None:
    labels, logits = problem(200, 0)
    np.save(tmp_path / "logits.npy", logits)
    np.save(tmp_path / "labels.npy", labels)
    arguments = ("--predictions", tmp_path / "logits.npy", "--labels", tmp_path / "labels.npy")
    for command in ("evaluate", "diagnose"):
        assert aradals(command, *arguments, "--output", tmp_path / command).code == 0
    assert aradals("calibrate", *arguments, "--output", tmp_path / "t.json").code == 0
    ran = aradals("diagnose", "--labels", tmp_path / "labels.npy", "--data", "digits", "--output", tmp_path / "out")
    assert ran.code == 2
    assert "--labels beside --predictions" in ran.err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("evaluate", "--compare"),
        ("evaluate", "--labels"),
        ("calibrate", "--evaluate-on"),
        ("calibrate", "--evaluate-on-labels"),
        ("diagnose", "--labels"),
    ],
)
def test_files_beside_predictions_are_refused_beside_a_model(command: str, option: str, tmp_path: Path) -> None:
    model = ("--model", "small_cnn", "--data", "digits")
    ran = aradals(command, *model, option, tmp_path / "p.npz", "--output", tmp_path / "out.json")
    assert ran.code == 2
    assert f"{option} beside --predictions" in ran.err


def test_both_files_of_a_calibration_may_have_their_labels_apart(tmp_path: Path) -> None:
    for seed, name in enumerate(("fit", "test")):
        labels, logits = problem(500, seed)
        np.save(tmp_path / f"{name}.npy", logits)
        np.savetxt(tmp_path / f"{name}.txt", labels, fmt="%d")
    files = ["--predictions", tmp_path / "fit.npy", "--labels", tmp_path / "fit.txt", "--evaluate-on"]
    ran = aradals("calibrate", *files, tmp_path / "test.npy", "--output", tmp_path / "t.json")
    assert ran.code == 2
    assert "--evaluate-on-labels FILE" in ran.err
    more = ["--evaluate-on-labels", tmp_path / "test.txt"]
    ran = aradals("calibrate", *files, tmp_path / "test.npy", *more, "--output", tmp_path / "t.json")
    assert ran.code == 0, ran.err
    labels, logits = problem(500, 1)
    assert f"{expected_calibration_error(labels, logits=logits):.3f}" in ran.out


def test_cosines_are_logits_in_every_command_if_the_user_says_so(tmp_path: Path) -> None:
    labels, logits = problem(500, 0)
    cosines = 0.5 + logits / 50
    np.savez(tmp_path / "clip.npz", logits=cosines, labels=labels)
    declared = ("--predictions", tmp_path / "clip.npz", "--output-kind", "logits", "--output")
    ran = aradals("calibrate", *declared, tmp_path / "t.json")
    assert ran.code == 0, ran.err
    other = tmp_path / "other.npz"
    new_labels, new_logits = problem(500, 1)
    np.savez(other, logits=0.5 + new_logits / 50, labels=new_labels)
    said = ("--predictions", other, "--output-kind", "logits", "--output")
    for command in (("evaluate", "--calibrator", tmp_path / "t.json"), ("diagnose",)):
        ran = aradals(*command, *said, tmp_path / command[0])
        assert ran.code == 0, ran.err
    found = read_results(tmp_path / "evaluate").rows[0].metrics["nll"].value
    assert found == pytest.approx(nll(new_labels, logits=new_logits / 50), rel=1e-6)


def test_wanted_errors_among_accepted_predictions(files: tuple[Path, Path], tmp_path: Path) -> None:
    validation, test = files
    out, calibrator = tmp_path / "out", tmp_path / "t.json"
    given = ["--predictions", test, "--max-errors", "0.1,0.2", "--output", out]
    ran = aradals("diagnose", *given)
    assert ran.code == 0, ran.err
    assert [row.max_error for row in read_results(out).thresholds] == [0.1, 0.2]
    assert "With 95 % certainty each, the error on new examples of this kind is at most 10 % from" in " ".join(
        ran.out.split()
    )
    refused = aradals("diagnose", *given, "--max-errors", 0.3)
    assert (refused.code, "--overwrite" in refused.err) == (2, True)

    assert aradals("calibrate", "--predictions", validation, "--output", calibrator).code == 0
    ran = aradals("evaluate", *given[:-1], tmp_path / "calibrated", "--calibrator", calibrator)
    assert ran.code == 0, ran.err
    labels, logits = problem(500, 1)
    scaled = load_calibrator(calibrator).predict_logits(logits)
    for row, values in zip(
        read_results(tmp_path / "calibrated").thresholds, (logits, logits, scaled, scaled), strict=True
    ):
        expected = confidence_threshold(labels, row.max_error, logits=torch.as_tensor(values))
        assert row.threshold == (expected and pytest.approx(expected.threshold))
    assert "the error of test + t on new examples" in " ".join(ran.out.split())
