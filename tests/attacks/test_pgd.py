from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from attack_problems import Constant, Ring, linear_problem, linf_problem, trained_digits
from foolbox.attacks.projected_gradient_descent import L2ProjectedGradientDescentAttack
from foolbox.models.pytorch import PyTorchModel
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from aradals.attacks import first_order_margin, pgd
from aradals.errors import InputError
from aradals.geometry import project_to_ball


def exact_norm(points: Tensor, norm_order: float) -> Tensor:
    """Norm of each point, in which no square overflows or vanishes."""
    norm = math.hypot if norm_order == 2 else lambda *values: max(map(abs, values))
    return torch.tensor([norm(*row) for row in points.flatten(1).tolist()], dtype=torch.float64)


@settings(max_examples=100)
@example(np.array([[[9e-183, 9e-183]]]), 0.0, 2)
@example(np.array([[[5e-324, 0.0]]]), 0.0, 2)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), elements=st.floats(-5, 5)),
    st.floats(0, 10),
    st.sampled_from([2, math.inf]),
)
def test_projection(values: np.ndarray, radius: float, norm_order: float) -> None:
    delta = torch.from_numpy(values)
    radii = torch.full((len(delta),), radius, dtype=torch.float64)
    projected = project_to_ball(delta, radii, norm_order)
    before, after = (exact_norm(point, norm_order) for point in (delta, projected))
    inside, outside = before < radius * (1 - 1e-12), before > radius * (1 + 1e-12)
    assert torch.equal(projected[inside], delta[inside])
    torch.testing.assert_close(after[outside], radii[outside])
    torch.testing.assert_close(project_to_ball(projected, radii, norm_order), projected)


@settings(max_examples=50)
@given(
    arrays(np.float64, (2, 4), elements=st.floats(-5, 5)),
    arrays(np.float64, (2, 4), elements=st.floats(-1, 1)),
    st.floats(0.1, 3),
    st.sampled_from([2, math.inf]),
)
def test_projection_is_the_nearest_point(a: np.ndarray, b: np.ndarray, radius: float, norm_order: float) -> None:
    """Of a convex set: the way back to the point is at an obtuse angle to the way to any other point of the set."""
    delta, radii = torch.from_numpy(a), torch.full((2,), radius, dtype=torch.float64)
    projected, other = project_to_ball(delta, radii, norm_order), torch.from_numpy(b)
    other = other / other.norm(p=norm_order, dim=1, keepdim=True).clamp(min=1) * radius
    assert (((delta - projected) * (other - projected)).sum(1) <= 1e-9).all()


@pytest.mark.parametrize("norm_order", [2, math.inf])
@pytest.mark.parametrize("loss", ["margin", "cross_entropy", "other_confidence"])
def test_succeeds_just_beyond_the_distance_and_not_before(norm_order: float, loss: Any) -> None:
    model, inputs, distances = linear_problem((8,), 2) if norm_order == 2 else linf_problem(2)
    for point, distance in zip(inputs, distances.tolist(), strict=True):
        below, above = (
            pgd(model, point[None], radius=factor * distance, norm_order=norm_order, loss=loss)
            for factor in (0.99, 1.01)
        )
        assert not below.success
        assert above.success
        assert distance <= above.norm <= 1.01 * distance * (1 + 1e-6)
        assert below.score >= 0.99 * distance


@pytest.mark.parametrize("norm_order", [2, math.inf])
def test_stays_in_the_ball_and_the_box(norm_order: float) -> None:
    model, inputs = trained_digits()
    radius = 0.4 if norm_order == 2 else 0.08
    result = pgd(model, inputs, radius=radius, norm_order=norm_order, restarts=2)
    norm = (result.adv_inputs - inputs).norm(p=norm_order, dim=1)
    assert 0.2 < result.success.double().mean() < 0.8
    assert norm.max() <= radius * (1 + 1e-5)
    assert result.adv_inputs.min() >= 0
    assert result.adv_inputs.max() <= 1
    torch.testing.assert_close(result.norm[result.success], norm[result.success])
    assert torch.equal(model(result.adv_inputs).argmax(1) != result.predicted, result.success)
    estimate = first_order_margin(model, inputs, norm_order=norm_order).score
    assert torch.equal(result.score[~result.success], estimate.clamp(min=radius)[~result.success])
    assert result.num_forward.eq(1 + 2 * 21).all()
    assert torch.equal(result.num_forward, result.num_backward)


def test_not_weaker_than_foolbox() -> None:
    model, inputs = trained_digits()
    predicted = model(inputs).argmax(1)
    peer = L2ProjectedGradientDescentAttack(steps=20, random_start=False)
    _, _, success = peer(PyTorchModel(model, bounds=(0, 1)), inputs, predicted, epsilons=0.4)
    assert pgd(model, inputs, radius=0.4).success.sum() >= success.sum()


def test_a_random_start_leaves_a_point_without_gradient() -> None:
    center = torch.tensor([[0.5, 0.5]])
    assert not pgd(Ring(), center, radius=0.35).success
    assert pgd(Ring(), center, radius=0.35, random_start=True).success
    assert pgd(Ring(), center, radius=0.35, restarts=2).success


@pytest.mark.parametrize("norm_order", [2, math.inf])
def test_random_starts_follow_the_seed_and_not_the_batch(norm_order: float) -> None:
    model, inputs = trained_digits()
    inputs = inputs[:6].double()

    def attack(examples: Tensor, seed: int) -> Tensor:
        settings: dict[str, Any] = {"norm_order": norm_order, "random_start": True, "seed": seed, "steps": 3}
        return pgd(model.double(), examples, radius=3.0 if norm_order == 2 else 0.5, **settings).adv_inputs

    together = attack(inputs, 0)
    torch.testing.assert_close(together, torch.cat([attack(example[None], 0) for example in inputs]))
    assert not torch.allclose(together, attack(inputs, 1))


def test_cross_entropy_vanishes_where_the_margin_does_not() -> None:
    model, inputs, distances = linear_problem((8,), 2, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e4)
    radius = 1.1 * float(distances.max())
    assert pgd(model, inputs, radius=radius).success.all()
    assert not pgd(model, inputs, radius=radius, loss="cross_entropy").success.all()


def test_constant_model() -> None:
    result = pgd(Constant(), torch.rand(3, 4), radius=0.5)
    assert not result.success.any()
    assert result.norm.isinf().all()
    assert result.score.eq(0.5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_follows_the_model(dtype: torch.dtype) -> None:
    model, inputs = trained_digits()
    single = pgd(model, inputs, radius=0.4).success
    result = pgd(model.to(dtype), inputs, radius=0.4)
    assert result.adv_inputs.dtype == dtype
    assert (result.success == single).double().mean() > 0.9


def test_settings_are_checked() -> None:
    model, inputs = nn.Linear(2, 2), torch.rand(1, 2)
    with pytest.raises(InputError, match="radius > 0"):
        pgd(model, inputs, radius=0.0, step_size=0.1)
    with pytest.raises(InputError, match="steps > 0"):
        pgd(model, inputs, radius=0.1, steps=0)
    with pytest.raises(InputError, match="norm_order 2 or inf"):
        pgd(model, inputs, radius=0.1, norm_order=1)
    with pytest.raises(InputError, match="a loss of PGD"):
        pgd(model, inputs, radius=0.1, loss="hinge")  # type: ignore[arg-type]
