"""JSON files, written atomically, with null for NaN; sealed files contain a digest that shows any change."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aradals._internal.files import atomic_path
from aradals.errors import InputError

SEAL = "sha256"
_DIGITS = 16


def settings_digest(settings: object) -> str:
    """Compute the SHA-256 of settings that JSON can store: the first 16 hex digits; independent of key order."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def save_json(path: Path, content: object) -> None:
    """Write JSON, with null for NaN and infinities, which JSON does not have."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")


def save_sealed(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object with the digest of its content, so that `load_sealed` detects any change."""
    plain = json.loads(json_text(content))
    save_json(path, {**plain, SEAL: settings_digest(plain)})


def load_sealed(path: Path, *, required: bool = True) -> dict[str, Any]:
    """Read a JSON object that `save_sealed` has written, without its digest.

    Args:
        path: path of the file.
        required: refuse objects without a digest, too, which earlier versions have written.

    Raises:
        InputError: the file is missing, was changed, or is not a sealed file.
    """
    content = load_json(path)
    if not isinstance(content, dict):
        raise InputError(
            expected=f"keys and values in {path}",
            got=type(content).__name__,
            hint="a file of this program",
        )
    digest = content.pop(SEAL, None)
    if digest == settings_digest(content) or (digest is None and not required and not _has_lost_seal(content)):
        return content
    raise changed(path)


def _has_lost_seal(content: Mapping[str, object]) -> bool:
    """Return True if a value has the form of a digest: damage has changed its name."""
    return any(isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", value) for value in content.values())


def changed(path: Path) -> InputError:
    """Make the error for a file of this package that has changed since it was written."""
    return InputError(
        expected=f"the content of {path} as it was written",
        got="a file that was changed or damaged",
        hint="running the command again that wrote the file",
    )


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            expected=f"a readable file {path}", got=error.strerror or "an error", hint="another path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            expected=f"JSON in {path}",
            got=str(error),
            hint="making the file again with the stage that writes it",
        ) from error


def json_text(content: object, indent: int | None = None) -> str:
    """Encode as JSON, with null for NaN and infinities, which JSON does not have."""
    return json.dumps(_finite(content), indent=indent)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
