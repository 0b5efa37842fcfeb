"""Networks of other packages, programs, functions and LightningModules, through `--model` and in Python.

timm and torchvision are small stand-ins here, with the part of the documented interface that is used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.data import Examples
from aradals.errors import InputError, MissingExtraError
from aradals.inference.outputs import FunctionModel
from aradals.models import Normalize, build_model, load_model
from aradals.models.preprocessing import Preprocessed, Preprocessing, named_constants, of_processor, resized
from aradals.pipeline.classifier import Classifier, load_classifier

INPUTS = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
EXAMPLES = Examples(INPUTS, torch.arange(40) % 4, num_classes=4)


class Net(nn.Module):
    """A network whose normalization is outside."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(images).relu().mean((2, 3)))
        return logits


def net(seed: int = 0, num_classes: int = 4) -> Net:
    torch.manual_seed(seed)
    return Net(num_classes)


@dataclass
class Builder:
    """`create_model` of timm and `get_model` of torchvision; it remembers the arguments."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, name: str, num_classes: int = 4, **arguments: Any) -> nn.Module:
        self.calls.append({"name": name, "num_classes": num_classes, **arguments})
        return net(0, num_classes)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Builder:
    module, builder = ModuleType("timm"), Builder()
    config = {"input_size": (3, 8, 8), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8}
    config |= {"interpolation": "bicubic", "crop_mode": "center"}
    info = SimpleNamespace(label_descriptions=lambda: ["ant", "bee", "cat", "dog"])
    vars(module).update(
        create_model=builder,
        data=SimpleNamespace(
            resolve_model_data_config=lambda model: config,
            infer_imagenet_subset=lambda model: "imagenet-1k" if model.fc.out_features == 4 else None,
            ImageNetInfo=lambda subset: info,
        ),
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return builder


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Builder:
    module, builder = ModuleType("torchvision"), Builder()

    class Interpolation(Enum):
        BILINEAR = "bilinear"

    transforms = SimpleNamespace(
        crop_size=[8], resize_size=[10], mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], interpolation=Interpolation.BILINEAR
    )
    weights = SimpleNamespace(transforms=lambda: transforms, meta={"categories": ["ant", "bee", "cat", "dog"]})
    models = SimpleNamespace(get_model=builder, get_model_weights=lambda name: SimpleNamespace(DEFAULT=weights))
    vars(module).update(models=models)
    monkeypatch.setitem(sys.modules, "torchvision", module)
    return builder


def load(spec: str | None, checkpoint: Path | None = None, **settings: Any) -> tuple[Classifier, list[str]]:
    log: list[str] = []
    return load_classifier(spec, checkpoint, EXAMPLES, device="cpu", log=log.append, **settings), log


def outputs_of(classifier: Classifier, inputs: Tensor = INPUTS) -> Tensor:
    with torch.no_grad():
        logits: Tensor = classifier.model(inputs)
    return logits


MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_a_pretrained_network_gets_its_normalization_and_class_names(
    source: str, request: pytest.FixtureRequest
) -> None:
    builder: Builder = request.getfixturevalue(source)
    found, log = load(f"{source}:net")
    assert outputs_of(found).allclose(net()((INPUTS - MEAN) / STD), atol=1e-6)
    assert found.class_names == ("ant", "bee", "cat", "dog")
    assert f"{source}:net: images of another size are resized to 8x8 pixels" in log[0]
    assert "mean 0.1 0.2 0.3, std 0.4 0.5 0.6" in log[0]
    assert found.origin["preprocessing"] in log[0]
    (call,) = builder.calls
    assert call["name"] == "net"
    assert call.get("pretrained", True) is True
    assert call.get("weights", True)


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_with_a_checkpoint_it_has_the_classes_of_the_data(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    builder: Builder = request.getfixturevalue(source)
    torch.save({"state_dict": net(1).state_dict()}, tmp_path / "weights.pth.tar")
    found, _ = load(f"{source}:net", tmp_path / "weights.pth.tar")
    assert outputs_of(found).allclose(net(1)((INPUTS - MEAN) / STD), atol=1e-6)
    assert found.class_names == ()
    assert builder.calls[0]["num_classes"] == 4
    assert not builder.calls[0].get("pretrained", False)
    assert not builder.calls[0].get("weights")
    model = load_model(tmp_path / "weights.pth.tar", f"{source}:net", num_classes=4)
    assert model(INPUTS).allclose(outputs_of(found), atol=1e-6)


def test_images_of_another_size_are_resized_as_the_weights_expect(torchvision: Builder) -> None:
    model = build_model("torchvision:net")
    large = torch.rand(2, 3, 20, 30)
    wide = F.interpolate(large, (10, 15), mode="bilinear", antialias=True)[:, :, 1:9, 4:12]
    assert model(large).allclose(net()((wide - MEAN) / STD), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "extra"), [("timm", "models"), ("torchvision", "models"), ("transformers", "transformers")]
)
def test_without_the_package(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"ar-adals\[{extra}\]"):
        build_model(f"{name}:resnet18")


SOURCE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, num_classes)
    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))
"""


