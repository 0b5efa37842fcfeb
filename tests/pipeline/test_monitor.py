"""Verdicts, false alarms and intervals of the monitor, on predictions whose labels are known here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from aradals import monitor
from aradals.calibration import BatchTemperature, TemperatureScaling
from aradals.errors import InputError
from aradals.pipeline.monitor import judge, same_classes_p


def sample(
    n: int, signal: float = 3.0, *, mix: tuple[float, ...] = (1, 1, 1, 1), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Over-confident predictions of four classes; a drift lowers the signal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor(mix).float(), n, replacement=True, generator=generator)
    means = signal * torch.nn.functional.one_hot(labels, 4).double()
    return labels, 6 * (means + torch.randn(n, 4, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def calibrator() -> BatchTemperature:
    parts = [sample(1000, signal, seed=row) for row, signal in enumerate([3.0, 2.5, 2.0, 1.5])]
    labels, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    return BatchTemperature().fit(labels, logits=logits, domains=torch.arange(4).repeat_interleave(1000))


def test_verdicts_and_accuracy(calibrator: BatchTemperature) -> None:
    cases = {"no drift": sample(500, seed=9), "covariate shift": sample(500, 2.2, seed=9)}
    cases["class mix changed"] = sample(500, mix=(5, 3, 1, 1), seed=9)
    for verdict, (labels, logits) in cases.items():
        (batch,) = monitor(calibrator, logits=logits).batches
        assert batch.verdict == verdict
        accuracy = float((logits.argmax(1) == labels).double().mean())
        assert batch.accuracy_low <= accuracy <= batch.accuracy_high
        assert batch.accuracy == pytest.approx(accuracy, abs=0.05)
        assert batch.is_trusted
        assert batch.confidence > accuracy
        assert sum(batch.class_mix) == pytest.approx(1)
        assert monitor(calibrator, probs=logits.softmax(1)).batches[0].accuracy == pytest.approx(batch.accuracy)


def test_false_alarms_are_as_rare_as_promised(calibrator: BatchTemperature) -> None:
    _, logits = sample(20_000, seed=10)
    found = monitor(calibrator, logits=logits, batch_size=100, level=0.1)
    assert len(found.batches) == 200
    assert sum(batch.verdict != "no drift" for batch in found.batches) < 40
    assert str(found).endswith("probability of a false alarm: 0.1 for each batch, 20 expected in all of them")


def test_a_model_that_predicts_one_class_and_stays_sure_is_no_known_case(calibrator: BatchTemperature) -> None:
    _, logits = sample(300, mix=(1, 0, 0, 0))
    (batch,) = monitor(calibrator, logits=logits).batches
    assert (batch.verdict, batch.is_trusted) == ("cannot say", False)
    assert "look at some inputs" in batch.reason
    (few,) = monitor(calibrator, logits=logits[:49]).batches
    assert (few.verdict, few.is_trusted) == ("cannot say", False)
    assert "49 predictions are fewer than 50" in few.reason


def test_the_interval_covers_both_readings_of_a_drift_with_few_classes(calibrator: BatchTemperature) -> None:
    labels, logits = sample(500, 2.0, mix=(1, 0, 0, 0), seed=3)
    (batch,) = monitor(calibrator, logits=logits).batches
    assert batch.verdict == "covariate shift"
    assert "by the drift or by another mix" in batch.reason
    assert batch.accuracy_low <= float((logits.argmax(1) == labels).double().mean()) <= batch.accuracy_high
    assert batch.accuracy_high - batch.accuracy_low > 0.2


def test_batches_cover_the_stream(calibrator: BatchTemperature) -> None:
    _, logits = sample(330)
    found = monitor(calibrator, logits=logits, batch_size=100)
    assert [(batch.start, batch.n) for batch in found.batches] == [(0, 100), (100, 100), (200, 130)]
    assert found.to_dict()["batches"][2]["start"] == 200
    assert "predictions 200 to 329" in str(found)


def test_judge() -> None:
    assert judge(500, True, False, -4.0, 0.0)[1].startswith("the model is more sure than any mix")
    assert judge(500, False, False, 0.0, 0.9)[0] == "no drift"
    assert judge(500, False, True, 0.0, 0.9)[0] == "cannot say"


def test_the_permutation_test_is_exact() -> None:
    """Two of two against none of two, of two classes: the other split of the four is as extreme, out of six."""
    assert same_classes_p(torch.tensor([2, 0]), torch.tensor([0, 2])) == pytest.approx(1 / 3, abs=0.03)
    assert same_classes_p(torch.tensor([5, 0]), torch.tensor([9, 0])) == 1
    rng = np.random.default_rng(0)
    pairs = [torch.from_numpy(rng.multinomial(n, [0.5, 0.3, 0.15, 0.05])) for n in (500, 60) * 200]
    p_values = [same_classes_p(*pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)]
    assert np.mean(np.array(p_values) < 0.1) < 0.17


def test_bad_arguments(calibrator: BatchTemperature) -> None:
    labels, logits = sample(100)
    with pytest.raises(InputError, match="a batch_temperature calibrator"):
        monitor(TemperatureScaling().fit(labels, logits=logits), logits=logits)
    with pytest.raises(InputError, match="a fitted batch_temperature"):
        monitor(BatchTemperature(), logits=logits)
    for wrong in ({"level": 0.0}, {"level": 0.9}, {"batch_size": 10}):
        with pytest.raises(InputError):
            monitor(calibrator, logits=logits, **wrong)
    with pytest.raises(InputError, match="logits of 4 classes"):
        monitor(calibrator, logits=logits[:, :3])
    with pytest.raises(InputError):
        monitor(calibrator, logits=logits[:0])
