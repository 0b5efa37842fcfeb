"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from aradals.errors import MissingExtraError


def load_extra(module: str, package: str | None = None) -> Any:
    """Import ``module`` of the extra ``data``.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package or module.partition(".")[0], "data") from error
