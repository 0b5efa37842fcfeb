"""Does a confidence threshold keep its promise on new examples, in at least 95 % of data sets?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from aradals.errors import InputError
from aradals.metrics import confidence_threshold, confidence_threshold_by_subset, min_accepted
from aradals.metrics.proper import binomial_bound

SIZE = 100_000
CIFAR_10_LIKE, CIFAR_100_LIKE = (4.0, 0.35), (3.0, 1.0)  # mean confidence 0.92 and 0.75


@dataclass
class Population:
    """Confidences, from the lowest to the highest, and the chance that each prediction is wrong."""

    confidence: Tensor
    error: Tensor

    def true_error(self, threshold: float) -> float:
        return float(self.error[torch.searchsorted(self.confidence, threshold) :].mean())

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Labels and probabilities of n examples; class 0 is always the predicted one."""
        rows = torch.randint(SIZE, (n,), generator=generator)
        wrong = torch.rand(n, generator=generator, dtype=torch.float64) < self.error[rows]
        confidence = self.confidence[rows]
        return wrong.long(), torch.stack([confidence, 1 - confidence], 1)


def overconfident(gap: float, beta: tuple[float, float]) -> Population:
    """Errors exceed those of a calibrated model by ``gap`` on average, in proportion to c (1 - c)."""
    confidence = torch.from_numpy(np.sort(np.random.default_rng(0).beta(*beta, SIZE).clip(0.5, 1)))
    shape = confidence * (1 - confidence)
    return Population(confidence, (1 - confidence + gap * shape / shape.mean()).clamp(0, 1))


def constant(error: float) -> Population:
    """The confidence says nothing about the error."""
    return Population(torch.linspace(0.5, 1, SIZE, dtype=torch.float64), torch.full((SIZE,), error).double())


def alternating(error: float) -> Population:
    """The error of accepted predictions crosses ``error`` again and again, because every other 0.5 % has none."""
    bands = torch.arange(SIZE) * 200 // SIZE
    return Population(constant(0).confidence, torch.where(bands % 2 == 0, 0.0, 2.04 * error).double())


def mislabeled(share: float, people: Population) -> Population:
    """The same predictions, if this share of the labels is wrong."""
    return Population(people.confidence, people.error * (1 - share) + (1 - people.error) * share)


def broken_promises(people: Population, n: int, max_error: float, num_runs: int) -> tuple[float, float]:
    """Return the share of runs whose threshold has a larger true error than it promises, and the mean coverage."""
    generator = torch.Generator().manual_seed(1)
    broken, coverage = 0, 0.0
    for _ in range(num_runs):
        labels, probs = people.sample(n, generator)
        if found := confidence_threshold(labels, max_error, probs=probs):
            broken += people.true_error(found.threshold) > max_error
            coverage += found.coverage / num_runs
    return broken / num_runs, coverage


def test_a_promise_is_kept_in_95_percent_of_runs() -> None:
    for people, max_error, least_coverage in (
        (overconfident(0.03, CIFAR_10_LIKE), 0.01, 0.1),
        (overconfident(0.03, CIFAR_10_LIKE), 0.05, 0.65),
        (constant(0.0102), 0.01, 0.0),  # no threshold has so small an error
    ):
        broken, coverage = broken_promises(people, 1000, max_error, 100)
        assert broken <= 0.05 + 2 * (0.05 * 0.95 / 100) ** 0.5
        assert coverage >= least_coverage


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 1000, 10_000])
@pytest.mark.parametrize("max_error", [0.01, 0.05])
def test_promises_in_many_cases(n: int, max_error: float) -> None:
    num_runs = 500
    for people in (
        *(overconfident(gap, beta) for gap in (0.0, 0.03, 0.1) for beta in (CIFAR_10_LIKE, CIFAR_100_LIKE)),
        mislabeled(0.003, overconfident(0.0, CIFAR_10_LIKE)),
        alternating(max_error),
        constant(1.01 * max_error),
    ):
        broken, coverage = broken_promises(people, n, max_error, num_runs)
        print(f"n={n} at most {max_error}: broken in {broken:.3f} of the runs, mean coverage {coverage:.2f}")
        assert broken <= 0.05 + 2 * (0.05 * 0.95 / num_runs) ** 0.5


def ranked(num_right: int, num_wrong: int = 0) -> tuple[Tensor, Tensor]:
    """Labels and probabilities of predictions from 0.999 down to 0.6; the least confident ones are wrong."""
    labels = torch.cat([torch.zeros(num_right), torch.ones(num_wrong)]).long()
    confidence = torch.linspace(0.999, 0.6, len(labels), dtype=torch.float64)
    return labels, torch.stack([confidence, 1 - confidence], 1)


def test_the_grid_of_coverages() -> None:
    labels, probs = ranked(900, 100)
    found = confidence_threshold(labels, 0.05, probs=probs)
    assert found is not None
    # 40 of 940 have the bound 0.055, and 30 of 930 the bound 0.043.
    assert (found.coverage, found.n, found.error, found.level) == (0.93, 930, 30 / 930, 0.95)
    assert found.threshold == pytest.approx(float(probs[929, 0]))
    assert found.bound == pytest.approx(binomial_bound(30, 930))
    assert found.bound < 0.05 < binomial_bound(40, 940)
    everything = confidence_threshold(labels, 0.15, probs=probs)
    assert everything is not None
    assert (everything.coverage, everything.n, everything.error) == (1, 1000, 0.1)
    assert everything.bound == pytest.approx(binomial_bound(100, 1000))


