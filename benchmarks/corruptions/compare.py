"""Corruptions beside those of others: mean, standard deviation and RMSE against the clean image, in levels of 8 bits.

    python benchmarks/corruptions/compare.py --output tests/corruptions/corruption_statistics.json

Images are crops of two photographs that scikit-learn ships. Both sides get the same random numbers where they can, so
that most results can be compared pixel by pixel. The file keeps the figures of the others, which the tests compare
with; the table is printed. See ``references.py`` for who they are; ``published`` is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from photographs import photograph_crops
from references import Corrupt, Pixels, package, published, shared_random

from aradals.corruptions import CORRUPTIONS, corrupt

SIZES = {"cifar": 32, "tiny": 64, "imagenet": 224}
NUM_IMAGES = {"cifar": 24, "tiny": 12, "imagenet": 4}


def statistics(corrupted: npt.NDArray[np.float64], clean: npt.NDArray[np.float64]) -> list[float]:
    """Mean, standard deviation, RMSE against the clean images."""
    rmse = np.sqrt(np.square(corrupted - clean).mean())
    return [round(float(value), 4) for value in (corrupted.mean(), corrupted.std(), rmse)]


def compare(name: str, reference: Corrupt, preset: str) -> dict[str, list[list[float]]]:
    """Statistics of a reference for every corruption and severity; prints them beside ours."""
    images = photograph_crops(NUM_IMAGES[preset], SIZES[preset])
    inputs, clean = torch.from_numpy(images.transpose(0, 3, 1, 2)) / 255, images.astype(float)
    found: dict[str, list[list[float]]] = {}
    for corruption in CORRUPTIONS:
        for severity in range(1, 6):
            corrupted = corrupt(inputs, torch.arange(len(images)), corruption, severity, preset=preset)
            ours = (corrupted * 255).round().permute(0, 2, 3, 1).double().numpy()
            theirs = np.stack([_one(reference, corruption, severity, row, image) for row, image in enumerate(images)])
            found.setdefault(corruption, []).append(statistics(theirs.astype(float), clean))
            differ = (np.abs(ours - theirs) > 1).mean()
            figures = " ".join(f"{value:8.2f}" for value in (*statistics(ours, clean), *found[corruption][-1]))
            print(f"{name:9} {preset:8} {corruption:17} {severity} {figures} {differ:9.5f}", flush=True)
    return found


def _one(reference: Corrupt, corruption: str, severity: int, row: int, image: Pixels) -> Pixels:
    np.random.seed(row)  # noqa: NPY002 (for randint, which is not shared)
    with shared_random(corruption, severity, row):
        return reference(corruption, severity, image)


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    output: Path = parser.parse_args().output
    torch.set_num_threads(1)
    print("reference preset   corruption   severity  ours: mean, std, rmse   theirs: mean, std, rmse   differ by > 1")
    found = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    found["package"] = {"imagenet": compare("package", package(), "imagenet")}
    try:
        makers = {preset: published(preset, size) for preset, size in SIZES.items()}
    except (ImportError, OSError) as error:
        print(f"published: left as it was ({error})")
    else:
        found["published"] = {preset: compare("published", maker, preset) for preset, maker in makers.items()}
    output.write_text(json.dumps(found).replace("]], ", "]],\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
