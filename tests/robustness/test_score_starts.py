from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aradals.errors import InputError
from aradals.robustness import rank_agreement, score
from aradals.robustness.scores import merge_tables
from aradals.robustness.starts import first_examples, spread_rows

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "attacks"))
from flat import NETWORKS, moons


def flat() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 3))
    nn.init.normal_(model[0].get_parameter("weight"), std=12)
    return model.double(), torch.rand(150, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_scores_do_not_depend_on_batches_or_shards() -> None:
    model, inputs = flat()
    whole = score(model, inputs)
    assert "num_starts=3, starts=Starts(37 examples" in whole.attack
    for other in (
        score(model, inputs, batch_size=40),
        score(model, DataLoader(TensorDataset(inputs), batch_size=64)),
    ):
        assert other.attack == whole.attack
        torch.testing.assert_close(other.score, whole.score)
    starts = inputs[spread_rows(150)]
    shards = [score(model, part, starts=starts) for part in inputs.split(75)]
    assert {shard.attack for shard in shards} == {whole.attack}
    torch.testing.assert_close(torch.cat([shard.score for shard in shards]), whole.score)


def test_parts_by_several_searches_are_no_table() -> None:
    model, inputs = flat()
    parts = [score(model, inputs, num_starts=count) for count in (0, 1)]
    with pytest.raises(InputError, match="one attack for all parts"):
        merge_tables(parts)
    assert len(merge_tables([parts[0], score(model, inputs[:2], num_starts=0)])) == 150


def test_other_batches_give_their_first_examples() -> None:
    model, inputs = flat()
    tables = [score(model, iter(inputs.split(size))) for size in (40, 70)]
    assert tables[0].attack == tables[1].attack
    torch.testing.assert_close(tables[0].score, tables[1].score)
    ids = torch.arange(150)
    first, batches = first_examples(iter(zip(ids.split(50), inputs.split(50), strict=True)))
    assert first is not None
    assert torch.equal(first, inputs[:128])
    assert torch.equal(torch.cat([part for _, part in batches]), inputs)


def test_a_network_with_linear_boundaries_needs_no_starts() -> None:
    torch.manual_seed(0)
    table = score(nn.Linear(6, 4), torch.rand(200, 6))
    assert table.attack.endswith("num_starts=0, starts=None)")
    assert table.num_forward.double().mean() < 6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_two_moons_against_brute_force(smoothing: float) -> None:
    model, inputs, exact = moons(smoothing, seed=0, size=500)
    table = score(model, inputs)
    assert (table.norm >= exact - 1e-3).all()  # the grid is not finer
    assert rank_agreement(table.ranking, exact).same_subset.value >= 0.9
    assert rank_agreement(score(model, inputs, num_starts=0).ranking, exact).same_subset.value < 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("network", "least"), [("digits, ViT", 0.8), ("digits, bi-LSTM", 0.88)])
def test_transformers_and_recurrent_networks_against_long_searches(network: str, least: float) -> None:
    model, inputs, reference = NETWORKS[network](0)
    table = score(model, inputs)
    assert rank_agreement(table.ranking, reference).same_subset.value >= least
    assert table.num_backward.double().mean() < 25
