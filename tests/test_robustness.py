from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aradals.attacks import ATTACKS, AttackResult, deepfool, describe_attack, get_attack
from aradals.errors import InputError
from aradals.robustness import ScoreTable, score

COLUMNS = ("ids", "predicted", "score", "norm", "success", "num_forward", "num_backward")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.rand(23, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_equal(table: ScoreTable, expected: ScoreTable) -> None:
    for name in COLUMNS:
        torch.testing.assert_close(getattr(table, name), getattr(expected, name), rtol=1e-5, atol=0)


def test_columns(model: nn.Module, inputs: Tensor) -> None:
    table = score(model, inputs)
    result = deepfool(model, inputs)
    assert len(table) == 23
    assert table.ids.tolist() == list(range(23))
    assert table.num_failed == 0
    assert table.attack == "deepfool(steps=50, num_candidates=10, overshoot=0.01)"
    for name in COLUMNS[1:]:
        assert torch.equal(getattr(table, name), getattr(result, name))


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_independent_of_batch_size(model: nn.Module, inputs: Tensor, batch_size: int) -> None:
    assert_equal(score(model, inputs, batch_size=batch_size), score(model, inputs))


def test_independent_of_order(model: nn.Module, inputs: Tensor) -> None:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    batches = [(ids, inputs[ids], labels[ids]) for ids in torch.split(order, 7)]
    assert_equal(score(model, batches), score(model, inputs))


def test_kinds_of_batches(model: nn.Module, inputs: Tensor) -> None:
    labels, ids = torch.zeros(len(inputs), dtype=torch.int64), torch.arange(len(inputs))
    expected = score(model, inputs)
    assert_equal(score(model, list(torch.split(inputs, 6))), expected)
    assert_equal(score(model, iter(torch.split(inputs, 6))), expected)
    assert_equal(score(model, DataLoader(TensorDataset(inputs), batch_size=6)), expected)
    assert_equal(score(model, DataLoader(TensorDataset(inputs, labels), batch_size=6)), expected)
    loader = DataLoader(TensorDataset(ids, inputs, labels), batch_size=6, shuffle=True)
    assert_equal(score(model, loader), expected)


def test_repeated_ids_count_once(model: nn.Module, inputs: Tensor) -> None:
    ids = torch.tensor([5, 2, 5])
    table = score(model, [(ids, inputs[ids], ids), (ids[:1], inputs[:1], ids[:1])])
    assert table.ids.tolist() == [2, 5]
    assert torch.equal(table.norm, score(model, inputs[[2, 5]]).norm)


def test_shuffling_without_ids_is_refused(model: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(InputError, match="shuffle=False"):
        score(model, DataLoader(TensorDataset(inputs, inputs[:, 0]), batch_size=6, shuffle=True))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (torch.zeros(2, 6, dtype=torch.uint8), "/ 255"),
        (torch.full((2, 6), 2.0), "values from 2 to 2"),
        (torch.zeros(0, 6), "at least one example"),
        ([], "at least one example"),
        ([["cat", "dog"]], "list of str, str"),
        ([(torch.rand(2), torch.rand(2, 6), torch.zeros(2))], "integer ids"),
        ([(torch.arange(3), torch.rand(2, 6), torch.zeros(2))], "2 integer ids"),
    ],
)
def test_bad_batches(model: nn.Module, batches: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(model, batches)


def test_progress_counts_examples(model: nn.Module, inputs: Tensor) -> None:
    done: list[int] = []
    score(model, inputs, batch_size=10, progress=done.append)
    assert done == [10, 20, 23]


class Detached(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs.detach()[:, :1] * 0 + 1, inputs.detach()[:, 1:2] * 0 - 1], 1)


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_a_model_that_nothing_changes_is_refused(attack: str, inputs: Tensor) -> None:
    with pytest.raises(InputError, match="23 examples"):
        score(Detached(), inputs, attack, steps=5)


def test_an_attack_may_be_a_function(model: nn.Module, inputs: Tensor) -> None:
    def twice_as_far(model: nn.Module, inputs: Tensor, *, factor: float = 2.0) -> AttackResult:
        result = deepfool(model, inputs)
        return AttackResult(**{**vars(result), "norm": factor * result.norm})

    table = score(model, inputs, twice_as_far, factor=3.0)
    assert table.attack == "twice_as_far(factor=3.0)"
    assert torch.equal(table.norm, 3 * score(model, inputs).norm)


def test_attacks_by_name(model: nn.Module, inputs: Tensor) -> None:
    attack = get_attack("carlini-wagner", steps=3)
    assert describe_attack(attack).startswith("carlini_wagner(binary_search_steps=9, steps=3, learning_rate=0.01,")
    assert describe_attack("deepfool", {"overshoot": 0.5}) == "deepfool(steps=50, num_candidates=10, overshoot=0.5)"
    assert get_attack("deepfool") is deepfool
    table = score(model, inputs, "deepfool", steps=1, num_candidates=2)
    assert table.attack == "deepfool(steps=1, num_candidates=2, overshoot=0.01)"


def test_unknown_attacks_and_arguments(model: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(InputError, match="deepfool or carlini_wagner"):
        get_attack("deep_pool")
    with pytest.raises(InputError, match=r"got step; try steps, num_candidates, overshoot"):
        score(model, inputs, "deepfool", step=3)
