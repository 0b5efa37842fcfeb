"""Losses over logits, as plain functions: cross-entropy to soft targets, and the losses of the compared methods.

Every loss checks shapes and dtypes. It checks values only if they are on the CPU, because on another device each check
would wait for the device.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from aradals.checks import Values, can_read, check_between, check_form, check_indices, check_labels, to_tensor
from aradals.errors import InputError
from aradals.geometry import working_dtype

Reduction = Literal["mean", "sum", "none"]


def soft_cross_entropy(
    logits: Tensor,
    targets: Values,
    target_prob: Tensor | None = None,
    *,
    other_labels: Tensor | None = None,
    mix_weight: Tensor | None = None,
    other_target_prob: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Mean cross-entropy to soft targets of three kinds, which may be combined.

    1. Class indices, each with a true-class probability p. The other K - 1 classes share the rest equally. The loss
       has a closed form, so that no target of K columns is built: with :math:`\varepsilon = (1 - p) K/(K - 1)` it is
       :math:`(1 - \varepsilon)` times the loss of the true class plus :math:`\varepsilon` times the mean over classes.
    2. Pairs of labels (mixup): the first label has the weight :math:`\lambda`, the second :math:`1 - \lambda`.
    3. A distribution over the K classes for each example.

    Args:
        logits: shape (N, K).
        targets: class indices, int64, shape (N,); or distributions, float, shape (N, K), rows that sum to 1.
        target_prob: p, in [1/K, 1], shape (N,); by default 1. If ``targets`` are distributions, they are mixed with
            the uniform distribution by the same :math:`\varepsilon`.
        other_labels: class indices of the partners, int64, shape (N,).
        mix_weight: λ, the weight of ``targets`` against ``other_labels``, in [0, 1], shape (N,).
        other_target_prob: p of the partners, shape (N,); by default ``target_prob``.
        weight: a factor for each class, shape (K,), with the meaning that it has in ``nn.CrossEntropyLoss``.
        ignore_index: class index of the examples to leave out, for example -100; by default such a label is an error.
        reduction: "mean", "sum" or "none". The mean is over the examples that are not left out. If ``targets`` are
            class indices, the weight of an example in the mean is that of its class.

    Returns:
        Scalar, in nats; for "none" shape (N,), with 0 for the examples that are left out.

    Raises:
        InputError: shapes or dtypes do not fit, labels or probabilities are out of range, distributions do not sum to
            1, or partners have no weights.

    Warns:
        UserWarning: targets that are already soft are smoothed a second time.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
        >>> soft_cross_entropy(logits, labels, target_prob=torch.tensor([0.8]))
        tensor(0.6395)
        >>> soft_cross_entropy(logits, torch.tensor([[0.8, 0.1, 0.1]]))
        tensor(0.6395)
    """
    targets = to_tensor(targets)
    if (other_labels is None) != (mix_weight is None):
        raise InputError(
            expected="other_labels and mix_weight together",
            got="only one of them",
            hint="passing mix_weight of shape (N,), the weight of the first label, with other_labels",
        )
    given = {"target_prob": target_prob, "mix_weight": mix_weight, "other_target_prob": other_target_prob}
    _check_batch(logits, targets, other_labels, weight, **given)
    if targets.is_floating_point():
        _check_distributions(logits, targets, target_prob)

    log_probs = logits.log_softmax(1, dtype=working_dtype(logits))
    if weight is not None:
        log_probs = log_probs * weight.to(log_probs)
    with _labels_in_range(log_probs, (targets, other_labels), ignore_index):
        loss = _loss_to(log_probs, _indexable(targets, ignore_index), target_prob)
        if other_labels is not None and mix_weight is not None:
            share = mix_weight.to(log_probs.dtype)
            other_prob = target_prob if other_target_prob is None else other_target_prob
            loss = share * loss + (1 - share) * _loss_to(log_probs, _indexable(other_labels), other_prob)
    return _reduced(loss, targets, weight, ignore_index, reduction)


