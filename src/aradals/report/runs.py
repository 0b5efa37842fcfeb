"""What was run, for the last section of a page: data, settings, costs and versions in tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any

from aradals.report.tables import Cell, TableBlock
from aradals.report.view import label, reference
from aradals.results.records import Results, Scoring
from aradals.robustness.audit import Audit


def describe_runs(results: Results) -> Iterator[TableBlock]:
    """Describe data, settings, costs and versions in tables."""
    data = results.data
    yield _pairs(
        "data and evaluation",
        {
            "data": data.name,
            **{f"{name} split": f"{size:,}" for name, size in data.splits.items()},
            **{f"splits of seed {seed}": value for seed, value in data.splits_hash.items()},
            "robustness subsets": results.num_subsets or "",
            "shift conditions": ", ".join(shift.label for shift in results.shifts) or "none",
            "compared with": label(results, reference(results)),
        },
    )
    yield _table(
        "training",
        ("method", "seed", "update rate", "epochs", "last loss", "seconds", "precision", "settings"),
        [
            [
                *(results.method(run.method).label, run.seed, run.update_rate, len(run.epochs)),
                *(run.epochs[-1].loss if run.epochs else None, run.seconds, run.precision, _settings(run.settings)),
            ]
            for run in results.training
        ],
    )
    yield _table(
        "calibrators",
        ("variant", "seed", "temperature"),
        [[label(results, each.variant), each.seed, each.temperature] for each in results.calibrators],
    )
    names = [field.name for field in fields(Scoring)]
    yield _table(
        "robustness scores",
        tuple(name.replace("num_", "").replace("mean_", "").replace("_", " ") for name in names),
        [[getattr(row, name) for name in names] for row in results.scoring],
    )
    if results.audit:
        yield _pairs("audit of the robustness scores", _audit(results.audit))
    yield _table("checks", ("statement", "answer", "reason"), [list(astuple(check)) for check in results.checks])
    yield _pairs("versions", {**results.versions, "device": results.device})


def _audit(audit: Audit) -> dict[str, object]:
    found = audit.agreement
    agreement = {
        "share in the same subset": found.same_subset,
        "share in the same subset or the next": found.within_one,
        "Spearman's rank correlation": found.spearman,
        "Kendall's rank correlation (tau-b)": found.kendall,
    }
    return {
        **{
            name: f"{each.value:.3f} (95 % interval {each.low:.3f} to {each.high:.3f})"
            for name, each in agreement.items()
            if not math.isnan(each.value)
        },
        "share that the first reference attack alone puts into the same subset": audit.first_alone.same_subset.value,
        "subsets that the ranking carries": audit.num_carried,
        "reference attacks": audit.attack,
        "n": audit.num_examples,
        "reference attacks failed": audit.num_failed,
        "median of score / reference norm": audit.median_ratio,
        "scores with a verified norm": audit.num_verified,
        "of these more than 1 % above the reference": audit.num_norms_reduced,
        "forward passes each": audit.mean_forward,
        "backward passes each": audit.mean_backward,
        "seconds": audit.seconds,
    }


def _settings(settings: Mapping[str, Any]) -> str:
    """Write the settings that are not empty: ``objective cross_entropy, rule {rate: auto}``."""
    given = {name: value for name, value in settings.items() if value not in (None, {}, [], "", False)}
    return ", ".join(f"{name.replace('_', ' ')} {json.dumps(value, default=str)}" for name, value in given.items())


def _pairs(title: str, values: Mapping[str, object]) -> TableBlock:
    return _table(title, ("", ""), [[name, value] for name, value in values.items() if value != ""])


def _table(title: str, columns: tuple[str, ...], rows: Sequence[Sequence[object]]) -> TableBlock:
    return TableBlock(title, columns, [[Cell(_text(value)) for value in row] for row in rows])


def _text(value: object) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "–" if value is None else str(value)
