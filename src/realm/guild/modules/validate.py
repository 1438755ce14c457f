"""Is a module sound? Everything that is wrong with it at once, each finding with its value, rule and next action.

    python3 -m training module validate quests/modules/pattern-master

Errors keep a module from being installed; warnings are told and stay.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from afs.jsonl import read_rows
from realm.guild.modules.content import Content, Item, LevelContent, evaluation_files, normal, read_content
from realm.guild.modules.expression import ExpressionError
from realm.guild.modules.generator import GeneratorError, Made
from realm.guild.modules.grade import faults as grade_faults
from realm.guild.modules.manifest import Manifest, ModuleError, read_manifest
from realm.guild.primitives import PRIMITIVES
from realm.guild.skills.base import bucket, keyed_rng
from realm.settings import nearest

LEAST_TRIAL = 40  # problems of the level rule's first look: with fewer no trial can ever pass
FULL_TRIAL = 200  # problems of its last look
FINDINGS_AT_MOST = 50  # of one kind; the rest is counted
GRADED = 200  # rows of a level that are marked, with every cheat
DRAWN = 200  # problems of a generator that are made and marked; fewer where there are very many generators
WAITS = 100  # steps that the level rule makes a hero train after a failed trial, at least


@dataclass
class Report:
    """What was found. `levels` is {skill id: [{"level", "train", "held", "generators", "closed"}]}."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    manifest: Manifest | None = None
    levels: dict[str, list[dict]] = field(default_factory=dict)

    def more(self, findings: list[str]) -> None:
        """Add errors; of very many only the first ones and their number."""
        self.errors += findings[:FINDINGS_AT_MOST]
        if len(findings) > FINDINGS_AT_MOST:
            self.errors.append(f"… and {len(findings) - FINDINGS_AT_MOST} findings more of this kind")


def check(folder: Path) -> Report:
    """Examine the module in `folder`; never raises for what is in it."""
    from realm.guild.modules.archive import list_folder

    report = Report()
    try:
        list_folder(folder)
    except ModuleError as error:
        report.more(str(error).split("\n"))
    try:
        manifest = report.manifest = read_manifest(folder)
    except ModuleError as error:
        report.more([line for line in str(error).split("\n") if line not in report.errors])
        return report
    report.more(_files(folder, manifest))
    _advice(report, manifest)
    for entry in manifest.skills:
        found: list[str] = []
        content = read_content(folder, manifest, entry.id, found)
        report.more([line for line in found if line not in report.errors])
        _skill(report, manifest, content)
    report.errors = list(dict.fromkeys(report.errors))
    return report


def _files(folder: Path, manifest: Manifest) -> list[str]:
    """Missing and unlisted files, wrong counts, rows of unknown skills."""
    found = []
    for entry in manifest.data:
        path = folder / entry.path
        if not path.is_file():
            found.append(f"{entry.path}: there is no such file; the manifest lists it: add it or correct `data`")
            continue
        rows = sum(1 for _ in read_rows(path, lambda row: None))
        bad = _count_bad(path)
        if rows + bad != entry.examples:
            found.append(f"{entry.path}: {rows + bad} rows, the manifest says examples: {entry.examples}; "
                         "correct the number or the file")  # fmt: skip
    listed = {entry.path for entry in manifest.data}
    for path in sorted((folder / "data").rglob("*.jsonl")):
        name = path.relative_to(folder).as_posix()
        if name not in listed:
            found.append(f"{name}: is not listed under `data` of the manifest; list it or delete the file")
    named, there = manifest.evaluation.eval_set, evaluation_files(folder, manifest)
    if named is not None and not there:
        found.append(f"{named}: evaluation.eval_set names no JSONL file that is there; add it or correct the path")
    for path in sorted((folder / "eval").rglob("*.jsonl")):
        name = path.relative_to(folder).as_posix()
        if name not in there:
            found.append(f"{name}: is not part of evaluation.eval_set ({named}); name its folder or delete the file")
    skills = {entry.id: entry.max_level for entry in manifest.skills}
    for path in sorted((folder / "skills").glob("*.yaml")):
        if path.stem not in skills:
            found.append(f"skills/{path.name}: the manifest has no skill {path.stem!r}; it has {', '.join(skills)}")
    for name in there:
        for row in read_rows(folder / name, lambda row: None):
            skill = row.value.get("skill") if len(skills) > 1 else next(iter(skills))
            level = row.value.get("level")
            if skill not in skills:
                found.append(f"{name}:{row.line}: skill {skill!r} is none of {', '.join(skills)}; name one of them")
            elif isinstance(level, int) and not 1 <= level <= skills[skill]:
                found.append(f"{name}:{row.line}: level {level}, skill {skill} has levels 1 to {skills[skill]}; "
                             "correct it")  # fmt: skip
    return found


