"""Experiments and what they were made of: data set by content, code revision, settings, metrics, artefacts.

    afs training registry-create --name majora-v2 --model Qwen2.5-Coder-7B --framework unsloth --dataset mixed.jsonl

One SQLite file in WAL mode; every change is one `BEGIN IMMEDIATE` transaction, so processes that write at the same
time wait for each other and lose nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from afs.jsonl import file_sha256, open_rows
from afs.step import UsageError, expand
from afs.training.experiment import Artifact, Comparison, Experiment, list_table

__all__ = ["DEFAULT_PATH", "NEXT", "STATUSES", "Artifact", "Comparison", "Experiment", "ModelRegistry", "RegistryError",
           "list_table", "parse_metrics"]  # fmt: skip
DEFAULT_PATH = "~/.afs/registry.sqlite"
STATUSES = ("pending", "running", "completed", "failed", "cancelled")
NEXT = {
    "pending": ("running", "completed", "failed", "cancelled"),
    "running": ("completed", "failed", "cancelled"),
    "failed": ("running",),
    "cancelled": ("running",),
    "completed": (),
}
"""Which status may follow which; a failed or cancelled run may be started again."""
_VERSION = 1
_WAIT = 60.0
"""Seconds that a writer waits for the others."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS experiments (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, model TEXT NOT NULL, framework TEXT NOT NULL,
  status TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL, completed_at TEXT,
  dataset_path TEXT, dataset_sha256 TEXT, dataset_bytes INTEGER, dataset_rows INTEGER,
  git_revision TEXT, git_changed INTEGER, config TEXT NOT NULL, notes TEXT NOT NULL, ab_group TEXT, ab_variant TEXT);
