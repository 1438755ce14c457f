"""One proposal: every step in its order, the module's files, and the evidence of every choice.

    made = build(Request(source=Path("data")), target)         # ForgeError where there is nothing to learn

`target` then holds `<id>/` (the module), `held_out.jsonl`, `quarantine.jsonl`, `report.json` and `REPORT.md`. Nothing
is installed and no hero is touched. The folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from afs.jsonl import BadRow
from realm.guild.forge import difficulty, graders, holdout, learn, report, rule, tags
from realm.guild.forge.rows import Check, ForgeError, Item, Source, asked, conflicts, plain, read, write_quarantine
from realm.guild.levels import wilson
from realm.guild.modules.content import held_split, normal
from realm.guild.modules.manifest import (
    NAME,
    DataEntry,
    Evaluation,
    Generator,
    LevelEntry,
    Manifest,
    Primitives,
    SkillEntry,
    SkillFile,
    dump,
)
from realm.guild.modules.skill import ModuleSkill
from realm.guild.modules.validate import LEAST_TRIAL
from realm.guild.modules.validate import check as validate

CEILING = 0.90  # lower bound of the hero's accuracy on held-out rows, above which there is nothing left to learn
CEILING_ROWS = 120
FORMAT = 1
STALE_S = 3600.0  # a proposal takes seconds to minutes; what is older belongs to nobody
_STAGING, _OLD = "-staging-", "-old-"
VERSION = "1.0"


class Hero(Protocol):
    """Who is asked how hard the rows are. The arena makes one from the active campaign's newest checkpoint."""

    id: str
    checkpoint: str | None
    vocabulary: int

    def losses(self, items: Sequence[Item]) -> list[float]:
        """Nats per answer token of each row, NaN where a row does not fit."""
        ...

    def answers(self, prompts: Sequence[str], room: int) -> list[str]:
        """Greedy answers of at most `room` tokens."""
        ...


@dataclass(frozen=True)
class Request:
    """What is asked for. `trust_answers`: a person vouches that the questions determine the answers."""

    source: Path
    id: str = ""
    name: str = ""
    levels: int | None = None
    seed: int = 0
    trust_answers: bool = False
    author: str = "the Skill Forge"
    license: str = "LicenseRef-own-data"


@dataclass
class Proposal:
    """Everything that was decided. `levels`, `held`, `values` are per item."""

    request: Request
    id: str
    items: list[Item]
    levels: list[int]
    held: list[bool]
    values: np.ndarray
    choice: graders.Choice
    rule: rule.Rule | None
    generators: dict[int, tuple[Generator, ...]]
    primitives: list[dict[str, Any]]
    evidence: dict[str, Any]

    @property
    def top(self) -> int:
        return max(self.levels)

    def rows(self, held: bool) -> list[tuple[Item, int, float]]:
        """(item, level, difficulty) of one side of the split."""
        return [(item, level, float(value)) for item, level, mine, value in
                zip(self.items, self.levels, self.held, self.values, strict=True) if mine == held]  # fmt: skip


def build(request: Request, target: Path, hero: Hero | None = None, check: Check | None = None,
          replace_old: bool = False) -> dict[str, Any]:  # fmt: skip
    """Make the proposal in `target` and return its report.

    Args:
        hero: asked for losses and for its accuracy; None uses structure only.
        check: a gate in front of every row, see `rows.Check`.
        replace_old: an earlier proposal in `target` may be replaced.

    Raises:
        ForgeError: there is nothing to learn, or no grader, or the target is in the way.
    """
    module_id = name_of(request)
    check_target(target, replace_old)
    difficulty.check_wanted(request.levels)
    source = read(request.source, check)
    evidence: dict[str, Any] = {"source": source.to_dict()}
    try:
        proposal = propose(request, module_id, source, hero, evidence)
    except ForgeError as error:
        error.evidence = {"finding": error.evidence, **evidence}
        raise
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}{_STAGING}", dir=target.parent))
    try:
        proposal = _written(proposal, staging / module_id)
        made = finish(proposal, source, staging)
        staging.chmod(0o755)
        _take_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return made


def _take_place(staging: Path, target: Path) -> None:
    """Put the finished folder where an earlier one may be; killed in between, the earlier one lies beside it."""
    if not target.exists():
        os.rename(staging, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}{_OLD}", dir=target.parent))
    os.rename(target, old / target.name)
    os.rename(staging, target)
    shutil.rmtree(old, ignore_errors=True)


def sweep(target: Path, age_s: float = STALE_S) -> None:
    """Clear what a killed forge left beside the target; an earlier proposal that it had moved aside comes back."""
    for kind in (_OLD, _STAGING):
        for left in sorted(target.parent.glob(f".{target.name}{kind}*")):
            if not left.is_dir() or time.time() - left.stat().st_mtime < age_s:
                continue  # another forge may be at work
            if kind == _OLD and not target.exists() and (left / target.name).is_dir():
                os.rename(left / target.name, target)
            shutil.rmtree(left, ignore_errors=True)


