"""`training vram`: what memory training a hero takes, and the cheapest changes when that is too much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, say, table
from realm.settings import RealmHome

vram_app = typer.Typer()
BAR = 40


@vram_app.command("vram")
def vram(
    hero: Annotated[str | None, typer.Option(help="Hero; default: the one that plays.")] = None,
    mode: Annotated[str | None, typer.Option(
        help="qlora, lora, galore_8bit, deepspeed, full or adamw; default: as the recipe says.")] = None,  # fmt: skip
    batch_size: Annotated[int | None, typer.Option(help="Rows of a micro-batch.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of the longest row.")] = None,
    gradient_accumulation: Annotated[int | None, typer.Option(help="Micro-batches of an optimizer step.")] = None,
    checkpointing: Annotated[bool | None, typer.Option(help="Gradient checkpointing.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16 or fp32.")] = None,
    gb: Annotated[float | None, typer.Option(help="Memory of the GPU to plan for, in 1e9 bytes; default: this "
                                             "machine's.")] = None,  # fmt: skip
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train two steps on the longest batch; measure.")] = False,
    data: Annotated[Path | None, typer.Option(help="File of conversations for the dry run.")] = None,
    as_json: Json = False,
) -> None:
    """Memory that training takes, by part, by one formula; with --dry-run also measured."""
    from realm.arena import vram as calculator
    from realm.arena.physics import Load
    from realm.heroes.profile import ProfileError

    home = RealmHome()
    changes: dict[str, Any] = {
        "batch_size": batch_size, "max_length": max_length, "gradient_accumulation": gradient_accumulation,
        "gradient_checkpointing": checkpointing, "precision": precision,
    }  # fmt: skip
    try:
        chosen = hero or _playing(home)
        if gb is not None and not 0 < gb <= 1e6:
            raise Refused(f"--gb {gb}: give the GPU's memory in GB, for example 24")
        told = calculator.report(home, chosen, mode, None if gb is None else round(gb * 1e9), **changes)
        if dry_run:
            if data is not None and not data.is_file():
                raise Refused(f"--data {data}: there is no such file")
            profile = calculator.asked_profile(home, chosen, mode, precision)
            wanted = {key: value for key, value in changes.items() if value is not None and key != "precision"}
            load = Load.of(profile, told["device"], **wanted)
            told["dry_run"] = calculator.dry_run(home, profile, load, data)
    except ProfileError as error:
        raise Refused(str(error)) from error
    say(told, as_json, "" if as_json else _text(told))


def _playing(home: RealmHome) -> str:
    from realm.doctor import playing

    return playing(home)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _text(told: dict[str, Any]) -> str:
    found, load = told["estimate"], told["load"]
    steps = f"{load['batch_size']} rows of {load['max_length']:,} tokens"
    checkpointing = "on" if load["gradient_checkpointing"] else "off"
    lines = [f"{told['name']}, {told['parameters'] / 1e6:,.1f}e6 parameters, {told['title']}, {steps}, "
             f"{load['precision']}, checkpointing {checkpointing}", "", *_parts(told, found), ""]  # fmt: skip
    lines += [f"Host memory: {_gb(found['host_total'])} of {_gb(told['host_room'])}.",
              "It fits." if told["fits"] else "It does not fit."]  # fmt: skip
    lines += [f"Cannot be trained here: {reason}" for reason in told["refusals"]]
    if told["cheaper"]:
        lines += ["", "Cheapest changes:"]
        for row in told["cheaper"]:
            alone = "" if row["fits"] else " (does not fit alone)"
            lines.append(f"  {row['change']}: {_gb(row['total'])}{alone}; {row['cost']}")
    published = [[row["mode"], _gb(row["total"]), _gb(row["host"]),
                  "" if row["published_gb"] is None else f"~{row['published_gb']} GB"] for row in told["modes"]]
    lines += ["", table(published, ["mode", "ours", "host", "published for a 4B hero"])]
    if "dry_run" in told:
        run = told["dry_run"]
        lines += ["", f"Dry run: {_gb(run['measured'])} measured, {_gb(run['estimate'])} estimated, longest row "
                  f"{run['longest']:,} tokens, {run['tokens_per_s']:,.0f} tokens/s in the second step."]  # fmt: skip
    return "\n".join(lines)


def _parts(told: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The stack as a table with bars of characters."""
    where = told["gpu"] or ("a GPU" if told["device"] == "cuda" else "this computer (no GPU)")
    longest = max(found["parts"].values())
    rows = [[name, _gb(size), "#" * max(1, round(BAR * size / longest))]
            for name, size in found["parts"].items() if size]  # fmt: skip
    rows.append(["total", _gb(found["total"]), f"of {_gb(told['room'])} on {where}; the most {found['instant']}"])
    if found["pairs"]:
        rows.append(["corrected", _gb(found["corrected"]), f"x {found['correction']:.2f}, {found['pairs']} measured"])
    return [table(rows, ["part", "memory", ""])]
