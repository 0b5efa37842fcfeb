"""What `aradals run` and `aradals train` do when a training goes wrong: files first, one line, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import RECIPE, aradals

OBJECTIVE = """\
import torch
from torch.nn.functional import cross_entropy

def diverge(model, inputs, labels):
    logits = model(inputs)
    return cross_entropy(logits, labels) * (torch.inf if model.training else 1), logits
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of one method that is fine, and one that diverges."""
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    path = tmp_path / "recipe.yaml"
    diverges = f"  diverges: {{objective: '{tmp_path}/objective.py:diverge'}}\n"
    path.write_text(
        RECIPE.replace("  ar_adals: {targets: {rule: {rate: auto}, subsets: {count: 3}}, label: AR-AdaLS}\n", diverges)
    )
    return path


def test_a_study_with_a_run_that_failed(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = aradals("run", recipe, "--output", out)
    assert ran.code == 1
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("1 of 2 runs failed: diverges, seed 0 (training diverged in epoch 1, when ")
    assert "[seed 0] diverges: FAILED: training diverged" in ran.err
    assert "Traceback" not in ran.err
    words = " ".join(ran.out.split())
    assert "- Warning: 1 of 2 runs failed: diverges, seed 0" in words
    assert "Failed, and not in the table: diverges (seed 0)." in words
    assert {"results.json", "report.html", "table.csv", "table.parquet"} <= {path.name for path in out.iterdir()}
    [failed] = json.loads((out / "results.json").read_text())["failed"]
    assert failed.keys() == {"method", "seed", "reason"}
    assert "Failed runs" in (out / "report.html").read_text()

    again = aradals("run", recipe, "--output", out, "--json")
    assert again.code == 1
    assert again.json["failed"] == [failed]
    assert again.err.strip().splitlines()[-1] == last
    assert aradals("report", out).code == 0


def test_a_study_all_runs_of_which_fail(recipe: Path, tmp_path: Path) -> None:
    ran = aradals(
        "run", recipe, "--output", tmp_path / "out", "--training.learning_rate=1000", "--training.optimizer=sgd"
    )
    assert ran.code == 2
    assert ran.err.strip().splitlines()[-1].startswith("error: 2 of 2 runs failed: vanilla, seed 0 (training diverged")
    assert ran.out == ""
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--method=diverges"], "diverges: training diverged in epoch 1, when the training loss"),
        (
            ["--method=vanilla", "--training.learning_rate=1000", "--training.optimizer=sgd"],
            "vanilla: training diverged in epoch 1, when ",
        ),
        (["--method=vanilla", "--training.learning_rate=1e-30"], "vanilla: no parameter has changed by more than "),
    ],
)
def test_a_model_that_fails(arguments: list[str], reason: str, recipe: Path, tmp_path: Path) -> None:
    ran = aradals("train", recipe, "--output", tmp_path / "out", *arguments)
    assert ran.code == 2
    assert ran.err.strip().splitlines()[-1].startswith(f"error: {reason}")
    assert ran.out == ""
    assert not list(tmp_path.rglob("*.safetensors"))
