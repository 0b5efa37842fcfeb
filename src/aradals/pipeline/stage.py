"""Stages of work: each fills a folder from its inputs once, and later detects any change in the folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from aradals._internal.files import check_target, ensure_writable, file_digest, remove_partial_files, set_aside
from aradals._internal.json_files import load_sealed, save_sealed, settings_digest
from aradals.errors import InputError, OutputError
from aradals.inference.predictions import logit_size
from aradals.pipeline.artifacts import SCHEMA_VERSION, versions
from aradals.results.records import Check

_RECORD = "stage.json"
_LOCK = ".aradals-lock"


def run_stage(
    folder: Path,
    inputs: Mapping[str, object],
    outputs: Sequence[str],
    make: Callable[[Path], None],
    log: Callable[[str], None] = lambda line: None,
    *,
    probe: Tensor | None = None,
    replace: bool = True,
    before_change: Callable[[], None] = lambda: None,
) -> bool:
    """Fill ``folder`` by ``make(folder)``, unless it was filled before from the same inputs.

    ``stage.json`` in the folder records the inputs and the versions of all software before the work, and the digests of
    the outputs after it. So

    - an interrupted stage is called again with its unfinished files in place, and may continue from these files;
    - a folder from other inputs is renamed to ``<folder>.<digest of its inputs>``, and gets its name back when these
      inputs come back, so that a changed option loses nothing;
    - a changed, damaged or deleted output is detected: the rest of the file is renamed, and the output is made again;
    - files of other versions of the software are kept, because they may have cost a week. The log and
      `check_versions` say so.

    Args:
        folder: folder that only this stage uses.
        inputs: settings, and digests of all that the stage reads, as values for JSON.
        outputs: names of the files that ``make`` writes.
        make: function that writes the outputs.
        log: called with a line for work that is skipped, renamed or made again.
        probe: a few outputs of the model that the stage runs, shape (n, K). ``inputs`` contain the model's weights and
            code; the probe shows changes outside of them, such as those in other packages. Probes are compared within
            the tolerance that other processors and numbers of threads need, see `same_outputs`.
        replace: let this stage take the place of one from other inputs.
        before_change: function that is called before anything changes in the folder.

    Returns:
        True if ``make`` was called.

    Raises:
        OutputError: the folder contains files of other programs.
        InputError: the folder is from other inputs, and ``replace`` is False.
    """
    digest = settings_digest({**inputs, "schema": SCHEMA_VERSION})
    _set_aside_links(folder, log)
    record = _own_record(folder, outputs, log)
    if record is not None and record["digest"] != digest:
        if not replace:
            raise InputError(
                expected=f"nothing in {folder}, or what the same data, model and settings have made",
                got="files that were made from others",
                hint="another --output, or --overwrite, which keeps them under another name",
            )
        before_change()
        kept = folder.with_name(f"{folder.name}.{record['digest']}")
        if kept.exists():
            set_aside(kept, "replaced")
        os.rename(folder, kept)
        log(f"the inputs have changed; the earlier files are kept in {kept.name}")
        record = None
    earlier = folder.with_name(f"{folder.name}.{digest}")
    if record is None and earlier.is_dir() and not _holds_anything(folder):
        before_change()
        if folder.is_dir():  # a killed run had just made this folder
            folder.rmdir()
        os.rename(earlier, folder)
        log("the files that were made before from these inputs are back")
        record = _own_record(folder, outputs, log)
    before = record and record.get("probe")
    if before is not None and probe is not None and not same_outputs(before, probe):
        before_change()
        aside = set_aside(folder, "other-outputs")
        log(f"the model computes other outputs than before; the earlier files are kept in {aside.name}")
        record = None
    if record is not None and record["outputs"]:
        changed = [name for name in outputs if not _is_intact(folder / name, record["outputs"].get(name))]
        if not changed:
            log(f"done before, inputs unchanged{_made_with(record)}")
            return False
        before_change()
        for name in changed:
            log(f"{name} {_set_aside_changed(folder / name)}; made anew")
    elif record is not None:
        log(f"started before, goes on{_made_with(record)}")
    before_change()
    open_record = {
        "digest": digest,
        "inputs": inputs,
        "versions": _merged(record["versions"] if record else {}),
        "probe": None if probe is None else probe.tolist(),
    }
    save_sealed(folder / _RECORD, {**open_record, "outputs": {}})
    make(folder)
    save_sealed(folder / _RECORD, {**open_record, "outputs": {name: file_digest(folder / name) for name in outputs}})
    return True


def output_digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Read the digests of outputs that a finished stage has recorded, so that readers need not hash the files again.

    Raises:
        InputError: the stage is not finished, or has other outputs.
    """
    outputs = load_sealed(folder / _RECORD).get("outputs")
    if not isinstance(outputs, dict) or not all(isinstance(outputs.get(name), str) for name in names):
        raise InputError(
            expected=f"a finished stage in {folder} with {', '.join(names)}",
            got="a stage without these outputs",
            hint="running the stage that writes them first",
        )
    return {name: outputs[name] for name in names}


