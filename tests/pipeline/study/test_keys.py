"""Nothing of one model beside the weights of another: whatever enters a stage is part of its key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_study import ADAPTIVE, save_digits, small_config, trainings

from aradals import InputError, Results
from aradals._internal.files import file_digest
from aradals._internal.json_files import load_sealed, save_sealed
from aradals.cli.main import main
from aradals.pipeline.config import AdaptiveTargets, MethodConfig, ScoringConfig, StudyConfig
from aradals.pipeline.study import run_study, train_one, work
from aradals.results import read_results

NET = """
import torch
from aradals.models import build_model
from widths import WIDTH

def build(num_classes, in_channels):
    return build_model("small_cnn", num_classes=num_classes, in_channels=in_channels, width=WIDTH)
"""
LOSS = """
import torch
from factors import FACTOR

def objective(model, inputs, labels):
    logits = model(inputs)
    return FACTOR * torch.nn.functional.cross_entropy(logits, labels), logits
"""
ATTACK = """
import torch
from factors import FACTOR
from aradals.attacks import get_attack

def attack(model, inputs):
    return get_attack("logit_margin")(model, FACTOR * inputs)
"""


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    """One method, whose model, objective and attack are files that import other files."""
    for name, text in {"net": NET, "loss": LOSS, "attack": ATTACK, "widths": "WIDTH = 4\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "factors.py").write_text("FACTOR = 1\n")
    return small_config(
        save_digits(tmp_path / "digits.npz"),
        {"vanilla": MethodConfig(objective=f"{tmp_path / 'loss.py'}:objective")},
        model=f"{tmp_path / 'net.py'}:build",
        model_args={},
        scoring=ScoringConfig(attack=f"{tmp_path / 'attack.py'}:attack"),
    )


def run(config: StudyConfig, folder: Path) -> tuple[Results, list[str]]:
    log: list[str] = []
    return run_study(config, folder, name="test", log=log.append), log


def weights_of(results: Results, folder: Path) -> set[str]:
    """The digests of the checkpoints, which are those on the disk."""
    assert results.weights
    for name, digest in results.weights.items():
        assert file_digest(folder / name) == digest
    return set(results.weights.values())


def longer(config: StudyConfig) -> StudyConfig:
    return replace(config, training=replace(config.training, epochs=3))


def test_a_setting_that_is_changed_and_changed_back(config: StudyConfig, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first, _ = run(config, folder)
    second, log = run(longer(config), folder)
    assert weights_of(second, folder).isdisjoint(first.weights.values())
    assert "[seed 0] vanilla: train" in trainings(log)
    third, log = run(config, folder)
    assert not trainings(log)
    assert weights_of(third, folder) == set(first.weights.values())
    assert third.rows == first.rows


@pytest.mark.parametrize("back", [False, True])
def test_an_interruption_leaves_no_results_of_other_weights(
    back: bool, config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no training is needed, because the earlier folder gets its name back."""
    folder = tmp_path / "out"
    if back:
        run(longer(config), folder)
    first, _ = run(config, folder)
    (folder / "report.html").write_text("the report of these results")
    with monkeypatch.context() as patch:
        patch.setattr(work, "predict", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(longer(config), folder)
    assert {path.name for path in folder.iterdir() if path.is_file()} <= {".aradals"}
    assert read_results(folder / "earlier-results").rows == first.rows
    assert (folder / "earlier-results" / "report.html").exists()
    again, _ = run(config, folder)
    assert weights_of(again, folder) == set(first.weights.values())
    assert again.rows == first.rows


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["widths", "net"])
def test_code_of_the_model(name: str, config: StudyConfig, tmp_path: Path) -> None:
    first, _ = run(config, tmp_path / "out")
    path = tmp_path / f"{name}.py"
    path.write_text(path.read_text().replace("WIDTH = 4", "WIDTH = 5").replace("width=WIDTH", "width=WIDTH + 1"))
    second, log = run(config, tmp_path / "out")
    assert "[seed 0] vanilla: train" in trainings(log)
    assert weights_of(second, tmp_path / "out").isdisjoint(first.weights.values())


