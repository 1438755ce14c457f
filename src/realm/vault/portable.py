"""Checkpoints in and out: a Hugging Face folder, merged weights or GGUF in `exports/`, folders taken in by `imports/`.

An export is made apart, in a process of its own, and appears whole: its `export.json` comes last and holds the sha256
of every file and, for weights that were converted, the proof that 20 greedy answers stayed the same. One whose answers
differ is removed and does not count. Only safetensors are taken in, never pickle and never a model's own code.

    python3 -m training vault export CHECKPOINT --format gguf
    python3 -m training vault import FOLDER --hero pip
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.heroes.profile import ProfileError, load_profile
from realm.settings import RealmHome
from realm.vault import catalog, checkpoints, places, zones
from realm.vault.catalog import VaultError
from realm.vault.checkpoints import CheckpointError, Place

FORMATS = ("hf", "merged", "gguf", "gguf-ids")
QUANTIZE = ("f32", "f16", "q8_0")
RECORD = "export.json"
TAKEN = (".safetensors", ".json", ".txt", ".jinja", ".model", ".md")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
EXPORT_S = 3600.0
MAX_HEADER = 100_000_000  # safetensors' own limit


# --- out ----------------------------------------------------------------------------------------------------------


def may_export(row: Mapping[str, Any], kind: str, quantize: str) -> None:
    """Raises VaultError when a checkpoint cannot be exported so."""
    if kind not in FORMATS:
        raise VaultError(f"format {str(kind)[:40]!r} does not exist; use {', '.join(FORMATS)}")
    if quantize not in QUANTIZE:
        raise VaultError(f"quantize {str(quantize)[:40]!r} does not exist; use {', '.join(QUANTIZE)}")
    if row["state"] != "live":
        raise VaultError(f"checkpoint {row['id']} is {row['state']}; move it to the hot zone or restore it first")


def export_name(row: Mapping[str, Any], kind: str, quantize: str = "f32") -> str:
    """Folder name of an export inside `exports/`."""
    return f"{row['hero_id']}-step{row['step']}-{row['id'][-6:].lower()}-{kind}" + (
        f"-{quantize}" if kind.startswith("gguf") else "")  # fmt: skip


def export(home: RealmHome, made: sa.Engine, checkpoint_id: str, kind: str, quantize: str = "f32") -> dict[str, Any]:
    """Write one export and return its record; an older one of the same name is replaced once this one is whole.

    Raises:
        VaultError: it cannot be exported, is damaged, or its answers changed. CheckpointError: disk_full.
    """
    with db.read(made) as connection:
        row = catalog.row_of(connection, checkpoint_id)
        may_export(row, kind, quantize)
        profile = catalog.config_of(home, connection, row).get("hero")
        made_of = catalog.lineage(connection, checkpoint_id)
    faults = zones.faults_of(home, row)
    if faults:
        raise VaultError(f"checkpoint {row['id']} is damaged: " + "; ".join(faults[:3]))
    source = places.place_of(home, row)
    home.exports.mkdir(parents=True, exist_ok=True)
    target = home.exports / export_name(row, kind, quantize)
    temporary = home.exports / f".tmp-{os.getpid()}-{db.new_id()}"
    temporary.mkdir()
    try:
        checkpoints.check_space(home, 2 * places.size_of(source))
        proof = _write(source, temporary, kind, quantize, profile or {}, row)
        (temporary / "README.md").write_text(_card(row, kind, made_of, proof), encoding="utf-8")
        record = _seal(temporary, row, kind, proof)
        places.remove(target)
        os.rename(temporary, target)
    except BaseException as error:
        places.remove(temporary)
        if checkpoints.disk_full(error):
            raise CheckpointError("disk_full", f"{home.exports}: the disk is full; nothing of the export is left. Free "
                                  "some space, then repeat") from error  # fmt: skip
        raise
    return {**record, "path": str(target)}


def _write(
    source: Path, target: Path, kind: str, quantize: str, profile: Mapping[str, Any], row: Mapping[str, Any]
) -> dict[str, Any] | None:  # fmt: skip
    """The files of an export; returns the proof that converted weights answer the same (None: a plain copy)."""
    if kind == "hf":
        for path in sorted(source.iterdir()):
            if path.is_file() and path.name != checkpoints.MANIFEST:
                shutil.copyfile(path, target / path.name)
        return None
    from realm.vault import convert

    return convert.write(source, target, kind, quantize, profile, f"{row['hero_id']}-step{row['step']}")


def _card(row: Mapping[str, Any], kind: str, made_of: Mapping[str, Any], proof: Mapping[str, Any] | None) -> str:
    quests = "\n".join(f"- {q['name']} ({q['school']}, {q['steps']} steps, data sha256 {q['sha256'] or 'not kept'})"
                       for q in made_of["quests"])  # fmt: skip
    said = f"{proof['same']} of {proof['asked']} greedy answers are those of the checkpoint." if proof else (
        "The files are those of the checkpoint, byte for byte.")  # fmt: skip
    return (f"# {row['hero_id']} at step {row['step']:,}\n\nCheckpoint `{row['id']}`, exported as {kind}. {said}\n\n"
            f"## Made of\n\n{quests or '- no training on record'}\n")  # fmt: skip


def _seal(folder: Path, row: Mapping[str, Any], kind: str, proof: Mapping[str, Any] | None) -> dict[str, Any]:
    files = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        places.fsync(path)
        files[path.name] = {"sha256": checkpoints.sha256(path), "bytes": path.stat().st_size}
    record = {"checkpoint_id": row["id"], "hero_id": row["hero_id"], "step": row["step"], "format": kind,
              "created_at": db.now(), "parity": proof, "files": files}  # fmt: skip
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    places.fsync(folder / RECORD)
    places.fsync(folder)
    return record


def export_apart(home: RealmHome, checkpoint_id: str, kind: str, quantize: str = "f32") -> dict[str, Any]:
    """`export` in a process of its own: it may load a model, which the caller must not.

    Raises:
        VaultError: with what that process said.
    """
    command = [sys.executable, "-m", "realm.vault.portable", "--home", str(home.root), checkpoint_id, kind, quantize]
    values = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=values, timeout=EXPORT_S,
                              stdin=subprocess.DEVNULL)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise VaultError(f"the export took longer than {EXPORT_S:.0f} s and was ended; nothing of it counts") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise VaultError(said[0].removeprefix("error: "))
    return json.loads(done.stdout.splitlines()[-1])


def exports(home: RealmHome) -> list[dict[str, Any]]:
    """The records of all exports that are whole, newest first."""
    found = []
    for path in home.exports.glob(f"*/{RECORD}"):
        if not path.parent.name.startswith("."):
            found.append({**json.loads(path.read_text(encoding="utf-8")), "path": str(path.parent)})
    return sorted(found, key=lambda record: record["created_at"], reverse=True)


# --- in -----------------------------------------------------------------------------------------------------------


def put_in(home: RealmHome, folder: Path) -> str:
    """Copy a folder that a person named into `imports/`; returns its name there. Done by the CLI.

    Raises:
        VaultError: not a model's folder in safetensors.
    """
    inspect(folder)
    home.imports.mkdir(parents=True, exist_ok=True)
    name = f"{db.new_id()}-{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.name)[:40] or 'model'}"
    temporary = home.imports / f".tmp-{os.getpid()}-{name}"
    try:
        temporary.mkdir()
        for path in sorted(folder.iterdir()):
            if _wanted(path):
                shutil.copyfile(path, temporary / path.name)
        os.rename(temporary, home.imports / name)
    except OSError as error:
        places.remove(temporary)
        raise VaultError(f"{folder} could not be copied into {home.imports}: {error.strerror or error}") from error
    return name


def _wanted(path: Path) -> bool:
    return path.suffix in TAKEN and path.name not in (checkpoints.MANIFEST, RECORD, "README.md")


def inspect(folder: Path) -> int:
    """See that a folder holds weights that may be read; returns their bytes.

    Raises:
        VaultError: pickle files, code, links, folders, or no sound safetensors.
    """
    if not folder.is_dir():
        raise VaultError(f"{folder} is no folder; name one with config.json and *.safetensors")
    entries = sorted(folder.iterdir())
    for path in entries:
        if path.is_symlink() or not (path.is_file() or path.name == checkpoints.RESUME):
            raise VaultError(f"{path.name} is a link or a folder; copy the plain files of the model into one folder")
        if path.suffix in (*checkpoints.FORBIDDEN, ".py"):
            raise VaultError(f"{path.name} could run code when read; convert the weights to safetensors and leave it "
                             "out")  # fmt: skip
    weights = [path for path in entries if path.suffix == ".safetensors"]
    if not weights or not (folder / "config.json").is_file():
        raise VaultError(f"{folder.name}: needs config.json and *.safetensors in Hugging Face layout")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise VaultError(f"config.json cannot be read ({error}); take it from the model's own folder") from error
    if not isinstance(config, dict) or config.get("auto_map"):
        raise VaultError("config.json asks for code of the model's own (auto_map), which is never run here; use a "
                         "model that transformers knows")  # fmt: skip
    for path in weights:
        _sound(path)
    return sum(path.stat().st_size for path in entries if _wanted(path))


def _sound(path: Path) -> None:
    """A safetensors file's header must describe exactly the bytes that follow it."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, MAX_HEADER):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        if not ends or max(ends) + 8 + length != size:
            raise ValueError(f"tensors end at byte {max(ends, default=0) + 8 + length:,} of {size:,}")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise VaultError(f"{path.name} is no whole safetensors file ({error}); copy it again") from error


