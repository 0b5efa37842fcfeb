"""Runs of a study that failed, and searches that found nothing."""

from __future__ import annotations

from collections.abc import Sequence

from aradals.results.records import Results, Scoring

MAX_REASONS = 4
"""Largest number of reasons that a sentence gives for failed runs; the report's table has all reasons."""


def describe_failed(*studies: Results) -> str:
    """Write ``2 of 6 runs failed: mixup, seed 0 and seed 1 (the reason)``, for each study; empty if no run failed."""
    sentences = []
    for study in studies:
        total = len({(row.method, row.seed) for row in study.rows}) + len(study.failed)
        # If a scoring model failed, all methods that need it have the same reason.
        named: dict[str, dict[str, list[str]]] = {}
        for run in study.failed:
            named.setdefault(run.reason, {}).setdefault(study.method(run.method).label, []).append(f"seed {run.seed}")
        parts = [
            f"{'; '.join(f'{method}, {join(seeds)}' for method, seeds in runs.items())} ({reason})"
            for reason, runs in named.items()
        ]
        more = f"; and for {len(parts) - MAX_REASONS} more reasons" if len(parts) > MAX_REASONS else ""
        where = f" on {study.data.label}" if len(studies) > 1 else ""
        if study.failed:
            sentences.append(
                f"{len(study.failed)} of {total} runs failed{where}: {'; '.join(parts[:MAX_REASONS])}{more}"
            )
    return "; ".join(sentences)


def describe_lost_searches(scoring: Scoring) -> str:
    """Count the examples for which a search found no boundary, and name their ranking, in a sentence; may be empty."""
    if not scoring.num_failed:
        return ""
    attack, split = scoring.attack.partition("(")[0], "" if scoring.split == "evaluated" else f" of {scoring.split}"
    found = f"{attack} found no boundary for {scoring.num_failed:,} of {scoring.n:,} examples{split}"
    if scoring.by_margin:
        return f"{found}. The logit margin ranks all of them, and nothing is reported by robustness."
    return f"{found}, which are ranked by their logit margin."


def join(names: Sequence[str]) -> str:
    """Join words: ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
