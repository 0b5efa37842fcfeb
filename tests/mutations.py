"""Damage and nonsense for files: bytes that flip, vanish or repeat, and values of other types and sizes."""

from __future__ import annotations

import copy
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

Mutation = Callable[[bytes, random.Random], bytes]

HUGE = (b"99999999999999999999", b"-1", b"1e999", b"1" + b"0" * 400, b"NaN", b"0x7f", b"1e12", b"-0.0")


def flip(content: bytes, chance: random.Random) -> bytes:
    """One to three bits."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    """The end is missing, or the beginning."""
    at = chance.randrange(len(content))
    return content[:at] if chance.random() < 0.8 else content[at:]


def zero(content: bytes, chance: random.Random) -> bytes:
    """A block of zeros, as after a crash."""
    start, size = chance.randrange(len(content)), chance.choice((1, 8, 64, 512))
    return (content[:start] + bytes(size) + content[start + size :])[: len(content)]


def splice(content: bytes, chance: random.Random) -> bytes:
    """A piece of the file at another place of it."""
    start, target = chance.randrange(len(content)), chance.randrange(len(content))
    piece = content[start : start + chance.choice((1, 4, 16, 64))]
    return content[:target] + piece + content[target + chance.choice((0, len(piece))) :]


def enlarge(content: bytes, chance: random.Random) -> bytes:
    """Another number in place of one."""
    found = list(re.finditer(rb"\d+", content))
    if not found:
        return flip(content, chance)
    at = chance.choice(found)
    return content[: at.start()] + chance.choice(HUGE) + content[at.end() :]


BYTES: tuple[Mutation, ...] = (flip, flip, cut, zero, splice, enlarge)


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**63,
        10**30,
        1e12,
        1e308,
        -1e-320,
        0.5,
        float("nan"),
        float("inf"),
        1_000_000_000_000,
    ),
    *("", "text", "1", "../../x", "\ud800", "\x1b[31m", "a" * 5000, [], {}, [[]], [None], ["1"], [1, [2]], {"a": {}}),
    *(deep(60), {"": 0}, [0.5] * 50, [1e308] * 3, {"value": "x"}),
)
"""Values of other types and sizes."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All paths of a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def retype(value: Any, chance: random.Random) -> Any:
    """Change a JSON value at one place: another value, a missing or a further key, or the value of another place."""
    value, paths = copy.deepcopy(value), list(places(value))
    path = chance.choice(paths)
    if not path:
        return copy.deepcopy(chance.choice(VALUES))
    parent = at(value, path[:-1])
    match chance.randrange(8):
        case 0:
            del parent[path[-1]]
        case 1 if isinstance(parent, dict):
            parent[chance.choice(("extra", "", "method", "kind", "1"))] = copy.deepcopy(chance.choice(VALUES))
        case 1:
            parent.append(copy.deepcopy(chance.choice(VALUES)))
        case 2:
            parent[path[-1]] = copy.deepcopy(at(value, chance.choice(paths)))
        case _:
            parent[path[-1]] = copy.deepcopy(chance.choice(VALUES))
    return value


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path; an empty list if the value has been changed there."""
    for key in path:
        value = value[key]
    return value


def as_json(value: Any) -> bytes:
    """JSON text, with NaN and infinity as Python writes them."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


ARROW = (
    *(pa.string(), pa.binary(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.null()),
    *(pa.timestamp("ns"), pa.decimal128(20, 2), pa.list_(pa.float64()), pa.list_(pa.float32(), 3)),
    *(pa.list_(pa.list_(pa.int64())), pa.dictionary(pa.int32(), pa.string()), pa.struct([("bytes", pa.binary())])),
)


def retable(content: bytes, chance: random.Random) -> bytes:
    """A parquet file with another type, nulls, no rows, or other columns or metadata."""
    table = parquet.read_table(io.BytesIO(content))
    at_column = chance.randrange(table.num_columns)
    name, column = table.column_names[at_column], table.column(at_column)
    match chance.randrange(8):
        case 0:
            table = table.slice(0, 0)
        case 1:
            table = table.drop_columns([name])
        case 2:
            table = table.rename_columns([f"{each}x" if each == name else each for each in table.column_names])
        case 3:
            table = table.append_column(name, column)
        case 4:
            metadata = {key: chance.choice((value, b"", b"[1]", b"{}", b"\xff")) for key, value in _metadata(table)}
            table = table.replace_schema_metadata(metadata)
        case _:
            table = table.set_column(at_column, name, _column(column, len(table), chance))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def _metadata(table: Any) -> list[tuple[bytes, bytes]]:
    return list((table.schema.metadata or {b"aradals": b"{}", b"huggingface": b"{}"}).items())


def _column(column: Any, length: int, chance: random.Random) -> Any:
    """Nulls in a column, or a column of another type."""
    kind = chance.choice(ARROW)
    if chance.random() < 0.3:
        values = column.to_pylist()
        for row in chance.sample(range(length), chance.randint(1, max(1, length // 2))):
            values[row] = None
        return pa.array(values, column.type)
    try:
        return column.cast(kind)
    except (pa.ArrowException, NotImplementedError):
        return pa.nulls(length, kind)


DTYPES = (">i4", ">f8", "<f2", "c8", "U3", "S2", "M8[s]", "?", "u1", "i8", "f8", "O", "V3", [("a", "i4"), ("b", "f4")])


def rearrange(content: bytes, chance: random.Random) -> bytes:
    """An ``.npz`` with another type, shape or value, or without an array."""
    with np.load(io.BytesIO(content)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = chance.choice(list(arrays))
    array = arrays[name]
    match chance.randrange(8):
        case 0:
            del arrays[name]
        case 1:
            arrays[name] = array[:0]
        case 2:
            arrays[name] = array.reshape(-1)[0]
        case 3:
            arrays[name] = array[None] if chance.random() < 0.5 else array[..., None]
        case 4:
            arrays[name] = np.resize(array, (len(array) + 1, *array.shape[1:]))
        case 5:
            values = np.full(array.shape, chance.choice((np.nan, np.inf, -1, 1e300, 2**40)), "f8")
            arrays[name] = values if chance.random() < 0.5 else values.astype(array.dtype, casting="unsafe")
        case _:
            arrays[name] = np.zeros(array.shape, chance.choice(DTYPES))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])
YAML = (
    BOMB,
    *("[" * 3000, "{a: " * 500, "- " * 2000, "&a [*a]", "? [a]\n: b", "a: !!python/object/apply:os.getcwd []", "a: *b"),
    *("a: 1\na: 2", "\t- a", "%YAML 9.9\n---\na: 1", "--- 1\n--- 2", "!!binary aaaa", "!!set {a, b}", "!!omap [a: 1]"),
    *("<<: {a: 1}", "<<: 1", "a: 2020-13-45", "a: 0o777777777777777777777777", "a: 1:2:3:4", "a: .inf", "\ufeffa: 1"),
    *("a: '\\", "a: |\n b", "a: >9\n b", "methods: {a: *a}", "data: &x [*x]", "methods: &m {vanilla: *m}"),
)
"""Texts that are hard to parse."""


def reyaml(content: bytes, chance: random.Random) -> bytes:
    """A recipe with something that is hard to parse: instead of it, after it, or as one of its values."""
    hard = chance.choice(YAML)
    match chance.randrange(3):
        case 0:
            return hard.encode()
        case 1:
            return content + b"\n" + hard.encode()
        case _:
            lines = content.decode().splitlines()
            row = chance.randrange(len(lines))
            lines[row] = f"{lines[row].partition(':')[0]}: {hard}"
            return "\n".join(lines).encode()
