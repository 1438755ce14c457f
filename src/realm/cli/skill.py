"""`training skill …`: levels, problems, grading."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from realm.cli.common import Json, Refused, say, skill_named, table

skill_app = typer.Typer(no_args_is_help=True, help="Skills: levels, problems, grading.")


@skill_app.command("list")
def skill_list(
    everything: Annotated[
        bool, typer.Option("--all", help="Also the tasks of reasoning-gym and the configured skill servers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Skills this realm knows."""
    from realm.guild.skills import all_skills

    rows = [{"id": s.id, "name": s.name, "version": s.version, "levels": s.max_level, "threshold": s.threshold}
            for s in all_skills()]  # fmt: skip
    if everything:
        rows += _further()
    say(rows, as_json, table([list(r.values()) for r in rows], ["id", "name", "version", "levels", "threshold"]))


def _further() -> list[dict]:
    """Skills that are made from their id; a server is not asked for its list."""
    from realm.guild.skills import reasoning_gym
    from realm.settings import RealmHome

    rows = [{"id": f"{reasoning_gym.SOURCE}:{name}", "name": name.replace("_", " ").capitalize(),
             "version": f"1+{reasoning_gym.survey()['package']}",
             "levels": len(reasoning_gym.survey()["tasks"][name]["levels"]), "threshold": 0.8}
            for name in reasoning_gym.task_names()]  # fmt: skip
    servers = RealmHome().settings.skill_servers
    return rows + [{"id": f"url:{name}", "name": url, "version": None, "levels": None, "threshold": None}
                   for name, url in sorted(servers.items())]  # fmt: skip


@skill_app.command("levels")
def skill_levels(skill: str, as_json: Json = False) -> None:
    """The level table of a skill."""
    infos = skill_named(skill).levels()
    rows = [{"level": i.level, "name": i.name, "closed": i.closed, "distinct": i.distinct} for i in infos]
    say(rows, as_json, table([list(r.values()) for r in rows], ["level", "name", "closed", "distinct problems"]))


@skill_app.command("generate")
def skill_generate(
    skill: str,
    level: int = 1,
    count: int = 5,
    seed: int = 0,
    split: Annotated[str, typer.Option(help="train or public")] = "train",
) -> None:
    """Print problems as JSONL, one sample a line; trial and probe problems stay secret, as over HTTP."""
    from realm.guild.skills.base import OPEN_SPLITS

    if split not in OPEN_SPLITS:
        raise Refused(f"split {split!r}: only {' and '.join(OPEN_SPLITS)} problems are given out; a hero that could "
                      "see trial or probe problems could learn its exam")  # fmt: skip
    try:
        problems = skill_named(skill).generate(level=level, count=count, seed=seed, split=split)
    except ValueError as error:
        raise Refused(str(error)) from error
    for problem in problems:
        print(json.dumps(problem.to_dict(), ensure_ascii=False))


@skill_app.command("grade")
def skill_grade(
    skill: str,
    prompt: Annotated[str, typer.Option(help="The problem's prompt.")],
    response: Annotated[str, typer.Option(help="The answer to grade.")],
    as_json: Json = False,
) -> None:
    """Grade one answer; exit code 2 when it is wrong."""
    chosen = skill_named(skill)
    try:
        grade = chosen.grade(chosen.problem_of(prompt), response)
    except ValueError as error:
        raise Refused(str(error)) from error
    say({"correct": grade.correct, "score": grade.score, "reason": grade.reason}, as_json,
        f"{'correct' if grade.correct else 'wrong'}: {grade.reason}")  # fmt: skip
    raise typer.Exit(0 if grade.correct else 2)
