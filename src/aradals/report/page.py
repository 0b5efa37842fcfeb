"""The HTML report: one file that needs nothing else, made from results on disk."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from aradals._internal.files import atomic_path, csv_text
from aradals.errors import InputError, MissingExtraError
from aradals.report import figures
from aradals.report import panels as prepared
from aradals.report.findings import WARNING, diagnosis_headlines, study_headlines
from aradals.report.tables import (
    Cell,
    TableBlock,
    class_rows_table,
    comparison_note,
    comparison_rows,
    corruption_rows,
    diagnosis_note,
    diagnosis_rows,
    failed_rows,
    gap_rows,
    metric_rows,
    ood_table,
    severity_rows,
    stability_rows,
    table_note,
    table_rows,
    threshold_rows,
)
from aradals.report.view import (
    condition_name,
    indexed,
    key_variants,
    main_methods,
    methods_of,
    num_examples,
    num_subsets,
    reference,
    seeds_of,
    shift_conditions,
    shift_name,
    shown_variants,
    variants,
)
from aradals.results.failed import failed_runs
from aradals.results.names import Results, Variant, data_name

READ_RELIABILITY = (
    "Squares on the diagonal keep their word: of the predictions made with 80 %, 80 % are right; below it the model is "
    "overconfident. Vertical lines are 95 % Wilson intervals. The histogram shows where the predictions are; bins with "
    f"fewer than {figures.MIN_COUNT} of them are hollow and pale, and say little."
)
READ_SHADES = "Red cells are overconfident, blue ones underconfident, in full color from 20 points on."
READ_ERROR_SHADES = "The redder a cell, the larger the error; full color from 0.2 on."
SCORING_NAMES = {
    "attack": "attack",
    "n": "n",
    "num_failed": "fallback scores",
    "mean_forward": "forward passes each",
    "mean_backward": "backward passes each",
    "seconds": "seconds",
}
AGREEMENT_NAMES = {
    "same_subset": "share in the same subset",
    "within_one": "share in the same subset or the next",
    "spearman": "Spearman's rank correlation",
}
AUDIT_NAMES = {
    "attack": "reference attack",
    "num_examples": "n",
    "num_failed": "reference attack failed",
    "median_ratio": "median of score / reference norm",
    "num_verified": "scores with a verified norm",
    "num_norms_reduced": "of these more than 1 % above the reference attack's",
    "mean_forward": "forward passes each",
    "mean_backward": "backward passes each",
    "seconds": "seconds",
}
EXAMPLE_KINDS = {
    "least_robust": (
        "Least robust",
        "The smallest changes of the input flip these predictions. The score estimates how small.",
    ),
    "most_wrongly_confident": (
        "Most wrongly confident",
        "The wrong predictions of the highest confidence, first the worst. Some labels may be wrong, too.",
    ),
}
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and marks that turn the direction of all text after them; the page's own text has neither."""
_BASE64 = re.compile("[A-Za-z0-9+/]*={0,2}")
NO_SUBSETS = "no robustness scores were given, so nothing is told by robustness"


@dataclass(frozen=True)
class Drawing:
    """A panel as SVG, the name of its files, and its values as CSV."""

    name: str
    svg: str
    csv: str


@dataclass(frozen=True)
class Picture:
    """A test image in base64, what it is and what the model said."""

    png: str
    alt: str
    lines: list[str]


@dataclass(frozen=True)
class Part:
    """Drawings, tables or titled pictures, and how to read them; with a name in ``fold``, behind that name."""

    drawings: Sequence[Drawing] = ()
    tables: Sequence[TableBlock] = ()
    pictures: Sequence[Picture] = ()
    title: str = ""
    note: str = ""
    fold: str = ""

    def __bool__(self) -> bool:
        return bool(self.drawings or self.pictures or any(table.rows for table in self.tables))


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """For links to it."""
        return _slug(self.title)


class Panel(Protocol):
    """What all panels have."""

    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def columns(self) -> prepared.Columns: ...  # noqa: D102


