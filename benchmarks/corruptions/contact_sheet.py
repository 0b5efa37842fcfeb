"""All corruptions at all severities on two photographs: the figures of ``docs/corruptions.md``.

    python benchmarks/corruptions/contact_sheet.py --output docs/corruptions.jpg

Left: 32 pixels with the preset ``cifar``, enlarged; right: 224 pixels with the preset ``imagenet``, reduced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from aradals.corruptions import CORRUPTIONS, corrupt

CELL, LABEL, HEADER = 84, 128, 18
PANELS = {"cifar": 32, "imagenet": 224}


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    output: Path = parser.parse_args().output
    flower, china = (Image.fromarray(load_sample_images().images[i]) for i in (1, 0))
    photographs = {"cifar": flower.crop((60, 0, 480, 420)), "imagenet": china.crop((100, 100, 420, 420))}
    panel = 6 * CELL + 10
    sheet = Image.new("RGB", (LABEL + 2 * panel, HEADER + len(CORRUPTIONS) * CELL), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (preset, size) in enumerate(PANELS.items()):
        left = LABEL + column * panel
        for severity in range(6):
            title = f"{preset}, clean" if severity == 0 else str(severity)
            draw.text((left + severity * CELL + 4, 3), title, "black")
        picture = photographs[preset].resize((size, size), Image.Resampling.LANCZOS)
        inputs = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
        for row, corruption in enumerate(CORRUPTIONS):
            draw.text((4, HEADER + row * CELL + CELL // 2 - 6), corruption, "black")
            for severity in range(6):
                image = corrupt(inputs, torch.tensor([row]), corruption, severity, preset=preset)
                pixels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
                resampling = Image.Resampling.NEAREST if size < CELL else Image.Resampling.BOX
                cell = Image.fromarray(pixels).resize((CELL - 2, CELL - 2), resampling)
                sheet.paste(cell, (left + severity * CELL, HEADER + row * CELL))
    sheet.save(output, quality=85)


if __name__ == "__main__":
    main()
