"""Debuffs: what is wrong with the present weights, each with its exact rule, its evidence and its cure.

`read_present` gathers the facts, `active` judges them; a debuff is gone as soon as its rule is not true any more.
After a rollback only what was measured on the weights that the hero still descends from counts: a regression of
weights that were given up is no regression of the hero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from realm import db
from realm.guild import progress
from realm.guild.levels import CHECK_MAX_AGE, LOST_BELOW, THRESHOLD, WAIT_AFTER_FAIL, regressed
from realm.guild.progression.lineage import Line, held_on, line_of

DRILL_TRIALS = 3
DRILL_RISE = 0.05  # nats per token over the three trials; trials of 40 problems differ by less from chance alone
DRILL_KINDS = ("promotion", "scout", "retention")
RECENT_TRIALS = 60
DULL_QUESTS = 3
EXHAUSTED_BATTLES = 2
STEPS_SEEN = 500  # newest steps of the newest battle
WILD_STEPS, WILD_TIMES = 50, 10.0
TRANCE_STEPS, TRANCE_NORM, TRANCE_STRAIN = 50, 1e-3, 0.3
REPEATED_N, REPEATED_SHARE = 40, 0.5


class Exam(NamedTuple):
    """One trial in short; strains in nats per token, None where the trial has no loss or its step no metrics row."""

    id: str
    t: float
    skill: str
    level: int
    n: int
    correct: int
    verdict: str
    suspicious: bool = False
    trial_strain: float | None = None
    practice_strain: float | None = None


class Bout(NamedTuple):
    """One battle in short."""

    id: str
    t: float
    failed: bool
    error: str = ""


class Ruling(NamedTuple):
    """One blessing in short."""

    id: str
    t: float
    verdict: str
    of_skill: bool


class Present(NamedTuple):
    """What is known about the present weights. Sequences are newest first."""

    fallen: tuple[Exam, ...] = ()  # newest check, young enough to count, of each mastered level that fell
    severed: tuple[Exam, ...] = ()  # trials of levels that were proved only on weights given up
    humbled: tuple[Exam, ...] = ()  # failed promotion trials whose waiting time is not over
    exams: tuple[Exam, ...] = ()
    repeated: tuple[str, int] | None = None  # of the newest trial: most frequent wrong answer, how often
    blessings: tuple[Ruling, ...] = ()
    battles: tuple[Bout, ...] = ()
    steps: tuple[tuple[float | None, float], ...] = ()  # (gradient norm, strain) of the newest battle's last steps


class Affliction(NamedTuple):
    """A debuff that is true now: since when (Unix seconds), why in one sentence, and the facts that show it."""

    t: float
    why: str
    evidence: tuple[str, ...]


class Debuff(NamedTuple):
    """`ml`: what a paper would call it; `about`: the exact rule; `cure`: what ends it."""

    id: str
    name: str
    ml: str
    about: str
    cure: str
    rule: Callable[[Present], Affliction | None]


# --- rules --------------------------------------------------------------------------------------------------------


def _named(exams: tuple[Exam, ...]) -> str:
    return ", ".join(f"{e.skill} L{e.level} ({e.correct} of {e.n})" for e in exams)


def _of(exams: tuple[Exam, ...], words: str) -> Affliction | None:
    if not exams:
        return None
    return Affliction(min(e.t for e in exams), f"{_named(exams)} {words}", tuple(e.id for e in exams))


def _fragmented(now: Present) -> Affliction | None:
    return _of(now.fallen, "no longer held")


def _severed(now: Present) -> Affliction | None:
    return _of(now.severed, "proved only by weights that were given up")


def _humbled(now: Present) -> Affliction | None:
    return _of(now.humbled, "failed its trial")


def _hollow(now: Present) -> Affliction | None:
    newest = now.exams[:1]
    return _of(newest, "right although the training loss is low") if newest and newest[0].suspicious else None


def _over_drilled(now: Present) -> Affliction | None:
    series: dict[tuple[str, int], list[Exam]] = {}
    for exam in now.exams:
        if exam.trial_strain is not None and exam.practice_strain is not None:
            series.setdefault((exam.skill, exam.level), []).append(exam)
    for (skill, level), exams in sorted(series.items()):
        last = exams[:DRILL_TRIALS][::-1]
        if len(last) < DRILL_TRIALS:
            continue
        held = [e.trial_strain or 0.0 for e in last]
        practice = [e.practice_strain or 0.0 for e in last]
        rising = all(b > a for a, b in zip(held, held[1:], strict=False)) and held[-1] - held[0] >= DRILL_RISE
        falling = all(b < a for a, b in zip(practice, practice[1:], strict=False))
        if rising and falling:
            why = (f"{skill} L{level}: trial strain {held[0]:.3f} to {held[-1]:.3f} while practice strain fell "
                   f"{practice[0]:.3f} to {practice[-1]:.3f}")  # fmt: skip
            return Affliction(last[-1].t, why, tuple(e.id for e in last))
    return None


def _corrupted(now: Present) -> Affliction | None:
    if not now.blessings or now.blessings[0].verdict != "cursed":
        return None
    return Affliction(now.blessings[0].t, "the newest quest was cursed", (now.blessings[0].id,))


def _dull(now: Present) -> Affliction | None:
    last = [b for b in now.blessings if b.of_skill][:DULL_QUESTS]
    if len(last) < DULL_QUESTS or any(b.verdict != "unproven" for b in last):
        return None
    return Affliction(last[-1].t, f"{DULL_QUESTS} skill quests in a row were unproven", tuple(b.id for b in last))


def _torn(now: Present) -> Affliction | None:
    newest = now.battles[0] if now.battles else None
    if newest is None or not newest.failed or "became NaN" not in newest.error:
        return None
    return Affliction(newest.t, newest.error, (newest.id,))


def _exhausted(now: Present) -> Affliction | None:
    last = now.battles[:EXHAUSTED_BATTLES]
    if len(last) < EXHAUSTED_BATTLES or not all(b.failed for b in last):
        return None
    return Affliction(last[-1].t, f"the last {EXHAUSTED_BATTLES} battles failed", tuple(b.id for b in last))


def _wild(now: Present) -> Affliction | None:
    norms = sorted(norm for norm, _ in now.steps if norm is not None)
    if len(norms) < WILD_STEPS or norms[-1] <= WILD_TIMES * norms[len(norms) // 2]:
        return None
    battle = now.battles[0]
    why = f"gradient norm {norms[-1]:.2f}, the median is {norms[len(norms) // 2]:.2f}"
    return Affliction(battle.t, why, (battle.id,))


def _trance(now: Present) -> Affliction | None:
    last = [(norm, strain) for norm, strain in now.steps[:TRANCE_STEPS] if norm is not None]
    if len(last) < TRANCE_STEPS or max(n for n, _ in last) >= TRANCE_NORM:
        return None
    strain = sum(s for _, s in last) / len(last)
    if strain < TRANCE_STRAIN:
        return None
    battle = now.battles[0]
    return Affliction(battle.t, f"gradient norm below {TRANCE_NORM} at strain {strain:.2f}", (battle.id,))


def _repeating(now: Present) -> Affliction | None:
    if now.repeated is None or not now.exams:
        return None
    text, times = now.repeated
    newest = now.exams[0]
    if newest.n < REPEATED_N or times < REPEATED_SHARE * newest.n:
        return None
    return Affliction(newest.t, f"{times} of {newest.n} answers are the same wrong one: {text[:40]!r}", (newest.id,))


DEBUFFS: tuple[Debuff, ...] = (
    Debuff("fragmented_thoughts", "Fragmented Thoughts", "forgetting",
           f"the newest retention check of a mastered level, at most {CHECK_MAX_AGE} quests old, found it in "
           f"regression (upper bound below {THRESHOLD:.2f}) or lost (below {LOST_BELOW:.2f}); no level rises meanwhile",
           "a rehearsal quest of these levels, which the hero loop makes by itself; gone when a check finds them held",
           _fragmented),
    Debuff("severed_thread", "Severed Thread", "rollback past a mastered level",
           "a mastered level was proved by weights that a rollback gave up, and no check has held on the present ones",
           "a retention check that holds; the hero loop asks for it, oldest first", _severed),
    Debuff("over_drilled", "Over-Drilled", "overfitting",
           f"over the last {DRILL_TRIALS} trials of one (skill, level) trial strain rises each time, by "
           f"{DRILL_RISE} nats or more in all, while practice strain falls each time",
           "other data: rehearsal, easier and harder levels mixed in, or a new file", _over_drilled),
    Debuff("humbled", "Humbled", "failed trial",
           f"the newest promotion trial of the level in training failed or was undecided, and fewer than "
           f"{WAIT_AFTER_FAIL} quest was trained since", "one quest of training", _humbled),
    Debuff("hollow_words", "Hollow Words", "suspicious evaluation",
           "the newest trial has no right answer while the training loss is below 0.05",
           "look at the trial's stored answers: template, stop token or grader; then examine again", _hollow),
    Debuff("curse_of_repetition", "Curse of Repetition", "mode collapse",
           f"half or more of the newest trial's answers ({REPEATED_N} or more) are one and the same wrong text",
           "go back to the champion, lower the learning rate, mix in other levels", _repeating),
    Debuff("dull_blade", "Dull Blade", "underfitting",
           f"the last {DULL_QUESTS} skill quests were all unproven",
           "easier levels in the mix, longer quests, or a higher learning rate", _dull),
    Debuff("corrupted_knowledge", "Corrupted Knowledge", "bad data or damaged checkpoint",
           "the newest quest was cursed",
           "mend or remove its file (see the Cleric's report); the next blessing ends it", _corrupted),
    Debuff("exhaustion", "Exhaustion", "battles that fail", f"the last {EXHAUSTED_BATTLES} battles failed",
           "read logs/battle.log; when memory ran out choose a smaller batch or a lighter memory mode", _exhausted),
    Debuff("reality_tear", "Reality Tear", "loss or gradient not a number",
           "the newest battle failed because its loss or gradient became NaN",
           "lower the learning rate, then resume from the last checkpoint", _torn),
    Debuff("wild_magic", "Wild Magic", "gradient spikes",
           f"in the newest battle's last {STEPS_SEEN} steps ({WILD_STEPS} or more) the largest gradient norm is over "
           f"{WILD_TIMES:.0f} times the median", "a lower learning rate or a tighter clip", _wild),
    Debuff("trance", "Trance", "vanishing gradients",
           f"the newest {TRANCE_STEPS} steps all have a gradient norm below {TRANCE_NORM} at a mean strain of "
           f"{TRANCE_STRAIN} or more", "check precision and learning rate; go back to the champion", _trance),
)  # fmt: skip


def active(now: Present) -> dict[str, Affliction]:
    """{debuff id: why}, the gravest first."""
    return {each.id: found for each in DEBUFFS if (found := each.rule(now)) is not None}


# --- facts --------------------------------------------------------------------------------------------------------


def read_present(connection: sa.Connection, campaign_id: str) -> Present:
    """What the rules need, for one campaign; an unknown one has nothing wrong with it."""
    line = line_of(connection, campaign_id)
    mastered = progress.mastered_levels(connection, campaign_id)
    exams = _exams(connection, campaign_id, line)
    battles = _battles(connection, campaign_id)
    return Present(
        fallen=_fallen(connection, campaign_id, line), severed=_severed_levels(connection, campaign_id, line, mastered),
        humbled=_humbled_exams(connection, campaign_id, line, exams, mastered), exams=exams,
        repeated=_repeated(connection, exams[0]) if exams else None, blessings=_blessings(connection, campaign_id),
        battles=battles, steps=_steps(connection, battles[0].id) if battles else ())  # fmt: skip


def _exams(connection: sa.Connection, campaign_id: str, line: Line) -> tuple[Exam, ...]:
    t, c, m = db.trials.c, db.checkpoints.c, db.metrics.c
    query = sa.select(
        t.id, t.started_at, t.skill, t.level, t.n, t.correct, t.verdict, t.suspicious, t.loss, c.run_id, c.step,
        m.strain, m.floor,
    ).select_from(
        db.trials.join(db.checkpoints, c.id == t.checkpoint_id)
        .outerjoin(db.metrics, sa.and_(m.run_id == c.run_id, m.step == c.step))
    ).where(t.campaign_id == campaign_id, t.skill.is_not(None), t.n > 0, t.kind.in_(DRILL_KINDS))  # fmt: skip
    rows = connection.execute(query.order_by(t.started_at.desc(), t.id.desc()).limit(RECENT_TRIALS)).all()
    return tuple(
        Exam(r.id, r.started_at, r.skill, r.level, r.n, r.correct, r.verdict, r.suspicious,
             None if r.loss is None or r.floor is None else max(0.0, r.loss - r.floor), r.strain)
        for r in rows if line.has(r.run_id, r.step)
    )  # fmt: skip


def _exam(connection: sa.Connection, line: Line, *where: sa.ColumnElement[bool]) -> Exam | None:
    """The newest trial in the hero's line for which this is true."""
    t, c = db.trials.c, db.checkpoints.c
    query = sa.select(t.id, t.started_at, t.skill, t.level, t.n, t.correct, t.verdict, c.run_id, c.step).join(
        db.checkpoints, c.id == t.checkpoint_id).where(*where, t.n > 0)  # fmt: skip
    for r in connection.execute(query.order_by(t.started_at.desc(), t.id.desc())):
        if line.has(r.run_id, r.step):
            return Exam(r.id, r.started_at, r.skill, r.level, r.n, r.correct, r.verdict)
    return None


