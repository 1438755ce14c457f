"""The Tavern's home page: every panel's numbers, read from one state of the database."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from realm import db, services
from realm.heroes.profile import HeroProfile, ProfileError, load_profile, parse_profile
from realm.quests import board
from realm.settings import RealmHome
from realm.state import machine, momentum, progression, queries, reader, uploads
from realm.state.snapshot import RealmSnapshot
from realm.tavern.views import drawings, log, words

GHOST_STEPS = 100
METHODS = {"full": "Full fine-tune", "lora": "LoRA", "qlora": "QLoRA"}


@dataclass(frozen=True)
class Facts:
    """What all panels share, from one `db.read`."""

    home: RealmHome
    snapshot: RealmSnapshot
    battle: dict[str, Any] | None  # the newest one, open or not
    quest: Mapping[str, Any] | None
    profile: HeroProfile | None
    campaign: dict[str, Any] | None
    arena_alive: bool

    @property
    def hero(self) -> str:
        if self.snapshot.hero:
            return self.snapshot.hero.name
        return self.profile.name if self.profile else "The hero"


def facts(connection: sa.Connection, home: RealmHome) -> Facts:
    """Read what all panels share."""
    shot = reader.snapshot(connection, home)
    battle = reader.newest_battle(connection)
    table = db.quests
    quest = None
    if battle and battle["quest_id"]:
        quest = connection.execute(sa.select(table).where(table.c.id == battle["quest_id"])).mappings().first()
    campaign = None
    if shot.campaign.id:
        found = sa.select(db.campaigns).where(db.campaigns.c.id == shot.campaign.id)
        campaign = dict(connection.execute(found).mappings().one())
    profile = _profile(home, campaign)
    return Facts(home, shot, battle, quest, profile, campaign, services.noted(home, "arena") is not None)


def _profile(home: RealmHome, campaign: Mapping[str, Any] | None) -> HeroProfile | None:
    """The campaign's own recipe; before the first campaign, that of the hero who will set out."""
    try:
        if campaign is None:
            return load_profile(home.settings.default_hero, home)
        return parse_profile(campaign["config"], "campaign")
    except ProfileError:
        return None  # written by another version, or a file that doctor complains about: no details then


