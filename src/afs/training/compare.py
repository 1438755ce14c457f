"""Two data sets side by side: `afs training diff OLD NEW`.

    diff_datasets("v1_splits", "v2_splits")        # added, removed, changed, moved between splits

Rows are compared by 64-bit hashes in DuckDB: 40 bytes per row in memory, and the rows themselves are only read to show
examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from afs.jsonl import BadRow
from afs.rows import Index, RowView, plain_files, read_at, scan, see_value
from afs.step import StepError, UsageError, expand, safe_text
from afs.training.health import existing_file, hash64


@dataclass
class Diff:
    """What changed from one data set to another.

    Attributes:
        added, removed, changed, moved, unchanged: rows; a changed row that also moved counts in both.
        shown: examples per kind: line and file, and for a changed row the keys that differ.
        repeated: rows whose key an earlier row of the same side has (they are left out of the comparison).
        bad: rows that cannot be read, per side.
    """

    old: Path
    new: Path
    key: str
    rows: tuple[int, int]
    added: int
    removed: int
    changed: int
    moved: dict[str, int]
    unchanged: int
    repeated: tuple[int, int]
    bad: tuple[int, int]
    shown: dict[str, list[dict[str, Any]]]

    @property
    def same(self) -> bool:
        """Whether both sides hold the same rows in the same splits."""
        return not (self.added or self.removed or self.changed or self.moved)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {**vars(self), "old": str(self.old), "new": str(self.new), "same": self.same}

    def summary(self, limit: int = 10) -> str:
        """Counts, then examples of each kind."""
        lines = [f"{self.old} ({self.rows[0]:,} rows) → {self.new} ({self.rows[1]:,} rows), by {self.key}: "
                 f"{self.added:,} added, {self.removed:,} removed, {self.changed:,} changed, "
                 f"{sum(self.moved.values()):,} moved, {self.unchanged:,} unchanged"]  # fmt: skip
        lines += [f"moved {way}: {n:,}" for way, n in self.moved.items()]
        for side, again, bad in zip(("old", "new"), self.repeated, self.bad, strict=True):
            if again or bad:
                lines.append(f"{side}: {again:,} rows repeat a key and {bad:,} cannot be read; they are not compared")
        for kind, found in self.shown.items():
            lines += [f"{kind}: {item['text']}" for item in found[:limit]]
        return "\n".join(lines)


@dataclass(frozen=True)
class _DiffColumns:
    """Key and whole row as 64-bit hashes (of 1M rows, a chance of 3e-8 that any two collide)."""

    by_id: bool

    def __call__(self, view: RowView, raw: bytes) -> tuple[int, int]:
        whole = hash64(orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS))
        if self.by_id and view.sample_id:
            return hash64(b"id:" + view.sample_id.encode()), whole
        text = f"{view.instruction}\0{view.input or ''}\0{view.output}\0{view.thinking or ''}"
        return hash64(text.encode()), whole


_JOIN = """
    SELECT coalesce(o.row, -1) AS old, coalesce(n.row, -1) AS new,
           coalesce(o.whole <> n.whole, false) AS changed, o.split AS was, n.split AS is_now
    FROM o FULL JOIN n ON o.key = n.key
