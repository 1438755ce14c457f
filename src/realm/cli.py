"""`python3 -m training …` (console script `realm`): thin commands over the realm's own modules.

Commands that change the game insert a row into `commands` and wait a moment for the arena's answer; they mean the same
with the services down: the arena takes them up when it starts (contracts A1).
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from realm.settings import LANES, RealmHome, SettingsError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="The Realm of Training: data, battle, held-out trial, level, checkpoint, next quest.",
)  # fmt: skip
quest_app = typer.Typer(no_args_is_help=True, help="Training data on the quest board.")
battle_app = typer.Typer(no_args_is_help=True, help="Control the running battle.")
trial_app = typer.Typer(no_args_is_help=True, help="Examine the hero on held-out problems.")
skill_app = typer.Typer(no_args_is_help=True, help="Skills: levels, problems, grading.")
vault_app = typer.Typer(no_args_is_help=True, help="Checkpoints.")
hero_app = typer.Typer(no_args_is_help=True, help="Heroes (models).")
for name, group in (("quest", quest_app), ("battle", battle_app), ("trial", trial_app), ("skill", skill_app),
                    ("vault", vault_app), ("hero", hero_app)):  # fmt: skip
    app.add_typer(group, name=name)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Refused(Exception):
    """A command cannot be done; printed without a traceback, exit code 1."""


def main() -> None:
    """Entry point of `python3 -m training` and `realm`."""
    # A command imports, answers and ends: looking for garbage meanwhile is a tenth of its time. `serve` turns it on.
    gc.disable()
    try:
        from realm.db import SchemaError
        from realm.supervise import StartError

        try:
            app()
        except (Refused, SettingsError, StartError, SchemaError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
    finally:
        gc.enable()


def say(data: Any, as_json: bool, text: str) -> None:
    print(json.dumps(data, indent=2, default=str) if as_json else text)


def table(rows: list[list[Any]], head: list[str]) -> str:
    """Plain aligned columns; readable in a pipe and by a screen reader."""
    cells = [head, *[["" if value is None else " ".join(str(value).split()) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
                     for row in cells)  # fmt: skip


def open_db(home: RealmHome):
    """Engine of the realm's database; only `start-all` and `doctor --fix` make one (contracts A1)."""
    from realm import db

    if not home.database.exists():
        raise Refused(f"no realm at {home.root} yet; `python3 -m training start-all` makes one (or set REALM_HOME)")
    return db.connect(home)


# ---------------------------------------------------------------- whole realm


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Do what is safe to repair.")] = False, as_json: Json = False
) -> None:
    """Check this machine and this realm home; exit code 1 when something must be done before playing."""
    from realm import doctor as checks

    home = RealmHome()
    rows = checks.examine(home, fix)
    text = table([[r.status, r.name, r.found, r.minimum, r.recommended, r.fix] for r in rows],
                 ["status", "check", "found", "minimum", "recommended", "next action"])  # fmt: skip
    say(checks.as_json(home, rows), as_json, text)
    raise typer.Exit(1 if checks.failed(rows) else 0)


@app.command("start-all")
def start_all(
    until_battle: Annotated[float, typer.Option(help="Also wait up to this many seconds for the first battle.")] = 0.0,
    arena: Annotated[bool, typer.Option("--arena/--no-arena", help="Start the hero loop too.")] = True,
) -> None:
    """Start the game: web pages, live state, skills and the hero loop."""
    from realm import services, supervise

    home = RealmHome()
    begun = time.monotonic()
    started = supervise.start_all(home, arena)
    if "supervisor" not in started:
        also = f"started again: {', '.join(started)}." if started else "nothing was started."
        print(f"The realm at {home.root} already runs; {also} `python3 -m training stop-all` ends it.")
    supervise.wait_until_answering(home)
    print(f"Tavern:     {services.url(home.settings, 'tavern')}   (answered after {time.monotonic() - begun:.1f} s)")
    if not home.settings.loopback:
        print("            first visit of a browser: add ?token=<your token> to the address")
    print(f"Inbox:      {home.inbox}   (drop .jsonl files here)")
    print(f"Realm home: {home.root}")
    if until_battle and arena:
        _wait_for_battle(home, until_battle)


