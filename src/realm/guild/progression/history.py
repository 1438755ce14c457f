"""The facts that achievements are drawn from: frozen rows of a campaign, in the order in which they became known.

Only what is never changed afterwards is read (levels, trials, blessings, beginnings of runs), so what was true of the
facts up to a moment stays true. `History.of` sorts, so the order in which rows are found says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter

import sqlalchemy as sa

from realm import db


@dataclass(frozen=True)
class LevelFact:
    """A level was mastered at Unix second `t`, proved by a trial."""

    skill: str
    level: int
    closed: bool
    t: float
    step: int
    trial_id: str


@dataclass(frozen=True)
class TrialFact:
    """A trial ended at `t`. `quest_id`: the quest after which it was sat; `primitives`: {tag: (correct, n)} of a trial
    that mastered a level."""

    id: str
    t: float
    kind: str
    skill: str
    level: int
    closed: bool
    n: int
    correct: int
    verdict: str
    suspicious: bool
    step: int
    checkpoint_id: str
    quest_id: str | None = None
    primitives: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class BlessingFact:
    """A quest was blessed at `t`; kind, skill, school and content are the quest's own."""

    id: str
    t: float
    quest_id: str
    verdict: str
    quality: float
    effort: float
    xp: float
    kind: str
    skill: str | None = None
    school: str = "scribe"
    content: str | None = None


@dataclass(frozen=True)
class RunFact:
    """A run began at `t`; `parent_step`: of the checkpoint it goes on from, None for a campaign's first run."""

    id: str
    t: float
    parent_step: int | None


_ORDER = {"levels": attrgetter("t", "skill", "level"), "trials": attrgetter("t", "id"),
          "blessings": attrgetter("t", "id"), "runs": attrgetter("t", "id")}  # fmt: skip


@dataclass(frozen=True)
class History:
    """The facts of one campaign; make it with `of`, which sorts them."""

    levels: tuple[LevelFact, ...] = ()
    trials: tuple[TrialFact, ...] = ()
    blessings: tuple[BlessingFact, ...] = ()
    runs: tuple[RunFact, ...] = ()

    @cached_property
    def blessed_at(self) -> tuple[float, ...]:
        """Times of the blessings, rising."""
        return tuple(b.t for b in self.blessings)

    @classmethod
    def of(cls, levels: Iterable[LevelFact] = (), trials: Iterable[TrialFact] = (),
           blessings: Iterable[BlessingFact] = (), runs: Iterable[RunFact] = ()) -> History:  # fmt: skip
        """The facts in the order in which they became known; ties by id."""
        given = {"levels": levels, "trials": trials, "blessings": blessings, "runs": runs}
        return cls(**{name: tuple(sorted(rows, key=_ORDER[name])) for name, rows in given.items()})

    def until(self, t: float) -> History:
        """What was known at `t`."""
        return History(**{name: tuple(row for row in getattr(self, name) if row.t <= t) for name in _ORDER})


def read_history(connection: sa.Connection, campaign_id: str) -> History:
    """The history of one campaign; an unknown one has none."""
    return History.of(_levels(connection, campaign_id), _trials(connection, campaign_id),
                      _blessings(connection, campaign_id), _runs(connection, campaign_id))  # fmt: skip


def _levels(connection: sa.Connection, campaign_id: str) -> list[LevelFact]:
    table = db.levels
    query = sa.select(table).where(table.c.campaign_id == campaign_id)
    return [LevelFact(r.skill, r.level, r.closed, r.mastered_at, r.step, r.trial_id)
            for r in connection.execute(query)]  # fmt: skip


def _trials(connection: sa.Connection, campaign_id: str) -> list[TrialFact]:
    c, lv = db.trials.c, db.levels.c
    # Tags are asked of trials that mastered a level only; decoding them for every trial would be most of the time.
    won = connection.execute(sa.select(c.id, c.by_primitive).join(
        db.levels, sa.and_(lv.trial_id == c.id, lv.campaign_id == c.campaign_id)).where(c.campaign_id == campaign_id))
    tags = {trial_id: {tag: (counts[0], counts[1]) for tag, counts in (found or {}).items()} for trial_id, found in won}
    query = sa.select(
        c.id, c.started_at + c.seconds, c.kind, c.skill, c.level, c.closed, c.n, c.correct, c.verdict, c.suspicious,
        c.step, c.checkpoint_id, c.quest_id,
    ).where(c.campaign_id == campaign_id, c.skill.is_not(None), c.level.is_not(None), c.n > 0)  # fmt: skip
    return [TrialFact(*row, tags.get(row[0], {})) for row in connection.execute(query)]


def _blessings(connection: sa.Connection, campaign_id: str) -> list[BlessingFact]:
    b, q = db.blessings.c, db.quests.c
    both = db.blessings.outerjoin(db.quests, q.id == b.quest_id)
    query = sa.select(b.id, b.t.label("at"), b.quest_id, b.verdict, b.quality, b.effort, b.xp, q.kind, q.skill,
                      q.school, q.content_sha256).select_from(both).where(b.campaign_id == campaign_id)  # fmt: skip
    return [BlessingFact(r.id, r.at, r.quest_id, r.verdict, r.quality, r.effort, r.xp, r.kind or "", r.skill,
                         r.school or "", r.content_sha256) for r in connection.execute(query)]  # fmt: skip


def _runs(connection: sa.Connection, campaign_id: str) -> list[RunFact]:
    runs, checkpoints = db.runs, db.checkpoints
    query = sa.select(runs.c.id, runs.c.created_at, runs.c.parent_checkpoint_id, checkpoints.c.step).select_from(
        runs.outerjoin(checkpoints, checkpoints.c.id == runs.c.parent_checkpoint_id)
    ).where(runs.c.campaign_id == campaign_id)  # fmt: skip
    return [RunFact(r.id, r.created_at, r.step) for r in connection.execute(query)]
