"""The method of a campaign: what it plays for, within which budget, and where it comes from (`campaigns.method`).

A method can be written to a file and played with another hero (contracts C5):

    python3 -m training campaign export-method pip-1 --out method.yaml
    python3 -m training campaign new --hero flo --method method.yaml

Replayed are goals, budget, seed, schools and the size of idle quests; learning rate, batch and the like stay the
hero's own. The curriculum's constants belong to the program: they are recorded, and a difference is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import realm
from realm import db, lore
from realm.guild import curriculum, levels, progress
from realm.guild.campaigns import facts
from realm.guild.skills import get_skill, is_exam
from realm.heroes.profile import HeroProfile, IdleGeneration
from realm.settings import SettingsError, explain, nearest

FORMAT = 1
MAX_FILE_BYTES = 1_000_000


class MethodError(SettingsError):
    """A method that cannot be played; the message names the value, the rule and the next action."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Goal(_Frozen):
    """A skill to climb. `weight`: its share of the practice; `level`: where it is done, None = as far as it goes."""

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    level: int | None = Field(None, ge=1)


class Budget(_Frozen):
    """What the campaign may cost; None = without limit.

    `tokens`: read in training plus generated in trials. `steps`: optimizer steps. Both are looked at between quests,
    so the last quest may pass them.
    """

    tokens: int | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)


class Method(_Frozen):
    """Everything that another campaign needs to play the same way. `hero`, `data`, `curriculum`, `program` and
    `origin` are records; the rest is played."""

    format: Literal[1] = FORMAT
    goals: dict[str, Goal] = Field(default_factory=dict)
    budget: Budget = Budget()
    seed: int | None = Field(None, ge=0, lt=2**63)
    schools: list[str] = Field(default_factory=lambda: ["scribe"])
    idle_generation: IdleGeneration | None = None
    curriculum: dict[str, float | int | list[int]] = Field(default_factory=dict)
    program: str = ""
    hero: dict[str, Any] | None = None
    data: list[dict[str, Any]] = Field(default_factory=list)
    origin: dict[str, Any] | None = None


def validate(values: Any, where: str = "method") -> Method:
    """A method from plain values.

    Raises:
        MethodError: unknown key (with the nearest known one), a value that breaks a rule.
    """
    if not isinstance(values, Mapping):
        raise MethodError(f"{where}: expected 'key: value' lines, found {type(values).__name__}; export one with "
                          "`python3 -m training campaign export-method`")  # fmt: skip
    try:
        found = Method.model_validate(dict(values))
    except ValidationError as error:
        raise MethodError(explain(error, Method, where)) from error
    for school in found.schools:
        if school not in lore.SCHOOLS:
            raise MethodError(f"{where}: no school {school!r}{nearest(school, sorted(lore.SCHOOLS))}")
    return found


def parse(values: Any, where: str = "method") -> Method:
    """A method that can be played: as `validate`, and its skills and levels exist.

    Raises:
        MethodError: as `validate`, or a level that the skill does not have.
        realm.guild.skills.SkillError: a goal that is no skill.
    """
    found = validate(values, where)
    for skill_id, goal in found.goals.items():
        skill = get_skill(skill_id)
        if is_exam(skill_id):
            raise MethodError(f"{where}: goal {skill_id}: it is examined and never practised; choose another skill")
        if goal.level is not None and goal.level > skill.max_level:
            raise MethodError(f"{where}: goal {skill_id} level {goal.level}: the skill has levels 1 to "
                              f"{skill.max_level}; choose one of these")  # fmt: skip
    return found


