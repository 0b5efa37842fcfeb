"""Groups of examples: sizes, order, ties, and what they must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aradals.errors import InputError
from aradals.smoothing.subsets import (
    assign_subsets,
    column_subsets,
    fold_of,
    match_subsets,
    random_subsets,
    subset_thresholds,
)


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


class TestThresholds:
    def test_by_hand(self) -> None:
        # Ranked .1 .2 | .3 .4 | .5: the subsets of five are of 2, 2 and 1.
        thresholds = subset_thresholds(torch.tensor([0.5, 0.3, 0.1, 0.4, 0.2], dtype=torch.float64), 3)
        assert thresholds.tolist() == [0.3, 0.5]
        scores = torch.tensor([-1, 0.29, 0.3, 0.49, 0.5, 9], dtype=torch.float64)
        assert match_subsets(scores, thresholds).tolist() == [0, 0, 1, 1, 2, 2]

    @given(st.lists(st.floats(-10, 10), min_size=1, max_size=60, unique=True), st.data())
    def test_agree_with_the_ranking_that_set_them(self, values: list[float], data: st.DataObject) -> None:
        scores = torch.tensor(values, dtype=torch.float64)
        num_subsets = data.draw(st.integers(1, len(values)))
        thresholds = subset_thresholds(scores, num_subsets)
        assert thresholds.shape == (num_subsets - 1,)
        assert match_subsets(scores, thresholds).equal(assign_subsets(scores, num_subsets))

    def test_single_precision_scores(self) -> None:
        scores = torch.rand(500, generator=torch.Generator().manual_seed(0))
        assert match_subsets(scores, subset_thresholds(scores, 10)).equal(assign_subsets(scores, 10))

    def test_a_memorized_split_has_few_scores_that_are_low(self) -> None:
        validation = torch.arange(100) / 100
        found = match_subsets(validation + 0.355, subset_thresholds(validation, 10))
        assert torch.bincount(found, minlength=10).tolist() == [0, 0, 0, 5, 10, 10, 10, 10, 10, 45]

    def test_equal_scores_are_of_one_subset(self) -> None:
        thresholds = subset_thresholds(torch.zeros(9), 3)
        assert match_subsets(torch.tensor([-0.1, 0.0, 0.1]), thresholds).tolist() == [0, 2, 2]

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="from 1 to 3 subsets"):
            subset_thresholds(torch.rand(3), 4)
        with pytest.raises(InputError, match="finite scores"):
            match_subsets(torch.tensor([math.nan]), torch.tensor([0.5]))
        with pytest.raises(InputError, match="thresholds that do not fall"):
            match_subsets(torch.rand(3), torch.tensor([0.5, 0.4]))


IDS = 7 * torch.arange(1000) + 3


class TestRandomSubsets:
    def test_sizes_are_equal(self) -> None:
        assert torch.bincount(random_subsets(IDS, 7, seed=0)).tolist() in ([143] * 6 + [142], [142] + [143] * 6)

    def test_depend_on_id_and_seed_and_not_on_order(self) -> None:
        order = torch.randperm(1000)
        subsets = random_subsets(IDS, 10, seed=0)
        assert random_subsets(IDS[order], 10, seed=0).equal(subsets[order])
        # A tenth agree by chance.
        assert (random_subsets(IDS, 10, seed=1) == subsets).float().mean() < 0.15

    @pytest.mark.parametrize("seed", [0, 1, 2**40])
    def test_have_nothing_to_do_with_the_order_of_ids(self, seed: int) -> None:
        subsets = random_subsets(torch.arange(20_000), 10, seed).double()
        for lag in (1, 2, 10, 1000):
            correlation = torch.corrcoef(torch.stack([subsets[lag:], subsets[:-lag]]))[0, 1]
            assert abs(correlation) < 4 / 20_000**0.5
        assert abs(torch.corrcoef(torch.stack([subsets, torch.arange(20_000).double()]))[0, 1]) < 4 / 20_000**0.5

    def test_more_subsets_than_examples(self) -> None:
        with pytest.raises(InputError, match="from 1 to 1000 subsets"):
            random_subsets(IDS, 1001, seed=0)


class TestFolds:
    def test_are_halves_whatever_the_order(self) -> None:
        folds, order = fold_of(IDS, seed=0), torch.randperm(1000)
        assert torch.bincount(folds).tolist() == [500, 500]
        assert fold_of(IDS[order], seed=0).equal(folds[order])
        assert not fold_of(IDS, seed=1).equal(folds)

    def test_are_not_the_random_subsets(self) -> None:
        """Else the control would group the examples by the model that scored them."""
        agreement = (fold_of(IDS, seed=0) == random_subsets(IDS, 2, seed=0)).float().mean()
        assert 0.44 < agreement < 0.56


class TestColumns:
    @pytest.mark.parametrize(
        ("values", "subsets", "names"),
        [
            (["b", "a", "c", "a"], [1, 0, 2, 0], ("a", "b", "c")),
            ([10, 9, 10, -1], [2, 1, 2, 0], ("-1", "9", "10")),
            ([True, False, True, True], [1, 0, 1, 1], ("False", "True")),
        ],
    )
    def test_each_value_is_a_subset_in_sorted_order(
        self, values: list[object], subsets: list[int], names: tuple[str, ...]
    ) -> None:
        found, found_names = column_subsets(np.array(values))
        assert (found.tolist(), found_names) == (subsets, names)
        assert found.dtype == torch.int64

    def test_names_of_another_split(self) -> None:
        _, names = column_subsets(np.array(["a", "b", "c"]))
        found, same = column_subsets(np.array(["c", "a", "c"]), names)
        assert (found.tolist(), same) == ([2, 0, 2], names)
        with pytest.raises(InputError, match="values among a, b, c, got d"):
            column_subsets(np.array(["a", "d"]), names)

    def test_measurements_are_to_be_ranked(self) -> None:
        with pytest.raises(InputError, match=r"got float64.*try assign_subsets\(torch.from_numpy\(values\)"):
            column_subsets(np.array([0.5, 0.1]))
        with pytest.raises(InputError, match="categories"):
            column_subsets(np.zeros((2, 2), dtype=np.int64))
