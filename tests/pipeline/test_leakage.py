"""Fitting and evaluating on the same examples is refused, whatever the files are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aradals import InputError
from aradals.data import Examples
from aradals.pipeline.leakage import check_unseen


def examples(inputs: torch.Tensor, name: str) -> Examples:
    return Examples(inputs, torch.zeros(len(inputs), dtype=torch.int64), num_classes=2, name=name)


def test_refused_under_another_name_and_order() -> None:
    inputs = torch.randint(256, (100, 1, 4, 4), dtype=torch.uint8)
    fitted = examples(inputs, "calibration")
    with pytest.raises(InputError, match="copy, with 50 of 50 examples from its fit"):
        check_unseen(fitted.hashes, examples(inputs.flip(0)[:50], "copy").hashes, what="the calibrator", where="copy")


def test_a_stray_duplicate_is_let_through() -> None:
    inputs = torch.randint(256, (300, 1, 4, 4), dtype=torch.uint8)
    evaluated = torch.cat([inputs[:2], torch.randint(256, (200, 1, 4, 4), dtype=torch.uint8)])
    hashes = [examples(part, "a").hashes for part in (inputs, evaluated)]
    check = check_unseen(*hashes, what="the calibrator", where="b")
    assert (check.what, check.answer) == ("the calibrator was not fitted on b", "checked")


def test_unknown_examples_are_another_answer() -> None:
    known, unknown = np.arange(3, dtype=np.uint64), np.empty(0, np.uint64)
    for fitted, evaluated, reason in (
        (unknown, known, "the examples that the model was fitted on are not recorded"),
        (known, unknown, "b has no content hashes"),
    ):
        check = check_unseen(fitted, evaluated, what="the model", where="b")
        assert (check.answer, check.reason) == ("could not be checked", reason)
