"""Texts: no file depends on the locale, and the options that hints and documentation name exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aradals
from aradals.cli.main import COMMANDS
from aradals.cli.parser import CommandParser

ROOT = Path(__file__).parents[1]
SOURCES = sorted(Path(aradals.__file__).parent.rglob("*.py"))


def text_without_encoding(source: str) -> Iterator[int]:
    """The lines of the calls that open a file as text and leave its encoding to the locale."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(each.arg == "encoding" for each in call.keywords):
            continue
        match call.func:
            case ast.Attribute(attr="read_text" | "write_text"):
                yield call.lineno
            case ast.Attribute(attr="open") if _is_text(call.args[:1]):  # of a path; other libraries open other things
                yield call.lineno
            case ast.Name(id="open") if _is_text(call.args[1:2]):
                yield call.lineno


def _is_text(mode: list[ast.expr]) -> bool:
    match mode:
        case [ast.Constant(value=str(letters))]:
            return "b" not in letters
    return not mode


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_text_file_names_its_encoding(path: Path) -> None:
    assert list(text_without_encoding(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, 'rb')", False),
        ("path.open()", True),
        ("path.open('rb')", False),
        ("image.open(stream)", False),
    ],
)
def test_what_the_search_finds(line: str, is_found: bool) -> None:
    assert list(text_without_encoding(line)) == ([1] if is_found else [])


def test_options_that_texts_name_exist() -> None:
    """Hints and documentation are typed as they stand."""
    words = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*(?:\.\w+)*")
    parsers = [CommandParser(name, importlib.import_module(f"aradals.cli.{name}")) for name in COMMANDS]
    known = {word for parser in parsers for word in words.findall(parser.format_help())} | {"--version", "--a.b"}
    named = [
        (str(path), word)
        for path in (*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if not re.search(r"\b(dask|srun|torchrun) ", line)  # programs with other options
        for word in words.findall(line)
    ]
    assert len(named) > 100
    assert [each for each in named if each[1] not in known] == []
