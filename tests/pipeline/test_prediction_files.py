"""Files of predictions, as other tools write them, and what their numbers are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

from aradals.errors import InputError
from aradals.metrics import nll
from aradals.pipeline.prediction_files import read_predictions

GENERATOR = np.random.default_rng(0)
LOGITS = 3 * GENERATOR.standard_normal((60, 3))
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
LABELS = np.array([GENERATOR.choice(3, p=row) for row in PROBS])
NAMES = np.array(["cat", "dog", "eel"])

Frame = Callable[[], pd.DataFrame]


def wide(values: np.ndarray, stem: str, names: object = range(3)) -> dict[str, np.ndarray]:
    return {f"{stem}{name}": column for name, column in zip(names, values.T, strict=True)}  # type: ignore[call-overload]


FRAMES: dict[str, tuple[dict[str, object], str]] = {
    "logits by number": (wide(LOGITS, "logit_") | {"label": LABELS}, "logits from 'logit_0' to 'logit_2'"),
    "probabilities by number": (wide(PROBS, "prob_") | {"target": LABELS}, "probabilities from 'prob_0' to 'prob_2'"),
    "probabilities by class": (
        wide(PROBS, "prob_", NAMES) | {"y_true": NAMES[LABELS]},
        "probabilities from 'prob_cat'",
    ),
    "columns of predict_proba": (
        wide(PROBS, "", NAMES) | {"y_true": NAMES[LABELS]},
        "probabilities from 'cat' to 'eel'",
    ),
    "numbered columns": (wide(PROBS, "") | {"y": LABELS}, "probabilities from '0' to '2'"),
    "classes from 1": (wide(PROBS, "prob_", [1, 2, 3]) | {"labels": LABELS + 1}, "probabilities from 'prob_1'"),
    "scores that are logits": (wide(LOGITS, "score_") | {"labels": LABELS}, "logits from 'score_0'"),
    "scores that are probabilities": (wide(PROBS, "score_") | {"label": LABELS.astype(float)}, "probabilities from"),
    "with predicted classes": (
        wide(LOGITS, "logit_")
        | {"label": LABELS, "y_pred": LOGITS.argmax(1), "filename": [f"{i}.png" for i in range(60)]},
        "logits from 'logit_0'",
    ),
}
WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    ".parquet": lambda frame, path: frame.to_parquet(path),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True, double_precision=15),
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("name", FRAMES)
def test_tables_of_other_tools(name: str, suffix: str, tmp_path: Path) -> None:
    columns, taken = FRAMES[name]
    path = tmp_path / f"predictions{suffix}"
    WRITERS[suffix](pd.DataFrame(columns), path)
    given = read_predictions(path)
    assert given.predictions.labels.tolist() == LABELS.tolist()
    assert given.predictions.probs.numpy() == pytest.approx(PROBS, abs=1e-9)
    assert taken in given.taken
    assert given.class_names in ((), ("cat", "dog", "eel"), ("1", "2", "3"))


ARRAYS: dict[str, dict[str, np.ndarray]] = {
    "usual": {"logits": LOGITS, "label": LABELS},
    "trainer of transformers": {"predictions": LOGITS.astype(np.float32), "label_ids": LABELS},
    "unsigned labels": {"probs": PROBS, "labels": LABELS.astype(np.uint8)},
    "one-hot labels": {"probabilities": PROBS, "y_true": np.eye(3)[LABELS].astype(int)},
    "names": {"y_score": PROBS, "target": NAMES[LABELS]},
    "half precision": {"logits": LOGITS.astype(np.float16), "targets": LABELS},
}


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_other_tools(name: str, suffix: str, tmp_path: Path) -> None:
    arrays, path = ARRAYS[name], tmp_path / f"predictions{suffix}"
    if suffix == ".pt":
        if name in ("names",):
            pytest.skip("a tensor has no text")
        torch.save({key: torch.from_numpy(values) for key, values in arrays.items()}, path)
    else:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    given = read_predictions(path)
    assert given.predictions.labels.tolist() == LABELS.tolist()
    assert given.predictions.probs.numpy() == pytest.approx(PROBS, abs=5e-3 if name == "half precision" else 1e-6)


def test_pairs_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", LOGITS)
    np.save(tmp_path / "labels.npy", LABELS)
    pd.DataFrame({"label": LABELS}).to_csv(tmp_path / "labels.csv", index=False)
    torch.save(torch.from_numpy(LOGITS), tmp_path / "logits.pt")
    torch.save((torch.from_numpy(LOGITS), torch.from_numpy(LABELS)), tmp_path / "both.pt")
    for outputs, labels in (("logits.npy", "labels.npy"), ("logits.npy", "labels.csv"), ("logits.pt", "labels.npy")):
        given = read_predictions(tmp_path / outputs, tmp_path / labels)
        assert given.predictions.labels.tolist() == LABELS.tolist()
        assert given.predictions.logits.numpy() == pytest.approx(LOGITS)
        assert f"labels from {labels}" in given.taken
    assert read_predictions(tmp_path / "both.pt").predictions.labels.tolist() == LABELS.tolist()
    with pytest.raises(InputError, match=r"a column of labels.*--labels FILE"):
        read_predictions(tmp_path / "logits.npy")
    np.save(tmp_path / "few.npy", LABELS[:50])
    with pytest.raises(InputError, match=r"a label for each of 60 rows.*50 labels"):
        read_predictions(tmp_path / "logits.npy", tmp_path / "few.npy")


BINARY = PROBS[:, 1] / (PROBS[:, 0] + PROBS[:, 1])
ONE_COLUMN = {
    "prob": (BINARY, "probabilities from 'prob' (of class 1)"),
    "y_score": (BINARY, "probabilities from 'y_score' (of class 1)"),
    "logit": (np.log(BINARY / (1 - BINARY)), "logits from 'logit' (of class 1, against 0)"),
    "y_pred": (np.log(BINARY / (1 - BINARY)), "logits from 'y_pred' (of class 1, against 0)"),
    "score": (BINARY, "probabilities from 'score' (of class 1)"),
}


@pytest.mark.parametrize("name", ONE_COLUMN)
def test_two_classes_as_one_column(name: str, tmp_path: Path) -> None:
    values, taken = ONE_COLUMN[name]
    pd.DataFrame({name: values, "label": LABELS % 2}).to_csv(tmp_path / "p.csv", index=False)
    given = read_predictions(tmp_path / "p.csv")
    assert taken in given.taken
    assert given.predictions.probs[:, 1].numpy() == pytest.approx(BINARY)


def test_masked_classes_and_saturated_probabilities(tmp_path: Path) -> None:
    probs = np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0]])
    np.savez(tmp_path / "p.npz", probs=probs, labels=[0, 1])
    given = read_predictions(tmp_path / "p.npz").predictions
    assert given.probs.numpy() == pytest.approx(probs)
    np.savez(tmp_path / "p.npz", logits=np.log(np.maximum(probs, 1e-300)) - 1e300 * (probs == 0), labels=[0, 1])
    np.savez(tmp_path / "m.npz", logits=[[0.0, 1.0, -math.inf]], labels=[1])
    assert read_predictions(tmp_path / "m.npz").predictions.probs[0, 2] == 0
    assert nll(given.labels, logits=given.logits) == pytest.approx(-math.log(0.7) / 2)


BAD: dict[str, tuple[dict[str, object], str]] = {
    "probabilities as logits": ({"logits": PROBS}, "expected logits in 'logits'.*got probabilities.*the name probs"),
    "logits as probabilities": ({"probs": LOGITS}, "expected probabilities.*got logits.*the name logits"),
    "percentages": ({"outputs": 100 * PROBS}, "got percentages.*--output-kind probs"),
    "percentages as probabilities": ({"probs": 100 * PROBS}, "got percentages.*--output-kind probs"),
    "sigmoids": ({"scores": 1 / (1 + np.exp(-LOGITS))}, "got sigmoids.*--output-kind probs.*--output-kind logits"),
    "one-hot": ({"predictions": np.eye(3)[LOGITS.argmax(1)]}, "got one-hot.*before argmax"),
    "hard labels": ({"y_pred": LOGITS.argmax(1)}, "got predicted classes in 'y_pred'.*before argmax"),
    "hard labels as outputs": ({"logits": LOGITS.argmax(1).astype(float)}, "'logits' or 'probs'"),
    "NaN": ({"logits": np.where(LOGITS > 3, np.nan, LOGITS)}, "got NaN in .* of 60 rows"),
    "binary out of range": ({"prob": LOGITS[:, 0]}, "probabilities of class 1 in 'prob'.*got values from -"),
    "other names": ({"loss": LOGITS}, "a column 'logits' or 'probs'.*got columns 'y_true', 'loss'"),
    "ids again": ({"logits": LOGITS, "id": np.zeros(60, int)}, "every id once"),
    "wrong order": ({"logits": LOGITS, "y_pred": LOGITS[:, ::-1].argmax(1)}, "whose largest is the class in 'y_pred'"),
    "unknown label": ({"logits": LOGITS, "y_true": NAMES[LABELS % 2]}, "3 different labels.*got 2"),
    "negative label": ({"logits": LOGITS, "y_true": LABELS - 1}, "labels from 0 to 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_numbers_are_refused(name: str, tmp_path: Path) -> None:
    arrays, message = BAD[name]
    np.savez(tmp_path / "p.npz", **({"y_true": LABELS} | arrays))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "p.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "", "a readable .csv file"),
        ("p.jsonl", "{", "a readable .jsonl file"),
        ("p.csv", "prob,prob,label\n0.1,0.2,1\n", "every column once"),
        ("p.txt", "1", "in a .parquet, .csv"),
        ("p.pt", "no", "a readable .pt file"),
        ("p.npy", "no", "a readable .npy file"),
        (
            "p.jsonl",
            json.dumps({"logits": [0.0, 1.0], "label": 0}) + "\n" + json.dumps({"logits": [1.0], "label": 0}),
            "length",
        ),
    ],
)
def test_broken_files(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / name)


def test_two_files_are_aligned_by_their_ids(tmp_path: Path) -> None:
    ids = [f"{row}.png" for row in range(60)]
    order = GENERATOR.permutation(60)
    pd.DataFrame(wide(LOGITS, "logit_") | {"label": LABELS, "id": ids}).to_csv(tmp_path / "a.csv", index=False)
    shuffled = pd.DataFrame(wide(2 * LOGITS, "logit_") | {"label": LABELS, "id": ids}).iloc[order]
    shuffled.to_csv(tmp_path / "b.csv", index=False)
    first, second = read_predictions(tmp_path / "a.csv"), read_predictions(tmp_path / "b.csv")
    assert first.aligned(second).predictions.logits.numpy() == pytest.approx(2 * first.predictions.logits.numpy())
    shuffled.drop(columns="id").to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(InputError, match="rows with different labels"):
        first.aligned(read_predictions(tmp_path / "c.csv"))
    shuffled.iloc[:50].to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(InputError, match="50 of 60 ids in both"):
        first.aligned(read_predictions(tmp_path / "d.csv"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_in_an_encoding(encoding: str, suffix: str, tmp_path: Path) -> None:
    """Names of classes as text or as bytes."""
    path, names = tmp_path / f"predictions{suffix}", np.array(["gato", "niña", "pez"])[LABELS]
    columns = wide(PROBS, "prob_", ["gato", "niña", "pez"]) | {"label": np.char.encode(names, encoding)}
    match suffix:
        case ".csv":
            text = pd.DataFrame(columns | {"label": names}).to_csv(index=False)
            header, rows = text.split("\n", 1)
            path.write_bytes(header.encode() + b"\n" + rows.encode(encoding))
        case ".parquet":
            pd.DataFrame(columns).to_parquet(path)
        case _:
            np.savez(path, **columns)  # type: ignore[arg-type]
    if encoding == "utf-8":
        assert read_predictions(path).predictions.labels.tolist() == LABELS.tolist()
    else:
        with pytest.raises(InputError, match=r"(utf|UTF)-8"):
            read_predictions(path)


def test_logits_of_no_class(tmp_path: Path) -> None:
    for shape in ((5, 0), (0, 3), (0, 0)):
        torch.save({"logits": torch.zeros(shape), "labels": torch.zeros(shape[0]).long()}, tmp_path / "predictions.pt")
        with pytest.raises(InputError):
            read_predictions(tmp_path / "predictions.pt")


def _reference() -> npt.NDArray[np.float64]:
    """Logits of 40 examples and 3 classes."""
    return np.random.default_rng(1).standard_normal((40, 3))


@pytest.mark.parametrize("ids", [np.arange(40), np.array([f"img-{row}.png" for row in range(40)])])
def test_labels_of_another_file_are_found_by_id(ids: npt.NDArray[Any], tmp_path: Path) -> None:
    labels, order = np.arange(40) % 3, np.random.default_rng(0).permutation(40)
    np.savez(tmp_path / "p.npz", logits=_reference(), id=ids)
    np.savez(tmp_path / "y.npz", label=labels[order], id=ids[order])
    found = read_predictions(tmp_path / "p.npz", tmp_path / "y.npz")
    assert found.predictions.labels.tolist() == labels.tolist()
    assert "y.npz, by id" in found.taken
    np.savez(tmp_path / "y.npz", label=labels[1:], id=ids[1:])
    with pytest.raises(InputError, match=r"a label in y\.npz for every id"):
        read_predictions(tmp_path / "p.npz", tmp_path / "y.npz")


def test_labels_in_a_text_file(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", _reference())
    for words in (["0", "1", "2", "0"], ["cat", "dog", "owl", "cat"]):
        (tmp_path / "y.txt").write_text("\n".join(words * 10) + "\n")
        assert read_predictions(tmp_path / "p.npy", tmp_path / "y.txt").predictions.labels[:4].tolist() == [0, 1, 2, 0]
    with pytest.raises(InputError, match="a text file"):
        read_predictions(tmp_path / "p.npy", tmp_path / "none.txt")


def test_compared_predictions_need_no_labels(tmp_path: Path) -> None:
    logits, order = _reference(), np.random.default_rng(0).permutation(40)
    np.savez(tmp_path / "a.npz", logits=logits, label=np.array(["x", "y", "z", "x"] * 10), id=np.arange(40))
    np.savez(tmp_path / "b.npz", logits=2 * logits[order], id=order)
    ours = read_predictions(tmp_path / "a.npz")
    theirs = ours.aligned(read_predictions(tmp_path / "b.npz", ours))
    assert theirs.predictions.labels.equal(ours.predictions.labels)
    assert theirs.predictions.logits.equal(2 * ours.predictions.logits)


def test_declared_numbers_are_taken_as_they_are_called(tmp_path: Path) -> None:
    logits = torch.from_numpy(_reference())
    probs = logits.softmax(1)
    cases = {
        "percentages": (100 * probs, "probs", probs),
        "rounded": (probs.mul(100).round() / 100, "probs", None),
        "sigmoids": (logits.sigmoid(), "probs", logits.sigmoid() / logits.sigmoid().sum(1, keepdim=True)),
        "cosines": (0.5 + logits / 10, "logits", (logits / 10).softmax(1)),
    }
    for name, (values, kind, expected) in cases.items():
        np.savez(tmp_path / "p.npz", scores=values.numpy(), label=np.arange(40) % 3)
        with pytest.raises(InputError, match=f"--output-kind {kind}"):
            read_predictions(tmp_path / "p.npz")
        found = read_predictions(tmp_path / "p.npz", output_kind=kind).predictions  # type: ignore[arg-type]
        assert name == "rounded" or torch.allclose(found.probs, expected)  # type: ignore[arg-type]
        assert nll(found.labels, logits=found.logits) > 0  # later checks take the logits as logits
    np.savez(tmp_path / "p.npz", scores=logits.numpy(), label=np.arange(40) % 3)
    with pytest.raises(InputError, match=r"negative values.*--output-kind logits"):
        read_predictions(tmp_path / "p.npz", output_kind="probs")


@pytest.mark.parametrize("whole", [True, False])
def test_batches_in_a_torch_file_are_joined(whole: bool, tmp_path: Path) -> None:
    logits, labels = torch.from_numpy(_reference()), torch.arange(40) % 3
    parts = [{"preds": logits[:25], "target": labels[:25]}, {"preds": logits[25:], "target": labels[25:]}]
    joined = {name: [part[name] for part in parts] for name in ("preds", "target")}
    torch.save(joined if whole else parts, tmp_path / "p.pt")
    found = read_predictions(tmp_path / "p.pt").predictions
    assert found.logits.equal(logits)
    assert found.labels.equal(labels)
