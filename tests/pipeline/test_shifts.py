"""The conditions of an evaluation fit the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aradals.corruptions import corrupt
from aradals.data import Examples
from aradals.data.scaling import Scaling
from aradals.errors import InputError
from aradals.inference.predictions import predict
from aradals.pipeline.config import EvaluationConfig, MethodConfig, SplitConfig, StudyConfig, TrainingConfig
from aradals.pipeline.evaluate import evaluate
from aradals.pipeline.shifts import choose_conditions, choose_shift
from aradals.pipeline.study import run_study
from aradals.results.records import CLEAN, Condition

TABLE = [Condition("column_noise", 2), Condition("missing_columns", 2)]


def rows(size: int = 60, **preparation: object) -> Examples:
    inputs = torch.rand(size, 5, generator=torch.Generator().manual_seed(0))
    return Examples(inputs, torch.arange(size) % 3, num_classes=3, name="rows", preparation=preparation)


def scaling() -> dict[str, object]:
    return Scaling(tuple("abcde"), (0.0,) * 5, (10.0,) * 5, (1.0, 2.0, 3.0, 4.0, 5.0)).record


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, 3)


def missing(inputs: Tensor, ids: Tensor) -> Tensor:
    return corrupt(inputs, ids, "missing_columns", 2, means=torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))


def test_the_means_of_missing_columns_are_those_of_the_training_data() -> None:
    examples, model = rows(scaling=scaling()), linear()
    results = evaluate(model, examples, corruptions=["all"], severities=[2], log=lambda line: None)
    assert list(results.shifts) == TABLE
    ids, inputs, labels = examples.batch(range(60))
    logits = predict(model, [(ids, missing(inputs, ids), labels)]).logits
    [row] = [row for row in results.rows if row.condition == TABLE[1]]
    assert row["accuracy"].value == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert row["confidence"].value == pytest.approx(logits.softmax(1).amax(1).mean().item(), abs=1e-6)


def test_rows_in_memory_have_no_means() -> None:
    conditions, shift = choose_shift(rows(), ["column_noise"], [2])
    assert conditions == [CLEAN, TABLE[0]]
    [(ids, inputs, _)] = shift(rows(), TABLE[0])
    assert torch.equal(inputs, corrupt(rows().batch(ids)[1], ids, "column_noise", 2))
    with pytest.raises(InputError, match="means of the columns in the training data"):
        choose_shift(rows(), ["table"], [2])


def test_corruptions_of_another_kind_are_refused_before_the_work() -> None:
    images = Examples(torch.rand(4, 1, 8, 8), torch.arange(4), num_classes=4)
    with pytest.raises(InputError, match="rows of numbers for column_noise"):
        choose_shift(images, ["noise", "table"], [1])
    with pytest.raises(InputError, match=r"images of shape .* for gaussian_noise"):
        choose_shift(rows(scaling=scaling()), ["table", "noise"], [1])
    with pytest.raises(InputError, match="no preset for column_noise"):
        choose_shift(rows(scaling=scaling()), ["table"], [1], preset="tiny")


@pytest.mark.parametrize("severity", [0, 6])
def test_severities(severity: int) -> None:
    with pytest.raises(InputError, match=f"severities from 1 to 5, got {severity}"):
        choose_conditions(["table"], [1, severity])


def test_all_corruptions_of_a_study_are_those_that_fit_the_data(tmp_path: Path) -> None:
    config = StudyConfig(
        data="letter",
        model="mlp",
        methods={"vanilla": MethodConfig()},
        splits=SplitConfig(train=300, validation=60, calibration=60, test=200),
        training=TrainingConfig(epochs=1, batch_size=50),
        model_args={"hidden": [8]},
        calibrators=[],
        evaluation=EvaluationConfig(num_subsets=2, corruptions=["all"], severities=[2], num_resamples=10),
    )
    results = run_study(config, tmp_path, log=lambda line: None)
    assert list(results.shifts) == TABLE
    assert {row.n for row in results.rows if row.subset is None} == {200}
    again = run_study(config, tmp_path, log=lambda line: None)
    assert again.rows == results.rows
