"""A trained classifier that nobody here made, diagnosed by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aradals.cli.main import main


@pytest.mark.slow
def test_diagnosis_of_a_pretrained_resnet20(shared_data: Path, tmp_path: Path) -> None:
    arguments = ["diagnose", "--model", "resnet20"]
    arguments += ["--checkpoint", str(shared_data / "models" / "cifar10-resnet20.safetensors")]
    arguments += ["--data", str(shared_data / "data" / "cifar10-test.parquet"), "--output", str(tmp_path)]
    assert main(arguments) == 0
    diagnosis = json.loads((tmp_path / "diagnosis.json").read_text())
    overall = diagnosis["overall"]
    assert overall["accuracy"] == pytest.approx(0.8103, abs=6e-4)
    assert overall["confidence"] == pytest.approx(0.9348, abs=6e-4)
    assert overall["ece"] == pytest.approx(0.1245, abs=6e-4)
    assert [row["n"] for row in diagnosis["subsets"]] == [1000] * 10
    # The least robust decile is far less sure, and still less often right.
    assert diagnosis["subsets"][0]["accuracy"] < 0.6 < diagnosis["subsets"][9]["accuracy"]
    assert diagnosis["scoring"]["num_failed"] == 0
    assert diagnosis["audit"]["n"] == 128
    assert diagnosis["audit"]["same_subset"] > 0.75
    assert diagnosis["audit"]["within_one"] > 0.95
