"""A misspelt metric is an error for a type checker, in code that uses the package, too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SNIPPET = """\
from aradals.results import Results, Row, Variant, difference, measure


def read(results: Results, row: Row, variant: Variant) -> list[float]:
    return [
        row["ece"].value,
        row["eec"].value,  # wrong
        measure(results, variant, "ece").value,
        measure(results, variant, "eec").value,  # wrong
        difference(results, variant, variant, "nll", "all_shifts").low,
        difference(results, variant, variant, "nll", "shifted").low,  # wrong
        results.rows[0]["accuracy"].high,
        results.rows[0].accuracy,  # wrong
        results["rows"],  # wrong
    ]
"""


def test_misspelt_metrics_are_found_by_a_type_checker(tmp_path: Path) -> None:
    snippet, root = tmp_path / "snippet.py", Path(__file__).parents[2]
    snippet.write_text(SNIPPET)
    # With the settings and the cache of the project, without which this takes a minute.
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(snippet)],
        cwd=root,
        env={**os.environ, "MYPYPATH": str(root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {int(line) for line in re.findall(r"snippet\.py:(\d+): error", ran.stdout)}
    lines = SNIPPET.splitlines()
    assert found == {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}, (
        ran.stdout + ran.stderr
    )
    assert ran.returncode == 1