def _count_bad(path: Path) -> int:
    bad: list[object] = []
    for _ in read_rows(path, bad.append):
        pass
    return len(bad)


def _advice(report: Report, manifest: Manifest) -> None:
    """Wishes that the one level rule does not grant, and drills that are none."""
    if manifest.evaluation.evals_required > 1:
        report.warnings.append(f"evaluation.evals_required: {manifest.evaluation.evals_required}: the level rule asks "
                               "for one trial at 95 % confidence, and retention checks for the rest; it counts as 1")
    if manifest.curriculum.cooldown_on_fail > WAITS:
        report.warnings.append(f"curriculum.cooldown_on_fail: {manifest.curriculum.cooldown_on_fail}: after a failed "
                               f"trial the level rule waits one quest ({WAITS} to 200 steps), not longer")
    for name in ("threshold", "min_accuracy_to_advance"):
        value = getattr(manifest.evaluation if name == "threshold" else manifest.curriculum, name)
        if value < 0.80:
            report.warnings.append(f"{name}: {value}: a module can only make the level rule stricter; 0.80 counts")
        elif value > 0.98:
            report.errors.append(f"{name}: {value}: even 200 right answers of 200 show no more than 0.98; lower it")
    for name in manifest.requirements.prerequisites:
        skill, _, level = name.rpartition(":") if name.rpartition(":")[2].isdigit() else (name, "", "1")
        if not skill or int(level) < 1:
            report.errors.append(f"requirements.prerequisites: {name!r} is no skill or skill:level, such as bin:3; "
                                 "correct it")  # fmt: skip
    for name in (*manifest.primitives.required, *manifest.primitives.optional):
        if name not in PRIMITIVES:
            report.warnings.append(f"primitives: {name!r} is none of the realm's{nearest(name, list(PRIMITIVES))}")


def _skill(report: Report, manifest: Manifest, content: Content) -> None:
    """Levels, leakage, marking and generators of one skill."""
    summary = report.levels[content.skill_id] = []
    for number, level in content.levels.items():
        where = f"{content.skill_id} level {number}"
        held = sum(map(len, level.held.values()))
        closed: int | None = None
        try:
            closed = len(level.table) if level.table is not None else None
        except (GeneratorError, ExpressionError) as error:
            report.errors.append(f"{where}: {error}")
        summary.append({"level": number, "train": len(level.train), "held": held, "generators": len(level.made),
                        "closed": closed})  # fmt: skip
        report.more(_amounts(where, level, manifest))
        if held and not level.made and len(level.held["trial"]) < FULL_TRIAL:
            report.warnings.append(f"{where}: {len(level.held['trial'])} problems for trials; the level rule may look "
                                   f"at {FULL_TRIAL}, so a hero near the threshold stays undecided")  # fmt: skip
        report.more(_twice(where, level))
        report.more(_marking(where, level, content))
        for made in level.made:
            report.more(_generator(where, made, content, manifest.version))
    report.more(_leakage(content))
    operations = sorted({made.source.operation for _, made in content.generators})
    if manifest.drill_mode and len(operations) > 1:
        report.errors.append(f"{content.skill_id}: drill_mode is true and there are {len(operations)} operations "
                             f"({', '.join(operations)}); a drill practises one: drop drill_mode or the others")


