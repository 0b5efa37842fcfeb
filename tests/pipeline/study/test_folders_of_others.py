"""A study folder that somebody else has sent, with digests that are right and contents that are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from small_study import ADAPTIVE, VANILLA, save_digits, small_config

from aradals._internal.files import file_digest
from aradals._internal.json_files import load_sealed, save_sealed
from aradals.errors import InputError
from aradals.pipeline.config import (
    AdaptiveTargets,
    EvaluationConfig,
    MethodConfig,
    RankedSubsets,
    ScoringConfig,
    StudyConfig,
)
from aradals.pipeline.study import run_study, train_one
from aradals.report import write_report

ADAPTED = "adaptive"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, Path]:
    folder = tmp_path_factory.mktemp("sent")
    methods = {"vanilla": VANILLA, ADAPTED: MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2)))}
    config = small_config(save_digits(folder / "digits.npz", num_train=220), methods)
    run_study(config, folder / "out", name="test", log=lambda line: None)
    return config, folder / "out"


def reseal(stage: Path) -> None:
    """Make the record of a stage one of the files that lie there now."""
    record = load_sealed(stage / "stage.json")
    outputs = {name: file_digest(stage / name) for name in record["outputs"]}
    save_sealed(stage / "stage.json", {**record, "outputs": outputs})


def in_json(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content)))

    return edit


def in_row(key: str, value: object) -> Callable[[Path], None]:
    return in_json(lambda content: {**content, "rows": [{**row, key: value} for row in content["rows"]]})


def in_diagram(key: str, value: object) -> Callable[[Path], None]:
    return in_json(
        lambda content: {**content, "reliability": [{**each, key: value} for each in content["reliability"]]}
    )


def in_metric(name: str, value: object) -> Callable[[Path], None]:
    return in_json(
        lambda content: {
            **content,
            "rows": [{**row, "metrics": {**row["metrics"], name: value}} for row in content["rows"]],
        }
    )


def in_arrays(**changed: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with np.load(path) as arrays:
            content = {**{key: arrays[key] for key in arrays.files}, **changed}
        with path.open("wb") as file:
            np.savez_compressed(file, **{key: value for key, value in content.items() if value is not None})

    return edit


def with_key(key: str, value: object) -> Callable[[Path], None]:
    return in_json(lambda content: {**content, key: value})


ROWS, HISTORY = f"{ADAPTED}/evaluate/rows.json", f"{ADAPTED}/train/history.json"
ARRAYS, COST = f"{ADAPTED}/evaluate/arrays.npz", "scores/test/cost.json"
HOSTILE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no JSON": (ROWS, lambda path: path.write_text("{")),
    "deep JSON": (ROWS, lambda path: path.write_text("[" * 100_000)),
    "no rows": (ROWS, in_json(lambda content: {})),
    "a list": (ROWS, in_json(lambda content: [content])),
    "rows of text": (ROWS, with_key("rows", ["row"])),
    "text for a number": (ROWS, in_metric("accuracy", {"value": "<script>"})),
    "a huge number": (ROWS, in_row("n", 10**400)),
    "a list for a number": (ROWS, in_metric("ece", [1.0])),
    "another key": (ROWS, in_row("note", {"a": 1})),
    "another metric": (ROWS, in_metric("note", {"value": 1.0})),
    "infinity": (ROWS, in_metric("nll", {"value": float("inf")})),
    "bins of text": (ROWS, in_json(lambda c: {**c, "reliability": [{**c["reliability"][0], "bins": "x"}]})),
    "no seconds": (HISTORY, with_key("seconds", None)),
    "epochs of text": (HISTORY, with_key("epochs", "x")),
    "updates of another size": (HISTORY, with_key("target_prob", [1.0])),
    "updates of lists": (HISTORY, with_key("updates", [[1]])),
    "settings of text": (HISTORY, with_key("settings", "x")),
    "text for seconds": (COST, with_key("seconds", "x")),
    "endless seconds": (COST, with_key("seconds", float("inf"))),
    "a list of seconds": (COST, in_json(lambda content: [1])),
    "no arrays": (ARRAYS, lambda path: path.write_bytes(b"nothing")),
    "pickled arrays": (ARRAYS, in_arrays(logits=np.array([{}], dtype=object))),
    "an array less": (ARRAYS, in_arrays(labels=None)),
    "an array more": (ARRAYS, in_arrays(**{"replicates/x": np.zeros(3)})),
    "fewer examples": (ARRAYS, in_arrays(logits=np.zeros((1, 3, 10), np.float16))),
    "no classes": (ARRAYS, in_arrays(logits=np.zeros((1, 100, 0), np.float16))),
    "other labels": (ARRAYS, in_arrays(labels=np.zeros(100, np.int64))),
    "replicates of another size": (ARRAYS, in_arrays(**{"replicates/none/clean/ece": np.zeros(3, np.float32)})),
    "text for scores": (ARRAYS, in_arrays(scores=np.array(["a"] * 100))),
    "an array that fills the memory": (ARRAYS, in_arrays(subsets=np.zeros(3 * 2**30, np.uint8))),
    "a calibrator of text": (f"{ADAPTED}/calibrate/temperature.json", lambda path: path.write_text('"x"')),
    "another calibrator": (f"{ADAPTED}/calibrate/temperature.json", lambda path: path.write_text('{"method": "os"}')),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("fills" in name)) for name in HOSTILE])
def test_what_no_run_has_written_is_one_line(name: str, study: tuple[StudyConfig, Path], tmp_path: Path) -> None:
    config, out = study
    copy = shutil.copytree(out, tmp_path / "copy")
    file, change = HOSTILE[name]
    path = copy / "seed-0" / file
    change(path)
    reseal(path.parent)
    if file == COST:  # both runs need these scores
        with pytest.raises(InputError, match=path.name):
            run_study(config, copy, name="test", log=lambda line: None)
        return
    results = run_study(config, copy, name="test", log=lambda line: None)
    [failed] = results.failed
    assert failed.method == ADAPTED
    assert path.name in failed.reason
    write_report(results, copy / "report.html")


def test_rows_are_of_the_run_in_whose_folder_they_lie(study: tuple[StudyConfig, Path], tmp_path: Path) -> None:
    config, out = study
    expected = run_study(config, out, name="test", log=lambda line: None)
    copy = shutil.copytree(out, tmp_path / "copy")
    for file, change in (
        (ROWS, in_row("method", "other")),
        (ROWS, in_diagram("seed", 5)),
        (HISTORY, with_key("method", "other")),
    ):
        path = copy / "seed-0" / file
        change(path)
        reseal(path.parent)
    results = run_study(config, copy, name="test", log=lambda line: None)
    assert (results.rows, results.reliability, results.training) == (
        expected.rows,
        expected.reliability,
        expected.training,
    )


MODEL = """
import json
from pathlib import Path
from torch import nn
from aradals.models import build_model

