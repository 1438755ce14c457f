"""Modules come in from a folder or a zip, and go out as a zip; nothing from outside is ever trusted or executed.

    install(Path("pattern-master.zip"), home / "modules")        # ModuleError lists everything that is wrong
    export(home / "modules" / "pattern-master", Path("out.zip")) # the same module gives the same bytes, anywhere

What may be in a module is a list: its YAML, JSONL and text files at their places, regular files only. Paths that leave
it, links, devices, names that fall together on another file system, and archives that unfold to far more than they
weigh are refused before a byte is written. A module is written to a staging folder, fsynced, validated there and
renamed: killed at any instant, the realm has the whole module or none.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock
from ulid import ULID

from afs.jsonl import file_sha256, sync_folder
from realm.guild.modules.manifest import MANIFEST, NAME, Manifest, ModuleError, read_manifest

FILES_AT_MOST = 1_000
BYTES_AT_MOST = 256 * 1024 * 1024  # of a module, unpacked
RATIO_AT_MOST = 200  # unpacked ÷ packed bytes of an archive; JSONL reaches 30
SMALL = 1024 * 1024  # below this many unpacked bytes the ratio says nothing
NAME_AT_MOST = 200  # characters of a path
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
TRASH = ".trash"
_ROOT_FILES = re.compile(r"manifest\.yaml|README\.md|CHANGELOG\.md|NOTICE(?:\.txt)?|LICENSE(?:\.txt|\.md)?")
_PLACES = {"data": (".jsonl", ".md"), "eval": (".jsonl", ".md"), "skills": (".yaml", ".md")}
_BAD_CHARACTERS = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


@dataclass(frozen=True)
class Entry:
    """A file of a module: its path inside it, its size, and how its bytes are read."""

    path: str
    size: int
    read: Callable[[int], bytes]


def list_folder(folder: Path) -> list[Entry]:
    """The files of a module's folder. Raises ModuleError that lists everything that does not belong there."""
    if folder.is_symlink() or not folder.is_dir():
        raise ModuleError(f"{folder}: is no folder; give the folder that holds {MANIFEST}, or a .zip of it")
    entries, faults = [], []

    def unreadable(error: OSError) -> None:
        raise ModuleError(f"{error.filename}: cannot be read ({error.strerror}); give yourself leave to read it")

    for root, dirs, files in os.walk(folder, onerror=unreadable):
        inside = Path(root).relative_to(folder)
        for name in sorted([*dirs, *files]):
            path, mode = (inside / name).as_posix(), os.lstat(os.path.join(root, name)).st_mode
            if name in dirs and stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                faults.append(f"{path}: is a {_kind(mode)}; a module holds regular files only, put a copy there")
                continue
            where = Path(root) / name
            entries.append(Entry(path, os.lstat(where).st_size, lambda limit, where=where: _head(where, limit)))
        dirs[:] = [name for name in dirs if not os.path.islink(os.path.join(root, name))]
        if len(entries) > 10 * FILES_AT_MOST:
            break
    return _checked(entries, faults, str(folder))


def list_zip(archive: zipfile.ZipFile, name: str) -> list[Entry]:
    """The files of a zipped module, without the folder that may hold them all. Raises ModuleError."""
    entries, faults, packed = [], [], 0
    infos = archive.infolist()
    if len(infos) > 10 * FILES_AT_MOST:
        raise ModuleError(f"{name}: {len(infos)} entries, at most {FILES_AT_MOST} files make a module; leave some out")
    top = _common_folder([info.filename for info in infos])
    for info in infos:
        mode = info.external_attr >> 16
        path = info.filename.removeprefix(top)
        if info.is_dir():
            path = path.rstrip("/")
            if path and not _inside(path):
                faults.append(f"{info.filename!r}: this folder leaves the module; pack it with plain relative names")
            continue
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            faults.append(f"{path!r}: is a {_kind(mode)}; a module holds regular files only, put a copy there")
        elif info.flag_bits & 0x1:
            faults.append(f"{path!r}: is encrypted; pack the module without a password")
        else:
            packed += info.compress_size
            entries.append(Entry(path, info.file_size, lambda limit, info=info: _unpack(archive, info, limit)))
    total = sum(entry.size for entry in entries)
    if total > SMALL and total > RATIO_AT_MOST * packed:
        faults.append(f"{name}: unfolds from {packed} to {total} bytes; more than {RATIO_AT_MOST} times is taken for a "
                      "zip bomb; install it from a folder if it is not")  # fmt: skip
    return _checked(entries, faults, name)


