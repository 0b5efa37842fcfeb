"""What a file says is data: no file can run code, and the source has few places that could.

Only names that come from the command line or a recipe are imported.
"""

from __future__ import annotations

import ast
import base64
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from aradals.cli.main import main
from aradals.models import build_model, save_checkpoint

SOURCE = Path(__file__).parents[1] / "src" / "aradals"

ALLOWED = {
    ("_internal/specs.py", "import_module"): "--model and recipes name modules of the user's",
    ("_internal/specs.py", "spec_from_file_location"): "--model and recipes name files of the user's",
    ("_internal/specs.py", "exec_module"): "the same file",
    ("cli/main.py", "import_module"): "a subcommand, from a list of ours",
    ("_internal/optional.py", "import_module"): "optional packages, named in our source",
    ("_internal/memory.py", "ctypes"): "two settings of the C library's memory, with numbers of ours",
    ("__init__.py", "import_module"): "our own module of public names",
    (
        "data/arrays.py",
        "pickle",
    ): "batches of CIFAR, by an unpickler that knows what NumPy's arrays need",
}
"""(file, call) -> why it is safe there."""

CALLS = {
    *("import_module", "__import__", "spec_from_file_location", "exec_module", "run_module", "run_path"),
    *("eval", "exec", "compile", "system", "popen", "from_string", "unsafe_load", "full_load", "load_all"),
}
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "subprocess", "pty"}
MODULES |= {"runpy", "code", "codeop", "imp", "ctypes"}
OUR_METHODS = {("re", "compile"), ("torch", "compile"), ("model", "eval"), ("self", "eval")}


def dangers(tree: ast.AST) -> Iterator[str]:
    """The calls and imports of a module that could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield from (name for name in names if name in CALLS)
            if (node.module or "").partition(".")[0] in MODULES:
                yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from dangers_of_call(node)


def dangers_of_call(node: ast.Call) -> Iterator[str]:
    function = node.func
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if isinstance(function, ast.Name):
        if function.id in CALLS:
            yield function.id
        return
    if not isinstance(function, ast.Attribute):
        return
    name = function.attr
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if name == "eval" and not node.args:  # nn.Module.eval()
        return
    if name in CALLS and (owner, name) not in OUR_METHODS:
        yield name
    if name == "load" and owner in ("torch", "np", "numpy", "yaml"):
        safe = {
            "torch": is_constant(keywords.get("weights_only"), True),
            "yaml": isinstance(loader := keywords.get("Loader"), ast.Attribute) and loader.attr.endswith("SafeLoader"),
        }.get(owner, "allow_pickle" not in keywords or is_constant(keywords["allow_pickle"], False))
        if not safe:
            yield f"{owner}.load"
    if name in ("format", "format_map") and not isinstance(function.value, ast.Constant):
        yield name


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_only_listed_places_could_run_what_a_file_says() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 100
    found = {
        (file.relative_to(SOURCE).as_posix(), danger)
        for file in files
        for danger in dangers(ast.parse(file.read_text()))
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import importlib as i\ni.import_module(x)", "import_module"),
        ("from importlib import import_module as f", "import_module"),
        ("__import__(x)", "__import__"),
        ("eval(x)", "eval"),
        ("builtins.exec(x)", "exec"),
        ("os.system(x)", "system"),
        ("from os import system", "system"),
        ("import subprocess", "subprocess"),
        ("from pickle import loads", "pickle"),
        ("import ctypes.util", "ctypes.util"),
        ("torch.load(x)", "torch.load"),
        ("torch.load(x, weights_only=False)", "torch.load"),
        ("torch.load(x, weights_only=y)", "torch.load"),
        ("np.load(x, allow_pickle=True)", "np.load"),
        ("yaml.load(x)", "yaml.load"),
        ("yaml.load(x, Loader=yaml.Loader)", "yaml.load"),
        ("text.format(x)", "format"),
        ("environment.from_string(x)", "from_string"),
    ],
)
def test_the_scan_finds(source: str, danger: str) -> None:
    assert list(dangers(ast.parse(source))) == [danger]


def test_the_scan_leaves_out() -> None:
    harmless = "re.compile(x); model.eval(); torch.load(x, weights_only=True); np.load(x); '{}'.format(x)"
    harmless += "; yaml.load(x, Loader=yaml.SafeLoader); np.load(x, allow_pickle=False); torch.compile(x)"
    assert not list(dangers(ast.parse(harmless)))


# Hostile files through the command line


class Touch:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


class World:
    """A folder of hostile files, whose payloads would create ``marker``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.marker, self.out = folder, folder / "marker", folder / "out"
        self.module = folder / "evil.py"
        self.module.write_text(f"open({str(self.marker)!r}, 'w')\ndef build(*_, **__):\n    raise SystemExit(0)\n")

    def pickled(self) -> bytes:
        return pickle.dumps(Touch(self.marker))

    def checkpoint(self, **description: object) -> list[object]:
        network = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
        path = self.folder / "model.safetensors"
        save_checkpoint(network, path, {"aradals": json.dumps(description)})
        return self.diagnose("--checkpoint", path)

    def diagnose(self, *options: object) -> list[object]:
        return ["diagnose", "--output", self.out, "--data", "digits", "--limit", 50, "--num-subsets", 2, *options]

    def evaluate(self, *options: object) -> list[object]:
        save_checkpoint(
            build_model("small_cnn", num_classes=10, in_channels=1, width=4),
            self.folder / "good.safetensors",
            {"aradals": json.dumps({"model": "small_cnn", "model_args": {"width": 4}, "num_classes": 10})},
        )
        checkpoint = self.folder / "good.safetensors"
        return [
            "evaluate",
            "--output",
            self.out,
            "--data",
            "digits",
            "--limit",
            50,
            "--checkpoint",
            checkpoint,
            *options,
        ]

    def file(self, name: str, content: bytes | str | object) -> Path:
        path = self.folder / name
        if not isinstance(content, bytes | str):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def results(self, content: object) -> list[object]:
        self.file("results.json", content)
        return ["report", self.folder]

    def table(self, name: str, metadata: dict[str, str] | None, **columns: object) -> Path:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), self.folder / name)
        return self.folder / name


