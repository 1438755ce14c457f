"""The whole realm: `training doctor | start-all | stop-all | status | serve`."""

from __future__ import annotations

import gc
import time
from typing import Annotated

import typer

from realm.cli.common import Json, Refused, open_db, order, say, table
from realm.settings import RealmHome

realm_app = typer.Typer()


@realm_app.command()
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


@realm_app.command("start-all")
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


@realm_app.command("stop-all")
def stop_all() -> None:
    """End what start-all started, and only that; a running battle saves a checkpoint first."""
    from realm import supervise

    ended = supervise.stop_all(RealmHome())
    print(f"ended: {', '.join(ended)}" if ended else "nothing was running")


@realm_app.command()
def status(as_json: Json = False) -> None:
    """Show the realm's current state: the same snapshot the pages show."""
    from realm import db, services, supervise
    from realm.state.momentum import momentum
    from realm.state.reader import read_snapshot

    home = RealmHome()
    engine = open_db(home)
    snapshot = read_snapshot(home, engine)
    title, debuffs = ("", []) if as_json else _deeds(engine, snapshot.campaign.id)
    with db.read(engine) as connection:
        blockers = momentum(connection, home, snapshot).blockers
    engine.dispose()
    states = supervise.process_states(home)
    if as_json:
        data = snapshot.model_dump(mode="json")
        data["home"], data["inbox"] = str(home.root), str(home.inbox)
        data["shelf"] = str(home.root / "knowledge")
        data["blockers"] = [blocker.model_dump() for blocker in blockers]
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
        print(f"title      {title}")
        for name, why in debuffs:
            print(f"debuff     {name}: {why}")
    print(f"skills     {', '.join(known) or 'none yet'}")
    line = battle.state
    if battle.loss is not None:
        line += f", {battle.quest}, step {battle.step}/{battle.total_steps}, loss {battle.loss:.4f}, zone {battle.zone}"
    print(f"battle     {line}")
    print(f"queue      high {queue.high}, normal {queue.normal}, low {queue.low}, inbox {queue.inbox}")
    print(f"tavern     {services.url(home.settings, 'tavern')}")
    print(f"inbox      {home.inbox}")
    print(f"shelf      {home.root / 'knowledge'}")
    for blocker in blockers:
        word = "blocked" if blocker.weight == "stop" else blocker.weight
        print(f"{word:<10} {blocker.plain} {blocker.why} {blocker.fix}")
    if blockers:
        print("           every one with its remedy: python3 -m training momentum")


def _deeds(engine, campaign_id: str | None) -> tuple[str, list[tuple[str, str]]]:
    """The hero's title, and (name, why) of each active debuff: the same that the pages show."""
    from realm import db
    from realm.guild import progress
    from realm.guild.progression import debuffs, titles

    if campaign_id is None:
        return titles.title_of({}).shown, []
    with db.read(engine) as connection:
        found = debuffs.active(debuffs.read_present(connection, campaign_id))
        mastered = progress.mastered_levels(connection, campaign_id)
    return titles.title_of(mastered).shown, [(d.name, found[d.id].why) for d in debuffs.DEBUFFS if d.id in found]


@realm_app.command()
def groundskeeper(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be cleared away.")] = False,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Clear away what a long game leaves: old checkpoints, trash, logs, events, metrics. The arena does so hourly."""
    from realm import services
    from realm.arena import tending
    from realm.arena.hero_loop import AlreadyRunning, hold_lock
    from realm.vault import groundskeeper as keeper

    home = RealmHome()
    engine = open_db(home)
    if not dry_run and services.noted(home, "arena") is not None:
        order("groundskeeper.tend", {"task": task}, as_json, 600.0)
        return
    try:
        # With the arena down this command is the one writer; the lock keeps an arena from starting meanwhile.
        lock = None if dry_run else hold_lock(home)
        try:
            told = keeper.tend(home, engine, tending.tasks(home), dry_run=dry_run, only=task)
        finally:
            if lock is not None:
                lock.release()
    except (keeper.GroundskeeperError, AlreadyRunning) as error:
        raise Refused(str(error)) from error
    rows = [[name, each["what"], each["bytes"], each["reason"]] for name, found in told.items() for each in found]
    say(told, as_json, table(rows, ["task", "what", "bytes", "why"]) + (
        "\nnothing was changed" if dry_run else "") if rows else "nothing to clear away")  # fmt: skip


@realm_app.command()
def serve(names: Annotated[list[str], typer.Argument(help="tavern, vault, state, bin, oracle; or arena")]) -> None:
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
        if any(name in ("tavern", "vault", "state", "oracle") for name in names):
            open_db(home).dispose()
        serve_apps(home, names)
    except (KeyError, OSError) as error:
        raise Refused(error.args[-1] if error.args else str(error)) from error
