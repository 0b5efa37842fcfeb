"""Checkpoints: the weights of a model, and its description, in files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from aradals._internal.files import atomic_path
from aradals._internal.optional import optional_imports
from aradals.errors import InputError
from aradals.models.builder import is_built_in, list_models

# The keys under which training scripts store the weights, and the prefixes that wrappers put before the names.
_NESTING_KEYS = ("state_dict", "model_state_dict", "model", "net", "ema")
_WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.")

MAX_ARGUMENT = 1_000_000
"""The largest number that a file may give to a model's builder."""


@dataclass(frozen=True)
class CheckpointDescription:
    """Description that a checkpoint contains: how to build its model, and the examples that it was fitted on.

    The description is untrusted data. It names no code to run and no file to open.

    Attributes:
        path: path of the checkpoint; None for an empty description.
        model: spec of the model (see `aradals.models.build_model`) as the file has it; None if the file has none.
        model_args: arguments of the builder as the file has them; `arguments` checks those that are used.
        num_classes: K, at most the size of the file in bytes; None if the file does not have it.
        class_names: one name for each class, or empty.
        fitted_examples: content hashes in base64, see `aradals.pipeline.artifacts.decode_hashes`.
    """

    path: Path | None = None
    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    fitted_examples: str = ""

    @property
    def built_in_model(self) -> str | None:
        """Name of the built-in model, which runs no code that only the file names; None if the file names no model.

        Raises:
            InputError: the file names a model that is not built in.
        """
        if self.model is None or is_built_in(self.model):
            return self.model
        raise InputError(
            expected=f"a built-in model ({', '.join(list_models())}) in the description of {self.path}",
            got=f"{self.model!r}, and code that only a file names is not run",
            hint="--model with the code that builds the model, if you trust this code",
        )

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the file's arguments of the builder with those ``given``, which take precedence.

        Raises:
            InputError: an argument from the file is not a number or boolean; text could be a path.
        """
        used = {name: value for name, value in self.model_args.items() if name not in given}
        for name, value in used.items():
            if not _is_plain(value):
                raise InputError(
                    expected=f"model arguments in {self.path} that are booleans or numbers up to {MAX_ARGUMENT:,}",
                    got=f"{name}: {value!r}",
                    hint="--model-args with this argument, if you trust its value",
                )
        return {**used, **given}


def read_description(path: str | os.PathLike[str]) -> CheckpointDescription:
    """Read the description in a checkpoint; it is empty if there is none. Only safetensors files have descriptions.

    Raises:
        InputError: the file does not exist or cannot be read, or `aradals train` cannot have written the description.
        MissingExtraError: the file is a safetensors file, but safetensors is not installed.
    """
    path = _existing(path)
    text = read_checkpoint_metadata(path).get("aradals")
    if text is None:
        return CheckpointDescription(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_description(path, "keys and values in JSON", text) from error
    if not isinstance(content, dict):
        raise _bad_description(path, "keys and values", content)
    model, model_args = content.get("model"), content.get("model_args", {})
    num_classes, class_names = content.get("num_classes"), content.get("class_names", [])
    fitted_examples = content.get("fitted_examples", "")
    if not isinstance(model, str | None):
        raise _bad_description(path, "model: text", model)
    if not isinstance(model_args, dict):
        raise _bad_description(path, "model_args: keys and values", model_args)
    size = path.stat().st_size
    if num_classes is not None and not (type(num_classes) is int and 1 <= num_classes <= size):
        raise _bad_description(path, f"num_classes: a number from 1 to {size}, the bytes of the file", num_classes)
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise _bad_description(path, "class_names: a list of text", class_names)
    if class_names and num_classes is not None and len(class_names) != num_classes:
        raise _bad_description(path, f"as many class_names as num_classes, {num_classes}", len(class_names))
    if not isinstance(fitted_examples, str):
        raise _bad_description(path, "fitted_examples: text", fitted_examples)
    return CheckpointDescription(path, model, model_args, num_classes, tuple(class_names), fitted_examples)


def _is_plain(value: object) -> bool:
    """Return True if an untrusted ``value`` is safe for a builder: it is not a path, and its size is limited."""
    if isinstance(value, list):
        return all(isinstance(item, int | float) and _is_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) <= MAX_ARGUMENT
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= MAX_ARGUMENT)


def _bad_description(path: Path, expected: str, got: object) -> InputError:
    return InputError(
        expected=f"{expected}, in the description (metadata 'aradals') of {path}",
        got=f"{got!r:.200}" if isinstance(got, str | int | float | None) else type(got).__name__,
        hint="a checkpoint that `aradals train` has written, or --model with a checkpoint without metadata",
    )


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, str]:
    """Load weights into ``model``: all weights, or none if an error occurs.

    A nested state dict is unwrapped. Prefixes of every name, which DataParallel, Lightning and ``torch.compile`` add,
    are removed. Batch counters (``num_batches_tracked``) may be missing, as in old files.

    Args:
        model: the network that the weights belong to.
        path: a ``.safetensors`` file. Any other file is read as a file of ``torch.save``, without running its code.

    Returns:
        The metadata of a safetensors file; empty for other files.

    Raises:
        InputError: the file does not exist, cannot be read or could run code; this package wrote the file and it has
            changed since; or the weights do not fit.
        MissingExtraError: the file is a safetensors file, but safetensors is not installed.
    """
    path = _existing(path)
    state, metadata = _read_fitting(model, path)
    _check_seal(state, metadata, path)
    model.load_state_dict(state, strict=False)
    return metadata


def check_fit(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Compare the names and shapes of a model's weights, which may be on the device "meta", with those in a file.

    Raises:
        InputError: see `load_checkpoint`.
        MissingExtraError: see `load_checkpoint`.
    """
    _read_fitting(model, _existing(path), shapes_alone=True)


