"""Raw logs into a backup set, before anything is decoded: Claude Code deletes its logs after 30 days by default.

    snapshot_logs()                       # ~/.claude, ~/.codex, ~/.gemini into ~/.context/training/raw_logs

Incremental: a file whose size and time are as recorded is not read again. A file that only grew replaces its copy; one
that was rewritten keeps the old copy as `<name>.<hash>`; one that was deleted stays in the set. The set is raw, with
all secrets in it: only its owner may read it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from afs.jsonl import AtomicWriter, file_sha256
from afs.step import StepError
from afs.training.exports import antigravity, claude, codex, gemini, logs
from afs.training.exports.logs import Coverage
from afs.training.exports.memory import context_root

_LOGS = (".jsonl", ".jsonl.zst", ".json", ".txt", ".md")
SOURCES = ("claude", "codex", "gemini", "antigravity")


@dataclass
class SnapshotResult:
    """What `snapshot_logs` did."""

    folder: Path
    copied: int = 0
    unchanged: int = 0
    kept_old: int = 0
    gone: int = 0
    bytes: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "copied": self.copied, "unchanged": self.unchanged,
                "kept_old": self.kept_old, "gone": self.gone, "bytes": self.bytes, "by_source": self.by_source,
                "problems": self.coverage.problems, "dry_run": self.dry_run}  # fmt: skip

    def summary(self) -> str:
        word = "would be copied" if self.dry_run else "copied"
        found = [f"snapshot: {self.copied:,} files {word} ({self.bytes / 1e6:,.1f} MB), {self.unchanged:,} unchanged, "
                 f"{self.kept_old:,} rewritten (old copy kept), {self.gone:,} gone at the source (kept), "
                 f"into {self.folder}"]  # fmt: skip
        found += [f"  {name}: {count:,} files" for name, count in sorted(self.by_source.items())]
        found += [f"not used: {p['path']}: {p['reason']}" for p in self.coverage.problems[:20]]
        return "\n".join(found)


def default_roots() -> dict[str, list[Path]]:
    """The places of each kind of log."""
    return {"claude": [r / "projects" for r in claude.default_roots()],
            "codex": [r / n for r in codex.default_roots() for n in ("sessions", "archived_sessions")],
            "gemini": [r / "tmp" for r in gemini.default_roots()],
            "antigravity": [p.parent for p in antigravity.default_paths() if p.is_file()]}  # fmt: skip


def snapshot_logs(
    folder: Path | str | None = None,
    roots: dict[str, list[Path | str]] | None = None,
    *,
    dry_run: bool = False,
) -> SnapshotResult:
    """Copy all raw logs into the backup set.

    Args:
        folder: the set, default `~/.context/training/raw_logs`.
        roots: folders by kind, default those of the agents on this machine.

    Raises:
        StepError: no log was found, or the set lies inside a root.
    """
    target = Path(folder).expanduser() if folder else context_root() / "training" / "raw_logs"
    result = SnapshotResult(target, dry_run=dry_run)
    listing = target / "snapshot.json"
    known: dict[str, dict[str, Any]] = _listed(listing)
    given = {k: [Path(r).expanduser() for r in v] for k, v in (roots or default_roots()).items()}
    seen: dict[str, dict[str, Any]] = {}
    for kind, places in sorted(given.items()):
        for place in sorted({p.resolve() for p in places if p.is_dir()}):
            if target.resolve() == place or place in target.resolve().parents:
                raise StepError(f"the backup set {target} lies inside {place}, which it backs up; choose another")
            tag = hashlib.sha256(str(place).encode()).hexdigest()[:8]
            for item in logs.walk(place, _wanted, result.coverage):
                name = f"{kind}/{place.parent.name.lstrip('.')}-{place.name}-{tag}/{item.name}"
                entry = _copy(item.path, target / name, known.get(name), result)
                if entry is not None:
                    seen[name] = entry
                    result.by_source[kind] = result.by_source.get(kind, 0) + 1
    if not seen and not known:
        looked = ", ".join(str(p) for places in given.values() for p in places) or "nowhere"
        raise StepError(f"snapshot: no logs found (looked in {looked})")
    result.gone = len(known.keys() - seen.keys())
    if not dry_run and (result.copied or not listing.exists()):
        _write(listing, {**known, **seen})
    return result


def _wanted(name: str) -> bool:
    # What was written last may still lie in the write-ahead log beside a database.
    return name.endswith((*_LOGS, ".vscdb", ".vscdb-wal"))


def _listed(listing: Path) -> dict[str, dict[str, Any]]:
    try:
        found = orjson.loads(listing.read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError as error:
        raise StepError(f"the listing {listing} is damaged ({error}); move it away, then all is read again") from error
    return found["files"]


def _copy(source: Path, copy: Path, known: dict[str, Any] | None, result: SnapshotResult) -> dict[str, Any] | None:
    """Copy one file if it changed; its entry in the listing, or None when it cannot be read."""
    try:
        state = source.stat()
        if known and known["bytes"] == state.st_size and known["mtime_ns"] == state.st_mtime_ns and copy.exists():
            result.unchanged += 1
            return known
        if result.dry_run:
            result.copied += 1
            result.bytes += state.st_size
            return {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": ""}
        if known and copy.exists() and not _grew(source, known):
            copy.replace(copy.with_name(f"{copy.name}.{known['sha256'][:12]}"))
            result.kept_old += 1
        digest, size = _copy_bytes(source, copy)
    except OSError as error:
        result.coverage.problem(source, f"cannot be copied: {error.strerror or error}")
        return known
    result.copied += 1
    result.bytes += size
    return {"bytes": size, "mtime_ns": state.st_mtime_ns, "sha256": digest}


def _grew(source: Path, known: dict[str, Any]) -> bool:
    """The file begins with what the copy holds."""
    digest, left = hashlib.sha256(), known["bytes"]
    with open(source, "rb") as data:
        while left and (block := data.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return not left and digest.hexdigest() == known["sha256"]


def _copy_bytes(source: Path, copy: Path) -> tuple[str, int]:
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest, size = hashlib.sha256(), 0
    part = copy.with_name(f".{copy.name}.{os.getpid()}.part")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(source, "rb") as data, open(handle, "wb") as out:
            while block := data.read(1 << 20):
                digest.update(block)
                size += out.write(block)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, copy)
    finally:
        part.unlink(missing_ok=True)
    return digest.hexdigest(), size


def _write(listing: Path, files: dict[str, dict[str, Any]]) -> None:
    listing.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(listing.parent, 0o700)
    with AtomicWriter(listing) as out:
        out.write_raw(orjson.dumps({"version": 1, "files": dict(sorted(files.items()))}, option=orjson.OPT_INDENT_2))


def verify_snapshot(folder: Path | str) -> list[str]:
    """Names of files in the set that are missing or whose hash differs."""
    target = Path(folder).expanduser()
    wrong = []
    for name, entry in _listed(target / "snapshot.json").items():
        path = target / name
        if not path.is_file() or file_sha256(path) != entry["sha256"]:
            wrong.append(name)
    return wrong
