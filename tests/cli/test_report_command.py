"""`aradals report` on folders of this version and the previous one, and on results that are nonsense."""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Study, aradals, run_once

from aradals.data import load_data

sys.path.append(str(Path(__file__).parents[1] / "results"))
from previous_results import make_study

GOLDEN = Path(__file__).parents[1] / "golden"
NONSENSE: list[Any] = [
    *("nonsense", "", "../../x", "\x1b[31m", "{{ 7*7 }}", "9" * 30),
    *(-1, 1.5, 10**12, 10**400, 1e308, float("nan"), None, True),
    *([], [1], [[]], {}, {"a": 1}, {"value": "x"}, {"value": 1e200, "low": -1e299, "high": 1e299}),
]
NUM_DAMAGED = 40

Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_once(tmp_path_factory.getbasetemp() / "tiny-study")


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """The keys that lead to each value of a JSON text, and to the first two items of each list."""
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*above, key))


def damaged(content: dict[str, Any], seed: int) -> Iterator[tuple[Place, Any, dict[str, Any]]]:
    """Results of which one value is nonsense; a place counts once, however many records have it."""
    draw = random.Random(seed)
    by_form = {tuple("*" if isinstance(key, int) else key for key in place): place for place in places(content)}
    kept = [place for place in by_form.values() if place and place[0] != "config"]  # the recipe is any JSON
    for place in draw.sample(kept, min(NUM_DAMAGED, len(kept))):
        *above, last = place
        changed = copy.deepcopy(content)
        target: Any = changed
        for key in above:
            target = target[key]
        target[last] = draw.choice(NONSENSE)
        yield place, target[last], changed


def old_study() -> dict[str, Any]:
    return make_study()


def old_diagnosis() -> dict[str, Any]:
    """A real one of the previous version."""
    content: dict[str, Any] = json.loads((GOLDEN / "diagnosis.json").read_text())
    return {**content, "audit": {**content["audit"], "scores_by": "secant()", "attack": "ddn()"}}


@pytest.mark.parametrize(("make", "name"), [(old_study, "results.json"), (old_diagnosis, "diagnosis.json")])
def test_results_of_the_previous_version(make: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(make()))
    ran = aradals("report", tmp_path)
    assert (ran.code, ran.out, ran.err) == (0, f"report: {tmp_path / 'report.html'}\n", "")
    page = (tmp_path / "report.html").read_text()
    assert ("AR-AdaLS" if make is old_study else "cifar10-test") in page
    assert json.loads((tmp_path / name).read_text()) == make()  # what was read stays


@pytest.mark.parametrize("form", ["study", "old study", "old diagnosis"])
def test_nonsense_is_refused_in_one_line(form: str, study: Study, tmp_path: Path) -> None:
    content = {"study": lambda: study.results, "old study": old_study, "old diagnosis": old_diagnosis}[form]()
    content = {key: value for key, value in content.items() if key != "sha256"}
    codes = set()
    for place, value, changed in damaged(content, seed=0):
        (tmp_path / "results.json").write_text(json.dumps(changed))
        ran = aradals("report", tmp_path, "--overwrite")
        codes.add(ran.code)
        if ran.code:  # text is text, and null or no number at all may stand for what is not known
            assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), (place, value, ran.err)
            assert ran.err.startswith("error: expected "), (place, value)
            assert ran.err.removesuffix("\n").isprintable(), (place, value)
    assert codes == {0, 2}


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("rows",), "abc", "rows"),
        (("rows", 0), 3, "rows.0"),
        (("rows", 0, "n"), "many", "rows.0.n"),
        (("rows", 0, "method"), "nobody", "method 'nobody'"),
        (("rows", 0, "subset"), 10**9, "subset 1000000000"),
        (("rows", 0, "metrics", "ece"), 0.1, "rows.0.metrics.ece"),
        (("rows", 0, "metrics", "ece", "value"), [1], "rows.0.metrics.ece.value"),
        (("rows", 0, "metrics", "ece", "value"), 10**400, "401 digits"),
        (("data", "num_classes"), 0, "got 0"),
        (("training", 1, "updates", 0, "target_prob"), [1], "got 1 and 3"),
        (("data", "num_classes"), None, "data.num_classes"),
        (("methods",), [], "method 'vanilla'"),
        (("reference",), "nobody", "'nobody'"),
        (("schema",), "6", "schema '6'"),
        (("schema",), None, "schema None"),
        (("schema",), ["4"], "schema ['4']"),
        (("kind",), "novel", "kind"),
        (("reliability", 0, "bins"), 7, "reliability.0.bins"),
    ],
)
def test_what_is_wrong_is_named(place: Place, value: object, says: str, study: Study, tmp_path: Path) -> None:
    content = copy.deepcopy({key: item for key, item in study.results.items() if key != "sha256"})
    target: Any = content
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    (tmp_path / "results.json").write_text(json.dumps(content))
    ran = aradals("report", tmp_path)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith(f"error: expected results in {tmp_path / 'results.json'} as `aradals run`, ")
    assert says in ran.err
    assert not (tmp_path / "report.html").exists()


def test_a_changed_file_is_refused(study: Study, tmp_path: Path) -> None:
    text = (study.folder / "results.json").read_text()
    (tmp_path / "results.json").write_text(text.replace('"seed": 0', '"seed": 1', 1))
    ran = aradals("report", tmp_path)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "a file that was changed or damaged" in ran.err


def test_several_data_sets(study: Study, tmp_path: Path) -> None:
    """Results, tables and reports of each, and one JSON text for all."""
    train, test = (load_data("digits", split) for split in ("train", "test"))
    (_, inputs, labels), (_, test_inputs, test_labels) = (each.batch(range(len(each))) for each in (train, test))
    files = [tmp_path / f"{name}.npz" for name in ("bright", "dark")]
    for divisor, path in enumerate(files, start=1):
        arrays = {
            "x_train": inputs / divisor,
            "y_train": labels,
            "x_test": test_inputs / divisor,
            "y_test": test_labels,
        }
        np.savez(path, allow_pickle=False, **{name: array.numpy() for name, array in arrays.items()})
    given = ("--data", f"[{files[0]}, {files[1]}]", "--training.epochs=1", "--output", tmp_path / "out")
    ran = aradals("run", study.recipe, *given)
    assert ran.code == 0, ran.err
    titles = [line for line in ran.out.splitlines() if line.startswith("out: ")]
    assert titles == [f"out: {path}" for path in files]
    again = aradals("run", study.recipe, *given, "--json")
    assert again.json == json.loads((tmp_path / "out" / "results.json").read_text())
    assert [each["data"]["name"] for each in again.json["studies"]] == list(map(str, files))

    reports = sorted((tmp_path / "out").glob("*/report.html"))
    assert len(reports) == 2
    for path in reports:
        path.unlink()
    assert aradals("report", tmp_path / "out").out.count("report: ") == 2
    assert sorted((tmp_path / "out").glob("*/report.html")) == reports
    assert aradals("report", reports[0].parent).code == 0
