"""Image files that data name are opened inside the folder of the data, and nowhere else."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aradals.data import load_data
from aradals.data.formats import Columns
from aradals.data.images import MAX_PIXELS, NamedImage, decode_image
from aradals.data.table_files import parquet_table
from aradals.data.tables import read_rows
from aradals.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def image(pixels: np.ndarray[Any, Any] = PIXELS, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of data with an image, a link out of it, a fifo and a device, beside an image that is none of it."""
    inside = tmp_path / "data"
    (inside / "photos").mkdir(parents=True)
    (inside / "photos" / "a.png").write_bytes(image())
    (tmp_path / "private.png").write_bytes(image())
    (tmp_path / "data-private.png").write_bytes(image())
    (inside / "link.png").symlink_to(tmp_path / "private.png")
    (inside / "elsewhere").symlink_to(tmp_path)
    (inside / "zero.png").symlink_to("/dev/zero")
    (inside / "circle.png").symlink_to("circle.png")
    (inside / "safe-link.png").symlink_to("photos/a.png")
    os.mkfifo(inside / "fifo.png")
    return inside


def table(path: Path, name: str, *, rows: int = 3) -> Path:
    """Parquet with an image as bytes, then as the path ``name``."""
    cells = [{"bytes": image(), "path": None}, *[{"bytes": None, "path": name}] * (rows - 1)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [0, 1, 0][:rows]}), path)
    return path


def in_memory(path: Path) -> np.ndarray[Any, Any]:
    return load_data(str(path)).batch([0, 1])[1].numpy()


def on_disk(path: Path) -> np.ndarray[Any, Any]:
    encoded = read_rows(parquet_table([path], memory_limit=0), Columns()).inputs
    return np.stack([decode_image(encoded[row], row, "toy.parquet") for row in range(2)]) / np.float32(255)


def on_the_hub(path: Path) -> np.ndarray[Any, Any]:
    return load_data("someone/pets", "train").batch([0, 1])[1].numpy()


@pytest.fixture(params=[in_memory, on_disk, on_the_hub])
def read(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda _: datasets.DatasetDict(train=datasets.Dataset(pq.read_table(folder / "toy.parquet"))),
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "no-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    reader: Callable[[Path], Any] = request.param
    return reader


@pytest.mark.parametrize("name", ["photos/a.png", "safe-link.png", "photos/../photos/./a.png", "{folder}/photos/a.png"])
def test_files_inside_the_folder_are_read(folder: Path, read: Callable[[Path], Any], name: str) -> None:
    pixels = read(table(folder / "toy.parquet", name.format(folder=folder)))
    np.testing.assert_allclose(pixels, np.stack([PIXELS.transpose(2, 0, 1)] * 2) / np.float32(255))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("{folder}/../private.png", "not inside"),
        ("../private.png", "not inside"),
        ("photos/../../private.png", "not inside"),
        ("../data-private.png", "not inside"),
        ("link.png", "not inside"),
        ("elsewhere/private.png", "not inside"),
        ("/etc/passwd", "not inside"),
        ("/dev/zero", "not inside"),
        ("zero.png", "not inside"),
        ("fifo.png", "not a regular file"),
        ("photos", "not a regular file"),
        ("absent.png", "not a regular file"),
        ("circle.png", ""),
        ("file://{folder}/photos/a.png", "not a regular file"),
        ("http://127.0.0.1:9/a.png", "not a regular file"),
        ("zip://a.png::{folder}/photos/a.zip", "not a regular file"),
        ("~/a.png", "not a regular file"),
        ("a\0.png", ""),
        ("a" * 10_000, ""),
    ],
)
def test_other_files_are_not_opened(folder: Path, read: Callable[[Path], Any], name: str, why: str) -> None:
    path = table(folder / "toy.parquet", name.format(folder=folder))
    why = f"{why}|not a regular file" if read is on_the_hub else why  # a cache has folders of its own
    says = rf"image in row 1 of .* inside .*, got the path '.*({why}).*; try writing"
    with pytest.raises(InputError, match=says) as found:
        read(path)
    assert len(str(found.value)) < 5000


