"""`aradals diagnose --model file.py:callable` with models in the styles that are found in the wild.

All of them compute the same linear classifier of digits, so that the right numbers are known without any of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from aradals.cli.main import main
from aradals.data import load_data
from aradals.models import build_model, save_checkpoint
from aradals.pipeline.artifacts import load_predictions, load_scores
from aradals.results import Results
from aradals.results.files import parse

NUM_EXAMPLES = 60

HEADER = """
from pathlib import Path
import torch
from torch import nn
import torch.nn.functional as F

HERE = Path(__file__).parent

class Linear(nn.Module):
    def __init__(self, num_classes=10, num_pixels=64):
        super().__init__()
        self.fc = nn.Linear(num_pixels, num_classes)
    def forward(self, x):
        return self.fc(x.flatten(1))

def trained(model):
    model.load_state_dict(torch.load(HERE / "weights.pt"))
    return model
"""

STYLES = {
    "function that loads its weights": """
def build():
    return trained(Linear())
""",
    "class with num_classes": """
class build(Linear):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        trained(self)
""",
    "keyword arguments swallowed and checked deeper": """
def build(pretrained=True, **kwargs):
    return trained(Linear(**kwargs))
""",
    "instance in the module": """
build = trained(Linear())
""",
    "classmethod": """
class Zoo:
    @classmethod
    def build(cls):
        return trained(Linear())
build = Zoo.build
""",
    "sequential": """
def build():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].load_state_dict(trained(Linear()).fc.state_dict())
    return model
""",
    "normalization inside": """
class build(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3]).view(1, 1, 1, 1))
        self.register_buffer("std", torch.tensor([0.2]).view(1, 1, 1, 1))
        self.net = trained(Linear())
        with torch.no_grad():
            self.net.fc.bias += self.net.fc.weight.sum(1) * 0.3
            self.net.fc.weight *= 0.2
    def forward(self, x):
        return self.net((x - self.mean) / self.std)
""",
    "normalization in place": """
