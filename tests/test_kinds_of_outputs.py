"""What the outputs of a classifier are, by their values, and how each kind becomes logits or probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aradals.checks import check_logits, check_output, check_probs, kind_of_outputs, refuse_other_scales
from aradals.errors import InputError

LOGITS = 3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
PROBS = LOGITS.softmax(1)
KINDS = {
    "logits": LOGITS,
    "log-probabilities": LOGITS.log_softmax(1),
    "probabilities": PROBS,
    "percentages": 100 * PROBS,
    "sigmoids": LOGITS.sigmoid(),
    "one-hot": torch.nn.functional.one_hot(LOGITS.argmax(1), 4).float(),
    "labels": LOGITS.argmax(1),
    "binary": LOGITS[:, 0].sigmoid(),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_told_by_its_values(kind: str, dtype: torch.dtype) -> None:
    values = KINDS[kind] if kind == "labels" else KINDS[kind].to(dtype)
    assert kind_of_outputs(values) == kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (torch.zeros(5, 3), "logits"),  # of a head that starts at zero
        (torch.full((5, 3), 0.3), "logits"),
        (torch.tensor([[0.2, 0.9, 0.4]] * 7), "logits"),  # a few rows are too little evidence
        (torch.full((5, 3), math.nan), "logits"),
        (torch.tensor([[-math.inf, 0.0, 1.0]] * 2), "logits"),
        (PROBS.log().where(PROBS > 0.01, -math.inf)[:0], "logits"),
        (torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.5, 0.0]]).log(), "log-probabilities"),
        (torch.tensor([[1, 0], [0, 1]]), "one-hot"),
        (torch.tensor([[1.0], [0.0]]), "labels"),
        (torch.tensor([2.5, -1.0]), "binary"),
        (torch.tensor([[1, 1], [0, 1]] * 4), "sigmoids"),  # several classes at once
    ],
)
def test_neighbors_of_the_kinds(values: Tensor, kind: str) -> None:
    assert kind_of_outputs(values) == kind


@pytest.mark.parametrize("kind", ["probabilities", "percentages", "sigmoids", "one-hot"])
def test_other_outputs_are_no_logits(kind: str) -> None:
    with pytest.raises(InputError, match=f"expected logits, got {kind}"):
        check_logits(KINDS[kind], 40)
    with pytest.raises(InputError, match=f"expected logits, got {kind}"):
        refuse_other_scales(check_output(KINDS[kind], 40), 3)


def test_the_hints_work() -> None:
    """The conversion that each message suggests gives logits, or probabilities, that pass."""
    check_logits(PROBS.log(), 40)
    check_logits((KINDS["percentages"] / 100).log(), 40)
    assert torch.allclose(check_logits(KINDS["sigmoids"].double().logit(1e-6), 40), LOGITS.double(), atol=1e-2)
    check_logits(KINDS["sigmoids"].log_softmax(1), 40)
    with pytest.raises(InputError, match=r"percentages.*try probs / 100"):
        check_probs(KINDS["percentages"])
    check_probs(KINDS["percentages"] / 100)
    with pytest.raises(InputError, match=r"sigmoids.*try probs / probs.sum\(1, keepdim=True\)"):
        check_probs(KINDS["sigmoids"])
    check_probs(KINDS["sigmoids"] / KINDS["sigmoids"].sum(1, keepdim=True))


def test_masked_classes_are_logits_of_an_array_but_not_of_a_model() -> None:
    masked = LOGITS.masked_fill(LOGITS < -2, -math.inf)
    assert check_logits(masked, 40) is masked
    with pytest.raises(InputError, match=r"-inf.*masks with a large negative number"):
        check_output(masked, 40)
    with pytest.raises(InputError, match="rows of -inf"):
        check_logits(torch.full((2, 3), -math.inf), 2)
    with pytest.raises(InputError, match="NaN or infinite"):
        check_logits(torch.tensor([[math.inf, 0.0]]), 1)
