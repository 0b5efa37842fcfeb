"""Data sets that need no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aradals.data import data_paths, list_splits, load_data, load_splits
from aradals.data.builtin import BUILTIN
from aradals.data.formats import Columns
from aradals.errors import InputError


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARADALS_DATA", raising=False)


def test_letter_has_the_published_rows_and_any_test_split() -> None:
    assert list_splits("letter") == ["all"]
    train, test = load_splits("letter", test_size=16_000)
    assert (len(train), len(test), train.input_shape) == (4_000, 16_000, (16,))
    assert train.class_names == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert train.preparation["scaling"]["features"][:3] == ["x-box", "y-box", "width"]
    rows = BUILTIN["letter"]()["all"].rows(Columns())
    published = [2, 8, 3, 5, 1, 8, 13, 0, 6, 6, 10, 8, 0, 8, 0, 8]  # the first row of the published file
    assert np.asarray(rows.labels)[(np.asarray(rows.inputs) == published).all(1)].tolist() == ["T"]
    assert torch.bincount(torch.cat([train.labels, test.labels]))[[0, 25]].tolist() == [789, 734]


def test_a_smaller_test_split_is_within_a_larger_one() -> None:
    fifth = load_data("letter", "test")
    _, most = load_splits("letter", test_size=16_000)
    assert fifth.name == "letter-test"
    assert set(fifth.ids.tolist()) <= set(most.ids.tolist())


def test_built_in_names_are_told_and_local_files_have_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.csv").write_text("a,label\n0.5,0\n1,1\n")
    assert len(load_data("letter", "test")) == 4_000
    assert len(load_data("./letter")) == 2
    with pytest.raises(InputError, match=rf"a built-in name \({', '.join(BUILTIN)}\)"):
        load_data("leter")


def test_a_folder_of_results_can_have_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in BUILTIN:
        (tmp_path / name).mkdir()
        assert data_paths(name) == []
    assert data_paths("./digits") == [Path("digits")]
    monkeypatch.setenv("ARADALS_DATA", str(tmp_path))
    assert data_paths("digits") == [tmp_path / "digits"]