def write_report(results: Results, path: Path) -> None:
    """Write the report of a study, an evaluation or a diagnosis as one HTML file.

    Args:
        results: content of ``results.json`` or ``diagnosis.json``.
        path: of the file.

    Raises:
        InputError: results of another kind, or without any rows.
        MissingExtraError: without Jinja2.
    """
    kinds: dict[str, Callable[[Results], dict[str, Any]]] = {
        "study": _study_page,
        "evaluation": _study_page,
        "diagnosis": _diagnosis_page,
    }
    kind = results.get("kind")
    if kind not in kinds or not results.get("overall" if kind == "diagnosis" else "rows"):
        raise InputError(
            expected=f"results of kind {', '.join(kinds)}, with rows",
            got=f"kind {kind!r}" if kind not in kinds else "no rows",
            hint="results.json or diagnosis.json as `aradals run`, `evaluate` and `diagnose` write them",
        )
    _check_subsets(results)
    page = kinds[kind](results)
    page["sections"] = [
        replace(section, parts=parts) for section in page["sections"] if (parts := list(filter(None, section.parts)))
    ]
    html = _render("report.html.j2", warning=WARNING, **page)
    with atomic_path(path) as temporary:
        # Names are other people's and may hold half of a surrogate pair, which no encoding can write.
        temporary.write_bytes(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", html).encode("utf-8", errors="replace"))


def _check_subsets(results: Results) -> None:
    """Refuse a number of a subset that is none: tables have a column for each number up to the largest."""
    for row in results.get("rows") or []:
        subset = row.get("subset")
        if subset is not None and subset not in range(len(results["rows"])):
            raise InputError(
                expected=f"rows whose subsets are numbered from 0, or null ({len(results['rows'])} rows)",
                got=f"subset {subset!r:.40}",
                hint="results.json as `aradals run` and `evaluate` write it",
            )


def _study_page(results: Results) -> dict[str, Any]:
    results = indexed(results)
    data, is_study = results["data"], results["kind"] == "study"
    facts = [data_name(results), f"{num_examples(results):,} examples", f"{data['num_classes']} classes"]
    facts += [f"{len(methods_of(results))} methods", _seeds(seeds_of(results))] if is_study else []
    kind = "Calibration study" if is_study else "Evaluation"
    return {
        "title": f"{kind}: {results.get('name') or data_name(results)}",
        "description": results.get("description", ""),
        "facts": facts,
        "headlines": study_headlines(results),
        "has_subsets": num_subsets(results) > 0,
        "sections": [
            Section("Failed runs", _failed_parts(results)),
            Section("Methods side by side" if len(variants(results)) > 1 else "In numbers", _method_parts(results)),
            Section("By robustness subset", _subset_parts(results)),
            Section("Under shift", _shift_parts(results)),
            Section("Reliability", _reliability_parts(results)),
            Section("By class", _class_parts(results)),
            Section("Stability", _stability_parts(results)),
            Section("Course of the targets", _target_parts(results)),
            Section("Test images", _image_parts(results)),
        ],
        "runs": _study_runs(results),
        "config": json.dumps(results.get("config", {}), indent=2, ensure_ascii=False),
    }


def _diagnosis_page(diagnosis: Results) -> dict[str, Any]:
    names = ("model", "checkpoint", "data", "split", "attack")
    facts = [
        f"{diagnosis.get('data', '')} {diagnosis.get('split', '')}",
        f"{diagnosis['overall'].get('n', 0):,} examples",
    ]
    return {
        "title": f"Diagnosis: {diagnosis.get('model', 'model')}",
        "description": "",
        "facts": [*facts, f"{diagnosis['num_classes']} classes", *([] if diagnosis["subsets"] else [NO_SUBSETS])],
        "headlines": diagnosis_headlines(diagnosis),
        "has_subsets": bool(diagnosis["subsets"]),
        "sections": _diagnosis_sections(diagnosis),
        "runs": [
            _table("what was examined", ("", ""), [[name, diagnosis[name]] for name in names if diagnosis.get(name)]),
            _table("versions", ("", ""), list(diagnosis.get("versions", {}).items())),
            _table("robustness scores", ("", ""), _named(diagnosis.get("scoring"), SCORING_NAMES)),
            _table("audit of the robustness scores", ("", ""), _audit_rows(diagnosis.get("audit"))),
        ],
        "config": "",
    }


def _failed_parts(results: Results) -> list[Part]:
    return [
        Part(
            tables=[failed_rows(results)],
            note="These runs have no results: they are in no other table, in no figure and in no mean. The same "
            "command tries them again.",
        )
    ]


def _method_parts(results: Results) -> list[Part]:
    """Show the main methods in figures and tables; fold paired differences, other variants and all metrics."""
    several = len(methods_of(results)) > 1
    shown, all_variants = shown_variants(results), variants(results)
    panels = prepared.prepare_methods(results) if several else []
    differences = prepared.prepare_differences(results) if several else []
    compared = [
        replace(block, title=f"difference from {reference(results).label}: {block.title}")
        for block in comparison_rows(results)
    ]
    rest = [variant for variant in all_variants if variant not in shown]
    return [
        Part(
            _draw(_dot_drawer(panels), panels, "methods"),
            note=f"Left is better, but for the accuracy. Lines are {_uncertainty(results)}; of two methods on the same "
            "examples they may overlap where the paired difference is clear. Hollow marks are calibrated after "
            "training. A gray tick is the noise floor of the mark beside it: what a perfectly calibrated model would "
            "show.",
        ),
        Part(tables=table_rows(results, shown), note=table_note(results)),
        Part(
            _draw(_dot_drawer(differences), differences, "differences"),
            compared,
            note=f"{comparison_note(results)} In the figures, intervals that do not touch the line at zero tell the "
            "methods apart.",
            fold=f"Paired differences from {reference(results).label}",
        ),
        Part(
            tables=table_rows(results, all_variants) if rest else [],
            note=table_note(results),
            fold=f"All {len(all_variants)} variants in numbers",
        ),
        Part(
            tables=[ood_table(results)],
            note="AUROC: the chance that an example of these data is given a higher confidence than one of the others.",
        ),
        Part(
            tables=metric_rows(results, all_variants),
            note="Every metric that was computed; intervals of the main ones are in the tables above.",
            fold="All metrics",
        ),
    ]


def _subset_parts(results: Results) -> list[Part]:
    shown, rest = _shown_and_rest(results)
    panels = [prepared.prepare_subsets(results, group) for group in (shown, rest)]
    note = _read_subsets(_uncertainty(results))
    tables = [gap_rows(results, shown_variants(results))] if num_subsets(results) else []
    return [
        Part(tables=tables, note=READ_SHADES),
        Part(_draw(_subset_drawer(panels[0]), panels[0], "subsets"), note=note),
        Part(_draw(_subset_drawer(panels[1]), panels[1], "subsets"), note=note, fold=f"{len(panels[1])} more variants"),
        Part(
            tables=[gap_rows(results, variants(results))] if num_subsets(results) and rest else [],
            note=READ_SHADES,
            fold="Gaps of all variants",
        ),
    ]


def _shift_parts(results: Results) -> list[Part]:
    if not shift_conditions(results):
        return []
    shown, rest = _shown_and_rest(results)
    panels = [prepared.prepare_boxes(results, group) for group in (shown, rest)]
    note = (
        f"Shifts: {shift_name(results)}. Boxes, where there are {figures.MIN_BOX} types or more, hold the middle half "
        "of them; the diamond is their mean, which the tables and sentences of this report use."
    )
    return [
        Part(tables=[corruption_rows(results, shown_variants(results))], note=READ_ERROR_SHADES),
        Part(_draw(_box_drawer(panels[0]), panels[0], "severity"), note=note),
        Part(
            _draw(_box_drawer(panels[1]), panels[1], "severity"),
            note=note,
            fold=f"Severities of {len(panels[1])} more variants",
        ),
        Part(
            tables=[corruption_rows(results, variants(results))] if rest else [],
            note=READ_ERROR_SHADES,
            fold="Corruptions of all variants",
        ),
        Part(
            tables=severity_rows(results, [*shown, *rest]), note=READ_ERROR_SHADES, fold="A table for each corruption"
        ),
    ]


def _reliability_parts(results: Results) -> list[Part]:
    shown, rest = _shown_and_rest(results)
    note = f"{READ_RELIABILITY}{_first_seed(results)}"
    panels = [prepared.prepare_reliability(results, group) for group in (shown, rest)]
    return [
        Part(_draw(figures.draw_reliability, panels[0], "reliability"), note=note),
        Part(
            _draw(figures.draw_reliability, panels[1], "reliability"),
            note=note,
            fold=f"{len(panels[1])} more variants",
        ),
    ]


def _stability_parts(results: Results) -> list[Part]:
    panels = prepared.prepare_stability(results)
    return [
        Part(
            _draw(figures.draw_dots, panels, "stability"),
            [stability_rows(results)],
            note="Prediction variance: how much the predicted probabilities of independently trained models differ, on "
            "clean data. Soft predictions differ less for free, so it is given again with all models brought to one "
            "mean confidence by a temperature. Lines are 95 % intervals over the examples. Disagreement: share of "
            "examples on which two models predict different classes.",
        )
    ]


def _target_parts(results: Results) -> list[Part]:
    panels = prepared.prepare_targets(results)
    main = [panel for method, panel in panels.items() if method in main_methods(results)]
    rest = [panel for method, panel in panels.items() if method not in main_methods(results)]
    note = (
        "The probability that the training targets put on the true class, by robustness subset. Overconfidence on "
        "the validation split pushes it down, underconfidence up; a level course has settled."
        f"{_first_seed(results)} {_bounds_reached(results)}"
    )
    return [
        Part(_draw(figures.draw_targets, main, "targets"), note=note),
        Part(_draw(figures.draw_targets, rest, "targets"), note=note, fold=f"{len(rest)} more methods"),
    ]


def _class_parts(results: Results) -> list[Part]:
    """From the optional ``classes``, as `aradals.pipeline.shown.class_rows` gives them, with method and calibrator."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in results.get("classes") or []:
        label = Variant(row["method"], row.get("calibrator", "none")).label if "method" in row else "by class"
        groups.setdefault(label, []).append(row)
    parts: list[Part] = []
    for label, rows in groups.items():
        panel = prepared.prepare_by_class(rows)
        named = [replace(panel, title=prepared.shorten(label, prepared.MAX_TITLE))] if panel else []
        more = f" Shown are the {prepared.MAX_CLASSES} largest gaps." if len(rows) > prepared.MAX_CLASSES else ""
        parts.append(
            Part(
                _draw(figures.draw_dots, named, "classes"),
                [class_rows_table(rows, label)],
                note=f"Classes are the true ones. Where the confidence lies right of the accuracy, the model is "
                f"overconfident on that class. Lines are 95 % intervals of each class by itself.{more}",
                fold="" if len(parts) < 2 else label,
            )
        )
    return parts


def _image_parts(results: Results) -> list[Part]:
    """From the optional ``examples``, as `aradals.pipeline.shown.example_images` gives them."""
    parts = []
    for kind, (title, note) in EXAMPLE_KINDS.items():
        pictures = []
        for row in (results.get("examples") or {}).get(kind) or []:
            right = row["label"] == row["predicted"]
            verdict = f"{row['predicted']}, right" if right else f"{row['predicted']}, but is {row['label']}"
            lines = [f"{verdict}", f"confidence {100 * row['confidence']:.1f} %"]
            lines += [] if row.get("score") is None else [f"score {row['score']:.3g}"]
            if not _BASE64.fullmatch(row["png"]):
                raise ValueError(f"the picture of example {row['id']} is not in base64")
            pictures.append(Picture(row["png"], f"{title} image {row['id']}: {verdict}", [*lines, f"id {row['id']}"]))
        parts.append(Part(pictures=pictures, title=title, note=note))
    return parts


def _diagnosis_sections(diagnosis: Results) -> list[Section]:
    classes = prepared.prepare_classes(diagnosis)
    cancel = (
        " Opposite gaps of different subsets cancel in the diagram of all examples." if diagnosis["subsets"] else ""
    )
    more = len(diagnosis.get("least_robust_classes", [])) > prepared.MAX_CLASSES
    subsets, reliability = (
        prepared.prepare_diagnosis_subsets(diagnosis),
        prepared.prepare_diagnosis_reliability(diagnosis),
    )
    # All examples, and the two ends.
    ends = [reliability[index] for index in sorted({0, min(1, len(reliability) - 1), len(reliability) - 1})]
    between = reliability[2:-1]
    class_table = _table(
        "classes of the least robust subset",
        ("class", "n", "share %", "share of all %", "accuracy %", "confidence %"),
        [
            [row["name"], row["n"], *(_percent(row[key]) for key in ("share", "base_share", "accuracy", "confidence"))]
            for row in diagnosis.get("least_robust_classes", [])
        ],
    )
    return [
        Section("In numbers", [Part(tables=[diagnosis_rows(diagnosis)], note=diagnosis_note(diagnosis))]),
        Section(
            "By robustness subset",
            [Part(_draw(_subset_drawer(subsets), subsets, "subsets"), note=_read_subsets("95 % intervals"))],
        ),
        Section(
            "Classes of the least robust subset",
            [
                Part(
                    _draw(figures.draw_classes, [classes] if classes else [], "least-robust-classes"),
                    note="Bars that reach beyond their tick are classes with more than their share of the least robust "
                    "examples. Lines are 95 % Wilson intervals of each class by itself."
                    f"{f' Shown are the first {prepared.MAX_CLASSES} classes.' if more else ''}",
                ),
                Part(tables=[class_table], fold="Table"),
            ],
        ),
        Section("By class", _class_parts(diagnosis)),
        Section(
            "Reliability",
            [
                Part(
                    _draw(figures.draw_reliability, ends, "reliability"),
                    note=f"{READ_RELIABILITY}{cancel}",
                ),
                Part(
                    _draw(figures.draw_reliability, between, "reliability"),
                    note=READ_RELIABILITY,
                    fold=f"{len(between)} more subsets",
                ),
            ],
        ),
        Section(
            "Which predictions to accept",
            [
                Part(
                    tables=[threshold_rows(diagnosis)],
                    note="Predictions of at least this confidence are accepted. A threshold that was chosen on some "
                    "examples looks better on them than it is: check it on others.",
                )
            ],
        ),
        Section("Test images", _image_parts(diagnosis)),
    ]


def _shown_and_rest(results: Results) -> tuple[list[Variant], list[Variant]]:
    """Variants with a figure, and with a folded one: in a large study key ones, then main ones and all as trained.

    Numbers of the others are in the tables.
    """
    shown, main = key_variants(results), main_methods(results)
    rest = [v for v in variants(results) if v not in shown and (v.calibrator == "none" or v.method in main)]
    return shown, rest


def _read_subsets(uncertainty: str) -> str:
    return (
        "Subsets of equal size, from the inputs that the smallest perturbation flips (left) to the most robust. The "
        "shaded gap between confidence and accuracy is the miscalibration; an ECE at its dashed noise floor is no more "
        f"than chance explains. Vertical lines are {uncertainty}."
    )


def _uncertainty(results: Results) -> str:
    seeds = len(seeds_of(results))
    return "95 % intervals" if seeds == 1 else f"95 % intervals over test set and {seeds} seeds"


def _first_seed(results: Results) -> str:
    seeds = seeds_of(results)
    other = ", and another one where a title names it" if failed_runs(results) else ""
    return f" Seed {seeds[0]} is shown{other}." if len(seeds) > 1 else ""


def _subset_drawer(panels: Sequence[prepared.SubsetPanel]) -> Callable[[prepared.SubsetPanel], str]:
    """All on the same axes, so that they compare."""
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


def _box_drawer(panels: Sequence[prepared.BoxPanel]) -> Callable[[prepared.BoxPanel], str]:
    """All on the same axis."""
    highest = max((value for panel in panels for values in panel.values for value in values), default=0)
    return partial(figures.draw_boxes, highest=1.05 * highest or 1.0)


def _dot_drawer(panels: Sequence[prepared.DotPanel]) -> Callable[[prepared.DotPanel], str]:
    """Panels of one quantity on the same axis."""
    limits = {
        panel.quantity: figures.dot_limits([other for other in panels if other.quantity == panel.quantity])
        for panel in panels
    }
    return lambda panel: figures.draw_dots(panel, limits=limits[panel.quantity])


def _draw(draw: Callable[[Any], str], panels: Sequence[Panel], name: str) -> list[Drawing]:
    return [Drawing(f"{name}-{_slug(panel.title)}", draw(panel), _csv(panel.columns)) for panel in panels]


def _csv(columns: prepared.Columns) -> str:
    """Write a table as CSV; unknown values are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(csv_text, columns))
    for row in zip(*columns.values(), strict=True):
        writer.writerow([_csv_value(value) for value in row])
    return buffer.getvalue()


