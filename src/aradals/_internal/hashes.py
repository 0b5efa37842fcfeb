"""Content hashes of examples as text, for the metadata of what was fitted on the examples."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from aradals.errors import InputError


def encode_hashes(hashes: np.ndarray) -> str:
    """Encode example hashes (uint64) as text."""
    return base64.b64encode(np.sort(hashes.astype("<u8")).tobytes()).decode()


def decode_hashes(text: object, path: Path | None = None) -> np.ndarray:
    """Invert `encode_hashes`; ``path`` is the file that contains the text.

    Raises:
        InputError: `encode_hashes` has not written the text.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8")  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(
            expected=f"content hashes of examples, in base64{f', in {path}' if path else ''}",
            got=f"{text!r:.80}" if isinstance(text, str) else type(text).__name__,
            hint="the file as `aradals` has written it",
        ) from error
