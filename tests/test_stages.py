"""A stage is made once, again when its inputs change, and goes on after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aradals import InputError
from aradals.stages import run_stage


def write(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_text("done")

    return make


def test_second_time_is_skipped(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "out.txt").write_text("done")

    assert run_stage(tmp_path / "stage", {"a": 1}, make)
    assert not run_stage(tmp_path / "stage", {"a": 1}, make)
    assert calls == [tmp_path / "stage"]


def test_changed_inputs_start_from_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    run_stage(folder, {"a": 1}, write("old.txt"))
    run_stage(folder, {"a": 2}, write("new.txt"))
    assert not (folder / "old.txt").exists()
    assert (folder / "new.txt").exists()


def test_a_lost_output_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    for _ in range(2):
        assert run_stage(folder, {}, write("out.txt"))
        (folder / "out.txt").unlink()


def test_an_interrupted_stage_finds_its_unfinished_files(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    def goes_on(folder: Path) -> None:
        assert (folder / "half.txt").read_text() == "half"
        (folder / "out.txt").write_text("done")

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "stage", {"a": 1}, interrupted)
    assert run_stage(tmp_path / "stage", {"a": 1}, goes_on)


def test_a_folder_of_other_peoples_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="empty folder"):
        run_stage(tmp_path, {}, lambda _: None)
    assert (tmp_path / "thesis.tex").exists()
