from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from aradals.data import Examples
from aradals.inference.predictions import Predictions
from aradals.pipeline.shown import MAX_PIXELS, class_rows, example_pictures, png
from aradals.results.records import Pictures, Variant


def make_data(shape: tuple[int, ...] = (3, 8, 8), n: int = 20) -> tuple[Examples, Predictions]:
    """Image k is uniform of value 10 k, its id 100 + k; every third prediction is wrong, and surer with k."""
    inputs = (10 * torch.arange(n)).to(torch.uint8).reshape(n, *[1] * len(shape)).expand(n, *shape).clone()
    labels = torch.arange(n) % 2
    predicted = torch.where(torch.arange(n) % 3 == 0, 1 - labels, labels)
    logits = torch.nn.functional.one_hot(predicted, 2) * (0.1 + 0.2 * torch.arange(n))[:, None]
    ids = 100 + torch.arange(n)
    examples = Examples(inputs, labels, num_classes=2, class_names=["cat", "dog"], ids=ids)
    return examples, Predictions(ids, logits, labels)


def decoded(picture: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture)))


def test_least_robust_and_most_wrongly_confident_come_first() -> None:
    examples, predictions = make_data()
    found = example_pictures(examples, predictions, torch.arange(20.0).flip(0), count=3)
    assert [picture.id for picture in found.least_robust] == [119, 118, 117]
    assert [picture.score for picture in found.least_robust] == [0, 1, 2]
    wrong = found.most_wrongly_confident
    assert [picture.id for picture in wrong] == [118, 115, 112]
    assert [(picture.label, picture.predicted) for picture in wrong[:2]] == [("cat", "dog"), ("dog", "cat")]
    assert wrong[0].confidence == pytest.approx(1 / (1 + np.exp(-3.7)))
    pixels = np.asarray(decoded(wrong[0].png))
    assert pixels.shape == (8, 8, 3)
    assert (pixels == 180).all()


def test_images_are_found_by_id() -> None:
    examples, predictions = make_data()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = example_pictures(examples.select(order), predictions, count=2)
    assert shuffled == example_pictures(examples, predictions, count=2)
    assert shuffled.least_robust == ()


def test_gray_and_large_images_and_other_inputs() -> None:
    examples, predictions = make_data((1, 30, 200))
    picture = decoded(example_pictures(examples, predictions, count=1).most_wrongly_confident[0].png)
    assert (picture.mode, picture.size[0]) == ("L", MAX_PIXELS)
    assert example_pictures(*make_data((7,))) == Pictures()
    assert example_pictures(*make_data((4, 8, 8))) == Pictures()


def test_no_wrong_prediction_no_picture() -> None:
    examples, predictions = make_data()
    right = Predictions(predictions.ids, torch.nn.functional.one_hot(predictions.labels, 2) * 3.0, predictions.labels)
    assert example_pictures(examples, right).most_wrongly_confident == ()


def test_png_rounds_to_the_nearest_byte() -> None:
    image = torch.tensor([0.0, 0.501, 1.0]).reshape(1, 1, 3)
    assert np.asarray(decoded(png(image))).tolist() == [[0, 128, 255]]


def test_rows_of_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.zeros(40), torch.full((60,), 2)]).long()
    logits = 2 * torch.randn(100, 3, generator=generator)
    first, second = class_rows(Predictions(torch.arange(100), logits, labels), ["a", "b"], "net")
    assert [(row.label, row.name, row.n) for row in (first, second)] == [(0, "a", 40), (2, "2", 60)]
    assert {row.variant for row in (first, second)} == {Variant("net")}
    accuracy, mean = first["accuracy"], first["confidence"]
    confidence, predicted = logits[:40].double().softmax(1).max(1)
    assert accuracy.value == pytest.approx((predicted == 0).double().mean().item())
    assert accuracy.low < accuracy.value < accuracy.high
    assert mean.value == pytest.approx(confidence.mean().item())
    half_width = 1.96 * confidence.std().item() / 40**0.5
    assert mean.high - mean.value == mean.value - mean.low == pytest.approx(half_width)
    assert 0 < first["ece_noise_floor"].value < first["ece_noise_floor_p95"].value
    assert 0 < first["ece"].value <= 1
