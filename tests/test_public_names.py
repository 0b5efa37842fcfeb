"""What `aradals` offers, and that users, type checkers and `import *` see the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aradals

NAMES = """
    AdaptiveSmoothing CalibratedModel Ensemble InputError Predictions ScoreTable TemperatureScaling UpdateRule
    Results assign_subsets audit_scores calibrate diagnose evaluate load_calibrator load_data load_model
    monitor predict run_study score score_dataset
"""
NAMESPACES = """
    attacks calibration corruptions data inference integrations losses metrics models objectives plots report results
    robustness smoothing
"""


def test_the_public_names() -> None:
    """A change here is a change of the interface."""
    assert sorted(aradals.__all__) == sorted([*NAMES.split(), *NAMESPACES.split(), "__version__"])
    assert dir(aradals) == sorted(aradals.__all__)


def test_each_is_there() -> None:
    found: dict[str, object] = {}
    exec("from aradals import *", found)
    assert found.keys() >= set(aradals.__all__)
    assert all(getattr(aradals, name) is found[name] for name in aradals.__all__)


def test_type_checkers_see_the_same_names() -> None:
    (block,) = (node for node in ast.parse(Path(aradals.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {
        (alias.name, alias.asname) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {(name, name) for name in {*NAMES.split(), *NAMESPACES.split()}}


def test_other_names_are_refused() -> None:
    for name in ("accuracy", "api", "__path_hooks__"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(aradals, name)


@pytest.mark.parametrize(("names", "absent"), [([], "torch numpy"), (NAMES.split(), "")])
def test_what_the_names_import(names: list[str], absent: str) -> None:
    extras = "lightning datasets pyarrow PIL sklearn safetensors matplotlib jinja2 pydantic rich pandas scipy"
    code = "import sys, aradals\n" + "\n".join(f"aradals.{name}" for name in names)
    code += f"\nprint([name for name in {(extras + ' ' + absent).split()} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
