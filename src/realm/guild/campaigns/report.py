"""The report of a campaign: method, climb, forgetting, maintenance, cap, champion, repairs, and what is not known.

`python3 -m training campaign report pip-1` prints it, `--json` gives the same facts to programs. Archiving writes both
to `$REALM_HOME/campaigns/<name>/report.{md,json}`. Every number is computed from the tables; nothing is asserted that
they do not hold. The text itself is in `report_text.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import realm
from realm import db
from realm.guild import campaigns, progress
from realm.guild.campaigns import cap, climb, facts, forgetting, lifecycle, method
from realm.guild.campaigns.report_text import markdown
from realm.guild.levels import wilson
from realm.guild.skills import SkillError, get_skill
from realm.settings import RealmHome
from realm.vault import champion as champions

FORMAT = 1


def build(connection: sa.Connection, campaign: Mapping[str, Any], at: float | None = None) -> dict[str, Any]:
    """The whole report as plain JSON values.

    Args:
        at: Unix seconds of the report; default now.
    """
    known = facts.read(connection, campaign)
    rungs = climb.rungs(known.stages, known.fights)
    held_out, probe = (forgetting.matrix(known.stages, known.trials, kinds)
                       for kinds in (forgetting.HELD_OUT, forgetting.PROBE))  # fmt: skip
    ids = [cell.trial_id for row in probe for cell in row if cell is not None]
    levels = cap.segments(known.stages, known.fights)
    verdict = lifecycle.verdict(connection, campaign, known)
    ends = lifecycle.last_levels(campaign, sorted(levels))
    found = {
        "format": FORMAT, "made_at": db.now() if at is None else at, "program": realm.__version__,
        "campaign": _head(connection, campaign), "method": _method(connection, campaign),
        "climb": [_rung(rung) for rung in rungs],
        "headline": _headline(known.stages),
        "forgetting": {
            "levels": [[stage.skill, stage.level, stage.closed] for stage in known.stages],
            "held_out": _matrix(held_out), "probe": _matrix(probe),
            "summary": _summary(forgetting.summary(held_out)),
            "probe_summary": _summary(forgetting.summary(
                probe, facts.outcomes(connection, ids), campaign["id"])),
        },
        "maintenance": {skill: [one.to_dict() for one in row] for skill, row in levels.items()},
        "cap": {**verdict, "kept": campaign["verdict"],
                "forecast": {skill: cap.forecast(row, ends[skill], (campaign["id"], skill))
                             for skill, row in levels.items() if skill in ends}},
        "champion": _champion(connection, campaign["id"]),
        "repairs": climb.repairs(known.trials, _thresholds(known.trials)),
        "data": _data(connection, campaign["id"]),
    }  # fmt: skip
    return {**found, "unknown": _unknown(found, known)}


def _head(connection: sa.Connection, campaign: Mapping[str, Any]) -> dict[str, Any]:
    mastered = progress.mastered_levels(connection, campaign["id"])
    spent = facts.spent(connection, campaign["id"])
    run = connection.execute(sa.select(db.runs).where(db.runs.c.campaign_id == campaign["id"])
                             .order_by(db.runs.c.created_at, db.runs.c.id)).mappings().all()  # fmt: skip
    starts = run[0]["parent_checkpoint_id"] if run else None
    return {
        **{key: campaign[key] for key in ("id", "name", "hero_id", "state", "created_at", "archived_at", "seed")},
        "hero": (campaign["config"] or {}).get("name") or campaign["hero_id"], "mastered": mastered,
        "total_level": sum(mastered.values()), "spent": {**asdict(spent), "charged": spent.charged},
        "xp": progress.xp_of(connection, campaign["id"]), "start_checkpoint": starts,
        "runs": [{"id": r["id"], "reason": r["reason"], "at": r["created_at"]} for r in run],
    }  # fmt: skip


def _method(connection: sa.Connection, campaign: Mapping[str, Any]) -> dict[str, Any]:
    """The exported method, with its campaign's own origin instead of the campaign itself."""
    found = method.export(connection, campaign).model_dump(mode="json")
    return {**found, "origin": method.of(campaign).origin}


def _rung(rung: climb.Rung) -> dict[str, Any]:
    stage = rung.stage
    lower, upper = wilson(stage.correct, stage.n)
    return {
        "skill": stage.skill, "level": stage.level, "closed": stage.closed, "at": stage.at, "step": stage.step,
        "correct": stage.correct, "n": stage.n, "lower": lower, "upper": upper, "trial_id": stage.trial_id,
        "own": {**asdict(rung.own), "charged": rung.own.charged},
        "total": {**asdict(rung.total), "charged": rung.total.charged},
    }  # fmt: skip


def _headline(stages: Sequence[facts.Stage]) -> dict[str, Any]:
    """What may be claimed in one line: open levels only (contracts B2)."""
    return {"open": sum(not stage.closed for stage in stages), "closed": sum(stage.closed for stage in stages),
            "highest_open": _highest(stages)}  # fmt: skip


