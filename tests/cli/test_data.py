"""Data of people on the command line: trained on without a line of code, and never judged by wrong labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest
import torch
from command_line import RECIPE, Outcome, aradals
from PIL import Image
from sklearn.datasets import load_digits

from aradals.models import load_model

DIGITS = load_digits()
IMAGES = (DIGITS.images * 15.9).astype(np.uint8)
NAMES = [f"digit {number}" for number in range(10)]
FAST = ("--attack", "logit_margin", "--audit", 0, "--json")

BUILDER = """
from aradals.models import SmallCNN
def build(num_classes):
    return SmallCNN(num_classes=num_classes, in_channels=1, width=8)
"""

MODEL = """
from aradals.models import load_model
def build():
    return load_model({!r}, in_channels=1)
"""

TABLE_MODEL = """
from torch import nn
def build(num_classes):
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, num_classes))
"""


def classes(folder: Path, rows: range, numbers: dict[int, str]) -> Path:
    """Write the digits of some classes, in folders with these names."""
    for row in rows:
        if name := numbers.get(int(DIGITS.target[row])):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(IMAGES[row]).save(folder / name / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with class folders, a model that was trained on them, and the same model without its record."""
    home = tmp_path_factory.mktemp("people")
    classes(home / "photos", range(900), dict(enumerate(NAMES)))
    classes(home / "more", range(900, 1300), dict(enumerate(NAMES)))
    (home / "tiny.yaml").write_text(RECIPE.replace("train: 200", "train: 500").replace("epochs: 6", "epochs: 12"))
    ran = aradals(
        "train", home / "tiny.yaml", "--data", home / "photos", "--method", "vanilla", "--output", home / "out"
    )
    assert ran.code == 0, ran.err
    assert "photos has no test split: 180 of 900 examples are cut off, by their content" in ran.err
    (home / "mine.py").write_text(MODEL.format(str(home / "out" / "vanilla" / "train" / "model.safetensors")))
    return home


def diagnose(home: Path, data: Path, output: Path, *more: object, model: bool = False) -> Outcome:
    checkpoint = home / "out" / "vanilla" / "train" / "model.safetensors"
    named = ("--model", f"{home / 'mine.py'}:build") if model else ("--checkpoint", checkpoint)
    return aradals("diagnose", *named, "--data", data, *FAST, "--output", output, *more)


def accuracy(ran: Outcome) -> float:
    assert ran.code == 0, ran.err
    return float(ran.results.rows[0]["accuracy"].value or 0)


def test_the_part_that_training_has_cut_off_is_judged(trained: Path, tmp_path: Path) -> None:
    judged = diagnose(trained, trained / "photos", tmp_path / "a", "--split", "test")
    assert accuracy(judged) > 0.7
    assert judged.results.checks[0].answer == judged.results.checks[1].answer == "checked"
    refused = diagnose(trained, trained / "photos", tmp_path / "b")
    assert refused.code == 2
    assert "try another --split" in refused.err


def test_three_of_ten_classes(trained: Path, tmp_path: Path) -> None:
    three = classes(tmp_path / "three", range(900, 1300), {3: NAMES[3], 5: NAMES[5], 7: NAMES[7]})
    assert accuracy(diagnose(trained, three, tmp_path / "a")) > 0.7
    refused = diagnose(trained, three, tmp_path / "b", model=True)
    assert refused.code == 2
    assert "the 10 classes of the model in three, got 3: digit 3, digit 5, digit 7; try --class-names" in refused.err
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    for names in (",".join(NAMES), tmp_path / "names.txt"):
        named = diagnose(trained, three, tmp_path / "c", "--class-names", names, model=True)
        assert accuracy(named) > 0.7
        assert {each.name for each in named.results.classes} == {"digit 3", "digit 5", "digit 7"}


def test_three_of_ten_classes_for_a_model_that_is_built_for_the_data(trained: Path, tmp_path: Path) -> None:
    three = classes(tmp_path / "three", range(900, 1300), {3: NAMES[3], 5: NAMES[5], 7: NAMES[7]})
    (tmp_path / "builder.py").write_text(BUILDER)
    weights = load_model(trained / "out" / "vanilla" / "train" / "model.safetensors", in_channels=1).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    command = ("diagnose", "--model", f"{tmp_path / 'builder.py'}:build", "--checkpoint", tmp_path / "weights.pt")
    refused = aradals(*command, "--data", three, *FAST, "--output", tmp_path / "a")
    assert refused.code == 2
    assert "number of classes" in refused.err
    named = aradals(*command, "--data", three, *FAST, "--output", tmp_path / "b", "--class-names", ",".join(NAMES))
    assert accuracy(named) > 0.7


def test_three_of_ten_classes_as_numbers(trained: Path, tmp_path: Path) -> None:
    rows = np.flatnonzero(np.isin(DIGITS.target, (3, 5, 7)))
    numbers = {3: 0, 5: 1, 7: 2}
    renumbered = np.array([numbers[label] for label in DIGITS.target[rows]])
    for name, labels, code in (("right", DIGITS.target[rows], 0), ("wrong", renumbered, 2)):
        np.savez(tmp_path / f"{name}.npz", images=IMAGES[rows], labels=labels)
        ran = diagnose(trained, tmp_path / f"{name}.npz", tmp_path / name, model=True)
        assert ran.code == code, ran.err
    assert "3 for 0, 5 for 1, 7 for 2" in ran.err


