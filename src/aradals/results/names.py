"""Names that people read: of methods, calibrators and data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]
"""The content of ``results.json``."""


METHOD_NAMES = {
    "adals": "AdaLS",
    "ar_adals": "AR-AdaLS",
    "ar_adals_augmix": "AR-AdaLS, AugMix",
    "ar_adals_cross_fit": "AR-AdaLS, cross-fitted",
    "ar_adals_of_ensemble": "AR-AdaLS of the ensemble",
    "ar_adals_self": "AR-AdaLS, self-scored",
    "augmix": "AugMix",
    "ccat": "CCAT",
    "ensemble_of_ar_adals": "ensemble of AR-AdaLS",
    "focal": "focal loss",
}
"""Others read as they are written, with spaces."""


@dataclass(frozen=True)
class Variant:
    """A training method with or without a calibrator: one line of every table."""

    method: str
    calibrator: str = "none"

    @property
    def label(self) -> str:
        """As people write it: ``vanilla + temperature scaling``."""
        method = METHOD_NAMES.get(self.method) or self.method.replace("ar_adals_", "AR-AdaLS, ").replace("_", " ")
        return method if self.calibrator == "none" else f"{method} + {self.treatment}"

    @property
    def treatment(self) -> str:
        """The calibrator: ``temperature scaling``; ``as trained`` without one."""
        names = {"none": "as trained", "temperature": "temperature scaling"}
        return names.get(self.calibrator) or self.calibrator.replace("_", " ")

    @property
    def short(self) -> str:
        """For narrow places: ``vanilla + T``."""
        return self.label.replace(" + temperature scaling", " + T")


def join(names: Sequence[str]) -> str:
    """Join words: ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def data_name(results: Results) -> str:
    """Name the data set: as it was given, or the last part of a path."""
    name = str((results.get("data") or {}).get("name") or "")
    return Path(name).name if name.startswith((".", "/", "~")) else name
