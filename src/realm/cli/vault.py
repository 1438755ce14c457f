"""`training vault …`: checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, open_db, order, say, table
from realm.settings import RealmHome

vault_app = typer.Typer(no_args_is_help=True, help="Checkpoints.")
Checkpoint = Annotated[str, typer.Argument(help="Its whole id; `vault list` names them.")]
WAIT_S = 600.0  # for what hashes or copies; Ctrl-C leaves the order where it is


def _read(question: Any) -> Any:
    """The answer of `question(home, connection)`; what the Vault refuses is printed as it says it."""
    from realm import db
    from realm.vault.catalog import VaultError

    home = RealmHome()
    with db.read(open_db(home)) as connection:
        try:
            return question(home, connection)
        except VaultError as error:
            raise Refused(str(error)) from error


def _known(checkpoint_id: str) -> str:
    from realm.vault import catalog

    return _read(lambda home, connection: catalog.row_of(connection, checkpoint_id)["id"])


@vault_app.command("list")
def vault_list(
    tag: Annotated[str | None, typer.Option(help="Only checkpoints with this tag.")] = None,
    state: Annotated[str | None, typer.Option(help="live, corrupt, deep, trash or gone.")] = None,
    as_json: Json = False,
) -> None:
    """Checkpoints, newest first."""
    from realm.vault import catalog

    def ask(home: RealmHome, connection: Any) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
        rows = catalog.listing(connection, states=(state,) if state else (), tag=tag)
        return rows, catalog.protected(connection)

    rows, why = _read(ask)
    shown = [{key: row[key] for key in ("id", "hero_id", "step", "bytes", "state", "zone", "resumable", "pinned",
                                        "promoted", "tags", "path")} | {"protected": why.get(row["id"], [])}
             for row in rows]  # fmt: skip
    cells = [[r["id"], r["hero_id"], r["step"], r["bytes"], r["state"], r["zone"], ", ".join(r["protected"]),
              ", ".join(r["tags"]), r["path"]] for r in shown]  # fmt: skip
    say(shown, as_json, table(cells, ["id", "hero", "step", "bytes", "state", "zone", "protected", "tags", "path"]))


@vault_app.command("show")
def vault_show(checkpoint_id: Checkpoint, as_json: Json = False) -> None:
    """One checkpoint: where it lies, what it has mastered, its trials, what protects it."""
    from realm.vault import catalog

    told = _read(lambda home, connection: catalog.show(home, connection, checkpoint_id))
    lines = [[key, told[key]] for key in ("id", "hero_id", "campaign_id", "run_id", "step", "state", "zone", "place",
                                          "bytes", "resumable", "loss", "strain")]  # fmt: skip
    lines += [["protected", ", ".join(told["protected"]) or "no"], ["tags", ", ".join(told["tags"]) or "none"],
              ["mastered", ", ".join(f"{k} {v}" for k, v in told["mastered"].items()) or "nothing yet"],
              *(["trial", f"{t['skill']} L{t['level']} {t['kind']}: {t['correct']} of {t['n']}, {t['verdict']}"]
                for t in told["trials"])]  # fmt: skip
    say(told, as_json, table(lines, ["what", "value"]))


@vault_app.command("compare")
def vault_compare(checkpoint_id: Checkpoint, other: Checkpoint, as_json: Json = False) -> None:
    """Where two checkpoints differ: configuration, metrics, trials and data."""
    from realm.vault import catalog

    told = _read(lambda home, connection: catalog.compare(home, connection, checkpoint_id, other))
    rows = [[part, key, *pair] for part in ("metrics", "trials", "config") for key, pair in told[part].items()]
    only = [[f"quests only in {row['id']}", ", ".join(q["name"] for q in quests[:8]) or "none", len(quests), ""]
            for row, quests in zip(told["checkpoints"], told["data"]["only"], strict=True)]  # fmt: skip
    rows += [["data", "quests in both", told["data"]["shared"], told["data"]["shared"]], *only]
    say(told, as_json, table(rows, ["part", "what", checkpoint_id, other]))


@vault_app.command("lineage")
def vault_lineage(checkpoint_id: Checkpoint, as_json: Json = False) -> None:
    """Which quests, data and trials made a checkpoint, oldest first."""
    from realm.vault import catalog

    told = _read(lambda home, connection: catalog.lineage(connection, checkpoint_id))
    rows = [["run", r["run_id"], r["reason"], "", f"to step {r['to']}"] for r in told["runs"]]
    rows += [["quest", q["quest_id"], q["name"], q["sha256"], f"{q['steps']} steps"] for q in told["quests"]]
    rows += [["trial", t["trial_id"], f"{t['skill']} L{t['level']}", "", f"{t['correct']} of {t['n']}"]
             for t in told["trials"]]  # fmt: skip
    say(told, as_json, table(rows, ["what", "id", "name", "data sha256", "how much"]))


@vault_app.command("zones")
def vault_zones(as_json: Json = False) -> None:
    """Disk use of each zone, and what lies in the trash."""
    from realm.vault import catalog

    told = _read(catalog.disk)
    rows = [[z["zone"], z["checkpoints"], z["bytes"], z["trash"], z["free"], z["path"] if z["reachable"] else
             f"{z['path']} (nothing there yet)" if not z["checkpoints"] else f"{z['path']} cannot be reached"]
            for z in told]  # fmt: skip
    say(told, as_json, table(rows, ["zone", "checkpoints", "bytes", "trash", "free", "where"]))


@vault_app.command("verify")
def vault_verify(
    checkpoint_id: Annotated[str | None, typer.Argument(help="One checkpoint; default: all in use.")] = None,
    as_json: Json = False,
) -> None:
    """Compare every file of a checkpoint with the ledger and its manifest; exit code 1 when one differs.

    A corrupt checkpoint whose folder was restored is taken into use again.
    """
    from realm.vault import catalog, zones

    def ask(home: RealmHome, connection: Any) -> list[dict[str, Any]]:
        return [catalog.row_of(connection, checkpoint_id)] if checkpoint_id else catalog.listing(
            connection, states=zones.IN_USE)  # fmt: skip

    found = _read(ask)
    results = {row["id"]: _read(lambda home, _, row=row: zones.faults_of(home, row)) for row in found}
    text = "\n".join(f"{key}  {'ok' if not problems else '; '.join(problems)}" for key, problems in results.items())
    say(results, as_json, text or "no checkpoints yet")
    if checkpoint_id and found[0]["state"] == "corrupt" and not any(results.values()):
        order("vault.revive", {"checkpoint_id": checkpoint_id}, as_json)
    raise typer.Exit(1 if any(results.values()) else 0)


@vault_app.command("promote")
def vault_promote(
    checkpoint_id: Checkpoint,
    undo: Annotated[bool, typer.Option("--undo", help="Take the promotion back.")] = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Make a checkpoint its hero's promoted one: protected, and `models/promoted-<hero>` leads to it."""
    order("vault.demote" if undo else "vault.promote", {"checkpoint_id": _known(checkpoint_id)}, as_json, WAIT_S)


