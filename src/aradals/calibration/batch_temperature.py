"""A temperature that an unlabeled batch of predictions sets: it rises as the inputs drift away."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from aradals.calibration.base import (
    Calibrator,
    bad_state,
    check_num_classes,
    origin_of,
    read_state,
    with_possible_labels,
    zero_masked,
)
from aradals.calibration.label_shift import ClassEntropies, dispersion, entropy, estimate_class_mix
from aradals.calibration.temperature import best_temperature, find_problem, warn_of_problem
from aradals.checks import Values, to_tensor
from aradals.errors import InputError

_SMALL_BATCH = 32
_NUM_RESAMPLES = 200
_LIMIT = 1.96
_LEAST_SHIFT = 1e-6
_LARGEST = 1e12
_LARGEST_LOG = 30.0
_POSITIVE = ("scale", "clean_temperature", "inflation")


class BatchSummary(NamedTuple):
    """Means over a batch of predictions, each a scalar.

    Attributes:
        confidence: mean largest probability.
        entropy: mean entropy of the predictions, nats.
        dispersion: entropy of the mean prediction, nats; it falls if the batch has, or seems to have, few classes.
        explained: mean entropy that the mix of classes explains, see `ClassEntropies`.
    """

    confidence: Tensor
    entropy: Tensor
    dispersion: Tensor
    explained: Tensor


Statistic = Callable[[BatchSummary, BatchSummary], Tensor]
"""``statistic(batch, calibration)``: 0 if the batch is like the calibration data, and above 0 under a shift."""


def mean_confidence(batch: BatchSummary, calibration: BatchSummary) -> Tensor:
    """Fall of the mean confidence."""
    return calibration.confidence - batch.confidence


def mean_entropy(batch: BatchSummary, calibration: BatchSummary) -> Tensor:
    """Rise of the mean entropy."""
    return batch.entropy - calibration.entropy


def mutual_information(batch: BatchSummary, calibration: BatchSummary) -> Tensor:
    """Fall of the mutual information of input and class: a rise of the entropy, or predictions of fewer classes.

    This statistic takes a batch that *has* fewer classes for a shift, and makes the model far too unsure there.
    """
    return (calibration.dispersion - calibration.entropy) - (batch.dispersion - batch.entropy)


def unexplained_entropy(batch: BatchSummary, calibration: BatchSummary) -> Tensor:
    """Rise of the mean entropy above the entropy that the mix of classes explains."""
    return (batch.entropy - batch.explained) - (calibration.entropy - calibration.explained)


def guarded_information(batch: BatchSummary, calibration: BatchSummary) -> Tensor:
    r"""Unexplained rise of the entropy, and a fall of the dispersion up to the same size.

    .. math:: f = r + \min(c^+, r^+)

    with the unexplained rise r of the entropy (`unexplained_entropy`) and the fall c of the dispersion. Predictions of
    fewer classes have two possible reasons: the batch has fewer classes, or the inputs have drifted so far that the
    model predicts few classes for everything. A drift also raises the entropy; another mix of classes does not. So a
    fall counts only as far as an equal rise confirms it.

    If the mix alone has changed, r and f are about 0, and the temperature is the plain one. If the inputs have drifted
    *and* the mix has changed, f is at most 2 r, where r is right: log T is then at most as far above the right value as
    that of plain temperature scaling is below it.
    """
    rise = unexplained_entropy(batch, calibration)
    fall = calibration.dispersion - batch.dispersion
    return rise + fall.clamp(min=0).minimum(rise.clamp(min=0))


STATISTICS: dict[str, Statistic] = {
    "guarded_information": guarded_information,
    "mutual_information": mutual_information,
    "unexplained_entropy": unexplained_entropy,
    "mean_entropy": mean_entropy,
    "mean_confidence": mean_confidence,
}
"""The statistics of a batch, by name."""


class BatchTemperature(Calibrator):
    r"""Divide the logits of a batch by a temperature that depends on a statistic of the whole batch, without labels.

    .. math:: \log T = a + b \, \frac{n}{n + n_0} \frac{f}{s}

    with the number n of predictions, the statistic f of `STATISTICS` and its root mean square s over the domains of
    the fit. a is the log of the plain temperature of the calibration split, so that a batch without a shift gets the
    plain temperature. b is the slope of the line from there through the logs of the best temperatures of the domains,
    see `fit_line`. A small batch says little, so that its f is shrunk to 0, which stands for no shift: n_0 is the
    variance of f in batches of 32 calibration examples, times 32, divided by s^2.

    Each call of ``forward`` and ``predict_logits`` takes its rows for *one* batch: they should come from the same
    source. The order of the rows has no effect. The order of the classes of a prediction does not change, and so the
    accuracy does not change. For predictions that arrive one by one, see `RunningBatch`.

    A change of the mix of classes is not a shift that needs another temperature. ``guarded_information`` and
    ``unexplained_entropy`` estimate the mix and allow for it. ``mutual_information`` is the best statistic if the mix
    is sure to be that of the calibration data, and is wrong by up to 85 points if it is not.

    Args:
        statistic: a name in `STATISTICS`.

    Raises:
        InputError: there is no such statistic.

    References:
        Deng et al., *Confidence and Dispersity Speak*, ICML 2023, arXiv:2302.01094, show that confidence
        and dispersion of unlabeled predictions together follow the accuracy. Zou, Deng and Zheng, *Adaptive Calibrator
        Ensemble*, ICCV 2023, arXiv:2303.12534, interpolate between two calibrators by the mean confidence.
    """

    method = "batch_temperature"
    _coefficients: Tensor
    _scale: Tensor
    _batch_prior: Tensor
    _clean_temperature: Tensor
    _inflation: Tensor
    _domain_error: Tensor
    _class_count: Tensor
    _class_entropy: Tensor
    _class_variance: Tensor
    _predicted_count: Tensor
    _means: Tensor

    def __init__(self, statistic: str = "guarded_information") -> None:
        super().__init__()
        if statistic not in STATISTICS:
            raise InputError(
                expected=f"a statistic: {', '.join(STATISTICS)}", got=repr(statistic), hint="guarded_information"
            )
        self.statistic = statistic

    @torch.no_grad()
    def fit(
        self,
        labels: Values,
        *,
        logits: Values | None = None,
        probs: Values | None = None,
        scores: Values | None = None,
        domains: Values | None = None,
    ) -> Self:
        """Fit on domains that are made from the calibration split alone.

        Args:
            labels: see `Calibrator.fit`.
            logits: see `Calibrator.fit`.
            probs: see `Calibrator.fit`.
            scores: ignored.
            domains: number of the domain of each example, integers, shape (N,). Domain 0 is the calibration split as it
                is; each other number is a copy of the split under some shift, such as AugMix. None: the examples are
                all of domain 0, which says nothing about shifts, so that b is 0.

        Raises:
            InputError: see `Calibrator.fit`; or there are not N numbers of domains, or none is 0.
        """
        if domains is None:
            return super().fit(labels, logits=logits, probs=probs)
        plain, labels = self._examples_of_fit(labels, logits, probs)
        domains = to_tensor(domains).to(plain.device)
        clean = domains == 0
        if domains.shape != labels.shape or domains.is_floating_point() or not clean.any():
            raise InputError(
                expected=f"the number of the domain of each of {len(labels)} examples, 0 for the unchanged ones",
                got=f"{domains.dtype} of shape {tuple(domains.shape)}, {int(clean.sum())} of them 0",
                hint="domains=[0, 0, ..., 1, 1, ...], integers",
            )
        self._fit_domains(with_possible_labels(plain, labels), labels, domains.long())
        self.origin = origin_of(plain[clean], labels[clean])
        return self

    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        self._fit_domains(logits, labels, torch.zeros_like(labels))

    def _fit_domains(self, logits: Tensor, labels: Tensor, domains: Tensor) -> None:
        """Describe domain 0, then fit the line through the best temperatures of all domains.

        A warning says that there is only one domain, or that only the pull keeps the temperature.
        """
        clean, numbers = domains == 0, domains.unique()
        self._describe(logits[clean], labels[clean])
        parts = [(logits[domains == number], labels[domains == number]) for number in numbers]
        shifts = torch.stack([self.shift(part) for part, _ in parts])
        self._keep(scale=shifts.square().mean().sqrt().clamp(min=_LEAST_SHIFT if len(numbers) > 1 else 1))
        self._keep(batch_prior=self._noise(logits[clean]) / self._scale.square())
        described = [Domain.of(shift / self._scale, *part) for shift, part in zip(shifts, parts, strict=True)]
        self._keep(coefficients=fit_line(described), domain_error=error_of_domains(parts, described))
        self._keep(inflation=self._measure_inflation(logits[clean], labels[clean]))
        if len(numbers) == 1:
            warnings.warn(
                "the calibration examples are of one domain, so that no batch changes the temperature: `aradals "
                "calibrate` with --model and --data makes domains, and fit(..., domains=...) takes them",
                stacklevel=5,
            )
        else:
            warn_of_problem("the temperature rests on the pull to 1", find_problem(*parts[0]))

    def _describe(self, logits: Tensor, labels: Tensor) -> None:
        """Keep what later batches are compared with."""
        probs, num_classes = logits.softmax(1), logits.shape[1]
        classes = ClassEntropies.of(entropy(probs), labels, num_classes)
        self._keep(
            clean_temperature=logits.new_tensor(best_temperature(logits, labels)),
            class_count=classes.num,
            class_entropy=classes.mean,
            class_variance=classes.variance,
            predicted_count=probs.argmax(1).bincount(minlength=num_classes).double(),
        )
        self._keep(means=torch.stack(self._summary(logits)))

    @property
    def coefficients(self) -> tuple[float, float]:
        """a and b.

        Raises:
            InputError: the calibrator is not fitted.
        """
        self.check_fitted()
        a, b = self._coefficients.tolist()
        return a, b

    @property
    def predicted_counts(self) -> Tensor:
        """Number of calibration examples for which each class is predicted, shape (K,)."""
        return self._predicted_count.long()

    @property
    def class_mix(self) -> Tensor:
        """Share of each class in the calibration data, shape (K,); a class without examples counts half an example."""
        count = self._class_count + 0.5
        return count / count.sum()

    @property
    def calibration(self) -> BatchSummary:
        """The summary of the calibration data."""
        return BatchSummary(*self._means.unbind())

    def shift(self, logits: Tensor) -> Tensor:
        """Compute the statistic f of a batch, a scalar; 0 stands for no shift."""
        return STATISTICS[self.statistic](self.summarize(logits), self.calibration)

    def summarize(self, logits: Tensor) -> BatchSummary:
        """Compute the means over a batch, logits of shape (N, K)."""
        return self._summary(logits.to(self._class_entropy.dtype))

    def estimate_mix(self, logits: Tensor) -> Tensor:
        """Estimate the shares of the classes in a batch, see `estimate_class_mix`, shape (K,)."""
        check_num_classes(logits, len(self._class_entropy))
        logits = logits.to(self._class_entropy.dtype)
        return estimate_class_mix((logits / self._clean_temperature).softmax(1), self.class_mix)

    def surprise(self, logits: Tensor) -> Tensor:
        """Compute how many standard errors the mean entropy is above that which the mix of classes explains, a scalar.

        The number is about standard normal if the batch differs from the calibration data by its mix of classes alone.
        The standard errors are enlarged to what resampled calibration data show.
        """
        return self._raw_surprise(self._classes, logits) / self._inflation

    def temperature_for(self, logits: Tensor, statistic: Statistic | None = None) -> Tensor:
        """Compute the temperature of a batch, a scalar.

        Args:
            logits: the batch, shape (N, K).
            statistic: another statistic of entropies to put in the place of f; default: f itself.
        """
        shift = (statistic or STATISTICS[self.statistic])(self.summarize(logits), self.calibration)
        a, b = self._coefficients.unbind()
        num = logits.shape[0]
        log_temperature = a + b * num / (num + self._batch_prior) * shift / self._scale
        return log_temperature.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()

    def estimate_accuracy(self, logits: Tensor, temperature: Tensor) -> tuple[float, float]:
        """Estimate the accuracy of a batch by its mean confidence at a temperature.

        Returns:
            The estimate and its standard error: from the chance in the labels, and from the error that the domains of
            the fit show when each is left out in turn.
        """
        confidence = (logits.to(self._scale.dtype) / temperature).softmax(1).amax(1)
        variance = (confidence * (1 - confidence)).mean() / len(confidence) + self._domain_error.square()
        return float(confidence.mean()), float(variance.sqrt())

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """``logits / T(batch)``; ``scores`` are ignored."""
        logits = logits.to(self._class_entropy.dtype)
        return logits / self.temperature_for(logits)

    def to_dict(self) -> dict[str, Any]:
        """Return ``method``, ``statistic``, the coefficients a and b, and what batches are compared with."""
        self.check_fitted()
        state = {name: getattr(self, f"_{name}").tolist() for name in _STATE}
        return {"method": self.method, "statistic": self.statistic, **state}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or no fit makes such a state.
        """
        state = read_state(fields, cls.method, **_STATE)
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in zip(_STATE, state, strict=True)}
        numbers = torch.cat([tensors[name].flatten() for name in _STATE if name not in _SIGNED])
        signed = torch.cat([tensors[name] for name in _SIGNED])
        is_possible = (
            str(fields.get("statistic")) in STATISTICS
            and len({len(tensors[name]) for name in _VECTORS}) == 1
            and len(tensors["means"]) == len(BatchSummary._fields)
            and len(tensors["coefficients"]) == 2
            and bool((numbers >= 0).all() and (torch.cat([numbers, signed]).abs() <= _LARGEST).all())
            and all(bool(tensors[name] >= 1 / _LARGEST) for name in _POSITIVE)
        )
        if not is_possible:
            expected = f"a known statistic, vectors of one length, numbers from 0 to {_LARGEST:g}, positive {_POSITIVE}"
            raise bad_state(fields, cls.method, expected)
        calibrator = cls(str(fields["statistic"]))
        calibrator._keep(**tensors)
        return calibrator

    @property
    def _classes(self) -> ClassEntropies:
        return ClassEntropies(self._class_count, self._class_entropy, self._class_variance)

    def _summary(self, logits: Tensor) -> BatchSummary:
        probs = logits.softmax(1)
        explained = self._classes.explained_by(self.estimate_mix(logits))
        return BatchSummary(probs.amax(1).mean(), entropy(probs).mean(), dispersion(probs), explained)

    def _noise(self, logits: Tensor) -> Tensor:
        """Estimate the variance of the statistic in batches of calibration examples, times their size."""
        size = max(1, min(_SMALL_BATCH, len(logits) // 8))
        batches = [batch for batch in logits[_shuffled(len(logits), 0)].split(size) if len(batch) == size]
        return size * torch.stack([self.shift(batch) for batch in batches]).square().mean()

    def _raw_surprise(self, classes: ClassEntropies, logits: Tensor) -> Tensor:
        logits, mix = logits.to(classes.mean.dtype), self.estimate_mix(logits)
        rise = entropy(logits.softmax(1)).mean() - classes.explained_by(mix)
        return rise / classes.standard_error(mix, logits.shape[0]).clamp(min=1e-12)

    def _measure_inflation(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Measure by how much the surprise varies more than a standard normal number, at least 1.

        200 times, one half of the calibration data describes the classes, and the other half gives a batch with random
        shares of the classes. The result is the 95th percentile of the absolute surprises, divided by 1.96.
        """
        generator = torch.Generator().manual_seed(0)
        surprises = []
        for seed in range(_NUM_RESAMPLES):
            described, others = _shuffled(len(logits), seed + 1).tensor_split(2)
            if not len(described):
                break
            weight = torch.rand(logits.shape[1], generator=generator).log().neg().to(logits.device)[labels[others]]
            chosen = others[weight.cpu().multinomial(len(others), replacement=True, generator=generator)]
            known = ClassEntropies.of(entropy(logits[described].softmax(1)), labels[described], logits.shape[1])
            surprises.append(self._raw_surprise(known, logits[chosen]))
        return torch.stack(surprises or [logits.new_ones(())]).abs().quantile(0.95).div(_LIMIT).clamp(min=1)

    def _keep(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(f"_{name}", tensor.double())


_VECTORS = ("class_count", "class_entropy", "class_variance", "predicted_count")
_SIGNED = ("means", "coefficients")
_STATE = {
    "clean_temperature": 0,
    **dict.fromkeys(_VECTORS, 1),
    "means": 1,
    **dict.fromkeys(("scale", "batch_prior"), 0),
    "coefficients": 1,
    **dict.fromkeys(("domain_error", "inflation"), 0),
}
"""The numbers of a fitted calibrator and their dimensions, in the order of the fit."""


class RunningBatch:
    """The last predictions of a stream, as one batch for a `BatchTemperature`.

    The state is explicit: `logits` are the predictions of the window, the latest last.

    Args:
        calibrator: a fitted calibrator.
        size: number of predictions of the window.

    Raises:
        InputError: the calibrator is not fitted, or ``size`` is not positive.

    Example:
        >>> clean, shifted = [[4.0, 0.0], [0.0, 4.0]] * 50, [[4.0, 2.0], [2.0, 4.0]] * 50
        >>> labels, domains = [0, 1] * 49 + [1, 0] + [0, 0, 1, 1, 1, 1, 1, 1, 0, 0] * 10, [0] * 100 + [1] * 100
        >>> calibrator = BatchTemperature().fit(labels, logits=clean + shifted, domains=domains)
        >>> window = RunningBatch(calibrator, size=500)
        >>> window.predict_proba([[4.0, 2.0]]).shape, len(window.logits)
        (torch.Size([1, 2]), 1)
    """

    def __init__(self, calibrator: BatchTemperature, size: int = 500) -> None:
        calibrator.check_fitted()
        if size < 1:
            raise InputError(expected="a window of at least 1 prediction", got=f"size={size}", hint="size=500")
        self.calibrator, self.size = calibrator, size
        self.logits = torch.empty(0, len(calibrator.class_mix), dtype=torch.float64)

    def predict_proba(self, logits: Values) -> Tensor:
        """Add predictions to the window, and compute their probabilities with the temperature of the window.

        Args:
            logits: the new predictions, shape (N, K).

        Returns:
            Calibrated probabilities of the new predictions, float64, shape (N, K).
        """
        new = to_tensor(logits).double()
        self.logits = torch.cat([self.logits, new])[-max(self.size, len(new)) :]
        probs = self.calibrator.predict_proba(self.logits)[-len(new) :] if len(new) else new
        self.logits = self.logits[-self.size :]
        return probs


class Domain(NamedTuple):
    """What the fit knows of a domain, float64 scalars.

    Attributes:
        shift: the statistic f, 0 for the calibration examples as they are.
        log_temperature: log T of the best temperature.
        information: second derivative of the sum of the NLL by log T, at the best temperature.
    """

    shift: Tensor
    log_temperature: Tensor
    information: Tensor

    @classmethod
    def of(cls, shift: Tensor, logits: Tensor, labels: Tensor) -> Self:
        """Fit the best temperature of a domain."""
        temperature = best_temperature(logits, labels)
        scaled = logits / temperature
        probs, values = scaled.softmax(1), zero_masked(scaled)
        mean = (probs * values).sum(1, keepdim=True)
        information = (probs * (values - mean).square()).sum()
        return cls(shift, shift.new_tensor(temperature).log(), information)


def fit_line(domains: Sequence[Domain]) -> Tensor:
    """Find a and b of log T = a + b f by weighted least squares over the domains, with a = log T of the first one.

    The weights are the information of the domains. A domain in which the model is useless has about none, because any
    large temperature suits it. The pull b^2 / 2 keeps b = 0 if no domain is shifted.

    Returns:
        a and b, shape (2,).
    """
    shifts, log_temperatures, information = (torch.stack(column) for column in zip(*domains, strict=True))
    a, weighted = log_temperatures[0], information * shifts
    b = weighted @ (log_temperatures - a) / (1 + weighted @ shifts)
    return torch.stack([a, b])


def error_of_domains(parts: Sequence[tuple[Tensor, Tensor]], domains: Sequence[Domain]) -> Tensor:
    """Measure the root mean square of confidence minus accuracy, over the domains, each left out of the fit in turn.

    The part that the chance in the labels explains is subtracted. The first domain stays in, because it gives a.

    Args:
        parts: logits and labels of each domain.
        domains: see `fit_line`.
    """
    squares = []
    for number, (logits, labels) in enumerate(parts):
        a, b = fit_line([each for index, each in enumerate(domains) if index == 0 or index != number])
        confidence, predicted = (logits / (a + b * domains[number].shift).exp()).softmax(1).max(1)
        gap = (confidence - (predicted == labels).double()).mean()
        squares.append((gap.square() - (confidence * (1 - confidence)).mean() / len(confidence)).clamp(min=0))
    mean_square: Tensor = torch.stack(squares).mean()
    return mean_square.sqrt()


def _shuffled(num: int, seed: int) -> Tensor:
    return torch.randperm(num, generator=torch.Generator().manual_seed(seed))
