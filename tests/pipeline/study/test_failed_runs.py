"""A run that goes wrong costs itself, not the study: all others are finished, and what is said of it is true."""

from __future__ import annotations

import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from small_study import ADAPTIVE, VANILLA, save_digits, seed_run, small_config, trainings

from aradals._internal.files import file_name
from aradals.errors import OutputError, TrainingFailed
from aradals.pipeline.config import (
    AdaptiveTargets,
    EnsembleConfig,
    FixedTargets,
    MethodConfig,
    RankedSubsets,
    StudyConfig,
)
from aradals.pipeline.study import run_studies, run_study, train_one
from aradals.report import verdict, write_report
from aradals.report.tables import comparison_rows, failed_rows, main_table, main_table_note
from aradals.results import Results, Variant, measure, read_results
from aradals.results.failed import describe_failed
from aradals.results.files import plain
from aradals.results.records import DataSummary, FailedRun, Method, Row

OBJECTIVES = '''
import torch
from torch.nn.functional import cross_entropy

def diverge(model, inputs, labels):
    """Finite in the first epoch; the loss of the last step of the second is finite, too."""
    logits = model(inputs)
    if model.training and torch.initial_seed() % 100_003 == 1:
        model.linear.bias.data[0] = torch.inf
    return cross_entropy(logits, labels), logits

def diverge_at_seed_1(model, inputs, labels):
    if torch.initial_seed() // 100_003 == 1:
        return diverge(model, inputs, labels)
    logits = model(inputs)
    return cross_entropy(logits, labels), logits

def collapse(model, inputs, labels):
    """Only the class frequencies are learned."""
    model.linear.weight.data.zero_()
    logits = model.linear.bias.expand(len(inputs), -1)
    return cross_entropy(logits, labels), logits
'''

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 16), nn.Linear(16, 10)
        self.register_buffer("trained", torch.tensor(False))

    def forward(self, inputs):
        # The random numbers of an epoch say which seed it is of.
        if self.training and torch.initial_seed() // 100_003 in BROKEN:
            self.trained.fill_(True)
        if self.trained and HOW == "rounds":
            inputs = inputs.round()
        logits = self.last(self.first(inputs.flatten(1)).relu())
        if self.trained and HOW == "diverges":
            return logits * torch.inf
        return self.last.bias.expand(len(inputs), -1) if self.trained and HOW == "collapses" else logits

def build():
    return Net()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("failed")
    (folder / "objectives.py").write_text(OBJECTIVES)
    save_digits(folder / "digits.npz")
    return folder


def methods(folder: Path, *names: str) -> dict[str, MethodConfig]:
    """Those of the file with objectives."""
    return {name: MethodConfig(objective=f"{folder / 'objectives.py'}:{name}") for name in names}


def run_logged(config: StudyConfig, output: Path) -> tuple[Results, list[str]]:
    log: list[str] = []
    return run_study(config, output, name="test", log=log.append), log


def by_method(results: Results, part: str, method: str) -> list[Any]:
    return [row for row in getattr(results, part) if row.method == method]


def check_reports(results: Results, path: Path, *, without: set[str]) -> str:
    """Reports that name every failed run, and say nothing else of a method without rows. Returns the page."""
    write_report(results, path)
    page = path.read_text()
    found = verdict(results)
    assert found.warnings[0].startswith(f"Warning: {describe_failed(results)}.")
    for method in without:
        assert not any(method in sentence for sentence in (*found.warnings[1:], *found.sentences))
    assert main_table_note(results).count("Failed, and not in the table") == 1
    for block in (main_table(results), *comparison_rows(results)):
        assert block.rows
        assert not without & {row[0].text for row in block.rows}
    rows = [[cell.text for cell in row] for row in failed_rows(results).rows]
    assert len(rows) == len(results.failed) > 0
    assert page.index('id="failed-runs"') < page.index(
        'id="methods-side-by-side"' if "methods-side" in page else "</main>"
    )
    return page


