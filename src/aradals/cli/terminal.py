"""The standard streams of a command: stdout gets the results after all files are written, stderr all other text."""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from aradals.errors import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

_results: list[str | RenderableType] = []


def print_result(*parts: str | RenderableType) -> None:
    """Print results to stdout after the command has done its work.

    Args:
        parts: text, which gets a newline, or tables and other objects that rich can print.
    """
    _results.extend(parts)


def print_log(line: str) -> None:
    """Print a line of progress to stderr; control characters of a terminal are shown as text.

    The line and its end are one write. Else the lines of several workers mix where stderr has no buffer.
    """
    print(f"{printable(line)}\n", end="", file=sys.stderr, flush=True)


def leave(code: int) -> NoReturn:
    """End the process without the shutdown of the interpreter.

    A signal may have left a library half loaded, because torch loads a part of itself at the first training. Python
    then aborts in its shutdown, with another exit status.
    """
    with suppress(Exception):
        atexit._run_exitfuncs()
    os._exit(code)


class StandardStreams:
    """Block in which stdout leads to stderr, and stderr cannot fail.

    User code often prints, and so do the programs that it calls. `write_results` writes to the stdout from before the
    block.
    """

    def __enter__(self) -> StandardStreams:
        _results.clear()
        _open_closed_descriptors()
        self._stdout, self._stderr = cast("TextIO | None", sys.stdout), cast("TextIO | None", sys.stderr)
        self._descriptor = _divert(self._stdout)
        self._null = open(os.devnull, "w", encoding="utf-8")
        sys.stdout = sys.stderr = cast(TextIO, _Unfailing(self._stderr or self._null))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore_stdout()
        sys.stdout, sys.stderr = cast(TextIO, self._stdout), cast(TextIO, self._stderr)
        self._null.close()
        _empty(self._stderr)

    def write_results(self) -> None:
        """Write the text given to `print_result`. A character that stdout cannot show becomes a question mark.

        Raises:
            OSError: stdout is closed or full, or it is a pipe that nobody reads.
        """
        self._restore_stdout()
        if not _results:
            return
        if self._stdout is None or self._stdout.closed:
            raise OSError(errno.EBADF, "stdout is closed")
        encoding = self._stdout.encoding or "utf-8"  # an io.StringIO has None
        text = "".join(_rendered(part, self._stdout) for part in _results)
        try:
            self._stdout.write(text.encode(encoding, "replace").decode(encoding))
            self._stdout.flush()
        finally:
            _results.clear()
            _empty(self._stdout)

    def _restore_stdout(self) -> None:
        if self._descriptor is not None:
            os.dup2(self._descriptor, 1)
            os.close(self._descriptor)
            self._descriptor = None


class _Unfailing:
    """Stream that drops text that cannot be written, because a lost log must not end the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _rendered(part: str | RenderableType, stream: TextIO) -> str:
    """Render with the width, the colors and the box characters of the terminal behind ``stream``."""
    if isinstance(part, str):
        return part + "\n"
    from rich.console import Console

    console = Console(file=stream)
    with console.capture() as captured:
        console.print(part)
    return captured.get()


def _open_closed_descriptors() -> None:
    """Open the null device for closed descriptors 0, 1 and 2; else the next file gets the number, and text."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(null, True)  # so that workers have the descriptor, too


def _divert(stdout: TextIO | None) -> int | None:
    """Make descriptor 1 lead to the target of descriptor 2, if ``stdout`` uses descriptor 1.

    Returns:
        A descriptor that leads to the former target of descriptor 1.
    """
    try:
        if stdout is None or stdout.fileno() != 1:
            return None
        stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError):  # stdout is no file, or a file that is full or closed
        return None
    return kept


def _empty(stream: TextIO | None) -> None:
    """Drop text that a stream could not write, because Python would try again at its exit, and fail."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
            stream.flush()
