"""How accurate a model is on unlabeled predictions, and whether its inputs have drifted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from aradals.calibration import BatchTemperature, Calibrator
from aradals.calibration.batch_temperature import mutual_information, unexplained_entropy
from aradals.checks import Values, check_predictions
from aradals.errors import InputError

Verdict = Literal["no drift", "covariate shift", "class mix changed", "cannot say"]

MIN_BATCH = 50
LARGEST_CHANGE = 0.5
"""Total variation of two mixes of classes beyond which a change is as likely a collapse of a model that stays sure."""

_NUM_RESAMPLES = 1999
_INTERVAL = 1.96


@dataclass(frozen=True)
class BatchReport:
    """The state of one batch of unlabeled predictions.

    Attributes:
        start: position of its first prediction.
        n: number of predictions.
        verdict: what has changed since the calibration data.
        reason: the evidence, as a sentence.
        accuracy: estimated accuracy, which is the mean calibrated confidence.
        accuracy_low: lower end of the interval of the accuracy. It covers 95 % for inputs like those of the fit, and
            less for other kinds of drift, see ``docs/shift.md``.
        accuracy_high: upper end of this interval.
        is_trusted: whether the estimate can be trusted, see ``docs/shift.md``.
        confidence: mean confidence as the model states it.
        temperature: the temperature of the batch.
        surprise: standard errors by which the entropy is above that which the mix of classes explains.
        entropy_p: p value of this surprise, two-sided.
        classes_p: p value of the test that the predicted classes have the same shares as in the calibration data.
        class_mix: estimated share of each class, right if only the mix has changed.
    """

    start: int
    n: int
    verdict: Verdict
    reason: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    is_trusted: bool
    confidence: float
    temperature: float
    surprise: float
    entropy_p: float
    classes_p: float
    class_mix: tuple[float, ...]

    def __str__(self) -> str:
        """Describe the batch in two lines."""
        accuracy = f"{self.accuracy:.1%} ({self.accuracy_low:.1%} to {self.accuracy_high:.1%})"
        trust = "" if self.is_trusted else ", not to be trusted"
        return (
            f"predictions {self.start} to {self.start + self.n - 1}: {self.verdict}; {self.reason}\n"
            f"  estimated accuracy {accuracy}{trust}; the model's own confidence {self.confidence:.1%}; "
            f"temperature {self.temperature:.2f}"
        )


@dataclass(frozen=True)
class Monitoring:
    """The state of a stream of unlabeled predictions.

    Attributes:
        batches: the report of each batch.
        level: probability of a false alarm in each batch.
    """

    batches: tuple[BatchReport, ...]
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Describe every batch, and how many false alarms are to be expected."""
        expected = self.level * len(self.batches)
        told = f"probability of a false alarm: {self.level:g} for each batch, {expected:g} expected in all of them"
        return "\n".join([*map(str, self.batches), told])


def monitor(
    calibrator: Calibrator,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    batch_size: int | None = None,
    level: float = 0.01,
) -> Monitoring:
    """Estimate the accuracy on unlabeled predictions, and test whether the inputs have drifted.

    Args:
        calibrator: a fitted `BatchTemperature`, see `aradals.calibrate` with ``method="batch_temperature"``.
        logits: floats, shape (N, K), in the order of time; or
        probs: rows in [0, 1] that sum to 1, shape (N, K).
        batch_size: number of predictions of each batch; the last batch also has the remainder. None: one batch.
        level: probability of a false alarm in a batch that has not drifted. Each of the two tests has half of it.

    Raises:
        InputError: the calibrator is not a fitted `BatchTemperature`, or that of a model with other classes; there are
            no predictions; they are not what they are called; the batch size or the level is out of its range.
    """
    fitted = check_monitoring(calibrator, batch_size=batch_size, level=level)
    outputs = check_predictions(logits=logits, probs=probs).double()
    plain = outputs if probs is None else outputs.log()
    reports = [report_batch(fitted, batch, start=start, level=level) for start, batch in _batches(plain, batch_size)]
    return Monitoring(tuple(reports), level)


def check_monitoring(calibrator: Calibrator, *, batch_size: int | None, level: float) -> BatchTemperature:
    """Return the calibrator, if `monitor` can work with it and with these settings.

    Raises:
        InputError: the calibrator is not a fitted `BatchTemperature`; the batch size or the level is out of its range.
    """
    if not isinstance(calibrator, BatchTemperature):
        raise InputError(
            expected="a batch_temperature calibrator, which knows the calibration data",
            got=f"{getattr(calibrator, 'method', type(calibrator).__name__)}",
            hint="aradals calibrate --method batch_temperature",
        )
    calibrator.check_fitted()
    if not 0 < level <= 0.5:
        raise InputError(expected="a level above 0, at most 0.5", got=str(level), hint="0.01")
    if batch_size is not None and batch_size < MIN_BATCH:
        raise InputError(expected=f"batches of at least {MIN_BATCH} predictions", got=str(batch_size), hint="500")
    return calibrator