def _fallen(connection: sa.Connection, campaign_id: str, line: Line) -> tuple[Exam, ...]:
    t = db.trials.c
    found = []
    for check in regressed(progress.retention_checks(connection, campaign_id)):
        newest = _exam(connection, line, t.campaign_id == campaign_id, t.skill == check.skill, t.level == check.level,
                       t.kind.in_(progress.CHECK_KINDS))  # fmt: skip
        if newest is not None and newest.verdict in ("regression", "lost"):
            found.append(newest)
    return tuple(sorted(found, key=lambda e: (e.skill, e.level)))


def _severed_levels(
    connection: sa.Connection, campaign_id: str, line: Line, mastered: Mapping[str, int]
) -> tuple[Exam, ...]:  # fmt: skip
    if line.unbroken:
        return ()
    lv, t, c = db.levels.c, db.trials.c, db.checkpoints.c
    query = sa.select(t.id, t.started_at, lv.skill, lv.level, t.n, t.correct, t.verdict, c.run_id, c.step).select_from(
        db.levels.join(db.trials, t.id == lv.trial_id).join(db.checkpoints, c.id == t.checkpoint_id)
    ).where(lv.campaign_id == campaign_id).order_by(lv.skill, lv.level)  # fmt: skip
    found, again = [], held_on(connection, campaign_id, line)
    for r in connection.execute(query).all():
        if line.has(r.run_id, r.step) or r.level > mastered.get(r.skill, 0):
            continue
        if (r.skill, r.level) not in again:
            found.append(Exam(r.id, r.started_at, r.skill, r.level, r.n, r.correct, r.verdict))
    return tuple(found)


