"""Temperature scaling: one number that softens or sharpens every prediction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, check_examples, read_state

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
"""Networks need about 0.5 to 5; at these bounds, predictions are practically one-hot or uniform."""


class TemperatureScaling(Calibrator):
    """Divide logits by the temperature with the least NLL on the calibration split.

    Guo et al. 2017, section 4.2. The order of the classes does not change, and so the accuracy does not change.

    Example:
        >>> import torch
        >>> scaling = TemperatureScaling().fit(torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
        >>> round(scaling.temperature, 4)  # 3 of 4 are right: sigmoid(4 / T) = 3/4, so T = 4 / log(3)
        3.641
    """

    method = "temperature"
    _temperature: Tensor

    @property
    def temperature(self) -> float:
        """The fitted temperature; a temperature above 1 softens.

        Raises:
            InputError: the calibrator is not fitted.
        """
        self.check_fitted()
        return float(self._temperature)

    @property
    def at_bound(self) -> bool:
        """True if the fit stopped at a bound, because the NLL has no minimum between the bounds."""
        return self.temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE)

    def fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None = None) -> Self:
        """Find the temperature with the least NLL, in [0.01, 100].

        The NLL has no minimum between the bounds if every label is predicted right (a lower temperature is always
        better), or if the logits have no information about the labels (a higher temperature is always better). The fit
        then warns and keeps the bound.

        Args:
            logits: finite floats, shape (N, K).
            labels: integer, shape (N,), in [0, K).
            scores: ignored.

        Raises:
            InputError: there are no examples; logits are NaN, infinite or probabilities; labels are wrong.
        """
        logits, labels = check_examples(logits, labels)
        self._keep(best_temperature(logits, labels))
        warn_at_bound(logits, labels, [self.temperature])
        return self

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """``logits / temperature``; ``scores`` are ignored."""
        return logits / self._temperature.to(logits)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"method": "temperature", "temperature": T}``, ready for JSON."""
        return {"method": self.method, "temperature": self.temperature}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or the temperature is not a positive number.
        """
        (temperature,) = read_state(fields, cls.method, temperature=0)
        if temperature <= 0:
            raise bad_state(fields, cls.method, "temperature: a positive number")
        scaling = cls()
        scaling._keep(temperature)
        return scaling

    def _keep(self, temperature: float) -> None:
        self.register_buffer("_temperature", torch.tensor(temperature, dtype=torch.float64))


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature in [0.01, 100] with the least NLL; it is a bound if the minimum is not between the bounds.

    Args:
        logits: float64, shape (N, K).
        labels: int64, shape (N,).
    """
    relative = relative_logits(logits, labels)

    def nll_falls(log_beta: float) -> bool:
        """Return True if the NLL falls with beta = 1 / T; its derivative is the mean of E_p[z] - z_label."""
        probs = (math.exp(log_beta) * logits).softmax(1)
        return bool((probs * relative).sum(1).mean() < 0)

    # The NLL is convex in beta, so that its derivative increases and has one zero. Bisection cannot miss this zero,
    # needs no learning rate, and has an error of 1e-11 after 40 halvings of log beta. If every label is predicted
    # right, the derivative can underflow to 0 at the upper end of beta; a separate test finds this case.
    low, high = -math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE)
    if not nll_falls(low):
        return MAX_TEMPERATURE
    if bool((relative <= 0).all()) or nll_falls(high):
        return MIN_TEMPERATURE
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if nll_falls(middle) else (low, middle)
    return math.exp(-(low + high) / 2)


def relative_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Subtract the logit of the label from all logits, shape (N, K)."""
    return logits - logits.gather(1, labels[:, None])


def warn_at_bound(logits: Tensor, labels: Tensor, temperatures: Sequence[float]) -> None:
    """Warn the caller of ``fit`` of temperatures at a bound, and say why the NLL has no minimum inside."""
    for bound in {MIN_TEMPERATURE, MAX_TEMPERATURE}.intersection(temperatures):
        warnings.warn(
            f"no temperature between {MIN_TEMPERATURE} and {MAX_TEMPERATURE} minimizes the NLL of these {len(logits)} "
            f"examples: {_reason(logits, labels, bound, len(temperatures))}; the fit stops at the bound {bound:g}",
            stacklevel=3,
        )


def _reason(logits: Tensor, labels: Tensor, bound: float, num_knots: int) -> str:
    relative = relative_logits(logits, labels)
    if num_knots > 1:
        return "at some robustness, all labels are predicted right, or the logits are no better than chance"
    if bound == MIN_TEMPERATURE:
        if (relative <= 0).all():
            return "every label is predicted right, so that a lower temperature is always better"
        return f"the logits differ very little (by {float((logits.amax(1) - logits.amin(1)).max()):.3g} at most)"
    if relative.mean() >= 0:
        return "the logits are no better than chance, so that a higher temperature is always better"
    return f"the logits are very large (up to {float(logits.abs().max()):.3g}), or the largest ones are wrong"
