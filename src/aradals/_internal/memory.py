"""Memory that the process keeps for the next step, because memory that is new to the process costs time."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of `mallopt` in malloc.h
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 32 * 2**20


def keep_memory() -> None:
    """Let the C library keep freed memory, up to its peak; it does so from this call on, in the whole process.

    By default, glibc returns large blocks to the system at once. A step of a training on a CPU then asks for thousands
    of pages again, and the system fills each with zeros. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