def _wait_for_battle(home: RealmHome, timeout_s: float) -> None:
    from realm import supervise
    from realm.state.reader import read_snapshot

    begun = time.monotonic()
    while time.monotonic() - begun < timeout_s:
        snapshot = read_snapshot(home)
        over = snapshot.battle.state in ("idle", "done", "failed")
        if over and snapshot.mode == "rest":
            print("resting; continue with `python3 -m training battle resume`")
            return
        if over and not home.settings.idle_generation and not any(snapshot.queue.model_dump().values()):
            print(f"the board is empty and `idle_generation` is off in settings.yaml: no battle begins until a file is "
                  f"dropped into {home.inbox}")  # fmt: skip
            return
        if snapshot.battle.state in ("training", "paused", "trial") and snapshot.battle.step:
            print(f"{snapshot.hero.name} is in battle: {snapshot.battle.quest}, step {snapshot.battle.step}.")
            return
        time.sleep(0.2)
    raise Refused(f"no battle began within {timeout_s:.0f} s; end of {home.logs}/arena.log:\n"
                  + supervise.log_tail(home, "arena"))  # fmt: skip


@app.command("stop-all")
def stop_all() -> None:
    """End what start-all started, and only that; a running battle saves a checkpoint first."""
    from realm import supervise

    ended = supervise.stop_all(RealmHome())
    print(f"ended: {', '.join(ended)}" if ended else "nothing was running")


@app.command()
def status(as_json: Json = False) -> None:
    """Show the realm's current state: the same snapshot the pages show."""
    from realm import services, supervise
    from realm.state.reader import read_snapshot

    home = RealmHome()
    engine = open_db(home)
    snapshot = read_snapshot(home, engine)
    engine.dispose()
    states = supervise.process_states(home)
    if as_json:
        data = snapshot.model_dump(mode="json")
        data["home"], data["inbox"] = str(home.root), str(home.inbox)
        data["services"] = None if states is None else {s.name: s.state for s in states}
        say(data, True, "")
        return
    words = "not running" if states is None else ", ".join(f"{s.name} {s.state.lower()}" for s in states)
    hero, battle, queue = snapshot.hero, snapshot.battle, snapshot.queue
    known = [f"{name.upper()} {s.mastered_level}" for name, s in snapshot.skills.items()]
    print(f"services   {words}")
    if hero is None:
        print("hero       none yet; `python3 -m training start-all` begins the first campaign")
    else:
        print(f"hero       {hero.name}, {hero.step} steps, level {hero.level}, total level {hero.total_level}, "
              f"XP {hero.xp:.1f}, effort {hero.effort:.1f}")  # fmt: skip
    print(f"skills     {', '.join(known) or 'none yet'}")
    line = battle.state
    if battle.loss is not None:
        line += f", {battle.quest}, step {battle.step}/{battle.total_steps}, loss {battle.loss:.4f}, zone {battle.zone}"
    print(f"battle     {line}")
    print(f"queue      high {queue.high}, normal {queue.normal}, low {queue.low}, inbox {queue.inbox}")
    print(f"tavern     {services.url(home.settings, 'tavern')}")
    print(f"inbox      {home.inbox}")


@app.command()
def serve(names: Annotated[list[str], typer.Argument(help="tavern, state, bin, or arena alone")]) -> None:
    """Run services in the foreground; `serve arena` runs the hero loop."""
    from realm import services

    gc.enable()
    home = RealmHome()
    if "arena" in names:
        if names != ["arena"]:
            raise Refused("`arena` runs alone: it trains, the others answer; start them in two terminals")
        from realm.arena.hero_loop import main as arena_main

        open_db(home).dispose()
        arena_main(["--home", str(home.root)])
        return
    from realm.serve import serve as serve_apps

    try:
        for name in names:
            services.by_name(name)
        if any(name in ("tavern", "state") for name in names):
            open_db(home).dispose()
        serve_apps(home, names)
    except (KeyError, OSError) as error:
        raise Refused(error.args[-1] if error.args else str(error)) from error


# ---------------------------------------------------------------- commands to the arena


def order(kind: str, payload: dict | None = None, as_json: bool = False, wait_s: float = 10.0) -> None:
    """Insert a command for the arena and wait for its result while the arena runs."""
    import sqlalchemy as sa

    from realm import db, services

    home = RealmHome()
    engine = open_db(home)
    command_id = db.new_id()
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.commands).values(
            id=command_id, t=db.now(), kind=kind, payload=payload or {}, state="pending"))  # fmt: skip
    alive = services.noted(home, "arena") is not None
    deadline = time.monotonic() + (wait_s if alive else 0)
    query = sa.select(db.commands.c.state, db.commands.c.result).where(db.commands.c.id == command_id)
    while True:
        with db.read(engine) as connection:
            state, result = connection.execute(query).one()
        if state != "pending" or time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    if state == "failed":
        raise Refused(f"{kind}: {(result or {}).get('reason', result)}")
    word = "done" if state == "done" else "waiting for the arena" if alive else "noted; the arena acts when it starts"
    say({"command_id": command_id, "state": state, "result": result}, as_json, f"{kind}: {word} ({command_id})")


