"""Runs of a study that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aradals.results.names import Results, Variant, data_name, join

MAX_REASONS = 4
"""How many reasons of failed runs a sentence gives; the report's table has the rest."""


def failed_runs(results: Results) -> list[Mapping[str, Any]]:
    """List the runs without results: ``method``, ``seed`` and ``reason`` of each."""
    return list(results.get("failed") or [])


def describe_failed(*studies: Results) -> str:
    """``2 of 6 runs failed: mixup, seed 0 and seed 1 (the reason)``, of several studies by data set; else empty."""
    sentences = []
    for study in studies:
        failed = failed_runs(study)
        total = len({(row["method"], row.get("seed", 0)) for row in study["rows"]}) + len(failed)
        # Where a scoring model failed, all that need it give the same reason.
        named: dict[str, dict[str, list[str]]] = {}
        for run in failed:
            named.setdefault(run["reason"], {}).setdefault(run["method"], []).append(f"seed {run['seed']}")
        parts = [
            f"{'; '.join(f'{Variant(method).label}, {join(seeds)}' for method, seeds in runs.items())} ({reason})"
            for reason, runs in named.items()
        ]
        more = f"; and for {len(parts) - MAX_REASONS} more reasons" if len(parts) > MAX_REASONS else ""
        where = f" on {data_name(study)}" if len(studies) > 1 else ""
        if failed:
            sentences.append(f"{len(failed)} of {total} runs failed{where}: {'; '.join(parts[:MAX_REASONS])}{more}")
    return "; ".join(sentences)
