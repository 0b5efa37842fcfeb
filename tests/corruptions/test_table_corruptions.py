"""Corruptions of rows of numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aradals.corruptions import GROUPS, TABLE_CORRUPTIONS, corrupt, corruption_names
from aradals.errors import InputError

ROWS = torch.rand(40, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(40) * 7
MEANS = torch.linspace(0.2, 0.6, 16)
NAMES = sorted(TABLE_CORRUPTIONS)


@given(st.sampled_from(NAMES), st.integers(1, 5), st.sets(st.integers(0, 39), min_size=1))
@settings(max_examples=30, deadline=None)
def test_a_row_depends_on_its_id_and_not_on_its_batch(name: str, severity: int, rows: set[int]) -> None:
    part = torch.tensor(sorted(rows, reverse=True))
    whole = corrupt(ROWS, IDS, name, severity, means=MEANS)
    assert torch.equal(corrupt(ROWS[part], IDS[part], name, severity, means=MEANS), whole[part])
    assert ((whole >= 0) & (whole <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_row_with_another_id_and_another_severity_changes_in_another_way(name: str) -> None:
    same = ROWS[:1].repeat(2, 1)
    first, second = corrupt(same, torch.tensor([5, 6]), name, 5, means=MEANS)
    assert not torch.equal(first, second)
    assert torch.equal(corrupt(same[:1], torch.tensor([6]), name, 5, means=MEANS)[0], second)
    assert torch.equal(corrupt(ROWS, IDS, name, 0), ROWS)
    assert corrupt(ROWS[:0], IDS[:0], name, 3, means=MEANS).shape == (0, 16)
    assert corrupt(ROWS.double(), IDS, name, 3, means=MEANS).dtype == torch.float64


@pytest.mark.parametrize(("severity", "scale"), [(1, 0.01), (2, 0.02), (3, 0.04), (4, 0.07), (5, 0.1)])
def test_noise_has_this_deviation_in_every_column(severity: int, scale: float) -> None:
    rows = torch.full((2000, 3), 0.5)
    noise = corrupt(rows, torch.arange(2000), "column_noise", severity) - 0.5
    torch.testing.assert_close(noise.std(0), torch.full((3,), scale), rtol=0.06, atol=0)
    assert noise.mean().abs() < 4 * scale / 6000**0.5


@pytest.mark.parametrize(
    ("columns", "expected"), [(16, [1, 2, 3, 4, 6]), (57, [4, 7, 11, 14, 21]), (10, [1, 1, 2, 2, 4]), (1, [1] * 5)]
)
def test_this_number_of_columns_becomes_the_mean(columns: int, expected: list[int]) -> None:
    rows, means = torch.full((300, columns), 0.9), torch.linspace(0.1, 0.5, columns)
    for severity, number in enumerate(expected, 1):
        changed = corrupt(rows, torch.arange(300), "missing_columns", severity, means=means)
        missing = changed != rows
        assert (missing.sum(1) == number).all()
        assert torch.equal(changed[missing], means.expand(300, -1)[missing])
        assert (missing.float().mean(0) - number / columns).abs().max() < 0.15  # every column is equally often missing


def test_all_means_all_that_fit() -> None:
    assert corruption_names(["all"], input_shape=(16,)) == list(GROUPS["table"]) == list(TABLE_CORRUPTIONS)
    assert corruption_names(["all"], input_shape=(3, 8, 8)) == corruption_names(["all"]) == list(GROUPS["all"])
    assert not set(GROUPS["all"]) & set(GROUPS["table"])
    assert corruption_names(["missing_columns", "table"]) == ["missing_columns", "column_noise"]


@pytest.mark.parametrize(
    ("name", "inputs", "options", "message"),
    [
        ("missing_columns", ROWS, {}, r"means of the columns in the training data, for missing_columns"),
        ("column_noise", torch.rand(2, 3, 8, 8), {}, r"rows of numbers for column_noise.*\(2, 3, 8, 8\)"),
        ("missing_columns", torch.rand(2, 0), {"means": MEANS}, r"rows of numbers for missing_columns"),
        ("column_noise", ROWS, {"preset": "cifar"}, r"no preset for column_noise.*got cifar"),
        (
            "fog",
            ROWS,
            {},
            r"images of shape \(N, C, H, W\) for fog.*try for rows of numbers column_noise or missing_columns",
        ),
        ("column-noise", ROWS, {}, r"'column-noise'; try one of: .*column_noise, missing_columns"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, inputs: torch.Tensor, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(inputs, torch.arange(len(inputs)), name, 1, **options)  # type: ignore[arg-type]