def read_file(path: Path) -> dict[str, Any]:
    """The values of an exported method, YAML or JSON (JSON is YAML).

    Raises:
        MethodError: no such file, too large, not readable as a mapping.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MethodError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes; this is no exported method")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise MethodError(f"{path}: cannot be read as a method ({error}); export one with "
                          "`python3 -m training campaign export-method`") from error  # fmt: skip
    if not isinstance(values, dict):
        raise MethodError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    return values


def of(campaign: Mapping[str, Any]) -> Method:
    """The method of a campaign's row; one without a method plays its hero's own priorities without a budget."""
    return Method.model_validate(campaign["method"] or {})


def priorities(
    campaign: Mapping[str, Any], profile: HeroProfile, mastered: Mapping[str, int] | None = None
) -> dict[str, float]:  # fmt: skip
    """{skill: weight} to practise: the campaign's goals, or the hero's own where it has none.

    Args:
        mastered: {skill: mastered level}; a goal that has reached its level then gives way to the others, until all
            have (then all are kept up).
    """
    goals = of(campaign).goals
    if not goals:
        return dict(profile.skill_priorities)
    weights = {skill: goal.weight for skill, goal in goals.items()}
    if mastered is None:
        return weights
    behind = {skill: weight for skill, weight in weights.items()
              if goals[skill].level is None or mastered.get(skill, 0) < goals[skill].level}  # fmt: skip
    return behind or weights


def targets(campaign: Mapping[str, Any]) -> dict[str, int]:
    """{skill: level at which the campaign's goal is reached}; skills without one are left out."""
    return {skill: goal.level for skill, goal in of(campaign).goals.items() if goal.level is not None}


def played(profile: HeroProfile, campaign: Mapping[str, Any]) -> HeroProfile:
    """The hero's recipe as this campaign plays it: goals as its priorities, idle quests of the method's size."""
    method = of(campaign)
    changes: dict[str, Any] = {"skill_priorities": priorities(campaign, profile)}
    if method.idle_generation is not None:
        changes["idle_generation"] = method.idle_generation
    return profile.model_copy(update=changes)


def over_budget(campaign: Mapping[str, Any], spent: facts.Spent) -> str | None:
    """What of the budget is spent, in words, or None while it lasts (or there is none)."""
    budget, found = of(campaign).budget, []
    if budget.steps is not None and spent.steps >= budget.steps:
        found.append(f"{spent.steps:,} of {budget.steps:,} optimizer steps")
    if budget.tokens is not None and spent.charged >= budget.tokens:
        found.append(f"{spent.charged:,} of {budget.tokens:,} tokens (training and trials)")
    return " and ".join(found) or None


def export(connection: sa.Connection, campaign: Mapping[str, Any]) -> Method:
    """The method that a campaign was played by, resolved: also what it took from its hero is written out."""
    method, config = of(campaign), campaign["config"] or {}
    goals = method.goals or {skill: Goal(weight=weight) for skill, weight in
                             (config.get("skill_priorities") or {}).items() if weight > 0}  # fmt: skip
    quests = db.quests
    mine = quests.c.campaign_id == campaign["id"]
    schools = sorted(connection.execute(sa.select(quests.c.school).where(mine).distinct()).scalars())
    files = connection.execute(sa.select(quests.c.name, quests.c.content_sha256, quests.c.rows).where(
        mine, quests.c.kind == "file", quests.c.state == "done").order_by(quests.c.finished_at)).mappings()
    idle = method.idle_generation or (config.get("idle_generation") and
                                      IdleGeneration.model_validate(config["idle_generation"]))  # fmt: skip
    return Method(
        goals=goals, budget=method.budget, seed=campaign["seed"], schools=schools or method.schools,
        idle_generation=idle or None, curriculum=constants(), program=realm.__version__, hero=config or None,
        data=[{"name": f["name"], "sha256": f["content_sha256"], "rows": f["rows"]} for f in files],
        origin={"campaign_id": campaign["id"], "campaign": campaign["name"], "hero": campaign["hero_id"],
                "total_level": sum(progress.mastered_levels(connection, campaign["id"]).values())})  # fmt: skip


def constants() -> dict[str, float | int | list[int]]:
    """Numbers of the level rule and the curriculum that this program plays by."""
    return {
        "looks": list(levels.LOOKS), "threshold": levels.THRESHOLD, "closed_threshold": levels.CLOSED_THRESHOLD,
        "z_promote": levels.Z_PROMOTE, "z_retention": levels.Z_RETENTION, "lost_below": levels.LOST_BELOW,
        "check_max_age": levels.CHECK_MAX_AGE, "wait_after_fail": levels.WAIT_AFTER_FAIL,
        "max_lookahead": curriculum.MAX_LOOKAHEAD, "max_rehearsal": curriculum.MAX_REHEARSAL,
        "base_rehearsal": curriculum.BASE_REHEARSAL, "held_accuracy": curriculum.HELD_ACCURACY,
        "rehearsals_in_a_row": curriculum.REHEARSALS_IN_A_ROW,
    }  # fmt: skip


def differences(method: Method) -> list[str]:
    """Where this program's constants are not those that the method was played by, one sentence each."""
    now = constants()
    return [f"{name} was {value}, this program has {now.get(name, 'none')}"
            for name, value in sorted(method.curriculum.items()) if now.get(name) != value]  # fmt: skip


def goals_of(campaign: Mapping[str, Any]) -> dict[str, Goal]:
    """The skills a campaign plays for: its goals, or its hero's priorities as they were when it began."""
    own = (campaign["config"] or {}).get("skill_priorities") or {}
    return of(campaign).goals or {skill: Goal(weight=weight) for skill, weight in own.items() if weight > 0}


def spent_words(campaign: Mapping[str, Any], connection: sa.Connection) -> str | None:
    """`over_budget` of a campaign as its tables stand."""
    budget = of(campaign).budget
    if budget.tokens is None and budget.steps is None:
        return None  # nothing to sum up
    return over_budget(campaign, facts.spent(connection, campaign["id"]))

