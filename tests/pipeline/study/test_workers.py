"""A study on several workers: equal files, whoever does the tasks, and a worker that dies costs one task."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_study import ADAPTIVE, VANILLA, save_digits, small_config

from aradals.errors import InputError
from aradals.pipeline.config import AdaptiveTargets, MethodConfig, RankedSubsets, StudyConfig
from aradals.pipeline.study import plan, run_study
from aradals.pipeline.study.execute import Order, Outcome, RemainingTime, do_tasks
from aradals.pipeline.study.tasks import Evaluate, Predict, Score, Task, Train, goals
from aradals.pipeline.study.workspace import Workspace
from aradals.pipeline.workers import ThisProcess, Workers, open_workers
from aradals.results import Results

AR_ADALS = MethodConfig(targets=AdaptiveTargets(rule=ADAPTIVE, subsets=RankedSubsets(count=2)))

OBJECTIVES = """
import os, signal
from pathlib import Path
from torch.nn.functional import cross_entropy

def dies(model, inputs, labels):
    if model.training:
        os.kill(os.getpid(), signal.SIGKILL)
    logits = model(inputs)
    return cross_entropy(logits, labels), logits

def dies_once(model, inputs, labels):
    mark = Path(__file__).with_name("mark")
    if model.training and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    logits = model(inputs)
    return cross_entropy(logits, labels), logits
