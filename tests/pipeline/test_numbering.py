"""Labels that number the classes in another way than the model are refused before anything is judged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from aradals import calibrate, diagnose, evaluate
from aradals.data import Examples
from aradals.errors import InputError
from aradals.inference.predictions import Predictions
from aradals.pipeline.numbering import check_numbering, names_of


class Knowing(nn.Module):
    """Model of K classes that reads the true class from the first K inputs."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.num_classes = num_classes

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scale * inputs[:, : self.num_classes] - 1


def examples(truth: torch.Tensor, labels: torch.Tensor, num_classes: int, names: list[str] | None = None) -> Examples:
    noise = torch.rand(len(truth), 10, generator=torch.Generator().manual_seed(0)) / 2
    inputs = noise.scatter(1, truth[:, None], 0.9)
    return Examples(inputs, labels, num_classes=num_classes, class_names=names, name="mine")


TRUTH = torch.arange(120) % 3 * 2 + 3  # classes 3, 5 and 7 of ten
RENUMBERED = torch.arange(120) % 3
NAMES = [f"kind {number}" for number in range(10)]


def test_three_of_ten_classes_with_numbers_of_their_own_are_refused() -> None:
    data = examples(TRUTH, RENUMBERED, 3)
    for judge in (diagnose, evaluate, calibrate):
        with pytest.raises(InputError, match=r"accuracy of 0.0%, which would be 100.0% .*: 3 for 0, 5 for 1, 7 for 2"):
            judge(Knowing(10), data, log=lambda line: None)


def test_three_of_ten_classes_with_names_are_found() -> None:
    data = examples(TRUTH, RENUMBERED, 3, ["kind 3", "kind 5", "kind 7"])
    with pytest.raises(InputError, match=r"the 10 classes of the model in mine, got 3.*--class-names"):
        evaluate(Knowing(10), data, log=lambda line: None)
    results = evaluate(Knowing(10), data, class_names=NAMES, log=lambda line: None)
    assert results.rows[0]["accuracy"].value == 1
    assert [each.name for each in results.classes] == ["kind 3", "kind 5", "kind 7"]
    model = Knowing(10)
    model.config = SimpleNamespace(id2label=dict(enumerate(NAMES)))  # type: ignore[assignment]
    diagnosis = diagnose(model, data, num_subsets=2, audit=0, log=lambda line: None)
    assert diagnosis.rows[0]["accuracy"].value == 1
    assert diagnosis.checks[0].answer == "checked"
    with pytest.warns(UserWarning, match="predicted right"):
        calibrate(model, data, log=lambda line: None)


def test_a_test_split_that_misses_a_class_is_told() -> None:
    said: list[str] = []
    results = evaluate(Knowing(10), examples(TRUTH, TRUTH, 8), log=said.append)
    assert results.rows[0]["accuracy"].value == 1
    assert "only 3 of the model's 10 classes occur" in said[-1]
    assert results.checks[0].answer == "could not be checked"


def stored(labels: torch.Tensor, predicted: torch.Tensor, num_classes: int) -> Predictions:
    return Predictions(torch.arange(len(labels)), torch.eye(num_classes)[predicted] * 4 - 1, labels)


def test_two_swapped_classes_and_a_useless_model() -> None:
    labels = torch.arange(100) % 2
    with pytest.raises(InputError, match="1 for 0, 0 for 1"):
        check_numbering(stored(labels, 1 - labels, 2), "mine")
    check_numbering(stored(labels, torch.zeros_like(labels), 2), "mine")
    generator = torch.Generator().manual_seed(0)
    for num_classes in (2, 10, 100):
        n = 20 * num_classes
        check_numbering(
            stored(torch.arange(n) % num_classes, torch.randint(num_classes, (n,), generator=generator), num_classes),
            "mine",
        )


def test_names_of_a_model() -> None:
    inner = Knowing(2)
    model = nn.Sequential(inner)
    assert names_of(model) == ()
    for names, expected in (({0: "a", 1: "b"}, ("a", "b")), ({0: "LABEL_0", 1: "LABEL_1"}, ()), ({1: "a"}, ())):
        inner.config = SimpleNamespace(id2label=names)  # type: ignore[assignment]
        assert names_of(model) == expected
    inner.class_names = ["x", "y"]  # type: ignore[assignment]
    assert names_of(model) == ("x", "y")
