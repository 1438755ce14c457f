"""The rehearsal buffer of file quests: rows that no skill can make again, kept so that a hero does not lose them
(contracts D10).

    catch_up(home, engine, campaign_id)                  # after each quest: keep what was finished since
    rows = recall(home, engine, campaign_id, 40, seed)   # rows for an idle quest, from every finished file

Each finished file quest that is no skill's becomes one *source*, `rehearsal/<campaign>/<content hash>.jsonl`: the best
of its rows where they carry a quality score, else a fair sample (`afs.training.RehearsalBuffer`), best first. A source
is written whole or not at all; the file itself says that it is there, so a kill at any instant is made good by the next
look, and the same content is kept once. Held-out rows never get in: those of the quest's own probe are not in its file,
and rows of any other probe of the campaign are left out here, both when a source is kept and when it is drawn from.

A buffer belongs to one campaign: what another hero was trained on is nothing this one can forget. It stays while the
campaign is archived, for it may be restored; `forget` removes it with the campaign. Rows are drawn only of quests that
are done: a file that was rolled back, held or withdrawn is not rehearsed.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from afs.generators.base import TrainingSample
from afs.jsonl import AtomicWriter, read_rows
from afs.step import MANIFEST
from afs.training.mixing import largest_remainder, water_fill
from realm import db
from realm.guild.campaigns import seed_of
from realm.guild.campaigns.line import trials_of
from realm.guild.curriculum import Memory
from realm.guild.skills.base import keyed_rng
from realm.quests import board
from realm.quests.origin import origin_of
from realm.settings import RealmHome

FOLDER = "rehearsal"
SHARE = 0.4  # of a quest's rows; the refinery's guide keeps 20-40 %
KEEP_AT_LEAST, PER_QUEST, PER_CAMPAIGN = 200, 2_000, 20_000  # rows
POOL = 2 * PER_QUEST  # rows held in memory while one is chosen from
ROW_BYTES = 32_768  # a longer row is not kept: it would crowd out many others
OLD_PROBES = 2  # probes of old files measured again after a quest
MEASURE_AFTER = 3  # quests between two measurements of the same probe
KEPT_WARM = 0.2  # weight of a file that nothing is missing of, beside its deficit

Allowed = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Source:
    """One finished file quest with rows in the buffer. `deficit` 0…1: share of what it had taught that is lost."""

    sha: str
    quest_id: str
    name: str
    deficit: float
    path: Path


def folder_of(home: RealmHome, campaign_id: str) -> Path:
    """Where a campaign's buffer lies."""
    return home.root / FOLDER / campaign_id


def forget(home: RealmHome, campaign_id: str) -> None:
    """Remove a campaign's buffer, with the campaign itself."""
    shutil.rmtree(folder_of(home, campaign_id), ignore_errors=True)


# --- what is kept -------------------------------------------------------------------------------------------------


def finished(connection: sa.Connection, campaign_id: str) -> list[dict[str, Any]]:
    """Done file quests of the campaign that are no skill's, oldest first."""
    table = db.quests
    query = sa.select(table).where(
        table.c.campaign_id == campaign_id, table.c.kind == "file", table.c.state == "done", table.c.skill.is_(None),
        table.c.content_sha256.is_not(None), table.c.school == "scribe")  # fmt: skip
    return [dict(row) for row in connection.execute(query.order_by(table.c.finished_at, table.c.id)).mappings()]


def catch_up(home: RealmHome, made: sa.Engine, campaign_id: str) -> list[str]:
    """Keep rows of every finished file that has none yet; returns what could not be kept, in words."""
    with db.read(made) as connection:
        quests = finished(connection, campaign_id)
    folder, troubles = folder_of(home, campaign_id), []
    probes = _probes(home, quests)
    for quest in quests:
        target = folder / f"{_sha(quest)}.jsonl"
        path = None if target.exists() else board.locate(home, quest)
        if path is None:
            continue
        try:
            keep(path, target, quest, probes)
        except (OSError, ValueError) as error:
            troubles.append(f"the rows of {quest['name']} are not kept for rehearsal: {error}")
    thin(folder)  # also when nothing came: the last look may have been killed in it
    return troubles


def _sha(quest: Mapping[str, Any]) -> str:
    return quest["content_sha256"][:16]


