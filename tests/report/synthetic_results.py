"""Results with numbers chosen by the test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

from aradals.metrics import Estimate
from aradals.results.aggregate import mean_of
from aradals.results.compare import COMPARED
from aradals.results.files import SCHEMA, parse, plain
from aradals.results.records import (
    CLEAN,
    Bin,
    ClassShare,
    Comparison,
    Condition,
    DataSummary,
    Epoch,
    Fitted,
    Measure,
    Method,
    Metric,
    Place,
    Reliability,
    Results,
    Row,
    Scoring,
    Threshold,
    Training,
    Update,
    Variant,
)
from aradals.robustness.audit import Audit, RankAgreement

VANILLA_GAPS = (0.28, 0.31, 0.25, 0.15, 0.10, 0.06, 0.03, 0.02, 0.01, 0.0)

METHODS = {"vanilla": 1.0, "label_smoothing": 0.5, "adals": 0.4, "ar_adals": 0.12}
"""Method -> how much of vanilla's gap it keeps."""

LABELS = {"adals": "AdaLS", "ar_adals": "AR-AdaLS"}
"""Labels of methods; others read as their names, with spaces."""

SHIFTS = (("gaussian_noise", 3), ("gaussian_noise", 5), ("fog", 3), ("contrast", 5))


def label_of(method: str) -> str:
    return LABELS.get(method) or method.replace("_", " ")


def around(value: float, half_width: float, highest: float = 1.0) -> Measure:
    """A measure with an interval of this half-width within [0, ``highest``]."""
    return Measure(value, max(0.0, value - half_width), min(highest, value + half_width))


def make_metrics(
    accuracy: float, confidence: float, n: int, *, ece: float, half_width: float | None = None
) -> dict[Metric, Measure]:
    """Metrics of one set of predictions; intervals of ``half_width``, by default of a size fitting ``n``."""
    width = 1.96 * math.sqrt(0.09 / n) if half_width is None else half_width
    return {
        "accuracy": around(accuracy, width),
        "confidence": around(confidence, 0.4 * width),
        "nll": around(0.3 + abs(confidence - accuracy), width, math.inf),
        "brier": around(0.1, width),
        "ece": around(ece, 0.7 * width),
        "ece_noise_floor": Measure(0.4 / math.sqrt(n)),
        "ece_noise_floor_p95": Measure(0.6 / math.sqrt(n)),
    }


def make_bins(gap: float, num_bins: int = 15) -> tuple[Bin, ...]:
    """Overconfident by ``gap``; the lowest bins are empty."""
    bins = []
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        accuracy = max(0.0, (low + high) / 2 - gap)
        ends = (max(0.0, accuracy - 0.08), min(1.0, accuracy + 0.08))
        empty = index < 4
        bins.append(
            Bin(low, high, 0) if empty else Bin(low, high, 10 + 4 * index**2, (low + high) / 2, accuracy, *ends)
        )
    return tuple(bins)


