"""The pages of the site that are made from the package; `make docs` builds the whole site."""

from __future__ import annotations

import importlib
import json
from types import ModuleType, SimpleNamespace

import pytest

import aradals
from aradals.cli.main import COMMANDS
from aradals.cli.parser import CommandParser
from aradals.pipeline.recipes import list_recipes
from aradals.results import json_schema
from scripts import load_script

pytest.importorskip("mkdocs", reason="needs the dependency group docs")


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return load_script("tools/site_pages.py")


def test_every_option_of_every_command_is_in_the_reference(site: ModuleType) -> None:
    text = "".join(site.command_reference())
    for name in COMMANDS:
        section = text.partition(f"### aradals {name}\n")[2].partition("\n### ")[0]
        parser = CommandParser(name, importlib.import_module(f"aradals.cli.{name}"))
        assert parser.options
        assert [
            option for option in parser.options if f"| `{option}` |" not in section.replace(option.upper(), option)
        ] == []


def test_every_public_name_has_an_entry(site: ModuleType) -> None:
    entries = {entry for _, names in site.namespaces() for entry in names}
    assert {f"aradals.{name}" for name in aradals._NAMES} <= entries
    assert {
        "aradals.attacks.secant",
        "aradals.metrics.expected_calibration_error",
        "aradals.plots.by_subset",
    } <= entries
    assert all(f"::: {entry}\n" in site.api_page() for entry in entries)


def test_every_recipe_and_every_record_has_a_section(site: ModuleType) -> None:
    assert all(f"## {name}\n" in site.recipes_page() for name in list_recipes())
    page = site.schema_page()
    assert all(f"| `{field}` |" in page for field in json_schema()["properties"])
    assert "[Row](#row)" in page
    assert "## Row\n" in page
    assert json.dumps(json_schema())


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<a href="https://example.org">a link</a>', []),
        ('<link rel="canonical" href="https://example.org/">', []),
        ('<script src="assets/a.js"></script>', []),
        ('<script src="https://cdn.example.org/a.js"></script>', ["https://cdn.example.org/a.js"]),
        ('<link rel="stylesheet" href="//fonts.example.org/b.css">', ["//fonts.example.org/b.css"]),
        ('<img alt="x" src=https://example.org/c.png>', ["https://example.org/c.png"]),
    ],
)
def test_what_a_page_loads(site: ModuleType, html: str, found: list[str]) -> None:
    assert site.external(html) == found


def test_links_to_files_outside_of_the_site_lead_to_the_repository(site: ModuleType) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="scaling.md"))
    text = site.on_page_markdown("[a](../results/scale/README.md), [b](data.md)", page, None, None)
    assert text == f"[a]({site.URLS['Repository']}/blob/main/results/scale/README.md), [b](data.md)"
