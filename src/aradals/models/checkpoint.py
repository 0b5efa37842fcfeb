"""Reading and writing the weights of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from aradals.errors import InputError, MissingExtraError
from aradals.files import atomic_path

# Where training scripts put the weights beside other things, and what wrappers put before the names.
_NESTING_KEYS = ("state_dict", "model_state_dict", "model", "net", "ema")
_WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.")


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, str]:
    """Load weights into ``model``, all of them or none.

    A nested state dict is unwrapped, and the prefixes that DataParallel, Lightning and ``torch.compile`` put
    before every name are removed. Batch counters (``num_batches_tracked``) may be missing, as in old files.

    Args:
        model: the network that the weights belong to.
        path: a ``.safetensors`` file; anything else is read as a file of ``torch.save``; no code runs.

    Returns:
        The metadata of a safetensors file; empty for other files.

    Raises:
        InputError: no such file, a file that cannot be read or could run code, or weights that do not fit.
        MissingExtraError: a safetensors file, but safetensors is not installed.
    """
    path = _existing(path)
    if path.suffix.lower() == ".safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _read_torch(path), {}
    expected = model.state_dict()
    state = _strip_prefixes(state, expected)
    _check_fit(state, expected, path, type(model).__name__)
    model.load_state_dict(state, strict=False)
    return metadata


def read_checkpoint_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file, without its weights; empty for other files.

    Raises:
        InputError: no such file, or one that cannot be read.
        MissingExtraError: a safetensors file, but safetensors is not installed.
    """
    path = _existing(path)
    return _read_safetensors(path, weights=False)[1] if path.suffix.lower() == ".safetensors" else {}


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    """Write the weights of ``model`` to a safetensors file, replacing ``path`` only once all is written.

    Args:
        model: any module; weights that it shares are written once per name.
        path: the file; folders that do not exist are created.
        metadata: text that ``load_checkpoint`` will return.

    Raises:
        InputError: the file cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise MissingExtraError("safetensors", "train") from error
    # Clones, since safetensors refuses tensors that share memory and those that are not contiguous.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(save(state, metadata))


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(expected="a checkpoint file", got=f"{path}, which is no file", hint="another path")
    return path


def _read_safetensors(path: Path, *, weights: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "train") from error
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys()) if weights else []
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except Exception as error:  # safetensors documents no closed list of errors
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything, from EOFError to KeyError
        if "Unsupported" in str(error):
            raise InputError(
                expected="a checkpoint of tensors only",
                got=f"{path}, a pickle that could run code when it is read",
                hint="a file that holds the model's state_dict() alone, or a safetensors file",
            ) from error
        raise _unreadable(path, error) from error
    while isinstance(content, Mapping):
        nested = next((content[key] for key in _NESTING_KEYS if isinstance(content.get(key), Mapping)), None)
        if nested is None:
            break
        content = nested
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            expected="a checkpoint that holds a state dict (names and tensors)",
            got=f"{path}, which holds {_describe(content)}",
            hint=f"saving model.state_dict(), alone or under the key {_NESTING_KEYS[0]!r}",
        )
    return {str(name): cast(Tensor, tensor) for name, tensor in content.items()}


def _strip_prefixes(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while state and not state.keys() & expected.keys():
        prefix = next((p for p in _WRAPPER_PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, model_name: str) -> None:
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
            expected=f"a checkpoint that fits the model ({model_name})",
            got=f"{path}, {', '.join(problems)}",
            hint="the model, number of classes and width that it was saved from",
        )


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
