"""Checkpoints and data by id: from this machine's realm home, or from a realm's services into a cache.

Whatever comes out was compared with the hashes of the ledger just now, or was when it entered the cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import sqlalchemy as sa

from realm import db
from realm.jobs.kinds import JobError
from realm.settings import RealmHome
from realm.vault import checkpoints, places

# What `file:` may name: never the database, the settings (they hold a token) or weights.
FOLDERS = ("inbox", "queue", "completed", "failed", "quarantine", "jobs")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


class Depot(Protocol):
    """Where work gets what it needs."""

    def checkpoint(self, checkpoint_id: str) -> Path:
        """Folder of a whole checkpoint. JobError: missing, corrupt, or it cannot be reached."""
        ...


class HomeDepot:
    """A realm home on this machine."""

    def __init__(self, home: RealmHome) -> None:
        self.home = home

    def checkpoint(self, checkpoint_id: str) -> Path:
        row = self._row(checkpoint_id)
        if not places.reachable(self.home, row["zone"]):
            raise JobError("missing", places.unreachable_words(self.home, row))
        folder = places.place_of(self.home, row)
        problems = checkpoints.verify(folder, row["manifest_sha256"])
        if problems:
            raise JobError("corrupt", f"checkpoint {checkpoint_id} cannot be used: " + "; ".join(problems[:3]))
        return folder

    def _row(self, checkpoint_id: str) -> Mapping[str, Any]:
        engine = db.connect(self.home)
        try:
            with db.read(engine) as connection:
                table = db.checkpoints
                row = connection.execute(sa.select(table).where(table.c.id == checkpoint_id)).mappings().first()
        finally:
            engine.dispose()
        if row is None or row["state"] != "live":
            state = "not in the ledger" if row is None else row["state"]
            raise JobError("missing", f"checkpoint {checkpoint_id} is {state}; `python3 -m training vault list` names "
                           "the live ones")  # fmt: skip
        return row


def data_path(connection: sa.Connection, home: RealmHome, ref: str) -> Path:
    """The file that a source names: `file:PATH` in the realm home, `quest:ID`, `job:ID/NAME`.

    Raises:
        JobError: a name of another form, one that leaves the realm home, or a file that is not there.
    """
    form, colon, name = ref.partition(":")
    if not colon or form not in ("file", "quest", "job"):
        raise JobError("refused", f"source {ref[:80]!r}: write file:PATH (in the realm home), quest:ID or job:ID/NAME")
    if form == "quest":
        row = connection.execute(sa.select(db.quests.c.path).where(db.quests.c.id == name)).first()
        relative = row.path if row is not None and row.path else None
    elif form == "job":
        relative = _output(connection, *name.partition("/")[::2])
    else:
        parts = PurePosixPath(name).parts
        if not name.endswith(".jsonl") or not parts or parts[0] not in FOLDERS:
            raise JobError("refused", f"source {ref[:80]!r}: a .jsonl file in one of the folders {', '.join(FOLDERS)}")
        relative = name
    path = inside(home.root, relative) if relative else None
    if path is None or not path.is_file():
        raise JobError("missing", f"source {ref[:80]!r}: there is no such file in {home.root}")
    return path


def _output(connection: sa.Connection, job_id: str, name: str) -> str | None:
    row = connection.execute(sa.select(db.jobs.c.result).where(db.jobs.c.id == job_id)).first()
    files = (row.result or {}).get("files", {}) if row is not None else {}
    return files[name]["path"] if name in files else None


def inside(root: Path, relative: str) -> Path | None:
    """The path below root, or None when it would leave it (by `..`, as an absolute path, over a link)."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\0" in relative:
        return None
    path = (root / parts).resolve()
    return path if path.is_relative_to(root.resolve()) else None


class WebDepot:
    """A realm on another machine: files by checkpoint id over HTTP, kept in a cache.

    Args:
        url: the VaultKeeper's address.
        token: what a realm that is open beyond its machine demands.
        cache: folder; a checkpoint that is in it whole is not fetched again.
    """

    def __init__(self, url: str, token: str, cache: Path) -> None:
        self.url, self.token, self.cache = url.rstrip("/"), token, cache

    def checkpoint(self, checkpoint_id: str) -> Path:
        if not NAME.fullmatch(checkpoint_id):
            raise JobError("refused", f"{checkpoint_id[:80]!r} is no checkpoint's id")
        target = self.cache / "checkpoints" / checkpoint_id
        if target.is_dir() and not self._faults(target, checkpoint_id):
            return target
        shutil.rmtree(target, ignore_errors=True)
        part = target.with_name(f".{checkpoint_id}-{os.getpid()}-{db.new_id()}")
        part.mkdir(parents=True)
        try:
            self._fetch(checkpoint_id, part)
            faults = self._faults(part, checkpoint_id)
            if faults:
                raise JobError("corrupt", f"checkpoint {checkpoint_id} arrived damaged: {'; '.join(faults[:3])}")
            try:
                os.rename(part, target)
            except OSError:
                if not target.is_dir():  # else another process was faster, with the same bytes
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target

    def _faults(self, folder: Path, checkpoint_id: str) -> list[str]:
        found = checkpoints.verify(folder)
        if not found and json.loads((folder / checkpoints.MANIFEST).read_text())["checkpoint_id"] != checkpoint_id:
            found = [f"{folder} holds another checkpoint"]
        return found

    def _fetch(self, checkpoint_id: str, folder: Path) -> None:
        """Manifest first, then the files of the weights that it lists; the resume state stays where it is."""
        import httpx

        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        base = f"{self.url}/api/vault/{checkpoint_id}/files"
        try:
            with httpx.Client(headers=headers, timeout=60.0) as client:
                told = self._save(client, f"{base}/{checkpoints.MANIFEST}", folder / checkpoints.MANIFEST)
                if told and told != checkpoints.sha256(folder / checkpoints.MANIFEST):
                    raise JobError("corrupt", f"the manifest of {checkpoint_id} is not the one in the ledger")
                manifest = json.loads((folder / checkpoints.MANIFEST).read_text(encoding="utf-8"))
                for name in manifest["files"]:
                    if not NAME.fullmatch(name):
                        raise JobError("corrupt", f"the manifest of {checkpoint_id} names {name[:80]!r}: no plain file")
                    self._save(client, f"{base}/{name}", folder / name)
        except httpx.HTTPError as error:
            raise JobError("transport", f"{self.url} did not give checkpoint {checkpoint_id}: {error!r}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise JobError("corrupt", f"the manifest of {checkpoint_id} cannot be read ({error!r})") from error

    def _save(self, client: Any, url: str, path: Path) -> str | None:
        """Writes one file; returns the sha256 that the service says it has."""
        with client.stream("GET", url) as answer:
            if answer.status_code in (404, 409):
                raise JobError("missing", f"{url} is not served ({answer.status_code}): the checkpoint was moved, "
                               "deleted or is damaged; `python3 -m training vault list` names the live ones")
            answer.raise_for_status()
            with open(path, "wb") as file:
                for block in answer.iter_bytes():
                    file.write(block)
            return answer.headers.get("x-sha256")
