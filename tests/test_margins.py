from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from aradals.attacks import first_order_margin
from aradals.errors import InputError
from aradals.margins import class_margin, linear_distance


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 7)), elements=st.floats(-50, 50)))
def test_class_margin_is_the_gap_between_the_two_largest(values: np.ndarray) -> None:
    logits = torch.from_numpy(values)
    margin, predicted, runner_up = class_margin(logits)
    largest, second = np.sort(values, axis=1)[:, -1], np.sort(values, axis=1)[:, -2]
    np.testing.assert_array_equal(margin, largest - second)
    assert torch.equal(predicted, logits.argmax(1))
    assert (predicted != runner_up).all()
    np.testing.assert_array_equal(logits.gather(1, runner_up[:, None])[:, 0], second)


def test_class_margin_of_an_overtaken_class() -> None:
    margin, _, runner_up = class_margin(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([2]))
    assert margin.item() == -2
    assert runner_up.item() == 1


def test_first_order_margin_of_a_linear_model() -> None:
    linear = nn.Linear(4, 2)
    model = nn.Sequential(nn.Flatten(), linear)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]]))
        linear.bias.copy_(torch.tensor([1.0, 0.0]))
    result = first_order_margin(model, torch.tensor([[[0.5, 0.25], [0.0, 1.0]]]))
    score, predicted = result.score, result.predicted
    torch.testing.assert_close(score, torch.tensor([(2.5 - 1.0) / 5]))
    assert predicted.tolist() == [0]


def test_first_order_margin_works_without_gradients_of_the_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).requires_grad_(False)
    inputs = torch.rand(4, 3)
    with torch.inference_mode():
        score = first_order_margin(model, inputs).score
    assert (score > 0).all()
    assert model[1].training
    assert torch.equal(score, first_order_margin(model, inputs).score)


def test_linear_distance_is_finite() -> None:
    margin = torch.tensor([1.0, 1.0, 0.0, 3.0])
    gradient = torch.tensor([[0.0, 0.0], [1e-15, 0.0], [0.0, 0.0], [0.0, 6.0]])
    expected = torch.tensor([0.0, 2**0.5, 0.0, 0.5])
    torch.testing.assert_close(linear_distance(margin, gradient), expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), "/ 255"),
        (torch.full((2, 3), 1.5), "values from 1.5 to 1.5"),
        (torch.tensor([[0.5, torch.nan, 0.1]]), r"in \[0, 1\]"),
        (torch.zeros(3), "a batch"),
        (torch.zeros(0, 3), "N >= 1"),
    ],
)
def test_bad_inputs(inputs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        first_order_margin(nn.Linear(3, 2), inputs)


def test_rounding_outside_the_box_is_forgiven() -> None:
    score = first_order_margin(nn.Linear(3, 2), torch.tensor([[-5e-7, 0.5, 1 + 5e-7]])).score
    assert score.isfinite().all()
