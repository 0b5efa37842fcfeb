"""ar-adals: find out where a classifier's confidence is wrong, train it to be right, and prove it.

The core (scores, subsets, adaptive targets, metrics, temperature) needs only torch and numpy. Training, data, reports
and the command line need extras: ``pip install 'ar-adals[all]'``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aradals.api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import torch and the core when a name is first used, so that the command line starts quickly."""
    if name == "__all__" or not name.startswith("__"):
        api = importlib.import_module("aradals.api")
        # The import has also bound the core's modules, such as `aradals.metrics`, to this one.
        for namespace in (api.__dict__, globals()):
            if name in namespace:
                value: object = namespace[name]
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("aradals.api").__all__})
