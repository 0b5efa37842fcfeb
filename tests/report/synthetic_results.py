"""Results as the other stages write them, with numbers chosen by the test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

VANILLA_GAPS = (0.28, 0.31, 0.25, 0.15, 0.10, 0.06, 0.03, 0.02, 0.01, 0.0)

METHODS = {"vanilla": 1.0, "label_smoothing": 0.5, "adals": 0.4, "ar_adals": 0.12}
"""Method -> how much of vanilla's gap it keeps."""


def make_row(
    accuracy: float, confidence: float, n: int, *, ece: float, half_width: float | None = None
) -> dict[str, Any]:
    """Metrics of one set of predictions; intervals of ``half_width``, by default of a size fitting ``n``."""
    width = 1.96 * math.sqrt(0.09 / n) if half_width is None else half_width

    def with_interval(name: str, value: float, scale: float = 1.0) -> dict[str, float]:
        return {
            name: value,
            f"{name}_low": max(0.0, value - scale * width),
            f"{name}_high": value + scale * width if name == "nll" else min(1.0, value + scale * width),
        }

    return {
        "n": n,
        **with_interval("accuracy", accuracy),
        **with_interval("confidence", confidence, 0.4),
        **with_interval("nll", 0.3 + abs(confidence - accuracy)),
        **with_interval("brier", 0.1),
        **with_interval("ece", ece, 0.7),
        "ece_noise_floor": 0.4 / math.sqrt(n),
        "ece_noise_floor_p95": 0.6 / math.sqrt(n),
    }


def make_bins(gap: float, num_bins: int = 15) -> list[dict[str, float | None]]:
    """Overconfident by ``gap``; the lowest bins are empty."""
    bins: list[dict[str, float | None]] = []
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        bounds: dict[str, float | None] = {"low": low, "high": high}
        if index < 4:
            empty = ("confidence", "accuracy", "accuracy_low", "accuracy_high")
            bins.append({**bounds, "count": 0, **dict.fromkeys(empty)})
            continue
        middle = (low + high) / 2
        accuracy = max(0.0, middle - gap)
        bins.append(
            {
                **bounds,
                "count": 10 + 4 * index**2,
                "confidence": middle,
                "accuracy": accuracy,
                "accuracy_low": max(0.0, accuracy - 0.08),
                "accuracy_high": min(1.0, accuracy + 0.08),
            }
        )
    return bins