@vault_app.command("pin")
def vault_pin(checkpoint_id: Checkpoint, as_json: Json = False) -> None:
    """Protect a checkpoint from deletion and retention; it keeps what is needed to resume from it."""
    order("vault.pin", {"checkpoint_id": _known(checkpoint_id), "pinned": True}, as_json)


@vault_app.command("unpin")
def vault_unpin(checkpoint_id: Checkpoint, as_json: Json = False) -> None:
    """Take the pin off."""
    order("vault.pin", {"checkpoint_id": _known(checkpoint_id), "pinned": False}, as_json)


@vault_app.command("tag")
def vault_tag(
    checkpoint_id: Checkpoint, words: Annotated[list[str], typer.Argument(help="Tags to put on it.")],
    as_json: Json = False,
) -> None:  # fmt: skip
    """Put tags on a checkpoint."""
    order("vault.tag", {"checkpoint_id": _known(checkpoint_id), "add": words}, as_json)


@vault_app.command("untag")
def vault_untag(
    checkpoint_id: Checkpoint, words: Annotated[list[str], typer.Argument(help="Tags to take off it.")],
    as_json: Json = False,
) -> None:  # fmt: skip
    """Take tags off a checkpoint."""
    order("vault.tag", {"checkpoint_id": _known(checkpoint_id), "drop": words}, as_json)


