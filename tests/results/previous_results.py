"""Results as the previous version wrote them: a row was one flat object, and a diagnosis had a form of its own."""

from __future__ import annotations

from typing import Any


def make_row(accuracy: float, confidence: float, ece: float, n: int = 100) -> dict[str, Any]:
    return {
        "n": n,
        "accuracy": accuracy, "accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.04,
        "confidence": confidence, "confidence_low": confidence - 0.01, "confidence_high": confidence + 0.01,
        "ece": ece, "ece_low": ece / 2, "ece_high": 2 * ece, "ece_noise_floor": 0.02, "ece_noise_floor_p95": 0.03,
        "nll": None, "nll_low": None, "nll_high": None,
    }  # fmt: skip


BINS = [
    {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None, "accuracy_low": None,
     "accuracy_high": None},
    {"low": 0.5, "high": 1.0, "count": 100, "confidence": 0.9, "accuracy": 0.8, "accuracy_low": 0.7,
     "accuracy_high": 0.87},
]  # fmt: skip


def keys(method: str, corruption: str = "none", severity: int = 0, calibrator: str = "none") -> dict[str, Any]:
    return {
        "method": method, "calibrator": calibrator, "seed": 0, "data": "digits-test", "corruption": corruption,
        "severity": severity,
    }  # fmt: skip


def make_study() -> dict[str, Any]:
    """Vanilla, two forms of AR-AdaLS and an ensemble, clean and under one shift; a run of CCAT has failed."""
    methods = {"vanilla": 0.1, "ar_adals": 0.02, "ar_adals_self": 0.03, "ensemble_of_ar_adals": 0.01}
    rows = [
        {**keys(method, *condition), "subset": subset, **make_row(0.8, 0.8 + error, error)}
        for method, error in methods.items()
        for condition in (("none", 0), ("fog", 3))
        for subset in (None, 0, 1)
    ]
    return {
        "schema": "3",
        "kind": "study",
        "name": "old",
        "description": "What it was.",
        "config": {"data": "digits", "ensembles": {"ensemble_of_ar_adals": {"of": "ar_adals", "num_members": 3}}},
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        "data": {
            "name": "digits", "num_classes": 10, "class_names": ["0", "1"], "splits": {"test": 100},
            "splits_hash": {"0": "ab12"},
        },
        "rows": rows,
        "seeds": [{"method": "vanilla", "ece": 0.1}],
        "reliability": [{**keys("vanilla"), "subset": None, "bins": BINS}],
        "training": [
            {
                "method": "ar_adals", "seed": 0, "seconds": 61.5, "settings": {"num_subsets": 2, "update_rate": 0.15,
                "update_every": 2}, "epochs": [{"epoch": 0, "loss": 0.5, "accuracy": 0.9, "seconds": 1.5}],
                "updates": [
                    {"target_prob": [1.0, 1.0], "confidence": [0.9, None], "accuracy": [0.8, None], "n": [5, 0]}
                ],
                "target_prob": [0.9, 1.0], "at_lower_bound": [0],
            },
        ],
        "calibrators": [{"method": "vanilla", "seed": 0, "calibrator": "temperature", "temperature": 1.7, "nll": 0.4}],
        "scoring": [
            {
                "seed": 0, "split": "test", "attack": "secant(steps=5)", "n": 100, "num_failed": 1, "mean_forward": 7.2,
                "mean_backward": 3.5, "seconds": None, "digest": "cd34",
            },
        ],
        "costs": [
            {"method": "vanilla", "seed": 0, "seconds": 60.0, "training_seconds": 60.0, "relative_cost": 1.0},
            {"method": "ar_adals", "seed": 0, "seconds": 80.0, "training_seconds": 62.0, "relative_cost": None},
        ],
        "failed": [{"method": "ccat", "seed": 0, "reason": "training diverged"}],
        "comparisons": [
            {
                "method": "ar_adals", "calibrator": "none", "reference_method": reference,
                "reference_calibrator": "none", "condition": "all_shifts", "metric": "ece", "num_seeds": 1,
                "value": 0.02, "reference_value": 0.1, "difference": -0.08, "low": -0.1, "high": -0.06, "p": None,
                "p_holm": None,
            }
            for reference in ("vanilla", "label_smoothing")
        ],
        "stability": [
            {
                "method": "ensemble_of_ar_adals", "models": "members", "num_models": 3, "subset": None, "n": 100,
                "seed": 0, "prediction_variance": 0.02, "prediction_variance_low": 0.01,
                "prediction_variance_high": 0.03, "matched_prediction_variance": None, "disagreement": 0.1,
                "confidence": 0.9,
            },
        ],
        "classes": [
            {"method": "vanilla", "calibrator": "none", "class": 1, "name": "one", **make_row(0.7, 0.9, 0.2, 9)}
        ],
        "out_of_distribution": [
            {"calibrator": "none", "data": "digits", "ood_data": "svhn", "n": 9, "ood_n": 10, "ood_auroc": 0.9}
        ],
    }  # fmt: skip


