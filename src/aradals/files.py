"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aradals.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place on success: a reader never sees half a file.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes files for the owner alone; results are to be shared like any other file.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def unwritable(path: Path, error: OSError) -> InputError:
    """The error for an output that cannot be written."""
    return InputError(
        expected=f"a writable output {path}",
        got=error.strerror or type(error).__name__,
        hint="another --output",
    )


def ensure_writable(folder: Path) -> None:
    """Make ``folder`` and write a file into it, to fail before hours of work rather than after.

    Raises:
        InputError: that is not possible.
    """
    with atomic_path(folder / ".writable") as probe:
        probe.write_text("", encoding="utf-8")
    (folder / ".writable").unlink()
