"""The data of a fit: probabilities, masked classes, arrays and lists, very many rows, very many classes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import aradals
from aradals.calibration import CALIBRATORS, Calibrator, VectorScaling, get_calibrator
from aradals.calibration import vector as vector_module
from aradals.calibration.base import quantiles
from aradals.errors import InputError
from aradals.metrics import nll

FEW = pytest.mark.filterwarnings("ignore:.*calibration examples:UserWarning")


def problem(n: int = 600, k: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels, and logits that are over-confident by a temperature of 2."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return torch.multinomial((logits / 2).softmax(1), 1, generator=generator)[:, 0], logits


def fit(name: str, labels: object, **outputs: object) -> Calibrator:
    calibrator = get_calibrator(name)
    if calibrator.score == "first_order_margin":
        values = torch.as_tensor(np.asarray(next(iter(outputs.values()))))
        outputs["scores"] = torch.arange(len(values)) / len(values)
    return calibrator.fit(labels, **outputs)  # type: ignore[arg-type]


def state(calibrator: Calibrator) -> list[np.ndarray]:
    return [buffer.double().numpy() for buffer in calibrator.buffers()]


def assert_same(calibrator: Calibrator, other: Calibrator) -> None:
    for ours, theirs in zip(state(calibrator), state(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)


@FEW
@pytest.mark.parametrize("name", CALIBRATORS)
def test_probabilities_give_what_their_logits_give(name: str) -> None:
    labels, logits = problem()
    probs = logits.softmax(1)
    if name == "vector":  # its factors depend on the constant in each row
        logits = logits.log_softmax(1)
    from_probs, from_logits = fit(name, labels, probs=probs), fit(name, labels, logits=logits)
    assert_same(from_probs, from_logits)
    scores = torch.arange(600) / 600
    found = [from_probs.predict_proba(probs=probs, scores=scores), from_logits.predict_proba(logits, scores)]
    assert found[0].numpy() == pytest.approx(found[1].numpy(), abs=1e-9)


@FEW
@pytest.mark.parametrize("name", CALIBRATORS)
def test_arrays_lists_and_unsigned_labels(name: str) -> None:
    labels, logits = problem(200)
    expected = fit(name, labels, logits=logits)
    for kind in (np.uint8, np.uint16, np.uint64, np.int16):
        assert_same(fit(name, labels.numpy().astype(kind), logits=logits.numpy()), expected)
    calibrator = fit(name, labels.tolist(), logits=logits.tolist())
    assert_same(calibrator, expected)
    scores = [0.5] * 200
    assert calibrator.predict_proba(logits.tolist(), scores).equal(expected.predict_proba(logits, torch.tensor(scores)))


@FEW
@pytest.mark.parametrize("name", CALIBRATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_classes(name: str, dtype: torch.dtype) -> None:
    """Each row has a class that is not allowed, as in structured prediction; a few labels are masked by mistake."""
    labels, logits = problem()
    masked = (labels + 1) % 4
    masked[:3] = labels[:3]
    logits = logits.to(dtype).scatter(1, masked[:, None], -math.inf)
    calibrator = fit(name, labels, logits=logits)
    assert all(np.isfinite(values).all() for values in state(calibrator))
    assert_same(calibrator, fit(name, labels, probs=logits.double().softmax(1))) if name != "vector" else None
    scores = torch.arange(600) / 600
    probs = calibrator.predict_proba(logits, scores)
    assert probs.isfinite().all()
    assert probs.sum(1).numpy() == pytest.approx(1)
    hidden = probs.gather(1, masked[:, None])
    if name in ("isotonic", "histogram"):
        assert (hidden > 0).all()
    else:
        assert (hidden == 0).all()
    kept = slice(3, None)
    assert nll(labels[kept], probs=probs[kept]) < nll(labels[kept], logits=logits[kept])


def test_the_temperature_with_masked_classes_is_that_of_the_other_classes() -> None:
    labels, logits = problem(k=3)
    wide = torch.cat([logits, torch.full((600, 5), -math.inf)], 1)
    expected = fit("temperature", labels, logits=logits)
    assert_same(fit("temperature", labels, logits=wide), expected)
    vector = fit("vector", labels, logits=wide)
    assert isinstance(vector, VectorScaling)
    narrow = fit("vector", labels, logits=logits)
    assert vector.predict_proba(wide)[:, :3].numpy() == pytest.approx(narrow.predict_proba(logits).numpy(), abs=1e-6)


def test_all_classes_but_one_masked() -> None:
    labels, logits = problem(400)
    logits[:100] = torch.full((4,), -math.inf).scatter(0, torch.tensor(0), 1.0)
    labels[:100] = 0
    calibrator = fit("margin_temperature", labels, logits=logits)
    assert all(np.isfinite(values).all() for values in state(calibrator))
    assert calibrator.predict_proba(logits)[0].tolist() == [1, 0, 0, 0]


def test_one_hot_predictions_have_no_confidence() -> None:
    labels, logits = problem(50)
    one_hot = torch.nn.functional.one_hot(logits.argmax(1), 4).double()
    with pytest.raises(InputError, match=r"one-hot predictions.*before argmax"):
        fit("temperature", labels, probs=one_hot)
    with pytest.raises(InputError, match="one-hot"):
        fit("temperature", labels, logits=one_hot)
    with pytest.raises(InputError, match=r"exactly one of logits= and probs="):
        fit("temperature", labels)
    with pytest.raises(InputError, match=r"exactly one of logits= and probs="):
        fit("temperature", labels, logits=logits).predict_proba()


@FEW
@pytest.mark.parametrize("name", CALIBRATORS)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    labels, logits = problem(200)
    calibrator = fit(name, labels, logits=logits)
    calibrator.save(tmp_path / "first.json")
    loaded = aradals.load_calibrator(str(tmp_path / "first.json"))
    assert type(loaded) is type(calibrator)
    assert_same(loaded, calibrator)
    assert loaded.origin.num_classes == 4
    assert loaded.origin.num_examples == 200
    loaded.save(str(tmp_path / "second.json"))
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "first.json").read_bytes()
    with pytest.raises(InputError, match="a fitted"):
        get_calibrator(name).save(tmp_path / "third.json")


def test_quantiles_have_no_limit() -> None:
    """``torch.quantile`` stops at 2^24 values: 17 million pixels are more."""
    values = torch.arange(17_000_000, dtype=torch.float64).flip(0)
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    assert quantiles(values, levels).tolist() == [0, 4_249_999.75, 8_499_999.5, 16_999_999]
    few = torch.randn(1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert quantiles(few, levels).numpy() == pytest.approx(few.quantile(levels).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["temperature", "histogram"])
def test_17_million_rows(name: str) -> None:
    labels, logits = problem(1000, 2)
    calibrator = fit(name, labels.repeat(17_000), logits=logits.float().repeat(17_000, 1))
    assert calibrator.predict_proba(logits)[:, 0].std() < logits.softmax(1)[:, 0].std()


def test_conjugate_gradients_find_the_same_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, logits = problem(800, 12)
    expected = state(fit("vector", labels, logits=logits))
    monkeypatch.setattr(vector_module, "MAX_SOLVED", 11)
    for found, exact in zip(state(fit("vector", labels, logits=logits)), expected, strict=True):
        assert found == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize(("n", "k"), [(300, 400), pytest.param(3000, 3000, marks=pytest.mark.slow)])
def test_vector_scaling_of_many_classes(n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, k, generator=generator)
    labels = torch.multinomial((logits / 2 + 3 * torch.arange(k) / k).softmax(1), 1, generator=generator)[:, 0]
    calibrator = VectorScaling().fit(labels, logits=logits)
    plain = get_calibrator("temperature").fit(labels, logits=logits)
    assert nll(labels, logits=calibrator.predict_logits(logits)) < nll(labels, logits=plain.predict_logits(logits))
