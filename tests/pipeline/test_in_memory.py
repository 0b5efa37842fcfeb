"""A model and data in memory are scored and calibrated in one line, as the commands do from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aradals import load_calibrator
from aradals.attacks import ATTACKS
from aradals.calibration import CALIBRATORS
from aradals.cli.main import main
from aradals.data import Examples
from aradals.errors import InputError
from aradals.inference.padding import Padded
from aradals.pipeline.artifacts import load_scores
from aradals.pipeline.calibrate import calibrate
from aradals.pipeline.classifier import as_classifier
from aradals.pipeline.score import score_dataset
from aradals.robustness.scores import ScoreTable
from in_memory import no_temporary_files

pytestmark = pytest.mark.filterwarnings("ignore:the .* on the pull", "ignore:40 calibration examples")

INPUTS = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3
DATA = (INPUTS, LABELS)

SOURCE = """\
import torch
from torch import nn


def build(num_classes=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, num_classes))
"""


def build() -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(SOURCE, namespace)
    model: nn.Module = namespace["build"]()
    return model


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The same model and data as arguments of a command."""
    (tmp_path / "model.py").write_text(SOURCE)
    np.savez(tmp_path / "data.npz", inputs=INPUTS.numpy(), labels=LABELS.numpy())
    return ["--model", f"{tmp_path / 'model.py'}:build", "--data", str(tmp_path / "data.npz"), "--device", "cpu"]


def same(table: ScoreTable, other: ScoreTable) -> bool:
    return torch.equal(table.ids, other.ids) and torch.equal(table.score.double(), other.score.double())


class Squeezes(nn.Module):
    """Loses the batch dimension of one."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = 4 * inputs.flatten(1)[:, :3].squeeze()
        return logits


class TestClassifier:
    def test_a_model_in_memory(self) -> None:
        model, examples = build(), Examples(INPUTS, LABELS, num_classes=3)
        found = as_classifier(model, examples)
        assert found.model is model
        assert (found.name, found.checkpoint, found.class_names, len(found.fitted_examples)) == (
            "Sequential",
            "none",
            (),
            0,
        )
        assert found.probe is not None
        assert torch.allclose(found.probe, model.eval()(INPUTS[:8]))
        assert as_classifier(found, examples) is found

    def test_its_mode_stays(self) -> None:
        model = build()
        score_dataset(model, DATA)
        calibrate(model, DATA)
        assert all(module.training for module in model.modules())

    def test_its_digest_is_that_of_its_weights(self) -> None:
        examples = Examples(INPUTS, LABELS, num_classes=3)
        model, same_weights, other = build(), build(), build()
        with torch.no_grad():
            next(other.parameters()).add_(0.01)
        digests = [as_classifier(each, examples).digest for each in (model, same_weights, other)]
        assert digests[0] == digests[1] != digests[2]

    def test_a_model_that_cannot_take_a_single_input(self) -> None:
        found = as_classifier(Squeezes(), Examples(INPUTS, LABELS, num_classes=3))
        assert isinstance(found.model, Padded)
        assert found.model(INPUTS[:1]).shape == (1, 3)
        assert found.name == "Squeezes"

    @pytest.mark.parametrize(
        ("model", "labels", "says"),
        [
            (nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), LABELS, "a model that takes inputs of shape"),
            (nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1)), LABELS, "probabilities"),
        ],
    )
    def test_what_is_no_classifier_of_the_data(self, model: nn.Module, labels: Tensor, says: str) -> None:
        with pytest.raises(InputError, match=says):
            as_classifier(model, Examples(INPUTS, labels, num_classes=4))


class TestScore:
    @pytest.mark.parametrize("attack", ["secant", "logit_margin"])
    def test_as_the_command_does(self, attack: str, files: list[str], tmp_path: Path) -> None:
        output = tmp_path / "scores.parquet"
        assert main(["score", *files, "--attack", attack, "--output", str(output)]) == 0
        expected, _ = load_scores(output)
        loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16)
        for data in (DATA, loader, Examples(INPUTS, LABELS, num_classes=3)):
            assert same(score_dataset(build(), data, attack=attack), expected)

    def test_with_an_output_it_is_done_once(self, tmp_path: Path) -> None:
        output, log = tmp_path / "scores.parquet", list[str]()
        first = score_dataset(build(), DATA, output=output, verified=True, log=log.append)
        written = output.read_bytes()
        again = score_dataset(build(), DATA, output=str(output), verified=True, log=log.append)
        assert same(first, again)
        assert output.read_bytes() == written
        assert log[-1] == f"scores: {output} is of this model, data and attack already"
        assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
        assert first.norm.isfinite().any()
        with pytest.raises(InputError, match="made from others"):
            score_dataset(build(), DATA, output=output)
        assert not same(first, score_dataset(build(), DATA, attack="logit_margin", output=output, overwrite=True))

    def test_without_an_output_nothing_is_left_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = no_temporary_files(tmp_path, monkeypatch)
        score_dataset(build(), DATA)
        calibrate(build(), DATA)
        assert list(folder.iterdir()) == []

    def test_bad_arguments(self) -> None:
        with pytest.raises(InputError, match="'deepfol'"):
            score_dataset(build(), DATA, attack="deepfol")
        with pytest.raises(InputError, match="steps"):
            score_dataset(build(), DATA, attack="deepfool", attack_args={"stes": 3})
        assert len(score_dataset(build(), [INPUTS])) == len(INPUTS)  # scores need no labels


class TestCalibrate:
    @pytest.mark.parametrize("method", CALIBRATORS)
    def test_as_the_command_does(self, method: str, files: list[str], tmp_path: Path) -> None:
        output = tmp_path / "calibrator.json"
        assert main(["calibrate", *files, "--method", method, "--output", str(output)]) == 0
        expected = load_calibrator(output)
        loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16)
        for data in (DATA, loader, Examples(INPUTS, LABELS, num_classes=3)):
            assert calibrate(build(), data, method=method).to_dict() == expected.to_dict()

    def test_with_an_output(self, tmp_path: Path) -> None:
        examples = Examples(INPUTS, LABELS, num_classes=3)
        fitted = calibrate(build(), examples, output=tmp_path / "c.json")
        loaded = load_calibrator(tmp_path / "c.json")
        assert loaded.to_dict() == fitted.to_dict()
        assert set(loaded.origin.example_hashes) == set(examples.hashes)
        with pytest.raises(InputError, match="made from others"):
            calibrate(build(), DATA, method="vector", output=tmp_path / "c.json")

    def test_not_on_training_examples(self) -> None:
        examples = Examples(INPUTS, LABELS, num_classes=3)
        tried = as_classifier(build(), examples)
        trained = replace(tried, fitted_examples=examples.hashes)
        with pytest.raises(InputError, match="examples that the model was not fitted on"):
            calibrate(trained, examples)

    def test_unknown_method(self) -> None:
        with pytest.raises(InputError, match="'platt'"):
            calibrate(build(), DATA, method="platt")


def test_every_attack_scores_in_memory() -> None:
    few = (INPUTS[:4], LABELS[:4])
    for attack in ATTACKS:
        if attack != "carlini_wagner":
            assert len(score_dataset(build(), few, attack=attack)) == 4
