"""Attacks: functions that look for the smallest perturbation that changes a model's own prediction."""

from __future__ import annotations

import functools
from typing import Any

from aradals._internal.registry import Registry, entry_name
from aradals.attacks.base import Attack, AttackResult
from aradals.attacks.carlini_wagner import carlini_wagner
from aradals.attacks.ddn import ddn
from aradals.attacks.deepfool import deepfool
from aradals.attacks.fmn import fmn
from aradals.attacks.margins import first_order_margin, log_odds, logit_margin
from aradals.attacks.neighbors import neighbors
from aradals.attacks.pgd import pgd
from aradals.attacks.secant import secant

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "describe_attack",
    "first_order_margin",
    "fmn",
    "get_attack",
    "log_odds",
    "logit_margin",
    "neighbors",
    "pgd",
    "secant",
]

ATTACKS: Registry[Attack] = Registry(
    "an attack",
    {
        "secant": secant,
        "secant_accurate": functools.partial(secant, accurate=True),
        "logit_margin": logit_margin,
        "log_odds": log_odds,
        "first_order_margin": first_order_margin,
        "deepfool": deepfool,
        "carlini_wagner": carlini_wagner,
        "ddn": ddn,
        "fmn": fmn,
    },
    arguments=("model", "inputs"),
)


def get_attack(attack: str | Attack, /, **settings: Any) -> Attack:
    """Return the attack with some of its settings.

    Args:
        attack: a name in `ATTACKS` (``-`` and ``_`` mean the same), ``path/to/file.py:function``,
            ``package.module:function``, or a function.
        **settings: keyword-only arguments of the attack.

    Raises:
        InputError: there is no such attack, or the attack does not have one of the settings.
    """
    return ATTACKS.bind(attack, settings)


def describe_attack(attack: str | Attack, /, **settings: Any) -> str:
    """Write the attack and all its settings as a call: ``deepfool(steps=50, num_candidates=10, overshoot=0.01)``.

    Raises:
        InputError: see `get_attack`.
    """
    attack = get_attack(attack, **settings)
    values, _ = ATTACKS.settings_of(attack)
    return f"{entry_name(attack)}({', '.join(f'{name}={value!r}' for name, value in values.items())})"