def evil_safetensors(world: World) -> list[object]:
    save_file({"weight": torch.zeros(1)}, world.folder / "a.safetensors", {"aradals": f"__import__('{world.module}')"})
    return world.diagnose("--checkpoint", world.folder / "a.safetensors")


def evil_zip(world: World, name: str) -> Path:
    """An archive whose members are pickles, as torch and numpy have them."""
    with zipfile.ZipFile(world.folder / name, "w") as file:
        for member in ("archive/data.pkl", "inputs.npy", "labels.npy", "logits.npy", "label.npy"):
            file.writestr(member, world.pickled())
        file.writestr("archive/version", "3")
    return world.folder / name


def evil_objects(world: World) -> Path:
    objects = np.array([Touch(world.marker)] * 3, dtype=object)
    np.savez(world.folder / "objects.npz", inputs=objects, labels=objects, logits=objects, label=objects)
    return world.folder / "objects.npz"


def postscript(world: World) -> list[object]:
    source = (
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({world.marker}) (w) file closefile\nshowpage\n".encode()
    )
    table = world.table("images.parquet", None, image=[source] * 4, label=[0, 1, 0, 1])
    return [
        "corrupt",
        "--data",
        table,
        "--corruption",
        "fog",
        "--severity",
        "1",
        "--output",
        world.folder / "f.parquet",
    ]


def pickled_type(world: World) -> list[object]:
    """An Arrow extension type as pyarrow once read it: a pickle in the schema."""
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": base64.b64encode(world.pickled()).decode(),
    }
    fields = [pa.field("logits", pa.int64(), metadata=metadata), pa.field("label", pa.int64(), metadata=metadata)]
    pq.write_table(pa.table([[1, 2], [0, 1]], schema=pa.schema(fields)), world.folder / "type.parquet")
    return ["diagnose", "--output", world.out, "--predictions", world.folder / "type.parquet"]


