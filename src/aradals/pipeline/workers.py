"""Workers that do tasks at the same time: this process, several processes of this machine, or a Dask cluster."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import torch

from aradals._internal.optional import load_extra
from aradals.errors import InputError, TrainingFailed
from aradals.inference.predictions import resolve_device

Log = Callable[[str], None]

MAX_DEATHS = 3
"""Number of workers that may die of the same task."""

_PARENT_SECONDS = 0.2
_QUIET = "ignore:resource_tracker"
_NUM_SHARING = "ARADALS_NUM_WORKERS"  # tells a worker how many there are on this machine


@dataclass(frozen=True)
class Workers:
    """Workers that do tasks at the same time.

    Attributes:
        executor: executor of `concurrent.futures`.
        number: largest number of tasks that are handed out at once.
        cores: number of tasks that are done at the same time.
        threads: number of torch's threads in each worker; None leaves the number as it is.
        lost: errors of a future whose worker has died.
    """

    executor: Executor
    number: int = 1
    cores: int = 1
    threads: int | None = None
    lost: tuple[type[BaseException], ...] = (BrokenExecutor,)


def died_too_often(error: BaseException | None) -> TrainingFailed:
    """Make the error for a task that no worker survives."""
    return TrainingFailed(
        f"{MAX_DEATHS} workers have died of this task, perhaps because memory ran out ({error}); try fewer --workers"
    )


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Set the number of torch's threads, because the rounding of sums depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def open_workers(
    spec: int | str | None,
    *,
    most: int,
    device: str = "auto",
    devices: int = 1,
    threads: int | None = None,
    log: Log = print,
    prepare: Callable[[], None] | None = None,
) -> Iterator[Workers]:
    """Start workers, and stop them after the block.

    Args:
        spec: number of processes on this machine; None for one per GPU if the device is a GPU, else one per core; or
            ``dask:ADDRESS``, the scheduler of a Dask cluster whose workers share the output folder.
        most: largest number of processes that can be of use.
        device: see `resolve_device`. If the machine has several GPUs, each process uses one of them.
        devices: number of GPUs or cores that each process uses instead of one.
        threads: number of torch's threads in each worker.
        log: called in the workers with each warning. Another process needs a function that can be pickled.
        prepare: function that a process calls as soon as it has started, such as one that imports what its tasks need.

    Raises:
        InputError: the number is not positive, or no scheduler answers.
        MissingExtraError: the extra ``distributed`` is missing.
    """
    if isinstance(spec, str) and spec.startswith("dask:"):
        with _dask_client(spec.removeprefix("dask:")) as (client, lost):
            cores = max(1, sum(client.nthreads().values()))
            # Dask itself tries a task again if its worker dies.
            yield Workers(client.get_executor(pure=False), sys.maxsize, cores, threads, lost)
        return
    gpus = _grouped(_gpus(device), devices)
    number = min(_number_of(spec) or len(gpus) or max(1, _num_cores() // devices), most)
    if number == 1:
        yield Workers(ThisProcess(), threads=threads)
        return
    with _Processes(number, gpus, log) as executor:
        if prepare is not None:
            executor.start(prepare)
        yield Workers(executor, number, number, threads)


def open_processes(number: int, log: Log) -> AbstractContextManager[Executor]:
    """Start processes of this machine, all of which see the same devices, and end them after the block."""
    return _Processes(number, [], log)


def _grouped(gpus: list[str], size: int) -> list[str]:
    """Join GPUs to groups; GPUs that fill no group are left out."""
    return [",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]


def _number_of(spec: int | str | None) -> int | None:
    if spec is None:
        return None
    if not str(spec).isdigit() or int(spec) < 1:
        raise InputError(expected="a number of workers, or dask:ADDRESS", got=str(spec), hint="--workers 2")
    return int(spec)


def _num_cores() -> int:
    """Count the cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_own_cores() -> int:
    """Count the cores that this process may use, divided by the number of workers that share them."""
    return max(1, _num_cores() // _num_sharing())


def _num_sharing() -> int:
    """Count the workers of this machine that this process is one of; 1 for a process that is no worker."""
    return int(os.environ.get(_NUM_SHARING, "1"))


def _gpus(device: str) -> list[str]:
    """List the GPUs for CUDA_VISIBLE_DEVICES; empty if the device is no GPU, or a certain one."""
    if resolve_device(device) != torch.device("cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def _dask_client(address: str) -> Iterator[tuple[Any, tuple[type[BaseException], ...]]]:
    distributed = load_extra("distributed")
    try:
        client = distributed.Client(address)
    except (OSError, ValueError) as error:
        raise InputError(
            expected="--workers dask:ADDRESS of a scheduler that answers",
            got=f"{address!r} ({error})",
            hint="dask:tcp://HOST:8786, the address that the scheduler prints at its start",
        ) from error
    with client:
        yield client, (distributed.scheduler.KilledWorker,)


class ThisProcess(Executor):
    """Executor that does each call at once."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Do the call, and return its value; an error is raised here."""
        future: Future[Any] = Future()
        future.set_result(function(*args, **options))
        return future


class _Processes(Executor):
    """Executor of processes; the death of one process does not affect the others.

    Each thread of a pool keeps one process, and starts another one after the process has died.
    """

    def __init__(self, number: int, gpus: Sequence[str], log: Log) -> None:
        self._number, self._gpus, self._log = number, gpus, log
        self._threads = ThreadPoolExecutor(number, initializer=_block_signals)
        self._places = itertools.count()
        self._own = threading.local()
        self._started: ExitStack | None = ExitStack()
        self._starting = threading.Lock()
        # The processes that remove the semaphores of a killed study inherit this, and then do not report it.
        sys.warnoptions.append(_QUIET)
        self._started.callback(sys.warnoptions.remove, _QUIET)

    def start(self, prepare: Callable[[], None]) -> None:
        """Start all processes now, while this process prepares their tasks."""
        for _ in range(self._number):
            self._threads.submit(self._in_process, prepare)

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        return self._threads.submit(self._in_process, function, *args, **options)

    def _in_process(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        if not hasattr(self._own, "place"):
            self._own.place, self._own.process = next(self._places), None
        if self._own.process is None:
            self._own.process = self._start(self._own.place)
        try:
            return self._own.process.submit(function, *args, **options).result()
        except BrokenExecutor:
            self._own.process = None
            raise

    def _start(self, place: int) -> Any:
        settings = {_NUM_SHARING: str(self._number * _num_sharing())}
        if self._gpus:
            settings["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        with self._starting:
            if self._started is None:
                raise BrokenExecutor("all work has ended")
            process = load_extra("loky").ProcessPoolExecutor(
                1, env=settings, initializer=_begin_worker, initargs=(os.getpid(), self._log)
            )
            self._started.callback(partial(process.shutdown, kill_workers=True))
        return process

    def __exit__(self, *error: object) -> None:
        """End the processes at once, because every task can be continued."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._starting:
            started, self._started = self._started, None
        if started is not None:
            started.close()
        self._threads.shutdown()


def _block_signals() -> None:
    """Leave Ctrl-C and a closing terminal to the main thread: processes of this thread inherit the block at once."""
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        resource_tracker.ensure_running()  # because its start ends a block of Ctrl-C
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _begin_worker(parent: int, log: Log) -> None:
    """Prepare a worker process: the parent decides on signals, and the worker ends if the parent dies."""

    def show(message: Warning | str, category: type[Warning], *more: object, **options: object) -> None:
        if category is UserWarning:
            log(f"warning: {message}")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_SECONDS)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TQDM_DISABLE"] = "1"  # the parent shows one bar for all workers
    # The lock that tqdm makes by default belongs to several processes, and would outlive a killed one.
    load_extra("tqdm").tqdm.set_lock(threading.RLock())
    warnings.showwarning = show
    threading.Thread(target=watch, daemon=True).start()
