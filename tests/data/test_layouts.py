"""What people have on their disks is read without a line of code; each layout is made by the library that makes it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from aradals.data import list_splits, load_condition, load_data, load_splits, match_classes
from aradals.data.idx import read_idx
from aradals.errors import InputError

N = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 4, 5, 3), dtype=np.uint8)
INPUTS = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
LABELS = np.arange(N) % 3
NAMES = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARADALS_DATA", raising=False)


def png(pixels: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", **options)
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def same_rows(spec: Path | str, split: str | None = None, **reading: Any) -> None:
    """Check that the data has all images with their labels, in any order."""
    examples = load_data(str(spec), split, **reading)
    _, inputs, labels = examples.batch(range(len(examples)))
    rows = [int((each == INPUTS).flatten(1).all(1).nonzero()) for each in inputs]
    assert sorted(rows) == list(range(N))
    assert [int(LABELS[row]) for row in rows] == labels.tolist()


# Folders of images


@pytest.mark.parametrize(
    "layout",
    [
        "{name}/{row}.png",
        "images/{name}/{row}.png",
        "data/images/{name}/{row}.png",
        "{name}/images/{row}.png",
        "test/{name}/{row}.png",
        "images/test/{name}/{row}.png",
        "Testing/images/{name}/{row}.png",
    ],
)
def test_folders_that_contain_everything_do_not_count(tmp_path: Path, layout: str) -> None:
    for row in range(N):
        write(tmp_path / layout.format(name=NAMES[LABELS[row]], row=row), png(PIXELS[row]))
    same_rows(tmp_path)
    assert load_data(str(tmp_path)).class_names == tuple(NAMES)


def test_numbers_as_names_are_in_their_order(tmp_path: Path) -> None:
    for row in range(10):
        write(tmp_path / str(row + 5) / "1.png", png(PIXELS[row]))
    examples = load_data(str(tmp_path))
    assert examples.class_names == tuple(map(str, range(5, 15)))
    assert torch.equal(examples.batch(range(10))[1], INPUTS[:10])


@pytest.mark.parametrize(
    ("files", "got", "hint"),
    [
        (["cat/1.png", "cat/2.png"], "one folder with images, 'cat'", "class/image.png"),
        (["images/1.png", "images/2.png"], "one folder with images, 'images'", "class/image.png"),
        (["train/1.png", "val/2.png"], "val/2.png, which is in no such folder", "split/class/image.png"),
        (["a/cat/1.png", "a/dog/2.png", "b/cat/3.png"], "a/cat/1.png, where 'a' or 'cat' could be the class", "{}/a"),
        (
            ["cat/1.png", "cat/more/2.png", "dog/3.png"],
            "where 'cat' or 'more' could be",
            "moving the images below {}/cat",
        ),
        (["1.png", "2.png"], "1.png, which is in no such folder", "a CSV file of file names and labels"),
    ],
)
def test_folders_that_may_not_be_classes_are_asked_about(tmp_path: Path, files: list[str], got: str, hint: str) -> None:
    for row, file in enumerate(files):
        write(tmp_path / file, png(PIXELS[row]))
    with pytest.raises(InputError) as caught:
        load_data(str(tmp_path))
    assert got in str(caught.value)
    assert hint.format(tmp_path) in str(caught.value)
    unlabeled = load_data(str(tmp_path), "validation" if files[0].startswith("train") else None, labeled=False)
    assert not unlabeled.is_labeled
    assert set(unlabeled.labels.tolist()) == {-1}


def test_the_hints_work(tmp_path: Path) -> None:
    for row, file in enumerate(["a/cat/1.png", "a/dog/2.png", "b/cat/3.png"]):
        write(tmp_path / file, png(PIXELS[row]))
    assert load_data(str(tmp_path / "a")).class_names == ("cat", "dog")
    (tmp_path / "labels.csv").write_text("file_name,label\na/cat/1.png,cat\na/dog/2.png,dog\nb/cat/3.png,cat\n")
    assert load_data(str(tmp_path)).labels.tolist() == [0, 1, 0]


# Tables of file names


@pytest.mark.parametrize("place", ["{}.png", "images/{}.png"])
@pytest.mark.parametrize("cell", ["{}.png", "images/{}.png", "{}", "/home/someone/images/{}.png"])
@pytest.mark.parametrize("columns", [("file_name", "label"), ("image", "breed"), ("path", "target")])
def test_a_csv_file_beside_images(tmp_path: Path, place: str, cell: str, columns: tuple[str, str]) -> None:
    for row in range(N):
        write(tmp_path / place.format(f"p{row}"), png(PIXELS[row]))
    cells = [cell.format(f"p{row}") for row in range(N)]
    pd.DataFrame({columns[0]: cells, columns[1]: [NAMES[label] for label in LABELS]}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    if cell.startswith("images") and not place.startswith("images"):
        return  # a path that does not exist is found by its end, so that this is the same as the first case
    same_rows(tmp_path)
    same_rows(tmp_path / "labels.csv")


def test_metadata_of_an_image_folder_of_hugging_face(tmp_path: Path) -> None:
    rows = [{"file_name": f"{row}.png", "label": NAMES[LABELS[row]], "caption": "a b"} for row in range(N)]
    for row in range(N):
        write(tmp_path / f"{row}.png", png(PIXELS[row]))
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    same_rows(tmp_path)


def test_a_csv_file_with_splits(tmp_path: Path) -> None:
    for row in range(N):
        write(tmp_path / "images" / f"p{row}.png", png(PIXELS[row]))
    frame = pd.DataFrame({"name": [f"p{row}.png" for row in range(N)], "label": LABELS})
    frame.assign(split=["train"] * 8 + ["val"] * 4).to_csv(tmp_path / "all.csv", index=False)
    assert list_splits(str(tmp_path)) == ["train", "validation"]
    assert load_data(str(tmp_path), "val").labels.tolist() == LABELS[8:].tolist()
    (tmp_path / "all.csv").unlink()
    frame[:8].to_csv(tmp_path / "train.csv", sep=";", index=False)
    frame[8:].to_csv(tmp_path / "test.csv", sep="\t", index=False)
    train, test = load_splits(str(tmp_path))
    assert torch.equal(test.batch(range(4))[1], INPUTS[8:])
    assert (len(train), test.num_classes) == (8, 3)


def test_parquet_of_file_names(tmp_path: Path) -> None:
    for row in range(N):
        write(tmp_path / "images" / f"{row}.png", png(PIXELS[row]))
    table = pa.table({"file_name": [f"images/{row}.png" for row in range(N)], "label": LABELS})
    pq.write_table(table, tmp_path / "all.parquet")
    same_rows(tmp_path)


def test_a_csv_file_that_names_no_images_is_not_about_them(tmp_path: Path) -> None:
    for row in range(N):
        write(tmp_path / NAMES[LABELS[row]] / f"{row}.png", png(PIXELS[row]))
    (tmp_path / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    (tmp_path / "notes.csv").write_bytes(b"\xff\xfe\n\0")
    same_rows(tmp_path)


def test_two_csv_files_that_name_the_images(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(PIXELS[0]))
    for name in ("labels", "others"):
        (tmp_path / f"{name}.csv").write_text("file,label\na.png,1\n")
    with pytest.raises(InputError, match=r"got labels\.csv, others\.csv; try --data .*labels\.csv"):
        load_data(str(tmp_path))
    assert load_data(str(tmp_path / "labels.csv")).labels.tolist() == [1]


def test_missing_files_and_unclear_labels_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(PIXELS[0]))
    write(tmp_path / "b.png", png(PIXELS[1]))
    rows = [["file", "kind", "place", "note"], ["a.png", "x", "u", "n"], ["b.png", "y", "v", "n"]]
    csv.writer((tmp_path / "labels.csv").open("w")).writerows(rows)
    with pytest.raises(InputError, match=r"no such column among file, kind, place, note; try --label-column NAME"):
        load_data(str(tmp_path))
    assert load_data(str(tmp_path), label_column="kind").class_names == ("x", "y")
    rows.append(["c.png", "x", "u", "n"])
    csv.writer((tmp_path / "labels.csv").open("w")).writerows(rows)
    with pytest.raises(InputError, match=r"got no file 'c\.png', and 0 more such rows"):
        load_data(str(tmp_path), label_column="kind")


# Files of arrays


MEDMNIST = {
    f"{split}_{kind}": values
    for split in ("train", "val", "test")
    for kind, values in (("images", PIXELS), ("labels", LABELS[:, None].astype(np.uint8)))
}


@pytest.mark.parametrize(
    ("arrays", "splits"),
    [
        (MEDMNIST, ["train", "validation", "test"]),
        ({"X_train": PIXELS, "y_train": LABELS, "X_valid": PIXELS, "y_valid": LABELS}, ["train", "validation"]),
        ({"data": PIXELS, "targets": LABELS}, ["all"]),
        ({"X": PIXELS, "label": LABELS.astype(np.uint64)}, ["all"]),
        ({"images_dev": PIXELS, "y_dev": np.eye(3)[LABELS]}, ["validation"]),
        ({"x": PIXELS, "y": np.array(NAMES)[LABELS]}, ["all"]),
        ({"x": PIXELS, "y": np.array(NAMES)[LABELS, None]}, ["all"]),
        ({"x": PIXELS, "y": LABELS.astype(np.float64)}, ["all"]),
    ],
)
def test_names_of_arrays_and_kinds_of_labels(tmp_path: Path, arrays: dict[str, Any], splits: list[str]) -> None:
    np.savez(tmp_path / "toy.npz", **arrays)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    for spec in (tmp_path / "toy.npz", folder, folder / f"{next(iter(arrays))}.npy"):
        found = list_splits(str(spec))
        assert found == (splits if spec.suffix != ".npy" else splits[:1])
        for split in found:
            same_rows(spec, split)


@pytest.mark.parametrize(
    "content",
    [
        TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS)),
        (torch.from_numpy(PIXELS), torch.from_numpy(LABELS)),
        {"images": torch.from_numpy(PIXELS), "labels": torch.from_numpy(LABELS), "seed": 3},
        {"train": (INPUTS, torch.from_numpy(LABELS)), "test": {"x": INPUTS, "y": torch.from_numpy(LABELS)}},
        {"test": TensorDataset(INPUTS, torch.from_numpy(LABELS))},
    ],
    ids=["TensorDataset", "tuple", "mapping", "splits", "one split"],
)
def test_files_of_torch(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "toy.pt")
    same_rows(tmp_path / "toy.pt")


def test_a_file_of_torch_runs_no_code(tmp_path: Path) -> None:
    torch.save({"x": Path("somewhere")}, tmp_path / "toy.pt")
    with pytest.raises(InputError, match=r"a file of tensors in .*toy\.pt, got UnpicklingError"):
        load_data(str(tmp_path / "toy.pt"))
    torch.save({"names": ["a"]}, tmp_path / "toy.pt")
    with pytest.raises(InputError, match=r"got dict; try torch\.save"):
        load_data(str(tmp_path / "toy.pt"))


CIFAR = np.random.default_rng(1).integers(0, 256, (12, 3072), dtype=np.uint8)


def as_published(folder: Path, *, classes: int) -> dict[str, tuple[Any, Any]]:
    """CIFAR's batches for Python, with keys of bytes as Python 2 has pickled them."""
    label = b"labels" if classes == 10 else b"fine_labels"
    names = {f"data_batch_{k}": slice(2 * k - 2, 2 * k) for k in range(1, 6)} if classes == 10 else {"train": slice(10)}
    files = {**names, "test_batch" if classes == 10 else "test": slice(10, 12)}
    for name, rows in files.items():
        batch = {b"data": CIFAR[rows], label: LABELS[rows].tolist(), b"coarse_labels": [0] * len(CIFAR[rows])}
        write(folder / name, pickle.dumps(batch, protocol=2))
    key = b"label_names" if classes == 10 else b"fine_label_names"
    write(folder / ("batches.meta" if classes == 10 else "meta"), pickle.dumps({key: [b"a", b"b", b"c"]}, protocol=2))
    return {"train": (CIFAR[:10], LABELS[:10]), "test": (CIFAR[10:], LABELS[10:])}


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_batches_of_cifar(tmp_path: Path, classes: int, inside: str) -> None:
    for split, (pixels, labels) in as_published(tmp_path / inside, classes=classes).items():
        examples = load_data(str(tmp_path), split)
        expected = torch.tensor(pixels).view(-1, 3, 32, 32).float() / 255
        assert torch.equal(examples.batch(range(len(pixels)))[1], expected)
        assert (examples.labels.tolist(), examples.class_names) == (labels.tolist(), ("a", "b", "c"))


