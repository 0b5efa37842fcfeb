"""Adversarial-robustness-based adaptive label smoothing (AR-AdaLS): the method, after the scores are known.

Y. Qin, X. Wang, A. Beutel, E. Chi, "Improving Calibration through the Relationship with Adversarial
Robustness", NeurIPS 2021 (arXiv 2006.16375). With K classes and R robustness subsets:

1. score      s_i = the smallest L2 perturbation that changes the model's prediction  (`aradals.robustness`)
2. subsets    rank the scores within a split and cut into R equal-sized subsets       (`assign_subsets`)
3. targets    true class p_r, every other class (1 - p_r)/(K - 1)                     (`soft_targets`)
4. update     p_r <- clip(p_r - α (conf(S_r) - acc(S_r)), 1/K, 1) on validation data  (`update_target_prob`)

`AdaptiveSmoothing` is steps 3 and 4 as a loss with a state, for anyone's training loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aradals.errors import InputError


def assign_subsets(scores: Tensor, num_subsets: int, ids: Tensor | None = None) -> Tensor:
    """Rank examples by robustness and cut the ranking into subsets of equal size (step 2).

    Args:
        scores: robustness scores, shape (N,), finite; larger = more robust.
        num_subsets: R, from 1 to N.
        ids: shape (N,), break ties between equal scores; the position by default.

    Returns:
        Subset index per example, int64, shape (N,), in the order of ``scores``; 0 = least robust.
        Sizes differ by at most one.

    Raises:
        InputError: scores that are not finite, or fewer examples than subsets.
    """
    num_examples = len(scores)
    if not 1 <= num_subsets <= num_examples:
        raise InputError(
            expected=f"from 1 to {num_examples} subsets (a split of {num_examples} examples)",
            got=f"num_subsets={num_subsets}",
            hint="fewer subsets or a larger split",
        )
    if not scores.isfinite().all():
        raise InputError(
            expected="finite scores",
            got=f"{int((~scores.isfinite()).sum())} that are NaN or infinite",
            hint="the column `score` rather than `norm`, which is infinite where the search failed",
        )
    tie_break = np.arange(num_examples) if ids is None else ids.cpu().numpy()
    order = torch.from_numpy(np.lexsort((tie_break, scores.detach().cpu().double().numpy())))
    subsets = torch.empty(num_examples, dtype=torch.int64)
    subsets[order] = torch.arange(num_examples) * num_subsets // num_examples
    return subsets


def smoothing_to_target_prob(smoothing: float, num_classes: int) -> float:
    """True-class probability p = 1 - ε (K - 1)/K of label smoothing with factor ε (Szegedy et al. 2016)."""
    return 1 - smoothing * (num_classes - 1) / num_classes


def target_prob_to_smoothing(target_prob: float, num_classes: int) -> float:
    """Smoothing factor ε = (1 - p) K/(K - 1): the mass spread evenly over all K classes."""
    return (1 - target_prob) * num_classes / (num_classes - 1)


def soft_targets(labels: Tensor, target_prob: Tensor, num_classes: int) -> Tensor:
    """Target distributions: the true class has ``target_prob``, the others share the rest evenly (step 3).

    Args:
        labels: int64, shape (N,).
        target_prob: p per example, in [1/K, 1], shape (N,).
        num_classes: K.

    Returns:
        Shape (N, K); rows sum to 1.

    Example:
        >>> soft_targets(torch.tensor([1]), torch.tensor([0.8]), num_classes=3)
        tensor([[0.1000, 0.8000, 0.1000]])
    """
    others = ((1 - target_prob) / (num_classes - 1)).unsqueeze(1)
    return others.expand(-1, num_classes).scatter(1, labels.unsqueeze(1), target_prob.unsqueeze(1))


def soft_cross_entropy(logits: Tensor, labels: Tensor, target_prob: Tensor) -> Tensor:
    """Mean cross-entropy to `soft_targets`, in closed form: no target tensor of K columns is built.

    With ε = (1 - p) K/(K - 1) it is (1 - ε) times the loss of the true class plus ε times the mean loss over classes.

    Args:
        logits: shape (N, K).
        labels: int64, shape (N,).
        target_prob: p per example, shape (N,).

    Returns:
        Scalar, in nats.
    """
    num_classes = logits.shape[1]
    losses = -logits.log_softmax(1)
    smoothing = (1 - target_prob) * (num_classes / (num_classes - 1))
    true_class_loss = losses.gather(1, labels.unsqueeze(1)).squeeze(1)
    return ((1 - smoothing) * true_class_loss + smoothing * losses.mean(1)).mean()


def update_target_prob(
    target_prob: Tensor,
    confidence: Tensor,
    accuracy: Tensor,
    *,
    num_classes: int,
    update_rate: float,
    leak: float = 0.0,
) -> Tensor:
    """The adaptive update (step 4): over-confident subsets get softer labels, under-confident ones get them back.

    ``p_r <- clip(p_r - α (conf_r - acc_r + λ (p_r - mean p)), 1/K, 1)``

    λ = 0 is the paper's rule, an integral controller per subset. A subset's validation gap answers only weakly
    to its own training target, because subsets share features; so with a brisk α the integrals run to opposite
    bounds (they wind up). The leak λ > 0 lets a subset's target leave the common level only as far as its
    own gap justifies: at rest gap_r = -λ (p_r - mean p).

    Args:
        target_prob: p, shape (R,).
        confidence: mean confidence of each subset on validation data, shape (R,); NaN for an empty subset,
            whose target then stays (but for the leak).
        accuracy: the same for accuracy.
        num_classes: K.
        update_rate: α. What counts is α times the number of updates.
        leak: λ.

    Returns:
        The new p, shape (R,), in [1/K, 1].
    """
    gap = (confidence - accuracy).nan_to_num(0.0)
    step = gap + leak * (target_prob - target_prob.mean())
    return (target_prob - update_rate * step).clamp(1 / num_classes, 1.0)


def default_update_rate(num_updates: int) -> float:
    """The α that suits a schedule: 6 / (number of updates), at most 0.1.

    The update integrates, so that α times the number of updates is what counts. But a brisk α follows the first epochs,
    when a network is over-confident for want of training, and a short schedule does not leave it the time to come back.
    """
    return min(0.1, 6 / num_updates)


class AdaptiveSmoothing(nn.Module):
    """Cross-entropy whose label smoothing adapts, subset by subset, to the gap seen on validation data.

    A loss to call in the training loop and to update after each epoch. Other methods are settings of it:
    ``update_rate=0`` is label smoothing with ``initial_target_prob``, plain cross-entropy when that is 1;
    ``num_subsets=1`` is adaptive label smoothing without robustness (AdaLS).

    Where the model in training is itself the scoring model, the first epochs know no subsets. Until the first scoring,
    call the loss without them and `update_as_one`: all targets then move together, as with one subset, and from there
    on each goes its own way.

    Args:
        num_classes: K.
        num_subsets: R.
        update_rate: α, see `default_update_rate`.
        initial_target_prob: p at the start, in [1/K, 1].
        leak: λ of `update_target_prob`; 0 is the paper's rule.

    Attributes:
        target_prob: p by subset, float64, shape (R,); a buffer, so that ``state_dict`` resumes exactly.
        history: one dict per update, lists over subsets: ``target_prob`` (before the update), ``confidence``,
            ``accuracy`` and ``n``, as measured on validation data; in an update as one, each measured on all of them.

    Example:
        >>> criterion = AdaptiveSmoothing(num_classes=2, num_subsets=2, update_rate=0.5, leak=0.0)
        >>> logits, labels = torch.tensor([[2.2, 0.0], [0.0, 2.2]]), torch.tensor([1, 1])
        >>> criterion.update(logits, labels, subsets=torch.tensor([0, 1]))
        tensor([0.5499, 1.0000], dtype=torch.float64)
    """

    target_prob: Tensor

    def __init__(
        self,
        num_classes: int,
        num_subsets: int = 10,
        *,
        update_rate: float = 0.1,
        initial_target_prob: float = 1.0,
        leak: float = 0.3,
    ) -> None:
        super().__init__()
        if not 1 / num_classes <= initial_target_prob <= 1:
            raise InputError(
                expected=f"an initial target probability from 1/{num_classes} to 1",
                got=str(initial_target_prob),
                hint="0.95, or smoothing_to_target_prob(0.1, num_classes)",
            )
        if update_rate < 0 or leak < 0:
            raise InputError(
                expected="update_rate and leak of at least 0",
                got=f"update_rate={update_rate}, leak={leak}",
                hint="update_rate=0.1, leak=0.3",
            )
        self.num_classes = num_classes
        self.num_subsets = num_subsets
        self.update_rate = update_rate
        self.leak = leak
        self.history: list[dict[str, list[float]]] = []
        initial = torch.full((num_subsets,), initial_target_prob, dtype=torch.float64)
        self.register_buffer("target_prob", initial)

    def forward(self, logits: Tensor, labels: Tensor, subsets: Tensor | None = None) -> Tensor:
        """The loss of a training batch.

        Args:
            logits: shape (N, K).
            labels: int64, shape (N,).
            subsets: robustness subset of each example, int64, shape (N,); may be left out while all targets are equal.

        Returns:
            Scalar, in nats.

        Raises:
            InputError: no subsets, where targets differ.
        """
        if subsets is None:
            self._check_as_one()
            subsets = torch.zeros_like(labels)
        return soft_cross_entropy(logits, labels, self.target_prob.to(logits.dtype)[subsets])

    def update(self, logits: Tensor, labels: Tensor, subsets: Tensor | None = None) -> Tensor:
        """Measure confidence and accuracy per subset on validation data, and step the targets (step 4).

        Args:
            logits: of all validation examples, shape (N, K).
            labels: int64, shape (N,).
            subsets: robustness subset within the validation split, int64, shape (N,); may be left out when R = 1.

        Returns:
            The new `target_prob`, shape (R,).

        Raises:
            InputError: no subsets, where R > 1.
        """
        if subsets is None and self.num_subsets > 1:
            # Forgotten subsets would pass for AdaLS, so that this has to be asked for by name.
            raise InputError(
                expected=f"the subset of each example (num_subsets={self.num_subsets})",
                got="none",
                hint="passing subsets from assign_subsets, or update_as_one until they are known",
            )
        if subsets is None:
            return self.update_as_one(logits, labels)
        return self._update(logits, labels, subsets, self.num_subsets)

    def update_as_one(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Step all targets by the gap of the whole validation split: R = 1, for as long as no subsets are known.

        Args:
            logits: of all validation examples, shape (N, K).
            labels: int64, shape (N,).

        Returns:
            The new `target_prob`, R equal values, the same to the bit as with ``num_subsets=1``.

        Raises:
            InputError: targets differ, for subsets were known before.
        """
        self._check_as_one()
        return self._update(logits, labels, torch.zeros_like(labels), 1)

    @torch.no_grad()
    def _update(self, logits: Tensor, labels: Tensor, subsets: Tensor, num_subsets: int) -> Tensor:
        """Step 4 on the first ``num_subsets`` targets: on all of them, or on one that the others follow."""
        target_prob = self.target_prob[:num_subsets]
        max_prob, predicted = logits.to(self.target_prob).softmax(1).max(1)
        correct = (predicted.to(labels.device) == labels).to(self.target_prob)
        index = subsets.to(self.target_prob.device)

        def sum_by_subset(values: Tensor) -> Tensor:
            return torch.zeros_like(target_prob).index_add_(0, index, values)

        count = sum_by_subset(torch.ones_like(max_prob))
        confidence, accuracy = sum_by_subset(max_prob) / count, sum_by_subset(correct) / count
        self.history.append(
            {
                "target_prob": self.target_prob.tolist(),
                "confidence": confidence.expand_as(self.target_prob).tolist(),
                "accuracy": accuracy.expand_as(self.target_prob).tolist(),
                "n": count.expand_as(self.target_prob).tolist(),
            }
        )
        self.target_prob.copy_(
            update_target_prob(
                target_prob,
                confidence,
                accuracy,
                num_classes=self.num_classes,
                update_rate=self.update_rate,
                leak=self.leak,
            )
        )
        return self.target_prob.clone()

    def at_lower_bound(self) -> list[int]:
        """Subsets whose target has at any time run down to 1/K, where labels say nothing: a sign of wind-up."""
        courses = [*(step["target_prob"] for step in self.history), self.target_prob.tolist()]
        return [r for r in range(self.num_subsets) if min(p[r] for p in courses) <= 1 / self.num_classes]

    def get_extra_state(self) -> dict[str, Any]:
        """The history of updates, kept in ``state_dict``."""
        return {"history": self.history}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the history from a ``state_dict``."""
        self.history = list(state["history"])

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return (
            f"num_classes={self.num_classes}, num_subsets={self.num_subsets}, "
            f"update_rate={self.update_rate}, leak={self.leak}"
        )

    def _check_as_one(self) -> None:
        if self.num_subsets > 1 and (self.target_prob != self.target_prob[0]).any():
            raise InputError(
                expected=f"the subset of each example (num_subsets={self.num_subsets}), for targets differ",
                got="none",
                hint="passing subsets from assign_subsets, or num_subsets=1",
            )