def _humbled_exams(connection: sa.Connection, campaign_id: str, line: Line, exams: tuple[Exam, ...],
                   mastered: Mapping[str, int]) -> tuple[Exam, ...]:  # fmt: skip
    t = db.trials.c
    found = []
    for skill in sorted({e.skill for e in exams} | set(mastered)):
        level = mastered.get(skill, 0) + 1
        newest = _exam(connection, line, t.campaign_id == campaign_id, t.skill == skill, t.level == level,
                       t.kind == "promotion")  # fmt: skip
        if newest is None or newest.verdict not in ("fail", "undecided"):
            continue
        since = progress.quests_since_fail(connection, campaign_id, skill, level)
        if since is not None and since < WAIT_AFTER_FAIL:
            found.append(newest)
    return tuple(found)


def _repeated(connection: sa.Connection, newest: Exam) -> tuple[str, int] | None:
    if newest.n < REPEATED_N or newest.correct > (1 - REPEATED_SHARE) * newest.n:
        return None  # so many are right that no wrong one can be half of them
    items = db.trial_items.c
    query = sa.select(items.response).where(items.trial_id == newest.id, items.correct.is_(False))
    counts = Counter(connection.execute(query).scalars())
    return min(counts.items(), key=lambda item: (-item[1], item[0]), default=None)