@pytest.mark.parametrize("classes", [10, 100])
def test_binary_batches_of_cifar(tmp_path: Path, classes: int) -> None:
    labels = LABELS.astype(np.uint8)[:, None]
    rows = np.hstack([labels, CIFAR] if classes == 10 else [labels * 0 + 7, labels, CIFAR])
    if classes == 10:
        for number in range(5):
            write(tmp_path / f"data_batch_{number + 1}.bin", rows[2 * number : 2 * number + 2].tobytes())
        write(tmp_path / "test_batch.bin", rows[10:].tobytes())
    else:
        write(tmp_path / "train.bin", rows[:10].tobytes())
        write(tmp_path / "test.bin", rows[10:].tobytes())
    write(tmp_path / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt"), b"a\nb\nc\n\n")
    examples = load_data(str(tmp_path), "train")
    assert torch.equal(examples.batch(range(10))[1], torch.tensor(CIFAR[:10]).view(-1, 3, 32, 32).float() / 255)
    assert (examples.labels.tolist(), examples.class_names) == (LABELS[:10].tolist(), ("a", "b", "c"))


def idx(values: np.ndarray[Any, Any], code: int = 8) -> bytes:
    return bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_files_of_mnist(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    pixels, labels, end = PIXELS[..., 0], LABELS.astype(np.uint8), ".gz" if pack is gzip.compress else ""
    for start, rows in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        write(tmp_path / f"{start}-images-idx3-ubyte{end}", pack(idx(pixels[rows])))
        write(tmp_path / f"{start}-labels-idx1-ubyte{end}", pack(idx(labels[rows])))
    assert list_splits(str(tmp_path)) == ["train", "test"]
    examples = load_data(str(tmp_path), "test")
    assert examples.batch(range(4))[1].equal(torch.from_numpy(pixels[8:, None]).float() / 255)
    assert examples.labels.tolist() == LABELS[8:].tolist()


def test_types_of_idx_files(tmp_path: Path) -> None:
    values = np.arange(6).reshape(2, 3)
    for code, dtype in ((8, "u1"), (9, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")):
        found = read_idx(write(tmp_path / "file", idx(values.astype(dtype), code)))
        assert found.dtype.isnative
        assert found.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(LABELS.astype(np.uint8))[:-1], "11 bytes for an array of shape .12,"),
        (b"", "index out of range"),
        (b"\0\0\x07\1\0\0\0\0", "00 00 07 01"),
        (b"GIF89a", "47 49 46"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_idx(write(tmp_path / "train-images-idx3-ubyte", content))


def test_a_batch_of_cifar_runs_no_code(tmp_path: Path) -> None:
    as_published(tmp_path, classes=10)
    evil = pickle.dumps(print).replace(b"print", b"input")
    write(tmp_path / "test_batch", evil)
    with pytest.raises(InputError, match="no code from a file is run"):
        load_data(str(tmp_path), "test")


# Shards


@pytest.mark.parametrize("kind", ["cls", "json", "txt name"])
def test_shards_of_webdataset(tmp_path: Path, kind: str) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard:06d}.tar", "w") as archive:
            for row in range(6 * shard, 6 * shard + 6):
                label = LABELS[row]
                content = {"cls": str(label), "json": json.dumps({"label": int(label)}), "txt name": NAMES[label]}[kind]
                suffix = {"txt name": "cls"}.get(kind, kind)
                for name, data in ((f"{row:04d}.png", png(PIXELS[row])), (f"{row:04d}.{suffix}", content.encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    same_rows(tmp_path, "train")
    assert load_data(str(tmp_path)).has_names == (kind == "txt name")


# Hugging Face


def test_saved_data_sets(tmp_path: Path) -> None:
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    content = {"picture": [{"bytes": png(each), "path": None} for each in PIXELS], "label": LABELS.tolist()}
    data = datasets.Dataset.from_dict(content, features=features)
    data.save_to_disk(str(tmp_path / "one"))
    same_rows(tmp_path / "one")
    datasets.DatasetDict(train=data.select(range(6)), valid=data.shuffle(seed=0)).save_to_disk(str(tmp_path / "two"))
    same_rows(tmp_path / "two", "validation")
    assert load_data(str(tmp_path / "two"), "val").class_names == tuple(NAMES)
    assert len(load_data(str(tmp_path / "two"), "train")) == 6


# Tables of numbers


def frame(rows: int = 40) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    kinds = [NAMES[row % 3] for row in range(rows)]
    return pd.DataFrame(
        {"id": range(rows), "a": generator.normal(5, 2, rows), "b": range(rows, 2 * rows), "c": 7, "species": kinds}
    )


@pytest.mark.parametrize("save", [lambda f, p: f.to_csv(p, index=False), lambda f, p: f.to_parquet(p, index=False)])
def test_numbers_are_scaled_by_the_training_data(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    suffix = "csv" if save.__code__.co_names[0] == "to_csv" else "parquet"
    content = frame()
    save(content[:30], tmp_path / f"train.{suffix}")
    inner = content[30:].assign(a=content["a"][:10].to_numpy(), b=30)
    inner["b"] = [45] * 10
    save(inner, tmp_path / f"test.{suffix}")
    said: list[str] = []
    train, test = load_splits(str(tmp_path), log=said.append)
    assert "left out: id" in " ".join(said)
    assert "columns are scaled to [0, 1]" in " ".join(said)
    low, high = content["a"][:30].min(), content["a"][:30].max()
    expected = np.stack([(inner["a"] - low) / (high - low), np.full(10, 5 / 29), np.zeros(10)], axis=1)
    np.testing.assert_allclose(test.batch(range(10))[1], expected, rtol=1e-6)
    assert (train.input_shape, train.class_names) == ((3,), tuple(NAMES))
    again = load_data(str(tmp_path / f"test.{suffix}"), preparation=train.preparation)
    assert again.fingerprint == test.fingerprint == load_data(str(tmp_path)).fingerprint
    with pytest.raises(InputError, match=r"ranges of the training data.*train\.csv"):
        load_data(str(tmp_path / f"test.{suffix}"))


def test_numbers_beyond_the_training_data(tmp_path: Path) -> None:
    content = frame()
    content[:30].to_csv(tmp_path / "train.csv", index=False)
    content[30:].to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(InputError, match=r"values from .* to 1\.3.*--out-of-range clip"):
        load_splits(str(tmp_path), out_of_range="refuse")
    said: list[str] = []
    _, test = load_splits(str(tmp_path), log=said.append)
    assert test.batch(range(10))[1][:, 1].tolist() == [1.0] * 10
    assert any("10 of 10 examples are clipped" in line for line in said)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5.1,3.5,0\n4.9,3.0,1\n", r"names of columns in the first line.*x1,x2,label"),
        ("a,b,label\n1,,0\n2,3,1\n", "the ranges of the training data .* values from 1 to 3, and 1 missing values"),
        ("a,b,label\n1,inf,0\n2,3,1\n", "finite numbers .* an infinite value in row 0"),
        ("a,b,label\n1,2,\n2,3,1\n", "no value in row 0"),
        ("a,b,c\n1,2,x\n2,3,y\n", "values from 1 to 3"),
        ("a,b,c,d\n1,2,x,u\n2,3,y,v\n", "--label-column NAME"),
        ("name,label\nu,x\nv,y\n", "a column of images, of names of image files"),
        ("a,a,label\n1,2,0\n", "columns with different names"),
    ],
)
def test_tables_that_are_not_clear(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "toy.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_data(str(tmp_path / "toy.csv"))


def test_missing_values_become_the_mean_of_the_training_data(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,b,label\n0,1,0\n4,,1\n,3,1\n5,2,0\n")
    (tmp_path / "test.csv").write_text("a,b,label\n,5,0\n2,,1\n")
    said: list[str] = []
    train, test = load_splits(str(tmp_path), log=said.append)
    np.testing.assert_allclose(train.batch(range(4))[1], [[0.0, 0.0], [0.8, 0.5], [0.6, 1.0], [1.0, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(test.batch(range(2))[1], [[0.6, 1.0], [0.4, 0.5]], rtol=1e-6)
    assert train.preparation["scaling"] == {"features": ["a", "b"], "low": [0, 1], "high": [5, 3], "mean": [3, 2]}
    assert sum("2 missing values become the mean of their column" in line for line in said) == 2
    again = load_data(str(tmp_path / "test.csv"), preparation=train.preparation)
    assert again.fingerprint == test.fingerprint


def test_missing_values_do_not_move_examples_between_the_splits_of_one_table(tmp_path: Path) -> None:
    content = frame()
    content.loc[[3, 5], "a"] = np.nan
    content.to_csv(tmp_path / "toy.csv", index=False)
    train, test = load_splits(str(tmp_path / "toy.csv"))
    assert sorted([*train.ids.tolist(), *test.ids.tolist()]) == list(range(40))
    seen = content["a"].to_numpy()[train.ids]
    assert train.preparation["scaling"]["mean"][0] == pytest.approx(np.nanmean(seen))
    column = train.batch(range(len(train)))[1][np.isnan(seen), 0]
    expected = (np.nanmean(seen) - np.nanmin(seen)) / (np.nanmax(seen) - np.nanmin(seen))
    np.testing.assert_allclose(column, np.full(len(column), expected), rtol=1e-6)
    again = load_data(str(tmp_path / "toy.csv"), "test", preparation=train.preparation)
    assert again.fingerprint == test.fingerprint


def test_a_column_without_any_value_is_refused(tmp_path: Path) -> None:
    content = frame().assign(c=[np.nan] * 39 + [1.0])
    content[:30].to_parquet(tmp_path / "train.parquet")
    content[30:].to_parquet(tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"at least one value in each column .* no value in c; try"):
        load_splits(str(tmp_path))


def test_columns_within_range_stay(tmp_path: Path) -> None:
    pd.DataFrame({"a": [0.25, 0.5], "label": [0, 1]}).to_csv(tmp_path / "toy.csv", index=False)
    assert load_data(str(tmp_path / "toy.csv")).batch([0, 1])[1].flatten().tolist() == [0.25, 0.5]


# Code


CODE = """
import torch
from torch.utils.data import DataLoader, TensorDataset
inputs = torch.arange(24.0).view(12, 2) / 24
labels = torch.arange(12) % 3
def pair():
    return inputs, labels
def dataset():
    return TensorDataset(inputs, labels)
def loader():
    return DataLoader(TensorDataset(inputs, labels), batch_size=5, shuffle=True)
def splits():
    return {"train": (inputs[:8], labels[:8]), "test": (inputs[8:], labels[8:])}
def by_name(split):
    return {"train": (inputs[:8], labels[:8]), "test": (inputs[8:], labels[8:])}[split]
def wrong():
    raise RuntimeError("no disk")
"""


SIZES = [("pair", 12), ("dataset", 12), ("loader", 12), ("splits", 4), ("by_name", 4)]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_code_of_the_user(tmp_path: Path, name: str, size: int) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    examples = load_data(f"{tmp_path / 'mine.py'}:{name}")
    expected = torch.arange(24.0).view(12, 2)[-size:] / 24
    assert torch.equal(examples.batch(range(size))[1], expected)
    assert examples.labels.tolist() == (torch.arange(12) % 3)[-size:].tolist()


def test_wrong_code_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    with pytest.raises(InputError, match="RuntimeError: no disk"):
        load_data(f"{tmp_path / 'mine.py'}:wrong")
    with pytest.raises(InputError, match="'loadr', which does not exist; try loader"):
        load_data(f"{tmp_path / 'mine.py'}:loadr")


# Pixels


def test_sizes_transparency_and_orientation_are_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "ant" / "1.png", png(np.dstack([PIXELS[0], PIXELS[0][..., :1]])))
    write(tmp_path / "bee" / "2.png", png(PIXELS[1, :, :3], exif=exif))
    with pytest.raises(InputError, match=r"images of one size .*; try --resize 4"):
        load_data(str(tmp_path))
    said: list[str] = []
    examples = load_data(str(tmp_path), resize=8, log=said.append)
    assert examples.input_shape == (3, 8, 8)
    assert [line.partition(": ")[2] for line in said] == [
        "images of 2 sizes are resized to 8x8; proportions are not kept",
        "the transparency of images is dropped (1 of 2 looked at)",
        "orientation tags of images are ignored, as torchvision does (1 of 2 looked at)",
    ]
    image = Image.fromarray(PIXELS[1, :, :3]).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(examples[1][1].permute(1, 2, 0) * 255, np.asarray(image), atol=1.01)
    again = load_data(str(tmp_path), preparation=examples.preparation)
    assert again.fingerprint == examples.fingerprint


def test_hugging_face_obeys_orientation_and_so_do_its_tables(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    cells = [{"bytes": png(PIXELS[row], exif=exif), "path": None} for row in range(2)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    data = datasets.Dataset.from_dict({"image": cells, "label": [0, 1]}, features=features)
    data.to_parquet(str(tmp_path / "toy.parquet"))
    ours = load_data(str(tmp_path / "toy.parquet")).batch([0, 1])[1]
    theirs = [np.asarray(each) for each in data["image"]]
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1) * 255, theirs, atol=1e-4)


@pytest.mark.parametrize("low", [-3e-8, -1e-6, 0.0])
def test_rounding_below_0_is_accepted_everywhere(tmp_path: Path, low: float) -> None:
    values = np.array([[low, 1.0], [0.5, 1 + 5e-7]], dtype=np.float32)
    np.savez(tmp_path / "toy.npz", x=values, y=[0, 1])
    found = load_data(str(tmp_path / "toy.npz")).batch([0, 1])[1]
    assert (float(found.min()), float(found.max())) == (0, 1)


def test_values_outside_are_refused_or_clipped(tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", x=np.array([[-0.1, 1.0], [0.5, 1.1]]), y=[0, 1])
    with pytest.raises(InputError, match=r"values from -0\.1 to 1\.1 in 2 of 2 examples; try .*--out-of-range clip"):
        load_data(str(tmp_path / "toy.npz"))
    assert load_data(str(tmp_path / "toy.npz"), out_of_range="clip").batch([0, 1])[1].tolist() == [[0, 1], [0.5, 1]]


def test_arrays_are_resized_like_images(tmp_path: Path) -> None:
    for name, images in (("bytes", PIXELS), ("floats", INPUTS.numpy())):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=LABELS)
        examples = load_data(str(tmp_path / f"{name}.npz"), resize=3)
        expected = Image.fromarray(PIXELS[0]).resize((3, 3), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(examples[0][1].permute(1, 2, 0) * 255, np.asarray(expected), atol=1.01)
        assert load_data(str(tmp_path / f"{name}.npz"), preparation=examples.preparation).input_shape == (3, 3, 3)
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 5)), y=[0, 1])
    with pytest.raises(InputError, match=r"images in rows, which can be resized to 3x3, got inputs of shape \(5,\)"):
        load_data(str(tmp_path / "rows.npz"), resize=3)


def test_labels_that_are_not_needed_may_be_missing_or_wrong(tmp_path: Path) -> None:
    for name, labels in (("negative", [-1, 0]), ("fractions", [0.5, 1.0])):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((2, 5)), y=labels)
        said: list[str] = []
        assert not load_data(str(tmp_path / f"{name}.npz"), labeled=False, log=said.append).is_labeled
        assert "its labels are not used" in said[0]
    np.savez(tmp_path / "right.npz", x=np.zeros((2, 5)), y=[1, 0])
    assert load_data(str(tmp_path / "right.npz"), labeled=False).labels.tolist() == [1, 0]


# Splits


def test_a_test_split_is_cut_by_content(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    doubled = np.concatenate([values, values])
    labels = np.arange(100) % 4
    np.savez(tmp_path / "toy.npz", x=doubled, y=labels)
    said: list[str] = []
    train, test = load_splits(str(tmp_path / "toy.npz"), log=said.append)
    assert (len(train), len(test)) == (80, 20)
    assert said == ["toy has no test split: 20 of 100 examples are cut off, by their content"]
    assert not np.isin(test.hashes, train.hashes).any()
    assert (train.name, test.name) == ("toy-train", "toy-test")
    for split, expected in (("train", train), ("test", test)):
        found = load_data(str(tmp_path / "toy.npz"), split)
        assert (found.fingerprint, found.ids.tolist()) == (expected.fingerprint, expected.ids.tolist())
    order = np.random.default_rng(1).permutation(100)
    np.savez(tmp_path / "other.npz", x=doubled[order], y=labels[order])
    _, other = load_splits(str(tmp_path / "other.npz"))
    assert set(other.hashes) == set(test.hashes)
    _, small = load_splits(str(tmp_path / "toy.npz"), test_size=5)
    assert len(small) == 6  # three pairs
    assert set(small.hashes) < set(test.hashes)
    with pytest.raises(InputError, match="a test split of 1 to 99 examples"):
        load_splits(str(tmp_path / "toy.npz"), test_size=100)
    assert len(load_data(str(tmp_path / "toy.npz"))) == 100


def test_the_validation_split_is_the_test_split_if_there_is_no_other(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "x_train": INPUTS.numpy(),
        "y_train": LABELS,
        "x_val": INPUTS[:3].numpy(),
        "y_val": LABELS[:3],
    }
    np.savez(tmp_path / "toy.npz", **arrays)
    said: list[str] = []
    _, test = load_splits(str(tmp_path / "toy.npz"), log=said.append)
    assert (test.name, len(test)) == ("toy-validation", 3)
    assert said == ["toy has no test split: its validation split is the test split"]
    assert load_data(str(tmp_path / "toy.npz")).name == load_data(str(tmp_path / "toy.npz"), "test").name == test.name


def test_a_test_split_without_labels_is_not_used(tmp_path: Path) -> None:
    for row in range(N):
        write(tmp_path / "train" / NAMES[LABELS[row]] / "images" / f"{row}.png", png(PIXELS[row]))
    write(tmp_path / "test" / "images" / "1.png", png(PIXELS[0]))
    said: list[str] = []
    train, test = load_splits(str(tmp_path), test_size=3, log=said.append)
    assert (len(train), len(test), train.class_names) == (9, 3, tuple(NAMES))
    assert any("not used: the split test, which has no labels" in line for line in said)
    assert torch.equal(load_data(str(tmp_path), "train").batch([0])[1], INPUTS[:1])
    assert len(load_data(str(tmp_path), "test")) == 2  # the fifth that is cut off train
    assert len(load_data(str(tmp_path), "test", labeled=False)) == 1
    write(tmp_path / "val" / "bee" / "images" / "1.png", png(PIXELS[1]))
    assert load_data(str(tmp_path), "val").labels.tolist() == [1]


def test_rare_classes_may_be_missing(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "x_train": INPUTS.numpy(),
        "y_train": LABELS,
        "x_test": INPUTS[:2].numpy(),
        "y_test": LABELS[:2],
    }
    np.savez(tmp_path / "toy.npz", **arrays)
    train, test = load_splits(str(tmp_path / "toy.npz"))
    assert (train.num_classes, test.num_classes) == (3, 3)
    train, test = load_splits(str(tmp_path / "toy.npz"), num_classes=5)
    assert (train.num_classes, test.class_names) == (5, ("0", "1", "2", "3", "4"))
    assert load_data(str(tmp_path / "toy.npz"), num_classes=5).num_classes == 5
    arrays["y_train"], arrays["y_test"] = np.array(NAMES)[LABELS], np.array(["cat", "cat"])
    np.savez(tmp_path / "named.npz", **arrays)
    assert load_data(str(tmp_path / "named.npz")).labels.tolist() == [2, 2]
    with pytest.raises(InputError, match="--num-classes 3 for named-test, whose classes have names"):
        load_data(str(tmp_path / "named.npz"), num_classes=5)


def test_a_corrupted_copy_has_the_numbers_of_its_clean_data(tmp_path: Path) -> None:
    for row in range(6):
        for place in ("clean", "copy/fog/3"):
            write(tmp_path / place / NAMES[LABELS[row]] / f"{row}.png", png(PIXELS[row]))
    clean, _ = match_classes(load_data(str(tmp_path / "clean")), ("cat", "x", "bee", "ant"), 4)
    found = load_condition(str(tmp_path / "copy"), "fog", 3, clean)
    assert found.labels.tolist() == clean.labels.tolist() == [3, 3, 2, 2, 0, 0]


@pytest.mark.parametrize("scale", ["0 to 255", "standardized"])
def test_inputs_on_another_scale_are_not_clipped(scale: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((4, 3, 2, 2)).astype(np.float32)
    other = 255 * values if scale == "0 to 255" else (values - 0.45) / 0.22
    np.savez(tmp_path / "toy.npz", x=other, y=[0, 1, 0, 1])
    with pytest.raises(InputError, match=r"scaling the inputs to \[0, 1\], and putting.*") as error:
        load_data(str(tmp_path / "toy.npz"), out_of_range="clip")
    assert "--out-of-range" not in str(error.value)
    np.savez(tmp_path / "toy.npz", x=values + 0.1, y=[0, 1, 0, 1])  # outliers alone
    assert load_data(str(tmp_path / "toy.npz"), out_of_range="clip").batch([0])[1].max() <= 1


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    """The published files of CIFAR-10 come from Python 2, whose text is bytes, also as keys."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype(np.uint8)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        batch = {b"labels": [3, 8], b"data": pixels, b"filenames": [b"a.png", b"b.png"]}
        (folder / name).write_bytes(b"\x80\x02" + as_python_2(batch) + b".")
    names = [name.encode() for name in ("a", "b", "c", "cat", "d", "e", "f", "g", "ship", "h")]
    (folder / "batches.meta").write_bytes(b"\x80\x02" + as_python_2({b"label_names": names}) + b".")
    examples = load_data(str(folder))
    assert [examples.class_names[label] for label in examples.labels.tolist()] == ["cat", "ship"]
    assert examples.batch([1])[1].mul(255).round().flatten().tolist() == pixels[1].tolist()


def as_python_2(value: object) -> bytes:
    """Pickle as Python 2 does with protocol 2, for which every text is a string of bytes (BINSTRING)."""
    match value:
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case int():
            return b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(map(as_python_2, value)) + b"e"
        case dict():
            return b"}(" + b"".join(as_python_2(key) + as_python_2(each) for key, each in value.items()) + b"u"
        case np.ndarray():
            start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
            shape = b"".join(map(as_python_2, value.shape)) + b"\x86"
            dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
            return start + shape + dtype + as_python_2(value.tobytes()) + b"tb"
    raise TypeError(type(value))
