from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from command_line import aradals
from PIL import Image

from aradals import InputError
from aradals.data import corrupt, load_data
from aradals.models import MLP, save_checkpoint


@pytest.fixture
def source(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(12)]
    features = datasets.Features(
        {
            "note": datasets.Value("string"),
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "boxes": datasets.List(datasets.Value("int32")),
        }
    )
    rows = {
        "note": [f"row {row}" for row in range(12)],
        "img": images,
        "label": [row % 2 for row in range(12)],
        "boxes": [[row, 1] for row in range(12)],
    }
    path = tmp_path / "pets-test.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def write(source: Path | str, output: Path, *more: object, corruption: str = "fog") -> str:
    ran = aradals(
        *("corrupt", "--data", source, "--corruption", corruption, "--severity", 3, "--output", output), *more
    )
    assert ran.code == 0, ran.err
    return ran.out


def test_images_are_those_of_an_evaluation_and_all_else_is_kept(source: Path, tmp_path: Path) -> None:
    for corruption in ("gaussian_noise", "jpeg_compression", "elastic_transform"):
        out = write(source, tmp_path / "out.parquet", "--overwrite", corruption=corruption)
        assert f"12 images of pets-test: {corruption}, severity 3, preset cifar" in out
        clean, written = load_data(str(source)), load_data(str(tmp_path / "out.parquet"))
        ids, inputs, _ = clean.batch(range(12))
        expected = corrupt(inputs, ids, corruption, 3)
        assert torch.equal(written.batch(range(12))[1], expected)
        before, after = parquet.read_table(source), parquet.read_table(tmp_path / "out.parquet")
        metadata = {key: value for key, value in after.schema.metadata.items() if key != b"aradals"}
        assert after.schema.with_metadata(metadata).equals(before.schema, check_metadata=True)
        assert after.drop(["img"]).equals(before.drop(["img"]))
        assert after["img"][0]["bytes"].as_py().startswith(b"\x89PNG")


