"""The Mirror: the hero spars against its skills and learns from what it got wrong (realm-rules §7).

When the quest begins, the hero answers the problems of the quest's file as it stands; its wrong answers become rows
(`realm.quests.sparring` says which) that the Scribe's loss trains on. The rows lie in the quest's folder, so a quest
that is interrupted goes on with the same ones. A file may also hold sparring rows made elsewhere: those that still show
this very hero are trained on, expired ones are left out.

The quest's options: `ask` (problems, 2,000), `weak` (primitives that half of them aim at), `plain` (share of the rows
that are problems of the quest with their golden answers, as the Scribe has them: without these a small hero forgets
within thirty steps how to answer a plain question, 0.70 → 0.01 measured).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realm.guild.skills import Problem
from realm.guild.skills.base import keyed_hash
from realm.heroes.chat import Rendered
from realm.heroes.model import Hero
from realm.quests import sparring
from realm.quests.sparring import EXPIRES_STEPS, FILE, WANTED, Bout, Corner, Score, SparringError
from realm.schools import chassis, scribe
from realm.schools.chassis import Context, Dropped, Interrupted, OnStep, OptimizerState, Segment, TrainingError
from realm.settings import explain

FAMILY = scribe.FAMILY  # the same loss on other rows


class Options(BaseModel):
    """The quest's settings for the Mirror."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ask: int = Field(2_000, ge=1, description="problems at most; 2,000 answers take a small hero seconds")
    weak: tuple[str, ...] = ()
    plain: float = Field(0.5, ge=0, le=0.9)


def prepare(
    hero: Hero, raw: Sequence[Mapping[str, Any]], context: Context
) -> tuple[list[Rendered], list[Dropped]]:  # fmt: skip
    """The rows of this quest's sparring, or the sparring rows that the file brought; rendered.

    Raises:
        Interrupted: told to stop while the hero answered.
        TrainingError: problems that must not be asked, none at all, or more steps than the rows stay true for.
    """
    given = [(index, row) for index, row in enumerate(raw) if sparring.is_sparring(row)]
    dropped: list[Dropped] = []
    rows: list[Mapping[str, Any]] = []
    for index, row in given:
        reason = sparring.expired(row, context.campaign_id, context.run_id, context.step)
        if reason:
            dropped.append((index, "expired", f"{reason}; the hero is not the one whose mistakes it shows"))
        else:
            rows.append(row)
    if len(given) < len(raw):
        rows.extend(_session(hero, [row for row in raw if not sparring.is_sparring(row)], context))
    _check_expiry(rows, context)
    made, lost = hero.render([row["messages"] for row in rows])
    dropped.extend((given[index][0] if index < len(given) else index, code, text) for index, code, text in lost)
    return made, dropped


def train(
    hero: Hero, rows: Sequence[Rendered], segment: Segment, kept: OptimizerState, scratch: Path, on_step: OnStep,
    context: Context | None = None,
) -> None:  # fmt: skip
    """The Scribe's steps on the Mirror's rows."""
    scribe.train(hero, rows, segment, kept, scratch, on_step, context)


def problems(raw: Sequence[Mapping[str, Any]], context: Context) -> list[Problem]:
    """The problems of a quest's rows in keyed order: rows of idle quests are sorted by level.

    Raises:
        TrainingError: held-out problems, or none at all.
    """
    try:
        found = sparring.problems_of(raw, f"quest {context.quest_id}")
    except SparringError as error:
        raise TrainingError("unsupported", str(error)) from error
    return [found[i] for i in chassis.order(context.campaign_id, context.quest_id, 0, len(found))]


def bouts(hero: Hero, asked: Sequence[Problem], context: Context) -> list[Bout]:
    """Ask the hero as it stands.

    Raises:
        Interrupted: told to stop while the hero answered.
    """
    context.phase(f"sparring: {len(asked):,} problems")
    stopped = False

    def interrupted() -> bool:
        nonlocal stopped  # `context.interrupted` looks only now and then; what it once said stays
        stopped = stopped or context.interrupted()
        return stopped

    def answer(conversations: list[Any], room: int) -> list[tuple[str, int]]:
        answers = hero.answer(conversations, room, interrupted)
        if stopped:
            raise Interrupted
        return answers

    return sparring.spar(asked, answer, keyed_hash(context.seed, "sparring", context.quest_id))


