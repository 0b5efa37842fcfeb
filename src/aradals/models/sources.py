"""Networks of other packages by name, with the preprocessing that their weights expect, and programs from files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aradals._internal.files import file_digest
from aradals._internal.optional import load_extra
from aradals.errors import InputError
from aradals.inference.outputs import find_logits
from aradals.models.preprocessing import Preprocessed, Preprocessing, of_processor
from aradals.models.weight_files import is_script

_PROGRAMS = (".pt2", ".ts", ".pt", ".pth", ".torchscript", ".ptl")


def find_source(spec: str) -> Callable[..., nn.Module] | None:
    """Return the function that builds a network of another package, or reads a program; None for any other name."""
    source, _, name = spec.partition(":")
    if name and source in SOURCES:
        return partial(SOURCES[source], name)
    return partial(load_program, Path(spec)) if spec.lower().endswith(_PROGRAMS) else None


def without_weights(spec: str) -> dict[str, Any]:
    """Return the arguments by which a network of another package is built without its own weights."""
    return {"pretrained": False} if spec.partition(":")[0] in SOURCES and spec.partition(":")[2] else {}


def source_digest(spec: str) -> str | None:
    """Return what changes with the code behind a name of `find_source`: a version, or the digest of a program."""
    source = spec.partition(":")[0]
    if source not in SOURCES:
        return file_digest(Path(spec))
    try:
        return version(source)
    except PackageNotFoundError:
        return None


def from_timm(
    name: str, *, pretrained: bool = True, num_classes: int | None = None, in_channels: int = 3, **settings: Any
) -> Preprocessed:
    """Build a network of timm.

    Args:
        name: a name that ``timm.create_model`` knows.
        pretrained: load the weights that timm has for it, with their classes.
        num_classes: K, if the network is not pretrained.
        in_channels: C of the images.
        **settings: further arguments of ``timm.create_model``.
    """
    timm = load_extra("timm")
    classes = {} if pretrained or num_classes is None else {"num_classes": num_classes}
    channels = {} if in_channels == 3 else {"in_chans": in_channels}
    model = timm.create_model(name, pretrained=pretrained, **classes, **channels, **settings)
    config = timm.data.resolve_model_data_config(model)
    _, height, width = config["input_size"]
    resize = tuple(int(side / config["crop_pct"]) for side in (height, width))
    preprocessing = Preprocessing(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize=(height, width) if config["crop_mode"] == "squash" else min(resize),
        crop=(height, width),
        mode=config["interpolation"] if config["interpolation"] in ("bilinear", "nearest") else "bicubic",
    )
    subset = timm.data.infer_imagenet_subset(model) if pretrained else None
    names = timm.data.ImageNetInfo(subset).label_descriptions() if subset else ()
    return Preprocessed(model, preprocessing, in_channels, names).train(not pretrained)


def from_torchvision(
    name: str, *, pretrained: bool = True, num_classes: int | None = None, **settings: Any
) -> Preprocessed:
    """Build a network of torchvision.

    Args:
        name: a name that ``torchvision.models.get_model`` knows.
        pretrained: load the default weights, with their classes.
        num_classes: K, if the network is not pretrained.
        **settings: further arguments of the builder.
    """
    models = load_extra("torchvision").models
    weights = models.get_model_weights(name).DEFAULT
    classes = {} if pretrained or num_classes is None else {"num_classes": num_classes}
    model = models.get_model(name, weights=weights if pretrained else None, **classes, **settings)
    given = weights.transforms()
    preprocessing = Preprocessing(
        mean=tuple(given.mean),
        std=tuple(given.std),
        resize=int(given.resize_size[0]),
        crop=(int(given.crop_size[0]), int(given.crop_size[-1])),
        mode=given.interpolation.value if given.interpolation.value in ("bilinear", "nearest") else "bicubic",
    )
    names = weights.meta["categories"] if pretrained else ()
    return Preprocessed(model, preprocessing, class_names=names).train(not pretrained)


def from_transformers(name: str, *, pretrained: bool = True, num_classes: int | None = None) -> nn.Module:
    """Build an image classifier of transformers; code that only the folder or the hub has is not run.

    Args:
        name: a folder of ``save_pretrained``, or a Hugging Face id.
        pretrained: load its weights; otherwise only its configuration is used.
        num_classes: K, if the network is not pretrained.
    """
    transformers = load_extra("transformers")
    if hasattr(transformers, name):
        raise InputError(
            expected="transformers:FOLDER_OR_ID", got=f"the class {name}", hint="the folder of save_pretrained()"
        )
    auto = transformers.AutoModelForImageClassification
    try:
        if pretrained:
            model: nn.Module = auto.from_pretrained(name)
        else:
            model = auto.from_config(transformers.AutoConfig.from_pretrained(name, num_labels=num_classes))
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise InputError(
            expected="an image classifier of transformers",
            got=f"{name}, a network of another kind",
            hint="in Python, aradals.integrations.transformers.embedded, if it is a text classifier",
        ) from error
    config: Any = model.config
    names = [str(config.id2label[number]) for number in sorted(config.id2label)] if pretrained else []
    if names[:1] == ["LABEL_0"]:  # transformers has made these names up
        names = []
    return Preprocessed(model, _processor(transformers, name), getattr(config, "num_channels", 3), names)


def _processor(transformers: Any, name: str) -> Preprocessing:
    """Read what a classifier of transformers expects of its images."""
    file = transformers.utils.cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    if file is None:
        raise InputError(
            expected=f"preprocessor_config.json in {name}, which says what the network expects of its images",
            got="no such file",
            hint="processor.save_pretrained(), or a file.py:callable that loads the model, with --mean and --std",
        )
    return of_processor(json.loads(Path(file).read_text(encoding="utf-8")))


SOURCES: dict[str, Callable[..., nn.Module]] = {
    "timm": from_timm,
    "torchvision": from_torchvision,
    "transformers": from_transformers,
}
"""The word before ":" -> the function that builds a network by the name after it."""


class Program(nn.Module):
    """An exported or scripted program, which has no modes, and possibly one size of a batch.

    Args:
        program: the program.
        batch_size: the only size of a batch that it takes; None for any size.
    """

    def __init__(self, program: nn.Module, batch_size: int | None = None) -> None:
        super().__init__()
        self.program, self.batch_size = program, batch_size

    def forward(self, inputs: Tensor) -> Any:
        """Call the program; fill up the last batch with copies if it takes batches of one size."""
        if self.batch_size is None:
            return self.program(inputs)
        num_inputs, size = len(inputs), self.batch_size
        rows = torch.arange(-(-num_inputs // size) * size, device=inputs.device) % num_inputs
        return torch.cat([find_logits(self.program(part), size) for part in inputs[rows].split(size)])[:num_inputs]

    def train(self, mode: bool = True) -> Program:
        """Keep the mode in which the program was exported."""
        return self


def load_program(path: Path) -> nn.Module:
    """Read a program of ``torch.export`` or a TorchScript program. A program is code: load only those you trust.

    Raises:
        InputError: there is no such file, or it is another kind of file.
    """
    if not path.is_file():
        raise InputError(expected="a program", got=f"{path}, which is not a file", hint="another path")
    if path.suffix.lower() == ".pt2":
        with _weights_only():
            program = torch.export.load(path)
        return Program(program.module(), _batch_size(program))
    if not is_script(path):
        raise InputError(
            expected="a program of torch.export or TorchScript",
            got=f"{path}, which has only weights",
            hint=f"--checkpoint {path}, and --model with the code that builds the network",
        )
    script: nn.Module = torch.jit.load(path, map_location="cpu").eval()
    return script


def _batch_size(program: Any) -> int | None:
    """Return the size of a batch that an exported program was specialized to; None if it takes any size."""
    user = set(program.graph_signature.user_inputs)
    node = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name in user)
    size = node.meta["val"].shape[0]
    return size if isinstance(size, int) else None


@contextmanager
def _weights_only() -> Iterator[None]:
    """Read the tensors of a program without running code that is pickled beside them."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FORCE)
        if before is not None:
            os.environ[_FORCE] = before


_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
