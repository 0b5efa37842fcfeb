"""Results files of previous versions, converted to the present form.

In version 4, the AUROC for other data was a separate record, without an interval. In earlier ones, a row was one flat
object, and a diagnosis had a separate form. Methods had no labels: their names decided which method was the reference,
and which methods were variants of another. Confidence thresholds are left out: they were the best ones for the examples
at hand, and guaranteed nothing for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aradals.results.records import METRICS

PREVIOUS = ("1", "2", "3", "4")

_FLAT = PREVIOUS[:3]

LABELS = {
    "adals": "AdaLS",
    "ar_adals": "AR-AdaLS",
    "ar_adals_augmix": "AR-AdaLS, AugMix",
    "ar_adals_cross_fit": "AR-AdaLS, cross-fitted",
    "ar_adals_of_ensemble": "AR-AdaLS of the ensemble",
    "ar_adals_self": "AR-AdaLS, self-scored",
    "augmix": "AugMix",
    "ccat": "CCAT",
    "ensemble_of_ar_adals": "ensemble of AR-AdaLS",
    "focal": "focal loss",
}
"""The labels of methods whose recipes had no labels."""

_ROW = ("method", "calibrator", "seed", "corruption", "severity", "subset", "n")


def upgrade(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the JSON of an older results file to the present form.

    Raises:
        LookupError, TypeError, AttributeError, ValueError: the content has no known form.
    """
    return _with_ood_in_rows(_with_records(content) if content["schema"] in _FLAT else content)


def _with_ood_in_rows(content: Mapping[str, Any]) -> dict[str, Any]:
    """Move the AUROC for other data into the row of all clean examples with the same calibrator."""
    found = {record.get("calibrator"): record for record in content.get("out_of_distribution") or []}
    kept = {key: value for key, value in content.items() if key != "out_of_distribution"}
    if not found:
        return kept

    def moved(row: Mapping[str, Any]) -> Mapping[str, Any]:
        is_judged = row["method"] == content["reference"] and row["corruption"] == "none" and row.get("subset") is None
        auroc = found.get(row["calibrator"], {}).get("ood_auroc") if is_judged else None
        return row if auroc is None else {**row, "metrics": {**row["metrics"], "ood_auroc": {"value": auroc}}}

    ood = {record["ood_data"]: record["ood_n"] for record in found.values()}
    return {**kept, "data": {**kept["data"], "ood": ood}, "rows": list(map(moved, kept["rows"]))}


def _with_records(content: Mapping[str, Any]) -> dict[str, Any]:
    """Turn flat rows into records, and name the methods."""
    if content["kind"] == "diagnosis":
        content = _as_study(content)
    names = list(dict.fromkeys(row["method"] for row in (*content["rows"], *content.get("failed", []))))
    return _known(
        {
            "kind": content["kind"],
            "name": content.get("name", ""),
            "data": _only(content["data"], "name", "num_classes", "class_names", "splits", "splits_hash"),
            "methods": list(_methods(names, content.get("config") or {})),
            "reference": "vanilla" if "vanilla" in names else names[0],
            "rows": [{**_only(row, *_ROW), "metrics": _metrics(row)} for row in map(_with_keys, content["rows"])],
            "reliability": [
                {**_only(each, *_ROW), "bins": list(map(_known, each["bins"]))}
                for each in map(_with_keys, content.get("reliability", []))
            ],
            "training": list(map(_training, content.get("training", []))),
            "calibrators": [
                {
                    **_only(each, "method", "calibrator", "seed", "temperature"),
                    "parameters": {k: v for k, v in each.items() if k not in ("method", "calibrator", "seed")},
                }
                for each in content.get("calibrators", [])
            ],
            "classes": [
                {
                    **_only(_with_keys(row), "method", "calibrator", "name", "n"),
                    "label": row["class"],
                    "metrics": _metrics(row),
                }
                for row in content.get("classes", [])
            ],
            "least_robust_classes": [
                {**_only(row, "name", "n", "share", "base_share", "accuracy", "confidence"), "label": row["class"]}
                for row in content.get("least_robust_classes", [])
            ],
            "comparisons": [
                {**{k: v for k, v in row.items() if k != "condition"}, "place": row["condition"]}
                for row in map(_known, content.get("comparisons") or [])
                if row["reference_method"] in names
            ],
            "stability": [
                {
                    **_only(row, "method", "models", "num_models", "subset", "n", "seed"),
                    **_measures(row, ("prediction_variance", "matched_prediction_variance", "disagreement")),
                }
                for row in content.get("stability", [])
            ],
            "audit": _audit(content.get("audit")),
            "pictures": content.get("examples") or {},
            **{key: list(map(_known, content.get(key) or [])) for key in ("costs", "failed")},
            "scoring": [
                _only(row, "split", "seed", "attack", "n", "num_failed", "mean_forward", "mean_backward", "seconds")
                for row in content.get("scoring") or []
            ],
            "out_of_distribution": [
                _only(row, "calibrator", "ood_data", "n", "ood_n", "ood_auroc")
                for row in content.get("out_of_distribution") or []
            ],
            **_only(content, "description", "config", "versions", "device"),
        }
    )