def report_batch(calibrator: BatchTemperature, logits: Tensor, *, start: int = 0, level: float = 0.01) -> BatchReport:
    """Report on one batch of checked logits, float64, shape (N, K)."""
    surprise = float(calibrator.surprise(logits))
    entropy_p = math.erfc(abs(surprise) / math.sqrt(2))
    classes_p = same_classes_p(calibrator.predicted_counts, logits.argmax(1).bincount(minlength=logits.shape[1]))
    mix = calibrator.estimate_mix(logits)
    change = float((mix - calibrator.class_mix).abs().sum() / 2)
    has_drifted, has_other_classes = entropy_p < level / 2, classes_p < level / 2
    verdict, reason = judge(len(logits), has_drifted, has_other_classes, surprise, change)
    accuracy, low, high = estimate_accuracy(calibrator, logits, has_drifted)
    return BatchReport(
        start=start,
        n=len(logits),
        verdict=verdict,
        reason=reason,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        is_trusted=verdict != "cannot say",
        confidence=float(logits.softmax(1).amax(1).mean()),
        temperature=float(calibrator.temperature_for(logits)),
        surprise=surprise,
        entropy_p=entropy_p,
        classes_p=classes_p,
        class_mix=tuple(mix.tolist()),
    )


def judge(num: int, has_drifted: bool, has_other_classes: bool, surprise: float, change: float) -> tuple[Verdict, str]:
    """Say what has changed, and why.

    Args:
        num: number of predictions.
        has_drifted: whether the entropy is another than the mix of classes explains.
        has_other_classes: whether the shares of the predicted classes are others than in the calibration data.
        surprise: standard errors between the entropy and that which the mix explains.
        change: total variation between the estimated mix of classes and that of the calibration data.
    """
    if num < MIN_BATCH:
        return "cannot say", f"{num} predictions are fewer than {MIN_BATCH}"
    if has_drifted:
        side = "less" if surprise > 0 else "more"
        reason = f"the model is {side} sure than any mix of classes explains ({surprise:+.1f} standard errors)"
        also = ", and the predicted classes have changed, by the drift or by another mix" if has_other_classes else ""
        return "covariate shift", reason + also
    if not has_other_classes:
        return "no drift", "neither the entropy nor the predicted classes have changed significantly"
    if change > LARGEST_CHANGE:
        return "cannot say", (
            f"the mix of classes has changed by {change:.0%}, or the model predicts few classes for everything and "
            "stays sure: look at some inputs"
        )
    return "class mix changed", (
        f"a change of the mix of classes by {change:.0%} explains the predictions, if the inputs are of the same kind"
    )


def estimate_accuracy(calibrator: BatchTemperature, logits: Tensor, has_drifted: bool) -> tuple[float, float, float]:
    """Estimate the accuracy of a batch with an interval, which allows for the chance in the labels and in the fit.

    If the inputs have drifted, predictions of fewer classes have two readings: all of it is the drift, or all of it is
    another mix of classes. The interval then covers both readings.

    Returns:
        The accuracy, and the ends of its interval.
    """
    accuracy, error = calibrator.estimate_accuracy(logits, calibrator.temperature_for(logits))
    readings = [(accuracy, error)]
    if has_drifted:
        for reading in (mutual_information, unexplained_entropy):
            readings.append(calibrator.estimate_accuracy(logits, calibrator.temperature_for(logits, reading)))
    low = min(mean - _INTERVAL * error for mean, error in readings)
    high = max(mean + _INTERVAL * error for mean, error in readings)
    return accuracy, max(0.0, low), min(1.0, high)


def same_classes_p(calibration: Tensor, batch: Tensor) -> float:
    """Test whether two samples have the same distribution over classes: a permutation test of the chi-square statistic.

    The p value is exact: if the predictions of both samples come from one source, it is below any level with at most
    the probability of this level.

    Args:
        calibration: number of predictions of each class, shape (K,).
        batch: the same of the other sample, shape (K,).
    """
    total = (calibration + batch).cpu().numpy()
    total, counts = total[total > 0], batch.cpu().numpy()[total > 0]
    expected = total * (counts.sum() / total.sum())

    def statistic(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(((counts - expected) ** 2 / expected).sum(-1))

    resampled = np.random.default_rng(0).multivariate_hypergeometric(
        total, counts.sum(), size=_NUM_RESAMPLES, method="marginals"
    )
    return float((1 + (statistic(resampled) >= statistic(counts) - 1e-9).sum()) / (1 + _NUM_RESAMPLES))


def _batches(logits: Tensor, size: int | None) -> Iterator[tuple[int, Tensor]]:
    """Yield the position and the logits of each batch; the last one also has the remainder."""
    size = size or len(logits)
    starts = range(0, max(len(logits) - size, 0) + 1, size)
    for start in starts:
        yield start, logits[start : start + size if start != starts[-1] else None]
