"""The commands as users meet them: what they print, what they write, and that a study goes on where it stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from command_line import Outcome, Study, aradals, run_once
from safetensors.torch import load_file

from aradals._internal.typed import read_typed
from aradals.cli.main import COMMANDS
from aradals.data import Examples, load_data, make_splits
from aradals.inference.predictions import Predictions, predict
from aradals.models import build_model, load_checkpoint
from aradals.pipeline.artifacts import load_scores, save_scores
from aradals.results import CLEAN, Condition, Metric, Variant, read_results
from aradals.robustness.audit import Audit, describe_audit

METRICS: tuple[Metric, ...] = ("accuracy", "confidence", "nll", "brier", "ece")


def ok(*arguments: object) -> Outcome:
    """Run a command that has to succeed."""
    ran = aradals(*arguments)
    assert ran.code == 0, ran.err
    return ran


def without_seconds(value: Any) -> Any:
    """Results without the times that they took, and without the digest, which covers these."""
    if isinstance(value, dict):
        timed = {"relative_cost", "sha256", *(key for key in value if key.endswith("seconds"))}
        return {key: without_seconds(item) for key, item in value.items() if key not in timed}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def run_and_kill(at_line: str, arguments: list[str]) -> None:
    """Run a command in a process of its own, which kills itself when it logs that line."""
    program = f"""
import os, signal, sys
from aradals.cli import terminal
from aradals.cli.main import main

def log(line):
    if {at_line!r} in line:
        os.kill(os.getpid(), signal.SIGKILL)

terminal.print_log = log
main(sys.argv[1:])
"""
    # Sums in another order would differ in the last bits.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    ran = subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr.decode()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_once(tmp_path_factory.getbasetemp() / "tiny-study")


@pytest.fixture(scope="module")
def digits_test() -> Examples:
    return load_data("digits", "test")


@pytest.fixture(scope="module")
def predictions(study: Study, digits_test: Examples) -> Predictions:
    """Of the vanilla model on the test split, without the command line."""
    model = build_model("small_cnn", num_classes=10, in_channels=1, width=8)
    load_checkpoint(model, study.checkpoint)
    return predict(model, digits_test.batches(len(digits_test)))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of the training file that no split of the study holds."""
    train, test = load_data("digits", "train"), load_data("digits", "test")
    splits = make_splits(train, test, validation=60, calibration=40, train_size=200, seed=0)
    used = torch.cat([part.ids for part in (splits.train, splits.validation, splits.calibration)])
    rest = train.select(~torch.isin(train.ids, used))
    (_, inputs, labels), *_ = rest.batches(len(rest))
    path = tmp_path_factory.mktemp("held-out") / "held-out.npz"
    np.savez(path, inputs=inputs.numpy(), labels=labels.numpy())
    return path


