"""No file depends on the locale: the source names an encoding wherever it opens a file as text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aradals

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
