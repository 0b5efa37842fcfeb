"""Fitting and evaluating on the same examples is refused, whatever the files are called."""

from __future__ import annotations

import pytest
import torch

from aradals import InputError
from aradals.data import Examples
from aradals.pipeline.leakage import refuse_fitted


def examples(inputs: torch.Tensor, name: str) -> Examples:
    return Examples(inputs, torch.zeros(len(inputs), dtype=torch.int64), num_classes=2, name=name)


def test_refused_under_another_name_and_order() -> None:
    inputs = torch.randint(256, (100, 1, 4, 4), dtype=torch.uint8)
    fitted = examples(inputs, "calibration")
    with pytest.raises(InputError, match="copy, with 50 of 50 examples from its fit"):
        refuse_fitted(fitted.hashes, examples(inputs.flip(0)[:50], "copy"), what="the calibrator")


def test_a_stray_duplicate_is_let_through() -> None:
    inputs = torch.randint(256, (300, 1, 4, 4), dtype=torch.uint8)
    evaluated = torch.cat([inputs[:2], torch.randint(256, (200, 1, 4, 4), dtype=torch.uint8)])
    refuse_fitted(examples(inputs, "a").hashes, examples(evaluated, "b"), what="the calibrator")
