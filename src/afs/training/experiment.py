"""What the registry knows of an experiment, and how it is shown: a record, a list, a comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Artifact:
    """A file or folder that an experiment made; the hash of a folder is over its files' names and hashes."""

    path: str
    sha256: str
    bytes: int
    kind: str
    recorded_at: str


@dataclass(frozen=True)
class Experiment:
    """One record. Times are UTC in ISO 8601. `metrics` holds the newest value of each name.

    Attributes:
        dataset_rows: lines that are not blank; of a folder, those of its .jsonl files.
        git_revision: commit of the working folder at creation, None outside a repository.
        git_changed: whether it had changes that were not committed.
    """

    id: str
    name: str
    model: str
    framework: str
    status: str
    created_at: str
    updated_at: str
    completed_at: str | None = None
    dataset_path: str | None = None
    dataset_sha256: str | None = None
    dataset_bytes: int | None = None
    dataset_rows: int | None = None
    git_revision: str | None = None
    git_changed: bool | None = None
    config: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    ab_group: str | None = None
    ab_variant: str | None = None
    tags: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "tags": list(self.tags), "artifacts": [asdict(a) for a in self.artifacts]}

    def summary(self) -> str:
        """All that is known, a line each."""
        data = "none"
        if self.dataset_path is not None:
            known = f"{self.dataset_rows:,} rows, sha256 {self.dataset_sha256}" if self.dataset_sha256 else "not found"
            data = f"{self.dataset_path} ({known})"
        code = self.git_revision or "not a git repository"
        lines = {
            "experiment": f"{self.id}  {self.name}", "status": self.status, "model": self.model,
            "framework": self.framework, "data set": data, "code": code + (" with changes" if self.git_changed else ""),
            "created": self.created_at, "updated": self.updated_at, "completed": self.completed_at,
            "tags": ", ".join(self.tags), "A/B": " / ".join(x for x in (self.ab_group, self.ab_variant) if x),
            "config": json.dumps(self.config, sort_keys=True) if self.config else "", "notes": self.notes,
        }  # fmt: skip
        found = [f"{key:<11}{value}" for key, value in lines.items() if value]
        found += [f"metric     {name} = {value:g}" for name, value in self.metrics.items()]
        found += [f"artefact   {a.kind}: {a.path} ({a.bytes:,} bytes, sha256 {a.sha256[:16]}…)" for a in self.artifacts]
        return "\n".join(found)


@dataclass(frozen=True)
class Comparison:
    """Experiments side by side: `rows` has one mapping of column to value per experiment, None = not recorded."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "rows": list(self.rows)}

    def table(self) -> str:
        """Aligned text."""
        return text_table(self.columns, [[row[column] for column in self.columns] for row in self.rows])


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns; None is shown as a dash, numbers with six digits."""
    cells = [list(columns)] + [["—" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for v in row]
                               for row in rows]  # fmt: skip
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def list_table(experiments: Sequence[Experiment]) -> str:
    """One line per experiment."""
    columns = ("id", "name", "status", "model", "framework", "rows", "tags", "created")
    rows = [(e.id, e.name, e.status, e.model, e.framework, e.dataset_rows, ", ".join(e.tags) or None, e.created_at[:16])
            for e in experiments]  # fmt: skip
    return text_table(columns, rows)