def read_checkpoint_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a safetensors file, without its weights; empty for other files.

    Raises:
        InputError: the file does not exist or cannot be read.
        MissingExtraError: the file is a safetensors file, but safetensors is not installed.
    """
    path = _existing(path)
    return _read(path, shapes_alone=True)[1] if _is_safetensors(path) else {}


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    """Write the weights of ``model`` to a safetensors file. It replaces ``path`` only when it is complete.

    Args:
        model: any module; shared weights are written once for each name.
        path: the file; missing folders are created.
        metadata: text that ``load_checkpoint`` will return.

    Raises:
        InputError: the file cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    with optional_imports():
        from safetensors.torch import save
    # The tensors are clones, because safetensors refuses tensors that share memory or are not contiguous.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(save(state, metadata))


def seal_description(model: nn.Module, description: Mapping[str, object]) -> dict[str, str]:
    """Make the metadata of a checkpoint: the description, and a digest of the description and the weights.

    `load_checkpoint` refuses a file with a wrong digest. Safetensors itself does not detect a flipped bit.

    Args:
        model: the model whose weights are saved.
        description: values that JSON can store, see `CheckpointDescription`.
    """
    # There is only one entry, because safetensors writes entries in random order, and equal models should give equal
    # files.
    return {"aradals": json.dumps({**description, "sha256": _seal(model.state_dict(), description)})}


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of the names, types, shapes and values of weights: the first 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} ".encode())
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _seal(state: Mapping[str, Tensor], description: Mapping[str, object]) -> str:
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(f"{weights_digest(state)} {text}".encode()).hexdigest()


