"""Image classifiers of transformers behind the normalization of their processor.

A processor resizes, crops and normalizes. All but the normalization stays in its hands. Two lines make a model and
inputs for all of `aradals`::

    model, inputs = unnormalized(classifier, processor(images, return_tensors="pt"), processor)
    results = aradals.diagnose(model, (inputs, labels))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from aradals.checks import ROUNDING
from aradals.errors import InputError
from aradals.integrations.loops import Prepare, ScoringBatches, take_ids
from aradals.models.preprocessing import Preprocessed, of_processor

_PIXELS = "pixel_values"


def unnormalized(model: nn.Module, encoded: Mapping[str, Any], processor: Any) -> tuple[Preprocessed, Tensor]:
    """Turn an image classifier and processed images into a model of inputs in [0, 1] and its inputs.

    The model normalizes its inputs by the constants of the processor, so that it computes the same logits as before.
    Distances are those between images with values in [0, 1], in the size that the classifier gets.

    Args:
        model: a classifier of transformers, or another model of ``pixel_values``.
        encoded: the result of ``processor(images, return_tensors="pt")``, or another mapping with ``pixel_values`` of
            shape (N, C, H, W) that were normalized in this way.
        processor: the image processor, or a processor that has one. Its mean, standard deviation and scale are read.

    Returns:
        The model, and its inputs of shape (N, C, H, W), on the CPU.

    Raises:
        InputError: the processor is no image processor, or did not make these images.
    """
    pixels = _pixels_of(encoded)
    prepared = _behind_normalization(model, processor, pixels.shape[1])
    return prepared, _in_unit_range(prepared, pixels)


def images_in_unit_range(processor: Any) -> Prepare:
    """Make the `Prepare` for batches with ``pixel_values`` that a processor has normalized."""

    def prepare(model: nn.Module, batches: Iterable[Any]) -> tuple[nn.Module, ScoringBatches]:
        taken = ((ids, _pixels_of(encoded)) for ids, encoded in map(take_ids, batches))
        first = next(taken, None)
        prepared = _behind_normalization(model, processor, 3 if first is None else first[1].shape[1])

        def scoring_batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for ids, pixels in (*filter(None, [first]), *taken):
                yield ids, _in_unit_range(prepared, pixels), ids

        return prepared, scoring_batches()

    return prepare


def _pixels_of(encoded: Mapping[str, Any]) -> Tensor:
    pixels = encoded.get(_PIXELS)
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        raise InputError(
            expected=f"{_PIXELS}, a tensor of shape (N, C, H, W)",
            got=f"{type(pixels).__name__} among {', '.join(encoded)}",
            hint='processor(images, return_tensors="pt")',
        )
    return pixels if pixels.is_floating_point() else pixels.float()


def _behind_normalization(model: nn.Module, processor: Any, num_channels: int) -> Preprocessed:
    processor = getattr(processor, "image_processor", processor)
    if not hasattr(processor, "image_mean"):
        raise InputError(
            expected="an image processor, with its mean and standard deviation",
            got=type(processor).__name__,
            hint="AutoImageProcessor.from_pretrained(...)",
        )
    # The processor has resized and cropped the images already.
    return Preprocessed(model, replace(of_processor(processor.to_dict()), resize=None, crop=None), num_channels)


def _in_unit_range(prepared: Preprocessed, pixels: Tensor) -> Tensor:
    """Undo the normalization."""
    normalize = prepared.normalize
    images = pixels.cpu().float() * normalize.std.cpu() + normalize.mean.cpu()
    low, high = (float(bound) for bound in images.aminmax())
    rounding = 2 * max(ROUNDING, torch.finfo(pixels.dtype).eps)
    if not (low >= -rounding and high <= 1 + rounding):
        raise InputError(
            expected=f"{_PIXELS} as the processor makes them ({prepared.preprocessing})",
            got=f"values from {low:.4g} to {high:.4g} after the normalization is undone",
            hint="the processor that has normalized the images, or, in the Trainer, bounds=(low, high)",
        )
    return images.clamp(0, 1)
