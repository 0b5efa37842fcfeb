"""An ensemble's softmax is the mean of its members', however extreme their logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aradals.calibration import TemperatureScaling
from aradals.checks import check_output
from aradals.errors import InputError
from aradals.inference.ensemble import Ensemble, pool_logits, pool_predictions
from aradals.inference.predictions import Predictions, predict


def random_logits(num_members: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_members, 40, 5, generator=generator, dtype=torch.float64)


@settings(max_examples=30)
@given(num_members=st.integers(1, 6), scale=st.sampled_from([0.01, 1.0, 30.0, 1e4]), seed=st.integers(0, 100))
def test_softmax_is_the_mean_probability(num_members: int, scale: float, seed: int) -> None:
    logits = random_logits(num_members, scale, seed)
    pooled = pool_logits(logits)
    assert torch.allclose(pooled.softmax(1), logits.softmax(2).mean(0), atol=1e-12)
    assert torch.allclose(pooled.exp().sum(1), torch.ones(40, dtype=torch.float64), atol=1e-12)
    assert pooled.isfinite().all()


def test_by_hand() -> None:
    probs = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]], dtype=torch.float64)
    assert pool_logits(probs.log()).exp().tolist() == [pytest.approx([0.7, 0.3])]


def test_two_members_sure_of_different_classes() -> None:
    logits = torch.tensor([[[1e4, 0.0, 0.0]], [[0.0, 1e4, 0.0]]])
    pooled = pool_logits(logits)
    assert pooled.softmax(1).tolist() == [pytest.approx([0.5, 0.5, 0])]
    assert float(pooled[0, 2]) == pytest.approx(-1e4)  # the third class keeps its logarithm, where exp underflows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_finite_at_the_ends_of_every_dtype(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    pooled = pool_logits(torch.tensor([[[largest, -largest, 0.0]]] * 3, dtype=dtype))
    assert pooled.dtype == dtype
    assert pooled.isfinite().all()
    assert pooled.argmax(1).tolist() == [0]


def test_one_member_is_itself_up_to_a_number_per_row() -> None:
    logits = random_logits(1)
    difference = pool_logits(logits) - logits[0]
    assert torch.allclose(difference, difference[:, :1].expand(-1, 5), atol=1e-12)


def test_order_of_members_does_not_matter() -> None:
    logits = random_logits(4)
    assert torch.allclose(pool_logits(logits.flip(0)), pool_logits(logits), atol=1e-12)


def test_temperature_after_pooling_is_a_power_of_the_mean_probability() -> None:
    logits = random_logits(3)
    power = logits.softmax(2).mean(0) ** (1 / 1.7)
    assert torch.allclose((pool_logits(logits) / 1.7).softmax(1), power / power.sum(1, keepdim=True), atol=1e-12)


def test_gradient_is_that_of_the_log_mean_probability() -> None:
    logits = random_logits(3).requires_grad_()
    (gradient,) = torch.autograd.grad(pool_logits(logits)[:, 0].sum(), logits)
    (expected,) = torch.autograd.grad(logits.softmax(2).mean(0)[:, 0].log().sum(), logits)
    assert torch.allclose(gradient, expected, atol=1e-12)


def test_pooled_predictions_keep_ids_and_labels_and_can_be_calibrated() -> None:
    ids, labels = torch.arange(40) + 7, torch.arange(40) % 5
    members = [Predictions(ids, logits.float(), labels) for logits in random_logits(3)]
    pooled = pool_predictions(members)
    assert torch.equal(pooled.ids, ids)
    assert torch.equal(pooled.labels, labels)
    assert torch.allclose(pooled.probs, torch.stack([member.probs for member in members]).mean(0), atol=1e-12)
    assert TemperatureScaling().fit(pooled.logits, pooled.labels).temperature > 1


@pytest.mark.parametrize("field", ["ids", "labels"])
def test_predictions_on_other_examples_are_refused(field: str) -> None:
    fields = {"ids": torch.arange(40), "logits": random_logits(1)[0], "labels": torch.arange(40) % 5}
    other = {**fields, field: fields[field].flip(0)}
    with pytest.raises(InputError, match="member 1"):
        pool_predictions([Predictions(**fields), Predictions(**other)])


@pytest.mark.parametrize("logits", [[], [torch.rand(4, 3), torch.rand(4, 2)], [torch.rand(4, 3), torch.rand(5, 3)]])
def test_members_must_agree(logits: list[Tensor]) -> None:
    with pytest.raises(InputError, match="ensemble member"):
        pool_logits(logits)


def test_predictions_of_no_members() -> None:
    with pytest.raises(InputError, match="at least one ensemble member"):
        pool_predictions([])


def test_ensemble_of_models() -> None:
    members = [nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)) for _ in range(3)]
    inputs = torch.rand(10, 3)
    batches = [(torch.arange(10), inputs, torch.arange(10) % 4)]
    ensemble = Ensemble(members)
    predictions = predict(ensemble, batches)
    expected = torch.stack([predict(member, batches).probs for member in members]).mean(0)
    assert torch.allclose(predictions.probs, expected, atol=1e-6)
    assert torch.equal(check_output(predictions.logits, 10), predictions.logits)
    assert all(member.training for member in members)
    assert len(list(ensemble.parameters())) == 6


def test_models_for_different_classes_are_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        Ensemble([nn.Linear(3, 4), nn.Linear(3, 5)])(torch.rand(2, 3))
    with pytest.raises(InputError, match="at least one ensemble member"):
        Ensemble([])
