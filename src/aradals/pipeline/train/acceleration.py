"""The precision of a training and its compilation, by rules that give equal machines equal results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from aradals.errors import InputError
from aradals.inference.outputs import LogitModel
from aradals.inference.predictions import resolve_device
from aradals.pipeline.config import Precision


def choose_precision(wanted: Literal["auto"] | Precision, device: str) -> Precision:
    """Choose the precision of a training: "auto" is bf16-mixed on GPUs with bfloat16 units, and 32-true elsewhere.

    The hardware decides, not a measured time, so that the choice is the same in every run on a machine. A CPU computes
    in float32, because bfloat16 takes several times as long on many CPUs.
    """
    if wanted != "auto":
        return wanted
    on_gpu = resolve_device(device).type == "cuda"
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def compiled(members: Sequence[LogitModel], device: str) -> list[LogitModel]:
    """Compile each model by ``torch.compile``; the weights are shared with the models as they were.

    Raises:
        InputError: torch cannot compile for this device, for example because a C++ compiler is missing.
    """
    probe = torch.zeros(2, device=resolve_device(device))
    try:
        torch.compile(torch.sin)(probe)
    except Exception as error:  # the compilers raise many kinds
        raise InputError(
            expected="a machine where torch.compile works, because of training.compile",
            got=f"{type(error).__name__}: {error}",
            hint="training.compile: false, or installing a C++ compiler",
        ) from error
    return [LogitModel(torch.compile(each.model), kind=each.kind, entry=each.entry) for each in members]
