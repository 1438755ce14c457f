"""The inbox: a `.jsonl` file dropped into `inbox/` or `inbox/{high,normal,low}/` becomes a quest (realm-rules §9).

A file is taken when its size and time have stood still for half a second (five, while its last line is not ended).
Then, in this order: the gate writes the checked rows to `queue/`, one transaction makes the quest and its events, and
the original goes to `completed/originals/` or, refused, to `failed/` with the report beside it. A kill between any two
steps is repaired by the next look: the quest's id is made from the file itself, and the file is recognised.

Nothing is deleted: a row that is not trained on is in `quarantine/` with file, line, byte offset, reason and its bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from ulid import ULID

from afs.jsonl import file_sha256
from realm import db, events, schools
from realm.quests import board
from realm.quests.board import BoardError, NewQuest
from realm.settings import LANES, RealmHome

STABLE_S = 0.5
UNFINISHED_S = 5.0  # for a file that does not end with a line end, or is empty: an upload that stalls
SUFFIX = board.QUEST_SUFFIX

# (source, target, quarantine, probe, name, seed) -> report; the Temple's gate, handed in by the arena.
Gate = Callable[[Path, Path, Path, Path, str, int], dict[str, Any]]


@dataclass(frozen=True)
class Taken:
    """What became of one file. `state`: queued | hold | refused | duplicate | waiting."""

    file: str
    state: str
    quest_id: str | None = None


def drop(
    home: RealmHome, file: Path, lane: str = "normal", school: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Copy a file into the inbox so that it appears whole; a name that is taken gets a number. Returns its path.

    Args:
        school: that the quest goes to, with its options; None: by the format of the rows.

    Raises:
        BoardError: no such lane, or a file that the inbox would not take.
        schools.SchoolError: no such school.
    """
    if school is not None:
        schools.entry(school)
    if lane not in LANES:
        raise BoardError(f"lane {lane!r} does not exist; use one of {', '.join(LANES)}")
    if not board.is_quest_file(file.name):
        raise BoardError(board.not_a_quest(file.name))
    folder = home.inbox / lane
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{file.name}.{os.getpid()}.part"
    shutil.copyfile(file, temporary)
    number, target = 1, folder / file.name
    while True:
        try:
            if not target.exists():
                _wish_path(target).unlink(missing_ok=True)
                if school is not None:
                    _write_whole(_wish_path(target), json.dumps({"school": school, "options": dict(options or {})}))
            os.link(temporary, target)  # fails when the name is taken, so nothing is ever overwritten
            break
        except FileExistsError:
            number += 1
            target = folder / f"{file.stem}-{number}{file.suffix}"
    temporary.unlink()
    return target


