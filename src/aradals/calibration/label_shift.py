"""The mix of classes of an unlabeled batch, and the entropy that this mix explains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_NUM_STEPS = 50
_PRIOR_COUNT = 5.0
"""Number of examples that the mean of all classes counts for in the mean of each class."""


def estimate_class_mix(probs: Tensor, class_mix: Tensor) -> Tensor:
    """Estimate the shares of the classes in a batch, if only these shares differ from those of the calibration data.

    This is the expectation-maximization of Saerens, Latinne and Decaestecker, *Adjusting the outputs of a classifier to
    new a priori probabilities*, Neural Computation 14, 2002, with 50 steps.

    Args:
        probs: calibrated probabilities of the batch, shape (N, K).
        class_mix: share of each class in the calibration data, all positive, shape (K,).

    Returns:
        The estimated shares, which sum to 1, shape (K,).

    Example:
        >>> likely = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> estimate_class_mix(likely[[0, 0, 0, 1]], torch.tensor([0.5, 0.5]))
        tensor([0.8125, 0.1875])
    """
    mix = class_mix
    for _ in range(_NUM_STEPS):
        posterior = probs * (mix / class_mix)
        mix = (posterior / posterior.sum(1, keepdim=True)).mean(0)
    return mix


def entropy(probs: Tensor) -> Tensor:
    """Compute the entropy of each distribution in the last dimension, nats."""
    of_classes: Tensor = torch.special.entr(probs)
    return of_classes.sum(-1)


def dispersion(probs: Tensor) -> Tensor:
    """Estimate the entropy of the mean prediction, nats, without the bias of a small batch (the jackknife).

    Args:
        probs: shape (N, K).
    """
    num = probs.shape[0]
    others = (probs.sum(0) - probs) / max(num - 1, 1)
    return num * entropy(probs.mean(0)) - (num - 1) * entropy(others).mean()


class ClassEntropies(NamedTuple):
    """The entropy of the predictions for each true class of the calibration data, shapes (K,).

    Attributes:
        num: number of examples.
        mean: mean entropy, nats; drawn a little to the mean of all classes.
        variance: variance of the entropy in the class, for all classes the same if they have few examples.
    """

    num: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, entropies: Tensor, labels: Tensor, num_classes: int) -> ClassEntropies:
        """Describe the entropies of labeled examples, shape (N,)."""

        def sums(values: Tensor) -> Tensor:
            return values.new_zeros(num_classes).index_add(0, labels, values)

        num = sums(torch.ones_like(entropies))
        mean = (sums(entropies) + _PRIOR_COUNT * entropies.mean()) / (num + _PRIOR_COUNT)
        squares = (entropies - mean[labels]).square()
        return cls(num, mean, (sums(squares) + _PRIOR_COUNT * squares.mean()) / (num + _PRIOR_COUNT))

    def explained_by(self, mix: Tensor) -> Tensor:
        """Compute the mean entropy of a batch with these shares of the classes, if nothing else has changed."""
        return (mix * self.mean).sum()

    def standard_error(self, mix: Tensor, batch_size: int) -> Tensor:
        """Compute the standard error of the difference between the mean entropy of a batch and `explained_by`."""
        of_batch = (mix * self.variance).sum() / batch_size
        of_means = (mix.square() * self.variance / (self.num + _PRIOR_COUNT)).sum()
        return (of_batch + of_means).sqrt()
