"""Names from data and users become file names that are short, harmless, and never shared."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aradals._internal.files import file_name
from aradals.pipeline.predict import prediction_paths
from aradals.results.records import Condition

TEXT = st.one_of(
    st.text(max_size=40), st.text("aA.-/\\_é\0", max_size=6), st.text(st.characters(codec=None), max_size=150)
)


@pytest.mark.parametrize(
    "text", ["fog", "gaussian_noise", "none", "cifar-10.1", "a", "_", "a" * 100, "a-0123456789abcde"]
)
def test_safe_names_stay(text: str) -> None:
    assert file_name(text) == text


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("", "name"),
        (".", "name"),
        ("..", "name"),
        ("../../etc/passwd", "etc-passwd"),
        ("x/../../..", "x"),
        ("/", "name"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("Fog", "fog"),
        ("fog.", "fog"),
        ("a\0b", "a-b"),
        ("a\nb", "a-b"),
        ("C:\\x", "c-x"),
        ("Zürich", "zurich"),
        ("日本", "name"),
        ("\ud800", "name"),
        ("a" * 101, "a" * 83),
        (file_name("Fog"), file_name("Fog")),  # else another text would have the name of "Fog"
    ],
)
def test_other_names_are_readable_with_a_digest(text: str, readable: str) -> None:
    name = file_name(text)
    assert re.fullmatch(re.escape(readable) + "-[0-9a-f]{16}", name)


@given(TEXT)
def test_a_name_is_harmless(text: str) -> None:
    name = file_name(text)
    assert re.fullmatch(r"[a-z0-9_][a-z0-9_.-]{0,99}", name)
    assert not name.endswith(".")
    assert unicodedata.normalize("NFD", name).casefold() == name


@given(TEXT, TEXT)
def test_two_texts_never_share_a_name(first: str, second: str) -> None:
    names = {file_name(text) for text in (first, second, file_name(first), file_name(second), first.upper())}
    assert len(names) == len({first, second, file_name(first), file_name(second), first.upper()})


def test_predictions_lie_in_their_folder(tmp_path: Path) -> None:
    hostile = ["none", "fog", "x/../../../up", "/etc/passwd", "..", "", "Fog", "a\0b", "a" * 5000]
    paths = prediction_paths(tmp_path, [Condition(name, 3) for name in hostile])
    assert paths[Condition("fog", 3)] == tmp_path / "predictions-fog-3.parquet"
    assert len({path.name for path in paths.values()}) == len(hostile)
    for path in paths.values():
        path.touch()
        assert path.resolve().parent == tmp_path.resolve()
