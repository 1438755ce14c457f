"""Momentum: what stands in the way now, from one place for command line, API and pages (realm-rules §13).

Every blocker says what the realm was trying, why it failed, how to mend it, and carries the order that does so where
there is one. Worst first. Nothing is stored: blockers follow from alerts that still hold, from the Temple's verdicts,
from the disk and from who runs; one that is mended is gone at the next look.

    python3 -m training momentum
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from realm import db, events, services
from realm.guild import campaigns
from realm.quests import board
from realm.settings import RealmHome
from realm.state import queries, reader, uploads
from realm.state.snapshot import RealmSnapshot
from realm.temple import verdicts
from realm.temple.orders import by_id

ALERT_S = 1800.0  # an alert without a condition of its own is told for half an hour
ALERTS = 100  # newest ones that are looked through
OVERLOAD_STEPS = 120
RESTING = ("battles_failed", "no_checkpoint", "budget_spent")  # alerts that hold while the realm rests for them
# What a button says for the order it gives, and the question it asks first.
LABELS: Mapping[str, tuple[str, str]] = {
    "quest.retry": ("Retry the quest", ""), "battle.resume": ("Go on", ""), "battle.stop": ("Rest", ""),
    "battle.skip": ("Skip this quest", "A checkpoint is saved, the quest is marked as skipped, and the next begins."),
    "hero.rollback": ("Undo", "Go back to the newer checkpoint? Nothing is deleted."),
    "temple.run": ("Mend and ask again", ""),
    "campaign.archive": ("Archive the campaign", "Its report is written and it moves to the Hall of Legends."),
}  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Act(_Part):
    """The one click: an order to the arena. `confirm`: what to ask before, empty for nothing."""

    kind: str
    payload: dict[str, Any]
    label: str
    confirm: str = ""


class Blocker(_Part):
    """One thing in the way. `weight`: stop (nothing trains), warn (something is wrong), note (a person wanted it so).

    `title` and `plain` tell it as the game and in plain terms; `command` is for a terminal.
    """

    id: str
    code: str
    weight: Literal["stop", "warn", "note"]
    title: str
    plain: str
    what: str
    why: str
    fix: str
    t: float | None = None
    command: str | None = None
    act: Act | None = None


class Momentum(_Part):
    blockers: tuple[Blocker, ...]


def momentum(connection: sa.Connection, home: RealmHome, shot: RealmSnapshot | None = None) -> Momentum:
    """Everything in the way now, worst first.

    Args:
        shot: the snapshot of the same read, when the caller has it.
    """
    shot = shot or reader.snapshot(connection, home)
    arena = services.noted(home, "arena") is not None
    found = [*_arena(arena), *_disk(home), *_alerts(connection, shot), *_temple(connection),
             *_overload(connection, shot), *_still(connection, home, shot)]  # fmt: skip
    order = ("stop", "warn", "note")
    return Momentum(blockers=tuple(sorted(found, key=lambda blocker: order.index(blocker.weight))))


def find(connection: sa.Connection, home: RealmHome, blocker_id: str) -> Blocker | None:
    """The blocker of that id if it still stands in the way."""
    return next((b for b in momentum(connection, home).blockers if b.id == blocker_id), None)


def act_of(action: Any) -> Act | None:
    """The one-click order of an alert's action; None for one that no button gives."""
    if not isinstance(action, dict) or action.get("kind") not in LABELS:
        return None
    label, confirm = LABELS[action["kind"]]
    return Act(kind=action["kind"], payload=action.get("payload") or {}, label=label, confirm=confirm)


def _arena(alive: bool) -> Iterator[Blocker]:
    if not alive:
        yield Blocker(id="arena", code="arena", weight="stop", title="No word from the arena.",
                      plain="The hero loop is not running.", what="carrying out orders and training",
                      why="Nothing trains and no order is carried out until it does.", fix="Start it.",
                      command="python3 -m training start-all")  # fmt: skip


def _disk(home: RealmHome) -> Iterator[Blocker]:
    disk = uploads.limits(home)
    free, keep = disk["free"], disk["keep_free"]
    if free >= max(1e9, 2 * keep):
        return
    yield Blocker(id="disk", code="disk", weight="stop" if free < keep else "warn", title="The Vault is nearly full.",
                  plain="Disk space is low.", what="saving checkpoints", why=f"{free / 1e6:,.0f} MB are free on the "
                  f"disk of {home.root}; checkpoints are refused below {keep / 1e6:,.0f} MB.",
                  fix="Make room there; training goes on by itself.", command="python3 -m training temple forge")


def _alerts(connection: sa.Connection, shot: RealmSnapshot) -> Iterator[Blocker]:
    """The newest alert of each cause, while it holds."""
    seen = set()
    for event in queries.log(connection, kinds=("alert", "incident"), levels=("trouble",), limit=ALERTS):
        p = event.payload
        cause = p.get("alert_id") or f"{p.get('code')}:{event.text}"
        if cause in seen or not _holds(connection, shot, event):
            continue
        seen.add(cause)
        yield Blocker(id=f"alert-{event.id}", code=str(p.get("code") or event.kind), title=event.text, plain=event.text,
                      weight="stop" if p.get("code") in RESTING else "warn", what=str(p.get("what") or ""), t=event.t,
                      why=_other(p.get("why"), event.text), fix=_other(p.get("fix"), event.text),
                      act=act_of(p.get("action")))  # fmt: skip


