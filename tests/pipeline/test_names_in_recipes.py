"""Names in recipes are data, and a recipe that grows without end is refused in a moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aradals.cli import run, score
from aradals.cli.main import main
from aradals.cli.parser import CommandParser
from aradals.errors import InputError
from aradals.pipeline.config import StudyConfig
from aradals.pipeline.recipes import load_recipe
from aradals.pipeline.settings import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_NODES,
    OptionText,
    nearest,
    parse_yaml,
    read,
    read_yaml,
)

RECIPE = """
data: {data}
model: small_cnn
splits: {{validation: 10, calibration: 10}}
training: {{epochs: 3}}
methods: {methods}
ensembles: {ensembles}
reference: {reference}
model_args: {{width: 4, slope: 1e-3, flags: [yes, "yes", 1, "1"]}}
"""


def recipe(folder: Path, overrides: dict[str, str] | None = None, **parts: str) -> StudyConfig:
    path = folder / "mine.yaml"
    defaults = {"data": "digits", "methods": "{a: {}}", "ensembles": "{}", "reference": "null"}
    path.write_text(RECIPE.format(**(defaults | parts)))
    return load_recipe(str(path), overrides)


@pytest.mark.parametrize("name", ["1", "01", "1e3", "yes", "No", "true", "2020-01-31", "1_000", "0x10", "null", "1.50"])
def test_a_method_may_have_any_name(tmp_path: Path, name: str) -> None:
    reference = "null" if name == "null" else name
    config = recipe(
        tmp_path,
        methods=f"{{{name}: {{label: {reference}}}, other: {{variant_of: '{name}'}}}}",
        ensembles=f"{{both: {{method: '{name}'}}}}",
        reference=reference,
    )
    assert list(config.methods) == [name, "other"]
    assert config.methods[name].label == (None if name == "null" else name)
    assert config.reference_name == name


def test_values_that_are_no_text_have_their_types(tmp_path: Path) -> None:
    assert recipe(tmp_path).model_args == {"width": 4, "slope": 0.001, "flags": [True, "yes", 1, "1"]}


@pytest.mark.parametrize("data", ["1", "a,b.npz", "'[a]'", "1e3", "no"])
def test_a_data_set_may_have_any_name(tmp_path: Path, data: str) -> None:
    assert recipe(tmp_path, data=data).data == data.strip("'")
    assert recipe(tmp_path, {"data": '["a,b", c]'}).data == ["a,b", "c"]


@pytest.mark.parametrize("data", ["1", "a,b.npz", "1e3", "no"])
def test_a_data_set_as_an_option(tmp_path: Path, data: str) -> None:
    assert recipe(tmp_path, {"data": data}).data == data


def test_options_of_a_method_with_a_dot_in_its_name(tmp_path: Path) -> None:
    methods = "{v1: {}, v1.0: {}}"
    config = recipe(tmp_path, {"methods.v1.0.targets.smoothing": "0.1", "methods.v1.label": "yes"}, methods=methods)
    assert list(config.methods) == ["v1", "v1.0"]
    assert config.methods["v1.0"].targets.smoothing == 0.1
    assert config.methods["v1"].label == "yes"


@pytest.mark.parametrize(
    ("text", "seeds"), [("0,1", [0, 1]), ("[0,1]", [0, 1]), ("[0, 1]", [0, 1]), ("3", [3]), (" 4 , 5 ", [4, 5])]
)
def test_lists_as_options(tmp_path: Path, text: str, seeds: list[int]) -> None:
    assert recipe(tmp_path, {"seeds": text}).seeds == seeds


def test_an_empty_list_as_an_option(tmp_path: Path) -> None:
    overrides = {"calibrators": "", "evaluation.corruptions": "noise,blur"}
    config = recipe(tmp_path, overrides)
    assert config.calibrators == []
    assert config.evaluation.corruptions == ["noise", "blur"]
    with pytest.raises(InputError, match="seeds to be a list"):
        recipe(tmp_path, {"seeds": "0,1,"})


def test_a_path_with_a_comma_as_an_option() -> None:
    assert read(list[Path], OptionText("a.json,b.json")) == [Path("a.json"), Path("b.json")]
    assert read(list[Path], OptionText('["a,b.json"]')) == [Path("a,b.json")]
    assert read(Path, OptionText("a,b.json")) == Path("a,b.json")


def test_a_key_that_occurs_twice() -> None:
    with pytest.raises(ValueError, match="the key 'epochs' occurs twice"):
        read_yaml("training: {epochs: 3, lr: 1, epochs: 4}")
    merged = "base: &a {x: 1, y: 2}\nnext: &b {<<: *a, x: 3}\nlast: {<<: *b, y: 4}"
    assert parse_yaml(merged) == {"base": {"x": 1, "y": 2}, "next": {"x": 3, "y": 2}, "last": {"x": 3, "y": 4}}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--lr=0.1"], "'--lr'; try --training.learning_rate"),
        (["--lr", "0.1"], "'--lr'; try --training.learning_rate"),
        (["--epochs=3"], "'--epochs'; try --training.epochs"),
        (["--batch-size=3"], "'--batch-size'; try --training.batch_size"),
        (["--batch_size=3"], "try --training.batch_size"),
        (["--otput=x"], "try --output"),
    ],
)
def test_hints_name_the_key(words: list[str], hint: str) -> None:
    with pytest.raises(InputError) as caught:
        CommandParser("run", run).read(["digits", *words])
    assert hint in str(caught.value)


def test_the_nearest_name() -> None:
    keys = ["epochs", "learning_rate", "weight_decay"]
    assert nearest("lr", keys, otherwise="none") == "learning_rate"
    assert nearest("wieght_decay", keys, otherwise="none") == "weight_decay"
    assert nearest("z", keys, otherwise="none") == "none"


def test_a_command_without_a_recipe_takes_lists_too() -> None:
    read_arguments: dict[str, Any] = CommandParser("score", score).read(
        ["--data=a,b", "--model=resnet20", "--output=x.parquet", "--attack-args={steps: 3}"]
    )
    assert any("a,b" in str(record) for record in read_arguments.values())


def laughs(levels: int, width: int = 9) -> str:
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


def chained(links: int) -> str:
    """A list in a list and so on, by aliases, each of which is only one level deep."""
    return "a0: &a0 [1]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, links))


@pytest.mark.parametrize(
    "text",
    [
        laughs(12),
        merges(12),
        chained(MAX_DEPTH + 5),
        "a: &a [*a, *a]",
        "a: &a {b: *a}",
        "a: " + "[" * 200 + "]" * 200,
        "a: " + "[" * 40_000,
        "a: [" + "1," * MAX_NODES + "]",
        "a: " + "x" * MAX_CHARACTERS,
    ],
    ids=["laughs", "merges", "chain", "itself", "itself in a mapping", "deep", "deeper", "many", "long"],
)
def test_a_recipe_without_end_is_refused_in_a_moment(tmp_path: Path, text: str) -> None:
    path = tmp_path / "endless.yaml"
    path.write_text(text)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30));"
        "from aradals.pipeline.settings import read_yaml\n"
        "try: read_yaml(open(sys.argv[1]).read())\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], timeout=20, capture_output=True, text=True, check=True
    )
    assert done.stdout


def test_moderate_aliases_are_fine() -> None:
    assert len(parse_yaml(laughs(4))["a3"][8]) == 9
    assert parse_yaml(chained(20))["a1"] == [[1]]


def test_the_command_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "endless.yaml"
    path.write_text(laughs(12))
    assert main(["run", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "more than 20000 values" in capsys.readouterr().err
