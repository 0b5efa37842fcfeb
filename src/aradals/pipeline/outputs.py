"""Safe outputs: no command writes to its inputs, to files of other programs, or to files that another run writes."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aradals._internal.files import check_target, file_digest, set_aside
from aradals._internal.optional import load_extra
from aradals.data import data_paths
from aradals.errors import InputError
from aradals.pipeline.stage import locked
from aradals.results.records import Results

_HTML_HEAD = 2000
_REPORT = re.compile(rb'<meta name="generator" content="ar-adals">\s<meta name="request" content="(\w*)">')
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
    """Yield a folder for unfinished work: the given one, or a temporary one that is removed after the block.

    Raises:
        OutputError: another run is at work in the folder.
    """
    if folder is not None:
        with locked(Path(folder)):
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

    If an earlier block has ended in the folder, a file with one of the names that is not readable as a file of this
    package was damaged. This file is renamed, and the log says so.

    Args:
        folder: the folder, which is made if it does not exist.
        names: names of the files that the block will write into the folder.
        kinds: kinds of results among these files, see `describe_file`; results of another command are renamed, too.
        inputs: files and folders that are read.
        overwrite: replace files with these names that this package has not written.
        log: called with a line for each renamed file.

    Raises:
        InputError: the folder or one of the files is an input, or another program has made it; or another run is
            writing to the folder.
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
        # A link is never followed, because another user may have made it.
        with suppress(FileExistsError), (folder / _MARK).open("xb") as file:
            file.write(b"Files in this folder are written and replaced by ar-adals.\n")


@contextmanager
def output_file(
    path: Path, suffix: str, kind: str, *, inputs: Iterable[Path] = (), overwrite: bool = False
) -> Iterator[None]:
    """Hold a file for writing: the block is its only writer.

    Args:
        path: path of the file.
        suffix: required suffix, such as ``.parquet``.
        kind: kind of the file, see `describe_file`; a file of another kind is not replaced.
        inputs: files and folders that are read.
        overwrite: replace any file.

    Raises:
        InputError: the suffix is wrong; the file is an input, or another program has made it; or another run is writing
            it.
    """
    if path.suffix != suffix or path.is_dir():
        hint = path / f"{kind}{suffix}" if path.is_dir() else path.with_suffix(suffix)
        raise InputError(expected=f"--output FILE{suffix}", got=str(path), hint=str(hint))
    _refuse_inputs(path, inputs)
    _refuse_foreign(path, (kind,), overwrite)
    with locked(path, is_folder=False):
        yield


def refuse_other_request(path: Path, request: str, *, overwrite: bool) -> bool:
    """Return True if ``path`` contains the requested output already.

    Args:
        path: path of an output.
        request: digest of everything that decides the content of the output.
        overwrite: replace an output of other settings.

    Raises:
        InputError: other settings have made the output.
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


def check_weights(results: Results, folder: Path) -> None:
    """Refuse results of a study whose checkpoints have been replaced since.

    Args:
        results: results of one data set.
        folder: the folder of the study.

    Raises:
        InputError: a checkpoint in the folder is not the one that the results were made from.
    """
    for name, digest in results.weights.items() if results.kind == "study" else ():
        path = folder / name
        if path.is_file() and file_digest(path) != digest:
            raise InputError(
                expected=f"results of the weights in {path}",
                got="results of other weights",
                hint="running the study again, which makes the results of these weights",
            )


def describe_file(path: Path) -> dict[str, Any]:
    """Read the description in a file of this package: at least its ``kind``; empty for other files.

    The kinds are scores, predictions, table, corrupted, calibrator, report and export, and the kinds of results: study,
    studies, evaluation and diagnosis.
    """
    with suppress(Exception):  # a file of another program may contain anything
        if path.suffix == ".parquet":
            import pyarrow.parquet

            metadata = pyarrow.parquet.read_schema(path).metadata or {}
            return dict(json.loads(metadata[b"aradals"]))
        if path.suffix == ".csv":
            return describe_file(path.with_suffix(".parquet"))
        if path.suffix == ".html":
            with path.open("rb") as file:
                found = _REPORT.search(file.read(_HTML_HEAD))
            return {"kind": "report", "request": found[1].decode()} if found else {}
        if path.suffix == ".onnx":
            metadata = load_extra("onnx").load(path, load_external_data=False).metadata_props
            return next(dict(json.loads(each.value)) for each in metadata if each.key == "aradals")
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                [name] = (name for name in archive.namelist() if name.endswith("/extra/aradals.json"))
                return dict(json.loads(archive.read(name)))
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            if "fitted_on" in content:
                return {"kind": "calibrator", "request": content["fitted_on"].get("request")}
            known = {"kind": content["kind"], "request": content.get("request")}
            return known if {"schema", "kind"} <= content.keys() or known["kind"] == "export" else {}
    return {}


def _refuse_inputs(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write to an input: the same file or folder, or a path in a folder of inputs.

    Otherwise the next command would read the output of this one.
    """
    for each in inputs:
        same = path.exists() and each.exists() and path.samefile(each)
        if same or (each.is_dir() and path.resolve().is_relative_to(each.resolve())):
            raise InputError(
                expected="an --output that is not an input",
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
