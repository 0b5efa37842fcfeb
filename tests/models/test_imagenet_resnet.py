"""The ResNets for ImageNet have the layers, names and shapes of torchvision, so that its weights fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.cli.main import main
from aradals.errors import InputError
from aradals.models import ImageNetResNet, build_model, load_model
from aradals.pipeline.artifacts import load_scores

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def batch_norm(name: str, width: int) -> Shapes:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def bottlenecks(num_blocks: tuple[int, ...], num_classes: int, in_channels: int = 3) -> Shapes:
    """Every name and shape of a network of bottlenecks, by table 1 of He et al. and the names of torchvision."""
    yield "conv1.weight", (64, in_channels, 7, 7)
    yield from batch_norm("bn1", 64)
    ins = 64
    for stage, count in enumerate(num_blocks):
        inner, outer = 64 * 2**stage, 256 * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            for number, shape in enumerate([(inner, ins, 1, 1), (inner, inner, 3, 3), (outer, inner, 1, 1)], start=1):
                yield f"{name}.conv{number}.weight", shape
                yield from batch_norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                yield f"{name}.downsample.0.weight", (outer, ins, 1, 1)
                yield from batch_norm(f"{name}.downsample.1", outer)
            ins = outer
    yield "fc.weight", (num_classes, 2048)
    yield "fc.bias", (num_classes,)


@pytest.mark.parametrize(
    ("name", "num_blocks", "num_parameters"),
    [("resnet50", (3, 4, 6, 3), 25_557_032), ("resnet101", (3, 4, 23, 3), 44_549_160)],
)
def test_names_and_shapes_are_those_of_torchvision(name: str, num_blocks: tuple[int, ...], num_parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(name)
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == dict(bottlenecks(num_blocks, 1000))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.parametrize(
    ("name", "num_parameters"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("ResNet-152", 60_192_808)]
)
def test_their_siblings_have_the_published_sizes(name: str, num_parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_classes_channels_and_width_are_free() -> None:
    model = build_model("resnet50", num_classes=7, input_shape=(1, 64, 64), width=8)
    assert model(torch.rand(2, 1, 64, 64)).shape == (2, 7)
    assert model.get_parameter("layer4.2.conv3.weight").shape == (256, 64, 1, 1)
    with pytest.raises(InputError, match="a depth of 18, 34, 50, 101, 152, and a width of at least 1"):
        ImageNetResNet(50, width=0)
    with pytest.raises(InputError, match="got depth 20"):
        ImageNetResNet(20)


def test_an_image_of_224_pixels_becomes_7_by_7() -> None:
    sizes: list[tuple[int, ...]] = []
    model = build_model("resnet50", width=4).eval()
    for part in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(part).register_forward_hook(lambda module, args, output: sizes.append(output.shape[2:]))
    model(torch.rand(1, 3, 224, 224))
    assert sizes == [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7)]


def strides(block: nn.Module) -> list[tuple[int, ...]]:
    return [module.stride for module in block.modules() if isinstance(module, nn.Conv2d)]


def test_the_3x3_convolution_has_the_stride() -> None:
    model = build_model("resnet50", width=4)
    assert strides(model.get_submodule("layer2.0")) == [(1, 1), (2, 2), (1, 1), (2, 2)]
    assert strides(model.get_submodule("layer1.0")) == [(1, 1)] * 4
    assert strides(model.get_submodule("layer2.1")) == [(1, 1)] * 3


@pytest.mark.parametrize(("name", "norm"), [("resnet50", "bn3"), ("resnet18", "bn2")])
def test_a_block_starts_as_its_shortcut(name: str, norm: str) -> None:
    model = build_model(name, width=4)
    assert not model.get_parameter(f"layer2.1.{norm}.weight").any()
    inputs = torch.rand(2, model.get_parameter(f"layer2.1.{norm}.weight").shape[0], 6, 6)
    assert torch.equal(model.get_submodule("layer2.1")(inputs), inputs)


def bottleneck(state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """One block in evaluation mode, from its tensors."""

    def normed(values: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (values - mean) / (var + 1e-5).sqrt() * weight + bias

    hidden = normed(F.conv2d(inputs, state["conv1.weight"]), "bn1").relu()
    hidden = normed(F.conv2d(hidden, state["conv2.weight"], stride=2, padding=1), "bn2").relu()
    shortcut = normed(F.conv2d(inputs, state["downsample.0.weight"], stride=2), "downsample.1")
    return (normed(F.conv2d(hidden, state["conv3.weight"]), "bn3") + shortcut).relu()


def test_a_block_computes_what_the_paper_says() -> None:
    block = build_model("resnet50", width=4).get_submodule("layer2.0").eval()
    for tensor in block.state_dict().values():
        tensor.copy_(torch.rand_like(tensor, dtype=torch.float32))
    inputs = torch.rand(2, 16, 6, 6)
    torch.testing.assert_close(block(inputs), bottleneck(block.state_dict(), inputs), rtol=1e-4, atol=1e-4)


def test_weights_with_the_names_of_torchvision_load_by_an_option(tmp_path: Path) -> None:
    state = {}
    for name, shape in bottlenecks((3, 4, 6, 3), num_classes=5):
        fan_in = math.prod(shape[1:])
        state[name] = torch.randn(shape) / fan_in**0.5 if fan_in > 1 else torch.rand(shape)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(3)
    torch.save(state, tmp_path / "resnet50.pth")
    images, labels = np.random.default_rng(0).random((10, 3, 32, 32), dtype=np.float32), np.arange(10) % 5
    np.savez(tmp_path / "images.npz", x=images, y=labels)
    checkpoint = ("--model", "resnet50", "--checkpoint", tmp_path / "resnet50.pth")
    output = ("--output", tmp_path / "scores.parquet", "--attack", "logit_margin")
    assert main([*map(str, ("score", *checkpoint, "--data", tmp_path / "images.npz", *output))]) == 0
    model = load_model(tmp_path / "resnet50.pth", "resnet50", num_classes=5)
    torch.testing.assert_close(model.state_dict(), state)
    predicted = model(torch.from_numpy(images)).argmax(1)
    table, _ = load_scores(tmp_path / "scores.parquet")
    assert torch.equal(table.predicted, predicted)
