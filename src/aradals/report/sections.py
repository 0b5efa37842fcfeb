"""The folded sections of a page: figures, tables and pictures, each with its explanation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aradals.errors import InputError
from aradals.report import figures
from aradals.report import panels as prepared
from aradals.report.drawings import Drawing, box_drawer, dot_drawer, draw, slug, subset_drawer
from aradals.report.tables import (
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
from aradals.report.view import key_variants, label, main_methods, shift_name, shown_variants
from aradals.results.records import ClassRow, Picture, Pictures, Results, Training, Variant

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


def list_sections(results: Results) -> list[Section]:
    """List the sections with content."""
    found = [
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
    return [section for section in found if section.shown]


def _method_parts(results: Results) -> list[Part]:
    """Show the main methods in figures, and their paired differences."""
    if len(results.variants) < 2:
        return []
    panels = prepared.prepare_methods(results) if _compared(results) == "methods" else []
    differences = prepared.prepare_differences(results)
    return [
        Part(
            draw(dot_drawer(panels), panels, "methods"),
            note=f"Lines are {_uncertainty(results)}; those of two methods on the same examples may overlap although "
            "the paired difference is significant. Hollow marks are calibrated after training. A gray tick is the "
            "noise floor of the mark beside it: the error that a perfectly calibrated model would show.",
        ),
        Part(
            draw(dot_drawer(differences), differences, "differences"),
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
        Part(draw(subset_drawer(panels[0]), panels[0], "subsets"), note=note),
        Part(draw(subset_drawer(panels[1]), panels[1], "subsets"), note=note, fold=f"{len(panels[1])} more variants"),
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
        Part(draw(box_drawer(panels[0]), panels[0], "severity"), note=note),
        Part(
            draw(box_drawer(panels[1]), panels[1], "severity"),
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
