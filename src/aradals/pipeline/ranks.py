"""The processes that train one model together, one on each device: the ranks of the training.

A rank finds itself by the variables of torchrun. If torchrun or srun has started the command as several processes,
these are the ranks: rank 0 is the command, and the others do what it hands out (`join_ranks`). Otherwise, each
training starts its own ranks as new processes on this machine. They do not run the command line again, and end with the
training.
"""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, BrokenExecutor, wait
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from aradals._internal.processes import num_processes
from aradals.errors import InputError, OutputError, TrainingFailed
from aradals.inference.predictions import resolve_device
from aradals.pipeline.config import TrainingConfig
from aradals.pipeline.workers import Log, open_processes, torch_threads

_VARIABLES = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The variables of torchrun by which a rank finds the others."""

_Order = tuple[Callable[..., None], tuple[Any, ...]]
"""A function, and its arguments."""

_SECONDS_TO_FAIL = 10.0
"""Time in which all ranks of a failing training fail for the same reason."""


class _Group:
    """The ranks that torchrun or srun has started, after `join_ranks`.

    Attributes:
        orders: process group in which rank 0 hands out work; its members may wait for days.
        in_step: False while a training runs, or after one that has not ended in the same way in all ranks.
    """

    orders: dist.ProcessGroup | None = None
    in_step = True


def check_devices(training: TrainingConfig, device: str) -> None:
    """Raise InputError for devices that a training cannot have on this machine."""
    kind, number = resolve_device(device), training.devices
    if training.num_ranks == 1:
        return
    if ":" in str(kind) or kind.type == "mps":
        raise InputError(
            expected="training.devices=1 on this device", got=f"{number} on {device}", hint="--device cuda or cpu"
        )
    if kind.type == "cuda" and number > torch.cuda.device_count():
        raise InputError(
            expected=f"training.devices of at most {torch.cuda.device_count()}, the number of GPUs of this process",
            got=str(number),
            hint="fewer devices, or another CUDA_VISIBLE_DEVICES",
        )
    if kind.type == "cpu" and training.sync_batchnorm:
        raise InputError(
            expected="training.sync_batchnorm on GPUs only", got="device cpu", hint="training.sync_batchnorm=false"
        )
    if training.num_nodes > 1 and not is_joined():
        raise InputError(
            expected=f"the same command on {training.num_nodes} machines at once, because of training.num_nodes",
            got="one process",
            hint=f"srun or torchrun, which start {training.num_ranks} processes of `aradals train` or `aradals run`",
        )


def rank_of(training: TrainingConfig) -> int:
    """Return the rank of this process in a training; rank 0 writes the files and the log.

    Raises:
        InputError: the number of processes that train together is another one.
    """
    found = int(os.environ.get("WORLD_SIZE", 1)) if training.num_ranks > 1 else num_processes()
    if found != training.num_ranks:
        raise InputError(
            expected=f"{training.num_ranks} processes that train together (training.devices x training.num_nodes)",
            got=str(found),
            hint="aradals train or aradals run, which start the processes",
        )
    return int(os.environ["RANK"]) if training.num_ranks > 1 else 0


def is_joined() -> bool:
    """Return True if this process is one of the ranks that torchrun or srun has started."""
    return _Group.orders is not None


def workers_beside_ranks(workers: int | str | None) -> int | str | None:
    """Return the number of workers of a study, which is 1 if torchrun or srun has started the ranks.

    Raises:
        InputError: another number is asked for.
    """
    if not is_joined():
        return workers
    if workers not in (None, 1, "1"):
        raise InputError(
            expected="one worker, because torchrun or srun has started the processes of one training",
            got=f"--workers {workers}",
            hint="--workers 1, or the command without torchrun and srun",
        )
    return 1


def on_ranks(function: Callable[..., None], *args: Any, training: TrainingConfig, log: Log) -> None:
    """Call a function in all ranks of a training, and return when all are done.

    Args:
        function: function of a module, which leaves files, because it returns nothing.
        *args: arguments that can be pickled, if there are several ranks.
        training: settings of the training, with the number of ranks.
        log: called with warnings of new processes.

    Raises:
        InputError: the function has raised it in all ranks.
        TrainingFailed: a process has died.
    """
    if training.num_ranks == 1:
        function(*args)
    elif is_joined():
        _Group.in_step = False
        _hand_out((function, args))
        try:
            function(*args)
        except InputError as error:  # in all ranks, because they check the same; but only rank 0 writes
            _Group.in_step = not isinstance(error, OutputError)
            raise
        _Group.in_step = True
    else:
        _in_new_processes(function, args, training.devices, log)


def join_ranks(training: TrainingConfig) -> bool:
    """Join the processes that torchrun or srun has started together with this one, if any.

    Returns:
        False in rank 0 and in a process that was started alone: the command goes on. True in all other ranks, when the
        command has ended in rank 0: nothing is left to do.

    Raises:
        InputError: the number of processes is not devices x nodes.
    """
    launched = _launched() if training.num_ranks > 1 else {}
    if not launched:
        return False
    if int(launched["WORLD_SIZE"]) != training.num_ranks:
        raise InputError(
            expected=f"{training.num_ranks} processes (training.devices={training.devices} on each of "
            f"training.num_nodes={training.num_nodes})",
            got=f"{launched['WORLD_SIZE']} from torchrun or srun",
            hint="one process for each device",
        )
    os.environ.update(launched)
    # The first training waits until all ranks have read the data; between trainings, rank 0 may score for days.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=2))
    _Group.orders = dist.new_group(backend="gloo", timeout=timedelta(days=1000))
    if dist.get_rank() == 0:
        atexit.register(leave_ranks)
        return False
    while order := _next_order():
        function, args = order
        with suppress(InputError):  # rank 0 reports it
            function(*args)
    _leave()
    return True


def leave_ranks() -> None:
    """Let the other ranks end with the command, unless they are still in a training that has failed in rank 0 alone."""
    if is_joined() and _Group.in_step:
        _hand_out(None)
        _leave()


def _leave() -> None:
    dist.destroy_process_group()
    _Group.orders = None


def _launched() -> dict[str, str]:
    """Return the variables by which a rank of torchrun or of srun finds the others; empty if there are no others."""
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        return {name: given[name] for name in _VARIABLES} if int(given["WORLD_SIZE"]) > 1 else {}
    # The script of sbatch has SLURM_NTASKS, too, but is one process; only srun starts several.
    if int(given.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return {}
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # takes seconds

    step = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS")
    address = given.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(given["SLURM_STEP_NODELIST"])
    port = given.get("MASTER_PORT") or 15000 + (int(given["SLURM_JOB_ID"]) + int(given["SLURM_STEP_ID"])) % 10000
    return _variables("srun", *(given[name] for name in step), address, port)


def _variables(*values: object) -> dict[str, str]:
    return {name: str(value) for name, value in zip(_VARIABLES, values, strict=True)}


def _hand_out(order: _Order | None) -> None:
    dist.broadcast_object_list([order], group=_Group.orders)


def _next_order() -> _Order | None:
    received: list[_Order | None] = [None]
    try:
        dist.broadcast_object_list(received, group=_Group.orders)
    except RuntimeError as error:
        raise InputError(
            expected="rank 0 to go on, or to end in order", got="no connection to it", hint="reading the log of rank 0"
        ) from error
    return received[0]


def _in_new_processes(function: Callable[..., None], args: tuple[Any, ...], number: int, log: Log) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [_variables("aradals", rank, rank, 0, number, "127.0.0.1", port) for rank in range(number)]
    with open_processes(number, log) as executor:
        futures = [executor.submit(_as_rank, rank, torch.get_num_threads(), function, args) for rank in ranks]
        if wait(futures, return_when=FIRST_EXCEPTION).not_done:
            wait(futures, timeout=_SECONDS_TO_FAIL)
        errors = [error for future in futures if future.done() and (error := future.exception())]
    # If one rank fails, the connections of the others break.
    for error in sorted(errors, key=lambda error: not isinstance(error, InputError)):
        if isinstance(error, BrokenExecutor):
            raise TrainingFailed(
                f"a process of the training has died, perhaps because memory ran out ({error}); the same command goes "
                "on after the last finished epoch"
            ) from error
        raise error


def _as_rank(variables: dict[str, str], threads: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    # A torchrun around the command has a store of its own, which knows nothing of these ranks.
    os.environ.update({**variables, "TORCHELASTIC_USE_AGENT_STORE": "False"})
    with torch_threads(threads):
        function(*args)
