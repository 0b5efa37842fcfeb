"""Spread of predictions over models: against torch.var, brute force, and numbers known in closed form."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from aradals.errors import InputError
from aradals.metrics.stability import disagreement, matched_temperatures, prediction_variance, stability


@pytest.fixture(scope="module")
def logits() -> Tensor:
    """Four models on 300 examples of five classes, which agree more or less; the models differ in temperature."""
    generator = torch.Generator().manual_seed(0)
    common = 3 * torch.randn(300, 5, generator=generator, dtype=torch.float64)
    own = torch.randn(4, 300, 5, generator=generator, dtype=torch.float64)
    return (common + own) * torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)[:, None, None]


def test_variance_by_hand() -> None:
    probs = torch.tensor([[[1.0, 0.0], [0.8, 0.2]], [[0.0, 1.0], [0.6, 0.4]]])
    assert prediction_variance(probs).tolist() == pytest.approx([1.0, 0.04])


def test_variance_is_that_of_torch_and_half_the_mean_squared_distance_of_pairs(logits: Tensor) -> None:
    probs = logits.softmax(2)
    variance = prediction_variance(probs)
    assert torch.allclose(variance, torch.stack([torch.var(probs[:, :, k], 0) for k in range(5)]).sum(0))
    squared = [(probs[i] - probs[j]).square().sum(1) / 2 for i, j in combinations(range(4), 2)]
    assert torch.allclose(variance, torch.stack(squared).mean(0))


def test_disagreement_by_brute_force() -> None:
    predicted = torch.randint(3, (5, 50), generator=torch.Generator().manual_seed(0))
    expected = [
        sum(int(predicted[i, n]) != int(predicted[j, n]) for i, j in combinations(range(5), 2)) / 10 for n in range(50)
    ]
    assert disagreement(predicted).tolist() == pytest.approx(expected)


def test_equal_models_are_perfectly_stable(logits: Tensor) -> None:
    (row,) = stability(logits=logits[:1].expand(3, -1, -1), num_resamples=20)
    assert row["prediction_variance"] == pytest.approx(0, abs=1e-30)
    assert row["disagreement"] == row["disagreement_high"] == 0


def test_matched_temperature_in_closed_form() -> None:
    """Two classes and one margin m: the confidence is sigmoid(m / T), so T = m / log(c / (1 - c))."""
    margins = torch.tensor([1.0, 4.0, 1000.0], dtype=torch.float64)
    logits = torch.stack([margins, torch.zeros(3)], 1)[:, None].expand(-1, 6, -1)
    expected = margins / math.log(0.8 / 0.2)
    assert torch.allclose(matched_temperatures(logits, 0.8), expected, rtol=1e-9)


@pytest.mark.parametrize("confidence", [0.21, 0.5, 0.9, 0.999])
def test_models_meet_the_confidence(logits: Tensor, confidence: float) -> None:
    temperatures = matched_temperatures(logits, confidence)
    reached = (logits / temperatures[:, None, None]).softmax(2).amax(2).mean(1)
    assert reached.tolist() == pytest.approx([confidence] * 4, abs=1e-9)


def test_temperatures_undo_a_scale_and_do_not_see_a_shift(logits: Tensor) -> None:
    temperatures = matched_temperatures(logits, 0.7)
    assert torch.allclose(matched_temperatures(3 * logits + 1e5, 0.7), 3 * temperatures, rtol=1e-6)


def test_what_cannot_be_reached() -> None:
    flat = torch.zeros(1, 4, 3)
    tied = torch.tensor([[[2.0, 2.0, 0.0]]])  # two equal classes: never above 1/2
    assert matched_temperatures(torch.cat([flat[:, :1], tied]), 0.6).isnan().all()
    assert matched_temperatures(tied, 0.45).isfinite().all()
    for confidence in (1 / 3, 1.0, 70.0, math.nan):
        with pytest.raises(InputError, match="mean confidence between"):
            matched_temperatures(flat, confidence)


def test_softer_models_vary_less_but_not_at_matched_confidence(logits: Tensor) -> None:
    """Dividing all logits by 3 changes nothing but softness."""
    sharp, soft = (stability(logits=z, match_confidence=0.6, num_resamples=20)[0] for z in (logits, logits / 3))
    assert soft["prediction_variance"] < 0.7 * sharp["prediction_variance"]
    assert soft["matched_prediction_variance"] == pytest.approx(sharp["matched_prediction_variance"], rel=1e-6)
    assert soft["disagreement"] == sharp["disagreement"]


def test_rows(logits: Tensor) -> None:
    subsets = torch.arange(300) % 3 * 2
    rows = stability(logits=logits, subsets=subsets, match_confidence=0.7, num_resamples=200)
    assert [row["subset"] for row in rows] == [None, 0, 2, 4]
    assert [row["n"] for row in rows] == [300, 100, 100, 100]
    measures = ("prediction_variance", "disagreement", "confidence", "matched_prediction_variance")
    ends = {name + end for name in measures for end in ("", "_low", "_high")}
    for row in rows:
        assert set(row) == {"subset", "n", "num_models", "match_confidence"} | ends
        assert all(row[f"{name}_low"] < row[name] < row[f"{name}_high"] for name in measures)
        assert row["num_models"] == 4
    for name in measures:
        assert rows[0][name] == pytest.approx(sum(row[name] for row in rows[1:]) / 3)
    members = subsets == 2
    assert rows[2]["prediction_variance"] == pytest.approx(
        float(logits.softmax(2)[:, members].var(0).sum(1).mean()), rel=1e-12
    )
    # The temperature is that of all examples, not of the subset.
    probs = (logits / matched_temperatures(logits, 0.7)[:, None, None]).softmax(2)
    assert rows[2]["matched_prediction_variance"] == pytest.approx(float(probs[:, members].var(0).sum(1).mean()))


def test_interval_is_the_normal_approximation(logits: Tensor) -> None:
    (row,) = stability(logits=logits, num_resamples=4000)
    variance = prediction_variance(logits.softmax(2))
    half_width = 1.96 * float(variance.std()) / math.sqrt(300)
    assert row["prediction_variance"] - row["prediction_variance_low"] == pytest.approx(half_width, rel=0.1)
    assert row["prediction_variance_high"] - row["prediction_variance"] == pytest.approx(half_width, rel=0.1)


def test_without_matching_there_are_no_matched_figures(logits: Tensor) -> None:
    assert not any("match" in key for row in stability(logits=logits, num_resamples=20) for key in row)


def test_a_model_that_cannot_match_leaves_the_rest(logits: Tensor) -> None:
    (row,) = stability(logits=torch.cat([logits, torch.zeros(1, 300, 5)]), match_confidence=0.7, num_resamples=20)
    assert row["matched_prediction_variance"] is row["matched_prediction_variance_low"] is None
    assert row["prediction_variance_low"] < row["prediction_variance"]


def test_bad_input(logits: Tensor) -> None:
    for bad in (logits[:1], logits[0]):
        with pytest.raises(InputError, match="M >= 2 models"):
            stability(logits=bad)
    with pytest.raises(InputError, match="M >= 2 models"):
        prediction_variance(logits[:1])
    with pytest.raises(InputError, match="M >= 2 models"):
        disagreement(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(InputError, match="subset indices"):
        stability(logits=logits, subsets=torch.zeros(7, dtype=torch.long))
    with pytest.raises(InputError, match="at least one example"):
        stability(logits=logits[:, :0])
