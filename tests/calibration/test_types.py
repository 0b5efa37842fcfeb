from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_calibrators_are_typed() -> None:
    """A strict type checker accepts what the documentation shows, without casts."""
    snippet = Path(__file__).parent / "typed_calibrators.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent", str(snippet)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ran.stdout == ""
    assert ran.returncode == 0, ran.stderr
