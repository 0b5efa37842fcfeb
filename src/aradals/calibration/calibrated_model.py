"""A model and its calibrator as one module."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from aradals.attacks import first_order_margin
from aradals.calibration.base import Calibrator
from aradals.errors import InputError
from aradals.inference.batches import InputBatches
from aradals.inference.outputs import find_logits
from aradals.robustness.scores import score


class CalibratedModel(nn.Module):
    """Module from inputs in [0, 1] to calibrated log-probabilities, shape (N, K).

    The result has the precision of the model's logits. Log-probabilities are logits, whose softmax is calibrated. So
    the module works wherever a model does, as in `aradals.evaluate`, `aradals.diagnose` and `aradals.score`, in losses
    and in serving code. Their exponentials are the probabilities.

    The calibrator's numbers are buffers: they move between devices with the model and are part of ``state_dict``. The
    calibrator computes in their precision, which is float64 also in a model that is cast to half precision, and float32
    on a device without float64.

    If the calibrator depends on the first-order margin, the margin is computed with gradients enabled, even within
    ``torch.no_grad()``. This costs one more forward and a backward pass; gradients do not flow through the margin.
    With any other calibrator, the module needs only a forward pass, and ``torch.export`` accepts it.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K). The model is not copied.
        calibrator: a fitted calibrator of `CALIBRATORS`, which is copied.

    Raises:
        InputError: the calibrator is not fitted, or not in `CALIBRATORS`.

    Example:
        >>> import torch
        >>> from aradals.calibration import TemperatureScaling
        >>> scaling = TemperatureScaling.from_dict({"method": "temperature", "temperature": 2.0})
        >>> CalibratedModel(torch.nn.Identity(), scaling)(torch.tensor([[0.0, 1.0]])).exp()
        tensor([[0.3775, 0.6225]])
    """

    def __init__(self, model: nn.Module, calibrator: Calibrator) -> None:
        super().__init__()
        if not isinstance(calibrator, Calibrator):
            raise InputError(
                expected="a calibrator of aradals.calibration.CALIBRATORS",
                got=type(calibrator).__name__,
                hint="get_calibrator(name).fit(labels, logits=logits)",
            )
        calibrator.check_fitted()
        self.model = model
        self.calibrator = copy.deepcopy(calibrator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute calibrated log-probabilities, shape (N, K).

        Raises:
            InputError: inputs are outside [0, 1], and the calibrator needs the first-order margin.
        """
        logits: Tensor = find_logits(self.model(inputs), inputs.shape[0])
        scores = None
        if self.calibrator.score == "first_order_margin":
            scores = first_order_margin(self.model, inputs).score
        calibrated: Tensor = self.calibrator(logits, scores)
        return calibrated.log_softmax(1).to(logits.dtype)


class LogProbabilities(nn.Module):
    """Module from inputs in [0, 1] to float32 log-probabilities, shape (N, K); calibrated if there is a calibrator."""

    def __init__(self, model: nn.Module, calibrator: Calibrator | None) -> None:
        super().__init__()
        self.calibrated = model if calibrator is None else CalibratedModel(model, calibrator)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute log-probabilities, shape (N, K)."""
        log_probs: Tensor = self.calibrated(inputs).log_softmax(1).float()
        return log_probs


def scores_for(calibrator: Calibrator, model: nn.Module, batches: InputBatches, ids: Tensor) -> Tensor | None:
    """Compute the robustness scores that ``calibrator`` needs, float, shape (N,); None if it needs none.

    Args:
        calibrator: fitted or not.
        model: maps inputs in [0, 1] to logits of shape (N, K).
        batches: see `aradals.robustness.scores.score`.
        ids: ids of the examples in the order of the result, shape (N,); ``batches`` contain all of them.

    Raises:
        InputError: see `aradals.robustness.scores.score`.
    """
    if calibrator.score in (None, "logit_margin"):
        return None
    return score(model, batches, calibrator.score).for_ids(ids).score
