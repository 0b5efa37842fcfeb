"""The one kind of error that bad input raises."""


class InputError(ValueError):
    """Something that the caller gave cannot be used.

    Says in one line what was expected, what came instead, and what to try.
    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, *, expected: str, got: str, hint: str) -> None:
        super().__init__(f"expected {expected}, got {got}; try {hint}")


class MissingExtraError(ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}; try: pip install 'ar-adals[{extra}]'")
