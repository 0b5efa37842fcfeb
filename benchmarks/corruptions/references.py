"""The corruptions as others make them, image by image, from the same random numbers as here where that is possible.

- ``package``: imagecorruptions-imaug, with the constants of ImageNet-C.
- ``published``: the functions of imagenet-c 0.0.3 (``pip install --no-deps imagenet-c wand``, Debian's
  libmagickwand-6.q16-6), which made ImageNet-C, with the constants and the size of any preset put in their place. Those
  that made CIFAR-10-C and Tiny-ImageNet-C are the same but for these.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from aradals.corruptions.constants import PRESETS
from aradals.corruptions.randomness import Randomness

Pixels = npt.NDArray[np.uint8]
Corrupt = Callable[[str, int, Pixels], Pixels]
"""(corruption, severity, image (H, W, 3)) -> corrupted image."""


@contextmanager
def shared_random(corruption: str, severity: int, example: int) -> Iterator[None]:
    """Let ``numpy.random`` give the numbers that this example gets here.

    Impulse noise and glass blur of the others draw from elsewhere, or in another way.
    """
    (generator,) = Randomness(corruption, severity, torch.tensor([example]))._generators()

    def normal(loc: float = 0, scale: float = 1, size: tuple[int, ...] = ()) -> Any:
        shape = (size[2], *size[:2]) if len(size) == 3 else size  # here channels come first
        values = generator.standard_normal(shape, dtype=np.float32).astype(float) * scale + loc
        return values.transpose(1, 2, 0) if len(size) == 3 else values

    def uniform(low: float = 0, high: float = 1, size: Any = ()) -> Any:
        return generator.random(size, dtype=np.float32).astype(float) * (high - low) + low

    def randint(low: int, high: int | None = None) -> int:
        """Which texture of frost, ``randint(5)``, and a corner of it, ``randint(0, space)``."""
        if high is None:
            return int(generator.integers(0, low, (), dtype=np.int16))
        return int(float(generator.random(1, dtype=np.float32)[0]) * high)

    def poisson(rates: Any) -> Any:
        return generator.poisson(rates.astype(np.float32).astype(float).transpose(2, 0, 1)).transpose(1, 2, 0)

    shared: dict[str, Any] = {"normal": normal, "uniform": uniform, "poisson": poisson}
    if corruption == "frost":
        shared["randint"] = randint
    with mock.patch.multiple(np.random, **shared):
        yield


def package() -> Corrupt:
    """imagecorruptions-imaug."""
    imagecorruptions = importlib.import_module("imagecorruptions")

    def corrupt(corruption: str, severity: int, image: Pixels) -> Pixels:
        corrupted: Pixels = imagecorruptions.corrupt(image, corruption_name=corruption, severity=severity)
        return corrupted

    return corrupt


def published(preset: str, size: int) -> Corrupt:
    """The functions that made the published files, for images of ``size`` pixels."""
    gaussian = importlib.import_module("skimage.filters").gaussian
    textures = _folder("imagecorruptions")
    program = _Adapted(size).visit(ast.parse((_folder("imagenet_c") / "corruptions.py").read_text()))
    numpy = SimpleNamespace(**{name: getattr(np, name) for name in dir(np)})
    numpy.float_, numpy.fromstring = np.float64, np.frombuffer
    functions: dict[str, Any] = {
        "np": numpy,
        "CONSTANTS": _published_constants(preset, size),
        "resource_filename": lambda _, file: str(textures / file),
    }
    exec(compile(ast.fix_missing_locations(program), "imagenet_c/corruptions.py", "exec"), functions)

    def smooth(image: Any, sigma: float, multichannel: bool = False, **options: Any) -> Any:
        return gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **options)

    scale = PRESETS[preset]["frost"][0][2]
    cv2 = functions["cv2"]
    functions["cv2"] = SimpleNamespace(**{name: getattr(cv2, name) for name in dir(cv2)})
    if scale != 1:
        functions["cv2"].imread = lambda file: cv2.resize(cv2.imread(file), (0, 0), fx=scale, fy=scale)
    fractal, side = functions["plasma_fractal"], 1 << (size - 1).bit_length()
    functions |= {
        "gaussian": smooth,
        "plasma_fractal": lambda wibbledecay: fractal(mapsize=side, wibbledecay=wibbledecay),
    }

    def corrupt(corruption: str, severity: int, image: Pixels) -> Pixels:
        corrupted: Pixels = np.asarray(functions[corruption](Image.fromarray(image), severity)).astype(np.uint8)
        return corrupted

    return corrupt


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _published_constants(preset: str, size: int) -> dict[str, list[Any]]:
    """Constants in the form in which the functions have them."""
    constants: dict[str, list[Any]] = {
        name: [values[0] if len(values) == 1 else values for values in table] for name, table in PRESETS[preset].items()
    }
    constants["zoom_blur"] = [np.arange(1, end, step) for end, step in constants["zoom_blur"]]
    constants["frost"] = [values[:2] for values in constants["frost"]]
    constants["elastic_transform"] = [
        tuple(size * value for value in values) for values in constants["elastic_transform"]
    ]
    return constants


class _Adapted(ast.NodeTransformer):
    """The program without imports that are gone, for another size, with constants from a table."""

    def __init__(self, size: int) -> None:
        self.size, self.function = size, ""

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        return None if node.names[0].name == "numpy" else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module == "scipy.ndimage.interpolation":
            node.module = "scipy.ndimage"
        return None if node.module == "pkg_resources" else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.function = node.name
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant(self.size) if node.value == 224 else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if ast.unparse(node).startswith("c = [") and self.function in PRESETS["cifar"]:
            return ast.parse(f"c = CONSTANTS[{self.function!r}][severity - 1]").body[0]
        return self.generic_visit(node)
