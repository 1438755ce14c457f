"""`training primitive …`: the 29 primitives, a hero's profile, and what to practise for the weak ones."""

from __future__ import annotations

import typer

from realm.cli.common import Json, Refused, open_db, say, table
from realm.settings import RealmHome

primitive_app = typer.Typer(no_args_is_help=True, help="Primitives: what skills are composed of, and the weak ones.")


@primitive_app.command("list")
def primitive_list(as_json: Json = False) -> None:
    """The 29 primitives in their six groups."""
    from realm.guild.primitives import GROUPS, PRIMITIVES, group_of
    from realm.guild.skills.primitives import skill

    rows = [{"name": name, "group": GROUPS[group_of(name)], "levels": skill(name).max_level, "description": text}
            for name, text in PRIMITIVES.items()]  # fmt: skip
    say(rows, as_json, table([list(row.values()) for row in rows], ["primitive", "group", "levels", "what it is"]))


@primitive_app.command("profile")
def primitive_profile(as_json: Json = False) -> None:
    """Accuracy of every primitive in the newest held-out trials of this campaign."""
    found, _ = _profile()
    rows = [_row(spoke) for spoke in found.spokes.values()]
    text = table(rows, ["primitive", "accuracy", "answers", "interval", ""])
    asked = [tag for tag in found.finer.values() if tag.n]
    if asked:
        text += "\n\nFiner tags (no spokes of the profile)\n" + table(
            [_row(tag) for tag in asked], ["tag", "accuracy", "answers", "interval", ""])  # fmt: skip
    say(found.to_dict(), as_json, text)


@primitive_app.command("weak")
def primitive_weak(as_json: Json = False) -> None:
    """Weak primitives (below 0.70 with confidence, 20 answers or more) and what to practise for each."""
    from realm.guild.primitives import WEAK_BELOW, WEAK_MIN_N, prescribe, weak
    from realm.guild.skills import all_skills

    found, mastered = _profile()
    cures = {cure.primitive: cure for cure in prescribe(found, mastered, {s.id: s.max_level for s in all_skills()})}
    rows = []
    for spoke in weak(found):
        cure = cures.get(spoke.name)
        rows.append({**spoke.to_dict(), "practise": {"skill": cure.skill, "level": cure.level} if cure else None,
                     "reason": cure.reason if cure else "nothing within reach practises it yet"})  # fmt: skip
    asked = sum(spoke.n >= WEAK_MIN_N for spoke in found.spokes.values())
    text = "\n".join(f"{r['name']}: practise {r['practise']['skill']} level {r['practise']['level']}. {r['reason']}"
                     if r["practise"] else f"{r['name']}: {r['reason']}" for r in rows)  # fmt: skip
    none = (f"no primitive is below {WEAK_BELOW:.0%} with confidence; {asked} of {len(found.spokes)} have the "
            f"{WEAK_MIN_N} answers that a judgement needs")  # fmt: skip
    say(rows, as_json, text or none)


def _row(spoke) -> list[str | int]:
    if not spoke.n:
        return [spoke.name, "not yet", 0, "", ""]
    interval = f"{spoke.lower:.0%} to {spoke.upper:.0%}"
    return [spoke.name, f"{spoke.accuracy:.0%}", spoke.n, interval, "weak" if spoke.weak else ""]


def _profile():
    """(profile, {skill: mastered level}) of the campaign that is played."""
    from realm import db
    from realm.guild import campaigns
    from realm.guild.primitives import profile
    from realm.guild.progress import mastered_levels

    home = RealmHome()
    with db.read(open_db(home)) as connection:
        campaign = campaigns.active(connection)
        if campaign is None:
            raise Refused("no campaign is played yet; `python3 -m training start-all` begins one")
        return profile(connection, campaign["id"]), mastered_levels(connection, campaign["id"])