def _check_seal(state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Raise InputError if a file of this package has changed since it was written; other files have no digest."""
    try:
        description = json.loads(metadata.get("aradals", "{}"))
    except (ValueError, RecursionError):
        return  # not a description of this package; `read_description` raises the error
    seal = description.pop("sha256", None) if isinstance(description, dict) else None
    lost = seal is None and isinstance(description, dict) and any(map(_is_seal, description.values()))
    if lost or (seal is not None and seal != _seal(state, description)):
        raise InputError(
            expected=f"the weights in {path} as they were written",
            got="a file that was changed or damaged",
            hint="an intact copy of the file, or training again",
        )


def _is_seal(value: object) -> bool:
    """Return True for the digest of a file; under another name, it shows that the name was damaged."""
    return isinstance(value, str) and re.fullmatch(r"\S{64}", value) is not None


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(expected="a checkpoint file", got=f"{path}, which is not a file", hint="another path")
    return path


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def _read(path: Path, *, shapes_alone: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights and metadata; with ``shapes_alone`` the weights may be on the device "meta", without values."""
    return _read_safetensors(path, shapes_alone=shapes_alone) if _is_safetensors(path) else (_read_torch(path), {})


def _read_safetensors(path: Path, *, shapes_alone: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    with optional_imports():
        from safetensors import safe_open
    try:
        with safe_open(path, framework="pt") as file:
            if shapes_alone:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
                state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
            else:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, file.metadata() or {}
    except Exception as error:  # safetensors documents no closed list of errors
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    _refuse_packed(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything, from EOFError to KeyError
        if "Unsupported" in str(error):
            raise InputError(
                expected="a checkpoint of tensors only",
                got=f"{path}, a pickle that could run code when it is read",
                hint="a file that contains only the model's state_dict(), or a safetensors file",
            ) from error
        raise _unreadable(path, error) from error
    while isinstance(content, Mapping):
        nested = next((content[key] for key in _NESTING_KEYS if isinstance(content.get(key), Mapping)), None)
        if nested is None:
            break
        content = nested
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            expected="a checkpoint that contains a state dict (names and tensors)",
            got=f"{path}, which contains {_describe(content)}",
            hint=f"saving model.state_dict() alone, or under the key {_NESTING_KEYS[0]!r}",
        )
    return {str(name): cast(Tensor, tensor) for name, tensor in content.items()}


def _refuse_packed(path: Path) -> None:
    """Raise InputError for a zip file that unpacks to more than its size; torch.save never writes such files."""
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(entry.file_size for entry in file.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # an old file of torch.save, or a file for which torch itself raises the error
    if unpacked > path.stat().st_size:
        raise InputError(
            expected=f"a checkpoint without compression, as torch.save writes it, in {path}",
            got=f"{path.stat().st_size} bytes that unpack to {unpacked}",
            hint="a safetensors file",
        )


def _strip_prefixes(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while state and not state.keys() & expected.keys():
        prefix = next((p for p in _WRAPPER_PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _read_fitting(
    model: nn.Module, path: Path, *, shapes_alone: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights, with the names that the model uses, and metadata. Errors are those of `load_checkpoint`."""
    state, metadata = _read(path, shapes_alone=shapes_alone)
    expected = model.state_dict()
    state = _strip_prefixes(state, expected)
    missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in expected]
    reshaped = [n for n in expected if n in state and state[n].shape != expected[n].shape]
    problems = []
    if missing:
        problems.append(f"without {_first_names(missing)}")
    if unexpected:
        problems.append(f"with unknown {_first_names(unexpected)}")
    if reshaped:
        name = reshaped[0]
        shapes = f"shape {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        problems.append(f"with {name} of {shapes}")
    if problems:
        raise InputError(
            expected=f"a checkpoint that fits the model ({type(model).__name__})",
            got=f"{path}, {', '.join(problems)}",
            hint="the model, number of classes and width of the saved model",
        )
    return state, metadata


def _first_names(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        other = next(key for key, value in content.items() if not isinstance(value, Tensor))
        return f"no tensor under the key {other!r}"
    return f"an object of type {type(content).__name__}"


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        expected="a readable checkpoint",
        got=f"{path} ({type(error).__name__}: {reason})",
        hint="an intact copy of the file",
    )
