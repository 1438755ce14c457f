"""Passives: a small frozen suite of everyday answers and human text, unrelated to every skill, held as a canary.

    python3 -m training passives show

A hero that practises one thing may lose others. The suite (`passives.json`: 147 short tasks and the continuation of 32
passages, all written for this project) is asked greedily, each item once, and is never practised. What counts is the
change between checkpoints, not the level: a tiny hero answers hardly anything right, so the loss of the golden answers
and of the human text is measured too, item by item.

When it is held (`due`): on the first checkpoint of a campaign, on every checkpoint that passes a promotion trial (each
becomes a champion candidate with a level more), and at the latest ten finished quests after the last time. The
champion rule (contracts B3) does not read it.

Drift (`drift`) is the change since the campaign's first measurement, with a 99 % interval. It is told as an event when
the whole interval lies beyond a tolerance: more than 0.05 of the answers lost, or a loss risen by more than 10 %.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.guild import progress
from realm.guild.campaigns.line import line_of
from realm.guild.skills.base import Grade, LevelInfo, Problem, SkillError, Split, check_level

SKILL, KIND = "passives", "passive"
SHA256 = "9ef7faf3e8febed21b7667c19d5432395c014b3aff55dd9e5d16eba4e0c0086d"
"""Of `passives.json`. Another text is another suite: its results must not be compared with these."""
PARTS = ("answers", "human_text")
"""Level 1 and level 2 of the suite."""
EVERY_QUESTS = 10
Z = 2.58  # 99 %
ANSWERS_LOST = 0.05  # share of the answers
LOSS_RISEN = 0.10  # of the loss at the first measurement
ROOM = {1: 48, 2: 8}  # new tokens; the longest golden answer has 25 characters, of a passage only the start is asked
LOOP = 4  # the same three words this often in a row of an answer: it loops


class PassivesError(ValueError):
    """A comparison that cannot be made; the text says why and what to do."""


@cache
def suite() -> dict[str, Any]:
    """The frozen items.

    Raises:
        PassivesError: the file is not the one this program was published with.
    """
    raw = files("realm.guild").joinpath("passives.json").read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256:
        raise PassivesError(f"passives.json has sha256 {found[:12]}…, this program knows {SHA256[:12]}…; a changed "
                            "suite needs a new version and a new SHA256: results of the two cannot be compared")
    return json.loads(raw)


class PassiveSuite:
    """The suite behind the skill contract: examined, never practised, so it has no problems to train on."""

    id, name, max_level, threshold = SKILL, "Passives", len(PARTS), 0.80
    description = "A frozen canary suite: everyday answers and human text, never practised."

    @property
    def version(self) -> str:
        return f"{suite()['version']}-{SHA256[:8]}"

    def levels(self) -> list[LevelInfo]:
        """1: short tasks. 2: the next words of human text."""
        words = ("147 everyday tasks with short answers", "32 passages written by people")
        return [LevelInfo(n, PARTS[n - 1], words[n - 1], closed=True, distinct=len(suite()[PARTS[n - 1]]),
                          max_new_tokens=ROOM[n], threshold=self.threshold) for n in (1, 2)]  # fmt: skip

    def closed(self, level: int) -> bool:
        check_level(self.id, level, self.max_level)
        return True

    def table(self, level: int) -> list[Problem]:
        """Every item of a part, always in the same order."""
        check_level(self.id, level, self.max_level)
        return [self._problem(level, item) for item in suite()[PARTS[level - 1]]]

    def _problem(self, level: int, item: Mapping[str, Any]) -> Problem:
        checks = {key: item[key] for key in ("has", "match", "cased", "words") if key in item}
        return Problem(
            skill=self.id, level=level, difficulty=item["group"], kind=PARTS[level - 1], operation=item["group"],
            prompt=item["prompt"], golden=item["golden"], canonical=item["id"], id=f"{self.id}-{item['id']}",
            split="probe", extra={"suite": self.version, **checks})  # fmt: skip

    def generate(self, level: int, count: int, seed: int, split: Split = "train") -> list[Problem]:
        """Always SkillError: what is practised is no canary any more."""
        raise SkillError(f"split {split!r}: the passives are examined and never practised; practise another skill")

    def problem_of(self, prompt: str) -> Problem:
        """The item with this prompt. SkillError where there is none."""
        found = next((p for level in (1, 2) for p in self.table(level) if p.prompt == prompt), None)
        if found is None:
            raise SkillError(f"prompt {prompt[:80]!r}: no item of the passives; see `training passives show --items`")
        return found

    def split_of(self, prompt: str) -> Split | None:
        """"probe" for an item of the suite: the Cleric keeps it out of every file."""
        return "probe" if " ".join(prompt.split()) in _prompts() else None

    def grade(self, problem: Problem, response: str) -> Grade:
        """Short tasks by their own check; human text by its next word."""
        text = " ".join(response.split())
        if not text:
            return Grade(False, 0.0, "empty answer")
        if problem.level == 2:
            same = _words(text)[:1] == _words(problem.golden)[:1]
            return Grade(same, float(same), "the next word" if same else "another next word")
        fault = _fault(problem, text)
        return Grade(fault is None, float(fault is None), fault or "right")


@cache
def _prompts() -> frozenset[str]:
    return frozenset(item["prompt"] for part in PARTS for item in suite()[part])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _fault(problem: Problem, text: str) -> str | None:
    """What is wrong with an answer to a short task, or None."""
    checks, words = problem.extra, _words(text)
    if any(words[i : i + 3 * LOOP] == words[i : i + 3] * LOOP for i in range(len(words))):
        return "loops"
    if len(words) > 3 * len(_words(problem.golden)) + 12:
        return "does not stop"
    if "words" in checks and len(words) > checks["words"]:
        return f"more than {checks['words']} words"
    if checks.get("cased"):
        return None if text == problem.golden else "not letter for letter"
    if "match" in checks:
        return None if re.fullmatch(checks["match"], text) else "in another form"
    asked = _words(problem.prompt)
    if len(asked) > 4 and any(words[i : i + len(asked)] == asked for i in range(len(words))):
        return "repeats the question"  # a greeting may be answered by itself
    if "has" in checks:
        wanted = [_words(word) for word in checks["has"]]
        found = any(words[i : i + len(w)] == w for w in wanted for i in range(len(words)))
        return None if found else "another answer"
    return None


# --- when it is held ----------------------------------------------------------------------------------------------

def plans(connection: sa.Connection, campaign_id: str, may_promote: bool) -> list[dict[str, Any]]:
    """The suite's trials after a quest, in the form of `battles.config["trials"]`.

    Args:
        may_promote: a promotion trial is planned before them. When nothing else asks for the suite, its trials are
            marked `after_pass`: held only if one of the promotion trials of this very battle passed.
    """
    forced = due(connection, campaign_id)
    if not forced and not may_promote:
        return []
    return [{"kind": KIND, "skill": SKILL, "level": level, "closed": False, "threshold": PassiveSuite.threshold,
             "seed": 0, "max_n": len(suite()[PARTS[level - 1]]), "after_pass": not forced} for level in (1, 2)]


def due(connection: sa.Connection, campaign_id: str) -> str | None:
    """Why the suite is asked for after the next quest whatever its trials say, or None."""
    last = _measured(connection, campaign_id, newest=True)
    if last is None:
        return "the first measurement of the campaign"
    quests = progress.quests_trained(connection, campaign_id, last["started_at"]) + 1  # + 1: the one to be trained
    return f"{quests} quests since the last" if quests >= EVERY_QUESTS else None


def _measured(connection: sa.Connection, campaign_id: str, newest: bool) -> dict[str, Any] | None:
    """The campaign's first or newest whole measurement of this suite: a row of its last part. One that was cut off
    between the parts (the battle was stopped, or died) is no measurement, and is made again."""
    found = [row for row in _rows(connection, campaign_id) if row["level"] == len(PARTS)]
    found = (_in_line(connection, campaign_id, found) if newest else []) or found
    return (found[-1] if newest else found[0]) if found else None


def _in_line(
    connection: sa.Connection, campaign_id: str, rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:  # fmt: skip
    """Those measured on weights that the hero goes on with, not on what a rollback gave up."""
    line, table = line_of(connection, campaign_id), db.checkpoints
    if line.unbroken:
        return list(rows)
    places = {key: (run, step) for key, run, step in connection.execute(
        sa.select(table.c.id, table.c.run_id, table.c.step).where(table.c.campaign_id == campaign_id))}  # fmt: skip
    return [r for r in rows if r["checkpoint_id"] not in places or line.has(*places[r["checkpoint_id"]])]


def _rows(connection: sa.Connection, campaign_id: str, checkpoint_id: str | None = None) -> list[dict[str, Any]]:
    """Trials of this very suite, oldest first; those of another version are left out."""
    table, items = db.trials, db.trial_items
    version = sa.func.json_extract(items.c.problem, "$.extra.suite")
    query = sa.select(table, version.label("suite")).join(items, sa.and_(items.c.trial_id == table.c.id,
                                                                         items.c.idx == 0))
    query = query.where(table.c.campaign_id == campaign_id, table.c.kind == KIND, table.c.skill == SKILL)
    if checkpoint_id is not None:
        query = query.where(table.c.checkpoint_id == checkpoint_id)
    rows = connection.execute(query.order_by(table.c.started_at, table.c.id)).mappings()
    return [dict(row) for row in rows if row["suite"] == PassiveSuite().version]


def history(connection: sa.Connection, campaign_id: str) -> list[dict[str, Any]]:
    """Every measurement, oldest first: {checkpoint_id, step, part, n, correct, loss, by_group}."""
    return [{"checkpoint_id": row["checkpoint_id"], "step": row["step"], "part": PARTS[row["level"] - 1],
             "n": row["n"], "correct": row["correct"], "loss": row["loss"], "by_group": row["by_difficulty"],
             "trial_id": row["id"], "started_at": row["started_at"]} for row in _rows(connection, campaign_id)]


# --- what changed -------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Change:
    """One part at two checkpoints, item by item. `accuracy` and `loss` are after minus before, each with its 99 %
    interval; `loss` is None where no loss was stored. `gained`, `lost`: items that became right, or wrong."""

    part: str
    n: int
    before: int
    after: int
    gained: int
    lost: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    loss_before: float | None
    loss_after: float | None
    loss: float | None
    loss_interval: tuple[float, float] | None

    @property
    def drifted(self) -> tuple[str, ...]:
        """Measures whose whole interval lies beyond the tolerance."""
        found = []
        if self.accuracy_interval[1] < -ANSWERS_LOST:
            found.append("accuracy")
        if self.loss_interval is not None and self.loss_interval[0] > LOSS_RISEN * abs(self.loss_before):
            found.append("loss")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "drifted": list(self.drifted)}


def paired_accuracy(gained: int, lost: int, n: int, z: float = Z) -> tuple[float, float]:
    """Interval of a difference of paired proportions (Agresti and Min 2005, eq. 4: half an item added to each cell).

    It never collapses to a point, also when nothing changed.
    """
    b, c, m = gained + 0.5, lost + 0.5, n + 2.0
    middle = (b - c) / m
    spread = z * math.sqrt(max(0.0, b + c - (b - c) ** 2 / m)) / m
    return max(-1.0, middle - spread), min(1.0, middle + spread)


def paired_mean(differences: Sequence[float], z: float = Z) -> tuple[float, float]:
    """Interval of a mean of paired differences, by the normal approximation; wide open below two of them."""
    n = len(differences)
    if n < 2:
        return -math.inf, math.inf
    mean = sum(differences) / n
    spread = z * math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    return mean - spread, mean + spread


def compare(connection: sa.Connection, campaign_id: str, checkpoint_a: str, checkpoint_b: str) -> list[Change]:
    """What changed from checkpoint a to b, by part; the newest measurement of each counts.

    Raises:
        PassivesError: a checkpoint of another campaign, or one that the suite was not held on.
    """
    found = []
    for checkpoint in (checkpoint_a, checkpoint_b):
        rows = {row["level"]: row for row in _rows(connection, campaign_id, checkpoint)}
        if not rows:
            known = ", ".join(dict.fromkeys(row["checkpoint_id"] for row in _rows(connection, campaign_id))) or "none"
            raise PassivesError(f"checkpoint {checkpoint!r}: the passives were not held on it; choose one of: {known}")
        found.append(rows)
    return [_change(connection, level, found[0][level], found[1][level])
            for level in sorted(found[0].keys() & found[1].keys())]  # fmt: skip


def _change(connection: sa.Connection, level: int, a: Mapping[str, Any], b: Mapping[str, Any]) -> Change:
    before, after = (_items(connection, row["id"]) for row in (a, b))
    shared = sorted(before.keys() & after.keys())
    pairs = [(before[key], after[key]) for key in shared]
    gained = sum(not x[0] and y[0] for x, y in pairs)
    lost = sum(x[0] and not y[0] for x, y in pairs)
    losses = [(x[1], y[1]) for x, y in pairs if x[1] is not None and y[1] is not None]
    n = len(pairs)
    means = [sum(pair[i] for pair in losses) / len(losses) for i in (0, 1)] if losses else [None, None]
    return Change(
        part=PARTS[level - 1], n=n, before=sum(x[0] for x, _ in pairs), after=sum(y[0] for _, y in pairs),
        gained=gained, lost=lost, accuracy=(gained - lost) / n if n else 0.0,
        accuracy_interval=paired_accuracy(gained, lost, n), loss_before=means[0], loss_after=means[1],
        loss=means[1] - means[0] if losses else None,
        loss_interval=paired_mean([y - x for x, y in losses]) if len(losses) > 1 else None)  # fmt: skip


def _items(connection: sa.Connection, trial_id: str) -> dict[str, tuple[bool, float | None]]:
    """{item: (right, loss of its golden answer in nats per token)}."""
    query = sa.select(db.trial_items).where(db.trial_items.c.trial_id == trial_id)
    return {row["problem"]["canonical"]: (bool(row["correct"]), row["problem"]["extra"].get("loss"))
            for row in connection.execute(query).mappings()}  # fmt: skip


def drift(connection: sa.Connection, campaign_id: str, checkpoint_id: str | None = None) -> list[Change]:
    """The change from the campaign's first measurement to a checkpoint's (default: the newest); [] without two."""
    first, last = (_measured(connection, campaign_id, newest) for newest in (False, True))
    target = checkpoint_id or (last["checkpoint_id"] if last else None)
    if first is None or target in (None, first["checkpoint_id"]):
        return []
    return compare(connection, campaign_id, first["checkpoint_id"], target)


def tell_drift(connection: sa.Connection, campaign_id: str, trials: Sequence[Mapping[str, Any]]) -> list[Change]:
    """Events for drift that these new trials show and the measurement before them did not; returns what was told.

    Called by the arena when it settles a battle, inside its transaction.
    """
    new = [trial for trial in trials if trial["kind"] == KIND]
    if not new:
        return []
    checkpoint = new[-1]["checkpoint_id"]
    earlier = [row["checkpoint_id"] for row in _in_line(connection, campaign_id, _rows(connection, campaign_id))
               if row["started_at"] < min(trial["started_at"] for trial in new)]  # fmt: skip
    known = {(change.part, name) for change in (drift(connection, campaign_id, earlier[-1]) if earlier else ())
             for name in change.drifted}  # fmt: skip
    told = []
    for change in drift(connection, campaign_id, checkpoint):
        fresh = [name for name in change.drifted if (change.part, name) not in known]
        for name in fresh:
            events.emit(connection, "drift", _text(change, name), "trouble", suite=PassiveSuite().version,
                        part=change.part, measure=name, checkpoint_id=checkpoint, change=change.to_dict())  # fmt: skip
        if fresh:
            told.append(change)
    return told


def _text(change: Change, measure: str) -> str:
    if measure == "accuracy":
        low, high = change.accuracy_interval
        what = "next words of human text" if change.part == "human_text" else "everyday answers"
        return (f"Passives: {change.after} of {change.n} {what} right, {change.before} at the campaign's "
                f"first measurement ({change.accuracy:+.2f}, 99 % interval {low:+.2f} to {high:+.2f})")  # fmt: skip
    low, high = change.loss_interval
    what = "human text" if change.part == "human_text" else "everyday answers"
    return (f"Passives: loss of {what} {change.loss_after:.2f}, {change.loss_before:.2f} at the campaign's first "
            f"measurement ({change.loss:+.2f}, 99 % interval {low:+.2f} to {high:+.2f})")  # fmt: skip
