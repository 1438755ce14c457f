"""Where checkpoints lie: three zones, each with a root folder and a trash of its own.

*hot* is `$REALM_HOME/vault`; *warm* holds whole folders on a slower disk; *deep* holds one zstd archive per checkpoint.
Warm and deep lie in `$REALM_HOME/zones/` unless settings.yaml names other folders (`vault_warm`, `vault_deep`).
A zone outside the home may be a disk that is not mounted now: its root carries a marker, and a root without it is
*unreachable*, so that checkpoints in it are never taken for lost.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm.settings import RealmHome

ZONES = ("hot", "warm", "deep")
MARKER = ".realm-zone"
TRASH = ".trash"
ARCHIVE = ".tar.zst"


def root(home: RealmHome, zone: str) -> Path:
    """Folder of a zone; it may not exist yet. Raises KeyError for a zone that there is not."""
    if zone == "hot":
        return home.vault
    named = {"warm": home.settings.vault_warm, "deep": home.settings.vault_deep}[zone]
    return Path(named).expanduser() if named else home.root / "zones" / zone


def open_zone(home: RealmHome, zone: str) -> Path:
    """The zone's folder, made and marked when it is new; call before writing into it."""
    folder = root(home, zone)
    folder.mkdir(parents=True, exist_ok=True)
    if zone != "hot":
        (folder / MARKER).write_text(f"zone {zone} of {home.root}\n", encoding="utf-8")
    return folder


def reachable(home: RealmHome, zone: str) -> bool:
    """Whether what was put into the zone can be looked at now."""
    return home.vault.is_dir() if zone == "hot" else (root(home, zone) / MARKER).is_file()


def unreachable_words(home: RealmHome, row: Mapping[str, Any]) -> str:
    """What to say of a checkpoint whose zone cannot be reached."""
    zone = row["zone"]
    return (f"checkpoint {row['id']} lies in zone {zone} at {root(home, zone)}, which cannot be reached now; connect "
            f"that disk, or correct vault_{zone} in settings.yaml")  # fmt: skip


def place_of(home: RealmHome, row: Mapping[str, Any]) -> Path:
    """Folder (or deep archive) of a ledger row while it is not in the trash."""
    return home.root / row["path"]


def trash_of(home: RealmHome, row: Mapping[str, Any]) -> Path:
    """Where a deleted checkpoint lies until the trash is emptied; the same disk as its zone, so that it is a rename."""
    return root(home, row["zone"]) / TRASH / row["id"]


def target_in(home: RealmHome, row: Mapping[str, Any], zone: str) -> Path:
    """Where a checkpoint belongs in a zone."""
    name = f"{row['run_id']}-{row['step']}" + (ARCHIVE if zone == "deep" else "")
    return root(home, zone) / row["hero_id"] / row["campaign_id"] / name


def as_path(home: RealmHome, path: Path) -> str:
    """How the ledger notes a place: relative to the home when it is inside it."""
    return path.relative_to(home.root).as_posix() if path.is_relative_to(home.root) else str(path)


def size_of(path: Path) -> int:
    """Bytes that a folder or file takes now, 0 when it is not there."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue  # moved or removed while we looked
    return total


def remove(path: Path) -> None:
    """Remove a folder or file; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Flush a file or folder to its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