def may_import(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> None:
    """Raises VaultError when an order to import cannot be carried out."""
    _folder_in(home, payload.get("name"))
    try:
        load_profile(str(payload.get("hero_id")), home)
    except ProfileError as error:
        raise VaultError(str(error)) from error


def _folder_in(home: RealmHome, name: Any) -> Path:
    """A folder of `imports/` by its name; a name is never a path."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or not (home.imports / name).is_dir():
        raise VaultError(f"{str(name)[:80]!r} is no folder in {home.imports}; put the model's folder there and give "
                         "its name")  # fmt: skip
    return home.imports / name


def take_in(home: RealmHome, made: sa.Engine, name: str, hero_id: str) -> dict[str, Any]:
    """Make a checkpoint of a folder in `imports/`: in an archived campaign of its own, from which a new one may start.

    Raises:
        VaultError: the folder may not be read. CheckpointError: disk_full.
    """
    folder = _folder_in(home, name)
    profile = load_profile(hero_id, home)
    size = inspect(folder)
    campaign_id, run_id = _shelf(made, profile.id, profile.model_dump(mode="json"), name)

    def write_weights(target: Path) -> None:
        for path in sorted(folder.iterdir()):
            if _wanted(path):
                shutil.copyfile(path, target / path.name)

    saved = checkpoints.save(
        home, made, Place(profile.id, campaign_id, run_id, 0), write_weights=write_weights, write_resume=None,
        facts={"config": {"hero": profile.model_dump(mode="json")}, "data": None, "imported": name},
        why=f"imported from {name}", need_bytes=size, current=False)  # fmt: skip
    places.remove(folder)
    return {"checkpoint_id": saved.id, "hero_id": profile.id,
            "next": f"python3 -m training campaign new --hero {profile.id} --checkpoint {saved.id}"}  # fmt: skip


def _shelf(made: sa.Engine, hero_id: str, config: dict[str, Any], name: str) -> tuple[str, str]:
    """(campaign, run) for one import. The campaign is archived from the start, so no game goes on from it by itself;
    the run is the same when a kill makes the import begin again."""
    with db.write(made) as connection:
        table, called = db.campaigns, f"{hero_id}-imports"
        found = connection.execute(sa.select(table.c.id).where(table.c.name == called)).scalar()
        if found is None:
            found = db.new_id()
            connection.execute(sa.insert(table).values(
                id=found, name=called, hero_id=hero_id, state="archived", created_at=db.now(), seed=0, config=config,
                archived_at=db.now()))  # fmt: skip
        reason = f"imported from {name}"
        run = connection.execute(sa.select(db.runs.c.id).where(
            db.runs.c.campaign_id == found, db.runs.c.reason == reason)).scalar()  # fmt: skip
        if run is None:
            run = db.new_id()
            connection.execute(sa.insert(db.runs).values(
                id=run, campaign_id=found, parent_checkpoint_id=None, reason=reason, created_at=db.now()))  # fmt: skip
    return found, run


def main(arguments: list[str] | None = None) -> None:
    """`python -m realm.vault.portable --home HOME CHECKPOINT FORMAT QUANTIZE`: one export; its record as JSON."""
    parser = argparse.ArgumentParser(prog="realm.vault.portable", description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True)
    parser.add_argument("checkpoint_id")
    parser.add_argument("kind")
    parser.add_argument("quantize")
    given = parser.parse_args(arguments)
    home = RealmHome(given.home)
    try:
        print(json.dumps(export(home, db.connect(home), given.checkpoint_id, given.kind, given.quantize)))
    except (VaultError, CheckpointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