@pytest.fixture(scope="module")
def config(folder: Path) -> StudyConfig:
    """One method diverges, one collapses, two are fine, and one of two ensembles is."""
    return small_config(
        str(folder / "digits.npz"),
        {
            **methods(folder, "diverge"),
            "vanilla": VANILLA,
            **methods(folder, "collapse"),
            "ar_adals": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2))),
        },
        ensembles={"pair": EnsembleConfig("vanilla", num_members=2), "bad": EnsembleConfig("diverge", 2)},
        seeds=[0, 1],
    )


@pytest.fixture(scope="module")
def finished(config: StudyConfig, folder: Path) -> tuple[Results, list[str]]:
    return run_logged(config, folder / "out")


class TestOneDivergesAndOneCollapses:
    def test_failed_runs_are_named_with_their_reasons(self, finished: tuple[Results, list[str]]) -> None:
        results, log = finished
        reasons = {
            "diverge": "training diverged in epoch 2, when ",
            "collapse": "the trained model predicts the same for all 140 examples ",
            "bad": "diverge, which it needs, failed: training diverged in epoch 2, when ",
        }
        assert [(run.method, run.seed) for run in results.failed] == [
            (method, seed) for seed in (0, 1) for method in reasons
        ]
        for run in results.failed:
            assert run.reason.startswith(reasons[run.method])
            assert f"[seed {run.seed}] {run.method}: FAILED: {run.reason}" in log
        at = [log.index(line) for line in log if "FAILED" in line]
        assert all(log[position + 1].startswith("run ") for position in at if position + 1 < len(log))
        assert describe_failed(results).startswith("6 of 12 runs failed: diverge, seed 0 and seed 1 (training diverged")

    def test_nothing_of_the_others_is_lost_or_changed(
        self, finished: tuple[Results, list[str]], config: StudyConfig, folder: Path
    ) -> None:
        good = {name: settings for name, settings in config.methods.items() if name in ("vanilla", "ar_adals")}
        alone = replace(config, methods=good, ensembles={"pair": config.ensembles["pair"]})
        expected, _ = run_logged(alone, folder / "alone")
        results = finished[0]
        for part in ("rows", "reliability", "calibrators", "comparisons", "stability", "pictures", "classes"):
            assert plain(getattr(results, part)) == plain(getattr(expected, part)), part
        assert results.reference == expected.reference == "vanilla"
        assert expected.failed == ()
        scorings = [[replace(each, seconds=0.0) for each in found.scoring] for found in (results, expected)]
        assert scorings[0] == scorings[1]
        assert [cost.method for cost in results.costs] == [cost.method for cost in expected.costs]
        assert plain(read_results(folder / "out")) == plain(results)
        assert len(parquet.read_table(folder / "out" / "table.parquet")) == len(results.rows)

    def test_reports(self, finished: tuple[Results, list[str]], tmp_path: Path) -> None:
        page = check_reports(finished[0], tmp_path / "report.html", without={"diverge", "collapse", "bad"})
        assert "the trained model predicts the same for all" in page

    def test_no_model_is_left_and_failed_runs_are_tried_again(
        self, finished: tuple[Results, list[str]], config: StudyConfig, folder: Path
    ) -> None:
        for name in ("diverge", "collapse"):
            assert not list((folder / "out").rglob(f"{name}/**/*.safetensors"))
        again, log = run_logged(config, folder / "out")
        assert plain(again) == plain(finished[0])
        assert trainings(log) == []  # what diverges goes on from its last good epoch, and diverges again
        assert sum("started before, goes on" in line for line in log) == 4
        assert sum("evaluate: done before, inputs unchanged" in line for line in log) == 6

    def test_interrupted_while_others_have_failed(
        self, finished: tuple[Results, list[str]], config: StudyConfig, tmp_path: Path
    ) -> None:
        def log(line: str) -> None:
            if "ar_adals: train: epoch 2" in line:
                raise KeyboardInterrupt(line)

        with pytest.raises(KeyboardInterrupt):
            run_study(config, tmp_path, name="test", log=log)
        assert not (tmp_path / "results.json").exists()
        resumed, _ = run_logged(config, tmp_path)
        for part in ("rows", "failed", "comparisons"):
            assert plain(getattr(resumed, part)) == plain(getattr(finished[0], part))

    def test_train_one(self, config: StudyConfig, tmp_path: Path) -> None:
        with pytest.raises(TrainingFailed, match=r"^diverge: training diverged in epoch 2"):
            train_one(config, "diverge", 0, tmp_path, log=lambda line: None)
        assert not list(tmp_path.rglob("*.safetensors"))


