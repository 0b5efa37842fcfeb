from __future__ import annotations

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


def test_tables_of_numbers_cannot_be_corrupted(tmp_path: Path) -> None:
    np.savez(tmp_path / "numbers.npz", inputs=np.zeros((20, 7), np.float32), labels=np.zeros(20, int))
    ran = aradals(
        *("corrupt", "--data", tmp_path / "numbers.npz", "--corruption", "fog", "--severity", 1),
        *("--output", tmp_path / "x.parquet"),
    )
    assert ran.code == 2
    assert "corruptions are defined for images only" in ran.err


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
