"""Time to import aradals beside torch's own, in fresh processes, interleaved.

    python benchmarks/import_time.py --runs 10

Prints the median of each and the median and range of their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

CORE = "aradals.robustness, aradals.smoothing, aradals.metrics, aradals.calibration"


def seconds_to_import(modules: str) -> float:
    """Wall time of a fresh interpreter that imports ``modules``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    seconds_to_import(CORE)  # warms the disk cache
    pairs = [(seconds_to_import("torch"), seconds_to_import(CORE)) for _ in range(runs)]
    torch_time, aradals_time = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [aradals / torch for torch, aradals in pairs]
    print(f"torch {torch_time:.2f} s, aradals {aradals_time:.2f} s (medians of n = {runs})")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
