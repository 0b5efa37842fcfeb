"""Safe output files: a reader never sees a half-written file, and a crash never loses an old file."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aradals.errors import OutputError

with suppress(ImportError):  # Windows has no fcntl. It does not need fcntl, because it does not remove open files.
    import fcntl

_PARTIAL = ".aradals-partial"
_MAX_PREFIX = 100


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block succeeds.

    The temporary file is in the same folder, so that it is on the same file system. It is written to the disk before it
    is renamed, so that a crash at any time leaves the old file or the new one. A symbolic link stays a link, and its
    target is replaced. An existing file keeps its mode.

    Raises:
        OutputError: ``path`` is not a file, or it cannot be written.
    """
    temporary: Path | None = None
    try:
        target = Path(os.path.realpath(path))
        check_target(target)
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_partial_prefix(target), suffix=_PARTIAL)
        temporary = Path(name)
        try:
            _is_held(handle)
            yield temporary
            temporary.chmod(mode)
            _sync(temporary)
        finally:
            os.close(handle)
        os.replace(temporary, target)
        with suppress(OSError):  # some file systems cannot sync a folder
            _sync(target.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_partial_files(path: Path) -> None:
    """Remove the temporary files of killed writes, for one file or for all files in a folder.

    Files that another process is writing stay, because a command may write within the folder of another command.
    """
    if path.is_dir():
        found = list(path.rglob(f".*{_PARTIAL}"))
    else:
        found = [each for each in path.parent.glob(f".*{_PARTIAL}") if each.name.startswith(_partial_prefix(path))]
    for each in found:
        with suppress(OSError):
            handle = os.open(each, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                if not _is_held(handle):
                    each.unlink()
            finally:
                os.close(handle)


def _is_held(handle: int) -> bool:
    """Return True if another process holds an open file; else hold it until this process closes ``handle`` or ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, NameError):  # Windows, or a file system without such locks, where no process holds a file
        return False
    return False


def set_aside(path: Path, why: str) -> Path:
    """Rename a file or folder that this package wrote but cannot use, and return its new path. Nothing is lost.

    Args:
        path: existing file or folder.
        why: one word for the new name, such as ``damaged``.
    """
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.{why}-{number}")):
        number += 1
    os.rename(path, aside)
    return aside


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, the first 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def bytes_digest(content: bytes | memoryview) -> str:
    """Compute the `file_digest` of a file with this content."""
    return hashlib.sha256(content).hexdigest()[:16]


def unwritable(path: Path, error: OSError) -> OutputError:
    """Make the error for an output that cannot be written."""
    return OutputError(
        expected=f"a writable output {path}",
        got=error.strerror or type(error).__name__,
        hint="freeing space, or another --output" if is_full(error) else "another --output",
    )


def is_full(error: OSError) -> bool:
    """Return True if the error means that a disk, a quota or a limit of file sizes is full."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return error.errno in full or any(os.strerror(code) in str(error) for code in full)  # Arrow gives only the text


def ensure_writable(folder: Path) -> None:
    """Make ``folder`` and write a file without a name into it, so that an error occurs before hours of work.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise unwritable(folder, error) from error


def _partial_prefix(path: Path) -> str:
    return f".{path.name[:_MAX_PREFIX]}."


def check_target(path: Path) -> None:
    """Check that a file can be written at ``path``.

    Raises:
        OutputError: ``path`` is a folder, a device, a pipe, a socket or a read-only file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(path, error) from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise OutputError(
            expected=f"a file, or nothing, at {path}",
            got=kinds.get(stat.S_IFMT(mode), "a device"),
            hint="another --output",
        )
    if not os.access(path, os.W_OK):
        raise OutputError(expected=f"a writable output {path}", got="a read-only file", hint="another --output")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync(path: Path) -> None:
    """Make the operating system write a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_SAFE_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,98}[a-z0-9_-])?")
_NUM_DIGITS = 16
_WITH_DIGEST = re.compile(rf"-[0-9a-f]{{{_NUM_DIGITS}}}$")


def file_name(text: str) -> str:
    """Make a short, harmless and unique file name from untrusted ``text``.

    Text that is such a name already stays as it is. Other text becomes a readable form with a digest of the text, so
    that two texts never share a file, even if a file system ignores case or normalizes Unicode.

    Returns:
        1 to 100 lower-case ASCII letters, digits, ``_``, ``.`` and ``-``; the first is neither ``.`` nor ``-``.

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
    """Make text safe for a cell of a CSV file, by an apostrophe before text that a spreadsheet would run as a formula.

    The caller must not pass numbers. Text that is a number stays as it is, too.

    >>> csv_text("=HYPERLINK(0)"), csv_text("vanilla"), csv_text("-1.5")
    ("'=HYPERLINK(0)", 'vanilla', '-1.5')
    """
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULAS) and not _NUMBER.fullmatch(text) else text


_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