@pytest.mark.parametrize("first", [0, 5])
def test_class_folders_with_numbers_as_names(trained: Path, tmp_path: Path, first: int) -> None:
    data = classes(tmp_path / "numbers", range(900, 1300), {k: str(k + first) for k in range(10)})
    ran = diagnose(trained, data, tmp_path / "out", model=True)
    assert accuracy(ran) > 0.7
    assert ("could not be checked: the classes of numbers" in ran.err) == (first > 0)


def test_a_table_beside_images_and_a_further_level(trained: Path, tmp_path: Path) -> None:
    for row in range(900, 1300):
        path = tmp_path / "beside" / "images" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[row]).save(path)
    names = [NAMES[label] for label in DIGITS.target[900:1300]]
    frame = pd.DataFrame({"file": [f"{row}.png" for row in range(900, 1300)], "label": names})
    frame.to_csv(tmp_path / "beside" / "labels.csv", index=False)
    level = classes(tmp_path / "level" / "images", range(900, 1300), dict(enumerate(NAMES))).parent
    expected = accuracy(diagnose(trained, trained / "more", tmp_path / "more"))
    for data in (tmp_path / "beside", level):
        assert accuracy(diagnose(trained, data, tmp_path / f"{data.name}-out")) == expected
    refused = diagnose(trained, tmp_path / "beside" / "images", tmp_path / "c")
    assert refused.code == 2
    assert "in one folder for each class" in refused.err
    scored = aradals(
        *("score", "--checkpoint", trained / "out" / "vanilla" / "train" / "model.safetensors"),
        *(
            "--data",
            tmp_path / "beside" / "images",
            "--attack",
            "logit_margin",
            "--output",
            tmp_path / "scores.parquet",
        ),
    )
    assert scored.code == 0, scored.err
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 400
    judged = aradals(
        *("evaluate", "--checkpoint", trained / "out" / "vanilla" / "train" / "model.safetensors", "--json"),
        *("--data", trained / "more", "--ood", tmp_path / "beside" / "images", "--output", tmp_path / "e"),
    )
    assert judged.code == 2
    assert "expected out-of-distribution data without the examples of" in judged.err  # they are the same images
    assert not (tmp_path / "e" / "results.json").exists()


def test_a_table_of_numbers_from_training_to_diagnosis(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, 3, 600)
    values = generator.normal(kinds[:, None] * [10, -20, 0, 5], [2, 4, 1, 1]).round(3)
    frame = pd.DataFrame(values, columns=["a", "b", "c", "d"]).assign(species=np.array(["x", "y", "z"])[kinds])
    frame.to_csv(tmp_path / "flowers.csv", index=False)
    (tmp_path / "mlp.py").write_text(TABLE_MODEL)
    recipe = RECIPE.replace("model_args: {width: 8}\n", "").replace("learning_rate: 0.01", "learning_rate: 0.05")
    (tmp_path / "tiny.yaml").write_text(recipe)
    model = ("--model", f"{tmp_path / 'mlp.py'}:build", "--data", tmp_path / "flowers.csv")
    train = ("train", tmp_path / "tiny.yaml", *model, "--method", "vanilla", "--output", tmp_path / "out")
    refused = aradals(*train, "--out-of-range", "refuse")
    assert refused.code == 2
    assert "after the scaling by the training data" in refused.err
    assert refused.err.rstrip().endswith("try --out-of-range clip")
    ran = aradals(*train)
    assert ran.code == 0, ran.err
    assert "columns are scaled to [0, 1] by their ranges in the training data" in ran.err
    checkpoint = tmp_path / "out" / "vanilla" / "train" / "model.safetensors"
    judge = ("diagnose", *model, "--checkpoint", checkpoint, *FAST)
    judged = aradals(*judge, "--split", "test", "--output", tmp_path / "d")
    assert accuracy(judged) > 0.8
    assert judged.results.data.class_names == ("x", "y", "z")
    frame[["a", "b", "c", "d"]] += 0.001  # other examples, scaled as the checkpoint records it
    frame[:90].to_csv(tmp_path / "more.csv", index=False)
    more = ("--model", f"{tmp_path / 'mlp.py'}:build", "--data", tmp_path / "more.csv", "--split", "all")
    assert accuracy(aradals("diagnose", *more, "--checkpoint", checkpoint, *FAST, "--output", tmp_path / "more")) > 0.8
    unscaled = aradals("diagnose", *model, *FAST, "--output", tmp_path / "e")
    assert unscaled.code == 2
    assert "the ranges of the training data to scale by" in unscaled.err


def test_a_whole_study_of_class_folders(tmp_path: Path) -> None:
    for split, rows in (("train", range(400)), ("val", range(400, 500))):
        classes(tmp_path / "photos" / split, rows, dict(enumerate(NAMES)))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    study = ("run", tmp_path / "tiny.yaml", "--data", tmp_path / "photos", "--methods", '{"vanilla": {}}')
    ran = aradals(*study, "--resize", "12", "--training.epochs=1", "--evaluation.corruptions", "[]", "--json",
                  "--output", tmp_path / "out")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "photos has no test split: its validation split is the test split" in ran.err
    assert "resized to 12x12" in ran.err
    assert json.loads(ran.out)["data"]["splits"]["test"] == 100