def focal_loss(
    logits: Tensor,
    labels: Values,
    gamma: float = 3.0,
    *,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Mean focal loss :math:`-(1 - p_y)^\gamma \log p_y`, which gives less weight to confidently right examples.

    Args:
        logits: shape (N, K), K >= 2.
        labels: int64, shape (N,).
        gamma: γ >= 0; 0 gives the cross-entropy, 3 is the fixed value of Mukhoti et al.
        ignore_index: see `soft_cross_entropy`.
        reduction: see `soft_cross_entropy`.

    Returns:
        Scalar, in nats; for the reduction "none" shape (N,).

    Raises:
        InputError: γ is negative, or logits and labels do not fit.

    References:
        Lin, Goyal, Girshick, He and Dollár, Focal loss for dense object detection, ICCV 2017, arXiv:1708.02002,
        equation 4. For calibration: Mukhoti, Kulharia, Sanyal, Golodetz, Torr and Dokania, Calibrating deep neural
        networks using focal loss, NeurIPS 2020, arXiv:2002.09437.
    """
    _check_at_least_zero(gamma=gamma)
    labels = to_tensor(labels)
    _check_batch(logits, labels)
    # The log-odds m of the label give log p = log σ(m) and log (1 - p) = log σ(-m). The code takes no power of 1 - p,
    # because its gradient is NaN where 1 - p rounds to 0 and γ < 1.
    logits = logits.to(working_dtype(logits))
    column = _indexable(labels, ignore_index).unsqueeze(1)
    with _labels_in_range(logits, (labels,), ignore_index):
        others = logits.scatter(1, column, -math.inf).logsumexp(1)
        log_odds = logits.gather(1, column).squeeze(1) - others
    loss = -(gamma * F.logsigmoid(-log_odds)).exp() * F.logsigmoid(log_odds)
    return _reduced(loss, labels, None, ignore_index, reduction)


def margin_smoothing_loss(
    logits: Tensor,
    labels: Values,
    margin: float = 10.0,
    weight: float = 0.1,
    *,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy plus a linear penalty on each logit that is more than a margin below the largest logit.

    .. math:: CE(l, y) + \lambda \frac{1}{K} \sum_j \max(0, \max_k l_k - l_j - m)

    The penalty is a mean over the classes, as in the authors' code; their λ = 0.1 belongs to this form. The paper
    writes a sum over the classes, for which the same penalty needs a λ that is K times smaller.

    Args:
        logits: shape (N, K).
        labels: int64, shape (N,).
        margin: m >= 0, in logits.
        weight: λ >= 0.
        ignore_index: see `soft_cross_entropy`.
        reduction: see `soft_cross_entropy`.

    Returns:
        Scalar, in nats; for the reduction "none" shape (N,).

    Raises:
        InputError: the margin or the weight is negative, or logits and labels do not fit.

    References:
        Liu, Ben Ayed, Galdran and Dolz, The devil is in the margin: margin-based label smoothing for network
        calibration, CVPR 2022, arXiv:2111.15430, section 3.
    """
    _check_at_least_zero(margin=margin, weight=weight)
    labels = to_tensor(labels)
    cross_entropy = soft_cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    logits = logits.to(working_dtype(logits))
    below_largest = logits.amax(1, keepdim=True) - logits
    loss = cross_entropy + weight * (below_largest - margin).relu().mean(1)
    return _reduced(loss, labels, None, ignore_index, reduction)


def jensen_shannon(logits: Sequence[Tensor]) -> Tensor:
    r"""Mean Jensen-Shannon divergence of several predictions for the same examples, the consistency loss of AugMix.

    :math:`\frac{1}{V} \sum_v KL(p_v \| M)` with :math:`M = \frac{1}{V} \sum_v p_v`. AugMix uses V = 3 views: the
    image and two augmentations of it. It adds 12 times this divergence to the cross-entropy of the image.

    Args:
        logits: V >= 2 tensors of shape (N, K), one for each view.

    Returns:
        Scalar in [0, log V], in nats.

    Raises:
        InputError: there are fewer than two views, or their logits are not floats of one shape (N, K).

    References:
        Hendrycks, Mu, Cubuk, Zoph, Gilmer and Lakshminarayanan, AugMix: a simple data processing method to improve
        robustness and uncertainty, ICLR 2020, arXiv:1912.02781, equation 1.
    """
    if len(logits) < 2:
        raise InputError(
            expected="logits of at least two views", got=str(len(logits)), hint="a list with one tensor for each view"
        )
    for view in logits:
        check_form(view, len(logits[0]), logits[0].shape[-1] if logits[0].ndim == 2 else None)
    log_probs = torch.stack([view.log_softmax(1, dtype=working_dtype(view)) for view in logits])
    log_mean = log_probs.logsumexp(0) - math.log(len(logits))
    return (log_probs.exp() * (log_probs - log_mean)).sum(2).mean()


def _check_at_least_zero(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise InputError(expected=f"{name} >= 0", got=f"{name}={value}", hint=f"the default of {name}")


def _check_batch(
    logits: Tensor,
    targets: Tensor,
    other_labels: Tensor | None = None,
    weight: Tensor | None = None,
    **by_example: Tensor | None,
) -> None:
    """Check the arguments of a loss: shapes and dtypes always, values between 0 and 1 where they can be read."""
    check_form(logits, len(targets) if targets.ndim == 1 else len(logits))
    num_examples, num_classes = logits.shape
    for name, labels in {"labels": targets, "other_labels": other_labels}.items():
        if labels is not None and not labels.is_floating_point():
            check_indices(labels, num_examples, name, "class indices, such as labels.long()")
    for name, values in by_example.items():
        if values is None:
            continue
        if values.shape != (num_examples,):
            raise InputError(
                expected=f"{name} of shape ({num_examples},), one value for each row of logits",
                got=f"shape {tuple(values.shape)}",
                hint=f"{name}.expand({num_examples}) to use one value for all rows",
            )
        if num_examples and can_read(values):
            check_between(0 if name == "mix_weight" else 1 / num_classes, 1, **{name: values})
    if weight is not None and weight.shape != (num_classes,):
        raise InputError(
            expected=f"weight of shape ({num_classes},), one factor for each class",
            got=f"shape {tuple(weight.shape)}",
            hint="torch.ones(num_classes) for equal classes",
        )


@contextmanager
def _labels_in_range(
    logits: Tensor, labels: Sequence[Tensor | None], ignore_index: int | None = None
) -> Iterator[None]:
    """Explain the error of an index that is no class. Labels need no check before, which would cost time."""
    try:
        yield
    except (IndexError, RuntimeError):
        for each in labels:
            if each is not None and not each.is_floating_point() and can_read(each):
                check_labels(_indexable(each, ignore_index), logits.shape[1], hint=unlabeled(each))
        raise


def unlabeled(labels: Tensor) -> str | None:
    """Make the hint for labels that mean "no label", such as -100; None if no label is negative."""
    return f"ignore_index={low}, which leaves these examples out" if (low := int(labels.min())) < 0 else None


def _indexable(labels: Tensor, ignore_index: int | None = None) -> Tensor:
    """Prepare labels for ``gather``, with class 0 for ``ignore_index``, whose loss does not count there."""
    if labels.is_floating_point():
        return labels
    labels = labels.long()
    return labels if ignore_index is None else labels.where(labels != ignore_index, 0)


def _reduced(
    loss: Tensor, targets: Tensor, weight: Tensor | None, ignore_index: int | None, reduction: Reduction
) -> Tensor:
    """Reduce the losses of the examples, of which those with ``ignore_index`` do not count."""
    if reduction == "mean" and (targets.is_floating_point() or (weight is None and ignore_index is None)):
        return loss.mean()
    share = torch.ones_like(loss)
    if not targets.is_floating_point():
        if weight is not None:
            share = weight.to(loss)[_indexable(targets, ignore_index)]
        if ignore_index is not None:
            share, loss = (values.where(targets != ignore_index, 0.0) for values in (share, loss))
    if reduction == "mean":
        return loss.sum() / share.sum()
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise InputError(expected='reduction "mean", "sum" or "none"', got=repr(reduction), hint='reduction="mean"')


def _loss_to(log_probs: Tensor, targets: Tensor, target_prob: Tensor | None) -> Tensor:
    """Cross-entropy of each example, shape (N,), from the logarithms of the probabilities, shape (N, K)."""
    if targets.is_floating_point():
        loss = -(targets.to(log_probs.dtype) * log_probs).sum(1)
    else:
        loss = -log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    if target_prob is None:
        return loss
    num_classes = log_probs.shape[1]
    smoothing = (1 - target_prob.to(log_probs.dtype)) * (num_classes / (num_classes - 1))
    return (1 - smoothing) * loss - smoothing * log_probs.mean(1)


def _check_distributions(logits: Tensor, targets: Tensor, target_prob: Tensor | None) -> None:
    if targets.shape != logits.shape:
        raise InputError(
            expected=f"float targets of the shape of the logits, {tuple(logits.shape)}",
            got=f"shape {tuple(targets.shape)}",
            hint="labels.long() if the targets are class indices",
        )
    if not can_read(targets, target_prob):
        return
    # The tolerance allows for the rounding of probabilities in bfloat16.
    error = (targets.detach().double().sum(1) - 1).abs()
    if bool((targets < 0).any()) or not bool((error < 5e-3).all()):
        raise InputError(
            expected="targets that are distributions: no negative value, and every row sums to 1",
            got=f"values from {float(targets.min()):.4g}, and row sums that differ from 1 by up to "
            f"{float(error.max()):.4g}",
            hint="targets / targets.sum(1, keepdim=True)",
        )
    is_soft = bool((targets.amax(1) < 1).any())
    if is_soft and target_prob is not None and bool((target_prob < 1).any()):
        warnings.warn(
            "the targets are already soft, and target_prob smooths them a second time; "
            "to smooth them once, pass class indices or omit target_prob",
            UserWarning,
            stacklevel=3,
        )