def _blessings(connection: sa.Connection, campaign_id: str) -> tuple[Ruling, ...]:
    b, q = db.blessings.c, db.quests.c
    query = sa.select(b.id, b.t.label("at"), b.verdict, q.skill).select_from(
        db.blessings.outerjoin(db.quests, q.id == b.quest_id)).where(b.campaign_id == campaign_id)  # fmt: skip
    rows = connection.execute(query.order_by(b.t.desc(), b.id.desc()).limit(4 * DULL_QUESTS))
    return tuple(Ruling(r.id, r.at, r.verdict, r.skill is not None) for r in rows)


def _battles(connection: sa.Connection, campaign_id: str) -> tuple[Bout, ...]:
    b = db.battles.c
    query = sa.select(b.id, b.ended_at, b.state, b.outcome, b.error).where(
        b.campaign_id == campaign_id, b.ended_at.is_not(None))  # fmt: skip
    rows = connection.execute(query.order_by(b.ended_at.desc(), b.id.desc()).limit(EXHAUSTED_BATTLES))
    return tuple(Bout(r.id, r.ended_at, r.state == "failed" or r.outcome == "failed", r.error or "") for r in rows)


def _steps(connection: sa.Connection, battle_id: str) -> tuple[tuple[float | None, float], ...]:
    m = db.metrics.c
    query = sa.select(m.grad_norm, m.strain).where(m.battle_id == battle_id)
    return tuple((r[0], r[1]) for r in connection.execute(query.order_by(m.step.desc()).limit(STEPS_SEEN)))
