"""The ledger audited: experience, verdicts, levels and champion computed again from the facts below them.

Reads only. Each `Difference` names the stored and the found value and the next action. By hand:
`python3 -m training ledger recompute [--regrade]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.guild.progression.verdicts import judge_trial, verdict_written
from realm.guild.skills import Problem, Skill, SkillError, get_skill
from realm.temple import ledger
from realm.vault.champion import champion

SHOWN = 20  # wrong answers named one by one, for each trial
RESTORE = "restore the database from a backup made before it was changed"


@dataclass(frozen=True)
class Difference:
    """One stored value that does not follow from the facts. `about`: what row it is; `action`: what to do next."""

    about: str
    what: str
    stored: Any
    found: Any
    action: str


@dataclass
class Report:
    """Everything about one campaign. `unchecked`: what could not be judged here, with the reason; no difference."""

    campaign_id: str
    name: str
    xp: float = 0.0
    recomputed_xp: float = 0.0
    blessings: int = 0
    levels: int = 0
    trials: int = 0
    answers: int = 0
    regraded: bool = False
    differences: list[Difference] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def audit(connection: sa.Connection, campaign_id: str, regrade: bool = False) -> Report:
    """Compute a campaign's ledger again, inside a caller's `db.read`.

    Args:
        regrade: also mark every stored answer again with the skill's grader.

    Raises:
        KeyError: no campaign has this id.
    """
    report = Report(campaign_id, campaigns.get(connection, campaign_id)["name"], regraded=regrade)
    _experience(connection, report)
    trials = _trials(connection, report, regrade)
    _evidence(connection, report, trials)
    _levels(connection, report, trials)
    _champion(connection, report)
    return report


# --- experience ---------------------------------------------------------------------------------------------------


def _experience(connection: sa.Connection, report: Report) -> None:
    found = ledger.audit(connection, report.campaign_id)
    report.xp, report.recomputed_xp, report.blessings = found["xp"], found["recomputed"], found["blessings"]
    for each in found["differences"]:
        report.differences.append(Difference(
            f"blessing of quest {each['quest_id']}", each["what"], each["stored"], each["found"],
            f"the stored parts and metrics give another number; {RESTORE}"))  # fmt: skip
    table = db.blessings.c
    query = sa.select(table.quest_id, table.verdict, table.quality).where(table.campaign_id == report.campaign_id)
    for quest_id, verdict, quality in connection.execute(query.order_by(table.t, table.id)):
        if not math.isfinite(quality) or verdict not in ("blessed", "partial", "cursed", "unproven"):
            report.differences.append(Difference(f"blessing of quest {quest_id}", "verdict", verdict, None, RESTORE))


def _evidence(connection: sa.Connection, report: Report, trials: Mapping[str, Mapping[str, Any]]) -> None:
    """The accuracies a blessing was given for are those of its battle's own trials."""
    table = db.blessings.c
    seen: dict[tuple[str, str, int], list[float]] = {}
    for trial in trials.values():
        if trial["battle_id"] and trial["n"] > 0:
            key = (trial["battle_id"], trial["skill"], trial["level"])
            seen.setdefault(key, []).append(trial["correct"] / trial["n"])
    query = sa.select(table.quest_id, table.battle_id, table.parts).where(table.campaign_id == report.campaign_id)
    for quest_id, battle_id, parts in connection.execute(query.order_by(table.t, table.id)):
        for level in (parts.get("levels") or []) if isinstance(parts, dict) else []:
            if not isinstance(level, dict) or not {"skill", "level", "accuracy"} <= set(level):
                continue  # told with the experience: parts that cannot be read
            sat = seen.get((battle_id, level["skill"], level["level"]), [])
            if not any(abs(accuracy - level["accuracy"]) < 1e-9 for accuracy in sat):
                report.differences.append(Difference(
                    f"blessing of quest {quest_id}", f"evidence: accuracy at {level['skill']} L{level['level']}",
                    level["accuracy"], sat[-1] if sat else None,
                    f"no trial of its battle has this accuracy; {RESTORE}"))  # fmt: skip


