"""Attacks: functions that look for the smallest perturbation that changes a model's own prediction."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from aradals.attacks.base import Attack, AttackResult
from aradals.attacks.carlini_wagner import carlini_wagner
from aradals.attacks.ddn import ddn
from aradals.attacks.deepfool import deepfool
from aradals.attacks.fmn import fmn
from aradals.attacks.margins import first_order_margin, log_odds, logit_margin
from aradals.attacks.pgd import pgd
from aradals.attacks.secant import secant
from aradals.errors import InputError

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "bind_attack",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "describe_attack",
    "first_order_margin",
    "fmn",
    "get_attack",
    "log_odds",
    "logit_margin",
    "pgd",
    "secant",
]

ATTACKS: dict[str, Attack] = {
    "secant": secant,
    "secant_accurate": functools.partial(secant, reach=1.5, steps=10, tolerance=0.02),
    "logit_margin": logit_margin,
    "log_odds": log_odds,
    "first_order_margin": first_order_margin,
    "deepfool": deepfool,
    "carlini_wagner": carlini_wagner,
    "ddn": ddn,
    "fmn": fmn,
}


def get_attack(name: str, **attack_args: Any) -> Attack:
    """Return the attack with this name (``-`` and ``_`` mean the same), with some of its arguments set.

    Raises:
        InputError: there is no such attack, or the attack does not have one of the arguments.
    """
    return bind_attack(name, attack_args)


def bind_attack(attack: str | Attack, attack_args: dict[str, Any]) -> Attack:
    """Return an attack, given by name or as a function, with some of its arguments set.

    Raises:
        InputError: there is no such attack, or the attack does not have one of the arguments.
    """
    if isinstance(attack, str):
        name = attack.replace("-", "_")
        if name not in ATTACKS:
            raise InputError(expected="the name of an attack", got=repr(attack), hint="one of: " + ", ".join(ATTACKS))
        attack = ATTACKS[name]
    valid = _settings(attack)
    unknown = [name for name in attack_args if name not in valid]
    if unknown:
        raise InputError(
            expected=f"arguments of {_name(attack)}",
            got=", ".join(unknown),
            hint="one of: " + ", ".join(valid) if valid else "no arguments, because this attack has none",
        )
    return functools.partial(attack, **attack_args) if attack_args else attack


def describe_attack(attack: str | Attack, attack_args: dict[str, Any] | None = None) -> str:
    """Write the attack and all its settings as a call: ``deepfool(steps=50, num_candidates=10, overshoot=0.01)``.

    Raises:
        InputError: there is no such attack, or the attack does not have one of the arguments.
    """
    attack = bind_attack(attack, attack_args or {})
    settings = ", ".join(f"{name}={value!r}" for name, value in _settings(attack).items())
    return f"{_name(attack)}({settings})"


def _settings(attack: Attack) -> dict[str, Any]:
    """Return the attack's keyword-only arguments and their values."""
    parameters = inspect.signature(attack).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _name(attack: Attack) -> str:
    while isinstance(attack, functools.partial):
        attack = attack.func
    return getattr(attack, "__name__", type(attack).__name__)
