from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aradals._internal.registry import Registry, entry_name
from aradals.errors import InputError


def double(value: int, *, times: int = 2) -> int:
    return value * times


def any_setting(value: int, **settings: int) -> int:
    return value + sum(settings.values())


TABLE: Registry[Any] = Registry("a rule", {"double": double, "any_one": any_setting}, arguments=("value",))


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.py"
    path.write_text("def half(value, *, by=2): return value // by\nnumber = 3\ndef none(): ...\n")
    return path


def test_every_spelling_of_an_entry(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(rules.parent)
    assert TABLE.bind("Double", {}) is double
    assert TABLE.bind("any-one", {"a": 1, "b": 2})(1) == 4
    assert TABLE.bind(double, {"times": 3})(2) == 6
    assert TABLE.bind(f"{rules}:half", {"by": 4})(8) == 2
    assert TABLE.bind("rules:half", {})(8) == 4
    assert list(TABLE) == ["double", "any_one"]


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("duoble", {}, r"a rule: double, any_one, path/to/file\.py:name, .*got 'duoble'; try double$"),
        ("mine.py", {}, r"try mine\.py:name$"),
        ("double", {"tmies": 3}, "the settings of double: times, got tmies; try times$"),
        (double, {"value": 3}, "the settings of double: times, got value"),
        ("rules.py:half", {"times": 3}, r"the settings of rules\.py:half: by, got times; try "),
        ("rules.py:number", {}, "got an object of type int"),
        ("rules.py:none", {}, r"to take \(value\)"),
    ],
)
def test_what_is_refused(
    rules: Path, monkeypatch: pytest.MonkeyPatch, target: Any, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(rules.parent)
    with pytest.raises(InputError, match=message):
        TABLE.bind(target, settings)


def test_a_table_of_ours_alone_runs_no_code_of_others(rules: Path) -> None:
    closed: Registry[Any] = Registry("a rule", {"double": double}, only_ours=True)
    with pytest.raises(InputError, match=r"a rule: double, got .*; try double$"):
        closed.bind(f"{rules}:half", {})


def test_settings_and_names_of_bound_entries() -> None:
    bound = partial(partial(double, times=5))
    assert TABLE.settings_of(bound) == ({"times": 5}, False)
    assert TABLE.settings_of(any_setting) == ({}, True)
    assert entry_name(bound) == "double"
