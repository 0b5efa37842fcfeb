"""Batch temperatures against known optima, and what a change of the mix of classes must not do."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aradals.calibration import BatchTemperature, RunningBatch, TemperatureScaling, load_calibrator
from aradals.calibration.batch_temperature import STATISTICS, Domain, fit_line
from aradals.calibration.label_shift import dispersion, entropy, estimate_class_mix
from aradals.errors import InputError
from aradals.metrics import mean_confidence, nll

CLASSES = 4


def sample(
    n: int, signal: float, sharpness: float = 2.0, *, mix: list[float] | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits of a model that is right at ``signal`` and ``sharpness`` 1; classes are Gaussians about one-hot means."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor(mix or [1.0] * CLASSES)
    labels = torch.multinomial(shares, n, replacement=True, generator=generator)
    means = signal * torch.nn.functional.one_hot(labels, CLASSES).double()
    points = means + torch.randn(n, CLASSES, generator=generator, dtype=torch.float64)
    return labels, 3.0 * sharpness * points  # the posterior of the classes at signal 3 has logits 3 x


def fitted(statistic: str = "guarded_information", n: int = 1500) -> BatchTemperature:
    """Domains in which the signal falls, as drifted inputs lose it."""
    parts = [sample(n, signal, seed=row) for row, signal in enumerate([3.0, 2.5, 2.0, 1.5])]
    labels, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    return BatchTemperature(statistic).fit(labels, logits=logits, domains=torch.arange(4).repeat_interleave(n))


def gap(calibrator: BatchTemperature | TemperatureScaling, labels: Tensor, logits: Tensor) -> float:
    probs = calibrator.predict_proba(logits)
    return mean_confidence(labels, probs=probs) - float((probs.argmax(1) == labels).double().mean())


@pytest.fixture(scope="module")
def guarded() -> BatchTemperature:
    return fitted()


@pytest.fixture(scope="module")
def plain() -> TemperatureScaling:
    labels, logits = sample(1500, 3.0)
    return TemperatureScaling().fit(labels, logits=logits)


def line(points: list[tuple[float, float, float]]) -> list[float]:
    """a and b of domains that are given as shift, log T and information."""
    return fit_line([Domain(*torch.tensor(point, dtype=torch.float64)) for point in points]).tolist()


@given(st.floats(-1.0, 1.5), st.floats(-1.0, 1.0))
def test_known_a_and_b_are_recovered(a: float, b: float) -> None:
    assert line([(f, a + b * f, 1e9) for f in (0.0, 0.5, 1.0, 1.5)]) == pytest.approx([a, b], abs=1e-8)


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0, 100)), min_size=1, max_size=6))
def test_the_slope_has_the_least_weighted_squares_and_pull(points: list[tuple[float, float, float]]) -> None:
    a, b = line([(0.0, 0.3, 50.0), *points])
    shifts, heights, weights = np.array(points).T
    rows, targets = np.append(weights**0.5 * shifts, 1.0), np.append(weights**0.5 * (heights - 0.3), 0.0)
    assert [a, b] == pytest.approx([0.3, np.linalg.lstsq(rows[:, None], targets, rcond=None)[0][0]])


def test_no_shift_is_no_slope() -> None:
    assert line([(0.0, 0.3, 9.0), (0.0, 0.9, 9.0)]) == [pytest.approx(0.3), 0]


def test_the_information_is_the_curvature_of_the_nll() -> None:
    labels, logits = sample(400, 2.0)
    found = Domain.of(torch.tensor(0.0).double(), logits, labels)

    def loss(change: float) -> float:
        scaled = logits / (found.log_temperature + change).exp()
        return float(torch.nn.functional.cross_entropy(scaled, labels, reduction="sum"))

    step = 1e-3
    curvature = (loss(step) - 2 * loss(0) + loss(-step)) / step**2
    assert float(found.information) == pytest.approx(curvature, rel=0.01)


def test_a_batch_without_a_shift_gets_the_plain_temperature(
    guarded: BatchTemperature, plain: TemperatureScaling
) -> None:
    _, logits = sample(1500, 3.0)
    assert float(guarded.shift(logits)) == pytest.approx(0, abs=1e-12)
    assert float(guarded.temperature_for(logits)) == pytest.approx(plain.temperature)


@pytest.mark.parametrize("signal", [3.0, 2.25, 1.75])
def test_a_domain_in_which_the_model_is_useless_does_not_spoil_the_others(signal: float) -> None:
    parts = [sample(1500, each, seed=row) for row, each in enumerate([3.0, 2.5, 2.0, 1.5, 0.0])]
    labels, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    found = BatchTemperature().fit(labels, logits=logits, domains=torch.arange(5).repeat_interleave(1500))
    assert abs(gap(found, *sample(3000, signal, seed=100))) < 0.05


def test_a_fit_on_clean_examples_that_are_all_right_warns() -> None:
    labels, logits = sample(200, 30.0)
    drifted = sample(200, 2.0)
    with pytest.warns(UserWarning, match="every label of these 200 examples"):
        BatchTemperature().fit(
            torch.cat([labels, drifted[0]]),
            logits=torch.cat([logits, drifted[1]]),
            domains=torch.arange(2).repeat_interleave(200),
        )


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_drift_without_labels_is_calibrated(statistic: str, plain: TemperatureScaling) -> None:
    calibrator = fitted(statistic)
    for signal in (3.0, 2.25, 1.75):  # between those of the fit
        labels, logits = sample(3000, signal, seed=100)
        assert abs(gap(calibrator, labels, logits)) < 0.02
        batches = zip(labels.split(100), logits.split(100), strict=True)
        assert abs(sum(gap(calibrator, *batch) for batch in batches) / 30) < 0.03
    assert gap(plain, labels, logits) > 0.1


MIXES = [[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.7, 0.1, 0.1, 0.1], [0.0, 0.05, 0.05, 0.9]]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("n", [100, 2000])
def test_another_mix_of_classes_is_no_drift(
    mix: list[float], n: int, guarded: BatchTemperature, plain: TemperatureScaling
) -> None:
    labels, logits = sample(n, 3.0, mix=mix, seed=7)
    assert float(guarded.temperature_for(logits)) == pytest.approx(plain.temperature, rel=0.25 if n == 100 else 0.1)
    assert abs(gap(guarded, labels, logits)) < abs(gap(plain, labels, logits)) + 0.02


def test_mutual_information_takes_another_mix_for_a_drift(plain: TemperatureScaling) -> None:
    labels, logits = sample(2000, 3.0, mix=MIXES[0], seed=7)
    assert gap(fitted("mutual_information"), labels, logits) < gap(plain, labels, logits) - 0.2


def test_a_drift_beside_another_mix_is_about_as_well_calibrated_as_without_the_batch(
    guarded: BatchTemperature, plain: TemperatureScaling
) -> None:
    for mix in MIXES:
        labels, logits = sample(2000, 1.75, mix=mix, seed=8)
        assert abs(gap(guarded, labels, logits)) < abs(gap(plain, labels, logits)) + 0.07


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_order_of_the_batch_does_not_matter(statistic: str) -> None:
    calibrator, (_, logits) = fitted(statistic, 300), sample(64, 2.0)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert calibrator.predict_proba(logits)[order].numpy() == pytest.approx(
        calibrator.predict_proba(logits[order]).numpy(), abs=1e-12
    )


@given(st.integers(1, 40), st.floats(0.0, 50.0), st.integers(0, 1000))
@settings(max_examples=25)
def test_any_batch_has_a_positive_temperature(n: int, sharpness: float, seed: int) -> None:
    calibrator = _for_properties()
    _, logits = sample(n, 3.0, sharpness, mix=[1.0, 0, 0, 0], seed=seed)
    temperature = calibrator.temperature_for(logits)
    assert temperature.isfinite()
    assert temperature > 0
    assert calibrator.predict_logits(logits).argmax(1).equal(logits.argmax(1))


@cache
def _for_properties() -> BatchTemperature:
    return fitted(n=200)


def test_a_small_batch_is_nearer_to_no_shift(guarded: BatchTemperature) -> None:
    _, logits = sample(1000, 1.5, seed=3)
    _, clean = sample(1000, 3.0, seed=3)
    calm, large = float(guarded.temperature_for(clean)), float(guarded.temperature_for(logits))
    small = sum(float(guarded.temperature_for(batch)) for batch in logits.split(4)) / 250
    assert calm < small < large


def test_one_domain_is_plain_temperature_scaling(plain: TemperatureScaling) -> None:
    labels, logits = sample(1500, 3.0)
    with pytest.warns(UserWarning, match="of one domain"):
        calibrator = BatchTemperature().fit(labels, logits=logits)
    _, drifted = sample(50, 1.5)
    assert float(calibrator.temperature_for(drifted)) == pytest.approx(plain.temperature, rel=1e-6)


def test_saved_and_loaded(tmp_path: Path, guarded: BatchTemperature) -> None:
    guarded.save(tmp_path / "batch.json")
    loaded = load_calibrator(tmp_path / "batch.json")
    _, logits = sample(50, 2.0)
    assert loaded.predict_proba(logits).equal(guarded.predict_proba(logits))
    assert loaded.to_dict() == guarded.to_dict()
    assert loaded.origin.num_examples == 1500
    for name, value in [
        ("scale", 0.0),
        ("statistic", "no"),
        ("class_count", [1.0]),
        ("means", [1.0]),
        ("coefficients", [0.0]),
    ]:
        with pytest.raises(InputError, match="the state of a batch_temperature"):
            BatchTemperature.from_dict({**guarded.to_dict(), name: value})


def test_bad_arguments() -> None:
    labels, logits = sample(20, 3.0)
    for domains in ([0] * 19, [1] * 20, [0.0] * 20):
        with pytest.raises(InputError, match="number of the domain"):
            BatchTemperature().fit(labels, logits=logits, domains=domains)
    with pytest.raises(InputError, match="a statistic: guarded_information"):
        BatchTemperature("entropy")
    with pytest.raises(InputError, match="a fitted batch_temperature"):
        RunningBatch(BatchTemperature())


def test_running_batch_equals_the_batch_of_its_window(guarded: BatchTemperature) -> None:
    _, logits = sample(120, 2.0)
    with pytest.raises(InputError, match="a window of at least 1"):
        RunningBatch(guarded, 0)
    window = RunningBatch(guarded, 100)
    parts = [window.predict_proba(part) for part in logits.split(30)]
    assert window.logits.equal(logits[-100:])
    assert parts[1].numpy() == pytest.approx(guarded.predict_proba(logits[:60])[30:].numpy())
    assert parts[3].numpy() == pytest.approx(guarded.predict_proba(logits[-100:])[-30:].numpy())
    assert window.predict_proba(logits).shape == logits.shape


def test_em_finds_the_mix_of_classes() -> None:
    labels, logits = sample(20_000, 3.0, sharpness=1.0, mix=[0.6, 0.3, 0.1, 0.0])
    found = estimate_class_mix(logits.softmax(1), torch.full((4,), 0.25).double())
    assert found.tolist() == pytest.approx([0.6, 0.3, 0.1, 0.0], abs=0.01)
    assert nll(labels, probs=logits.softmax(1)) > 0


def test_dispersion_has_no_bias_in_small_batches() -> None:
    assert float(entropy(torch.tensor([0.5, 0.5]).double())) == pytest.approx(math.log(2))
    assert float(dispersion(torch.tensor([[0.5, 0.5]]).double())) == pytest.approx(math.log(2))
    _, logits = sample(8000, 3.0)
    probs = logits.softmax(1)
    small = torch.stack([dispersion(part) for part in probs.split(20)]).mean()
    biased = torch.stack([entropy(part.mean(0)) for part in probs.split(20)]).mean()
    assert float(small) == pytest.approx(float(dispersion(probs)), abs=0.01)
    assert float(biased) < float(dispersion(probs)) - 0.05


def test_surprise_is_standard_normal_under_another_mix(guarded: BatchTemperature) -> None:
    found = torch.stack([guarded.surprise(sample(200, 3.0, mix=MIXES[seed % 4], seed=seed)[1]) for seed in range(200)])
    assert float((found.abs() > 1.96).double().mean()) < 0.12
    assert float(guarded.surprise(sample(200, 2.0)[1])) > 4
