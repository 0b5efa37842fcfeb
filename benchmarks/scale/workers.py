"""Wall time of studies with 1 and 2 workers, in turns.

    python benchmarks/scale/workers.py --output /tmp/scale

Runs the demo recipe and a study of 12 runs (the same three methods at four seeds), each with 1 and 2 workers in turns,
and prints the minimum, median and maximum of wall times and of their ratios.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

STUDIES = {
    "demo": ["demo"],
    "12 runs": ["demo", "--seeds=[0, 1, 2, 3]"],
}


def seconds_of(arguments: list[str], workers: int, output: Path) -> float:
    """Run a study from the start, and return the wall time in seconds."""
    shutil.rmtree(output, ignore_errors=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "aradals", "run", *arguments, f"--workers={workers}", f"--output={output}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print a table of wall times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
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
