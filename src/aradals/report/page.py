"""The HTML report: one self-contained file, made only from results.

A page starts with the verdict, its figure and one table. All other content is in folded sections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aradals._internal.files import atomic_path
from aradals._internal.optional import optional_imports
from aradals.errors import InputError
from aradals.report import figures
from aradals.report import panels as prepared
from aradals.report.drawings import Drawing, draw, subset_drawer
from aradals.report.findings import verdict
from aradals.report.runs import describe_runs
from aradals.report.sections import list_sections
from aradals.report.tables import main_table, main_table_note
from aradals.report.view import seeds_text
from aradals.results.records import Results, Variant

KINDS = {"study": "Calibration study", "evaluation": "Evaluation", "diagnosis": "Diagnosis"}
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and marks that reverse the direction of text; the text of the page itself has neither."""


def write_report(results: Results, path: Path) -> None:
    """Write the report of a study, an evaluation or a diagnosis as one HTML file.

    Raises:
        InputError: the results have no rows.
        MissingExtraError: Jinja2 is not installed.
    """
    if not results.rows:
        raise InputError(
            expected="results with rows", got="none", hint="running the study again, because all its runs failed"
        )
    html = _render("report.html.j2", **_page(results))
    with atomic_path(path) as temporary:
        # Names come from users and may contain half of a surrogate pair, which no encoding can write.
        temporary.write_bytes(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", html).encode("utf-8", errors="replace"))


def html_table(results: Results) -> str:
    """Render the main table and its note as HTML for a notebook.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    return _render("table.html.j2", block=main_table(results), note=main_table_note(results))


def _page(results: Results) -> dict[str, Any]:
    """Collect the content of the template."""
    facts = [results.data.label, f"{results.num_examples:,} examples", f"{results.data.num_classes} classes"]
    if results.kind == "study":
        facts += [f"{len({row.method for row in results.rows})} methods", seeds_text(results)]
    elif not results.num_subsets:
        facts.append("no results by robustness, because no robustness scores were given")
    found = verdict(results)
    return {
        "title": f"{KINDS[results.kind]}: {results.name or results.data.label}",
        "request": results.identity,
        "description": results.description,
        "facts": facts,
        "verdict": found,
        "drawings": _verdict_drawings(results, [found.reference, *([found.best] if found.best else [])]),
        "main_table": main_table(results),
        "main_note": main_table_note(results),
        "has_subsets": results.num_subsets > 0,
        "sections": list_sections(results),
        "runs": list(describe_runs(results)),
        "config": json.dumps(dict(results.config), indent=2, ensure_ascii=False, default=str),
    }


def _verdict_drawings(results: Results, shown: Sequence[Variant]) -> list[Drawing]:
    """Draw the main figure: confidence and accuracy by robustness subset, of the reference and the best variant.

    A single model and results without subsets get reliability diagrams.
    """
    panels = prepared.prepare_subsets(results, shown) if results.num_subsets > 1 else []
    drawings = draw(subset_drawer(panels), panels, "verdict")
    if len(drawings) < 2:
        drawings += draw(figures.draw_reliability, prepared.prepare_reliability(results, shown), "verdict-reliability")
    return drawings


def _prose(text: str) -> Any:
    """Escape a sentence, keep percent signs beside their numbers, and show commands of this package as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`(aradals [a-z]+)`", r"<code>\1</code>", str(escape(text)).replace(" %", "\u00a0%")))


def _render(name: str, **values: object) -> str:
    with optional_imports():
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    environment = Environment(
        loader=PackageLoader("aradals.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Figures are SVG of this package, which is escaped already; all other values are text.
    environment.filters["svg"] = Markup
    environment.filters["prose"] = _prose
    return environment.get_template(name).render(values)
