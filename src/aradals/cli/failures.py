"""One line for each error that is not a fault of this program."""

from __future__ import annotations

from collections.abc import Iterator

from aradals._internal.files import is_full
from aradals._internal.specs import exit_call
from aradals.errors import InputError, MissingExtraError

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory")


def describe(error: BaseException) -> str | None:
    """Write the line for ``error``; None for an error that only its traceback can explain."""
    for cause in filter(_is_lack_of_memory, _chain(error)):
        return str(
            InputError(
                expected="enough memory",
                got=f"less than needed ({_first_line(cause)})",
                hint="a smaller --limit, batch size or model",
            )
        )
    match error:
        case InputError() | MissingExtraError():
            return str(error)
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] != "aradals":
            return f"the command line needs {name}; try pip install 'ar-adals[all]'"
        case SystemExit():
            return str(
                InputError(
                    expected="the code of the model or of the objective to return",
                    got=f"its call of {exit_call(error)}",
                    hint="raising an exception there instead",
                )
            )
        case OSError():
            return str(
                InputError(
                    expected="files that can be read and written",
                    got=f"{error.strerror or _first_line(error)}{f': {error.filename}' if error.filename else ''}",
                    hint="freeing space, or another --output"
                    if is_full(error)
                    else "the same command after solving this problem",
                )
            )
    return None


def _is_lack_of_memory(error: BaseException) -> bool:
    """Return True if memory was short; torch raises a RuntimeError, and only its text gives the reason."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _NO_MEMORY)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error``, and the errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
