"""Checkpoints in the layouts of other people's training scripts."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.models import Normalize, SmallCNN, check_fit, load_checkpoint, load_model

State = dict[str, Tensor]


def network(seed: int = 0) -> SmallCNN:
    torch.manual_seed(seed)
    return SmallCNN(width=4)


def same(model: nn.Module, other: nn.Module) -> bool:
    inputs = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.equal(model.eval()(inputs), other.eval()(inputs))


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def optimizer_of(model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


SETTINGS = {
    "args": argparse.Namespace(lr=0.1, data=Path("photos")),
    "best": np.float64(0.9),
    "dtype": np.dtype("float32"),
    "random": np.arange(3),
    "started": datetime.datetime(2026, 1, 1),
    "counts": collections.defaultdict(list, {"a": [1]}),
    "curve": collections.OrderedDict(a=1),
}

LAYOUTS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "timm": lambda state: {"state_dict": state, "arch": "net", "args": SETTINGS["args"], "metric": 0.9},
    "Lightning": lambda state: {
        "state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(3), "train_acc.tp": torch.ones(4)},
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"best": {"best_model_score": torch.tensor(0.9)}},
    },
    "SWA": lambda state: {"n_averaged": torch.tensor(3), **prefixed(state, "module.")},
    "compiled and distributed": lambda state: {"model": prefixed(state, "module._orig_mod.")},
    "DeepSpeed": lambda state: {"module": state, "optimizer": None, "ds_version": "0.15"},
    "FSDP": lambda state: {"model": prefixed(state, "_fsdp_wrapped_module.")},
    "backbone in a wrapper": lambda state: {"epoch": 3, "nested": {"deeper": prefixed(state, "module.net.backbone.")}},
    "settings beside the weights": lambda state: {"weights": state, **SETTINGS},
    "normalization in front": lambda state: {"0.mean": torch.zeros(3), "0.std": torch.ones(3), **prefixed(state, "1.")},
    "equal copies": lambda state: {"model": state, "ema": dict(state)},
}


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        *((layout, "model.pt") for layout in LAYOUTS),
        *(("bare", name) for name in ("model.pth.tar", "pytorch_model.bin", "last.ckpt")),
    ],
)
def test_every_layout_gives_the_same_network(layout: str, name: str, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](network().state_dict()), tmp_path / name)
    loaded = network(1)
    load_checkpoint(loaded, tmp_path / name)
    assert same(loaded, network())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: nn.Sequential(Normalize(3), model),
        lambda model: nn.Sequential(Constants(), model),
        lambda model: nn.DataParallel(model),
        lambda model: Wrapper(model),
    ],
    ids=["Normalize", "constants in buffers", "DataParallel", "wrapper"],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net."])
def test_prefixes_of_the_model(wrap: Callable[[nn.Module], nn.Module], prefix: str, tmp_path: Path) -> None:
    torch.save(prefixed(network().state_dict(), prefix), tmp_path / "model.pt")
    loaded, expected = wrap(network(1)), wrap(network())
    load_checkpoint(loaded, tmp_path / "model.pt")
    assert same(loaded, expected)


class Constants(nn.Module):
    """Normalization whose constants old checkpoints do not have."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))

    def forward(self, inputs: Tensor) -> Any:
        return inputs - self.mean


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model

    def forward(self, inputs: Tensor) -> Any:
        return self.backbone(inputs)


def test_what_is_left_and_kept_is_said(tmp_path: Path) -> None:
    log: list[str] = []
    torch.save(LAYOUTS["Lightning"](network().state_dict()), tmp_path / "model.ckpt")
    load_checkpoint(network(1), tmp_path / "model.ckpt", log=log.append)
    torch.save(network().state_dict(), tmp_path / "bare.pt")
    load_checkpoint(nn.Sequential(Constants(), network(1)), tmp_path / "bare.pt", log=log.append)
    assert log == [
        f"{tmp_path / 'model.ckpt'}: criterion.weight, train_acc.tp left out",
        f"{tmp_path / 'bare.pt'}: 0.mean not in the file, and as the model has them",
    ]


