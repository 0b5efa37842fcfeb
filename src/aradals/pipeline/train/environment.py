"""Protection of training from the environment, because Lightning reads settings from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.rank_zero import rank_zero_only

_PREFIXES = (
    "PL_",  # arguments of the Trainer: PL_TRAINER_MAX_EPOCHS
    "LT_",  # the same for Fabric
    "JSM_NAMESPACE_",  # LSF
)
_JOB = {"SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "NODE_RANK"}
_RANK = {"RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"}


@contextmanager
def settings_from_arguments_alone(rank: int | None = None) -> Iterator[None]:
    """Hide variables from Lightning that a scheduler or the user has set for other programs.

    Within a SLURM job, Lightning would act as one of several processes that train together: it would refuse a single
    device, or save nothing if its rank is not 0. Other variables of the job (``SLURM_TMPDIR``) stay.

    Args:
        rank: rank of this process, if several train together. Lightning then sees the variables of torchrun, see
            `aradals.pipeline.ranks`.
    """
    names = _JOB if rank is not None else _JOB | _RANK
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or name in names}
    process = vars(rank_zero_only)
    before = process["rank"]  # Lightning has read this from the environment at its import
    for name in hidden:
        del os.environ[name]
    process["rank"] = rank or 0
    try:
        yield
    finally:
        process["rank"] = before
        os.environ.update(hidden)
