"""Models by name: built-in networks, and callables from files or modules."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from aradals._internal.registry import Registry, check_settings
from aradals._internal.specs import user_code
from aradals.errors import InputError
from aradals.inference.outputs import FunctionModel
from aradals.models.imagenet_resnet import ImageNetResNet
from aradals.models.mlp import MLP
from aradals.models.preact_resnet import PreActResNet
from aradals.models.resnet import ResNet
from aradals.models.small_cnn import SmallCNN
from aradals.models.sources import find_source, without_weights
from aradals.models.wide_resnet import WideResNet


@dataclass(frozen=True)
class _BuiltIn:
    name: str
    pattern: str  # pattern of the lower-case name, with "_" instead of "-"; its groups are the positional arguments
    network: Callable[..., nn.Module]
    description: str
    examples: tuple[str, ...]


_BUILT_INS = (
    _BuiltIn(
        "resnet{depth}",
        r"resnet_?(18|34|50|101|152)",
        ImageNetResNet,
        "ResNet v1 of He et al. 2015 for ImageNet, as torchvision has it: resnet18, 34, 50, 101, 152; it has the "
        "argument width",
        ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    ),
    _BuiltIn(
        "resnet{6n+2}",
        r"resnet_?([0-9]{1,9})",
        ResNet,
        "ResNet of He et al. 2015 for CIFAR: resnet20, resnet56, resnet110",
        ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    ),
    _BuiltIn(
        "resnet{9n+2}_v2",
        r"resnet_?([0-9]{1,9})_?v2",
        PreActResNet,
        "ResNet with pre-activation bottlenecks of He et al. 2016 for CIFAR: resnet29_v2, resnet164_v2",
        ("resnet29_v2", "resnet164_v2"),
    ),
    _BuiltIn(
        "wide_resnet{6n+4}_{k}",
        r"wide_?resnet_?([0-9]{1,9})_([0-9]{1,9})",
        WideResNet,
        "Wide ResNet of Zagoruyko & Komodakis 2016, depth and widen factor: wide_resnet28_10",
        ("wide_resnet28_10", "wide_resnet16_8", "wide_resnet40_4"),
    ),
    _BuiltIn(
        "small_cnn",
        r"small_?cnn",
        SmallCNN,
        "small network for quick work on images of 8x8 to 64x64 pixels; it has the argument width",
        ("small_cnn",),
    ),
    _BuiltIn(
        "mlp",
        r"mlp",
        MLP,
        "multilayer perceptron on flattened inputs: rows of tables, images; it has the argument hidden: [256, 256]",
        ("mlp",),
    ),
)


class _Models(Registry[Callable[..., nn.Module]]):
    """Registry of the built-in networks, whose names match patterns."""

    def __getitem__(self, name: str) -> Callable[..., nn.Module]:
        for built_in in _BUILT_INS:
            if match := re.fullmatch(built_in.pattern, name.lower().replace("-", "_")):
                return partial(built_in.network, *map(int, match.groups()))
        raise KeyError(name)


_MODELS = _Models("a model", {example: built_in.network for built_in in _BUILT_INS for example in built_in.examples})


def list_models() -> dict[str, str]:
    """List the built-in models: name pattern -> one-line description."""
    return {built_in.name: built_in.description for built_in in _BUILT_INS}


def is_built_in(spec: str) -> bool:
    """Return True if ``spec`` names a built-in model (see `list_models`), which runs only code of this package."""
    return spec in _MODELS


def build_model(
    spec: str, /, *, num_classes: int | None = None, input_shape: Sequence[int] | None = None, **model_args: object
) -> nn.Module:
    """Build a network that maps float inputs in [0, 1] to logits.

    The callable gets ``num_classes``, ``input_shape`` and, for images, ``in_channels`` only if it has these arguments.
    It always gets ``model_args``.

    Args:
        spec: a built-in name (see ``list_models``; case and "-" or "_" do not matter),
            ``path/to/file.py:name``, or ``package.module:name``. The named object is a function, a class,
            or a finished ``nn.Module``, of which each call returns a copy; or a plain function of the inputs, which
            becomes a module. A file can import the modules in its folder; a module can import the modules in the
            working directory. Networks of other packages are ``timm:NAME``, ``torchvision:NAME`` and
            ``transformers:FOLDER_OR_ID``. The path of a file of ``torch.export`` or TorchScript is a program. See
            `aradals.models.sources`.
        num_classes: K, the number of logits; None leaves it to the callable.
        input_shape: shape of an input, (C, H, W) for images; None leaves it to the callable.
        **model_args: arguments of the callable, such as ``width`` of ``small_cnn``.

    Raises:
        InputError: an unknown name, unknown arguments of the callable, a result that is not an ``nn.Module`` or that
            an earlier call has returned, or any error in the callable's code, which is chained.
    """
    return _build(spec, _sizes(num_classes, input_shape), model_args)[0]


def _sizes(num_classes: int | None, input_shape: Sequence[int] | None) -> dict[str, Any]:
    """Name the sizes that a callable gets if it has arguments for them."""
    channels = input_shape[0] if input_shape is not None and len(input_shape) == 3 else None
    sizes = {"num_classes": num_classes, "input_shape": input_shape, "in_channels": channels}
    return {name: size for name, size in sizes.items() if size is not None}


def argument_names(spec: str) -> frozenset[str] | None:
    """Name the arguments of the callable that builds a model; None if it takes any name."""
    with _found(spec) as target:
        known, takes_any = _MODELS.settings_of(target)
    return None if takes_any else frozenset(known)


@contextmanager
def _found(spec: str) -> Iterator[Callable[..., Any]]:
    """Find what builds a model, and run the block in a context where its imports work."""
    if source := find_source(spec):
        yield source
    else:
        with _MODELS.found(spec) as target:
            yield target


def _is_function_of_inputs(target: object, given: Set[str]) -> bool:
    """Return True for a plain function that needs one argument, whose name or type says that it is the inputs."""
    if not inspect.isfunction(target):
        return False
    parameters = inspect.signature(target).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [each for each in parameters if each.kind in kinds and each.default is each.empty]
    if len(needed) != 1 or needed[0].name in given:
        return False
    is_tensor = str(needed[0].annotation).rpartition(".")[2].startswith("Tensor")
    return is_tensor or re.fullmatch(_INPUTS, needed[0].name) is not None


_INPUTS = r"xs?|inputs?|images?|imgs?|batch|features|pixel_values|data"


def _build(spec: str, sizes: dict[str, Any], model_args: dict[str, object]) -> tuple[nn.Module, bool]:
    """Build a network; the bool is True if it is a copy of a finished one."""
    with _found(spec) as target, user_code(spec, "build a model"):
        if _is_function_of_inputs(target, sizes.keys() | model_args.keys()):
            return FunctionModel(target), False
        build = (lambda: copy.deepcopy(target)) if isinstance(target, nn.Module) else target
        known, takes_any = _MODELS.settings_of(build)
        check_settings(spec, model_args, known, takes_any)
        wanted = {name: value for name, value in sizes.items() if takes_any or name in known}
        model = _call(build, wanted.keys() - known.keys(), wanted | model_args)
    if not isinstance(model, nn.Module):
        raise InputError(
            expected=f"{spec} to return an nn.Module",
            got=f"an object of type {type(model).__name__}",
            hint="a callable that returns the model itself",
        )
    if _RETURNED.get(model) == spec:  # a user's function may call ours
        raise InputError(
            expected=f"{spec} to make a new model in each call",
            got="the same model a second time, which would share its weights",
            hint="building the model within the function",
        )
    _RETURNED[model] = spec
    return model, isinstance(target, nn.Module)


_RETURNED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Models that `build_model` has returned: one that comes back may have been trained in the meantime."""


