"""Checkpoints: the weights of a model, and its description, in files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aradals._internal.files import atomic_path
from aradals._internal.optional import optional_imports
from aradals.errors import InputError
from aradals.models.builder import argument_names, is_built_in, list_models
from aradals.models.matching import Match, first_names, matches, rename
from aradals.models.weight_files import describe_content, find_files, is_safetensors, read_content

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
        input_shape: shape of an input; None if the file does not have it.
        class_names: one name for each class, or empty.
        fitted_examples: content hashes in base64, see `aradals._internal.hashes.decode_hashes`.
        hyper_parameters: arguments of a LightningModule, as a checkpoint of Lightning has them.
        preparation: preparation of the training data, see `aradals.data.Examples`.
    """

    path: Path | None = None
    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    fitted_examples: str = ""
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    preparation: Mapping[str, Any] = field(default_factory=dict)

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

    def arguments_for(self, spec: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the file's arguments of the builder with those ``given``, which take precedence.

        Hyper-parameters of Lightning are used if the builder has arguments with their names.

        Raises:
            InputError: an argument from the file is no number or boolean, because text could be a path. Words, such as
                the name of an activation, are accepted among hyper-parameters.
        """
        is_described = spec == self.model
        saved = self.model_args if is_described else self.hyper_parameters
        if saved and not is_described and (names := argument_names(spec)) is not None:
            saved = {name: value for name, value in saved.items() if name in names}
        used = {name: value for name, value in saved.items() if name not in given}
        for name, value in used.items():
            if not (_is_plain(value) or (not is_described and _is_word(value))):
                raise InputError(
                    expected=f"booleans or numbers up to {MAX_ARGUMENT:,} as model arguments in {self.path}",
                    got=f"{name}: {value!r}",
                    hint="--model-args with this argument, if you trust its value",
                )
        return {**used, **given}


def read_description(path: str | os.PathLike[str]) -> CheckpointDescription:
    """Read the description in a safetensors file, or the hyper-parameters in a .ckpt file of Lightning.

    The description of any other file is empty.

    Raises:
        InputError: the file does not exist or cannot be read, or `aradals train` cannot have written the description.
        MissingExtraError: the file is a safetensors file, but safetensors is not installed.
    """
    path = find_files(path)[0]
    if path.suffix.lower() == ".ckpt":
        content, _ = read_content(path)
        saved = content.get("hyper_parameters") if isinstance(content, Mapping) else None
        return CheckpointDescription(path, hyper_parameters=saved if isinstance(saved, Mapping) else {})
    text = read_checkpoint_metadata(path).get("aradals")
    if text is None:
        return CheckpointDescription(path)
    content = _settings(text, path)
    model, model_args = content.get("model"), content.get("model_args", {})
    num_classes, class_names = content.get("num_classes"), content.get("class_names", [])
    input_shape = content.get("input_shape")
    fitted_examples, preparation = content.get("fitted_examples", ""), content.get("preparation", {})
    for name, text in (("model", "" if model is None else model), ("fitted_examples", fitted_examples)):
        if not isinstance(text, str):
            raise _bad_description(path, f"{name}: text", text)
    for name, settings in (("model_args", model_args), ("preparation", preparation)):
        if not isinstance(settings, dict):
            raise _bad_description(path, f"{name}: keys and values", settings)
    size = path.stat().st_size
    if num_classes is not None and not (type(num_classes) is int and 1 <= num_classes <= size):
        raise _bad_description(path, f"num_classes: a number from 1 to {size}, the bytes of the file", num_classes)
    if input_shape is not None and not _is_shape(input_shape):
        raise _bad_description(path, f"input_shape: a list of numbers from 1 to {MAX_ARGUMENT:,}", input_shape)
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise _bad_description(path, "class_names: a list of text", class_names)
    if class_names and num_classes is not None and len(class_names) != num_classes:
        raise _bad_description(path, f"as many class_names as num_classes, {num_classes}", len(class_names))
    return CheckpointDescription(
        path,
        model,
        model_args,
        num_classes,
        None if input_shape is None else tuple(input_shape),
        tuple(class_names),
        fitted_examples,
        preparation=preparation,
    )


def _settings(text: str, path: Path) -> dict[str, Any]:
    """Read the keys and values of a description."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_description(path, "keys and values in JSON", text) from error
    if not isinstance(content, dict):
        raise _bad_description(path, "keys and values", content)
    return content


def _is_plain(value: object) -> bool:
    """Return True if an untrusted ``value`` is safe for a builder: it is not a path, and its size is limited."""
    if isinstance(value, list):
        return all(isinstance(item, int | float) and _is_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) <= MAX_ARGUMENT
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= MAX_ARGUMENT)


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 1 <= size <= MAX_ARGUMENT for size in value)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z]\w{0,63}", value) is not None


