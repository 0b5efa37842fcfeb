"""A small study of digits, run once, and the command line as a function."""

from __future__ import annotations

import functools
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aradals.cli.main import main
from aradals.results import Results
from aradals.results.files import parse

RECIPE = """\
# A study that takes seconds.
data: digits
model: small_cnn
model_args: {width: 8}
splits: {validation: 60, calibration: 40, train: 200}
training: {epochs: 6, batch_size: 25, learning_rate: 0.01}
methods:
  vanilla: {}
  ar_adals: {targets: {rule: {rate: auto}, subsets: {count: 3}}, label: AR-AdaLS}
scoring: {attack: deepfool, attack_args: {steps: 10}}
evaluation: {num_subsets: 3, corruptions: [gaussian_noise], severities: [3], num_resamples: 50}
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, which is JSON."""
        return json.loads(self.out)

    @property
    def results(self) -> Results:
        """Its output, which is a results file."""
        return parse(self.json)


def aradals(*arguments: object) -> Outcome:
    """Run the command line in this process, without worker processes, which take seconds to start."""
    shared = arguments and arguments[0] in ("run", "score", "evaluate", "diagnose", "corrupt")
    if shared and not any(str(each).startswith(("--workers", "--help")) for each in arguments):
        arguments = (*arguments, "--workers=1")
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # --help
            code = int(exit_.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Study:
    """A finished study on disk.

    Attributes:
        recipe: its YAML file.
        folder: its output.
        results: ``results.json`` as ``--json`` printed it.
    """

    recipe: Path
    folder: Path
    results: dict[str, Any]

    @property
    def records(self) -> Results:
        """The results as records."""
        return parse(self.results)

    @property
    def checkpoint(self) -> Path:
        """Of the vanilla model."""
        return self.folder / "seed-0" / "vanilla" / "train" / "model.safetensors"


@functools.cache
def run_once(folder: Path) -> Study:
    """The study of RECIPE in ``folder``, the same for every test; those that change it copy its output."""
    torch.set_num_threads(1)  # on tensors this small, threads only wait for each other
    folder.mkdir()
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE)
    ran = aradals("run", recipe, "--output", folder / "out", "--json")
    assert ran.code == 0, ran.err
    return Study(recipe, folder / "out", ran.json)
