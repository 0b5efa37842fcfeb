"""The update against hand-computed numbers, known fixed points of a simulated plant, and scikit-learn."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from aradals.errors import InputError
from aradals.smoothing.update_rules import (
    Measurement,
    TargetState,
    UpdateRule,
    average_gaps,
    default_update_rate,
    isotonic_regression,
    measure,
    shrink_gaps,
    update_target_prob,
)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def measured(gap: Tensor, *, accuracy: float = 0.0, error: float = 0.02, count: Tensor | None = None) -> Measurement:
    """Subsets of given gaps, of 500 examples each unless said."""
    count = torch.full_like(gap, 500) if count is None else count
    blank = torch.where(count > 0, 0.0, torch.nan).double()
    return Measurement(gap + accuracy + blank, accuracy + blank, error + blank, count)


def state_of(*targets: float) -> TargetState:
    return replace(TargetState.initial(len(targets)), target_prob=vector(*targets))


def step(state: TargetState, measurement: Measurement, rule: UpdateRule, num_classes: int = 10) -> list[float]:
    return update_target_prob(state, measurement, rule, num_classes).target_prob.tolist()


class TestMeasure:
    def test_by_hand(self) -> None:
        found = measure(vector(0.9, 0.7, 0.6), vector(1, 0, 1), torch.tensor([0, 0, 2]), 3)
        nan = math.nan
        assert found.confidence.tolist() == pytest.approx([0.8, nan, 0.6], nan_ok=True)
        assert found.accuracy.tolist() == pytest.approx([0.5, nan, 1.0], nan_ok=True)
        assert found.gap.tolist() == pytest.approx([0.3, nan, -0.4], nan_ok=True)
        # sqrt(.9 .1 + .7 .3)/2 and sqrt(.6 .4)/1
        assert found.standard_error.tolist() == pytest.approx([0.3**0.5 / 2, nan, 0.24**0.5], nan_ok=True)
        assert found.count.tolist() == [2, 0, 1]

    def test_standard_error_is_the_spread_of_the_gap_of_a_calibrated_model(self) -> None:
        generator = torch.Generator().manual_seed(0)
        confidence = torch.rand(50, dtype=torch.float64, generator=generator)
        gaps, subsets = [], torch.zeros(50, dtype=torch.int64)
        for _ in range(4000):
            correct = (torch.rand(50, dtype=torch.float64, generator=generator) < confidence).double()
            gaps.append(measure(confidence, correct, subsets, 1).gap)
        expected = measure(confidence, correct, subsets, 1).standard_error.item()
        assert torch.cat(gaps).std().item() == pytest.approx(expected, rel=0.05)


class TestThePapersRule:
    def test_by_hand(self) -> None:
        # p - α (conf - acc): .95 - .5 (.9 - .6) = .80;  .95 - .5 (.9 - .95) = .975;  1 - .5 (.8 - .9) > 1, clipped.
        measurement = Measurement(vector(0.9, 0.9, 0.8), vector(0.6, 0.95, 0.9), vector(0, 0, 0), vector(9, 9, 9))
        assert step(state_of(0.95, 0.95, 1), measurement, UpdateRule(0.5, leak=0)) == pytest.approx(
            [0.8, 0.975, 1.0], rel=1e-15
        )

    @given(st.data())
    def test_to_the_bit(self, data: st.DataObject) -> None:
        num_subsets, num_classes = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 100))
        numbers = st.lists(st.floats(0, 1), min_size=num_subsets, max_size=num_subsets)
        confidence, accuracy = (vector(*data.draw(numbers)) for _ in range(2))
        target_prob = vector(*data.draw(numbers)).clamp(1 / num_classes, 1)
        alpha = data.draw(st.floats(0, 2))
        state = replace(TargetState.initial(num_subsets), target_prob=target_prob)
        measurement = Measurement(confidence, accuracy, confidence, torch.ones(num_subsets))
        updated = update_target_prob(state, measurement, UpdateRule(alpha, leak=0), num_classes).target_prob
        assert updated.equal((target_prob - alpha * (confidence - accuracy)).clamp(1 / num_classes, 1.0))

    def test_not_below_even_odds(self) -> None:
        assert step(state_of(0.3), measured(vector(1.0)), UpdateRule(1.0), num_classes=4) == [0.25]


class TestLeak:
    def test_by_hand(self) -> None:
        # mean p = .8; p - .5 (gap + .3 (p - .8)): .9 - .5 (.1 + .03) = .835;  .7 - .5 (0 - .03) = .715
        assert step(state_of(0.9, 0.7), measured(vector(0.1, 0)), UpdateRule(0.5)) == pytest.approx([0.835, 0.715])

    def test_the_mean_is_over_examples(self) -> None:
        # mean p = (3 * .9 + 1 * .5)/4 = .8
        measurement = measured(vector(0, 0), count=vector(300, 100))
        assert step(state_of(0.9, 0.5), measurement, UpdateRule(0.5, leak=1)) == pytest.approx([0.85, 0.65])


class TestHybrid:
    def test_by_hand(self) -> None:
        # level 1 - .5 * .1 = .95; p = .95 - 2 (gap - .1)
        updated = update_target_prob(
            state_of(0.3, 0.4), measured(vector(0.15, 0.05)), UpdateRule(0.5, proportional_gain=2), num_classes=10
        )
        assert updated.level.item() == pytest.approx(0.95)
        assert updated.target_prob.tolist() == pytest.approx([0.85, 1.0])

    def test_the_level_takes_gaps_as_they_are_and_the_shape_their_average(self) -> None:
        rule = UpdateRule(0.5, proportional_gain=1, averaging=0.75)
        state = update_target_prob(TargetState.initial(2), measured(vector(0.3, 0.1)), rule, 10)
        state = update_target_prob(state, measured(vector(0.1, 0.1)), rule, 10)
        # Levels .9 and .85; averages .75 .3 + .25 .1 = .25 and .1, around .175.
        assert state.level.item() == pytest.approx(0.85)
        assert state.target_prob.tolist() == pytest.approx([0.85 - 0.075, 0.85 + 0.075])

    def test_without_a_proportional_gain_of_its_own_all_targets_are_the_level(self) -> None:
        state = update_target_prob(
            TargetState.initial(3), measured(vector(0.3, 0.2, 0.1)), UpdateRule(proportional_gain=0), 10
        )
        assert state.target_prob.tolist() == pytest.approx([0.98] * 3)


class TestAveraging:
    def test_starts_with_the_first_gap(self) -> None:
        state, rule = TargetState.initial(1), UpdateRule(0.5, leak=0, averaging=0.7)
        for gap in (0.2, 0.1):
            state = update_target_prob(state, measured(vector(gap)), rule, 10)
        # 1 - .5 * .2, then .7 * .2 + .3 * .1 = .17
        assert state.average_gap.item() == pytest.approx(0.17)
        assert state.target_prob.item() == pytest.approx(0.9 - 0.5 * 0.17)

    @pytest.mark.parametrize("weight", [0.5, 0.7])
    def test_leaves_the_known_share_of_the_variance(self, weight: float) -> None:
        gaps = torch.randn(600, 2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        average = torch.full((2000,), math.nan, dtype=torch.float64)
        settled = []
        for epoch, gap in enumerate(gaps):
            average = average_gaps(average, gap, weight)
            if epoch >= 50:
                settled.append(average)
        assert torch.stack(settled).var().item() == pytest.approx((1 - weight) / (1 + weight), rel=0.01)

    def test_an_empty_subset_keeps_its_average(self) -> None:
        nan = math.nan
        updated = average_gaps(vector(0.2, nan, nan), vector(nan, nan, 0.3), 0.7)
        assert updated.tolist() == pytest.approx([0.2, nan, 0.3], nan_ok=True)


class TestShrinkage:
    def test_by_hand(self) -> None:
        # Mean .2; variance (.01 + .01 + 0)/2 = .01; errors .0036 .0036 .0018, mean .003; τ² = .007.
        measurement = Measurement(
            vector(0.1, 0.3, 0.2), vector(0, 0, 0), vector(0.0036, 0.0036, 0.0018).sqrt(), vector(50, 50, 50)
        )
        weight = 0.007 / (0.007 + 0.0036)
        expected = [0.2 - 0.1 * weight, 0.2 + 0.1 * weight, 0.2]
        assert shrink_gaps(measurement.gap, measurement).tolist() == pytest.approx(expected, rel=1e-12)

    def test_towards_the_gap_of_all_examples(self) -> None:
        measurement = measured(vector(0.1, 0.2), error=1.0, count=vector(300, 100))
        assert shrink_gaps(measurement.gap, measurement).tolist() == pytest.approx([0.125, 0.125])

    def test_pools_what_is_all_noise_and_keeps_what_is_none(self) -> None:
        gap = vector(0.08, 0.12, 0.1, 0.11)
        assert shrink_gaps(gap, measured(gap, error=0.02)).tolist() == pytest.approx([0.1025] * 4)
        assert shrink_gaps(gap, measured(gap, error=1e-6)).tolist() == pytest.approx(gap.tolist(), abs=1e-8)
        assert shrink_gaps(gap, measured(gap, error=0.0)).tolist() == pytest.approx(gap.tolist())

    def test_comes_closer_to_the_truth_than_the_gaps_themselves(self) -> None:
        generator = torch.Generator().manual_seed(0)
        lost_raw, lost_shrunk = [], []
        for _ in range(200):
            truth = 0.1 + 0.02 * torch.randn(10, dtype=torch.float64, generator=generator)
            gap = truth + 0.02 * torch.randn(10, dtype=torch.float64, generator=generator)
            lost_raw.append((gap - truth).square().mean().item())
            lost_shrunk.append((shrink_gaps(gap, measured(gap, error=0.02)) - truth).square().mean().item())
        # With the two variances known it would be half.
        assert np.mean(lost_shrunk) < 0.7 * np.mean(lost_raw)

    def test_empty_subsets_do_not_count(self) -> None:
        some = measured(vector(0.1, 0.9, 0.3), error=0.05, count=vector(100, 0, 100))
        both = measured(vector(0.1, 0.3), error=0.05, count=vector(100, 100))
        assert shrink_gaps(some.gap, some)[[0, 2]].tolist() == shrink_gaps(both.gap, both).tolist()
        assert step(state_of(0.9, 0.8, 0.7), some, UpdateRule(leak=0, shrink=True))[1] == 0.8


class TestMonotone:
    @given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 1000)), min_size=1, max_size=15))
    def test_equals_scikit_learn(self, pairs: list[tuple[float, int]]) -> None:
        values, weights = np.array(pairs, dtype=np.float64).T
        expected = IsotonicRegression().fit_transform(np.arange(len(values)), values, sample_weight=weights)
        found = isotonic_regression(torch.from_numpy(values.copy()), torch.from_numpy(weights.copy()))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-15)

    def test_leaves_what_does_not_fall(self) -> None:
        values = vector(0.1, 0.3, 0.3, 0.7)
        assert isotonic_regression(values, torch.ones(4)).equal(values)

    def test_targets_weighted_by_size(self) -> None:
        # Updated to .8 and .6: pooled to (300 * .8 + 100 * .6)/400 = .75.
        measurement = measured(vector(0.1, 0.3, 0), count=vector(300, 100, 100))
        rule = UpdateRule(1.0, leak=0, monotone=True)
        assert step(state_of(0.9, 0.9, 0.9), measurement, rule) == pytest.approx([0.75, 0.75, 0.9])


class TestFloor:
    def test_no_target_below_the_accuracy(self) -> None:
        measurement = Measurement(vector(0.9, 0.9), vector(0.7, 0.4), vector(0, 0), vector(9, 9))
        assert step(state_of(0.7, 0.7), measurement, UpdateRule(1.0, leak=0, floor=True)) == pytest.approx([0.7, 0.4])
        assert step(state_of(0.7, 0.7), measurement, UpdateRule(0.1, leak=0, floor=True)) == pytest.approx([0.7, 0.65])

    @given(st.data())
    def test_holds_together_with_monotone(self, data: st.DataObject) -> None:
        numbers = st.lists(st.floats(0.1, 1), min_size=6, max_size=6)
        accuracy = vector(*data.draw(numbers))
        measurement = Measurement(vector(*data.draw(numbers)), accuracy, vector(*[0] * 6), vector(*[9] * 6))
        rule = UpdateRule(0.5, floor=True, monotone=True)
        updated = vector(*step(state_of(*data.draw(numbers)), measurement, rule))
        assert (updated >= accuracy).all()
        assert (updated.diff() >= 0).all()
        assert (updated <= 1).all()


class TestEmptySubsets:
    empty = measured(vector(0.2, 0, 0.1), count=vector(100, 0, 100))

    @pytest.mark.parametrize("rule", [UpdateRule(leak=0), UpdateRule(leak=0, averaging=0.5, shrink=True, floor=True)])
    def test_keep_their_target(self, rule: UpdateRule) -> None:
        assert step(state_of(0.9, 0.8, 0.9), self.empty, rule)[1] == 0.8

    def test_but_for_the_leak(self) -> None:
        assert step(state_of(0.9, 0.8, 0.9), self.empty, UpdateRule(0.5, leak=1))[1] == pytest.approx(0.85)

    def test_have_the_common_level_of_the_hybrid_rule(self) -> None:
        assert step(state_of(0.9, 0.8, 0.9), self.empty, UpdateRule(0.1, proportional_gain=1))[1] == pytest.approx(
            0.985
        )

    def test_go_where_their_neighbors_are_when_monotone(self) -> None:
        measurement = measured(vector(0, 0, 0), count=vector(1e9, 0, 1e9))
        found = step(state_of(0.6, 0.2, 0.9), measurement, UpdateRule(0, monotone=True))
        assert found == pytest.approx([0.6, 0.6, 0.9])


class Plant:
    """A training in which a subset's gap answers to its neighbors' targets nearly as much as to its own.

    gap = G (p - p*) with G a smoothing of weak gain: p*, known, would calibrate every subset. What is measured is off
    by the sampling error of the validation subsets, the same in every epoch.
    """

    best = torch.linspace(0.7, 0.95, 10, dtype=torch.float64)

    def __init__(self, seed: int = 0, *, error: float = 0.02) -> None:
        position = torch.arange(10, dtype=torch.float64)
        coupling = torch.exp(-((position[:, None] - position) ** 2) / (2 * 3.0**2))
        self.response = 0.5 * coupling / coupling.sum(1, keepdim=True)
        generator = torch.Generator().manual_seed(seed)
        self.offset = error * torch.randn(10, dtype=torch.float64, generator=generator)

    def gap(self, target_prob: Tensor) -> Tensor:
        return self.response @ (target_prob - self.best)

    def train(self, rule: UpdateRule, updates: int = 200) -> TargetState:
        state = TargetState.initial(10)
        for _ in range(updates):
            state = update_target_prob(state, measured(self.gap(state.target_prob) + self.offset), rule, num_classes=10)
        return state


def trained(rule: UpdateRule, updates: int = 200) -> tuple[float, float, float]:
    """Share of targets at a bound, mean distance from the best, mean absolute gap; over eight validation splits."""
    plants = [Plant(seed) for seed in range(8)]
    targets = [plant.train(rule, updates).target_prob for plant in plants]
    gaps = torch.stack([plant.gap(target) for plant, target in zip(plants, targets, strict=True)])
    found = torch.stack(targets)
    at_bound = ((found <= 0.1) | (found >= 1)).double().mean().item()
    return at_bound, (found - Plant.best).abs().mean().item(), gaps.abs().mean().item()


class TestCoupledSubsets:
    def test_the_plain_rule_winds_up_when_it_is_brisk(self) -> None:
        at_bound, distance, gap = trained(UpdateRule(0.3, leak=0))
        assert at_bound > 0.5
        assert distance > 0.2
        assert gap > 0.013
        targets = Plant().train(UpdateRule(0.3, leak=0)).target_prob
        assert targets.min() < 0.2
        assert (targets == 1).sum() >= 5

    @pytest.mark.parametrize(
        ("rule", "largest_gap"),
        [
            (UpdateRule(0.3), 0.013),
            (UpdateRule(0.3, leak=1), 0.018),
            (UpdateRule(0.3, proportional_gain=1), 0.018),
            (UpdateRule(0.3, proportional_gain=1, averaging=0.7), 0.018),
            (UpdateRule(0.3, shrink=True), 0.018),
            (UpdateRule(0.3, leak=0, monotone=True), 0.009),
        ],
        ids=str,
    )
    def test_the_others_do_not(self, rule: UpdateRule, largest_gap: float) -> None:
        at_bound, distance, gap = trained(rule)
        assert at_bound < 0.1
        assert distance < 0.07
        assert gap < largest_gap

    def test_shrinkage_alone_delays_it(self) -> None:
        plain, shrunk = trained(UpdateRule(0.3, leak=0)), trained(UpdateRule(0.3, leak=0, shrink=True))
        assert shrunk[0] < plain[0] / 3
        assert shrunk[2] < plain[2]
        assert trained(UpdateRule(0.3, leak=0, shrink=True), updates=1000)[0] > shrunk[0]

    @pytest.mark.parametrize("leak", [0.3, 1.0])
    def test_where_the_leak_rests(self, leak: float) -> None:
        plant = Plant(3, error=0.01)
        targets = plant.train(UpdateRule(0.3, leak=leak), updates=3000).target_prob
        gap = plant.gap(targets) + plant.offset
        assert torch.allclose(gap, -leak * (targets - targets.mean()), rtol=0, atol=1e-12)
        # G (p - p*) + o + λ (I - 11ᵀ/R) p = 0
        centring = torch.eye(10, dtype=torch.float64) - 0.1
        expected = torch.linalg.solve(plant.response + leak * centring, plant.response @ plant.best - plant.offset)
        assert (expected < 1).all()
        assert torch.allclose(targets, expected, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("averaging", [0.0, 0.7])
    def test_where_the_hybrid_rule_rests(self, averaging: float) -> None:
        plant = Plant(3, error=0.01)
        state = plant.train(UpdateRule(0.3, proportional_gain=1, averaging=averaging), updates=3000)
        gap = plant.gap(state.target_prob) + plant.offset
        assert abs(gap.mean().item()) < 1e-12
        assert torch.allclose(state.target_prob, state.level - gap, rtol=0, atol=1e-12)
        # The same place as with a leak of 1/β.
        leaky = plant.train(UpdateRule(0.3, leak=1), updates=3000)
        assert torch.allclose(state.target_prob, leaky.target_prob, rtol=0, atol=1e-10)


def run(rule: UpdateRule, gaps: Tensor) -> Tensor:
    state, courses = TargetState.initial(1), []
    for gap in gaps:
        state = update_target_prob(state, measured(gap[None], accuracy=0.9), rule, num_classes=10)
        courses.append(state.target_prob)
    return torch.cat(courses)


class TestOneSubset:
    """Every rule is AdaLS, to the bit, but for the floor, and for averaging where the average is integrated."""

    gaps = 0.3 * torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.02
    adals = run(UpdateRule(0.3, leak=0), gaps)

    def test_is_adals(self) -> None:
        flags = [False, True]
        for settings in itertools.product([0.0, 0.3], [None, 0.0, 2.0], [0.0, 0.7], flags, [False], flags):
            rule = UpdateRule(0.3, *settings)
            is_averaged = rule.averaging > 0 and rule.proportional_gain is None
            assert run(rule, self.gaps).equal(self.adals) == (not is_averaged), rule

    def test_floor_is_not(self) -> None:
        found = run(UpdateRule(0.3, leak=0, floor=True), self.gaps)
        assert found.min() == 0.9
        assert self.adals.min() < 0.9


class TestSettings:
    def test_default_rate(self) -> None:
        assert [default_update_rate(n) for n in (1, 60, 120, 200)] == [0.1, 0.1, 0.05, 0.03]

    def test_a_rate_for_a_schedule(self) -> None:
        rule = UpdateRule("auto", leak=0.5, monotone=True)
        assert rule.for_updates(120) == UpdateRule(0.05, leak=0.5, monotone=True)
        assert UpdateRule(0.4).for_updates(120) == UpdateRule(0.4)

    def test_auto_has_to_be_resolved(self) -> None:
        with pytest.raises(InputError, match=r"rate='auto'.*try rule.for_updates\(num_updates\)"):
            step(state_of(1.0), measured(vector(0.1)), UpdateRule("auto"))

    @pytest.mark.parametrize(
        "setting",
        [
            {"rate": -0.1}, {"rate": math.nan}, {"rate": "fast"}, {"leak": -1}, {"leak": math.inf},
            {"proportional_gain": -1}, {"averaging": 1.0}, {"averaging": -0.1},
        ],
    )  # fmt: skip
    def test_impossible_settings_are_refused(self, setting: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=str(*setting)):
            UpdateRule(**setting)
