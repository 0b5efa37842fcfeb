"""Refusal to judge a model or calibrator on the examples that it was fitted on, by content, not by file name."""

from __future__ import annotations

import numpy as np

from aradals.data import Examples, overlap
from aradals.errors import InputError

MAX_SHARED = 0.01
"""Public data sets have a few exact duplicates across their splits; more than this share is a mistake."""


def refuse_fitted(fitted: np.ndarray, examples: Examples, *, what: str) -> None:
    """Refuse to judge ``what`` on examples that it was fitted on.

    Args:
        fitted: content hashes of the examples of the fit, uint64.
        examples: examples of the evaluation.
        what: name for the message, such as "the calibrator".

    Raises:
        InputError: more than 1 % of ``examples`` are among the fitted ones.
    """
    refuse_fitted_hashes(fitted, examples.hashes, what=what, where=examples.name)


def refuse_fitted_hashes(fitted: np.ndarray, evaluated: np.ndarray, *, what: str, where: str) -> None:
    """Run the same check for stored predictions, which have only the hashes of their examples."""
    shared = overlap(fitted, evaluated)
    if shared > MAX_SHARED * len(evaluated):
        raise InputError(
            expected=f"examples that {what} was not fitted on",
            got=f"{where}, with {shared} of {len(evaluated)} examples from its fit",
            hint="another --split or --data",
        )
