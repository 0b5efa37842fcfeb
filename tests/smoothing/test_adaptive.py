"""The method against hand-computed numbers, torch's own losses, and properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from aradals.errors import InputError
from aradals.losses import soft_cross_entropy
from aradals.smoothing.adaptive import (
    AdaptiveSmoothing,
    smoothing_to_target_prob,
    soft_targets,
    target_prob_to_smoothing,
)
from aradals.smoothing.update_rules import UpdateRule


def logits_with_confidence(confidence: float, predicted: int, num_classes: int) -> torch.Tensor:
    """Logits whose softmax is ``confidence`` for one class, the rest even."""
    probs = torch.full((num_classes,), (1 - confidence) / (num_classes - 1), dtype=torch.float64)
    probs[predicted] = confidence
    return probs.log()


RULES = (
    UpdateRule(0.37),
    UpdateRule(0.37, averaging=0.7, shrink=True, floor=True, monotone=True),
    UpdateRule(0.37, proportional_gain=2, averaging=0.7),
)


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


class TestAdaptiveSmoothing:
    def test_update_measures_each_subset(self) -> None:
        # Subset 0: confidences .9 and .7, one right of two: gap .8 - .5 = .3. Subset 1: .6, right: gap -.4.
        criterion = AdaptiveSmoothing(3, 2, rule=UpdateRule(0.5, leak=0), initial_target_prob=0.8)
        logits = torch.stack([logits_with_confidence(c, k, 3) for c, k in ((0.9, 0), (0.7, 1), (0.6, 2))])
        updated = criterion.update(torch.tensor([0, 2, 2]), logits, torch.tensor([0, 0, 1]))
        assert updated.tolist() == pytest.approx([0.8 - 0.5 * 0.3, 1.0], rel=1e-12)
        (step,) = criterion.history
        assert step["confidence"] == pytest.approx([0.8, 0.6], rel=1e-12)
        assert step["accuracy"] == [0.5, 1.0]
        assert step["standard_error"] == pytest.approx([0.3**0.5 / 2, 0.24**0.5])  # (.9 .1 + .7 .3)/2², .6 .4
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
        AdaptiveSmoothing(10, 1).update(labels, logits)
        criterion = AdaptiveSmoothing(10, 4)
        with pytest.raises(InputError, match=r"num_subsets=4.*assign_subsets"):
            criterion.update(labels, logits)
        assert criterion.history == []

    @pytest.mark.parametrize("rule", RULES, ids=str)
    def test_without_subsets_all_targets_are_one(self, rule: UpdateRule) -> None:
        """To the bit, with a leak too: the mean of ten equal targets is not always equal to them."""
        single, several = (AdaptiveSmoothing(7, r, rule=rule) for r in (1, 10))
        labels = torch.randint(7, (45,))
        for _ in range(20):
            logits = 3 * torch.randn(45, 7)
            assert several(logits, labels).equal(single(logits, labels))
            assert several.update_as_one(labels, logits).tolist() == single.update(labels, logits).tolist() * 10
        assert single.target_prob < 1
        for ours, theirs in zip(several.history, single.history, strict=True):
            assert ours == {key: values * 10 for key, values in theirs.items()}

    def test_subsets_go_on_from_the_common_target_and_cannot_be_forgotten_again(self) -> None:
        criterion = AdaptiveSmoothing(3, 2, rule=UpdateRule(0.5, leak=0))
        logits = torch.stack([logits_with_confidence(0.9, 0, 3)] * 2)
        labels, subsets = torch.tensor([0, 1]), torch.tensor([1, 0])
        assert criterion.update_as_one(labels, logits).tolist() == pytest.approx([0.8, 0.8])  # 1 - .5 (.9 - .5)
        # Subset 1 is right: .8 - .5 (.9 - 1) = .85. Subset 0 is wrong: .8 - .5 (.9 - 0) = .35.
        assert criterion.update(labels, logits, subsets).tolist() == pytest.approx([0.35, 0.85])
        with pytest.raises(InputError, match=r"targets differ.*assign_subsets"):
            criterion(logits, labels)
        with pytest.raises(InputError, match=r"targets differ.*assign_subsets"):
            criterion.update_as_one(labels, logits)
        assert len(criterion.history) == 2

    def test_equal_targets_do_not_hide_that_subsets_were_known(self) -> None:
        criterion = AdaptiveSmoothing(3, 2)
        logits = torch.stack([logits_with_confidence(c, 0, 3) for c in (0.9, 0.8)])
        criterion.update(torch.tensor([0, 0]), logits, torch.tensor([0, 1]))  # both under-confident
        assert criterion.target_prob.tolist() == [1, 1]
        with pytest.raises(InputError, match="targets differ"):
            criterion.update_as_one(torch.tensor([0, 0]), logits)

    def test_without_a_rule_it_is_label_smoothing(self) -> None:
        initial = smoothing_to_target_prob(0.1, 10)
        criterion = AdaptiveSmoothing(10, 1, rule=None, initial_target_prob=initial)
        logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
        assert criterion.update(labels, 5 * logits).tolist() == [initial]
        assert len(criterion.history) == 1
        expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
        assert criterion(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_target_of_each_example(self) -> None:
        criterion, labels = AdaptiveSmoothing(4, 3, initial_target_prob=0.9), torch.tensor([3, 1])
        assert criterion.target_prob_for(labels).equal(torch.tensor([0.9, 0.9]))
        criterion.target_prob.copy_(torch.tensor([0.6, 0.7, 1.0]))
        assert criterion.target_prob_for(labels, torch.tensor([2, 1])).equal(torch.tensor([1.0, 0.7]))
        with pytest.raises(InputError, match="targets differ"):
            criterion.target_prob_for(labels)

    def test_an_ensemble_is_measured_by_its_mean_probability(self) -> None:
        # Class 0: (.9 + .5)/2 = .7, (.2 + .4)/2 = .3 and class 1 .7. The second label is 0: gaps -.3 and .7.
        probs = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.4, 0.6]]])
        criterion = AdaptiveSmoothing(2, 2, rule=UpdateRule(0.5, leak=0), initial_target_prob=0.9)
        updated = criterion.update(torch.tensor([0, 0]), probs.mean(0).log(), torch.tensor([0, 1]))
        assert criterion.history[0]["confidence"] == pytest.approx([0.7, 0.7])
        assert criterion.history[0]["accuracy"] == [1, 0]
        assert updated.tolist() == pytest.approx([1.0, 0.55])

    def test_a_member_that_is_certain(self) -> None:
        """The logarithm of a mean probability of 0 is -inf."""
        criterion = AdaptiveSmoothing(3, 1)
        criterion.update(torch.tensor([1]), torch.tensor([[0.75, 0.25, 0.0]]).log())
        assert criterion.history[0]["confidence"] == pytest.approx([0.75])

    def test_no_validation_data(self) -> None:
        with pytest.raises(InputError, match="at least one validation example"):
            AdaptiveSmoothing(3, 1).update(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))

    def test_a_rate_for_some_schedule_is_no_rate_yet(self) -> None:
        with pytest.raises(InputError, match=r"for_updates\(num_updates\)"):
            AdaptiveSmoothing(3, 1, rule=UpdateRule("auto"))

    @pytest.mark.parametrize("rule", RULES, ids=str)
    def test_state_dict_resumes_exactly(self, rule: UpdateRule) -> None:
        criterion, resumed = AdaptiveSmoothing(5, 3, rule=rule), AdaptiveSmoothing(5, 3, rule=rule)
        labels, subsets = torch.randint(5, (30,)), torch.arange(30) % 3
        for _ in range(3):
            criterion.update(labels, 4 * torch.randn(30, 5), subsets)
        resumed.load_state_dict(criterion.state_dict())
        logits = torch.randn(30, 5)
        assert resumed.update(labels, logits, subsets).equal(criterion.update(labels, logits, subsets))
        assert resumed.history == criterion.history

    def test_says_which_targets_ran_down(self) -> None:
        criterion = AdaptiveSmoothing(2, 2, rule=UpdateRule(1.0, leak=0))
        logits = torch.stack([logits_with_confidence(0.99, 0, 2)] * 2)
        assert criterion.at_lower_bound() == []
        criterion.update(torch.tensor([1, 0]), logits, torch.tensor([0, 1]))
        assert criterion.at_lower_bound() == [0]

    @pytest.mark.parametrize("initial_target_prob", [0.05, 1.2])
    def test_refuses_impossible_targets(self, initial_target_prob: float) -> None:
        with pytest.raises(InputError, match="from 1/10 to 1"):
            AdaptiveSmoothing(10, 4, initial_target_prob=initial_target_prob)
