"""Image files (PNG, JPEG, ...), decoded into tensors."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals.errors import InputError


@dataclass(frozen=True)
class NamedImage:
    """Image file that the data names, not the user. It is opened only if it is inside one of ``folders``.

    Attributes:
        path: the path in the data, absolute or relative to a folder.
        folders: the allowed folders, with symbolic links resolved.
    """

    path: str
    folders: tuple[Path, ...]

    def resolved(self) -> Path | None:
        """Find the file, with symbolic links resolved; None if it is not inside one of the folders."""
        paths = [((folder / self.path).resolve(), folder.resolve()) for folder in self.folders]
        inside = [path for path, folder in paths if path.is_relative_to(folder)]
        return next((path for path in inside if path.is_file()), inside[0] if inside else None)


EncodedImage = bytes | str | NamedImage | None
"""The bytes of an image file, a path that the user named, a file that the data names, or None for a missing image."""


@dataclass(frozen=True)
class SelectedImages(Sequence[EncodedImage]):
    """Selection from a sequence of encoded images."""

    images: Sequence[EncodedImage]
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        return self.images[int(self.rows[row])]


MEMORY_LIMIT = 2 * 2**30
"""Largest size in bytes of decoded images that are kept in memory."""

MAX_PIXELS = 89_478_485
"""Largest number of pixels of an image, where Pillow warns: a file of kilobytes may contain an image of gigabytes."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Allowed formats of image files. Pillow runs other programs for some formats: Ghostscript runs EPS, which is code."""

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

_SAMPLE = 256
_DECODED_AT_ONCE = 60_000
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Decoding:
    """Choices in the way from an image file to pixels.

    Attributes:
        resize: height and width of every image; None keeps the size.
        upright: True obeys orientation tags, as Hugging Face datasets does; False ignores them, as torchvision does.
    """

    resize: int | None = None
    upright: bool = True

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 1:
            raise InputError(expected="resize of at least 1 pixel", got=str(self.resize), hint="--resize 32")


@dataclass(frozen=True)
class ImageReader:
    """Reader that decodes images on demand.

    Attributes:
        encoded: all images of a split.
        rows: the rows of ``encoded`` to read.
        size: (height, width) of every image.
        gray: True for images with 1 channel, False for images with 3 channels (RGB).
        name: name of the data in messages.
        decoding: how the files become pixels.
    """

    encoded: Sequence[EncodedImage]
    rows: Sequence[int]
    size: tuple[int, int]
    gray: bool
    name: str
    decoding: Decoding = Decoding()

    def __call__(self, positions: Sequence[int]) -> Tensor:
        """Read the images at ``positions`` of ``rows``, uint8, shape (n, C, H, W).

        Raises:
            InputError: an image cannot be decoded, has another size, or has color although the others are gray.
        """
        rows = [self.rows[position] for position in positions]
        images, gray = _decode_rows(self.encoded, rows, self.size, self.name, self.decoding)
        if self.gray and not gray:
            raise InputError(
                expected=f"gray images only in {self.name}",
                got=f"a color image among rows {rows[0]} to {rows[-1]}",
                hint="converting all images to RGB or to gray",
            )
        return images[:, :1] if self.gray else images


class KeptImages:
    """Reader that decodes each image when it is first needed, and keeps it; a copy in another process keeps its own."""

    def __init__(self, reader: ImageReader) -> None:
        channels = 1 if reader.gray else 3
        self._reader = reader
        # The system gives memory to a part of the tensor when this part is first written.
        self._images = torch.empty((len(reader.rows), channels, *reader.size), dtype=torch.uint8)
        self._known = torch.zeros(len(reader.rows), dtype=torch.bool)

    def __reduce__(self) -> tuple[type[KeptImages], tuple[ImageReader]]:
        return KeptImages, (self._reader,)

    def __call__(self, positions: Sequence[int]) -> Tensor:
        """Read the images at ``positions``, see `ImageReader`."""
        index = torch.tensor(positions, dtype=torch.int64)
        missing = index[~self._known[index]].unique()
        if len(missing):
            self._images[missing] = self._reader(missing.tolist())
            self._known[missing] = True
        return self._images[index]


def read_images(
    encoded: Sequence[EncodedImage],
    rows: Sequence[int],
    name: str,
    decoding: Decoding = Decoding(),
    *,
    memory_limit: int = MEMORY_LIMIT,
) -> Tensor | ImageReader | KeptImages:
    """Read the images at ``rows`` of ``encoded``: decode them if they are few, else return a reader.

    The result is gray (1 channel) if all images are gray, else RGB. For a reader, an evenly spaced sample decides.

    Returns:
        uint8 tensor, shape (len(rows), C, H, W), for up to 60,000 images that fit in memory; `KeptImages` for more that
        fit, so that a call takes seconds; otherwise an `ImageReader`.

    Raises:
        InputError: an image cannot be decoded, or sizes differ.
    """
    _, height, width = decode_image(encoded[rows[0]], rows[0], name, decoding).shape
    fitting = memory_limit // (3 * height * width)
    is_small = len(rows) <= min(fitting, _DECODED_AT_ONCE)
    sample = rows if is_small else _spaced(rows, min(_SAMPLE, fitting))
    images, gray = _decode_rows(encoded, sample, (height, width), name, decoding)
    if not is_small:
        reader = ImageReader(encoded, rows, (height, width), gray, name, decoding)
        return KeptImages(reader) if len(rows) <= fitting else reader
    return images[:, :1].clone() if gray else images


def _spaced(rows: Sequence[int], count: int) -> list[int]:
    """Choose up to ``count`` rows, evenly spaced."""
    return [rows[place] for place in np.linspace(0, len(rows) - 1, max(1, min(count, len(rows)))).astype(int)]


