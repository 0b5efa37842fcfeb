"""The HTML report: one file that needs nothing else, made from results on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aradals.errors import InputError, MissingExtraError
from aradals.files import atomic_path
from aradals.report import figures
from aradals.report import panels as prepared
from aradals.report.headlines import WARNING, diagnosis_headlines, study_headlines
from aradals.report.summary import (
    Results,
    Variant,
    condition_name,
    num_examples,
    num_subsets,
    seeds_of,
    shift_conditions,
    variants,
)
from aradals.report.tables import (
    Cell,
    TableBlock,
    comparison_note,
    comparison_rows,
    diagnosis_note,
    diagnosis_rows,
    stability_rows,
    table_note,
    table_rows,
    threshold_rows,
)

READ_RELIABILITY = (
    "Squares on the diagonal keep their word: of the predictions made with 80 %, 80 % are right; below it the model is "
    "overconfident. Vertical lines are 95 % Wilson intervals. The histogram shows where the predictions are; bins with "
    f"fewer than {figures.MIN_COUNT} of them are hollow and pale, and say little."
)
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
NO_SUBSETS = "no robustness scores were given, so nothing is told by robustness"


@dataclass(frozen=True)
class ReportFigure:
    """Panels of one kind, and how to read them."""

    title: str
    caption: str
    panels: list[str]
    wide: bool = False


def write_report(results: Results, path: Path) -> None:
    """Write the report of a study, an evaluation or a diagnosis as one HTML file.

    Args:
        results: content of ``results.json`` or ``diagnosis.json``.
        path: of the file.

    Raises:
        InputError: results of another kind, or without any rows.
        MissingExtraError: without Jinja2 or matplotlib.
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
    html = _render("report.html.j2", warning=WARNING, **kinds[kind](results))
    with atomic_path(path) as temporary:
        # Names are other people's and may hold half of a surrogate pair, which no encoding can write.
        temporary.write_bytes(html.encode("utf-8", errors="replace"))


def _study_page(results: Results) -> dict[str, Any]:
    data, is_study = results["data"], results["kind"] == "study"
    facts = [data["name"], f"{num_examples(results):,} examples", f"{data['num_classes']} classes"]
    facts += [_seeds(seeds_of(results))] if is_study else []
    kind = "Calibration study" if is_study else "Evaluation"
    return {
        "title": f"{kind}: {results.get('name') or data['name']}",
        "description": results.get("description", ""),
        "facts": facts,
        "headlines": study_headlines(results),
        "blocks": [*table_rows(results), *_titled(comparison_rows(results), "difference from vanilla")],
        "table_note": f"{table_note(results)} {comparison_note(results) if results.get('comparisons') else ''}",
        "has_subsets": num_subsets(results) > 0,
        "figures": _study_figures(results),
        "runs": _study_runs(results),
        "config": json.dumps(results.get("config", {}), indent=2, ensure_ascii=False),
    }


def _titled(blocks: list[TableBlock], title: str) -> list[TableBlock]:
    return [replace(block, title=f"{title}: {block.title}") for block in blocks]


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
        "blocks": [block for block in (diagnosis_rows(diagnosis), threshold_rows(diagnosis)) if block.rows],
        "table_note": diagnosis_note(diagnosis),
        "has_subsets": bool(diagnosis["subsets"]),
        "figures": _diagnosis_figures(diagnosis),
        "runs": [
            _table("what was examined", ("", ""), [[name, diagnosis[name]] for name in names if diagnosis.get(name)]),
            _table("versions", ("", ""), list(diagnosis.get("versions", {}).items())),
            _table("robustness scores", ("", ""), _named(diagnosis.get("scoring"), SCORING_NAMES)),
            _table("audit of the robustness scores", ("", ""), _audit_rows(diagnosis.get("audit"))),
            _table(
                "classes of the least robust subset",
                ("class", "n", "share %", "share of all %", "accuracy %", "confidence %"),
                [
                    [
                        row["name"],
                        row["n"],
                        *(_percent(row[key]) for key in ("share", "base_share", "accuracy", "confidence")),
                    ]
                    for row in diagnosis.get("least_robust_classes", [])
                ],
            ),
        ],
        "config": "",
    }


