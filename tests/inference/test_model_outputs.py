"""Outputs of any form are read as logits, with the right values, or refused."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aradals import (
    AdaptiveSmoothing,
    CalibratedModel,
    Ensemble,
    InputError,
    TemperatureScaling,
    diagnose,
    evaluate,
    predict,
    score,
)
from aradals.attacks import deepfool
from aradals.data import Examples
from aradals.inference import LogitModel
from aradals.inference.outputs import find_logits
from aradals.pipeline.classifier import as_classifier

INPUTS = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 3
WEIGHT = 4 * torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
LOGITS = INPUTS @ WEIGHT
Named = namedtuple("Named", ["aux_logits", "logits"])


class Returns(nn.Module):
    """A linear classifier that returns its logits in another form."""

    def __init__(self, form: Callable[[Tensor], Any], weight: Tensor = WEIGHT) -> None:
        super().__init__()
        self.form, self.weight = form, nn.Parameter(weight)

    def forward(self, inputs: Tensor) -> Any:
        return self.form(inputs @ self.weight)


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "dict": lambda z: {"loss": z.mean(), "logits": z, "hidden": z[:, :2]},
    "other name": lambda z: OrderedDict(scores=z, loss=z.sum()),
    "tuple": lambda z: (z, None),
    "list": lambda z: [z.sum(), z],
    "named tuple": lambda z: Named(z[:, :2], z),
    "object": lambda z: SimpleNamespace(logits=z, pooled=z[:, :2]),
    "pixels": lambda z: z[:, :, None, None],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_door_reads_the_same_logits(form: str) -> None:
    model, plain, data = Returns(FORMS[form]), Returns(lambda z: z), (INPUTS, LABELS)
    assert predict(model, [(LABELS, INPUTS, LABELS)]).logits.equal(LOGITS)
    assert score(model, INPUTS).score.equal(score(plain, INPUTS).score)
    assert deepfool(model, INPUTS).norm.equal(deepfool(plain, INPUTS).norm)
    assert Ensemble([model, plain])(INPUTS).softmax(1).allclose(LOGITS.softmax(1))
    scaling = TemperatureScaling.from_dict({"method": "temperature", "temperature": 2.0})
    assert CalibratedModel(model, scaling)(INPUTS).allclose((LOGITS / 2).log_softmax(1))
    criterion = AdaptiveSmoothing(3, 1)
    if form != "pixels":
        assert criterion(model(INPUTS), LABELS).equal(criterion(LOGITS, LABELS))
    log: list[str] = []
    results = diagnose(model, data, num_subsets=2, audit=0, log=log.append)
    assert results.rows[0]["nll"].value == pytest.approx(nn.functional.cross_entropy(LOGITS, LABELS).item(), abs=1e-6)
    assert "outputs of the model: " + results.config["outputs"] in log


@pytest.mark.parametrize("shape", [(-1, 1), (-1,), (-1, 1, 1, 1)])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_a_single_output_becomes_two_classes(shape: tuple[int, ...], kind: str) -> None:
    z = LOGITS[:, 0] - LOGITS[:, 0].mean()
    values = (z if kind == "logits" else z.sigmoid()).reshape(shape)
    found = LogitModel(lambda inputs: values[: len(inputs)])(INPUTS)
    assert found.softmax(1)[:, 1].allclose(z.sigmoid(), atol=1e-6)


def test_the_kind_of_few_single_outputs_is_asked_for() -> None:
    weak = LogitModel(lambda inputs: inputs[:, :1])
    with pytest.raises(InputError, match=r"the kind of the single output.*4 values.*--output-kind logits or"):
        weak(INPUTS[:4])
    logits = LogitModel(weak.model, kind="logits")(INPUTS[:4])
    assert (logits[:, 1] - logits[:, 0]).allclose(INPUTS[:4, 0])
    weak.train()
    assert weak(torch.tensor([[-1.0]])).equal(torch.tensor([[0.0, -1.0]]))


@pytest.mark.parametrize("scale", [1, 100, "sigmoid"])
def test_probabilities_on_any_scale_are_divided_by_their_sum(scale: float | str) -> None:
    values = LOGITS.sigmoid() if scale == "sigmoid" else float(scale) * LOGITS.softmax(1)
    found = LogitModel(lambda inputs: values, kind="probs")(INPUTS)
    assert found.softmax(1).allclose(values / values.sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (LOGITS.softmax(1), "probabilities.*--output-kind probs"),
        (100 * LOGITS.softmax(1), "percentages"),
        (LOGITS.sigmoid(), "sigmoids"),
        (torch.cat([LOGITS, 50 + LOGITS.repeat(1, 4)], 1), "features, or classes with other numbers"),
    ],
)
def test_other_kinds_are_refused_unless_they_are_named(outputs: Tensor, says: str) -> None:
    examples = Examples(INPUTS, LABELS, num_classes=3)
    model = Returns(lambda z: outputs[: len(z)])
    with pytest.raises(InputError, match=says):
        as_classifier(model, examples)
    if "features" not in says:
        log: list[str] = []
        assert as_classifier(LogitModel(model, kind="probs"), examples, log=log.append).reading in log[0]


def test_log_probabilities_are_logits() -> None:
    examples = Examples(INPUTS, LABELS, num_classes=3)
    model = Returns(lambda z: z.log_softmax(1))
    found = as_classifier(model, examples)
    assert found.reading == ""
    assert found.model is model


def test_a_plain_function_is_a_model() -> None:
    results = diagnose(lambda inputs: inputs @ WEIGHT, (INPUTS, LABELS), num_subsets=2, audit=0, log=lambda line: None)
    accuracy = (LOGITS.argmax(1) == LABELS).double().mean().item()
    assert results.rows[0]["accuracy"].value == pytest.approx(accuracy)


def test_several_entries_are_asked_for() -> None:
    output = {"main": LOGITS, "aux": LOGITS / 2, "loss": LOGITS.sum()}
    with pytest.raises(InputError, match=r"dict with main of shape \(64, 3\), aux .*--output-entry NAME .*main or aux"):
        find_logits(output, 64)
    assert find_logits(output, 64, "aux").equal(LOGITS / 2)
    assert find_logits((LOGITS, LOGITS / 2), 64, 1).equal(LOGITS / 2)
    with pytest.raises(InputError, match="an entry 'other'"):
        find_logits(output, 64, "other")


def test_negative_values_are_no_probabilities() -> None:
    with pytest.raises(InputError, match="values down to -"):
        LogitModel(Returns(lambda z: z), kind="probs")(INPUTS)


def test_the_weights_are_those_of_the_model_itself() -> None:
    examples, model = Examples(INPUTS, LABELS, num_classes=3), Returns(lambda z: z)
    found = [as_classifier(each, examples) for each in (model, LogitModel(model, kind="logits"))]
    assert found[0].weights == found[1].weights
    assert found[0].name == found[1].name == "Returns"


@pytest.mark.parametrize("outputs", ["cosines", "one logit in [0, 1]"])
def test_declared_logits_are_logits_for_every_later_check(outputs: str) -> None:
    columns = 3 if outputs == "cosines" else 1
    values = 0.5 + torch.randn(64, columns, generator=torch.Generator().manual_seed(0)).clamp(-4, 4) / 10
    model = LogitModel(lambda inputs: values[: len(inputs)], kind="logits")
    logits = values if columns == 3 else torch.cat([torch.zeros_like(values), values], 1)
    labels = logits.argmax(1)
    results = evaluate(model, (INPUTS[:64], labels), log=lambda line: None)
    assert results.rows[0].metrics["nll"].value == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4
    )
