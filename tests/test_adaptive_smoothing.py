"""The method against hand-computed numbers, torch's own losses, and properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from aradals import (
    AdaptiveSmoothing,
    InputError,
    assign_subsets,
    smoothing_to_target_prob,
    soft_cross_entropy,
    soft_targets,
    target_prob_to_smoothing,
    update_target_prob,
)


def logits_with_confidence(confidence: float, predicted: int, num_classes: int) -> torch.Tensor:
    """Logits whose softmax is ``confidence`` for one class, the rest even."""
    probs = torch.full((num_classes,), (1 - confidence) / (num_classes - 1), dtype=torch.float64)
    probs[predicted] = confidence
    return probs.log()


class TestAssignSubsets:
    def test_least_robust_are_subset_zero(self) -> None:
        assert assign_subsets(torch.tensor([0.9, 0.1, 0.5, 0.2]), 2).tolist() == [1, 0, 1, 0]

    def test_ties_are_broken_by_id(self) -> None:
        scores, ids = torch.zeros(4), torch.tensor([30, 10, 40, 20])
        assert assign_subsets(scores, 2, ids).tolist() == [1, 0, 1, 0]

    @given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.data())
    def test_sizes_are_equal_and_order_is_kept(self, scores: list[float], data: st.DataObject) -> None:
        num_subsets = data.draw(st.integers(1, len(scores)))
        subsets = assign_subsets(torch.tensor(scores, dtype=torch.float64), num_subsets)
        sizes = torch.bincount(subsets, minlength=num_subsets)
        assert sizes.max() - sizes.min() <= 1
        for lower in range(num_subsets - 1):
            below = [s for s, r in zip(scores, subsets.tolist(), strict=True) if r == lower]
            above = [s for s, r in zip(scores, subsets.tolist(), strict=True) if r == lower + 1]
            assert max(below) <= min(above)

    def test_independent_of_order(self) -> None:
        scores, ids = torch.rand(50).round(decimals=1), torch.arange(50)
        order = torch.randperm(50)
        assert assign_subsets(scores[order], 7, ids[order]).equal(assign_subsets(scores, 7, ids)[order])

    def test_a_split_smaller_than_the_number_of_subsets(self) -> None:
        with pytest.raises(InputError, match=r"from 1 to 3 subsets.*num_subsets=10"):
            assign_subsets(torch.rand(3), 10)

    def test_infinite_norms_are_not_scores(self) -> None:
        with pytest.raises(InputError, match=r"finite scores.*`norm`"):
            assign_subsets(torch.tensor([0.1, math.inf]), 2)


class TestTargets:
    def test_rows(self) -> None:
        targets = soft_targets(torch.tensor([1, 0]), torch.tensor([0.7, 1.0]), num_classes=4)
        assert torch.allclose(targets, torch.tensor([[0.1, 0.7, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0]]))

    @given(st.integers(2, 50), st.floats(0, 1))
    def test_sum_to_one_and_true_class_is_never_below(self, num_classes: int, position: float) -> None:
        target_prob = 1 / num_classes + position * (1 - 1 / num_classes)
        row = soft_targets(torch.tensor([1]), torch.tensor([target_prob], dtype=torch.float64), num_classes)[0]
        assert row.sum().item() == pytest.approx(1)
        assert row[1] >= row[0] - 1e-12

    @given(st.integers(2, 1000), st.floats(0, 1))
    def test_smoothing_and_target_prob_are_inverse(self, num_classes: int, smoothing: float) -> None:
        target_prob = smoothing_to_target_prob(smoothing, num_classes)
        assert target_prob == pytest.approx(1 - smoothing + smoothing / num_classes)
        assert target_prob_to_smoothing(target_prob, num_classes) == pytest.approx(smoothing, abs=1e-12)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
    def test_loss_equals_torch_label_smoothing(self, smoothing: float) -> None:
        logits, labels = torch.randn(9, 5, dtype=torch.float64), torch.randint(5, (9,))
        target_prob = torch.full((9,), smoothing_to_target_prob(smoothing, 5), dtype=torch.float64)
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert soft_cross_entropy(logits, labels, target_prob).item() == pytest.approx(expected.item(), rel=1e-12)

    def test_loss_and_gradient_equal_the_textbook_form(self) -> None:
        labels, target_prob = torch.randint(7, (20,)), 1 / 7 + torch.rand(20, dtype=torch.float64) * 6 / 7
        logits = torch.randn(20, 7, dtype=torch.float64, requires_grad=True)
        textbook = F.cross_entropy(logits, soft_targets(labels, target_prob, 7))
        ours = soft_cross_entropy(logits, labels, target_prob)
        assert ours.item() == pytest.approx(textbook.item(), rel=1e-12)
        (gradient,) = torch.autograd.grad(ours, logits)
        (expected,) = torch.autograd.grad(textbook, logits)
        assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-15)


class TestUpdate:
    def test_the_papers_rule_by_hand(self) -> None:
        # p - α (conf - acc): .95 - .5 (.9 - .6) = .80;  .95 - .5 (.9 - .95) = .975;  1 - .5 (.8 - .9) > 1, clipped.
        updated = update_target_prob(
            torch.tensor([0.95, 0.95, 1.0], dtype=torch.float64),
            torch.tensor([0.9, 0.9, 0.8], dtype=torch.float64),
            torch.tensor([0.6, 0.95, 0.9], dtype=torch.float64),
            num_classes=10,
            update_rate=0.5,
        )
        assert updated.tolist() == pytest.approx([0.8, 0.975, 1.0], rel=1e-15)

    def test_the_leak_by_hand(self) -> None:
        # mean p = .8; p - .5 (gap + .3 (p - .8)): .9 - .5 (.1 + .03) = .835;  .7 - .5 (0 - .03) = .715
        updated = update_target_prob(
            torch.tensor([0.9, 0.7], dtype=torch.float64),
            torch.tensor([0.8, 0.6], dtype=torch.float64),
            torch.tensor([0.7, 0.6], dtype=torch.float64),
            num_classes=10,
            update_rate=0.5,
            leak=0.3,
        )
        assert updated.tolist() == pytest.approx([0.835, 0.715], rel=1e-15)

    def test_targets_stop_at_uniform(self) -> None:
        updated = update_target_prob(
            torch.tensor([0.3]), torch.tensor([1.0]), torch.tensor([0.0]), num_classes=4, update_rate=1.0
        )
        assert updated.tolist() == [0.25]

    def test_an_empty_subset_keeps_its_target(self) -> None:
        updated = update_target_prob(
            torch.tensor([0.9]), torch.tensor([math.nan]), torch.tensor([math.nan]), num_classes=4, update_rate=1.0
        )
        assert updated.tolist() == pytest.approx([0.9])

    def test_plain_rule_winds_up_on_coupled_subsets_and_leak_does_not(self) -> None:
        """A plant in which a subset's gap answers to its neighbours' targets nearly as much as to its own."""
        position = torch.arange(10, dtype=torch.float64)
        coupling = torch.exp(-((position[:, None] - position) ** 2) / (2 * 3.0**2))
        coupling /= coupling.sum(1, keepdim=True)
        over_confidence = torch.tensor(
            [0.06, 0.08, 0.13, 0.13, 0.18, 0.13, 0.09, 0.05, 0.03, 0.01], dtype=torch.float64
        )

        def final_targets(leak: float) -> torch.Tensor:
            target_prob = torch.ones(10, dtype=torch.float64)
            for _ in range(2000):
                gap = over_confidence + 0.5 * coupling @ (target_prob - 1)
                target_prob = update_target_prob(
                    target_prob, gap, torch.zeros_like(gap), num_classes=10, update_rate=0.3, leak=leak
                )
            return target_prob

        plain, leaky = final_targets(leak=0.0), final_targets(leak=0.3)
        assert plain.min() == 0.1
        assert (plain == 1).sum() >= 5
        assert leaky.min() > 0.5
        assert (leaky < 1).all()


class TestAdaptiveSmoothing:
    def test_update_measures_each_subset(self) -> None:
        # Subset 0: confidences .9 and .7, one right of two: gap .8 - .5 = .3. Subset 1: .6, right: gap -.4.
        criterion = AdaptiveSmoothing(3, 2, update_rate=0.5, initial_target_prob=0.8, leak=0.0)
        logits = torch.stack([logits_with_confidence(c, k, 3) for c, k in ((0.9, 0), (0.7, 1), (0.6, 2))])
        updated = criterion.update(logits, torch.tensor([0, 2, 2]), torch.tensor([0, 0, 1]))
        assert updated.tolist() == pytest.approx([0.8 - 0.5 * 0.3, 1.0], rel=1e-12)
        (step,) = criterion.history
        assert step["confidence"] == pytest.approx([0.8, 0.6], rel=1e-12)
        assert step["accuracy"] == [0.5, 1.0]
        assert step["n"] == [2, 1]
        assert step["target_prob"] == [0.8, 0.8]

    def test_starts_as_cross_entropy(self) -> None:
        logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
        loss = AdaptiveSmoothing(10, 4)(logits, labels, torch.randint(4, (8,)))
        assert loss.item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)

    def test_each_example_has_the_target_of_its_subset(self) -> None:
        criterion = AdaptiveSmoothing(4, 2)
        criterion.target_prob.copy_(torch.tensor([0.6, 1.0]))
        logits, labels = torch.randn(2, 4), torch.tensor([3, 1])
        expected = F.cross_entropy(logits, soft_targets(labels, torch.tensor([1.0, 0.6]), 4))
        assert criterion(logits, labels, torch.tensor([1, 0])).item() == pytest.approx(expected.item(), rel=1e-6)

    def test_one_subset_needs_no_subsets_and_several_do(self) -> None:
        logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
        AdaptiveSmoothing(10, 1).update(logits, labels)
        criterion = AdaptiveSmoothing(10, 4)
        with pytest.raises(InputError, match=r"num_subsets=4.*assign_subsets"):
            criterion.update(logits, labels)
        assert criterion.history == []

    def test_without_subsets_all_targets_are_one(self) -> None:
        """To the bit, with a leak too: the mean of ten equal targets is not always equal to them."""
        single, several = (AdaptiveSmoothing(7, r, update_rate=0.37, leak=0.3) for r in (1, 10))
        labels = torch.randint(7, (45,))
        for _ in range(20):
            logits = 3 * torch.randn(45, 7)
            assert several(logits, labels).equal(single(logits, labels))
            assert several.update_as_one(logits, labels).tolist() == single.update(logits, labels).tolist() * 10
        assert single.target_prob < 1
        for ours, theirs in zip(several.history, single.history, strict=True):
            assert ours == {key: values * 10 for key, values in theirs.items()}

    def test_subsets_go_on_from_the_common_target_and_cannot_be_forgotten_again(self) -> None:
        criterion = AdaptiveSmoothing(3, 2, update_rate=0.5, leak=0.0)
        logits = torch.stack([logits_with_confidence(0.9, 0, 3)] * 2)
        labels, subsets = torch.tensor([0, 1]), torch.tensor([1, 0])
        assert criterion.update_as_one(logits, labels).tolist() == pytest.approx([0.8, 0.8])  # 1 - .5 (.9 - .5)
        # Subset 1 is right: .8 - .5 (.9 - 1) = .85. Subset 0 is wrong: .8 - .5 (.9 - 0) = .35.
        assert criterion.update(logits, labels, subsets).tolist() == pytest.approx([0.35, 0.85])
        for forgotten in (criterion, criterion.update_as_one):
            with pytest.raises(InputError, match=r"targets differ.*assign_subsets"):
                forgotten(logits, labels)
        assert len(criterion.history) == 2

    def test_update_rate_zero_is_label_smoothing(self) -> None:
        criterion = AdaptiveSmoothing(10, 1, update_rate=0, initial_target_prob=smoothing_to_target_prob(0.1, 10))
        logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
        criterion.update(5 * logits, labels)
        expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
        assert criterion(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_state_dict_resumes_exactly(self) -> None:
        criterion, resumed = AdaptiveSmoothing(5, 3), AdaptiveSmoothing(5, 3)
        labels, subsets = torch.randint(5, (30,)), torch.arange(30) % 3
        criterion.update(4 * torch.randn(30, 5), labels, subsets)
        resumed.load_state_dict(criterion.state_dict())
        logits = torch.randn(30, 5)
        assert resumed.update(logits, labels, subsets).equal(criterion.update(logits, labels, subsets))
        assert resumed.history == criterion.history

    def test_says_which_targets_ran_down(self) -> None:
        criterion = AdaptiveSmoothing(2, 2, update_rate=1.0, leak=0.0)
        logits = torch.stack([logits_with_confidence(0.99, 0, 2)] * 2)
        assert criterion.at_lower_bound() == []
        criterion.update(logits, torch.tensor([1, 0]), torch.tensor([0, 1]))
        assert criterion.at_lower_bound() == [0]

    @pytest.mark.parametrize(
        "settings", [{"initial_target_prob": 0.05}, {"initial_target_prob": 1.2}, {"update_rate": -1}, {"leak": -0.1}]
    )
    def test_refuses_impossible_settings(self, settings: dict[str, float]) -> None:
        with pytest.raises(InputError, match="expected"):
            AdaptiveSmoothing(10, 4, **settings)
