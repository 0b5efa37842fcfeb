from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.models import Normalize, PreActResNet, ResNet, SmallCNN, WideResNet, build_model, load_checkpoint

NAMES = ["resnet20", "resnet29_v2", "wide_resnet10_1", "small_cnn", "resnet18", "resnet50"]


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiplications(model: nn.Module, inputs: Tensor) -> int:
    total = 0

    def add(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += output[0].numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    model.eval()(inputs)
    return total


# In millions, as published: He et al. 2015, table 6; He et al. 2016b; Zagoruyko & Komodakis 2016, table 5.
@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [
        ("resnet20", 0.27, 2),
        ("resnet32", 0.46, 2),
        ("resnet56", 0.85, 2),
        ("resnet110", 1.7, 1),
        ("resnet164_v2", 1.7, 1),
        ("wide_resnet16_8", 11.0, 1),
        ("wide_resnet40_4", 8.9, 1),
        ("wide_resnet28_10", 36.5, 1),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, millions: float, digits: int) -> None:
    with torch.device("meta"):
        count = count_parameters(build_model(name))
    assert round(count / 1e6, digits) == millions


def test_depth_counts_the_layers() -> None:
    def depth(model: nn.Module) -> int:
        main_path = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        return sum("shortcut" not in name for name in main_path)

    assert depth(ResNet(32)) == 32
    assert depth(PreActResNet(29)) == 29
    # Its authors count the three shortcut convolutions, 28 = 1 + 3 * 4 * 2 + 3, and not the linear layer.
    assert depth(WideResNet(28, 1)) == 28 - 3 + 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 8, 10), (3, 32, 10), (3, 64, 200), (1, 28, 2)])
def test_logits_have_one_column_per_class(name: str, channels: int, size: int, classes: int) -> None:
    model = build_model(name, num_classes=classes, in_channels=channels)
    logits = model(torch.rand(2, channels, size, size))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_and_the_inputs(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name)
    for parameter in model.parameters():
        if not parameter.any():  # the last batch norm of a block of an ImageNet ResNet, which stops gradients
            nn.init.ones_(parameter)
    inputs = torch.rand(4, 3, 16, 16, requires_grad=True)
    model(inputs).square().sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_examples_do_not_influence_each_other_in_evaluation(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name).eval()
    inputs = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(model(inputs)[1:2], model(inputs[1:2]))


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_start_with_he_variance(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 4000]
    assert convolutions
    for convolution in convolutions:
        expected = (2 / (convolution.kernel_size[0] ** 2 * convolution.out_channels)) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_resnet_shortcut_pads_half_in_front_and_half_behind() -> None:
    block = ResNet(20).get_submodule("layer2.0").eval()
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    inputs = torch.rand(2, 16, 8, 8)
    outputs = block(inputs)
    assert torch.equal(outputs[:, 8:24], inputs[:, :, ::2, ::2])
    assert not outputs[:, :8].any()
    assert not outputs[:, 24:].any()