# --- trials -------------------------------------------------------------------------------------------------------


def _trials(connection: sa.Connection, report: Report, regrade: bool) -> dict[str, Mapping[str, Any]]:
    table = db.trials
    query = sa.select(table).where(table.c.campaign_id == report.campaign_id, table.c.skill.is_not(None))
    found = {row["id"]: row for row in connection.execute(query.order_by(table.c.started_at, table.c.id)).mappings()}
    counts = _counts(connection, report.campaign_id)
    report.trials = len(found)
    for trial in found.values():
        name = _named(trial)
        told, stored = (trial["correct"], trial["n"]), counts.get(trial["id"], (0, 0))
        if told != stored:
            report.differences.append(Difference(
                name, "counts against its stored answers (right, asked)", told, stored,
                f"it counts for nothing; examine again: {_again(trial)}"))  # fmt: skip
        report.differences += _verdict(trial)
        if regrade:
            _regrade(connection, report, trial)
    return found


def _counts(connection: sa.Connection, campaign_id: str) -> dict[str, tuple[int, int]]:
    items, trials = db.trial_items.c, db.trials.c
    query = sa.select(items.trial_id, sa.func.coalesce(sa.func.sum(sa.cast(items.correct, sa.Integer)), 0),
                      sa.func.count()).join(db.trials, trials.id == items.trial_id)  # fmt: skip
    rows = connection.execute(query.where(trials.campaign_id == campaign_id).group_by(items.trial_id))
    return {trial_id: (int(correct), int(n)) for trial_id, correct, n in rows}


def _verdict(trial: Mapping[str, Any]) -> Iterator[Difference]:
    try:
        found = verdict_written(trial)
    except ValueError as error:
        yield Difference(_named(trial), "counts", f"{trial['correct']} of {trial['n']}", None, f"{error}; {RESTORE}")
        return
    if found is not None and found != trial["verdict"]:
        yield Difference(_named(trial), "verdict", trial["verdict"], found,
                         f"{trial['correct']} of {trial['n']} is {found!r} by the level rule; {_again(trial)}")


def _regrade(connection: sa.Connection, report: Report, trial: Mapping[str, Any]) -> None:
    """Mark every stored answer of one trial again."""
    try:
        skill = get_skill(trial["skill"])
    except SkillError as error:
        report.unchecked.append(f"{_named(trial)}: its answers were not marked again: {error}")
        return
    items = db.trial_items.c
    query = sa.select(items.idx, items.problem, items.response, items.correct).where(items.trial_id == trial["id"])
    wrong, broken = [], ""
    for idx, row, response, correct in connection.execute(query.order_by(items.idx)):
        report.answers += 1
        now, why = _mark(skill, row, response)
        if now is None:
            broken = broken or f"answer {idx}: {why}"
        elif now != correct:
            wrong.append((idx, correct, now, why))
    for idx, stored, now, why in wrong[:SHOWN]:
        report.differences.append(Difference(
            f"{_named(trial)}, answer {idx}", "marked right", stored, now,
            f"the grader says: {why}; examine again: {_again(trial)}"))  # fmt: skip
    if len(wrong) > SHOWN:
        report.differences.append(Difference(_named(trial), f"answers marked differently beyond the {SHOWN} above",
                                             0, len(wrong) - SHOWN, f"examine again: {_again(trial)}"))  # fmt: skip
    if broken:
        report.differences.append(Difference(_named(trial), "stored problem", "unreadable", None,
                                             f"{broken}; {RESTORE}"))  # fmt: skip


def _mark(skill: Skill, row: Any, response: str) -> tuple[bool | None, str]:
    """(right, why); None where the stored problem cannot be graded."""
    try:
        grade = skill.grade(Problem.from_dict(row), response)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{type(error).__name__}: {error}"
    return grade.correct, grade.reason


# --- levels -------------------------------------------------------------------------------------------------------


