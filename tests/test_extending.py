"""The files of docs/extending.md, written as they stand, make a study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from aradals.cli.main import main
from aradals.results import Variant, measure, read_results

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
    results = read_results(tmp_path / "runs" / "poly")
    assert {row.method for row in results.rows} == {"vanilla", "poly", "poly_ensemble"}
    vanilla, poly = (measure(results, Variant(method), "confidence") for method in ("vanilla", "poly"))
    assert poly.value > vanilla.value  # it pulls harder towards the label
