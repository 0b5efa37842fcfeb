"""The command line as a process of its own: with signals, streams and limits of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECIPE = """\
data: digits
model: small_cnn
model_args: {width: 4}
splits: {validation: 40, calibration: 40, train: 100}
training: {epochs: 20, batch_size: 20, learning_rate: 0.01}
methods: {vanilla: {}}
scoring: {attack: logit_margin}
evaluation: {num_subsets: 3, num_resamples: 20}
"""

_PROGRAM = "import sys; from aradals.cli.main import main; sys.argv[0] = 'aradals'; sys.exit(main())"


def command(*arguments: object) -> list[str]:
    """The words of a command line that runs aradals in this environment."""
    return [sys.executable, "-c", _PROGRAM, *map(str, arguments)]


def start(
    *arguments: object, environment: Mapping[str, str] | None = None, program: str = _PROGRAM, **options: Any
) -> subprocess.Popen[str]:
    """Start a command: text on pipes, one thread, and the signals as a terminal leaves them."""
    defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        preexec_fn=_default_signals,
        **{**defaults, **options},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def write_recipe(folder: Path) -> Path:
    """RECIPE as a file."""
    path = folder / "tiny.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
