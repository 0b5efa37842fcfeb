"""Two processes that train together, as on two devices."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist


def in_two_processes(function: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function returns in each of two processes, in which the variables of torchrun are set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    futures = [_pool().submit(_as_rank, rank, port, function, args) for rank in range(2)]
    return [future.result() for future in futures]


@cache
def _pool() -> ProcessPoolExecutor:
    """Two processes for all tests, because to start one takes seconds."""
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


def _as_rank(rank: int, port: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
        for name, value in {**numbers, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}.items():
            patch.setenv(name, str(value))
        try:
            return function(*args)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
