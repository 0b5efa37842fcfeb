"""Adversarial-robustness-based adaptive label smoothing (AR-AdaLS): the method as a loss.

Y. Qin, X. Wang, A. Beutel, E. Chi, "Improving Calibration through the Relationship with Adversarial
Robustness", NeurIPS 2021 (arXiv 2006.16375). With K classes and R robustness subsets:

1. score      s_i = the smallest L2 perturbation that changes the model's prediction  (`aradals.robustness.scores`)
2. subsets    rank the scores within a split and cut into R equal-sized subsets       (`aradals.smoothing.subsets`)
3. targets    true class p_r, every other class (1 - p_r)/(K - 1)                     (`soft_targets`)
4. update     p_r <- clip(p_r - α (conf(S_r) - acc(S_r)), 1/K, 1) on validation data  (`aradals.smoothing.update_rules`)

`AdaptiveSmoothing` implements steps 3 and 4 as a loss with a state, which fits into any training loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, fields
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aradals._internal.ids import first_of_each
from aradals._internal.processes import num_processes, of_all_processes
from aradals.checks import (
    Values,
    check_between,
    check_finite_logits,
    check_form,
    check_indices,
    check_labels,
    check_subsets,
    refuse_other_outputs,
    to_tensor,
)
from aradals.errors import InputError
from aradals.geometry import exact_dtype, working_dtype
from aradals.inference.outputs import find_logits
from aradals.losses import Reduction, soft_cross_entropy, unlabeled
from aradals.smoothing.update_rules import (
    TargetState,
    UpdateRule,
    measurement,
    sums_by_subset,
    update_target_prob,
)

_Observed = tuple[Tensor, Tensor, Tensor, Tensor]
"""Id, subset, confidence and correctness of the examples of a batch."""

_NUM_SUMS = 4
_MEASURED = ("target_prob", "confidence", "accuracy", "standard_error", "n")
"""The rows of a step of the history."""


def smoothing_to_target_prob(smoothing: float, num_classes: int) -> float:
    """True-class probability p = 1 - ε (K - 1)/K of label smoothing with factor ε (Szegedy et al. 2016).

    Raises:
        InputError: ε is not in [0, 1], or K < 2.
    """
    _check_num_classes(num_classes)
    check_between(0, 1, smoothing=smoothing)
    return 1 - smoothing * (num_classes - 1) / num_classes


def target_prob_to_smoothing(target_prob: float, num_classes: int) -> float:
    """Smoothing factor ε = (1 - p) K/(K - 1): the probability that is spread evenly over all K classes.

    Raises:
        InputError: p is not in [1/K, 1], or K < 2.
    """
    _check_num_classes(num_classes)
    check_between(1 / num_classes, 1, target_prob=target_prob)
    return (1 - target_prob) * num_classes / (num_classes - 1)


def soft_targets(labels: Tensor, target_prob: Tensor, num_classes: int) -> Tensor:
    """Make target distributions: the true class has ``target_prob``, the others share the rest evenly (step 3).

    Args:
        labels: int64, shape (N,).
        target_prob: p of each example, in [1/K, 1], shape (N,).
        num_classes: K.

    Returns:
        Shape (N, K); rows sum to 1.

    Raises:
        InputError: shapes do not fit, or labels or p are out of range.

    Example:
        >>> soft_targets(torch.tensor([1]), torch.tensor([0.8]), num_classes=3)
        tensor([[0.1000, 0.8000, 0.1000]])
    """
    _check_num_classes(num_classes)
    check_indices(labels, target_prob.numel(), "labels", "one label for each value of target_prob")
    check_labels(labels, num_classes)
    check_between(1 / num_classes, 1, target_prob=target_prob)
    others = ((1 - target_prob) / (num_classes - 1)).unsqueeze(1)
    return others.expand(-1, num_classes).scatter(1, labels.unsqueeze(1), target_prob.unsqueeze(1))


class AdaptiveSmoothing(nn.Module):
    """Cross-entropy with label smoothing that adapts, in each subset, to the calibration gap on validation data.

    Call this loss in the training loop, and update it after each epoch: with all validation examples in one call of
    `update`, or with `observe` for each batch and then `update`. Some settings give other methods:
    ``rule=None`` is label smoothing with ``initial_target_prob``, or plain cross-entropy if that is 1;
    ``num_subsets=1`` is adaptive label smoothing without robustness (AdaLS); ``rule=UpdateRule(leak=0)`` is the
    rule of the paper.

    If the model in training is itself the scoring model, no subsets are known in the first epochs. Until the first
    scoring, call the loss without subsets, and call `update_as_one` after each epoch. All targets then move together,
    as with one subset. After the first scoring, each target moves on its own.

    If the members of an ensemble share one set of targets, update with the logarithm of their mean probability as
    logits.

    If several processes train together (a process group of ``torch.distributed`` is initialized), each process observes
    its part of the validation split with ``ids``, and every process calls `update`. The update then measures the
    examples of all processes, each id once, and all processes have the same targets, bit for bit.

    Args:
        num_classes: K.
        num_subsets: R.
        rule: the rule that changes the targets; None = the targets stay.
        initial_target_prob: p at the start, in [1/K, 1]: one for all subsets, or one for each, shape (R,), see
            `shaped_target_prob`.
        weight: a factor for each class in the loss, shape (K,), as in ``nn.CrossEntropyLoss``; the update ignores it.
        ignore_index: label of the examples that count neither in the loss nor in the update, for example -100. By
            default such a label is an error.
        reduction: "mean", "sum" or "none", as in ``nn.CrossEntropyLoss``.

    Attributes:
        target_prob: p of each subset, float64, shape (R,). It is a buffer like ``level`` and ``average_gap``, see
            `TargetState`, and like the sums of `observe`. So training resumes exactly from ``state_dict``, which
            contains only tensors. These buffers stay float64 (on MPS: float32) if the module is converted, for example
            by ``.to(torch.bfloat16)``: in half precision the small steps of the update would be lost.
        history: one dict for each update, with lists over subsets: ``target_prob`` (before the update),
            ``confidence``, ``accuracy``, ``standard_error`` (of their difference) and ``n``, as measured on validation
            data. After `update_as_one`, every subset has the values of the whole validation split.

    Raises:
        InputError: a setting is out of its range, or the rate of the rule is still "auto".

    Example:
        >>> criterion = AdaptiveSmoothing(num_classes=2, num_subsets=2, rule=UpdateRule(rate=0.5, leak=0))
        >>> logits, labels = torch.tensor([[2.2, 0.0], [0.0, 2.2]]), torch.tensor([1, 1])
        >>> criterion.update(labels, logits, subsets=torch.tensor([0, 1]))
        tensor([0.5499, 1.0000], dtype=torch.float64)
    """

    target_prob: Tensor
    level: Tensor
    average_gap: Tensor
    steps: Tensor
    observed: Tensor
    settings: Tensor
    weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        num_subsets: int = 10,
        *,
        rule: UpdateRule | None = UpdateRule(),  # noqa: B008 (frozen)
        initial_target_prob: float | Tensor = 1.0,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        _check_num_classes(num_classes)
        if num_subsets < 1:
            raise InputError(expected="at least one subset", got=f"num_subsets={num_subsets}", hint="num_subsets=10")
        initial = TargetState.initial(num_subsets, initial_target_prob)
        if not ((1 / num_classes - 1e-9 <= initial.target_prob) & (initial.target_prob <= 1)).all():
            # The lower bound may have been rounded.
            raise InputError(
                expected=f"an initial target probability from 1/{num_classes} to 1",
                got=str(initial_target_prob),
                hint="0.95, or smoothing_to_target_prob(0.1, num_classes)",
            )
        if rule is not None:
            _ = rule.update_rate  # raises InputError if the rate is not a number yet
        self.num_classes = num_classes
        self.num_subsets = num_subsets
        self.rule = rule
        self.ignore_index, self.reduction = ignore_index, reduction
        self._is_tried = False
        self._examples: list[_Observed] = []
        for name, values in vars(initial).items():
            self.register_buffer(name, values)
        self.register_buffer("steps", self.target_prob.new_empty(0, len(_MEASURED), num_subsets))
        self.register_buffer("observed", self.target_prob.new_empty(_NUM_SUMS, 0))
        self.register_buffer("settings", self.target_prob.new_tensor(list(self._settings.values())))
        self.register_buffer("weight", weight, persistent=False)  # a setting

    def forward(self, logits: Tensor, labels: Values, subsets: Values | None = None) -> Tensor:
        """Compute the loss of a training batch.

        The first call checks all values. Later calls check shapes and dtypes, and read no value from the device,
        except that an omitted ``subsets`` with R > 1 compares the targets.

        Args:
            logits: shape (N, K), or a model's output that has them, such as an output object of transformers.
            labels: int64, shape (N,).
            subsets: robustness subset of each example, int64, shape (N,); may be omitted while all targets are equal.

        Returns:
            Scalar, in nats; for the reduction "none" shape (N,).

        Raises:
            InputError: the targets differ, but ``subsets`` is omitted; shapes do not fit; a label or a subset is out of
                range; logits of the first batch are not finite or are probabilities.
        """
        logits, labels = _logits_of(logits, len(labels)), to_tensor(labels)
        subsets = None if subsets is None else to_tensor(subsets)
        self._check_form(logits, labels)
        if not self._is_tried and not torch.compiler.is_compiling():
            counted, _, _ = self._counted(logits.detach(), labels, subsets)
            check_finite_logits(counted)
            self._is_tried = True
        return soft_cross_entropy(
            logits,
            labels,
            self._targets_of(labels, subsets),
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def target_prob_for(self, labels: Tensor, subsets: Tensor | None = None) -> Tensor:
        """Return the true-class target probability of each example, for use in another loss.

        Args:
            labels: int64, shape (N,).
            subsets: robustness subset of each example, int64, shape (N,); may be omitted while all targets are equal.

        Returns:
            p, of the default dtype but at least float32, shape (N,).

        Raises:
            InputError: the targets differ, but ``subsets`` is omitted; or a subset is out of range.
        """
        return self._targets_of(labels, subsets).to(working_dtype(torch.empty(0)))

    def _targets_of(self, labels: Tensor, subsets: Tensor | None) -> Tensor:
        """Look up p of each example, in full precision."""
        if subsets is None:
            self._check_as_one(self.target_prob)
            subsets = torch.zeros_like(labels)
        check_indices(subsets, len(labels), "subsets", "the robustness subset of each example")
        if self.ignore_index is not None:
            subsets = subsets.where(labels != self.ignore_index, 0)
        try:
            return self.target_prob.index_select(0, subsets.long())  # unlike [], it takes no negative index
        except (IndexError, RuntimeError):
            check_subsets(subsets, len(labels), self.num_subsets)
            raise

    @property
    def history(self) -> list[dict[str, list[float]]]:
        """The measurements of all updates, with lists over subsets."""
        return [dict(zip(_MEASURED, step, strict=True)) for step in self.steps.tolist()]

    def last_gaps(self) -> list[float]:
        """Return the gap of each subset at the last update, confidence minus accuracy; NaN for one without examples."""
        last = self.history[-1]
        return [conf - acc for conf, acc in zip(last["confidence"], last["accuracy"], strict=True)]

    @torch.no_grad()
    def observe(self, labels: Values, logits: Values, subsets: Values | None = None, ids: Values | None = None) -> None:
        """Measure confidence and accuracy on a batch of validation examples, for the next update.

        Args:
            labels: int64, shape (N,).
            logits: shape (N, K); for an ensemble, log mean probabilities.
            subsets: robustness subset within the validation split, int64, shape (N,); may be omitted if R = 1, or
                before `update_as_one`.
            ids: number of each example in the validation split, int64, shape (N,). Examples with the same id count
                once, because samplers repeat examples to fill their batches. Needed if several processes train
                together. Until the update, the examples are kept one by one, and are no part of the state.

        Raises:
            InputError: shapes do not fit; a label or a subset is out of range; logits are NaN or probabilities; only
                some batches have subsets or ids; or ids are omitted although several processes train together. The
                batch is then not counted.
        """
        labels, logits = to_tensor(labels), _logits_of(logits, len(labels))
        ids = self._ids_of(ids, labels)
        num_subsets = 1 if subsets is None else self.num_subsets
        logits, labels, groups = self._counted(logits, labels, subsets, num_subsets)
        if not len(labels):
            return
        confidence, predicted = logits.to(self.target_prob).softmax(1).max(1)
        if not confidence.isfinite().all():  # a class may have -inf: the logarithm of a mean probability of 0
            check_finite_logits(logits)
        correct = (predicted.to(labels.device) == labels).to(self.target_prob)
        sums = sums_by_subset(confidence, correct, groups.to(self.target_prob.device), num_subsets)
        if self.observed.numel():
            _refuse_some("subsets", self.observed.shape == sums.shape)
            _refuse_some("ids", bool(self._examples) == (ids is not None))
        self.observed = self.observed + sums if self.observed.numel() else sums
        if ids is not None:
            self._examples.append((ids, groups.cpu(), confidence.cpu(), correct.cpu()))

    def update(
        self,
        labels: Values | None = None,
        logits: Values | None = None,
        subsets: Values | None = None,
        ids: Values | None = None,
    ) -> Tensor:
        """Update the targets by confidence and accuracy of each subset on validation data (step 4).

        Args:
            labels: labels of all validation examples, or of those that `observe` has not seen yet; omitted with
                ``logits`` and ``subsets`` if `observe` has seen all.
            logits: see `observe`.
            subsets: see `observe`.
            ids: see `observe`.

        Returns:
            The new `target_prob`, shape (R,). If several processes train together, each of them must call this method,
            and gets the same targets.

        Raises:
            InputError: ``subsets`` are omitted although R > 1; there are no examples; or see `observe`. The targets are
                then as before.
        """
        given = labels is not None and logits is not None
        if self.num_subsets > 1 and (subsets is None if given else self.observed.shape[1] == 1):
            # A caller who forgets the subsets would run AdaLS without notice. So this needs a separate method.
            raise InputError(
                expected=f"the subset of each example (num_subsets={self.num_subsets})",
                got="no subsets",
                hint="passing subsets from assign_subsets, or calling update_as_one until the subsets are known",
            )
        if labels is not None and logits is not None:
            self.observe(labels, logits, subsets, ids)
        return self._update()

    def update_as_one(
        self, labels: Values | None = None, logits: Values | None = None, ids: Values | None = None
    ) -> Tensor:
        """Update all targets by the gap of the whole validation split, as with R = 1, while no subsets are known.

        Args:
            labels: see `update`.
            logits: see `observe`.
            ids: see `observe`.

        Returns:
            The new `target_prob`: R equal values, bit for bit the same as with ``num_subsets=1``.

        Raises:
            InputError: gaps or targets differ, because subsets were known before; or there are no examples.
        """
        self._check_as_one(self.target_prob)
        self._check_as_one(self.average_gap.nan_to_num(0.0))
        if labels is not None and logits is not None:
            self.observe(labels, logits, ids=ids)
        return self._update()

    @torch.no_grad()
    def _update(self) -> Tensor:
        """Run step 4 on the observed subsets: on all targets, or on one that the others follow."""
        sums = self._sums_of_all()
        if not sums[0].sum():
            raise InputError(expected="at least one validation example", got="no example", hint="a validation split")
        measured, num_subsets = measurement(sums), sums.shape[1]
        columns = [self.target_prob, *(each.expand_as(self.target_prob) for each in vars(measured).values())]
        self.steps = torch.cat([self.steps, torch.stack(columns)[None]])
        if self.rule is not None:
            state = TargetState(self.target_prob[:num_subsets], self.level, self.average_gap[:num_subsets])
            for name, values in vars(update_target_prob(state, measured, self.rule, self.num_classes)).items():
                self.get_buffer(name).copy_(values)
        return self.target_prob.clone()

    def _sums_of_all(self) -> Tensor:
        """Take the sums over what was observed: over all processes, and over each id once."""
        sums, examples = self.observed, self._examples
        self.observed, self._examples = sums.new_empty(_NUM_SUMS, 0), []
        if not examples and sums.numel():
            _refuse_several_processes()  # the sums are those of a loaded state
            return sums
        found = of_all_processes((sums.shape[1], [torch.cat(column) for column in zip(*examples, strict=True)]))
        num_subsets = max(number for number, _ in found)
        _refuse_some("subsets", all(number in (0, num_subsets) for number, _ in found))
        columns = [torch.cat(parts) for parts in zip(*(each for _, each in found if each), strict=True)]
        if not columns:
            return sums
        first = first_of_each(columns[0])
        subsets, confidence, correct = (column[first] for column in columns[1:])
        return sums_by_subset(confidence, correct, subsets, num_subsets).to(sums)

    def _ids_of(self, ids: Values | None, labels: Tensor) -> Tensor | None:
        """Check the ids of a batch, and return those of the examples that count, on the CPU."""
        if ids is None:
            _refuse_several_processes()
            return None
        ids = to_tensor(ids).cpu()
        check_indices(ids, len(labels), "ids", "the number of each example in the validation split")
        return (ids if self.ignore_index is None else ids[labels.cpu() != self.ignore_index]).long()

    def _check_form(self, logits: Tensor, labels: Tensor) -> None:
        check_form(logits, len(labels), self.num_classes)
        check_indices(labels, len(logits), "labels", "class indices, such as labels.long()")

    def _counted(
        self, logits: Tensor, labels: Tensor, subsets: Values | None, num_subsets: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Check a batch, and return the examples that count: those whose label is not ``ignore_index``."""
        self._check_form(logits, labels)
        subsets = torch.zeros_like(labels) if subsets is None else to_tensor(subsets)
        check_indices(subsets, len(labels), "subsets", "the robustness subset of each example")
        if self.ignore_index is not None:
            keep = labels != self.ignore_index
            logits, labels, subsets = logits[keep.to(logits.device)], labels[keep], subsets[keep.to(subsets.device)]
        if len(labels):
            check_labels(labels, self.num_classes, hint=unlabeled(labels))
            check_subsets(subsets, len(labels), num_subsets or self.num_subsets)
            refuse_other_outputs(logits)
        return logits, labels, subsets

    def at_lower_bound(self) -> list[int]:
        """List the subsets whose target has reached 1/K at any time. Such targets carry no label: a sign of wind-up."""
        courses = [*(step["target_prob"] for step in self.history), self.target_prob.tolist()]
        return [r for r in range(self.num_subsets) if min(p[r] for p in courses) <= 1 / self.num_classes]

    @property
    def _settings(self) -> dict[str, float]:
        """The settings on which the meaning of the state depends; NaN for None."""
        rule = dict.fromkeys(map(attrgetter("name"), fields(UpdateRule))) if self.rule is None else asdict(self.rule)
        numbers = {name: math.nan if value is None else float(value) for name, value in rule.items()}
        return {"num_classes": float(self.num_classes), "num_subsets": float(self.num_subsets), **numbers}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Refuse the state of other settings before anything is loaded, and keep the precision of the state."""
        saved = state_dict.get(f"{prefix}settings", self.settings)
        state_dict[f"{prefix}settings"] = self.settings.clone()
        pairs = zip(self._settings, self.settings.to(saved.dtype).tolist(), saved.tolist(), strict=True)
        if different := {name: theirs for name, ours, theirs in pairs if str(ours) != str(theirs)}:
            raise InputError(
                expected=f"the state of AdaptiveSmoothing({self.extra_repr()})",
                got=", ".join(
                    f"{name}={'none' if math.isnan(value) else f'{value:g}'}" for name, value in different.items()
                ),
                hint="AdaptiveSmoothing with the settings that it had when the state was saved",
            )
        for name in ("steps", "observed"):  # their sizes are part of the state
            if (loaded := state_dict.get(prefix + name)) is not None:
                setattr(self, name, self.get_buffer(name).new_empty(loaded.shape))
                state_dict[prefix + name] = loaded.to(self.get_buffer(name).dtype)
        for name, values in vars(TargetState.initial(self.num_subsets)).items():
            if (loaded := state_dict.get(prefix + name)) is not None:
                state_dict[prefix + name] = loaded.to(values.dtype)
        if (target_prob := state_dict.get(f"{prefix}target_prob")) is not None:
            check_between(1 / self.num_classes, 1, target_prob=target_prob)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptiveSmoothing:
        """Follow the module to another device, but not to another dtype."""
        device = fn(torch.empty(0)).device
        dtype = exact_dtype(device)
        exact = {
            # A device without float64 takes part only after, or before, the conversion.
            name: values.to(device).to(dtype) if dtype == torch.float64 else values.to(dtype).to(device)
            for name, values in self.named_buffers(recurse=False)
        }
        self._buffers.update(exact)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update({name: each for name, each in exact.items() if self.get_buffer(name).dtype != each.dtype})
        return self

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"num_classes={self.num_classes}, num_subsets={self.num_subsets}, rule={self.rule}"

    def _check_as_one(self, by_subset: Tensor) -> None:
        if len(by_subset) > 1 and (by_subset != by_subset[0]).any():
            raise InputError(
                expected=f"the subset of each example (num_subsets={self.num_subsets}), because the targets differ",
                got="no subsets",
                hint="passing subsets from assign_subsets, or num_subsets=1",
            )


def _refuse_several_processes() -> None:
    if num_processes() > 1:
        raise InputError(
            expected="the ids of the examples, because several processes train together",
            got="no ids",
            hint="ids=, the number of each example in the validation split, so that repeated examples count once",
        )


def _refuse_some(what: str, all_or_none: bool) -> None:
    if not all_or_none:
        raise InputError(
            expected=f"{what} for all batches or for none", got=f"{what} for some", hint="the same call for each batch"
        )


def _logits_of(output: Any, num_examples: int) -> Tensor:
    """Return logits from a tensor, an array, a list, or the output of a model."""
    numbers = isinstance(output, Tensor | np.ndarray) or (
        isinstance(output, list) and not isinstance(output[0], Tensor)
    )
    return to_tensor(output) if numbers else find_logits(output, num_examples)


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise InputError(expected="at least 2 classes", got=f"num_classes={num_classes}", hint="num_classes=10")
