"""The state of a training on disk: written after each epoch, and read only if no bit has changed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from aradals._internal.files import atomic_path, set_aside, unwritable
from aradals.errors import InputError, TrainingFailed
from aradals.pipeline.config import Precision

_MARK = b"ar-adals training state, sha256 "
_INPUTS, _PRECISION = "inputs", "precision"


class UnusableState(Exception):
    """Raised for a file that is not the state of this training; the message has the reason."""


class StateIO(TorchCheckpointIO):
    """Reader and writer of the states of one training, instead of Lightning's own files.

    Lightning writes into the temporary folder, and then moves the file. If this folder is on another file system, the
    move is a copy, and a training that is killed meanwhile would lose the old state and the new one. Here, the new
    state is written beside the old one, and replaces the old one in one step.

    A file has one line with the SHA-256 of the rest, and then the output of ``torch.save``. Torch itself does not
    detect a flipped bit in a tensor.

    Args:
        inputs: digest of everything that decides the course of the training, which is part of the state.
        precision: precision of the training, which is part of the state, too.
    """

    def __init__(self, inputs: str, precision: Precision = "32-true") -> None:
        self.inputs, self.precision = inputs, precision

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a state.

        Raises:
            OutputError: the state cannot be written; the earlier state stays.
        """
        buffer = io.BytesIO()
        torch.save({**checkpoint, _INPUTS: self.inputs, _PRECISION: self.precision}, buffer)
        content = buffer.getbuffer()
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
            file.write(_MARK + hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a state; tensors are on the CPU, and no code in the file is run.

        Raises:
            UnusableState: the file cannot be read, has changed since it was written, or belongs to other inputs.
        """
        try:
            line, _, content = Path(path).read_bytes().partition(b"\n")
        except OSError as error:
            raise UnusableState(error.strerror or type(error).__name__) from error
        if not line.startswith(_MARK):
            raise UnusableState("it is empty" if not line + content else "it is not of this form")
        if line != _MARK + hashlib.sha256(content).hexdigest().encode():
            raise UnusableState("its content has changed since it was written")
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:
            raise UnusableState(f"torch cannot read it: {type(error).__name__}") from error
        if not isinstance(state, dict) or state.get(_INPUTS) != self.inputs:
            raise UnusableState("it belongs to a training with other inputs")
        precision: Any = state.get(_PRECISION)
        if precision not in get_args(Precision):
            raise UnusableState("it does not name its precision")
        # A training goes on as it began, also on a machine where another precision would have been chosen.
        self.precision = precision
        return state


class SaveState(Checkpoint):
    """Callback that saves the whole state after each epoch, after the module has recorded and checked it.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state; Lightning calls this hook of a `Checkpoint` after the hook of the module."""
        trainer.save_checkpoint(self.path)


def has_state(path: Path, state_io: StateIO, module: LightningModule, log: Callable[[str], None], rank: int) -> bool:
    """Return True if ``module`` can continue from the state in ``path``.

    An unusable file is renamed to ``<name>.unreadable-1`` by rank 0, and the log says so.

    Raises:
        OutputError: the file cannot be renamed.
    """
    if not path.exists():
        return False
    try:
        # The code of a model may have changed in a place that no digest covers.
        if _shapes(state_io.load_checkpoint(path).get("state_dict")) != _shapes(module.state_dict()):
            raise UnusableState("it belongs to a model of another form")
    except UnusableState as error:
        if rank:
            return False
        try:
            aside = set_aside(path, "unreadable")
        except OSError as failure:
            raise unwritable(path, failure) from failure
        log(
            f"the state of an earlier call in {path} cannot be used ({error}): it is kept as {aside.name}, "
            "and training starts anew"
        )
        return False
    return True


class Restoration(Callback):
    """Callback that renames a state that cannot be restored, although its content is intact.

    Optimizer, schedule and loop check their parts of the state, when the module is half restored already. So only the
    next call can start again.

    Args:
        path: path of the state that the training continues from; None if there is none.
        rank: rank of this process; rank 0 renames the file.
    """

    def __init__(self, path: Path | None, rank: int) -> None:
        self.path, self.rank, self.is_done = path, rank, path is None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end of the restoration; Lightning calls this hook after it has restored everything."""
        self.is_done = True

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Run a block that fits the module.

        Raises:
            TrainingFailed: the state cannot be restored.
        """
        try:
            yield
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            if self.path is None or self.is_done or self.rank or isinstance(error, InputError):
                raise
            raise TrainingFailed(
                f"the state of an earlier call in {self.path} cannot be restored ({type(error).__name__}): it is kept "
                f"as {set_aside(self.path, 'unreadable').name}, and the same command starts anew"
            ) from error


def _shapes(tensors: object) -> dict[str, object]:
    found = tensors if isinstance(tensors, dict) else {}
    # The history of the targets grows with each update.
    return {name: getattr(tensor, "shape", None) for name, tensor in found.items() if name != "criterion.steps"}
