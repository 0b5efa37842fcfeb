"""Every reader of files either refuses a damaged file in one line, or reads what was written.

A file with a digest (scores, predictions, calibrators, results, checkpoints, stages, states) is read only if its
content is the original one. Mutations of values come with a digest that is right, as from somebody else's program: they
are read only as values of the right types. Data and recipes have no digest, so that other content may be read.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from aradals import evaluate
from aradals._internal.json_files import SEAL, load_sealed, settings_digest
from aradals.calibration import BatchTemperature, TemperatureScaling, load_calibrator
from aradals.data import Examples, load_data
from aradals.errors import InputError
from aradals.inference.predictions import Predictions
from aradals.models import load_checkpoint, read_description, save_checkpoint, seal_description, weights_digest
from aradals.pipeline import prediction_files
from aradals.pipeline.artifacts import (
    load_predictions,
    load_scores,
    save_calibrator,
    save_predictions,
    save_scores,
)
from aradals.pipeline.recipes import find_recipe, load_recipe
from aradals.pipeline.stage import run_stage
from aradals.pipeline.train.state import StateIO, UnusableState, _shapes
from aradals.results.files import plain, read_studies
from aradals.robustness.scores import score
from mutations import BYTES, Mutation, as_json, rearrange, retable, retype, reyaml

FOREIGN = "a checkpoint that does not say that this package has made it, so that it has no digest"

SECONDS = 60
"""Largest time for one file, far more than any needs."""


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        name: name of the file.
        write: makes the file.
        read: reads it: what it says, as values that can be compared.
        mutations: of its values.
        is_sealed: damage of its bytes must be noticed.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    mutations: tuple[Mutation, ...] = field(default=())
    is_sealed: bool = True


def examples() -> Examples:
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.rand(12, 1, 4, 4, generator=generator), torch.arange(12) % 3, num_classes=3)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def logits() -> torch.Tensor:
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(1))


# Data


def write_table(path: Path) -> None:
    from PIL import Image

    cells = []
    for number in range(6):
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), 40 * number, np.uint8)).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    parquet.write_table(pa.table({"image": cells, "label": [0, 1, 2] * 2}), path)


def write_npz(path: Path) -> None:
    images = np.random.default_rng(0).random((6, 1, 4, 4)).astype("f4")
    np.savez(path, x_test=images, y_test=np.array([0, 1, 2] * 2))


def read_data(path: Path) -> Any:
    loaded = load_data(str(path))
    _, inputs, labels = loaded.batch(range(len(loaded)))
    assert inputs.is_floating_point()
    assert 0 <= float(inputs.min()) <= float(inputs.max()) <= 1
    assert 0 <= int(labels.min()) <= int(labels.max()) < loaded.num_classes
    return None


def write_idx(path: Path) -> None:
    content = b"\0\0\x08\3" + struct.pack(">3I", 6, 4, 4) + np.random.default_rng(0).bytes(96)
    path.write_bytes(gzip.compress(content))
    (path.parent / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1" + struct.pack(">I", 6) + bytes([0, 1, 2] * 2))


def read_folder(path: Path) -> Any:
    return read_data(path.parent)


# Tables


def write_predictions(path: Path) -> None:
    save_predictions(path, Predictions(torch.arange(12), logits(), torch.arange(12) % 3), {"data": "noise"})


def write_npz_predictions(path: Path) -> None:
    np.savez(path, logits=logits().numpy(), label=np.arange(12) % 3)


def write_csv_predictions(path: Path) -> None:
    rows = ["id,y_true,logit_0,logit_1,logit_2"]
    rows += [f"{i},{i % 3},{','.join(map(str, row))}" for i, row in enumerate(logits().tolist())]
    path.write_text("\n".join(rows) + "\n")


def write_jsonl_predictions(path: Path) -> None:
    rows = [{"label": i % 3, "logits": row} for i, row in enumerate(logits().tolist())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_torch_predictions(path: Path) -> None:
    torch.save({"logits": logits(), "labels": torch.arange(12) % 3}, path)


def read_stored(path: Path) -> Any:
    given = prediction_files.read_predictions(path)
    assert not given.predictions.logits.isnan().any()
    assert (given.predictions.labels >= 0).all()
    return None


def read_predictions(path: Path) -> Any:
    predictions, _ = load_predictions(path)
    assert predictions.logits.isfinite().all()
    return [each.tolist() for each in (predictions.ids, predictions.logits, predictions.labels)]


def read_scores(path: Path) -> Any:
    table, metadata = load_scores(path)
    columns = (table.ids, table.predicted, table.score, table.margin, table.norm, table.success, table.num_forward)
    assert table.score.isfinite().all()
    return [each.tolist() for each in columns], metadata


# JSON


def write_calibrator(path: Path) -> None:
    fitted = TemperatureScaling().fit(torch.arange(12) % 3, logits=logits())
    save_calibrator(path, fitted, examples(), request="r")


def write_batch_calibrator(path: Path) -> None:
    domains = torch.arange(12) // 6
    fitted = BatchTemperature().fit(torch.arange(12) % 3, logits=logits(), domains=domains)
    save_calibrator(path, fitted, examples(), request="r")


def read_calibrator(path: Path) -> Any:
    calibrator = load_calibrator(path)
    calibrated = calibrator.predict_logits(logits())
    assert not calibrated.isnan().any()
    return calibrated.tolist(), calibrator.origin.num_classes, calibrator.origin.example_hashes.tolist()


def write_results(path: Path) -> None:
    data = (torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)
    results = evaluate(model(), data, log=lambda line: None)
    results.save(path)


def read_results(path: Path) -> Any:
    studies = read_studies(path)
    for study in studies:
        study.table()
    return [plain(study) for study in studies]


def sealed(content: bytes, chance: random.Random) -> bytes:
    """Another value in a JSON file, with a digest that is right."""
    value = json.loads(content)
    value.pop(SEAL, None)
    changed = retype(value, chance)
    try:
        digest = settings_digest(json.loads(as_json(changed)))
    except (ValueError, TypeError):
        return as_json(changed)
    return as_json({**changed, SEAL: digest} if isinstance(changed, dict) else changed)


# Recipes


def retyped_recipe(content: bytes, chance: random.Random) -> bytes:
    return yaml.safe_dump(retype(yaml.safe_load(content), chance), allow_unicode=False).encode("utf-8", "replace")


def write_recipe(path: Path) -> None:
    shutil.copyfile(find_recipe("digits"), path)


def read_recipe(path: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):  # recipes of earlier versions
        load_recipe(str(path))
    return None


# Checkpoints, stages, states


def write_checkpoint(path: Path) -> None:
    description = {"model": "small_cnn", "model_args": {"width": 4}, "num_classes": 3, "class_names": ["a", "b", "c"]}
    network = model()
    save_checkpoint(network, path, seal_description(network, description))


def read_checkpoint(path: Path) -> Any:
    network = model()
    load_checkpoint(network, path)
    description = read_description(path)
    description.arguments_for(description.model or "", {})
    if description.model is None:
        return FOREIGN
    return weights_digest(network.state_dict()), description.model, description.num_classes, description.class_names


def redescribed(content: bytes, chance: random.Random) -> bytes:
    """Another value in the description of a checkpoint."""
    from safetensors.torch import load

    with safe_open_bytes(content) as file:
        metadata = file.metadata()
    description = retype(json.loads(metadata["aradals"]), chance)
    if isinstance(description, dict):
        description.pop("sha256", None)
    return bytes(save(load(content), {**metadata, "aradals": as_json(description).decode("utf-8", "replace")}))


@contextmanager
def safe_open_bytes(content: bytes) -> Iterator[Any]:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(content)
        file.flush()
        with safe_open(file.name, framework="pt") as opened:
            yield opened


def make_stage(folder: Path) -> None:
    (folder / "numbers.txt").write_text("1 2 3")


def write_stage(path: Path) -> None:
    run_stage(path.parent, {"a": 1}, ["numbers.txt"], make_stage)


def read_stage(path: Path) -> Any:
    """The stage is done, or it is made anew; the file of the stage never says anything else."""
    (path.parent / "numbers.txt").write_text("1 2 3")
    run_stage(path.parent, {"a": 1}, ["numbers.txt"], make_stage)
    content = load_sealed(path)
    return content.get("inputs"), content["outputs"], (path.parent / "numbers.txt").read_text()


def write_state(path: Path) -> None:
    StateIO("inputs").save_checkpoint({"state_dict": model().state_dict(), "epoch": 3}, path)


def read_state(path: Path) -> Any:
    try:
        state = StateIO("inputs").load_checkpoint(path)
    except UnusableState as error:
        raise InputError(expected="a state", got=str(error), hint="training anew") from error
    return _shapes(state.get("state_dict")), state.get("epoch")


def with_digest(content: bytes, chance: random.Random) -> bytes:
    """A damaged state with a digest that is right."""
    import hashlib

    line, _, rest = content.partition(b"\n")
    rest = chance.choice(BYTES)(rest, chance)
    return line[:-64] + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


READERS = {
    "parquet data": Reader("data.parquet", write_table, read_data, (retable,), is_sealed=False),
    "npz data": Reader("data.npz", write_npz, read_data, (rearrange,), is_sealed=False),
    "idx data": Reader("idx/train-images-idx3-ubyte.gz", write_idx, read_folder, is_sealed=False),
    "predictions": Reader("predictions.parquet", write_predictions, read_predictions, (retable,)),
    "npz predictions": Reader("predictions.npz", write_npz_predictions, read_stored, (rearrange,), is_sealed=False),
    "csv predictions": Reader("predictions.csv", write_csv_predictions, read_stored, is_sealed=False),
    "jsonl predictions": Reader("predictions.jsonl", write_jsonl_predictions, read_stored, is_sealed=False),
    "torch predictions": Reader("predictions.pt", write_torch_predictions, read_stored, is_sealed=False),
    "scores": Reader(
        "scores.parquet",
        lambda path: save_scores(path, score(model(), examples().batches(), "logit_margin"), {"data": "noise"}),
        read_scores,
        (retable,),
    ),
    "calibrators": Reader("calibrator.json", write_calibrator, read_calibrator, (sealed,)),
    "batch temperatures": Reader("batch.json", write_batch_calibrator, read_calibrator, (sealed,)),
    "recipes": Reader(
        "recipe.yaml",
        write_recipe,
        read_recipe,
        (retyped_recipe, retyped_recipe, reyaml),
        is_sealed=False,
    ),
    "results": Reader("results.json", write_results, read_results, (sealed,)),
    "checkpoints": Reader("model.safetensors", write_checkpoint, read_checkpoint, (redescribed,)),
    "stages": Reader("stage/stage.json", write_stage, read_stage, (sealed,)),
    "states": Reader("resume.ckpt", write_state, read_state, (with_digest,)),
}


@contextmanager
def watched(what: str) -> Iterator[None]:
    """End a test whose file takes longer than any needs."""

    def late(*_: object) -> None:
        raise AssertionError(f"{what}: no answer in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(name: str, folder: Path, *, count: int, seed: int) -> None:
    """Read ``count`` mutations of a file."""
    reader = READERS[name]
    path = folder / reader.name
    path.parent.mkdir(exist_ok=True)
    reader.write(path)
    content, expected = path.read_bytes(), reader.read(path)
    for trial in range(count):
        chance = random.Random(f"{name} {seed} {trial}")
        mutations = BYTES if trial % 2 or not reader.mutations else reader.mutations
        mutation = chance.choice(mutations)
        changed = mutation(content, chance)
        path.write_bytes(changed)
        what = f"{name}, seed {seed}, trial {trial}: {mutation.__name__}"
        try:
            with watched(what):
                found = reader.read(path)
        except InputError as error:
            if "\n" in str(error):
                raise AssertionError(what) from error
            continue
        except Exception as error:
            (folder / "failed").write_bytes(changed)
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        if reader.is_sealed and mutations is BYTES and found != FOREIGN:
            assert found == expected, what


@pytest.mark.parametrize("name", READERS)
def test_two_hundred_files(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, count=200, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_five_thousand_files(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, count=5000, seed=int(os.environ.get("ARADALS_FUZZ_SEED", "1")))
