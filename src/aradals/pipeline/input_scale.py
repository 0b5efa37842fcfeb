"""A warning for a model that expects its inputs on another scale than the data, which no error would show."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aradals.data import Examples
from aradals.errors import InputError
from aradals.inference.predictions import Batch, predict
from aradals.models.preprocessing import CONSTANTS, Preprocessed, Preprocessing

_SCALES = {
    "--mean imagenet": Preprocessing(*CONSTANTS["imagenet"]),
    "--bounds=-1,1": Preprocessing(bounds=(-1.0, 1.0)),
    "--bounds 0,255": Preprocessing(bounds=(0.0, 255.0)),
}
_SIGNIFICANT, _MIN_GAIN = 3.0, 0.05


def warn_of_scale(model: nn.Module, examples: Examples, log: Callable[[str], None]) -> None:
    """Log a warning if a model is right much more often for inputs on another common scale, by McNemar's test.

    The mean recall of the classes has to be higher, too, because a constant prediction is often right for the most
    frequent class.

    Args:
        model: maps images in [0, 1], shape (N, C, H, W), to logits; other inputs are not tried.
        examples: data with labels, of which as many as a batch has are tried, spread over all.
        log: called with the warning.
    """
    if len(examples.input_shape) != 3 or not examples.is_labeled:
        return
    size = min(len(examples), examples.batches().batch_size or 1)
    batch = examples.batch(torch.linspace(0, len(examples) - 1, size).long())
    before, labels, gains = _right(model, batch), batch[2], {}
    for option, scale in _SCALES.items():
        try:
            after = _right(Preprocessed(model, scale, examples.input_shape[0]), batch)
        except InputError:  # the constants are for three channels, or the outputs are not finite
            continue
        won, lost = int((after & ~before).sum()), int((before & ~after).sum())
        if (
            won - lost > _SIGNIFICANT * (won + lost) ** 0.5
            and _recall(after, labels) > _recall(before, labels) + _MIN_GAIN
        ):
            gains[option] = int(after.sum())
    if gains:
        best = max(gains, key=lambda option: gains[option])
        right = f"right for {int(before.sum())} of {size} examples, and with {best} for {gains[best]}"
        log(f"warning: the model is {right}; it may expect inputs on this scale")


def _right(model: nn.Module, batch: Batch) -> Tensor:
    return predict(model, [batch]).logits.argmax(1) == batch[2]


def _recall(right: Tensor, labels: Tensor) -> float:
    """Compute the mean over classes of the share of their examples for which the model is right."""
    return float(torch.stack([right[labels == label].double().mean() for label in labels.unique()]).mean())
