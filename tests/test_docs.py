"""The blocks of code in README.md, CONTRIBUTING.md and docs/ run as they stand, page by page and from top to bottom.

- ``python`` runs. The blocks of a page share their names; `pages` defines the names that a page takes as given.
- ``bash`` runs, line by line, if the lines are commands of this package.
- A block with a title is a file, and is written under this name. ``yaml`` without a title is read.
- ``text``, ``diff`` and ``json`` show something.

A comment before a block says why it does not run, or which other test runs it:

    <!-- not run: installs packages -->
    <!-- run by tests/pipeline/test_export.py -->
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
import yaml
from markdown_it import MarkdownIt

from aradals.cli.main import COMMANDS, main
from aradals.cli.parser import CommandParser
from pages import GIVEN

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md")))]
SHOWN = {"text", "diff", "json"}
NOTE = re.compile(r"<!-- (?:not run: (?P<reason>.+)|run by (?P<test>tests/\S+\.py)) -->\s*")


@dataclass(frozen=True)
class Block:
    """A block of code, and the comment right before it; ``language`` is empty for an indented block."""

    line: int
    language: str
    title: str
    code: str
    note: str

    @property
    def runs(self) -> bool:
        return not NOTE.fullmatch(self.note)


@cache
def blocks(page: str) -> list[Block]:
    tokens = MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8"))
    return [
        Block(
            line=(token.map or [0])[0] + 1,
            language=token.info.partition(" ")[0],
            title="".join(re.findall(r'title="(.+)"', token.info)),
            code=token.content,
            note=before.content if before.type == "html_block" else "",
        )
        for before, token in pairwise([tokens[0], *tokens])
        if token.type in ("fence", "code_block")
    ]


def commands(code: str) -> Iterator[list[str]]:
    """The words of each line; a line may go on after a backslash, and end with a comment."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run(block: Block, page: str, names: dict[str, Any]) -> None:
    where = f"{page}, line {block.line}"
    if block.title:
        Path(block.title).write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.code, where, "exec"), names)
    elif block.language == "yaml":
        assert yaml.safe_load(block.code), where
    elif block.language == "bash":
        for program, *words in commands(block.code):
            assert program == "aradals", f"{where}: `{program}` is no command of this package: say why it is not run"
            assert main(words) == 0, where
    else:
        assert block.language in SHOWN, f"{where}: name the language of the block"


@pytest.mark.parametrize("page", PAGES)
def test_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARADALS_DATA", raising=False)
    monkeypatch.setattr("aradals.pipeline.workers._num_cores", lambda: 1)  # no other processes, which start slowly
    torch.set_num_threads(1)
    matplotlib.use("agg")
    given = GIVEN.get(page, lambda: iter([{}]))()
    names: dict[str, Any] = next(given)
    for block in blocks(page):
        if block.runs:
            run(block, page, names)
    assert next(given, None) is None  # what `pages` checks after the last block


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_do_not_run_are_understood(page: str) -> None:
    for block in blocks(page):
        if block.runs or block.language != "bash":
            continue
        for program, *words in commands(block.code):
            if program == "aradals":
                assert words[0] in COMMANDS
                command = importlib.import_module(f"aradals.cli.{words[0]}")
                CommandParser(words[0], command).read(words[1:])


@pytest.mark.parametrize("page", PAGES)
def test_another_test_that_runs_a_block_names_the_page(page: str) -> None:
    for block in blocks(page):
        note = NOTE.fullmatch(block.note)
        if note and note["test"]:
            assert Path(page).name in (ROOT / note["test"]).read_text(encoding="utf-8")


def test_every_page_that_has_given_names_exists() -> None:
    assert GIVEN.keys() <= set(PAGES)


@pytest.mark.parametrize(
    ("text", "language", "title", "reason"),
    [
        ("```python\nx = 1\n```\n", "python", "", None),
        ('```yaml title="a.yaml"\nx: 1\n```\n', "yaml", "a.yaml", None),
        ("<!-- not run: needs a cluster -->\n```bash\nsrun x\n```\n", "bash", "", "needs a cluster"),
        ("<!-- not run -->\n```bash\nsrun x\n```\n", "bash", "", None),
        ("A line:\n\n    x = 1\n", "", "", None),
    ],
)
def test_what_a_block_is(
    text: str, language: str, title: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.md").write_text(text)
    (block,) = blocks(str(tmp_path / "page.md"))
    assert (block.language, block.title) == (language, title)
    assert block.runs == (reason is None)


def test_a_block_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(AssertionError, match="name the language"):
        run(Block(1, "", "", "x = 1\n", ""), "page.md", {})
    with pytest.raises(AssertionError, match="`make` is no command of this package"):
        run(Block(1, "bash", "", "make test  # all\n", ""), "page.md", {})


def test_the_readme_is_short_and_its_links_work_everywhere() -> None:
    """A package index shows README.md without the files beside it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    links = re.findall(r"\]\((.+?)\)", text)
    urls = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert urls
    own = [link for link in links if link.startswith(urls[1])]
    assert len(own) > 10
    for link in own:
        path = re.fullmatch(rf"{re.escape(urls[1])}/(?:blob|raw)/main/(.+)", link)
        assert path, link
        assert (ROOT / path[1]).exists(), link
    assert all(link.startswith("https://") for link in links)
