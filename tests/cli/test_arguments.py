"""The options of the commands: each has a help text, and the texts name what there is."""

from __future__ import annotations

import ast
import importlib
import io
import tokenize
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_line import aradals

from aradals.attacks import ATTACKS
from aradals.calibration import CALIBRATORS
from aradals.cli.arguments import ResultsArguments, SharedModel, StudyArguments
from aradals.cli.main import COMMANDS
from aradals.cli.parser import CommandParser, _keys
from aradals.corruptions import CORRUPTIONS, GROUPS, PRESETS
from aradals.errors import InputError


@dataclass
class Random:
    """Random.

    Args:
        count: how many.
    """

    count: int = 3


@dataclass
class Column:
    """A column.

    Args:
        count: how many.
        column: which, 5 % of the rows.
    """

    column: str
    count: int = 3


@dataclass
class Recipe:
    """A recipe.

    Args:
        methods: by name.
        arguments: any.
    """

    methods: dict[str, Random | Column | None]
    arguments: dict[str, Any]


def parser_of(name: str) -> CommandParser:
    return CommandParser(name, importlib.import_module(f"aradals.cli.{name}"))


def help_of(name: str) -> str:
    """On one line."""
    return " ".join(aradals(name, "--help").out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    parser = parser_of(name)
    texts = help_of(name)
    for record in parser.records.values():
        for field in fields(record):
            if "keys_of" in field.metadata:
                continue
            spelling = field.name.upper() if "positional" in field.metadata else f"--{field.name.replace('_', '-')} "
            assert spelling in texts


def test_help_names_what_there_is() -> None:
    assert all(name in help_of("score") for name in ATTACKS)
    assert all(name in help_of("calibrate") for name in CALIBRATORS)
    assert all(name in help_of("corrupt") for name in (*CORRUPTIONS, *PRESETS))
    assert all(name in help_of("evaluate") for name in (*GROUPS, *PRESETS))


def test_words_become_dataclasses() -> None:
    words = [
        "digits",
        "--training.epochs=3",
        "--output",
        "out",
        "--methods.ar_adals.a-b",
        "x=y",
        "--json",
        "--image-column",
    ]
    values = parser_of("run").read([*words, "photo", "--seeds=[1,2]", "--device", "cpu"])
    overrides = {"training.epochs": "3", "methods.ar_adals.a-b": "x=y", "image_column": "photo", "seeds": "[1,2]"}
    assert values["study"] == StudyArguments("digits", overrides, "cpu")
    output = values["output"]
    assert isinstance(output, ResultsArguments)
    assert (str(output.output), output.overwrite, output.json) == ("out", False, True)


@pytest.mark.parametrize("option", ["--model-args", "--model_args"])
def test_dashes_or_underscores(option: str) -> None:
    words = ["--output", "out_file", option, "{a_b: 1e-3}"]
    values = parser_of("score").read(words)
    assert values["model"] == SharedModel(model_args={"a_b": 0.001})
    assert str(values["output"].output) == "out_file"


def test_lists_have_commas_or_brackets() -> None:
    for corruptions, severities in (("fog,snow", "1, 3"), ("[fog, snow]", "[1,3]")):
        words = [
            "--output",
            "x",
            f"--corruptions={corruptions}",
            "--severities",
            severities,
            "--calibrator",
            "a b,c: d",
        ]
        shift = parser_of("evaluate").read(words)["shift"]
        assert (shift.corruptions, shift.severities) == (["fog", "snow"], [1, 3])
        assert list(map(str, shift.calibrator)) == ["a b", "c: d"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--modle", "x"], "got '--modle'; try --model"),
        (["--output"], "argument --output: expected one argument"),
        ([], "expected a value for --output, got none; try aradals score"),
        (["--output", "x", "--limit", "ten"], "expected --limit to be a whole number, got 'ten'"),
        (["--output", "x", "--audit", "-1"], "expected --audit of at least 0, got -1"),
        (["--output", "x", "--verified=3"], "argument --verified: ignored explicit argument '3'"),
        (["--output", "x", "--outputs"], "got '--outputs'; try --output"),
        (["--out", "x"], "got '--out'; try --output"),
    ],
)
def test_errors(words: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        parser_of("score").read(words)
    assert says in str(caught.value)


def test_keys_of_alternatives() -> None:
    """Records that stand for each other, and those that have names, are listed with the keys of each."""

    keys = dict(_keys(Recipe))
    assert list(keys) == ["methods.NAME.count", "methods.NAME.column", "arguments"]
    assert keys["methods.NAME.column"] == "which, 5 %% of the rows."


def lines_of_code(source: str) -> set[int]:
    """The numbers of the lines that are neither blank nor comments nor docstrings."""
    layout = {getattr(tokenize, name) for name in ["COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"]}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def test_what_is_counted() -> None:
    source = '"""A\nmodule."""\n\n# Why.\nx = (\n    3,  # three\n)\n\n\ndef f():\n    """It."""\n    return x\n'
    assert lines_of_code(source) == {5, 6, 7, 10, 12}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_thin(name: str) -> None:
    """Work belongs to the pipeline, where Python users find it."""
    command: ModuleType = importlib.import_module(f"aradals.cli.{name}")
    assert command.__file__ is not None
    assert command.__doc__
    assert len(lines_of_code(Path(command.__file__).read_text(encoding="utf-8"))) <= 40
