"""Execution of the tasks of a study, each as soon as its inputs exist."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from aradals.errors import InputError, OutputError
from aradals.pipeline.study.tasks import Evaluate, Score, Task, Train, in_order
from aradals.pipeline.study.work import run_task
from aradals.pipeline.study.workspace import Workspace
from aradals.pipeline.workers import MAX_DEATHS, Workers, died_too_often, torch_threads

ALONE = threading.RLock()
"""Lock of the thread that does tasks; other threads of the process wait, because all share torch's generator."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task.

    Attributes:
        failure: the error of the task, or of a task that it needs; None for success.
        seconds: wall time.
    """

    failure: InputError | None = None
    seconds: float = 0.0


def do_tasks(goals: Sequence[Task], space: Workspace, workers: Workers) -> Iterator[tuple[Task, Outcome]]:
    """Do tasks and all tasks that they need, each as soon as its inputs exist.

    A task whose worker dies is tried again, at most three times in all.

    Args:
        goals: the tasks, which are handed out in this order, see `Order`.
        space: the folder of the study.
        workers: workers that can read and write this folder.

    Yields:
        Each task when it is done or has failed. If a task fails, all tasks that only goals with this task need have the
        same failure.

    Raises:
        OutputError: a file cannot be written, which affects all tasks.
    """
    waiting = {task.digest: task for task in in_order(goals)}
    needed_for = {goal.digest: {task.digest for task in in_order([goal])} for goal in goals}
    order = Order(list(waiting.values()), workers.cores)
    running: dict[Future[Outcome], Task] = {}
    done: set[str] = set()
    deaths: Counter[str] = Counter()
    while waiting or running:
        while len(running) < workers.number and (task := order.next(waiting, done)):
            running[workers.executor.submit(_do, task.record, space, workers.threads)] = waiting.pop(task.digest)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            if isinstance(error := future.exception(), workers.lost):
                deaths[task.digest] += 1
                space.log_of(task)("its worker has died")
                if deaths[task.digest] < MAX_DEATHS:
                    waiting = {task.digest: task, **waiting}
                    continue
                outcome = Outcome(died_too_often(error))
            else:
                outcome = future.result()
            yield task, outcome
            done.add(task.digest)
            if outcome.failure:
                needed_for = {goal: tasks for goal, tasks in needed_for.items() if task.digest not in tasks}
                needed = set().union(*needed_for.values())
                for digest in [each for each in waiting if each not in needed]:
                    yield waiting.pop(digest), Outcome(outcome.failure)


_SECONDS: dict[type[Task], float] = {Train: 4.0, Score: 2.0, Evaluate: 1.0}
"""Typical times of tasks, as multiples of each other; all other tasks are short."""

_SLACK = 2.0


class Order:
    """The order in which tasks are handed out.

    This is the order of the plan, so that the first runs are finished early. But a task comes first if the chain of
    tasks that begins with it would take more than half of the time that is left, because all workers would have to wait
    for this chain at the end.
    """

    def __init__(self, tasks: Sequence[Task], cores: int) -> None:
        self._cores = cores
        self.chains = longest_chains(tasks, {task.digest: _seconds(task) for task in tasks})

    def next(self, waiting: Mapping[str, Task], done: Collection[str]) -> Task | None:
        """Choose one of the waiting tasks whose inputs exist; None if there is no such task."""
        ready = [task for task in waiting.values() if all(each.digest in done for each in task.needs)]
        if not ready or self._cores == 1:
            return next(iter(ready), None)
        urgent = max(ready, key=lambda task: self.chains[task.digest])
        time_left = sum(map(_seconds, waiting.values())) / self._cores
        return urgent if _SLACK * self.chains[urgent.digest] >= time_left else ready[0]


def longest_chains(tasks: Sequence[Task], seconds: Mapping[str, float]) -> dict[str, float]:
    """Sum the seconds of the longest chain of tasks that begins with each task, which all other workers cannot shorten.

    Args:
        tasks: tasks, each after the tasks that it needs.
        seconds: time of each task by its digest.
    """
    chains = {task.digest: seconds[task.digest] for task in tasks}
    for task in reversed(tasks):
        for need in task.needs:
            chains[need.digest] = max(chains[need.digest], seconds[need.digest] + chains[task.digest])
    return chains


def _seconds(task: Task) -> float:
    return _SECONDS.get(type(task), 0.2)


class RemainingTime:
    """Estimate of the wall time that the remaining tasks need, from the mean time of each kind of task."""

    def __init__(self, goals: Sequence[Task], num_workers: int) -> None:
        self._remaining = Counter(type(task) for task in in_order(goals))
        self._parallel = min(num_workers, len(goals))
        self._seconds: dict[type[Task], list[float]] = {}

    def count(self, task: Task, outcome: Outcome) -> None:
        """Count a task that is done."""
        self._remaining[type(task)] -= 1
        self._seconds.setdefault(type(task), []).append(outcome.seconds)

    def __str__(self) -> str:
        """Return ``; about 5 min left``, or nothing while a kind of task has not been seen."""
        remaining = +self._remaining
        if not remaining or remaining.keys() - self._seconds.keys():
            return ""
        seconds = sum(number * statistics.fmean(self._seconds[kind]) for kind, number in remaining.items())
        minutes = seconds / self._parallel / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than 1 min left"


def _do(record: dict[str, Any], space: Workspace, threads: int | None) -> Outcome:
    """Do a task in a worker, and return an error that affects only this task and those that need it."""
    start = time.monotonic()
    with ALONE, torch_threads(threads):
        try:
            run_task(record, space)
        except OutputError:
            raise
        except InputError as error:
            # The traceback would keep the model in memory.
            error.__cause__ = error.__context__ = error.__traceback__ = None
            return Outcome(error, time.monotonic() - start)
    return Outcome(None, time.monotonic() - start)