def test_limit_takes_the_same_sample_as_elsewhere(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out.parquet", "--limit", 5, "--preset", "tiny")
    sample = load_data(str(source), limit=5)
    written = parquet.read_table(tmp_path / "out.parquet")
    assert written["note"].to_pylist() == [f"row {row}" for row in sample.ids.tolist()]
    ids, inputs, _ = sample.batch(range(5))
    expected = corrupt(inputs, ids, "fog", 3, preset="tiny")
    assert torch.equal(load_data(str(tmp_path / "out.parquet")).batch(range(5))[1], expected)


def test_data_that_are_no_table_get_columns_image_and_label(tmp_path: Path) -> None:
    write("digits", tmp_path / "out.parquet", "--limit", 30, corruption="gaussian_blur")
    clean, written = load_data("digits", limit=30), load_data(str(tmp_path / "out.parquet"))
    assert parquet.read_schema(tmp_path / "out.parquet").names == ["image", "label"]
    assert torch.equal(written.labels, clean.labels)
    assert written.class_names == clean.class_names
    ids, inputs, _ = clean.batch(range(30))
    assert torch.equal(written.batch(range(30))[1], corrupt(inputs, ids, "gaussian_blur", 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--corruption", "mist", "--severity", 1, "--output", "x.parquet"), "'mist'"),
        (("--corruption", "fog", "--severity", 0, "--output", "x.parquet"), "from 1 to 5, got 0"),
        (("--corruption", "fog", "--severity", 6, "--output", "x.parquet"), "from 1 to 5, got 6"),
        (("--corruption", "fog", "--severity", 1, "--preset", "mnist", "--output", "x.parquet"), "cifar, tiny"),
        (("--corruption", "fog", "--severity", 1, "--output", "x.png"), "FILE.parquet"),
        (("--corruption", "fog", "--severity", 1), "output"),
    ],
)
def test_bad_input_is_one_line(source: Path, arguments: tuple[object, ...], message: str) -> None:
    ran = aradals("corrupt", "--data", source, *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_gray_images_have_no_saturation(tmp_path: Path) -> None:
    ran = aradals(
        "corrupt", "--data", "digits", "--corruption", "saturate", "--severity", 1, "--output", tmp_path / "x.parquet"
    )
    assert ran.code == 2
    assert "3 channels for saturate, got 1" in ran.err
    assert not (tmp_path / "x.parquet").exists()


def test_rows_of_numbers_have_corruptions_of_their_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "numbers.npz", inputs=np.zeros((20, 7), np.float32), labels=np.zeros(20, int))
    ran = aradals(
        *("corrupt", "--data", tmp_path / "numbers.npz", "--corruption", "fog", "--severity", 1),
        *("--output", tmp_path / "x.parquet"),
    )
    assert ran.code == 2
    assert "try for rows of numbers column_noise or missing_columns" in ran.err


def test_every_flipped_bit_of_an_image_is_noticed(source: Path, tmp_path: Path) -> None:
    """Also one that exchanges two images, as one in the index of a page does."""
    path = tmp_path / "out.parquet"
    write(source, path)
    content, expected = path.read_bytes(), load_data(str(path)).fingerprint
    group = parquet.ParquetFile(path).metadata.row_group(0)
    column = next(each for i in range(group.num_columns) if (each := group.column(i)).path_in_schema == "img.bytes")
    first = column.dictionary_page_offset or column.data_page_offset
    random = np.random.default_rng(0)
    num_noticed = 0
    for position in first + random.integers(0, column.total_compressed_size, 60):
        changed = bytearray(content)
        changed[position] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        try:
            assert load_data(str(path)).fingerprint == expected
        except InputError:
            num_noticed += 1
    assert num_noticed > 40


@pytest.mark.parametrize("corruption", ["column_noise", "missing_columns"])
def test_rows_of_a_table_keep_their_scale_and_their_other_columns(corruption: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    features = datasets.Features(
        {
            "height": datasets.Value("uint8"),
            "note": datasets.Value("string"),
            "weight": datasets.Value("float32"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    for split, size in (("train", 40), ("test", 12)):
        rows = {
            "height": random.integers(20, 90, size),
            "note": [f"row {row}" for row in range(size)],
            "weight": random.uniform(2, 40, size).astype(np.float32),
            "label": [row % 2 for row in range(size)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "pets" / f"{split}.parquet")
    out = write(tmp_path / "pets", tmp_path / "out.parquet", corruption=corruption)
    assert f"12 rows of pets-test: {corruption}, severity 3\n" in out
    clean = load_data(str(tmp_path / "pets"), "test")
    ids, inputs, _ = clean.batch(range(12))
    expected = corrupt(inputs, ids, corruption, 3, means=clean.column_means)
    written = load_data(str(tmp_path / "out.parquet"), preparation=clean.preparation)
    torch.testing.assert_close(written.batch(range(12))[1], expected, rtol=0, atol=1e-6)
    assert torch.equal(written.labels, clean.labels)
    before, after = (
        parquet.read_table(each) for each in (tmp_path / "pets" / "test.parquet", tmp_path / "out.parquet")
    )
    assert after.drop(["height", "weight"]).equals(before.drop(["height", "weight"]))
    again = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"))
    assert again.features["height"].dtype == again.features["weight"].dtype == "float64"
    assert again.features["label"].names == ["cat", "dog"]
    assert again["height"][0] == after["height"][0].as_py()


def test_rows_without_a_table_get_a_column_for_each_number(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).random((9, 3), dtype=np.float32)
    np.savez(tmp_path / "rows.npz", x=inputs, y=np.arange(9) % 3)
    write(tmp_path / "rows.npz", tmp_path / "out.parquet", corruption="column_noise")
    written = parquet.read_table(tmp_path / "out.parquet")
    assert written.column_names == ["x0", "x1", "x2", "label"]
    expected = corrupt(torch.from_numpy(inputs), torch.arange(9), "column_noise", 3)
    np.testing.assert_array_equal(np.stack([written[f"x{column}"] for column in range(3)], 1), expected)
    refused = aradals(
        *("corrupt", "--data", tmp_path / "rows.npz", "--corruption", "missing_columns", "--severity", 3),
        *("--output", tmp_path / "no.parquet"),
    )
    assert (refused.code, "the means of the columns in the training data" in refused.err) == (2, True)


def test_a_checkpoint_says_how_the_columns_are_scaled(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,label\n1,10,0\n3,40,1\n,20,0\n")
    scaling = {"features": ["b", "a"], "low": [0, 0], "high": [50, 4], "mean": [25, 1]}
    description = {"model": "mlp", "num_classes": 2, "input_shape": [2], "preparation": {"scaling": scaling}}
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(MLP(input_shape=(2,), num_classes=2), checkpoint, {"aradals": json.dumps(description)})
    write(*(tmp_path / "rows.csv", tmp_path / "out.parquet", "--checkpoint", checkpoint), corruption="missing_columns")
    rows = parquet.read_table(tmp_path / "out.parquet").select(["a", "b"]).to_pylist()
    before = [(1, 10), (3, 40), (1, 20)]
    for row, (a, b) in zip(rows, before, strict=True):
        found = (row["a"], row["b"])
        assert found == pytest.approx((1, b)) or found == pytest.approx((a, 25))
