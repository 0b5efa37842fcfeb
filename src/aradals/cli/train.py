"""Train one model (or ensemble) of a recipe, with what it needs: AR-AdaLS first trains a vanilla model and scores
the data, unless it scores itself (score_every).

The same command continues after an interruption. The checkpoint knows how to build its model, so the other commands
take it without --model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aradals.cli.recipe import add_recipe_arguments

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

EXAMPLE = "aradals train cifar10-small --data uoft-cs/cifar10 --method ar_adals --seed 1 --output runs/ar-adals"
RESUMES = True


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Add the options for the keys of the recipe, the method, the seed and the output."""
    parser.add_argument("--method", type=str, default="ar_adals", help="a method or an ensemble of the recipe")
    parser.add_argument("--seed", type=int, default=0, help="of the splits, initialization and order")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and what leads to it")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    return add_recipe_arguments(parser, arguments)


def run(method: str, seed: int, output: Path, device: str, **study: Any) -> None:
    """Train the model."""
    from aradals.cli.terminal import print_log, print_result
    from aradals.pipeline.config import StudyConfig
    from aradals.pipeline.study import train_one

    for checkpoint in train_one(StudyConfig(**study), method, seed, output, device=device, log=print_log):
        print_result(f"checkpoint: {checkpoint}")
