"""The files of docs/extending.md, written as they stand, make a study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from aradals._internal.json_files import load_json
from aradals.cli.main import main

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"


def test_one_file_and_one_recipe_make_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    text = DOCS.read_text()
    for language, name in (("python", "poly.py"), ("yaml", "poly.yaml")):
        (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        Path(name).write_text(block)
    (command,) = re.findall(r"```\naradals (.*?)\n```", text)
    assert main([*command.split(), "--training.epochs=4", "--evaluation.num_resamples=20"]) in (0, None)
    results = load_json(tmp_path / "runs" / "poly" / "results.json")
    assert {row["method"] for row in results["rows"]} == {"vanilla", "poly", "poly_ensemble"}
    clean = {
        row["method"]: row["confidence"]
        for row in results["rows"]
        if (row["subset"], row["calibrator"], row["corruption"]) == (None, "none", "none")
    }
    assert clean["poly"] > clean["vanilla"]  # it pulls harder towards the label
