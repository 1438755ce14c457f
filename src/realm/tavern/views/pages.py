"""What the other pages print: Guild, Quests, Battle, Saga, Temple, Campaign and what is still to come."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from realm import db, schools
from realm.guild.levels import CLOSED_THRESHOLD, wilson
from realm.guild.primitives import profile
from realm.guild.progress import TRIAL_KINDS
from realm.guild.progression import combat
from realm.heroes.modes import TITLES
from realm.heroes.profile import ProfileError, list_profiles
from realm.state import progression, queries, reader, uploads, vram_asked
from realm.state.temple import temple as temple_state
from realm.tavern.views import drawings, log, words
from realm.tavern.views.home import Facts, blockers

LANDMARKS = {"bin": (8, 15, 22, 30), "sy": (10, 25, 50)}
CRESTS = {"bin": ("#14504a", "#0f2f2c"), "sy": ("#5a2747", "#32152a")}
COLUMNS = ("inbox", "high", "normal", "low", "training", "done", "failed")
COLUMN_WORDS = {
    "inbox": ("Inbox", "with the Cleric", "unchecked files"), "high": ("High", "taken first", "first lane"),
    "normal": ("Normal", "taken next", "second lane"), "low": ("Low", "taken last", "third lane"),
    "training": ("In battle", "being fought", "training now"), "done": ("Done", "won", "trained"),
    "failed": ("Failed", "turned away, lost or left", "refused, failed or skipped"),
}  # fmt: skip
SERIES_ROWS = 20
FIGHTS = 12
DIFFICULTY_TRIALS = 10


# --- guild --------------------------------------------------------------------------------------------------------


def guild(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """Skill cards, and the newest trials as a table."""
    campaign = f.snapshot.campaign.id
    cards = [_card(connection, f, skill) for skill in queries.skills(connection, campaign)]
    trials = queries.trials(connection, campaign, limit=12)
    deeds = progression.achieved(connection, campaign)
    earned = [a for a in deeds if a.t is not None]
    return {
        "title": progression.title(connection, campaign),
        "kind": progression.kind_of(f.campaign["config"] or {}) if f.campaign else None,
        "debuffs": progression.active_debuffs(connection, campaign),
        "earned": sorted(earned, key=lambda a: a.t, reverse=True),
        "ahead": [a for a in deeds if a.t is None],
        "cards": cards, "trials": trials, "last": trials[0] if trials else None,
        "total_level": f.snapshot.hero.total_level if f.snapshot.hero else 0,
        "primitives": primitives(connection, campaign), "difficulties": difficulties(connection, campaign),
    }  # fmt: skip


def _card(connection: sa.Connection, f: Facts, skill: dict[str, Any]) -> dict[str, Any]:
    training = skill["training_level"]
    last = skill["trials"][0] if skill["trials"] else None
    info = skill["levels"][training - 1]
    marks = LANDMARKS.get(skill["id"], ())
    bad = {c["level"] for c in skill["retention"] if c["verdict"] in ("regression", "lost")}
    pips = [{"n": n, "cls": _pip(n, skill, bad) + (" k" if n in marks else "")
                            + (" o" if skill["levels"][n - 1]["closed"] else "")}
            for n in range(1, skill["max_level"] + 1)]  # fmt: skip
    battle = f.snapshot.battle
    here_now = f.quest is not None and f.quest["skill"] == skill["id"]
    fighting = here_now and battle.state not in ("idle", "failed", "done")
    need = CLOSED_THRESHOLD if info["closed"] else skill["threshold"]
    colours = CRESTS.get(skill["id"], ("#4a3a1a", "#2a200f"))
    return {
        **skill, "info": info, "last": last, "pips": pips, "per": 15 if skill["max_level"] > 15 else skill["max_level"],
        "regressed": sorted(bad), "c1": colours[0], "c2": colours[1], "fighting": fighting, "need": need,
        "zone": battle.zone if fighting else None, "strain": battle.strain if fighting else None,
        "line": drawings.trial_line(skill["trials"], need), "kept": [c for c in skill["retention"]],
    }  # fmt: skip


def _pip(level: int, skill: dict[str, Any], bad: set[int]) -> str:
    if level in bad:
        return "m r"
    if level <= skill["mastered_level"]:
        return "m"
    return "c" if level == skill["training_level"] else "l"


def primitives(connection: sa.Connection, campaign_id: str | None) -> list[dict[str, Any]]:
    """The Guild's profile of primitives, weakest first; tags finer than the 29 come after them."""
    found = profile(connection, campaign_id or "")
    return [tag.to_dict() for tags in (found.spokes, found.finer)
            for tag in sorted((t for t in tags.values() if t.n), key=lambda t: (t.accuracy, t.name))]  # fmt: skip


