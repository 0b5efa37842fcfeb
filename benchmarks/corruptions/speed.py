"""Time to make the whole of CIFAR-10-C (19 corruptions x 5 severities x 10,000 images), beside imagecorruptions-imaug.

    python benchmarks/corruptions/speed.py

makes all of it here in ``--processes`` processes of one thread each, the work divided by corruption and severity, and a
sample of ``--sample`` images a condition with the package in the same way, whose time is scaled up. Images are 32x32
crops of two photographs. Textures and filters are loaded, and the package's compiled functions compiled, before.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from photographs import photograph_crops
from references import package

from aradals.corruptions import CORRUPTIONS, corrupt

Job = tuple[str, str, int, int]
"""(who, corruption, severity, number of images)"""


def run(job: Job) -> float:
    """Seconds of processor time of one condition."""
    who, corruption, severity, number = job
    torch.set_num_threads(1)
    images = photograph_crops(number, 32)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255
    start = time.process_time()
    if who == "aradals":
        corrupt(inputs, torch.arange(number), corruption, severity, preset="cifar")
    else:
        make = package()
        np.stack([make(corruption, severity, image) for image in images])
    return time.process_time() - start


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    numbers = {"aradals": options.images, "imagecorruptions-imaug": options.sample}
    seconds: dict[tuple[str, str], float] = {}
    walls = {}
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        for who, number in numbers.items():
            conditions = [(who, corruption, severity) for corruption in CORRUPTIONS for severity in range(1, 6)]
            warm_up = [(who, corruption, 1, number) for corruption in CORRUPTIONS for _ in range(options.processes)]
            list(pool.map(run, warm_up if who != "aradals" else [(*job[:3], 2) for job in warm_up] + warm_up[:2]))
            start = time.perf_counter()
            jobs = [(*condition, number) for condition in conditions]
            for (_, corruption, _), spent in zip(conditions, pool.map(run, jobs), strict=True):
                seconds[who, corruption] = seconds.get((who, corruption), 0) + spent / number / 5
            walls[who] = (time.perf_counter() - start) * options.images / number
    print("| processor time, ms an image | aradals | imagecorruptions-imaug |\n|---|---|---|")
    for corruption in CORRUPTIONS:
        print(f"| {corruption} | " + " | ".join(f"{1000 * seconds[who, corruption]:.2f}" for who in numbers) + " |")
    total = 5 * options.images
    processor = [total * sum(seconds[who, name] for name in CORRUPTIONS) for who in numbers]
    print(f"| all {19 * total:,} images, processor time | " + " | ".join(f"{each:.0f} s" for each in processor) + " |")
    print(
        f"| on {options.processes} processes, wall time | "
        + " | ".join(f"{walls[who]:.0f} s" for who in numbers)
        + " |"
    )


if __name__ == "__main__":
    main()
