"""The names and files that the pages of the documentation take as given, and what is true after their last block.

A function makes them in the working directory, yields the names, and goes on when all blocks have run.
"""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from aradals import CalibratedModel, load_data
from aradals.cli.main import main
from aradals.pipeline.recipes import load_recipe
from aradals.results import Variant, measure, read_results

Names = dict[str, Any]

MODEL = """
import torch

def build():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
"""


def model_and_photos() -> None:
    """Write my_model.py, weights.pt and photos/."""
    torch.manual_seed(0)
    Path("my_model.py").write_text(MODEL, encoding="utf-8")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)).state_dict(), "weights.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 60, 8, 8, 3), dtype=np.uint8)
    for name, images in zip(("bird", "cat", "dog"), pixels, strict=True):
        Path("photos", name).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(Path("photos", name, f"{index}.png"))


def a_model_in_memory() -> Names:
    """A network and examples of three classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return {"model": model, "inputs": torch.rand(200, 1, 4, 4), "labels": torch.randint(3, (200,))}


def readme() -> Iterator[Names]:
    model_and_photos()
    names = a_model_in_memory()
    yield names
    assert "What is wrong" in Path("diagnosis.html").read_text(encoding="utf-8")
    assert Path("runs/diagnosis/report.html").exists()
    assert names["loss"].requires_grad
    assert len(names["criterion"].history) == 1


def attacks() -> Iterator[Names]:
    model_and_photos()
    yield {}
    assert Path("scores.parquet").exists()


def diagnosis() -> Iterator[Names]:
    model_and_photos()
    names = a_model_in_memory()
    yield names
    assert "subset 9 (most robust)" in str(names["results"].table())
    assert "What is wrong" in Path("diagnosis.html").read_text(encoding="utf-8")


def training_loop() -> Iterator[Names]:
    torch.manual_seed(0)

    def examples(num_examples: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(10, (num_examples,))
        inputs = (0.5 + 0.3 * nn.functional.one_hot(labels, 10) + 0.17 * torch.randn(num_examples, 10)).clamp(0, 1)
        return inputs, labels

    train, validation = examples(400), examples(200)
    vanilla, model = (nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 10)) for _ in range(2))
    fitted = torch.optim.Adam(vanilla.parameters(), lr=0.01)
    for _ in range(100):
        loss = nn.functional.cross_entropy(vanilla(train[0]), train[1])
        fitted.zero_grad()
        loss.backward()
        fitted.step()
    names: Names = {
        "train": train,
        "validation": validation,
        "vanilla": vanilla,
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.01),
        "num_epochs": 30,
    }
    yield names
    criterion = names["criterion"]
    assert len(criterion.history) == 30
    # Memorized noise is over-confident on validation data, and most of all where it is least robust.
    assert criterion.target_prob[0] < criterion.target_prob[-1]
    assert criterion.target_prob[0] < 0.99
    assert (model(train[0]).argmax(1) == train[1]).float().mean() > 0.5


def extending() -> Iterator[Names]:
    yield {}
    results = read_results("runs/poly")
    assert {row.method for row in results.rows} == {"vanilla", "poly", "poly_ensemble"}
    vanilla, poly = (measure(results, Variant(method), "confidence") for method in ("vanilla", "poly"))
    assert poly.value > vanilla.value  # it pulls harder towards the label


def files() -> Iterator[Names]:
    yield {"config": load_recipe("digits", {"training.epochs": "2"}), "Path": Path}
    assert Path("runs/mine").exists()


def metrics() -> Iterator[Names]:
    logits = torch.randn(200, 3)
    yield {"labels": torch.randint(3, (200,)), "logits": logits, "probs": logits.softmax(1)}


def models() -> Iterator[Names]:
    torch.manual_seed(0)
    transformers: Any = importlib.import_module("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ids = torch.randint(3, 30, (24, 7))
    photos = np.random.default_rng(0).integers(0, 256, (24, 9, 9, 3), dtype=np.uint8)
    names: Names = {
        "image_classifier": transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, initializer_range=1.0, **sizes)
        ).eval(),
        "processor": transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}),
        "images": [Image.fromarray(photo) for photo in photos],
        "text_classifier": transformers.BertForSequenceClassification(
            transformers.BertConfig(vocab_size=30, num_labels=3, **sizes)
        ).eval(),
        "tokenizer": lambda texts, **settings: {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        "texts": ["a text"] * 24,
        "labels": torch.arange(24) % 3,
    }
    for parameter in names["image_classifier"].parameters():
        parameter.data.mul_(8)  # so that predictions differ
    yield names
    assert len(names["results"].rows) > 10


def predictions() -> Iterator[Names]:
    link_study("mine")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    inputs, labels = torch.rand(200, 1, 2, 2), torch.randint(3, (200,))
    with torch.no_grad():
        probs = (5 * model(inputs)).softmax(1).numpy()
    given = {"labels": labels.numpy(), "probs": probs, "new_labels": labels.tolist(), "new_probs": probs.tolist()}
    names: Names = {**given, "model": model, "inputs": inputs}
    yield names
    exported = torch.export.load("calibrated.pt2").module()
    with torch.no_grad():
        assert exported(inputs[:7]).exp().numpy() == pytest.approx(names["probs"][:7].detach().numpy(), abs=1e-6)
    calibrated = names["calibrated"]
    assert isinstance(calibrated, CalibratedModel)
    _, digits, _ = load_data("digits", "test").batch(range(5))
    assert calibrated(digits).exp().sum(1).detach().numpy() == pytest.approx(1, abs=1e-5)


def report() -> Iterator[Names]:
    link_study("cifar10-small")
    link_study("demo")
    yield {}
    assert Path("subsets.pdf").stat().st_size > 5000


def shift() -> Iterator[Names]:
    names: Names = {}
    yield names
    assert Path("batch.json").exists()
    assert str(names["calm"]).startswith("predictions 0 to 499: no drift")
    assert "covariate shift" in str(names["dull"])
    assert "class mix changed" in str(names["other_mix"])


@functools.cache
def small_study() -> Path:
    """The folder of the study `digits`, with few epochs."""
    folder = Path(tempfile.mkdtemp()) / "digits"
    short = ["--training.epochs=3", "--seeds=0", "--evaluation.num_resamples=20", "--workers=1"]
    assert main(["run", "digits", *short, "--output", str(folder)]) == 0
    return folder


def link_study(name: str) -> None:
    Path("runs").mkdir(exist_ok=True)
    Path("runs", name).symlink_to(small_study())


GIVEN: dict[str, Callable[[], Iterator[Names]]] = {
    "README.md": readme,
    "docs/diagnosis.md": diagnosis,
    "docs/attacks.md": attacks,
    "docs/extending.md": extending,
    "docs/files.md": files,
    "docs/metrics.md": metrics,
    "docs/models.md": models,
    "docs/predictions.md": predictions,
    "docs/report.md": report,
    "docs/shift.md": shift,
    "docs/training-loop.md": training_loop,
}
