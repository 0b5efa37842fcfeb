from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from aradals.errors import InputError
from aradals.models import PreActResNet, ResNet, SmallCNN, WideResNet, build_model, build_untrained, list_models

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.linear = nn.Linear(width, num_classes)
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    return tmp_path / "my_model.py"


@pytest.mark.parametrize(
    ("spec", "network", "convolutions"),
    [
        ("resnet20", ResNet, 19),
        ("ResNet-20", ResNet, 19),
        ("resnet_56", ResNet, 55),
        ("resnet29_v2", PreActResNet, 28 + 3),
        ("ResNet-29-v2", PreActResNet, 28 + 3),
        ("wide_resnet16_1", WideResNet, 13 + 2),
        ("WideResNet-16-2", WideResNet, 13 + 3),
        ("small_cnn", SmallCNN, 6),
        ("Small-CNN", SmallCNN, 6),
    ],
)
def test_built_in_names(spec: str, network: type[nn.Module], convolutions: int) -> None:
    model = build_model(spec)
    assert isinstance(model, network)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions


def test_built_in_arguments() -> None:
    model = build_model("small_cnn", num_classes=3, in_channels=1, width=8, mean=[0.2], std=[0.3])
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert model.get_parameter("stage1.0.weight").shape == (8, 1, 4, 4)


def test_every_listed_pattern_builds_its_examples() -> None:
    for pattern, description in list_models().items():
        assert "\n" not in description
        assert "{" in pattern or isinstance(build_model(pattern, input_shape=(3, 8, 8)), nn.Module)


def test_unknown_name_lists_the_known_and_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"small_cnn, mlp, path.*got 'resnet_v2_29'; try resnet29_v2$"):
        build_model("resnet_v2_29")
    with pytest.raises(InputError, match="try small_cnn"):
        build_model("smallcn")
    with pytest.raises(InputError, match=r"try my/model\.py:name"):
        build_model("my/model.py")


def test_unknown_argument_of_a_built_in() -> None:
    with pytest.raises(InputError, match=r"got widht; try width$"):
        build_model("small_cnn", widht=8)


def test_wrong_argument_of_a_built_in() -> None:
    with pytest.raises(InputError, match="TypeError"):
        build_model("small_cnn", width="wide")


@pytest.mark.parametrize("attribute", ["Net", "build", "nets.small", "net"])
def test_class_function_nested_attribute_and_instance_in_a_file(model_file: Path, attribute: str) -> None:
    model_file.write_text(
        NET + "def build(num_classes): return Net(num_classes)\nclass nets: small = Net\nnet = Net(7)\n"
    )
    model = build_model(f"{model_file}:{attribute}", num_classes=7, input_shape=(3, 8, 8))
    assert model.get_parameter("linear.bias").shape == (7,)
    assert type(model).__module__ in sys.modules


