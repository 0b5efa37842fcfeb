"""The errors that callers are expected to handle; bad input raises `InputError`."""


class InputError(ValueError):
    """Something that the caller gave cannot be used.

    Says in one line what was expected, what came instead, and what to try.
    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, *, expected: str, got: str, hint: str) -> None:
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
