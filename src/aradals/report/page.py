"""The HTML report: one self-contained file, made only from results.

A page starts with the verdict, its figure and one table. All other content is in folded sections.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from aradals._internal.files import atomic_path
from aradals._internal.optional import optional_imports
from aradals.errors import InputError
from aradals.report import figures
from aradals.report import panels as prepared
from aradals.report.drawings import Drawing, draw, slug
from aradals.report.findings import verdict
from aradals.report.tables import (
    Cell,
    TableBlock,
    class_rows_table,
    comparison_note,
    comparison_rows,
    corruption_rows,
    failed_rows,
    gap_rows,
    main_table,
    main_table_note,
    metric_rows,
    ood_table,
    place_tables,
    severity_rows,
    share_table,
    stability_rows,
    threshold_rows,
)
from aradals.report.view import (
    key_variants,
    label,
    main_methods,
    reference,
    seeds_text,
    shift_name,
    shown_variants,
)
from aradals.results.records import ClassRow, Picture, Pictures, Results, Scoring, Training, Variant
from aradals.robustness.audit import Audit

KINDS = {"study": "Calibration study", "evaluation": "Evaluation", "diagnosis": "Diagnosis"}
READ_RELIABILITY = (
    "Squares on the diagonal are calibrated: 80 % of the predictions with a confidence of 80 % are right. Below it, "
    "the model is overconfident. Vertical lines are 95 % Wilson intervals. The histogram shows where predictions are; "
    f"bins with fewer than {figures.MIN_COUNT} predictions are hollow and pale, because they show little."
)
READ_SHADES = "Red cells are overconfident, blue ones underconfident, in full color from 20 points on."
READ_ERROR_SHADES = "A redder cell has a larger error; full color from 0.2 on."
PICTURE_KINDS = {
    "least_robust": (
        "Least robust",
        "The smallest changes of the input flip these predictions. The score estimates the size of the change.",
    ),
    "most_wrongly_confident": (
        "Most wrongly confident",
        "The wrong predictions with the highest confidence, the worst first. Some labels may be wrong, too.",
    ),
}
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and marks that reverse the direction of text; the text of the page itself has neither."""
_BASE64 = re.compile("[A-Za-z0-9+/]*={0,2}")


@dataclass(frozen=True)
class Figure:
    """A picture of an example in base64, its label and its prediction."""

    png: str
    alt: str
    lines: list[str]


@dataclass(frozen=True)
class Part:
    """Drawings, tables or titled pictures with an explanation; folded behind the name in ``fold``, if there is one."""

    drawings: Sequence[Drawing] = ()
    tables: Sequence[TableBlock] = ()
    pictures: Sequence[Figure] = ()
    title: str = ""
    note: str = ""
    fold: str = ""

    def __bool__(self) -> bool:
        return bool(self.drawings or self.pictures or any(table.rows for table in self.tables))


