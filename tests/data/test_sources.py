from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from aradals.data import list_conditions, list_splits, load_column, load_data, load_splits, overlap
from aradals.data.formats import Columns
from aradals.data.table_files import parquet_table
from aradals.data.tables import read_rows
from aradals.errors import InputError, MissingExtraError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
INPUTS = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
LABELS = [0, 1, 2, 0, 1, 2]


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARADALS_DATA", raising=False)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_parquet(path: Path, rows: Sequence[int] = range(6), **columns: Any) -> Path:
    """A parquet file as Hugging Face writes it, of some of the images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])})
    content = {
        "img": [{"bytes": png(PIXELS[row]), "path": None} for row in rows],
        "label": [LABELS[row] for row in rows],
    }
    table = pa.table(content, schema=features.arrow_schema)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)
    return path


def all_inputs(spec: str | Path, split: str | None = None, **options: Any) -> torch.Tensor:
    examples = load_data(str(spec), split, **options)
    return examples.batch(range(len(examples)))[1]


# Parquet


def test_parquet_gives_pixels_labels_names_and_ids(tmp_path: Path) -> None:
    examples = load_data(str(write_parquet(tmp_path / "toy-train.parquet")))
    assert (examples.name, examples.num_classes, examples.class_names) == ("toy-train", 3, ("cat", "dog", "owl"))
    ids, inputs, labels = examples.batch(range(6))
    assert torch.equal(inputs, INPUTS)
    assert (labels.tolist(), ids.tolist()) == (LABELS, [*range(6)])


@pytest.mark.parametrize(
    "files",
    [
        {"train": "train.parquet", "test": "test.parquet"},
        {"train": "toy-train.parquet", "validation": "toy-val.parquet"},
        {"train": "data/train-00000-of-00001.parquet", "test": "data/test-00000-of-00001.parquet"},
        {"train": "train/0000.parquet", "validation": "valid/0000.parquet"},
        {"all": "toy.parquet"},
    ],
)
def test_splits_of_a_folder_are_told_by_file_names(tmp_path: Path, files: dict[str, str]) -> None:
    for row, file in enumerate(files.values()):
        write_parquet(tmp_path / file, [row])
    assert sorted(list_splits(str(tmp_path))) == sorted(files)
    for row, split in enumerate(files):
        assert torch.equal(all_inputs(tmp_path, split), INPUTS[[row]])


def test_shards_are_joined_in_order(tmp_path: Path) -> None:
    for shard in (2, 0, 1):
        write_parquet(tmp_path / f"train-0000{shard}-of-00003.parquet", [2 * shard, 2 * shard + 1])
    examples = load_data(str(tmp_path), "train")
    assert examples.ids.tolist() == [*range(6)]
    assert torch.equal(examples.batch(range(6))[1], INPUTS)


def test_several_data_sets_in_a_folder_have_to_be_told_apart(tmp_path: Path) -> None:
    for row, name in enumerate(["a-train", "a-test", "b-c-train"]):
        write_parquet(tmp_path / f"{name}.parquet", [row])
    with pytest.raises(InputError, match=f"{tmp_path}/a, {tmp_path}/b-c; try {tmp_path}/a"):
        load_data(str(tmp_path))
    assert sorted(list_splits(f"{tmp_path}/a")) == ["test", "train"]
    assert torch.equal(all_inputs(f"{tmp_path}/a"), INPUTS[[1]])
    assert torch.equal(all_inputs(f"{tmp_path}/b-c"), INPUTS[[2]])
    assert load_data(f"{tmp_path}/a-train").name == "a-train"
    with pytest.raises(InputError, match="not a file, a folder or a built-in name"):
        load_data(f"{tmp_path}/b")


def test_the_data_folder_is_looked_in_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "cifar10-train.parquet", [0])
    write_parquet(tmp_path / "cifar10-test.parquet", [1])
    np.savez(tmp_path / "digits.npz", inputs=np.zeros((2, 3)), labels=[0, 1])
    write_parquet(tmp_path / "cifar100" / "test.parquet", [2])
    monkeypatch.setenv("ARADALS_DATA", str(tmp_path))
    assert torch.equal(all_inputs("cifar10", "train"), INPUTS[[0]])
    assert torch.equal(all_inputs("cifar10-test"), INPUTS[[1]])
    assert torch.equal(all_inputs("cifar100"), INPUTS[[2]])
    assert load_data("cifar100").name == "cifar100-test"
    assert len(load_data("digits")) == 2


def test_columns_are_told_by_type_then_by_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "toy.parquet", row_number=[*range(6)], mask=[png(255 - image) for image in PIXELS])
    assert torch.equal(all_inputs(path), INPUTS)
    assert load_data(str(path)).labels.tolist() == LABELS
    torch.testing.assert_close(all_inputs(path, image_column="mask"), 1 - INPUTS)
    assert load_data(str(path), label_column="row_number").class_names == ("0", "1", "2", "3", "4", "5")
    with pytest.raises(InputError, match=r"column of inputs .*got 'label'; try img or mask"):
        load_data(str(path), image_column="label")
    with pytest.raises(InputError, match="'lable', which is not one of the columns img, label"):
        load_data(str(path), label_column="lable")


def test_columns_that_cannot_be_told_are_asked_for(tmp_path: Path) -> None:
    images = [png(image) for image in PIXELS]
    pq.write_table(pa.table({"left": images, "right": images, "label": LABELS}), tmp_path / "two.parquet")
    with pytest.raises(InputError, match="got left, right; try --image-column NAME"):
        load_data(str(tmp_path / "two.parquet"))
    pq.write_table(pa.table({"left": images, "note": ["a"] * 6, "who": ["b"] * 6}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"no such column among left, note, who; try --label-column NAME"):
        load_data(str(tmp_path / "none.parquet"))


def test_labels_out_of_range_are_named_by_row(tmp_path: Path) -> None:
    images = [png(image) for image in PIXELS]
    pq.write_table(pa.table({"image": images, "label": [0, 1, 1, -1, 0, 0]}), tmp_path / "negative.parquet")
    with pytest.raises(InputError, match="-1 in row 3"):
        load_data(str(tmp_path / "negative.parquet"))
    pq.write_table(pa.table({"image": images, "label": [0, 1, None, 1, 0, 0]}), tmp_path / "null.parquet")
    with pytest.raises(InputError, match="no value in row 2"):
        load_data(str(tmp_path / "null.parquet"))


def test_large_parquet_files_are_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = [write_parquet(tmp_path / f"{part}.parquet", [2 * part, 2 * part + 1]) for part in range(3)]
    small, large = (
        read_rows(parquet_table(files), Columns()),
        read_rows(parquet_table(files, memory_limit=1), Columns()),
    )
    assert not isinstance(large.inputs, list)
    assert [large.inputs[row] for row in range(6)] == small.inputs
    assert np.array_equal(large.labels, LABELS)  # type: ignore[arg-type]
    assert np.array_equal(small.labels, LABELS)  # type: ignore[arg-type]
    assert large.class_names == small.class_names == ("cat", "dog", "owl")


def test_real_cifar10(shared_data: Path) -> None:
    path = shared_data / "data" / "cifar10-test.parquet"
    examples = load_data(str(path), limit=200)
    assert (examples.name, examples.num_classes, examples.input_shape) == ("cifar10-test", 10, (3, 32, 32))
    assert examples.class_names[:2] == ("airplane", "automobile")
    reference = datasets.Dataset(pq.read_table(path))
    for position in (0, 77, 199):
        example_id, inputs, label = examples[position]
        row = reference[example_id]
        decoded = datasets.Image().decode_example(row["img"]) if isinstance(row["img"], dict) else row["img"]
        np.testing.assert_array_equal((inputs * 255).round().permute(1, 2, 0).numpy(), np.asarray(decoded))
        assert label == row["label"]
    assert load_data(str(shared_data / "data" / "cifar10"), "test", limit=200).fingerprint == examples.fingerprint


# Limit


def test_a_limit_takes_a_fixed_sample_that_grows() -> None:
    small, large, whole = (load_data("digits", limit=limit) for limit in (50, 100, None))
    assert (len(small), len(large), len(whole)) == (50, 100, 800)
    assert set(small.ids.tolist()) < set(large.ids.tolist())
    assert small.ids.tolist() == sorted(small.ids.tolist())
    assert small.fingerprint == load_data("digits", limit=50).fingerprint == whole.select(small.ids).fingerprint
    assert load_data("digits", limit=2).num_classes == 10
    with pytest.raises(InputError, match="at least one example"):
        load_data("digits", limit=0)


# Digits


def test_digits_are_divided_once_and_for_all() -> None:
    train, test = load_data("digits", "train"), load_data("digits")
    assert (len(train), len(test), test.input_shape, test.name) == (997, 800, (1, 8, 8), "digits-test")
    images = np.concatenate([all_inputs("digits", split).numpy()[:, 0] for split in ("train", "test")])
    labels = np.concatenate([train.labels, test.labels])
    digits = load_digits()
    ours = sorted(zip(map(bytes, (images * 16).astype(np.uint8)), labels, strict=True))
    assert ours == sorted(zip(map(bytes, digits.images.astype(np.uint8)), digits.target, strict=True))
    assert overlap(train.hashes, test.hashes) == 0
    assert (train.fingerprint, test.fingerprint) == ("527879c4126b5366", "42e8d7d493b343ba")


# Arrays


@pytest.mark.parametrize(
    "arrays",
    [
        {"inputs": PIXELS, "labels": LABELS},
        {"x": PIXELS.transpose(0, 3, 1, 2), "y": np.array(LABELS)[:, None]},
        {"x_train": PIXELS[:1], "y_train": [0], "x_test": PIXELS, "y_test": LABELS},
    ],
)
def test_npz_of_uint8_images(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "toy.npz", **arrays)
    examples = load_data(str(tmp_path / "toy.npz"))
    assert torch.equal(examples.batch(range(6))[1], INPUTS)
    assert examples.labels.tolist() == LABELS
    assert list_splits(str(tmp_path / "toy")) == (["train", "test"] if "x_test" in arrays else ["all"])


def test_npz_of_gray_images_and_of_rows_of_floats(tmp_path: Path) -> None:
    np.savez(tmp_path / "gray.npz", images=PIXELS[..., 0], y=LABELS)
    assert torch.equal(all_inputs(tmp_path / "gray.npz"), INPUTS[:, :1])
    rows = np.random.default_rng(0).random((6, 9))
    np.savez(tmp_path / "rows-test.npz", inputs=rows, labels=LABELS, class_names=["a", "b", "c", "d"])
    examples = load_data(str(tmp_path / "rows"), "test")
    torch.testing.assert_close(examples.batch(range(6))[1], torch.from_numpy(rows).float())
    assert (examples.class_names, examples.name) == (("a", "b", "c", "d"), "rows-test")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": 255 * INPUTS.numpy(), "labels": LABELS}, r"in \[0, 1\]"),
        ({"inputs": INPUTS.numpy(), "labels": LABELS[:5]}, "one label for each input"),
        ({"inputs": INPUTS.numpy(), "labels": np.ones((6, 3))}, "a name or a one-hot row"),
        ({"inputs": INPUTS.numpy()}, "expected labels in toy, got none"),
        ({"inputs": PIXELS.astype(np.int64), "labels": LABELS}, "int64 of shape"),
        ({"pixels": PIXELS, "labels": LABELS}, "no such column among pixels, labels; try --image-column NAME"),
        ({"inputs": np.array([{}] * 6), "labels": LABELS}, "numeric arrays"),
        ({"inputs": PIXELS[:0], "labels": LABELS[:0] or np.zeros(0, dtype=int)}, "at least one example"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "toy.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_data(str(tmp_path / "toy.npz"))


def test_npz_arrays_can_be_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", pixels=PIXELS, kinds=LABELS)
    assert torch.equal(all_inputs(tmp_path / "toy.npz", image_column="pixels", label_column="kinds"), INPUTS)


# Folders of images


def write_images(folder: Path, classes: Sequence[str], rows: Sequence[int]) -> None:
    for row in rows:
        path = folder / classes[LABELS[row]] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(PIXELS[row]))


def test_folder_of_images_by_class(tmp_path: Path) -> None:
    write_images(tmp_path, ["bird", "train", "test"], range(6))  # classes that sound like splits
    (tmp_path / "readme.txt").write_text("not an image")
    examples = load_data(str(tmp_path))
    assert (examples.class_names, examples.name) == (("bird", "test", "train"), tmp_path.name)
    assert examples.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(examples.batch(range(6))[1], INPUTS[[0, 3, 2, 5, 1, 4]])
    with pytest.raises(InputError, match="data with named columns"):
        load_data(str(tmp_path), label_column="label")


def test_classes_are_numbered_over_all_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["ant", "bee", "cow"], range(6))
    write_images(tmp_path / "val", ["ant", "bee", "cow"], [2, 5])
    assert list_splits(str(tmp_path)) == ["train", "validation"]
    examples = load_data(str(tmp_path), "val")
    assert (examples.labels.tolist(), examples.num_classes) == ([2, 2], 3)
    assert torch.equal(examples.batch([0, 1])[1], INPUTS[[2, 5]])


def test_images_outside_class_folders_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["ant", "bee", "cow"], range(6))
    (tmp_path / "loose.png").write_bytes(png(PIXELS[0]))
    with pytest.raises(InputError, match=r"loose\.png, which is in no such folder"):
        load_data(str(tmp_path))


# What cannot be found


def test_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    for name in ("empty.parquet", "empty.npz", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=name):
            load_data(str(tmp_path / name))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"images, or files that end in \.parquet, \.npz"):
        load_data(str(tmp_path / "nothing"))


def test_an_unknown_split_lists_the_known() -> None:
    with pytest.raises(InputError, match="got 'validation'; try --split train or test"):
        load_data("digits", "val")


@pytest.mark.parametrize("spec", ["", "no-such-data", "./no/such.parquet", "no/such.parquet"])
def test_a_missing_file_is_not_sought_on_the_hub(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(InputError, match="not a file, a folder or a built-in name"):
        load_data(spec)


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ("cifar10", r"unpacking cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, and --data FOL"),
        ("cifar100", "unpacking cifar-100-python.tar.gz"),
        ("imagenet", r"accepting the terms on https://huggingface.co/datasets/ILSVRC/imagenet-1k .* train/CLASS/IMAGE"),
        ("someone/pets", "--data PATH; or setting"),
    ],
)
def test_the_hub_without_a_connection(spec: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(
        InputError, match=rf"Face data set '.*', got ConnectionError: no route; try {way}.*ARADALS_DATA"
    ):
        load_data(spec)


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = datasets.DatasetDict(
        {
            split: datasets.Dataset(pq.read_table(write_parquet(tmp_path / f"{split}.parquet", rows)))
            for split, rows in (("train", [0, 1]), ("valid", [2, 4, 3]))
        }
    )
    splits = splits.cast(
        datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])})
    )
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda repository: splits if repository == "someone/pets" else None)
    examples = load_data("someone/pets", "validation")
    assert (examples.name, examples.class_names) == ("pets-validation", ("cat", "dog", "owl"))
    assert torch.equal(examples.batch([0, 1, 2])[1], INPUTS[[2, 4, 3]])
    assert examples.labels.tolist() == [2, 1, 0]


def test_a_test_split_of_the_hub_whose_labels_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        split: datasets.Dataset(pq.read_table(write_parquet(tmp_path / f"{split}.parquet", rows)))
        for split, rows in (("train", [0, 1, 2]), ("validation", [3, 4, 5]))
    }
    hidden = parts["validation"].remove_columns("label").add_column("label", [-1, -1, -1])
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])})
    splits = datasets.DatasetDict({**parts, "test": hidden}).cast(features)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda repository: splits)
    said: list[str] = []
    train, test = load_splits("imagenet", log=said.append)
    assert (train.name, test.name) == ("imagenet-1k-train", "imagenet-1k-validation")
    assert test.labels.tolist() == LABELS[3:]
    assert "imagenet-1k: not used: the split test, which has no labels" in said


def test_a_sample_of_the_test_split(tmp_path: Path) -> None:
    for split, rows in (("train", [0, 1, 2]), ("test", [3, 4, 5])):
        write_parquet(tmp_path / f"{split}.parquet", rows)
    _, every = load_splits(str(tmp_path))
    train, some = load_splits(str(tmp_path), test_size=2)
    assert (len(train), len(every), len(some)) == (3, 3, 2)
    assert torch.equal(some.labels, every.labels[some.ids])
    assert torch.equal(some.ids, load_splits(str(tmp_path), test_size=2)[1].ids)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "toy.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow; try: pip install 'ar-adals\[data\]'"):
        load_data(str(path))


class TestNumbersOfClasses:
    """The largest label makes a table of classes; an id among the columns must not."""

    def arrays(self, path: Path, labels: Any, **more: Any) -> str:
        np.savez(path, inputs=np.zeros((len(labels), 1), np.float32), labels=np.asarray(labels), **more)
        return str(path)

    @pytest.mark.parametrize("largest", [1001, 2**31, 1_700_000_000, 2**62])
    def test_an_id_is_no_label(self, tmp_path: Path, largest: int) -> None:
        spec = self.arrays(tmp_path / "toy.npz", [0, 1, largest])
        for limit in (None, 1):
            with pytest.raises(
                InputError, match=r"but only 3 rows; perhaps 'labels' is not the label column; try --label-column"
            ):
                load_data(spec, limit=limit)

    def test_the_column_is_named(self, tmp_path: Path) -> None:
        table = pa.table({"image": [png(PIXELS[0])] * 2, "row_id": [5, 10**9]})
        pq.write_table(table, tmp_path / "toy.parquet")
        with pytest.raises(
            InputError, match=r"1,000,000,001 classes .* but only 2 rows; perhaps 'row_id' is not the label column"
        ):
            load_data(str(tmp_path / "toy.parquet"))

    def test_many_classes_with_names_or_rows_are_fine(self, tmp_path: Path) -> None:
        assert load_data(self.arrays(tmp_path / "a.npz", [0, 999])).num_classes == 1000
        assert load_data(self.arrays(tmp_path / "b.npz", [*range(1500)] * 2)).num_classes == 1500
        names = np.array([f"class {number}" for number in range(2000)])
        assert load_data(self.arrays(tmp_path / "c.npz", [0, 1999], class_names=names)).num_classes == 2000


def test_arrays_that_unpack_to_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(
        tmp_path / "bomb.npz", inputs=np.zeros((2**22, 1), np.float16), labels=np.zeros(2**22, np.uint8)
    )
    assert len(load_data(str(tmp_path / "bomb.npz"), limit=10)) == 10  # small ones do no harm
    monkeypatch.setattr("aradals.data.formats.MEMORY_LIMIT", 2**22)
    with pytest.raises(InputError, match=r"unpacks to at most 100 times its size in .*bomb\.npz"):
        load_data(str(tmp_path / "bomb.npz"))


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as file, file.open("labels.npy", "w") as array:
        np.lib.format.write_array_header_1_0(array, {"descr": "<i8", "fortran_order": False, "shape": (2**50,)})
    with pytest.raises(InputError, match=r"lie\.npz"):
        load_data(str(tmp_path / "lie.npz"), image_column="labels")


def test_a_table_that_unpacks_to_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aradals.data.formats.MEMORY_LIMIT", 2**24)
    image = png(PIXELS[0]) + bytes(2**16)
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"image": [image] * 5000, "label": [0] * 5000}), path, use_dictionary=True)
    assert path.stat().st_size < 2**18
    with pytest.raises(InputError, match=r"unpacks to at most 100 times its size in .*bomb\.parquet"):
        load_data(str(path))


def test_long_text_in_a_column_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aradals.data.tables.MEMORY_LIMIT", 2**20)
    place = ["x" * 10_000] + ["y"] * 999
    pq.write_table(
        pa.table({"image": [png(PIXELS[0])] * 1000, "label": [0] * 1000, "place": place}), tmp_path / "a.parquet"
    )
    with pytest.raises(InputError, match=r"short text in column place .* 10,000 characters"):
        load_column(str(tmp_path / "a.parquet"), None, "place")


def test_a_column_of_many_corruptions_is_refused(tmp_path: Path) -> None:
    names = [f"corruption {row}" for row in range(1001)]
    columns = {"image": [png(PIXELS[0])] * 1001, "label": [0] * 1001, "corruption": names, "severity": [1] * 1001}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="at most 1000 names, got 1,001 names"):
        list_conditions(str(tmp_path / "a.parquet"))
