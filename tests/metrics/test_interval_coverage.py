"""Do the 95 % intervals of the calibration errors hold the true error as often as they say?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from aradals.metrics import estimate_metrics

NUM_BINS, NUM_SUBSETS, NUM_CLASSES = 15, 10, 10
NAMES = ("ece", "subset_calibration_error", "largest_subset_calibration_error")


@dataclass
class Population:
    """A discrete population: rows of (confidence, accuracy given that confidence, subset), equally likely."""

    confidence: Tensor
    accuracy: Tensor
    subset: Tensor

    def true_errors(self) -> dict[str, float]:
        gap = (self.confidence - self.accuracy).numpy()
        bins = np.clip(np.ceil(self.confidence.numpy() * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
        ece = sum(abs(gap[bins == b].sum()) for b in range(NUM_BINS)) / len(gap)
        subset_errors = [abs(gap[self.subset.numpy() == r].mean()) for r in range(NUM_SUBSETS)]
        return dict(zip(NAMES, (ece, np.mean(subset_errors), max(subset_errors)), strict=True))

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(probs, labels, subsets) of n examples; class 0 is always the predicted one."""
        rows = torch.randint(len(self.confidence), (n,), generator=generator)
        confidence = self.confidence[rows, None]
        others = (1 - confidence) / (NUM_CLASSES - 1)
        probs = torch.cat([confidence, others.expand(-1, NUM_CLASSES - 1)], 1)
        wrong = torch.rand(n, generator=generator, dtype=torch.float64) >= self.accuracy[rows]
        return probs, wrong.long(), self.subset[rows]


def population(kind: str, gap: float, beta: tuple[float, float], size: int = 200_000) -> Population:
    rng = np.random.default_rng(0)
    confidence = rng.beta(*beta, size).clip(0.12, 1)
    if kind == "wave":  # the sign of the gap alternates from bin to bin
        sign = np.where(np.ceil(confidence * NUM_BINS) % 2 == 0, 1, -1)
        accuracy = confidence - gap * sign
    elif kind == "top":  # one bin holds the whole error
        top = confidence > 1 - 1 / NUM_BINS
        accuracy = confidence - gap * top / top.mean()
    elif kind == "shift":  # all bins and subsets have the same gap
        accuracy = confidence - gap
    else:  # over- or under-confident in proportion to the uncertainty left, c (1 - c)
        shape = confidence * (1 - confidence)
        accuracy = confidence - gap * shape / shape.mean()
    accuracy = accuracy.clip(0, 1)
    score = confidence + 0.1 * rng.standard_normal(size)
    subset = score.argsort().argsort() * NUM_SUBSETS // size
    return Population(torch.from_numpy(confidence), torch.from_numpy(accuracy), torch.from_numpy(subset))


def misses(people: Population, n: int, num_simulations: int, num_resamples: int) -> dict[str, tuple[float, float]]:
    """Share of simulations whose interval lies above, and below, the true error."""
    true = people.true_errors()
    generator = torch.Generator().manual_seed(1)
    missed = {name: [0, 0] for name in NAMES}
    for simulation in range(num_simulations):
        probs, labels, subsets = people.sample(n, generator)
        estimates = estimate_metrics(labels, probs=probs, subsets=subsets, num_resamples=num_resamples, seed=simulation)
        for name in NAMES:
            missed[name][0] += estimates[name].low > true[name] + 1e-12
            missed[name][1] += estimates[name].high < true[name] - 1e-12
    return {name: (above / num_simulations, below / num_simulations) for name, (above, below) in missed.items()}


CIFAR_10_LIKE, CIFAR_100_LIKE = (4.0, 0.35), (3.0, 1.0)  # mean confidence 0.92 and 0.75
MODELS = [
    ("calibrated", 0.0, CIFAR_10_LIKE),
    ("calibrated", 0.0, CIFAR_100_LIKE),
    ("overconfident", 0.005, CIFAR_10_LIKE),
    ("overconfident", 0.01, CIFAR_10_LIKE),
    ("wave", 0.01, CIFAR_10_LIKE),
    ("top", 0.01, CIFAR_10_LIKE),
    ("underconfident", -0.008, CIFAR_10_LIKE),
    ("overconfident", 0.02, CIFAR_10_LIKE),
    ("overconfident", 0.05, CIFAR_10_LIKE),
    ("overconfident", 0.12, CIFAR_100_LIKE),
    ("shift", 0.02, CIFAR_10_LIKE),
    ("shift", 0.05, CIFAR_100_LIKE),
]


def coverage_table(num_simulations: int, num_resamples: int, sizes: tuple[int, ...]) -> Iterator[tuple[str, float]]:
    for kind, gap, beta in MODELS:
        people = population(kind, gap, beta)
        true = people.true_errors()
        for n in sizes:
            for name, (above, below) in misses(people, n, num_simulations, num_resamples).items():
                yield (
                    (
                        f"{kind} {gap} {beta} n={n} {name}: true {true[name]:.4f}, "
                        f"covered {1 - above - below:.3f} (too high {above:.3f}, too low {below:.3f})"
                    ),
                    1 - above - below,
                )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Thousands of tiny matrix products: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("kind", "gap"), [("calibrated", 0.0), ("overconfident", 0.01), ("overconfident", 0.05)])
def test_intervals_cover_the_true_errors(kind: str, gap: float) -> None:
    num_simulations = 120
    missed = misses(population(kind, gap, CIFAR_10_LIKE), 500, num_simulations, 150)
    for name, (above, below) in missed.items():
        # 90 %, less twice the standard error of a share of 0.9. Bootstrap percentiles reach 0 to 75 %.
        assert 1 - above - below > 0.9 - 2 * (0.09 / num_simulations) ** 0.5, (name, above, below)


@pytest.mark.slow
def test_coverage_table() -> None:
    rows = list(coverage_table(num_simulations=200, num_resamples=400, sizes=(500, 1_000, 10_000)))
    print(*(line for line, _ in rows), sep="\n")
    assert min(covered for _, covered in rows) > 0.9 - 2 * (0.09 / 200) ** 0.5
