"""The battle log: every event as one line, told twice: as the game tells it and in plain terms (mortal view)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.state import queries
from realm.tavern.views import words

SHOWS = {"deeds": ("deed", "trouble"), "all": (), "trouble": ("trouble",)}
# Told in numbers elsewhere on the page, or once per step: not worth a line.
UNTOLD = ("queue",)
ROWS = 60


@dataclass(frozen=True)
class Line:
    """One line: an icon with a tone (good, warn, bad, lore), a strong beginning and the rest; `plain` for mortals."""

    id: int
    t: float
    level: str
    kind: str
    icon: str
    tone: str
    strong: str
    rest: str
    plain: str


Told = tuple[str, str, str, str]  # icon, tone, strong, rest


def lines(
    connection: sa.Connection, show: str = "deeds", limit: int = ROWS, before: int | None = None,
    hero: str = "The hero", battle_id: str | None = None,
) -> list[Line]:  # fmt: skip
    """Newest first; `show` is a key of SHOWS."""
    kinds = [kind for kind in events.KINDS if kind not in UNTOLD]
    found = queries.log(connection, before=before, levels=SHOWS[show], limit=limit, kinds=kinds, battle_id=battle_id)
    return tell_all(connection, found, hero)


def tell_all(connection: sa.Connection, found: Sequence[events.Event], hero: str) -> list[Line]:
    """Lines for these events; the names of their quests are looked up at once."""
    wanted = {event.payload.get("quest_id") for event in found} - {None}
    table = db.quests
    query = sa.select(table.c.id, table.c.name, table.c.skill, table.c.level).where(table.c.id.in_(wanted))
    quests = {row.id: row for row in connection.execute(query)}
    return [tell(event, quests.get(event.payload.get("quest_id")), hero) for event in found]


def tell(event: events.Event, quest: Any, hero: str) -> Line:
    """One event; `quest` is its row (name, skill, level) or None."""
    told = _TELL.get(event.kind, _plain)(event, quest, hero)
    icon, tone, strong, rest = told
    return Line(event.id, event.t, event.level, event.kind, icon, tone, strong, rest, event.text)


def _foe(quest: Any) -> str:
    return words.foe(quest.skill, quest.level, quest.name) if quest is not None else "a trial"


def _plain(event: events.Event, quest: Any, hero: str) -> Told:
    tone = {"trouble": "bad", "deed": "good"}.get(event.level, "")
    return ("warn" if event.level == "trouble" else "book"), tone, "", event.text


def _battle(event: events.Event, quest: Any, hero: str) -> Told:
    p, foe = event.payload, _foe(quest)
    state, outcome = p.get("state"), p.get("outcome")
    if state == "failed":
        return "warn", "bad", f"{hero} falls.", p.get("reason") or "The battle failed"
    if state == "done":
        return {
            "trained": ("crown", "good", foe, "is fought to the end"),
            "stopped": ("stop", "warn", foe, "waits at the head of the board"),
            "skipped": ("x", "warn", foe, "is left behind"),
        }.get(outcome, ("check", "", foe, "is over"))
    return {
        "arming": ("helm", "", f"{hero} girds", f"for {foe}"),
        "training": ("swords", "bad", foe, f"is engaged by {hero}"),
        "pausing": ("pause", "", "A horn sounds.", "The step is finished first"),
        "paused": ("pause", "lore", f"{hero} holds", f"before {foe}"),
        "stopping": ("stop", "warn", f"{hero} withdraws", f"from {foe}"),
        "trial": ("target", "lore", f"{hero} stands trial", "on problems never seen"),
    }.get(state, ("swords", "", event.text, ""))


def _quest(event: events.Event, quest: Any, hero: str) -> Told:
    p = event.payload
    name, state, why = p.get("name", "A quest"), p.get("state"), p.get("reason")
    return {
        "queued": ("scroll", "", name, "is pinned to the board" if not why else why),
        "training": ("scroll", "", name, "is taken from the board"),
        "done": ("check", "good", name, "is done"),
        "failed": ("warn", "bad", name, f"failed: {why}" if why else "failed"),
        "skipped": ("x", "warn", name, why or "was skipped"),
        "refused": ("warn", "bad", "The Cleric turns it away:", f"{name}. {why or ''}".strip()),
        "hold": ("pause", "", name, "is held"),
    }.get(state, ("scroll", "", name, str(state)))


def _trial(event: events.Event, quest: Any, hero: str) -> Told:
    p = event.payload
    n, correct = p.get("n") or 0, p.get("correct") or 0
    where = words.skill_level(p.get("skill"), p.get("level"))
    if not where or not n:
        return "target", "", "", event.text
    share = f"{words.percent(correct / n)} of {n:,}"
    if p.get("kind") == "retention":
        kept = p.get("verdict") == "held"
        return "shieldcheck" if kept else "warn", "good" if kept else "bad", where, f"kept at {share}"
    if p.get("verdict") == "pass":
        return "target", "good", f"{where} passed:", share
    need = f", needs {p['needed']:,}" if p.get("needed") else ""
    return "target", "warn", f"{where}, not yet:", share + need


def _level(event: events.Event, quest: Any, hero: str) -> Told:
    p = event.payload
    if p.get("kind") == "skill":
        closed = " (closed: a table known by heart)" if p.get("closed") else ""
        return "star", "good", f"{words.skill_level(p.get('skill'), None)} {p.get('to')} is mastered.", closed.strip()
    return "up", "lore", f"Level {p.get('to')}.", f"{(p.get('to') or 0) * 1000:,} steps walked"


def _blessing(event: events.Event, quest: Any, hero: str) -> Told:
    p = event.payload
    verdict, quality = p.get("verdict"), p.get("quality") or 0.0
    name = {"blessed": "Blessed", "partial": "Half blessed", "cursed": "Cursed", "unproven": "Unproven"}
    tone = {"blessed": "good", "partial": "warn", "cursed": "bad"}.get(verdict, "warn")
    rest = f"{p.get('effort') or 0:,.1f} effort, {p.get('xp') or 0:,.1f} XP"
    return "temple", tone, f"{name.get(verdict, 'Weighed')} {quality:.2f}.", rest


def _cleric(event: events.Event, quest: Any, hero: str) -> Told:
    p = event.payload
    rows_in, rows_out = p.get("rows_in"), p.get("rows_out")
    if rows_in is None or rows_out is None:
        return _plain(event, quest, hero)
    bad = p.get("verdict") == "refused"
    rest = f"passed {rows_out:,} of {rows_in:,} rows of {p.get('file', '')}"
    return "scroll", "bad" if bad else "good", "The Cleric", rest


def _zone(event: events.Event, quest: Any, hero: str) -> Told:
    p = event.payload
    order = list(words.ZONE_WORDS)
    was, now = p.get("from"), p.get("to")
    eased = was in order and now in order and order.index(now) < order.index(was)
    names = [words.ZONE_WORDS[z][0] if z in words.ZONE_WORDS else str(z) for z in (was, now)]
    return "spring", "good" if eased else "warn", f"Strain {'eased' if eased else 'rose'}:", f"{names[0]} to {names[1]}"


def _crit(event: events.Event, quest: Any, hero: str) -> Told:
    p = event.payload
    rest = f"at step {p.get('step') or 0:,}, loss {p.get('loss') or 0:.4f}"
    return "sword", "bad", f"Critical hit {p.get('hit') or 0:.1f}", rest


def _command(event: events.Event, quest: Any, hero: str) -> Told:
    ok = event.payload.get("state") != "failed"
    return "check" if ok else "x", "" if ok else "bad", "Order:", event.text


_TELL: dict[str, Callable[[events.Event, Any, str], Told]] = {
    "battle": _battle, "quest": _quest, "trial": _trial, "level": _level, "blessing": _blessing, "cleric": _cleric,
    "zone": _zone, "crit": _crit, "command": _command,
    "lesson": lambda e, q, h: ("book", "", "", e.text),
    "optimizer": lambda e, q, h: ("cog", "", "", e.text),
    "checkpoint": lambda e, q, h: ("anchor", "good", "Soul anchor saved,", f"step {e.payload.get('step') or 0:,}"),
    "vault": lambda e, q, h: ("chest", "", "The Vault:", e.text),
    "groundskeeper": lambda e, q, h: ("chest", "", "The groundskeeper:", e.text),
    "champion": lambda e, q, h: ("crown", "good", "A new champion:", f"step {e.payload.get('step') or 0:,}"),
    "regression": lambda e, q, h: ("warn", "bad", "Fragmented thoughts:", e.text),
    "curriculum": lambda e, q, h: ("steps", "", "Curriculum:", e.payload.get("reason") or e.text),
    "hint": lambda e, q, h: ("spring", "", words.COUNSEL.get(e.payload.get("action"), (e.text, ""))[0] + ".", ""),
    "mode": lambda e, q, h: ("moon", "lore", f"{h} {'rests' if e.payload.get('mode') == 'rest' else 'rises'}.",
                             e.payload.get("reason") or ""),
    "campaign": lambda e, q, h: ("map", "lore", "Campaign",
                                 f"{e.payload.get('name', '')}: {e.payload.get('state', '')}"),
    "alert": lambda e, q, h: ("warn", "bad", "", e.text),
}  # fmt: skip
