"""Do the 95 % intervals hold the true value as often as they say?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from aradals.metrics import estimate_metrics, wilson_interval
from aradals.results.records import Measure, measured

NUM_BINS, NUM_SUBSETS, NUM_CLASSES, COVERAGE = 15, 10, 10, 0.9


@dataclass
class Population:
    """A discrete population: rows of (confidence, accuracy given that confidence, subset), equally likely."""

    confidence: Tensor
    accuracy: Tensor
    subset: Tensor

    def true_values(self) -> dict[str, float]:
        order = np.argsort(self.confidence.numpy(), kind="stable")
        confidence, accuracy = self.confidence.numpy()[order], self.accuracy.numpy()[order]
        subset, gap, size = self.subset.numpy()[order], confidence - accuracy, len(order)
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
        mass_gaps = np.array([part.mean() for part in np.array_split(gap, NUM_BINS)])
        subset_errors = [abs(gap[subset == r].mean()) for r in range(NUM_SUBSETS)]
        right = accuracy.sum()
        return {
            "ece": sum(abs(gap[bins == b].sum()) for b in range(NUM_BINS)) / size,
            "adaptive_ece": float(np.abs(mass_gaps).mean()),
            "debiased_l2_ece": float(np.sqrt((mass_gaps**2).mean())),
            "ks_error": float(np.abs(gap.cumsum()).max() / size),
            "smooth_ece": smooth_ece(confidence, gap),
            "subset_calibration_error": float(np.mean(subset_errors)),
            "largest_subset_calibration_error": max(subset_errors),
            "aurc": float(((1 - accuracy[::-1]).cumsum() / np.arange(1, size + 1)).mean()),
            "error_auroc": float(accuracy @ (1 - accuracy).cumsum() / right / (size - right)),
            "accuracy_at_coverage_90": float(accuracy[-round(COVERAGE * size) :].mean()),
            "accuracy": float(accuracy.mean()),
        }

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(probs, labels, subsets) of n examples; class 0 is always the predicted one."""
        rows = torch.randint(len(self.confidence), (n,), generator=generator)
        confidence = self.confidence[rows, None]
        others = (1 - confidence) / (NUM_CLASSES - 1)
        probs = torch.cat([confidence, others.expand(-1, NUM_CLASSES - 1)], 1)
        wrong = torch.rand(n, generator=generator, dtype=torch.float64) >= self.accuracy[rows]
        return probs, wrong.long(), self.subset[rows]


def smooth_ece(confidence: Any, gap: Any, num_cells: int = 1000) -> float:
    """Slow and plain: images of the cells in both mirrors, one dense matrix."""
    if not gap.any():
        return 0.0
    centers = (np.arange(num_cells) + 0.5) / num_cells
    cells = np.bincount((confidence * num_cells).astype(int).clip(max=num_cells - 1), gap, num_cells) / len(gap)
    images = [centers + 2 * shift for shift in (-1, 0, 1)] + [2 * shift - centers for shift in (0, 1, 2)]

    def error(sigma: float) -> float:
        kernel = sum(np.exp(-(((centers[:, None] - image) / sigma) ** 2) / 2) for image in images)
        return float(np.abs(kernel @ cells).mean() / sigma / np.sqrt(2 * np.pi))

    return float(scipy.optimize.brentq(lambda sigma: error(sigma) - sigma, 1e-3, 1, xtol=1e-5))


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


