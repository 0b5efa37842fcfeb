"""Results as files: JSON with a digest that shows any change, and flat tables.

The JSON has the form of `aradals.results.records`: one object for each record, with the attributes as keys. Unknown
values (NaN, an empty default) are left out. ``schema`` is the version of the form; files of previous versions are
read, too. `json_schema` describes the form for other programs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aradals._internal.json_files import SEAL, load_sealed, save_sealed
from aradals._internal.optional import load_extra
from aradals._internal.typed import first_problem, read_typed, type_adapter
from aradals.errors import InputError
from aradals.metrics import Estimate
from aradals.results.previous import PREVIOUS, upgrade
from aradals.results.records import Measure, Metric, Results, Row

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

SCHEMA = "5"
"""Version of the form of results files."""

_ENVELOPE = ("schema", SEAL)


def save_results(results: Results, path: Path) -> None:
    """Write one study, evaluation or diagnosis.

    Raises:
        OutputError: the file cannot be written.
    """
    save_sealed(path, {"schema": SCHEMA, **plain(results)})


def save_studies(studies: list[Results], path: Path, *, name: str) -> None:
    """Write the results of a study of several data sets.

    Raises:
        OutputError: the file cannot be written.
    """
    together = [{"schema": SCHEMA, **plain(study)} for study in studies]
    save_sealed(path, {"schema": SCHEMA, "kind": "studies", "name": name, "studies": together})


def read_results(path: str | Path) -> Results:
    """Read the results of one data set; in a folder, read ``results.json`` or ``diagnosis.json``.

    Raises:
        InputError: see `read_studies`; or the file contains results of several data sets.
        MissingExtraError: pydantic is not installed.
    """
    studies = read_studies(path)
    if len(studies) != 1:
        raise InputError(
            expected="results of one data set",
            got=f"{len(studies)} data sets in {path}",
            hint="the folder of one data set",
        )
    return studies[0]


def read_studies(path: str | Path) -> list[Results]:
    """Read the results of each data set of a study; an evaluation or a diagnosis has one data set.

    Raises:
        InputError: the file is missing, was changed, or does not contain results of this version or a previous one.
        MissingExtraError: pydantic is not installed.
    """
    file = results_file(Path(path))
    content = load_sealed(file, required=False)
    parts = content.get("studies") if content.get("kind") == "studies" else [content]
    try:
        return [parse(part) for part in parts or []]
    except (InputError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(
            expected=f"results in {file} as `aradals run`, `evaluate` or `diagnose` write them",
            got=first_problem(error),
            hint="running the same command again, which makes new results",
        ) from error


def parse(content: Any) -> Results:
    """Make results from the JSON of this version or a previous one, and check every value.

    Raises:
        ValueError: the JSON has another form.
    """
    version = content.get("schema") if isinstance(content, dict) else None
    if version != SCHEMA and version not in PREVIOUS:
        raise InputError(
            expected=f"results of schema {', '.join((*PREVIOUS, SCHEMA))}",
            got=f"schema {version!r}",
            hint="a newer version of ar-adals",
        )
    given = upgrade(content) if version in PREVIOUS else content
    return read_typed(Results, {key: value for key, value in given.items() if key not in _ENVELOPE})


def json_schema() -> dict[str, Any]:
    """Describe the form of results files as a JSON schema.

    Raises:
        MissingExtraError: pydantic is not installed.
    """
    schema: dict[str, Any] = _without_nan(type_adapter(Results).json_schema())
    return schema


def plain(value: Any) -> Any:
    """Turn records into JSON values, without attributes that are at their defaults."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(item)
            for field in dataclasses.fields(value)
            if not _is_default(field, item := getattr(value, field.name))
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def flat_row(results: Results, row: Row) -> dict[str, Any]:
    """Make one line of a table from a row: keys, then each metric with the ends of its interval."""
    keys = ("method", "calibrator", "seed", "corruption", "severity", "subset", "n")
    return {"data": results.data.name, **{key: getattr(row, key) for key in keys}, **dict(_columns(row.metrics))}


def table_rows(results: Results) -> list[dict[str, Any]]:
    """Make the lines of a table from all rows, with the cost of each run if the cost is known."""
    costs = {(cost.method, cost.seed): cost for cost in results.costs}
    rows = []
    for row in results.rows:
        line, cost = flat_row(results, row), costs.get((row.method, row.seed))
        rows.append(line | {"seconds": cost.seconds, "relative_cost": cost.relative_cost} if cost else line)
    return rows


def to_frame(results: Results) -> DataFrame:
    """See `Results.to_frame`."""
    frame: DataFrame = load_extra("pandas").DataFrame(table_rows(results))
    return frame


def _columns(metrics: Mapping[Metric, Measure]) -> Iterator[tuple[str, float]]:
    for metric, measure in metrics.items():
        yield metric, measure.value
        if measure.has_interval:
            yield f"{metric}_low", measure.low
            yield f"{metric}_high", measure.high


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return False
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Measure | Estimate):
        return not math.isfinite(value.value)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return bool(value == default)


def results_file(path: Path) -> Path:
    """Find the results file: the file itself, or the one in a folder."""
    if not path.is_dir():
        return path
    found = [path / name for name in ("results.json", "diagnosis.json") if (path / name).exists()]
    if not found:
        raise InputError(
            expected=f"results.json or diagnosis.json in {path}",
            got="neither",
            hint="the --output folder of aradals run, evaluate or diagnose",
        )
    return found[0]


def _without_nan(value: Any) -> Any:
    """Drop NaN, the default of what is not known, because JSON has none."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items() if item == item}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value