@pytest.mark.parametrize(
    ("given", "prepare"),
    [
        ({"mean": "imagenet"}, lambda x: Normalize(3)(x)),
        ({"mean": "0.5", "std": "0.25"}, lambda x: (x - 0.5) / 0.25),
        ({"mean": "0.1,0.2,0.3", "std": "[0.4, 0.5, 0.6]"}, lambda x: (x - MEAN) / STD),
        ({"bounds": "-1,1"}, lambda x: 2 * x - 1),
        ({"bounds": "0,255"}, lambda x: 255 * x),
        ({"bounds": "0,255", "mean": "100", "std": "50"}, lambda x: (255 * x - 100) / 50),
        ({}, lambda x: x),
    ],
)
def test_normalization_that_is_not_part_of_the_model(
    given: dict[str, str], prepare: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text(SOURCE)
    preprocessing = named_constants(given.get("mean"), given.get("std"), given.get("bounds"))
    found, log = load(f"{tmp_path / 'model.py'}:Net", preprocessing=preprocessing)
    assert outputs_of(found).allclose(net()(prepare(INPUTS)), atol=1e-4)
    assert bool(log) == bool(given)


def test_it_replaces_that_of_a_source(timm: Builder) -> None:
    found, log = load("timm:net", preprocessing=named_constants("0.5", "0.5", None))
    assert outputs_of(found).allclose(net()(2 * INPUTS - 1), atol=1e-6)
    assert "mean 0.5, std 0.5" in log[0]
    assert found.weights != load("timm:net")[0].weights  # a calibrator of the one is not that of the other


@pytest.mark.parametrize(
    ("mean", "std", "bounds", "says"),
    [
        ("0.5", None, None, "both --mean and --std"),
        (None, "0.5", None, "both --mean and --std"),
        ("cifar", "0.5", None, "imagenet, cifar10"),
        (None, None, "1", "--bounds LOW,HIGH"),
        (None, None, "1,-1", "--bounds LOW,HIGH"),
    ],
)
def test_bad_constants(mean: str | None, std: str | None, bounds: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        named_constants(mean, std, bounds)


def test_a_built_in_network_normalizes_itself() -> None:
    with pytest.raises(InputError, match="--model-args"):
        load("small_cnn", preprocessing=named_constants("imagenet", None, None))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
class TestPrograms:
    @pytest.mark.parametrize("size", ["one", "any"])
    def test_an_exported_program(self, size: str, tmp_path: Path) -> None:
        model = nn.Sequential(net(), nn.Dropout()).eval()
        shapes = ({0: torch.export.Dim.AUTO},) if size == "any" else None
        program = torch.export.export(model, (INPUTS[:7],), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "model.pt2")
        found, log = load(str(tmp_path / "model.pt2"))
        assert log == []
        for num in (1, 7, 40):
            assert outputs_of(found, INPUTS[:num]).allclose(model(INPUTS[:num]), atol=1e-6)
        found.model.train()
        assert outputs_of(found).allclose(model(INPUTS), atol=1e-6)

    @pytest.mark.parametrize("name", ["model.pt", "model.ts"])
    def test_torchscript(self, name: str, tmp_path: Path) -> None:
        torch.jit.trace(net(), INPUTS[:2]).save(tmp_path / name)
        found, _ = load(str(tmp_path / name))
        assert outputs_of(found).allclose(net()(INPUTS), atol=1e-6)
        with pytest.raises(InputError, match=r"a TorchScript program; try --model"):
            load("small_cnn", tmp_path / name)

    def test_weights_are_no_program(self, tmp_path: Path) -> None:
        torch.save(net().state_dict(), tmp_path / "model.pt")
        with pytest.raises(InputError, match=r"has only weights; try --checkpoint"):
            load(str(tmp_path / "model.pt"))
        with pytest.raises(InputError, match="not a file"):
            load(str(tmp_path / "absent.pt2"))


def test_a_plain_function_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE + "network = Net()\ndef predict(x):\n    return {'out': network(x)}\n")
    found, log = load(f"{tmp_path / 'model.py'}:predict")
    assert outputs_of(found).allclose(net()(INPUTS), atol=1e-6)
    assert log == ["outputs of the model: the entry 'out' of dict"]
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"with unknown conv.bias"):
        load(f"{tmp_path / 'model.py'}:predict", tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("arguments", "is_function"),
    [
        ("images", True),
        ("whatever: torch.Tensor", True),
        ("x, temperature=1.0", True),
        ("config", False),
        ("num_classes", False),
        ("x, y", False),
    ],
)
def test_what_is_taken_for_a_function_of_the_inputs(arguments: str, is_function: bool, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(f"import torch\ndef f({arguments}):\n    return torch.nn.Linear(3, 4)\n")
    if is_function or arguments == "num_classes":
        model = build_model(f"{tmp_path / 'model.py'}:f", num_classes=4)
        assert isinstance(model, FunctionModel) == is_function
    else:
        with pytest.raises(InputError, match="missing"):
            build_model(f"{tmp_path / 'model.py'}:f", num_classes=4)


LIT = """
import torch
from torch import nn
from lightning.pytorch import LightningModule
class Lit(LightningModule):
    def __init__(self, width, activation="ReLU", lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(192, width), getattr(nn, activation)(), nn.Linear(width, 4))
        self.criterion = nn.CrossEntropyLoss(torch.ones(4))
    def forward(self, x):
        return self.model(x)
"""


def lit_checkpoint(folder: Path, **arguments: Any) -> Tensor:
    from lightning.pytorch import Trainer

    from aradals._internal.specs import imported

    (folder / "lit.py").write_text(LIT)
    with imported(f"{folder / 'lit.py'}:Lit", "build a model") as lit:
        module: Any = lit(**arguments)  # type: ignore[operator]
        trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
        trainer.strategy.connect(module)
        trainer.save_checkpoint(folder / "last.ckpt")
    logits: Tensor = module.eval()(INPUTS)
    return logits.detach()


def test_a_lightning_module_gets_its_hyper_parameters(tmp_path: Path) -> None:
    expected = lit_checkpoint(tmp_path, width=5, activation="Tanh")
    found, _ = load(f"{tmp_path / 'lit.py'}:Lit", tmp_path / "last.ckpt")
    assert outputs_of(found).allclose(expected, atol=1e-6)
    model = load_model(tmp_path / "last.ckpt", f"{tmp_path / 'lit.py'}:Lit")
    assert model(INPUTS).allclose(expected, atol=1e-6)
    with pytest.raises(InputError, match="of shape"):
        load(f"{tmp_path / 'lit.py'}:Lit", tmp_path / "last.ckpt", model_args={"width": 6})


@pytest.mark.parametrize("value", ["../x.pt", "a b", {"deep": 1}])
def test_a_hyper_parameter_that_could_be_a_path_is_not_used(value: object, tmp_path: Path) -> None:
    lit_checkpoint(tmp_path, width=5)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["hyper_parameters"]["activation"] = value
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"got activation: .*--model-args"):
        load(f"{tmp_path / 'lit.py'}:Lit", tmp_path / "last.ckpt")


