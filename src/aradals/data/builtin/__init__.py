"""Data sets that need no download: they come with this package or with scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aradals._internal.optional import load_extra
from aradals.data.formats import Columns, OpenSplits, Rows, Split, no_columns, refuse_columns
from aradals.data.table_files import open_parquet


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


def open_letter() -> OpenSplits:
    """Open Letter Recognition (Slate 1991): 20,000 rows of 16 whole numbers from 0 to 15, and the letters A to Z.

    The numbers are moments and edge counts of distorted printed letters. The rows have no splits, so that `splits.test`
    of a study decides how many of them are for the test.
    """
    return open_parquet([Path(__file__).with_name("letter.parquet")], "all")


BUILTIN: dict[str, Callable[[], OpenSplits]] = {"digits": open_digits, "letter": open_letter}
"""Built-in data sets by name."""
