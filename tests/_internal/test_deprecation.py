"""Deprecations name the caller, the version of the removal and what replaces them, and no promise is forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aradals
from aradals._internal.deprecation import warn_deprecated

SOURCES = sorted(Path(aradals.__file__).parent.rglob("*.py"))


def removals(source: str) -> Iterator[str]:
    """The versions that the calls of `warn_deprecated` promise."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("warn_deprecated"):
            yield from (ast.literal_eval(each.value) for each in call.keywords if each.arg == "removal")


def is_due(removal: str, version: str) -> bool:
    first, second = ([int(part) for part in each.split(".")] for each in (removal, version))
    return second[: len(first)] >= first


def old_name() -> None:
    warn_deprecated("`old_name` is now `new_name`", removal="0.9", instead="write `new_name`")


def test_a_deprecation_names_its_caller() -> None:
    expected = "`old_name` is now `new_name`, and version 0.9 will not read it any more; write `new_name`"
    with pytest.warns(UserWarning, match="old_name") as found:
        old_name()
    assert [str(each.message) for each in found] == [expected]
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    ("removal", "version", "due"),
    [("1.0", "0.9.3", False), ("1.0", "1.0.0", True), ("0.10", "0.9.0", False), ("0.10", "0.11.0", True)],
)
def test_when_a_removal_is_due(removal: str, version: str, due: bool) -> None:
    assert is_due(removal, version) == due


def test_no_removal_is_due() -> None:
    promised = [removal for path in SOURCES for removal in removals(path.read_text(encoding="utf-8"))]
    assert promised
    assert [removal for removal in promised if is_due(removal, aradals.__version__)] == []
