"""The networks of the benchmark beside the given one: trained by the recipes in ``networks/``, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from torch import nn

from aradals.cli.main import main as aradals
from aradals.data import Examples, load_data, make_splits
from aradals.models import build_model, load_checkpoint, read_description

RECIPES = Path(__file__).parent / "networks"


@dataclass(frozen=True)
class Network:
    """A network to train, and the examples that it is attacked on.

    Attributes:
        recipe: in ``networks/``.
        method: of that recipe.
        dataset: cifar10 or tiny_imagenet.
        memorized: whether it is attacked on its own training examples rather than on the test split.
    """

    recipe: str
    method: str = "vanilla"
    dataset: str = "cifar10"
    memorized: bool = False


NETWORKS = {
    "ResNet-56": Network("deep"),
    "ResNet-20 on its 4,000 training images": Network("saturated", memorized=True),
    "ResNet-20 with label smoothing on its 4,000 training images": Network(
        "saturated", "label_smoothing", memorized=True
    ),
    "small CNN on its 5,000 training images": Network("memorized_cnn", memorized=True),
    "small CNN with label smoothing on its 5,000 training images": Network(
        "memorized_cnn", "label_smoothing", memorized=True
    ),
    "small CNN, adversarially trained": Network("adversarial"),
    "small CNN, Tiny ImageNet (K = 200, 64 px)": Network("tiny_imagenet", dataset="tiny_imagenet"),
}


def train(network: Network, data: str, folder: Path) -> nn.Module:
    """The trained network, from ``folder`` where it is there already."""
    recipe, output = RECIPES / f"{network.recipe}.yaml", folder / network.recipe
    aradals(["train", str(recipe), "--method", network.method, "--data", data, "--output", str(output)])
    path = output / network.method / "train" / "model.safetensors"
    description = read_description(path)
    spec = yaml.safe_load((RECIPES / f"{network.recipe}.yaml").read_text())["model"]
    model = build_model(spec, num_classes=description.num_classes, in_channels=3, **description.arguments_for(spec, {}))
    load_checkpoint(model, path)
    return model.eval()


def attacked_examples(network: Network, data: str, num_examples: int) -> Examples:
    """A random sample of the test split, or the first of the training examples."""
    if not network.memorized:
        return load_data(data, "test", limit=num_examples)
    sizes = yaml.safe_load((RECIPES / f"{network.recipe}.yaml").read_text())["splits"]
    splits = make_splits(
        load_data(data, "train"),
        load_data(data, "test"),
        validation=sizes["validation"],
        calibration=sizes["calibration"],
        train_size=sizes["train"],
        seed=0,
    )
    return splits.train.select(range(num_examples))
