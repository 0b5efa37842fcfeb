"""What a command may write to: nothing that it reads, nobody else's files, and nothing that another run writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aradals._internal.files import check_target, set_aside
from aradals.data import data_paths
from aradals.errors import InputError
from aradals.pipeline.stage import locked

_HTML_HEAD = 2000
_MARK = ".aradals"


def input_paths(*sources: Path | str | None) -> list[Path]:
    """List the files and folders on this machine that a command reads: paths, data sets, and ``file.py:callable``."""
    found: list[Path] = []
    for source in sources:
        if isinstance(source, Path):
            found.append(source)
        elif source is not None:
            found += data_paths(source.rpartition(":")[0] if ".py:" in source else source)
    return found


@contextmanager
def work_folder(folder: str | Path | None) -> Iterator[Path]:
    """Give a folder for unfinished work: the one of that name, or one that is removed after the block."""
    if folder is not None:
        yield Path(folder)
        return
    with TemporaryDirectory() as temporary:
        yield Path(temporary)


@contextmanager
def output_folder(
    folder: Path,
    names: Sequence[str] = (),
    *,
    kinds: Sequence[str] = (),
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Iterator[None]:
    """Hold a folder for writing: the block is its only writer.

    In a folder where an earlier block has ended, a file of one of the names that cannot be read as ours was damaged: it
    is renamed, and the log says so.

    Args:
        folder: made where it does not exist.
        names: files that the block will write there.
        kinds: of the results among them, see `describe_file`; those of another command are renamed, too.
        inputs: files and folders that are read.
        overwrite: replace files of these names that are not ours.
        log: told which files were renamed.

    Raises:
        InputError: the folder or one of the files is an input, or somebody else's; another run is writing there.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(expected=f"a folder, or nothing, at {folder}", got="a file", hint="another --output")
    inputs = list(inputs)
    _refuse_inputs(folder, inputs)
    for name in names:
        _refuse_inputs(folder / name, inputs)
    kinds = (*kinds, "report", "table")
    if not (folder / _MARK).exists():
        for name in names:
            _refuse_foreign(folder / name, kinds, overwrite)
    with locked(folder):
        for name in names:
            check_target(folder / name)
            if (folder / name).exists() and describe_file(folder / name).get("kind") not in kinds:
                aside = set_aside(folder / name, "changed")
                log(f"{name} is of another command, or was changed or damaged, and is kept in {aside.name}")
        yield
        if not names:
            return
        # Never through a link, which somebody else may have put there.
        with suppress(FileExistsError), (folder / _MARK).open("xb") as file:
            file.write(b"Files in this folder are written and replaced by ar-adals.\n")


@contextmanager
def output_file(
    path: Path, suffix: str, kind: str, *, inputs: Iterable[Path] = (), overwrite: bool = False
) -> Iterator[None]:
    """Hold a file for writing: the block is its only writer.

    Args:
        path: of the file.
        suffix: that it must have, such as ``.parquet``.
        kind: of the file, see `describe_file`; a file of another kind is not replaced.
        inputs: files and folders that are read.
        overwrite: replace any file.

    Raises:
        InputError: another suffix; the file is an input, or somebody else's; another run is writing it.
    """
    if path.suffix != suffix or path.is_dir():
        hint = path / f"{kind}{suffix}" if path.is_dir() else path.with_suffix(suffix)
        raise InputError(expected=f"--output FILE{suffix}", got=str(path), hint=str(hint))
    _refuse_inputs(path, inputs)
    _refuse_foreign(path, (kind,), overwrite)
    with locked(path, is_folder=False):
        yield


def refuse_other_request(path: Path, request: str, *, overwrite: bool) -> bool:
    """Whether ``path`` holds what is asked for already.

    Args:
        path: of an output.
        request: digest of everything that decides its content.
        overwrite: replace what other settings have made.

    Raises:
        InputError: other settings have made it.
    """
    if overwrite or not path.exists():
        return False
    if describe_file(path).get("request") == request:
        return True
    raise InputError(
        expected=f"nothing at {path}, or what the same data, model and settings have made",
        got="a file that was made from others",
        hint="another --output, or --overwrite to replace it",
    )


def describe_file(path: Path) -> dict[str, Any]:
    """Read the description in a file of this package: at least its ``kind``; empty for other files.

    Kinds are scores, predictions, table, corrupted, calibrator and report, and those of results: study, studies,
    evaluation and diagnosis.
    """
    with suppress(Exception):  # somebody else's file may be anything
        if path.suffix == ".parquet":
            import pyarrow.parquet

            metadata = pyarrow.parquet.read_schema(path).metadata or {}
            return dict(json.loads(metadata[b"aradals"]))
        if path.suffix == ".csv":
            return describe_file(path.with_suffix(".parquet"))
        if path.suffix == ".html":
            with path.open("rb") as file:
                return {"kind": "report"} if b'name="generator" content="ar-adals"' in file.read(_HTML_HEAD) else {}
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            if "fitted_on" in content:
                return {"kind": "calibrator", "request": content["fitted_on"].get("request")}
            return {"kind": content["kind"]} if {"schema", "kind"} <= content.keys() else {}
    return {}


def _refuse_inputs(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write to what is read: the same file or folder, or anything in a folder of inputs.

    The next command would read what this one has written there.
    """
    for each in inputs:
        same = path.exists() and each.exists() and path.samefile(each)
        if same or (each.is_dir() and path.resolve().is_relative_to(each.resolve())):
            raise InputError(
                expected="an --output that is no input",
                got=f"{path}, which is read" if same else f"{path}, which lies in {each} and would be read",
                hint="another --output",
            )


def _refuse_foreign(path: Path, kinds: Sequence[str], overwrite: bool) -> None:
    check_target(path)
    if overwrite or not path.exists():
        return
    if describe_file(path).get("kind") not in kinds:
        raise InputError(
            expected=f"nothing at {path}, or a file that an earlier run has written there",
            got="another file",
            hint="another --output, or --overwrite to replace it",
        )
