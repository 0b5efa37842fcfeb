"""Results files: what is read is what was written, and anything else is refused in one clear line."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import previous_results as previous
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aradals._internal.json_files import save_sealed
from aradals.errors import InputError
from aradals.metrics import Estimate
from aradals.results import CLEAN, Condition, Measure, Metric, Results, Row, Variant, json_schema, read_results
from aradals.results.files import (
    SCHEMA,
    parse,
    plain,
    read_studies,
    save_results,
    save_studies,
    table_rows,
)
from aradals.results.records import (
    METRICS,
    Bin,
    Check,
    ClassRow,
    ClassShare,
    Comparison,
    Cost,
    DataSummary,
    Epoch,
    FailedRun,
    Fitted,
    Method,
    Picture,
    Pictures,
    Reliability,
    Scoring,
    Stability,
    Threshold,
    Training,
    Update,
)
from aradals.robustness.audit import Audit, RankAgreement

# NaN is not equal to itself, but a record that holds `math.nan` is equal to another one that holds it.
NUMBERS = st.floats(-1e6, 1e6)
UNKNOWN_TOO = st.just(math.nan) | NUMBERS
COUNTS = st.integers(0, 10**6)
CLASSES = st.integers(1, 10**6)
NAMES = st.text(max_size=8)
MEASURES = st.just(Measure()) | st.builds(
    Measure, NUMBERS, UNKNOWN_TOO, UNKNOWN_TOO, spread=UNKNOWN_TOO, num_seeds=st.integers(1, 9)
)
METRIC_VALUES = st.dictionaries(st.sampled_from(METRICS), MEASURES, max_size=3)
JSON = st.recursive(st.none() | st.booleans() | COUNTS | NUMBERS | NAMES, lambda inner: st.lists(inner, max_size=2))
SETTINGS = st.dictionaries(NAMES, JSON, max_size=2)
METHODS = ("vanilla", "ours")
METHOD = st.sampled_from(METHODS)


def tuples(of: st.SearchStrategy[Any], max_size: int = 2) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=max_size).map(tuple)


OPTIONAL = st.none() | NUMBERS
ESTIMATES = st.just(Estimate()) | st.builds(Estimate, NUMBERS, UNKNOWN_TOO, UNKNOWN_TOO)
PICTURES = st.builds(Picture, COUNTS, NAMES, NAMES, NUMBERS, NAMES, OPTIONAL)
BINS = st.builds(Bin, NUMBERS, NUMBERS, COUNTS, UNKNOWN_TOO, UNKNOWN_TOO, UNKNOWN_TOO, UNKNOWN_TOO)
AGREEMENTS = st.builds(RankAgreement, COUNTS, ESTIMATES, ESTIMATES, ESTIMATES)
AUDITS = st.builds(
    Audit,
    *(NAMES, NAMES, COUNTS, COUNTS, COUNTS, AGREEMENTS, AGREEMENTS, COUNTS),
    *(UNKNOWN_TOO, COUNTS, COUNTS, COUNTS, UNKNOWN_TOO, UNKNOWN_TOO, UNKNOWN_TOO),
)


def trainings(num_subsets: int) -> st.SearchStrategy[Training]:
    by_subset = st.tuples(*[OPTIONAL] * num_subsets)
    return st.builds(
        Training,
        *(METHOD, COUNTS, SETTINGS, NUMBERS, COUNTS, UNKNOWN_TOO),
        epochs=tuples(st.builds(Epoch, UNKNOWN_TOO, UNKNOWN_TOO, UNKNOWN_TOO)),
        updates=tuples(st.builds(Update, by_subset, by_subset, by_subset)),
        target_prob=st.tuples(*[NUMBERS] * num_subsets),
        at_lower_bound=tuples(COUNTS),
    )


TRAINING = st.integers(0, 2).flatmap(trainings)
RESULTS = st.builds(
    Results,
    kind=st.sampled_from(("study", "evaluation", "diagnosis")),
    name=NAMES,
    data=st.builds(
        DataSummary, NAMES, st.integers(1, 10**6), tuples(NAMES), st.dictionaries(NAMES, COUNTS, max_size=2)
    ),
    methods=st.tuples(
        *(st.builds(Method, st.just(name), NAMES, st.none() | METHOD, st.integers(1, 5)) for name in METHODS)
    ),
    reference=METHOD,
    rows=st.lists(
        st.builds(Row, METHOD, NAMES, COUNTS, NAMES, COUNTS, COUNTS, METRIC_VALUES, st.none() | st.just(0)), min_size=1
    ).map(tuple),
    reliability=tuples(st.builds(Reliability, METHOD, NAMES, COUNTS, NAMES, COUNTS, tuples(BINS), st.none() | COUNTS)),
    description=NAMES,
    config=SETTINGS,
    versions=st.dictionaries(NAMES, NAMES, max_size=2),
    device=NAMES,
    training=tuples(TRAINING),
    calibrators=tuples(st.builds(Fitted, METHOD, NAMES, COUNTS, UNKNOWN_TOO, SETTINGS)),
    scoring=tuples(st.builds(Scoring, NAMES, NAMES, COUNTS, COUNTS, COUNTS, UNKNOWN_TOO, UNKNOWN_TOO, UNKNOWN_TOO)),
    costs=tuples(st.builds(Cost, METHOD, COUNTS, *[UNKNOWN_TOO] * 5)),
    failed=tuples(st.builds(FailedRun, METHOD, COUNTS, NAMES)),
    comparisons=tuples(
        st.builds(
            Comparison,
            *(METHOD, NAMES, METHOD, NAMES, st.sampled_from(("clean", "all_shifts")), st.sampled_from(METRICS), COUNTS),
            *(NUMBERS, NUMBERS, NUMBERS, UNKNOWN_TOO, UNKNOWN_TOO, UNKNOWN_TOO, UNKNOWN_TOO),
        )
    ),
    stability=tuples(
        st.builds(
            Stability,
            *(METHOD, st.sampled_from(("seeds", "members")), COUNTS, COUNTS, st.none() | COUNTS, st.none() | COUNTS),
            *(MEASURES, MEASURES, MEASURES),
        )
    ),
    classes=tuples(st.builds(ClassRow, METHOD, NAMES, COUNTS, NAMES, COUNTS, METRIC_VALUES)),
    least_robust_classes=tuples(st.builds(ClassShare, COUNTS, NAMES, COUNTS, *[NUMBERS] * 2, *[UNKNOWN_TOO] * 2)),
    thresholds=tuples(st.builds(Threshold, NUMBERS, OPTIONAL, NUMBERS, COUNTS, UNKNOWN_TOO, UNKNOWN_TOO)),
    pictures=st.builds(Pictures, tuples(PICTURES), tuples(PICTURES)),
    audit=st.none() | AUDITS,
    weights=st.dictionaries(NAMES, NAMES, max_size=2),
    request=NAMES,
    checks=tuples(st.builds(Check, NAMES, st.sampled_from(("checked", "could not be checked")), NAMES)),
)


def test_every_record_is_drawn() -> None:
    assert {field.name for field in dataclasses.fields(Results)} == set(RESULTS.wrapped_strategy.kwargs)  # type: ignore[attr-defined]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(RESULTS)
def test_what_is_read_is_what_was_written(results: Results) -> None:
    content = {"schema": SCHEMA, **plain(results)}
    assert parse(content) == results
    assert parse(json.loads(json.dumps(content))) == results  # JSON keeps names and numbers


def small() -> Results:
    """One method under two conditions."""
    metrics: dict[Metric, Measure] = {"accuracy": Measure(0.9, 0.8, 0.95), "ece": Measure(0.1), "nll": Measure()}
    rows = tuple(
        Row("vanilla", "none", 0, *condition, n=100, metrics=metrics) for condition in (("none", 0), ("fog", 3))
    )
    data = DataSummary("digits", 10, ("zero", "one"), {"test": 100})
    return Results("study", "small", data, (Method("vanilla", "vanilla"),), "vanilla", rows, config={"seeds": [0]})


def test_files_are_read_by_path_and_by_folder(tmp_path: Path) -> None:
    results = small()
    assert results.save(tmp_path / "results.json") == tmp_path / "results.json"
    assert read_results(tmp_path / "results.json") == read_results(tmp_path) == results
    with pytest.raises(InputError, match=r"results\.json or diagnosis\.json in .*, got neither"):
        read_results(tmp_path / "..")
    with pytest.raises(InputError, match="a readable file"):
        read_results(tmp_path / "missing.json")


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    save_results(small(), tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["schema"] == SCHEMA
    assert content["rows"][0] == {
        "method": "vanilla",
        "calibrator": "none",
        "seed": 0,
        "corruption": "none",
        "severity": 0,
        "n": 100,
        "metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}, "ece": {"value": 0.1}, "nll": {}},
    }
    assert set(content) == {"schema", "sha256", "kind", "name", "data", "methods", "reference", "rows", "config"}


def test_a_study_of_several_data_sets_is_read_as_several_results(tmp_path: Path) -> None:
    first = small()
    second = replace(first, data=replace(first.data, name="svhn"))
    save_studies([first, second], tmp_path / "results.json", name="both")
    assert read_studies(tmp_path) == [first, second]
    with pytest.raises(InputError, match="results of one data set, got 2 data sets"):
        read_results(tmp_path)


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = small().save(tmp_path / "results.json")
    text = path.read_text()
    path.write_text(text.replace("0.95", "0.96"))
    with pytest.raises(InputError, match="a file that was changed or damaged"):
        read_results(path)
    path.write_text(text[:-20])
    with pytest.raises(InputError, match="expected JSON in"):
        read_results(path)


def refusal(content: dict[str, Any], path: Path) -> str:
    """What is said about a sealed file of this content."""
    save_sealed(path, content)
    with pytest.raises(InputError) as caught:
        read_results(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("schema", "6", "expected results of schema 1, 2, 3, 4, 5, got schema '6'"),
        ("schema", None, "got schema None"),
        ("kind", "poem", "kind: Input should be 'study', 'evaluation' or 'diagnosis'"),
        ("kind", "studies", "got"),
        ("rows", "x", "rows: Input should be a valid tuple"),
        ("rows", [{}], "rows.0.method: Field required"),
        ("rows", [], "a reference among the methods"),
        ("reference", "other", "a reference among the methods vanilla, got 'other'"),
        ("methods", [{"name": "vanilla"}], "methods.0.label: Field required"),
        ("data", "digits", "data: Input should be a dictionary"),
        ("audit", [], "audit: Input should be a dictionary"),
        ("config", 3, "config: Input should be a valid dictionary"),
        ("config", {"deep": [1e301]}, "the number 1e+301"),
        ("config", {"deep": [10**400]}, ""),
        ("description", 7, "description: Input should be a valid string"),
    ],
)
def test_another_form_is_refused_in_one_line(key: str, value: object, words: str, tmp_path: Path) -> None:
    content = {"schema": SCHEMA, **plain(small()), key: value}
    if value == []:
        content["reference"] = "other"
    text = refusal(content, tmp_path / "results.json")
    assert words in text
    assert "\n" not in text
    assert len(text) < 500
    assert str(tmp_path) in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("subset", 10**12, "subsets numbered from 0"),
        ("subset", -1, "subsets numbered from 0"),
        ("subset", 1.5, "rows.1.subset: Input should be a valid integer"),
        ("subset", [0], "rows.1.subset: Input should be a valid integer"),
        ("method", "other", "rows of the methods of the results"),
        ("method", None, "rows.1.method: Input should be a valid string"),
        ("seed", "first", "rows.1.seed: Input should be a valid integer"),
        ("n", 1e308, "the number 1e+308"),
        ("metrics", {"eec": {"value": 0.1}}, "rows.1.metrics.eec"),
        ("metrics", {"ece": 0.1}, "rows.1.metrics.ece: Input should be a dictionary or an instance of Measure"),
        ("metrics", {"ece": {"value": "high"}}, "rows.1.metrics.ece.value: Input should be a valid number"),
        ("metrics", {"ece": {"value": None}}, "rows.1.metrics.ece.value: Input should be a valid number"),
        ("metrics", {"ece": {"value": -1e301}}, "the number -1e+301"),
    ],
)
def test_a_row_of_another_form_is_refused(key: str, value: object, words: str, tmp_path: Path) -> None:
    content = {"schema": SCHEMA, **plain(small())}
    content["rows"][1][key] = value
    text = refusal(content, tmp_path / "results.json")
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "text",
    ["[]", "3", '"x"', "{}", "null", "[" * 20000, '{"kind": "studies"}', '{"kind": "studies", "studies": 5}',
     '{"kind": "studies", "studies": "ab"}'],
)  # fmt: skip
def test_json_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_results(path)
    assert "\n" not in str(caught.value)


def test_the_json_schema_describes_saved_files(tmp_path: Path) -> None:
    path = small().save(tmp_path / "results.json")
    content, schema = json.loads(path.read_text()), json_schema()
    json.dumps(schema, allow_nan=False)
    written = set(content) - {"schema", "sha256"}
    assert set(schema["required"]) <= written <= set(schema["properties"])
    assert set(schema["properties"]) == {field.name for field in dataclasses.fields(Results)}
    assert schema["properties"]["kind"]["enum"] == ["study", "evaluation", "diagnosis"]
    row, metrics = schema["$defs"]["Row"], schema["$defs"]["Row"]["properties"]["metrics"]
    assert set(row["required"]) <= set(content["rows"][0]) <= set(row["properties"])
    assert metrics["propertyNames"]["enum"] == list(METRICS)
    assert "95 % interval" in schema["$defs"]["Measure"]["description"]
    if importlib.util.find_spec("jsonschema"):
        import jsonschema  # type: ignore[import-not-found, import-untyped, unused-ignore]

        jsonschema.validate(content, schema)


def test_rows_as_a_table() -> None:
    results = replace(small(), costs=(Cost("vanilla", 0, seconds=60.0, relative_cost=1.0),))
    first, second = table_rows(results)
    assert {key: first[key] for key in ("data", "method", "corruption", "severity", "subset", "n")} == {
        "data": "digits",
        "method": "vanilla",
        "corruption": "none",
        "severity": 0,
        "subset": None,
        "n": 100,
    }
    assert (first["accuracy"], first["accuracy_low"], first["accuracy_high"]) == (0.9, 0.8, 0.95)
    assert "ece_low" not in first
    assert (second["corruption"], second["seconds"], second["relative_cost"]) == ("fog", 60.0, 1.0)
    frame = results.to_frame()
    assert list(frame["accuracy"]) == [0.9, 0.9]
    assert list(frame["corruption"]) == ["none", "fog"]


# Files of the previous version


def old_numbers(row: dict[str, Any]) -> dict[str, Measure]:
    """The metrics of a row of the previous version."""
    return {
        name: Measure(value, row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan))
        for name in METRICS
        if (value := row.get(name)) is not None
    }


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_a_study_of_the_previous_version_has_the_same_numbers(version: str, tmp_path: Path) -> None:
    old = previous.make_study() | {"schema": version}
    save_sealed(tmp_path / "results.json", old)
    study = read_results(tmp_path)
    assert (study.kind, study.name, study.description, study.reference) == ("study", "old", "What it was.", "vanilla")
    assert study.config == old["config"]
    assert len(study.rows) == len(old["rows"]) == 24
    for row, before in zip(study.rows, old["rows"], strict=True):
        assert (row.variant, row.condition) == (
            Variant(before["method"]),
            Condition(before["corruption"], before["severity"]),
        )
        assert (row.subset, row.seed, row.n) == (before["subset"], 0, 100)
        assert {name: row[name] for name in row.metrics if name != "ood_auroc"} == old_numbers(before)
    assert study.methods == (
        Method("vanilla", "vanilla"),
        Method("ar_adals", "AR-AdaLS"),
        Method("ar_adals_self", "AR-AdaLS, self-scored", variant_of="ar_adals"),
        Method("ensemble_of_ar_adals", "ensemble of AR-AdaLS", num_members=3),
        Method("ccat", "CCAT"),
    )
    assert study.failed == (FailedRun("ccat", 0, "training diverged"),)
    (comparison,) = study.comparisons  # the other one is with a method that is not there
    assert comparison == Comparison(
        *("ar_adals", "none", "vanilla", "none", "all_shifts", "ece", 1, 0.02, 0.1, -0.08, -0.1, -0.06)
    )


def test_all_other_records_of_the_previous_version_are_read() -> None:
    study = parse(previous.make_study())
    empty, full = study.reliability[0].bins
    assert (empty, full) == (Bin(0.0, 0.5, 0), Bin(0.5, 1.0, 100, 0.9, 0.8, 0.7, 0.87))
    (run,) = study.training
    assert (run.update_rate, run.update_every, run.seconds) == (0.15, 2, 61.5)
    assert run.epochs == (Epoch(0.5, 0.9, 1.5),)
    assert run.updates == (Update((1.0, 1.0), (0.9, None), (0.8, None)),)
    assert (run.target_prob, run.at_lower_bound) == ((0.9, 1.0), (0,))
    (fitted,) = study.calibrators
    assert (fitted.variant, fitted.temperature) == (Variant("vanilla", "temperature"), 1.7)
    assert fitted.parameters == {"temperature": 1.7, "nll": 0.4}
    assert study.scoring == (Scoring("test", "secant(steps=5)", 100, 0, 1, 7.2, 3.5),)
    assert study.costs == (
        Cost("vanilla", 0, training_seconds=60.0, seconds=60.0, relative_cost=1.0),
        Cost("ar_adals", 0, training_seconds=62.0, seconds=80.0),
    )
    variance = Measure(0.02, 0.01, 0.03)
    assert study.stability == (
        Stability("ensemble_of_ar_adals", "members", 3, 100, None, 0, variance, Measure(), Measure(0.1)),
    )
    (by_class,) = study.classes
    assert (by_class.label, by_class.name, by_class.n, by_class["ece"].value) == (1, "one", 9, 0.2)
    judged = [row.variant for row in study.rows if row["ood_auroc"] == Measure(0.9)]
    assert judged == [Variant("vanilla")]
    assert study.data == DataSummary("digits", 10, ("0", "1"), {"test": 100}, {"0": "ab12"}, {"svhn": 10})


def test_version_4_had_the_auroc_for_other_data_beside_the_rows() -> None:
    expected = small()
    content = {"schema": "4", "sha256": "of the file", **plain(expected)}
    assert parse(content) == expected
    found = parse(
        content
        | {
            "out_of_distribution": [
                {"calibrator": "none", "ood_data": "svhn", "n": 9, "ood_n": 10, "ood_auroc": 0.9},
                {"calibrator": "temperature", "ood_data": "svhn", "n": 9, "ood_n": 10},
            ]
        }
    )
    assert found.data == replace(expected.data, ood={"svhn": 10})
    for row, before in zip(found.rows, expected.rows, strict=True):
        is_judged = (row.method, row.calibrator, row.condition, row.subset) == (expected.reference, "none", CLEAN, None)
        assert row["ood_auroc"] == (Measure(0.9) if is_judged else Measure())
        assert {name: row[name] for name in before.metrics} == before.metrics


def test_an_evaluation_of_the_previous_version() -> None:
    evaluation = parse(previous.make_evaluation())
    assert (evaluation.kind, evaluation.name, evaluation.reference) == ("evaluation", "mine", "mine")
    assert evaluation.variants == (Variant("mine"), Variant("mine", "temperature"))
    assert evaluation.num_subsets == 0
    assert evaluation.pictures == Pictures((Picture(7, "cat", "dog", 0.9, "AAAA", 0.1),))


def test_a_diagnosis_of_the_previous_version(tmp_path: Path) -> None:
    old = previous.make_diagnosis()
    save_sealed(tmp_path / "diagnosis.json", old)
    diagnosis = read_results(tmp_path)
    assert (diagnosis.kind, diagnosis.name, diagnosis.reference) == ("diagnosis", "resnet29", "resnet29")
    assert diagnosis.data == DataSummary("digits", 10, ("zero", "one"), {"test": 100})
    assert diagnosis.config == {
        "model": "resnet29",
        "checkpoint": "model.safetensors",
        "split": "test",
        "attack": "secant(steps=5)",
    }
    for row, before in zip(diagnosis.rows, [old["overall"], *old["subsets"]], strict=True):
        assert row.metrics == old_numbers(before)
        assert (row.condition, row.n) == (CLEAN, before["n"])
    assert [row.subset for row in diagnosis.rows] == [None, 0, 1]
    assert [each.subset for each in diagnosis.reliability] == [None, 0, 1]
    assert diagnosis.least_robust_classes == (ClassShare(1, "one", 30, 0.6, 0.5, 0.6),)
    assert diagnosis.thresholds == ()  # the best ones for the examples at hand guarantee nothing
    assert diagnosis.scoring == (Scoring("test", "", 100, 0, 3, 7.2, 31.5, 40.0),)
    assert diagnosis.audit
    assert diagnosis.audit.agreement == RankAgreement(
        98, Estimate(0.99, 0.98, 0.995), Estimate(0.9, 0.85, 0.95), Estimate(1.0, 0.97, 1.0)
    )
    assert (diagnosis.audit.num_failed, diagnosis.audit.median_ratio, diagnosis.audit.seconds) == (2, 1.15, 12.5)


@pytest.mark.parametrize("make", [previous.make_study, previous.make_evaluation, previous.make_diagnosis])
def test_what_was_upgraded_is_saved_in_the_present_form_and_has_a_report(make: Any, tmp_path: Path) -> None:
    results = parse(make())
    assert read_results(results.save(tmp_path / "results.json")) == results
    page = results.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<dt>What is wrong</dt><dd>On " in page
    assert "is overconfident by 10.0 points" in page


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        *(
            (make, lost)
            for make in (previous.make_study, previous.make_evaluation)
            for lost in ("kind", "rows", "data")
        ),
        *((previous.make_diagnosis, lost) for lost in ("kind", "overall", "subsets", "num_classes", "reliability")),
    ],
)
def test_an_old_file_that_lacks_a_part_is_refused_in_one_line(make: Any, lost: str, tmp_path: Path) -> None:
    content = make()
    del content[lost]
    text = refusal(content, tmp_path / "results.json")
    assert f"KeyError: '{lost}'" in text
    assert str(tmp_path) in text
    assert "\n" not in text