def test_shards_have_folders_of_their_own(folder: Path) -> None:
    (folder / "more").mkdir()
    shutil.copytree(folder / "photos", folder / "more" / "photos")
    (folder / "more" / "photos" / "b.png").write_bytes(image(255 - PIXELS))
    files = [table(folder / "a.parquet", "photos/a.png"), table(folder / "more" / "b.parquet", "photos/b.png")]
    for limit in (0, 2**30):
        encoded = read_rows(parquet_table(files, memory_limit=limit), Columns()).inputs
        decoded = [decode_image(encoded[row], row, "toy")[0, 0, 0] for row in range(6)]
        assert decoded == [PIXELS[0, 0, 0]] * 4 + [255 - PIXELS[0, 0, 0]] * 2


def test_a_link_to_the_data_is_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    table(folder / "toy.parquet", "photos/a.png")
    assert len(in_memory(tmp_path / "alias" / "toy.parquet")) == 2


def test_the_users_own_links_are_followed_but_only_to_files(folder: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    for name, target in (("cat", folder / "photos" / "a.png"), ("dog", folder / "link.png")):
        (classes / name).mkdir(parents=True)
        (classes / name / "1.png").symlink_to(target)
    assert load_data(str(classes)).labels.tolist() == [0, 1]
    os.mkfifo(classes / "dog" / "2.png")
    with pytest.raises(InputError, match=r"dog/2\.png, which is not a regular file"):
        load_data(str(classes))


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(image())
        for other in "abcdefgh":
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    with pytest.raises(InputError, match="again, by a symbolic link"):
        load_data(str(tmp_path))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_refused() -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, MAX_PIXELS // 20_000 + 1)).save(bomb, "png")
    assert len(bomb.getvalue()) < 100_000
    with pytest.raises(InputError, match=r"image in row 3 of toy, got ValueError: 20000x4474 pixels, more than"):
        decode_image(bomb.getvalue(), 3, "toy")


def test_programs_are_no_images(tmp_path: Path) -> None:
    """Pillow would hand PostScript to Ghostscript."""
    source = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(mark) (w) file closefile\nshowpage\n"
    (tmp_path / "evil.png").write_bytes(source)
    for encoded in (source, NamedImage("evil.png", (tmp_path,))):
        with pytest.raises(InputError, match="UnidentifiedImageError"):
            decode_image(encoded, 0, "toy")


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "[" * 100_000,
        "[]",
        "3",
        json.dumps({"info": 3}),
        json.dumps({"info": {"features": ["label"]}}),
        *(
            json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})
            for names in ("cat", 3, {"cat": 0}, [["cat"]], [None], [True])
        ),
    ],
)
def test_metadata_of_wrong_kinds_are_refused(tmp_path: Path, metadata: str) -> None:
    rows = pa.table({"image": [image()] * 2, "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(rows, tmp_path / "toy.parquet")
    with pytest.raises(InputError, match=r"in the metadata 'huggingface' of .*toy\.parquet"):
        load_data(str(tmp_path / "toy.parquet"))


@pytest.mark.parametrize("feature", [3, None, ["x"], {"_type": ["x"]}, {"_type": {}}])
def test_a_feature_of_another_kind_is_no_label(tmp_path: Path, feature: object) -> None:
    metadata = json.dumps({"info": {"features": {"label": feature}}})
    rows = pa.table({"image": [image()] * 2, "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(rows, tmp_path / "toy.parquet")
    with pytest.raises(InputError, match=r"one column of labels in .*toy"):
        load_data(str(tmp_path / "toy.parquet"))


def test_names_that_are_numbers_become_text(tmp_path: Path) -> None:
    metadata = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": [7, "dog", 1.5]}}}})
    rows = pa.table({"image": [image()] * 2, "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(rows, tmp_path / "toy.parquet")
    assert load_data(str(tmp_path / "toy.parquet")).class_names == ("7", "dog", "1.5")