class build(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = trained(Linear())
        with torch.no_grad():
            self.net.fc.bias += self.net.fc.weight.sum(1) * 0.3
            self.net.fc.weight *= 0.2
    def forward(self, x):
        return self.net(x.sub_(0.3).div_(0.2))
""",
    "ReLU in place": """
class build(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.net = trained(Linear())
    def forward(self, x):
        return self.net(self.relu(x + 1) - 1)
""",
    "left in training mode with dropout and batch norm": """
class build(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.net = nn.BatchNorm2d(1, eps=0), nn.Dropout(0.9), trained(Linear())
        self.train()
    def forward(self, x):
        return self.net(self.dropout(self.norm(x)))
""",
    "frozen": """
def build():
    model = trained(Linear()).requires_grad_(False)
    return model.eval()
""",
    "double precision": """
def build():
    return trained(Linear()).double()
""",
    "half precision": """
def build():
    return trained(Linear()).half()
""",
    "bfloat16": """
def build():
    return trained(Linear()).bfloat16()
""",
    "autocast inside": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)
""",
    "modules beside the file": """
from layers import Head
def build():
    import helpers
    model = Head(64, 10)
    model.load_state_dict(helpers.load(HERE / "weights.pt"))
    return model
""",
    "auxiliary output in training only": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def forward(self, x, return_features=None):
        logits = super().forward(x)
        return (logits, None) if self.training else logits
""",
    "DataParallel": """
def build():
    return nn.DataParallel(trained(Linear()))
""",
    "scripted": """
def build():
    return torch.jit.script(trained(Linear()))
""",
    "traced": """
def build():
    return torch.jit.trace(trained(Linear()), torch.rand(2, 1, 8, 8))
""",
    "resizes its input": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def forward(self, x):
        return super().forward(F.avg_pool2d(F.interpolate(x, (16, 16)), 2))
""",
    "log-softmax at the end": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def forward(self, x):
        return F.log_softmax(super().forward(x), dim=1)
""",
    "tuple": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def forward(self, x):
        return super().forward(x), None
""",
    "logits and features": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def forward(self, x):
        return {"features": x.flatten(1), "logits": super().forward(x)}
""",
    "maps of one pixel": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def forward(self, x):
        return super().forward(x)[:, :, None, None]
""",
    "squeezes the batch dimension away": """
class build(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 10, 8)
        fc = trained(Linear()).fc
        with torch.no_grad():
            self.net.weight.copy_(fc.weight.view(10, 1, 8, 8))
            self.net.bias.copy_(fc.bias)
    def forward(self, x):
        return self.net(x).squeeze()
""",
    "weights that are no parameters": """
class build(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = torch.load(HERE / "weights.pt")
    def forward(self, x):
        return x.flatten(1) @ self.weights["fc.weight"].T + self.weights["fc.bias"]
""",
    "sparse buffer": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
        self.register_buffer("adjacency", torch.eye(3).to_sparse())
""",
    "state that is no tensor": """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def get_extra_state(self):
        return {"version": 3}
""",
    "talks": """
print("importing")
def build():
    print("=> creating model")
    return trained(Linear())
""",
}

COARSE = {"half precision": 2e-3, "bfloat16": 2e-2, "autocast inside": 2e-2}
"""Tolerance of probabilities where arithmetic is not float32."""


@dataclass(frozen=True)
class Truth:
    """The linear classifier, computed with NumPy alone, and the data it is judged on."""

    weight: np.ndarray
    bias: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray

    @property
    def probs(self) -> np.ndarray:
        logits = self.inputs @ self.weight.T + self.bias
        unnormalized = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(unnormalized / unnormalized.sum(1, keepdims=True))

    @property
    def distances(self) -> np.ndarray:
        """Exact distance to the nearest boundary, without the box, which can only lengthen it."""
        logits = self.inputs @ self.weight.T + self.bias
        found = []
        for row in logits:
            top = row.argmax()
            others = [k for k in range(len(row)) if k != top]
            found.append(min((row[top] - row[k]) / np.linalg.norm(self.weight[top] - self.weight[k]) for k in others))
        return np.array(found)


@pytest.fixture(scope="module")
def truth() -> Truth:
    """A classifier of digits by ridge regression."""
    train = load_data("digits", "train")
    (_, inputs, labels), *_ = train.batches(len(train))
    features = torch.cat([inputs.flatten(1), torch.ones(len(train), 1)], 1)
    penalized = features.T @ features + torch.eye(65)
    solution = 8 * torch.linalg.solve(penalized, features.T @ torch.eye(10)[labels])
    (_, tested, tested_labels), *_ = load_data("digits", "test", limit=NUM_EXAMPLES).batches(NUM_EXAMPLES)
    return Truth(
        solution[:-1].T.double().numpy(),
        solution[-1].double().numpy(),
        tested.flatten(1).double().numpy(),
        tested_labels.numpy(),
    )


@pytest.fixture
def folder(tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model files lie, with the weights; reports, which other tests look at, are left out."""
    monkeypatch.setattr("aradals.results.Results.report", lambda results, path: None)
    state = {"fc.weight": torch.tensor(truth.weight).float(), "fc.bias": torch.tensor(truth.bias).float()}
    torch.save(state, tmp_path / "weights.pt")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "parallel.pt")
    (tmp_path / "layers.py").write_text(HEADER + "\nHead = lambda pixels, classes: Linear(classes, pixels)\n")
    (tmp_path / "helpers.py").write_text("import torch\ndef load(path):\n    return torch.load(path)\n")
    return tmp_path


Diagnose = Callable[..., Results]


@pytest.fixture
def diagnose(folder: Path, capsys: pytest.CaptureFixture[str]) -> Diagnose:
    """Write the source of a model to a file, diagnose it, and return the diagnosis as printed."""

    def run(source: str, *arguments: str) -> Results:
        (folder / "model.py").write_text(HEADER + source)
        code = main(_command(folder, *arguments, "--json"))
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return parse(json.loads(printed.out))

    return run


def _command(folder: Path, *arguments: str) -> list[str]:
    data = [] if "--data" in arguments else ["--data", "digits", "--limit", str(NUM_EXAMPLES)]
    model = ["--model", f"{folder / 'model.py'}:build"]
    return ["diagnose", *model, *data, "--num-subsets", "3", "--output", str(folder / "out"), *arguments]


def _expect(found: Results, probs: np.ndarray, labels: np.ndarray, tolerance: float = 1e-5) -> None:
    overall, correct = found.rows[0], probs.argmax(1) == labels
    assert overall.n == len(labels)
    ties = 1 / len(labels) if tolerance > 1e-2 else 0.0  # rounding to 8 bits may decide one of the predictions
    nll = -np.log(probs[np.arange(len(labels)), labels]).mean()
    assert overall["accuracy"].value == pytest.approx(correct.mean(), abs=ties + 1e-9)
    assert overall["confidence"].value == pytest.approx(probs.max(1).mean(), abs=tolerance)
    assert overall["nll"].value == pytest.approx(nll, abs=10 * tolerance)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_gives_the_numbers_of_the_classifier(
    style: str, diagnose: Diagnose, folder: Path, truth: Truth
) -> None:
    found = diagnose(STYLES[style])
    tolerance = COARSE.get(style, 1e-5)
    _expect(found, truth.probs, truth.labels, tolerance)
    overall, *subsets = found.rows
    assert [(row.subset, row.n) for row in subsets] == [(0, 20), (1, 20), (2, 20)]
    assert np.mean([row["accuracy"].value for row in subsets]) == pytest.approx(overall["accuracy"].value)
    scores, _ = load_scores(folder / "out" / "scores" / "scores.parquet")
    # Steps on logits that are rounded to 8 bits behind a float32 input may not get across.
    assert scores.num_failed <= (15 if style == "autocast inside" else 0)
    assert (scores.predicted.numpy() != truth.probs.argmax(1)).sum() <= (1 if style in COARSE else 0)
    slack = 0.02 if style in COARSE else 1e-4
    assert (scores.score.numpy() >= truth.distances - slack).all()
    assert np.median(scores.score.numpy() / truth.distances) < 1.5 + slack


def test_weights_of_data_parallel_fit_the_bare_model(diagnose: Diagnose, folder: Path, truth: Truth) -> None:
    found = diagnose("\ndef build():\n    return Linear()\n", "--checkpoint", str(folder / "parallel.pt"))
    _expect(found, truth.probs, truth.labels)


def test_weights_fit_lazy_layers(diagnose: Diagnose, folder: Path, truth: Truth) -> None:
    source = """
class build(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.LazyLinear(num_classes)
    def forward(self, x):
        return self.fc(x.flatten(1))
"""
    found = diagnose(source, "--checkpoint", str(folder / "weights.pt"))
    _expect(found, truth.probs, truth.labels)


def test_the_number_of_classes_can_be_given(diagnose: Diagnose, folder: Path) -> None:
    torch.save({"fc.weight": torch.randn(12, 64), "fc.bias": torch.zeros(12)}, folder / "weights.pt")
    found = diagnose(STYLES["class with num_classes"], "--model-args", "{num_classes: 12}")
    assert found.data.num_classes == 12


def test_package_in_the_working_directory(
    diagnose: Diagnose, folder: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = folder / "someones_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(HEADER.replace(".parent", ".parents[1]") + STYLES["class with num_classes"])
    monkeypatch.chdir(folder)
    found = diagnose("", "--model", "someones_package.nets:build")
    _expect(found, truth.probs, truth.labels)


@pytest.mark.parametrize("num_classes", [2, 200])
def test_any_number_of_classes(num_classes: int, diagnose: Diagnose, folder: Path, truth: Truth) -> None:
    kept = truth.labels < num_classes
    weight, bias = np.zeros((num_classes, 64)), np.full(num_classes, -30.0)
    weight[:10], bias[:10] = truth.weight[:num_classes], truth.bias[:num_classes]
    state = {"fc.weight": torch.tensor(weight).float(), "fc.bias": torch.tensor(bias).float()}
    torch.save(state, folder / "weights.pt")
    inputs, labels = truth.inputs[kept].reshape(-1, 1, 8, 8).astype(np.float32), truth.labels[kept]
    np.savez(folder / "kept.npz", inputs=inputs, labels=labels)
    found = diagnose(f"\ndef build():\n    return trained(Linear({num_classes}))\n", "--data", str(folder / "kept.npz"))
    assert found.data.num_classes == len(found.data.class_names) == num_classes
    _expect(found, Truth(weight, bias, truth.inputs[kept], labels).probs, labels)


def test_report_of_many_classes_whose_data_shows_few(
    diagnose: Diagnose, folder: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    weight, bias = np.vstack([truth.weight, np.zeros((190, 64))]), np.append(truth.bias, np.full(190, -30.0))
    torch.save(
        {"fc.weight": torch.tensor(weight).float(), "fc.bias": torch.tensor(bias).float()}, folder / "weights.pt"
    )
    diagnose("\ndef build():\n    return trained(Linear(200))\n")
    assert "200 classes" in (folder / "out" / "report.html").read_text()


def test_dropout_that_never_stops_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.py").write_text(
        HEADER
        + """
class build(Linear):
    def __init__(self):
        super().__init__()
        trained(self)
    def forward(self, x):
        return super().forward(F.dropout(x, 0.2, training=True))
"""
    )
    assert main(_command(folder)) == 2
    assert "% of their spread between two equal calls; try a model whose dropout" in capsys.readouterr().err


def test_changed_code_is_noticed_though_the_weights_are_the_same(
    diagnose: Diagnose, folder: Path, truth: Truth
) -> None:
    style = STYLES["log-softmax at the end"]
    before = diagnose(style)
    softened = diagnose(style.replace("super().forward(x)", "super().forward(x) / 2"), "--overwrite")
    assert softened.rows[0]["accuracy"] == before.rows[0]["accuracy"]
    assert softened.rows[0]["confidence"].value < before.rows[0]["confidence"].value - 0.05
    _expect(before, truth.probs, truth.labels)
    predictions, _ = load_predictions(folder / "out" / "predictions" / "predictions-none-0.parquet")
    halved = Truth(truth.weight / 2, truth.bias / 2, truth.inputs, truth.labels)
    torch.testing.assert_close(predictions.probs, torch.tensor(halved.probs), atol=1e-5, rtol=0)


USELESS = {
    "no_grad": ("    @torch.no_grad()\n    def forward(self, x):\n        return super().forward(x)", "gradient"),
    "inference_mode": (
        "    @torch.inference_mode()\n    def forward(self, x):\n        return super().forward(x)",
        "gradient",
    ),
    "numpy": (
        "    def forward(self, x):\n        return torch.from_numpy(super().forward(x).detach().numpy())",
        "gradient",
    ),
    "breaks its own gradient": (
        "    def forward(self, x):\n        x = torch.sigmoid(x)\n        y = x * 1\n        x.mul_(2)\n"
        "        return super().forward(y + x.exp_())",
        "gradient",
    ),
    "several entries": (
        "    def forward(self, x):\n        return super().forward(x), x.flatten(1)",
        "tuple with 0 of",
    ),
    "nothing": ("    def forward(self, x):\n        pass", "NoneType"),
    "percentages": ("    def forward(self, x):\n        return 100 * super().forward(x).softmax(1)", "percentages"),
    "sigmoids": ("    def forward(self, x):\n        return super().forward(x).sigmoid()", "sigmoids"),
    "features": (
        "    def forward(self, x):\n        return torch.cat([super().forward(x), 99 + x.flatten(1)], 1)",
        "74 outputs",
    ),
    "softmax": ("    def forward(self, x):\n        return super().forward(x).softmax(1)", "probabilities"),
    "NaN": ("    def forward(self, x):\n        return super().forward(x) * float('nan')", "NaN"),
    "raises": ("    def forward(self, x):\n        raise KeyError('layer4')", "layer4"),
    "three channels": ("    def forward(self, x):\n        return super().forward(x[:, [0, 1, 2]])", "shape"),
    "classes for tokens": (
        "    def forward(self, x):\n        return super().forward(x)[:, None].repeat(1, 4, 1)",
        "4",
    ),
}


@pytest.mark.parametrize("what", USELESS)
def test_models_without_logits_or_gradients_are_refused_in_one_line(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, says = USELESS[what]
    source = (
        f"class build(Linear):\n    def __init__(self):\n        super().__init__()\n        trained(self)\n{forward}"
    )
    (folder / "model.py").write_text(f"{HEADER}\n{source}\n")
    assert main(_command(folder)) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = (line for line in lines if not line.startswith("warning: the model is right for "))
    assert line.startswith("error: expected ")
    assert says in line.partition(", got ")[2]
    assert not list((folder / "out").glob("**/*.parquet"))


def test_a_model_that_writes_into_its_input_does_not_change_the_data(diagnose: Diagnose, truth: Truth) -> None:
    (_, inputs, _), *_ = load_data("digits", "test", limit=NUM_EXAMPLES).batches(NUM_EXAMPLES)
    diagnose(STYLES["normalization in place"])
    again: Tensor = next(iter(load_data("digits", "test", limit=NUM_EXAMPLES).batches(NUM_EXAMPLES)))[1]
    assert torch.equal(inputs, again)
    np.testing.assert_allclose(again.flatten(1).numpy(), truth.inputs)


def test_a_network_without_weights_is_called_untrained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.py").write_text("from aradals.models import SmallCNN as build")
    arguments = [
        "--data",
        "digits",
        "--limit",
        "20",
        "--num-subsets",
        "2",
        "--overwrite",
        "--output",
        str(folder / "out"),
    ]
    for model, is_built_in in (("small_cnn", True), (f"{folder / 'model.py'}:build", False)):
        torch.manual_seed(0)  # there are random weights so poor that nothing depends on the input, which is refused
        assert main(["diagnose", "--model", model, "--model-args", "{width: 4, num_classes: 10}", *arguments]) == 0
        assert ("untrained" in capsys.readouterr().err) == is_built_in


def test_a_folder_that_lacks_a_class_has_the_models_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = build_model("small_cnn", num_classes=3, in_channels=1, width=4)
    description = {"model": "small_cnn", "model_args": {"width": 4}, "num_classes": 3, "class_names": ["a", "b", "c"]}
    save_checkpoint(network, folder / "model.safetensors", {"aradals": json.dumps(description)})
    command = ["diagnose", "--checkpoint", str(folder / "model.safetensors"), "--data", str(folder / "photos")]
    for name, code in (("c", 2), ("b", 0), ("a", 0)):  # one class alone may be a folder of any images
        (folder / "photos" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "photos" / name / "1.png")
        assert main([*command, "--num-subsets", "1", "--output", str(folder / f"out-{name}")]) == code
        said = capsys.readouterr()
        assert ("folders of two or more classes" in said.err) == (code == 2)
    shown = json.loads((folder / "out-a" / "diagnosis.json").read_text())["classes"]
    assert [(each["label"], each["name"]) for each in shown] == [(0, "a"), (1, "b"), (2, "c")]