def test_relative_path(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_file.write_text(NET)
    monkeypatch.chdir(model_file.parent)
    assert isinstance(build_model("my_model.py:Net"), nn.Module)


def test_finished_module_is_used_as_it_is(model_file: Path) -> None:
    model_file.write_text(NET + "net = Net(7)\n")
    spec = f"{model_file}:net"
    assert build_model(spec, num_classes=3).get_parameter("linear.bias").shape == (7,)
    with pytest.raises(InputError, match=r"no settings for .*, got width"):
        build_model(spec, width=2)


@pytest.fixture
def model_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the working directory, which is imported once."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "module_with_a_model.py"
    sys.modules.pop("module_with_a_model", None)


def test_every_call_copies_a_finished_module(model_module: Path) -> None:
    model_module.write_text(NET + "net = Net(7)\n")
    first = build_model("module_with_a_model:net")
    before = first.get_parameter("linear.weight").detach().clone()
    nn.init.zeros_(first.get_parameter("linear.weight"))
    assert build_model("module_with_a_model:net").get_parameter("linear.weight").equal(before)


def test_training_starts_from_a_new_initialization_of_a_finished_module(model_module: Path) -> None:
    model_module.write_text("from torch import nn\nnet = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))\n")
    original = build_model("module_with_a_model:net").get_parameter("0.weight")
    weights = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        model = build_untrained("module_with_a_model:net")
        weights.append(model.get_parameter("0.weight").detach().clone())
        torch.manual_seed(seed)
        assert weights[-1].equal(nn.Linear(4, 3).weight)
        nn.init.zeros_(model.get_parameter("0.weight"))
        model.get_buffer("1.running_mean").fill_(9)
    assert weights[0].equal(weights[2])
    assert not weights[0].equal(weights[1])
    assert build_untrained("module_with_a_model:net").get_buffer("1.running_mean").eq(0).all()
    assert build_model("module_with_a_model:net").get_parameter("0.weight").equal(original)


def test_a_finished_module_without_a_way_to_initialize_it_cannot_be_trained(model_module: Path) -> None:
    model_module.write_text(
        "import torch\nfrom torch import nn\n"
        "class Scale(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = nn.Parameter(torch.ones(4))\n"
        "net = nn.Sequential(Scale(), nn.Linear(4, 3))\n"
        "def build(): return nn.Sequential(Scale(), nn.Linear(4, 3))\n"
    )
    build_model("module_with_a_model:net")
    with pytest.raises(InputError, match=r"a Scale, which has no reset_parameters.*function that builds"):
        build_untrained("module_with_a_model:net")
    assert isinstance(build_untrained("module_with_a_model:build"), nn.Module)


def test_a_function_that_returns_one_model_again_and_again(model_module: Path) -> None:
    model_module.write_text(NET + "net = Net(7)\ndef build(): return net\n")
    model = build_model("module_with_a_model:build")
    with pytest.raises(InputError, match="a new model in each call, got the same model a second time"):
        build_model("module_with_a_model:build")
    assert isinstance(model, nn.Module)


def test_arguments_that_the_callable_does_not_take(model_file: Path) -> None:
    model_file.write_text(NET)
    with pytest.raises(InputError, match=r"Net: num_classes, width, got wdith; try width"):
        build_model(f"{model_file}:Net", wdith=3)


def test_keyword_catch_all_gets_what_it_can_take(model_file: Path) -> None:
    # As torchvision's and timm's models do: everything is accepted, then refused further down.
    model_file.write_text(NET + "def build(*, width=4, **kwargs): return Net(width=width, **kwargs)\n")
    model = build_model(f"{model_file}:build", num_classes=5, input_shape=(3, 8, 8), width=2)
    assert model.get_parameter("linear.weight").shape == (5, 2)
    with pytest.raises(InputError, match="unexpected keyword argument 'depth'"):
        build_model(f"{model_file}:build", input_shape=(3, 8, 8), depth=2)


def test_named_argument_that_is_refused_further_down_is_an_error(model_file: Path) -> None:
    model_file.write_text(NET + "def build(in_channels): return Net(in_channels=in_channels)\n")
    with pytest.raises(InputError, match="unexpected keyword argument 'in_channels'"):
        build_model(f"{model_file}:build", input_shape=(3, 8, 8))


def test_files_import_the_modules_beside_them(tmp_path: Path) -> None:
    path_before = list(sys.path)
    for width in (3, 5):
        folder = tmp_path / str(width)
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "__init__.py").write_text("")
        (folder / "parts" / "sizes.py").write_text(f"width = {width}\n")
        (folder / "layers.py").write_text("from parts.sizes import width\n")
        (folder / "net.py").write_text(
            "from torch import nn\n"
            "import layers\n"
            "def build():\n"
            "    from parts import sizes\n"
            "    assert sizes.width == layers.width\n"
            "    return nn.Linear(layers.width, 2)\n"
        )
        model = build_model(f"{folder / 'net.py'}:build")
        # The second folder has other modules of the same names.
        assert isinstance(model, nn.Linear)
        assert model.in_features == width
    assert sys.path == path_before
    assert not {"layers", "parts", "parts.sizes"} & sys.modules.keys()


def test_installed_module() -> None:
    model = build_model("aradals.models:SmallCNN", num_classes=4, in_channels=1)
    assert model(torch.rand(1, 1, 8, 8)).shape == (1, 4)


def test_module_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_mine.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_model("module_of_mine:Net"), nn.Module)
    monkeypatch.delitem(sys.modules, "module_of_mine")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("bulid", "got 'bulid', which does not exist; try build$"),
        ("number", "got an object of type int"),
        ("text", "to return an nn.Module, got an object of type str"),
        ("fails", "got RuntimeError: no weights here; try"),
        ("leaves", r"got its call of sys\.exit\(3\)"),
    ],
)
def test_what_can_go_wrong_in_a_file_takes_one_line(model_file: Path, attribute: str, message: str) -> None:
    model_file.write_text(
        "import sys\n"
        "number = 3\n"
        "def build(): ...\n"
        "def text(): return 'net'\n"
        "def fails(): raise RuntimeError('no weights\\nhere')\n"
        "def leaves(): sys.exit(3)\n"
    )
    with pytest.raises(InputError, match=message) as caught:
        build_model(f"{model_file}:{attribute}")
    assert "\n" not in str(caught.value)


def test_errors_of_the_users_code_are_chained(model_file: Path) -> None:
    model_file.write_text("def build(): return {}['weights']\n")
    with pytest.raises(InputError) as caught:
        build_model(f"{model_file}:build")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("content", "message"),
    [("import no_such_module_here\n", "ModuleNotFoundError"), ("def broken(:\n", "SyntaxError")],
)
def test_files_that_cannot_be_imported(model_file: Path, content: str, message: str) -> None:
    model_file.write_text(content)
    modules_before = set(sys.modules)
    with pytest.raises(InputError, match=message):
        build_model(f"{model_file}:build")
    assert set(sys.modules) == modules_before


@pytest.mark.parametrize("spec", ["/no/such/file.py:build", "no_such_package.module:build", ":build", ""])
def test_sources_that_do_not_exist(spec: str) -> None:
    with pytest.raises(InputError):
        build_model(spec)