def _bad_description(path: Path, expected: str, got: object) -> InputError:
    return InputError(
        expected=f"{expected}, in the description (metadata 'aradals') of {path}",
        got=f"{got!r:.200}" if isinstance(got, str | int | float | None) else type(got).__name__,
        hint="a checkpoint that `aradals train` has written, or --model with a checkpoint without metadata",
    )


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Load weights into ``model``: all weights, or none if an error occurs.

    State dicts are searched at every depth of the file. Names may have any prefix, in the file and in the model: one
    pair of prefixes has to fit all weights of the model. Tensors of the file that belong to no layer of the model, such
    as those of a criterion or a metric, are left. Batch counters and constants of the model may be missing.

    Args:
        model: the network that the weights belong to.
        path: a ``.safetensors`` file; an index of shards; a folder of ``save_pretrained``; or any other file, which is
            read as a file of ``torch.save``, without running its code.
        key: the key or prefix of the weights, if the file has several that fit, such as those of a model and of its
            moving average.
        log: called with a line about what was left or kept.

    Returns:
        The metadata of a safetensors file; empty for other files.

    Raises:
        InputError: the file does not exist, cannot be read or could run code; this package wrote the file and it has
            changed since; or the weights do not fit, or several do.
        MissingExtraError: the file is a safetensors file, but safetensors is not installed.
    """
    content, metadata = _read(path)
    match = _fitting(model, path, content, key)
    _check_seal(content, metadata, path)
    model.load_state_dict(rename(model, match.weights), strict=False)
    for names, what in ((match.left, "left out"), (match.kept, "not in the file, and as the model has them")):
        if names:
            log(f"{path}: {first_names(names)} {what}")
    return metadata


def check_fit(model: nn.Module, path: str | os.PathLike[str], *, key: str | None = None) -> None:
    """Compare the names and shapes of a model's weights, which may be on the device "meta", with those in a file.

    Raises:
        InputError: see `load_checkpoint`.
        MissingExtraError: see `load_checkpoint`.
    """
    _fitting(model, path, _read(path, shapes_alone=True)[0], key)


def read_checkpoint_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a safetensors file, without its weights; empty for other files.

    Raises:
        InputError: the file does not exist or cannot be read.
        MissingExtraError: the file is a safetensors file, but safetensors is not installed.
    """
    file = find_files(path)[0]
    return read_content(file, shapes_alone=True)[1] if is_safetensors(file) else {}


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


def _check_seal(state: Mapping[str, Tensor], metadata: Mapping[str, str], path: str | os.PathLike[str]) -> None:
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


def _read(path: str | os.PathLike[str], *, shapes_alone: bool = False) -> tuple[Any, dict[str, str]]:
    """Read the content and the metadata of one file, or of all shards together."""
    parts = [read_content(file, shapes_alone=shapes_alone) for file in find_files(path)]
    if len(parts) == 1:
        return parts[0]
    return {name: value for content, _ in parts for name, value in dict(content).items()}, {}


def _fitting(model: nn.Module, path: str | os.PathLike[str], content: object, key: str | None) -> Match:
    """Find the only weights in a file that fit a model. Errors are those of `load_checkpoint`."""
    found = matches(model, content, all_prefixes=key is not None)
    if key is not None:
        chosen = [match for match in found if match.path == key]
        paths = ", ".join(match.path or "no key" for match in found)
        if not chosen:
            raise InputError(expected=f"the key of weights in {path}", got=repr(key), hint=paths)
        found = chosen
    if not found:
        raise InputError(
            expected="a checkpoint that contains a state dict (names and tensors)",
            got=f"{path}, which contains {describe_content(content)}",
            hint="saving model.state_dict() alone, or under a key",
        )
    best, *others = found
    if not best.fits:
        raise InputError(
            expected=f"a checkpoint that fits the model ({type(model).__name__})",
            got=f"{path}, {best.problems}",
            hint="the model of the file, with its width and its number of classes (--class-names, or "
            "--model-args '{num_classes: 10}')",
        )
    if not all(best.same_weights(other) for other in others):
        raise InputError(
            expected=f"one set of weights in {path} that fits the model",
            got=f"several: {', '.join(match.path or 'no key' for match in found)}",
            hint=f"--checkpoint-key {found[-1].path} (in Python, key={found[-1].path!r})",
        )
    return best
