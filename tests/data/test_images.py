from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aradals.data import images
from aradals.data.folders import list_images
from aradals.data.images import ImageReader, KeptImages, decode_image, read_images
from aradals.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


def png(pixels: np.ndarray[Any, Any], mode: str | None = None, **options: object) -> bytes:
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, "png", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (png(RGB), RGB.transpose(2, 0, 1)),
        (png(GRAY), GRAY[None]),
        (png(np.dstack([RGB, GRAY])), RGB.transpose(2, 0, 1)),  # RGBA: transparency is dropped
        (png(GRAY, "LA"), GRAY[None]),
        (png(GRAY, "P"), np.stack([GRAY] * 3)),
        (png(GRAY > 127), 255 * (GRAY > 127)[None].astype(np.uint8)),
        (png(GRAY.astype(np.uint16) * 256 + 17), GRAY[None]),  # 16 bits
    ],
    ids=["RGB", "gray", "RGBA", "LA", "palette", "binary", "16-bit"],
)
def test_modes(encoded: bytes, expected: np.ndarray[Any, Any]) -> None:
    decoded = decode_image(encoded, 0, "toy")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_orientation_is_obeyed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    expected = np.rot90(RGB, -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(png(RGB, exif=exif), 0, "toy"), expected)


def test_channels_are_one_only_if_all_images_are_gray(tmp_path: Path) -> None:
    (tmp_path / "gray.png").write_bytes(png(GRAY))
    encoded: list[bytes | str | None] = [png(GRAY), str(tmp_path / "gray.png")]
    gray = read_images(encoded, [1, 0], "toy")
    assert isinstance(gray, torch.Tensor)
    assert torch.equal(gray, torch.from_numpy(GRAY).expand(2, 1, -1, -1))
    mixed = read_images([*encoded, png(RGB)], [0, 2], "toy")
    assert isinstance(mixed, torch.Tensor)
    assert torch.equal(mixed, torch.from_numpy(np.stack([np.stack([GRAY] * 3), RGB.transpose(2, 0, 1)])))


def test_above_the_limit_images_are_decoded_on_demand() -> None:
    encoded = [png(RGB + shift) for shift in range(5)]
    rows = [4, 0, 2]
    in_memory = read_images(encoded, rows, "toy")
    lazy = read_images(encoded, rows, "toy", memory_limit=RGB.nbytes * 3 - 1)
    assert isinstance(in_memory, torch.Tensor)
    assert isinstance(lazy, ImageReader)
    assert torch.equal(pickle.loads(pickle.dumps(lazy))([2, 1]), in_memory[[2, 1]])


def test_a_lazy_reader_refuses_color_that_its_sample_did_not_show() -> None:
    reader = ImageReader([png(GRAY), png(RGB)], [0, 1], (4, 6), gray=True, name="toy")
    assert reader([0]).shape == (1, 1, 4, 6)
    with pytest.raises(InputError, match="gray images only"):
        reader([1])


@pytest.mark.parametrize("broken", [b"", b"nonsense", png(RGB)[:60], None, "no/such/file.png"])
def test_a_broken_image_is_named_by_its_row(broken: bytes | str | None) -> None:
    with pytest.raises(InputError, match="row 7 of toy"):
        read_images([png(RGB)] * 7 + [broken], [0, 7], "toy")


def test_two_sizes_are_named() -> None:
    with pytest.raises(InputError, match="4x6, but 3x6 in row 1"):
        read_images([png(RGB), png(RGB[:3])], [0, 1], "toy")


def test_many_images_are_decoded_once_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = [png(RGB + number) for number in range(10)]
    expected, decoded = read_images(encoded, range(1, 10), "toy"), list[int]()
    monkeypatch.setattr(images, "_DECODED_AT_ONCE", 8)
    monkeypatch.setattr(images, "_SAMPLE", 2)
    reader = read_images(encoded, range(1, 10), "toy")
    assert isinstance(reader, KeptImages)
    assert isinstance(expected, torch.Tensor)

    def counted(encoded: bytes, row: int, *more: Any) -> Any:
        decoded.append(row)
        return decode_image(encoded, row, *more)

    monkeypatch.setattr(images, "decode_image", counted)
    for positions in ([3, 0, 3], [0, 8], list(range(9))):
        assert torch.equal(reader(positions), expected[positions])
    assert sorted(decoded) == list(range(1, 10))
    copy = pickle.loads(pickle.dumps(reader))
    assert torch.equal(copy([4]), expected[[4]])
    assert decoded[-1] == 5


def test_folders_are_listed_in_the_order_of_their_parts(tmp_path: Path) -> None:
    """A file is not a class, names that begin with a dot are hidden, and a folder sorts before its neighbor's name."""
    names = ["a/2.png", "a/1.PNG", "a-b/1.png", "a/.3.png", ".b/1.png", "a/note.txt", "a/c.d.jpeg", "a/png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.as_posix() for path in list_images(tmp_path)]
    assert found == ["a/1.PNG", "a/2.png", "a/c.d.jpeg", "a-b/1.png"]
