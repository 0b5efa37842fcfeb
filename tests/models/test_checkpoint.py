from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aradals.errors import InputError, MissingExtraError
from aradals.models import (
    CheckpointDescription,
    ResNet,
    SmallCNN,
    check_fit,
    load_checkpoint,
    read_description,
    save_checkpoint,
    seal_description,
)

pytest.importorskip("safetensors")


def small_cnn(seed: int = 0, width: int = 4) -> SmallCNN:
    torch.manual_seed(seed)
    model = SmallCNN(width=width)
    model(torch.rand(8, 3, 8, 8))  # moves the batch norm's running statistics
    return model


def states_equal(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_round_trip_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "model.safetensors"
    saved, loaded = small_cnn(0), small_cnn(1)
    assert not states_equal(saved, loaded)
    save_checkpoint(saved, path, {"seed": "0", "model": "small_cnn"})
    assert load_checkpoint(loaded, path) == {"seed": "0", "model": "small_cnn"}
    assert states_equal(saved, loaded)
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_weights_that_share_memory_round_trip(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight

    saved, loaded = Tied(), Tied()
    save_checkpoint(saved, tmp_path / "tied.safetensors", {})
    load_checkpoint(loaded, tmp_path / "tied.safetensors")
    assert states_equal(saved, loaded)


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(small_cnn(), path, {"version": "1"})
    with pytest.raises(TypeError):
        save_checkpoint(small_cnn(), path, {"version": 2})  # type: ignore[dict-item]
    assert load_checkpoint(small_cnn(), path) == {"version": "1"}
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("nesting", [(), ("state_dict",), ("model",), ("net",), ("ema", "model_state_dict")])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_nested_and_prefixed_torch_files(tmp_path: Path, nesting: tuple[str, ...], prefix: str) -> None:
    saved, loaded = small_cnn(0), small_cnn(1)
    content: object = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    for key in reversed(nesting):
        content = {"epoch": 3, key: content, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "model.pt")
    assert load_checkpoint(loaded, tmp_path / "model.pt") == {}
    assert states_equal(saved, loaded)


def test_a_prefix_that_the_model_has_itself_is_kept(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

    saved, loaded = Wrapper(small_cnn(0)), Wrapper(small_cnn(1))
    torch.save({f"model.{name}": tensor for name, tensor in saved.state_dict().items()}, tmp_path / "model.pt")
    load_checkpoint(loaded, tmp_path / "model.pt")
    assert states_equal(saved, loaded)


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    saved, loaded = small_cnn(0), small_cnn(1)
    state = {n: tensor for n, tensor in saved.state_dict().items() if "num_batches_tracked" not in n}
    torch.save(state, tmp_path / "old.pt")
    load_checkpoint(loaded, tmp_path / "old.pt")
    assert states_equal(saved, loaded)


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "trace.txt"
    content = {"state_dict": small_cnn().state_dict(), "extra": RunsCode(trace)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="a pickle that could run code") as caught:
        load_checkpoint(small_cnn(), tmp_path / "evil.pt")
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert trace.exists()  # so the file was a real attack


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(small_cnn().state_dict(), path)
    else:
        save_checkpoint(small_cnn(), path, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    model = small_cnn(1)
    with pytest.raises(InputError, match="expected a readable checkpoint") as caught:
        load_checkpoint(model, path)
    assert "\n" not in str(caught.value)
    assert states_equal(model, small_cnn(1))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("content", [b"no checkpoint at all", bytes(range(256)) * 8])
def test_files_of_another_kind(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="checkpoint"):
        load_checkpoint(small_cnn(), tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3), {"state_dict": {"a": "b"}}])
def test_torch_files_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match="expected a checkpoint that contains a state dict"):
        load_checkpoint(small_cnn(), tmp_path / "other.pt")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a checkpoint file, got .*absent\.pt"):
        load_checkpoint(small_cnn(), tmp_path / "absent.pt")
    with pytest.raises(InputError, match="expected a checkpoint file"):
        load_checkpoint(small_cnn(), tmp_path)


def change_nothing_but(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    state = dict(small_cnn().state_dict())
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (change_nothing_but("stage2.0.weight", None), r"without stage2\.0\.weight;"),
        (change_nothing_but("stage2.9.bias", torch.zeros(2)), r"with unknown stage2\.9\.bias;"),
        (change_nothing_but("9.bias", torch.zeros(2)), r"with unknown 9\.bias;"),
        (
            change_nothing_but("linear.bias", torch.zeros(7)),
            r"with linear\.bias of shape \(7,\) instead of \(10,\);",
        ),
        ({}, r"without stage1\.0\.weight, stage1\.1\.weight, stage1\.1\.bias and \d+ more"),
        (ResNet(20).state_dict(), r"without stage1.* more, with linear.weight of shape"),
    ],
    ids=["missing", "unexpected", "one-more-layer", "shape", "empty", "other-model"],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path: Path, state: dict[str, Tensor], message: str) -> None:
    torch.save(dict(state), tmp_path / "model.pt")
    model = small_cnn(1)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(model, tmp_path / "model.pt")
    assert "\n" not in str(caught.value)
    assert states_equal(model, small_cnn(1))


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(small_cnn(), path, {})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MissingExtraError, match=r"ar-adals\[train\]"):
        load_checkpoint(small_cnn(), path)
    with pytest.raises(MissingExtraError, match=r"ar-adals\[train\]"):
        save_checkpoint(small_cnn(), path, {})


def described(path: Path, **description: object) -> Path:
    """A checkpoint of a small network that says this of itself."""
    save_checkpoint(small_cnn(), path, {"aradals": json.dumps(description)})
    return path