@battle_app.command("pause")
def battle_pause(as_json: Json = False) -> None:
    """Hold the battle after its current optimizer step."""
    order("battle.pause", as_json=as_json)


@battle_app.command("resume")
def battle_resume(as_json: Json = False) -> None:
    """Go on with a paused battle, or leave rest mode after a stop."""
    order("battle.resume", as_json=as_json)


@battle_app.command("stop")
def battle_stop(as_json: Json = False) -> None:
    """Save a checkpoint, put the quest back at the head of the queue and rest."""
    order("battle.stop", as_json=as_json)


@battle_app.command("skip")
def battle_skip(as_json: Json = False) -> None:
    """Save a checkpoint, mark the quest as skipped and go on with the next."""
    order("battle.skip", as_json=as_json)


@trial_app.command("run")
def trial_run(
    skill: Annotated[str, typer.Option(help="Skill to examine.")] = "bin",
    level: Annotated[int | None, typer.Option(help="Level; default: the one in training.")] = None,
    as_json: Json = False,
) -> None:
    """Examine the newest checkpoint after the current battle."""
    chosen = skill_named(skill)
    if level is not None and not 1 <= level <= chosen.max_level:
        raise Refused(f"level {level}: {chosen.id} has levels 1 to {chosen.max_level}; choose one")
    order("trial.run", {"skill": chosen.id, **({} if level is None else {"level": level})}, as_json)


# ---------------------------------------------------------------- quests


@quest_app.command("add")
def quest_add(
    files: Annotated[list[Path], typer.Argument(help=".jsonl files")],
    lane: Annotated[str, typer.Option(help="high, normal or low")] = "normal",
) -> None:
    """Copy files into the inbox; the Cleric checks them and reports on the board."""
    from realm.quests.board import BoardError
    from realm.quests.inbox import drop

    if lane not in LANES:
        raise Refused(f"lane {lane!r} is none of {', '.join(LANES)}")
    home = RealmHome()
    open_db(home).dispose()
    for file in files:
        if not file.is_file():
            raise Refused(f"{file} is not a file; nothing was copied from it")
        try:
            print(f"{file} -> {drop(home, file, lane)}")
        except (BoardError, OSError) as error:
            raise Refused(f"{error}; nothing was copied from {file}") from error


@quest_app.command("list")
def quest_list(as_json: Json = False, all_states: Annotated[bool, typer.Option("--all")] = False) -> None:
    """The board: waiting and running quests first, then the newest finished ones."""
    import sqlalchemy as sa

    from realm import db

    quests = db.quests
    names = ("id", "lane", "state", "kind", "name", "skill", "level", "rows", "attempts", "error")
    columns = [quests.c[name] for name in names]
    order_by = [sa.case((quests.c.state.in_(["training", "queued", "hold"]), 0), else_=1),
                quests.c.created_at.desc()]  # fmt: skip
    engine = open_db(RealmHome())
    with db.read(engine) as connection:
        query = sa.select(*columns).order_by(*order_by).limit(-1 if all_states else 20)
        rows = [dict(row) for row in connection.execute(query).mappings()]
    say(rows, as_json, table([list(row.values()) for row in rows], [c.name for c in columns]))


@quest_app.command("retry")
def quest_retry(quest_id: str, as_json: Json = False) -> None:
    """Queue a failed, refused or skipped quest again."""
    report_of(quest_id)
    order("quest.retry", {"quest_id": quest_id}, as_json)


@quest_app.command("report")
def quest_report(quest_id: str) -> None:
    """The Cleric's report of one quest as JSON."""
    say(report_of(quest_id), True, "")


def report_of(quest_id: str) -> dict | None:
    """The Cleric's report of a quest, None for one that the realm made itself; an unknown id is refused."""
    import sqlalchemy as sa

    from realm import db

    engine = open_db(RealmHome())
    with db.read(engine) as connection:
        row = connection.execute(sa.select(db.quests.c.report).where(db.quests.c.id == quest_id)).one_or_none()
    if row is None:
        raise Refused(f"no quest {quest_id}; `python3 -m training quest list --all` names them")
    return row.report