class Scaled(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = build_model("small_cnn", num_classes=num_classes, in_channels=1, width=4)
        self.scale = json.loads(Path(__file__).with_name("scale.json").read_text())

    def forward(self, inputs):
        return self.net(inputs * self.scale)
"""


def test_a_constant_that_the_model_reads_from_a_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    config = small_config(save_digits(tmp_path / "digits.npz"), {"vanilla": VANILLA})
    config = replace(config, model=f"{tmp_path / 'model.py'}:Scaled", model_args={})
    log: list[str] = []

    def rows(scale: float, folder: str) -> object:
        log.clear()
        (tmp_path / "scale.json").write_text(str(scale))
        return run_study(config, tmp_path / folder, name="test", log=log.append).rows

    first = rows(1.0, "out")
    assert rows(1.0, "out") == first
    assert any("done before" in line for line in log)
    assert rows(0.5, "out") == rows(0.5, "fresh") != first


def test_a_corrupted_copy_that_has_changed_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    data = save_digits(tmp_path / "digits.npz")
    with np.load(data) as arrays:
        images, labels = arrays["x_test"], arrays["y_test"]
    evaluation = EvaluationConfig(num_subsets=2, corrupted=str(copy), severities=[5], num_resamples=20)
    config = small_config(data, {"vanilla": VANILLA}, evaluation=evaluation)

    def rows(factor: int, folder: str) -> object:
        np.save(copy / "labels.npy", np.tile(labels, 5))
        np.save(copy / "fog.npy", np.tile((images * factor).astype(np.uint8).transpose(0, 2, 3, 1), (5, 1, 1, 1)))
        return run_study(config, tmp_path / folder, name="test", log=lambda line: None).rows

    first = rows(255, "out")
    assert rows(100, "out") == rows(100, "fresh") != first


def test_studies_in_two_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    config = small_config(save_digits(tmp_path / "digits.npz"), {"vanilla": VANILLA})
    found: dict[str, object] = {}

    def study(folder: str) -> None:
        found[folder] = run_study(config, tmp_path / folder, name="test", log=lambda line: None).rows

    study("alone")
    threads = [Thread(target=study, args=(folder,)) for folder in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["first"] == found["second"] == found["alone"]


def test_a_study_does_not_score_with_what_it_makes(study: tuple[StudyConfig, Path]) -> None:
    config, out = study
    own = replace(config, scoring=ScoringConfig(checkpoint=str(out / "seed-0/vanilla/train/model.safetensors")))
    with pytest.raises(InputError, match="that this study does not make"):
        run_study(own, out, name="test", log=lambda line: None)
    with pytest.raises(InputError, match="that this study does not make"):
        train_one(own, "vanilla", 0, out / "seed-0", log=lambda line: None)