PROCESSORS: list[tuple[dict[str, Any], Preprocessing]] = [
    (
        {"size": {"height": 8, "width": 6}, "image_mean": [0.5], "image_std": [0.2], "resample": 3},
        Preprocessing((0.5,), (0.2,), resize=(8, 6), mode="bicubic"),
    ),
    (
        {"size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}},
        Preprocessing(resize=10, crop=(8, 8)),
    ),
    ({"size": 224, "do_normalize": False, "image_mean": [0.5]}, Preprocessing(resize=(224, 224))),
    ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, Preprocessing(resize=256, crop=(224, 224))),
    ({"do_resize": False, "do_rescale": False}, Preprocessing(bounds=(0.0, 255.0))),
]


@pytest.mark.parametrize(("config", "expected"), PROCESSORS)
def test_processors_of_transformers(config: dict[str, Any], expected: Preprocessing) -> None:
    assert of_processor(config) == expected


def test_images_of_the_right_size_stay_as_they_are() -> None:
    assert resized(INPUTS, Preprocessing(resize=10, crop=(8, 8))) is INPUTS
    assert resized(INPUTS, Preprocessing(crop=(6, 4))).equal(INPUTS[:, :, 1:7, 2:6])


def test_a_text_classifier_of_transformers_is_sent_to_its_own_function(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(**sizes, vocab_size=10)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    for pretrained in (True, False):
        with pytest.raises(InputError, match=r"another kind.*integrations\.transformers\.embedded"):
            build_model(f"transformers:{tmp_path / 'bert'}", num_classes=2, pretrained=pretrained)


def test_an_image_classifier_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(
        **sizes, image_size=8, patch_size=4, id2label=dict(enumerate(["ant", "bee", "cat", "dog"]))
    )
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    spec = f"transformers:{tmp_path / 'vit'}"
    with pytest.raises(InputError, match=r"the class AutoModel"):
        load("transformers:AutoModelForImageClassification", tmp_path / "vit")
    with pytest.raises(InputError, match=r"preprocessor_config.json .*--mean and --std"):
        load(spec)
    processor = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    found, log = load(spec)
    expected = model(2 * INPUTS - 1).logits
    assert outputs_of(found).allclose(expected, atol=1e-5)
    assert found.class_names == ("ant", "bee", "cat", "dog")
    assert "outputs of the model: the entry 'logits' of ImageClassifierOutput" in log
    # Weights of a training that went on, for the configuration in the folder.
    with torch.no_grad():
        model.classifier.bias.add_(1)
    torch.save({"model": model.state_dict()}, tmp_path / "tuned.pt")
    tuned, _ = load(spec, tmp_path / "tuned.pt")
    assert outputs_of(tuned).allclose(expected + 1, atol=1e-5)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aradals.cli.main import main

    (tmp_path / "model.py").write_text(SOURCE)
    np.savez(tmp_path / "data.npz", inputs=INPUTS.numpy(), labels=EXAMPLES.labels.numpy())
    command = ["score", "--model", f"{tmp_path / 'model.py'}:Net", "--data", str(tmp_path / "data.npz")]
    command += ["--attack", "logit_margin", "--device", "cpu", "--output", str(tmp_path / "scores.parquet")]
    assert main([*command, "--bounds=-1,1", "--output-kind", "logits", "--mean", "imagenet"]) == 0
    assert "values from -1 to 1, mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in capsys.readouterr().err
    assert main([*command, "--output-kind", "scores"]) == 2
    assert main([*command, "--device", "cuda:7"]) == 2


def test_preprocessed_checks_the_channels() -> None:
    with pytest.raises(InputError, match="for each of 1 channels"):
        Preprocessed(net(), Preprocessing((0.1, 0.2, 0.3), (1.0,)), 1)


def test_options_of_a_model_are_refused_beside_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aradals.cli.main import main

    np.savez(tmp_path / "p.npz", logits=np.eye(3, dtype=np.float32) - 0.5, labels=np.arange(3))
    command = ["diagnose", "--predictions", str(tmp_path / "p.npz"), "--output", str(tmp_path / "out")]
    assert main([*command, "--bounds", "0,255"]) == 2
    assert "both (also --bounds)" in capsys.readouterr().err
