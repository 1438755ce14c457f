"""Words of the campaign report: Markdown from the facts of `report.build`, for a reader who was not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from realm.guild.campaigns import cap

MEASURES = {
    "acc": ("ACC", "mean accuracy now over the mastered levels"),
    "bwt": ("BWT", "change since a level was learnt; negative = forgotten"),
    "f_peak": ("F_peak", "best ever minus now; above the truth, since the best of noisy numbers is"),
    "f_fixed": ("F_fixed", "when learnt minus now; unbiased on the probe"),
}


def markdown(found: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [_title(found), _cap(found), _climb(found), _maintenance(found), _forgetting(found), _repairs(found),
             _champion(found), _method(found), _unknown(found)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def day(t: float | None) -> str:
    return "—" if t is None else datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _cell(value: Any) -> str:
    """Text that stays inside its table cell and its line."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _title(found: Mapping[str, Any]) -> str:
    head, line = found["campaign"], found["headline"]
    spent = head["spent"]
    highest = ", ".join(f"{skill} L{level}" for skill, level in line["highest_open"].items()) or "no open level yet"
    closed = f" and {line['closed']} closed (tables to be known; never part of a claim)" if line["closed"] else ""
    return (
        f"# Campaign {_cell(head['name'])} of {_cell(head['hero'])}\n\n"
        f"{line['open']} open levels mastered ({highest}){closed}, in {spent['steps']:,} optimizer steps, "
        f"{spent['tokens']:,} training tokens ({spent['trained_tokens']:,} under the loss) and "
        f"{spent['trial_tokens']:,} trial tokens. State: {head['state']}. Begun {day(head['created_at'])}, archived "
        f"{day(head['archived_at'])}, this report {day(found['made_at'])}.\n\n"
        "A level is mastered when the hero answers fresh held-out problems and the 95 % Wilson lower bound of its "
        "accuracy reaches the skill's threshold (0.80), while nothing mastered earlier is in regression. A *closed* "
        "level has fewer than 2,000 distinct problems: its table may be learnt by heart."
    )


def _cap(found: Mapping[str, Any]) -> str:
    told, kept = found["cap"], found["cap"]["kept"]
    if told["state"] == "capped":
        first = f"**Level cap found**: {_cell(told['reason'])}."
        first += f" First told {day(kept['t'])}, at step {kept['step']:,}." if kept else ""
    elif told["state"] == "complete":
        first = f"No cap found: {_cell(told['reason'])}."
    else:
        first = f"**No cap found yet** because {_cell(told['reason'])}."
    lines = ["## The cap", first]
    if told["budget_spent"]:
        lines.append(f"The budget is spent: {told['budget_spent']}.")
    rows = [[skill, one["state"], "—" if one["cap"] is None else f"L{one['cap']}", one["reason"]]
            for skill, one in told["skills"].items()]  # fmt: skip
    if rows:
        lines.append(_table(["skill", "verdict", "cap", "because"], rows))
    for skill, one in told["forecast"].items():
        lines.append(f"Forecast for {skill}: {_forecast(one)}")
    lines.append(
        f"Rule: maxed out when the maintenance multiplier is {cap.MAXED_OUT:g} or more at {cap.CONSECUTIVE} levels in "
        "a row, or when the budget is spent before the next level is passed while rehearsal is at its limit. With "
        f"equal effort per quest the curriculum itself cannot bring the multiplier above {cap.ceiling():.1f}.")
    return "\n\n".join(lines)


def _forecast(one: Mapping[str, Any]) -> str:
    if one["state"] == "not yet":
        return f"not yet ({one['reason']})."
    if one["state"] == "no sign":
        return f"no sign of a cap up to the last level ({one['reason']})."
    high = "beyond the last level" if one["high"] is None else f"L{one['high']:g}"
    middle = "beyond the last level" if one["middle"] is None else f"L{one['middle']:g}"
    return (f"between L{one['low']:g} and {high}, middle {middle} (80 % band, {one['reason']}; {one['beyond']:.0%} of "
            "resamples find no cap). An extrapolation, not a measurement.")  # fmt: skip


def _climb(found: Mapping[str, Any]) -> str:
    head = ["level", "passed", "step", "trial", "95 % interval", "steps for it", "trained tokens", "trial tokens",
            "steps so far"]  # fmt: skip
    rows = []
    for one in found["climb"]:
        mark = " (closed)" if one["closed"] else ""
        rows.append([f"{one['skill']} L{one['level']}{mark}", day(one["at"]), f"{one['step']:,}",
                     f"{one['correct']}/{one['n']}" if one["n"] else "not kept",
                     f"{one['lower']:.3f}–{one['upper']:.3f}" if one["n"] else "—", f"{one['own']['steps']:,}",
                     f"{one['own']['trained_tokens']:,}", f"{one['own']['trial_tokens']:,}",
                     f"{one['total']['steps']:,}"])  # fmt: skip
    text = _table(head, rows) if rows else "No level was mastered."
    return ("## The climb\n\n" + text + "\n\n*steps for it* and the tokens count everything since the last level of "
            "the same skill (other skills' quests too); tokens under the loss mask, and tokens generated in trials.")


