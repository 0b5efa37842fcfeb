"""Outputs never destroy what is read, what others have made, or what other settings have made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command_line import Study, aradals, run_once
from PIL import Image

from aradals.data import load_data


@dataclass(frozen=True)
class World:
    """A folder of files that people care about.

    Attributes:
        folder: holds them.
        data: digits as ``.npz``.
        weights: of a model.
        model: a Python file.
    """

    folder: Path
    data: Path
    weights: Path
    model: Path

    @property
    def loaded(self) -> list[str]:
        """A model."""
        return ["--model", f"{self.model}:build", "--checkpoint", str(self.weights)]

    @property
    def arguments(self) -> list[str]:
        """A model and data."""
        return [*self.loaded, "--data", str(self.data)]

    def command(self, name: str) -> list[str]:
        """A command that takes a second, with what it reads."""
        return [*COMMANDS[name], *(self.loaded if name == "export" else self.arguments)]

    def content(self) -> dict[str, bytes]:
        """Of every file, except what Python writes beside a model that it imports."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        files = [path for path in found if path.parent.name != "__pycache__"]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}


MODEL = """
from aradals.models import build_model

def build(num_classes):
    return build_model("small_cnn", num_classes=num_classes, in_channels=1, width=8)
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_once(tmp_path_factory.getbasetemp() / "tiny-study")


@pytest.fixture
def world(study: Study, tmp_path: Path) -> World:
    test = load_data("digits", "test", limit=40)
    _, inputs, labels = test.batch(range(40))
    data, weights, model = tmp_path / "digits.npz", tmp_path / "model.safetensors", tmp_path / "model.py"
    np.savez(data, inputs=inputs.numpy(), labels=labels.numpy())
    shutil.copy(study.checkpoint, weights)
    model.write_text(MODEL)
    return World(tmp_path, data, weights, model)


def refused(world: World, *arguments: object, match: str) -> None:
    """Assert that a command is refused in one line, and changes nothing."""
    before = world.content()
    ran = aradals(*arguments)
    assert ran.code == 2, ran.err
    assert match in ran.err
    assert ran.err.startswith("error: expected ")
    assert world.content() == before


COMMANDS = {
    "score": ["score"],
    "calibrate": ["calibrate"],
    "diagnose": ["diagnose", "--num-subsets", "2", "--audit", "0"],
    "evaluate": ["evaluate"],
    "export": ["export", "--input-shape", "[1,8,8]"],
}


@pytest.mark.parametrize("target", ["data", "weights", "model"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_an_input_is_never_an_output(command: str, target: str, overwrite: list[str], world: World) -> None:
    path = getattr(world, target)
    refused(world, *world.command(command), *overwrite, "--output", path, match="--output")


@pytest.mark.parametrize("kind", ["itself", "symbolic link", "hard link", "other spelling"])
def test_whatever_it_is_called(kind: str, world: World) -> None:
    """Also where the suffix is right: scores of predictions, a table that is the data."""
    data = world.folder / "data.parquet"
    ran = aradals("corrupt", "--data", "digits", "--limit", 20, "--corruption=fog", "--severity=1", "--output", data)
    assert ran.code == 0, ran.err
    path = world.folder / "other.parquet"
    match kind:
        case "itself":
            path = data
        case "symbolic link":
            path.symlink_to(data)
        case "hard link":
            os.link(data, path)
        case _:
            (world.folder / "sub").mkdir()
            path = world.folder / "sub" / ".." / "data.parquet"
    model = ["--model", f"{world.model}:build", "--checkpoint", world.weights, "--data", data]
    command = ["corrupt", "--data", data, "--corruption", "snow", "--severity", "2", "--overwrite", "--output", path]
    refused(world, *command, match="which is read")
    refused(world, "score", *model, "--overwrite", "--output", path, match="which is read")


@pytest.mark.parametrize(("command", "name"), [("score", "s.parquet"), ("diagnose", "out"), ("export", "m.pt2")])
def test_other_peoples_files_are_not_replaced(command: str, name: str, world: World) -> None:
    precious = [world.folder / name] if name != "out" else [world.folder / "out" / "report.html"]
    precious[0].parent.mkdir(exist_ok=True)
    precious[0].write_text("years of work")
    output = ["--output", world.folder / name]
    refused(world, *world.command(command), *output, match="--overwrite")
    ran = aradals(*world.command(command), *output, "--overwrite")
    assert ran.code == 0, ran.err
    assert b"years of work" not in precious[0].read_bytes()


def test_what_other_settings_have_made_is_not_replaced(world: World) -> None:
    output = world.folder / "scores.parquet"
    score = ["score", *world.arguments, "--output", output]
    assert aradals(*score).code == 0
    before = output.read_bytes()
    again = aradals(*score)
    assert (again.code, output.read_bytes()) == (0, before)
    assert "already" in again.err
    refused(world, *score, "--attack", "first_order_margin", match="made from others")
    assert aradals(*score, "--attack", "first_order_margin", "--overwrite").code == 0
    assert output.read_bytes() != before

    calibrate = ["calibrate", *world.arguments, "--output", world.folder / "c.json"]
    assert aradals(*calibrate).code == 0
    assert aradals(*calibrate).code == 0
    refused(world, *calibrate, "--method", "vector", match="made from others")
    refused(world, "score", *world.arguments, "--output", world.folder / "c.json", match="FILE.parquet")


def test_an_audit_is_added_to_finished_scores(world: World) -> None:
    output = world.folder / "scores.parquet"
    assert aradals("score", *world.arguments, "--output", output).code == 0
    ran = aradals("score", *world.arguments, "--output", output, "--audit", 20, "--num-subsets", 4)
    assert ran.code == 0, ran.err
    assert "already" in ran.err
    assert "of 20 examples drawn at random" in ran.out
    assert {path.name for path in world.folder.iterdir()} == {
        *("digits.npz", "model.safetensors", "model.py", "scores.parquet"),
        *({"__pycache__"} if (world.folder / "__pycache__").exists() else ()),
    }


WRITERS: dict[str, tuple[str, list[str]]] = {
    "run": ("out", ["--training.epochs=7"]),
    "train": ("out", ["--seed=1"]),
    "score": ("out.parquet", ["--attack=first_order_margin"]),
    "calibrate": ("out.json", ["--method=vector"]),
    "evaluate": ("out", ["--corruptions=fog", "--severities=1"]),
    "diagnose": ("out", ["--num-subsets=3"]),
    "corrupt": ("out.parquet", ["--severity=2"]),
    "report": ("out.html", []),
    "export": ("out.pt2", ["--class-names=a,b,c,d,e,f,g,h,i,j"]),
}
"""The commands that write: an output, and other settings."""


def words(command: str, study: Study, world: World) -> list[object]:
    """A command that takes a second, without its output."""
    match command:
        case "run" | "train":
            return [command, study.recipe, *(["--method=vanilla"] if command == "train" else [])]
        case "corrupt":
            return [command, "--data", world.data, "--corruption=fog", "--severity=1"]
        case "report":
            return [command, study.folder]
    return list(world.command(command))


def test_an_exported_program_is_not_exported_to_itself(world: World) -> None:
    program, folder = world.folder / "out.pt2", world.folder / "card"
    assert aradals(*world.command("export"), "--output", program).code == 0
    again = ["export", "--model", program, "--input-shape", "[1,8,8]", "--overwrite"]
    refused(world, *again, "--output", program, match="which is read")
    folder.mkdir()
    (folder / "README.md").write_text("years of work")
    built_in = ["export", "--checkpoint", world.weights, "--input-shape", "[1,8,8]", "--format", "safetensors"]
    refused(world, *built_in, "--output", folder, match="--overwrite")
    assert aradals(*built_in, "--overwrite", "--output", folder).code == 0
    assert "years of work" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("command", WRITERS)
def test_two_runs_at_once_are_refused(command: str, study: Study, world: World) -> None:
    output = world.folder / WRITERS[command][0]
    lock = world.folder / f".{output.name}.aradals-lock" if output.suffix else output / ".aradals-lock"
    lock.parent.mkdir(exist_ok=True)
    hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n    print(flush=True)\n    sys.stdin.read()"
    arguments = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        refused(world, *words(command, study, world), "--output", output, match="no other run that writes to")
        other.kill()


@pytest.mark.parametrize("command", [name for name in WRITERS if name != "run"])
def test_the_same_request_twice_and_then_another_one(command: str, study: Study, world: World) -> None:
    """A study is not refused: it keeps the stages and the results of both recipes, see tests/pipeline/study."""
    name, changes = WRITERS[command]
    given = [*words(command, study, world), "--output", world.folder / name]
    assert aradals(*given).code == 0
    before = world.content()
    again = aradals(*given)
    assert again.code == 0, again.err
    assert world.content() == before
    if command == "report":
        evaluation = world.folder / "evaluation"
        assert aradals("evaluate", *world.arguments, "--output", evaluation).code == 0
        given[1] = evaluation
    refused(world, *given, *changes, match="--overwrite")
    ran = aradals(*given, *changes, "--overwrite")
    assert ran.code == 0, ran.err


def test_a_link_in_a_folder_is_not_marked_through(world: World) -> None:
    precious = world.folder / "precious.txt"
    precious.write_text("precious")
    out = world.folder / "out"
    out.mkdir()
    (out / ".aradals").symlink_to(precious)
    ran = aradals("evaluate", *world.arguments, "--output", out)
    assert (ran.code, precious.read_text()) == (0, "precious")


@pytest.mark.parametrize("output", ["images/out", "images/a/out", "images/c.parquet"])
def test_nothing_is_written_among_images_that_are_read(output: str, world: World) -> None:
    """The same command would read another data set when it is given again."""
    for name in "ab":
        (world.folder / "images" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8), 10 * number).save(world.folder / "images" / name / f"{number}.png")
    data = ["--data", world.folder / "images", "--output", world.folder / output]
    command = ["corrupt", "--corruption", "fog", "--severity", "1"] if output.endswith("parquet") else ["evaluate"]
    model = [] if command[0] == "corrupt" else ["--model", "small_cnn"]
    refused(world, *command, *model, *data, match="would be read")


def test_what_others_have_beside_scores_stays(world: World) -> None:
    work = world.folder / ".scores.parquet.work"
    work.mkdir()
    (work / "thesis.txt").write_text("mine")
    ran = aradals("score", *world.arguments, "--output", world.folder / "scores.parquet")
    assert ran.code == 0, ran.err
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]


def test_results_of_another_command_are_kept(study: Study, world: World) -> None:
    out = shutil.copytree(study.folder, world.folder / "out")
    before = (out / "results.json").read_bytes()
    ran = aradals("evaluate", *world.arguments, "--output", out)
    assert ran.code == 0, ran.err
    assert "results.json is of another command" in ran.err
    assert (out / "results.json.changed-1").read_bytes() == before
