"""A trained classifier that nobody here made, diagnosed by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from aradals.cli.main import main
from aradals.results import read_results


@pytest.mark.slow
def test_diagnosis_of_a_pretrained_resnet20(shared_data: Path, tmp_path: Path) -> None:
    arguments = ["diagnose", "--model", "resnet20"]
    arguments += ["--checkpoint", str(shared_data / "models" / "cifar10-resnet20.safetensors")]
    arguments += ["--data", str(shared_data / "data" / "cifar10-test.parquet"), "--output", str(tmp_path)]
    assert main(arguments) == 0
    diagnosis = read_results(tmp_path)
    overall, *subsets = diagnosis.rows
    assert overall["accuracy"].value == pytest.approx(0.8103, abs=6e-4)
    assert overall["confidence"].value == pytest.approx(0.9348, abs=6e-4)
    assert overall["ece"].value == pytest.approx(0.1245, abs=6e-4)
    assert [(row.subset, row.n) for row in subsets] == [(subset, 1000) for subset in range(10)]
    # The least robust decile is far less sure, and still less often right.
    assert subsets[0]["accuracy"].value < 0.6 < subsets[9]["accuracy"].value
    [scoring] = diagnosis.scoring
    assert scoring.num_failed == 0
    assert diagnosis.audit is not None
    agreement = diagnosis.audit.agreement
    assert agreement.n == 128
    assert agreement.same_subset.value > 0.75
    assert agreement.within_one.value > 0.95