@dataclass(frozen=True)
class Model:
    """A trained model under one condition, overconfident by ``gaps``, of which it keeps a share."""

    variant: Variant
    seed: int
    condition: Condition
    gaps: list[float]

    @property
    def keys(self) -> tuple[str, str, int, str, int]:
        return (
            self.variant.method,
            self.variant.calibrator,
            self.seed,
            self.condition.corruption,
            self.condition.severity,
        )

    @property
    def error(self) -> float:
        return sum(self.gaps) / len(self.gaps)

    def rows(self, n: int) -> Iterator[Row]:
        """All examples, then each subset."""
        count = len(self.gaps)
        accuracy = [max(0.3, 0.6 + 0.4 * r / max(1, count - 1) - 0.03 * self.condition.severity) for r in range(count)]
        mean = sum(accuracy) / count
        metrics = make_metrics(mean, min(1.0, mean + self.error), n, ece=self.error + 0.3 / math.sqrt(n))
        metrics["subset_calibration_error"] = around(self.error, 0.008, math.inf)
        metrics["largest_subset_calibration_error"] = around(max(self.gaps), 0.008, math.inf)
        metrics |= {"subset_noise_floor": Measure(0.006), "subset_noise_floor_p95": Measure(0.01)}
        metrics |= {"largest_subset_noise_floor": Measure(0.02)}
        yield Row(*self.keys, n=n, metrics=metrics)
        for subset, gap in enumerate(self.gaps):
            confidence = min(1.0, accuracy[subset] + gap)
            metrics = make_metrics(accuracy[subset], confidence, n // count, ece=gap + 0.01)
            yield Row(*self.keys, n=n // count, metrics=metrics, subset=subset)


def make_study(
    *,
    seeds: Sequence[int] = (0,),
    num_subsets: int = 10,
    methods: Mapping[str, float] = METHODS,
    variant_of: Mapping[str, str] | None = None,
    calibrators: Sequence[str] = ("none", "temperature"),
    shifts: Sequence[tuple[str, int]] = SHIFTS,
    num_classes: int = 10,
    n: int = 8000,
) -> Results:
    """A study in which vanilla is overconfident by `VANILLA_GAPS`, and others by a share of it."""
    gaps = [VANILLA_GAPS[subset * 10 // num_subsets] for subset in range(num_subsets)]
    conditions = [CLEAN, *(Condition(*shift) for shift in shifts)]
    models = []
    for seed, (method, share), condition, calibrator in product(seeds, methods.items(), conditions, calibrators):
        kept = share * (0.6 if calibrator != "none" else 1) * (1 + 0.15 * condition.severity) + 0.02 * (seed % 3)
        models.append(Model(Variant(method, calibrator), seed, condition, [kept * gap for gap in gaps]))
    runs = list(product(seeds, methods.items()))
    return Results(
        kind="study",
        name="demo",
        description="Vanilla, label smoothing, AdaLS and AR-AdaLS on made-up numbers.",
        config={"data": "demo", "training": {"epochs": 40, "batch_size": 128}, "seeds": list(seeds)},
        versions={"python": "3.11.9", "torch": "2.13.0"},
        device="cpu",
        data=DataSummary(
            name="demo",
            num_classes=num_classes,
            class_names=tuple(f"class {k}" for k in range(num_classes)),
            splits={"train": 600, "validation": 250, "calibration": 147, "test": n},
            splits_hash={str(seed): "ab12cd34" for seed in seeds},
        ),
        methods=tuple(Method(name, label_of(name), (variant_of or {}).get(name)) for name in methods),
        reference="vanilla" if "vanilla" in methods else next(iter(methods)),
        rows=tuple(row for model in models for row in model.rows(n)),
        reliability=tuple(Reliability(*model.keys, bins=make_bins(model.error)) for model in models),
        training=tuple(make_training(method, seed) for seed, (method, _) in runs),
        calibrators=tuple(Fitted(method, "temperature", seed, 1 + share) for seed, (method, share) in runs),
        scoring=tuple(
            Scoring(
                *("test", "deepfool(steps=50, overshoot=0.02)", n, seed),
                mean_forward=7.2,
                mean_backward=31.5,
                seconds=12.4,
            )
            for seed in seeds
        ),
    )


def make_comparisons(
    study: Results, half_width: float = 0.005, references: Sequence[str] = ("none", "temperature")
) -> tuple[Comparison, ...]:
    """Every variant of a study of one seed against vanilla with some calibrators; intervals of one width."""
    values: dict[tuple[Variant, Place, Metric], list[Measure]] = {}
    for row in study.rows:
        place: Place = "clean" if row.condition.is_clean else "all_shifts"
        for metric in COMPARED if row.subset is None else ():
            if row[metric].known:
                values.setdefault((row.variant, place, metric), []).append(row[metric])
    means = {key: mean_of(found).value for key, found in values.items()}
    return tuple(
        Comparison(
            *(variant.method, variant.calibrator, reference.method, reference.calibrator),
            place=place,
            metric=metric,
            num_seeds=1,
            value=value,
            reference_value=against,
            difference=value - against,
            low=value - against - half_width,
            high=value - against + half_width,
        )
        for (variant, place, metric), value in means.items()
        for reference in (Variant("vanilla", calibrator) for calibrator in references)
        if variant != reference and (against := means.get((reference, place, metric), math.nan)) == against
    )


def compared(study: Results, half_width: float = 0.005) -> Results:
    """A study with the comparisons of its methods."""
    return replace(study, comparisons=make_comparisons(study, half_width))


def make_training(method: str, seed: int) -> Training:
    """A training record; AdaLS and AR-AdaLS adapt their targets."""
    num_subsets = {"adals": 1, "ar_adals": 10}.get(method, 1)
    adaptive = method in ("adals", "ar_adals")
    courses = [tuple(1 - gap * (1 - math.exp(-step / 12)) for gap in VANILLA_GAPS[:num_subsets]) for step in range(41)]
    return Training(
        method,
        seed,
        settings={"rule": {"leak": 0.3}} if adaptive else {},
        update_rate=0.15 if adaptive else 0.0,
        seconds=61.5,
        epochs=tuple(Epoch(1 / (epoch + 1), 0.9, 1.5) for epoch in range(40)),
        updates=tuple(Update(course, course, course) for course in courses[:-1]) if adaptive else (),
        target_prob=courses[-1] if adaptive else (1.0,),
    )


def make_audit(spearman: float, same_subset: float) -> Audit:
    """An audit of 128 examples that came to these figures."""
    return Audit(
        scores_by="deepfool(steps=50)",
        attack="ddn(steps=100)",
        num_examples=130,
        num_failed=2,
        num_subsets=10,
        agreement=RankAgreement(
            128,
            Estimate(spearman, spearman - 0.01, spearman + 0.001),
            Estimate(same_subset, same_subset - 0.05, same_subset + 0.02),
            Estimate(1.0, 0.971, 1.0),
            Estimate(spearman - 0.05, spearman - 0.1, spearman),
        ),
        median_ratio=1.15,
        num_verified=128,
        num_norms_reduced=77,
        num_reference_from_table=5,
        mean_forward=101.0,
        mean_backward=100.0,
        seconds=12.5,
    )


CLASSES = ("cat", "dog", "bird", "deer", "frog", "horse", "ship", "truck", "car", "plane")


def make_diagnosis(*, num_subsets: int = 10, class_names: Sequence[str] = CLASSES, n: int = 10000) -> Results:
    """A model that is overconfident by `VANILLA_GAPS`; the first class is three times over-represented."""
    study = make_study(num_subsets=num_subsets, methods={"resnet29": 1.0}, calibrators=("none",), shifts=(), n=n)
    size, base = n // num_subsets, 1 / len(class_names)
    others = (1 - 3 * base) / max(1, len(class_names) - 1)
    counts = [round(size * (others if label else 3 * base)) for label in range(len(class_names))]
    keys = ("resnet29", "none", 0, "none", 0)
    return replace(
        study,
        kind="diagnosis",
        name="resnet29",
        description="",
        config={
            "model": "resnet29",
            "checkpoint": "model.safetensors",
            "split": "test",
            "attack": "deepfool(steps=50)",
        },
        device="",
        data=DataSummary("demo", len(class_names), tuple(class_names), {"test": n}),
        reliability=(
            Reliability(*keys, bins=make_bins(0.1)),
            *(
                Reliability(*keys, bins=make_bins(VANILLA_GAPS[r * 10 // num_subsets]), subset=r)
                for r in range(num_subsets)
            ),
        ),
        training=(),
        calibrators=(),
        least_robust_classes=tuple(
            ClassShare(label, name, count, count / size, base, 0.6, 0.85)
            for label, (name, count) in enumerate(zip(class_names, counts, strict=True))
        ),
        thresholds=(Threshold(0.01), Threshold(0.05, 0.98, 0.4, 4000, 0.04, 0.0454)),
        scoring=(Scoring("test", "deepfool(steps=50)", n, 0, 3, 7.2, 31.5, 40.0),),
        audit=make_audit(0.998, 0.961),
    )


def changed(results: Results, wanted: Callable[[Row], bool], **metrics: Measure) -> Results:
    """Results in which the wanted rows have other metrics."""
    assert set(metrics) <= set(get_args(Metric))
    assert any(map(wanted, results.rows))
    rows = (
        replace(row, metrics={**row.metrics, **metrics}) if wanted(row) else row  # type: ignore[dict-item]
        for row in results.rows
    )
    return replace(results, rows=tuple(rows))


def clean(method: str, calibrator: str = "none", subset: int | None = None) -> Callable[[Row], bool]:
    """Whether a row is the one of this variant and subset on clean data."""
    return lambda row: row.variant == Variant(method, calibrator) and row.condition.is_clean and row.subset == subset


def without_subsets(results: Results) -> Results:
    """The same results as if no robustness scores had been given."""
    return replace(
        results,
        rows=tuple(row for row in results.rows if row.subset is None),
        reliability=tuple(each for each in results.reliability if each.subset is None),
        least_robust_classes=(),
        scoring=(),
        audit=None,
    )


def renamed(results: Results, names: Mapping[str, str]) -> Results:
    """The same results with other names and labels of methods."""
    keys = {"method", "reference_method", "reference", "variant_of", "name", "label"}

    def walk(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: walk(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        return names.get(value, value) if key in keys else value

    return parse({"schema": SCHEMA, **walk(plain(results))})
