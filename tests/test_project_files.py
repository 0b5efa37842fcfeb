"""The files around the package say the same as each other: versions, addresses, workflows."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import aradals

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)


def test_pre_commit_uses_the_versions_of_the_constraints() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    tools = [tool.split("==") for hook in hooks for tool in hook["additional_dependencies"]]
    assert {name for name, _ in tools} == {"ruff", "codespell", "import-linter"}
    assert [PINNED[name] for name, _ in tools] == [version for _, version in tools]


def test_the_backend_that_builds_a_release_is_pinned_once() -> None:
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert backend == f"hatchling=={PINNED['hatchling']}"


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {PROJECT["version"], citation["version"], aradals.__version__} == {PROJECT["version"]}
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [
        *("README.md", "CITATION.cff", "SECURITY.md", "docs/getting-started.md", "mkdocs.yml"),
        *(".github/ISSUE_TEMPLATE/config.yml",),
    ],
)
def test_one_address(path: str) -> None:
    """Only the addresses of pyproject.toml occur."""
    urls = PROJECT["urls"].values()
    for found in re.findall(r"https://[\w./-]*ar-adals[\w./-]*", (ROOT / path).read_text(encoding="utf-8")):
        assert any(found.startswith(url.rstrip("/")) for url in urls), found


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/**/*.yml")), ids=lambda path: path.name)
def test_the_forms_and_workflows_can_be_read(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert json.dumps(content, default=str)


def test_the_tested_pythons_are_those_of_the_package() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["tests"]
    tested = matrix["strategy"]["matrix"]["python"]
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+", each)]
    assert tested == named
    assert PROJECT["requires-python"] == f">={tested[0]}"