HASHES = {"example_hashes": ""}
ROW = {"method": "a", "calibrator": "none", "corruption": "none", "severity": 0, "subset": None, "n": 5}
DATA = {"name": "a", "num_classes": 2}
LONG_ROW = [[0] * 20_000, *[[0]] * 20_000]

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "a module": {"model": "os:system", "model_args": {"command": "touch marker"}},
    "a module beside": {"model": "evil:build"},
    "a file beside": {"model": "evil.py:build"},
    "a path": {"model": "small_cnn", "model_args": {"width": "evil.py"}},
    "a huge width": {"model": "small_cnn", "model_args": {"width": 10**6}},
    "many channels": {"model": "small_cnn", "model_args": {"in_channels": 10**6}},
    "another argument": {"model": "small_cnn", "model_args": {"spec": 3, "self": 4}},
    "a huge network": {"model": "wide_resnet1996_999999"},
    "a deep network": {"model": "resnet600000002"},
    "many classes": {"model": "small_cnn", "num_classes": 10**12},
    "classes that do not fit": {"model": "small_cnn", "num_classes": 9999},
    "bad base64": {"model": "small_cnn", "fitted_examples": "!!"},
    "half a hash": {"model": "small_cnn", "fitted_examples": "AAAA"},
}
CALIBRATORS: dict[str, object] = {
    "a class": {"method": "os.system", "fitted_on": HASHES},
    "a list": {"method": ["temperature"], "fitted_on": HASHES},
    "an object": {"method": {"temperature": 1}, "fitted_on": HASHES},
    "no hashes": {"method": "temperature", "temperature": 1.0, "fitted_on": {}},
    "hashes in a list": {"method": "temperature", "temperature": 1.0, "fitted_on": ["example_hashes"]},
    "bad hashes": {"method": "temperature", "temperature": 1.0, "fitted_on": {"example_hashes": 3}},
    "bad base64": {"method": "temperature", "temperature": 1.0, "fitted_on": {"example_hashes": "\x1b"}},
    "infinity": '{"method": "temperature", "temperature": 1e999, "fitted_on": {"example_hashes": ""}}',
    "a huge number": {"method": "temperature", "temperature": 10**400, "fitted_on": HASHES},
    "many examples": {
        "method": "isotonic",
        "num_examples": 10**30,
        "knots": [[0], [0]],
        "values": [[0], [0]],
        "fitted_on": HASHES,
    },
    "one long row": {
        "method": "isotonic",
        "num_examples": 5,
        "knots": LONG_ROW,
        "values": LONG_ROW,
        "fitted_on": HASHES,
    },
    "depth": "[" * 200_000,
    "a pickle": pickle.dumps({"method": "temperature"}),
}
RESULTS: dict[str, object] = {
    "nothing": {},
    "a list": [1],
    "depth": "[" * 200_000,
    "a kind that is a list": {"kind": ["study"], "rows": [ROW]},
    "templates": {"kind": "study", "rows": ["{{ cycler.__init__.__globals__.os.system('touch marker') }}"]},
    "rows without data": {"kind": "study", "rows": [ROW]},
    "many subsets": {"kind": "study", "rows": [{**ROW, "subset": 10**12}], "data": DATA},
    "studies without names": {"kind": "studies", "studies": [{"data": {"name": ["../../up"]}}]},
    "studies of text": {"kind": "studies", "studies": "abc"},
    "a diagnosis of nothing": {"kind": "diagnosis", "overall": {"n": "x"}},
    "a diagnosis of many subsets": {"kind": "diagnosis", "overall": {"n": 10**400}, "num_classes": 2, "subsets": 10**9},
}
TABLES: dict[str, tuple[dict[str, str] | None, dict[str, Any]]] = {
    "text": (None, {"logits": ["a", "b"], "label": [0, 1]}),
    "nothing": (None, {"logits": [None, [1.0, 2.0]], "label": [0, 1]}),
    "lists of text": (None, {"logits": [["a", "b"]] * 2, "label": [0, 1]}),
    "deeper lists": (None, {"logits": [[[1.0], [2.0]]] * 2, "label": [0, 1]}),
    "labels out of range": (None, {"logits": [[1.0, 2.0]] * 2, "label": [0, 2**40]}),
    "a score of text": (None, {"logits": [[1.0, 2.0]] * 2, "label": [0, 1], "score": ["a", "b"]}),
    "bad hashes": ({"example_hashes": "!"}, {"logits": [[1.0, 2.0]] * 2, "label": [0, 1]}),
}
SCORE_COLUMNS = ("id", "predicted", "score", "norm", "success", "num_forward", "num_backward")


def predictions(world: World, path: Path) -> list[object]:
    return ["evaluate", "--output", world.out, "--predictions", path]


def weights(world: World, path: Path) -> list[object]:
    return world.diagnose("--model", "small_cnn", "--checkpoint", path)


def scores(world: World, values: list[Any]) -> list[object]:
    return world.evaluate("--scores", world.table("s.parquet", None, **dict.fromkeys(SCORE_COLUMNS, values)))


def calibrator(world: World, content: object) -> list[object]:
    return world.evaluate("--calibrator", world.file("c.json", content))


