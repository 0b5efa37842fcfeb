"""Groups of examples: by rank of a score (the method), by thresholds, at random (the control), by a column of the data.

Subsets are int64 indices, one for each example, shape (N,), from 0 to R - 1. If a score defines the subsets, subset 0
is the least robust.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aradals.checks import check_indices
from aradals.errors import InputError


def assign_subsets(scores: Tensor, num_subsets: int, ids: Tensor | None = None) -> Tensor:
    """Rank examples by robustness and cut the ranking into subsets of equal size (step 2 of the method).

    Args:
        scores: robustness scores, shape (N,), finite; larger = more robust.
        num_subsets: R, from 1 to N.
        ids: shape (N,); they break ties between equal scores. By default, the position breaks ties.

    Returns:
        Subset index of each example, int64, shape (N,), in the order of ``scores``; 0 = least robust.
        Sizes differ by at most one.

    Raises:
        InputError: a score is not finite, ids and scores differ in number, or there are fewer examples than subsets.
    """
    rank = _rank(_finite(scores), ids)
    _check_num_subsets(num_subsets, len(scores))
    return rank * num_subsets // len(scores)


def subset_thresholds(scores: Tensor, num_subsets: int) -> Tensor:
    """Return the smallest score of each subset of `assign_subsets` except the first, as thresholds for other scores.

    Args:
        scores: scores of the split that sets the thresholds, shape (N,), finite; larger = more robust.
        num_subsets: R, from 1 to N.

    Returns:
        Thresholds for `match_subsets`, which do not fall; float64, shape (R - 1,).

    Raises:
        InputError: a score is not finite, or there are fewer examples than subsets.
    """
    ordered = _finite(scores).sort().values
    _check_num_subsets(num_subsets, len(scores))
    first = -(-torch.arange(1, num_subsets) * len(scores) // num_subsets)  # the first rank r with r R / N >= subset
    return ordered[first]


def match_subsets(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Assign subsets by given thresholds, so that examples of two splits share a subset by score, not by rank.

    A scoring model has memorized its training split, so that the scores of that split are larger. With the thresholds
    of the validation split, the subsets of the training split differ in size, and some may be empty.

    Args:
        scores: shape (N,), finite; larger = more robust.
        thresholds: thresholds from `subset_thresholds`, which do not fall, shape (R - 1,).

    Returns:
        Number of thresholds that each score reaches, int64, shape (N,).

    Raises:
        InputError: a score is not finite, or the thresholds fall.

    Example:
        >>> thresholds = subset_thresholds(torch.tensor([0.4, 0.1, 0.3, 0.2]), num_subsets=2)
        >>> match_subsets(torch.tensor([0.25, 0.3, 0.9]), thresholds)
        tensor([0, 1, 1])
    """
    cuts = thresholds.detach().cpu().double()
    if cuts.ndim != 1 or not (cuts.diff() >= 0).all() or cuts.isnan().any():
        raise InputError(
            expected="thresholds that do not fall, shape (R - 1,)",
            got=str(cuts.tolist()),
            hint="the thresholds of subset_thresholds",
        )
    return torch.searchsorted(cuts, _finite(scores), right=True)


def fold_of(ids: Tensor, seed: int) -> Tensor:
    """Assign each example at random to one half, 0 or 1; int64, shape (N,).

    An id gets the same half in any order of ``ids``. The sizes of the halves differ by at most one.

    Raises:
        InputError: ``ids`` are not distinct integers, or there are none.
    """
    _check_num_subsets(1, len(ids))
    return _random_rank(ids, seed, "fold") * 2 // len(ids)


def random_subsets(ids: Tensor, num_subsets: int, seed: int) -> Tensor:
    """Assign random subsets of equal size, independent of robustness: the control.

    Args:
        ids: distinct, int64, shape (N,).
        num_subsets: R, from 1 to N.
        seed: another seed gives other subsets.

    Returns:
        Subset index of each example, int64, shape (N,), in the order of ``ids``. An id gets the same subset in any
        order of ``ids``. Sizes differ by at most one.

    Raises:
        InputError: ``ids`` are not distinct integers, or there are fewer of them than subsets.
    """
    _check_num_subsets(num_subsets, len(ids))
    return _random_rank(ids, seed, "subset") * num_subsets // len(ids)