def test_a_seed_that_is_missing(folder: Path, tmp_path: Path) -> None:
    """The first method fails at the first seed, where others are compared with it, and shown."""
    names = methods(folder, "diverge_at_seed_1")
    config = small_config(
        str(folder / "digits.npz"),
        {**names, "vanilla": VANILLA, "ar_adals": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2)))},
        seeds=[1, 0, 2],
    )
    results, _ = run_logged(config, tmp_path)
    assert [(run.method, run.seed) for run in results.failed] == [("diverge_at_seed_1", 1)]
    assert {row.seed for row in by_method(results, "rows", "diverge_at_seed_1")} == {0, 2}
    assert measure(results, Variant("diverge_at_seed_1"), "nll").num_seeds == 2
    assert measure(results, Variant("vanilla"), "nll").num_seeds == 3
    assert {row.num_seeds for row in by_method(results, "comparisons", "diverge_at_seed_1")} == {2}
    assert {row.num_seeds for row in by_method(results, "comparisons", "ar_adals")} == {3}
    assert {row.num_models for row in by_method(results, "stability", "diverge_at_seed_1")} == {2}
    assert {row.num_models for row in by_method(results, "stability", "ar_adals")} == {3}
    assert results.pictures.least_robust
    page = check_reports(results, tmp_path / "report.html", without=set())
    assert "diverge at seed 1, seed 0" in page  # its reliability is that of another seed than the others'


def broken_at(seeds: list[int], how: str, folder: Path, tmp_path: Path) -> StudyConfig:
    """A study whose models break in training at some of the seeds 0 and 1, the one that scores among them."""
    model = tmp_path / "model.py"
    model.write_text(f"BROKEN = {seeds}\nHOW = {how!r}\n{MODEL}")
    return small_config(
        str(folder / "digits.npz"),
        {"ar_adals": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2))), "vanilla": VANILLA},
        model=f"{model}:build",
        model_args={},
        ensembles={"pair": EnsembleConfig("vanilla", num_members=2)},
        seeds=[0, 1],
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("diverges", "training diverged in epoch 1"),
        ("collapses", "the trained model predicts the same for all 140 examples"),
        ("rounds", "it cannot be used to score examples: expected a model whose logits have a gradient"),
    ],
)
def test_all_that_need_a_scoring_model_which_failed_say_so(how: str, reason: str, folder: Path, tmp_path: Path) -> None:
    results, log = run_logged(broken_at([1], how, folder, tmp_path), tmp_path / "out")
    assert {row.seed for row in results.rows} == {0}
    reasons = {run.method: run.reason for run in results.failed}
    assert reasons["vanilla"].startswith(reason)
    assert reasons["ar_adals"] == reasons["pair"] == f"vanilla, which it needs, failed: {reasons['vanilla']}"
    check_reports(results, tmp_path / "report.html", without=set())
    # It is trained once for all of them, and nothing in vain.
    trained = {line.partition(" epoch")[0] for line in log if "[seed 1]" in line and ": train: epoch" in line}
    assert trained <= {"[seed 1] vanilla: train:"}


def test_where_all_runs_fail_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    config = broken_at([0, 1], "diverges", folder, tmp_path)
    with pytest.raises(TrainingFailed, match=r"^6 of 6 runs failed: ar adals, seed 0 and seed 1; pair, seed 0 and"):
        run_study(config, tmp_path / "out", name="test", log=lambda line: None)
    assert not list((tmp_path / "out").glob("*.*"))


