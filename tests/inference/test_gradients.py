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
from aradals.geometry import linear_distance, project_to_plane
from aradals.inference.gradients import class_margin


@settings(max_examples=50)
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
    expected = torch.tensor([0.0, 0.0, 0.0, 0.5])  # the second would be far outside the box
    torch.testing.assert_close(linear_distance(margin, gradient), expected)


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.01, 0.99))
def test_projection_is_the_shortest_step_in_the_box(seed: int, num_features: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, num_features, dtype=torch.float64, generator=generator)
    x[:, ::3] = x[:, ::3].round()
    gradient = torch.randn(1, num_features, dtype=torch.float64, generator=generator)
    corner = torch.where(gradient > 0, -x, 1 - x)  # the step in the box that lowers the margin most
    margin = -share * (gradient * corner).sum(1)
    delta, reachable = project_to_plane(x, gradient, margin)
    if margin.item() > 0:
        assert reachable.all()
        torch.testing.assert_close((gradient * delta).sum(1), -margin, rtol=1e-3, atol=0)
    assert (x + delta).min() >= 0
    assert (x + delta).max() <= 1
    # Optimal: no other step in the box that reaches the plane is shorter, whatever the direction.
    for _ in range(20):
        other = (torch.rand_like(x) - x) * (torch.rand_like(x) < 0.5)
        drop = -(gradient * other).sum(1)
        if drop > margin > 0:
            assert other.norm() * (margin / drop).item() >= delta.norm() * (1 - 1e-3)


def test_projection_does_not_depend_on_the_batch() -> None:
    """Slopes of many magnitudes: the step that is good enough and the exact one differ by per cents."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 40, dtype=torch.float64, generator=generator) ** 4
    gradient = torch.randn(200, 40, dtype=torch.float64, generator=generator)
    gradient *= 10 ** (2 * torch.randn(200, 40, dtype=torch.float64, generator=generator))
    margin = torch.rand(200, dtype=torch.float64, generator=generator) * gradient.abs().sum(1) / 2
    together, _ = project_to_plane(x, gradient, margin)
    alone = [project_to_plane(x[[i]], gradient[[i]], margin[[i]])[0] for i in range(len(x))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-12)


def test_projection_says_where_the_box_ends_before_the_plane() -> None:
    x, gradient = (
        torch.tensor([[0.25, 0.5], [0.25, 0.5], [0.5, 0.5]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]),
    )
    delta, reachable = project_to_plane(x, gradient, torch.tensor([0.2, 0.5, 0.1]))
    assert reachable.tolist() == [True, False, False]
    torch.testing.assert_close(delta, torch.tensor([[-0.2, 0.0], [-0.25, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), "/ 255"),
        (torch.full((2, 3), 1.5), "values from 1.5 to 1.5"),
        (torch.tensor([[0.5, torch.nan, 0.1]]), r"in \[0, 1\]"),
        (torch.zeros(3), r"inputs\[None\]"),
        (torch.zeros(0, 3), "N >= 1"),
    ],
)
def test_bad_inputs(inputs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        first_order_margin(nn.Linear(3, 2), inputs)


def test_rounding_outside_the_box_is_forgiven() -> None:
    score = first_order_margin(nn.Linear(3, 2), torch.tensor([[-5e-7, 0.5, 1 + 5e-7]])).score
    assert score.isfinite().all()
