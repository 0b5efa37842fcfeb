"""The results as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aradals.pipeline.artifacts import versions


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A section for each network."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Attacks as rankers",
        "",
        "By `benchmarks/attacks/run.py`, whose docstring says how everything is measured. One CPU thread, "
        f"{platform.machine()}; {packages}.",
        "",
        "Passes for each example (f+b: one forward and one backward pass to the input), CPU time as a multiple of that "
        "of one f+b, failed searches, the median ratio of score to reference norm, and agreement with the reference "
        "ranking over deciles, with 95 % intervals.",
    ]
    for network in dict.fromkeys(row["network"] for row in rows):
        of_network = [row for row in rows if row["network"] == network]
        lines += ["", f"## {network}", ""]
        lines += _table(
            ["attack", "n", "f+b", "CPU", "failed", "ratio", "Spearman", "Kendall", "same decile", "within one"],
            [
                [
                    row["attack"],
                    str(row["n"]),
                    f"{row['passes']:.2f}",
                    f"{row['cpu']:.2f}",
                    f"{row['failed']:.0f}",
                    f"{row['ratio']:.3f}",
                    *_agreement(row),
                ]
                for row in of_network
            ],
        )
        for key, title in {
            "default": "Our default on the examples that each of the long searches got:",
            "given": "Against the given reference alone:",
        }.items():
            others = [[row["attack"], str(row["n"]), *_agreement(row[key])] for row in of_network if key in row]
            if others:
                lines += ["", title, "", *_table(["", "n", "Spearman", "Kendall", "same decile", "within one"], others)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def _agreement(row: Mapping[str, Any]) -> list[str]:
    digits = {"spearman": 4, "kendall": 4, "same_subset": 3, "within_one": 3}
    return [
        f"{row[key]:.{d}f} ({row[f'{key}_low']:.{d}f} to {row[f'{key}_high']:.{d}f})" if key in row else ""
        for key, d in digits.items()
    ]