def make_study(
    *,
    seeds: Sequence[int] = (0,),
    num_subsets: int = 10,
    methods: dict[str, float] | None = None,
    calibrators: Sequence[str] = ("none", "temperature"),
    shifts: Sequence[tuple[str, int]] = (("gaussian_noise", 3), ("gaussian_noise", 5), ("fog", 3), ("contrast", 5)),
    num_classes: int = 10,
    n: int = 8000,
) -> dict[str, Any]:
    """A study in which vanilla is overconfident by `VANILLA_GAPS`, and others by a share of it."""
    methods = METHODS if methods is None else methods
    gaps = [VANILLA_GAPS[subset * 10 // num_subsets] for subset in range(num_subsets)]
    rows, reliability = [], []
    for seed in seeds:
        for method, share in methods.items():
            for corruption, severity in (("none", 0), *shifts):
                for calibrator in calibrators:
                    keys = {
                        "method": method, "calibrator": calibrator, "seed": seed, "data": "demo-test",
                        "corruption": corruption, "severity": severity,
                    }  # fmt: skip
                    kept = share * (0.6 if calibrator != "none" else 1) * (1 + 0.15 * severity) + 0.02 * (seed % 3)
                    own = [kept * gap for gap in gaps]
                    error = sum(own) / len(own)
                    accuracy = [
                        max(0.3, 0.6 + 0.4 * r / max(1, num_subsets - 1) - 0.03 * severity) for r in range(num_subsets)
                    ]
                    mean = sum(accuracy) / len(accuracy)
                    overall = make_row(mean, min(1.0, mean + error), n, ece=error + 0.3 / math.sqrt(n))
                    for name, value in (
                        ("subset_calibration_error", error),
                        ("largest_subset_calibration_error", max(own)),
                    ):
                        overall |= {name: value, f"{name}_low": max(0.0, value - 0.008), f"{name}_high": value + 0.008}
                    overall |= {"subset_noise_floor": 0.006, "largest_subset_noise_floor": 0.02}
                    rows.append({**keys, "subset": None, **overall})
                    size = n // num_subsets
                    rows += [
                        {
                            **keys,
                            "subset": r,
                            **make_row(accuracy[r], min(1.0, accuracy[r] + own[r]), size, ece=own[r] + 0.01),
                        }
                        for r in range(num_subsets)
                    ]
                    reliability.append({**keys, "subset": None, "bins": make_bins(error)})
    return {
        "schema": "1",
        "kind": "study",
        "name": "demo",
        "description": "Vanilla, label smoothing, AdaLS and AR-AdaLS on made-up numbers.",
        "config": {"data": "demo", "training": {"epochs": 40, "batch_size": 128}, "seeds": list(seeds)},
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "device": "cpu",
        "data": {
            "name": "demo",
            "num_classes": num_classes,
            "class_names": [f"class {k}" for k in range(num_classes)],
            "splits": {"train": 600, "validation": 250, "calibration": 147, "test": n},
            "splits_hash": {str(seed): "ab12cd34" for seed in seeds},
        },
        "rows": rows,
        "reliability": reliability,
        "training": [make_training(method, seed, share) for seed in seeds for method, share in methods.items()],
        "calibrators": [
            {"method": method, "seed": seed, "calibrator": "temperature", "temperature": 1 + share}
            for seed in seeds
            for method, share in methods.items()
        ],
        "scoring": [
            {
                "seed": seed, "split": "test", "attack": "deepfool(steps=50, overshoot=0.02)", "n": n, "num_failed": 0,
                "mean_forward": 7.2, "mean_backward": 31.5, "seconds": 12.4,
            }
            for seed in seeds
        ],
    }  # fmt: skip


def make_comparisons(
    study: dict[str, Any], half_width: float = 0.005, references: Sequence[str] = ("none", "temperature")
) -> list[dict[str, Any]]:
    """Every variant of a study of one seed against vanilla with some calibrators; intervals of one width."""
    values: dict[tuple[str, str, str, str], list[float]] = {}
    for row in study["rows"]:
        if row["subset"] is None:
            place = "clean" if row["severity"] == 0 else "all_shifts"
            for metric in ("ece", "subset_calibration_error", "nll", "accuracy"):
                values.setdefault((row["method"], row["calibrator"], place, metric), []).append(row[metric])
    means = {key: sum(found) / len(found) for key, found in values.items()}
    return [
        {
            "method": method, "calibrator": calibrator, "reference_method": "vanilla",
            "reference_calibrator": against, "condition": place, "metric": metric, "num_seeds": 1, "value": value,
            "reference_value": means["vanilla", against, place, metric],
            "difference": value - means["vanilla", against, place, metric],
            "low": value - means["vanilla", against, place, metric] - half_width,
            "high": value - means["vanilla", against, place, metric] + half_width,
            "p": None, "p_holm": None,
        }
        for (method, calibrator, place, metric), value in means.items()
        for against in references
        if (method, calibrator) != ("vanilla", against) and ("vanilla", against, place, metric) in means
    ]  # fmt: skip


def make_training(method: str, seed: int, share: float) -> dict[str, Any]:
    """A training record; AdaLS and AR-AdaLS adapt their targets."""
    num_subsets = {"adals": 1, "ar_adals": 10}.get(method, 1)
    adaptive = method in ("adals", "ar_adals")
    courses = [[1 - gap * (1 - math.exp(-step / 12)) for gap in VANILLA_GAPS[:num_subsets]] for step in range(41)]
    return {
        "method": method,
        "seed": seed,
        "seconds": 61.5,
        "settings": {
            "num_subsets": num_subsets, "initial_target_prob": 1.0, "update_rate": 0.15 if adaptive else 0.0,
            "rule": {"leak": 0.3} if adaptive else None, "update_every": 1,
        },
        "epochs": [{"epoch": epoch, "loss": 1 / (epoch + 1), "accuracy": 0.9, "seconds": 1.5} for epoch in range(40)],
        "updates": [
            {"target_prob": course, "confidence": course, "accuracy": course, "n": [25] * num_subsets}
            for course in courses[:-1]
        ]
        if adaptive
        else [],
        "target_prob": courses[-1] if adaptive else [1.0],
        "at_lower_bound": [],
    }  # fmt: skip


def make_audit(spearman: float, same_subset: float) -> dict[str, Any]:
    """An audit of 128 examples that came to these figures."""
    return {
        "scores_by": "deepfool(steps=50)", "attack": "ddn(steps=100)", "num_examples": 130, "num_failed": 2, "n": 128,
        "num_subsets": 10, "num_verified": 128, "num_norms_reduced": 77, "num_reference_from_table": 5,
        "spearman": spearman, "spearman_low": spearman - 0.01, "spearman_high": spearman + 0.001,
        "same_subset": same_subset, "same_subset_low": same_subset - 0.05, "same_subset_high": same_subset + 0.02,
        "within_one": 1.0, "within_one_low": 0.971, "within_one_high": 1.0,
        "median_ratio": 1.15, "mean_forward": 101.0, "mean_backward": 100.0, "seconds": 12.5,
    }  # fmt: skip


def make_diagnosis(
    *, num_subsets: int = 10, class_names: Sequence[str] | None = None, n: int = 10000
) -> dict[str, Any]:
    """A model that is overconfident by `VANILLA_GAPS`; the first class is three times over-represented."""
    names = list(class_names or ["cat", "dog", "bird", "deer", "frog", "horse", "ship", "truck", "car", "plane"])
    study = make_study(num_subsets=num_subsets, methods={"vanilla": 1.0}, calibrators=("none",), shifts=(), n=n)
    keys = ("method", "calibrator", "seed", "data", "corruption", "severity")
    overall, *subsets = [{key: value for key, value in row.items() if key not in keys} for row in study["rows"]]
    size, base = n // num_subsets, 1 / len(names)
    counts = [
        round(size * (3 * base if index == 0 else (1 - 3 * base) / max(1, len(names) - 1)))
        for index in range(len(names))
    ]
    return {
        "schema": "1",
        "kind": "diagnosis",
        "model": "resnet29",
        "checkpoint": "model.safetensors",
        "data": "demo",
        "split": "test",
        "attack": "deepfool(steps=50)",
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "num_classes": len(names),
        "class_names": names,
        "overall": overall,
        "subsets": subsets,
        "reliability": {
            "overall": make_bins(0.1),
            "subsets": [make_bins(VANILLA_GAPS[r * 10 // num_subsets]) for r in range(num_subsets)],
        },
        "least_robust_classes": [
            {
                "class": k, "name": name, "n": count, "share": count / size, "base_share": base, "accuracy": 0.6,
                "confidence": 0.85,
            }
            for k, (name, count) in enumerate(zip(names, counts, strict=True))
        ],
        "confidence_thresholds": [
            {"max_error": 0.01, "threshold": None, "coverage": 0.0, "n": 0, "error": None},
            {"max_error": 0.05, "threshold": 0.98, "coverage": 0.4, "n": 4000, "error": 0.045},
        ],
        "scoring": {"n": n, "num_failed": 3, "mean_forward": 7.2, "mean_backward": 31.5, "seconds": 40.0},
        "audit": make_audit(0.998, 0.961),
    }  # fmt: skip
