"""The wheel has all files of the package, and works outside of the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)], folder)
    (found,) = folder.glob("*.whl")
    return found


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Return the output of a program that does not see the source tree."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_files_are_those_of_the_package(wheel: Path) -> None:
    source = ROOT / "src"
    expected = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.parts[len(source.parts)] == "aradals"
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "aradals/py.typed" in names
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_it_works_outside_of_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], tmp_path)

    def aradals(*words: str) -> str:
        return run([sys.executable, "-m", "aradals", *words], tmp_path, PYTHONPATH=str(site))

    where = run([sys.executable, "-c", "import aradals; print(aradals.__file__)"], tmp_path, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    short = ["--training.epochs=2", "--seeds=0", "--evaluation.num_resamples=20", "--workers=1"]
    aradals("run", "digits", *short, "--output", "study")
    assert "What is wrong" in (tmp_path / "study" / "report.html").read_text(encoding="utf-8")
    frost = ["--corruption=frost", "--severity=1"]
    aradals("corrupt", "--data=digits", "--split=test", *frost, "--output=frost.parquet")
    assert "Letter Recognition" in aradals("recipes", "show", "letter")
