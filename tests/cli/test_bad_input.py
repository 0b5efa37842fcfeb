"""Bad input gets one clear line (expected, got, try), exit code 2 and no traceback, before any training starts."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from command_line import RECIPE, Study, aradals, run_once
from PIL import Image

from aradals.data import load_data
from aradals.models import build_model


class Exploit:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@dataclass(frozen=True)
class World:
    """A finished study, and files that something is wrong with."""

    study: Study
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def model(self) -> list[object]:
        """A good model with good data."""
        return ["--checkpoint", self.study.checkpoint, "--data", "digits", "--limit", 100]

    def recipe(self, old: str, new: str) -> list[object]:
        """A study whose recipe has one piece of text replaced."""
        assert RECIPE.count(old) == 1
        return self.recipe_of(RECIPE.replace(old, new))

    def recipe_of(self, text: str) -> list[object]:
        (self.folder / "bad.yaml").write_text(text)
        return ["run", self.folder / "bad.yaml", "--output", self.out]

    def run(self, *options: object) -> list[object]:
        """The good study with further options."""
        return ["run", self.study.recipe, "--output", self.out, *options]

    def diagnose(self, *options: object) -> list[object]:
        return ["diagnose", "--output", self.out, *options]

    def evaluate(self, *options: object) -> list[object]:
        return ["evaluate", "--output", self.out, *self.model, *options]

    def checkpoint(self, name: str, content: object) -> list[object]:
        """A diagnosis with a checkpoint of this content: bytes, or what torch.save takes."""
        path = self.folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        model = ["--model", "small_cnn", "--model_args", "{width: 8}", "--data", "digits", "--limit", 100]
        return self.diagnose(*model, "--checkpoint", path)

    def python(self, source: str) -> list[object]:
        """A diagnosis of the model in a file of this source."""
        (self.folder / "model.py").write_text(source)
        return self.diagnose("--model", f"{self.folder / 'model.py'}:build", "--data", "digits", "--limit", 100)

    def arrays(self, **arrays: np.ndarray) -> Path:
        path = self.folder / "arrays.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes its other argument for one of them
        return path

    def labeled(self, *labels: int) -> list[object]:
        """A diagnosis on data with these labels."""
        inputs = np.zeros((len(labels), 1, 8, 8), np.float32)
        data = self.arrays(inputs=inputs, labels=np.array(labels))
        return self.diagnose("--checkpoint", self.study.checkpoint, "--data", data, "--num-subsets", 1)

    def predicted(self, **arrays: np.ndarray) -> list[object]:
        """A diagnosis of stored predictions."""
        return self.diagnose("--predictions", self.arrays(**arrays))

    def export(self, name: str, *options: object) -> list[object]:
        """An export of the good model to a file of this name; later options count."""
        return ["export", "--checkpoint", self.study.checkpoint, "--output", self.folder / name, *options]

    def watched(self, *options: object) -> list[object]:
        """A monitor with a good calibrator."""
        path = self.folder / "batch.json"
        fit = ["calibrate", *self.model, "--limit", 400, "--method", "batch_temperature", "--output", path]
        assert aradals(*fit).code == 0
        return ["monitor", "--calibrator", path, *options]

    def file(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content)
        return path

    def scores(self, split: str) -> Path:
        return self.study.folder / "seed-0" / "scores" / split / "scores.parquet"

    def calibrator(self) -> Path:
        """Fitted on a part of the test split."""
        path = self.folder / "calibrator.json"
        assert aradals("calibrate", *self.model, "--output", path).code == 0
        return path

    def train_as_test(self) -> Path:
        """Data whose two splits are the same."""
        train = load_data("digits", "train")
        (_, inputs, labels), *_ = train.batches(len(train))
        return self.arrays(x_train=inputs.numpy(), y_train=labels.numpy(), x_test=inputs.numpy(), y_test=labels.numpy())

    def table(self) -> Path:
        """Images in parquet, beside columns that are none."""
        path = self.folder / "images.parquet"
        images = [_png(np.zeros((8, 8), np.uint8))] * 12
        numbers = list(range(12))
        parquet.write_table(
            pyarrow.table({"picture": images, "label": [0] * 12, "weight": [0.5] * 12, "row": numbers}), path
        )
        return path


def _png(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "png")
    return written.getvalue()


@pytest.fixture
def world(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(run_once(tmp_path_factory.getbasetemp() / "tiny-study"), tmp_path)


def refused(arguments: list[object], says: str) -> str:
    """The one line on stderr."""
    ran = aradals(*arguments)
    assert ran.code == 2, ran
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("error: expected ")
    got = line.partition(", got ")[2]
    assert got.rpartition("; try ")[0]
    assert got.rpartition("; try ")[2]
    assert "Traceback" not in line
    assert says in got, line
    return line


NORMAL = np.random.default_rng(0).normal(size=(20, 3))
LABELS = np.zeros(20, np.int64)
STATE = build_model("small_cnn", num_classes=10, in_channels=1, width=4).state_dict()

# what is wrong -> (the arguments, what the line has to mention after "got")
CASES: dict[str, tuple[Callable[[World], list[object]], str]] = {
    # Commands and options
    "unknown command": (lambda w: ["diagnoze"], "aradals --help"),
    "misspelt option": (lambda w: w.diagnose("--modle", "x"), "try --model"),
    "option without its value": (lambda w: w.run("--device"), "expected one argument"),
    "no output": (lambda w: ["run", w.study.recipe], "aradals run demo --output"),
    "a word too many": (lambda w: w.run("digits"), "'digits'"),
    "limit that is no number": (lambda w: w.diagnose("--limit", "ten"), "ten"),
    "severity that is no number": (lambda w: w.evaluate("--severities", "high"), "high"),
    "no data": (lambda w: w.diagnose("--checkpoint", w.study.checkpoint), "--data cifar10"),
    "no model": (lambda w: w.diagnose("--data", "digits"), "--model"),
    "unknown device": (lambda w: w.run("--device", "tpu"), "tpu"),
    "unknown device of diagnose": (lambda w: w.diagnose(*w.model, "--device", "tpu"), "tpu"),
    # Recipes
    "no recipe": (lambda w: ["run", "--output", w.out], "aradals run demo"),
    "missing recipe": (lambda w: ["run", "nosuch", "--output", w.out], "nosuch"),
    "recipe to show that is missing": (lambda w: ["recipes", "show", "nosuch"], "nosuch"),
    "no recipe to copy": (lambda w: ["recipes", "copy"], "none"),
    "nothing that can be done to a recipe": (lambda w: ["recipes", "bake", "digits"], "'bake'"),
    "broken YAML": (lambda w: w.recipe_of("data: [digits\nmodel: x: y"), "line 1"),
    "empty recipe": (lambda w: w.recipe_of(""), "an empty file"),
    "recipe without keys": (lambda w: w.recipe_of("just words"), "just words"),
    "recipe without data": (lambda w: w.recipe("data: digits\n", ""), "none"),
    "misspelt key": (lambda w: w.recipe("epochs:", "epoch:"), "try training.epochs"),
    "misspelt group": (lambda w: w.recipe("methods:", "method:"), "try methods"),
    "key that is nothing like any": (lambda w: w.recipe("data:", "zzz: 1\ndata:"), "'zzz'"),
    "misspelt setting of a method": (
        lambda w: w.recipe("rule: {rate:", "rule: {rates:"),
        "try methods.ar_adals.targets.rule.rate",
    ),
    "misspelt override": (lambda w: w.run("--training.epoch=3"), "try --training.epochs"),
    "misspelt override of a method": (
        lambda w: w.run("--methods.ar_adals.targets.subsets.cuont=2"),
        "try --methods.ar_adals.targets.subsets.count",
    ),
    "override in the form of an earlier version": (
        lambda w: w.run("--methods.ar_adals.num_subsets=2"),
        "targets, choose",
    ),
    "override of a misspelt method": (lambda w: w.run("--methods.ar_adal.consistency=2"), "--methods.ar_adals"),
    "wrong type": (lambda w: w.recipe("epochs: 6", "epochs: many"), "many"),
    "wrong type in an override": (lambda w: w.run("--training.epochs=many"), "many"),
    "wrong type in a method": (lambda w: w.recipe("rate: auto", "rate: fast"), "fast"),
    "no list": (lambda w: w.run("--seeds={a: 1}"), "{'a': 1}"),
    "method without settings": (lambda w: w.recipe("vanilla: {}", "vanilla:"), "None"),
    "unknown method to train": (
        lambda w: ["train", w.study.recipe, "--method", "mixup", "--output", w.out],
        "'mixup'",
    ),
    "method that cannot be a folder": (lambda w: w.recipe("vanilla: {}", "../up: {}"), "'../up'"),
    "method named as a folder of the study": (lambda w: w.recipe("vanilla: {}", "scores: {}"), "'scores'"),
    "no method": (lambda w: w.run("--methods={}"), "0"),
    "no seed": (lambda w: w.run("--seeds=[]"), "0"),
    "a seed twice": (lambda w: w.run("--seeds=[1,1]"), "[1, 1]"),
    "no epochs": (lambda w: w.run("--training.epochs=0"), "0"),
    "no learning": (lambda w: w.run("--training.learning_rate=0"), "0"),
    "no batch": (lambda w: w.run("--training.batch_size=-1"), "-1"),
    "unknown optimizer": (lambda w: w.run("--training.optimizer=lion"), "lion"),
    "unknown precision": (lambda w: w.run("--training.precision=11"), "11"),
    "never updated": (lambda w: w.run("--methods.ar_adals.targets.update_every=0"), "0"),
    "scored at every no epoch": (lambda w: w.run("--methods.ar_adals.targets.subsets={every: 0}"), "0"),
    "scored too late": (lambda w: w.run("--methods.ar_adals.targets.subsets={every: 5}"), "every=5"),
    "scored for one subset": (
        lambda w: w.run("--methods.ar_adals.targets.subsets={by: self, every: 2, count: 1}"),
        "no subsets for a single target",
    ),
    "impossible target": (lambda w: w.run("--methods.vanilla.targets.smoothing=1.5"), "1.5"),
    "unknown calibrator": (lambda w: w.run("--calibrators=[platt]"), "'platt'"),
    "no calibration split": (lambda w: w.run("--splits.calibration=0"), "0"),
    "no validation split": (lambda w: w.run("--splits.validation=0"), "0"),
    "splits larger than the data": (lambda w: w.run("--splits.train=5000"), "5000"),
    "split smaller than R": (lambda w: w.run("--methods.ar_adals.targets.subsets.count=61"), "61"),
    "test split smaller than R": (lambda w: w.run("--evaluation.num_subsets=801"), "801"),
    "diagnosis of fewer than R": (lambda w: w.diagnose(*w.model, "--limit", 5), "10"),
    "predictions of fewer than R": (
        lambda w: [*w.predicted(logits=NORMAL, label=LABELS), "--scores", w.scores("test"), "--num-subsets", 21],
        "21",
    ),
    # Models
    "unknown model in a recipe": (lambda w: w.recipe("small_cnn", "smal_cnn"), "try small_cnn"),
    "unknown model": (lambda w: w.diagnose("--model", "resnet21x", "--data", "digits"), "'resnet21x'"),
    "depth that no ResNet has": (lambda w: w.diagnose("--model", "resnet21", "--data", "digits"), "21"),
    "unknown argument of the model": (lambda w: w.recipe("width: 8", "widht: 8"), "try width"),
    "argument of the wrong type": (lambda w: w.recipe("width: 8", "width: wide"), "TypeError"),
    "file without the callable": (lambda w: w.python("def biuld():\n    pass"), "try biuld"),
    "missing file": (lambda w: w.diagnose("--model", "nosuch.py:build", "--data", "digits"), "nosuch.py"),
    "file without a name in it": (lambda w: w.diagnose("--model", "nosuch.py", "--data", "digits"), "nosuch.py:name"),
    "missing package": (lambda w: w.diagnose("--model", "no.such:build", "--data", "digits"), "ModuleNotFoundError"),
    "syntax error": (lambda w: w.python("def build(:\n"), "SyntaxError"),
    "exception on import": (lambda w: w.python("raise RuntimeError('no\\nluck')"), "RuntimeError: no luck"),
    "exit on import": (lambda w: w.python("import sys\nsys.exit(3)"), "its call of sys.exit(3)"),
    "missing import": (lambda w: w.python("import nosuchpackage"), "nosuchpackage"),
    "exception in the callable": (lambda w: w.python("def build():\n    return {}['fc']"), "KeyError"),
    "no module": (lambda w: w.python("def build():\n    return 3"), "int"),
    "three channels for gray images": (
        lambda w: w.diagnose("--model", "resnet20", "--model_args", "{in_channels: 3}", "--data", "digits"),
        "channels",
    ),
    # Checkpoints
    "missing checkpoint": (lambda w: w.diagnose(*w.model, "--checkpoint", "nosuch.pt"), "nosuch.pt"),
    "garbage as torch file": (lambda w: w.checkpoint("garbage.pt", b"garbage" * 50), "garbage.pt"),
    "garbage as safetensors": (lambda w: w.checkpoint("garbage.safetensors", b"garbage" * 50), "garbage.safetensors"),
    "empty checkpoint": (lambda w: w.checkpoint("empty.pt", b""), "empty.pt"),
    "truncated safetensors": (
        lambda w: w.checkpoint("half.safetensors", w.study.checkpoint.read_bytes()[:-1000]),
        "half.safetensors",
    ),
    "weights of another width": (lambda w: w.checkpoint("narrow.pt", STATE), "shape"),
    "weights of another network": (lambda w: w.checkpoint("other.pt", {"fc.weight": torch.ones(1)}), "fc.weight"),
    "no weights": (lambda w: w.checkpoint("list.pt", [1, 2]), "list"),
    "checkpoint of a study for another model": (
        lambda w: w.diagnose("--model", "resnet20", *w.model),
        "without",
    ),
    "scoring checkpoint that is missing": (lambda w: w.run("--scoring.checkpoint=nosuch.pt"), "nosuch.pt"),
    "scoring checkpoint that does not fit": (
        lambda w: w.run(f"--scoring.checkpoint={w.study.checkpoint}", "--model_args={width: 4}"),
        "shape",
    ),
    # Data
    "unknown data": (lambda w: w.diagnose(*w.model, "--data", "nosuch.npz"), "nosuch.npz"),
    "unknown data in a recipe": (lambda w: w.run("--data=nosuch.parquet"), "nosuch.parquet"),
    "unknown split": (lambda w: w.diagnose(*w.model, "--split", "dev"), "--split train or test"),
    "label too large for the model": (lambda w: w.labeled(0, 12), "12"),
    "negative label": (lambda w: w.labeled(0, -1), "-1"),
    "image column that is none": (
        lambda w: w.diagnose(*w.model, "--data", w.table(), "--image-column", "weight"),
        "try picture",
    ),
    "image column that is missing": (
        lambda w: w.diagnose(*w.model, "--data", w.table(), "--image-column", "image"),
        "picture, label, weight, row",
    ),
    "label column that is none": (
        lambda w: w.diagnose(*w.model, "--data", w.table(), "--label-column", "weight"),
        "label or row",
    ),
    "columns of data that has none": (lambda w: w.diagnose(*w.model, "--image-column", "x"), "without these options"),
    "inputs beyond 1": (
        lambda w: w.diagnose(
            *w.model, "--data", w.arrays(inputs=np.full((20, 1, 8, 8), 255.0), labels=LABELS), "--num-subsets", 2
        ),
        "255",
    ),
    # Attacks and corruptions
    "unknown attack": (lambda w: w.diagnose(*w.model, "--attack", "deepfol"), "deepfool"),
    "unknown attack in a recipe": (lambda w: w.run("--scoring.attack=deepfol"), "deepfool"),
    "unknown argument of the attack": (lambda w: w.diagnose(*w.model, "--attack_args", "{stes: 3}"), "steps"),
    "attack without steps": (lambda w: w.diagnose(*w.model, "--attack_args", "{steps: 0}"), "steps=0"),
    "steps in words": (lambda w: w.recipe("steps: 10", "steps: ten"), "ten"),
    "folder as a table": (lambda w: ["score", *w.model, "--output", w.folder], "scores.parquet"),
    "attack of score": (lambda w: ["score", *w.model, "--attack", "x", "--output", w.folder / "s.parquet"], "'x'"),
    "unknown corruption": (lambda w: w.evaluate("--corruptions", "fog_noise"), "gaussian_noise"),
    "unknown corruption in a recipe": (lambda w: w.run("--evaluation.corruptions=[mist]"), "'mist'"),
    "severity 6": (lambda w: w.evaluate("--corruptions", "contrast", "--severities", "1,6"), "6"),
    "severity 0 in a recipe": (lambda w: w.run("--evaluation.severities=[0]"), "0"),
    "corruption of a table": (
        lambda w: w.evaluate(
            "--data", w.arrays(inputs=np.zeros((20, 7), np.float32), labels=LABELS), "--corruptions", "contrast"
        ),
        "shape",
    ),
    # Files between the stages
    "predictions beside a model": (
        lambda w: w.predicted(logits=np.eye(4), label=np.arange(4)) + w.model,
        "one of them",
    ),
    "predictions to be corrupted": (
        lambda w: ["evaluate", *w.predicted(logits=np.eye(4), label=np.arange(4))[1:], "--corruptions", "contrast"],
        "also --corruptions",
    ),
    "missing predictions": (lambda w: w.diagnose("--predictions", w.folder / "p.parquet"), "no such file"),
    "garbage as predictions": (
        lambda w: w.diagnose("--predictions", w.file("p.npz", "garbage")),
        "another kind of file",
    ),
    "garbage as parquet": (lambda w: w.diagnose("--predictions", w.file("p.parquet", "garbage")), "try"),
    "predictions without logits": (lambda w: w.predicted(label=LABELS, probs=NORMAL), "the name logits"),
    "NaN in predictions": (lambda w: w.predicted(label=LABELS, logits=NORMAL * np.nan), "NaN"),
    "probabilities in predictions": (
        lambda w: w.predicted(label=LABELS, logits=np.full((20, 4), 0.25)),
        "probabilities",
    ),
    "labels in words": (lambda w: w.predicted(label=np.array(["cat"] * 20), logits=NORMAL), "such as 'cat'"),
    "labels beyond the logits": (lambda w: w.predicted(label=LABELS + 3, logits=NORMAL), "3"),
    "fewer labels than logits": (lambda w: w.predicted(label=LABELS[1:], logits=NORMAL), "19 labels"),
    "an id twice": (lambda w: w.predicted(label=LABELS, logits=NORMAL, id=LABELS), "again"),
    "missing scores": (
        lambda w: [*w.predicted(label=LABELS, logits=NORMAL), "--scores", "nosuch.parquet"],
        "no such file",
    ),
    "scores of too few": (lambda w: w.evaluate("--scores", w.scores("train")), "no score for"),
    "predictions in place of scores": (
        lambda w: w.evaluate("--scores", w.study.folder / "seed-0/vanilla/predict/predictions-none-0.parquet"),
        "'logits'",
    ),
    "missing calibrator": (lambda w: w.evaluate("--calibrator", "nosuch.json"), "No such file"),
    "results in place of a calibrator": (
        lambda w: w.evaluate("--calibrator", w.study.folder / "results.json"),
        "method None",
    ),
    "unknown calibrator of calibrate": (
        lambda w: ["calibrate", *w.model, "--method", "platt", "--output", w.folder / "c.json"],
        "'platt'",
    ),
    "report of an empty folder": (lambda w: ["report", w.folder], "neither"),
    "report of something else": (lambda w: ["report", w.file("results.json", "[1]").parent], "list"),
    "report of other results": (lambda w: ["report", w.file("results.json", "{}").parent], "None"),
    "report of half a file": (lambda w: ["report", w.file("diagnosis.json", '{"kind": ').parent], "line 1"),
    # Export
    "export to an unknown ending": (lambda w: w.export("m.tflite"), "m.tflite"),
    "export to the ending of another format": (lambda w: w.export("m.pt2", "--format", "onnx"), "m.pt2"),
    "export in an unknown format": (lambda w: w.export("m.onnx", "--format", "coreml"), "coreml"),
    "export of no model": (
        lambda w: ["export", "--input-shape", "[1,8,8]", "--output", w.folder / "m.onnx"],
        "--model",
    ),
    "export of a missing checkpoint": (lambda w: w.export("m.onnx", "--checkpoint", "nosuch.pt"), "nosuch.pt"),
    "export without the shape of an input": (
        lambda w: ["export", "--model", "small_cnn", "--output", w.folder / "m.onnx"],
        "none",
    ),
    "export of an impossible shape": (lambda w: w.export("m.onnx", "--input-shape", "[1,0,8]"), "[1, 0, 8]"),
    "export of a shape that the model does not take": (
        lambda w: w.export("m.onnx", "--input-shape", "[3,8,8]"),
        "channels",
    ),
    "export with a missing calibrator": (lambda w: w.export("m.onnx", "--calibrator", "nosuch.json"), "No such file"),
    "export with results in place of a calibrator": (
        lambda w: w.export("m.onnx", "--calibrator", w.study.folder / "results.json"),
        "method None",
    ),
    "export of results that no card shows": (
        lambda w: w.export("m.onnx", "--results", w.study.folder / "results.json"),
        "--results",
    ),
    "export of the results of a study": (
        lambda w: w.export("card", "--format", "safetensors", "--results", w.study.folder / "results.json"),
        "a study",
    ),
    # Monitor
    "monitor without a calibrator": (lambda w: ["monitor", *w.model], "--calibrator"),
    "monitor with another calibrator": (lambda w: ["monitor", *w.model, "--calibrator", w.calibrator()], "temperature"),
    "monitor with a missing calibrator": (
        lambda w: ["monitor", *w.model, "--calibrator", "nosuch.json"],
        "No such file",
    ),
    "monitor of predictions beside a model": (
        lambda w: [*w.watched("--predictions", w.arrays(logits=NORMAL)), *w.model],
        "one of them",
    ),
    "monitor of nothing": (lambda w: w.watched(), "--data"),
    "monitor of missing predictions": (lambda w: w.watched("--predictions", w.folder / "p.npz"), "no such file"),
    "monitor of predictions with other classes": (
        lambda w: w.watched("--predictions", w.arrays(logits=np.tile(NORMAL, (5, 1)))),
        "10 classes",
    ),
    "monitor in empty batches": (lambda w: [*w.watched(), *w.model, "--batch-size", 0], "0"),
    "monitor with an impossible level": (lambda w: [*w.watched(), *w.model, "--level", 2], "2"),
    # Promises
    "an error beyond 1 in a diagnosis": (lambda w: w.diagnose(*w.model, "--max-errors", "0.1,5"), "5"),
    "an error that is no number": (lambda w: w.evaluate("--max-errors", "few"), "few"),
    # The same examples
    "evaluated on the training split": (lambda w: w.evaluate("--split", "train"), "digits-train"),
    "diagnosed on the training split": (lambda w: w.diagnose(*w.model, "--split", "train"), "digits-train"),
    "calibrated on the training split": (
        lambda w: ["calibrate", *w.model, "--split", "train", "--output", w.folder / "c.json"],
        "digits-train",
    ),
    "evaluated on the calibration split": (
        lambda w: w.evaluate("--calibrator", w.calibrator()),
        "100 of 100 examples from its fit",
    ),
    "calibrated on a few, evaluated on all": (
        lambda w: w.evaluate("--limit", 800, "--calibrator", w.calibrator()),
        "100 of 800 examples from its fit",
    ),
    "study that trains on its test split": (
        lambda w: w.run("--data", w.train_as_test()),
        "the test split",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_one_clear_line(what: str, world: World) -> None:
    arguments, says = CASES[what]
    refused(arguments(world), says)
    assert not list(world.out.glob("**/*.safetensors"))
    assert not list(world.out.glob("**/*.ckpt"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(suffix: str, world: World) -> None:
    mark = world.folder / "it-ran"
    bare = pickle.dumps(Exploit(mark))
    refused(world.checkpoint(f"bare{suffix}", bare), f"bare{suffix}")
    line = refused(world.checkpoint(f"nested{suffix}", {"state_dict": {"fc.weight": Exploit(mark)}}), "run code")
    assert "safetensors" in line
    assert not mark.exists()
    pickle.loads(bare)
    assert mark.exists()


@pytest.mark.parametrize(
    "command",
    ["run", "train", "score", "calibrate", "evaluate", "diagnose", "recipes", "report", "export"],
)
def test_output_that_cannot_be_written(command: str, world: World) -> None:
    below = world.file("a-file", "") / "below"
    model = [*world.model, "--output", below]
    arguments: dict[str, list[object]] = {
        "run": [world.study.recipe, "--output", below],
        "train": [world.study.recipe, "--output", below, "--method", "vanilla"],
        "score": [*model[:-1], below / "scores.parquet"],
        "calibrate": [*model[:-1], below / "calibrator.json"],
        "evaluate": model,
        "diagnose": model,
        "recipes": ["copy", "digits", "--output", below / "mine.yaml"],
        "report": [world.study.folder, "--output", below / "report.html"],
        "export": ["--checkpoint", world.study.checkpoint, "--output", below / "model.pt2"],
    }
    refused(
        [command, *arguments[command]], "irectory" if command in ("run", "train", "evaluate", "diagnose") else "try"
    )


@pytest.mark.filterwarnings("ignore:no temperature:UserWarning")
def test_someone_elses_model_is_not_judged_on_what_its_calibrator_saw_in_another_file(world: World) -> None:
    """The images are recognized by their content: here in an .npz, there as PNG files in a table."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    labels = np.arange(30) % 3
    arrays = world.arrays(inputs=pixels, labels=labels)
    table = world.folder / "same.parquet"
    parquet.write_table(pyarrow.table({"image": [_png(image) for image in pixels], "label": labels}), table)
    code = "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
    world.file("model.py", code + "build = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n")
    model = ["--model", f"{world.folder / 'model.py'}:build"]
    calibrator = world.folder / "calibrator.json"
    assert aradals("calibrate", *model, "--data", arrays, "--output", calibrator).code == 0
    for data in (arrays, table):
        evaluate = ["evaluate", *model, "--data", data, "--calibrator", calibrator, "--output", world.out]
        refused(evaluate, "30 of 30 examples from its fit")
    others = world.arrays(inputs=255 - pixels, labels=labels)
    evaluate = ["evaluate", *model, "--data", others, "--calibrator", calibrator, "--output", world.out]
    assert aradals(*evaluate).code == 0


def test_stored_predictions_remember_their_examples(world: World) -> None:
    calibrator = world.calibrator()
    stored = world.study.folder / "seed-0/vanilla/predict/predictions-none-0.parquet"
    refused(
        ["evaluate", "--predictions", stored, "--calibrator", calibrator, "--output", world.out],
        "100 of 800 examples from its fit",
    )


def test_other_peoples_files_are_left_alone(world: World) -> None:
    thesis = world.out / "seed-0" / "vanilla" / "train" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    ran = aradals(*world.run())
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("error: expected an empty folder")
    assert thesis.read_text() == "years of work"