def test_the_search_ends_at_the_first_bound_that_is_too_large() -> None:
    labels, probs = ranked(1000)
    labels[0] = 1  # The most confident prediction is wrong: more than 300 examples are needed.
    assert confidence_threshold(labels, 0.01, probs=probs) is None
    assert confidence_threshold(labels, 0.05, probs=probs) is not None  # one of 100 has the bound 0.0466
    later = confidence_threshold(labels.roll(300), 0.01, probs=probs)
    assert later is not None
    assert later.n == 300


def test_a_wrong_label_among_the_most_confident_of_many_does_not_end_the_search() -> None:
    labels, probs = ranked(5000)
    labels[0] = 1
    found = confidence_threshold(labels, 0.01, probs=probs)  # one of 500 has the bound 0.0095
    assert found is not None
    assert (found.n, found.error) == (5000, 1 / 5000)


@pytest.mark.parametrize(("enough", "max_error"), [(59, 0.05), (299, 0.01)])
def test_few_examples_guarantee_nothing(enough: int, max_error: float) -> None:
    assert binomial_bound(0, enough) <= max_error < binomial_bound(0, enough - 1)
    for n in (1, 10, enough - 1):
        labels, probs = ranked(n)
        assert confidence_threshold(labels, max_error, probs=probs) is None
    labels, probs = ranked(enough)
    found = confidence_threshold(labels, max_error, probs=probs)
    assert found is not None
    assert found.n == enough
    assert confidence_threshold(labels, 0.0, probs=probs) is None


def test_ties_are_taken_together() -> None:
    probs = torch.tensor([[0.9, 0.1]], dtype=torch.float64).repeat(1000, 1)
    for wrong in (slice(0, 10), slice(990, 1000)):  # 10 of 1,000 have the bound 0.017, in any order
        labels = torch.zeros(1000, dtype=torch.long)
        labels[wrong] = 1
        assert confidence_threshold(labels, 0.01, probs=probs) is None
        found = confidence_threshold(labels, 0.02, probs=probs)
        assert found is not None
        assert (found.threshold, found.n, found.coverage) == (0.9, 1000, 1)


def test_each_subset_has_a_threshold_of_its_own() -> None:
    good, poor = ranked(900, 100), ranked(600, 400)
    labels, probs = (torch.cat(parts) for parts in zip(good, poor, strict=True))
    subsets = torch.tensor([3, 5]).repeat_interleave(1000)
    mixed = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    found = confidence_threshold_by_subset(labels[mixed], subsets[mixed], 0.05, probs=probs[mixed])
    alone = {
        3: confidence_threshold(*good[:1], 0.05, probs=good[1], level=0.975),
        5: confidence_threshold(*poor[:1], 0.05, probs=poor[1], level=0.975),
    }
    assert found == alone
    assert [each and each.coverage for each in found.values()] == [0.93, 0.62]
    with pytest.raises(InputError, match="subset indices"):
        confidence_threshold_by_subset(labels, -subsets, 0.05, probs=probs)


def test_promises_of_all_subsets_are_kept_together() -> None:
    """The worst case: the error of every subset is a little larger than promised, whatever the confidence."""
    generator, runs, size = torch.Generator().manual_seed(0), 400, 300
    subsets = torch.arange(4).repeat_interleave(size)
    broken = 0
    for _ in range(runs):
        labels = (torch.rand(4 * size, generator=generator) < 0.0505).long()
        confidence = 0.5 + torch.rand(4 * size, generator=generator, dtype=torch.float64) / 2
        found = confidence_threshold_by_subset(
            labels, subsets, 0.05, probs=torch.stack([confidence, 1 - confidence], 1)
        )
        broken += any(each is not None for each in found.values())
    assert 0.01 < broken / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("max_error", [0.001, 0.01, 0.05, 0.5])
def test_the_least_number_of_accepted_predictions(max_error: float, level: float) -> None:
    least = int(min_accepted(max_error, level=level))
    assert binomial_bound(0, least, level=level) <= max_error + 1e-9
    assert least == 1 or binomial_bound(0, least - 1, level=level) > max_error


def test_wishes_at_the_ends() -> None:
    labels, probs = ranked(0, 20)
    everything = confidence_threshold(labels, 1, probs=probs)
    assert everything is not None
    assert (everything.n, everything.error, everything.bound) == (20, 1, 1)
    assert min_accepted(0) == float("inf")
    # A quarter: two right predictions have exactly the 75 % bound 1/2.
    assert min_accepted(0.5, level=0.75) == 2
    two = confidence_threshold(*ranked(2)[:1], 0.5, probs=ranked(2)[1], level=0.75)
    assert two is not None
    assert two.bound == 0.5
    for wrong in ({"max_error": 1.1}, {"max_error": 0.1, "level": 1.0}):
        with pytest.raises(InputError):
            min_accepted(**wrong)
