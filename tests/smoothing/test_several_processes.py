"""The targets of several processes that train together: those of one process, and the same in each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DistributedSampler, TensorDataset

from aradals import AdaptiveSmoothing, InputError, UpdateRule
from processes import in_two_processes

NUM_CLASSES, NUM_SUBSETS, NUM_EXAMPLES = 4, 3, 41  # an odd number, so that a sampler repeats an example
SCALING = Path(__file__).parents[2] / "docs" / "scaling.md"


def examples(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels, logits, subsets and ids; an example that is repeated would change the sums."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (NUM_EXAMPLES,), generator=generator)
    logits = 3 * torch.randn(NUM_EXAMPLES, NUM_CLASSES, generator=generator)
    return labels, logits, torch.arange(NUM_EXAMPLES) % NUM_SUBSETS, torch.arange(100, 100 + NUM_EXAMPLES)


def criterion() -> AdaptiveSmoothing:
    return AdaptiveSmoothing(NUM_CLASSES, NUM_SUBSETS, rule=UpdateRule(rate=0.3, shrink=True))


def states(over_processes: bool) -> dict[str, dict[str, Tensor]]:
    """The state after updates of each kind, by the examples of this process."""
    if over_processes:
        dist.init_process_group("gloo")
        numbers = TensorDataset(torch.arange(NUM_EXAMPLES))
        rank, rows = dist.get_rank(), [*DistributedSampler(numbers, shuffle=False)]
    else:
        rank, rows = 0, list(range(NUM_EXAMPLES))
    found = {}
    by_subset = criterion()
    for epoch in range(2):
        for batch in torch.tensor(rows).split(8):
            by_subset.observe(*(column[batch] for column in examples(epoch)))
        by_subset.update()
    found["by subset"] = by_subset.state_dict()
    labels, logits, _, ids = (column[rows] for column in examples())
    as_one = criterion()
    as_one.update_as_one(labels, logits, ids)
    found["as one"] = as_one.state_dict()
    everything = criterion()
    everything.update(*examples())  # each process has predicted the whole split
    found["everything"] = everything.state_dict()
    in_one = criterion()
    if rank == 0 or not over_processes:
        in_one.observe(*examples())
    in_one.update()
    found["in one process"] = in_one.state_dict()
    return found


def refusals() -> list[str]:
    """The errors of what would give each process other targets."""
    dist.init_process_group("gloo")
    labels, logits, subsets, ids = examples()
    loaded = criterion()
    loaded.observed = torch.ones(4, NUM_SUBSETS, dtype=torch.float64)
    some = criterion()
    some.observe(labels, logits, *([subsets, ids] if dist.get_rank() else [None, ids]))
    errors = []
    calls: list[Callable[[], object]] = [
        lambda: criterion().update(labels, logits, subsets),
        loaded.update,
        some.update_as_one,
    ]
    for call in calls:
        with pytest.raises(InputError) as error:
            call()
        errors.append(str(error.value))
    return errors


def test_two_processes_have_the_targets_of_one() -> None:
    expected = states(over_processes=False)
    assert expected["by subset"]["steps"][:, -1].sum(1).tolist() == [NUM_EXAMPLES, NUM_EXAMPLES]
    for found in in_two_processes(states, True):
        for kind, state in found.items():
            for name, values in state.items():
                torch.testing.assert_close(values, expected[kind][name], rtol=0, atol=0, equal_nan=True)


def test_a_process_that_forgets_the_others_is_refused() -> None:
    for errors in in_two_processes(refusals):
        assert "expected the ids of the examples" in errors[0]
        assert "expected the ids of the examples" in errors[1]
        assert "expected subsets for all batches or for none" in errors[2]


class TestIds:
    def test_an_example_that_is_repeated_counts_once(self) -> None:
        labels, logits, subsets, ids = examples()
        once, repeated = criterion(), criterion()
        once.update(labels, logits, subsets)
        repeated.observe(labels[30:], logits[30:], subsets[30:], ids[30:])
        repeated.update(labels, logits, subsets, ids)
        torch.testing.assert_close(repeated.target_prob, once.target_prob, rtol=0, atol=1e-12)
        assert repeated.history[0]["n"] == once.history[0]["n"]

    def test_those_of_ignored_examples_are_left_out(self) -> None:
        labels, logits, subsets, ids = examples()
        ignoring, without = AdaptiveSmoothing(NUM_CLASSES, NUM_SUBSETS, ignore_index=-100), criterion()
        ignoring.update(labels.index_fill(0, torch.tensor([3, 4]), -100), logits, subsets, ids)
        kept = torch.arange(NUM_EXAMPLES) // 2 != 1.5
        kept[3:5] = False
        without.update(labels[kept], logits[kept], subsets[kept])
        assert ignoring.history[0]["n"] == without.history[0]["n"]
        assert ignoring.history[0]["accuracy"] == without.history[0]["accuracy"]

    @pytest.mark.parametrize("ids", [torch.arange(3), torch.rand(NUM_EXAMPLES)])
    def test_one_integer_for_each_example(self, ids: Tensor) -> None:
        with pytest.raises(InputError, match="integer ids of shape"):
            criterion().observe(*examples()[:3], ids)

    def test_for_all_batches_or_for_none(self) -> None:
        each = criterion()
        each.observe(*examples())
        with pytest.raises(InputError, match="ids for all batches or for none"):
            each.observe(*examples()[:3])
        each.update()
        each.observe(*examples()[:3])


def users_loop(code: str) -> dict[str, Any]:
    torch.manual_seed(0)
    labels = torch.randint(10, (141,))
    inputs = nn.functional.one_hot(labels, 10) + 0.6 * torch.randn(141, 10)
    subsets = torch.arange(141) % 5
    names = {
        "torch": torch,
        "model": nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 10)),
        "train": (inputs[:100], labels[:100]),
        "validation": (inputs[100:], labels[100:]),
        "train_subsets": subsets[:100],
        "validation_subsets": subsets[100:],
        "num_epochs": 4,
    }
    exec(code, names)
    return {"state": names["criterion"].state_dict(), "weights": names["model"].state_dict()}  # type: ignore[attr-defined]


def test_the_loop_of_the_documentation() -> None:
    [code] = re.findall(r"```python\n(.*?)```", SCALING.read_text(encoding="utf-8"), re.DOTALL)
    first, second = in_two_processes(users_loop, code)
    for part in ("state", "weights"):
        for name, values in first[part].items():
            torch.testing.assert_close(second[part][name], values, rtol=0, atol=0, equal_nan=True)
    steps = first["state"]["steps"]
    assert steps[:, -1].sum(1).tolist() == [41] * 4
    assert (first["state"]["target_prob"] < 1).any()
