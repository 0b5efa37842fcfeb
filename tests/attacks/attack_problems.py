"""Classifiers whose distance to the nearest other class is known."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq, linprog, minimize
from sklearn.datasets import load_digits
from torch import Tensor, nn


def linear_problem(
    shape: tuple[int, ...], num_classes: int, *, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Tensor, Tensor]:
    """(model, inputs, exact distances) of a linear classifier whose optima lie inside the box.

    The nearest class is often not the one with the second largest logit.
    """
    generator = torch.Generator().manual_seed(num_classes)
    num_features = math.prod(shape)
    weight = torch.randn(num_classes, num_features, generator=generator, dtype=dtype)
    linear = nn.Linear(num_features, num_classes, dtype=dtype)
    inputs = 0.45 + 0.1 * torch.rand(10, num_features, generator=generator, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(0.1 * torch.randn(num_classes, generator=generator, dtype=dtype) - weight.sum(1) / 2)
        logits = linear(inputs)
    predicted = logits.argmax(1)
    distances = (logits.amax(1, keepdim=True) - logits) / (weight[predicted][:, None] - weight).norm(dim=2)
    distances.scatter_(1, predicted[:, None], math.inf)
    return nn.Sequential(nn.Flatten(), linear), inputs.view(-1, *shape), distances.amin(1)


class Ring(nn.Module):
    """Class 0 inside the circle of radius 0.3 around the center of the unit square, class 1 outside."""

    radius = 0.3

    def forward(self, inputs: Tensor) -> Tensor:
        margin = self.radius**2 - (inputs - 0.5).square().sum(1)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


class Constant(nn.Module):
    """Class 1 everywhere."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0, -1.0]]).expand(len(inputs), 3) + 0 * inputs.flatten(1).sum(1, keepdim=True)


class Bowl(nn.Module):
    """Left half: class 0 down to a height of 0.1. Right half: always class 0, with a margin of at least 0.02.

    The margin of the right half has a slope, so that it looks reachable.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        left = inputs[:, 1] - 0.1
        right = 0.02 + (inputs[:, 1] - 0.45).square()
        margin = torch.where(inputs[:, 0] < 0.5, left, right)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def box_problem(num_features: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    """(model, inputs, exact distances) of a linear classifier of two classes whose optima touch the box."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(2, num_features, generator=generator, dtype=torch.float64)
    inputs = torch.rand(8, num_features, generator=generator, dtype=torch.float64)
    inputs[:, ::4] = inputs[:, ::4].round()
    inputs[:, 1], inputs[:, 2] = 0.02, 0.97
    model = nn.Linear(num_features, 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.zero_()
        model.bias[0] += (model(inputs) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).mean()
        margins = (model(inputs) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).numpy()
    slope = (weight[1] - weight[0]).numpy()
    distances = []
    for x, margin in zip(inputs.numpy(), margins, strict=True):
        solution = minimize(
            lambda delta: delta @ delta,
            np.zeros(num_features),
            jac=lambda delta: 2 * delta,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda delta, m=margin: m + slope @ delta, "jac": lambda _: slope},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert solution.success
        distances.append(np.linalg.norm(solution.x))
        plain = abs(margin) / np.linalg.norm(slope)
        assert distances[-1] > 1.0001 * plain, "the box must matter"
    return model, inputs, torch.tensor(distances)


def linf_problem(num_classes: int, num_features: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    """(model, inputs, exact L-inf distances) of a linear classifier; by linear programming, so the box may matter."""
    generator = torch.Generator().manual_seed(num_classes)
    model = nn.Linear(num_features, num_classes, dtype=torch.float64)
    weight = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    # Some classes are far from the others in L2 and near in L-inf.
    weight[::2, 4:] *= 0.1
    inputs = 0.45 + 0.1 * torch.rand(8, num_features, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.copy_(-weight.sum(1) / 2)
        logits = model(inputs)
    distances = []
    for x, scores in zip(inputs.numpy(), logits, strict=True):
        predicted = int(scores.argmax())
        reached = []
        for rival in set(range(num_classes)) - {predicted}:
            # Minimize t over (delta, t): |delta_i| <= t, and the rival draws level.
            slope = (weight[predicted] - weight[rival]).numpy()
            identity, ones = np.eye(num_features), np.ones((num_features, 1))
            solution = linprog(
                np.eye(num_features + 1)[-1],
                A_ub=np.block([[slope, np.zeros(1)], [identity, -ones], [-identity, -ones]]),
                b_ub=np.concatenate([[float(scores[rival] - scores[predicted])], np.zeros(2 * num_features)]),
                bounds=[*zip(-x, 1 - x, strict=True), (0, 1)],
            )
            reached.append(solution.fun if solution.success else math.inf)
        distances.append(min(reached))
    return model, inputs, torch.tensor(distances)


class Ellipsoid(nn.Module):
    """Class 0 inside the ellipsoid sum of a_i (x_i - 0.5)^2 = 1 in six dimensions, class 1 outside."""

    curvature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("curvature", torch.tensor([6.5, 9.0, 14.0, 20.0, 30.0, 45.0], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        margin = 1 - (self.curvature * (inputs - 0.5).square()).sum(1)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def ellipsoid_problem() -> tuple[nn.Module, Tensor, Tensor]:
    """(model, inputs, exact L2 distances) of points outside an ellipsoid, where the nearest boundary point is unique.

    It is x_i / (1 + t a_i), relative to the center, at the t > 0 where it lies on the ellipsoid.
    """
    inputs = torch.rand(16, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    model = Ellipsoid()
    inputs, a = inputs[model(inputs).argmax(1) == 1], model.curvature.numpy()
    distances = []
    for x in (inputs - 0.5).numpy():
        t = brentq(lambda t, x=x: (a * (x / (1 + t * a)) ** 2).sum() - 1, 0, 1e3, xtol=1e-14)
        distances.append(np.linalg.norm(x - x / (1 + t * a)))
    return model, inputs, torch.tensor(distances)


def trained_digits() -> tuple[nn.Module, Tensor]:
    """A small network trained on the digits, and 64 of them."""
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(inputs), labels))
        optimizer.step()
    return model.eval(), inputs[:64]