def _amounts(where: str, level: LevelContent, manifest: Manifest) -> list[str]:
    if level.made:
        return []
    if not level.train:
        what = "no generators" if manifest.drill_mode else "no rows in `data` and no generators"
        return [f"{where}: is empty: {what}; add some or lower max_level"]
    found = []
    for split, least in (("trial", LEAST_TRIAL), ("probe", 1), ("public", 1)):
        have = len(level.held[split])  # type: ignore[index]
        if have < least:
            total = sum(map(len, level.held.values()))
            found.append(f"{where}: {have} of its {total} evaluation rows are for {split}, at least {least} are "
                         f"needed; about {2 * LEAST_TRIAL} rows of a level are enough, {FULL_TRIAL * 3 // 2} are good")
    return found


def _twice(where: str, level: LevelContent) -> list[str]:
    """Rows that repeat a question: twice the same row adds nothing, another answer contradicts the first."""
    found, first = [], {}
    for item in (*level.train, *(item for held in level.held.values() for item in held)):
        key = normal(item.prompt)
        before = first.setdefault(key, item)
        if before is item or before.where.split(":")[0] != item.where.split(":")[0]:
            continue
        if before.golden != item.golden:
            found.append(f"{item.where}: the question of {before.where} with another answer; delete one of the two")
        else:
            found.append(f"{item.where}: the same question as {before.where}; delete one of the two")
    return found


def _leakage(content: Content) -> list[str]:
    """Evaluation problems that stand in the training rows of any level, by text or by canonical form."""
    by_text: dict[str, Item] = {}
    by_canonical: dict[str, Item] = {}
    for level in content.levels.values():
        for item in level.train:
            by_text.setdefault(normal(item.prompt), item)
            by_canonical.setdefault(item.canonical, item)
    found = []
    for level in content.levels.values():
        for item in (item for held in level.held.values() for item in held):
            leak = by_text.get(normal(item.prompt)) or by_canonical.get(item.canonical)
            if leak is not None:
                found.append(f"{item.where}: this evaluation problem is also training row {leak.where}; a hero would "
                             "be examined on what it was taught: delete one of the two")  # fmt: skip
    return found


def _marking(where: str, level: LevelContent, content: Content) -> list[str]:
    """Golden answers that fail, and cheats that pass."""
    rows = [*(item for held in level.held.values() for item in held), *level.train]
    step = max(1, len(rows) // GRADED)
    found, sample = [], rows[::step]
    for index, item in enumerate(sample):
        others = [other.golden for other in (*sample[index + 1 : index + 6], *sample[:3])]
        found += [f"{item.where}: grader {content.grader.type}: {fault}; correct the row or the grader"
                  for fault in grade_faults(content.grader, item.prompt, item.golden, others)]  # fmt: skip
    return found


def _generator(where: str, made: Made, content: Content, version: str) -> list[str]:
    """Draw, recognise and mark problems of a generator."""
    at = f"{where}: operation {made.source.operation}"
    rng = keyed_rng("validate", content.skill_id, where, made.source.operation)
    drawn, unread, outcomes = [], 0, Counter()
    draws = max(40, min(DRAWN, 4_000 // len(content.generators)))
    for _ in range(draws):
        try:
            problem = made.draw(rng)
        except (GeneratorError, ExpressionError) as error:
            return [f"{at}: {error}"]
        if problem is None:
            outcomes["none"] += 1
            continue
        again = content.recognise(problem.prompt)
        unread += again is None or again[2].canonical != problem.canonical
        outcomes[bucket(content.skill_id, version, problem.canonical)] += 1
        drawn.append(problem)
    if len(drawn) < draws // 20:
        return [f"{at}: {outcomes['none']} of {draws} draws gave no problem: `where` excludes nearly everything, or a "
                "wording can be read in two ways (put words between variables)"]  # fmt: skip
    found = []
    if unread > len(drawn) // 2:
        found.append(f"{at}: {unread} of {len(drawn)} prompts are also problems of another operation; word them apart")
    goldens = [problem.golden for problem in drawn]
    for index, problem in enumerate(drawn[:50]):
        if not problem.golden.strip():
            found.append(f"{at}: the answer to {problem.prompt[:60]!r} is empty; change `answer` or exclude it")
            continue
        faults = grade_faults(content.grader, problem.prompt, problem.golden, goldens[index + 1 : index + 6])
        found += [f"{at}: {problem.prompt[:60]!r}: grader {content.grader.type}: {fault}; correct `answer` or the "
                  "grader" for fault in faults]  # fmt: skip
    return found[:10]