def column_subsets(
    values: npt.NDArray[np.generic], names: Sequence[str] | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """Make one subset of each distinct value of a column, in sorted order.

    Numbers that measure something (a size, a score) have too many distinct values. Rank them instead with
    ``assign_subsets(torch.from_numpy(values), num_subsets)``.

    Args:
        values: categories as strings, integers or booleans, shape (N,); see `aradals.data.load_column`.
        names: names of the subsets, if another split has set them; by default the values that occur in ``values``.

    Returns:
        ``(subsets, names)``: int64, shape (N,), and the value of each subset, as text.

    Raises:
        InputError: the values are not categories (for example floats), or a value is not among ``names``.

    Example:
        >>> column_subsets(np.array(["wild", "farm", "wild"]))
        (tensor([1, 0, 1]), ('farm', 'wild'))
    """
    if values.ndim != 1 or values.dtype.kind not in "USiub":
        is_float = values.ndim == 1 and values.dtype.kind == "f"
        raise InputError(
            expected="a column of categories: strings, integers or booleans, shape (N,)",
            got=f"{values.dtype} of shape {values.shape}",
            hint="assign_subsets(torch.from_numpy(values), num_subsets), which ranks the values"
            if is_float
            else "a column with one category for each example",
        )
    present, positions = np.unique(values, return_inverse=True)
    found = tuple(str(value) for value in present.tolist())
    known = found if names is None else tuple(names)
    unknown = [name for name in found if name not in known]
    if unknown:
        raise InputError(
            expected=f"values among {', '.join(known)}",
            got=", ".join(unknown),
            hint="the names of a split that has all values",
        )
    index = np.array([known.index(name) for name in found], dtype=np.int64)
    return torch.from_numpy(index[positions]), known


def _check_num_subsets(num_subsets: int, num_examples: int) -> None:
    if not 1 <= num_subsets <= num_examples:
        raise InputError(
            expected=f"from 1 to {num_examples} subsets (a split of {num_examples} examples)",
            got=f"num_subsets={num_subsets}",
            hint="fewer subsets or a larger split",
        )


def _finite(scores: Tensor) -> Tensor:
    """Copy the scores to float64 on the CPU, after a check that they are one finite number for each example."""
    if scores.ndim != 1 or scores.is_complex():
        raise InputError(
            expected="scores of shape (N,)", got=f"shape {tuple(scores.shape)}", hint="one number for each example"
        )
    if not scores.isfinite().all():
        raise InputError(
            expected="finite scores",
            got=f"{int((~scores.isfinite()).sum())} scores that are NaN or infinite",
            hint="the column `score` instead of `norm`, which is infinite if the search failed",
        )
    return scores.detach().cpu().double()


def _rank(scores: Tensor, ids: Tensor | None) -> Tensor:
    """Rank each score from 0, the lowest; ids, or else positions, break ties."""
    if ids is not None:
        check_indices(ids, len(scores), "ids", "one id for each score")
    tie_break = np.arange(len(scores)) if ids is None else ids.cpu().numpy()
    return _inverse(np.lexsort((tie_break, scores.numpy())))


def _random_rank(ids: Tensor, seed: int, purpose: str) -> Tensor:
    """Rank the ids in a random order that depends on the seed and the purpose.

    The sort key of an id does not depend on the other ids. The keys are those of SplitMix64 (Steele, Lea and Flood
    2014), which is a bijection, so that distinct ids have distinct keys.
    """
    check_indices(ids, len(ids), "ids", "one id for each example")
    if len(ids.unique()) < len(ids):
        raise InputError(expected="distinct ids", got="an id that occurs twice", hint="torch.arange(len(ids))")
    start = np.random.default_rng([seed, *purpose.encode()]).integers(2**64, dtype=np.uint64)
    key = ids.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        key = (key ^ (key >> np.uint64(shift))) * np.uint64(factor)
    return _inverse(np.argsort(key ^ (key >> np.uint64(31)), kind="stable"))


def _inverse(order: npt.NDArray[np.int64]) -> Tensor:
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(rank)
