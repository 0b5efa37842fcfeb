"""Errors that callers are expected to handle, and text that a terminal cannot mistake for commands."""

MAX_PART = 1000
"""Largest number of characters in each part of an error. A name from a file may be as long as the file."""


class _Picklable(Exception):
    """Error that another process can pass on, although its arguments are not those of its class."""

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[BaseException], args: tuple[object, ...]) -> BaseException:
    return kind.__new__(kind, *args)


class InputError(_Picklable, ValueError):
    """Error for input that cannot be used.

    The message is one line: what was expected, what came instead, and what to try.
    The command line prints the message without a traceback and exits with code 2.
    """

    def __init__(self, *, expected: str, got: str, hint: str) -> None:
        expected, got, hint = (_shortened(printable(part)) for part in (expected, got, hint))
        super().__init__(f"expected {expected}, got {got}; try {hint}")


class OutputError(InputError):
    """Error for a file or folder that cannot be written. All work stops, because no later result could be kept."""


class TrainingFailed(InputError):
    """Error for a training that failed or cannot succeed. Its model is of no use; other models are not affected.

    Attributes:
        reason: what went wrong and what to try, in one line.
        model: the name of the trained model; empty if the caller has not named it.
    """

    def __init__(self, reason: str, model: str = "") -> None:
        ValueError.__init__(self, f"{model}: {reason}" if model else reason)
        self.reason, self.model = reason, model


class RunsFailed(Exception):
    """Error for a study in which some runs failed. The results of all other runs are written; the exit code is 1."""


class MissingExtraError(_Picklable, ImportError):
    """Error for an optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}; try: pip install 'ar-adals[{extra}]'")


def printable(text: str) -> str:
    r"""Make text safe for a terminal: put it in one line, and escape the characters that control the terminal.

    Names from data and files may contain escape sequences, which move the cursor, set the title of the window or forge
    a link. They may also contain marks that reverse the direction of the text.

    >>> print(printable("first\nsecond \x1b[31mred \u202egnp.exe"))
    first second \x1b[31mred \u202egnp.exe
    """
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()


_JOINERS = "\u200c\u200d"
"""Characters that several scripts need; they have no direction and no width."""


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_PART else f"{text[: MAX_PART // 2]} … {text[-MAX_PART // 2 :]}"
