"""Time of studies with 1 and 2 workers: the bound by their longest chain of tasks, and wall times in turns.

    python benchmarks/scale/workers.py --output /tmp/scale --bound    # processor times, one run of each study
    python benchmarks/scale/workers.py --output /tmp/scale

The studies are the recipe digits and 12 runs (the same three methods at four seeds). The bound is made from the processor
time of each task in one process: the sum of all tasks, the longest chain of tasks, and the time that several workers
would take if they started at once. It hardly depends on other programs on the machine. Without --bound, each study runs
with 1 and 2 workers in turns; the minimum, median and maximum of wall times and of their ratios are printed.
"""

from __future__ import annotations

import argparse
import heapq
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from aradals.pipeline.recipes import load_recipe
from aradals.pipeline.study import execute, run_studies
from aradals.pipeline.study.tasks import Task, read_task
from aradals.pipeline.study.work import prepare, run_task
from aradals.pipeline.study.workspace import Workspace

STUDIES = {
    "digits": ["digits"],
    "12 runs": ["digits", "--seeds=[0, 1, 2, 3]"],
}


def seconds_of(arguments: list[str], workers: int, output: Path) -> float:
    """Run a study from the start, and return the wall time in seconds."""
    shutil.rmtree(output, ignore_errors=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "aradals", "run", *arguments, f"--workers={workers}", f"--output={output}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def processor_seconds(arguments: list[str], output: Path) -> tuple[list[Task], dict[str, float], float]:
    """Run a study in this process; return its tasks, the processor seconds of each by digest, and those of all else."""
    shutil.rmtree(output, ignore_errors=True)
    tasks, seconds = list[Task](), dict[str, float]()

    def timed(record: Mapping[str, Any], space: Workspace) -> None:
        start, task = time.process_time(), read_task(record)
        run_task(record, space)
        tasks.append(task)
        seconds[task.digest] = time.process_time() - start

    config = load_recipe(arguments[0], dict(each.removeprefix("--").split("=", 1) for each in arguments[1:]))
    prepare()  # so that the first training does not contain its imports
    start = time.process_time()
    with mock.patch.object(execute, "run_task", timed):
        [results] = run_studies(config, output, log=lambda line: None).values()
    results.report(output / "report.html")
    return tasks, seconds, time.process_time() - start - sum(seconds.values())


def makespan(tasks: Sequence[Task], seconds: Mapping[str, float], cores: int) -> float:
    """Simulate workers that do the tasks in the order of `Order`; return the time at which the last one ends."""
    waiting, done, now = {task.digest: task for task in tasks}, set[str](), 0.0
    order, running = execute.Order(tasks, cores), list[tuple[float, str]]()
    while waiting or running:
        while len(running) < cores and (task := order.next(waiting, done)):
            heapq.heappush(running, (now + seconds[waiting.pop(task.digest).digest], task.digest))
        now, digest = heapq.heappop(running)
        done.add(digest)
    return now


def print_bounds(output: Path) -> None:
    """Print the bounds of each study."""
    print(
        f"{'study':<10} {'tasks':>8} {'longest':>8} {'2 workers':>10} {'3':>6} {'4':>6} {'parent':>7}   (CPU seconds)"
    )
    for name, arguments in STUDIES.items():
        tasks, seconds, rest = processor_seconds(arguments, output / "study")
        longest = max(execute.longest_chains(tasks, seconds).values())
        two, three, four = (makespan(tasks, seconds, cores) for cores in (2, 3, 4))
        total = sum(seconds.values())
        print(
            f"{name:<10} {total:>8.1f} {longest:>8.1f} {two:>10.1f} {three:>6.1f} {four:>6.1f} {rest:>7.1f}", flush=True
        )


def main() -> None:
    """Print a table of wall times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bound", action="store_true")
    given = parser.parse_args()
    if given.bound:
        print_bounds(given.output)
        return
    print(f"{'study':<10} {'1 worker':>22} {'2 workers':>22} {'ratio':>22}   (seconds: median, minimum to maximum)")
    for name, arguments in STUDIES.items():
        pairs = [
            tuple(seconds_of(arguments, workers, given.output / "study") for workers in (1, 2))
            for _ in range(given.rounds)
        ]
        columns = [*zip(*pairs, strict=True), [one / two for one, two in pairs]]
        shown = [f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in columns]
        print(f"{name:<10} " + " ".join(f"{each:>22}" for each in shown))


if __name__ == "__main__":
    main()
