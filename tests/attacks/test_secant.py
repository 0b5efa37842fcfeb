from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_problems import Bowl, Ring, box_problem, linear_problem, trained_digits
from torch import Tensor, nn

from aradals.attacks import ddn, get_attack, secant
from aradals.errors import InputError
from aradals.robustness.audit import rank_agreement


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8,), (3, 4, 4), (2, 30)])
@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_exact_on_linear_models(shape: tuple[int, ...], num_classes: int, dtype: torch.dtype) -> None:
    model, inputs, distances = linear_problem(shape, num_classes, dtype=dtype)
    result = secant(model, inputs, num_candidates=num_classes, verified=True)
    torch.testing.assert_close(result.score, distances, rtol=1e-3, atol=0)
    assert result.success.all()
    assert (result.norm >= distances * (1 - 1e-5)).all()
    assert (result.norm <= 1.01 * distances).all()


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_finds_the_nearest_class_beyond_its_candidates(num_classes: int) -> None:
    model, inputs, distances = linear_problem((2, 30), num_classes)
    result = secant(model, inputs, verified=True)
    assert (result.norm <= 1.01 * distances).double().mean() >= 0.9


def test_exact_where_the_box_is_active() -> None:
    model, inputs, distances = box_problem()
    result = secant(model, inputs, verified=True)
    torch.testing.assert_close(result.score, distances, rtol=1e-3, atol=0)
    assert (result.norm / distances).min() >= 1 - 1e-6
    assert (result.norm / distances).max() <= 1.01


def test_circle_from_inside_and_outside() -> None:
    inputs = torch.tensor([[0.9, 0.5], [0.1, 0.2], [0.5, 0.85], [0.6, 0.5], [0.45, 0.4]])
    distances = ((inputs - 0.5).norm(dim=1) - Ring.radius).abs()
    result = secant(Ring(), inputs, steps=20, tolerance=1e-4, verified=True)
    torch.testing.assert_close(result.score, distances, rtol=1e-3, atol=0)
    assert (result.norm >= distances).all()
    assert (result.norm <= 1.01 * distances).all()


