"""The files of a code base, in a fixed order, and their texts. What cannot be read is reported, never fatal.

Symbolic links are not followed: one that leads out of the tree, or round in a circle, is named; one to a file inside
is named as well, because the file is read where it lies.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from afs.jsonl import UTF8_MARK, BadRow

MAX_FILE = 64 * 1024 * 1024
KEPT = 16 * 1024 * 1024
"""Bytes of source whose parsed form is kept, so that each kind of sample does not parse it anew."""
SET_ASIDE = {"archive", "archives", "archived", "planning", "plans", "deprecated", "obsolete"}
NO_SOURCE = {"node_modules", "__pycache__", "build", "dist"}
BROKEN = "\ufffd"
"""Stands for bytes that are no UTF-8."""

OnBad = Callable[[BadRow], None]


class Tree:
    """The files of a folder by kind of name, found in one walk.

    Attributes:
        files: relative paths with forward slashes, in order.
        set_aside: files in archive and planning folders, when these are left out.
    """

    def __init__(self, root: Path, endings: tuple[str, ...], include_archive: bool, on_bad: OnBad) -> None:
        self.root, self.endings, self.include_archive, self.on_bad = root, endings, include_archive, on_bad
        self.files: list[str] = []
        self.set_aside: list[str] = []
        self._real = os.path.realpath(root)
        self._walk("", False)

    def _walk(self, folder: str, aside: bool) -> None:
        try:
            with os.scandir(self.root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self._bad(folder, f"folder cannot be read: {error.strerror}")
            return
        for entry in entries:
            where = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or entry.name in NO_SOURCE:
                continue
            if not _writable(entry.name):
                self._bad(os.fsencode(where).decode(errors="replace"), "name is no UTF-8: rename it")
            elif entry.is_symlink():
                self._link(where, entry)
            elif entry.is_dir():
                self._walk(where, aside or entry.name.lower() in SET_ASIDE)
            elif entry.name.lower().endswith(self.endings):
                if not entry.is_file():
                    self._bad(where, "no plain file (a pipe, socket or device)")
                elif aside and not self.include_archive:
                    self.set_aside.append(where)
                else:
                    self.files.append(where)

    def _link(self, where: str, entry: os.DirEntry[str]) -> None:
        target = os.path.realpath(entry.path)
        folder = os.path.isdir(target)
        if not folder and not entry.name.lower().endswith(self.endings):
            return
        if target != self._real and not target.startswith(self._real + os.sep):
            self._bad(where, f"link leads out of the code base, to {target}")
        elif not os.path.exists(target):
            self._bad(where, "link leads nowhere, or to itself")
        elif folder and (os.path.realpath(os.path.dirname(entry.path)) + os.sep).startswith(target + os.sep):
            self._bad(where, "link leads to a folder that it lies in: a circle")
        else:
            self._bad(where, f"link to {os.path.relpath(target, self._real)}, which is read where it lies")

    def _bad(self, where: str, reason: str) -> None:
        self.on_bad(BadRow(where or ".", 0, 0, 0, reason, b""))


def _writable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_source(root: Path, where: str, on_bad: OnBad) -> str | None:
    """The text of a file, LF line ends, without a byte-order mark; None when it is no text.

    Bytes that are no UTF-8 become U+FFFD and are reported once, with the line and byte of the first one.
    """
    try:
        with open(os.path.join(root, where), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE:
                on_bad(BadRow(where, 0, 0, size, f"file of {size} bytes, the limit is {MAX_FILE}", b""))
                return None
            data = file.read()
    except OSError as error:
        on_bad(BadRow(where, 0, 0, 0, f"cannot be read: {error.strerror}", b""))
        return None
    mark = len(UTF8_MARK) if data.startswith(UTF8_MARK) else 0
    data = data[mark:]
    if (nul := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, nul) + 1
        on_bad(BadRow(where, line, nul + mark, len(data), "NUL byte: binary data, not text", b""))
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        text = data.decode(errors="replace")
        start = data.rfind(b"\n", 0, error.start) + 1
        end = data.find(b"\n", error.start)
        row = data[start : end if end >= 0 else len(data)]
        lost = text.count(BROKEN)
        on_bad(BadRow(where, data.count(b"\n", 0, error.start) + 1, start + mark, len(row),
                      f"{lost} bytes are no UTF-8 (the first is 0x{data[error.start]:02x}): samples that would hold "
                      "one are left out; save the file as UTF-8", row))  # fmt: skip
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Parsed:
    """Parsed files by path; forgets the least used ones when their sources are over `KEPT` bytes together."""

    def __init__(self, root: Path, parse: Callable[[str, str], Any], on_bad: OnBad) -> None:
        self.root, self.parse, self.on_bad = root, parse, on_bad
        self.bytes = self._held = 0
        self._kept: OrderedDict[str, tuple[int, Any]] = OrderedDict()
        self._seen: set[str] = set()

    def get(self, where: str) -> Any:
        """What `parse(path, text)` made of the file; None when it is no text. Problems are reported once per file."""
        if where in self._kept:
            self._kept.move_to_end(where)
            return self._kept[where][1]
        text = read_source(self.root, where, self.on_bad if where not in self._seen else _ignore)
        size = len(text or "")
        made = None if text is None else self.parse(where, text)
        if where not in self._seen:
            self._seen.add(where)
            self.bytes += size
        self._kept[where] = (size, made)
        self._held += size
        while len(self._kept) > 1 and self._held > KEPT:
            self._held -= self._kept.popitem(last=False)[1][0]
        return made


def _ignore(_row: BadRow) -> None:
    """The file's problems have been reported."""
