"""Files are written whole or not at all, through links, with their modes, and never over something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aradals import InputError
from aradals._internal.files import atomic_path, ensure_writable, set_aside


def write(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write(path, "old")
    with pytest.raises(TypeError), atomic_path(path) as temporary:
        temporary.write_text(4)  # type: ignore[arg-type]
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_the_temporary_file_is_on_the_same_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving from another one would be a copy over the old file."""
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    with atomic_path(tmp_path / "file.txt") as temporary:
        assert temporary.parent == tmp_path


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from aradals.errors import InputError
from aradals._internal.files import atomic_path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_path(Path(sys.argv[1])) as temporary:
        temporary.write_bytes(bytes(5000))
except InputError as error:
    print(error)
"""
    path = tmp_path / "file.txt"
    write(path, "old")
    ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert f"a writable output {path}" in ran.stdout
    assert "try freeing space, or another --output" in ran.stdout
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file.txt", "old")]


def test_modes_are_kept_and_new_files_follow_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    before = os.umask(0o027)
    try:
        write(path, "one")
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        write(path, "two")
        assert path.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(before)


@pytest.mark.parametrize("target", ["there.txt", "not-yet.txt", "folder/deep.txt"])
def test_links_are_followed(target: str, tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    write(link, "new")
    assert link.is_symlink()
    assert (tmp_path / target).read_text() == link.read_text() == "new"


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to a device"])
def test_nothing_but_files_is_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/null")
        case _:
            path.symlink_to("/dev/full")
    before = path.stat()
    with pytest.raises(InputError, match=f"a file, or nothing, at .* a {kind.split()[-1]}"):
        write(path, "x")
    assert path.stat().st_mode == before.st_mode
    assert len(list(tmp_path.iterdir())) == (kind != "device")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a writable output"):
        ensure_writable(tmp_path / "file" / "below")


def test_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write(path, "x")
    assert path.read_text() == "x"


def test_what_is_set_aside_never_replaces_anything(tmp_path: Path) -> None:
    names = []
    for number in range(3):
        (tmp_path / "a.json").write_text(str(number))
        names.append(set_aside(tmp_path / "a.json", "damaged").name)
    assert names == ["a.json.damaged-1", "a.json.damaged-2", "a.json.damaged-3"]
    assert [(tmp_path / name).read_text() for name in names] == ["0", "1", "2"]