@dataclass(frozen=True)
class Section:
    """A heading with folded content."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """The name of the section in links."""
        return slug(self.title)

    @property
    def shown(self) -> list[Part]:
        """The parts with content."""
        return list(filter(None, self.parts))


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
        "sections": [section for section in _sections(results) if section.shown],
        "runs": list(_runs(results)),
        "config": json.dumps(dict(results.config), indent=2, ensure_ascii=False, default=str),
    }


def _verdict_drawings(results: Results, shown: Sequence[Variant]) -> list[Drawing]:
    """Draw the main figure: confidence and accuracy by robustness subset, of the reference and the best variant.

    A single model and results without subsets get reliability diagrams.
    """
    panels = prepared.prepare_subsets(results, shown) if results.num_subsets > 1 else []
    drawings = draw(_subset_drawer(panels), panels, "verdict")
    if len(drawings) < 2:
        drawings += draw(figures.draw_reliability, prepared.prepare_reliability(results, shown), "verdict-reliability")
    return drawings


def _sections(results: Results) -> list[Section]:
    return [
        Section("Failed runs", [Part(tables=[failed_rows(results)], note="The same command tries these runs again.")]),
        Section(f"Differences between {_compared(results)}", _method_parts(results)),
        Section("All numbers", _number_parts(results)),
        Section("By robustness subset", _subset_parts(results)),
        Section("Classes of the least robust subset", _share_parts(results)),
        Section("Under shift", _shift_parts(results)),
        Section("Reliability", _reliability_parts(results)),
        Section("By class", _class_parts(results)),
        Section("Which predictions to accept", _threshold_parts(results)),
        Section("Stability", _stability_parts(results)),
        Section("Course of the targets", _target_parts(results)),
        Section("Test images", _image_parts(results.pictures)),
    ]


def _method_parts(results: Results) -> list[Part]:
    """Show the main methods in figures, and their paired differences."""
    if len(results.variants) < 2:
        return []
    panels = prepared.prepare_methods(results) if _compared(results) == "methods" else []
    differences = prepared.prepare_differences(results)
    return [
        Part(
            draw(_dot_drawer(panels), panels, "methods"),
            note=f"Lines are {_uncertainty(results)}; those of two methods on the same examples may overlap although "
            "the paired difference is significant. Hollow marks are calibrated after training. A gray tick is the "
            "noise floor of the mark beside it: the error that a perfectly calibrated model would show.",
        ),
        Part(
            draw(_dot_drawer(differences), differences, "differences"),
            comparison_rows(results),
            note=f"{comparison_note(results)} In figures, an interval that does not touch the line at zero is "
            "significant.",
            title=f"Paired differences from {results.method(results.reference).label}",
        ),
    ]


def _compared(results: Results) -> str:
    return "methods" if len({variant.method for variant in results.variants}) > 1 else "calibrators"


def _number_parts(results: Results) -> list[Part]:
    """Show all variants in the main table, by place, and with every metric."""
    several = len(results.variants) > 1
    rest = len(results.variants) > len(shown_variants(results))
    return [
        Part(tables=[main_table(results, results.variants)] if rest else [], note=main_table_note(results)),
        Part(tables=place_tables(results, results.variants) if several else []),
        Part(
            tables=[ood_table(results)],
            note="AUROC: the probability that an evaluated example gets more confidence than one of the other data.",
        ),
        Part(tables=metric_rows(results, results.variants), note="All metrics that were computed."),
    ]


def _subset_parts(results: Results) -> list[Part]:
    if not results.num_subsets or len(results.variants) == 1:
        return []
    shown, rest = _shown_and_rest(results)
    panels = [prepared.prepare_subsets(results, group) for group in (shown, rest)]
    note = (
        "Subsets of equal size, from the inputs that the smallest perturbation flips (left) to the most robust. The "
        "shaded gap between confidence and accuracy is the miscalibration; an ECE at its dashed noise floor is no more "
        f"than chance explains. Vertical lines are {_uncertainty(results)}."
    )
    return [
        Part(tables=[gap_rows(results, results.variants)], note=READ_SHADES),
        Part(draw(_subset_drawer(panels[0]), panels[0], "subsets"), note=note),
        Part(draw(_subset_drawer(panels[1]), panels[1], "subsets"), note=note, fold=f"{len(panels[1])} more variants"),
    ]


def _share_parts(results: Results) -> list[Part]:
    panel = prepared.prepare_classes(results)
    more = len(results.least_robust_classes) > prepared.MAX_CLASSES
    return [
        Part(
            draw(figures.draw_classes, [panel] if panel else [], "least-robust-classes"),
            [share_table(results)],
            note="Bars that reach beyond their tick are classes with more than their share of the least robust "
            "examples. Lines are 95 % Wilson intervals of each class by itself."
            f"{f' The figure shows the first {prepared.MAX_CLASSES} classes.' if more else ''}",
        )
    ]


def _shift_parts(results: Results) -> list[Part]:
    if not results.shifts:
        return []
    shown, rest = _shown_and_rest(results)
    panels = [prepared.prepare_boxes(results, group) for group in (shown, rest)]
    note = (
        f"Shifts: {shift_name(results)}. Boxes, where there are {figures.MIN_BOX} types or more, hold the middle half "
        "of the types; the diamond is their mean, which the tables of this report use."
    )
    return [
        Part(tables=[corruption_rows(results, results.variants)], note=READ_ERROR_SHADES),
        Part(draw(_box_drawer(panels[0]), panels[0], "severity"), note=note),
        Part(
            draw(_box_drawer(panels[1]), panels[1], "severity"),
            note=note,
            fold=f"Severities of {len(panels[1])} more variants",
        ),
        Part(
            tables=severity_rows(results, results.variants), note=READ_ERROR_SHADES, fold="A table for each corruption"
        ),
    ]


def _reliability_parts(results: Results) -> list[Part]:
    if len(results.variants) == 1:
        return _subset_reliability_parts(results)
    shown, rest = _shown_and_rest(results)
    note = f"{READ_RELIABILITY}{_first_seed(results)}"
    panels = [prepared.prepare_reliability(results, group) for group in (shown, rest)]
    return [
        Part(draw(figures.draw_reliability, panels[0], "reliability"), note=note),
        Part(
            draw(figures.draw_reliability, panels[1], "reliability"), note=note, fold=f"{len(panels[1])} more variants"
        ),
    ]


def _subset_reliability_parts(results: Results) -> list[Part]:
    """Show the diagrams of one model for all examples and the two end subsets; fold those of the other subsets."""
    panels = prepared.prepare_subset_reliability(results)
    ends = [panels[index] for index in sorted({0, min(1, len(panels) - 1), len(panels) - 1})] if panels else []
    cancel = " Opposite gaps of different subsets cancel in the diagram of all examples." if len(panels) > 1 else ""
    between = panels[2:-1]
    return [
        Part(draw(figures.draw_reliability, ends, "reliability"), note=f"{READ_RELIABILITY}{cancel}"),
        Part(
            draw(figures.draw_reliability, between, "reliability"),
            note=READ_RELIABILITY,
            fold=f"{len(between)} more subsets",
        ),
    ]


def _threshold_parts(results: Results) -> list[Part]:
    return [
        Part(
            tables=[threshold_rows(results)],
            note="Predictions of at least this confidence are accepted. Each threshold keeps its promise on new "
            "examples of this kind with 95 % certainty. ≤: the upper bound of the error, which allows for the search. "
            "The thresholds were found on the evaluated examples, and the other columns describe these examples.",
        ),
        Part(
            tables=[threshold_rows(results, by_subset=True)],
            note="Each subset has a threshold of its own, which keeps its promise within the subset. The promises of "
            "all subsets for one error hold together with 95 % certainty. A threshold for all examples promises "
            "nothing for a single subset.",
            fold="Thresholds of the robustness subsets",
        ),
    ]


def _stability_parts(results: Results) -> list[Part]:
    return [
        Part(
            draw(figures.draw_dots, prepared.prepare_stability(results), "stability"),
            [stability_rows(results)],
            note="Prediction variance: how much the predicted probabilities of independently trained models differ, on "
            "clean data. Soft predictions differ less for free, so the variance is given again with all models brought "
            "to one mean confidence by a temperature. Lines are 95 % intervals over the examples. Disagreement: share "
            "of examples on which two models predict different classes.",
        )
    ]


def _target_parts(results: Results) -> list[Part]:
    panels = prepared.prepare_targets(results)
    main = [panel for method, panel in panels.items() if method in main_methods(results)]
    rest = [panel for method, panel in panels.items() if method not in main_methods(results)]
    note = (
        "The probability that the training targets put on the true class, by robustness subset. Overconfidence on "
        "the validation split pushes it down, underconfidence up; a level course has settled."
        f"{_first_seed(results)} {_bounds_reached(results.training)}"
    )
    return [
        Part(draw(figures.draw_targets, main, "targets"), note=note),
        Part(draw(figures.draw_targets, rest, "targets"), note=note, fold=f"{len(rest)} more methods"),
    ]


def _class_parts(results: Results) -> list[Part]:
    groups: dict[Variant, list[ClassRow]] = {}
    for row in results.classes:
        groups.setdefault(row.variant, []).append(row)
    parts: list[Part] = []
    for variant, rows in groups.items():
        name = label(results, variant)
        panel = prepared.prepare_by_class(rows, name)
        more = f" The figure shows the {prepared.MAX_CLASSES} largest gaps." if len(rows) > prepared.MAX_CLASSES else ""
        parts.append(
            Part(
                draw(figures.draw_dots, [panel] if panel else [], "classes"),
                [class_rows_table(rows, name)],
                note="Classes are the true ones. A confidence to the right of the accuracy is overconfidence on that "
                f"class. Lines are 95 % intervals of each class by itself.{more}",
                fold="" if len(parts) < 2 else name,
            )
        )
    return parts


def _image_parts(pictures: Pictures) -> list[Part]:
    shown = {"least_robust": pictures.least_robust, "most_wrongly_confident": pictures.most_wrongly_confident}
    return [
        Part(pictures=[_figure(picture, title) for picture in shown[kind]], title=title, note=note)
        for kind, (title, note) in PICTURE_KINDS.items()
    ]


def _figure(picture: Picture, title: str) -> Figure:
    """Write the caption of a picture.

    Raises:
        InputError: the bytes of the picture are not in base64.
    """
    if not _BASE64.fullmatch(picture.png):
        raise InputError(
            expected=f"the picture of example {picture.id} in base64",
            got="other characters",
            hint="making the results again",
        )
    right = picture.label == picture.predicted
    said = f"{picture.predicted}, right" if right else f"{picture.predicted}, but is {picture.label}"
    score = [] if picture.score is None else [f"score {picture.score:.3g}"]
    lines = [said, f"confidence {100 * picture.confidence:.1f} %", *score, f"id {picture.id}"]
    return Figure(picture.png, f"{title} image {picture.id}: {said}", lines)


def _shown_and_rest(results: Results) -> tuple[list[Variant], list[Variant]]:
    """List variants with a figure (the key ones), and variants with a folded figure (main ones, all as trained)."""
    shown, main = key_variants(results), main_methods(results)
    rest = [v for v in results.variants if v not in shown and (not v.is_calibrated or v.method in main)]
    return shown, rest


def _uncertainty(results: Results) -> str:
    seeds = len(results.seeds)
    over = {1: "", 2: ", which two seeds do not give"}.get(seeds, f" over test set and {seeds} seeds")
    return f"95 % intervals{over}"


def _first_seed(results: Results) -> str:
    other = ", and another one where a title names it" if results.failed else ""
    return f" Seed {results.seeds[0]} is shown{other}." if len(results.seeds) > 1 else ""


def _subset_drawer(panels: Sequence[prepared.SubsetPanel]) -> Callable[[prepared.SubsetPanel], str]:
    """Draw all panels on the same axes, so that they are comparable."""
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
    """Draw all panels on the same axis."""
    highest = max((value for panel in panels for values in panel.values for value in values), default=0)
    return partial(figures.draw_boxes, highest=1.05 * highest or 1.0)


def _dot_drawer(panels: Sequence[prepared.DotPanel]) -> Callable[[prepared.DotPanel], str]:
    """Draw the panels of one quantity on the same axis."""
    limits = {
        panel.quantity: figures.dot_limits([other for other in panels if other.quantity == panel.quantity])
        for panel in panels
    }
    return lambda panel: figures.draw_dots(panel, limits=limits[panel.quantity])


def _bounds_reached(training: Sequence[Training]) -> str:
    """Count the targets at their bounds: 1, where labels are one-hot, and 1/K."""
    adaptive = [run for run in training if run.update_rate > 0]
    at_one = sum(target >= 1 for run in adaptive for target in run.target_prob)
    at_uniform = sum(len(run.at_lower_bound) for run in adaptive)
    count = sum(len(run.target_prob) for run in adaptive)
    return (
        f"In all runs together {at_one} of {count} targets end at their upper bound, 1 (one-hot labels), and "
        f"{at_uniform or 'none'} fell to 1/K."
    )


def _runs(results: Results) -> Iterator[TableBlock]:
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
