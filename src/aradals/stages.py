"""A stage: a folder made from its inputs, and made only once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from aradals.artifacts import SCHEMA_VERSION, load_json, save_json, settings_digest
from aradals.errors import OutputError

_RECORD = "stage.json"


def run_stage(
    folder: Path,
    inputs: Mapping[str, object],
    make: Callable[[Path], None],
    log: Callable[[str], None] = lambda line: None,
) -> bool:
    """Fill ``folder`` by ``make(folder)`` unless it was filled before from the same inputs.

    The record of the inputs is written before the work and closed after it. So a stage that was interrupted is
    called again with its unfinished files in place, and may go on from them; and a stage whose inputs have changed
    starts from an empty folder.

    Args:
        folder: the stage's own; nothing else lives in it.
        inputs: JSON-able; settings, and digests of the files that the stage reads.
        make: writes the outputs.
        log: told when the stage is skipped.

    Returns:
        Whether ``make`` was called.
    """
    record = folder / _RECORD
    digest = settings_digest({**inputs, "schema": SCHEMA_VERSION})
    before = load_json(record) if record.exists() else None
    if before is not None and before["digest"] == digest:
        if before["outputs"] and all((folder / name).exists() for name in before["outputs"]):
            log("done before, inputs unchanged")
            return False
        log("started before, goes on")
    elif before is not None:
        shutil.rmtree(folder)
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise OutputError(
            expected=f"an empty folder {folder}, or one that an earlier run has made",
            got="other people's files",
            hint="another --output",
        )
    save_json(record, {"digest": digest, "inputs": inputs, "outputs": []})
    make(folder)
    # A state of a training that was set aside is no output: it may be thrown away.
    outputs = sorted(
        path.name
        for path in folder.iterdir()
        if path != record and not path.name.startswith(".") and ".unreadable" not in path.name
    )
    save_json(record, {"digest": digest, "inputs": inputs, "outputs": outputs})
    return True