def test_description(tmp_path: Path) -> None:
    path = described(tmp_path / "a.safetensors", model="small_cnn", model_args={"width": 4}, num_classes=10)
    description = read_description(path)
    assert (description.model, description.built_in_model, description.num_classes) == ("small_cnn", "small_cnn", 10)
    assert description.arguments_for("small_cnn", {}) == {"width": 4}
    assert description.arguments_for("small_cnn", {"width": 8, "mean": [0.5]}) == {"width": 8, "mean": [0.5]}
    fields = {"num_classes": 2, "input_shape": [3, 8, 8], "class_names": ["a", "b"], "preparation": {"resize": 8}}
    every = read_description(described(tmp_path / "every.safetensors", fitted_examples="x", **fields))
    assert (every.num_classes, every.input_shape, every.class_names) == (2, (3, 8, 8), ("a", "b"))
    assert (every.preparation, every.hyper_parameters, every.fitted_examples) == ({"resize": 8}, {}, "x")
    save_checkpoint(small_cnn(), tmp_path / "b.safetensors", {})
    assert read_description(tmp_path / "b.safetensors") == CheckpointDescription(tmp_path / "b.safetensors")
    torch.save(small_cnn().state_dict(), tmp_path / "c.pt")
    assert read_description(tmp_path / "c.pt").built_in_model is None


@pytest.mark.parametrize("model", ["os:system", "model.py:build", "resnet20:x", "", "resnet", " resnet20", "os"])
def test_a_file_does_not_choose_code(tmp_path: Path, model: str) -> None:
    description = read_description(described(tmp_path / "evil.safetensors", model=model))
    with pytest.raises(
        InputError, match=f"evil.safetensors, got {model!r}, and code that only a file names is not run"
    ):
        _ = description.built_in_model


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", "/etc/passwd"),
        ("width", 10**12),
        ("width", -(10**400)),
        ("width", 1e300),
        ("width", {"a": 1}),
        ("mean", [[0.5]]),
        ("mean", ["0.5"]),
        ("mean", [10**9]),
    ],
)
def test_arguments_of_a_file_are_plain_numbers(tmp_path: Path, name: str, value: object) -> None:
    description = read_description(described(tmp_path / "a.safetensors", model="small_cnn", model_args={name: value}))
    with pytest.raises(InputError, match=f"got {name}: .*try --model-args"):
        description.arguments_for("small_cnn", {})
    # What the caller gives is the caller's to judge.
    assert description.arguments_for("small_cnn", {name: value}) == {name: value}


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ({"model": 3}, "model: text"),
        ({"model": ["resnet20"]}, "model: text"),
        ({"model_args": ["width", 3]}, "model_args: keys and values"),
        ({"num_classes": "10"}, "num_classes: a number"),
        ({"num_classes": True}, "num_classes: a number"),
        ({"num_classes": 1e3}, "num_classes: a number"),
        ({"num_classes": 0}, "num_classes: a number"),
        ({"num_classes": 10**12}, "num_classes: a number"),
        ({"class_names": "cat"}, "class_names: a list of text"),
        ({"class_names": [1, 2]}, "class_names: a list of text"),
        ({"class_names": [["cat"]]}, "class_names: a list of text"),
        ({"class_names": ["cat"], "num_classes": 10}, "as many class_names"),
        ({"fitted_examples": 7}, "fitted_examples: text"),
    ],
)
def test_a_description_of_wrong_kinds_is_refused(tmp_path: Path, description: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=f"expected {says}.*a.safetensors"):
        read_description(described(tmp_path / "a.safetensors", **description))


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{", "[" * 100_000, "9" * 10_000, '"os:system"'])
def test_a_description_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    save_checkpoint(small_cnn(), tmp_path / "a.safetensors", {"aradals": text})
    with pytest.raises(InputError, match=r"keys and values.*a\.safetensors"):
        read_description(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_fit_is_checked_without_memory_for_the_model(tmp_path: Path, name: str) -> None:
    if name.endswith(".pt"):
        torch.save({"state_dict": small_cnn().state_dict()}, tmp_path / name)
    else:
        save_checkpoint(small_cnn(), tmp_path / name, {})
    with torch.device("meta"):
        fitting, huge = SmallCNN(width=4), SmallCNN(width=1_000_000)  # 270 TB of weights
    check_fit(fitting, tmp_path / name)
    with pytest.raises(InputError, match=r"with stage1\.0\.weight of shape"):
        check_fit(huge, tmp_path / name)


def test_a_packed_torch_file_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    with pytest.raises(InputError, match=r"without compression.* bytes that unpack to 4\d{6}"):
        load_checkpoint(small_cnn(), tmp_path / "bomb.pt")


def test_every_flipped_bit_of_a_file_of_ours_is_noticed(tmp_path: Path) -> None:
    """In the weights, the shapes, and what the file says of itself."""
    path, model = tmp_path / "model.safetensors", small_cnn()
    save_checkpoint(model, path, seal_description(model, {"model": "small_cnn", "class_names": ["ant", "bee"]}))
    load_checkpoint(small_cnn(), path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    step = (len(content) - header) // 50
    for position in (*range(0, header, 7), *range(header, len(content), step)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 7
        path.write_bytes(damaged)
        loaded = small_cnn()
        try:
            load_checkpoint(loaded, path)
            description = read_description(path)
        except InputError:
            continue
        # White space, or a name that safetensors does not need.
        assert all(
            torch.equal(*pair) for pair in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
        )
        said = (description.model, description.class_names)
        if said != (None, ()):  # the name of the entry is another, and so the file describes nothing
            assert said == ("small_cnn", ("ant", "bee"))
