"""The numbers of the product are those that it computed before; `golden/record.py` says how they were made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch

sys.path.append(str(Path(__file__).parent / "golden"))
from record import CLOCK, HERE, LEFT_OUT, courses, machine, recorded_diagnosis, without

from aradals.cli.main import main
from aradals.results import read_results
from aradals.results.files import plain

TOLERANCE = 1e-6
KEEP_INTERVALS = {"accuracy", "confidence"}
"""Metrics with an interval however few predictions are right or wrong."""


def close(found: Any, expected: Any, where: str = "") -> None:
    """Compare nested values: numbers within 1e-6, everything else exactly."""
    if isinstance(expected, dict):
        assert found.keys() >= expected.keys(), where
        for key, value in expected.items():
            close(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for position, value in enumerate(expected):
            close(found[position], value, f"{where}[{position}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True), where
    else:
        assert found == expected, where


def has_few(accuracy: float, n: int) -> bool:
    """Too few predictions are right or wrong for the intervals of most metrics, which were recorded nevertheless."""
    right = round(accuracy * n)
    return min(right, n - right) < 5


def test_courses_of_update_rules() -> None:
    assert courses() == json.loads((HERE / "update_rules.json").read_text(encoding="utf-8"))


def need_machine(*properties: str) -> None:
    expected = json.loads((HERE / "machine.json").read_text(encoding="utf-8"))
    if any(machine()[name] != expected[name] for name in properties):
        pytest.skip(f"needs the kind of machine that the values were made on: {expected}")


@pytest.fixture
def same_instructions() -> None:
    """With other instructions, the last bits are others."""
    need_machine("processor", "instructions", "torch")


@pytest.fixture
def same_machine(same_instructions: None) -> None:
    """On another model of the processor, a training takes another course."""
    need_machine("model")


@pytest.fixture
def resnet20(same_instructions: None, shared_data: Path) -> list[str]:
    torch.set_num_threads(1)
    model, data = shared_data / "models" / "cifar10-resnet20.safetensors", shared_data / "data" / "cifar10-test.parquet"
    return ["--model", "resnet20", "--checkpoint", str(model), "--data", str(data)]


@pytest.mark.slow
def test_scores_of_512_images(resnet20: list[str], tmp_path: Path) -> None:
    output = ["--workers", "1", "--output", str(tmp_path / "scores.parquet")]
    assert main(["score", *resnet20, "--limit", "512", *output]) == 0
    expected = parquet.read_table(HERE / "scores.parquet")
    found = parquet.read_table(tmp_path / "scores.parquet", columns=expected.column_names)
    close(found.to_pydict(), expected.to_pydict())


@pytest.mark.slow
def test_diagnosis_of_10_000_images(resnet20: list[str], tmp_path: Path) -> None:
    assert main(["diagnose", *resnet20, "--output", str(tmp_path)]) == 0
    found, expected = (
        without(plain(each), (*CLOCK, *LEFT_OUT)) for each in (read_results(tmp_path), recorded_diagnosis())
    )
    assert len(expected["rows"]) == len(expected["reliability"]) == 1 + 10
    for row in expected["rows"]:
        if has_few(row["metrics"]["accuracy"]["value"], row["n"]):
            for name in row["metrics"].keys() - KEEP_INTERVALS:
                row["metrics"][name] = {"value": row["metrics"][name]["value"]}
    # The audit was one by DDN alone; a second attack improves a few norms.
    audit, recorded = found.pop("audit"), expected.pop("audit")
    for name in ("num_examples", "num_failed", "num_subsets", "num_verified", "num_norms_reduced"):
        assert audit.get(name) == recorded.get(name)
    for name in ("spearman", "same_subset", "within_one"):
        assert audit["agreement"][name]["value"] == pytest.approx(recorded["agreement"][name]["value"], abs=1e-3)
    close(found, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("same_machine")
def test_rows_of_the_digits(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert main(["run", "digits", "--workers", "1", "--output", str(tmp_path)]) == 0
    expected = parquet.read_table(HERE / "digits.parquet")
    found = parquet.read_table(tmp_path / "table.parquet", columns=expected.column_names)
    assert len(found) == len(expected)
    for row, recorded in zip(found.to_pylist(), expected.to_pylist(), strict=True):
        close(row, recorded)