def check_versions(folders: Iterable[Path]) -> Check:
    """Ask whether stages were made with the versions of the software that runs now."""
    told = dict[str, list[str]]()
    for folder in folders:
        other = describe_other_versions(load_sealed(folder / _RECORD).get("versions", {}))
        if other:
            told.setdefault(other, []).append(folder.name)
    what = "all files were made with the versions of this run"
    if not told:
        return Check(what, "checked")
    return Check(what, reason="; ".join(f"{', '.join(names)}: {other}" for other, names in told.items()))


def describe_other_versions(made_with: Mapping[str, str]) -> str:
    """Describe the versions that differ from those of this run; empty if none does."""
    now = versions()
    changed = [name for name in now if made_with.get(name, now[name]) != now[name]]
    return ", ".join(f"{name} {made_with[name]} instead of {now[name]}" for name in changed)


def _made_with(record: Mapping[str, Any]) -> str:
    other = describe_other_versions(record["versions"])
    return f"; made with {other}" if other else ""


def _merged(made_with: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of this run, and beside them those that have begun the work."""
    now = versions()
    return now | {
        name: before if now.get(name, before) in before.split(" and ") else f"{before} and {now[name]}"
        for name, before in made_with.items()
    }


def remove_stages(folder: Path, names: Sequence[str]) -> None:
    """Remove the stages with these names in ``folder``, also the renamed ones, and keep all other files.

    ``folder`` is removed if it is empty afterwards.
    """
    for path in list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []:
        if path.name.partition(".")[0] in names and (path / _RECORD).is_file():
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def same_outputs(before: object, now: Tensor) -> bool:
    """Return True if a model computes the same as before, up to the rounding of other processors.

    TensorFloat-32 and other orders of summation change logits by some thousandths of their size, see `logit_size`.

    Args:
        before: nested list of numbers from a record.
        now: outputs now, shape (n, K).
    """
    try:
        then = torch.tensor(before, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return False
    if then.shape != now.shape:
        return False
    return bool(((then - now.double()).abs() <= 5e-3 * logit_size(now.double())).all())


@contextmanager
def locked(path: Path, *, is_folder: bool = True) -> Iterator[None]:
    """Keep other runs from writing to ``path`` until the block ends or this process dies.

    Files that killed writes have left are removed. A second lock of the same thread is part of the first.

    Args:
        path: a folder, or a file.
        is_folder: True if the path is a folder.

    Raises:
        OutputError: another run holds the lock, or the folder cannot be written to.
    """
    where = path / _LOCK if is_folder else path.with_name(f".{path.name}{_LOCK}")
    ensure_writable(where.parent)
    check_target(where)
    lock = FileLock(where, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(
            expected=f"no other run that writes to {path}",
            got="a run that is at work there now",
            hint="waiting until this run ends, or another --output",
        ) from error
    try:
        remove_partial_files(path)
        yield
    finally:
        if lock.lock_counter == 1:
            where.unlink(missing_ok=True)  # while the lock is held, so that no process locks a file without a name
        lock.release()


def _set_aside_links(folder: Path, log: Callable[[str], None]) -> None:
    """Rename the links in a stage folder, so that a stage writes only into its own folder."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if path.is_symlink():
            log(f"{path.name} is a link, and is kept in {set_aside(path, 'link').name}")


def _holds_anything(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _own_record(folder: Path, outputs: Sequence[str], log: Callable[[str], None]) -> dict[str, Any] | None:
    """Read the record of a stage folder; None if there is no record, or if it was damaged and is set aside."""
    record = folder / _RECORD
    if record.exists():
        try:
            content = load_sealed(record)
            # Text from a file becomes part of a path only if it has the form of a digest.
            made_with = content["versions"]
            if isinstance(content["outputs"], dict) and re.fullmatch("[0-9a-f]{16}", content["digest"]):
                return {**content, "versions": {str(name): str(found) for name, found in made_with.items()}}
        except (InputError, KeyError, TypeError, AttributeError):
            pass
        aside = set_aside(folder, "damaged")
        log(f"{_RECORD} is damaged or of an earlier version; the files are kept in {aside.name}, and made anew")
        return None
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    if found & set(outputs):
        aside = set_aside(folder, "damaged")
        log(f"{_RECORD} is gone; the files are kept in {aside.name}, and made anew")
    elif found:
        raise OutputError(
            expected=f"an empty folder {folder}, or one that an earlier run has made",
            got="files of other programs",
            hint="another --output",
        )
    return None


def _is_intact(path: Path, digest: object) -> bool:
    return path.is_file() and file_digest(path) == digest


def _set_aside_changed(path: Path) -> str:
    """Rename a changed output, and describe the change for the log."""
    if not path.exists():
        return "was deleted"
    return f"was changed or damaged, and is kept in {set_aside(path, 'changed').name}"
