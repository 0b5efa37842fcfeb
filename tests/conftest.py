"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread each, here and in the processes that tests start: tests run in parallel, on tensors so small that threads
# would only wait for each other. Set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

_BESIDE = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ``data/`` and ``models/``: CIFAR-10 as parquet and a pretrained ResNet-20."""
    folder = Path(os.environ.get("ARADALS_TEST_DATA", _BESIDE))
    if not (folder / "data" / "cifar10-test.parquet").exists():
        pytest.skip(
            "needs CIFAR-10 and a pretrained ResNet-20: set ARADALS_TEST_DATA to a folder with data/ and models/"
        )
    return folder