def _study_figures(results: Results) -> list[ReportFigure]:
    seeds = seeds_of(results)
    first_seed = f" Seed {seeds[0]} is shown." if len(seeds) > 1 else ""
    uncertainty = "95 % intervals" if len(seeds) == 1 else f"95 % intervals over test set and {len(seeds)} seeds"
    found = [
        _subset_figure(prepared.prepare_subsets(results), uncertainty),
        ReportFigure(
            "Reliability",
            f"{READ_RELIABILITY}{first_seed}",
            _draw_all(figures.draw_reliability, prepared.prepare_reliability(results), "reliability"),
        ),
        ReportFigure(
            "Course of the targets",
            "The probability that the training targets put on the true class, by robustness subset. Overconfidence on "
            f"the validation split pushes it down, underconfidence up; a level course has settled.{first_seed} "
            f"{_bounds_reached(results)}",
            _draw_all(figures.draw_targets, prepared.prepare_targets(results), "targets"),
        ),
        ReportFigure(
            "Under shift",
            f"Left is better. Lines are {uncertainty}: where they overlap, the methods cannot be told apart. Hollow "
            "marks are with temperature scaling or another calibrator. A grey tick is the noise floor of the mark "
            "beside it: what a perfectly calibrated model would show. The number after a corruption is its severity.",
            _draw_all(figures.draw_shift, prepared.prepare_shift(results), "shift"),
            wide=True,
        ),
    ]
    return [figure for figure in found if figure.panels]


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


def _diagnosis_figures(diagnosis: Results) -> list[ReportFigure]:
    classes = prepared.prepare_classes(diagnosis)
    cancel = (
        " Opposite gaps of different subsets cancel in the diagram of all examples." if diagnosis["subsets"] else ""
    )
    more = len(diagnosis.get("least_robust_classes", [])) > prepared.MAX_CLASSES
    found = [
        _subset_figure(prepared.prepare_diagnosis_subsets(diagnosis), "95 % intervals"),
        ReportFigure(
            "Classes of the least robust subset",
            "Bars that reach beyond their tick are classes with more than their share of the least robust "
            "examples. Lines are 95 % Wilson intervals of each class by itself."
            f"{f' Shown are the first {prepared.MAX_CLASSES} classes.' if more else ''}",
            _draw_all(figures.draw_classes, [classes] if classes else [], "classes"),
            wide=True,
        ),
        ReportFigure(
            "Reliability",
            f"{READ_RELIABILITY}{cancel}",
            _draw_all(figures.draw_reliability, prepared.prepare_diagnosis_reliability(diagnosis), "reliability"),
        ),
    ]
    return [figure for figure in found if figure.panels]


def _subset_figure(panels: list[prepared.SubsetPanel], uncertainty: str) -> ReportFigure:
    """All panels on the same axes, so that they compare."""
    levels = [
        x for panel in panels for x in (*panel.accuracy_low, *panel.accuracy, *panel.confidence) if math.isfinite(x)
    ]
    errors = [x for panel in panels for x in (*panel.ece_high, *panel.ece, *panel.noise_floor) if math.isfinite(x)]
    draw = partial(
        figures.draw_subsets,
        lowest=math.floor(10 * min(levels, default=0)) / 10,
        highest_ece=max(0.02, 1.08 * max(errors, default=0)),
    )
    return ReportFigure(
        "By robustness subset",
        "Subsets of equal size, from the inputs that the smallest perturbation flips (left) to the most robust. The "
        "shaded gap between confidence and accuracy is the miscalibration; an ECE at its dashed noise floor is no more "
        f"than chance explains. Vertical lines are {uncertainty}.",
        _draw_all(draw, panels, "subsets"),
    )


def _draw_all(draw: Callable[..., str], panels: list[Any], name: str) -> list[str]:
    return [draw(panel, identifier=f"{name}-{index}") for index, panel in enumerate(panels)]


def _rule(rule: Mapping[str, Any]) -> str:
    """What an update rule is made of, but for its rate: ``leak 0.3, monotone``."""
    parts = [
        name.replace("_", " ") + ("" if value is True else f" {value:g}")
        for name, value in rule.items()
        if value and name != "rate"
    ]
    return ", ".join(parts)


def _study_runs(results: Results) -> list[TableBlock]:
    """What was run, as tables."""
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
        stability_rows(results),
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