def misses(
    people: Population, n: int, num_simulations: int, num_resamples: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """True values, and the shares of simulations whose interval lies above, and below, the true value."""
    true = people.true_values()
    generator = torch.Generator().manual_seed(1)
    missed = {name: [0, 0] for name in true}
    for simulation in range(num_simulations):
        probs, labels, subsets = people.sample(n, generator)
        estimates = estimate_metrics(
            labels, probs=probs, subsets=subsets, coverage=COVERAGE, num_resamples=num_resamples, seed=simulation
        )
        for name, value in true.items():
            missed[name][0] += estimates[name].low > value + 1e-12
            missed[name][1] += estimates[name].high < value - 1e-12
    shares = {name: (above / num_simulations, below / num_simulations) for name, (above, below) in missed.items()}
    return true, shares


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
        for n in sizes:
            true, shares = misses(people, n, num_simulations, num_resamples)
            for name, (above, below) in shares.items():
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
    _, missed = misses(population(kind, gap, CIFAR_10_LIKE), 500, num_simulations, 150)
    for name, (above, below) in missed.items():
        # 90 %, less twice the standard error of a share of 0.9. Bootstrap percentiles reach 0 to 75 %.
        assert 1 - above - below > 0.9 - 2 * (0.09 / num_simulations) ** 0.5, (name, above, below)


@pytest.mark.slow
def test_coverage_table() -> None:
    rows = list(coverage_table(num_simulations=200, num_resamples=400, sizes=(500, 1_000, 10_000)))
    print(*(line for line, _ in rows), sep="\n")
    assert min(covered for _, covered in rows) > 0.9 - 2 * (0.09 / 200) ** 0.5


@pytest.mark.parametrize(
    ("kind", "gap", "beta"), [("calibrated", 0.0, (20.0, 0.2)), ("overconfident", 0.05, (9.0, 0.3))]
)
@pytest.mark.parametrize("n", [5, 60])
def test_small_samples_have_an_interval_only_if_it_covers(
    kind: str, gap: float, beta: tuple[float, float], n: int
) -> None:
    """Accuracies of 0.99 and 0.92. A sample without an interval misses nothing."""
    num_simulations = 60
    _, missed = misses(population(kind, gap, beta), n, num_simulations, 100)
    for name, (above, below) in missed.items():
        assert above + below < 0.1 + 2 * (0.09 / num_simulations) ** 0.5, (name, above, below)
    resampled = missed.keys() - {"accuracy", "accuracy_at_coverage_90"}
    assert n == 60 or not any(sum(missed[name]) for name in resampled)


@pytest.mark.parametrize(
    ("num_right", "n", "has_interval"), [(25, 49, False), (25, 50, True), (46, 50, False), (4, 50, False)]
)
def test_which_samples_have_intervals(num_right: int, n: int, has_interval: bool) -> None:
    labels = (torch.arange(n) >= num_right).long()
    probs = torch.tensor([[0.8, 0.2]]).repeat(n, 1)
    found = estimate_metrics(labels, probs=probs, subsets=torch.arange(n) % 2, num_resamples=20)
    shown = {name for name, estimate in found.items() if estimate.low == estimate.low}
    always = {"accuracy", "accuracy_at_coverage_90"}
    expected = found.keys() if has_interval else always | ({"confidence"} if n >= 50 else set())
    assert shown == set(expected)


def test_small_subsets_have_no_interval_of_their_error() -> None:
    for num_subsets, num_wrong, expected in ((5, 30, True), (6, 30, False), (5, 9, False)):
        labels = (torch.arange(100) < num_wrong).long()
        probs = torch.tensor([[0.8, 0.2]]).repeat(100, 1)
        found = estimate_metrics(labels, probs=probs, subsets=torch.arange(100) % num_subsets, num_resamples=20)
        assert (found["subset_calibration_error"].low >= 0) is expected
        assert found["ece"].low >= 0


@pytest.mark.parametrize("n", [5, 20, 49])
def test_the_gap_of_a_small_sample_is_covered(n: int) -> None:
    generator, num_simulations = torch.Generator().manual_seed(0), 300
    for kind, gap, beta in (("calibrated", 0.0, (3.0, 1.0)), ("overconfident", 0.05, (9.0, 0.3))):
        people, covered = population(kind, gap, beta), 0
        true = float((people.confidence - people.accuracy).mean())
        for _ in range(num_simulations):
            probs, labels, _ = people.sample(n, generator)
            right = (labels == 0).sum()
            low, high = wilson_interval(right, torch.tensor(n))
            accuracy = Measure(float(right) / n, float(low), float(high))
            found = measured({"accuracy": accuracy, "confidence": Measure(float(probs[:, 0].mean()))}, "gap")
            covered += found.low <= true <= found.high
        assert covered >= 0.92 * num_simulations
