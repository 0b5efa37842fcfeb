"""The scripts of examples/ run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9]*.py"))
SHOWN = {
    "01_lightning": "target of each subset: [0.",
    "02_sklearn": "random forest with temperature: accuracy 0.9",
    "03_transformers_images": "subset 4 (most robust)",
    "04_transformers_texts": "subset 2 (most robust)",
}


def test_each_example_is_tested() -> None:
    assert [path.stem for path in EXAMPLES] == sorted(SHOWN)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert SHOWN[path.stem] in run.stdout