@vault_app.command("move")
def vault_move(
    checkpoint_id: Checkpoint, zone: Annotated[str, typer.Argument(help="hot, warm or deep")], as_json: Json = False
) -> None:
    """Move a checkpoint to another zone; every byte is read back and compared. Deep is a zstd archive."""
    order("vault.move", {"checkpoint_id": _known(checkpoint_id), "zone": zone}, as_json, WAIT_S)


@vault_app.command("delete")
def vault_delete(
    checkpoint_id: Checkpoint,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    as_json: Json = False,
) -> None:
    """Move a checkpoint to the trash. A protected one is refused, and says why."""
    from realm.vault import catalog, places, trash

    def ask(home: RealmHome, connection: Any) -> dict[str, Any]:
        row = catalog.row_of(connection, checkpoint_id)
        trash.may_delete(connection, row)
        return {"checkpoint_id": row["id"], "step": row["step"],
                "bytes": places.size_of(places.place_of(home, row)), "hours": home.settings.trash_hours}  # fmt: skip

    told = _read(ask)
    if dry_run:
        say(told, as_json, f"would move checkpoint {told['checkpoint_id']} at step {told['step']} to the trash "
            f"({told['bytes'] / 1e6:,.1f} MB; {told['hours']:g} h to restore it)")  # fmt: skip
        return
    order("vault.delete", {"checkpoint_id": told["checkpoint_id"]}, as_json, WAIT_S)


@vault_app.command("restore")
def vault_restore(checkpoint_id: Checkpoint, as_json: Json = False) -> None:
    """Take a deleted checkpoint out of the trash, when its hashes verify."""
    order("vault.restore", {"checkpoint_id": _known(checkpoint_id)}, as_json, WAIT_S)


