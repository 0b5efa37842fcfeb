"""Image classifiers of transformers and their processors, as models of inputs in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import aradals
from aradals import InputError
from aradals.inference.outputs import LogitModel

transformers = pytest.importorskip("transformers")

from aradals.integrations.transformers import unnormalized  # noqa: E402

GENERATOR = np.random.default_rng(0)
IMAGES = [GENERATOR.integers(256, size=(20, 24, 3), dtype=np.uint8) for _ in range(30)]


def classifier() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 16}
    names = dict(enumerate(("cat", "dog", "owl")))
    config = transformers.ViTConfig(**sizes, num_hidden_layers=1, num_attention_heads=2, num_labels=3, id2label=names)
    model: nn.Module = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that predictions differ
    return model


def processor(**settings: Any) -> Any:
    return transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}, **settings)


def encode(settings: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    made = processor(**settings)
    return made, made(IMAGES, return_tensors="pt")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.4, 0.8]},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 50.0, 70.0]},
    ],
)
def test_the_logits_are_those_of_the_processed_images(settings: dict[str, Any]) -> None:
    made, encoded = encode(settings)
    original = classifier()
    model, inputs = unnormalized(original, encoded, made)
    plain = processor(do_normalize=False)(IMAGES, return_tensors="pt")["pixel_values"]
    assert inputs.allclose(plain, atol=1e-5)
    with torch.no_grad():
        expected = original(encoded["pixel_values"]).logits
        assert model(inputs).logits.allclose(expected, atol=1e-3 * float(expected.abs().max()))


def test_every_function_takes_the_model_and_its_inputs() -> None:
    made, encoded = encode({})
    original = classifier()
    model, inputs = unnormalized(original, encoded, made)
    with torch.no_grad():
        logits = original(encoded["pixel_values"]).logits
    labels = (logits.argmax(1) + (torch.arange(30) % 4 == 0)) % 3  # a quarter is wrong
    scores = aradals.score(model, inputs, "ddn", verified=True)
    moved = aradals.attacks.ddn(LogitModel(model), inputs).adv_inputs - inputs
    found = scores.norm.isfinite()
    assert found.sum() > 15
    assert scores.norm[found].allclose(moved[found].flatten(1).norm(dim=1), rtol=1e-3)  # between images in [0, 1]
    quiet: dict[str, Any] = {"log": lambda line: None}
    results = aradals.diagnose(model, (inputs, labels), num_subsets=2, audit=0, **quiet)
    assert results.data.class_names == ("cat", "dog", "owl")
    accuracy = float((logits.argmax(1) == labels).double().mean())
    for found_results in (results, aradals.evaluate(model, (inputs, labels), **quiet)):
        assert found_results.rows[0]["accuracy"].value == pytest.approx(accuracy)
    calibrator = aradals.calibrate(model, (inputs, labels), **quiet)
    expected = aradals.TemperatureScaling().fit(labels, logits=logits)
    torch.testing.assert_close(calibrator.predict_logits(logits), expected.predict_logits(logits), rtol=1e-3, atol=1e-3)


def test_a_model_with_its_own_inputs_needs_no_processor() -> None:
    inputs = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = classifier()
    with torch.no_grad():
        expected = model(inputs).logits
    found = aradals.predict(model, [(torch.arange(30), inputs, torch.arange(30) % 3)])
    assert found.logits.allclose(expected, atol=1e-5)
    assert torch.equal(aradals.score(model, inputs).predicted, expected.argmax(1))


def test_images_that_the_processor_did_not_make_are_refused() -> None:
    _, encoded = encode({})
    other = processor(image_mean=[0.5] * 3, image_std=[0.9] * 3)
    with pytest.raises(InputError, match="the processor that has normalized the images"):
        unnormalized(classifier(), encoded, other)
    with pytest.raises(InputError, match="pixel_values, a tensor"):
        unnormalized(classifier(), {"input_ids": torch.zeros(2, 3)}, other)
    with pytest.raises(InputError, match="an image processor"):
        unnormalized(classifier(), encoded, object())
