"""A training is logged, if its recipe has one more line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import RECIPE, aradals

from tensorboard_files import read_events


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("epochs: 6", "epochs: 2"))
    return path


def test_a_training_has_a_log_and_the_same_weights(recipe: Path, tmp_path: Path) -> None:
    train = ["train", recipe, "--method", "vanilla"]
    plain, logged = tmp_path / "plain", tmp_path / "logged"
    assert aradals(*train, "--output", plain).code == 0
    assert aradals(*train, "--training.logger=tensorboard", "--output", logged).code == 0
    (log,) = logged.rglob("vanilla-seed-0")
    assert log.parent.name == "logs"
    assert set(read_events(log)["train/loss"]) == {1, 2}
    first, second = (next(folder.rglob("model.safetensors")).read_bytes() for folder in (plain, logged))
    assert first == second
    again = aradals(*train, "--output", logged)  # a logger is no reason to train again
    assert again.code == 0, again.err
    assert "epoch 1/2" not in again.err


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_missing_package_is_named_before_any_training(
    name: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    ran = aradals("train", recipe, "--method=vanilla", f"--training.logger={name}", "--output", tmp_path / "out")
    assert (ran.code, f"ar-adals[{name}]" in ran.err) == (2, True)
    assert not list(tmp_path.rglob("*.safetensors"))