def _checked(entries: list[Entry], faults: list[str], name: str) -> list[Entry]:
    """The rules that hold for folders and archives alike."""
    if len(entries) > FILES_AT_MOST:
        faults.append(f"{name}: {len(entries)} files, at most {FILES_AT_MOST} make a module; join some")
    total = sum(entry.size for entry in entries)
    if total > BYTES_AT_MOST:
        faults.append(f"{name}: {total} bytes, at most {BYTES_AT_MOST} make a module; leave some rows out")
    alike: dict[str, str] = {}
    for entry in entries:
        fault = _path_fault(entry.path)
        if fault:
            faults.append(f"{entry.path!r}: {fault}")
        key = unicodedata.normalize("NFKC", entry.path).casefold()
        if key in alike:
            faults.append(f"{entry.path!r} and {alike[key]!r} are one name where case does not count; rename one")
        alike[key] = entry.path
    for entry in entries:
        parents = [str(parent).casefold() for parent in PurePosixPath(entry.path).parents]
        faults += [f"{alike[parent]!r} is a file and the folder of {entry.path!r}; rename one"
                   for parent in parents if parent in alike]  # fmt: skip
    if MANIFEST not in {entry.path for entry in entries}:
        faults.append(f"{name}: has no {MANIFEST}; give the folder that holds it, or a .zip of that folder")
    if faults:
        raise ModuleError("\n".join(dict.fromkeys(faults[:50])))
    return sorted(entries, key=lambda entry: entry.path)


def _path_fault(path: str) -> str | None:
    if not _inside(path):
        return "this path leaves the module or is not plain; use relative names such as data/level1.jsonl"
    if len(path) > NAME_AT_MOST or len(PurePosixPath(path).parts) > 6:
        return f"this path is too long or too deep; at most {NAME_AT_MOST} characters and 6 parts are allowed"
    top, _, rest = path.partition("/")
    name = PurePosixPath(path).name
    if not rest:
        known = _ROOT_FILES.fullmatch(path)
    else:
        known = top in _PLACES and (name.endswith(_PLACES[top]) or name == "LICENSE") and not name.startswith(".")
    if not known:
        return ("does not belong into a module, which is data only: manifest.yaml, README.md, LICENSE, data/*.jsonl, "
                "eval/*.jsonl, skills/*.yaml; leave it out")  # fmt: skip
    return None


def _inside(path: str) -> bool:
    """Whether a path is plain, relative and stays below the module on every file system."""
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") and not part.endswith((".", " ")) for part in parts)
    return plain and not _BAD_CHARACTERS.search(path) and path.isprintable()


def _common_folder(names: list[str]) -> str:
    """`pattern-master/` where every name is below that one folder and the manifest is not at the top."""
    tops = {name.split("/", 1)[0] for name in names}
    if MANIFEST in names or len(tops) != 1 or any("/" not in name for name in names):
        return ""
    return f"{tops.pop()}/"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
             stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "special file")


