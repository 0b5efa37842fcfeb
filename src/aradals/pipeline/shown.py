"""The examples and classes that a report shows: small records, made where inputs and predictions are at hand.

`aradals.report` never runs a model. What it can show of single examples has to be in the results: ``examples`` as
`example_images` makes it and ``classes`` as `class_rows` does, both optional.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aradals.errors import MissingExtraError
from aradals.inference.predictions import Predictions
from aradals.metrics import expected_calibration_error, wilson_interval
from aradals.metrics.noise_floor import ece_noise_floor

if TYPE_CHECKING:
    from aradals.data import Examples

MAX_PIXELS = 96
"""Larger images are made smaller: a report is to stay small."""


def example_images(
    examples: Examples, predictions: Predictions, scores: Tensor | None = None, *, count: int = 12
) -> dict[str, list[dict[str, Any]]]:
    """Choose the least robust examples, and the wrong predictions of the highest confidence, as pictures.

    Args:
        examples: images, shape (1 or 3, height, width) each; of other inputs there is no picture, and no entry.
        predictions: of N of them.
        scores: robustness of each prediction's example, shape (N,); without them there are no least robust ones.
        count: of each kind, at most.

    Returns:
        ``least_robust`` and ``most_wrongly_confident``, each a list of dicts: ``id``; ``label`` and ``predicted``
        (names of classes); ``confidence``; ``score`` (None without scores); ``png`` (base64). Empty for other inputs.

    Raises:
        MissingExtraError: without Pillow.
    """
    shape = examples.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        return {}
    confidence, predicted = predictions.probs.max(1)
    wrong = (predicted != predictions.labels).nonzero().flatten()
    chosen = {"most_wrongly_confident": wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]}
    if scores is not None:
        chosen = {"least_robust": scores.argsort(stable=True)[:count], **chosen}
    position = {example: place for place, example in enumerate(examples.ids.tolist())}
    names = [*examples.class_names, *map(str, range(examples.num_classes, predictions.logits.shape[1]))]
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, index in chosen.items():
        if not len(index):
            found[kind] = []
            continue
        _, images, _ = examples.__getitems__([position[example] for example in predictions.ids[index].tolist()])
        found[kind] = [
            {
                "id": int(predictions.ids[row]),
                "label": names[int(predictions.labels[row])],
                "predicted": names[int(predicted[row])],
                "confidence": float(confidence[row]),
                "score": None if scores is None else float(scores[row]),
                "png": png(image),
            }
            for row, image in zip(index.tolist(), images, strict=True)
        ]
    return found


def png(image: Tensor) -> str:
    """Encode an image, float in [0, 1], shape (1 or 3, height, width), as PNG in base64, with sides up to `MAX_PIXELS`.

    Raises:
        MissingExtraError: without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("Pillow", "data") from error
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    picture = Image.fromarray(values.squeeze(2).numpy() if len(image) == 1 else values.numpy())
    picture.thumbnail((MAX_PIXELS, MAX_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def class_rows(predictions: Predictions, class_names: Sequence[str], *, num_bins: int = 15) -> list[dict[str, Any]]:
    """Accuracy, confidence and ECE of the examples of each true class, in the order of the classes.

    Args:
        predictions: of N examples.
        class_names: one per class.
        num_bins: of the ECE.

    Returns:
        Dicts: ``class``, ``name``, ``n``; ``accuracy`` with its 95 % Wilson interval and ``confidence`` with a normal
        one (``_low``, ``_high``); ``ece``, ``ece_noise_floor`` and ``ece_noise_floor_p95``. Classes without examples
        are left out.
    """
    confidence, predicted = predictions.probs.max(1)
    correct = predicted == predictions.labels
    rows = []
    for label in torch.unique(predictions.labels).tolist():
        member = predictions.labels == label
        logits, n = predictions.logits[member], int(member.sum())
        low, high = wilson_interval(correct[member].sum(), torch.tensor(n))
        mean = float(confidence[member].mean())
        spread = float(confidence[member].std()) if n > 1 else math.nan
        half_width = 1.96 * spread / math.sqrt(n)
        floor = ece_noise_floor(logits=logits, num_bins=num_bins)
        rows.append(
            {
                "class": label,
                "name": class_names[label] if label < len(class_names) else str(label),
                "n": n,
                "accuracy": float(correct[member].double().mean()),
                "accuracy_low": float(low),
                "accuracy_high": float(high),
                "confidence": mean,
                "confidence_low": mean - half_width,
                "confidence_high": mean + half_width,
                "ece": expected_calibration_error(predictions.labels[member], logits=logits, num_bins=num_bins),
                "ece_noise_floor": floor.mean,
                "ece_noise_floor_p95": floor.p95,
            }
        )
    return rows