def hero_panel(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """Portrait, bars and the six numbers. Values that were never measured stay None."""
    shot, profile = f.snapshot, f.profile
    campaign_id = shot.campaign.id
    exam = queries.last_exam(connection, campaign_id)
    told = queries.trials(connection, campaign_id, limit=20)
    golden = next((t["loss"] for t in told if t["loss"] is not None), None)
    blessed = queries.blessings(connection, campaign_id, 1)
    floor = (f.battle["config"] or {}).get("floor") if f.battle else None
    epithet = ""
    if profile:
        epithet = profile.rpg_name.removeprefix(profile.name).strip()
    return {
        "name": f.hero, "epithet": epithet, "portrait": "pip" if profile and profile.id == "pip" else "hood",
        "skills": sorted(((key, skill.mastered_level) for key, skill in shot.skills.items()), key=lambda s: -s[1]),
        "tags": _tags(profile), "health": _health(), "exam": exam, "clarity": _clarity(golden), "golden_loss": golden,
        "trial_strain": None if golden is None else max(0.0, golden - (floor or 0.0)),
        "blessing": blessed[0] if blessed else None, "efficiency": _efficiency(connection, campaign_id),
        "into_level": shot.hero.step % 1000 if shot.hero else 0,
        "title": progression.title(connection, campaign_id) if shot.hero else None,
        "debuffs": progression.active_debuffs(connection, campaign_id),
    }  # fmt: skip


def _tags(profile: HeroProfile | None) -> list[tuple[str, str]]:
    """(text, title) chips under the name."""
    if profile is None:
        return []
    model = profile.model
    made = "made on this machine" if profile.embedded else model.path_or_hub_id
    return [(f"{model.family.capitalize()} {words.parameters(model.size_b)}", f"model: {made}"),
            (profile.stature, f"{profile.race}, {profile.rpg_class}: stature by size, race by family, class by origin"),
            (METHODS[profile.training_mode], "training mode")]  # fmt: skip


def _clarity(loss: float | None) -> float | None:
    return None if loss is None else math.exp(-loss)


def _health() -> dict[str, Any]:
    """Free memory where the model lives: VRAM, or RAM on a machine without a GPU (and said so)."""
    gpus = machine.gpus()
    if gpus:
        total, used = sum(g.total for g in gpus), sum(g.used for g in gpus)
        return {"kind": "VRAM", "free": total - used, "total": total}
    import psutil

    memory = psutil.virtual_memory()
    return {"kind": "RAM", "free": memory.available, "total": memory.total}


def _efficiency(connection: sa.Connection, campaign_id: str | None) -> float | None:
    """Plastic gain per 1,000 effort of the last quest whose held-out loss was measured before and after."""
    table = db.battles
    query = sa.select(table).where(table.c.campaign_id == campaign_id, table.c.loss_before.is_not(None),
                                   table.c.loss_after.is_not(None))  # fmt: skip
    row = connection.execute(query.order_by(table.c.id.desc()).limit(1)).mappings().first()
    gain = queries.quest_gain(connection, row)
    effort = reader.quest_effort(connection, row) if row else 0.0
    return None if gain is None or effort <= 0 else 1000 * gain / effort


def stage_panel(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """What the battle stage shows in the present state."""
    shot, battle, quest = f.snapshot, f.battle, f.quest
    state = shot.battle.state
    view: dict[str, Any] = {
        "state": state, "words": words.STATE_WORDS[state], "resting": shot.mode == "rest",
        "battle_id": battle["id"] if battle else None, "at": (battle["step"] or 0) if battle else 0,
        "school": words.school(shot.battle.school),
        "foe": words.foe(quest["skill"], quest["level"], quest["name"]) if quest else "A trial without a foe",
        "quest": quest, "file": _file_name(quest),
        "phase": battle["phase"] if battle else None, "error": battle["error"] if battle else None, "last": None,
        "exams": [],
    }  # fmt: skip
    done, asked, zero = reader.quest_steps(battle) if battle else (None, None, 0)
    view |= {"step": done, "total": asked, "zero": zero, "left": asked - done if asked and done is not None else None}
    speed = reader.pace(connection, battle["id"]) if battle else None
    view |= {"pace": 1 / speed.step_s if speed and speed.step_s else None}
    if battle and state == "trial":
        view["exams"] = _exams(connection, battle)
    if battle and state in ("idle", "failed"):
        view["last"] = _last_battle(connection, battle, quest)
    return view


def _file_name(quest: Mapping[str, Any] | None) -> str | None:
    """The quest's file without the id that the board put before its name."""
    if quest is None or not quest["path"]:
        return None
    return PurePosixPath(quest["path"]).name.removeprefix(f"{quest['id']}-")


def _exams(connection: sa.Connection, battle: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trials planned for this battle and which of them are over."""
    over = {(t["kind"], t["skill"], t["level"]): t for t in
            queries.trials(connection, battle["campaign_id"], battle_id=battle["id"])}  # fmt: skip
    planned = (battle["config"] or {}).get("trials", [])
    return [{"kind": t["kind"], "skill": t["skill"], "level": t["level"],
             "done": over.get((t["kind"], t["skill"], t["level"]))} for t in planned]  # fmt: skip


def _last_battle(connection: sa.Connection, battle: Mapping[str, Any], quest: Any) -> dict[str, Any]:
    last = reader.last_metric(connection, battle["id"])
    outcome = {"trained": "won", "stopped": "stopped", "skipped": "skipped", "failed": "lost"}
    foe = words.foe(quest["skill"], quest["level"], quest["name"]) if quest else "a trial"
    return {"id": battle["id"], "foe": foe, "quest": quest["name"] if quest else None,
            "outcome": outcome.get(battle["outcome"] or "", battle["state"]), "ended": battle["ended_at"],
            "loss": last["loss_ema"] if last else None}  # fmt: skip


def strain_panel(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """Gauge, counsel and zones of the battle, or of where the last one ended."""
    battle = f.battle
    last = reader.last_metric(connection, battle["id"]) if battle else None
    live = f.snapshot.battle.state not in ("idle", "failed", "done")
    view: dict[str, Any] = {"live": live, "zones": words.ZONE_WORDS, "ended": battle["ended_at"] if battle else None}
    if battle is None or last is None:
        return {**view, "strain": None, "zone": None, "gauge": drawings.gauge(None, None), "floor": None,
                "counsel": None}  # fmt: skip
    where = words.skill_level(battle["config"].get("skill"), battle["config"].get("level"))
    return {
        **view, "strain": last["strain"], "zone": last["zone"], "floor": last["floor"], "floor_of": where,
        "gauge": drawings.gauge(last["strain"], last["zone"], _ghost(connection, last)),
        "counsel": _counsel(connection, battle["id"], last), "rate": last["strain_rate"],
        "gain": queries.quest_gain(connection, battle), "effort": reader.quest_effort(connection, battle),
    }  # fmt: skip


def _ghost(connection: sa.Connection, last: Mapping[str, Any]) -> float | None:
    table = db.metrics
    query = sa.select(table.c.strain).where(
        table.c.battle_id == last["battle_id"], table.c.step <= last["step"] - GHOST_STEPS)  # fmt: skip
    return connection.execute(query.order_by(table.c.step.desc()).limit(1)).scalar()


def _counsel(connection: sa.Connection, battle_id: str, last: Mapping[str, Any]) -> dict[str, str]:
    """Title from the hint's action, reason from its event: never computed in the page."""
    action = last["hint"] or "wait"
    title, meaning = words.COUNSEL.get(action, words.COUNSEL["wait"])
    reason = ""
    for event in queries.log(connection, kinds=("hint",), battle_id=battle_id, limit=1):
        if event.payload.get("action") == action:
            said = str(event.payload.get("reason", ""))
            reason = said[:1].upper() + said[1:]
    icon = {"back_off": "warn", "level_up": "up", "wait": "clock"}.get(action, "shieldcheck")
    return {"action": action, "title": title, "text": meaning, "reason": reason, "icon": icon}


def quests_panel(connection: sa.Connection, f: Facts, limit: int = 2) -> dict[str, Any]:
    """The next quests and how many wait."""
    waiting = [q for q in board.waiting(connection) if q["state"] == "queued"]
    queue = f.snapshot.queue
    return {"next": waiting[:limit], "waiting": len(waiting), "inbox": queue.inbox,
            "idle": f.home.settings.idle_generation, "limits": uploads.limits(f.home)}  # fmt: skip


def forge_panel(f: Facts) -> dict[str, Any]:
    """The machine's own numbers."""
    return {"machine": machine.sample(f.home.root)}


def log_panel(connection: sa.Connection, f: Facts, show: str = "deeds") -> dict[str, Any]:
    return {"lines": log.lines(connection, show, hero=f.hero), "show": show}


def notice(connection: sa.Connection, f: Facts) -> dict[str, Any] | None:
    """The one thing that needs a person now, worst first; None when nothing does. `more`: how many others there are."""
    found = blockers(connection, f)
    wanted = [blocker for blocker in found if blocker["weight"] != "note"]
    return {**wanted[0], "more": len(wanted) - 1} if wanted else None


def blockers(connection: sa.Connection, f: Facts) -> list[dict[str, Any]]:
    """Everything in the way, as pages print it."""
    return [_blocker(each) for each in momentum.momentum(connection, f.home, f.snapshot).blockers]


def _blocker(each: momentum.Blocker) -> dict[str, Any]:
    act = each.act and {"path": f"momentum/{quote(each.id, safe='')}", "label": each.act.label,
                        "ask": each.act.confirm}  # fmt: skip
    return {**each.model_dump(), "zone": "stretch" if each.weight == "note" else "overload", "act": act,
            "text": " ".join(text for text in (each.why, each.fix) if text)}  # fmt: skip