def test_code_that_objective_and_attack_import(config: StudyConfig, tmp_path: Path) -> None:
    first, _ = run(config, tmp_path / "out")
    (tmp_path / "factors.py").write_text("FACTOR = 0.5\n")
    second, log = run(config, tmp_path / "out")
    assert len(trainings(log)) == 1
    assert weights_of(second, tmp_path / "out").isdisjoint(first.weights.values())
    assert any("scores: test: the inputs have changed" in line for line in log)


def test_a_checkpoint_that_somebody_replaces(config: StudyConfig, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first, _ = run(config, folder)
    other = train_one(longer(config), "vanilla", 0, tmp_path / "other", log=lambda line: None)[0]
    checkpoint = folder / "seed-0" / "vanilla" / "train" / "model.safetensors"
    checkpoint.write_bytes(other.read_bytes())
    assert main(["report", str(folder)]) == 2
    again, log = run(config, folder)
    assert any("model.safetensors was changed" in line for line in log)
    assert weights_of(again, folder) == set(first.weights.values())
    assert main(["report", str(folder)]) == 0


def test_other_versions_are_kept_and_told(config: StudyConfig, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first, _ = run(config, folder)
    assert [(check.answer, check.what) for check in first.checks] == [
        ("checked", "all files were made with the versions of this run")
    ]
    stage = folder / "seed-0" / "vanilla" / "train" / "stage.json"
    record = load_sealed(stage)
    save_sealed(stage, {**record, "versions": {**record["versions"], "torch": "2.1.0"}})
    second, log = run(config, folder)
    assert not trainings(log)
    assert weights_of(second, folder) == set(first.weights.values())
    [check] = second.checks
    assert check.answer == "could not be checked"
    assert check.reason.startswith("train: torch 2.1.0 instead of 2.")
    [told] = [line for line in log if "torch 2.1.0" in line]
    assert told.startswith("[seed 0] vanilla: train: done before, inputs unchanged; made with torch 2.1.0 instead of")


class TestTrain:
    """`aradals train` does not replace what other settings have made."""

    @pytest.mark.parametrize("changed", ["seed", "setting", "code"])
    def test_other_settings_are_refused(self, changed: str, config: StudyConfig, tmp_path: Path) -> None:
        folder, quiet = tmp_path / "out", print
        [checkpoint] = train_one(config, "vanilla", 0, folder, log=quiet)
        before, seed = checkpoint.read_bytes(), 0
        match changed:
            case "seed":
                seed = 1
            case "setting":
                config = longer(config)
            case _:
                (tmp_path / "widths.py").write_text("WIDTH = 5\n")
        with pytest.raises(InputError, match="--overwrite, which keeps them"):
            train_one(config, "vanilla", seed, folder, log=quiet)
        assert checkpoint.read_bytes() == before
        train_one(config, "vanilla", seed, folder, log=quiet, overwrite=True)
        assert checkpoint.read_bytes() != before
        [kept] = folder.glob("vanilla/train.*/model.safetensors")
        assert kept.read_bytes() == before

    def test_the_same_settings_and_other_methods_share_a_folder(self, config: StudyConfig, tmp_path: Path) -> None:
        both = replace(config, methods={**config.methods, "adaptive": MethodConfig(targets=AdaptiveTargets(ADAPTIVE))})
        log: list[str] = []
        for method in ("vanilla", "adaptive", "vanilla"):
            train_one(both, method, 0, tmp_path / "out", log=log.append)
        assert len(trainings(log)) == 2
        assert log[-1].endswith("vanilla: train: done before, inputs unchanged")


def test_results_name_their_weights(config: StudyConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(content["weights"]) == ["seed-0/vanilla/train/model.safetensors"]
