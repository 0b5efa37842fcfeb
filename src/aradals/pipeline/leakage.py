"""Nothing is judged on the examples that it was fitted on: refused by content, whatever the files are called."""

from __future__ import annotations

import numpy as np

from aradals.data import Examples, overlap
from aradals.errors import InputError

MAX_SHARED = 0.01
"""Public data sets hold a few exact duplicates across their splits; more than this share is a mistake."""


def refuse_fitted(fitted: np.ndarray, examples: Examples, *, what: str) -> None:
    """Refuse to judge ``what`` on examples that it was fitted on.

    Args:
        fitted: content hashes of the examples of the fit, uint64.
        examples: to be evaluated on.
        what: for the message, such as "the calibrator".

    Raises:
        InputError: more than 1 % of ``examples`` are among them.
    """
    refuse_fitted_hashes(fitted, examples.hashes, what=what, where=examples.name)


def refuse_fitted_hashes(fitted: np.ndarray, evaluated: np.ndarray, *, what: str, where: str) -> None:
    """Run the same check for examples with known hashes only (stored predictions)."""
    shared = overlap(fitted, evaluated)
    if shared > MAX_SHARED * len(evaluated):
        raise InputError(
            expected=f"examples that {what} was not fitted on",
            got=f"{where}, {shared} of whose {len(evaluated)} examples it was fitted on",
            hint="another --split or --data",
        )