def build_untrained(
    spec: str, /, *, num_classes: int | None = None, input_shape: Sequence[int] | None = None, **model_args: object
) -> nn.Module:
    """Build a network for training, see `build_model`; a finished ``nn.Module`` is initialized anew.

    The initialization draws from torch's global generator. It calls ``reset_parameters`` of every submodule, the inner
    ones first.

    Networks of other packages are built without their weights.

    Raises:
        InputError: see `build_model`; a submodule with parameters lacks ``reset_parameters``; or a program is named.
    """
    if find_source(spec) and not without_weights(spec):
        raise InputError(
            expected="code that builds a network, because every training needs a new initialization",
            got=f"{spec}, a program with finished weights",
            hint="file.py:callable",
        )
    model, is_finished = _build(spec, _sizes(num_classes, input_shape), {**without_weights(spec), **model_args})
    return _reset(model, spec) if is_finished else model


def _reset(model: nn.Module, spec: str) -> nn.Module:
    for module in reversed(list(model.modules())):
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        elif next(module.parameters(recurse=False), None) is not None:
            raise InputError(
                expected=f"{spec} to be a class or a function, because every training needs a new initialization",
                got=f"an instance with a {type(module).__name__}, which has no reset_parameters()",
                hint="a function that builds the model",
            )
    return model


def _call(build: Callable[..., object], tentative: Set[str], arguments: dict[str, object]) -> object:
    """Call ``build`` without those ``tentative`` arguments that the code behind its ``**kwargs`` refuses."""
    try:
        return build(**arguments)
    except TypeError as error:
        refused = {name for name in tentative if f"unexpected keyword argument '{name}'" in str(error)}
        if not refused:
            raise
    return _call(build, tentative - refused, {name: arguments[name] for name in arguments.keys() - refused})
