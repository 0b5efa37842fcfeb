from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from aradals.attacks import AttackResult, neighbors
from aradals.data import Examples
from aradals.errors import InputError
from aradals.metrics import Estimate
from aradals.robustness.audit import (
    Audit,
    RankAgreement,
    audit_scores,
    compare_with_attacks,
    describe_audit,
    rank_agreement,
    subsets_carried,
)
from aradals.robustness.scores import ScoreTable, score

N = 60


def figures(found: RankAgreement) -> dict[str, Estimate]:
    return {name: getattr(found, name) for name in ("spearman", "same_subset", "within_one", "kendall")}


def values(found: RankAgreement) -> list[float]:
    return [each.value for each in figures(found).values()]


def normal(n: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two rankings that differ by noise."""
    scores, other = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return scores, scores + noise * other


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=5, max_size=40))
def test_correlation_is_that_of_scipy_also_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = torch.tensor(pairs, dtype=torch.float64).T
    found = rank_agreement(first, second, 5)
    constant = len(first.unique()) == 1 or len(second.unique()) == 1
    for estimate, judge in {found.spearman: stats.spearmanr, found.kendall: stats.kendalltau}.items():
        expected = 0.0 if constant else judge(first, second).statistic
        assert estimate.value == pytest.approx(expected, abs=1e-12)
    for each in figures(found).values():
        assert each.low - 1e-12 <= each.value <= each.high + 1e-12


def test_subsets_by_hand() -> None:
    reference = torch.tensor([1.0, 2, 3, 4, 5, 6])
    found = rank_agreement(torch.tensor([5.0, 2, 3, 4, 1, 6]), reference, 3)
    assert found.n == 6
    assert found.same_subset.value == pytest.approx(4 / 6)
    assert found.within_one.value == pytest.approx(4 / 6)
    found = rank_agreement(torch.tensor([1.0, 3, 2, 4, 5, 6]), reference, 3)
    assert found.same_subset.value == pytest.approx(4 / 6)
    assert found.within_one.value == 1
    # Equal scores keep their order.
    assert rank_agreement(torch.zeros(6), reference, 3).same_subset.value == 1


def test_intervals_in_closed_form() -> None:
    scores, reference = normal(200, 0.5, torch.Generator().manual_seed(0))
    found = rank_agreement(scores, reference)
    rho = found.spearman.value
    half_width = stats.norm.ppf(0.975) * math.sqrt((1 + rho**2 / 2) / 197)
    assert found.spearman.low == pytest.approx(math.tanh(math.atanh(rho) - half_width))
    assert found.spearman.high == pytest.approx(math.tanh(math.atanh(rho) + half_width))
    half_width = stats.norm.ppf(0.975) * math.sqrt(0.437 / 196)
    tau = found.kendall
    assert [math.atanh(tau.low), math.atanh(tau.high)] == pytest.approx(
        [math.atanh(tau.value) - half_width, math.atanh(tau.value) + half_width]
    )
    for share in (found.same_subset, found.within_one):
        interval = stats.binomtest(round(200 * share.value), 200).proportion_ci(method="wilson")
        assert (share.low, share.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("noise", [0.05, 0.15, 0.4])
def test_intervals_cover_what_is_expected_of_as_many_examples(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    found = [figures(rank_agreement(*normal(128, noise, generator))) for _ in range(400)]
    for name in found[0]:
        expected = sum(record[name].value for record in found) / len(found)
        covered = [record[name].low <= expected <= record[name].high for record in found]
        assert sum(covered) / len(found) > 0.87


def test_equal_and_opposite_rankings() -> None:
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0))
    same, opposite = rank_agreement(scores, scores.exp() + 3), rank_agreement(scores, -scores)
    assert values(same) == pytest.approx([1, 1, 1, 1])
    assert 0.99 < same.spearman.low < 1  # not even then is it certain of other examples
    assert 0.99 < same.kendall.low < 1
    assert opposite.kendall.value == pytest.approx(-1)
    assert same.same_subset.low < 1
    assert opposite.spearman.value == pytest.approx(-1)
    assert -1 < opposite.spearman.high < -0.99
    assert opposite.same_subset.value == 0


def test_three_examples_say_nothing_of_the_correlation() -> None:
    found = rank_agreement(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 3]), 3)
    assert (found.spearman.low, found.spearman.high) == (-1, 1)
    assert (found.kendall.low, found.kendall.high) == (-1, 1)


def test_kendall_counts_the_pairs_of_more_examples_than_a_block() -> None:
    scores, reference = normal(1500, 0.7, torch.Generator().manual_seed(0))
    found = rank_agreement(scores.round(decimals=1), reference).kendall
    assert found.value == pytest.approx(stats.kendalltau(scores.round(decimals=1), reference).statistic, abs=1e-12)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("scores", "reference", "words"),
    [
        (torch.rand(20), torch.full((20,), math.inf), "finite"),
        (torch.full((20,), math.nan), torch.rand(20), "finite"),
        (torch.rand(9), torch.rand(9), "10"),
        (torch.rand(20), torch.rand(19), "same N"),
    ],
)
def test_refused(scores: Tensor, reference: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rank_agreement(scores, reference)


SWITCH = nn.Linear(3, 2)
with torch.no_grad():
    SWITCH.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    SWITCH.bias.copy_(torch.tensor([0.5, 0.0]))


def strong(model: nn.Module, inputs: Tensor, *, fails_above: float = 1.0) -> AttackResult:
    """Its norm is the first value of the input; it fails where the second is too large; `SWITCH` heeds the third."""
    success = inputs[:, 1] <= fails_above
    passes = torch.full((len(inputs),), 7)
    return AttackResult(
        adv_inputs=inputs + success[:, None] * torch.tensor([0.0, 0.0, 1.0]),
        predicted=torch.zeros_like(passes),
        score=inputs[:, 0],
        margin=inputs[:, 0],
        norm=torch.where(success, inputs[:, 0], math.inf),
        success=success,
        num_forward=passes,
        num_backward=passes - 1,
    )


@pytest.fixture
def examples() -> Examples:
    inputs = 0.01 + 0.98 * torch.rand(N, 3, generator=torch.Generator().manual_seed(0))
    inputs[:, 2] = 0
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:N]
    return Examples(inputs, torch.zeros(N, dtype=torch.int64), num_classes=2, ids=ids)


@pytest.fixture
def table(examples: Examples) -> ScoreTable:
    """Estimates, twice the strong attack's norms, in the order of their ids."""
    order = examples.ids.argsort()
    ids, inputs, _ = examples.batch(order)
    zeros = torch.zeros(N, dtype=torch.int64)
    return ScoreTable(
        ids=ids,
        predicted=zeros,
        score=2 * inputs[:, 0],
        margin=inputs[:, 0],
        norm=torch.full((N,), math.inf),
        success=zeros == 0,
        num_forward=zeros,
        num_backward=zeros,
        attack="estimate()",
    )


def audit(examples: Examples, table: ScoreTable, **settings: Any) -> Audit:
    return audit_scores(SWITCH, examples, table, **{"attacks": [strong], **settings})


def test_each_score_meets_its_own_reference(examples: Examples, table: ScoreTable) -> None:
    found = audit(examples, table)
    assert values(found.agreement) == pytest.approx([1, 1, 1, 1])
    assert found.median_ratio == pytest.approx(2)
    assert (found.agreement.n, found.num_examples, found.num_failed) == (N, N, 0)
    assert (found.num_verified, found.num_norms_reduced, found.num_reference_from_table) == (0, 0, 0)
    assert (found.mean_forward, found.mean_backward) == (8, 6)  # one to see the prediction change
    assert (found.scores_by, found.attack) == ("estimate()", "strong(fails_above=1.0)")
    backwards = torch.arange(N - 1, -1, -1)
    columns = {name: values[backwards] for name, values in vars(table).items() if name not in ("attack", "seconds")}
    again = audit(examples, ScoreTable(**columns, attack="estimate()"))  # a table that is not sorted
    assert found.seconds > 0
    assert replace(again, seconds=0) == replace(found, seconds=0)


def test_a_ranking_of_nothing_is_found_out(examples: Examples, table: ScoreTable) -> None:
    shuffled = table.score[torch.randperm(N, generator=torch.Generator().manual_seed(2))]
    found = audit(examples, replace(table, score=shuffled))
    assert found.agreement.spearman.value < 0.4
    assert found.agreement.same_subset.value < 0.4


def test_the_sample_is_random_and_repeatable(examples: Examples, table: ScoreTable) -> None:
    def sampled(seed: int) -> list[int]:
        seen: list[Tensor] = []

        def watching(model: nn.Module, inputs: Tensor) -> AttackResult:
            seen.append(inputs[:, 0])
            return strong(model, inputs)

        assert audit(examples, table, attacks=[watching], num_examples=20, seed=seed).agreement.n == 20
        return sorted((torch.cat(seen) * 1e6).long().tolist())

    assert sampled(0) == sampled(0) != sampled(1)
    assert len(set(sampled(0))) == 20


def test_only_scored_examples_are_audited(examples: Examples, table: ScoreTable) -> None:
    columns = {name: values[::2] for name, values in vars(table).items() if name not in ("attack", "seconds")}
    found = audit(examples, ScoreTable(**columns, attack="estimate()"))
    assert found.agreement.n == N // 2
    assert found.agreement.spearman.value == pytest.approx(1)


def test_failures_of_the_strong_attack_are_left_out(examples: Examples, table: ScoreTable) -> None:
    failed = examples.batch(range(N))[1][:, 1] > 0.5
    found = audit(examples, table, attacks=[partial(strong, fails_above=0.5)])
    assert found.num_failed == int(failed.sum()) > 0
    assert found.agreement.n == N - found.num_failed
    assert found.agreement.spearman.value == pytest.approx(1)
    hopeless = audit(examples, table, attacks=[partial(strong, fails_above=0.02)])
    assert hopeless.agreement == RankAgreement()
    assert not math.isfinite(hopeless.agreement.spearman.value)
    assert describe_audit(hopeless).startswith(
        "Warning: the ranking by robustness could not be audited: strong failed on"
    )


def test_the_smaller_verified_norm_is_the_reference(examples: Examples, table: ScoreTable) -> None:
    norm = table.score / 2
    norm[:10] *= 0.5  # stronger than the strong attack
    norm[10:25] *= 1.5
    norm[25:30] *= 1.005
    norm[50:] = math.inf
    found = audit(examples, replace(table, score=norm.clamp(max=10), norm=norm))
    assert found.num_verified == 50
    assert found.num_norms_reduced == 15
    assert found.num_reference_from_table == 10 + 20  # the smaller and the equal ones
    reference = (table.score / 2).minimum(norm)
    assert found.agreement.spearman.value == pytest.approx(stats.spearmanr(norm.clamp(max=10), reference).statistic)
    # Norms of another kind do not compare.
    found = audit(examples, replace(table, norm=norm / 10, attack="pgd(norm_order=inf)"))
    assert (found.num_verified, found.num_reference_from_table) == (0, 0)
    assert found.agreement.spearman.value == pytest.approx(1)


def test_a_sample_smaller_than_the_subsets_is_refused(examples: Examples, table: ScoreTable) -> None:
    with pytest.raises(InputError, match="at least 10 scored examples"):
        audit(examples, table, num_examples=9)


def test_real_attacks_agree_on_a_smooth_network() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
    inputs = torch.rand(80, 6, generator=torch.Generator().manual_seed(1))
    examples = Examples(inputs, torch.zeros(80, dtype=torch.int64), num_classes=4)
    table = score(model, inputs, "secant")
    found = audit_scores(model, examples, table, attacks=["carlini_wagner"], num_subsets=4)
    assert found.agreement.spearman.value > 0.98
    assert found.agreement.within_one.value == 1
    assert found.median_ratio == pytest.approx(1, abs=0.05)
    assert (found.num_failed, found.num_verified) == (0, 0)


def record(rho: float, same: float, n: int = 1000, **more: Any) -> Audit:
    agreement = RankAgreement(
        n,
        Estimate(rho, rho - 0.01, rho + 0.001),
        Estimate(same, same - 0.03, same + 0.02),
        Estimate(1.0, 0.995, 1.0),
        Estimate(rho - 0.02, rho - 0.04, rho - 0.01),
    )
    return replace(Audit("secant(steps=5)", "ddn(steps=100)", n, 0, 10, agreement), **more)


def test_a_good_ranking_in_words() -> None:
    assert describe_audit(record(0.998, 0.96)) == (
        "The ranking by robustness is good enough for 10 subsets: of 1000 examples drawn at random, 96.0 % (95 % "
        "interval 93.0 to 98.0) are in the same subset as with ddn, and 100.0 % (99.5 to 100.0) are in the same or a "
        "neighboring subset; Spearman's correlation is 0.998 (0.988 to 0.999), Kendall's 0.978 (0.958 to 0.988)."
    )


@pytest.mark.parametrize(("rho", "same"), [(0.94, 0.9), (0.99, 0.74)])
def test_a_poor_ranking_is_warned_of(rho: float, same: float) -> None:
    text = describe_audit(record(rho, same))
    assert text.startswith(
        "Warning: the ranking by robustness is too coarse for 10 subsets (use a slower attack, --attack secant_accurate"
    )


@pytest.mark.parametrize(("rho", "same"), [(0.955, 0.9), (0.99, 0.77)])
def test_an_audit_too_small_to_tell_says_so(rho: float, same: float) -> None:
    assert describe_audit(record(rho, same)).startswith(
        "The ranking by robustness is probably good enough for 10 subsets (a larger"
    )


def test_an_attack_is_not_compared_with_itself() -> None:
    assert describe_audit(record(1.0, 1.0, scores_by="ddn(steps=100)")).startswith(
        "The ranking by robustness was not audited"
    )


def test_failures_and_norms_that_were_too_large_are_told() -> None:
    text = describe_audit(record(0.998, 0.96, num_failed=3, num_verified=900, num_norms_reduced=120))
    assert "ddn found a norm smaller by more than 1 % for 120 of 900 verified norms." in text
    assert text.endswith("3 examples are left out, because ddn failed on them.")
    assert "left out" not in describe_audit(record(0.998, 0.96))


class TestSeveralAttacks:
    def test_the_smallest_norm_is_the_reference(self, examples: Examples, table: ScoreTable) -> None:
        """The second attack is stronger on every other example, and fails on all others."""
        weaker = 0.9 + 0.1 * torch.rand(N, generator=torch.Generator().manual_seed(3))
        best = score(SWITCH, examples.batches(), strong)
        factor = torch.where(torch.arange(N) % 2 == 0, 0.3, math.inf)
        second = replace(best, norm=best.norm * factor, attack="second()")
        found = compare_with_attacks(table, [replace(best, norm=best.norm / weaker), second])
        reference = (best.norm / weaker).minimum(second.norm)
        assert found.attack_names == "strong and second"
        assert found.agreement == rank_agreement(table.score, reference)
        assert found.first_alone == rank_agreement(best.norm / weaker, reference)
        assert found.num_failed == 0
        assert found.mean_forward == 2 * best.num_forward.double().mean()

    def test_failures_of_both_are_left_out(self, examples: Examples, table: ScoreTable) -> None:
        best = score(SWITCH, examples.batches(), strong)
        lost = [torch.where(best.ids % divisor == 0, math.inf, best.norm) for divisor in (2, 3)]
        found = compare_with_attacks(table, [replace(best, norm=norm) for norm in lost])
        assert found.num_failed == int((best.ids % 6 == 0).sum()) > 0
        assert found.agreement.spearman.value == pytest.approx(1)
        assert found.first_alone.spearman.value < 0.8

    def test_a_coarse_ranking_carries_fewer_subsets(self) -> None:
        exact = torch.arange(1000.0)
        coarse = exact + 150 * torch.rand(1000, generator=torch.Generator().manual_seed(0))
        count = subsets_carried(coarse, exact, 10)
        assert 2 < count < 10
        assert rank_agreement(coarse, exact, count).same_subset.value >= 0.75
        assert rank_agreement(coarse, exact, count + 1).same_subset.value < 0.75
        assert subsets_carried(exact, exact, 10) == 10
        assert subsets_carried(torch.rand(1000, generator=torch.Generator().manual_seed(1)), exact, 10) == 1

    def test_in_words(self) -> None:
        text = describe_audit(record(0.9, 0.5, num_carried=4, attack="ddn(steps=100) and neighbors(steps=6)"))
        assert "are in the same subset as with ddn and neighbors" in text
        assert text.endswith(" This ranking carries 4 subsets.")
        assert "no subsets at all" in describe_audit(record(0.9, 0.5))
        unsure = record(0.99, 0.9, attack="ddn(steps=100) and neighbors(steps=6)")
        unsure = replace(unsure, first_alone=record(0.9, 0.6).agreement)
        assert describe_audit(unsure).endswith(
            "The reference is uncertain itself: ddn alone puts only 60.0 % (57.0 to 62.0) into the same subset as all "
            "attacks together."
        )


def test_an_audit_sees_what_gradients_hide() -> None:
    """Two moons with flat regions, and the distances by brute force on a grid."""
    model, inputs = flat_moons()
    grid = torch.cartesian_prod(torch.linspace(0, 1, 400), torch.linspace(0, 1, 400))
    classes, predicted = model(grid).argmax(1), model(inputs).argmax(1)
    pairs = zip(inputs, predicted, strict=True)
    exact = torch.stack([(grid[classes != own] - x).norm(dim=1).min() for x, own in pairs])
    best = score(model, inputs, neighbors)
    assert (best.norm >= exact - 0.004).all()  # the grid is that coarse
    assert rank_agreement(best.norm, exact).same_subset.value >= 0.85
    examples = Examples(inputs, predicted, num_classes=2)
    found = audit_scores(model, examples, score(model, inputs, num_starts=0))
    assert found.attack_names == "ddn and neighbors"
    assert describe_audit(found).startswith("Warning: the ranking by robustness is too coarse for 10 subsets")
    assert "may rank better (--attack-args '{num_starts: 3}')" in describe_audit(found)
    assert "ddn alone puts only" in describe_audit(found)
    better = score(model, inputs)
    assert "num_starts=3, starts=Starts(50 examples" in better.attack
    assert rank_agreement(better.ranking, exact).same_subset.value >= 0.9
    assert "good enough" in describe_audit(audit_scores(model, examples, better))


def flat_moons() -> tuple[nn.Module, Tensor]:
    """A network with label smoothing on two moons, and 200 examples in [0, 1]."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(1000, noise=0.1, random_state=0)
    inputs = torch.tensor(0.1 + 0.8 * (points - points.min(0)) / np.ptp(points, 0), dtype=torch.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(600):
        optimizer.zero_grad()
        torch.autograd.backward(
            nn.functional.cross_entropy(model(inputs[:800]), torch.tensor(labels[:800]), label_smoothing=0.1)
        )
        optimizer.step()
    return model.requires_grad_(False).eval(), inputs[800:]
