"""Panels as pictures for the page, each with the name of its files and its values as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from aradals._internal.files import csv_text
from aradals.report import figures
from aradals.report.panels import BoxPanel, Columns, DotPanel, SubsetPanel


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


def subset_drawer(panels: Sequence[SubsetPanel]) -> Callable[[SubsetPanel], str]:
    """Make the drawer of panels on the same axes, so that they are comparable."""
    levels = [
        x
        for panel in panels
        for x in (*panel.accuracy_low, *panel.accuracy_high, *panel.confidence)
        if math.isfinite(x)
    ]
    errors = [x for panel in panels for x in (*panel.ece_high, *panel.ece, *panel.noise_floor) if math.isfinite(x)]
    return partial(
        figures.draw_subsets,
        lowest=math.floor(10 * min(levels, default=0)) / 10,
        highest=math.ceil(10 * max(levels, default=1)) / 10,
        highest_ece=max(0.02, 1.08 * max(errors, default=0)),
    )


def box_drawer(panels: Sequence[BoxPanel]) -> Callable[[BoxPanel], str]:
    """Make the drawer of panels on the same axis."""
    highest = max((value for panel in panels for values in panel.values for value in values), default=0)
    return partial(figures.draw_boxes, highest=1.05 * highest or 1.0)


def dot_drawer(panels: Sequence[DotPanel]) -> Callable[[DotPanel], str]:
    """Make the drawer of panels, those of one quantity on the same axis."""
    limits = {
        panel.quantity: figures.dot_limits([other for other in panels if other.quantity == panel.quantity])
        for panel in panels
    }
    return lambda panel: figures.draw_dots(panel, limits=limits[panel.quantity])


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