@vault_app.command("empty-trash")
def vault_empty_trash(
    yes: Annotated[bool, typer.Option("--yes", help="Without it, only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove deleted checkpoints for good, whatever their time in the trash."""
    from realm.vault import catalog

    rows = _read(lambda home, connection: catalog.listing(connection, states=("trash",)))
    if not yes:
        shown = [[row["id"], row["hero_id"], row["step"], row["bytes"]] for row in rows]
        say([row["id"] for row in rows], as_json, table(shown, ["id", "hero", "step", "bytes"])
            + "\nnothing was removed; repeat with --yes")  # fmt: skip
        return
    order("vault.empty", {}, as_json, WAIT_S)


@vault_app.command("retention")
def vault_retention(
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it only say what would go.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also list what stays, and why.")] = False,
    as_json: Json = False,
) -> None:
    """What retention would move to the trash now, and why; the arena does so every hour."""
    from realm.vault import retention

    plan = _read(retention.plan)
    if apply:
        order("vault.retention", {}, as_json, WAIT_S)
        return
    shown = plan.decisions if everything else plan.going
    rows = [["stays" if d.keep else "goes", d.id, d.hero_id, d.step, d.bytes, d.reason] for d in shown]
    text = (f"{plan.rule}\n{table(rows, ['', 'id', 'hero', 'step', 'bytes', 'why'])}\n"
            f"{len(plan.going)} of {len(plan.decisions)} would go ({plan.freed / 1e6:,.1f} MB); "
            "nothing was changed, --apply does it")  # fmt: skip
    say(plan.to_dict(), as_json, text)


@vault_app.command("export")
def vault_export(
    checkpoint_id: Checkpoint,
    kind: Annotated[str, typer.Option("--format", help="hf, merged (adapter merged in), gguf or gguf-ids.")] = "hf",
    quantize: Annotated[str, typer.Option(help="Of gguf: f32, f16 or q8_0.")] = "f32",
    as_json: Json = False,
) -> None:
    """Write weights for other programs into `exports/`; converted ones must give the same 20 greedy answers."""
    from realm.vault import portable
    from realm.vault.catalog import VaultError
    from realm.vault.checkpoints import CheckpointError

    home = RealmHome()
    open_db(home).dispose()
    try:
        record = portable.export_apart(home, checkpoint_id, kind, quantize)
    except (VaultError, CheckpointError) as error:
        raise Refused(str(error)) from error
    proof = record["parity"]
    said = f" ({proof['same']} of {proof['asked']} greedy answers are the same)" if proof else ""
    say(record, as_json, f"{record['path']}{said}")


@vault_app.command("exports")
def vault_exports(as_json: Json = False) -> None:
    """The exports that are whole, newest first."""
    from realm.vault import portable

    found = portable.exports(RealmHome())
    rows = [[r["hero_id"], r["step"], r["format"], sum(f["bytes"] for f in r["files"].values()), r["path"]]
            for r in found]  # fmt: skip
    say(found, as_json, table(rows, ["hero", "step", "format", "bytes", "where"]))


@vault_app.command("import")
def vault_import(
    folder: Annotated[Path, typer.Argument(help="Folder in Hugging Face layout with *.safetensors.")],
    hero: Annotated[str, typer.Option(help="The hero whose weights these are; `hero list` names them.")],
    as_json: Json = False,
) -> None:
    """Make a checkpoint of a model's folder; a new campaign can start from it."""
    from realm.vault import portable
    from realm.vault.catalog import VaultError

    home = RealmHome()
    open_db(home).dispose()
    try:
        name = portable.put_in(home, folder)
    except VaultError as error:
        raise Refused(str(error)) from error
    order("vault.import", {"name": name, "hero_id": hero}, as_json, WAIT_S)


@vault_app.command("rollback")
def vault_rollback(
    checkpoint_id: Annotated[str, typer.Argument(help="The checkpoint to go on from; `vault list` names them.")],
    as_json: Json = False,
) -> None:
    """Go on from an earlier checkpoint, in a new run; nothing is deleted, and files trained since are held.

    Its hashes are verified first. A running battle saves and stops before.
    """
    order("hero.rollback", {"checkpoint_id": _known(checkpoint_id)}, as_json, wait_s=60.0)


@vault_app.command("guard")
def vault_guard(as_json: Json = False) -> None:
    """What the collapse guard sees: answers, held-out strain and human text over the last idle quests."""
    from realm import db
    from realm.guild import campaigns, collapse

    with db.read(open_db(RealmHome())) as connection:
        campaign = campaigns.active(connection)
        if campaign is None:
            raise Refused("no campaign is played yet; `python3 -m training start-all` begins one")
        kept = collapse.notes(connection, campaign["id"])
        generations = collapse.history(connection, campaign["id"], kept["generations"])
    verdict = collapse.judge(generations)
    rows = [[g.name, *(_mean(getattr(g, m)) for m in collapse.MEASURES)] for g in generations]
    lines = [table(rows, ["idle quest", *collapse.MEASURES]), f"{verdict.state}: {verdict.reason}",
             *(f"{act['act']}: {act['reason']}" for act in kept["acts"])]  # fmt: skip
    say({"verdict": verdict.to_dict(), "generations": [g.to_dict() for g in generations], "acts": kept["acts"]},
        as_json, "\n".join(lines))  # fmt: skip


def _mean(strata) -> str:
    whole = sum(weight for _, weight in strata.values())
    return f"{sum(value * weight for value, weight in strata.values()) / whole:.3f}" if whole else ""
