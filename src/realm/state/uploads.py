"""Uploads go straight into the inbox, chunk by chunk, under a dot name, and are renamed when whole.

The Cleric sees a file only after the rename, and judges it; nothing is parsed here. Memory stays flat: one network
chunk at a time, whatever the file's size.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.multipart import MultipartParser, parse_options_header

from realm import db
from realm.quests import board
from realm.settings import LANES, RealmHome

MAX_FIELD = 1000  # bytes of a plain form field


class UploadError(ValueError):
    """An upload that is refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Received:
    """One file that now lies in the inbox; `path` is absolute."""

    name: str
    lane: str
    bytes: int
    path: str


def limits(home: RealmHome) -> dict[str, int]:
    """Bytes: `max` of one file, `free` on the disk, `keep_free` that must stay."""
    settings = home.settings
    return {"max": settings.max_inbox_bytes, "free": shutil.disk_usage(home.root).free,
            "keep_free": settings.min_free_disk}  # fmt: skip


def safe_name(name: str) -> str:
    """The last part of a client's file name without control characters, leading dots or anything a path could use.

    Raises:
        UploadError: nothing usable is left.
    """
    last = re.split(r"[\\/]", unicodedata.normalize("NFC", name))[-1]
    kept = "".join(c for c in last if c.isprintable() and c not in '<>:"|?*').strip(" .~")
    stem, dot, suffix = kept.rpartition(".")
    kept = f"{(stem if dot else kept)[:100]}{dot}{suffix[:20]}" if dot else kept[:100]
    if not kept:
        raise UploadError(422, f"file name {name[:80]!r} has no usable character; give the file a plain name")
    return kept


def check_room(home: RealmHome, size: int) -> None:
    """Refuse `size` bytes that are over the limit or would fill the disk."""
    known = limits(home)
    if size > known["max"]:
        raise UploadError(413, f"{size:,} bytes are over the limit of {known['max']:,} bytes for one inbox file "
                               "(max_inbox_bytes in settings.yaml); split the file")  # fmt: skip
    if known["free"] - size < known["keep_free"]:
        raise UploadError(507, f"{size:,} bytes do not fit: {known['free']:,} bytes are free and "
                               f"{known['keep_free']:,} must stay free; make room on {home.root}")  # fmt: skip


def check_lane(lane: str) -> str:
    if lane not in LANES:
        raise UploadError(422, f"lane {lane!r} is none of {', '.join(LANES)}; choose one of these")
    return lane


class _Form:
    """Push parser of one multipart body: files go to disk, small fields into `fields`."""

    def __init__(self, home: RealmHome, boundary: bytes, lane: str) -> None:
        self.home, self.lane = home, lane
        self.received: list[Received] = []
        self._header, self._value, self._headers = b"", b"", {}
        self._file: BinaryIO | None = None
        self._hidden: Path | None = None
        self._name, self._field, self._text, self._size = "", "", b"", 0
        self._room = 0
        self.parser = MultipartParser(boundary, {
            "on_part_begin": self._part, "on_header_field": self._header_name, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._begin, "on_part_data": self._data,
            "on_part_end": self._end,
        })  # fmt: skip

    def _part(self) -> None:
        self._headers, self._header, self._value = {}, b"", b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _begin(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._text, self._size = b"", 0
        if b"filename" not in options:
            return
        raw = options[b"filename"]
        if not raw:
            return  # an empty file chooser of a plain form
        self._name = safe_name(raw.decode("utf-8", "replace"))
        if not board.is_quest_file(self._name):
            raise UploadError(422, board.not_a_quest(self._name))
        folder = self.home.inbox / self.lane
        folder.mkdir(parents=True, exist_ok=True)
        known = limits(self.home)
        self._room = min(known["max"], known["free"] - known["keep_free"])
        self._hidden = folder / f".{db.new_id()}.part"
        self._file = self._hidden.open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._text += data[start:end]
            if len(self._text) > MAX_FIELD:
                raise UploadError(422, f"form field {self._field!r} is over {MAX_FIELD} bytes; send files as files")
            return
        self._size += end - start
        if self._size > self._room:
            check_room(self.home, self._size)
        self._file.write(data[start:end])

    def _end(self) -> None:
        if self._file is None:
            if self._field == "lane":
                self.lane = check_lane(self._text.decode("utf-8", "replace").strip())
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        target = self._publish()
        self.received.append(Received(target.name, self.lane, self._size, str(target)))

    def _publish(self) -> Path:
        """Rename the hidden file to its own name, or name-2, name-3… when that is taken."""
        stem, suffix = os.path.splitext(self._name)
        number = 1
        while True:
            name = self._name if number == 1 else f"{stem}-{number}{suffix}"
            target = self._hidden.with_name(name)
            try:
                os.link(self._hidden, target)  # fails when the name is taken, unlike rename
            except FileExistsError:
                number += 1
                continue
            except OSError:
                # A file system without hard links: the check and the rename are not one step there.
                if target.exists():
                    number += 1
                    continue
                os.rename(self._hidden, target)
                return target
            self._hidden.unlink()
            return target

    def abandon(self) -> None:
        """Close and delete what is not whole."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._hidden is not None:
            self._hidden.unlink(missing_ok=True)


async def receive(home: RealmHome, headers: Any, chunks: AsyncIterator[bytes], lane: str) -> list[Received]:
    """Stream one multipart body into the inbox.

    Args:
        headers: the request's; `content-type` names the boundary.
        lane: where files go unless a form field `lane` comes before them.

    Raises:
        UploadError: not multipart, no file, over a limit, cut off.
    """
    kind, options = parse_options_header(headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UploadError(415, "send the file as multipart/form-data, for example: curl -F file=@quest.jsonl URL")
    length = headers.get("content-length", "")
    if length.isdigit():
        check_room(home, int(length))
    form = _Form(home, boundary, check_lane(lane))
    try:
        async for chunk in chunks:
            if chunk:
                await asyncio.to_thread(form.parser.write, chunk)
        form.parser.finalize()
    except ValueError as error:
        if isinstance(error, UploadError):
            raise
        raise UploadError(400, f"the upload is no valid multipart body ({error}); send it again") from error
    finally:
        form.abandon()
    if not form.received:
        raise UploadError(422, "no file was sent; choose a .jsonl file")
    return form.received