CREATE TABLE IF NOT EXISTS tags (
  experiment TEXT NOT NULL REFERENCES experiments ON DELETE CASCADE, tag TEXT NOT NULL,
  PRIMARY KEY (experiment, tag)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics (
  number INTEGER PRIMARY KEY, experiment TEXT NOT NULL REFERENCES experiments ON DELETE CASCADE,
  name TEXT NOT NULL, value REAL NOT NULL, recorded_at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS metrics_of ON metrics (experiment, name, number);
CREATE TABLE IF NOT EXISTS artifacts (
  number INTEGER PRIMARY KEY, experiment TEXT NOT NULL REFERENCES experiments ON DELETE CASCADE,
  path TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, kind TEXT NOT NULL, recorded_at TEXT NOT NULL);
"""


class RegistryError(UsageError):
    """The registry cannot do what was asked; nothing was changed."""


def parse_metrics(texts: Iterable[str]) -> dict[str, float]:
    """`["final_loss=0.42", …]` as a mapping.

    Raises:
        RegistryError: a text is no NAME=NUMBER.
    """
    found = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            name = ""
        if not name.strip():
            raise RegistryError(f"metric {text!r} must look like NAME=NUMBER, for example final_loss=0.42")
    return found


class ModelRegistry:
    """The experiments in one SQLite file, made when it is first used.

    Experiments are named by their id, by a unique name, or by a beginning of the id that is unique (4 digits or more).
    """

    def __init__(self, path: Path | str = DEFAULT_PATH) -> None:
        self.path = expand(path)

    # --- making and reading -----------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        model: str,
        framework: str = "unsloth",
        dataset: Path | str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        notes: str = "",
        ab_group: str | None = None,
        ab_variant: str | None = None,
        status: str = "pending",
        allow_missing: bool = False,
    ) -> Experiment:
        """Record a new experiment. The data set (a file, or a folder of .jsonl files) is hashed and its rows counted.

        Raises:
            RegistryError: an empty name, model or framework; a data set that is not there without `allow_missing`; a
                config that is not JSON.
        """
        for key, value in (("name", name), ("model", model), ("framework", framework)):
            if not value.strip():
                raise RegistryError(f"{key} must not be empty")
        if ab_variant and not ab_group:
            raise RegistryError(f"variant {ab_variant!r} needs the group that it belongs to; give ab_group as well")
        _check_status(status)
        data = _dataset(dataset, allow_missing)
        revision, changed = _git()
        now = _now()
        record = {
            "name": name.strip(), "model": model.strip(), "framework": framework.strip(), "status": status,
            "created_at": now, "updated_at": now, "completed_at": now if status == "completed" else None, **data,
            "git_revision": revision, "git_changed": changed, "config": _json(config), "notes": notes,
            "ab_group": ab_group, "ab_variant": ab_variant,
        }  # fmt: skip
        with self._transaction() as db:
            found = _insert(db, record, tags)
            return _load(db, [found])[0]

    def get(self, which: str) -> Experiment:
        """One experiment.

        Raises:
            RegistryError: none, or more than one, is meant; the message names near ones.
        """
        with self._reading() as db:
            return _load(db, [_find(db, which)])[0]

    def list(
        self,
        *,
        status: str | None = None,
        tag: str | Iterable[str] | None = None,
        framework: str | None = None,
        ab_group: str | None = None,
    ) -> list[Experiment]:
        """Experiments that have all of the given properties (of several tags, any), oldest first."""
        if status is not None:
            _check_status(status)
        tags = [tag] if isinstance(tag, str) else list(tag or ())
        where, values = ["1"], []
        for column, value in (("status", status), ("framework", framework), ("ab_group", ab_group)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        if tags:
            where.append(f"id IN (SELECT experiment FROM tags WHERE tag IN ({_marks(tags)}))")
            values += tags
        with self._reading() as db:
            rows = db.execute(f"SELECT id FROM experiments WHERE {' AND '.join(where)} ORDER BY rowid", values)
            return _load(db, [row[0] for row in rows])

    def compare(self, which: Sequence[str], metrics: Sequence[str] | None = None) -> Comparison:
        """Experiments side by side, in the order given: status, data set, metrics (default all that any has).

        Raises:
            RegistryError: an unknown experiment, or a metric that none of them has.
        """
        found = [self.get(one) for one in which]
        if not found:
            raise RegistryError("nothing to compare; name at least one experiment")
        known = sorted({name for e in found for name in e.metrics})
        for name in metrics or ():
            if name not in known:
                raise RegistryError(f"none of these has metric {name!r}; they have: {', '.join(known) or 'no metrics'}")
        columns = ("id", "name", "status", "model", "dataset", "rows", "code", *(metrics or known))
        rows = tuple(
            {"id": e.id, "name": e.name, "status": e.status, "model": e.model,
             "dataset": e.dataset_sha256[:12] if e.dataset_sha256 else None, "rows": e.dataset_rows,
             "code": e.git_revision[:8] if e.git_revision else None,
             **{name: e.metrics.get(name) for name in (metrics or known)}}
            for e in found
        )  # fmt: skip
        return Comparison(columns, rows)

    # --- changing ---------------------------------------------------------------------------------------------------

    def update(
        self,
        which: str,
        *,
        status: str | None = None,
        notes: str | None = None,
        add_tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
        metrics: Mapping[str, float] | None = None,
        artifacts: Iterable[Path | str] = (),
    ) -> Experiment:
        """Change an experiment: all of it or nothing.

        Raises:
            RegistryError: unknown experiment, a status that cannot follow the present one, a tag that is not there, a
                value that is no finite number, or an artefact that does not exist.
        """
        if status is not None:
            _check_status(status)
        if metrics:
            _check_metrics(metrics)
        files = [_artifact(path) for path in artifacts]
        with self._transaction() as db:
            key = _find(db, which)
            old = _load(db, [key])[0]
            now = _now()
            if status is not None and status != old.status:
                if status not in NEXT[old.status]:
                    after = ", ".join(NEXT[old.status]) or "nothing: record a new experiment"
                    raise RegistryError(f"experiment {key} is {old.status} and cannot become {status}; "
                                        f"what may follow is {after}")  # fmt: skip
                ended = now if status in ("completed", "failed", "cancelled") else None
                db.execute("UPDATE experiments SET status = ?, completed_at = ? WHERE id = ?", (status, ended, key))
            if notes is not None:
                db.execute("UPDATE experiments SET notes = ? WHERE id = ?", (notes, key))
            for tag in remove_tags:
                if tag not in old.tags:
                    raise RegistryError(f"experiment {key} has no tag {tag!r}; it has: {', '.join(old.tags) or 'none'}")
                db.execute("DELETE FROM tags WHERE experiment = ? AND tag = ?", (key, tag))
            _add_tags(db, key, add_tags)
            _add_metrics(db, key, metrics or {})
            for file in files:
                _add_artifact(db, key, file, "model")
            db.execute("UPDATE experiments SET updated_at = ? WHERE id = ?", (now, key))
            return _load(db, [key])[0]

    def record_metrics(self, which: str, metrics: Mapping[str, float] | None = None, **more: float) -> Experiment:
        """Add values; an earlier value of the same name stays in the history, the newest counts.

        Raises:
            RegistryError: unknown experiment, no metric, or a value that is no finite number.
        """
        values = {**(metrics or {}), **more}
        _check_metrics(values)
        with self._transaction() as db:
            key = _find(db, which)
            _add_metrics(db, key, values)
            db.execute("UPDATE experiments SET updated_at = ? WHERE id = ?", (_now(), key))
            return _load(db, [key])[0]

    def history(self, which: str, metric: str) -> list[tuple[str, float]]:
        """(time, value) of every value of a metric, oldest first."""
        with self._reading() as db:
            key = _find(db, which)
            query = "SELECT recorded_at, value FROM metrics WHERE experiment = ? AND name = ? ORDER BY number"
            rows = db.execute(query, (key, metric))
            return [(row[0], row[1]) for row in rows]

    def add_artifact(self, which: str, path: Path | str, kind: str = "model") -> Experiment:
        """Record a file or folder with its hash.

        Raises:
            RegistryError: unknown experiment, or nothing lies at the path.
        """
        file = _artifact(path)
        with self._transaction() as db:
            key = _find(db, which)
            _add_artifact(db, key, file, kind)
            db.execute("UPDATE experiments SET updated_at = ? WHERE id = ?", (_now(), key))
            return _load(db, [key])[0]

    def delete(self, which: str) -> Experiment:
        """Remove an experiment with its metrics and artefact records; files stay. Returns what was removed."""
        return self.delete_all([which])[0]

    def delete_all(self, which: Iterable[str]) -> Sequence[Experiment]:
        """Remove several experiments, or none of them when one is unknown. Returns what was removed."""
        with self._transaction() as db:
            keys = list(dict.fromkeys(_find(db, one) for one in which))
            old = _load(db, keys)
            db.executemany("DELETE FROM experiments WHERE id = ?", [(key,) for key in keys])
            return old

    def import_json(self, path: Path | str) -> dict[str, int]:
        """Take over an old `model_registry.json`, all of it or nothing. Records that are here already are skipped.

        Returns:
            {"imported": n, "skipped": n}.

        Raises:
            RegistryError: the file is not such a registry.
        """
        where = expand(path)
        try:
            old = json.loads(where.read_text("utf-8"))
            records = [_old_record(entry) for entry in old["experiments"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"{where} is no model_registry.json: {type(error).__name__}: {error}") from error
        done = {"imported": 0, "skipped": 0}
        with self._transaction() as db:
            for key, record, tags, metrics in records:
                here = db.execute("SELECT name, created_at FROM experiments WHERE id = ?", (key,)).fetchone()
                if here and tuple(here) == (record["name"], record["created_at"]):
                    done["skipped"] += 1
                    continue
                # The id is taken by another experiment: this one gets a new id.
                key = _insert(db, record, tags, None if here else key)
                _add_metrics(db, key, metrics)
                done["imported"] += 1
        return done

    # --- the file ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed at the end of the block, rolled back on any error."""
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A read transaction, so that a record and its metrics are of one moment."""
        with self._connected() as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("ROLLBACK")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # A connection per call: safe across threads and forks, and nothing to close later.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = None
        try:
            db = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            _prepare(db)
            yield db
        except sqlite3.DatabaseError as error:
            raise RegistryError(f"registry {self.path} cannot be used: {error}") from error
        finally:
            if db is not None:
                db.close()


def _prepare(db: sqlite3.Connection) -> None:
    """WAL mode and the schema."""
    db.execute("PRAGMA foreign_keys = ON")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise RegistryError(f"the registry was written by a newer version (schema {version}, known is {_VERSION}); "
                            "update the package")  # fmt: skip
    if version == _VERSION:
        return
    # Switching to WAL needs the file alone and does not wait for others by itself.
    until = time.monotonic() + _WAIT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {_VERSION}")
    db.execute("COMMIT")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _check_status(status: str) -> None:
    if status not in STATUSES:
        raise RegistryError(f"no status {status!r}; known: {', '.join(STATUSES)}")


def _check_metrics(values: Mapping[str, Any]) -> None:
    if not values:
        raise RegistryError("no metric given; name at least one, for example final_loss=0.42")
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise RegistryError(f"metric {name!r} must be a finite number, not {value!r}")


def _json(config: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps(dict(config or {}), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RegistryError(f"config must hold JSON values only: {error}") from error


def _insert(db: sqlite3.Connection, record: Mapping[str, Any], tags: Iterable[str], key: str | None = None) -> str:
    while key is None:
        key = secrets.token_hex(4)
        if db.execute("SELECT 1 FROM experiments WHERE id = ?", (key,)).fetchone():
            key = None
    columns = ["id", *record]
    db.execute(f"INSERT INTO experiments ({', '.join(columns)}) VALUES ({_marks(columns)})", [key, *record.values()])
    _add_tags(db, key, tags)
    return key


def _add_tags(db: sqlite3.Connection, key: str, tags: Iterable[str]) -> None:
    db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(key, tag) for tag in tags])


def _add_metrics(db: sqlite3.Connection, key: str, values: Mapping[str, float]) -> None:
    db.executemany("INSERT INTO metrics (experiment, name, value, recorded_at) VALUES (?, ?, ?, ?)",
                   [(key, name, float(value), _now()) for name, value in values.items()])  # fmt: skip


def _find(db: sqlite3.Connection, which: str) -> str:
    """The id of the experiment that is meant."""
    rows = db.execute("SELECT id, name FROM experiments ORDER BY rowid").fetchall()
    for wanted in (
        [key for key, _ in rows if key == which],
        [key for key, name in rows if name == which],
        [key for key, _ in rows if len(which) >= 4 and key.startswith(which)],
    ):
        if len(wanted) == 1:
            return wanted[0]
        if wanted:
            raise RegistryError(f"{which!r} means {len(wanted)} experiments: {', '.join(wanted[:8])}; give a whole id")
    names = {text: key for key, name in rows for text in (key, name)}
    close = get_close_matches(which, names, 3, 0.5)
    hint = ", ".join(f"{text} ({names[text]})" if text != names[text] else text for text in close)
    raise RegistryError(f"no experiment {which!r}" + (f"; near: {hint}" if hint else f"; {len(rows)} are recorded"))


_COLUMNS = ("id", "name", "model", "framework", "status", "created_at", "updated_at", "completed_at", "dataset_path",
            "dataset_sha256", "dataset_bytes", "dataset_rows", "git_revision", "git_changed", "config", "notes",
            "ab_group", "ab_variant")  # fmt: skip


def _load(db: sqlite3.Connection, keys: Sequence[str]) -> list[Experiment]:
    found = []
    for key in keys:
        row = db.execute(f"SELECT {', '.join(_COLUMNS)} FROM experiments WHERE id = ?", (key,)).fetchone()
        values = dict(zip(_COLUMNS, row, strict=True))
        values["config"] = json.loads(values["config"])
        values["git_changed"] = None if values["git_changed"] is None else bool(values["git_changed"])
        tags = db.execute("SELECT tag FROM tags WHERE experiment = ? ORDER BY tag", (key,))
        # In the order of recording, so that the newest value of a name stays in the mapping.
        metrics = dict(db.execute("SELECT name, value FROM metrics WHERE experiment = ? ORDER BY number", (key,)))
        artifacts = db.execute("SELECT path, sha256, bytes, kind, recorded_at FROM artifacts WHERE experiment = ? "
                               "ORDER BY number", (key,))  # fmt: skip
        found.append(Experiment(**values, tags=tuple(t[0] for t in tags), metrics=dict(sorted(metrics.items())),
                                artifacts=tuple(Artifact(*a) for a in artifacts)))  # fmt: skip
    return found


def _dataset(path: Path | str | None, allow_missing: bool) -> dict[str, Any]:
    found = dict.fromkeys(("dataset_path", "dataset_sha256", "dataset_bytes", "dataset_rows"))
    if path is None:
        return found
    where = expand(path).absolute()
    found["dataset_path"] = str(where)
    if where.exists():
        found["dataset_sha256"], found["dataset_bytes"], found["dataset_rows"] = _content(where, _is_data)
    elif not allow_missing:
        raise RegistryError(f"data set {where} does not exist; check the path, or allow a missing data set")
    return found


def _artifact(path: Path | str) -> tuple[str, str, int]:
    """Path, hash and bytes of an artefact."""
    where = expand(path).absolute()
    if not where.exists():
        raise RegistryError(f"artefact {where} does not exist; check the path")
    digest, size, _rows = _content(where, lambda _name: True)
    return str(where), digest, size


def _add_artifact(db: sqlite3.Connection, key: str, file: tuple[str, str, int], kind: str) -> None:
    db.execute("INSERT INTO artifacts (experiment, path, sha256, bytes, kind, recorded_at) VALUES (?, ?, ?, ?, ?, ?)",
               (key, *file, kind, _now()))  # fmt: skip


def _is_data(name: str) -> bool:
    """Rows of a data set: not its manifest, its quarantine or hidden files."""
    plain = name.removesuffix(".gz").removesuffix(".zst")
    return plain.endswith(".jsonl") and not plain.endswith(".quarantine.jsonl") and not name.startswith(".")


def _content(where: Path, wanted: Callable[[str], bool]) -> tuple[str, int, int]:
    """SHA-256, bytes and rows of a file, or of the files of a folder whose names are wanted."""
    if where.is_file():
        return file_sha256(where), where.stat().st_size, _rows(where)
    files = [p for p in sorted(where.rglob("*")) if p.is_file() and wanted(p.name)]
    if not files:
        raise RegistryError(f"folder {where} holds no file to record")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(where).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest(), sum(f.stat().st_size for f in files), sum(map(_rows, files))


def _rows(path: Path) -> int:
    """Lines that are not blank; 0 of files that are no JSONL."""
    if not _is_data(path.name):
        return 0
    with open_rows(path) as source:
        return sum(1 for line in source if not line.isspace())


def _git() -> tuple[str | None, bool | None]:
    """Commit of the working folder, and whether files were changed since; (None, None) outside a repository."""
    texts = []
    for command in (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit yet
            return None, None
        texts.append(done.stdout.strip())
    return texts[0], bool(texts[1])


def _old_record(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str], dict[str, float]]:
    """(id, columns, tags, metrics) of an entry of the old JSON registry."""
    old = dict(entry.get("metrics") or {})
    metrics = {**old, **(old.pop("rouge_scores", None) or {}), **(old.pop("custom_metrics", None) or {})}
    metrics = {name: float(v) for name, v in metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
    config = dict(entry.get("config") or {})
    if entry.get("output_dir"):
        config.setdefault("output_dir", entry["output_dir"])
    status = entry.get("status") or "pending"
    _check_status(status)
    created = entry["created_at"]
    record = {
        "name": entry["run_name"], "model": entry["base_model"], "framework": entry.get("framework") or "unknown",
        "status": status, "created_at": created, "updated_at": entry.get("completed_at") or created,
        "completed_at": entry.get("completed_at"), "dataset_path": entry.get("dataset_path") or None,
        "dataset_sha256": None, "dataset_bytes": None, "dataset_rows": None, "git_revision": None, "git_changed": None,
        "config": _json(config), "notes": entry.get("notes") or "", "ab_group": entry.get("ab_group"),
        "ab_variant": entry.get("ab_variant"),
    }  # fmt: skip
    return str(entry["experiment_id"]), record, [str(tag) for tag in entry.get("tags") or ()], metrics
