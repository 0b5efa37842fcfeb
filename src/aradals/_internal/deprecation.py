"""Warnings about something that still works and will go: docs/versions.md has the policy."""

from __future__ import annotations

import warnings


def warn_deprecated(what: str, *, removal: str, instead: str, stacklevel: int = 2) -> None:
    """Warn that something will go, with the version in which it goes and with what replaces it.

    Args:
        what: sentence about what is deprecated, without its period.
        removal: version in which it goes, such as "1.0". A test fails once the package has this version.
        instead: what to write instead.
        stacklevel: 1 names the line that calls this function, 2 the line that calls its caller.
    """
    warnings.warn(f"{what}, and version {removal} will not read it any more; {instead}", stacklevel=stacklevel + 1)