class Inbox:
    """Looks into the inbox folders; one instance, one thread. `gate` decides about rows, the inbox about files."""

    def __init__(
        self, home: RealmHome, made: sa.Engine, gate: Gate, stable_s: float = STABLE_S,
        unfinished_s: float = UNFINISHED_S,
    ) -> None:  # fmt: skip
        self.home, self.engine, self.gate = home, made, gate
        self.stable_s, self.unfinished_s = stable_s, unfinished_s
        self._since: dict[Path, tuple[tuple[int, int], float]] = {}
        self._left: dict[Path, tuple[int, int]] = {}

    def poll(self) -> list[Taken]:
        """Take every file that is ready, lane by lane; one bad file never keeps the others waiting."""
        taken = []
        present = list(board.inbox_files(self.home))
        self._since = {p: s for p, s in self._since.items() if any(p == path for _, path in present)}
        for lane, path in sorted(present, key=lambda item: (LANES.index(item[0]), item[1].name)):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            mark = (state.st_size, state.st_mtime_ns)
            if self._left.get(path) == mark or not self._stable(path, mark):
                continue
            taken.append(self._take_safely(lane, path, mark))
        return taken

    def _stable(self, path: Path, mark: tuple[int, int]) -> bool:
        now = time.monotonic()
        before, since = self._since.get(path, (None, now))
        if before != mark:
            self._since[path] = (mark, now)
            return self.stable_s <= 0
        wait = self.stable_s if _ends_with_line(path) else max(self.stable_s, self.unfinished_s)
        return now - since >= wait

    def _take_safely(self, lane: str, path: Path, mark: tuple[int, int]) -> Taken:
        name = path.relative_to(self.home.root).as_posix()
        if path.suffix.lower() != SUFFIX:
            fix = f"Only {SUFFIX} files are quests. Convert it (one JSON object per line) or take it out of the inbox."
            self._leave(path, mark, "inbox_not_jsonl", f"{name} is not a {SUFFIX} file and was left alone", fix)
            return Taken(name, "waiting")
        try:
            return self.take(lane, path)
        except OSError as error:
            fix = "Give the realm leave to read and move it, or free space on the disk, then touch the file."
            self._leave(path, mark, "inbox_unreadable", f"{name} could not be taken: {error.strerror or error}", fix)
        except Exception as error:
            # The thread must live: one file that trips a bug stays where it is, told with the error, others go on.
            fix = "Take the file out of the inbox and report the error with logs/arena.log."
            self._leave(path, mark, "inbox_error", f"{name} could not be examined: {error!r}", fix)
        return Taken(name, "waiting")

    def _leave(self, path: Path, mark: tuple[int, int], code: str, what: str, fix: str) -> None:
        """Leave a file where it is and say so once, also across restarts."""
        self._left[path] = mark
        alert_id = f"{code}:{path.name}:{mark[1]}"
        told = sa.select(db.events.c.id).where(
            db.events.c.kind == "alert", sa.func.json_extract(db.events.c.payload, "$.alert_id") == alert_id)
        with db.write(self.engine) as connection:
            if connection.execute(told).first() is None:
                events.emit(connection, "alert", what, "trouble", alert_id=alert_id, code=code,
                            what="taking a file from the inbox", why=what, fix=fix)  # fmt: skip

    def take(self, lane: str, path: Path) -> Taken:
        """Send one file through the gate and onto the board; safe to repeat after a kill at any point."""
        name = path.relative_to(self.home.root).as_posix()
        origin = _identity(path, name)
        sha256 = file_sha256(path)
        with db.read(self.engine) as connection:
            known = board.by_content(connection, sha256)
        for quest in known:
            if _same_file(quest["origin"], origin):
                self._put_away(path, quest["id"])  # killed between the transaction and the last move
                return Taken(name, quest["state"], quest["id"])
        alive = next((q for q in known if q["state"] not in ("refused", "failed", "skipped")), None)
        if alive is not None:
            return self._duplicate(path, name, alive)
        quest_id = self._quest_id(sha256, path)
        report, target = self._examine(lane, path, quest_id)
        if report.get("options"):
            origin |= {"options": report["options"]}
        if wish := _wish(path):
            # Pairs and plain rows have not the same shape: a school that cannot read the file says so in its battle.
            report |= {"school": wish["school"]}
            origin |= {"options": wish["options"]}
        if not _same_file(origin, _identity(path, name)):
            target.unlink(missing_ok=True)
            return Taken(name, "waiting")  # it was still being written; the next look takes it again
        state = _state_for(report)
        self._record(lane, path, quest_id, state, report, target, origin, sha256)
        self._put_away(path, quest_id)
        return Taken(name, state, quest_id)

    def _quest_id(self, sha256: str, path: Path) -> str:
        """An id that the same file gets again after a kill, so that no half-made copy is orphaned."""
        keyed = hashlib.sha256(f"{sha256}\x1f{path.name}".encode()).digest()[:10]
        milliseconds = min(int(path.stat().st_mtime * 1000), int(time.time() * 1000)) & ((1 << 48) - 1)
        quest_id = str(ULID(milliseconds.to_bytes(6, "big") + keyed))
        with db.read(self.engine) as connection:
            taken = connection.execute(sa.select(db.quests.c.id).where(db.quests.c.id == quest_id)).first()
        return db.new_id() if taken else quest_id

    def _examine(self, lane: str, path: Path, quest_id: str) -> tuple[dict[str, Any], Path]:
        file = board.file_name(quest_id, path.name)
        target = self.home.queue / lane / file
        quarantine = self.home.quarantine / file
        probe = self.home.queue / "probes" / file
        limit = self.home.settings.max_inbox_bytes
        size = path.stat().st_size
        if size > limit:
            why = f"{size:,} bytes, the limit is {limit:,} (max_inbox_bytes in settings.yaml)"
            report: dict[str, Any] = {"verdict": "refused", "rows": {}, "reasons": [], "warnings": [], "format": None,
                                      "next_action": f"The file is too large: {why}. Split it or raise the limit."}
        else:
            seed = int.from_bytes(hashlib.sha256(quest_id.encode()).digest()[:8], "big") >> 1
            report = self.gate(path, target, quarantine, probe, path.name, seed)
        report["quarantine"] = self._relative(quarantine)
        if report.get("probe"):
            report["probe"] = {**report["probe"], "path": self._relative(probe)}
        return report, target

    def _relative(self, path: Path) -> str | None:
        return path.relative_to(self.home.root).as_posix() if path.exists() else None

    def _record(
        self, lane: str, path: Path, quest_id: str, state: str, report: dict[str, Any], target: Path,
        origin: dict[str, Any], sha256: str,
    ) -> None:  # fmt: skip
        rows = report.get("rows") or {}
        refused = state == "refused"
        where = Path("failed") / board.file_name(quest_id, path.name)
        reason = report["next_action"] if state != "queued" else None
        with db.write(self.engine) as connection:
            board.enqueue(connection, NewQuest(
                id=quest_id, name=path.name.removesuffix(SUFFIX), kind="file", lane=lane, state=state,
                school=report.get("school") or "scribe", error=reason,
                path=where.as_posix() if refused else target.relative_to(self.home.root).as_posix(),
                rows=0 if refused else rows.get("train", rows.get("out", 0)),
                tokens=(report.get("tokens") or {}).get("total"), skill=report.get("skill"), mix=report.get("mix"),
                content_sha256=sha256, format=report.get("format"), report=report, origin=origin))  # fmt: skip
            text = (f"Cleric: {path.name} {report['verdict']}, {rows.get('out', 0)} of {rows.get('in', 0)} rows"
                    f" ({report.get('format') or 'no known format'})")  # fmt: skip
            events.emit(connection, "cleric", text, "trouble" if refused else "info", quest_id=quest_id,
                        file=path.name, verdict=report["verdict"], rows_in=rows.get("in", 0),
                        rows_out=rows.get("out", 0), quarantined=rows.get("quarantined", 0))  # fmt: skip

    def _put_away(self, path: Path, quest_id: str) -> None:
        """Move the original out of the inbox; its bytes stay on disk, as the quest's file or as an original."""
        _wish_path(path).unlink(missing_ok=True)
        with db.read(self.engine) as connection:
            quest = board.get(connection, quest_id)
        file = board.file_name(quest_id, path.name)
        if quest["state"] == "refused":
            report = self.home.root / "failed" / f"{file}.report.json"
            _write_whole(report, json.dumps(quest["report"], indent=2, ensure_ascii=False))
            os.replace(path, self.home.root / "failed" / file)
        elif (quest["report"] or {}).get("sha256") == quest["content_sha256"]:
            path.unlink()  # the quest's own file holds the very same bytes
        else:
            originals = self.home.root / "completed" / "originals"
            originals.mkdir(parents=True, exist_ok=True)
            os.replace(path, originals / file)

    def _duplicate(self, path: Path, name: str, known: dict[str, Any]) -> Taken:
        text = f"{path.name} holds the same bytes as quest {known['name']} ({known['state']}); it was not queued again"
        target = self.home.root / "failed" / f"{time.strftime('%Y%m%d-%H%M%S')}-duplicate-{path.name}"
        report = {"verdict": "refused", "duplicate_of": known["id"], "next_action":
                  f"Nothing to do. To train it once more, change the file or retry quest {known['id']}."}  # fmt: skip
        with db.write(self.engine) as connection:
            events.emit(connection, "cleric", text, "info", quest_id=known["id"], file=path.name,
                        verdict="duplicate", rows_in=0, rows_out=0, quarantined=0)  # fmt: skip
        _write_whole(target.with_name(target.name + ".report.json"), json.dumps(report, indent=2))
        _wish_path(path).unlink(missing_ok=True)
        os.replace(path, target)
        return Taken(name, "duplicate", known["id"])


def _ends_with_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _identity(path: Path, name: str) -> dict[str, Any]:
    """What tells this very file from a later one with the same bytes."""
    state = path.stat()
    return {"kind": "human", "file": name, "size": state.st_size, "mtime_ns": state.st_mtime_ns, "inode": state.st_ino}


def _same_file(known: dict[str, Any] | None, origin: dict[str, Any]) -> bool:
    return known is not None and all(known.get(key) == value for key, value in origin.items())


def _state_for(report: dict[str, Any]) -> str:
    if report["verdict"] == "refused":
        return "refused"
    return "queued" if schools.open_to(report.get("school")) else "hold"


def _wish_path(path: Path) -> Path:
    """Where it lies beside an inbox file which school it is for; the inbox passes over names with a dot."""
    return path.with_name(f".{path.name}.school")


def _wish(path: Path) -> dict[str, Any]:
    """{school, options} that a person asked for with a file; nothing where nobody did."""
    try:
        wish = json.loads(_wish_path(path).read_bytes())
        return {"school": schools.entry(wish["school"]).id, "options": dict(wish["options"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
