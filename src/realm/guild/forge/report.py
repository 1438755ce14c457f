"""The forge's report: JSON for programs, Markdown for people, with the evidence of every choice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

REPORT, READABLE = "report.json", "REPORT.md"
HELD_OUT, QUARANTINE = "held_out.jsonl", "quarantine.jsonl"


def write(made: dict[str, Any], folder: Path) -> None:
    """Both forms, each whole or not at all."""
    for name, text in ((REPORT, json.dumps(made, indent=2, ensure_ascii=False) + "\n"), (READABLE, markdown(made))):
        temporary = folder / f".{name}.part"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)


def markdown(made: dict[str, Any]) -> str:
    """The report for a person who decides whether to accept the skill."""
    parts = [f"# Forge report: {made['id']}", "", f"Verdict: **{made['verdict']}**.", ""]
    for title, body in (("Data", _data), ("Is there anything to learn?", _learnable), ("The rule", _rule),
                        ("Levels", _levels), ("Held out", _holdout), ("Grader", _grader),
                        ("Primitives", _primitives), ("Acceptance", _acceptance)):  # fmt: skip
        parts += [f"## {title}", "", *body(made), ""]
    return "\n".join(parts)


def _data(made: dict[str, Any]) -> list[str]:
    source = made["source"]
    rows = source["rows"]
    lines = [f"{rows['read']} rows read from {len(source['files'])} files: {rows['kept']} kept, {rows['filtered']} "
             f"filtered, {rows['duplicate']} duplicates, {rows['quarantined']} quarantined."]  # fmt: skip
    for reason in source["reasons"]:
        one = reason["examples"][0]
        lines.append(f"- {reason['fate']} {reason['count']} × {reason['code']}: {_plain(one['reason'])} "
                     f"(first at {one['file']}:{one['line']})")  # fmt: skip
    lines += [f"- left out: {other['file']}: {other['reason']}" for other in source["ignored"][:10]]
    return lines


def _learnable(made: dict[str, Any]) -> list[str]:
    found = made["learnable"]
    lines = [f"- {found['distinct_answers']} different answers; the most common one stands in "
             f"{found['most_common_share']:.0%} of the rows",
             f"- {found['conflicts']['rows']} rows asked a question that stands with other answers too; they left"]
    if (copies := made.get("copies")) is not None:
        lines.append(f"- {copies['share']:.0%} of the answers stand at one fixed place of the question "
                     f"({copies['place'] or 'none'}); {copies['verbatim_somewhere']:.0%} somewhere in it")
    if (test := made.get("dependence")) is not None:
        lines.append(f"- do the answers depend on the questions? p = {test['p']:.3f} over {test['rows']} rows and "
                     f"{test['shuffles']} shuffles: {'yes' if test['dependent'] else 'not shown'}")
        lines += [f"  - {name}: {one['value']:.3f} (p = {one['p']:.3f})" for name, one in test["tests"].items()]
    if (now := made.get("hero_now")) is not None:
        lines.append(f"- {now['hero']} as it is answers {now['correct']} of {now['asked']} held-out questions right "
                     f"[{now['lower']:.2f}, {now['upper']:.2f}]")
    return lines


def _rule(made: dict[str, Any]) -> list[str]:
    rule = made["rule"]
    if not rule["found"]:
        return ["No rule was found, so the skill is its rows.", "", f"Why: {_plain(rule['why_not'])}"]
    lines = ["Every answer is computed by an expression, so the skill makes new problems without end:", "",
             "| question | answer | learnt from | verified on held-out |", "|---|---|---:|---:|"]  # fmt: skip
    lines += [f"| `{_cell(case['wording'])}` | `{_cell(case['answer'])}` | {case['learnt_from']} | "
              f"{case['verified_on']} |" for case in rule["cases"]]  # fmt: skip
    if rule.get("why_no_generator"):
        lines += ["", f"No generator was made of it: {_plain(rule['why_no_generator'])}. The skill is its rows."]
    elif rule.get("problems"):
        lines += ["", "Problems by level, before conditions: " + ", ".join(
            f"level {level}: {count:,}" for level, count in rule["problems"].items())]  # fmt: skip
    return lines


def _levels(made: dict[str, Any]) -> list[str]:
    hard, found = made["difficulty"], made["levels"]
    lines = [f"{found['why']}.", "", f"Difficulty = {hard['rule']}, w = {hard['w']}: {hard['why']}. Structure: "
             f"{', '.join(hard['structure']) or 'no differences'}.", "",
             "| level | rows | difficulty |", "|---:|---:|---|"]  # fmt: skip
    return lines + [f"| {one['level']} | {one['rows']} | {one['difficulty'][0]:.2f} to {one['difficulty'][1]:.2f} |"
                    for one in found["levels"]]  # fmt: skip


def _holdout(made: dict[str, Any]) -> list[str]:
    split = made["holdout"]
    lines = [f"{split['held_out']} rows, in {split['groups']} groups that stay together ({split['kept_together']}). "
             "None of them is trained on."]  # fmt: skip
    if (trials := split.get("trial_questions")) is not None:
        lines.append("Questions of a trial: " + ", ".join(f"level {n}: {count}" for n, count in trials.items()) + ".")
    return lines


def _grader(made: dict[str, Any]) -> list[str]:
    chosen = made["grader"]["chosen"]
    settings = ", ".join(f"{key} = {value!r}" for key, value in chosen.items() if key != "type")
    lines = [f"**{chosen['type']}**{' (' + settings + ')' if settings else ''}.", ""]
    return lines + [f"- {one['grader']}: {'fits' if one['fits'] else 'no'}: {_plain(one['why'])}"
                    for one in made["grader"]["tried"]]  # fmt: skip


def _primitives(made: dict[str, Any]) -> list[str]:
    lines = [f"- {one['primitive']} ({one['confidence']:.2f}): {_plain(one['why'])}" for one in made["primitives"]]
    return lines or ["None was recognised; name them in `manifest.yaml` if you know them."]


def _acceptance(made: dict[str, Any]) -> list[str]:
    found = made.get("acceptance")
    if found is None:
        return ["Not held yet: `python3 -m training forge accept` with this folder."]
    lines = [f"{found['hero']}, {found['steps']} steps on {found['rows']} rows, in a home of its own:", "",
             "| | right | of | interval |", "|---|---:|---:|---|"]
    for name in ("before", "after"):
        one = found[name]
        lines.append(f"| {name} | {one['correct']} | {one['n']} | [{one['lower']:.3f}, {one['upper']:.3f}] |")
    gain, chance = found["gain"], found["chance"]
    lines += ["", f"Gain {gain['value']:+.3f}, lower bound {gain['lower']:+.3f} (must be above 0). Always saying "
              f"{chance['answer']!r} would be right for {chance['share']:.3f}; the lower bound after training must be "
              "above it.", "", f"{'Accepted' if found['accepted'] else 'Not accepted'}: {found['why']}"]
    return lines


def readme(title: str, description: str, module_id: str) -> str:
    """README.md of the module itself."""
    return (f"# {title}\n\n{description}\n\n"
            "Made by the Skill Forge from data; its report tells why it has these levels and this grader.\n\n"
            f"    python3 -m training module info {module_id}\n")


def _plain(text: str) -> str:
    return " ".join(str(text).split())


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
