"""Temperature scaling: one number that softens or sharpens every prediction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from aradals.errors import InputError
from aradals.inference import check_logits
from aradals.metrics.functional import check_classes

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
"""Networks need about 0.5 to 5; at these bounds predictions are in effect one-hot or uniform."""


class TemperatureScaling:
    """Divide logits by the temperature with the least NLL on the calibration split.

    Guo et al. 2017, section 4.2. The order of the classes, and so the accuracy, does not change.

    Example:
        >>> import torch
        >>> scaling = TemperatureScaling().fit(torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
        >>> round(scaling.temperature, 4)  # three of four are right: sigmoid(4 / T) = 3/4, so T = 4 / log(3)
        3.641
    """

    def __init__(self) -> None:
        self._temperature: float | None = None

    @property
    def temperature(self) -> float:
        """The fitted temperature; above 1 softens.

        Raises:
            InputError: not fitted yet.
        """
        if self._temperature is None:
            raise InputError(
                expected="a fitted temperature",
                got="none",
                hint="fit(logits, labels) on the calibration split",
            )
        return self._temperature

    @property
    def at_bound(self) -> bool:
        """Whether the fit stopped at a bound, because the NLL has no minimum between them."""
        return self.temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE)

    def fit(self, logits: Tensor, labels: Tensor) -> Self:
        """Find the temperature with the least NLL, in [0.01, 100].

        There is none inside if every label is predicted right (the colder, the better) or if the logits say
        nothing about the labels (the warmer, the better); the fit then warns and keeps the bound.

        Args:
            logits: finite floats, shape (N, K).
            labels: integer, shape (N,), in [0, K).

        Raises:
            InputError: no examples, NaN or infinite logits, probabilities in place of logits, wrong labels.
        """
        if len(logits) == 0:
            raise InputError(expected="at least one example", got="none", hint="a larger calibration split")
        check_classes(labels, *check_logits(logits, len(logits)).shape)
        logits = logits.detach().double()
        relative = logits - logits.gather(1, labels.long().to(logits.device)[:, None])

        def nll_falls(log_beta: float) -> bool:
            """Whether the NLL falls with beta = 1 / T: its derivative is E_p[z] - z_label, averaged."""
            probs = (math.exp(log_beta) * logits).softmax(1)
            return bool((probs * relative).sum(1).mean() < 0)

        # The NLL is convex in beta, hence its derivative increasing: bisection cannot miss the one zero,
        # needs no learning rate, and its 40 halvings of log beta leave an error of 1e-11. (When no class
        # beats a label anywhere, it can underflow to 0 far out, hence the separate test.)
        low, high = -math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE)
        if not nll_falls(low):
            self._temperature = MAX_TEMPERATURE
        elif bool((relative <= 0).all()) or nll_falls(high):
            self._temperature = MIN_TEMPERATURE
        else:
            for _ in range(40):
                middle = (low + high) / 2
                low, high = (middle, high) if nll_falls(middle) else (low, middle)
            self._temperature = math.exp(-(low + high) / 2)
        if self.at_bound:
            warnings.warn(
                f"no temperature between {MIN_TEMPERATURE} and {MAX_TEMPERATURE} minimises the NLL "
                f"of these {len(logits)} examples; keeping {self._temperature}",
                stacklevel=2,
            )
        return self

    def predict_logits(self, logits: Tensor) -> Tensor:
        """``logits / temperature``, float64, same shape.

        Raises:
            InputError: not fitted; logits that are NaN, infinite, or probabilities.
        """
        return check_logits(logits, len(logits)).double() / self.temperature if len(logits) else logits.double()

    def predict_proba(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities, float64, shape (N, K). Raises as `predict_logits`."""
        return self.predict_logits(logits).softmax(1)

    def to_dict(self) -> dict[str, Any]:
        """``{"method": "temperature", "temperature": T}``, ready for JSON."""
        return {"method": "temperature", "temperature": self.temperature}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            InputError: another method, or a temperature that is not a positive number.
        """
        temperature: Any = fields.get("temperature")
        is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
        if fields.get("method") != "temperature" or not is_number or not 0 < temperature < math.inf:
            raise InputError(
                expected='{"method": "temperature", "temperature": a positive number}',
                got=str(dict(fields)),
                hint="the output of to_dict",
            )
        scaling = cls()
        scaling._temperature = float(temperature)
        return scaling
