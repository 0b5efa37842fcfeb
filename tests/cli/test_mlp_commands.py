"""A recipe trains the multilayer perceptron on data of any shape, and commands reload it by its description."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch
from command_line import RECIPE, aradals
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits

from aradals.data import load_data
from aradals.models import MLP, load_model, read_description, save_checkpoint


def table(folder: Path) -> Path:
    data = load_breast_cancer()
    frame = pd.DataFrame(data.data, columns=list(data.feature_names)).assign(label=data.target)
    frame.to_csv(folder / "tumors.csv", index=False)
    return folder / "tumors.csv"


def photos(folder: Path) -> Path:
    digits = load_digits()
    for row, (pixels, label) in enumerate(zip(digits.images[:600], digits.target[:600], strict=True)):
        (folder / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        color = np.stack([pixels, 16 - pixels, pixels], axis=2) * 15.9
        Image.fromarray(color.astype(np.uint8)).save(folder / "photos" / str(label) / f"{row}.png")
    return folder / "photos"


@pytest.mark.parametrize(
    ("make", "shape", "least"),
    [(table, (30,), 0.9), (lambda folder: "digits", (1, 8, 8), 0.8), (photos, (3, 8, 8), 0.8)],
    ids=["table", "digits", "images"],
)
def test_a_recipe_trains_it_and_commands_reload_it(
    make: Callable[[Path], object], shape: tuple[int, ...], least: float, tmp_path: Path
) -> None:
    data = make(tmp_path)
    recipe = RECIPE.replace("small_cnn", "mlp").replace("width: 8", "hidden: [32]").replace("epochs: 6", "epochs: 20")
    (tmp_path / "mlp.yaml").write_text(recipe)
    trained = aradals(
        "train", tmp_path / "mlp.yaml", "--data", data, "--method", "ar_adals", "--output", tmp_path / "out"
    )
    assert trained.code == 0, trained.err
    checkpoint = tmp_path / "out" / "ar_adals" / "train" / "model.safetensors"
    description = read_description(checkpoint)
    assert (description.built_in_model, description.input_shape) == ("mlp", shape)
    judge = ("evaluate", "--data", data, "--split", "test", "--checkpoint", checkpoint, "--json")
    by_description = aradals(*judge, "--output", tmp_path / "a")
    assert by_description.code == 0, by_description.err
    assert (by_description.results.rows[0]["accuracy"].value or 0) > least
    named = aradals(*judge, "--output", tmp_path / "b", "--model", "mlp", "--model-args", "{hidden: [32]}")
    assert named.results.rows == by_description.results.rows
    assert load_model(checkpoint)(torch.rand(2, *shape)).shape[0] == 2


def test_a_checkpoint_without_a_description_takes_the_shape_of_the_data(tmp_path: Path) -> None:
    save_checkpoint(MLP(input_shape=(1, 8, 8), hidden=[8]), tmp_path / "plain.safetensors", {})
    command = ("score", "--data", "digits", "--limit", 20, "--checkpoint", tmp_path / "plain.safetensors")
    scored = aradals(*command, "--model", "mlp", "--model-args", "{hidden: [8]}", "--output", tmp_path / "a.parquet")
    assert scored.code == 0, scored.err
    unfit = aradals(*command, "--model", "mlp", "--output", tmp_path / "b.parquet")
    assert (unfit.code, "shape" in unfit.err) == (2, True)


def test_data_of_another_shape_than_in_training(tmp_path: Path) -> None:
    description = {"model": "mlp", "model_args": {"hidden": [8]}, "num_classes": 10, "input_shape": [3, 4, 4]}
    save_checkpoint(
        MLP(input_shape=(3, 4, 4), hidden=[8]), tmp_path / "model.safetensors", {"aradals": json.dumps(description)}
    )
    command = ("score", "--data", "digits", "--limit", 20, "--checkpoint", tmp_path / "model.safetensors")
    scored = aradals(*command, "--output", tmp_path / "a.parquet")
    assert (scored.code, "inputs of 48 values" in scored.err) == (2, True)


def test_an_exported_program_says_how_to_scale_a_table(tmp_path: Path) -> None:
    """A reader of the file alone computes the probabilities of new rows, whose values have their own units."""
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "mlp.yaml").write_text(RECIPE.replace("small_cnn", "mlp").replace("width: 8", "hidden: [8]"))
    data, out = table(tmp_path), tmp_path / "out"
    trained = aradals("train", tmp_path / "mlp.yaml", "--data", data, "--method", "vanilla", "--output", out)
    assert trained.code == 0, trained.err
    checkpoint = out / "vanilla" / "train" / "model.safetensors"
    exported = aradals("export", "--checkpoint", checkpoint, "--output", tmp_path / "model.onnx")
    assert exported.code == 0, exported.err
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    scaling = json.loads(session.get_modelmeta().custom_metadata_map["aradals"])["preparation"]["scaling"]
    values = pd.read_csv(data)[scaling["features"]].to_numpy()
    low, high = np.array(scaling["low"]), np.array(scaling["high"])
    inputs = ((values - low) / np.where(high > low, high - low, 1)).clip(0, 1).astype(np.float32)
    (found,) = session.run(["probabilities"], {"inputs": inputs})
    preparation = read_description(checkpoint).preparation
    test = load_data(str(data), "test", preparation=preparation)
    ids, expected, _ = test.batch(range(20))
    np.testing.assert_allclose(inputs[ids], expected, atol=1e-6)
    with torch.no_grad():
        logits = load_model(checkpoint).eval()(expected)
    np.testing.assert_allclose(found[ids], logits.softmax(1), atol=1e-5)
