"""The values of each figure of a report, ready to draw or to test: dictionaries of results in, frozen records out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aradals.report.summary import (
    CLEAN,
    Condition,
    Results,
    condition_name,
    diagnosis_results,
    main_variants,
    measure,
    num_subsets,
    number,
    seeds_of,
    share_interval,
    shift_conditions,
    subset_name,
    variants,
)

Values = list[float]

MAX_CONDITIONS = 20
MAX_CLASSES = 15
MAX_LABEL = 26
MAX_TITLE = 42


@dataclass(frozen=True)
class SubsetPanel:
    """Confidence, accuracy and ECE of one variant by robustness subset; lists over subsets, NaN where unknown."""

    title: str
    confidence: Values
    confidence_low: Values
    confidence_high: Values
    accuracy: Values
    accuracy_low: Values
    accuracy_high: Values
    ece: Values
    ece_low: Values
    ece_high: Values
    noise_floor: Values


@dataclass(frozen=True)
class ReliabilityPanel:
    """Accuracy against confidence; lists over bins, NaN where a bin is empty."""

    title: str
    low: Values
    high: Values
    count: Values
    confidence: Values
    accuracy: Values
    accuracy_low: Values
    accuracy_high: Values


@dataclass(frozen=True)
class TargetPanel:
    """The course of the targets of one method: ``target_prob[r][i]`` held from ``epochs[i]`` on."""

    title: str
    epochs: list[int]
    target_prob: list[Values]
    lower_bound: float


@dataclass(frozen=True)
class ShiftSeries:
    """One variant in a dot plot; lists over conditions."""

    label: str
    calibrated: bool
    method_index: int
    values: Values
    low: Values
    high: Values
    noise_floor: Values


@dataclass(frozen=True)
class ShiftPanel:
    """A calibration error under every condition, clean first."""

    title: str
    conditions: list[str]
    series: list[ShiftSeries]


@dataclass(frozen=True)
class ClassPanel:
    """Classes by their share of the least robust subset, largest first."""

    title: str
    names: list[str]
    share: Values
    share_low: Values
    share_high: Values
    base_share: Values


def prepare_subsets(results: Results) -> list[SubsetPanel]:
    """One panel per variant, on clean data; means over seeds."""
    subsets = range(num_subsets(results))
    panels = []
    for variant in variants(results) if subsets else []:
        columns: dict[str, Values] = {}
        for key in ("confidence", "accuracy", "ece"):
            found = [measure(results, variant, key, subset=subset) for subset in subsets]
            columns |= {
                key: [each.value for each in found],
                f"{key}_low": [each.low for each in found],
                f"{key}_high": [each.high for each in found],
            }
        floor = [measure(results, variant, "ece_noise_floor", subset=subset).value for subset in subsets]
        panels.append(SubsetPanel(title=shorten(variant.label, MAX_TITLE), noise_floor=floor, **columns))
    return panels


def prepare_reliability(results: Results) -> list[ReliabilityPanel]:
    """One panel per variant, on clean data, of the first seed (bins of several seeds share their examples)."""
    seeds = seeds_of(results)[:1]
    panels = []
    for variant in variants(results):
        for entry in results.get("reliability", []):
            if (
                (entry["method"], entry["calibrator"]) == (variant.method, variant.calibrator)
                and (entry["corruption"], entry["severity"]) == CLEAN
                and entry["seed"] in seeds
                and entry.get("subset") is None
            ):
                panels.append(reliability_panel(variant.label, entry["bins"]))
    return panels


def prepare_diagnosis_reliability(diagnosis: Results) -> list[ReliabilityPanel]:
    """All examples, then each robustness subset."""
    reliability = diagnosis["reliability"]
    by_subset = reliability.get("subsets") or []
    return [
        reliability_panel("all examples", reliability["overall"]),
        *(reliability_panel(subset_name(index, len(by_subset)), bins) for index, bins in enumerate(by_subset)),
    ]


def reliability_panel(title: str, bins: Sequence[Mapping[str, Any]]) -> ReliabilityPanel:
    """Bins as columns."""
    keys = ("low", "high", "count", "confidence", "accuracy", "accuracy_low", "accuracy_high")
    return ReliabilityPanel(
        shorten(title, MAX_TITLE), **{key: [number(each.get(key)) for each in bins] for key in keys}
    )


def prepare_targets(results: Results) -> list[TargetPanel]:
    """One panel per method whose targets were updated, of its first seed."""
    lower_bound = 1 / results["data"]["num_classes"]
    panels: dict[str, TargetPanel] = {}
    labels = {variant.method: variant.label for variant in variants(results) if variant.calibrator == "none"}
    for training in results.get("training", []):
        method, updates, settings = training["method"], training.get("updates") or [], training.get("settings", {})
        if method in panels or not updates or settings.get("update_rate") == 0:
            continue
        every = settings.get("update_every") or 1
        course = [update["target_prob"] for update in updates] + [training["target_prob"]]
        panels[method] = TargetPanel(
            title=shorten(labels.get(method, method), MAX_TITLE),
            epochs=[index * every for index in range(len(course))],
            target_prob=[[number(value) for value in subset] for subset in zip(*course, strict=True)],
            lower_bound=lower_bound,
        )
    return list(panels.values())


def prepare_shift(results: Results) -> list[ShiftPanel]:
    """ECE and subset calibration error, clean and shifted; severities averaged where there are many conditions."""
    shifts = shift_conditions(results)
    if not shifts:
        return []
    groups: dict[str, list[Condition]] = {"clean": [CLEAN]}
    for shift in shifts:
        name = condition_name(shift) if len(shifts) <= MAX_CONDITIONS else shift[0].replace("_", " ")
        groups.setdefault(name, []).append(shift)
    shown = main_variants(results)
    methods = list(dict.fromkeys(variant.method for variant in shown))
    panels = []
    for key, floor, title in (
        ("ece", "ece_noise_floor", "ECE"),
        ("subset_calibration_error", "subset_noise_floor", "subset calibration error"),
    ):
        series = []
        for variant in shown:
            found = [measure(results, variant, key, conditions=group) for group in groups.values()]
            floors = [measure(results, variant, floor, conditions=group).value for group in groups.values()]
            series.append(
                ShiftSeries(
                    label=shorten(variant.label, MAX_TITLE),
                    calibrated=variant.calibrator != "none",
                    method_index=methods.index(variant.method),
                    values=[each.value for each in found],
                    low=[each.low for each in found],
                    high=[each.high for each in found],
                    noise_floor=floors,
                )
            )
        if any(math.isfinite(value) for each in series for value in each.values):
            panels.append(ShiftPanel(title, [shorten(name) for name in groups], series))
    return panels


def prepare_diagnosis_subsets(diagnosis: Results) -> list[SubsetPanel]:
    """The one panel of a diagnosis."""
    return prepare_subsets(diagnosis_results(diagnosis))


def prepare_classes(diagnosis: Results) -> ClassPanel | None:
    """The largest classes of the least robust subset; None without any."""
    rows = diagnosis.get("least_robust_classes", [])[:MAX_CLASSES]
    if not rows:
        return None
    intervals = [share_interval(row) for row in rows]
    return ClassPanel(
        title="classes of the least robust subset",
        names=[shorten(str(row["name"])) for row in rows],
        share=[number(row["share"]) for row in rows],
        share_low=[low for low, _ in intervals],
        share_high=[high for _, high in intervals],
        base_share=[number(row["base_share"]) for row in rows],
    )


def shorten(text: str, limit: int = MAX_LABEL) -> str:
    """Text for a figure: shortened in the middle, since names often differ at the end; no characters XML forbids."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= limit else f"{text[: limit - limit // 2 - 1]}…{text[-(limit // 2) :]}"