@pytest.mark.parametrize("model", [PreActResNet(29), WideResNet(16, 1)], ids=["resnet29_v2", "wide_resnet16_1"])
def test_pre_activation_shortcuts_are_identities(model: nn.Module) -> None:
    # With zeros in its last convolution a unit hands on even negative inputs: no ReLU after the sum.
    unit = model.get_submodule("layer2.1").eval()
    last = [module for module in unit.modules() if isinstance(module, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    inputs = torch.randn(2, last.out_channels, 4, 4)
    assert torch.equal(unit(inputs), inputs)


@pytest.mark.parametrize("model", [PreActResNet(29), WideResNet(16, 1)], ids=["resnet29_v2", "wide_resnet16_1"])
def test_first_unit_of_a_stage_activates_before_its_shortcut(model: nn.Module) -> None:
    unit = model.get_submodule("layer2.0").eval()
    shortcut = unit.get_submodule("shortcut")
    assert isinstance(shortcut, nn.Conv2d)
    seen: list[Tensor] = []
    shortcut.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    unit(torch.randn(2, shortcut.in_channels, 4, 4))
    assert (seen[0] >= 0).all()


def test_pre_activation_bottleneck_widths_are_those_of_the_paper() -> None:
    model = PreActResNet(29)
    for stage, (inner, outer) in enumerate([(16, 64), (32, 128), (64, 256)], start=1):
        unit = model.get_submodule(f"layer{stage}.2")
        widths = [m.out_channels for m in unit.modules() if isinstance(m, nn.Conv2d)]
        assert widths == [inner, inner, outer]


def test_small_cnn_is_cheap() -> None:
    assert count_multiplications(SmallCNN(), torch.rand(1, 3, 32, 32)) < 10e6
    assert count_multiplications(SmallCNN(width=16), torch.rand(1, 3, 32, 32)) < 3e6


@pytest.mark.parametrize("size", [8, 9, 28, 32])
def test_small_cnn_trains_on_one_small_image(size: int) -> None:
    assert SmallCNN(in_channels=1)(torch.rand(1, 1, size, size)).isfinite().all()


@pytest.mark.parametrize(
    "name",
    ["resnet21", "resnet2", "resnet30_v2", "wide_resnet27_10", "wide_resnet28_0", "resnet6000002", "wide_resnet2002_1"],
)
def test_depths_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"expected a (depth|widen)"):
        build_model(name)


def test_normalization_constants() -> None:
    inputs = torch.rand(2, 3, 4, 4)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (inputs - mean[None, :, None, None]) / std[None, :, None, None]
    torch.testing.assert_close(Normalize(3)(inputs), expected)
    gray = inputs[:, :1]
    torch.testing.assert_close(Normalize(1)(gray), 2 * gray - 1)
    torch.testing.assert_close(Normalize(1, mean=[0.1], std=[0.2])(gray), (gray - 0.1) / 0.2)
    assert not Normalize(3).state_dict()


def test_model_arguments_reach_the_normalization() -> None:
    torch.manual_seed(0)
    shifted = SmallCNN(in_channels=1, mean=[0.0], std=[1.0]).eval()
    default = SmallCNN(in_channels=1).eval()
    default.load_state_dict(shifted.state_dict())
    inputs = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(shifted(2 * inputs - 1), default(inputs))


@pytest.mark.parametrize(("mean", "std"), [([0.5], None), (None, [0.2, 0.2]), (None, [0.2, 0.0, 0.2])])
def test_constants_that_do_not_fit_the_channels_are_refused(mean: list[float] | None, std: list[float] | None) -> None:
    with pytest.raises(InputError, match="each of 3 channels"):
        SmallCNN(mean=mean, std=std)


def test_images_with_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(N, 3, H, W\), got shape \(2, 1, 8, 8\)"):
        SmallCNN()(torch.rand(2, 1, 8, 8))


def test_small_cnn_learns_digits() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    train, test = torch.randperm(len(labels)).split([1200, len(labels) - 1200])
    model = SmallCNN(width=8, in_channels=1)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=60)
    for _ in range(5):
        for batch in train[torch.randperm(1200)].view(12, 100):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    accuracy = (model(inputs[test]).argmax(1) == labels[test]).double().mean()
    assert accuracy > 0.93


def test_published_resnet20_gives_its_published_predictions(shared_data: Path) -> None:
    # Over all 10,000 images the accuracy is 0.8103 and the mean confidence 0.9348.
    parquet = pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    table = parquet.read_table(shared_data / "data" / "cifar10-test.parquet").slice(0, 500)
    images = [np.asarray(image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in table["img"].to_pylist()]
    inputs = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    labels = torch.tensor(table["label"].to_pylist())

    model = ResNet(20).eval()
    metadata = load_checkpoint(model, shared_data / "models" / "cifar10-resnet20.safetensors")
    with torch.no_grad():
        confidence, predicted = model(inputs).softmax(1).max(1)

    assert "normalisation" in metadata  # codespell:ignore normalisation
    assert (predicted == labels).sum() == 402
    assert confidence.mean().item() == pytest.approx(0.9366, abs=5e-5)
