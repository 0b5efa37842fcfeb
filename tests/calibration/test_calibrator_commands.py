"""`aradals calibrate` and `aradals evaluate --calibrator` with every calibrator, on clean and corrupted inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aradals.attacks import first_order_margin
from aradals.calibration import CALIBRATORS
from aradals.cli.main import main
from aradals.data import corrupt
from aradals.metrics import nll
from aradals.pipeline.artifacts import load_calibrator, load_predictions
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
    calibrator, _ = load_calibrator(path)
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
