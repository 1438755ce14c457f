"""What the arena draws from a result before it counts: answers are marked again, a trial is recorded, rows go on.

`judge` works outside the transaction (marking may take a while) and returns what is then written inside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.arena import trial
from realm.guild import levels
from realm.guild.skills import get_skill
from realm.jobs import kinds
from realm.jobs.bench import Task
from realm.jobs.inference import ROWS, trial_spec
from realm.jobs.kinds import JobError
from realm.quests.inbox import drop
from realm.settings import RealmHome
from realm.temple import verdicts

Write = Callable[[sa.Connection], dict[str, Any]]
"""Inside the transaction that keeps the job's result: writes the facts, returns the summary for the job's row."""


def judge(home: RealmHome, task: Task, outcome: Mapping[str, Any], folder: Path) -> Write:
    """Check a result.

    Args:
        folder: where the attempt's files lie.

    Raises:
        JobError: the result is not one that may count.
    """
    summary = dict(outcome["summary"])
    for name, facts in outcome["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            raise JobError("lost", f"{path} is not the file that the worker made; it is made again")
    relative = folder.relative_to(home.root).as_posix()
    summary["files"] = {name: {"path": f"{relative}/{name}", **facts} for name, facts in outcome["files"].items()}
    if task.kind == "eval":
        return _trial(task, outcome, summary)
    if task.kind == "health_check":
        return lambda connection: _keep_verdicts(connection, outcome["facts"]["verdicts"], summary)
    return lambda connection: _pass_on(home, task, folder, summary)


def _trial(task: Task, outcome: Mapping[str, Any], summary: dict[str, Any]) -> Write:
    """The trial's row. The problems must be those of the spec, in order, and every mark the one that this machine
    gives: a worker with another version of a skill is found out here."""
    payload = kinds.parse(task.kind, task.payload)
    spec, skill, facts = trial_spec(payload, task.seed), get_skill(payload.skill), outcome["facts"]
    problems = trial.draw(spec, skill)
    if not 1 <= len(facts["items"]) <= len(problems):
        raise JobError("mismatch", f"{len(facts['items'])} answers to a trial of at most {len(problems)} problems")
    items = []
    for problem, told in zip(problems, facts["items"], strict=False):
        if told["problem"]["id"] != problem.id or told["problem"]["golden"] != problem.golden:
            raise JobError("mismatch", f"the worker was not asked {problem.id}; bring it to this version of "
                           f"{skill.id} ({skill.version})")  # fmt: skip
        grade = skill.grade(problem, told["response"])
        if grade.correct != told["correct"]:
            raise JobError("mismatch", f"the worker marked {problem.id} otherwise than this machine does; bring it to "
                           f"this version of {skill.id} ({skill.version})")  # fmt: skip
        items.append(trial.Item(problem, told["response"], grade.correct, grade.reason))
    correct = sum(item.correct for item in items)
    verdict = trial.judge(spec, correct, len(items), last=len(items) == len(problems))
    if verdict == "continue":
        raise JobError("mismatch", f"{correct} of {len(items)} right decide nothing; the trial was not finished")
    made = trial.Result(spec, verdict, items, facts["tokens"], facts["loss"], facts["started_at"], facts["seconds"],
                        bounds=levels.wilson(correct, len(items), levels.Z_PROMOTE))  # fmt: skip

    def write(connection: sa.Connection) -> dict[str, Any]:
        table = db.checkpoints
        row = connection.execute(sa.select(table).where(table.c.id == payload.checkpoint)).mappings().one()
        subject = trial.Subject(row["campaign_id"], row["id"], row["step"])
        trial_id = trial.record(connection, made, subject)
        return {**summary, "trial_id": trial_id, "skill": spec.skill, "level": spec.level, "closed": spec.closed,
                "correct": correct, "n": len(items), "lower": made.bounds[0], "upper": made.bounds[1],
                "verdict": verdict, "loss": made.loss, "tokens": made.tokens, "seconds": made.seconds}  # fmt: skip

    return write


def _keep_verdicts(
    connection: sa.Connection, told: Sequence[Mapping[str, Any]], summary: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    for verdict in told:
        verdicts.keep(connection, verdict, "person")
    return summary


def _pass_on(home: RealmHome, task: Task, folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Rows that were ordered for the board go to the inbox, where the Cleric looks at them.

    Before the commit: after a crash in between, the next attempt makes the same bytes, which the inbox knows by hash.
    """
    lane, rows = task.payload.get("inbox"), folder / ROWS
    if lane is None or ROWS not in summary["files"] or rows.stat().st_size == 0:
        return summary
    named = folder / f"{task.kind.replace('_', '-')}-{task.job_id[-10:]}.jsonl"
    shutil.copyfile(rows, named)
    try:
        return {**summary, "inbox": drop(home, named, lane).relative_to(home.root).as_posix()}
    finally:
        named.unlink()