def label_of(name: str) -> str:
    """Make a label for a method without one."""
    return LABELS.get(name) or name.replace("ar_adals_", "AR-AdaLS, ").replace("_", " ")


def _methods(names: Iterable[str], config: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Convert methods: an ensemble was a separate method; other names that start with a method's name were variants."""
    ensembles, names = config.get("ensembles") or {}, list(names)
    for name in names:
        stems = [other for other in names if name.startswith(f"{other}_")]
        is_variant = stems and name not in ensembles and not name.endswith("_of_ensemble")
        yield {
            "name": name,
            "label": label_of(name),
            "variant_of": stems[0] if is_variant else None,
            "num_members": (ensembles.get(name) or {}).get("num_members", 1),
        }


def _as_study(diagnosis: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a diagnosis to the form that studies had."""
    model = str(diagnosis.get("model", "model"))
    keys = {"method": model, "calibrator": "none", "seed": 0, "corruption": "none", "severity": 0}
    rows = [{**diagnosis["overall"], **keys, "subset": None}]
    rows += [{**row, **keys, "subset": subset} for subset, row in enumerate(diagnosis["subsets"])]
    bins: list[tuple[int | None, Any]] = [(None, diagnosis["reliability"]["overall"])]
    bins += list(enumerate(diagnosis["reliability"].get("subsets") or []))
    about = {key: diagnosis[key] for key in ("model", "checkpoint", "split", "attack") if diagnosis.get(key)}
    split = diagnosis.get("split") or "evaluated"
    return {
        **diagnosis,
        "classes": [{**row, "method": model} for row in diagnosis.get("classes", [])],
        "name": model,
        "config": about,
        "rows": rows,
        "reliability": [{**keys, "subset": subset, "bins": each} for subset, each in bins],
        "data": {
            "name": str(diagnosis.get("data", "")),
            "num_classes": diagnosis["num_classes"],
            "class_names": diagnosis.get("class_names", []),
            "splits": {split: diagnosis["overall"].get("n", 0)},
        },
        "scoring": [{"split": split, "attack": "", **_known(diagnosis["scoring"])}] if diagnosis.get("scoring") else [],
    }


def _training(run: Mapping[str, Any]) -> dict[str, Any]:
    settings = run.get("settings") or {}
    return {
        **_only(run, "method", "seed", "seconds", "target_prob", "at_lower_bound"),
        **_only(settings, "update_rate", "update_every"),
        "settings": settings,
        "epochs": [_only(epoch, "loss", "accuracy", "seconds") for epoch in run.get("epochs", [])],
        "updates": [
            {key: update[key] for key in ("target_prob", "confidence", "accuracy")}
            for update in run.get("updates") or []
        ],
    }


def _audit(audit: Mapping[str, Any] | None) -> dict[str, Any] | None:
    agreement = ("spearman", "same_subset", "within_one")
    if audit is None:
        return None
    return {
        **{key: value for key, value in _known(audit).items() if key != "n" and not key.startswith(agreement)},
        "agreement": {"n": audit.get("n", 0), **_measures(audit, agreement)},
    }


def _with_keys(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"method": "", "calibrator": "none", "seed": 0, **row}


def _metrics(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return _measures(row, METRICS)


def _measures(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Select each number with the ends of its interval."""
    return {
        name: _known({"value": row[name], "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")})
        for name in names
        if row.get(name) is not None
    }


def _only(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Select the entries with these names; a ``subset`` of all examples stays, as null."""
    return {name: record[name] for name in names if name == "subset" or record.get(name) is not None}


def _known(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value is not None}
