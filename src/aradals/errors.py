"""The errors that callers are expected to handle, and text that a terminal cannot mistake for commands."""

MAX_PART = 1000
"""Characters of each part of an error: a name from a file may be as long as the file."""


class InputError(ValueError):
    """Something that the caller gave cannot be used.

    Says in one line what was expected, what came instead, and what to try.
    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, *, expected: str, got: str, hint: str) -> None:
        expected, got, hint = (_shortened(printable(part)) for part in (expected, got, hint))
        super().__init__(f"expected {expected}, got {got}; try {hint}")


class OutputError(InputError):
    """A file or folder cannot be written: nothing that follows could be kept, so all work stops."""


class TrainingFailed(InputError):
    """A training went wrong, or cannot go well: its model is of no use, but other models are not concerned.

    Attributes:
        reason: what went wrong, and what to try, in one line.
        model: the name of the model that was trained; empty where the caller has not named it.
    """

    def __init__(self, reason: str, model: str = "") -> None:
        ValueError.__init__(self, f"{model}: {reason}" if model else reason)
        self.reason, self.model = reason, model


class RunsFailed(Exception):
    """Some runs of a study failed; the results of all others are written. The command line exits with code 1."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}; try: pip install 'ar-adals[{extra}]'")


def printable(text: str) -> str:
    r"""Text for a terminal, in one line: characters that would steer the terminal are written as escapes.

    Names from data and files may hold escape sequences, which move the cursor, set the title of the window or forge a
    link, and marks that reverse the direction of the text.

    >>> print(printable("first\nsecond \x1b[31mred \u202egnp.exe"))
    first second \x1b[31mred \u202egnp.exe
    """
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()


_JOINERS = "\u200c\u200d"
"""Several scripts cannot be written without these; they have no direction and no width."""


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_PART else f"{text[: MAX_PART // 2]} … {text[-MAX_PART // 2 :]}"
