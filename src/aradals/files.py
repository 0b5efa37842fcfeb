"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import unicodedata
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
        probe.write_text("")
    (folder / ".writable").unlink()


_SAFE_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,98}[a-z0-9_-])?")
_NUM_DIGITS = 16
_WITH_DIGEST = re.compile(rf"-[0-9a-f]{{{_NUM_DIGITS}}}$")


def file_name(text: str) -> str:
    """The name of a file or folder for ``text``, which may be anybody's: short, harmless, and of no other text.

    Text that is such a name already stays as it is. All else becomes a readable form with a digest of the text, so that
    two texts never share a file, also where a file system ignores case or normalises Unicode.

    Returns:
        Lower-case ASCII letters, digits, ``_``, ``.`` and ``-``: 1 to 100 of them, neither ``.`` nor ``-`` first.

    >>> file_name("gaussian_noise")
    'gaussian_noise'
    >>> file_name("uoft-cs/cifar10")
    'uoft-cs-cifar10-e11c4d3edadc9263'
    """
    if _SAFE_NAME.fullmatch(text) and not _WITH_DIGEST.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_NUM_DIGITS]
    ascii_text = unicodedata.normalize("NFKD", text[:1000]).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9_.]+|\.\.+", "-", ascii_text)[: 99 - _NUM_DIGITS].strip("-.")
    return f"{readable or 'name'}-{digest}"


def csv_text(text: str) -> str:
    """Text for a cell of a CSV file, with an apostrophe before what a spreadsheet would take for a formula and run.

    Numbers are for the caller to leave alone. Text that is a number stays as it is, too.

    >>> csv_text("=HYPERLINK(0)"), csv_text("vanilla"), csv_text("-1.5")
    ("'=HYPERLINK(0)", 'vanilla', '-1.5')
    """
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULAS) and not _NUMBER.fullmatch(text) else text


_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
