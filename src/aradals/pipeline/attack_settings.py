"""Settings of the measurement of robustness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from aradals._internal.specs import code_digest
from aradals.attacks import Attack, describe_attack
from aradals.data import Examples
from aradals.errors import InputError
from aradals.robustness.scores import choose_attack
from aradals.robustness.starts import uses_starts


@dataclass(frozen=True)
class AttackSettings:
    """How robustness is measured.

    Attributes:
        attack: a name, see `aradals.attacks.get_attack`.
        attack_args: settings of the attack.
        verified: also find a perturbation that changes the prediction.
        bf16: attack a copy of the model in bfloat16.
        starts_from: examples to draw from if the attack starts from other examples; default: the scored ones. Tables
            that are compared with each other need the same ones.
    """

    attack: str = "secant"
    attack_args: Mapping[str, Any] = field(default_factory=dict)
    verified: bool = False
    bf16: bool = False
    starts_from: Examples | None = None

    @cached_property
    def run(self) -> Attack:
        """The attack with its settings.

        Raises:
            InputError: there is no such attack or setting.
        """
        return choose_attack(self.attack, dict(self.attack_args), verified=self.verified)

    @cached_property
    def record(self) -> dict[str, str]:
        """Everything that decides the scores of a model, including the code of an attack from a file."""
        code = code_digest(self.attack)
        found = {"attack_settings": describe_attack(self.run), "attack_code": str(code), "bf16": str(self.bf16).lower()}
        if self.starts_from is not None and uses_starts(self.run):
            found["starts_from"] = self.starts_from.fingerprint
        return found

    def check(self) -> None:
        """Test the attack on a single input of a hundred classes, before the long work.

        Raises:
            InputError: there is no such attack or setting, or a value is out of range.
        """
        try:
            self.run(nn.Identity(), torch.linspace(0.9, 0.3, 100)[None])
        except (TypeError, RuntimeError) as error:
            raise InputError(
                expected=f"settings that {self.attack} can use",
                got=f"{self.attack_args} ({error})",
                hint="numbers",
            ) from error
