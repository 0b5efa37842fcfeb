"""The faster copy computes what the model computes, or is not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.inference.accelerate import accelerated
from aradals.models import build_model, load_checkpoint

INPUTS = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.BatchNorm2d(8, affine=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


class Controlled(nn.Module):
    """Control flow on values and shapes, in the forward of a network that starts with a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) == 0 or inputs.amax() > 2:
            raise ValueError("not an image")
        hidden: Tensor = self.linear(F.relu(self.norm(self.conv(inputs - 0.5))).mean((2, 3)))
        return hidden


class TwoReaders(Controlled):
    """The convolution's output is also read past the batch norm, as in pre-activation networks."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv(inputs)
        logits: Tensor = self.linear((F.relu(self.norm(hidden)) + hidden).mean((2, 3)))
        return logits


class CalledTwice(Controlled):
    """One convolution before two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(8)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.conv(inputs)) * self.other(self.conv(1 - inputs))
        logits: Tensor = self.linear(F.relu(hidden).mean((2, 3)))
        return logits


class InPlaceBetween(Controlled):
    """The batch norm reads the very tensor that the convolution returned, but changed."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(self.conv(inputs).relu_()).mean((2, 3)))
        return logits


class ReadsItsNorm(Controlled):
    """Works with the attributes of a batch norm, which an identity does not have."""

    def forward(self, inputs: Tensor) -> Tensor:
        scale = self.norm.running_var
        assert isinstance(scale, Tensor)
        logits: Tensor = self.linear((self.norm(self.conv(inputs)) / scale[:, None, None]).relu().mean((2, 3)))
        return logits


class Viewing(Controlled):
    """``view`` of a convolution's output, which another memory layout does not allow."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.conv(inputs))
        logits: Tensor = self.linear(F.relu(hidden.view(len(inputs), 8, 36)).mean(2))
        return logits


