"""Time and memory of opening a folder of 100,000 image files, and of its first batch.

    python benchmarks/scale/images.py --folder /tmp/scale-images

Generates the files (folder/class/number.png, 16x16 pixels, 100 classes) unless they exist, and removes them with
--remove. Prints processor seconds, which depend less on other programs than wall time does, and resident memory.
"""

from __future__ import annotations

import argparse
import io
import resource
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from aradals.data import load_data
from aradals.data.find import find_data

NUM_CLASSES = 100


def generate(folder: Path, number: int) -> None:
    """Write image files, each of one color and some noise."""
    random = np.random.default_rng(0)
    contents = []
    for _ in range(256):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
        contents.append(file.getvalue())
    for label in range(NUM_CLASSES):
        (folder / f"class-{label:02d}").mkdir(parents=True, exist_ok=True)
    for row in range(number):
        (folder / f"class-{row % NUM_CLASSES:02d}" / f"{row:06d}.png").write_bytes(contents[row % 256])


class Stopwatch:
    """Prints what happened since the last call."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def __call__(self, what: str) -> None:
        """Print processor seconds, wall time and the peak of the memory until now."""
        cpu, wall = time.process_time(), time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{what:<24} {cpu - self.cpu:7.2f} s CPU {wall - self.wall:7.2f} s wall {peak:7.0f} MiB peak", flush=True)
        self.cpu, self.wall = time.process_time(), time.perf_counter()


def main() -> None:
    """Print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--number", type=int, default=100_000)
    parser.add_argument("--remove", action="store_true")
    given = parser.parse_args()
    if not given.folder.exists():
        generate(given.folder, given.number)
    done = Stopwatch()
    find_data(str(given.folder))
    done("find and list")
    examples = load_data(str(given.folder), "all", log=print)
    done(f"load {len(examples):,}")
    examples.batch(range(256))
    done("first batch")
    if given.remove:
        shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
