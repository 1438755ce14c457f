"""One checkpoint as one file: a tar in zstd, verified member by member against the checkpoint's own manifest.

`pack` reads the finished archive back before it is renamed into place; `verify` and `unpack` hash while they stream, so
a checkpoint of any size takes a few MB of memory. The manifest is the first member.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from realm.vault import checkpoints, places

LEVEL = 3  # weights hardly shrink (8 % at any level); 3 is as fast as the disk
CHUNK = 1 << 20


class ArchiveError(RuntimeError):
    """An archive that cannot be read; the message names the file and the next action."""


def digest(raw: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(raw).hexdigest()


def pack(folder: Path, target: Path, manifest_sha256: str) -> int:
    """Write a checkpoint folder as `target`, whole or not at all; returns its bytes.

    Raises:
        ArchiveError: what was written does not read back as the checkpoint.
        OSError: no space, no rights; nothing is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".tmp-{os.getpid()}-{target.name}"
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names.sort(key=lambda name: name != checkpoints.MANIFEST)
    try:
        with open(temporary, "wb") as file:
            packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
            with packer.stream_writer(file, closefd=False) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
                for name in names:
                    tar.add(folder / name, arcname=name, recursive=False)
            file.flush()
            os.fsync(file.fileno())
        faults = verify(temporary, manifest_sha256)
        if faults:
            raise ArchiveError("; ".join(faults[:3]))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    places.fsync(target.parent)
    return target.stat().st_size


@contextmanager
def _members(path: Path) -> Iterator[Iterator[tuple[str, io.BufferedIOBase]]]:
    """(name, open file) of every plain file in an archive, in order."""
    with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            yield ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
        while stream.read(CHUNK):  # tar stops at its end mark; the checksum of the whole comes after it
            pass


_BROKEN = (zstandard.ZstdError, tarfile.TarError, EOFError)


def verify(path: Path, manifest_sha256: str | None = None) -> list[str]:
    """What is wrong with an archive, one sentence per finding that names the file; empty when all is well."""
    fix = "restore the archive from a backup"
    if not path.is_file():
        return [f"{path} is missing; {fix}"]
    raw, found = b"", {}
    try:
        with _members(path) as members:
            for name, file in members:
                if name == checkpoints.MANIFEST:
                    raw = file.read()
                else:
                    found[name] = _hash(file)
        manifest = json.loads(raw)
        listed = dict(manifest["files"])
        if any(name.startswith(f"{checkpoints.RESUME}/") for name in found):
            listed |= manifest[checkpoints.RESUME]
    except _BROKEN as error:
        return [f"{path} is damaged ({error}); {fix}"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{path}: its manifest cannot be read ({error}); {fix}"]
    if manifest_sha256 is not None and digest(raw) != manifest_sha256:
        return [f"{path} does not hold the manifest that the ledger recorded; {fix}"]
    faults = [f"{path}: {name} is missing; {fix}" for name in sorted(listed.keys() - found.keys())]
    faults += [f"{path}: {name} is not in the manifest; {fix}" for name in sorted(found.keys() - listed.keys())]
    faults += [f"{path}: {name} has another sha256 than the manifest; {fix}" for name in sorted(found)
               if name in listed and found[name] != (listed[name]["sha256"], listed[name]["bytes"])]  # fmt: skip
    return faults


def _hash(file: io.BufferedIOBase) -> tuple[str, int]:
    made, count = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        made.update(chunk)
        count += len(chunk)
    return made.hexdigest(), count


def unpack(path: Path, folder: Path) -> None:
    """Write an archive's files below `folder`, which must not exist; the caller verifies them.

    Raises:
        ArchiveError: damaged, or a name that would lead out of the folder.
    """
    folder.mkdir(parents=True)
    try:
        with _members(path) as members:
            for name, file in members:
                target = folder / name
                if target.is_symlink() or not target.resolve().is_relative_to(folder.resolve()):
                    raise ArchiveError(f"{path}: member {name!r} leads out of the checkpoint; do not use this archive")
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as out:
                    while chunk := file.read(CHUNK):
                        out.write(chunk)
                    out.flush()
                    os.fsync(out.fileno())
    except _BROKEN as error:
        raise ArchiveError(f"{path} is damaged ({error}); restore the archive from a backup") from error


def read_member(path: Path, wanted: str) -> bytes:
    """The bytes of one member.

    Raises:
        ArchiveError: damaged or not there. OSError: no such archive.
    """
    try:
        with _members(path) as members:
            for name, file in members:
                if name == wanted:
                    return file.read()
    except _BROKEN as error:
        raise ArchiveError(f"{path} is damaged ({error}); restore the archive from a backup") from error
    raise ArchiveError(f"{path} holds no {wanted}; restore the archive from a backup")