class Pinned(Controlled):
    """Cannot be copied."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("holds a file")


def hooked() -> nn.Module:
    """A hook doubles what the convolution returns; it stays in force."""
    model = Controlled()
    model.conv.register_forward_hook(lambda module, arguments, output: 2 * output)
    return model


def parametrized() -> nn.Module:
    model = Controlled()
    nn.utils.parametrizations.weight_norm(model.conv)
    return model


def scripted() -> nn.Module:
    module: nn.Module = torch.jit.trace(trained_statistics(conv_net()).eval(), INPUTS[:2])
    return module


MODELS: dict[str, tuple[Callable[[], nn.Module], int | None]] = {
    "sequential": (conv_net, 3),
    "control flow": (Controlled, 1),
    "two readers": (TwoReaders, 0),
    "called twice": (CalledTwice, 0),
    "changed in place": (InPlaceBetween, 0),
    "reads its norm": (ReadsItsNorm, 0),
    "view": (Viewing, 1),
    "hook": (hooked, 0),
    "parametrized": (parametrized, 0),
    "data parallel": (lambda: nn.DataParallel(Controlled()), 1),
    "residual": (lambda: build_model("resnet20", num_classes=4, in_channels=3), 19),
    "not to be copied": (Pinned, None),
    "traced": (scripted, None),
}
"""A builder, and how many batch norms are folded; None where the model is passed through."""


def trained_statistics(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights that matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name][0]()
    return model if isinstance(model, torch.jit.ScriptModule) else trained_statistics(model)


def logits_and_gradient(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    leaf = inputs.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_same_logits_and_gradients(name: str, dtype: torch.dtype) -> None:
    model, inputs = build(name).eval(), INPUTS
    if name != "traced":
        model, inputs = model.to(dtype), inputs.to(dtype)
    fast = accelerated(model, inputs[:8])
    expected = logits_and_gradient(model, inputs)
    tolerance = 1e-5 if inputs.dtype == torch.float32 else 1e-12
    # More rows than were checked, and a batch of one, which keeps no memory layout of its own.
    for rows in (slice(None), slice(9, 10)):
        for found, wanted in zip(logits_and_gradient(fast, inputs[rows]), expected, strict=True):
            torch.testing.assert_close(found, wanted[rows], rtol=1e-3 * tolerance**0.5, atol=10 * tolerance)
    num_folded = MODELS[name][1]
    assert (fast is model) == (num_folded is None)
    assert sum(isinstance(module, nn.Identity) for module in fast.modules()) == (num_folded or 0)
    assert (fast is model) or not any(parameter.requires_grad for parameter in fast.parameters())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "traced"])
def test_the_model_is_left_as_it_was(name: str, bf16: bool) -> None:
    model = build(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(module, module.training, len(module._forward_hooks)) for module in model.modules()]
    fast = accelerated(model, INPUTS, bf16=bf16)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [(module, module.training, len(module._forward_hooks)) for module in model.modules()] == modules
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    if fast is not model and name != "not to be copied":
        fast.get_parameter(next(name for name, _ in fast.named_parameters())).data.zero_()
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_images_are_laid_out_channels_last() -> None:
    seen: list[bool] = []

    class Spy(Controlled):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs.is_contiguous(memory_format=torch.channels_last))
            return super().forward(inputs)

    fast = accelerated(Spy(), INPUTS)
    del seen[:]
    fast(INPUTS)
    assert seen == [True]


def test_preactivation_folds_what_it_may() -> None:
    """Shortcuts read the output of some convolutions before the batch norm does; those stay."""
    torch.manual_seed(0)
    model = trained_statistics(build_model("wide_resnet10_1", num_classes=4, in_channels=3)).eval()
    fast = accelerated(model, INPUTS)
    folded = [name for name, module in fast.named_modules() if isinstance(module, nn.Identity)]
    assert [name.removeprefix("model.") for name in folded] == [f"layer{stage}.0.bn2" for stage in (1, 2, 3)]
    for found, wanted in zip(logits_and_gradient(fast, INPUTS), logits_and_gradient(model, INPUTS), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_copy_that_computes_something_else_is_not_used() -> None:
    class Forgetful(Controlled):
        def __deepcopy__(self, memo: object) -> nn.Module:
            return Controlled()

    torch.manual_seed(0)
    model = Forgetful()
    assert accelerated(model, INPUTS) is model


def test_other_inputs_than_images() -> None:
    torch.manual_seed(0)
    model = trained_statistics(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))).eval()
    inputs = torch.rand(4, 6)
    fast = accelerated(model, inputs)
    assert any(isinstance(module, nn.Identity) for module in fast.modules())
    torch.testing.assert_close(fast(inputs), model(inputs))


def test_broken_models_are_left_to_the_attack() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    assert accelerated(model, INPUTS) is model


def test_bfloat16_only_where_asked_for() -> None:
    model = build("sequential").eval()
    fast, coarse = accelerated(model, INPUTS), accelerated(model, INPUTS, bf16=True)
    exact, rounded = model(INPUTS), coarse(INPUTS)
    assert rounded.dtype == torch.float32
    assert (fast(INPUTS) - exact).abs().max() < 1e-5
    assert 1e-4 < (rounded - exact).abs().max() < 0.05
    _, gradient = logits_and_gradient(coarse, INPUTS)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_what_bfloat16_cannot_do_is_done_without() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.lerp(inputs, self.linear(inputs), 0.5)  # refuses two dtypes

    torch.manual_seed(0)
    model, inputs = Mixed(), torch.rand(4, 6)
    torch.testing.assert_close(accelerated(model, inputs, bf16=True)(inputs), model(inputs))


def test_resnet20(shared_data: Path) -> None:
    from aradals.data import load_data

    model = build_model("resnet20", num_classes=10, in_channels=3)
    load_checkpoint(model, shared_data / "models" / "cifar10-resnet20.safetensors")
    model.eval()
    _, inputs, _ = load_data(str(shared_data / "data" / "cifar10-test.parquet"), limit=24).batch(range(24))
    fast = accelerated(model, inputs)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    (logits, gradient), (fast_logits, fast_gradient) = (logits_and_gradient(m, inputs) for m in (model, fast))
    torch.testing.assert_close(fast_logits, logits, rtol=1e-5, atol=1e-4)
    # As a whole: a ReLU that rounding puts on the other side of its kink changes a patch of one gradient.
    assert (fast_gradient - gradient).norm() < 0.01 * gradient.norm()
