"""The processes that train together: the default process group of ``torch.distributed``."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def num_processes() -> int:
    """Count the processes that train together; 1 if no process group is initialized."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def of_all_processes(part: T) -> list[T]:
    """Gather the parts of all processes, in the order of their ranks; each process must call this function."""
    parts = [part] * num_processes()
    if len(parts) > 1:
        dist.all_gather_object(parts, part)
    return parts