def _head(path: Path, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a file that is still a regular one, never through a link."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ModuleError(f"{path}: is no regular file any more; install the module again")
        return file.read(limit + 1)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """At most `limit` + 1 bytes of an entry, whatever its header says."""
    try:
        with archive.open(info) as file:
            return file.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ModuleError(f"{info.filename!r}: cannot be unpacked ({error}); get the archive again") from error


# --- installing -------------------------------------------------------------------------------------------------------

def install(source: Path, shelf: Path, replace: bool = False) -> Manifest:
    """Install a module from a folder or a .zip into a realm home's `modules/`; returns its manifest.

    The same module again is no change. Another one of the same id is refused unless `replace` is given; the old one
    then goes to the trash.

    Raises:
        ModuleError: everything that is wrong with it, a line each; nothing was installed.
    """
    from realm.guild.modules.validate import check

    shelf.mkdir(parents=True, exist_ok=True)
    with FileLock(shelf / ".lock"):
        recover(shelf)
        staging = shelf / f".install-{ULID()}"
        try:
            _stage(source, staging)
            report = check(staging)
            if report.errors:
                raise ModuleError("\n".join(report.errors))
            manifest = read_manifest(staging)
            target = shelf / manifest.id
            if target.is_dir() and digest(target) == digest(staging):
                return manifest
            if target.exists() and not replace:
                have = _version(target)
                raise ModuleError(f"module {manifest.id} {have} is installed and differs from this {manifest.version}; "
                                  "install with --replace, or give the new one another id")  # fmt: skip
            _put(staging, target)
            return manifest
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _stage(source: Path, staging: Path) -> None:
    """Write the files of a source below `staging`, each synced."""
    if source.is_dir() and not source.is_symlink():
        _write(list_folder(source), staging)
        return
    if not source.is_file():
        raise ModuleError(f"{source}: is neither a folder nor a .zip file; give the path of a module")
    try:
        with zipfile.ZipFile(source) as archive:
            _write(list_zip(archive, source.name), staging)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        if isinstance(error, ModuleError):
            raise
        raise ModuleError(f"{source}: is no readable .zip file ({error}); get it again") from error


def _write(entries: list[Entry], staging: Path) -> None:
    room = BYTES_AT_MOST
    folders = {staging}
    staging.mkdir()
    for entry in entries:
        content = entry.read(min(entry.size, room))
        if len(content) != entry.size:
            raise ModuleError(f"{entry.path}: holds {'more' if len(content) > entry.size else 'fewer'} bytes than the "
                              f"{entry.size} it announces; get the module again")  # fmt: skip
        room -= len(content)
        path = staging / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        folders |= {parent for parent in path.parents if staging in parent.parents}
        with open(path, "xb") as file:
            os.fchmod(file.fileno(), 0o644)  # data: never executable
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for folder in sorted(folders):
        sync_folder(folder)


def _put(staging: Path, target: Path) -> None:
    """Rename a staged module into place; an older one goes to the trash. `recover` finishes it after a kill."""
    ready = target.with_name(f".ready-{target.name}")
    os.rename(staging, ready)
    if target.exists():
        trash(target)
    os.rename(ready, target)
    sync_folder(target.parent)


def recover(shelf: Path) -> None:
    """Clear what a killed installation left; call it under the shelf's lock. A module that was staged and validated
    whole takes its place if its predecessor has already gone, else it is dropped."""
    for path in shelf.glob(".install-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in shelf.glob(".ready-*"):
        target = shelf / path.name.removeprefix(".ready-")
        if target.exists():
            shutil.rmtree(path)
        else:
            os.rename(path, target)
            sync_folder(shelf)


def remove(shelf: Path, module: str) -> Path:
    """Move a module to the home's trash; returns where it is now. Raises ModuleError where there is none."""
    with FileLock(shelf / ".lock") if shelf.is_dir() else _nothing(shelf, module):
        recover(shelf)
        target = shelf / module
        if not re.fullmatch(NAME, module) or not target.is_dir():
            _nothing(shelf, module)
        return trash(target)


def _nothing(shelf: Path, module: str) -> FileLock:
    there = ", ".join(sorted(p.name for p in shelf.glob("[!.]*"))) if shelf.is_dir() else ""
    raise ModuleError(f"module {module!r} is not installed; installed: {there or 'none'}")


def trash(folder: Path) -> Path:
    """Move a module's folder to `.trash/` beside it, under a name of its own."""
    place = folder.parent / TRASH / f"{folder.name}-{_version(folder)}-{ULID()}"
    place.parent.mkdir(exist_ok=True)
    os.rename(folder, place)
    sync_folder(folder.parent)
    return place


def _version(folder: Path) -> str:
    try:
        return read_manifest(folder).version
    except ModuleError:
        return "broken"


# --- going out --------------------------------------------------------------------------------------------------------

def export(folder: Path, target: Path) -> str:
    """Write a module as a .zip; returns its sha256. The same files give the same bytes on every machine: sorted
    names, one date, one mode, stored without compression (the bytes of a compressor depend on its version).

    Raises:
        ModuleError: the folder holds what no module may hold, or the target's folder is not there.
    """
    entries = list_folder(folder)
    name = read_manifest(folder).id
    if not target.parent.is_dir():
        raise ModuleError(f"{target.parent}: there is no such folder; make it or name another")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for entry in entries:
                info = zipfile.ZipInfo(f"{name}/{entry.path}", ZIP_DATE)
                info.external_attr, info.create_system = (stat.S_IFREG | 0o644) << 16, 3
                archive.writestr(info, entry.read(entry.size))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)
    return file_sha256(target)


def digest(folder: Path) -> str:
    """One sha256 over the paths and bytes of a module: equal for equal modules."""
    total = hashlib.sha256()
    for entry in list_folder(folder):
        total.update(f"{entry.path}\0{hashlib.sha256(entry.read(entry.size)).hexdigest()}\n".encode())
    return total.hexdigest()