def describe_images(encoded: Sequence[EncodedImage], rows: Sequence[int], decoding: Decoding) -> Iterator[str]:
    """Tell what decoding changes in images: their sizes, their transparency and their orientation.

    The headers of an evenly spaced sample of up to 256 files decide. Files that cannot be read are for `read_images`.
    """
    sample = _spaced(rows, _SAMPLE)
    kinds = [kind for row in sample if (kind := _kind(encoded[row])) is not None]
    sizes = {size for size, _, _ in kinds}
    if decoding.resize is not None and sizes != {(decoding.resize, decoding.resize)}:
        shapes = f"{len(sizes)} sizes" if len(sizes) > 1 else "one size"
        yield f"images of {shapes} are resized to {decoding.resize}x{decoding.resize}; proportions are not kept"
    if clear := sum(is_clear for _, is_clear, _ in kinds):
        yield f"the transparency of images is dropped ({clear} of {len(sample)} looked at)"
    if turned := sum(is_turned for _, _, is_turned in kinds):
        done = "obeyed, as Hugging Face datasets does" if decoding.upright else "ignored, as torchvision does"
        yield f"orientation tags of images are {done} ({turned} of {len(sample)} looked at)"


def _kind(encoded: EncodedImage) -> tuple[tuple[int, int], bool, bool] | None:
    """Read (width, height), whether there is transparency, and whether there is a tag that turns the image."""
    with suppress(Exception):  # the plugins of Pillow raise many kinds, and the decoder will say what is wrong
        pil_image = load_extra("PIL.Image")
        file = _file(encoded, 0, "")
        with pil_image.open(file, formats=[each for each in FORMATS if each in pil_image.OPEN]) as image:
            return image.size, "A" in image.getbands(), image.getexif().get(_ORIENTATION, 1) != 1
    return None


def decode_image(encoded: EncodedImage, row: int, name: str, decoding: Decoding = Decoding()) -> npt.NDArray[np.uint8]:
    """Decode one image file: uint8, shape (1, H, W) if it is gray, else (3, H, W).

    Transparency is dropped, and palettes are resolved. 16-bit images keep the upper 8 bits.

    Raises:
        InputError: no decoder can read the bytes, the image has more than `MAX_PIXELS`, or the file is not opened
            because it is not a regular file, or because the data names a file outside its folder.
    """
    pil_image, pil_ops = load_extra("PIL.Image"), load_extra("PIL.ImageOps")
    file = _file(encoded, row, name)
    try:
        if file is None:
            raise ValueError("no image")
        pil_image.init()  # registers the formats once
        with pil_image.open(file, formats=[each for each in FORMATS if each in pil_image.OPEN]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            if decoding.upright:
                pil_ops.exif_transpose(image, in_place=True)
            return _resized(_pixels(image), decoding.resize)
    except Exception as error:  # the plugins of Pillow raise many kinds
        raise InputError(
            expected=f"an image in row {row} of {name}",
            got=f"{type(error).__name__}: {error}",
            hint="replacing or removing this row",
        ) from error


def _file(encoded: EncodedImage, row: int, name: str) -> io.BytesIO | Path | None:
    """Return the bytes or the file that Pillow may open."""
    if encoded is None or isinstance(encoded, bytes):
        return None if encoded is None else io.BytesIO(encoded)
    path: Path | None = None
    try:
        path = encoded.resolved() if isinstance(encoded, NamedImage) else Path(encoded)
        why = "which is not inside it" if path is None else "which is not a regular file"
        if path is not None and path.is_file():  # other kinds of file could be endless
            return path
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, or a circle of links
        why = str(error)
    if isinstance(encoded, str):
        raise InputError(
            expected=f"an image file in row {row} of {name}", got=f"{encoded}, {why}", hint="removing this file"
        )
    folders = " or ".join(map(str, encoded.folders))
    raise InputError(
        expected=f"the image in row {row} of {name} as bytes, or as a file inside {folders}",
        got=f"the path {encoded.path!r}, {why}",
        hint="writing the images into the table",
    )


def _pixels(image: Any) -> npt.NDArray[np.uint8]:
    """Read the pixels of a PIL image, uint8, shape (1 or 3, H, W)."""
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow's own conversion would clip at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit integer pixels")
        return (values >> 8).astype(np.uint8)[None]
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))[None]
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")).transpose(2, 0, 1)


def _resized(pixels: npt.NDArray[np.uint8], resize: int | None) -> npt.NDArray[np.uint8]:
    """Resize pixels, shape (1 or 3, H, W), by bilinear interpolation with antialiasing."""
    if resize is None or pixels.shape[1:] == (resize, resize):
        return pixels
    pil_image = load_extra("PIL.Image")
    channels = [pil_image.fromarray(each).resize((resize, resize), pil_image.Resampling.BILINEAR) for each in pixels]
    return np.stack([np.asarray(each) for each in channels])


def _decode_rows(
    encoded: Sequence[EncodedImage], rows: Sequence[int], size: tuple[int, int], name: str, decoding: Decoding
) -> tuple[Tensor, bool]:
    """Decode the images at ``rows`` as RGB, uint8, shape (n, 3, H, W); the bool is True if all images are gray."""
    images = torch.empty((len(rows), 3, *size), dtype=torch.uint8)
    gray = True
    for target, row in zip(images.numpy(), rows, strict=True):
        image = decode_image(encoded[row], row, name, decoding)
        if image.shape[1:] != size:
            raise InputError(
                expected=f"images of one size in {name}",
                got=f"height x width {size[0]}x{size[1]}, but {image.shape[1]}x{image.shape[2]} in row {row}",
                hint=f"--resize {min(size)}, or another size in pixels",
            )
        target[:] = image  # a gray image is repeated over the channels
        gray = gray and len(image) == 1
    return images, gray
