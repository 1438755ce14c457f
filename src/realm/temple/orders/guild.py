"""Order of the Guild: each skill makes problems, marks its own golden answers right and an echo wrong, keeps splits."""

from __future__ import annotations

from collections.abc import Iterator

from realm.guild import campaigns, progress
from realm.guild.skills import Problem, Skill, SkillError, all_skills, get_skill
from realm.temple.orders.check import Asked, Check, Order

COUNT = 3  # problems of each split at each level that is looked at
SEED = 20_261


def _skills(asked: Asked) -> Iterator[Check]:
    sound = []
    for skill_id, levels in _chosen(asked):
        try:
            skill = get_skill(skill_id)
            faults = [fault for level in levels or _spread(skill) for fault in faults_of(skill, level)]
        except SkillError as error:
            yield Check(f"skill {skill_id}", "fail", str(error), _remedy(skill_id))
            continue
        except Exception as error:  # a skill may be a module or a server of someone else's
            faults = [f"{type(error).__name__}: {error}"]
        if faults:
            yield Check(f"skill {skill_id}", "fail", "; ".join(faults[:3]), _remedy(skill_id))
        else:
            sound.append(skill_id)
    named = ", ".join(sound) if len(sound) <= 4 else f"{len(sound)} skills"
    if sound:
        yield Check("skills", "ok", f"{named}: golden answers are right, echoes wrong, splits apart")


def _chosen(asked: Asked) -> list[tuple[str, tuple[int, ...]]]:
    """(skill, levels to look at; none: a spread of them)."""
    if asked.ceremony:
        return sorted(asked.ceremony.skills.items())
    ids = {skill.id for skill in all_skills()}
    if asked.home.database.exists():
        from realm import db

        with db.read(asked.engine) as connection:
            campaign = campaigns.active(connection)
            ids |= {skill.id for skill in progress.played_skills(connection, campaign)} if campaign else set()
    return [(skill_id, ()) for skill_id in sorted(ids)]


def _spread(skill: Skill) -> list[int]:
    return sorted({1, (1 + skill.max_level) // 2, skill.max_level})


def faults_of(skill: Skill, level: int) -> list[str]:
    """What is wrong with a skill at one level."""
    closed, faults = skill.closed(level), []
    made: dict[str, list[Problem]] = {}
    for split in ("train",) if closed else ("train", "trial"):
        made[split] = skill.generate(level, COUNT, SEED, split)
        if len(made[split]) != COUNT:
            faults.append(f"L{level} makes {len(made[split])} of {COUNT} {split} problems")
    for split, problems in made.items():
        for problem in problems:
            if not skill.grade(problem, problem.golden).correct:
                faults.append(f"L{level} marks its own golden answer wrong: {problem.golden[:60]!r}")
            if skill.grade(problem, problem.prompt).correct:
                faults.append(f"L{level} marks an echo of the question right")
            # All of a closed level's table may be trained (contracts B2): its problems have no split to keep.
            if not closed and problem.split != split:
                faults.append(f"L{level} gives a {problem.split} problem as {split}")
            elif not closed and skill.split_of(problem.prompt) not in (split, None):
                faults.append(f"L{level}: a {split} problem is told as {skill.split_of(problem.prompt)}")
    shared = {p.canonical for p in made["train"]} & {p.canonical for p in made.get("trial", ())}
    if shared:
        faults.append(f"L{level}: train and trial share {len(shared)} problems")
    return faults


def _remedy(skill_id: str) -> str:
    prefix, colon, name = skill_id.partition(":")
    return {
        "module": f"python3 -m training module validate {name}; install it again, or remove it",
        "url": f"start the skill server {name}, or take it out of skill_servers in settings.yaml",
        "rg": 'install it: pip install -e ".[guild]"',
    }.get(prefix if colon else "", "install this program again; take the skill out of the goals meanwhile")


GUILD = Order("guild", "Guild", "each skill makes and marks its own problems, splits are apart", False, (_skills,))
