"""Panels as pictures for the page, each with the name of its files and its values as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aradals._internal.files import csv_text
from aradals.report.panels import Columns


@dataclass(frozen=True)
class Drawing:
    """A panel as SVG, the name of its files, and its values as CSV."""

    name: str
    svg: str
    csv: str


class Panel(Protocol):
    """The common attributes of all panels."""

    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def columns(self) -> Columns: ...  # noqa: D102


def draw(drawer: Callable[[Any], str], panels: Sequence[Panel], name: str) -> list[Drawing]:
    """Draw panels of one kind."""
    return [Drawing(f"{name}-{slug(panel.title)}", drawer(panel), as_csv(panel.columns)) for panel in panels]


def as_csv(columns: Columns) -> str:
    """Write a table as CSV; unknown values are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(csv_text, columns))
    for row in zip(*columns.values(), strict=True):
        writer.writerow([_csv_value(value) for value in row])
    return buffer.getvalue()


def slug(text: str) -> str:
    """Make a name for files and anchors."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"


def _csv_value(value: object) -> object:
    if not isinstance(value, float):
        return csv_text(value) if isinstance(value, str) else value
    return f"{value:.6g}" if math.isfinite(value) else ""
