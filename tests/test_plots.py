"""Axes of matplotlib against the panels that they draw."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aradals import plots
from aradals.errors import InputError, MissingExtraError
from aradals.report.panels import (
    methods_panel,
    prepare_boxes,
    prepare_reliability,
    prepare_subsets,
    prepare_targets,
)
from aradals.results.records import (
    Bin,
    Condition,
    DataSummary,
    Measure,
    Method,
    Metric,
    Reliability,
    Results,
    Row,
    Training,
    Update,
    Variant,
)

matplotlib.use("Agg")

Draw = Callable[..., Axes]

VANILLA, COOLED = Variant("vanilla"), Variant("vanilla", "temperature")
GAPS = (0.3, 0.1, -0.02)
SHIFTS = [Condition(name, severity) for name in ("fog", "snow", "frost", "noise", "blur") for severity in (1, 3)]
BINS = (
    Bin(0.0, 0.25, 0),
    Bin(0.25, 0.5, 4, 0.4, 0.5, 0.2, 0.8),
    Bin(0.5, 0.75, 40, 0.6, 0.45, 0.3, 0.6),
    Bin(0.75, 1.0, 56, 0.98, 0.9, 0.8, 0.95),
)


def around(value: float, half_width: float = 0.02) -> Measure:
    return Measure(value, max(0.0, value - half_width), min(1.0, value + half_width))


def row(variant: Variant, condition: Condition, gap: float, subset: int | None = None) -> Row:
    metrics: dict[Metric, Measure] = {
        "accuracy": around(0.6 + 0.1 * (subset or 0)),
        "confidence": around(0.6 + 0.1 * (subset or 0) + gap),
        "ece": around(abs(gap)),
        "ece_noise_floor": Measure(0.01),
        "nll": around(0.5 + abs(gap)),
    }
    return Row(variant.method, variant.calibrator, 0, condition.corruption, condition.severity, 100, metrics, subset)


def training(method: str, rate: float) -> Training:
    courses = ((1.0, 1.0, 1.0), (0.9, 0.95, 1.0), (0.85, 0.93, 0.99))
    updates = tuple(Update(course, course, course) for course in courses)
    return Training(method, 0, update_rate=rate, updates=updates, target_prob=(0.8, 0.92, 0.98))


@pytest.fixture(scope="module")
def study() -> Results:
    shares = {VANILLA: 1.0, COOLED: 0.5, Variant("ar_adals"): 0.2, Variant("ar_adals", "temperature"): 0.15}
    shifted = enumerate((Condition(), *SHIFTS))
    rows = [
        row(variant, condition, share * 0.1 * (1 + 0.1 * index))
        for index, condition in shifted
        for variant, share in shares.items()
    ]
    rows += [
        row(variant, Condition(), share * gap, subset)
        for variant, share in shares.items()
        for subset, gap in enumerate(GAPS)
    ]
    return Results(
        kind="study",
        name="made up",
        data=DataSummary("digits", num_classes=10),
        methods=(Method("vanilla", "vanilla"), Method("ar_adals", "AR-AdaLS")),
        reference="vanilla",
        rows=tuple(rows),
        reliability=tuple(Reliability(each.method, each.calibrator, 0, "none", 0, BINS) for each in shares),
        training=(training("vanilla", 0.0), training("ar_adals", 0.1)),
    )


@pytest.fixture
def ax() -> Axes:
    axes: Axes = Figure(layout="constrained").subplots()
    return axes


def labeled(ax: Axes, label: str) -> Any:
    """The only thing in the axes that has this name."""
    (found,) = [artist for artist in (*ax.lines, *ax.collections) if artist.get_label() == label]
    return found


def values(line: Any, axis: str = "y") -> list[float]:
    found: list[float] = np.asarray(line.get_ydata() if axis == "y" else line.get_xdata()).tolist()
    return found


def figure_of(ax: Axes) -> Figure:
    assert isinstance(ax.figure, Figure)
    return ax.figure


def segments(lines: Any) -> list[list[float]]:
    return [each.ravel().tolist() for each in lines.get_segments()]


def legend_texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


@pytest.mark.parametrize("variant", [None, COOLED, Variant("ar_adals")])
def test_the_lines_by_subset_are_those_of_the_panel(study: Results, ax: Axes, variant: Variant | None) -> None:
    (panel,) = prepare_subsets(study, [variant or VANILLA])
    assert plots.by_subset(study, variant, ax=ax) is ax
    for name in ("confidence", "accuracy"):
        x, y = labeled(ax, name).get_data()
        assert (list(x), list(y)) == ([0, 1, 2], getattr(panel, name))
    intervals = [
        [subset, low, subset, high]
        for lows, highs in (
            (panel.confidence_low, panel.confidence_high),
            (panel.accuracy_low, panel.accuracy_high),
        )
        for subset, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]
    drawn = [each for lines in ax.collections if hasattr(lines, "get_segments") for each in segments(lines)]
    assert drawn == intervals
    assert ax.get_ylim() == (0, 1)
    assert ax.get_title() == panel.title
    assert ax.get_xlabel() == "subset (0 = least robust)"


def test_the_shade_names_the_kinds_of_gap_that_are_there(study: Results) -> None:
    def names(variant: Variant) -> list[str]:
        return legend_texts(plots.by_subset(study, variant, ax=Figure().subplots()))

    assert names(VANILLA) == ["confidence", "accuracy", "overconfident", "underconfident"]
    assert names(Variant("ar_adals")) == ["confidence", "accuracy", "overconfident"]  # -0.004 cannot be seen


def test_a_reliability_diagram_has_the_bins_of_the_panel(study: Results, ax: Axes) -> None:
    (panel,) = prepare_reliability(study, [COOLED])
    plots.reliability_diagram(study, COOLED, ax=ax)
    marks, sparse = labeled(ax, "accuracy"), labeled(ax, "n < 10")
    assert list(marks.get_xdata()) == panel.confidence[2:]
    assert list(marks.get_ydata()) == panel.accuracy[2:]
    assert (list(sparse.get_xdata()), list(sparse.get_ydata())) == ([0.4], [0.5])
    assert segments(labeled(ax, "gap")) == [[0.6, 0.45, 0.6, 0.6], [0.98, 0.9, 0.98, 0.98]]
    assert labeled(ax, "calibrated").get_xydata().tolist() == [[0, 0], [1, 1]]
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 1), (0, 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("confidence", "accuracy")
    assert ax.get_title() == "vanilla + temperature scaling"


def test_the_histogram_above_a_reliability_diagram_sums_to_one(study: Results, ax: Axes) -> None:
    (above,) = plots.reliability_diagram(study, ax=ax).child_axes
    assert [bar.get_height() for bar in above.patches] == [0, 0.04, 0.4, 0.56]  # type: ignore[attr-defined]
    assert [label.get_text() for label in above.get_yticklabels()] == ["56 %"]


def test_under_shift_draws_each_type_and_their_mean(study: Results, ax: Axes) -> None:
    (panel,) = prepare_boxes(study, [VANILLA])
    plots.under_shift(study, "vanilla", ax=ax)
    mean = labeled(ax, "mean over types")
    assert list(mean.get_xdata()) == [0, 1, 2]
    assert mean.get_ydata() == pytest.approx([np.mean(own) for own in panel.values])
    points = [line for line in ax.lines if line.get_alpha() == 0.4]
    assert [values(line) for line in points] == panel.values[1:]
    assert [round(x) for line in points for x in values(line, "x")] == [1] * 5 + [2] * 5
    assert [label.get_text() for label in ax.get_xticklabels()] == ["clean", "1", "3"]
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylabel() == "ECE"
    assert len(ax.patches) == 2  # boxes: five types at each of two severities


def test_fewer_than_five_types_have_no_box(study: Results, ax: Axes) -> None:
    few = replace(study, rows=tuple(r for r in study.rows if r.corruption in ("none", "fog", "snow")))
    assert not plots.under_shift(few, ax=ax).patches


def test_target_courses_are_those_of_the_panel(study: Results, ax: Axes) -> None:
    panel = prepare_targets(study)["ar_adals"]
    plots.target_course(study, ax=ax)
    assert [values(line) for line in ax.lines] == panel.target_prob
    assert all(values(line, "x") == [0, 1, 2, 3] for line in ax.lines)
    assert legend_texts(ax) == ["subset 0 (least robust)", "subset 2 (most robust)"]
    assert ax.get_title() == "AR-AdaLS"


def test_targets_near_their_lower_bound_show_it(study: Results, ax: Axes) -> None:
    fallen = replace(study, training=(replace(study.training[1], target_prob=(0.15, 0.9, 0.98)),))
    bound = labeled(plots.target_course(fallen, "ar_adals", ax=ax), "lower bound 1/K")
    assert list(bound.get_ydata()) == [0.1, 0.1]
    assert ax.get_ylim()[0] == 0


@pytest.mark.parametrize(("metric", "place"), [("ece", "clean"), ("ece", "all_shifts"), ("nll", "clean")])
def test_methods_stand_side_by_side(study: Results, ax: Axes, metric: Metric, place: Any) -> None:
    panel = methods_panel(study, metric, place)
    plots.methods(study, metric, place=place, ax=ax)
    for series in panel.series:
        line = labeled(ax, series.name)
        assert list(line.get_xdata()) == series.values
        assert [round(y) for y in line.get_ydata()] == [0, 1]
    drawn = [segment[::2] for lines in ax.collections for segment in segments(lines)]
    assert drawn == [[low, high] for each in panel.series for low, high in zip(each.low, each.high, strict=True)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["vanilla", "AR-AdaLS"]
    assert ax.get_xlabel() == panel.quantity
    assert ax.get_ylim() == (1.5, -0.5)  # the first method above
    floors = [0.01] * 4 if metric == "ece" else []
    assert [x for line in ax.lines if line.get_label() == "noise floor" for x in values(line, "x")] == floors


def test_the_axis_of_methods_holds_the_noise_floor(study: Results, ax: Axes) -> None:
    one = replace(study, methods=study.methods[:1], rows=tuple(r for r in study.rows if r.variant == VANILLA))
    low, high = plots.methods(one, ax=ax).get_xlim()
    assert low <= 0.01 < 0.12 < high


@pytest.mark.parametrize("draw", [plots.by_subset, plots.methods, plots.reliability_diagram])
@pytest.mark.filterwarnings("error")
def test_unknown_ends_of_intervals_are_left_out(study: Results, ax: Axes, draw: Draw) -> None:
    bare = replace(
        study,
        rows=tuple(replace(r, metrics={k: Measure(m.value) for k, m in r.metrics.items()}) for r in study.rows),
        reliability=tuple(
            replace(r, bins=tuple(replace(b, accuracy_low=math.nan, accuracy_high=math.nan) for b in r.bins))
            for r in study.reliability
        ),
    )
    figure_of(draw(bare, ax=ax)).draw_without_rendering()


def test_a_legend_never_covers_data_or_the_label_of_the_axis(study: Results) -> None:
    for size in ((3.3, 2.6), (6.4, 4.8)):
        for draw in (plots.by_subset, plots.reliability_diagram, plots.under_shift, plots.methods, plots.target_course):
            figure = Figure(figsize=size, layout="constrained")
            ax = draw(study, ax=figure.subplots())
            figure.draw_without_rendering()
            legend = ax.get_legend()
            assert legend
            assert legend.get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0
            assert min(legend.get_window_extent().min) >= 0


@pytest.mark.parametrize(
    ("draw", "without", "hint"),
    [
        (plots.by_subset, {"rows": [row(VANILLA, Condition(), 0.1)]}, "aradals diagnose"),
        (plots.under_shift, {"rows": [row(VANILLA, Condition(), 0.1)]}, "corruptions"),
        (plots.reliability_diagram, {"reliability": ()}, "bins"),
        (plots.target_course, {"training": ()}, "a study of AR-AdaLS"),
        (plots.by_subset, {"rows": ()}, "a run succeeded"),
    ],
)
def test_results_without_the_panel_are_refused(
    study: Results, ax: Axes, draw: Draw, without: dict[str, Any], hint: str
) -> None:
    with pytest.raises(InputError, match=f"results without them; try .*{hint}"):
        draw(replace(study, **without), ax=ax)
    assert not ax.has_data()


def test_unknown_names_are_refused(study: Results, ax: Axes) -> None:
    with pytest.raises(InputError, match="'vanila'"):
        plots.by_subset(study, "vanila", ax=ax)
    with pytest.raises(InputError, match=r"vanilla \(vector\).*one of: .*vanilla \(temperature\)"):
        plots.by_subset(study, Variant("vanilla", "vector"), ax=ax)
    with pytest.raises(InputError, match=r"targets of vanilla.*try ar_adals"):
        plots.target_course(study, "vanilla", ax=ax)
    with pytest.raises(InputError, match="a metric of the results, got 'ecce'"):
        plots.methods(study, "ecce", ax=ax)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a place of the results, got 'shifted'; try one of: clean, all_shifts"):
        plots.methods(study, place="shifted", ax=ax)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="values of aurc"):
        plots.methods(study, "aurc", ax=ax)


def test_no_global_state_changes(study: Results, ax: Axes) -> None:
    from matplotlib import pyplot

    before, figures = dict(matplotlib.rcParams), pyplot.get_fignums()
    for draw in (plots.by_subset, plots.reliability_diagram, plots.under_shift, plots.methods, plots.target_course):
        draw(study, ax=Figure().subplots())
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == figures


def test_new_axes_follow_the_settings_of_matplotlib(study: Results) -> None:
    from matplotlib import pyplot

    with pyplot.rc_context({"figure.figsize": (3, 2), "font.size": 7}):
        ax = plots.methods(study)
    assert figure_of(ax).get_size_inches().tolist() == [3, 2]
    assert ax.xaxis.label.get_fontsize() == 7
    pyplot.close(figure_of(ax))


def test_pyplot_is_needed_for_new_axes_alone(study: Results, ax: Axes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plots.by_subset(study, ax=ax)
    with pytest.raises(MissingExtraError, match=r"matplotlib.*ar-adals\[plots\]"):
        plots.by_subset(study)