def make_evaluation() -> dict[str, Any]:
    """A model of its own name, with a calibrator and without subsets."""
    row = {"subset": None, **make_row(0.8, 0.9, 0.1)}
    return {
        "schema": "3",
        "kind": "evaluation",
        "name": "mine",
        "config": {"checkpoint": "model.safetensors"},
        "data": {"name": "digits", "num_classes": 10, "class_names": [], "splits": {"test": 100}},
        "rows": [{**keys("mine", calibrator=calibrator), **row} for calibrator in ("none", "temperature")],
        "reliability": [],
        "examples": {
            "least_robust": [
                {"id": 7, "label": "cat", "predicted": "dog", "confidence": 0.9, "score": 0.1, "png": "AAAA"}
            ],
            "most_wrongly_confident": [],
        },
    }  # fmt: skip


def make_diagnosis() -> dict[str, Any]:
    """Two subsets, two thresholds and an audit."""
    return {
        "schema": "3",
        "kind": "diagnosis",
        "model": "resnet29",
        "checkpoint": "model.safetensors",
        "data": "digits",
        "split": "test",
        "attack": "secant(steps=5)",
        "versions": {"torch": "2.13.0"},
        "num_classes": 10,
        "class_names": ["zero", "one"],
        "overall": make_row(0.8, 0.9, 0.1),
        "subsets": [make_row(0.7, 0.9, 0.2, 50), make_row(0.9, 0.9, 0.02, 50)],
        "reliability": {"overall": BINS, "subsets": [BINS, BINS]},
        "least_robust_classes": [
            {"class": 1, "name": "one", "n": 30, "share": 0.6, "base_share": 0.5, "accuracy": 0.6, "confidence": None}
        ],
        "confidence_thresholds": [
            {"max_error": 0.01, "threshold": None, "coverage": 0.0, "n": 0, "error": None},
            {"max_error": 0.05, "threshold": 0.98, "coverage": 0.4, "n": 40, "error": 0.045},
        ],
        "scoring": {"n": 100, "num_failed": 3, "mean_forward": 7.2, "mean_backward": 31.5, "seconds": 40.0},
        "audit": {
            "scores_by": "secant(steps=5)", "attack": "ddn(steps=100)", "num_examples": 100, "num_failed": 2, "n": 98,
            "num_subsets": 2, "num_verified": 98, "num_norms_reduced": 7, "num_reference_from_table": 5,
            "spearman": 0.99, "spearman_low": 0.98, "spearman_high": 0.995,
            "same_subset": 0.9, "same_subset_low": 0.85, "same_subset_high": 0.95,
            "within_one": 1.0, "within_one_low": 0.97, "within_one_high": 1.0,
            "median_ratio": 1.15, "mean_forward": 101.0, "mean_backward": 100.0, "seconds": 12.5,
        },
    }  # fmt: skip
