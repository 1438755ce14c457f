"""Parquet through DuckDB: every field of a sample is a column, and the column `rest` holds all else as JSON.

    duckdb -c "SELECT domain, count(*) FROM 'train.parquet' GROUP BY ALL"

Nothing is lost: `read_parquet` gives the rows back, key for key. Chats have the column `messages`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from afs.generators.base import FIELDS, SampleError, TrainingSample
from afs.jsonl import Row
from afs.step import How, Mapped, Report, Step, StepError, map_rows
from afs.training.converters import ConversionError, detect, to_messages
from afs.training.converters.files import ConvertResult

_TEXT = ("instruction", "output", "input", "thinking", "domain", "source", "sample_id", "teacher_model",
         "teacher_prompt", "timestamp")  # fmt: skip
_COLUMNS = {name: "VARCHAR" for name in _TEXT} | {
    "quality_score": "DOUBLE", "embedding": "DOUBLE[]", "kg_entities": "VARCHAR[]", "kg_validated": "BOOLEAN",
    "_metadata": "VARCHAR", "messages": "STRUCT(role VARCHAR, content VARCHAR)[]", "rest": "VARCHAR",
}  # fmt: skip
_TYPED = {name: str for name in _TEXT} | {"quality_score": float, "kg_validated": bool}
_ROW_GROUP = 122_880
_PIECE = 1 << 20


def _columns_of(row: dict[str, Any]) -> dict[str, Any]:
    """The row's columns; `rest` holds what they cannot: unknown keys, other types, the order of the keys."""
    form = detect(row)
    if form in ("training_sample", "alpaca"):
        TrainingSample.from_dict(row)
    found: dict[str, Any] = {}
    for name in FIELDS:
        value = row.get(name)
        if name == "_metadata":
            fits = isinstance(value, dict)
            value = orjson.dumps(value).decode() if fits else value
        elif name == "embedding":
            fits = isinstance(value, list) and all(type(x) is float for x in value)
        elif name == "kg_entities":
            fits = isinstance(value, list) and all(type(x) is str for x in value)
        else:
            fits = type(value) is _TYPED[name]
        if fits:
            found[name] = value
    rest: dict[str, Any] = {key: value for key, value in row.items() if key not in found}
    if form not in ("training_sample", "alpaca", "preference"):
        if form is None:
            raise ConversionError(f"no known training format; the row has the keys {', '.join(sorted(row)[:8])}")
        try:
            chat = to_messages(row, form)["messages"]
            found["messages"] = [{"role": m["role"], "content": m["content"]} for m in chat]
            if rest.get("messages") == found["messages"]:
                del rest["messages"]
        except ConversionError:
            found["messages"] = None  # tools or parts: the column is empty, `rest` has the row
    if rest or list(row) != list(FIELDS):
        found["rest"] = orjson.dumps({"keys": list(row), "values": rest}).decode()
    return found


class _Transform:
    def __call__(self, rows: list[Row]) -> Iterable[Mapped]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Mapped:
        try:
            return Mapped("out", {"out": orjson.dumps(_columns_of(row.value))})
        except (ConversionError, SampleError) as error:
            return Mapped("quarantined", {}, f"not parquet: {error}")


class _File:
    """A plain temporary file with the writer's method."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "wb")  # noqa: SIM115 - closed by its user
        self.longest = 0

    def write_bytes(self, block: bytes, _rows: int) -> None:
        self.longest = max(self.longest, *map(len, block.split(b"\n")))
        self.file.write(block)


def _connect(folder: str, longest: int = 0) -> Any:
    import duckdb

    # One thread: the same row groups, and so the same bytes, on every machine. The reader's buffers hold two of the
    # longest rows.
    limit = 512 + 8 * (longest >> 20)
    return duckdb.connect(config={"threads": 1, "temp_directory": folder, "memory_limit": f"{limit}MB"})


def write_parquet(source: Path, target: Path, parameters: dict[str, Any], how: How | None) -> ConvertResult:
    """See `convert_file`."""
    with Step("convert", [source], [target], parameters, how=how) as step:
        if not step.current:
            with tempfile.TemporaryDirectory(prefix="afs-") as folder:
                _fill(step, target, Path(folder))
    return ConvertResult(target, "parquet", {}, {}, None, step.report)


def _fill(step: Step, target: Path, folder: Path) -> None:
    rows = _File(folder / "rows.jsonl")
    with rows.file:
        map_rows(step, _Transform(), {"out": rows})
    if not step.counts.out:
        raise StepError(f"no row of {step.inputs[0]} could be converted to parquet; `afs training validate` says why")
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in _COLUMNS.items())
    made = folder / "made.parquet"
    size = max(_PIECE, rows.longest + 1024)
    with _connect(str(folder), size) as con:
        con.execute(
            f"COPY (SELECT * FROM read_json('{folder}/rows.jsonl', format='newline_delimited', columns={{{columns}}}, "
            f"maximum_object_size={size})) "
            f"TO '{made}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})"
        )
    with step.writer(target) as out, open(made, "rb") as file:
        while piece := file.read(_PIECE):
            out.write_bytes(piece, 0)
        out.rows = step.counts.out


def read_parquet(source: Path, target: Path, how: How | None = None) -> Report:
    """The rows that a Parquet file was made from, as JSONL.

    Raises:
        StepError: the file was not written by `convert`.
    """
    with Step("convert-back", [source], [target], {"format": "parquet"}, how=how, rowless=True) as step:
        if step.current:
            return step.report
        with tempfile.TemporaryDirectory(prefix="afs-") as folder, _connect(folder) as con, step.writer(target) as out:
            try:
                con.execute("SELECT " + ", ".join(f'"{name}"' for name in _COLUMNS) + " FROM read_parquet(?)",
                            [str(source)])  # fmt: skip
            except Exception as error:
                raise StepError(f"{source} has not the columns that `afs training convert` writes: {error}") from error
            while found := con.fetchmany(1000):
                for values in found:
                    out.write(_row_of(dict(zip(_COLUMNS, values, strict=True))))
        step.counts.out = out.rows
    return step.report


def _row_of(columns: dict[str, Any]) -> dict[str, Any]:
    rest = columns.pop("rest")
    if columns["_metadata"] is not None:
        columns["_metadata"] = orjson.loads(columns["_metadata"])
    if rest is None:
        return {name: columns[name] for name in FIELDS}
    kept = orjson.loads(rest)
    found = {**columns, **kept["values"]}
    return {key: found[key] for key in kept["keys"]}
