"""Splits of a study, which the training examples are cut into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from aradals.data.examples import Examples
from aradals.errors import InputError

MAX_TEST = 10_000
"""Largest number of examples that are cut off for the test if no number is given."""


@dataclass(frozen=True)
class Splits:
    """The four splits of a study, each with one use.

    Attributes:
        train: examples that fit the weights.
        validation: examples that the adaptive update measures.
        calibration: examples that fit temperatures and maps.
        test: examples for the results only.
    """

    train: Examples
    validation: Examples
    calibration: Examples
    test: Examples

    def items(self) -> Iterator[tuple[str, Examples]]:
        """Iterate over (name, examples) of each split."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))


def make_splits(
    train: Examples,
    test: Examples,
    *,
    validation: int,
    calibration: int,
    train_size: int | None = None,
    seed: int,
) -> Splits:
    """Cut ``train`` at random into training, validation and calibration examples; ``test`` stays as it is.

    Examples keep their ids, which are rows of the source. Every split is in the order of the source. Examples with the
    same content stay together, because a copy of a training example is no unseen one. Copies that no split has room
    for are left out, so that a split may have a few examples less than asked.

    Args:
        train: the examples to cut.
        test: the examples for the results.
        validation: number of validation examples.
        calibration: number of calibration examples.
        train_size: number of training examples; by default all remaining examples.
        seed: decides the split of each example.

    Raises:
        InputError: the sizes do not fit, the two sources have different classes or shapes, or so many examples are
            copies of each other that a split would lack a tenth of its examples.
    """
    held_out = validation + calibration
    size = len(train) - held_out if train_size is None else train_size
    if min(validation, calibration) < 0 or size < 1 or held_out + size > len(train):
        wanted = "at least 1" if train_size is None else train_size
        raise InputError(
            expected=f"sizes that fit the {len(train)} examples of {train.name}",
            got=f"{validation} for validation, {calibration} for calibration, {wanted} for training",
            hint="smaller sizes, as in --splits.validation 100 --splits.calibration 100",
        )
    for what in ("class_names", "input_shape"):
        ours, theirs = getattr(train, what), getattr(test, what)
        if ours != theirs:
            raise InputError(
                expected=f"the same {what} in {train.name} and {test.name}",
                got=f"{ours} and {theirs}",
                hint="two splits of one data set",
            )
    order = np.random.default_rng(seed).permutation(len(train))[: held_out + size]
    chosen, sizes = train.select(np.sort(order)), (validation, calibration, size)
    parts = _fill(sizes, chosen.hashes, np.argsort(np.argsort(order)))
    in_validation, in_calibration, in_train = found = [np.flatnonzero(parts == part) for part in range(3)]
    if any(len(rows) < 0.9 * wanted for rows, wanted in zip(found, sizes, strict=True)):
        raise InputError(
            expected=f"different examples in {train.name}, because copies of one example stay in one split",
            got=f"{len(np.unique(chosen.hashes))} different ones of {len(chosen)}, too few for these splits",
            hint="smaller sizes, or data without copies",
        )
    return Splits(chosen.select(in_train), chosen.select(in_validation), chosen.select(in_calibration), test)


def _fill(sizes: Sequence[int], hashes: npt.NDArray[np.uint64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Put contents, in the order of their first examples, each into the first part with room for all its examples.

    Returns:
        The part of each example; -1 for those in none.
    """
    _, content, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    part_of, room = np.full(len(counts), -1), list(sizes)
    for each in dict.fromkeys(content[order].tolist()):
        part = next((part for part, left in enumerate(room) if left >= counts[each]), None)
        if part is not None:
            part_of[each] = part
            room[part] -= counts[each]
    return part_of[content]


def cut_test(examples: Examples, test_size: int | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut off test examples in an order that their content decides; a larger cut contains every smaller one.

    Examples with the same content stay together, so that a cut may have a few more examples than asked.

    Args:
        examples: the examples to cut.
        test_size: number of test examples; default: a fifth, at most 10,000.

    Returns:
        The positions of the training and of the test examples, in their order.

    Raises:
        InputError: no training example would be left.
    """
    wanted = min(len(examples) // 5, MAX_TEST) if test_size is None else test_size
    content, member, counts = np.unique(examples.hashes, return_inverse=True, return_counts=True)
    keys = [hashlib.blake2b(each.tobytes(), digest_size=8, salt=b"test").digest() for each in content.astype("<u8")]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    before = np.cumsum(counts[order]) - counts[order]
    in_test = np.isin(member, order[before < wanted])
    if wanted < 1 or in_test.all():
        raise InputError(
            expected=f"a test split of 1 to {len(examples) - 1} examples of {examples.name}, which has no test split",
            got=str(wanted),
            hint="splits.test with another number, or data with a test split",
        )
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def splits_hash(splits: Splits) -> str:
    """Digest of the inputs in each split, independent of their order: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, examples in splits.items():
        digest.update(f"{name}:{len(examples)}:".encode())
        digest.update(np.sort(examples.hashes).astype("<u8").tobytes())
    return digest.hexdigest()[:16]
