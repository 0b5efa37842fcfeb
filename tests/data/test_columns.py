"""A further column of a data set: one value per row, in the order of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aradals.data import load_column, load_data
from aradals.errors import InputError

NUM_ROWS = 7
HABITAT = ["wild", "farm", "wild", "home", "farm", "wild", "home"]
SIZE = np.linspace(0.5, 2.0, NUM_ROWS)


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARADALS_DATA", raising=False)


def table(rows: list[int]) -> pa.Table:
    return pa.table(
        {
            "img": [b"" for _ in rows],
            "label": [row % 3 for row in rows],
            "habitat": [HABITAT[row] for row in rows],
            "kind": pa.array([HABITAT[row] for row in rows]).dictionary_encode(),
            "size": [SIZE[row] for row in rows],
            "tame": [HABITAT[row] != "wild" for row in rows],
            "doubtful": [None if row == 2 else row for row in rows],
            "box": [[0, row] for row in rows],
        }
    )


def shards(folder: Path) -> Path:
    for shard, rows in enumerate(([0, 1, 2], [3, 4], [5, 6])):
        pq.write_table(table(rows), folder / f"train-0000{shard}-of-00003.parquet")
    pq.write_table(table([6, 0]), folder / "test.parquet")
    return folder


@pytest.mark.parametrize(
    ("column", "expected"), [("habitat", HABITAT), ("kind", HABITAT), ("label", [0, 1, 2] * 2 + [0])]
)
def test_a_column_has_one_value_for_each_row_of_the_split(tmp_path: Path, column: str, expected: list[object]) -> None:
    values = load_column(str(shards(tmp_path)), "train", column)
    assert values.tolist() == expected
    assert load_column(str(tmp_path), None, column).tolist() == [expected[6], expected[0]]  # the split test


def test_types_of_columns(tmp_path: Path) -> None:
    spec = str(shards(tmp_path))
    kinds = {name: load_column(spec, "train", name).dtype.kind for name in ("habitat", "kind", "label", "size", "tame")}
    assert kinds == {"habitat": "U", "kind": "U", "label": "i", "size": "f", "tame": "b"}
    np.testing.assert_array_equal(load_column(spec, "train", "size"), SIZE)


def test_ids_of_examples_find_their_values(tmp_path: Path) -> None:
    inputs = np.arange(40, dtype=np.float32).reshape(20, 2) / 40
    np.savez(tmp_path / "toy.npz", inputs=inputs, labels=np.arange(20) % 2, hardness=inputs[:, 0])
    sample = load_data(str(tmp_path / "toy.npz"), limit=8).select([5, 1, 2])
    hardness = load_column(str(tmp_path / "toy.npz"), None, "hardness")[sample.ids]
    np.testing.assert_array_equal(hardness, sample.batch([0, 1, 2])[1][:, 0])


def test_arrays_of_splits(tmp_path: Path) -> None:
    path = str(tmp_path / "toy.npz")
    arrays: dict[str, Any] = {
        "x_train": np.zeros((3, 2)), "y_train": np.arange(3), "hardness_train": [0.1, 0.2, 0.3],
        "x_test": np.zeros((2, 2)), "y_test": np.arange(2), "hardness_test": [0.4, 0.5], "source": ["a", "b"],
    }  # fmt: skip
    np.savez(path, **arrays)
    assert load_column(path, "train", "hardness").tolist() == [0.1, 0.2, 0.3]
    assert load_column(path, "test", "hardness").tolist() == [0.4, 0.5]
    assert load_column(path, "test", "source").tolist() == ["a", "b"]
    for missing in ("hardnes", "source", "x"):  # of another length, of another shape
        with pytest.raises(
            InputError, match=f"one value for each row, got '{missing}'; try one of: y_train, hardness_train$"
        ):
            load_column(path, "train", missing)


def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"train": datasets.Dataset(table([*range(NUM_ROWS)])), "test": datasets.Dataset(table([4]))}
    monkeypatch.setattr("datasets.load_dataset", lambda name: datasets.DatasetDict(content))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_column("someone/animals", "train", "habitat").tolist() == HABITAT
    with pytest.raises(InputError, match=r"someone/animals with one value.*'img'; try one of: label, habitat"):
        load_column("someone/animals", "train", "img")


@pytest.mark.parametrize("column", ["color", "box", "img"])
def test_columns_that_exist_are_named(tmp_path: Path, column: str) -> None:
    with pytest.raises(InputError, match=f"'{column}'; try one of: label, habitat, kind, size, tame, doubtful$"):
        load_column(str(shards(tmp_path)), "train", column)


def test_missing_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a value in every row of column doubtful.*no value in row 2"):
        load_column(str(shards(tmp_path)), "train", "doubtful")


def test_data_without_columns(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").touch()
    for spec in ("digits", str(tmp_path)):
        with pytest.raises(InputError, match="'hardness'; try a parquet file"):
            load_column(spec, None, "hardness")


def test_a_csv_in_another_encoding(tmp_path: Path) -> None:
    """The first kilobytes are in ASCII."""
    rows = [f"{index % 5},{'gato' if index % 2 else 'perro'}" for index in range(5000)]
    for last, encoding in (("niña", "latin-1"), ("niña", "utf-8")):
        path = tmp_path / f"{encoding}.csv"
        path.write_bytes("\n".join(["value,label", *rows, f"1,{last}"]).encode(encoding))
    assert load_data(str(tmp_path / "utf-8.csv"), "train").class_names == ("gato", "niña", "perro")
    with pytest.raises(InputError, match=r"text in UTF-8 in .*latin-1\.csv, got bytes .* in the column 'label'"):
        load_data(str(tmp_path / "latin-1.csv"), "train")


def own_table(**columns: Any) -> str:
    """Write a table as people have it: an id, a measurement, a constant, and names of classes."""
    rows = range(40)
    given = {
        "customer_id": [f"C{row}" for row in rows],
        "size": [row % 7 / 2 for row in rows],
        "sensor": [1] * 40,
        "species": [("oak", "elm")[row % 2] for row in rows],
        **columns,
    }
    pd.DataFrame(given).to_csv("own.csv", index=False)
    return "own.csv"


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"split": ["train"] * 30 + ["test"] * 10},
        {"customer_id": range(40)},
        {"passengerId": range(40, 0, -1)},
        {"Patient ID": range(40)},
        {"row": range(40), "day": [f"2026-01-{row:02}" for row in range(40)]},
    ],
    ids=["text id", "split", "numeric id", "camel case", "spaces", "row and date"],
)
def test_ids_and_splits_are_neither_labels_nor_inputs(
    columns: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []
    examples = load_data(own_table(**columns), "test", log=notes.append)
    assert examples.class_names == ("elm", "oak")
    assert examples.batch(range(2))[1].shape == (2, 2)
    assert any("customer_id" in note and "left out" in note for note in notes)


@pytest.mark.parametrize("name", ["width", "idle", "humidity", "grid", "body mass index", "refractive_index"])
def test_measurements_stay_whatever_their_letters(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = load_data(own_table(**{name: [row % 9 for row in range(40)]}), "test")
    assert examples.preparation["scaling"]["features"] == ["size", "sensor", name]


def test_whole_numbers_that_all_differ_are_said(tmp_path: Path) -> None:
    notes: list[str] = []
    content = {
        "number": range(100, 220),
        "age": [row % 50 for row in range(120)],
        "label": [row % 2 for row in range(120)],
    }
    pd.DataFrame(content).to_csv(tmp_path / "t.csv", index=False)
    load_data(str(tmp_path / "t.csv"), "test", log=notes.append)
    assert any(note.endswith("with another value in each row, as an id has: number") for note in notes)


def test_a_table_with_ids_alone_has_no_labels(tmp_path: Path) -> None:
    content = {"name": [f"C{row}" for row in range(120)], "age": range(120)}
    pd.DataFrame(content).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="no such column among name, age; try --label-column NAME"):
        load_data(str(tmp_path / "t.csv"), "test")


@pytest.mark.parametrize("other", ["color", "species"])
def test_a_named_column_is_recorded_for_the_next_table(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = own_table(color=[("red", "blue", "white")[row % 3] for row in range(40)])
    with pytest.raises(InputError, match="got species, color; try --label-column"):
        load_data(spec, "test")
    first = load_data(spec, "test", label_column=other)
    again = load_data(spec, "test", preparation=first.preparation)
    assert again.class_names == first.class_names
    assert again.labels.equal(first.labels)
    load_data("digits", "test", preparation={"label_column": other})  # data without such a column


@pytest.mark.parametrize("text", ["a;b;label\n1,5;?;x\n2,25;3;y\n", "a,b,label\n1.5,?,x\n2.25,3,y\n"])
def test_decimal_commas_and_question_marks(text: str, tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text(text)
    record = {"features": ["a", "b"], "low": [0, 0], "high": [3, 6], "mean": [1, 3]}
    examples = load_data(str(path), preparation={"scaling": record})
    assert examples.batch(range(2))[1].tolist() == [[0.5, 0.5], [0.75, 0.5]]
    assert examples.class_names == ("x", "y")
