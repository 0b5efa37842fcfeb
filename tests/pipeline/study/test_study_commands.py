"""The command line on studies with ensembles and several data sets."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
from small_study import save_digits, weights

from aradals.cli.main import main

RECIPE = """\
data: [{first}, {second}]
model: small_cnn
model_args: {{width: 4}}
splits: {{validation: 40, calibration: 40, train: 100}}
training: {{epochs: 3, batch_size: 10, learning_rate: 0.01}}
methods:
  vanilla: {{}}
  ar_adals: {{targets: {{rule: {{rate: auto}}, subsets: {{count: 2}}, smoothing: 0.2}}}}
ensembles:
  two: {{method: vanilla, num_members: 2}}
  in_step: {{method: ar_adals, num_members: 2, in_step: true}}
scoring: {{attack: first_order_margin}}
evaluation: {{num_subsets: 2, corruptions: [contrast], severities: [5], num_resamples: 20}}
"""


def aradals(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    torch.set_num_threads(1)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = [save_digits(tmp_path / f"{name}.npz", num_test=num) for name, num in (("first", 60), ("second", 50))]
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(first=data[0], second=data[1]))
    return path


def test_a_study_of_two_data_sets_with_ensembles(recipe: Path, tmp_path: Path) -> None:
    code, out, err = aradals("run", recipe, "--output", tmp_path / "out")
    assert code == 0, err
    results = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert len(results["studies"]) == 2
    table = parquet.read_table(tmp_path / "out" / "table.parquet").to_pylist()
    assert {(row["data"], row["method"]) for row in table} == {
        (str(tmp_path / data), method)
        for data in ("first.npz", "second.npz")
        for method in ("vanilla", "ar_adals", "two", "in_step")
    }
    assert len(list((tmp_path / "out").glob("*/report.html"))) == 2
    for name in ("first.npz", "second.npz"):
        assert name in out
    code, _, err = aradals("run", recipe, "--output", tmp_path / "out")
    assert code == 0
    assert "epoch 1/3" not in err


def test_an_ensemble_is_trained_by_its_name(recipe: Path, tmp_path: Path) -> None:
    arguments = ("train", recipe, "--method=in_step", "--output", tmp_path / "one")
    code, _, err = aradals(*arguments)
    assert code == 2
    assert "expected one data set" in err
    code, out, err = aradals(*arguments, "--data", tmp_path / "first.npz")
    assert code == 0, err
    checkpoints = [Path(line.removeprefix("checkpoint: ")) for line in out.splitlines() if "checkpoint" in line]
    assert [path.name for path in checkpoints] == ["model-0.safetensors", "model-1.safetensors"]
    first, second = map(weights, checkpoints)
    assert not torch.equal(first, second)
    evaluate = ("evaluate", "--checkpoint", checkpoints[1], "--data", tmp_path / "first.npz", "--split=test")
    code, _, err = aradals(*evaluate, "--output", tmp_path / "evaluated")
    assert code == 0, err


def test_an_interrupted_command_says_how_to_go_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within a training, where Lightning has an answer of its own to Ctrl-C."""
    from aradals.pipeline.train.module import AdaptiveClassifier

    def interrupt(module: AdaptiveClassifier, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AdaptiveClassifier, "on_train_epoch_end", interrupt)
    arguments = ("--method=vanilla", "--data", tmp_path / "first.npz", "--output", tmp_path / "one")
    code, _, err = aradals("train", recipe, *arguments)
    assert code == 130
    assert "the same command goes on from here" in err