def _highest(stages: Sequence[facts.Stage]) -> dict[str, int]:
    found: dict[str, int] = {}
    for stage in stages:
        if not stage.closed:
            found[stage.skill] = max(found.get(stage.skill, 0), stage.level)
    return found


def _matrix(cells: forgetting.Matrix) -> list[list[dict | None]]:
    return [[None if cell is None else cell.to_dict() for cell in row] for row in cells]


def _summary(found: Mapping[str, forgetting.Summary]) -> dict[str, dict]:
    return {name: asdict(one) for name, one in found.items()}


def _champion(connection: sa.Connection, campaign_id: str) -> dict[str, Any] | None:
    best = champions.champion(connection, campaign_id)
    if best is None:
        return None
    table = db.checkpoints
    row = connection.execute(sa.select(table).where(table.c.id == best.checkpoint_id)).mappings().one()
    return {**asdict(best), "path": row["path"], "manifest_sha256": row["manifest_sha256"]}


def _thresholds(trials: Sequence[facts.Trial]) -> dict[str, float]:
    found = {}
    for skill_id in {trial.skill for trial in trials}:
        try:
            found[skill_id] = get_skill(skill_id).threshold
        except SkillError:
            continue  # judged by the usual threshold
    return found


def _data(connection: sa.Connection, campaign_id: str) -> dict[str, Any]:
    """What was trained on: counts, and one hash over the contents of every finished quest, in order."""
    table = db.quests
    query = sa.select(table.c.kind, table.c.rows, table.c.content_sha256, table.c.origin).where(
        table.c.campaign_id == campaign_id, table.c.state == "done")  # fmt: skip
    rows = connection.execute(query.order_by(table.c.finished_at, table.c.id)).all()
    kinds: dict[str, dict[str, int]] = {}
    versions: dict[str, list] = {}
    for row in rows:
        one = kinds.setdefault(row.kind, {"quests": 0, "rows": 0})
        one["quests"] += 1
        one["rows"] += row.rows or 0
        origin = row.origin or {}
        for skill, version in {origin.get("skill"): origin.get("version"), **(origin.get("versions") or {})}.items():
            if skill and version is not None and version not in versions.setdefault(skill, []):
                versions[skill].append(version)
    text = "\n".join(row.content_sha256 or "" for row in rows)
    return {"kinds": kinds, "skills": versions, "quests": len(rows),
            "sha256": hashlib.sha256(text.encode()).hexdigest() if rows else None}  # fmt: skip


def _unknown(found: Mapping[str, Any], known: facts.Facts) -> list[str]:
    """What the tables do not hold, in sentences."""
    said = []
    stages = len(known.stages)
    last = found["forgetting"]["held_out"][-1] if stages else []
    missing = [f"{s} L{n}" for (s, n, _), cell in zip(found["forgetting"]["levels"], last, strict=True) if cell is None]
    if missing:
        said.append(f"Not examined since the last promotion, so not known now: {', '.join(missing)}.")
    measured = found["forgetting"]["probe_summary"]["f_fixed"]["levels"] if stages else 0
    if stages > 1 and measured < stages - 1:
        said.append(f"F_fixed rests on {measured} of {stages - 1} levels: the others have no probe when they were "
                    "learnt or none now (the probe asks the six highest mastered levels).")  # fmt: skip
    unearned = [f"{s.skill} L{s.level}" for s in known.stages if not s.n]
    if unearned:
        said.append(f"The trial of {', '.join(unearned)} is not in the tables.")
    if found["repairs"] and any(one["held_at"] is None for one in found["repairs"]):
        left = ", ".join(f"{one['skill']} L{one['level']}" for one in found["repairs"] if one["held_at"] is None)
        said.append(f"Still in regression at the last check: {left}.")
    if found["method"]["budget"] == {"tokens": None, "steps": None} and found["cap"]["state"] == "climbing":
        said.append("The campaign has no budget, so only the maintenance multiplier can find its cap.")
    said.append("One seed: how much another seed would differ is not known.")
    return said


def text_of(found: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    return markdown(found)


def write(home: RealmHome, found: Mapping[str, Any]) -> Path:
    """Write `report.md` and `report.json` of a built report into the campaign's folder; returns the folder.

    Each file is written under another name and renamed: a kill leaves the older report whole.
    """
    folder = home.root / "campaigns" / found["campaign"]["name"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("report.json", json.dumps(found, indent=1, ensure_ascii=False)), ("report.md", text_of(found))):
        save_text(folder / name, text)
    return folder


def archive(home: RealmHome, made: sa.Engine, campaign_id: str) -> str:
    """Write a campaign's report and move it to the Hall of Legends (arena only); returns the folder, relative to the
    home. Killed in between it is done again: the campaign is archived only when its report is written."""
    with db.read(made) as connection:
        campaign = campaigns.get(connection, campaign_id)
        folder = Path("campaigns") / campaign["name"]
        if campaign["state"] == "archived":
            return folder.as_posix()
        now = db.now()
        found = build(connection, {**campaign, "state": "archived", "archived_at": now}, now)
    write(home, found)
    with db.write(made) as connection:
        lifecycle.archive(connection, campaigns.get(connection, campaign_id))
    return folder.as_posix()


def save_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