def _maintenance(found: Mapping[str, Any]) -> str:
    complete = {skill for skill, one in found["cap"]["skills"].items() if one["state"] == "complete"}

    def name(one: Mapping[str, Any]) -> str:
        if one["passed"]:
            return f"{one['skill']} L{one['level']}"
        if one["skill"] in complete:
            return f"{one['skill']}, kept up after L{one['level'] - 1}"
        return f"{one['skill']} L{one['level']} (in training)"

    rows = [[name(one), f"{one['new']:.1f}", f"{one['kept']:.1f}",
             "—" if one["multiplier"] is None else f"{one['multiplier']:.2f}", one["quests"]]
            for levels in found["maintenance"].values() for one in levels]  # fmt: skip
    text = _table(["level", "effort on the new", "effort on the old", "multiplier", "quests"], rows) if rows else (
        "Nothing was practised.")  # fmt: skip
    return ("## Maintenance\n\n" + text + "\n\nMultiplier = (new + old) / new, in effort (strain summed over steps). "
            "Old: rehearsal quests whole, and the rehearsal share of the others. —: learnt on the way, without a "
            "quest of its own.")  # fmt: skip


def _forgetting(found: Mapping[str, Any]) -> str:
    told = found["forgetting"]
    lines = ["## Forgetting"]
    if not told["levels"]:
        return "## Forgetting\n\nNothing was mastered, so nothing can be forgotten."
    rows = []
    for name, (short, words) in MEASURES.items():
        rows.append([short, _number(told["summary"][name]), _number(told["probe_summary"][name]), words])
    lines.append(_table(["measure", "held-out trials", "probe", "meaning"], rows))
    names = [f"{skill} L{level}" for skill, level, _ in told["levels"]]
    for title, key in (("Held-out trials", "held_out"), ("Probe (same problems every time)", "probe")):
        body = [[f"after {names[i]}", *[_accuracy(cell) for cell in row]] for i, row in enumerate(told[key])]
        lines.append(f"**{title}**: accuracy on the column's level after the row's promotion, with n; · = not "
                     f"examined then.\n\n{_table(['', *names], body)}")  # fmt: skip
    return "\n\n".join(lines)


def _number(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return "not known"
    interval = "" if one["lower"] is None else f" [{one['lower']:+.3f}, {one['upper']:+.3f}]"
    return f"{one['value']:+.3f}{interval} ({one['levels']} of {one['of']} levels)"


def _accuracy(cell: Mapping[str, Any] | None) -> str:
    return "·" if cell is None else f"{cell['accuracy']:.2f} ({cell['n']})"


def _repairs(found: Mapping[str, Any]) -> str:
    rows = [[f"{one['skill']} L{one['level']}", one["verdict"], f"{one['found_step']:,}", f"{one['worst']:.2f}",
             "not yet" if one["held_step"] is None else f"step {one['held_step']:,} at {one['held']:.2f}"]
            for one in found["repairs"]]  # fmt: skip
    text = _table(["level", "found", "at step", "worst accuracy", "held again"], rows) if rows else (
        "No retention check found a regression.")  # fmt: skip
    return "## What was repaired\n\n" + text


def _champion(found: Mapping[str, Any]) -> str:
    best = found["champion"]
    if best is None:
        return "## Champion\n\nNo checkpoint was examined."
    return (f"## Champion\n\nCheckpoint `{best['checkpoint_id']}` at step {best['step']:,}: total level "
            f"{best['total_level']}, accuracy {best['accuracy']:.2f}; folder `{best['path']}`, manifest sha256 "
            f"`{best['manifest_sha256']}`.")  # fmt: skip


def _method(found: Mapping[str, Any]) -> str:
    told, data, head = found["method"], found["data"], found["campaign"]
    goals = [[skill, goal["weight"], "as far as it goes" if goal["level"] is None else f"L{goal['level']}"]
             for skill, goal in told["goals"].items()]  # fmt: skip
    budget = ", ".join(f"{value:,} {name}" for name, value in told["budget"].items() if value) or "none"
    start = f"checkpoint `{head['start_checkpoint']}`" if head["start_checkpoint"] else "the hero's base weights"
    lines = ["## Method", _table(["goal", "weight", "until"], goals) if goals else "No goals.",
             f"Budget: {budget}. Seed {told['seed']}. Schools: {', '.join(told['schools'])}. Starts from {start}. "
             f"Program version {found['program']}."]  # fmt: skip
    if told["origin"]:
        origin = told["origin"]
        changed = origin.get("differences") or []
        lines.append(f"Played by the method of campaign {_cell(origin.get('campaign', 'in a file'))}"
                     + (f"; the program differs: {_cell('; '.join(changed))}." if changed else "."))
    kinds = ", ".join(f"{one['quests']} {kind} quests with {one['rows']:,} rows" for kind, one in data["kinds"].items())
    versions = ", ".join(f"{skill} version {', '.join(map(str, v))}" for skill, v in data["skills"].items())
    lines.append(f"Data: {kinds or 'none'}; skills: {versions or 'none'}; sha256 over the quests' contents in order: "
                 f"`{data['sha256'] or '—'}`.")  # fmt: skip
    if told["data"]:
        lines.append(_table(["file", "rows", "sha256"], [[f["name"], f["rows"], f["sha256"]] for f in told["data"]]))
    if len(head["runs"]) > 1:
        lines.append(_table(["run", "begun", "because"], [[r["id"], day(r["at"]), r["reason"]] for r in head["runs"]]))
    constants = ", ".join(f"{name} {value}" for name, value in told["curriculum"].items())
    lines.append(f"Rules in force: {constants}. The hero's whole recipe is in `report.json` under `method.hero`. Play "
                 f"it with another hero: `python3 -m training campaign new --hero HERO --method "
                 f"{_cell(head['name'])}`.")  # fmt: skip
    return "\n\n".join(lines)


def _unknown(found: Mapping[str, Any]) -> str:
    return "## What is not known\n\n" + "\n".join(f"- {_cell(line)}" for line in found["unknown"])
