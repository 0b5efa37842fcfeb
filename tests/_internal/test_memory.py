"""Memory that is freed is used again, and not asked from the system for every step."""

from __future__ import annotations

import resource
import sys

import pytest

from aradals._internal.memory import keep_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has these settings")
def test_freed_memory_is_used_again() -> None:
    keep_memory()
    bytearray(8 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(8 * 2**20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2048  # the pages of one such block
