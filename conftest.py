"""Settings and fixtures of all tests, also of the examples in docstrings."""

from __future__ import annotations

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# One thread each, here and in the processes that tests start: tests run in parallel, on tensors so small that threads
# would only wait for each other. Set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

# The same cases in each run, so that a change never fails because of a case that has nothing to do with it;
# `make test-slow` searches for new ones. No deadline, because a busy machine must not fail a test.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("new", deadline=None, print_blob=True)
hypothesis.settings.load_profile("same")

_BESIDE = Path(__file__).parents[1] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ``data/`` and ``models/``: CIFAR-10 as parquet and a pretrained ResNet-20."""
    folder = Path(os.environ.get("ARADALS_TEST_DATA", _BESIDE))
    if not (folder / "data" / "cifar10-test.parquet").exists():
        pytest.skip(
            "needs CIFAR-10 and a pretrained ResNet-20: set ARADALS_TEST_DATA to a folder with data/ and models/"
        )
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let each test draw the same random numbers, no matter which tests the same process has run before."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries use it)
    torch.manual_seed(0)