# ---------------------------------------------------------------- skills


def skill_named(name: str):
    from realm.guild.skills import SkillError, get_skill

    try:
        return get_skill(name)
    except SkillError as error:
        raise Refused(str(error)) from error


@skill_app.command("list")
def skill_list(as_json: Json = False) -> None:
    """Skills this realm knows."""
    from realm.guild.skills import all_skills

    rows = [{"id": s.id, "name": s.name, "version": s.version, "levels": s.max_level, "threshold": s.threshold}
            for s in all_skills()]  # fmt: skip
    say(rows, as_json, table([list(r.values()) for r in rows], ["id", "name", "version", "levels", "threshold"]))


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


# ---------------------------------------------------------------- vault


@vault_app.command("list")
def vault_list(as_json: Json = False) -> None:
    """Checkpoints, newest first."""
    import sqlalchemy as sa

    from realm import db

    c = db.checkpoints.c
    engine = open_db(RealmHome())
    with db.read(engine) as connection:
        query = sa.select(c.id, c.hero_id, c.step, c.bytes, c.state, c.resumable, c.pinned, c.path)
        rows = [dict(row) for row in connection.execute(query.order_by(c.created_at.desc())).mappings()]
    say(rows, as_json, table([list(r.values()) for r in rows],
                             ["id", "hero", "step", "bytes", "state", "resumable", "pinned", "path"]))  # fmt: skip


@vault_app.command("verify")
def vault_verify(
    checkpoint_id: Annotated[str | None, typer.Argument(help="One checkpoint; default: all live ones.")] = None,
    as_json: Json = False,
) -> None:
    """Compare every file of a checkpoint with the ledger and its manifest; exit code 1 when one differs.

    A corrupt checkpoint whose folder was restored is taken into use again.
    """
    import sqlalchemy as sa

    from realm import db
    from realm.vault.checkpoints import verify

    home = RealmHome()
    engine = open_db(home)
    c = db.checkpoints.c
    query = sa.select(c.id, c.path, c.manifest_sha256, c.state)
    query = query.where(c.state == "live" if checkpoint_id is None else c.id == checkpoint_id)
    with db.read(engine) as connection:
        found = connection.execute(query).all()
    if checkpoint_id and not found:
        raise Refused(f"no checkpoint {checkpoint_id}; `python3 -m training vault list` names them")
    results = {row.id: verify(home.root / row.path, row.manifest_sha256) for row in found}
    text = "\n".join(f"{key}  {'ok' if not problems else '; '.join(problems)}" for key, problems in results.items())
    say(results, as_json, text or "no checkpoints yet")
    if checkpoint_id and found[0].state == "corrupt" and not any(results.values()):
        order("vault.revive", {"checkpoint_id": checkpoint_id}, as_json)
    raise typer.Exit(1 if any(results.values()) else 0)


# ---------------------------------------------------------------- heroes


@hero_app.command("list")
def hero_list(as_json: Json = False) -> None:
    """Heroes that can be used."""
    from realm.heroes.profile import ProfileError, list_profiles

    try:
        known = list_profiles(RealmHome())
    except ProfileError as error:
        raise Refused(str(error)) from error
    rows = [{"id": p.id, "name": p.name, "title": p.rpg_name, "model": p.model.path_or_hub_id,
             "family": p.model.family, "size_b": p.model.size_b} for p in known]  # fmt: skip
    say(rows, as_json, table([list(r.values()) for r in rows], ["id", "name", "title", "model", "family", "size (B)"]))


@hero_app.command("show")
def hero_show(hero_id: str) -> None:
    """The resolved recipe of one hero as JSON."""
    say(hero_named(hero_id).model_dump(mode="json"), True, "")


def hero_named(hero_id: str):
    from realm.heroes.profile import ProfileError, load_profile

    try:
        return load_profile(hero_id, RealmHome())
    except ProfileError as error:
        raise Refused(str(error)) from error


@hero_app.command("use")
def hero_use(
    hero_id: str,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of the weights.")] = None,
    as_json: Json = False,
) -> None:
    """Begin a campaign with another hero after the current battle."""
    order("hero.use", {"hero_id": hero_named(hero_id).id, **({"model": model} if model else {})}, as_json)