def corner(context: Context) -> Corner:
    """Whose mistakes this sparring shows."""
    return Corner(context.campaign_id, context.run_id, context.checkpoint_id or "base", context.step)


def refusal(hero: Hero, context: Context) -> sparring.Refused:
    """Why a row may not be trained on: the Cleric's word, or that the hero cannot read it (too long)."""

    def refused(row: Mapping[str, Any]) -> str | None:
        if row["type"] == sparring.PLAIN:
            return None  # a row of the quest's own file: it passed the gate, and what cannot be read is told later
        if exam := context.held_out(row["messages"]):
            return f"holds a problem of {exam}"
        _, lost = hero.render([row["messages"]])
        return lost[0][1] if lost else None

    return refused


def _session(hero: Hero, raw: list[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
    """The rows of this quest's sparring: those on disk where the quest goes on, else of a new one."""
    path = context.folder / FILE
    try:
        found = sparring.read_session(path)
    except SparringError as error:
        raise TrainingError("data_changed", str(error)) from error
    if found is not None:
        rows, _ = found
        reason = sparring.expired(rows[0], context.campaign_id, context.run_id, context.step) if rows else None
        if reason is None:
            return rows
        text = f"The hero spars anew: what it was asked is out of date ({reason})"
        context.note("lesson", text, "info", what="outdated", reason=reason)
    options, all_of_them = _options(context), problems(raw, context)
    made = bouts(hero, sparring.aimed(all_of_them, options.weak, options.ask), context)
    context.phase("writing the sparring rows")
    groups = sparring.reflections(made, corner(context))
    plain = _plain(3 * len(groups), made, all_of_them, options, context)
    score = sparring.write_rows(path, [*groups, *plain], Score.of(made), refusal(hero, context))
    _tell(score, context)
    rows, _ = sparring.read_session(path)
    return rows


def _plain(
    reflected: int, made: Sequence[Bout], whole: Sequence[Problem], options: Options, context: Context
) -> list[list[dict[str, Any]]]:  # fmt: skip
    """So many problems with their golden answers that they are the share `plain` of all rows: those that the hero
    failed, then the others of the quest, asked or not; and from the first again where there are too few."""
    wanted = math.ceil(options.plain / (1 - options.plain) * reflected)
    failed = {bout.problem.id: bout.problem for bout in made if not bout.correct}
    order = [*failed.values(), *(problem for problem in whole if problem.id not in failed)]
    return [[sparring.plain(order[i % len(order)], corner(context))] for i in range(wanted)]


def _options(context: Context) -> Options:
    try:
        return Options.model_validate({key: value for key, value in context.options.items() if key != "oracle_eye"})
    except ValidationError as error:
        raise TrainingError("unsupported", explain(error, Options, f"options of quest {context.quest_id}")) from error


def _tell(score: Score, context: Context) -> None:
    left = sum(score.left_out.values())
    text = (f"Sparring: {score.asked:,} asked, {score.wrong:,} wrong ({score.absurd:,} of them absurd), {score.made:,} "
            f"rows of {score.own:,} own mistakes and {score.near_miss:,} near misses"
            + (f"; {left:,} left out" if left else ""))  # fmt: skip
    context.note("lesson", text, "info", what="sparring", **asdict(score), wanted=WANTED)


def _check_expiry(rows: Sequence[Mapping[str, Any]], context: Context) -> None:
    """An expired row is never trained on, so the quest must end before its first row does."""
    ends = min((row["expires_step"] for row in rows), default=None)
    if ends is not None and context.step + context.steps > ends:
        raise TrainingError(
            "unsupported",
            f"the quest has {context.steps:,} steps from step {context.step:,} on, but its rows expire at step "
            f"{ends:,} ({EXPIRES_STEPS:,} after the hero was asked); split it into quests of fewer steps",
        )