def stored(world: World, metadata: dict[str, str] | None, columns: dict[str, Any]) -> list[object]:
    return predictions(world, world.table("p.parquet", metadata, **columns))


Commands = Callable[[World], list[object]]
HOSTILE: dict[str, Commands] = {
    "a checkpoint with code for JSON": evil_safetensors,
    "a pickle for a checkpoint": lambda w: weights(w, w.file("a.pt", w.pickled())),
    "a pickle named as a checkpoint": lambda w: weights(w, w.file("a.safetensors", w.pickled())),
    "a pickle in a checkpoint": lambda w: weights(w, evil_zip(w, "a.pt")),
    "pickled data": lambda w: w.evaluate("--data", evil_objects(w)),
    "a pickle in data": lambda w: w.evaluate("--data", evil_zip(w, "a.npz")),
    "a pickle for data": lambda w: w.evaluate("--data", w.file("a.parquet", w.pickled())),
    "PostScript for images": postscript,
    "pickled predictions": lambda w: predictions(w, evil_objects(w)),
    "a pickle in predictions": lambda w: predictions(w, evil_zip(w, "a.npz")),
    "a pickle for predictions": lambda w: predictions(w, w.file("a.parquet", w.pickled())),
    "a pickle in a schema": pickled_type,
    "a pickle for scores": lambda w: w.evaluate("--scores", w.file("s.parquet", w.pickled())),
    "scores of text": lambda w: scores(w, ["a", "b"]),
    "scores of lists": lambda w: scores(w, [[1], [2]]),
    "scores of nothing": lambda w: scores(w, [None, None]),
    **{f"a checkpoint with {name}": partial(World.checkpoint, **given) for name, given in CHECKPOINTS.items()},
    **{f"a calibrator of {name}": partial(calibrator, content=content) for name, content in CALIBRATORS.items()},
    **{f"results of {name}": partial(World.results, content=content) for name, content in RESULTS.items()},
    **{
        f"results of {name}, schema {schema}": partial(World.results, content={"schema": schema, **content})
        for name, content in RESULTS.items()
        if isinstance(content, dict)
        for schema in ("3", "4")
    },
    **{
        f"predictions of {name}": partial(stored, metadata=metadata, columns=columns)
        for name, (metadata, columns) in TABLES.items()
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    torch.set_num_threads(1)
    world = World(tmp_path)
    monkeypatch.chdir(tmp_path)  # where modules would be found
    code = main(list(map(str, HOSTILE[name](world))))
    ran = capsys.readouterr()
    assert not world.marker.exists()
    assert (code, ran.out) == (2, ""), ran.err
    (line,) = ran.err.splitlines()
    assert line.startswith("error: expected ")
    assert len(line) < 4000
    assert line.isprintable()


def test_the_payloads_work(tmp_path: Path) -> None:
    """Where the user names the code it runs, and a pickle that is read does too."""
    world = World(tmp_path)
    main(list(map(str, world.diagnose("--model", f"{world.module}:build"))))
    assert world.marker.exists()
    world.marker.unlink()
    pickle.loads(world.pickled())
    assert world.marker.exists()


def test_code_that_the_user_names_takes_the_numbers_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    world = World(tmp_path)
    source = "from aradals.models import SmallCNN\n\n"
    source += "def build(width, scale=1, **sizes):\n    return SmallCNN(width=int(width), **sizes)\n"
    named = f"{world.file('net.py', source)}:build"
    path = world.folder / "model.safetensors"
    network = build_model("small_cnn", num_classes=10, in_channels=1, width=4)

    def run(model_args: dict[str, object], *options: str) -> int:
        description = {"model": named, "num_classes": 10, "model_args": model_args}
        save_checkpoint(network, path, {"aradals": json.dumps(description)})
        output = str(world.folder / "s.parquet")
        data = ["--data", "digits", "--limit", "20", "--attack", "logit_margin", "--output", output]
        return main(["score", "--checkpoint", str(path), *data, *options])

    assert run({"width": 4}, "--model", named) == 0
    assert run({"width": "4"}, "--model", named, "--model-args", "{width: 4}") == 0
    capsys.readouterr()
    assert run({"width": "4"}, "--model", named) == 2
    assert "got width: '4'; try --model-args" in capsys.readouterr().err
    assert run({"width": 4}) == 2
    assert "code that only a file names is not run" in capsys.readouterr().err