def curved_problem() -> tuple[nn.Module, Tensor]:
    """A network whose boundaries are curved at the scale of their distances."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 5)).double()
    nn.init.normal_(model[0].get_parameter("weight"), std=3)
    return model, torch.rand(64, 6, dtype=torch.float64)


class Parabola(nn.Module):
    """Class 0 below the parabola y = 0.3 + 2 (x - 0.5)^2, class 1 above."""

    def forward(self, inputs: Tensor) -> Tensor:
        margin = 0.3 + 2 * (inputs[:, 0] - 0.5).square() - inputs[:, 1]
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_parabola() -> None:
    inputs = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    curve = torch.stack([x, 0.3 + 2 * (x - 0.5).square()], 1)
    distances = torch.cdist(inputs, curve).amin(1)
    result = secant(Parabola(), inputs, steps=30, tolerance=1e-3, verified=True)
    assert result.success.all()
    assert (result.norm >= distances - 1e-4).all()
    # Near the axis, above the focus, two boundaries are equally near, and the one that is found is a local minimum.
    assert (result.norm <= 1.02 * distances + 1e-4).double().mean() > 0.9


def test_without_verification_no_norm_is_claimed() -> None:
    model, inputs = trained_digits()
    result = secant(model, inputs)
    assert result.norm.isinf().all()
    assert torch.equal(result.adv_inputs, inputs)
    assert result.success.all()


def test_verification_leaves_the_score() -> None:
    model, inputs = trained_digits()
    result, verified = (
        secant(model, inputs, num_candidates=10),
        secant(model, inputs, verified=True),
    )
    torch.testing.assert_close(verified.score, result.score)
    assert (verified.num_forward > result.num_forward).all()
    assert torch.equal(verified.num_backward, result.num_backward)
    assert (model(verified.adv_inputs).argmax(1) != verified.predicted).all()


def test_verified_norms_look_at_more_candidates() -> None:
    """Half of the classes are far behind in logits, and so steep that theirs is the nearest boundary."""
    linear = nn.Linear(20, 10, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0] * 5 + [100.0] * 5, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(scale[:, None] * torch.randn(10, 20, dtype=torch.float64, generator=generator))
        linear.bias.copy_(-linear.weight.sum(1) / 2 - (scale > 1) * 10.0)
        linear.bias[0] += 3
    inputs = 0.49 + 0.02 * torch.rand(50, 20, dtype=torch.float64, generator=generator)
    logits = linear(inputs).detach()
    predicted, weight = logits.argmax(1), linear.weight.detach()
    slopes = (weight[predicted][:, None] - weight).norm(dim=2)
    distances = ((logits.amax(1, keepdim=True) - logits) / slopes).scatter(1, predicted[:, None], math.inf).amin(1)
    assert (secant(linear, inputs).score > 1.01 * distances).any()
    assert (secant(linear, inputs, verified=True).norm <= 1.01 * distances).all()


def test_a_search_that_points_nowhere_is_flagged() -> None:
    result = secant(Bowl(), torch.tensor([[0.2, 0.9], [0.99, 0.5], [0.2, 0.2]]))
    assert result.success.tolist() == [True, False, True]
    torch.testing.assert_close(result.score[1], torch.tensor(0.0225 / 0.1))


class Slope(nn.Module):
    """Up to 0.5 the margin falls along the second axis, but too little to end within the box; beyond, it is crossed."""

    def forward(self, inputs: Tensor) -> Tensor:
        margin = 0.5 - 0.1 * inputs[:, 1] - 8 * (inputs[:, 0] - 0.5).clamp(min=0)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_a_boundary_outside_the_box_is_none() -> None:
    result = secant(Slope(), torch.tensor([[0.2, 0.5], [0.51, 0.5]]))
    assert result.success.tolist() == [False, True]


def test_examples_leave_when_the_estimates_agree() -> None:
    model, inputs = curved_problem()
    result = secant(model, inputs, num_candidates=1, steps=6)
    num_others = 3  # with logits close to those of the one candidate
    assert result.num_forward.min() < result.num_forward.max() <= 6 + num_others
    assert torch.equal(result.num_forward, result.num_backward)
    linear, points, _ = linear_problem((8,), 2)
    assert secant(linear, points).num_forward.eq(2).all()


def test_a_wider_reach_finds_nearer_boundaries() -> None:
    model, inputs = curved_problem()
    narrow, wide = secant(model, inputs, reach=1.0), secant(model, inputs, reach=2.0)
    assert (wide.score <= narrow.score * (1 + 1e-5)).all()
    assert (wide.score < 0.999 * narrow.score).any()
    assert wide.num_forward.double().mean() > narrow.num_forward.double().mean()


def test_ranks_as_a_long_search_does() -> None:
    model, inputs = trained_digits()
    agreement = rank_agreement(secant(model, inputs).score, ddn(model, inputs, steps=200).norm, num_subsets=5)
    assert agreement.spearman.value > 0.99
    assert agreement.same_subset.value > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_candidates": 0}, "num_candidates > 0"),
        ({"steps": 0}, "steps > 0"),
        ({"tolerance": 0}, "tolerance > 0"),
        ({"reach": 0.5}, "reach >= 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        secant(nn.Linear(2, 2), torch.rand(1, 2), **settings)


def test_accurate_setting_is_an_attack_by_name() -> None:
    model, inputs = curved_problem()
    accurate = get_attack("secant_accurate")(model, inputs)
    assert torch.equal(accurate.score, secant(model, inputs, reach=1.5, steps=10, tolerance=0.02).score)
    assert torch.equal(
        secant(model, inputs, accurate=True, steps=6).score, secant(model, inputs, reach=1.5, tolerance=0.02).score
    )
    assert accurate.num_forward.double().mean() > secant(model, inputs).num_forward.double().mean()
    assert math.isfinite(float(accurate.score.max()))


def test_agreement_on_a_real_network(shared_data: Path) -> None:
    """The figures of the benchmark on 128 images of it, with room for the smaller sample."""
    import pyarrow.parquet as pq

    from aradals.data import load_data
    from aradals.models import build_model, load_checkpoint

    table = pq.read_table(shared_data / "models" / "cifar10-resnet20-reference-norms.parquet").slice(0, 128)
    model = build_model("resnet20", num_classes=10, in_channels=3)
    load_checkpoint(model, shared_data / "models" / "cifar10-resnet20.safetensors")
    examples = load_data(str(shared_data / "data" / "cifar10-test.parquet"))
    inputs = examples.batch(table["id"].to_pylist())[1]
    result = secant(model, inputs)
    agreement = rank_agreement(result.score, torch.tensor(table["norm"].to_numpy()))
    assert agreement.spearman.value >= 0.997
    assert agreement.same_subset.value >= 0.9
    assert agreement.within_one.value >= 0.99
    assert 0.446 * result.num_forward.double().mean() + 0.554 * result.num_backward.double().mean() <= 7
