"""stdout is for results; whatever happens to it and to stderr, files and exit status are true."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import aradals
from command_process import command, finish, start, write_recipe

NAME = "ñandú 牛"

TALKS = """
import os, sys
import torch
from torch import nn

print("said on import")
os.system("echo said by a program")

class Net(nn.Module):
    def __init__(self, k, how):
        super().__init__()
        print("said by the builder")
        self.layer, self.how, self.calls = nn.Linear(64, k), how, 0

    def forward(self, x):
        print("said in forward")
        os.write(1, b"said in bytes")
        self.calls += 1
        if self.calls > 2:
            exec(self.how)
        return self.layer(x.flatten(1))

def build(num_classes, how="pass"):
    return Net(num_classes, how)

def objective(model, inputs, labels, *, how="pass"):
    print("said in the objective")
    exec(how)
    logits = model(inputs)
    return nn.functional.cross_entropy(logits, labels), logits
"""


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a model and an objective that print."""
    path = tmp_path_factory.mktemp("talks") / "talks.py"
    path.write_text(TALKS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def study(talks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe with a method of an unusual name, and the folder of its results."""
    folder = tmp_path_factory.mktemp("study")
    recipe = write_recipe(folder)
    text = recipe.read_text(encoding="utf-8").replace("{vanilla: {}}", f'{{"{NAME}": {{}}}}')
    recipe.write_text(text.replace("small_cnn", f"{talks}:build").replace("{width: 4}", "{}"), encoding="utf-8")
    ran = aradals("run", recipe, "--output", folder / "out", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["rows"][0]["method"] == NAME
    assert "said in forward" in ran.err
    return recipe, folder / "out"


def run_again(study: tuple[Path, Path], **options: Any) -> tuple[int, str, str]:
    """The same command once more, as a process."""
    recipe, output = study
    return finish(start("run", recipe, "--output", output, **options))


def test_json_is_alone_on_stdout(talks: Path, tmp_path: Path) -> None:
    data = ("--data", "digits", "--limit", 30, "--num-subsets", 3, "--audit", 6)
    code, out, err = finish(start("diagnose", "--model", f"{talks}:build", *data, "--json", "--output", tmp_path))
    assert code == 0, err
    assert json.loads(out)["kind"] == "diagnosis"
    for words in ("on import", "by a program", "by the builder", "in forward", "in bytes"):
        assert f"said {words}" in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
def test_any_encoding_of_stdout(encoding: str, study: tuple[Path, Path]) -> None:
    code, out, err = run_again(study, environment={"PYTHONIOENCODING": encoding}, text=True, encoding=encoding)
    assert code == 0, err
    assert NAME.encode(encoding, "replace").decode(encoding) in " ".join(out.split())
    assert "results: " in out


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_recipe_is_read_as_utf8(encoding: str, study: tuple[Path, Path]) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if encoding == "ascii" else {}
    recipe, output = study
    code, out, err = finish(start("run", recipe, "--output", output, "--json", environment=plain))
    assert code == 0, err
    assert json.loads(out)["rows"][0]["method"] == NAME
    assert "settings unchanged" in err


SHELL = {
    "closed stdout": (">&-", 1, "stdout is closed"),
    "full stdout": (">/dev/full", 1, "No space left on device"),
    "closed stderr": ("2>&-", 0, ""),
    "full stderr": ("2>/dev/full", 0, ""),
    "closed stdin": ("<&-", 0, ""),
    "all closed": ("<&- >&- 2>&-", 1, ""),
    "a pipe that nobody reads": ("| true", 1, ""),
    "a log that nobody reads": ("2> >(true)", 0, ""),
}


@pytest.mark.parametrize("case", SHELL)
def test_streams_that_fail(case: str, study: tuple[Path, Path]) -> None:
    redirections, expected, words = SHELL[case]
    recipe, output = study
    (output / "report.html").unlink()
    if case == "a pipe that nobody reads":
        shutil.rmtree(output / "runs")  # so that there is something to do while the reader leaves
    line = f'"$@" {redirections}; exit ${{PIPESTATUS[0]}}'
    words_of_command = command("run", recipe, "--output", output)
    ran = subprocess.run(["bash", "-c", line, "bash", *words_of_command], capture_output=True, text=True)
    assert ran.returncode == expected, ran.stderr
    assert (output / "report.html").exists()
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    said = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert said == ([f"error: the results could not be printed ({words}); they are in {output}"] if words else [])
    if expected == 0:
        assert f"results: {output / 'results.json'}" in ran.stdout


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["score", "--help"], ["recipes", "show", "demo"]])
def test_what_writes_no_file(arguments: list[str], redirection: str) -> None:
    line = f'"$@" {redirection}'
    ran = subprocess.run(["bash", "-c", line, "bash", *command(*arguments)], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: the results could not be printed (")
    assert len(ran.stderr.splitlines()) == 1


def test_help_is_a_result() -> None:
    for arguments in (["--help"], [], ["score", "--help"], ["--version"]):
        ran = aradals(*arguments)
        assert ran.code == 0
        assert "aradals" in ran.out
        assert ran.err == ""


@pytest.mark.parametrize("how", ["sys.exit(0)", "exit()", "raise SystemExit"])
def test_leaving_from_a_model_is_an_error(how: str, talks: Path, tmp_path: Path) -> None:
    model = ("--model", f"{talks}:build", "--model-args", json.dumps({"how": how}), "--data", "digits", "--limit", 20)
    for name in ("score", "calibrate"):
        ran = aradals(name, *model, "--output", tmp_path / "out")
        assert ran.code == 2
        assert ran.out == ""
        assert "got its call of sys.exit(" in ran.err.splitlines()[-1]


def test_leaving_from_an_objective_is_an_error(talks: Path, tmp_path: Path) -> None:
    objective = {"objective": f"{talks}:objective", "objective_args": {"how": "sys.exit(0)"}}
    methods = ("--methods", json.dumps({"mine": objective}))
    ran = aradals("run", write_recipe(tmp_path), *methods, "--output", tmp_path / "out")
    assert ran.code == 2
    assert "its call of sys.exit(0)" in ran.err.splitlines()[-1]


@pytest.mark.parametrize("how", ["torch.empty(10**15)", "raise MemoryError"])
def test_a_lack_of_memory(how: str, talks: Path, tmp_path: Path) -> None:
    model = ("--model", f"{talks}:build", "--model-args", json.dumps({"how": how}), "--data", "digits", "--limit", 20)
    ran = aradals("score", *model, "--output", tmp_path / "scores.parquet")
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("error: expected enough memory, got less than needed (")
    assert "try a smaller --limit" in ran.err


@pytest.mark.parametrize("kilobytes", [0, 1, 20])
def test_a_limit_of_file_sizes(kilobytes: int, tmp_path: Path) -> None:
    """As a full disk: in the first file, in a small one, in a checkpoint."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, kilobytes << 10))

    arguments = command("run", write_recipe(tmp_path), "--output", tmp_path / "out")
    ran = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=limit)
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: expected ")
    assert "File too large" in ran.stderr or not kilobytes


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aradals.recipes.list_recipes", lambda: [][0])
    with pytest.raises(IndexError):
        aradals("recipes")
