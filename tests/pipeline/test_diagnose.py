"""A diagnosis as a Python function: what it takes, what it gives, and what it leaves behind."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aradals import InputError, Results, diagnose, score_dataset
from aradals.data import Examples
from aradals.inference.predictions import predict
from aradals.pipeline import score as scoring
from aradals.pipeline.classifier import as_classifier
from aradals.pipeline.diagnose import diagnose_predictions
from aradals.pipeline.thresholds import MAX_ERRORS
from aradals.results.files import plain
from aradals.smoothing.subsets import assign_subsets
from in_memory import check_results, make_model, make_tensors, no_temporary_files, three_kinds

DATA = make_tensors(1)
IDS = torch.arange(90)


def quiet(line: str) -> None:
    """No log."""


@pytest.fixture(scope="module")
def results() -> Results:
    return diagnose(make_model(), DATA, num_subsets=3, audit=30, log=quiet)


def test_rows_are_of_all_examples_and_of_each_subset(results: Results) -> None:
    assert (results.kind, results.name, results.num_subsets) == ("diagnosis", "Sequential", 3)
    assert [row.subset for row in results.rows] == [None, 0, 1, 2]
    assert [row.n for row in results.rows] == [90, 30, 30, 30]
    assert [each.subset for each in results.reliability] == [None, 0, 1, 2]
    subsets = assign_subsets(score_dataset(make_model(), DATA).for_ids(IDS).score.double(), 3, IDS)
    inputs, labels = DATA
    with torch.no_grad():
        confidence, predicted = make_model()(inputs).softmax(1).max(1)
    correct = (predicted == labels).double()
    for row in results.rows:
        member = torch.ones(90, dtype=torch.bool) if row.subset is None else subsets == row.subset
        assert row["accuracy"].value == pytest.approx(correct[member].mean().item())
        assert row["confidence"].value == pytest.approx(confidence[member].mean().item(), abs=1e-5)
        assert row["gap"].value == pytest.approx((confidence[member] - correct[member]).mean().item(), abs=1e-5)
    assert results.rows[1]["confidence"].value < results.rows[3]["confidence"].value


def test_classes_of_the_least_robust_subset(results: Results) -> None:
    shares = results.least_robust_classes
    assert sum(share.n for share in shares) == 30
    assert sum(share.share for share in shares) == pytest.approx(1)
    assert [share.n for share in shares] == sorted((share.n for share in shares), reverse=True)
    for share in shares:
        assert share.base_share == pytest.approx((DATA[1] == share.label).double().mean().item())
        assert share.share == pytest.approx(share.n / 30)


def test_thresholds_and_audit(results: Results) -> None:
    inputs, labels = DATA
    with torch.no_grad():
        confidence, predicted = make_model()(inputs).softmax(1).max(1)
    found = [(each.max_error, each.subset) for each in results.thresholds]
    assert found == [(max_error, subset) for max_error in MAX_ERRORS for subset in (None, 0, 1, 2)]
    for each in results.thresholds[:: len(found) // 2]:
        if each.threshold is None:
            assert (each.n, each.coverage) == (0, 0.0)
            assert math.isnan(each.error)
            continue
        accepted = confidence >= each.threshold - 1e-6
        assert each.n == int(accepted.sum())
        assert each.coverage == pytest.approx(each.n / 90)
        assert each.error == pytest.approx((predicted != labels)[accepted].double().mean().item())
        assert each.error <= each.max_error
    assert results.audit is not None
    assert results.audit.num_examples == 30
    assert results.audit.agreement.spearman.value > 0.9


def test_what_can_be_done_with_results(results: Results, tmp_path: Path) -> None:
    check_results(results, tmp_path)
    assert results.classes
    assert results.pictures.least_robust
    assert [each.attack.split("(")[0] for each in results.scoring] == ["secant"]


@pytest.mark.parametrize("kind", ["loader", "examples"])
def test_the_same_for_all_kinds_of_data(kind: str, results: Results) -> None:
    found = diagnose(make_model(), three_kinds(DATA)[kind], num_subsets=3, audit=0, log=quiet)
    assert found.rows == results.rows
    for part in ("reliability", "classes", "least_robust_classes", "thresholds", "pictures"):
        assert plain(getattr(found, part)) == plain(getattr(results, part)), part
    assert found.audit is None


def test_scores_that_are_there(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    score_dataset(make_model(), DATA, output=path)
    found = diagnose(make_model(), DATA, scores=path, num_subsets=3, audit=0, log=quiet)
    assert found.rows == results.rows
    other = tmp_path / "others.parquet"
    score_dataset(make_model(), Examples(*DATA, num_classes=3, ids=1000 + IDS), output=other)
    with pytest.raises(InputError, match="90"):
        diagnose(make_model(), DATA, scores=other, num_subsets=3, audit=0, log=quiet)


def test_nothing_is_left_behind_without_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = no_temporary_files(tmp_path, monkeypatch)
    diagnose(make_model(), DATA, num_subsets=3, audit=10, log=quiet)
    assert list(folder.iterdir()) == []
    with pytest.raises(InputError, match="gradient"):
        diagnose(Rounds(), DATA, num_subsets=3, log=quiet)
    assert list(folder.iterdir()) == []


class Rounds(nn.Module):
    """A model without gradients."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.flatten(1)[:, :3].mul(9).round().detach()