def _csv_value(value: object) -> object:
    if not isinstance(value, float):
        return csv_text(value) if isinstance(value, str) else value
    return f"{value:.6g}" if math.isfinite(value) else ""


def _slug(text: str) -> str:
    """For file names and anchors."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"


def _bounds_reached(results: Results) -> str:
    """Which bounds the targets reached: 1, where labels are one-hot and can soften no less, and 1/K."""
    at_one = sum(target >= 1 for run in _adaptive(results) for target in run["target_prob"])
    at_uniform = sum(len(run.get("at_lower_bound") or []) for run in _adaptive(results))
    count = sum(len(run["target_prob"]) for run in _adaptive(results))
    return (
        f"In all runs together {at_one} of {count} targets end at their upper bound, 1 (one-hot labels), and "
        f"{at_uniform or 'none'} ran down to 1/K."
    )


def _adaptive(results: Results) -> list[Mapping[str, Any]]:
    return [run for run in results.get("training", []) if run["settings"]["update_rate"] > 0]


def _rule(rule: Mapping[str, Any]) -> str:
    """Describe the settings of an update rule except its rate: ``leak 0.3, monotone``."""
    parts = [
        name.replace("_", " ") + ("" if value is True else f" {value:g}")
        for name, value in rule.items()
        if value and name != "rate"
    ]
    return ", ".join(parts)


def _study_runs(results: Results) -> list[TableBlock]:
    """Describe data, settings, costs and versions in tables."""
    data = results["data"]
    settings = ("objective", "num_subsets", "initial_target_prob", "update_rate", "update_every")
    training = results.get("training", [])
    splits_hash = [[f"splits of seed {seed}", value] for seed, value in data.get("splits_hash", {}).items()]
    shifts = ", ".join(condition_name(shift) for shift in shift_conditions(results)) or "none"
    return [
        _table(
            "data and evaluation",
            ("", ""),
            [
                ["data", data["name"]],
                *([f"{name} split", f"{size:,}"] for name, size in data.get("splits", {}).items()),
                *splits_hash,
                ["robustness subsets of the report", num_subsets(results)],
                ["shift conditions", shifts],
                ["variants", ", ".join(variant.label for variant in variants(results))],
            ],
        ),
        _table(
            "training",
            (
                "method",
                "seed",
                *(name.replace("_", " ") for name in settings),
                "rule",
                "epochs",
                "last loss",
                "seconds",
            ),
            [
                [
                    Variant(run["method"]).label,
                    run["seed"],
                    *(run.get("settings", {}).get(name) for name in settings),
                    _rule(run.get("settings", {}).get("rule") or {}),
                    len(run.get("epochs", [])),
                    (run.get("epochs") or [{}])[-1].get("loss"),
                    run.get("seconds"),
                ]
                for run in training
            ],
        ),
        _table(
            "calibrators",
            ("variant", "seed", "temperature"),
            [
                [Variant(row["method"], row["calibrator"]).label, row["seed"], row.get("temperature")]
                for row in results.get("calibrators", [])
            ],
        ),
        _table(
            "robustness scores",
            ("split", "seed", *SCORING_NAMES.values()),
            [[row.get(key) for key in ("split", "seed", *SCORING_NAMES)] for row in results.get("scoring", [])],
        ),
        _table("versions", ("", ""), [*results.get("versions", {}).items(), ("device", results.get("device"))]),
    ]


def _table(title: str, columns: tuple[str, ...], rows: list[Any]) -> TableBlock:
    return TableBlock(title, columns, [[Cell(_text(value)) for value in row] for row in rows])


def _named(record: Mapping[str, Any] | None, names: Mapping[str, str]) -> list[list[object]]:
    return [[name, record[key]] for key, name in names.items() if key in record] if record else []


def _audit_rows(audit: Mapping[str, Any] | None) -> list[list[object]]:
    agreement: list[list[object]] = [
        [name, f"{audit[key]:.3f} (95 % interval {audit[f'{key}_low']:.3f} to {audit[f'{key}_high']:.3f})"]
        for key, name in AGREEMENT_NAMES.items()
        if audit and key in audit
    ]
    return [*agreement, *_named(audit, AUDIT_NAMES)]


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _seeds(seeds: list[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _render(name: str, **values: object) -> str:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("Jinja2", "report") from error
    environment = Environment(
        loader=PackageLoader("aradals.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Figures are our own SVG, escaped where they were made; all else is text.
    environment.filters["svg"] = Markup
    return environment.get_template(name).render(values)