def difficulties(connection: sa.Connection, campaign_id: str | None) -> list[dict[str, Any]]:
    """Accuracy per difficulty over the last trials of skills that are practised, easiest first."""
    table, order, sums = db.trials, ["easy", "medium", "hard", "expert"], {}
    query = sa.select(table.c.by_difficulty).where(
        table.c.campaign_id == campaign_id, table.c.kind.in_(TRIAL_KINDS), table.c.n > 0)  # fmt: skip
    for counts in connection.execute(query.order_by(table.c.started_at.desc()).limit(DIFFICULTY_TRIALS)).scalars():
        for name, (correct, n) in (counts or {}).items():
            entry = sums.setdefault(name, [0, 0])
            entry[0] += correct
            entry[1] += n
    found = []
    for name, (correct, n) in sums.items():
        low, high = wilson(correct, n)
        found.append({"name": name, "correct": correct, "n": n, "accuracy": correct / n, "lower": low, "upper": high})
    rank = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda row: (rank.get(row["name"], len(order)), row["name"]))


# --- quests -------------------------------------------------------------------------------------------------------


def quest_board(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """The board by columns; every quest is in exactly one."""
    told = queries.quests(connection, f.home)
    columns: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    columns["inbox"] = told["inbox"]
    for quest in told["waiting"]:
        columns[quest["lane"]].append(_quest_card(quest))
    columns["training"] = [_quest_card(quest) for quest in told["training"]]
    for quest in told["ended"]:
        columns["done" if quest["state"] == "done" else "failed"].append(_quest_card(quest))
    words_of = [(name, *COLUMN_WORDS[name], columns[name]) for name in COLUMNS]
    return {"columns": words_of, "inbox_path": told["inbox_path"], "limits": uploads.limits(f.home)}


def _quest_card(quest: dict[str, Any]) -> dict[str, Any]:
    """A quest with what a person may do to it now, by the board's own rules."""
    state = quest["state"]
    acts = {"queued": ("move", "hold", "delete"), "hold": ("move", "unhold", "delete"), "failed": ("retry",),
            "skipped": ("retry",)}.get(state, ())  # fmt: skip
    able = [{"id": s.id, "name": words.school(s.id)["name"]} for s in schools.SCHOOLS.values()
            if s.practice or s.id == quest["school"]]  # fmt: skip
    free = "move" in acts and quest["started_at"] is None and quest["format"] != "preference"
    return {**quest, "acts": acts, "schools": able if free else [], "school_of": words.school(quest["school"]),
            "report_lines": report(quest["report"])}  # fmt: skip


def report(told: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The Cleric's report as (name, words) lines; what it does not mention is left out."""
    told = told or {}
    lines = [("verdict", str(told.get("verdict", ""))), ("rows", _row_words(told.get("rows")))]
    for reason in (told.get("reasons") or [])[:5]:
        first = (reason.get("examples") or [{}])[0]
        where = f"line {first['line']:,}: " if isinstance(first.get("line"), int) else ""
        what = f"{reason.get('count', 0):,} {reason.get('fate', '')}, {str(reason.get('code', '')).replace('_', ' ')}"
        lines.append((what, f"{where}{str(first.get('text', ''))[:200]}"))
    tokens, probe = told.get("tokens") or {}, told.get("probe") or {}
    if isinstance(tokens, dict) and tokens.get("total"):
        lines.append(("tokens a row", f"median {_plain(tokens.get('median'))}, longest {_plain(tokens.get('max'))}"))
    if isinstance(probe, dict) and probe.get("rows"):
        lines.append(("held out", f"{_plain(probe['rows'])} rows measure the loss before and after"))
    lines += [("warning", str(text)) for text in (told.get("warnings") or [])[:5]]
    lines += [(name, _plain(told[key])) for name, key in (("format", "format"), ("check", "level"),
                                                         ("next", "next_action")) if told.get(key)]  # fmt: skip
    return [(name, value) for name, value in lines if value]


def _row_words(rows: Any) -> str:
    if not isinstance(rows, dict):
        return ""
    said = [f"{_plain(rows.get('in', 0))} read", f"{_plain(rows.get('out', 0))} passed"]
    said += [f"{_plain(rows[key])} {key}" for key in ("quarantined", "filtered", "duplicate", "blank") if rows.get(key)]
    return ", ".join(said)


def _plain(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)[:300]


# --- battle, saga, temple, campaign -------------------------------------------------------------------------------


def battle(connection: sa.Connection, f: Facts, key: str | None) -> dict[str, Any] | None:
    """One battle with its curve table and events; None when there is none with this key."""
    row = queries.battle(connection, key)
    if row is None:
        return None
    table = db.quests
    quest = None
    if row["quest_id"]:
        quest = connection.execute(sa.select(table).where(table.c.id == row["quest_id"])).mappings().first()
    fact = queries.battle_fact(row)
    told = queries.series(connection, row["id"], max(30, SERIES_ROWS))
    picked = _evenly(len(told["step"]), SERIES_ROWS)
    rows = [{name: told[name][i] for name in queries.SERIES} for i in picked]
    trials = queries.trials(connection, row["campaign_id"], battle_id=row["id"])
    return {
        **fact, "quest": quest, "foe": words.foe(quest["skill"], quest["level"], quest["name"]) if quest else "A trial",
        "steps_seen": told["steps"], "rows": rows, "trials": trials, "last": reader.last_metric(connection, row["id"]),
        "effort": reader.quest_effort(connection, row), "gain": queries.quest_gain(connection, row),
        "school_of": words.school(row["school"]), "optimizer": _recipe(row["config"] or {}),
        "tokens": tokens(queries.token_maps(connection, row["id"])),
        "lines": log.lines(connection, "all", limit=30, hero=f.hero, battle_id=row["id"]),
        "others": queries.battles(connection, row["campaign_id"], 12),
        "current": f.battle is not None and f.battle["id"] == row["id"],
    }  # fmt: skip


MEASURES = (("weight", "Weight"), ("surprisal", "Surprisal"), ("entropy", "Entropy"))
_SEEN = str.maketrans({"\n": "↵", " ": "·", "\t": "⇥"})


def tokens(told: dict[str, Any]) -> dict[str, Any]:
    """Token maps as the page draws them: each value also as a share of the largest of its kind on the page."""
    top = {name: max((value for row in told["rows"] for value in row[name] if value is not None), default=0)
           for name, _ in MEASURES}  # fmt: skip
    return {**told, "measures": MEASURES, "rows": [_token_row(row, top) for row in told["rows"]]}


def _token_row(row: dict[str, Any], top: dict[str, float]) -> dict[str, Any]:
    shown = []
    for i, (text, trained) in enumerate(zip(row["text"], row["trained"], strict=True)):
        values = {name: row[name][i] for name, _ in MEASURES}
        shares = {name: 100 * (value or 0) / (top[name] or 1) for name, value in values.items()}
        shown.append({"text": text.translate(_SEEN) or "∅", "trained": trained, "shares": shares, **values})
    counted = [t["surprisal"] for t in shown if t["trained"] and t["surprisal"] is not None]
    return {"row": row["row"], "tokens": shown, "trained": sum(row["trained"]),
            "loss": sum(counted) / len(counted) if counted else None}  # fmt: skip


def _recipe(config: dict[str, Any]) -> list[tuple[str, str]]:
    hero = config.get("hero") or {}
    defaults = hero.get("training_defaults") or {}
    pairs = {
        "seed": config.get("seed"), "school": config.get("school"), "steps asked": config.get("steps"),
        "optimizer": (hero.get("optimizer") or {}).get("type"), "training mode": hero.get("training_mode"),
        "data": (config.get("data") or {}).get("path"), "data sha256": (config.get("data") or {}).get("sha256"),
        "Oracle's Eye": _policy(config),
        "parent checkpoint": config.get("parent_checkpoint_id") or "base weights", **defaults,
    }  # fmt: skip
    return [(name.replace("_", " "), str(value)) for name, value in pairs.items() if value is not None]


def _policy(config: dict[str, Any]) -> str | None:
    """The policy of token weights: the quest's own, else the hero's."""
    own = (config.get("options") or {}).get("oracle_eye")
    if own:
        return own.get("policy") if isinstance(own, dict) else str(own)
    return ((config.get("hero") or {}).get("oracle_eye") or {}).get("policy")


def _evenly(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def saga(connection: sa.Connection, f: Facts, show: str, before: int | None, limit: int = 100) -> dict[str, Any]:
    """One page of the whole log, grouped by day."""
    found = log.lines(connection, show, limit + 1, before, f.hero)
    more = len(found) > limit
    days: list[tuple[str, list[log.Line]]] = []
    for line in found[:limit]:
        date = words.day(line.t)
        if not days or days[-1][0] != date:
            days.append((date, []))
        days[-1][1].append(line)
    return {"days": days, "show": show, "older": found[limit - 1].id if more else None, "before": before}


def temple(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """The nine orders, what stands in the way, the ledger of blessings, and the newest quests as combat."""
    campaign = f.snapshot.campaign.id
    return {"now": temple_state(connection), "blockers": blockers(connection, f),
            "fights": combat.fights(connection, campaign, FIGHTS) if campaign else []}  # fmt: skip


def campaign(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """Banner, mastered levels in order, and all campaigns."""
    table = db.levels
    query = sa.select(table).where(table.c.campaign_id == f.snapshot.campaign.id).order_by(table.c.mastered_at)
    climbed = [dict(row) for row in connection.execute(query).mappings()]
    every = connection.execute(sa.select(db.campaigns).order_by(db.campaigns.c.created_at.desc())).mappings()
    try:
        heroes = [(p.id, p.name, p.rpg_name, p.stature, words.parameters(p.model.size_b))
                  for p in list_profiles(f.home)]  # fmt: skip
        wrong = None
    except ProfileError as error:
        heroes, wrong = [], str(error)
    return {"climbed": climbed, "every": [dict(row) for row in every], "heroes": heroes, "heroes_wrong": wrong}


def settings(f: Facts) -> dict[str, Any]:
    """Every setting with its value; secrets are only said to be set."""
    model = f.home.settings
    rows = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        shown = ("set" if value else "not set") if name == "token" else value
        default = "not set" if name == "token" else field.default
        rows.append((name, shown, default, field.description or ""))
    return {"rows": rows, "file": str(f.home.root / "settings.yaml")}


def vram(f: Facts, engine: sa.Engine, ask: vram_asked.Ask) -> dict[str, Any]:
    """The memory calculator with its form filled in; `wrong` says why there is no answer."""
    try:
        heroes = [(p.id, p.name) for p in list_profiles(f.home)]
        told = vram_asked.answer(f.home, engine, ask)
    except ProfileError as error:
        return {"ask": ask, "heroes": [], "titles": list(TITLES.items()), "told": None, "parts": [],
                "wrong": str(error)}  # fmt: skip
    parts, room = told["estimate"]["parts"], max(told["room"], told["estimate"]["total"])
    return {"ask": ask.model_copy(update={"hero": told["hero"]}), "heroes": heroes, "titles": list(TITLES.items()),
            "told": told, "parts": [(name, size, 100 * size / room) for name, size in parts.items()], "wrong": ""}
