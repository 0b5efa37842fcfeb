"""Models are left as they were found, and what they return is checked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aradals import InputError, predict
from aradals.checks import check_output
from aradals.inference.predictions import evaluation_mode, resolve_device, try_model


def batches(inputs: Tensor, labels: Tensor, size: int = 4) -> list[tuple[Tensor, Tensor, Tensor]]:
    ids = torch.arange(len(labels))
    return list(zip(ids.split(size), inputs.split(size), labels.split(size), strict=True))


def test_every_submodule_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    model.train()
    model[0].eval()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model] == [False, True, True]
    assert model.training


def test_mode_is_restored_after_an_error() -> None:
    model = nn.Linear(3, 2).train()
    with pytest.raises(RuntimeError), evaluation_mode(model):
        raise RuntimeError
    assert model.training


def test_labeled_examples_come_in_any_usual_form() -> None:
    model, inputs, labels = nn.Linear(3, 2), torch.rand(10, 3), torch.randint(2, (10,))
    whole, data_set = predict(model, batches(inputs, labels)), TensorDataset(inputs, labels)
    forms: list[Any] = [(inputs, labels), DataLoader(data_set, 4), zip(inputs.split(3), labels.split(3), strict=True)]
    for form in forms:
        found = predict(model, form)
        assert torch.allclose(found.logits, whole.logits)
        assert (found.ids.tolist(), found.labels.tolist()) == (list(range(10)), labels.tolist())


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (torch.rand(4, 3), "labeled"),
        ([torch.rand(4, 3)], "labeled"),
        (DataLoader(TensorDataset(torch.rand(4, 3), torch.zeros(4).long()), shuffle=True), "shuffling"),
        ((torch.rand(4, 3), torch.zeros(3).long()), "3 labels"),
        ([{"x": torch.rand(4, 3)}], "dict"),
    ],
)
def test_other_forms_are_refused(form: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(nn.Linear(3, 2), form)


def test_predictions_do_not_depend_on_batches_and_carry_ids() -> None:
    model, inputs, labels = nn.Linear(3, 2).double(), torch.rand(10, 3), torch.randint(2, (10,))
    whole, parts = predict(model, batches(inputs, labels, 10)), predict(model, batches(inputs, labels, 3))
    assert torch.allclose(whole.logits, parts.logits, rtol=1e-12)
    assert whole.logits.dtype == torch.float64
    assert parts.ids.tolist() == list(range(10))
    assert parts.labels.equal(labels)
    assert whole.select(labels == 1).labels.eq(1).all()


def test_a_model_that_writes_into_its_input_does_no_harm() -> None:
    class InPlace(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.sub_(0.5).mul_(7)

    inputs = torch.rand(5, 3)
    before = inputs.clone()
    predict(InPlace(), batches(inputs, torch.zeros(5, dtype=torch.int64)))
    assert inputs.equal(before)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.full((4, 3), float("nan")), "finite logits.*4 of 4"),
        (torch.rand(4, 3).softmax(1), "got probabilities"),
        (torch.linspace(0, 4, 8).view(4, 2).bfloat16().softmax(1), "got probabilities"),
        (torch.rand(4), r"shape \(4, K\)"),
        (torch.rand(4, 1), "K >= 2"),
        (torch.rand(3, 5), r"got shape \(3, 5\)"),
        (torch.zeros(4, 3, dtype=torch.int64), "floating-point"),
        ({"logits": torch.rand(4, 3)}, "returns dict"),
    ],
)
def test_refuses_what_is_not_logits(logits: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_output(logits, 4)


def test_logits_that_are_all_positive_are_fine() -> None:
    assert check_output(torch.rand(4, 3) + 1, 4).shape == (4, 3)


def test_labels_out_of_range() -> None:
    with pytest.raises(InputError, match=r"labels from 0 to 1.*labels from 0 to 5"):
        predict(nn.Linear(3, 2), batches(torch.rand(2, 3), torch.tensor([0, 5])))


def test_no_examples() -> None:
    with pytest.raises(InputError, match="at least one example"):
        predict(nn.Linear(3, 2), [])


def test_a_model_for_another_shape_is_told_so_in_one_line() -> None:
    with pytest.raises(InputError, match=r"inputs of shape \(2, 7\), got RuntimeError") as error:
        try_model(nn.Linear(3, 2), torch.rand(2, 7))
    assert "\n" not in str(error.value)
    assert try_model(nn.Linear(7, 4), torch.rand(2, 7)) == 4


def test_unknown_device() -> None:
    with pytest.raises(InputError, match=r"a device that is here: auto, cpu.*got tpu"):
        resolve_device("tpu")