"""


def diff_datasets(old: Path | str, new: Path | str, key: str = "id", examples: int = 100) -> Diff:
    """Compare two files, or two folders of splits (then rows that moved between splits are counted too).

    Args:
        key: "id" pairs rows by sample_id (rows without one by content); "content" by question, answer and thinking.

    Raises:
        UsageError: a path is missing, a folder holds no .jsonl, or another key.
        StepError: a side has no row that can be read.
    """
    if key not in ("id", "content"):
        raise UsageError(f"no key {key!r}; known: id, content")
    sides = [_side(expand(path)) for path in (old, new)]
    bad = [0, 0]
    import duckdb

    with plain_files(sides[0]) as first, plain_files(sides[1]) as second, duckdb.connect(
            config={"threads": 1, "memory_limit": "1GB"}) as con:  # fmt: skip
        indexes: list[Index] = []
        repeated = []
        for place, (plain, named, table) in enumerate(zip((first, second), sides, ("o", "n"), strict=True)):
            def count(_row: BadRow, place: int = place) -> None:
                bad[place] += 1

            index = scan(plain, {"key": "u8", "whole": "u8"}, _DiffColumns(key == "id"),
                         names=[str(p) for p in named], on_bad=count)  # fmt: skip
            if not len(index):
                raise StepError(f"no row of {named[0].parent if len(named) > 1 else named[0]} can be read; "
                                "`afs training validate` says why")  # fmt: skip
            _fill(con, table, index, [_split_name(p) for p in named] if len(named) > 1 else None)
            repeated.append(len(index) - con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
            indexes.append(index)
        con.execute(f"CREATE TEMP TABLE joined AS {_JOIN}")
        return _told(con, indexes, sides, (expand(old), expand(new)), key, tuple(repeated), tuple(bad), examples)


def _side(path: Path) -> list[Path]:
    if not path.is_dir():
        return [existing_file(path)]
    beside = (".quarantine.", ".meta.", ".duplicates.", "assignments")
    found = [p for p in sorted(path.iterdir()) if p.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst"))
             and not p.name.startswith(".") and not any(mark in p.name for mark in beside)]  # fmt: skip
    if not found:
        raise UsageError(f"{path} holds no .jsonl file; name a file or a folder of splits")
    return found


def _split_name(path: Path) -> str:
    name = path.name.partition(".")[0]
    return {"valid": "val", "validation": "val"}.get(name, name)


def _fill(con: Any, table: str, index: Index, splits: list[str] | None) -> None:
    rows = {"key": index.columns["key"], "whole": index.columns["whole"], "file": index.file,
            "row": np.arange(len(index))}  # fmt: skip
    con.register("incoming", rows)
    names = splits or [""]
    listed = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    # The first row of a key stands for it.
    con.execute(f"CREATE TEMP TABLE {table} AS SELECT key, arg_min(whole, row) AS whole, min(row) AS row, "
                f"list_extract([{listed}], arg_min(file, row) + 1) AS split FROM incoming GROUP BY key")
    con.unregister("incoming")


def _told(con: Any, indexes: list[Index], sides: list[list[Path]], paths: tuple[Path, Path], key: str,
          repeated: tuple, bad: tuple, examples: int) -> Diff:  # fmt: skip
    def number(where: str) -> int:
        return con.execute(f"SELECT count(*) FROM joined WHERE {where}").fetchall()[0][0]

    def some(where: str) -> list[tuple[int, int]]:
        return con.execute(f"SELECT old, new FROM joined WHERE {where} ORDER BY new, old LIMIT {examples}").fetchall()

    both = "old >= 0 AND new >= 0"
    split = f"{both} AND was <> '' AND is_now <> '' AND was <> is_now"
    kinds = {"added": "old < 0", "removed": "new < 0", "changed": "changed", "moved": split}
    moved = con.execute(f"SELECT was || ' → ' || is_now, count(*) FROM joined WHERE {split} GROUP BY ALL ORDER BY 1"
                        ).fetchall()  # fmt: skip
    shown: dict[str, list[dict[str, Any]]] = {}
    for kind, where in kinds.items():
        shown[kind] = [_example(kind, pair, indexes, sides) for pair in some(where)]
    return Diff(*paths, key, (len(indexes[0]), len(indexes[1])), number(kinds["added"]), number(kinds["removed"]),
                number("changed"), dict(moved), number(f"{both} AND NOT changed"), repeated, bad, shown)


def _example(kind: str, pair: tuple[int, int], indexes: list[Index], sides: list[list[Path]]) -> dict[str, Any]:
    values, places = [], []
    for row, index, named in zip(pair, indexes, sides, strict=True):
        if row >= 0:
            values.append(orjson.loads(next(read_at(index, [row]))))
            places.append(f"{named[int(index.file[row])].name} (byte {int(index.offset[row])})")
    text = f"{' → '.join(places)} {_short(values[-1])}"
    found: dict[str, Any] = {"text": text, "at": places}
    if kind == "changed":
        keys = [k for k in {**values[0], **values[1]} if values[0].get(k, ...) != values[1].get(k, ...)]
        found |= {"keys": keys, "text": f"{text} [{', '.join(keys)}]"}
    return found


def _short(row: dict[str, Any]) -> str:
    view = see_value(row)
    text = "" if isinstance(view, str) else (view.instruction or view.output)
    text = safe_text(" ".join(text.split()))
    return f"“{text[:57]}…”" if len(text) > 58 else f"“{text}”"
