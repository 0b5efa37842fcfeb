"""Files hold what was put into them, say where it came from, and are never half written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch

from aradals import InputError, Predictions, ScoreTable, TemperatureScaling, load_calibrator
from aradals._internal.files import atomic_path, ensure_writable
from aradals._internal.hashes import decode_hashes, encode_hashes
from aradals._internal.json_files import load_json, save_json, settings_digest
from aradals.data import Examples
from aradals.pipeline.artifacts import (
    load_predictions,
    load_scores,
    save_calibrator,
    save_predictions,
    save_scores,
    save_table,
)
from aradals.pipeline.prediction_files import read_predictions


@pytest.fixture
def predictions() -> Predictions:
    return Predictions(torch.arange(6) * 2, torch.randn(6, 3), torch.randint(3, (6,)))


def test_score_table_round_trip(tmp_path: Path) -> None:
    table = ScoreTable(
        ids=torch.tensor([3, 5]),
        predicted=torch.tensor([1, 0]),
        score=torch.tensor([0.25, 0.1]),
        margin=torch.tensor([3.0, 1.5]),
        norm=torch.tensor([0.25, math.inf]),
        success=torch.tensor([True, False]),
        num_forward=torch.tensor([4, 9]),
        num_backward=torch.tensor([2, 8]),
        attack="deepfool(steps=50)",
    )
    save_scores(tmp_path / "scores.parquet", table, {"data": "digits-test"})
    loaded, metadata = load_scores(tmp_path / "scores.parquet")
    for name in ("ids", "predicted", "margin", "success", "num_forward", "num_backward"):
        assert getattr(loaded, name).equal(getattr(table, name))
    assert loaded.score.float().equal(table.score)
    assert loaded.norm.tolist() == [0.25, math.inf]
    assert metadata["data"] == "digits-test"
    assert loaded.attack == table.attack


def test_norm_is_null_where_none_was_verified(tmp_path: Path) -> None:
    import pyarrow.parquet

    zeros, one = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    table = ScoreTable(one, one, zeros, zeros, torch.tensor([math.inf]), torch.tensor([False]), one, one, "x")
    save_scores(tmp_path / "scores.parquet", table, {})
    column = pyarrow.parquet.read_table(tmp_path / "scores.parquet").column("norm")
    assert column.null_count == 1


def test_predictions_round_trip(tmp_path: Path, predictions: Predictions) -> None:
    save_predictions(tmp_path / "p.parquet", predictions, {"data": "x"})
    loaded, metadata = load_predictions(tmp_path / "p.parquet")
    assert loaded.logits.equal(predictions.logits)
    assert loaded.labels.equal(predictions.labels)
    assert loaded.ids.equal(predictions.ids)
    assert metadata["data"] == "x"


def test_other_peoples_predictions(tmp_path: Path, predictions: Predictions) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    lists = {"label": predictions.labels.tolist(), "logits": predictions.logits.tolist()}
    pyarrow.parquet.write_table(pa.table(lists), tmp_path / "p.parquet")
    np.savez(tmp_path / "p.npz", labels=predictions.labels.numpy(), logits=predictions.logits.numpy())
    for name in ("p.parquet", "p.npz"):
        loaded = read_predictions(tmp_path / name).predictions
        assert torch.allclose(loaded.logits.float(), predictions.logits)
        assert loaded.ids.tolist() == list(range(6))


def test_predictions_that_are_probabilities(tmp_path: Path, predictions: Predictions) -> None:
    np.savez(tmp_path / "p.npz", labels=predictions.labels.numpy(), logits=predictions.logits.softmax(1).numpy())
    with pytest.raises(InputError, match="got probabilities"):
        read_predictions(tmp_path / "p.npz")


@pytest.mark.parametrize("content", [b"", b"PAR1 not really"])
def test_a_broken_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.parquet").write_bytes(content)
    with pytest.raises(InputError, match="readable parquet"):
        load_scores(tmp_path / "scores.parquet")


def test_a_table_of_something_else(tmp_path: Path, predictions: Predictions) -> None:
    save_predictions(tmp_path / "p.parquet", predictions, {})
    with pytest.raises(InputError, match="a column 'predicted'"):
        load_scores(tmp_path / "p.parquet")


def test_calibrator_round_trip_knows_what_it_was_fitted_on(tmp_path: Path) -> None:
    examples = Examples(torch.rand(40, 2), torch.randint(2, (40,)), num_classes=2)
    logits = 3 * torch.randn(40, 2)
    calibrator = TemperatureScaling().fit(examples.labels, logits=logits)
    save_calibrator(tmp_path / "t.json", calibrator, examples)
    loaded = load_calibrator(tmp_path / "t.json")
    assert loaded.predict_proba(logits).equal(calibrator.predict_proba(logits))
    assert set(loaded.origin.example_hashes.tolist()) == set(examples.hashes.tolist())


def test_not_a_calibrator(tmp_path: Path) -> None:
    save_json(tmp_path / "t.json", {"method": "magic"})
    with pytest.raises(InputError, match=r"a calibrator in .*'magic'"):
        load_calibrator(tmp_path / "t.json")


def test_json_has_null_for_what_json_lacks(tmp_path: Path) -> None:
    save_json(tmp_path / "x.json", {"a": math.nan, "b": [math.inf, 1.5], "c": (1, None)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5], "c": [1, None]}
    assert load_json(tmp_path / "x.json")["b"] == [None, 1.5]


def test_json_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a readable file"):
        load_json(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(InputError, match="JSON in"):
        load_json(tmp_path / "half.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        fail(temporary)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_output_below_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a writable output"):
        ensure_writable(tmp_path / "file" / "folder")


def test_hashes_survive_as_text() -> None:
    hashes = np.array([2**64 - 1, 0, 7], dtype=np.uint64)
    assert decode_hashes(encode_hashes(hashes)).tolist() == [0, 7, 2**64 - 1]
    assert len(decode_hashes("")) == 0


def test_digest_of_settings_ignores_key_order_but_not_values() -> None:
    assert settings_digest({"a": 1, "b": [2]}) == settings_digest({"b": [2], "a": 1})
    assert settings_digest({"a": 1}) != settings_digest({"a": 2})


def test_text_of_a_csv_is_no_formula(tmp_path: Path) -> None:
    rows = [
        {"method": "=HYPERLINK(1)", "@title": 1, "value": -1.5, "count": -3, "none": None},
        {"method": "vanilla", "@title": 2, "value": math.nan, "count": None, "none": None},
    ]
    save_table(tmp_path / "table", rows)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0] == '"method","\'@title","value","count","none"'
    assert lines[1] == '"\'=HYPERLINK(1)",1,-1.5,-3,'
    assert lines[2] == '"vanilla",2,nan,,'
    assert parquet.read_table(tmp_path / "table.parquet")["method"].to_pylist() == ["=HYPERLINK(1)", "vanilla"]