@pytest.fixture(scope="module")
def scores(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the test split, by `aradals score`."""
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    ok("score", "--checkpoint", study.checkpoint, "--data", "digits", "--verified", "--output", path)
    return path


@pytest.fixture(scope="module")
def calibrator(study: Study, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By `aradals calibrate`, on examples that no model saw."""
    path = tmp_path_factory.mktemp("calibrator") / "temperature.json"
    ran = ok("calibrate", "--checkpoint", study.checkpoint, "--data", held_out, "--output", path)
    assert "temperature" in ran.out
    assert "object at 0x" not in ran.out
    return path


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_shows_an_example(self, command: str) -> None:
        assert f"example: aradals {command}" in " ".join(ok(command, "--help").out.split())

    @pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
    def test_overview_names_every_command(self, arguments: tuple[str, ...]) -> None:
        out = ok(*arguments).out
        assert all(f"aradals {command}" in out for command in COMMANDS)

    def test_version(self) -> None:
        assert ok("--version").out.startswith("aradals 0.")

    def test_options_are_spelt_with_dashes_or_underscores(self) -> None:
        out = ok("diagnose", "--help").out
        assert "--num-subsets" in out
        assert "--image-column" in out


class TestRecipes:
    def test_list_tells_what_each_is_for(self) -> None:
        lines = ok("recipes").out.splitlines()
        assert {line.split()[0] for line in lines} >= {"digits", "cifar10-small", "cifar10-resnet29"}
        assert all(len(line.split()) > 3 for line in lines)

    def test_show_and_copy_give_the_same_text(self, tmp_path: Path) -> None:
        shown = ok("recipes", "show", "digits").out
        ok("recipes", "copy", "digits", "--output", tmp_path / "mine.yaml")
        assert (tmp_path / "mine.yaml").read_text() == shown
        assert "methods:" in shown

    def test_copy_does_not_overwrite(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("my work")
        assert aradals("recipes", "copy", "digits", "--output", tmp_path / "mine.yaml").code == 2
        assert (tmp_path / "mine.yaml").read_text() == "my work"


class TestRun:
    def test_results_have_a_row_for_everything(self, study: Study) -> None:
        results = study.results
        assert results == json.loads((study.folder / "results.json").read_text())
        found = study.records
        assert {(row.variant, row.condition, row.subset) for row in found.rows} == {
            (Variant(method, calibrator), condition, subset)
            for method in ("vanilla", "ar_adals")
            for calibrator in ("none", "temperature")
            for condition in (CLEAN, Condition("gaussian_noise", 3))
            for subset in (None, 0, 1, 2)
        }
        assert len(found.rows) == 2 * 2 * 2 * 4
        assert found.data.name == "digits"
        for row in found.rows:
            correct = round(row["accuracy"].value * row.n)
            has_interval = METRICS if 5 <= correct <= row.n - 5 else METRICS[:2]  # others would be worth nothing
            assert all(row[name].known for name in METRICS)
            assert all(row[name].has_interval for name in has_interval)
            assert (row.seed, row.n > 0) == (0, True)
        overall = [row for row in found.rows if row.subset is None]
        assert all(0 <= row["subset_calibration_error"].value <= 1 for row in overall)
        assert [fitted.calibrator for fitted in found.calibrators] == ["temperature", "temperature"]
        assert [fitted.method for fitted in found.calibrators] == ["vanilla", "ar_adals"]
        assert "<html" in (study.folder / "report.html").read_text()

    def test_a_second_time_nothing_is_done_again(self, study: Study, tmp_path: Path) -> None:
        folder = shutil.copytree(study.folder, tmp_path / "copy")
        before = {path: path.read_bytes() for path in (folder / "seed-0").glob("**/*") if path.is_file()}
        ran = ok("run", study.recipe, "--output", folder, "--json")
        stages = [line for line in ran.err.splitlines() if not line.startswith("run ")]
        assert all(line.endswith("done before, inputs unchanged") for line in stages)
        assert {**ran.json, "name": "out", "sha256": study.results["sha256"]} == study.results
        assert {path: path.read_bytes() for path in before} == before

    def test_a_changed_method_is_the_only_one_redone(self, study: Study, tmp_path: Path) -> None:
        folder = shutil.copytree(study.folder, tmp_path / "copy")
        ran = ok("run", "--json", study.recipe, "--output", folder, "--methods.ar_adals.targets.rule.rate=0.9")
        again = [line for line in ran.err.splitlines() if "done before" not in line and not line.startswith("run ")]
        assert again
        assert all(line.startswith("[seed 0] ar_adals: ") for line in again)
        assert sum(": epoch " in line for line in again) == 6

        def rows(results: dict[str, Any], method: str) -> list[dict[str, Any]]:
            return [row for row in results["rows"] if row["method"] == method]

        assert rows(ran.json, "vanilla") == rows(study.results, "vanilla")
        assert rows(ran.json, "ar_adals") != rows(study.results, "ar_adals")

    def test_killed_in_training_and_started_again_it_ends_the_same(self, study: Study, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        arguments = ["run", str(study.recipe), "--output", str(folder), "--workers=1"]
        run_and_kill("ar_adals: train: epoch 4/6", arguments)
        unfinished = {path.name for path in (folder / "seed-0" / "ar_adals" / "train").iterdir()}
        assert "resume.ckpt" in unfinished
        assert "model.safetensors" not in unfinished

        finished = ok(*arguments, "--json")
        lines = finished.err.splitlines()
        assert any("ar_adals: train: started before, goes on" in line for line in lines)
        assert [line for line in lines if "ar_adals: train: epoch 5/6" in line]
        assert not [line for line in lines if "vanilla: train: epoch" in line or "ar_adals: train: epoch 1/6" in line]
        assert without_seconds(finished.json) == without_seconds(study.results)


def test_train_gives_the_checkpoint_of_the_study(study: Study, tmp_path: Path) -> None:
    ran = ok("train", study.recipe, "--method", "vanilla", "--output", tmp_path)
    checkpoint = Path(ran.out.strip().removeprefix("checkpoint: "))
    trained, expected = load_file(checkpoint), load_file(study.checkpoint)
    assert trained.keys() == expected.keys()
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


@pytest.mark.parametrize("line", ["epoch 4/6", "scored 200 + 60 examples by first_order_margin"])
def test_killed_while_it_scores_itself_and_started_again_it_ends_the_same(
    line: str, study: Study, tmp_path: Path
) -> None:
    def arguments(folder: str) -> list[str]:
        subsets = "--methods.ar_adals.targets.subsets={by: self, every: 2, count: 3}"
        return ["train", str(study.recipe), "--method=ar_adals", subsets, "--output", str(tmp_path / folder)]

    run_and_kill(f"ar_adals: train: {line}", arguments("killed"))
    for folder in ("killed", "whole"):
        ok(*arguments(folder))
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["ar_adals"]  # no second model, no score table
    killed, whole = (tmp_path / folder / "ar_adals" / "train" for folder in ("killed", "whole"))
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    histories = [json.loads((folder / "history.json").read_text()) for folder in (killed, whole)]
    assert len(histories[0]["scorings"]) == 2
    assert without_seconds(histories[0]) == without_seconds(histories[1])


def test_train_takes_overrides_and_a_seed(study: Study, tmp_path: Path) -> None:
    ok("train", study.recipe, "--method=vanilla", "--seed=3", "--training.epochs=1", "--output", tmp_path)
    history = json.loads((tmp_path / "vanilla" / "train" / "history.json").read_text())
    assert len(history["epochs"]) == 1


def test_score_table_has_its_columns_and_says_where_it_comes_from(
    scores: Path, predictions: Predictions, digits_test: Examples
) -> None:
    columns = ["id", "predicted", "score", "margin", "norm", "success", "num_forward", "num_backward"]
    assert parquet.read_schema(scores).names == columns
    table, metadata = load_scores(scores)
    assert torch.equal(table.ids, digits_test.ids)
    assert torch.equal(table.predicted, predictions.logits.argmax(1))
    assert table.score.isfinite().all()
    assert torch.equal(table.norm.isfinite(), table.success)
    assert metadata["data_fingerprint"] == digits_test.fingerprint
    assert metadata["attack"].startswith("secant(")
    assert "verified=True" in metadata["attack"]
    assert {"model_digest", "request", "versions"} <= metadata.keys()


def test_score_says_what_it_cost_and_is_audited(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    arguments = ("--checkpoint", study.checkpoint, "--data", "digits", "--limit", 60, "--bf16", "--output", path)
    out = ok("score", *arguments, "--audit", 40, "--num-subsets", 4).out
    table, metadata = load_scores(path)
    assert f"60 examples scored by {table.attack} in " in out
    assert "examples per second; on average" in out
    verified = int(table.norm.isfinite().sum())
    assert f"{table.num_backward.double().mean():.1f} backward passes); {verified} with a verified norm" in out
    assert parquet.read_table(path).column("norm").null_count == 60 - verified
    assert metadata["bf16"] == "true"
    audit = read_typed(Audit, json.loads(metadata["audit"]))
    assert (audit.num_examples, audit.num_subsets) == (40, 4)
    assert describe_audit(audit) in out


def test_an_audit_has_an_example_for_each_subset(study: Study, tmp_path: Path) -> None:
    arguments = ("--checkpoint", study.checkpoint, "--data", "digits", "--limit", 12, "--audit", 2)
    ok("score", *arguments, "--num-subsets", 4, "--output", tmp_path / "scores.parquet")
    assert read_typed(Audit, json.loads(load_scores(tmp_path / "scores.parquet")[1]["audit"])).num_examples == 4
    ran = aradals("score", *arguments, "--num-subsets", 13, "--output", tmp_path / "more.parquet")
    assert ran.code == 2
    assert "--num-subsets from 1 to 12" in ran.err


def test_score_killed_and_started_again_it_ends_the_same(study: Study, tmp_path: Path) -> None:
    """By a signal from outside, as soon as some of the work is on disk."""
    program = """
import sys
from aradals.pipeline import shards
from aradals.cli.main import main
shards._SHARD_SECONDS = 0.2
main(sys.argv[1:])
"""
    slow = ("--attack", "carlini_wagner", "--attack-args", '{"binary_search_steps": 2, "steps": 40}')
    arguments = ["score", "--checkpoint", study.checkpoint, "--data", "digits", "--limit", "150", *slow, "--output"]
    path = tmp_path / "scores.parquet"
    shards: list[Path] = []
    command = [sys.executable, "-c", program, *map(str, arguments), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not shards:
            shards = list(tmp_path.glob(".scores.parquet.work/scores/.scores.parquet.shards/0*.parquet"))
            time.sleep(0.01)
        process.kill()
        _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err.decode()
    assert not path.exists()

    assert 0 < sum(parquet.read_metadata(shard).num_rows for shard in shards) < 150
    ok(*arguments, tmp_path / "whole.parquet")
    ok(*arguments, path)
    metadata, whole_metadata = load_scores(path)[1], load_scores(tmp_path / "whole.parquet")[1]
    assert metadata == whole_metadata
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scores.parquet", "whole.parquet"]


def test_evaluate_with_everything(
    study: Study, scores: Path, calibrator: Path, predictions: Predictions, tmp_path: Path
) -> None:
    ran = ok(
        *("evaluate", "--checkpoint", study.checkpoint, "--data", "digits", "--calibrator", calibrator),
        *("--scores", scores, "--num-subsets", 4, "--corruptions", "gaussian_noise,contrast", "--severities", "2,5"),
        *("--json", "--output", tmp_path),
    )
    rows = ran.results.rows
    assert len(rows) == 2 * 5 * (1 + 4)
    assert {row.condition for row in rows} == {
        CLEAN,
        *(Condition(name, severity) for name in ("gaussian_noise", "contrast") for severity in (2, 5)),
    }
    assert all(row[name].known for row in rows for name in METRICS)
    assert [row.n for row in rows if row.subset is not None] == [200] * 40

    vanilla, calibrated = (
        next(row for row in rows if (row.subset, row.condition, row.calibrator) == (None, CLEAN, name))
        for name in ("none", "temperature")
    )
    temperature = json.loads(calibrator.read_text())["temperature"]
    correct = (predictions.logits.argmax(1) == predictions.labels).double().mean()
    for row, scale in ((vanilla, 1.0), (calibrated, temperature)):
        probs = (predictions.logits.double() / scale).softmax(1)
        assert row["accuracy"].value == pytest.approx(float(correct))
        assert row["confidence"].value == pytest.approx(float(probs.amax(1).mean()), abs=1e-6)
    assert (tmp_path / "report.html").exists()


def test_evaluate_takes_stored_predictions(study: Study, calibrator: Path, tmp_path: Path) -> None:
    stored = study.folder / "seed-0" / "vanilla" / "predict" / "predictions-none-0.parquet"
    ran = ok("evaluate", "--predictions", stored, "--calibrator", calibrator, "--json", "--output", tmp_path)
    rows = ran.results.rows
    assert [row.calibrator for row in rows] == ["none", "temperature"]
    vanilla = next(row for row in study.records.rows if row.subset is None)
    assert rows[0]["ece"].value == pytest.approx(vanilla["ece"].value)


def test_diagnose_says_the_same_of_a_model_and_of_its_predictions(
    study: Study, scores: Path, predictions: Predictions, tmp_path: Path
) -> None:
    arguments = ("diagnose", "--num-subsets", 4, "--audit", 0, "--json")
    of_model = ok(
        *arguments, "--verified", "--checkpoint", study.checkpoint, "--data", "digits", "--output", tmp_path / "model"
    )
    path = tmp_path / "predictions.npz"
    np.savez(path, logits=predictions.logits.numpy(), label=predictions.labels.numpy(), id=predictions.ids.numpy())
    of_file = ok(*arguments, "--predictions", path, "--scores", scores, "--output", tmp_path / "file")
    found, again = of_model.results, of_file.results
    assert found.audit is again.audit is None
    assert [row.subset for row in found.rows] == [None, 0, 1, 2, 3]
    assert [row.n for row in found.rows] == [800, *[200] * 4]
    assert all(row.condition == CLEAN and row[name].known for row in found.rows for name in METRICS)
    assert len(found.reliability) == 5
    assert found.least_robust_classes
    assert found.thresholds
    for key in (*METRICS, "subset_calibration_error"):
        assert found.rows[0][key].value == pytest.approx(again.rows[0][key].value)
    for key in METRICS:
        # A file holds predictions of a copy with batch norm folded in, which are the same up to rounding.
        first, second = ([row[key].value for row in results.rows[1:]] for results in (found, again))
        assert first == pytest.approx(second, rel=1e-4)
    assert (tmp_path / "model" / "report.html").exists()
    assert of_model.json == json.loads((tmp_path / "model" / "diagnosis.json").read_text())


def test_diagnose_audits_its_ranking_once(study: Study, scores: Path, tmp_path: Path) -> None:
    model = ("--checkpoint", study.checkpoint, "--data", "digits", "--num-subsets", 4)
    few = ("--limit", 40, "--audit", 1000)
    first = ok("diagnose", *model, *few, "--output", tmp_path)
    assert "audit: 40 examples by ddn(" in first.err
    words = " ".join(first.out.split())
    assert re.search(r"ddn and neighbors put \d+ % of a sample into the same robustness subset", words)
    first_audit = read_results(tmp_path).audit
    again = ok("diagnose", *model, *few, "--output", tmp_path, "--json")
    assert "audit: done before" in again.err
    audit = again.results.audit
    assert audit is not None
    assert audit == first_audit
    assert audit.scores_by == again.results.config["attack"]
    assert audit.agreement.n + audit.num_failed == audit.num_examples == 40
    assert audit.num_subsets == 4
    assert audit.agreement.spearman.value > 0.95
    # Given scores are audited too, unless they are of another model.
    given = ok("diagnose", *model, "--scores", scores, "--audit", 20, "--json", "--output", tmp_path / "given")
    assert given.results.audit is not None
    assert given.results.audit.num_examples == 20
    table, _ = load_scores(scores)
    save_scores(tmp_path / "foreign.parquet", table, {"model_digest": "another"})
    foreign = ok("diagnose", *model, "--scores", tmp_path / "foreign.parquet", "--json", "--output", tmp_path / "f")
    assert foreign.results.audit is None
    assert "another model" in foreign.err


def test_diagnose_of_predictions_alone_has_no_subsets(predictions: Predictions, tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", logits=predictions.logits.numpy(), labels=predictions.labels.numpy())
    found = ok("diagnose", "--predictions", tmp_path / "p.npz", "--json", "--output", tmp_path / "out").results
    assert [(row.subset, row.n) for row in found.rows] == [(None, len(predictions))]
    assert found.audit is None


def test_report_needs_no_model(study: Study, tmp_path: Path) -> None:
    shutil.copy(study.folder / "results.json", tmp_path)
    ok("report", tmp_path)
    ok("report", tmp_path, "--output", tmp_path / "elsewhere.html")
    written = (tmp_path / "report.html").read_text()
    assert written == (tmp_path / "elsewhere.html").read_text()
    assert "AR-AdaLS" in written


def test_the_table_is_for_people_and_the_json_for_programs(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.folder, tmp_path / "copy")
    out = ok("run", study.recipe, "--output", tmp_path / "copy").out
    for word in ("accuracy", "overconfident", "ECE", "vanilla", "AR-AdaLS", "report:"):
        assert word in out
    with pytest.raises(json.JSONDecodeError):
        json.loads(out)


def test_the_installed_script(tmp_path: Path) -> None:
    script = Path(sysconfig.get_path("scripts")) / "aradals"
    ran = subprocess.run([script, "report", str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: expected ")
    assert len(ran.stderr.splitlines()) == 1
