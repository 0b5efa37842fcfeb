"""A stage is made once, kept when its inputs change, goes on after an interruption, and notices damage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from aradals import InputError
from aradals._internal.json_files import load_sealed, save_sealed
from aradals.pipeline.stage import check_versions, locked, remove_stages, run_stage, same_outputs

OUT = ["out.txt"]


def write(content: str, calls: list[str] | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        if calls is not None:
            calls.append(content)
        (folder / "out.txt").write_text(content)

    return make


def test_second_time_is_skipped(tmp_path: Path) -> None:
    calls: list[str] = []
    assert run_stage(tmp_path / "stage", {"a": 1}, OUT, write("one", calls))
    assert not run_stage(tmp_path / "stage", {"a": 1}, OUT, write("two", calls))
    assert calls == ["one"]


class TestChangedInputs:
    def test_the_earlier_files_are_kept_and_come_back(self, tmp_path: Path) -> None:
        folder = tmp_path / "stage"
        log: list[str] = []
        run_stage(folder, {"epochs": 3}, OUT, write("three"), log.append)
        (folder / "notes.txt").write_text("my own")
        run_stage(folder, {"epochs": 500}, OUT, write("five hundred"), log.append)
        assert (folder / "out.txt").read_text() == "five hundred"
        assert not (folder / "notes.txt").exists()
        [kept] = tmp_path.glob("stage.*")
        assert (kept / "notes.txt").read_text() == "my own"
        assert kept.name in log[-1]

        calls: list[str] = []
        assert not run_stage(folder, {"epochs": 3}, OUT, write("again", calls), log.append)
        assert (calls, (folder / "out.txt").read_text()) == ([], "three")
        assert not run_stage(folder, {"epochs": 500}, OUT, write("again", calls), log.append)
        assert (calls, (folder / "out.txt").read_text()) == ([], "five hundred")

    def test_so_are_unfinished_files(self, tmp_path: Path) -> None:
        folder = tmp_path / "stage"

        def interrupted(folder: Path) -> None:
            (folder / "half.txt").write_text("half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_stage(folder, {"a": 1}, OUT, interrupted)
        run_stage(folder, {"a": 2}, OUT, write("other"))
        found: list[bool] = []

        def goes_on(folder: Path) -> None:
            found.append((folder / "half.txt").exists())
            write("done")(folder)

        assert run_stage(folder, {"a": 1}, OUT, goes_on)
        assert found == [True]


class TestDamage:
    @pytest.mark.parametrize("damage", [b"", b"onE", b"one and more"])
    def test_a_changed_output_is_noticed_kept_and_made_again(self, damage: bytes, tmp_path: Path) -> None:
        folder, log = tmp_path / "stage", list[str]()
        run_stage(folder, {}, OUT, write("one"))
        (folder / "out.txt").write_bytes(damage)
        assert run_stage(folder, {}, OUT, write("one"), log.append)
        assert (folder / "out.txt").read_text() == "one"
        assert (folder / "out.txt.changed-1").read_bytes() == damage
        assert "out.txt was changed or damaged" in log[0]
        assert not run_stage(folder, {}, OUT, write("one"))

    def test_a_deleted_output_is_made_again(self, tmp_path: Path) -> None:
        folder, log = tmp_path / "stage", list[str]()
        for _ in range(2):
            assert run_stage(folder, {}, OUT, write("one"), log.append)
            (folder / "out.txt").unlink()
        assert log == ["out.txt was deleted; made anew"]

    def test_every_flipped_bit_of_a_record_is_noticed(self, tmp_path: Path) -> None:
        folder = tmp_path / "stage"
        run_stage(folder, {"name": "ñ"}, OUT, write("one"))
        content = (folder / "stage.json").read_bytes()
        for position in range(0, len(content), 3):
            for bit in (0, 5):
                damaged = bytearray(content)
                damaged[position] ^= 1 << bit
                if json_equal(bytes(damaged), content):
                    continue  # white space, say
                (folder / "stage.json").write_bytes(damaged)
                assert run_stage(folder, {"name": "ñ"}, OUT, write("one")), (position, bit)
                assert (folder / "out.txt").read_text() == "one"
        assert not run_stage(folder, {"name": "ñ"}, OUT, write("one"))

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"digest": "x"}', "null", None])
    def test_files_without_a_readable_record_are_kept_and_made_anew(self, content: str | None, tmp_path: Path) -> None:
        folder, log = tmp_path / "stage", list[str]()
        run_stage(folder, {}, OUT, write("one"))
        (folder / "stage.json").unlink()
        if content is not None:
            (folder / "stage.json").write_text(content)
        assert run_stage(folder, {}, OUT, write("two"), log.append)
        assert (folder / "out.txt").read_text() == "two"
        assert (tmp_path / "stage.damaged-1" / "out.txt").read_text() == "one"
        assert "stage.damaged-1" in log[0]

    def test_a_record_names_no_path(self, tmp_path: Path) -> None:
        """Though its own digest is right: anybody can make one."""
        from aradals._internal.json_files import save_sealed

        folder = tmp_path / "in" / "stage"
        run_stage(folder, {}, OUT, write("one"))
        save_sealed(folder / "stage.json", {"digest": "/../../../elsewhere", "inputs": {}, "outputs": {}})
        run_stage(folder, {}, OUT, write("one"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
        assert sorted(path.name for path in folder.parent.iterdir()) == ["stage", "stage.damaged-1"]


def json_equal(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_an_interrupted_stage_finds_its_unfinished_files(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    def goes_on(folder: Path) -> None:
        assert (folder / "half.txt").read_text() == "half"
        (folder / "out.txt").write_text("done")

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "stage", {"a": 1}, OUT, interrupted)
    assert run_stage(tmp_path / "stage", {"a": 1}, OUT, goes_on)


def test_a_folder_of_other_peoples_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="empty folder"):
        run_stage(tmp_path, {}, OUT, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


class TestProbe:
    LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])

    def test_rounding_of_another_processor_changes_nothing(self, tmp_path: Path) -> None:
        run_stage(tmp_path / "stage", {}, OUT, write("one"), probe=self.LOGITS)
        assert not run_stage(tmp_path / "stage", {}, OUT, write("two"), probe=self.LOGITS * 1.001)

    @pytest.mark.parametrize("other", [LOGITS * 1.1, LOGITS.flip(0), LOGITS[:1], torch.full_like(LOGITS, torch.nan)])
    def test_other_outputs_are_other_work(self, other: torch.Tensor, tmp_path: Path) -> None:
        log: list[str] = []
        run_stage(tmp_path / "stage", {}, OUT, write("one"), probe=self.LOGITS)
        assert run_stage(tmp_path / "stage", {}, OUT, write("two"), log.append, probe=other)
        assert (tmp_path / "stage.other-outputs-1" / "out.txt").read_text() == "one"
        assert "other outputs" in log[0]

    @pytest.mark.parametrize("before", [None, "text", [[1, 2], [3]], [], {"a": 1}])
    def test_a_record_without_one_is_of_other_work(self, before: object) -> None:
        assert not same_outputs(before, self.LOGITS)


HOLD = """
import sys
from pathlib import Path
from aradals.pipeline.stage import locked
with locked(Path(sys.argv[1]), is_folder=sys.argv[2] == "folder"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_one_run_at_a_time_and_death_releases(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    command = [sys.executable, "-c", HOLD, str(path), kind]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="no other run"), locked(path, is_folder=kind == "folder"):
        pass
    other.kill()
    other.communicate()
    with locked(path, is_folder=kind == "folder"), locked(path, is_folder=kind == "folder"):
        pass  # also the second time in one thread
    if kind == "file":
        assert list(tmp_path.iterdir()) == []


LITTER = (".results.json.x1y2.aradals-partial", "seed-0/train/.model.pt.abcd.aradals-partial")


def test_what_killed_writes_have_left_is_removed(tmp_path: Path) -> None:
    litter = [tmp_path / "out" / name for name in LITTER]
    kept = [
        tmp_path / "out" / name
        for name in ("results.json", ".my.partial", "my.aradals-partial", "seed-0/train/.hidden")
    ]
    for path in (*litter, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with locked(tmp_path / "out"):
        assert not any(path.exists() for path in litter)
        assert all(path.exists() for path in kept)

    for name in (".scores.parquet.x1.aradals-partial", ".other.parquet.x1.aradals-partial"):
        (tmp_path / name).touch()
    with locked(tmp_path / "scores.parquet", is_folder=False):
        assert {path.name for path in tmp_path.glob(".*-partial")} == {".other.parquet.x1.aradals-partial"}


def test_what_another_process_is_writing_is_not_removed(tmp_path: Path) -> None:
    """Two commands may write into one folder: a table that one writes lies in the folder of the other's study."""
    program = """
import sys
from pathlib import Path
from aradals._internal.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("whole")
    print("writing", flush=True)
    sys.stdin.readline()
"""
    path = tmp_path / "out" / "table.txt"
    command = [sys.executable, "-c", program, str(path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "writing\n"
    with locked(tmp_path / "out"), locked(path, is_folder=False):
        other.communicate("\n")
    assert (other.returncode, path.read_text()) == (0, "whole")
    assert [each.name for each in path.parent.iterdir()] == ["table.txt"]


@pytest.mark.parametrize("name", [".lock", ".writable", ".aradals-lock", ".out.parquet.lock", ".notes.partial"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_lock_touches_nothing_of_others(name: str, kind: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    if kind == "link":
        (folder / name).symlink_to(precious)
    elif name != ".aradals-lock":  # of nobody else
        (folder / name).write_text("mine")
    before = {path.name: path.read_text() for path in folder.iterdir()}
    for path, is_folder in ((folder, True), (folder / "out.parquet", False)):
        with suppress(OSError, InputError), locked(path, is_folder=is_folder):
            pass
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert precious.read_text() == "precious"


def test_links_in_a_stage_folder_lead_nowhere(tmp_path: Path) -> None:
    """A folder may come from somebody else, with links to the files of whoever runs the study on."""
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    folder = tmp_path / "stage"
    assert run_stage(folder, {"a": 1}, OUT, write("made"))
    (folder / "out.txt").unlink()
    for name in ("out.txt", ".resume"):
        (folder / name).symlink_to(precious)

    def make(folder: Path) -> None:
        for name in ("out.txt", ".resume"):
            (folder / name).write_text("made")

    log: list[str] = []
    assert run_stage(folder, {"a": 1}, ["out.txt"], make, log.append)
    assert precious.read_text() == "precious"
    assert (folder / "out.txt").read_text() == "made"
    assert not (folder / "out.txt").is_symlink()
    assert "out.txt is a link, and is kept in out.txt.link-1" in log

    (folder / "stage.json").unlink()
    (folder / "stage.json").symlink_to(precious)
    assert run_stage(folder, {"a": 1}, OUT, write("made"))
    assert precious.read_text() == "precious"


def test_a_kill_before_the_first_file_hides_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    assert run_stage(folder, {"a": 1}, OUT, write("made"))
    assert run_stage(folder, {"a": 2}, OUT, write("made"))
    (folder / "stage.json").unlink()
    (folder / "out.txt").unlink()
    assert not run_stage(folder, {"a": 1}, OUT, write("made"))


def test_only_stages_are_removed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for value in (1, 2):
        run_stage(work / "scores", {"a": value}, OUT, write("made"))
    run_stage(work / "other", {"a": 1}, OUT, write("made"))
    (work / "thesis.txt").write_text("mine")
    remove_stages(work, ["scores"])
    assert {path.name for path in work.iterdir()} == {"other", "thesis.txt"}
    (work / "thesis.txt").unlink()
    remove_stages(work, ["other"])
    assert not work.exists()


def test_work_that_another_version_has_begun_is_told(tmp_path: Path) -> None:
    """It goes on, because it may have cost a week, and its record names both versions."""

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    stage, log = tmp_path / "stage", list[str]()
    with suppress(KeyboardInterrupt):
        run_stage(stage, {"a": 1}, OUT, interrupted)
    record = load_sealed(stage / "stage.json")
    now = record["versions"]["torch"]
    save_sealed(stage / "stage.json", {**record, "versions": {**record["versions"], "torch": "2.1.0"}})
    run_stage(stage, {"a": 1}, OUT, write("x"), log.append)
    assert log == [f"started before, goes on; made with torch 2.1.0 instead of {now}"]
    assert load_sealed(stage / "stage.json")["versions"]["torch"] == f"2.1.0 and {now}"
    check = check_versions([stage])
    assert check.reason == f"stage: torch 2.1.0 and {now} instead of {now}"


def test_other_inputs_are_refused_where_nothing_may_be_replaced(tmp_path: Path) -> None:
    changes: list[str] = []
    run_stage(tmp_path / "stage", {"a": 1}, OUT, write("one"))
    with pytest.raises(InputError, match="--overwrite, which keeps them under another name"):
        run_stage(tmp_path / "stage", {"a": 2}, OUT, write("two"), replace=False)
    assert not run_stage(tmp_path / "stage", {"a": 1}, OUT, write("two"), before_change=lambda: changes.append("no"))
    assert changes == []
    assert run_stage(tmp_path / "stage", {"a": 2}, OUT, write("two"), before_change=lambda: changes.append("yes"))
    assert changes
