"""Settings of every type are read, and what is wrong with them is said by their key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from aradals.errors import InputError
from aradals.pipeline.config import TrainingConfig
from aradals.pipeline.settings import OptionText, parse_yaml, read


@dataclass(frozen=True)
class ByScore:
    """Sorted."""

    by: Literal["robustness", "confidence"]
    count: int = 10


@dataclass(frozen=True)
class ByColumn:
    """Looked up."""

    by: Literal["column"]
    column: str
    count: int = 2


@dataclass(frozen=True)
class Method:
    """A method."""

    rate: float | Literal["auto"] = 0.1
    subsets: ByScore | ByColumn | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A study."""

    data: str | list[str]
    methods: dict[str, Method]
    epochs: int = 1
    file: Path | None = None


def study(text: str) -> Study:
    """Read from YAML."""
    found: Study = read(Study, parse_yaml(text))
    return found


def test_records_within_records() -> None:
    settings = "{rate: 1e-3, subsets: {by: column, column: age}, arguments: {a: 2e3}}"
    found = study(f"{{data: [a, b], file: x.npz, methods: {{m: {settings}}}}}")
    method = Method(0.001, ByColumn("column", "age"), {"a": 2000.0})
    assert found == Study(["a", "b"], {"m": method}, file=Path("x.npz"))


def test_a_fixed_value_says_which_record_is_meant() -> None:
    """All have a ``count``."""
    found = study("{data: d, methods: {m: {subsets: {by: confidence, count: 3}}}}").methods["m"].subsets
    assert found == ByScore("confidence", 3)
    with pytest.raises(InputError, match=r"a value for methods\.m\.subsets\.column, got none"):
        study("{data: d, methods: {m: {subsets: {by: column, count: 3}}}}")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "3", 3),
        (float, "3", 3.0),
        (float, "-1.5e-3", -0.0015),
        (bool, "true", True),
        (str, "3", "3"),
        (str, "[a", "[a"),
        (str | None, "null", None),
        (int | None, "null", None),
        (list[int], "[1, 2]", [1, 2]),
        (str | list[str], "[a, b]", ["a", "b"]),
        (str | list[str], "a", "a"),
        (float | Literal["auto"], "auto", "auto"),
        (float | Literal["auto"], "0.9", 0.9),
        (Literal[1, 2], "2", 2),
        (dict[str, Any], "{a: 1e-3, b: [x]}", {"a": 0.001, "b": ["x"]}),
        (Path, "a b: c.json", Path("a b: c.json")),
        (Any, "1e-3", 0.001),
        (Any, "[1", "[1"),
    ],
)
def test_options_are_text(kind: Any, text: str, value: object) -> None:
    found = read(kind, OptionText(text), "key")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "expected", "got"),
    [
        ("{data: d, methods: {}, epochs: many}", "epochs to be a whole number", "'many'"),
        ("{data: d, methods: {}, epochs: 1.0}", "epochs to be a whole number", "1.0"),
        ("{data: d, methods: {}, epochs: true}", "epochs to be a whole number", "True"),
        ("{data: d, methods: {}, epochs: }", "epochs to be a whole number", "None"),
        ("{data: 3, methods: {}}", "data to be text or a list (text each)", "3"),
        ("{data: d, methods: [m]}", "methods to be a mapping", "['m']"),
        ("{data: d, methods: {m: }}", "methods.m to be settings (rate, subsets, arguments)", "None"),
        ("{data: d, methods: {m: {rate: fast}}}", "methods.m.rate to be a number or 'auto'", "'fast'"),
        ("{data: d, methods: {m: {subsets: 3}}}", "methods.m.subsets to be settings (by, count)", "3"),
        ("{data: d, methods: {m: {subsets: {by: luck}}}}", "by to be one of robustness, confidence, column", "'luck'"),
        ("{data: d, methods: {m: {rates: 1}}}", "a setting of methods.m", "'methods.m.rates'; try methods.m.rate"),
        ("{data: d, method: {}}", "a setting of the recipe", "'method'; try methods"),
        ("{methods: {}}", "a value for data", "none"),
        ("{data: d, methods: {m: {class_path: os.system}}}", "a setting of methods.m", "'methods.m.class_path'"),
    ],
)
def test_errors_name_the_key(text: str, expected: str, got: str) -> None:
    with pytest.raises(InputError) as caught:
        study(text)
    said, _, rest = str(caught.value).partition(", got ")
    assert expected in said
    assert rest.startswith(got)


@pytest.mark.parametrize("text", ["data: [digits\nmodel: x: y", "[" * 5000, "!!python/object/apply:os.system [ls]"])
def test_what_is_not_yaml(text: str) -> None:
    with pytest.raises(ValueError):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{epochs: 1, logger: tensorbord}", "tensorboard"),
        ("{epochs: 1, logger: weights}", "tensorboard"),  # never "none", which asks for nothing
        ("{epochs: 1, optimizer: adamm}", "adam"),
    ],
)
def test_a_misspelled_word_is_recognized(text: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"try {hint}$"):
        read(TrainingConfig, parse_yaml(text), "training")
