"""Hooks of mkdocs: the pages that are made from the package, and links that work in the repository and on the site."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import aradals
from aradals.cli.main import COMMANDS
from aradals.cli.parser import CommandParser
from aradals.pipeline.recipes import find_recipe, list_recipes
from aradals.results import json_schema

ROOT = Path(__file__).parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
SOURCE = f"{URLS['Repository']}/blob/main"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the addresses from pyproject.toml; ``repo_url`` would let each page ask GitHub for its stars."""
    config.site_url = URLS["Documentation"]
    config.extra["social"] = [{"icon": "fontawesome/brands/github", "link": URLS["Repository"]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    pages = {
        "index.md": read("README.md")
        .replace(f"{URLS['Repository']}/raw/main/docs/", "")
        .replace(f"{SOURCE}/docs/", ""),
        "changelog.md": read("CHANGELOG.md"),
        "contributing.md": read("CONTRIBUTING.md").replace("](docs/", "]("),
        "recipes.md": recipes_page(),
        "api.md": api_page(),
        "results-schema.md": schema_page(),
        "results.schema.json": json.dumps(json_schema(), indent=1),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Add the reference of the commands, and send links to files outside of docs/ to the repository."""
    if page.file.src_uri == "cli.md":
        markdown += "".join(command_reference())
    return re.sub(r"\]\(\.\./([^)]+)\)", rf"]({SOURCE}/\1)", markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a public name has no entry, or if a page loads something from elsewhere."""
    site = Path(config.site_dir)
    anchors = set(re.findall(r'id="(aradals\.[\w.]+)"', (site / "api" / "index.html").read_text(encoding="utf-8")))
    if missing := sorted({entry for _, entries in namespaces() for entry in entries} - anchors):
        raise PluginError(f"public names without an entry in the reference: {', '.join(missing)}")
    for path in site.rglob("*.html"):
        if loaded := external(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path} loads {', '.join(loaded)}")


def external(html: str) -> list[str]:
    """List the addresses from which a page loads scripts, styles, fonts and images."""
    tags = re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*>", html)
    tags = [tag for tag in tags if not re.search(r'rel="?(canonical|next|prev|edit|alternate)\b', tag)]
    return [url for tag in tags for url in re.findall(r'(?:src|href)="?((?:https?:)?//[^">\s]+)', tag)]


def read(name: str) -> str:
    """Read a text file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def command_reference() -> Iterator[str]:
    """Write a section for each command, from its parser."""
    yield "\n\n## Reference\n"
    for name in COMMANDS:
        parser = CommandParser(name, importlib.import_module(f"aradals.cli.{name}"))
        yield f"\n### aradals {name}\n\n{(parser.description or '').strip()}\n\n```text\n{parser.example}\n```\n"
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.dest != "help"]
            if actions:
                yield f"\n**{group.title}**\n\n| | |\n|---|---|\n"
            for action in actions:
                spelling = " ".join(action.option_strings or [str(action.metavar)])
                yield f"| `{spelling}` | {_cell((action.help or '').replace('%%', '%'))} |\n"


def recipes_page() -> str:
    """Write a section for each recipe, with its commented file."""
    parts = ["# Recipes", "[A whole study](studies.md) says how to run a recipe, and what its keys mean.", ""]
    for name, summary in list_recipes().items():
        parts += [f"## {name}", summary, f"```yaml\n{find_recipe(name).read_text(encoding='utf-8').strip()}\n```"]
    return "\n\n".join(parts)


def namespaces() -> Iterator[tuple[str, list[str]]]:
    """Yield the package and its namespaces with the full names of what they offer."""
    for name in ("aradals", *(f"aradals.{name}" for name in aradals._NAMESPACES)):
        module = importlib.import_module(name)
        offered: list[str] = getattr(module, "__all__", None) or _own_names(module)
        yield name, [f"{name}.{each}" for each in offered if each not in (*aradals._NAMESPACES, "__version__")]


def _own_names(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def api_page() -> str:
    """Write an entry for each public name, from its docstring."""
    parts = ["# Python", "The names of `aradals` and of its namespaces. [Versions](versions.md) says what stays."]
    for name, entries in namespaces():
        parts += [f"## `{name}`", (importlib.import_module(name).__doc__ or "").strip()]
        parts += [f"::: {entry}\n    options: {{heading_level: 3}}" for entry in entries]
    return "\n\n".join(parts)


def schema_page() -> str:
    """Write a table for each record of a results file, from the JSON schema."""
    schema = json_schema()
    parts = [
        "# The form of results files",
        "`results.json` and `diagnosis.json` have this form. [The JSON schema](results.schema.json) is for programs. "
        "[The report](report.md#results-as-records) says how to read a file in Python.",
    ]
    for name, record in {"Results": schema, **schema["$defs"]}.items():
        if fields := record.get("properties"):
            rows = [
                f"| `{key}` | {_kind(field)} | {'yes' if key in record.get('required', ()) else ''} |"
                for key, field in fields.items()
            ]
            text = " ".join(record.get("description", "").partition("\n\n")[0].split())
            parts += [f"## {name}", text, "\n".join(["| field | type | always there |", "|---|---|---|", *rows])]
    return "\n\n".join(parts)


def _kind(field: dict[str, Any]) -> str:
    """Name the type of a field, with a link to a record."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if isinstance(values := field.get("additionalProperties"), dict):
        return f"mapping to {_kind(values)}"
    if isinstance(items := field.get("items"), dict):
        return f"list of {_kind(items)}"
    return str(field.get("type", "any"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