def keep(path: Path, target: Path, quest: Mapping[str, Any], probes: frozenset[bytes] = frozenset()) -> int:
    """Choose rows of a quest's file and write them as a source, best first; returns how many.

    A file of which no row may be kept becomes an empty source, so that it is not looked at again.
    """
    from afs.training.rehearsal import RehearsalBuffer, RehearsalBufferConfig  # 0.2 s; most loops never keep a file

    seed = seed_of("rehearsal", quest["content_sha256"])
    pool, scored, total = _pool(path, probes, seed)
    if not pool:
        with AtomicWriter(target):
            return 0
    config = RehearsalBufferConfig(quality_threshold=0.0, policy="top-quality" if scored else "random-stratified")
    buffer = RehearsalBuffer([_sample(row, quest) for row in pool], config)
    wanted = min(PER_QUEST, max(KEEP_AT_LEAST, math.ceil(SHARE * total)), len(pool))
    if wanted < len(pool):
        buffer.select_top_samples(wanted / len(pool), seed=seed % (1 << 32))
    return buffer.save(target)


def _pool(path: Path, probes: frozenset[bytes], seed: int) -> tuple[list[dict[str, Any]], bool, int]:
    """(at most POOL rows: the best scored, ties by hash, so that each row has the same chance; whether any has a score;
    rows that may be kept). One pass, and only the pool is held."""
    heap: list[tuple[float, int, int, bytes]] = []
    scored, total = False, 0
    for row in read_rows(path, lambda _bad: None):
        messages = row.value.get("messages")
        if not isinstance(messages, list) or len(row.raw) > ROW_BYTES or _is_probe(messages, probes):
            continue
        quality = _quality(row.value)
        scored, total = scored or quality > 0, total + 1
        digest = hashlib.blake2b(row.raw, digest_size=8, key=str(seed).encode()[:64]).digest()
        item = (quality, int.from_bytes(digest, "big"), -row.line, row.raw)
        if len(heap) < POOL:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)
    return [orjson.loads(item[3]) for item in sorted(heap, reverse=True)], scored, total


def _quality(row: Mapping[str, Any]) -> float:
    found = row.get("quality_score")
    if found is None and isinstance(row.get("_metadata"), dict):
        found = row["_metadata"].get("quality_score")
    good = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if good else 0.0


def _sample(row: Mapping[str, Any], quest: Mapping[str, Any]) -> TrainingSample:
    """The row as the refinery's buffer holds it; the conversation itself travels along and is what is drawn."""
    messages = row["messages"]
    made = TrainingSample(
        instruction=next((m["content"] for m in messages if m["role"] == "user"), ""), output=messages[-1]["content"],
        domain=row["domain"] if isinstance(row.get("domain"), str) and row["domain"] else "general",
        source=row["source"] if isinstance(row.get("source"), str) else "", quality_score=_quality(row),
        _metadata={"rehearsal_version": _sha(quest)})  # fmt: skip
    made.unknown = {"messages": messages, "origin": origin_of(row), "quest": quest["name"]}
    return made


def thin(folder: Path) -> None:
    """Bring the buffer back to its size: the same quota for every source, small ones whole; the best rows stay."""
    sizes = {path.name: _rows(path) for path in folder.glob("*.jsonl")}
    quota = water_fill(sizes, PER_CAMPAIGN)
    for name, size in sizes.items():
        if quota[name] < size:
            path = folder / name
            path.with_name(name + MANIFEST).unlink(missing_ok=True)  # it tells of the larger file
            with AtomicWriter(path) as out, open(path, "rb") as rows:
                for line, _ in zip(rows, range(quota[name]), strict=False):
                    out.write_raw(line.rstrip(b"\n"))


