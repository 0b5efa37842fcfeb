"""Training does what the recipe says, wherever it runs: Lightning takes settings from the environment."""

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
_NAMES = {
    *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID"),
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE"),
    *("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"),
}


@contextmanager
def settings_from_arguments_alone() -> Iterator[None]:
    """Hide from Lightning what a scheduler or the user has set for other programs.

    Within a SLURM job Lightning would be one of several processes that train together: it would refuse our one device,
    or, with another rank than 0, save nothing. The job's other variables (``SLURM_TMPDIR``) stay.
    """
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or name in _NAMES}
    process = vars(rank_zero_only)
    rank = process["rank"]  # taken from the environment when Lightning was imported
    for name in hidden:
        del os.environ[name]
    process["rank"] = 0
    try:
        yield
    finally:
        process["rank"] = rank
        os.environ.update(hidden)
