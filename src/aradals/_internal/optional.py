"""Optional packages, imported when they are needed; the error for a missing one names the command that installs it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aradals.errors import MissingExtraError

_EXTRAS = {
    "PIL": ("pillow", "data"),
    "accelerate": ("accelerate", "transformers"),
    "datasets": ("datasets", "data"),
    "distributed": ("distributed", "distributed"),
    "huggingface_hub": ("huggingface_hub", "data"),
    "jinja2": ("jinja2", "report"),
    "lightning": ("lightning", "train"),
    "loky": ("loky", "cli"),
    "mlflow": ("mlflow", "mlflow"),
    "matplotlib": ("matplotlib", "plots"),
    "markupsafe": ("markupsafe", "report"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "onnxscript": ("onnxscript", "export"),
    "pandas": ("pandas", "data"),
    "pyarrow": ("pyarrow", "data"),
    "pydantic": ("pydantic", "report"),
    "rich": ("rich", "cli"),
    "safetensors": ("safetensors", "train"),
    "scipy": ("scipy", "data"),
    "sklearn": ("scikit-learn", "data"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "timm": ("timm", "models"),
    "torchmetrics": ("torchmetrics", "train"),
    "torchvision": ("torchvision", "models"),
    "tqdm": ("tqdm", "cli"),
    "transformers": ("transformers", "transformers"),
    "wandb": ("wandb", "wandb"),
}
"""Name of a module -> its package, and the extra that contains it."""


@contextmanager
def optional_imports() -> Iterator[None]:
    """Import optional packages in the block.

    Raises:
        MissingExtraError: one of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        raise MissingExtraError(*_EXTRAS[missing]) from error


def load_extra(module: str) -> Any:
    """Import the optional module with this name.

    Raises:
        MissingExtraError: the module is not installed.
    """
    with optional_imports():
        return importlib.import_module(module)
