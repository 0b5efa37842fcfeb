"""`aradals calibrate` and `aradals evaluate --calibrator` with every calibrator, on clean and corrupted inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aradals import load_calibrator
from aradals.attacks import first_order_margin
from aradals.calibration import CALIBRATORS, TemperatureScaling
from aradals.cli.main import main
from aradals.data import corrupt
from aradals.errors import InputError
from aradals.metrics import nll
from aradals.pipeline.artifacts import load_predictions
from aradals.pipeline.evaluate import evaluate
from aradals.results import read_results

MODEL = """\
import torch
from torch import nn


def build(num_classes=3):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.Tanh(), nn.Linear(32, num_classes))
    layers[3].weight.data.mul_(30)
    return layers
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and two files of examples that it is over-confident on."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("calibrators")
    (folder / "model.py").write_text(MODEL)
    namespace: dict[str, object] = {}
    exec(MODEL, namespace)
    model = namespace["build"]()  # type: ignore[operator]
    for seed, name in enumerate(["calibration", "evaluation"]):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(256, (300, 8, 8, 3), generator=generator, dtype=torch.uint8)
        with torch.no_grad():
            probs = (model(images.permute(0, 3, 1, 2) / 255) / 4).softmax(1)
        labels = torch.multinomial(probs, 1, generator=generator)[:, 0]
        np.savez(folder / f"{name}.npz", images=images.numpy(), labels=labels.numpy())
    return folder


