"""Handwritten digits that scikit-learn has built in."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from aradals._internal.optional import load_extra
from aradals.data.formats import Columns, OpenSplits, Rows, Split, no_columns, refuse_columns


def open_digits() -> OpenSplits:
    """Open the 1,797 handwritten digits of scikit-learn: 8x8, gray, 17 levels, as floats in [0, 1].

    Scikit-learn does not divide them into splits. In this package the test split has 800 of them, chosen at random but
    always the same, and the training split has the other 997.
    """
    order = np.random.default_rng(0).permutation(1797)
    return {
        "train": Split(partial(_read_digits, np.sort(order[800:])), partial(no_columns, "digits")),
        "test": Split(partial(_read_digits, np.sort(order[:800])), partial(no_columns, "digits")),
    }


def _read_digits(rows: npt.NDArray[np.int64], columns: Columns) -> Rows:
    refuse_columns(columns, "digits")
    digits = load_extra("sklearn.datasets").load_digits()
    return Rows((digits.images[rows, None] / 16).astype(np.float32), digits.target[rows].astype(np.int64))