def test_one_of_two_data_sets_on_which_all_fail(folder: Path, tmp_path: Path) -> None:
    """On the other one the study goes on."""
    three, ten = tmp_path / "three.npz", folder / "digits.npz"
    with np.load(ten) as digits:
        np.savez(three, **{name: array % 3 if name.startswith("y") else array for name, array in digits.items()})
    objective = tmp_path / "objective.py"
    objective.write_text(
        "import torch\nfrom torch.nn.functional import cross_entropy\n\n"
        "def ten_classes(model, inputs, labels):\n"
        "    logits = model(inputs)\n"
        "    return cross_entropy(logits, labels) * (torch.inf if logits.shape[1] == 3 else 1), logits\n"
    )
    recipe = small_config([str(three), str(ten)], {"vanilla": MethodConfig(objective=f"{objective}:ten_classes")})
    bad, good = run_studies(recipe, tmp_path / "out", name="test", log=lambda line: None).values()
    assert (bad.rows, good.failed) == ((), ())
    assert [run.method for run in bad.failed] == ["vanilla"]
    assert good.rows
    assert len(parquet.read_table(tmp_path / "out" / "table.parquet")) == len(good.rows)
    assert {path.parent.name for path in tmp_path.rglob("results.json")} == {"out", file_name(str(ten))}
    assert describe_failed(bad, good).startswith("1 of 1 runs failed on three.npz: vanilla, seed 0 (training diverged")


def test_an_output_that_cannot_be_written_stops_the_study(folder: Path, tmp_path: Path) -> None:
    config = small_config(
        str(folder / "digits.npz"), {"vanilla": VANILLA, "other": MethodConfig(targets=FixedTargets(0.1))}
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log: list[str] = []

    def fill_the_disk(line: str) -> None:
        log.append(line)
        if "vanilla: train: epoch 2" in line:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        with pytest.raises(OutputError, match=r"a writable output .*resume\.ckpt"):
            run_study(config, tmp_path / "out", name="test", log=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert log[-1] != "run 2 of 2: other, seed 0"
    results, log = run_logged(config, tmp_path / "out")
    assert results.failed == ()
    assert any("vanilla: train: epoch 2" in line for line in log)
    assert not any("vanilla: train: epoch 1" in line for line in log)


def test_what_no_training_can_change_is_said_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    model.write_text(
        "from torch import nn\n\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10).requires_grad_(False))\n"
    )
    config = small_config(str(folder / "digits.npz"), {"vanilla": VANILLA}, model=f"{model}:build", model_args={})
    with pytest.raises(TrainingFailed, match="no trainable parameters"):
        run_study(config, tmp_path / "frozen", name="test")
    digits = small_config(str(folder / "digits.npz"), {"vanilla": VANILLA})
    labels = np.ones(200, np.int64)
    labels[seed_run(digits, tmp_path)[0].splits.validation.ids] = 0
    with np.load(folder / "digits.npz") as arrays:
        np.savez(tmp_path / "ones.npz", **{**arrays, "y_train": labels, "y_test": arrays["y_test"] % 2})
    with pytest.raises(TrainingFailed, match="all 100 training examples are of class 1"):
        run_study(replace(digits, data=str(tmp_path / "ones.npz")), tmp_path / "ones", name="test")
    assert not list(tmp_path.rglob("stage.json"))


def test_a_last_layer_that_is_zero_before_training(folder: Path, tmp_path: Path) -> None:
    """Vision transformers have one; before training, its logits have no gradient with respect to the inputs."""
    model = tmp_path / "model.py"
    model.write_text(
        "from torch import nn\n\ndef build():\n"
        "    last = nn.Linear(16, 10)\n    nn.init.zeros_(last.weight)\n    nn.init.zeros_(last.bias)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), last)\n"
    )
    config = small_config(str(folder / "digits.npz"), {"vanilla": VANILLA}, model=f"{model}:build", model_args={})
    results = run_study(config, tmp_path / "out", name="test", log=lambda line: None)
    assert results.failed == ()


def test_failed_runs_are_counted_beside_those_with_rows() -> None:
    results = Results(
        kind="study",
        name="test",
        data=DataSummary("digits", 10),
        methods=(Method("vanilla", "vanilla"), Method("mixup", "mixup")),
        reference="vanilla",
        rows=(Row("vanilla", "none", 3, "none", 0, n=5, metrics={}),),
    )
    failed = replace(results, failed=(FailedRun("mixup", 3, "it diverged"),))
    assert describe_failed(failed) == "1 of 2 runs failed: mixup, seed 3 (it diverged)"
    assert describe_failed(results) == ""
