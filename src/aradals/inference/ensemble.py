"""Ensembles, which average the members' probabilities, not their logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.inference.outputs import logit_model
from aradals.inference.predictions import Predictions


def pool_logits(logits: Tensor | Sequence[Tensor]) -> Tensor:
    """Log of the mean over members of the predicted probabilities, log((1/M) Σ_m softmax(z_m)).

    The result can be used like logits: its softmax is the mean probability (Lakshminarayanan et al. 2017, section
    2.4), and dividing it by a temperature is temperature scaling after pooling (Rahaman and Thiery 2021).

    Args:
        logits: logits of M >= 1 members on the same N inputs, shape (M, N, K), or M tensors of shape (N, K).

    Returns:
        Shape (N, K), in the dtype of the logits, and finite if the logits are finite. For one member, the result is
        its logits plus a constant for each row.

    Raises:
        InputError: there are no members, or their shapes differ.
    """
    members = list(logits)
    if not members:
        raise InputError(expected="at least one ensemble member", got="no member", hint="one model, or several")
    shapes = list(dict.fromkeys(tuple(member.shape) for member in members))
    if len(shapes) > 1 or len(shapes[0]) != 2:
        raise InputError(
            expected="logits of one shape (N, K) from every ensemble member",
            got="shapes " + ", ".join(map(str, shapes)),
            hint="members that predict the same classes on the same inputs",
        )
    log_probs = torch.stack(members).log_softmax(2)
    pooled = log_probs.logsumexp(0) - math.log(len(members))
    # Half precision overflows if logits differ by more than its largest number.
    return pooled.clamp(min=torch.finfo(pooled.dtype).min)


def pool_predictions(predictions: Sequence[Predictions]) -> Predictions:
    """Pool the predictions of an ensemble's members; the logits are float64, see `pool_logits`.

    Raises:
        InputError: there are no members, or their examples, the order of the examples, or their classes differ.
    """
    pooled = pool_logits([member.logits.double() for member in predictions])
    first = predictions[0]
    for index, member in enumerate(predictions):
        if not (torch.equal(member.ids, first.ids) and torch.equal(member.labels, first.labels)):
            raise InputError(
                expected="predictions of all ensemble members on the same examples in the same order",
                got=f"ids or labels of member {index} that differ from those of member 0",
                hint="predicting on one split without shuffling",
            )
    return Predictions(first.ids, pooled, first.labels)


class Ensemble(nn.Module):
    """Ensemble of classifiers: the softmax of its output is the mean of the members' softmax outputs.

    Example:
        >>> one, other = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> inputs = torch.rand(4, 2)
        >>> mean = (one(inputs).softmax(1) + other(inputs).softmax(1)) / 2
        >>> torch.allclose(Ensemble([one, other])(inputs).softmax(1), mean)
        True
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        """Make an ensemble of the members themselves, without copies.

        Args:
            members: M >= 1 models from the same inputs to logits of shape (N, K).

        Raises:
            InputError: there are no members.
        """
        super().__init__()
        self.members = nn.ModuleList(members)
        self._readings = [logit_model(member) for member in self.members]  # not registered, because the members are
        if len(self.members) == 0:
            raise InputError(expected="at least one ensemble member", got="no member", hint="one model, or several")

    def forward(self, inputs: Tensor) -> Tensor:
        """Pool the logits of the members by `pool_logits`, shape (N, K).

        Raises:
            InputError: the members' logits differ in shape.
        """
        return pool_logits([member(inputs) for member in self._readings])