def _other(text: Any, title: str) -> str:
    """What the title does not say already."""
    return str(text) if text and text not in title else ""


def _holds(connection: sa.Connection, shot: RealmSnapshot, event: events.Event) -> bool:
    code, payload = event.payload.get("code"), event.payload
    if code in RESTING:
        return shot.mode == "rest" and not _mode_since(connection, event)
    if code == "quest_failed":
        quest = ((payload.get("action") or {}).get("payload") or {}).get("quest_id")
        state = sa.select(db.quests.c.state).where(db.quests.c.id == quest)
        return connection.execute(state).scalar() == "failed"
    if code == "checkpoint_corrupt":
        checkpoint = str(payload.get("alert_id", "")).removeprefix("corrupt:")
        state = connection.execute(sa.select(db.checkpoints.c.state).where(db.checkpoints.c.id == checkpoint)).scalar()
        return state in (None, "corrupt") and event.t >= db.now() - ALERT_S
    return event.t >= db.now() - ALERT_S


def _mode_since(connection: sa.Connection, event: events.Event) -> bool:
    """Whether the mode was changed after an alert: what it said of the rest before is over."""
    table = db.events
    query = sa.select(table.c.id).where(table.c.kind == "mode", table.c.id > event.id).limit(1)
    return connection.execute(query).first() is not None


def _temple(connection: sa.Connection) -> Iterator[Blocker]:
    """Orders that fail; the newest verdict of each counts for a day."""
    for order_id, known in verdicts.newest(connection).items():
        if known["status"] != "fail" or db.now() - known["t"] > verdicts.STALE_S:
            continue
        order = by_id(order_id)
        bad = [check for check in known["checks"] if check["status"] == "fail"]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        yield Blocker(
            id=f"temple-{order_id}", code=f"temple_{order_id}", weight="stop" if known["critical"] else "warn",
            title=f"The Order of the {order.title} finds a fault.", plain=f"A check fails: {order.purpose}.",
            what=order.purpose, why=f"{bad[0]['name']}: {bad[0]['details']}{more}" if bad else "", t=known["t"],
            fix=bad[0]["remedy"] if bad else "", command=f"python3 -m training temple {order_id}",
            act=act_of({"kind": "temple.run", "payload": {"order": order_id, "fix": True}}))  # fmt: skip


def _overload(connection: sa.Connection, shot: RealmSnapshot) -> Iterator[Blocker]:
    """Overload for 120 steps or more with the hint to back off."""
    now = shot.battle
    battle = reader.newest_battle(connection)
    if now.state != "training" or now.zone != "overload" or now.hint != "back_off" or battle is None:
        return
    table = db.metrics
    mine = table.c.battle_id == battle["id"]
    calm = sa.select(sa.func.max(table.c.step)).where(mine, table.c.zone != "overload").scalar_subquery()
    query = sa.select(sa.func.count()).where(mine, table.c.step > sa.func.coalesce(calm, -1))
    steps = connection.execute(query).scalar_one()
    if steps >= OVERLOAD_STEPS:
        yield Blocker(id=f"overload-{battle['id']}-{steps // 500}", code="overload", weight="warn",
                      title=f"{shot.hero.name if shot.hero else 'The hero'} is overloaded.",
                      plain="Loss stays far above its floor.", what=f"learning from {now.quest}",
                      why=f"Strain has stayed above 0.5 for {steps:,} steps and is not improving.",
                      fix="Skip the quest, or wait: the next one mixes in easier levels.",
                      act=act_of({"kind": "battle.skip", "payload": {}}))  # fmt: skip


def _still(connection: sa.Connection, home: RealmHome, shot: RealmSnapshot) -> Iterator[Blocker]:
    """Nothing trains because a person wanted it so, or because nothing is there to train."""
    go_on = act_of({"kind": "battle.resume", "payload": {}})
    if shot.battle.state == "paused":
        yield Blocker(id="paused", code="paused", weight="note", title="The battle is held.",
                      plain="Training is paused.", what=f"training {shot.battle.quest}", why="It was paused.",
                      fix="Go on.", act=go_on, command="python3 -m training battle resume")  # fmt: skip
    elif shot.mode == "rest" and shot.battle.state in ("idle", "done", "failed"):
        said = queries.log(connection, kinds=("mode",), limit=1)
        why = said[0].payload.get("reason") if said else None
        yield Blocker(id="rest", code="rest", weight="note", title="The realm rests.",
                      plain="Nothing trains: mode rest.", what="training", why=f"It rests: {why or 'asked for'}.",
                      fix="Go on.", act=go_on, command="python3 -m training battle resume")  # fmt: skip
    elif shot.battle.state == "idle" and not home.settings.idle_generation and not any(board.counts(
        connection, home).values()) and campaigns.active(connection) is not None:  # fmt: skip
        yield Blocker(id="empty", code="empty_board", weight="note", title="The board is empty.",
                      plain="No data is waiting.", what="taking the next quest",
                      why="No quest waits, and idle_generation is off in settings.yaml.",
                      fix=f"Drop a .jsonl file into {home.inbox}.",
                      command="python3 -m training quest add FILE")  # fmt: skip
