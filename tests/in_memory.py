"""A model and data in memory, and what the results of every pipeline function have in common."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aradals.data import Data, Examples
from aradals.results import CLEAN, Results, read_results
from aradals.results.files import plain

NUM_CLASSES = 3


def make_model(seed: int = 0) -> nn.Module:
    """A small network with a wide margin for overconfidence."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        last = nn.Linear(16, NUM_CLASSES)
        with torch.no_grad():
            last.weight.mul_(4)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.Tanh(), last)


def make_tensors(seed: int, num: int = 90) -> tuple[Tensor, Tensor]:
    """Images, of which the model of seed 0 predicts about two thirds as they are labeled."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(num, 3, 8, 8, generator=generator)
    with torch.no_grad():
        predicted = make_model()(inputs).argmax(1)
    changed = torch.rand(num, generator=generator) < 1 / 3
    return inputs, torch.where(changed, (predicted + 1) % NUM_CLASSES, predicted)


def three_kinds(data: tuple[Tensor, Tensor]) -> dict[str, Data]:
    """The same data as tensors, as a loader and as `Examples`."""
    return {
        "tensors": data,
        "loader": DataLoader(TensorDataset(*data), batch_size=32),
        "examples": Examples(*data, num_classes=NUM_CLASSES),
    }


def no_temporary_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder of this process for temporary files, which is the working directory, too."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(folder)
    return folder


def check_results(results: Results, folder: Path) -> None:
    """All that can be done with results of one seed in a notebook."""
    path = results.save(folder / "saved.json")
    saved = read_results(path)
    assert saved.rows == results.rows
    assert plain(saved) == plain(results)

    frame = results.to_frame()
    assert len(frame) == len(results.rows)
    assert frame["n"].tolist() == [row.n for row in results.rows]
    for end, ends in (("", "value"), ("_low", "low"), ("_high", "high")):
        assert frame[f"accuracy{end}"].tolist() == [getattr(row["accuracy"], ends) for row in results.rows]

    html = results._repr_html_()
    assert html.count("<table") == 1
    for variant in results.variants:
        [row] = results.by_key[variant, CLEAN, None].values()
        assert f"{row['ece'].value:.3f}" in html

    report = results.report(str(folder / "report.html"))
    page = report.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert results.name in page
