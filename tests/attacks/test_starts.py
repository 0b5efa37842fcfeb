from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_problems import Constant, Ring, trained_digits
from torch import Tensor, nn

from aradals.attacks import neighbors, secant
from aradals.attacks.starts import Boundaries, Starts, as_starts
from aradals.errors import InputError


def test_the_nearest_of_every_other_class_come_first() -> None:
    starts = Starts(torch.tensor([[0.0], [0.2], [0.3], [0.9], [0.45]]), torch.tensor([0, 1, 1, 2, 0]))
    found = list(starts.nearest(torch.tensor([[0.1], [0.8]]), torch.tensor([0, 2]), 3))
    assert [rows.tolist() for rows, _ in found] == [[0, 1], [0, 1], [0, 1]]
    chosen = torch.stack([ends[:, 0] for _, ends in found], 1)
    torch.testing.assert_close(chosen, torch.tensor([[0.2, 0.9, 0.3], [0.45, 0.3, 0.2]]))


def test_an_input_without_other_classes_has_no_start() -> None:
    starts = Starts(torch.rand(4, 2), torch.zeros(4, dtype=torch.int64))
    assert not list(starts.nearest(torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), 2))
    result = secant(Constant(), torch.rand(4, 1, 2, 2), starts=torch.rand(4, 1, 2, 2))
    assert not result.success.any()
    assert result.score.eq(0).all()


def test_inputs_step_over_the_planes_around_their_own_class() -> None:
    """Three vertical boundaries at x = 0.5, 0.6 and 0.9."""
    points, normals = torch.tensor([[0.5, 0.5], [0.6, 0.5], [0.9, 0.1]]), torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    boundaries = Boundaries(points, normals, torch.tensor([0, 0, 2]), torch.tensor([1, 2, 0]), torch.zeros(3))
    inputs = torch.tensor([[0.7, 0.5], [0.4, 0.5], [0.3, 0.2], [0.2, 0.5]])
    found = list(boundaries.steps(inputs, torch.tensor([0, 1, 2, 3]), 3))
    assert [rows.tolist() for rows, _ in found] == [[0, 1, 2], [0], [0]]
    across = torch.cat([inputs[rows] + steps for rows, steps in found])
    # A little beyond the planes: first that of the nearest point, last the plane whose point is far away along it.
    torch.testing.assert_close(across[:, 0], torch.tensor([0.598, 0.502, 0.606, 0.496, 0.904]))
    assert torch.equal(across[:, 1], inputs[[0, 1, 2, 0, 0], 1])
    assert not list(boundaries.steps(inputs, torch.tensor([3, 3, 3, 3]), 3))


def test_the_digest_tells_examples_apart() -> None:
    starts, same, other = (Starts(torch.full((3, 2), v), torch.zeros(3)) for v in (0.5, 0.5, 0.6))
    assert repr(starts) == repr(same) != repr(other)
    assert repr(starts).startswith("Starts(3 examples, ")


class Islands(nn.Module):
    """Class 0 is flat up to x = 0.8, where a gentle slope leads to the right; class 1 is left of x = 0.3."""

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs[:, 0]
        margin = torch.where(x < 0.3, x - 0.35, 0.05 + 0.5 * (0.9 - x))
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_a_boundary_that_no_gradient_at_the_input_shows_is_found() -> None:
    inputs = torch.tensor([[0.4, 0.5], [0.5, 0.1]])
    starts = torch.tensor([[0.1, 0.5], [0.1, 0.1], [0.7, 0.5]])
    alone, started = secant(Islands(), inputs), secant(Islands(), inputs, starts=starts)
    exact = torch.tensor([0.1, 0.2])
    assert (alone.score > 2 * exact).all() or not alone.success.any()
    assert (started.norm >= exact * (1 - 1e-5)).all()
    torch.testing.assert_close(started.norm, exact, rtol=0.02, atol=0)


def test_scores_with_starts_are_verified_norms() -> None:
    model, inputs = trained_digits()
    alone, result = secant(model, inputs, verified=True), secant(model, inputs, starts=inputs[:32])
    assert torch.equal(result.score, result.norm)
    assert (model(result.adv_inputs).argmax(1) != result.predicted).all()
    assert (result.norm <= 1.011 * alone.norm).double().mean() > 0.9
    assert (result.num_forward > result.num_backward).all()


@pytest.mark.parametrize("attack", [secant, neighbors])
def test_an_input_does_not_depend_on_its_batch(attack: Any) -> None:
    model, inputs = trained_digits()
    model, inputs = model.double(), inputs.double()
    starts = as_starts(model, inputs[:32])
    together = attack(model, inputs[:24], starts=starts)
    alone = [attack(model, part, starts=starts) for part in inputs[:24].flip(0).split(5)]
    torch.testing.assert_close(torch.cat([part.score for part in alone]).flip(0), together.score)
    assert torch.equal(torch.cat([part.num_forward for part in alone]).flip(0), together.num_forward)


@pytest.mark.parametrize(("settings", "message"), [({"num_starts": -1}, "from 0"), ({"starts": "a"}, "a tensor")])
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        secant(Ring(), torch.rand(2, 2), **{"starts": torch.rand(2, 2), **settings})  # type: ignore[arg-type]