def _rows(path: Path) -> int:
    state = path.stat()
    return _count(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _count(path: Path, _changed: int, _size: int) -> int:
    with open(path, "rb") as rows:
        return sum(1 for _ in rows)


# --- held-out rows ------------------------------------------------------------------------------------------------


def _key(messages: Sequence[Mapping[str, Any]]) -> bytes:
    text = "\x1f".join(" ".join(str(m.get("content", "")).casefold().split()) for m in messages)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _question(messages: Sequence[Mapping[str, Any]]) -> bytes | None:
    """A key of the first question, or None where it says too little to tell rows apart (a common instruction)."""
    found = next((m for m in messages if m.get("role") == "user"), None)
    return b"?" + _key([found]) if found and str(found.get("content", "")).strip() else None


def _is_probe(messages: Sequence[Mapping[str, Any]], probes: frozenset[bytes]) -> bool:
    return bool(probes) and (_key(messages) in probes or _question(messages) in probes)


def _probes(home: RealmHome, quests: Sequence[Mapping[str, Any]]) -> frozenset[bytes]:
    """Keys of every held-out row of these quests; a file that is gone or cannot be read holds nothing out any more."""
    found: set[bytes] = set()
    for quest in quests:
        path = probe_path(home, quest)
        if path is not None:
            state = path.stat()
            found |= _probe_keys(path, state.st_mtime_ns, state.st_size)
    return frozenset(found)


def probe_path(home: RealmHome, quest: Mapping[str, Any]) -> Path | None:
    """The file of a quest's held-out rows, if it has one that is there."""
    probe = (quest["report"] or {}).get("probe")
    path = home.root / probe["path"] if probe and probe.get("path") else None
    return path if path is not None and path.is_file() else None


@lru_cache(maxsize=1024)
def _probe_keys(path: Path, _changed: int, _size: int) -> frozenset[bytes]:
    whole, questions, rows = set(), [], 0
    for row in read_rows(path, lambda _bad: None):
        messages = row.value.get("messages")
        if isinstance(messages, list):
            rows += 1
            whole.add(_key(messages))
            questions.append(_question(messages))
    # Where all rows ask the same, the question holds nothing out; the Cleric then grouped by the whole row as well.
    distinct = set(questions) - {None}
    return frozenset(whole | (distinct if len(distinct) * 2 > rows else set()))


# --- what is drawn ------------------------------------------------------------------------------------------------


def sources(connection: sa.Connection, home: RealmHome, campaign_id: str) -> list[Source]:
    """The files that rows can be drawn of, oldest first, with their deficits."""
    found, seen = [], set()
    lost = deficits(connection, campaign_id)
    for quest in finished(connection, campaign_id):
        path = folder_of(home, campaign_id) / f"{_sha(quest)}.jsonl"
        if path.is_file() and path.stat().st_size and _sha(quest) not in seen:
            seen.add(_sha(quest))
            found.append(Source(_sha(quest), quest["id"], quest["name"], lost.get(quest["id"], 0.0), path))
    return found


def facts(connection: sa.Connection, home: RealmHome, campaign_id: str) -> Memory:
    """What the curriculum decides by: how many files there are to rehearse, and the worst deficit of one."""
    found = sources(connection, home, campaign_id)
    return Memory(len(found), max((s.deficit for s in found), default=0.0))


def size(home: RealmHome, campaign_id: str) -> int:
    """Rows in a campaign's buffer."""
    return sum(_rows(path) for path in folder_of(home, campaign_id).glob("*.jsonl"))


def recall(
    home: RealmHome, made: sa.Engine, campaign_id: str, count: int, seed: int, allowed: Allowed | None = None
) -> list[dict[str, Any]]:
    """`draw` with the sources that the tables name now."""
    if count <= 0:
        return []
    with db.read(made) as connection:
        probes = _probes(home, finished(connection, campaign_id))
        return draw(sources(connection, home, campaign_id), count, seed, allowed, probes)


def draw(
    found: Sequence[Source], count: int, seed: int, allowed: Allowed | None = None,
    probes: frozenset[bytes] = frozenset(),
) -> list[dict[str, Any]]:  # fmt: skip
    """At most `count` rows for a rehearsal share, none twice: stratified over the files, more of those that fade.

    The same sources and seed give the same rows; another seed gives others, so a file is gone through over time. Too
    few rows are given as they are; nothing is repeated to fill up.

    Args:
        allowed: a last word on each row (a skill that was installed later may examine what an old file holds).
    """
    sizes = {source.sha: _rows(source.path) for source in found}
    quota = _quotas({s.sha: KEPT_WARM + s.deficit for s in found}, sizes, count)
    rows = []
    for source in found:
        rng = keyed_rng("recall", seed, source.sha)
        order = list(range(sizes[source.sha]))
        rng.shuffle(order)
        for place, row in _rows_at(source.path, order, quota[source.sha], allowed, probes):
            rows.append({"messages": row["messages"], "origin": row.get("origin", "human"), "rehearsal": source.sha,
                         "quest": source.name, "row": place})  # fmt: skip
    keyed_rng("recall order", seed).shuffle(rows)
    return rows


def _quotas(weights: Mapping[str, float], sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Rows per source by weight; what small ones cannot give goes to the others, again by weight."""
    quota = dict.fromkeys(sizes, 0)
    left = min(count, sum(sizes.values()))
    while left:
        room = {name: weights[name] for name in sizes if quota[name] < sizes[name]}
        for name, more in largest_remainder(room, left).items():
            taken = min(more, sizes[name] - quota[name])
            quota[name] += taken
            left -= taken
    return quota


def _rows_at(
    path: Path, order: Sequence[int], wanted: int, allowed: Allowed | None, probes: frozenset[bytes]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place, row) of the first `wanted` places of the order whose row may be drawn."""
    if not wanted:
        return
    lines = path.read_bytes().splitlines()
    for place in order:
        row = orjson.loads(lines[place]) if place < len(lines) else {}
        messages = row.get("messages")
        if messages and not _is_probe(messages, probes) and (allowed is None or allowed(row)):
            yield place, row
            wanted -= 1
            if not wanted:
                return


# --- what has faded -----------------------------------------------------------------------------------------------


def deficits(connection: sa.Connection, campaign_id: str) -> dict[str, float]:
    """{quest: share of what it had taught that is lost now}, from the losses of its held-out rows (contracts B7).

    0 right after the quest and where it was never measured again, 1 when the loss is back where it was before. What
    was measured on weights that a rollback gave up does not count.
    """
    table, battles = db.trials, db.battles
    losses: dict[str, list[float]] = {}
    held = trials_of(connection, campaign_id, ("quest_id", "loss"), table.c.kind == "file", table.c.loss.is_not(None))
    for row in reversed(list(held)):
        losses.setdefault(row["quest_id"], []).append(row["loss"])
    query = sa.select(battles.c.quest_id, battles.c.loss_before).where(
        battles.c.campaign_id == campaign_id, battles.c.loss_before.is_not(None))  # fmt: skip
    before: dict[str, float] = {}
    for quest_id, loss in connection.execute(query.order_by(battles.c.started_at, battles.c.id)):
        before.setdefault(quest_id, loss)
    found = {}
    for quest_id, seen in losses.items():
        gained = before.get(quest_id, seen[0]) - min(seen)
        lost = seen[-1] - min(seen)
        found[quest_id] = min(1.0, max(0.0, lost / gained)) if gained > 0 and math.isfinite(lost) else 0.0
    return found


def due_probes(
    connection: sa.Connection, home: RealmHome, campaign_id: str, without: str | None = None
) -> list[dict[str, Any]]:
    """At most 2 old probes to measure after the next quest, the longest unmeasured first: [{quest_id, path, rows}].

    A probe waits 3 quests after its last measurement: 200 rows cost a forward pass each.
    """
    table, trials = db.quests, db.trials
    query = sa.select(trials.c.quest_id, sa.func.max(trials.c.started_at)).where(
        trials.c.campaign_id == campaign_id, trials.c.kind == "file").group_by(trials.c.quest_id)  # fmt: skip
    last = {quest_id: t for quest_id, t in connection.execute(query)}
    query = sa.select(table.c.finished_at).where(table.c.campaign_id == campaign_id, table.c.state == "done")
    ends = connection.execute(query).scalars().all()
    found = []
    for quest in finished(connection, campaign_id):
        path, t = probe_path(home, quest), last.get(quest["id"])
        if path is None or t is None or quest["id"] == without:
            continue
        if sum(end is not None and end > t for end in ends) >= MEASURE_AFTER:
            relative = os.path.relpath(path, home.root)
            found.append((t, {"quest_id": quest["id"], "path": relative, "rows": quest["report"]["probe"]["rows"]}))
    return [probe for _, probe in sorted(found, key=lambda item: item[0])[:OLD_PROBES]]
