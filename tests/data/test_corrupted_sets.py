"""Published corrupted sets, in small copies of their layouts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from aradals.corruptions import CORRUPTIONS
from aradals.data import Examples, corrupted_sets, list_conditions, list_splits, load_condition, load_data
from aradals.data.images import ImageReader
from aradals.errors import InputError

LABELS = np.tile(np.array([0, 1, 2, 1], dtype=np.uint8), 5)


def write_arrays(folder: Path, names: tuple[str, ...] = ("fog", "gaussian_noise")) -> dict[str, np.ndarray]:
    folder.mkdir()
    random = np.random.default_rng(0)
    arrays = {name: random.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8) for name in names}
    for name, array in (arrays | {"labels": LABELS}).items():
        np.save(folder / f"{name}.npy", array)
    return arrays


def checksums(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.glob("*.npy")}


def test_a_folder_of_arrays_has_a_split_for_each_corruption_and_severity(tmp_path: Path) -> None:
    arrays = write_arrays(tmp_path / "mine")
    assert list_conditions(str(tmp_path / "mine")) == {
        (name, severity): f"{name}-{severity}" for name in ("gaussian_noise", "fog") for severity in range(1, 6)
    }
    examples = load_data(str(tmp_path / "mine"), "fog-3")
    assert examples.name == "mine-fog-3"
    ids, inputs, labels = examples.batch([0, 1, 2, 3])
    assert ids.tolist() == [0, 1, 2, 3]
    assert labels.tolist() == [0, 1, 2, 1]
    np.testing.assert_array_equal((inputs * 255).round().byte().permute(0, 2, 3, 1).numpy(), arrays["fog"][8:12])
    assert (
        load_data(str(tmp_path / "mine"), "fog-3", limit=2).ids.tolist()
        == load_data(str(tmp_path / "mine"), "gaussian_noise-5", limit=2).ids.tolist()
    )


def test_conditions_follow_the_clean_examples(tmp_path: Path) -> None:
    arrays = write_arrays(tmp_path / "mine")
    inputs = torch.zeros(4, 3, 8, 8)
    clean = Examples(inputs, torch.tensor([0, 1, 2, 1]), num_classes=3, name="clean").select([3, 0])
    examples = load_condition(str(tmp_path / "mine"), "fog", 2, clean)
    assert examples.ids.tolist() == [3, 0]
    levels = (examples.batch([0, 1])[1] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(levels, arrays["fog"][[7, 4]])
    with pytest.raises(InputError, match=r"got snow-2; try .*fog-1"):
        load_condition(str(tmp_path / "mine"), "snow", 2, clean)
    other = Examples(inputs, torch.tensor([0, 2, 2, 1]), num_classes=3, name="shuffled")
    with pytest.raises(InputError, match="in the order of shuffled, got other labels"):
        load_condition(str(tmp_path / "mine"), "fog", 2, other)
    with pytest.raises(InputError, match="got only 4 rows"):
        load_condition(
            str(tmp_path / "mine"),
            "fog",
            2,
            Examples(inputs[:1], other.labels[:1], num_classes=3, ids=torch.tensor([9])),
        )


def test_published_files_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "CIFAR-10-C"
    write_arrays(folder)
    with pytest.raises(InputError, match=r"published .*labels.npy \(MD5 c439b113.*downloading the file again"):
        load_data(str(folder), "fog-1")
    monkeypatch.setitem(corrupted_sets.CHECKSUMS, "CIFAR-10-C", checksums(folder))
    assert len(load_data(str(folder), "fog-1")) == 4
    damaged = np.load(folder / "fog.npy")
    damaged[0, 0, 0, 0] ^= 1
    np.save(folder / "fog.npy", damaged)
    corrupted_sets._md5.cache_clear()
    with pytest.raises(InputError, match=r"published .*fog.npy"):
        load_data(str(folder), "fog-1")
    assert len(load_data(str(folder), "gaussian_noise-1")) == 4
    # Known by its labels under any name.
    folder = folder.rename(tmp_path / "cifar")
    with pytest.raises(InputError, match=r"published .*fog.npy"):
        load_data(str(folder), "fog-1")


def test_checksums_name_all_corruptions() -> None:
    for sums in corrupted_sets.CHECKSUMS.values():
        assert set(sums) == {f"{name}.npy" for name in (*CORRUPTIONS, "labels")}
        assert all(len(digest) == 32 for digest in sums.values())
        assert len(set(sums.values())) == 20


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((19, 8, 8, 3), np.uint8), r"labels uint8 of shape \(20,\)"),
        (np.zeros((20, 8, 8, 3), np.float32), "got float32"),
        (np.zeros(20, np.uint8), "of shape"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    write_arrays(tmp_path / "mine")
    np.save(tmp_path / "mine" / "fog.npy", array)
    with pytest.raises(InputError, match=message):
        load_data(str(tmp_path / "mine"), "fog-1")
    (tmp_path / "mine" / "fog.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="published layout"):
        load_data(str(tmp_path / "mine"), "fog-1")


@pytest.mark.parametrize("group", ["", "weather"])
def test_image_folders_by_corruption_and_severity(tmp_path: Path, group: str) -> None:
    for severity in (1, 2, 3, 4, 5):
        for label, word in enumerate(("n01", "n02")):
            folder = tmp_path / "ImageNet-C" / group / "fog" / str(severity) / word
            folder.mkdir(parents=True)
            for row in range(3):
                Image.new("RGB", (8, 8), (severity * 10, label, row)).save(folder / f"val_{row}.png")
    root = str(tmp_path / "ImageNet-C")
    assert list_splits(root) == [f"fog-{severity}" for severity in range(1, 6)]
    examples = load_data(root, "fog-4")
    assert examples.class_names == ("n01", "n02")
    assert examples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (examples.batch([4])[1][0, :, 0, 0] * 255).round().tolist() == [40, 1, 1]
    one = load_data(str(tmp_path / "ImageNet-C" / group / "fog"), "fog-4")
    assert torch.equal(one.labels, examples.labels)
    with pytest.raises(InputError, match="fog-1 or fog-2"):
        load_data(root, "snow-1")


def write_table(path: Path, columns: dict[str, list[object]]) -> None:
    number = len(next(iter(columns.values())))
    images = [Image.new("RGB", (8, 8), (row, 0, 0)) for row in range(number)]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    features |= {name: datasets.Value("string" if name == "corruption" else "int32") for name in columns}
    rows = {"image": images, "label": [row % 2 for row in range(number)], **columns}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)


def test_a_table_with_columns_of_corruption_and_severity(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    write_table(path, {"corruption": ["fog", "snow"] * 6, "severity": [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]})
    assert list_conditions(str(path)) == {
        (name, severity): f"{name}-{severity}" for name in ("fog", "snow") for severity in (1, 2, 3)
    }
    examples = load_data(str(path), "snow-2")
    _, inputs, labels = examples.batch([0, 1])
    assert (inputs[:, 0, 0, 0] * 255).round().tolist() == [7, 9]
    assert labels.tolist() == [1, 1]
    assert examples.class_names == ("a", "b")
    assert len(load_data(str(path))) == 12
    with pytest.raises(InputError, match="a split of c"):
        load_data(str(path), "fog-5")


def test_images_of_a_condition_are_decoded_on_demand_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.parquet"
    write_table(path, {"corruption": ["fog", "snow"] * 3, "severity": [2] * 6})
    monkeypatch.setattr("aradals.data.images.MEMORY_LIMIT", 1)
    monkeypatch.setattr("aradals.data.images.read_images.__kwdefaults__", {"memory_limit": 1})
    examples = load_data(str(path), "snow-2")
    assert isinstance(examples._inputs, ImageReader)
    assert (examples.batch([2, 0])[1][:, 0, 0, 0] * 255).round().tolist() == [5, 1]


def test_a_table_with_severities_alone_is_divided_by_split(tmp_path: Path) -> None:
    write_table(tmp_path / "c-test.parquet", {"severity": [1, 2, 2]})
    write_table(tmp_path / "c-train.parquet", {"severity": [4]})
    assert set(list_conditions(str(tmp_path / "c"))) == {("test", 1), ("test", 2), ("train", 4)}
    assert len(load_data(str(tmp_path / "c"), "test-2")) == 2


def test_clean_data_are_not_taken_for_a_corrupted_set() -> None:
    with pytest.raises(InputError, match="a corrupted data set, got 'digits', which has the splits"):
        list_conditions("digits")
    with pytest.raises(InputError, match="a split of digits"):
        load_data("digits", "fog-3")