def _levels(connection: sa.Connection, report: Report, trials: Mapping[str, Mapping[str, Any]]) -> None:
    table = db.levels
    query = sa.select(table).where(table.c.campaign_id == report.campaign_id)
    rows = connection.execute(query.order_by(table.c.skill, table.c.level)).mappings().all()
    report.levels = len(rows)
    have = {(row["skill"], row["level"]): row for row in rows}
    checkpoints = db.checkpoints.c
    known = set(connection.execute(
        sa.select(checkpoints.id).where(checkpoints.campaign_id == report.campaign_id)).scalars())  # fmt: skip
    for row in rows:
        name = f"level {row['skill']} L{row['level']}"
        again = f"examine it again: python3 -m training trial run --skill {row['skill']} --level {row['level']}"
        trial = trials.get(row["trial_id"])
        if trial is None:
            report.differences.append(Difference(
                name, "trial that proves it", row["trial_id"], None, f"no such trial in this campaign; {RESTORE}"))
            continue
        if trial["checkpoint_id"] not in known:
            report.differences.append(
                Difference(name, "checkpoint of its trial", trial["checkpoint_id"], None, RESTORE))  # fmt: skip
        below = have.get((row["skill"], row["level"] - 1))
        if row["level"] > 1 and (below is None or below["mastered_at"] > row["mastered_at"]):
            report.differences.append(Difference(
                name, f"L{row['level'] - 1} mastered before it", None if below is None else "later", "before", again))
        try:
            skill = get_skill(row["skill"])
        except SkillError as error:
            report.unchecked.append(f"{name}: {error}")
            continue
        report.differences += [Difference(name, what, stored, found, again)
                               for what, stored, found in _level_faults(row, trial, trials, skill)]  # fmt: skip


def _level_faults(
    row: Mapping[str, Any], trial: Mapping[str, Any], trials: Mapping[str, Mapping[str, Any]], skill: Skill
) -> Iterator[tuple[str, Any, Any]]:  # fmt: skip
    """(what, stored, found) of a level against the trial that it names."""
    if not 1 <= row["level"] <= skill.max_level:
        yield "level", row["level"], f"{skill.id} has levels 1 to {skill.max_level}"
        return
    differs = [(f"{what} of its trial", row[what], trial[what]) for what in ("skill", "level", "step")]
    differs.append(("kind of its trial", "promotion", trial["kind"]))
    differs.append(("its trial is suspicious (none right at a low training loss)", False, bool(trial["suspicious"])))
    differs.append(("closed", bool(row["closed"]), skill.closed(row["level"])))
    wrong = [each for each in differs if each[1] != each[2]]
    yield from wrong
    if any(what.startswith(("skill", "level", "kind")) for what, _, _ in wrong):
        return  # a verdict of another examination would say nothing
    try:
        verdict = judge_trial(trial)
    except ValueError:
        verdict = "impossible counts"
    if verdict != "pass":
        yield f"verdict of its trial ({trial['correct']} of {trial['n']})", "pass", verdict
    for other in trials.values():
        if (other["checkpoint_id"], other["skill"], other["level"]) == (
            trial["checkpoint_id"], trial["skill"], trial["level"]
        ) and other["kind"] == "promotion" and other["started_at"] < trial["started_at"] and (
            other["verdict"] in ("fail", "undecided")
        ):  # fmt: skip
            yield "the same weights had failed it before, in trial", None, other["id"]
            return


# --- champion -----------------------------------------------------------------------------------------------------


def _champion(connection: sa.Connection, report: Report) -> None:
    told = campaigns.value(connection, f"champion:{report.campaign_id}")
    found = champion(connection, report.campaign_id)
    now = found.checkpoint_id if found else None
    if told is not None and told != now:
        report.differences.append(Difference(
            "champion", "checkpoint", told, now, "the arena crowns again when the next battle is settled: "
            "python3 -m training battle resume"))  # fmt: skip


def _named(trial: Mapping[str, Any]) -> str:
    return f"trial {trial['id']} ({trial['kind']}, {trial['skill']} L{trial['level']})"


def _again(trial: Mapping[str, Any]) -> str:
    return f"python3 -m training trial run --skill {trial['skill']} --level {trial['level']}"