def name_of(request: Request) -> str:
    """The module's id: as asked, else from the name of the source."""
    wanted = request.id or re.sub(r"[^a-z0-9]+", "-", request.source.name.split(".")[0].lower()).strip("-")[:40]
    if not re.fullmatch(NAME, wanted) or not 2 <= len(wanted) <= 40:
        raise ForgeError("id", f"id {wanted!r}: lower case letters, digits and single hyphens, beginning with a "
                         "letter, 2 to 40 characters; pass one with --id")  # fmt: skip
    return wanted


def check_target(target: Path, replace_old: bool) -> None:
    """Refuses a folder that holds something else than an earlier proposal."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / report.REPORT).is_file():
        raise ForgeError("in_the_way", f"{target} exists and is no proposal of the forge; choose another --out")
    if not replace_old:
        raise ForgeError("in_the_way", f"{target} holds an earlier proposal; pass --replace, or choose another --out")


# --- the steps --------------------------------------------------------------------------------------------------------


def propose(request: Request, module_id: str, source: Source, hero: Hero | None, evidence: dict[str, Any]) -> Proposal:
    """Every decision, in order; `evidence` is filled as far as the work gets."""
    evidence["learnable"] = learn.check_rows(source.items)
    items = _without_conflicts(source.items, source)
    if not request.trust_answers:
        evidence["copies"] = learn.check_copies(items)
    losses = None
    if hero is not None:
        losses = difficulty.HeroLosses(hero.id, hero.checkpoint, hero.losses(items), hero.vocabulary)
    hardness = difficulty.measure(items, losses)
    evidence["difficulty"] = hardness.evidence
    held, evidence["holdout"] = holdout.hold_out(items, [1] * len(items), request.seed)
    found = rule.find(items, held)
    known = None if isinstance(found, str) else found
    evidence["rule"] = {"found": known is not None, "cases": known.to_dict() if known else [],
                        "why_not": found if isinstance(found, str) else None}  # fmt: skip
    if known is None:
        _check_dependence(items, request, evidence)
    choice = graders.choose(items, determined=known is not None)
    evidence["grader"] = {"chosen": {**choice.grader.model_dump(exclude_defaults=True), "type": choice.grader.type},
                          "tried": choice.tried}  # fmt: skip
    evidence["primitives"] = tags.guess(choice.items, choice.grader, [c.answer for c in known.cases] if known else [])
    proposal = Proposal(request, module_id, choice.items, [1] * len(items), held, hardness.values, choice, known, {},
                        evidence["primitives"], evidence)  # fmt: skip
    proposal = _made_by_rule(proposal) if known else as_rows(proposal)
    if hero is not None:
        _check_ceiling(hero, proposal, evidence)
    return proposal


def _made_by_rule(proposal: Proposal) -> Proposal:
    """The proposal with generators at every level; as rows where they cannot be made."""
    required, _ = tags.manifest_lists(proposal.primitives)
    levels, why = difficulty.levels(proposal.values, proposal.request.levels, difficulty.RULE_LEVEL_ROWS)
    made = rule.generators(proposal.rule, levels, required)
    if isinstance(made, str):
        proposal.evidence["rule"]["why_no_generator"] = made
        return as_rows(proposal)
    evidence = proposal.evidence
    evidence["rule"]["problems"] = {str(n): sum(map(rule.combinations, found)) for n, found in sorted(made.items())}
    evidence["levels"] = {"why": why, "levels": difficulty.per_level(levels, proposal.values)}
    return replace(proposal, levels=levels, generators=made)


def as_rows(proposal: Proposal) -> Proposal:
    """The proposal as a skill of rows: as many levels as leave each a trial that can be passed.

    Raises:
        ForgeError: too_few: not even one level has such a trial.
    """
    request, items, evidence = proposal.request, proposal.items, proposal.evidence
    levels, why = difficulty.levels(proposal.values, request.levels, difficulty.MIN_LEVEL_ROWS)
    while True:
        held, evidence["holdout"] = holdout.hold_out(items, levels, request.seed)
        trials = trial_rows(proposal.id, items, levels, held)
        evidence["holdout"]["trial_questions"] = {str(level): count for level, count in trials.items()}
        least = min(trials.values())
        if least >= LEAST_TRIAL:
            break
        count = max(levels)
        if count == 1:
            raise ForgeError("too_few", f"{len(items)} rows leave a trial of {least} questions; the level rule asks "
                             f"at least {LEAST_TRIAL}. Add data ({difficulty.MIN_LEVEL_ROWS} rows are enough), or drop "
                             "the file into the inbox as a file quest", {"trial": trials})  # fmt: skip
        fewer, _ = difficulty.levels(proposal.values, count - 1, difficulty.MIN_LEVEL_ROWS // 2)
        levels = fewer if max(fewer) < count else [min(level, count - 1) for level in levels]
        why += f"; {count - 1}, because a trial of {least} questions decides nothing"
    evidence["levels"] = {"why": why, "levels": difficulty.per_level(levels, proposal.values)}
    return replace(proposal, levels=levels, held=held, generators={})


def _without_conflicts(items: list[Item], source: Source) -> list[Item]:
    """The few rows whose question stands with other answers leave; they are counted as filtered."""
    answers: dict[str, set[str]] = defaultdict(set)
    for item in items:
        answers[asked(item.prompt)].add(plain(item.golden))
    kept = [item for item in items if len(answers[asked(item.prompt)]) == 1]
    for item in items:
        if len(answers[asked(item.prompt)]) > 1:
            raw = orjson.dumps({"prompt": item.prompt, "golden": item.golden})
            source.refuse("filtered", "conflict", "its question stands with another answer too",
                          BadRow(item.file, item.line, 0, len(raw), "", raw))  # fmt: skip
    source.counts.out -= len(items) - len(kept)
    source.counts.filtered += len(items) - len(kept)
    source.counts.check()
    assert not conflicts(kept)["rows"]
    return kept


def _check_dependence(items: Sequence[Item], request: Request, evidence: dict[str, Any]) -> None:
    found = learn.dependence(items, request.seed)
    evidence["dependence"] = found
    if not found["dependent"] and not request.trust_answers:
        raise learn.refuse_random(found)


def trial_rows(module_id: str, items: Sequence[Item], levels: Sequence[int], held: Sequence[bool]) -> dict[int, int]:
    """{level: questions of its trial}: the module deals its evaluation rows to trial, probe and public by a hash."""
    found = dict.fromkeys(sorted(set(levels)), 0)
    for item, level, mine in zip(items, levels, held, strict=True):
        if mine and held_split(f"module:{module_id}", VERSION, normal(item.prompt)) == "trial":
            found[level] += 1
    return found


def _check_ceiling(hero: Hero, proposal: Proposal, evidence: dict[str, Any]) -> None:
    """Raises ForgeError where the hero knows the held-out rows already."""
    held = [item for item, _, _ in proposal.rows(held=True)]
    step = max(1, len(held) // CEILING_ROWS)
    asked = held[::step][:CEILING_ROWS]
    room = max(len(item.golden.encode()) for item in asked) + 4
    answers = hero.answers([item.prompt for item in asked], room)
    grader = proposal.choice.grader
    correct = sum(graders.right(grader, item, answer) for item, answer in zip(asked, answers, strict=True))
    lower, upper = wilson(correct, len(asked))
    evidence["hero_now"] = {"hero": hero.id, "checkpoint": hero.checkpoint, "asked": len(asked), "correct": correct,
                            "lower": lower, "upper": upper}  # fmt: skip
    if lower >= CEILING:
        raise ForgeError("ceiling", f"{hero.id} answers {correct} of {len(asked)} held-out questions right before any "
                         f"training (at least {lower:.0%} with 97.5 % confidence; {CEILING:.0%} is the ceiling): there "
                         "is nothing left to learn; bring harder data", evidence["hero_now"])  # fmt: skip


# --- the module's files -----------------------------------------------------------------------------------------------

def _written(proposal: Proposal, folder: Path) -> Proposal:
    """Write the module and examine it as an installation would; a rule that fails there gives way to the rows."""
    write_module(proposal, folder)
    found = validate(folder)
    if found.errors and proposal.generators:
        proposal.evidence["rule"]["why_no_generator"] = "; ".join(found.errors[:3])
        shutil.rmtree(folder)
        proposal = as_rows(proposal)
        write_module(proposal, folder)
        found = validate(folder)
    if found.errors:
        raise ForgeError("bug", f"the module that was made is not sound: {'; '.join(found.errors[:3])}; report this as "
                         "a bug, with the data", {"errors": found.errors[:20]})  # fmt: skip
    proposal.evidence["validation"] = {"warnings": found.warnings}
    return proposal


def write_module(proposal: Proposal, folder: Path) -> None:
    """Manifest, skill file, data by level, evaluation, README; then everything is read back as a skill."""
    request, rows_only = proposal.request, not proposal.generators
    folder.mkdir(parents=True)
    data: list[DataEntry] = []
    if rows_only:
        for level in range(1, proposal.top + 1):
            mine = [row for row in proposal.rows(held=False) if row[1] == level]
            path = f"data/level-{level}.jsonl"
            _write_rows(folder / path, mine)
            data.append(DataEntry(path=path, skill_level=level, examples=len(mine),
                                  difficulty=round(float(np.mean([value for _, _, value in mine])), 3)))  # fmt: skip
        for level in range(1, proposal.top + 1):
            _write_rows(folder / f"eval/level-{level}.jsonl", [r for r in proposal.rows(held=True) if r[1] == level])
    required, optional = tags.manifest_lists(proposal.primitives)
    title = request.name or proposal.id.replace("-", " ").title()
    manifest = Manifest(
        id=proposal.id, name=title, version=VERSION, author=request.author, license=request.license,
        description=_description(proposal), primitives=Primitives(required=required, optional=optional),
        skills=(SkillEntry(id=proposal.id, levels=tuple(range(1, proposal.top + 1)), max_level=proposal.top),),
        data=tuple(data), evaluation=Evaluation(eval_set="eval" if rows_only else None))  # fmt: skip
    file = SkillFile(
        name=title, description=manifest.description, grader=proposal.choice.grader,
        levels=tuple(LevelEntry(level=level, name=f"level {level}", generators=proposal.generators.get(level, ()))
                     for level in range(1, proposal.top + 1)))  # fmt: skip
    (folder / "manifest.yaml").write_text(dump(manifest), encoding="utf-8")
    (folder / "skills").mkdir()
    (folder / "skills" / f"{proposal.id}.yaml").write_text(dump(file), encoding="utf-8")
    (folder / "README.md").write_text(report.readme(title, manifest.description, proposal.id), encoding="utf-8")
    _read_back(proposal, folder)


def _description(proposal: Proposal) -> str:
    kind = "made without end by a rule that computes every answer of the data" if proposal.generators else "rows"
    return (f"Forged from {len(proposal.items)} questions in {proposal.top} levels; problems are {kind}; answers are "
            f"marked as {proposal.choice.grader.type}.")  # fmt: skip


def _write_rows(path: Path, rows: Sequence[tuple[Item, int, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        for item, level, value in rows:
            out.write(_row(item, level, value) + b"\n")


def _row(item: Item, level: int, value: float) -> bytes:
    messages = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.golden}]
    return orjson.dumps({"messages": messages, "level": level, "difficulty": round(value, 4),
                         "source": f"{item.file}:{item.line}"})  # fmt: skip


def _read_back(proposal: Proposal, folder: Path) -> None:
    """Every row is a problem of the written module, on its side of the split, and its golden answer is right.

    Raises:
        ForgeError: a bug of the forge, told before anything is proposed.
    """
    skill = ModuleSkill(folder, proposal.id)
    for held in (False, True):
        for item, level, _ in proposal.rows(held):
            problem = skill.problem_of(item.prompt)
            fault = None
            if not skill.grade(problem, item.golden).correct:
                fault = f"its answer {item.golden[:60]!r} is marked wrong"
            elif not proposal.generators and (problem.level != level or (problem.split == "train") == held):
                fault = f"it is at level {problem.level} in the split {problem.split}"
            if fault:
                raise ForgeError("bug", f"{item.file}:{item.line} does not survive its own module: {fault}; report "
                                 "this as a bug, with the data")  # fmt: skip


def finish(proposal: Proposal, source: Source, folder: Path) -> dict[str, Any]:
    """Held-out rows, quarantine and the report, beside the module; returns the report."""
    with open(folder / report.HELD_OUT, "wb") as out:
        for row in proposal.rows(held=True):
            out.write(_row(*row) + b"\n")
    if source.quarantine:
        write_quarantine(source, folder / report.QUARANTINE)
    request = proposal.request
    made = {
        "format": FORMAT, "verdict": "proposed", "id": proposal.id, "module": proposal.id,
        "skill": f"module:{proposal.id}",
        "request": {"from": str(request.source), "levels": request.levels, "seed": request.seed,
                    "trust_answers": request.trust_answers},
        "rows": {"learn": proposal.held.count(False), "held_out": proposal.held.count(True)},
        "most_common_held_out_answer": most_common(proposal), **_refreshed(proposal.evidence, source),
        "module_sha256": module_hash(folder / proposal.id), "held_out_sha256": _sha(folder / report.HELD_OUT),
    }  # fmt: skip
    report.write(made, folder)
    return made


def _refreshed(evidence: dict[str, Any], source: Source) -> dict[str, Any]:
    return {**evidence, "source": source.to_dict()}


def most_common(proposal: Proposal) -> dict[str, Any]:
    """The answer that is right for most held-out rows: what a hero reaches that learns nothing but the answers."""
    counted = Counter(plain(item.golden) for item, _, _ in proposal.rows(held=True))
    answer, count = counted.most_common(1)[0]
    return {"answer": answer[:200], "count": count, "of": sum(counted.values())}


def module_hash(folder: Path) -> str:
    """SHA-256 over the paths and bytes of a folder's files, in order."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{_sha(path)}\n".encode())
    return total.hexdigest()


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

