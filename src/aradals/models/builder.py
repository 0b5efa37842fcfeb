"""Models by name: built-in networks and other people's callables."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from torch import nn

from aradals.errors import InputError
from aradals.models.preact_resnet import PreActResNet
from aradals.models.resnet import ResNet
from aradals.models.small_cnn import SmallCNN
from aradals.models.wide_resnet import WideResNet


@dataclass(frozen=True)
class _BuiltIn:
    name: str
    pattern: str  # of the lower-case name with "_" for "-"; its groups are the positional arguments
    network: Callable[..., nn.Module]
    description: str
    examples: tuple[str, ...]


_BUILT_INS = (
    _BuiltIn(
        "resnet{6n+2}",
        r"resnet_?(\d+)",
        ResNet,
        "ResNet of He et al. 2015 for CIFAR: resnet20, resnet56, resnet110",
        ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    ),
    _BuiltIn(
        "resnet{9n+2}_v2",
        r"resnet_?(\d+)_?v2",
        PreActResNet,
        "ResNet with pre-activation bottlenecks of He et al. 2016 for CIFAR: resnet29_v2, resnet164_v2",
        ("resnet29_v2", "resnet164_v2"),
    ),
    _BuiltIn(
        "wide_resnet{6n+4}_{k}",
        r"wide_?resnet_?(\d+)_(\d+)",
        WideResNet,
        "Wide ResNet of Zagoruyko & Komodakis 2016, depth and widen factor: wide_resnet28_10",
        ("wide_resnet28_10", "wide_resnet16_8", "wide_resnet40_4"),
    ),
    _BuiltIn(
        "small_cnn",
        r"small_?cnn",
        SmallCNN,
        "small network for quick work on images of 8x8 to 64x64 pixels; takes width",
        ("small_cnn",),
    ),
)


def list_models() -> dict[str, str]:
    """The built-in models: name pattern -> one-line description."""
    return {built_in.name: built_in.description for built_in in _BUILT_INS}


def build_model(
    spec: str, *, num_classes: int | None = None, in_channels: int | None = None, **model_args: object
) -> nn.Module:
    """Build a network that maps float inputs in [0, 1] to logits.

    ``num_classes`` and ``in_channels`` are passed on where the callable takes them; ``model_args`` always.

    Args:
        spec: a built-in name (see ``list_models``; case and "-" or "_" do not matter),
            ``path/to/file.py:callable``, or ``package.module:callable``. The callable is a function, a class,
            or a finished ``nn.Module``, which is used as it is. A file can import the modules beside it, a
            module those in the working directory.
        num_classes: K, the number of logits; None leaves it to the callable.
        in_channels: C of the inputs; None leaves it to the callable.
        **model_args: arguments of the callable, such as ``width`` of ``small_cnn``.

    Raises:
        InputError: an unknown name, arguments that the callable does not take, a result that is not an
            ``nn.Module``, or any error in the callable's code, which is chained.
    """
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    optional = {name: value for name, value in sizes.items() if value is not None}
    source, colon, attribute = spec.rpartition(":")
    if not colon:
        with _user_code(spec):
            return _call(_find_built_in(spec), spec, optional, model_args)
    if source.endswith(".py"):
        path = _find_file(source)
        with _importable_from(path.parent, forget=True), _user_code(spec):
            return _call(_find_attribute(_import_file(path), attribute), spec, optional, model_args)
    with _importable_from(Path.cwd(), forget=False), _user_code(spec):
        return _call(_find_attribute(importlib.import_module(source), attribute), spec, optional, model_args)


def _find_built_in(spec: str) -> Callable[..., nn.Module]:
    name = spec.lower().replace("-", "_")
    for built_in in _BUILT_INS:
        if match := re.fullmatch(built_in.pattern, name):
            return partial(built_in.network, *map(int, match.groups()))
    examples = [example for built_in in _BUILT_INS for example in built_in.examples]
    nearest = difflib.get_close_matches(name, examples, n=1, cutoff=0.0)[0]
    raise InputError(
        expected=f"a model: {', '.join(list_models())}, path/to/file.py:callable, or package.module:callable",
        got=repr(spec),
        hint=f"{spec}:callable" if spec.endswith(".py") else nearest,
    )


def _find_file(source: str) -> Path:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise InputError(expected="a Python file", got=f"{source}, which is no file", hint="another path")
    return path


def _import_file(path: Path) -> ModuleType:
    name = f"aradals_model_{path.stem}_{uuid.uuid4().hex}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None  # since the suffix is .py
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _find_attribute(module: ModuleType, attribute: str) -> object:
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        nearest = difflib.get_close_matches(attribute, vars(module), n=1)
        raise InputError(
            expected=f"a callable in {module.__file__}",
            got=f"{attribute!r}, which is not there",
            hint=nearest[0] if nearest else "the name of a function or class in it",
        ) from error


def _call(target: object, spec: str, optional: dict[str, int], model_args: dict[str, object]) -> nn.Module:
    if isinstance(target, nn.Module):
        return _call(lambda: target, spec, optional, model_args)
    if not callable(target):
        raise InputError(
            expected=f"{spec} to be a function, a class, or an nn.Module",
            got=f"an object of type {type(target).__name__}",
            hint="a function that returns the model",
        )
    names, takes_any = _accepted_arguments(target)
    if not takes_any and (unknown := [name for name in model_args if name not in names]):
        nearest = difflib.get_close_matches(unknown[0], names, n=1)
        raise InputError(
            expected=f"model arguments that {spec} takes ({', '.join(names) or 'none'})",
            got=", ".join(unknown),
            hint=nearest[0] if nearest else "leaving it out",
        )
    arguments = {name: value for name, value in optional.items() if takes_any or name in names} | model_args
    while True:
        try:
            model = target(**arguments)
            break
        except TypeError as error:
            # Behind **kwargs (as in torchvision's models) it shows only now that an argument is not taken.
            tentative = arguments.keys() & optional.keys() - set(names)
            refused = {n for n in tentative if f"unexpected keyword argument '{n}'" in str(error)}
            if not refused:
                raise
            arguments = {name: value for name, value in arguments.items() if name not in refused}
    if not isinstance(model, nn.Module):
        raise InputError(
            expected=f"{spec} to return an nn.Module",
            got=f"an object of type {type(model).__name__}",
            hint="a callable that returns the model itself",
        )
    return model


def _accepted_arguments(target: Callable[..., object]) -> tuple[list[str], bool]:
    """The names that ``target`` takes as keywords, and whether it takes any other name."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some callables written in C
        return [], True
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


@contextmanager
def _user_code(spec: str) -> Iterator[None]:
    """Turn whatever goes wrong in a model's code into one line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            expected=f"{spec} to be importable and to build a model",
            got=f"{type(error).__name__}: {' '.join(str(error).split())}",
            hint="calling it in Python, where the traceback shows the line",
        ) from error


@contextmanager
def _importable_from(folder: Path, *, forget: bool) -> Iterator[None]:
    """Let imports find the modules in ``folder``.

    With ``forget``, modules found there are dropped from ``sys.modules`` afterwards: the files of two models
    may well import different modules of the same name, such as ``layers``.
    """
    known = set(sys.modules)
    importlib.invalidate_caches()  # the files may be newer than the last look into the folder
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))
        if forget:
            siblings = {entry.stem for entry in folder.iterdir()} - known
            for name in sys.modules.keys() - known:
                if name.partition(".")[0] in siblings:
                    del sys.modules[name]
