"""The examples and classes of a report: small records, made from inputs and predictions.

`aradals.report` never runs a model, so the results contain all that it shows of single examples.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aradals._internal.optional import optional_imports
from aradals.inference.predictions import Predictions
from aradals.metrics import expected_calibration_error, wilson_interval
from aradals.metrics.noise_floor import ece_noise_floor
from aradals.results.records import ClassRow, Measure, Metric, Picture, Pictures

if TYPE_CHECKING:
    from aradals.data import Examples

MAX_PIXELS = 96
"""Larger images are made smaller, because a report should be small."""


def example_pictures(
    examples: Examples, predictions: Predictions, scores: Tensor | None = None, *, count: int = 12
) -> Pictures:
    """Picture the least robust examples, and the wrong predictions with the highest confidence.

    Args:
        examples: images, shape (1 or 3, height, width) each; other inputs have no pictures.
        predictions: predictions of N of these examples.
        scores: robustness of each prediction's example, shape (N,); if None, there are no least robust examples.
        count: largest number of pictures of each kind.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    shape = examples.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        return Pictures()
    confidence, predicted = predictions.probs.max(1)
    wrong = (predicted != predictions.labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
    least_robust = worst[:0] if scores is None else scores.argsort(stable=True)[:count]
    position = {example: place for place, example in enumerate(examples.ids.tolist())}
    names = [*examples.class_names, *map(str, range(examples.num_classes, predictions.logits.shape[1]))]

    def picture(row: int) -> Picture:
        _, [image], _ = examples.batch([position[int(predictions.ids[row])]])
        return Picture(
            id=int(predictions.ids[row]),
            label=names[int(predictions.labels[row])],
            predicted=names[int(predicted[row])],
            confidence=float(confidence[row]),
            score=None if scores is None else float(scores[row]),
            png=png(image),
        )

    return Pictures(tuple(map(picture, least_robust.tolist())), tuple(map(picture, worst.tolist())))


def png(image: Tensor) -> str:
    """Encode an image, float in [0, 1], shape (1 or 3, height, width), as PNG in base64, with sides up to `MAX_PIXELS`.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    with optional_imports():
        from PIL import Image
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    picture = Image.fromarray(values.squeeze(2).numpy() if len(image) == 1 else values.numpy())
    picture.thumbnail((MAX_PIXELS, MAX_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def class_rows(predictions: Predictions, class_names: Sequence[str], method: str) -> tuple[ClassRow, ...]:
    """Measure accuracy, confidence and ECE on the examples of each true class, in the order of the classes.

    Accuracies have Wilson's interval, and confidences a normal interval. Classes without examples are left out.

    Args:
        predictions: predictions of N examples.
        class_names: name of each class; a class without a name has its number.
        method: name of the method that predicts.
    """
    confidence, predicted = predictions.probs.max(1)
    correct = predicted == predictions.labels
    rows = []
    for label in torch.unique(predictions.labels).tolist():
        member = predictions.labels == label
        logits, n = predictions.logits[member], int(member.sum())
        low, high = wilson_interval(correct[member].sum(), torch.tensor(n))
        mean = float(confidence[member].mean())
        half_width = 1.96 * float(confidence[member].std()) / math.sqrt(n) if n > 1 else math.nan
        floor = ece_noise_floor(logits=logits)
        metrics: dict[Metric, Measure] = {
            "accuracy": Measure(float(correct[member].double().mean()), float(low), float(high)),
            "confidence": Measure(mean, mean - half_width, mean + half_width),
            "ece": Measure(expected_calibration_error(predictions.labels[member], logits=logits)),
            "ece_noise_floor": Measure(floor.mean),
            "ece_noise_floor_p95": Measure(floor.p95),
        }
        name = class_names[label] if label < len(class_names) else str(label)
        rows.append(ClassRow(method, "none", label, name, n, metrics))
    return tuple(rows)