@pytest.mark.filterwarnings("ignore:300 calibration examples:UserWarning")
@pytest.mark.parametrize("method", CALIBRATORS)
def test_calibrate_and_evaluate(method: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", f"{folder / 'model.py'}:build", "--device", "cpu"]
    path, out = tmp_path / f"{method}.json", tmp_path / "out"
    calibrate = ["calibrate", *model, "--data", str(folder / "calibration.npz"), "--method", method]
    assert main([*calibrate, "--output", str(path)]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith(f"{method}: ")
    assert json.loads(path.read_text())["method"] == method

    evaluate = ["evaluate", *model, "--data", str(folder / "evaluation.npz"), "--calibrator", str(path)]
    evaluate += ["--corruptions", "gaussian_noise", "--severities", "3", "--output", str(out)]
    assert main(evaluate) == 0, capsys.readouterr().err
    rows = {(row.calibrator, row.corruption): row for row in read_results(out).rows}
    calibrator = load_calibrator(path)
    for corruption, severity in (("none", 0), ("gaussian_noise", 3)):
        assert rows[method, corruption]["nll"].value < rows["none", corruption]["nll"].value
        predictions, _ = load_predictions(out / "predictions" / f"predictions-{corruption}-{severity}.parquet")
        scores = None
        if calibrator.score == "first_order_margin":
            # Of the inputs as they are, corrupted.
            images = torch.from_numpy(np.load(folder / "evaluation.npz")["images"]).permute(0, 3, 1, 2) / 255
            inputs = corrupt(images, predictions.ids, corruption, severity) if severity else images
            namespace: dict[str, object] = {}
            exec(MODEL, namespace)
            scores = first_order_margin(namespace["build"](), inputs).score  # type: ignore[operator]
        expected = nll(predictions.labels, logits=calibrator.predict_logits(predictions.logits, scores))
        assert rows[method, corruption]["nll"].value == pytest.approx(expected, abs=1e-5)


def test_stored_predictions_without_scores_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"method": "robustness_temperature", "temperatures": [2.0], "scores": [0.0, 1.0], "levels": [0.0, 1.0]}
    (tmp_path / "c.json").write_text(json.dumps({**fields, "fitted_on": {"example_hashes": ""}}))
    np.savez(tmp_path / "p.npz", logits=np.eye(3) - 0.5, label=np.arange(3))
    predictions = ["--predictions", str(tmp_path / "p.npz"), "--calibrator", str(tmp_path / "c.json")]
    assert main(["evaluate", *predictions, "--output", str(tmp_path / "out")]) == 2
    assert "first_order_margin of each of 3 examples, got none; try" in capsys.readouterr().err


def evaluated(folder: Path, out: Path, *more: str) -> tuple[int, str]:
    arguments = ["--data", str(folder / "evaluation.npz"), "--output", str(out), "--device", "cpu", *more]
    model = [] if "--model" in more else ["--model", f"{folder / 'model.py'}:build"]
    return main(["evaluate", *model, *arguments]), str(out / "results.json")


@pytest.fixture
def calibrator(folder: Path, tmp_path: Path) -> Path:
    """A calibrator of the model."""
    path = tmp_path / "temperature.json"
    arguments = ["--model", f"{folder / 'model.py'}:build", "--device", "cpu", "--output", str(path)]
    assert main(["calibrate", "--data", str(folder / "calibration.npz"), *arguments]) == 0
    return path


def answers(results: str) -> dict[str, str]:
    checks = json.loads(Path(results).read_text())["checks"]
    return {check["what"]: check.get("answer", "could not be checked") for check in checks}


def test_a_calibrator_of_another_model_is_refused(
    folder: Path, calibrator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.py").write_text(MODEL.replace("manual_seed(0)", "manual_seed(1)"))
    code, _ = evaluated(
        folder, tmp_path / "out", "--model", f"{tmp_path / 'other.py'}:build", "--calibrator", str(calibrator)
    )
    assert code == 2
    assert "the calibrator temperature of this model, got one of a model with other weights" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_what_was_checked_is_in_the_results(folder: Path, calibrator: Path, tmp_path: Path) -> None:
    code, results = evaluated(folder, tmp_path / "out", "--calibrator", str(calibrator))
    assert code == 0
    expected = {
        "the model was not fitted on evaluation": "could not be checked",
        "the calibrator temperature was fitted for this model": "checked",
        "the calibrator temperature was not fitted on evaluation": "checked",
    }
    ours = (
        "the classes of evaluation have the numbers that the model uses",
        "all files were made with the versions of this run",
    )
    assert answers(results) == {**expected, **dict.fromkeys(ours, "checked")}
    report = (tmp_path / "out" / "report.html").read_text()
    assert "the calibrator temperature was fitted for this model" in report
    # The predictions that this command has written name their model, too.
    predictions = tmp_path / "out" / "predictions" / "predictions-none-0.parquet"
    stored = ["evaluate", "--predictions", str(predictions), "--calibrator", str(calibrator)]
    assert main([*stored, "--output", str(tmp_path / "stored")]) == 0
    assert answers(str(tmp_path / "stored" / "results.json")) == expected


def test_what_could_not_be_checked_is_said(
    folder: Path, calibrator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(calibrator.read_text())
    earlier = {name: content["fitted_on"][name] for name in ("data", "n", "fingerprint", "example_hashes")}
    calibrator.write_text(json.dumps({"method": "temperature", "temperature": 2.0, "fitted_on": earlier}))
    code, results = evaluated(folder, tmp_path / "out", "--calibrator", str(calibrator))
    assert code == 0
    assert "could not be checked: the model was not" in (error := capsys.readouterr().err)
    assert "the calibrator temperature was fitted for this model (its model is not recorded)" in error
    assert answers(results)["the calibrator temperature was fitted for this model"] == "could not be checked"
    assert answers(results)["the calibrator temperature was not fitted on evaluation"] == "checked"
    # A file of predictions without a digest of the model or hashes of the examples.
    np.savez(tmp_path / "p.npz", logits=4 * np.random.default_rng(0).normal(size=(90, 3)), label=np.arange(90) % 3)
    stored = ["evaluate", "--predictions", str(tmp_path / "p.npz"), "--calibrator", str(calibrator)]
    assert main([*stored, "--output", str(tmp_path / "stored")]) == 0
    assert set(answers(str(tmp_path / "stored" / "results.json")).values()) == {"could not be checked"}


def test_another_number_of_classes_is_refused_without_a_digest(
    calibrator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "p.npz", logits=np.random.default_rng(0).normal(size=(90, 4)), label=np.arange(90) % 4)
    stored = ["evaluate", "--predictions", str(tmp_path / "p.npz"), "--calibrator", str(calibrator)]
    assert main([*stored, "--output", str(tmp_path / "stored")]) == 2
    assert "one of a model with 3 classes" in capsys.readouterr().err


def test_file_names_are_data(folder: Path, calibrator: Path, tmp_path: Path) -> None:
    """Two files with one stem, words with a meaning, and a comma: no calibrator is lost."""
    vector = tmp_path / "vector.json"
    arguments = ["--model", f"{folder / 'model.py'}:build", "--device", "cpu", "--output", str(vector)]
    assert main(["calibrate", "--method", "vector", "--data", str(folder / "calibration.npz"), *arguments]) == 0
    for name in ("a/mine.json", "b/mine.json", "none.json", "c/temperature.json", "x, y.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(vector.read_text())
    several = [tmp_path / name for name in ("a/mine.json", "b/mine.json", "none.json", "vector.json")]
    expected = [str(several[0]), str(several[1]), str(several[2]), "vector"]
    for files, names in (
        (several, expected),
        ([tmp_path / "c/temperature.json"], [str(tmp_path / "c/temperature.json")]),
        ([calibrator], ["temperature"]),
        ([tmp_path / "x, y.json"], ["x, y"]),
    ):
        out = tmp_path / f"out-{names[0].rpartition('/')[2]}"
        code, results = evaluated(folder, out, "--calibrator", ",".join(map(str, files)))
        assert code == 0
        rows = json.loads(Path(results).read_text())["rows"]
        assert [row.get("calibrator", "none") for row in rows] == ["none", *names]
        assert all(row["metrics"]["nll"]["value"] < rows[0]["metrics"]["nll"]["value"] for row in rows[1:])


def test_the_word_for_no_calibrator_is_refused_as_a_name() -> None:
    scaling = TemperatureScaling.from_dict({"method": "temperature", "temperature": 2.0})
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with pytest.raises(InputError, match="got 'none'"):
        evaluate(model, (torch.rand(30, 1, 2, 2), torch.arange(30) % 3), calibrators={"none": scaling})
