"""The command line starts at once: help and version load no torch, and `python -m aradals` is the same program."""

from __future__ import annotations

import subprocess
import sys

import pytest

import aradals


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_without_torch(option: str) -> None:
    program = (
        "import sys; from aradals.cli.main import main\n"
        f"code = main([{option!r}])\n"
        "loaded = {'torch', 'numpy', 'lightning', 'yaml', 'docstring_parser'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["score", "--help"], ["diagnose", "--modle=x"], ["evaluate", "--limit=ten"]])
def test_options_are_read_without_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from aradals.cli.main import main\n"
        f"main({arguments!r})\n"
        "sys.exit('loaded torch' if 'torch' in sys.modules else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_as_a_module() -> None:
    ran = subprocess.run([sys.executable, "-m", "aradals", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"aradals {aradals.__version__}\n"
