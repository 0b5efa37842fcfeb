"""Arrays of a finished run for comparisons between runs: bootstrap replicates and clean logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from aradals._internal.files import atomic_path
from aradals.data.arrays import NPZ_ERRORS, check_npz
from aradals.errors import InputError
from aradals.pipeline.evaluate import Sample
from aradals.results.records import Place

Replicates = dict[tuple[str, Place], Sample]
"""(calibrator, place) -> metrics on every bootstrap resample."""


@dataclass(frozen=True)
class RunArrays:
    """Arrays of one method or ensemble at one seed, on the test split.

    Attributes:
        replicates: metrics on resamples of the examples, the same resamples for all methods.
        logits: logits of each member on clean data, shape (M, N, K); M = 1 for a method.
        labels: int64, shape (N,).
        scores: robustness of each example, float64, shape (N,); None if nothing is known about it.
        subsets: robustness subset of each example, int64, shape (N,); None if nothing is known about it.
    """

    replicates: Replicates
    logits: Tensor
    labels: Tensor
    scores: Tensor | None
    subsets: Tensor | None

    def save(self, path: Path) -> None:
        """Write an ``.npz``; logits as float16, replicates as float32."""
        arrays = {
            f"replicates/{calibrator}/{place}/{metric}": values.float().numpy()
            for (calibrator, place), metrics in self.replicates.items()
            for metric, values in metrics.items()
        }
        limit = torch.finfo(torch.float16).max
        arrays["logits"] = self.logits.clamp(-limit, limit).half().numpy()
        ranked = {"scores": self.scores, "subsets": self.subsets}
        arrays |= {"labels": self.labels.numpy(), **{k: each.numpy() for k, each in ranked.items() if each is not None}}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path, labels: Tensor) -> RunArrays:
        """Invert `save`.

        Args:
            path: path of the file, which may come from another user.
            labels: labels of the test split, int64, shape (N,).

        Raises:
            InputError: `save` has not written the file for these examples.
        """
        try:
            check_npz(path)
            with np.load(path, allow_pickle=False) as arrays:
                found = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
            replicates: Replicates = {}
            for key, values in found.items():
                if key.startswith("replicates/"):
                    _, calibrator, place, metric = key.split("/")
                    replicates.setdefault((calibrator, _place(place)), {})[metric] = values.double()
            logits, scores, subsets = found["logits"].double(), found.get("scores"), found.get("subsets")
            fits = torch.equal(found["labels"], labels)
            fits &= all(each is None or each.shape == labels.shape for each in (scores, subsets))
            fits &= logits.ndim == 3 and logits.shape[1] == len(labels) and logits.shape[2] > int(labels.max())
            fits &= len({values.shape for metrics in replicates.values() for values in metrics.values()}) == 1
            if not fits:
                raise ValueError("arrays of other shapes, or of other examples")
        except (LookupError, *NPZ_ERRORS) as error:
            raise InputError(
                expected=f"an {path.name} from `aradals run`",
                got=f"something else in {path.parent} ({error})",
                hint="removing this folder, so that it is made again",
            ) from error
        return cls(replicates, logits, labels, scores, subsets)


def _place(name: str) -> Place:
    for place in get_args(Place):
        if name == place:
            known: Place = place
            return known
    raise LookupError(f"replicates of {name}")
