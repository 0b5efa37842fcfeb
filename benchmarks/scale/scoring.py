"""Time and memory of scoring, by the number of examples: both are to grow by nothing but the examples themselves.

    python benchmarks/scale/scoring.py --output /tmp/scale

Scores generated inputs of 3x8x8 bytes by a small network and the first-order margin, with two workers. Each size has a
process of its own. Prints the processor time of all processes per example, without that of the smallest size, and the
peak of the resident memory of the main process and of the larger worker. Processor time does not depend on other
programs on the machine as much as wall time does.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from aradals.data import Examples
from aradals.pipeline.classifier import Classifier, as_classifier
from aradals.pipeline.score import AttackSettings, Sharing, describe_score_file, score_file

BASE, SIZES = 2_000, (10_000, 100_000, 1_000_000)


def generated(rows: Sequence[int]) -> Tensor:
    """Make the inputs at these rows, uint8, shape (n, 3, 8, 8): always the same ones, and no two alike."""
    index = torch.tensor(rows)[:, None] * 7919 + torch.arange(192) * 104729
    return (index.remainder(65521) * index.remainder(257) >> 7).byte().reshape(-1, 3, 8, 8)


def load(num_examples: int) -> tuple[Classifier, Examples]:
    """Load the network and the examples, whose inputs are never in memory together."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 10))
    examples = Examples(generated, torch.arange(num_examples) % 10, num_classes=10, name="generated")
    return as_classifier(model, examples, log=lambda line: None), examples


def score(num_examples: int, workers: str, output: Path) -> None:
    """Score in this process and its workers."""
    classifier, examples = load(num_examples)
    settings, sharing = AttackSettings("first_order_margin"), Sharing(partial(load, num_examples), workers)
    seconds = score_file(classifier, examples, output, settings, sharing=sharing)
    print(describe_score_file(output, seconds))


@dataclass(frozen=True)
class Measured:
    """What a run has taken: processor seconds, and peaks of resident memory in MiB."""

    seconds: float
    parent: float
    worker: float


def measure(num_examples: int, workers: str, folder: Path) -> Measured:
    """Score in a process of its own, and watch it."""
    output = folder / f"{num_examples}.parquet"
    output.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--one", str(num_examples), "--workers", workers, "--output", str(output)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    parent = worker = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            parent = max(parent, resident(watched))
            worker = max([worker, *(resident(each) for each in children(watched))])
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"the scoring of {num_examples} examples has failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(seconds, parent, worker)


def children(process: psutil.Process) -> list[psutil.Process]:
    """List the workers of a process."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def resident(process: psutil.Process) -> float:
    """Read the resident memory in MiB; 0 if the process has ended."""
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int)
    given = parser.parse_args()
    if given.one is not None:
        score(given.one, given.workers, given.output)
        return
    given.output.mkdir(parents=True, exist_ok=True)
    base = measure(BASE, given.workers, given.output)
    print(f"torch {torch.__version__}, {given.workers} workers")
    print(f"{'examples':>10} {'CPU s':>8} {'µs/example':>11} {'main MiB':>9} {'worker MiB':>11}")
    print(f"{BASE:>10,} {base.seconds:>8.1f} {'':>11} {base.parent:>9.0f} {base.worker:>11.0f}", flush=True)
    for size in given.sizes:
        found = measure(size, given.workers, given.output)
        each = (found.seconds - base.seconds) / (size - BASE) * 1e6
        print(f"{size:>10,} {found.seconds:>8.1f} {each:>11.0f} {found.parent:>9.0f} {found.worker:>11.0f}", flush=True)


if __name__ == "__main__":
    main()