@pytest.mark.parametrize("flat", [False, True])
def test_one_of_several_sets_of_weights_is_asked_for(flat: bool, tmp_path: Path) -> None:
    first, second = network(0), network(1)
    states = {"model": first.state_dict(), "ema": second.state_dict()}
    content = {f"{key}.{name}": value for key, state in states.items() for name, value in state.items()}
    torch.save(content if flat else states | {"optimizer": optimizer_of(network())}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"one set of weights .*several: .*--checkpoint-key"):
        load_checkpoint(network(2), tmp_path / "model.pt")
    for key, expected in (("model", first), ("ema", second)):
        loaded = network(2)
        load_checkpoint(loaded, tmp_path / "model.pt", key=key)
        assert same(loaded, expected)
    with pytest.raises(InputError, match=r"the key of weights .*got 'other'"):
        load_checkpoint(network(2), tmp_path / "model.pt", key="other")


def test_a_deeper_network_does_not_pass_for_a_shallow_one(tmp_path: Path) -> None:
    deep, shallow = (nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth))) for depth in (3, 2))
    torch.save({"module": prefixed(deep.state_dict(), "net.")}, tmp_path / "deep.pt")
    with pytest.raises(InputError, match=r"with unknown net\.2\.bias, net\.2\.weight"):
        load_checkpoint(shallow, tmp_path / "deep.pt")


def test_which_of_two_equal_layers_is_not_guessed(tmp_path: Path) -> None:
    torch.save(
        {f"{name}.{part}": torch.rand(3) for name in ("a", "b") for part in ("weight", "bias")}, tmp_path / "x.pt"
    )
    with pytest.raises(InputError, match="several: a, b"):
        load_checkpoint(nn.LayerNorm(3), tmp_path / "x.pt")


def test_running_statistics_are_weights(tmp_path: Path) -> None:
    state = {name: value for name, value in network().state_dict().items() if "running_var" not in name}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"without .*running_var"):
        load_checkpoint(network(), tmp_path / "x.pt")


def test_one_name_of_a_shared_parameter_is_enough(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.head.weight = self.embedding.weight

    torch.save({"head.weight": torch.eye(3)}, tmp_path / "x.pt")
    model = Tied()
    load_checkpoint(model, tmp_path / "x.pt")
    assert model.embedding.weight.equal(torch.eye(3))


def sharded(folder: Path, suffix: str) -> Path:
    folder.mkdir()
    state = network().state_dict()
    where: dict[str, str] = {}
    for number, part in enumerate((list(state)[:5], list(state)[5:])):
        name = f"part-{number}{suffix}"
        tensors = {each: state[each].contiguous() for each in part}
        save_file(tensors, folder / name) if suffix == ".safetensors" else torch.save(tensors, folder / name)
        where |= dict.fromkeys(part, name)
    index = "model.safetensors.index.json" if suffix == ".safetensors" else "pytorch_model.bin.index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder / index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_of_an_index_and_of_its_folder(suffix: str, tmp_path: Path) -> None:
    index = sharded(tmp_path / "model", suffix)
    for path in (index, index.parent):
        loaded = network(1)
        load_checkpoint(loaded, path)
        check_fit(loaded, path)
        assert same(loaded, network())
    (index.parent / f"part-1{suffix}").unlink()
    with pytest.raises(InputError, match=r"every file that .* names.*downloading all shards"):
        load_checkpoint(network(), index)


@pytest.mark.parametrize("name", ["../part.safetensors", "/etc/passwd", "sub/part.safetensors"])
def test_an_index_names_files_beside_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"weight": name}}))
    with pytest.raises(InputError, match="in its folder"):
        load_checkpoint(network(), path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="not an index of shards"):
        load_checkpoint(network(), path)


def test_a_folder_with_one_file_of_weights(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    loaded = load_model(tmp_path, "small_cnn", width=4)
    assert same(loaded, network())
    torch.save(network().state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"got other\.pth, weights\.pth"):
        load_model(tmp_path, "small_cnn", width=4)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
        (b"<!doctype html><title>404</title>", "a web page"),
        (b"", "an empty file"),
        (b"PK\x03\x04" + bytes(99), "ends too early"),
    ],
)
def test_files_with_the_name_of_a_checkpoint(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"expected a readable checkpoint.*{says}"):
        load_checkpoint(network(), tmp_path / name)
