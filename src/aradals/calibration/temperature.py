"""Temperature scaling: one number that softens or sharpens every prediction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, read_state, zero_masked


class TemperatureScaling(Calibrator):
    """Divide logits by the temperature with the least NLL on the calibration split, with a weak pull to T = 1.

    Guo et al. 2017, section 4.2. The order of the classes does not change, and so the accuracy does not change. The
    published method minimizes only the NLL, and so makes an accurate model all too sure if it makes no error on a small
    calibration split. This method has a standard normal prior on log T: it minimizes the sum of the NLL over the N
    examples plus (log T)^2 / 2. If T = 1 is right already, the fit costs less than 1/N nats per example on average.

    Attributes:
        problem: reason why only the pull has decided the temperature; empty if the examples have decided it.

    Example:
        >>> scaling = TemperatureScaling().fit([0, 0, 0, 1], logits=[[4.0, 0.0]] * 4)
        >>> round(scaling.temperature, 2)  # the NLL alone has T = 4 / log(3) = 3.64, where 3 of 4 are right
        2.21
    """

    method = "temperature"
    problem = ""
    _temperature: Tensor

    @property
    def temperature(self) -> float:
        """The fitted temperature; a temperature above 1 softens.

        Raises:
            InputError: the calibrator is not fitted.
        """
        self.check_fitted()
        return float(self._temperature)

    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        """Find the temperature with the least sum of NLL and pull.

        The NLL alone has no minimum if every label is predicted right (a lower temperature is always better), or if the
        logits have no information about the labels (a higher temperature is always better). The fit then warns that
        only the pull keeps the temperature.
        """
        self._keep(best_temperature(logits, labels), find_problem(logits, labels))
        warn_of_problem("the temperature rests on the pull to 1", self.problem)

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """``logits / temperature``; ``scores`` are ignored."""
        return logits.to(self._temperature.dtype) / self._temperature

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"method": "temperature", "temperature": T}``, and ``problem`` if there is one, ready for JSON."""
        fields = {"method": self.method, "temperature": self.temperature}
        return fields | ({"problem": self.problem} if self.problem else {})

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
        scaling._keep(temperature, str(fields.get("problem", "")))
        return scaling

    def _keep(self, temperature: float, problem: str) -> None:
        self.register_buffer("_temperature", torch.tensor(temperature, dtype=torch.float64))
        self.problem = problem


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature with the least sum of NLL and pull, (log T)^2 / 2N, from 1/e^8 to e^8 times the spread.

    The spread is the mean distance of an example's largest and smallest logit. At these bounds, predictions are
    practically one-hot or uniform.

    Args:
        logits: float64, shape (N, K); those of the labels are finite.
        labels: int64, shape (N,).
    """
    relative, num_examples = relative_logits(logits, labels), len(labels)
    finite = zero_masked(relative)

    def loss(log_beta: float) -> float:
        """Return the sum of NLL and pull at beta = 1 / T."""
        return float((math.exp(log_beta) * relative).logsumexp(1).mean()) + log_beta**2 / (2 * num_examples)

    def falls(log_beta: float) -> bool:
        """Return True if the loss falls with beta; the derivative of the NLL is the mean of E_p[z] - z_label."""
        beta = math.exp(log_beta)
        slope = ((beta * relative).softmax(1) * finite).sum(1).mean()
        return float(beta * slope) + log_beta / num_examples < 0

    # The NLL is convex in beta, but the sum can have two valleys if the logits are tiny. Steps of 1 find the lower
    # valley, and 41 bisections its bottom, with an error of 1e-12.
    spread = float((finite.amax(1) - finite.amin(1)).mean())
    center = -math.log(spread) if spread else 0.0
    start = min(range(math.floor(min(0, center - 8)), math.ceil(max(0, center + 8)) + 1), key=loss)
    low, high = start - 1.0, start + 1.0
    for _ in range(41):
        middle = (low + high) / 2
        low, high = (middle, high) if falls(middle) else (low, middle)
    return math.exp(-(low + high) / 2)


def relative_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Subtract the logit of the label from all logits, shape (N, K)."""
    return logits - logits.gather(1, labels[:, None])


def find_problem(logits: Tensor, labels: Tensor) -> str:
    """Say why the NLL alone has no minimum over the temperatures; empty if the NLL has a minimum."""
    relative = relative_logits(logits, labels)
    if (zero_masked(relative).sum(1) / (relative > -math.inf).sum(1)).mean() >= 0:
        return f"on these {len(labels)} examples, the logits are no better than chance"
    if (relative <= 0).all():
        return f"every label of these {len(labels)} examples is predicted right"
    return ""


def warn_of_problem(what: str, problem: str) -> None:
    """Warn, at the line that calls `Calibrator.fit`, that a fit rests on its pull alone; if there is such a problem."""
    if problem:
        warnings.warn(f"{what}: {problem}", stacklevel=5)
