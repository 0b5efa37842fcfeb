"""Groups of examples: by rank of a score (the method), by thresholds, at random (the control), by a column of the data.

A subset is an int64 index per example, shape (N,), from 0 to R - 1. Where a score makes it, 0 is the least robust.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aradals.errors import InputError


def assign_subsets(scores: Tensor, num_subsets: int, ids: Tensor | None = None) -> Tensor:
    """Rank examples by robustness and cut the ranking into subsets of equal size (step 2 of the method).

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
    rank = _rank(_finite(scores), ids)
    _check_num_subsets(num_subsets, len(scores))
    return rank * num_subsets // len(scores)


def subset_thresholds(scores: Tensor, num_subsets: int) -> Tensor:
    """The smallest score of each subset of `assign_subsets` but the first: where `match_subsets` cuts other scores.

    Args:
        scores: of the split that sets the thresholds, shape (N,), finite; larger = more robust.
        num_subsets: R, from 1 to N.

    Returns:
        Not falling, float64, shape (R - 1,).

    Raises:
        InputError: scores that are not finite, or fewer examples than subsets.
    """
    ordered = _finite(scores).sort().values
    _check_num_subsets(num_subsets, len(scores))
    first = -(-torch.arange(1, num_subsets) * len(scores) // num_subsets)  # the first rank r with r R / N >= subset
    return ordered[first]


def match_subsets(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Subsets by given thresholds: examples of two splits share a subset where their scores agree, not their ranks.

    A scoring model has memorized its training split, where scores are larger; cut by the thresholds of the validation
    split, the subsets of the training split differ in size, and some may be empty.

    Args:
        scores: shape (N,), finite; larger = more robust.
        thresholds: not falling, shape (R - 1,), from `subset_thresholds`.

    Returns:
        Number of thresholds that each score reaches, int64, shape (N,).

    Raises:
        InputError: scores that are not finite, or thresholds that fall.

    Example:
        >>> thresholds = subset_thresholds(torch.tensor([0.4, 0.1, 0.3, 0.2]), num_subsets=2)
        >>> match_subsets(torch.tensor([0.25, 0.3, 0.9]), thresholds)
        tensor([0, 1, 1])
    """
    cuts = thresholds.detach().cpu().double()
    if (cuts.diff() < 0).any():
        raise InputError(expected="thresholds that do not fall", got=str(cuts.tolist()), hint="subset_thresholds")
    return torch.searchsorted(cuts, _finite(scores), right=True)


def fold_of(ids: Tensor, seed: int) -> Tensor:
    """Which half each example is in, 0 or 1, int64, shape (N,): at random, the same in any order of ``ids``.

    Sizes differ by at most one.
    """
    return _random_rank(ids, seed, "fold") * 2 // len(ids)


def random_subsets(ids: Tensor, num_subsets: int, seed: int) -> Tensor:
    """Subsets of equal size that have nothing to do with robustness: the control.

    Args:
        ids: distinct, int64, shape (N,).
        num_subsets: R, from 1 to N.
        seed: another seed gives other subsets.

    Returns:
        int64, shape (N,), in the order of ``ids``; the same subset for the same id in any order.
        Sizes differ by at most one.

    Raises:
        InputError: fewer examples than subsets.
    """
    _check_num_subsets(num_subsets, len(ids))
    return _random_rank(ids, seed, "subset") * num_subsets // len(ids)


def column_subsets(
    values: npt.NDArray[np.generic], names: Sequence[str] | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """Each distinct value of a column a subset, in sorted order.

    Numbers that measure something (a size, a score) have too many values for that: rank them with
    ``assign_subsets(torch.from_numpy(values), num_subsets)``.

    Args:
        values: categories as strings, integers or booleans, shape (N,); see `aradals.data.load_column`.
        names: what the subsets are, where another split has set them; by default what occurs in ``values``.

    Returns:
        ``(subsets, names)``: int64, shape (N,), and the value that each subset stands for, as text.

    Raises:
        InputError: floats or other things than categories, or a value that is not among ``names``.

    Example:
        >>> column_subsets(np.array(["wild", "farm", "wild"]))
        (tensor([1, 0, 1]), ('farm', 'wild'))
    """
    if values.ndim != 1 or values.dtype.kind not in "USiub":
        is_float = values.ndim == 1 and values.dtype.kind == "f"
        raise InputError(
            expected="a column of categories: strings, integers or booleans, shape (N,)",
            got=f"{values.dtype} of shape {values.shape}",
            hint="assign_subsets(torch.from_numpy(values), num_subsets), which ranks them" if is_float else "another",
        )
    present, positions = np.unique(values, return_inverse=True)
    found = tuple(str(value) for value in present.tolist())
    known = found if names is None else tuple(names)
    unknown = [name for name in found if name not in known]
    if unknown:
        raise InputError(
            expected=f"values among {', '.join(known)}",
            got=", ".join(unknown),
            hint="names from a split that has them all",
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
    """The scores in float64 on the CPU, all of them finite."""
    if not scores.isfinite().all():
        raise InputError(
            expected="finite scores",
            got=f"{int((~scores.isfinite()).sum())} that are NaN or infinite",
            hint="the column `score` rather than `norm`, which is infinite where the search failed",
        )
    return scores.detach().cpu().double()


def _rank(scores: Tensor, ids: Tensor | None) -> Tensor:
    """Rank of each score from 0, the lowest; equal scores are ranked by id, or by position."""
    tie_break = np.arange(len(scores)) if ids is None else ids.cpu().numpy()
    return _inverse(np.lexsort((tie_break, scores.numpy())))


def _random_rank(ids: Tensor, seed: int, purpose: str) -> Tensor:
    """Rank of each id in a random order, which depends on seed and purpose and not on the other ids.

    The keys are those of SplitMix64 (Steele, Lea and Flood 2014), a bijection, so that distinct ids have distinct keys.
    """
    start = np.random.default_rng([seed, *purpose.encode()]).integers(2**64, dtype=np.uint64)
    key = ids.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        key = (key ^ (key >> np.uint64(shift))) * np.uint64(factor)
    return _inverse(np.argsort(key ^ (key >> np.uint64(31)), kind="stable"))


def _inverse(order: npt.NDArray[np.int64]) -> Tensor:
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(rank)
