"""stdout is for results; whatever happens to it and to stderr, files and exit status are true."""

from __future__ import annotations

import io
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from command_line import aradals
from command_process import command, finish, start, write_recipe

from aradals.cli.terminal import print_log

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
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A quick command that prints a table with an unusual name; its last argument is the folder of its results."""
    folder = tmp_path_factory.mktemp("evaluation")
    predictions = folder / f"{NAME}.npz"
    np.savez(predictions, logits=4 * np.eye(10)[np.arange(60) % 10], label=np.arange(60) % 7)
    return ("evaluate", "--predictions", str(predictions), "--output", str(folder / "out"))


def test_json_is_alone_on_stdout(talks: Path, tmp_path: Path) -> None:
    data = ("--data", "digits", "--limit", 30, "--num-subsets", 3, "--audit", 6)
    code, out, err = finish(start("diagnose", "--model", f"{talks}:build", *data, "--json", "--output", tmp_path))
    assert code == 0, err
    assert json.loads(out)["kind"] == "diagnosis"
    for words in ("on import", "by a program", "by the builder", "in forward", "in bytes"):
        assert f"said {words}" in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_any_encoding_of_stdout(encoding: str, evaluation: tuple[str, ...]) -> None:
    code, out, err = finish(start(*evaluation, environment={"PYTHONIOENCODING": encoding}, encoding=encoding))
    assert code == 0, err
    assert NAME.encode(encoding, "replace").decode(encoding) in out
    assert "results: " in out


def test_a_recipe_is_utf8_in_any_locale(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("vanilla", f'"{NAME}"'), encoding="utf-8")
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    code, _, err = finish(start("run", recipe, "--output", tmp_path / "out", environment=ascii_alone))
    assert code == 2
    assert f"got '{NAME}'" in err


def test_a_recipe_that_is_not_utf8(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    recipe.write_bytes("description: ñandú\n".encode("latin-1") + recipe.read_bytes())
    ran = aradals("run", recipe, "--output", tmp_path / "out")
    assert ran.code == 2
    assert ran.err == f"error: expected a recipe in UTF-8: {recipe}, got the byte 0xf1; try saving in UTF-8\n"


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
def test_streams_that_fail(case: str, evaluation: tuple[str, ...]) -> None:
    redirections, expected, reason = SHELL[case]
    output = Path(evaluation[-1])
    shutil.rmtree(output, ignore_errors=True)
    line = f'"$@" {redirections}; exit ${{PIPESTATUS[0]}}'
    ran = subprocess.run(["bash", "-c", line, "bash", *command(*evaluation)], capture_output=True, text=True)
    assert ran.returncode == expected, ran.stderr
    assert (output / "results.json").exists()
    assert (output / "report.html").exists()
    words = f"error: the results could not be printed ({reason}); they are in {output}"
    said = ("warning: could not be checked: ", Path(evaluation[2]).name)
    lines = [line for line in ran.stderr.splitlines() if not line.startswith(said)]
    assert lines == ([words] if reason else [])
    if expected == 0:
        assert f"results: {output / 'results.json'}" in ran.stdout


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_closed_stream_is_open_in_workers(descriptor: int) -> None:
    """A worker would not start, or would write its messages into the first file that it opens."""
    child = f"['python', '-c', 'import os; os.fstat({descriptor})']"
    program = f"""
import os, sys
from aradals.cli.terminal import StandardStreams
StandardStreams().__enter__()
os._exit(os.spawnv(os.P_WAIT, sys.executable, {child}))
"""
    line = f'"$@" {descriptor}>&-'
    ran = subprocess.run(["bash", "-c", line, "bash", sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["score", "--help"], ["recipes", "show", "digits"]])
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
    for name, file in (("score", "scores.parquet"), ("calibrate", "calibrator.json")):
        ran = aradals(name, *model, "--output", tmp_path / file)
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
    monkeypatch.setattr("aradals.pipeline.recipes.list_recipes", lambda: [][0])
    with pytest.raises(IndexError):
        aradals("recipes")


def test_a_line_of_the_log_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers share stderr: with two writes for each line, their lines mix if nothing is buffered."""
    written: list[bytes] = []

    class Raw(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            written.append(bytes(data))
            return len(written[-1])

    stream = io.TextIOWrapper(cast(Any, Raw()), encoding="utf-8", write_through=True)  # as with python -u
    monkeypatch.setattr(sys, "stderr", stream)
    for line in ("first", "second\x1b[2J"):
        print_log(line)
    assert [each for each in written if each] == [b"first\n", b"second\\x1b[2J\n"]
