"""What the tables say about one campaign, as plain rows for the pure functions beside this file.

    with db.read(engine) as connection:
        facts = read(connection, campaigns.get(connection, campaign_id))

`forgetting.py`, `climb.py` and `cap.py` work on these rows and never see a database. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild.campaigns.line import line_of


@dataclass(frozen=True)
class Stage:
    """One promotion: the end of a stage of the campaign. `correct` of `n` are its trial's; `at` Unix seconds.

    `order` = (start, id) of that trial: what is held from there on is after the stage.
    """

    skill: str
    level: int
    closed: bool
    step: int
    at: float
    trial_id: str
    battle_id: str | None
    order: tuple[float, str]
    correct: int
    n: int


@dataclass(frozen=True)
class Trial:
    """One recorded examination of a (skill, level); `at` is when it began. `given_up`: a rollback has since gone back
    to before the weights that it examined."""

    id: str
    skill: str
    level: int
    kind: str
    step: int
    at: float
    correct: int
    n: int
    closed: bool = False
    verdict: str = "measured"
    given_up: bool = False


@dataclass(frozen=True)
class Fight:
    """One battle with what it cost: optimizer steps, tokens read in training, tokens under the loss mask, tokens
    generated in trials, effort (strain summed over steps). `kind`, `skill`, `mix` {level: share}, `others`
    {skill: {level: share}} and `buffer` (share) are its quest's; kind None = a battle of trials alone.
    """

    id: str
    at: float
    steps: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    trial_tokens: int = 0
    effort: float = 0.0
    quest_id: str | None = None
    kind: str | None = None
    skill: str | None = None
    mix: Mapping[int, float] = field(default_factory=dict)
    others: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    buffer: float = 0.0


@dataclass(frozen=True)
class Facts:
    """Everything that the report, the cap and the forgetting matrix are drawn from, oldest first."""

    stages: tuple[Stage, ...]
    trials: tuple[Trial, ...]
    fights: tuple[Fight, ...]


@dataclass(frozen=True)
class Spent:
    """Sums over a campaign. `charged` is what a token budget counts: read in training plus generated in trials."""

    steps: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    trial_tokens: int = 0
    effort: float = 0.0

    @property
    def charged(self) -> int:
        return self.tokens + self.trial_tokens


def read(connection: sa.Connection, campaign: Mapping[str, Any]) -> Facts:
    """Stages, trials and battles of one campaign."""
    fights = _fights(connection, campaign["id"])
    return Facts(_stages(connection, campaign["id"]), _trials(connection, campaign["id"]), fights)


def spent(connection: sa.Connection, campaign_id: str) -> Spent:
    """What the campaign has cost so far; trials are always counted.

    Steps that were lost with a crash and trained again are counted once: their rows are deleted when the battle goes
    on from its checkpoint (contracts A8).
    """
    metrics, trials = db.metrics, db.trials
    of_campaign = metrics.c.run_id.in_(sa.select(db.runs.c.id).where(db.runs.c.campaign_id == campaign_id))
    sums = [sa.func.coalesce(sa.func.sum(metrics.c[name]), 0)
            for name in ("steps", "tokens", "trained_tokens", "effort")]  # fmt: skip
    steps, tokens, trained, effort = connection.execute(sa.select(*sums).where(of_campaign)).one()
    query = sa.select(sa.func.coalesce(sa.func.sum(trials.c.tokens), 0)).where(trials.c.campaign_id == campaign_id)
    return Spent(int(steps), int(tokens), int(trained), int(connection.execute(query).scalar_one()), float(effort))


def outcomes(connection: sa.Connection, trial_ids: Iterable[str]) -> dict[str, dict[str, bool]]:
    """{trial id: {problem: right?}} from the stored answers, for paired comparisons of the same problems."""
    items, found = db.trial_items, {}
    for trial_id in dict.fromkeys(trial_ids):
        query = sa.select(items.c.idx, items.c.problem, items.c.correct).where(items.c.trial_id == trial_id)
        found[trial_id] = {_problem(row.problem, row.idx): bool(row.correct) for row in connection.execute(query)}
    return found


def _problem(problem: Any, index: int) -> str:
    named = problem.get("canonical") or problem.get("id") if isinstance(problem, Mapping) else None
    return f"{named if named is not None else index}"


def _stages(connection: sa.Connection, campaign_id: str) -> tuple[Stage, ...]:
    levels, trials = db.levels, db.trials
    query = sa.select(
        levels, trials.c.started_at, trials.c.battle_id, trials.c.correct, trials.c.n,
    ).outerjoin(trials, trials.c.id == levels.c.trial_id).where(levels.c.campaign_id == campaign_id)  # fmt: skip
    found = []
    for row in connection.execute(query).mappings():
        at = row["mastered_at"] if row["started_at"] is None else row["started_at"]
        found.append(Stage(row["skill"], row["level"], bool(row["closed"]), row["step"], row["mastered_at"],
                           row["trial_id"], row["battle_id"], (at, row["trial_id"]), row["correct"] or 0,
                           row["n"] or 0))  # fmt: skip
    return tuple(sorted(found, key=lambda stage: stage.order))


def _trials(connection: sa.Connection, campaign_id: str) -> tuple[Trial, ...]:
    table, line = db.trials, line_of(connection, campaign_id)
    query = sa.select(table).where(table.c.campaign_id == campaign_id, table.c.skill.is_not(None),
                                   table.c.level.is_not(None), table.c.n > 0, table.c.suspicious.is_(False))
    own = db.checkpoints.c.campaign_id == campaign_id
    gone = set() if line.unbroken else {key for key, run, step in connection.execute(
        sa.select(db.checkpoints.c.id, db.checkpoints.c.run_id, db.checkpoints.c.step).where(own))
        if not line.has(run, step)}  # fmt: skip
    rows = connection.execute(query.order_by(table.c.started_at, table.c.id)).mappings()
    return tuple(Trial(r["id"], r["skill"], r["level"], r["kind"], r["step"], r["started_at"], r["correct"], r["n"],
                       bool(r["closed"]), r["verdict"], r["checkpoint_id"] in gone) for r in rows)  # fmt: skip


def _fights(connection: sa.Connection, campaign_id: str) -> tuple[Fight, ...]:
    battles, metrics, trials, quests = db.battles, db.metrics, db.trials, db.quests
    own = sa.select(battles.c.id).where(battles.c.campaign_id == campaign_id)
    query = sa.select(metrics.c.battle_id, *(sa.func.sum(metrics.c[name]).label(name)
                      for name in ("steps", "tokens", "trained_tokens", "effort")))  # fmt: skip
    cost = {row["battle_id"]: dict(row) for row in connection.execute(
        query.where(metrics.c.battle_id.in_(own)).group_by(metrics.c.battle_id)).mappings()}  # fmt: skip
    query = sa.select(trials.c.battle_id, sa.func.sum(trials.c.tokens)).where(trials.c.campaign_id == campaign_id)
    asked = dict(connection.execute(query.group_by(trials.c.battle_id)).all())
    query = sa.select(battles.c.id, battles.c.started_at, battles.c.quest_id, quests.c.kind, quests.c.skill,
                      quests.c.mix, quests.c.rehearsal).outerjoin(quests, quests.c.id == battles.c.quest_id)
    rows = connection.execute(query.where(battles.c.campaign_id == campaign_id)
                              .order_by(battles.c.started_at, battles.c.id)).mappings()  # fmt: skip
    return tuple(_fight(row, cost.get(row["id"], {}), asked.get(row["id"], 0)) for row in rows)


def _fight(row: Mapping[str, Any], cost: Mapping[str, Any], asked: int) -> Fight:
    rehearsal = dict(row["rehearsal"] or {})
    buffer = rehearsal.pop("buffer", 0.0)
    return Fight(
        row["id"], row["started_at"], int(cost.get("steps") or 0), int(cost.get("tokens") or 0),
        int(cost.get("trained_tokens") or 0), int(asked or 0), float(cost.get("effort") or 0.0), row["quest_id"],
        row["kind"], row["skill"], _shares(row["mix"]),
        {skill: _shares(mix) for skill, mix in rehearsal.items() if isinstance(mix, Mapping)},
        float(buffer) if isinstance(buffer, (int, float)) else 0.0)  # fmt: skip


def _shares(mix: Mapping[str, float] | None) -> dict[int, float]:
    return {int(level): float(share) for level, share in (mix or {}).items()}
