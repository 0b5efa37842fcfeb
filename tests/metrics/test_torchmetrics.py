"""The torchmetrics classes give what the functions give, over batches, merged states and processes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aradals import metrics
from aradals.errors import InputError

modular = pytest.importorskip("aradals.metrics.torchmetrics", exc_type=ImportError)

NUM_CLASSES = 5

CASES: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "accuracy": (modular.Accuracy, metrics.accuracy),
    "confidence": (modular.MeanConfidence, metrics.mean_confidence),
    "nll": (modular.NLL, metrics.nll),
    "brier": (modular.BrierScore, metrics.brier_score),
    "brier_calibration": (lambda: modular.BrierCalibration(NUM_CLASSES), metrics.brier_calibration),
    "brier_refinement": (lambda: modular.BrierRefinement(NUM_CLASSES), metrics.brier_refinement),
    "ece": (modular.ExpectedCalibrationError, metrics.expected_calibration_error),
    "mce": (modular.MaxCalibrationError, metrics.max_calibration_error),
    "classwise_ece": (lambda: modular.ClasswiseCalibrationError(NUM_CLASSES), metrics.classwise_calibration_error),
    "smooth_ece": (modular.SmoothCalibrationError, metrics.smooth_calibration_error),
    "adaptive_ece": (modular.AdaptiveCalibrationError, metrics.adaptive_calibration_error),
    "debiased_l2_ece": (modular.DebiasedL2CalibrationError, metrics.debiased_l2_calibration_error),
    "ks_error": (modular.KSCalibrationError, metrics.ks_calibration_error),
    "aurc": (modular.AURC, metrics.aurc),
    "accuracy_at_coverage_90": (modular.AccuracyAtCoverage, metrics.accuracy_at_coverage),
    "error_auroc": (modular.ErrorAUROC, metrics.error_auroc),
    "all": (lambda: modular.AllMetrics(NUM_CLASSES), metrics.all_metrics),
}
CAT_STATES = {
    "adaptive_ece", "debiased_l2_ece", "ks_error", "aurc", "accuracy_at_coverage_90", "error_auroc", "all",
}  # fmt: skip


def problem(n: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, NUM_CLASSES, generator=generator)
    return logits, (logits + 2 * torch.randn(n, NUM_CLASSES, generator=generator)).argmax(1)


def plain(value: Any) -> Any:
    return {name: float(each) for name, each in value.items()} if isinstance(value, dict) else float(value)


@pytest.mark.parametrize("name", list(CASES))
def test_batches_and_merged_states_give_the_function(name: str) -> None:
    build, function = CASES[name]
    logits, labels = problem()
    expected = pytest.approx(function(labels, logits=logits), abs=1e-9)
    first, second = build(), build()
    for rows in (slice(0, 1), slice(1, 130)):
        first.update(labels[rows], logits=logits[rows])
    second.update(labels[130:], probs=logits[130:].double().softmax(1))
    first.merge_state(second)
    assert plain(first.compute()) == expected
    first.reset()
    first.update(labels, logits=logits)
    assert plain(first.compute()) == expected


@pytest.mark.parametrize("name", list(CASES))
def test_state_grows_only_where_ranks_are_needed(name: str) -> None:
    metric = CASES[name][0]()
    logits, labels = problem()
    for _ in range(3):
        metric.update(labels, logits=logits)
    grows = any(isinstance(value, list) for value in metric.metric_state.values())
    assert grows == (name in CAT_STATES)


def test_subsets() -> None:
    logits, labels = problem()
    subsets = torch.arange(300) % 7
    expected = metrics.subset_calibration_error(labels, subsets, logits=logits)
    mean, largest = modular.MeanSubsetCalibrationError(10), modular.LargestSubsetCalibrationError(10)
    for metric in (mean, largest):
        for rows in (slice(0, 90), slice(90, 300)):
            metric.update(labels[rows], subsets[rows], logits=logits[rows])
    assert float(mean.compute()) == pytest.approx(expected.mean, abs=1e-12)
    assert float(largest.compute()) == pytest.approx(expected.largest, abs=1e-12)
    with pytest.raises(InputError, match="num_subsets=7"):
        modular.MeanSubsetCalibrationError(3).update(labels, subsets, logits=logits)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", list(CASES))
def test_no_examples_and_bad_input_are_refused(name: str) -> None:
    metric = CASES[name][0]()
    with pytest.raises(InputError, match="at least one example"):
        metric.compute()
    logits, labels = problem()
    with pytest.raises(InputError):
        metric.update(labels, probs=logits)


def test_in_a_collection() -> None:
    from torchmetrics import MetricCollection

    logits, labels = problem()
    collection = MetricCollection({"ece": modular.ExpectedCalibrationError(), "aurc": modular.AURC()})
    collection.update(labels, logits=logits)
    expected = {
        "ece": metrics.expected_calibration_error(labels, logits=logits),
        "aurc": metrics.aurc(labels, logits=logits),
    }
    assert plain(collection.compute()) == pytest.approx(expected)


def one_of_two_processes(rank: int, folder: str) -> None:
    """Unequal shares: 100 and 200 examples."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits, labels = problem()
    rows = slice(0, 100) if rank == 0 else slice(100, 300)
    found = {}
    for name, (build, _) in CASES.items():
        metric = build()
        metric.update(labels[rows], logits=logits[rows])
        found[name] = plain(metric.compute())
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_metrics_of_all_examples(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_of_two_processes, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    logits, labels = problem()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, (_, function) in CASES.items():
            assert found[name] == pytest.approx(function(labels, logits=logits), abs=1e-9), name


def test_importing_aradals_does_not_import_torchmetrics() -> None:
    code = "import sys, aradals, aradals.metrics; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