def test_an_interrupted_call_goes_on(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"num_subsets": 3, "audit": 30, "output": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score_examples", interrupt)
        with pytest.raises(KeyboardInterrupt):
            diagnose(make_model(), DATA, **settings, log=quiet)
    log: list[str] = []
    found = diagnose(make_model(), DATA, **settings, log=log.append)
    assert "predictions: done before, inputs unchanged" in log
    assert sum("examples by" in line for line in log) == 3  # the scores and both attacks of the audit
    assert found.rows == results.rows
    log.clear()
    again = diagnose(make_model(), DATA, **settings, log=log.append)
    assert plain(again) == plain(found)
    *stages, unchecked = log
    assert len(stages) == 4
    assert all(line.endswith("done before, inputs unchanged") for line in stages)
    assert unchecked.startswith("warning: could not be checked: the model was not fitted on ")


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_predictions_are_enough(results: Results) -> None:
    predictions = predict(make_model(), [(IDS, *DATA)])
    scores = score_dataset(make_model(), DATA)
    found = diagnose_predictions(predictions, name="mine", data="noise", scores=scores, num_subsets=3)
    assert [row.n for row in found.rows] == [90, 30, 30, 30]
    for row, other in zip(found.rows, results.rows, strict=True):
        assert row["nll"].value == pytest.approx(other["nll"].value, abs=1e-5)
    alone = diagnose_predictions(predictions, name="mine", data="noise", class_names=["a"])
    assert [row.subset for row in alone.rows] == [None]
    assert (alone.least_robust_classes, alone.scoring) == ((), ())
    assert alone.data.class_names == ("a", "1", "2")


def test_what_cannot_be_diagnosed() -> None:
    examples = Examples(*DATA, num_classes=3)
    tried = as_classifier(make_model(), examples)
    trained = replace(tried, fitted_examples=examples.hashes)
    with pytest.raises(InputError, match="examples that the model was not fitted on"):
        diagnose(trained, examples, num_subsets=3, log=quiet)
    with pytest.raises(InputError, match="num_subsets from 1 to 90"):
        diagnose(make_model(), DATA, num_subsets=91, log=quiet)
    with pytest.raises(InputError, match="'deepfol'"):
        diagnose(make_model(), DATA, attack="deepfol", log=quiet)


def test_a_folder_in_which_another_call_is_at_work(tmp_path: Path) -> None:
    hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n    print(flush=True)\n    sys.stdin.read()"
    arguments = [sys.executable, "-c", hold, str(tmp_path / ".aradals-lock")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="no other run that writes to"):
            diagnose(make_model(), DATA, num_subsets=3, audit=0, output=tmp_path, log=quiet)
        other.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".aradals-lock"]
    assert diagnose(make_model(), DATA, num_subsets=3, audit=0, output=tmp_path, log=quiet).rows
