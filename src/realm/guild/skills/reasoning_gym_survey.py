"""Which tasks of reasoning-gym can be used, with which levels: measured once, kept as package data and a document.

    PYTHONHASHSEED=1 python -m realm.guild.skills.reasoning_gym_survey data      (about 20 minutes on one core)
    python -m realm.guild.skills.reasoning_gym_survey page > docs/REASONING_GYM.md

A task is refused with its reason when a problem is not the same in another process, when it comes without an answer to
learn from, when its grader lets a list of candidates through, or when its first level is too slow, too long, or solved
by one constant answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realm.guild.skills import reasoning_gym as rg
from realm.guild.skills.base import CLOSED_BELOW, Problem, SkillError, keyed_hash

DRAWS = 512  # a level of 2,000 questions repeats about 60 of them
ENUMERATE = 40_000
SLOW_MS = 20.0  # on average; a trial of 200 problems draws a thousand
LONG_QUESTION, LONG_ANSWER = 6_000, 2_000  # characters
CONSTANT = 0.70  # share of one answer; above it a hero passes trials by saying the same word
PATIENCE_S = 8  # for the first 64 items of a level
CODE = {"codeio": "its questions are made by running code of its data file"}


class Unusable(Exception):
    """Why a level cannot be used."""


def _alarm(*_: object) -> None:
    raise Unusable("too slow")


def look(task: str, index: int, draws: int, level: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The first items of a level's table stream, as `ReasoningGymSkill._stream` makes them."""
    found = 0
    for block in range(2 * draws // rg.BLOCK + 2):
        seed = keyed_hash(f"{rg.SOURCE}:{task}", f"1+{version()}", level, "table", block) % 2**32
        for item in range(rg.BLOCK):
            entry = rg.entry_of(task, index, seed, item)
            if rg.sound(entry):
                yield seed, item, entry
                found += 1
            if found == draws:
                return


def version() -> str:
    from importlib import metadata

    return metadata.version(rg.PACKAGE)


def mark(task: str, index: int, level: int) -> str:
    """A hash of a level's first items, asked for in reverse: the same in every process, or the task is refused."""
    seed = keyed_hash(f"{rg.SOURCE}:{task}", f"1+{version()}", level, "table", 0) % 2**32
    rg.dataset.cache_clear()
    entries = {item: rg.entry_of(task, index, seed, item) for item in reversed(range(12))}
    text = "\x1f".join(f"{entries[i]['question']}\x1e{entries[i]['answer']}" for i in range(12))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def level_facts(task: str, index: int, level: int) -> dict[str, Any]:
    """What is measured of one level.

    Raises:
        Unusable: with the reason.
    """
    signal.alarm(PATIENCE_S)
    try:
        started = time.perf_counter()
        first = list(look(task, index, rg.BLOCK, level))
        slow = 1e3 * (time.perf_counter() - started) / rg.BLOCK
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"the package fails ({type(error).__name__}: {str(error)[:80]})") from error
    finally:
        signal.alarm(0)
    if len(first) < rg.BLOCK:
        raise Unusable("its questions come without an answer to learn from")
    if slow > SLOW_MS:
        raise Unusable(f"too slow ({'over 20' if slow < 100 else 'over 100'} ms a question)")
    asked, answered = (max(len(e[key]) for _, _, e in first) for key in ("question", "answer"))
    if asked > LONG_QUESTION or answered > LONG_ANSWER:
        raise Unusable(f"too long (questions over {LONG_QUESTION:,} or answers over {LONG_ANSWER:,} characters)")
    signal.alarm(90)
    try:
        entries = list(look(task, index, min(DRAWS, int(6000 / max(slow, 0.01))), level))
        table = count_distinct(task, index, level, entries, slow)
    finally:
        signal.alarm(0)
    share = Counter(e["answer"] for _, _, e in entries).most_common(1)[0][1] / len(entries)
    if share > CONSTANT:
        raise Unusable(f"one answer is right for over {CONSTANT:.0%} of its questions")
    longest = max(len(e["answer"].encode()) for _, _, e in entries)
    return {"index": index, "distinct": table and len(table), "table": table, "constant": round(share, 2),
            "max_new_tokens": 16 + longest + longest // 2}  # fmt: skip


def count_distinct(task: str, index: int, level: int, entries: list[Any], slow: float) -> list[int] | None:
    """Where the questions of a closed level stand in its stream (64 * block + item), None of an open one."""
    names = [rg.canonical_of(e["question"]) for _, _, e in entries]
    repeats = len(names) - len(set(names))
    if len(names) ** 2 / (2 * max(repeats, 0.5)) > 4 * CLOSED_BELOW:
        return None  # by the birthday rule far more than a table
    if slow * ENUMERATE > 80_000:
        raise Unusable("few different questions, and too slow to count them")
    seen: dict[str, int] = {}
    blocks: dict[int, int] = {}
    last = recent = 0
    for draw, (seed, item, entry) in enumerate(look(task, index, ENUMERATE, level)):
        name, block = rg.canonical_of(entry["question"]), blocks.setdefault(seed, len(blocks))
        if name not in seen:
            seen[name] = rg.BLOCK * block + item
            last = draw
            recent += draw >= 0.75 * ENUMERATE
        if len(seen) >= CLOSED_BELOW:
            return None
        if draw >= 2 * last + 1000:
            return list(seen.values())
    if recent <= 0.002 * ENUMERATE:
        return list(seen.values())  # a few rare ones are missing: they keep the split of their bucket
    raise Unusable("few different questions, and no end of new ones to count them")


def attributes(task: str, index: int) -> dict[str, str]:
    """What the curriculum raises at a level: {attribute: value}, as short words."""
    from reasoning_gym.factory import create_curriculum, has_curriculum

    if not has_curriculum(task):
        return {}
    found = {}
    for name, attribute in create_curriculum(task).attributes.items():
        value = str(attribute.levels[min(index, len(attribute.levels) - 1)])
        found[name] = value if len(value) <= 24 else f"#{min(index, len(attribute.levels) - 1) + 1}"
    return found


def templates(questions: list[str]) -> list[list[str]]:
    """[(beginning, end)] that the questions share, for groups with the same first or last words; [] when one in twenty
    is left out or a pair is too short to mean anything."""
    for key in (lambda text: text[:12], lambda text: text[-12:]):
        groups: dict[str, list[str]] = {}
        for text in map(rg.normal, questions):
            groups.setdefault(key(text), []).append(text)
        groups = {word: group for word, group in groups.items() if len(group) >= 8}
        pairs = []
        for group in groups.values():
            head = os.path.commonprefix(group)
            tail = os.path.commonprefix([text[len(head):][::-1] for text in group])[::-1]
            pairs.append([head.rstrip("0123456789"), tail.lstrip("0123456789")])
        covered = sum(map(len, groups.values())) >= 0.95 * len(questions)
        if covered and len(pairs) <= 40 and all(len(h.strip()) + len(t.strip()) >= 12 for h, t in pairs):
            return pairs
    return []


def lenient(task: str, index: int, level: int) -> str | None:
    """What the grader wrongly accepts or refuses, or None."""
    skill = rg.ReasoningGymSkill.__new__(rg.ReasoningGymSkill)
    skill.task, skill.id, skill.version, skill.max_level = task, f"rg:{task}", "", level
    skill._levels = [{"index": index}] * level
    entries = list(look(task, index, 24, level))
    goldens = sorted({e["answer"] for _, _, e in entries})
    for seed, item, entry in entries:
        golden, prompt = entry["answer"], entry["question"]
        problem = Problem(skill.id, level, "", "", "", prompt, golden, "", "", "train",
                          extra={"seed": seed, "item": item})  # fmt: skip
        try:
            own = skill.grade(problem, golden)
        except SkillError:
            return "not deterministic: asked again, it makes another problem of the same seed and index"
        if not own.correct:
            return "its grader refuses its own answer"
        if dataset_score(task, index, seed, entry) < rg.CORRECT:
            return "its grader refuses its own answer"
        others = [g for g in goldens if g != golden][:5]
        tries = {"an empty answer": "  ", "an echo of the question": prompt, "the answer twice": f"{golden}\n{golden}",
                 "talk": f"I think it is {golden}, is it not?"}  # fmt: skip
        if others:
            tries |= {f"a list of candidates ({sign.strip() or 'lines'})": sign.join([*others, golden])
                      for sign in ("\n", ", ", " or ", " ")}  # fmt: skip
        for what, text in tries.items():
            if skill.grade(problem, text).correct:
                return f"its grader accepts {what}"
    return None


def dataset_score(task: str, index: int, seed: int, entry: dict[str, Any]) -> float:
    return float(rg.dataset(task, index, seed).score_answer(entry["answer"], entry))


def task_facts(task: str) -> dict[str, Any]:
    """The survey's entry of one task."""
    from reasoning_gym.factory import DATASETS, create_curriculum, has_curriculum

    if task in CODE:
        return {"refused": CODE[task]}
    tops = [len(a.levels) for a in create_curriculum(task).attributes.values()] if has_curriculum(task) else []
    levels: list[dict[str, Any]] = []
    ended, before = "", None
    for index in range(max(tops, default=1)):
        try:
            config = asdict(rg._config(task, index))
            if config == before:
                continue
            facts = level_facts(task, index, len(levels) + 1)
        except Unusable as error:
            ended = str(error)
            break
        except Exception as error:
            ended = f"the package fails ({type(error).__name__}: {str(error)[:80]})"
            break
        before = config
        levels.append(facts | {"attributes": attributes(task, index)})
    if not levels:
        return {"refused": ended}
    for number in sorted({1, len(levels)}):
        if why := lenient(task, levels[number - 1]["index"], number):
            return {"refused": why}
    share = max(24, 240 // len(levels))
    questions = [e["question"] for n, facts in enumerate(levels, 1) for _, _, e in look(task, facts["index"], share, n)]
    marks = [mark(task, facts["index"], n) for n, facts in enumerate(levels, 1)]
    return {"category": DATASETS[task][0].__module__.split(".")[1], "levels": levels, "ended": ended,
            "templates": templates(questions), "marks": marks}  # fmt: skip


def same_elsewhere(tasks: dict[str, Any]) -> None:
    """Refuses every task whose problems differ in a process with another hash seed."""
    wanted = {t: [f["index"] for f in facts["levels"]] for t, facts in tasks.items() if "levels" in facts}
    code = ("import json,sys; from realm.guild.skills.reasoning_gym_survey import mark; "
            "w=json.load(sys.stdin); "
            "print(json.dumps({t:[mark(t,i,n) for n,i in enumerate(x,1)] for t,x in w.items()}))")
    for hash_seed in ("2", "3"):
        done = subprocess.run([sys.executable, "-c", code], input=json.dumps(wanted), capture_output=True, text=True,
                              env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True)  # fmt: skip
        told = next(line for line in reversed(done.stdout.splitlines()) if line.startswith('{"'))  # some tasks print
        for task, marks in json.loads(told).items():
            if marks != tasks[task].get("marks", marks):
                tasks[task] = {"refused": "not deterministic: another process makes other problems of the same seed"}


def measure(names: list[str] | None = None, keep: Path | None = None) -> dict[str, Any]:
    """The whole survey, or that of some tasks; with `keep`, a file of results so far, it goes on after them."""
    from reasoning_gym.factory import DATASETS

    signal.signal(signal.SIGALRM, _alarm)
    tasks = json.loads(keep.read_text(encoding="utf-8")) if keep and keep.exists() else {}
    for name in names or sorted(DATASETS):
        if name in tasks:
            continue
        started = time.perf_counter()
        tasks[name] = task_facts(name)
        rg.dataset.cache_clear()
        if keep:
            keep.write_text(json.dumps(tasks), encoding="utf-8")
        says = tasks[name].get("refused") or f"{len(tasks[name]['levels'])} levels, {tasks[name]['ended']}"
        print(f"{name}: {says} [{time.perf_counter() - started:.1f} s]", file=sys.stderr, flush=True)
    same_elsewhere(tasks)
    return {"package": version(), "tasks": tasks}


def page(facts: dict[str, Any]) -> str:
    """`docs/REASONING_GYM.md`."""
    tasks = facts["tasks"]
    used = {name: f for name, f in tasks.items() if "levels" in f}
    levels = sum(len(f["levels"]) for f in used.values())
    lines = [_HEAD.format(package=facts["package"], used=len(used), all=len(tasks), levels=levels,
                          blind=sum(not f["templates"] for f in used.values())),
             "| skill | category | levels | closed levels (questions) | most common answer | recognised | "
             "levels end because |", "|---|---|---:|---|---:|---|---|"]  # fmt: skip
    for name, f in used.items():
        closed = ", ".join(f"L{n} ({x['distinct']})" for n, x in enumerate(f["levels"], 1) if x["distinct"])
        most = max(x["constant"] for x in f["levels"])
        lines.append(f"| `rg:{name}` | {f['category']} | {len(f['levels'])} | {closed or '–'} | {most:.0%} | "
                     f"{'yes' if f['templates'] else 'no'} | {f['ended'] or 'the curriculum does'} |")
    lines += ["", "## Refused", "", "| task | why |", "|---|---|"]
    lines += [f"| {name} | {f['refused']} |" for name, f in tasks.items() if "refused" in f]
    return "\n".join(lines) + "\n"


_HEAD = """# reasoning-gym tasks as skills

`pip install "realm-of-training[guild]"` brings reasoning-gym {package}. Of its {all} tasks {used} can be used, with
{levels} levels in all. Ask for one as `rg:NAME`: `python3 -m training skill levels rg:chain_sum`.

This page is printed from measurements that are package data:
`python -m realm.guild.skills.reasoning_gym_survey page > docs/REASONING_GYM.md`.

**Levels.** Level n sets every attribute of the task's curriculum to its n-th value (or its last one), upper bound only.
Neighbours with equal settings are one level, and the levels end before the first that cannot be used: too slow (over
20 ms a question on average), too long (6,000 characters of question, 2,000 of answer), failing in the package, or
solved by one constant answer in over 70 % of its questions. "Most common answer" is what a hero gets right by always
saying the same; the level rule asks for 80 % with confidence.

**Splits.** A problem is its question text (white space folded). Train, trial, probe and public never share one. What
the package words differently counts as different; it has no notion of equal problems.

**Closed levels** have fewer than 2,000 questions (counted by drawing until no new ones come) and
are tables to be known, see [LEVELS.md](LEVELS.md). Their questions belong to training at every level.

**Recognised: yes** means that the Cleric knows a question of the task in any file, by the fixed words it begins and
ends with, and drops it when it belongs to a trial. The questions of {blind} tasks share no such words: those are known
only to the process that made them, so a trial question copied into a file of yours would not be noticed.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("data", "page"))
    parser.add_argument("--tasks", nargs="*", help="measure only these and print them")
    parser.add_argument("--keep", type=Path, help="file of results so far, to go on from")
    given = parser.parse_args()
    if given.what == "page":
        print(page(rg.survey()), end="")
        return
    facts = measure(given.tasks, given.keep)
    text = json.dumps(facts, ensure_ascii=False, indent=None, separators=(",", ":"), sort_keys=True)
    text = text.replace('},"', '},\n"') + "\n"
    if given.tasks:
        print(text)
        return
    Path(rg.__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