"""

RECIPE = """
data: digits
model: small_cnn
model_args: {width: 4}
splits: {validation: 40, calibration: 40, train: 100}
training: {epochs: 3000, batch_size: 20, learning_rate: 0.01}
methods: {vanilla: {}}
seeds: [0, 1]
scoring: {attack: logit_margin}
evaluation: {num_subsets: 3, num_resamples: 20}
"""

_MEASURED = ("seconds", "relative_cost")


def ignore(line: str) -> None:
    """Drop a line of the log; a function that can be pickled."""


def study_of(tmp_path: Path, **changes: Any) -> StudyConfig:
    methods = {"vanilla": VANILLA, "ar_adals": AR_ADALS}
    return small_config(save_digits(tmp_path / "data.npz"), methods, **changes)


def objective(folder: Path, name: str) -> MethodConfig:
    (folder / "objectives.py").write_text(OBJECTIVES)
    return MethodConfig(objective=f"{folder / 'objectives.py'}:{name}")


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the files that hold no seconds."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.suffix in (".npz", ".parquet")}
    found |= {str(path.relative_to(folder)): path for path in folder.rglob("*.safetensors")}
    return {name: path.read_bytes() for name, path in found.items() if name != "table.parquet"}


def measured(results: Results) -> list[dict[str, Any]]:
    rows = results.to_frame().drop(columns=list(_MEASURED)).to_dict("records")
    return [{name: str(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("number", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_equal_files_whatever_the_number_of_workers(number: int, tmp_path: Path) -> None:
    """One worker dies, which costs the task that it was doing."""
    config = study_of(tmp_path)
    config.methods["mortal"] = objective(tmp_path, "dies_once")
    several = run_study(config, tmp_path / "several", workers=number, log=ignore)
    assert (tmp_path / "mark").exists()
    assert not several.failed
    one = run_study(config, tmp_path / "one", log=ignore)
    assert len(contents(tmp_path / "one")) > 10
    assert contents(tmp_path / "several") == contents(tmp_path / "one")
    assert measured(several) == measured(one)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_files(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra distributed")
    config = study_of(tmp_path)
    run_study(config, tmp_path / "one", log=ignore)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        run_study(config, tmp_path / "cluster", workers=f"dask:{cluster.scheduler_address}", log=ignore)
    assert contents(tmp_path / "cluster") == contents(tmp_path / "one")


@pytest.mark.slow
def test_a_task_that_kills_every_worker_fails_alone(tmp_path: Path) -> None:
    methods = {"vanilla": VANILLA, "mortal": objective(tmp_path, "dies")}
    results = run_study(small_config(save_digits(tmp_path / "data.npz"), methods), tmp_path / "out", workers=2)
    [failed] = results.failed
    assert failed.method == "mortal"
    assert "3 workers have died" in failed.reason
    assert "fewer --workers" in failed.reason
    assert {row.method for row in results.rows} == {"vanilla"}


def test_one_worker_keeps_the_order_of_the_plan(tmp_path: Path) -> None:
    done: list[str] = []

    class Recorder(ThisProcess):
        def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
            done.append(args[0]["folder"])
            future: Future[Any] = Future()
            future.set_result(Outcome(None, 1.0))
            return future

    config = study_of(tmp_path, seeds=[0, 1])
    outcomes = list(do_tasks(goals(config), Workspace(tmp_path, "cpu", ignore), Workers(Recorder())))
    assert done == [task.folder for task in plan(config)] == [task.folder for task, _ in outcomes]


def handed_out(config: StudyConfig, cores: int) -> list[Task]:
    """The order of the tasks if workers do one after the other."""
    waiting, found = {task.digest: task for task in plan(config)}, list[Task]()
    order = Order(list(waiting.values()), cores)
    while task := order.next(waiting, {each.digest for each in found}):
        found.append(waiting.pop(task.digest))
    assert not waiting
    return found


def test_a_long_chain_comes_first_near_the_end(tmp_path: Path) -> None:
    config = study_of(tmp_path, seeds=[0, 1, 2, 3])
    tasks = plan(config)
    found = handed_out(config, 2)
    first = len(tasks) // 4
    assert found[:first] == tasks[:first]
    assert found != tasks
    chains = Order(tasks, 2).chains
    vanilla = next(task for task in tasks if task.folder == "seed-3/vanilla/train")
    # train, score two splits (one of them decides), train, evaluate, and two short tasks
    assert chains[vanilla.digest] == pytest.approx(4 + 2 + 4 + 0.2 + 0.2 + 1)
    assert handed_out(config, 1) == tasks
    many = [type(task) for task in handed_out(config, 100)]
    assert many[:4] == [Train] * 4  # every seed has a chain that is longer than the share of a core


def test_processes_start_before_their_first_task(tmp_path: Path) -> None:
    mark = partial(Path.touch, tmp_path / "mark")
    with open_workers(2, most=2, device="cpu", threads=1, log=ignore, prepare=mark):
        deadline = time.monotonic() + 60
        while not (tmp_path / "mark").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_work_may_end_while_processes_start() -> None:
    before = set(psutil.Process().children(recursive=True))
    with open_workers(2, most=2, device="cpu", threads=1, log=ignore, prepare=ignore_nothing):
        pass
    deadline = time.monotonic() + 60
    while [each for each in set(psutil.Process().children(recursive=True)) - before if "LokyProcess" in name_of(each)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ignore_nothing() -> None:
    """Do nothing; a function that can be pickled."""


def name_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def test_tasks_that_need_a_failed_task_have_its_failure(tmp_path: Path) -> None:
    failure = InputError(expected="a", got="b", hint="c")

    class Failing(ThisProcess):
        def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(Outcome(failure if args[0]["folder"].endswith("ar_adals/train") else None, 1.0))
            return future

    found = do_tasks(goals(study_of(tmp_path)), Workspace(tmp_path, "cpu", ignore), Workers(Failing()))
    failed = {task.folder for task, outcome in found if outcome.failure is failure}
    folders = ("train", "predict", "calibrate", "evaluate")
    assert failed == {f"seed-0/ar_adals/{name}" for name in folders}


@pytest.mark.parametrize(("spec", "most", "number"), [(1, 9, 1), ("2", 9, 2), (8, 3, 3), (5, 1, 1), (None, 1, 1)])
def test_number_of_workers(spec: int | str | None, most: int, number: int) -> None:
    with open_workers(spec, most=most, device="cpu", threads=1, log=ignore) as workers:
        assert workers.number == number
        assert (type(workers.executor) is ThisProcess) == (number == 1)


def test_each_worker_knows_how_many_share_the_machine() -> None:
    with open_workers(2, most=2, device="cpu") as workers:
        assert workers.executor.submit(os.getenv, "ARADALS_NUM_WORKERS").result() == "2"


def test_signals_of_a_terminal_are_for_the_main_thread_alone() -> None:
    """A worker that is just starting has no handler yet, and would print a traceback."""
    with open_workers(2, most=2, device="cpu", threads=1, log=ignore) as workers:
        blocked = workers.executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert blocked == {signal.SIGINT, signal.SIGHUP}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    assert "ignore:resource_tracker" not in sys.warnoptions


@pytest.mark.parametrize("spec", ["0", "-1", "many", "1.5", "dask"])
def test_other_numbers_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match="a number of workers"), open_workers(spec, most=3, device="cpu"):
        pass


def test_a_scheduler_that_does_not_answer_is_an_input_error() -> None:
    pytest.importorskip("distributed", reason="needs the extra distributed")
    with pytest.raises(InputError, match="a scheduler that answers"), open_workers("dask:nonsense://", most=3):
        pass


def test_remaining_time(tmp_path: Path) -> None:
    runs = goals(study_of(tmp_path, seeds=[0, 1]))
    seconds: dict[type[Task], float] = {Train: 600, Score: 60, Predict: 30, Evaluate: 30}
    remaining = RemainingTime(runs, num_workers=2)
    tasks = plan(study_of(tmp_path, seeds=[0, 1]))
    first = next(position for position, task in enumerate(tasks) if task.source.seed == 1)
    assert not str(remaining)
    for task in tasks[:first]:
        remaining.count(task, Outcome(None, seconds.get(type(task), 0)))
    left = sum(seconds.get(type(task), 0) for task in tasks[first:])
    assert str(remaining) == f"; about {left / 2 / 60:.0f} min left"


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGKILL, signal.SIGINT, signal.SIGHUP)),
    ],
)
def test_no_worker_outlives_its_study(number: signal.Signals, tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "cli"))
    from command_process import start, write_recipe

    recipe = write_recipe(tmp_path)
    process = start(
        "run",
        recipe,
        "--seeds=[0, 1]",
        "--training.epochs=3000",
        "--workers=2",
        "--output",
        tmp_path / "out",
        start_new_session=True,
    )
    assert process.stderr is not None
    seen = set()
    for line in process.stderr:
        seen |= {seed for seed in "01" if f"[seed {seed}] vanilla: train: epoch 2/" in line}
        if len(seen) == 2:
            break
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    if number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all of its processes
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    err = process.stderr.read()
    assert process.wait() == (128 + number if number != signal.SIGKILL else -number)
    deadline = time.monotonic() + 60
    while alive := [each for each in workers if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
    assert all(line.startswith(("[seed ", "interrupted; ")) for line in err.splitlines()), err
    if number != signal.SIGKILL:
        assert err.splitlines()[-1] == "interrupted; the same command goes on from here", err
