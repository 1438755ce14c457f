"""Any task of the `reasoning-gym` package as a skill with levels: `get_skill("rg:chain_sum")`.

    python3 -m training skill levels rg:chain_sum

What the adapter adds to the package (docs/REASONING_GYM.md has the table of its tasks):

* **Seeds.** The package draws item i from `Random(seed + i)`, so neighbouring seeds overlap. Here every block of 64
  items has a seed of its own, a hash of (skill, version, level, seed, block).
* **Splits.** A problem is its question: canonical = hash of the text with white space folded. The split is `bucket()`
  of that, so the same question never stands in two splits, whatever level or seed made it. Two wordings of one
  problem are two problems: the package does not say which questions mean the same.
* **Levels.** Level n sets every attribute of the task's curriculum to its n-th value (or its last), upper bound only:
  a level is its own difficulty, the levels below are rehearsal. Equal neighbours are one level. They end before the
  first that the survey found unusable. A task without a curriculum has one level.
* **Grading.** The task's own `score_answer` >= 0.99 counts as right, after this module has refused empty answers,
  echoes, lists of candidates and talk around an answer. Some tasks evaluate the answer as Python: there it must be
  plain data or a small formula first.

Facts that take minutes to measure (usable levels, closed tables, answer lengths) are package data, printed by
`realm.guild.skills.reasoning_gym_survey` for one version of the package; another version is refused.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import import_module, metadata
from importlib.resources import files
from itertools import count as numbers
from threading import RLock
from typing import Any

from realm.guild.skills.base import (
    CLOSED_BELOW,
    DEFAULT_THRESHOLD,
    Grade,
    LevelInfo,
    Problem,
    SkillError,
    Split,
    bucket,
    check_level,
    check_request,
    keyed_hash,
    keyed_rng,
    no_table,
)
from realm.settings import nearest

SOURCE = "rg"
PACKAGE = "reasoning-gym"
BLOCK = 64
CORRECT = 0.99
STALE = 60  # problems already given, one after the other, until a call gives them again: the level is narrow
GIVE_UP = 20_000  # candidates without one of the split: the level has no such problem
REMEMBERED = 50_000

# Tasks of a category or of a name that exercise one of the 29 primitives beyond doubt; the others carry no tag.
PRIMITIVES: dict[str, tuple[str, ...]] = {
    "spell_backward": ("seq_reverse",), "word_sequence_reversal": ("seq_reverse",),
    "number_sequence": ("seq_continue",), "letter_counting": ("attn_count",), "count_bits": ("attn_count",),
    "leg_counting": ("attn_count",), "rectangle_count": ("attn_count",), "largest_island": ("attn_count",),
    "needle_haystack": ("attn_select",), "number_filtering": ("attn_filter",), "number_sorting": ("attn_rank",),
    "word_sorting": ("attn_rank",), "number_format": ("attn_compare",), "caesar_cipher": ("xfm_decode",),
    "base_conversion": ("xfm_encode",), "emoji_mystery": ("xfm_decode",), "rotate_matrix": ("seq_transform",),
    "spiral_matrix": ("seq_transform",), "manipulate_matrix": ("seq_transform",), "string_insertion":
    ("seq_transform",), "string_manipulation": ("seq_transform",), "syllogism": ("logic_deduce",),
    "knights_knaves": ("logic_deduce",), "zebra_puzzles": ("logic_deduce",), "self_reference": ("logic_deduce",),
    "family_relationships": ("logic_chain",), "circuit_logic": ("logic_chain",), "sentence_reordering":
    ("seq_transform",), "products": ("xfm_reduce",), "chain_sum": ("xfm_reduce",), "decimal_chain_sum":
    ("xfm_reduce",),
}  # fmt: skip

# score_answer of these hands the answer to eval(): only a Python literal gets there.
_LITERAL = {"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"}
# These hand it to sympy's parse_expr, which is eval() too: only small arithmetic in known names gets there.
_FORMULA = {"simple_integration", "intermediate_integration", "polynomial_multiplication", "puzzle24", "countdown"}
_FUNCTIONS = {"sin", "cos", "tan", "exp", "log", "sqrt", "pi", "E", "C"}


@cache
def survey() -> dict[str, Any]:
    """The measured facts: {"package": version, "tasks": {name: {"refused": why} | {"levels": [...], ...}}}."""
    return json.loads(files(__package__).joinpath("reasoning_gym.json").read_text(encoding="utf-8"))


def task_names(usable: bool = True) -> list[str]:
    """Names of the package's tasks, without the `rg:`."""
    return sorted(name for name, facts in survey()["tasks"].items() if not usable or "refused" not in facts)


def make(name: str) -> ReasoningGymSkill:
    """The skill of one task.

    Raises:
        SkillError: no such task, a task that cannot be used, or the package is missing or of another version.
    """
    tasks, wanted = survey()["tasks"], survey()["package"]
    if name not in tasks:
        raise SkillError(f"skill 'rg:{name}': reasoning-gym has no task of this name{_near(name)}")
    if "refused" in tasks[name]:
        raise SkillError(f"skill 'rg:{name}': {tasks[name]['refused']}; choose another, `python3 -m training skill "
                         "list --all` shows them")  # fmt: skip
    try:
        found = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        found = None
    if found != wanted:
        has = f"{PACKAGE} {found} is installed" if found else f"{PACKAGE} is not installed"
        raise SkillError(f"skill 'rg:{name}': {has}, its levels were measured with {wanted}; run "
                         f"`pip install {PACKAGE}=={wanted}`")  # fmt: skip
    return ReasoningGymSkill(name)


def _near(name: str) -> str:
    return nearest(name, task_names()) if name else "; write rg:chain_sum, for example"


def normal(text: str) -> str:
    """A text with its white space folded: what makes two questions the same problem."""
    return " ".join(text.split())


def canonical_of(question: str) -> str:
    return hashlib.blake2b(normal(question).encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=512)
def _config(task: str, index: int) -> Any:
    """Configuration of the curriculum's level `index` (0 first), seed 0; the package's default without a curriculum."""
    factory = import_module("reasoning_gym.factory")
    if not factory.has_curriculum(task):
        return factory.DATASETS[task][1](seed=0, size=BLOCK)
    context = import_module("reasoning_gym.coaching.base_curriculum")
    curriculum = factory.create_curriculum(task)
    curriculum.set_global_level(index)
    mode = context.DefaultCurriculumContext(mode=context.RangeAttributeMode.UPPER_BOUND)
    return curriculum.generate_configuration({"seed": 0, "size": BLOCK}, mode)


@lru_cache(maxsize=64)
def dataset(task: str, index: int, seed: int) -> Any:
    """The package's data set of one block. `seed` is below 2**32, for tasks that use numpy."""
    from dataclasses import replace

    factory = import_module("reasoning_gym.factory")
    return factory.DATASETS[task][0](replace(_config(task, index), seed=seed, size=BLOCK))


def entry_of(task: str, index: int, seed: int, item: int) -> dict[str, Any]:
    """One item as the package makes it: {"question", "answer", "metadata"}."""
    return dataset(task, index, seed)[item]


def safe(task: str, text: str, golden: str) -> bool:
    """Whether the task's grader may see this answer: graders that evaluate it get plain data and small formulas."""
    if task in _LITERAL:
        try:
            ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return re.fullmatch(r"[\w\s]*", text) is not None  # a grid or a word: names and numbers, nothing to call
        return True
    if task not in _FORMULA:
        return True
    known = _FUNCTIONS | set(re.findall(r"[A-Za-z]+", golden)) | set("xyzuvwtabc")
    plain = re.fullmatch(r"[\sA-Za-z0-9+\-*/^().,=]*", text) is not None
    names = set(re.findall(r"[A-Za-z]+", text)) <= known
    dots = re.search(r"\.(?!\d)|\d{16,}", text) is None  # no attribute, no giant number
    powers = re.findall(r"(?:\*\*|\^)\s*(\S{0,4})", text)
    small = all(re.match(r"\(?-?\d{1,2}(?!\d)", power) for power in powers)
    towers = re.search(r"(?:\*\*|\^)[\s(]*-?\d+[\s)]*(?:\*\*|\^)", text) is None
    return plain and names and dots and small and towers and text.count(")**") <= max(2, golden.count(")**"))


class ReasoningGymSkill:
    """One task. The same arguments give the same problems; only `split_of` knows more after problems were made here."""

    threshold = DEFAULT_THRESHOLD

    def __init__(self, task: str) -> None:
        facts = survey()["tasks"][task]
        self.task, self.id = task, f"{SOURCE}:{task}"
        self.name = task.replace("_", " ").capitalize()
        self.version = f"1+{survey()['package']}"
        self.description = f"reasoning-gym task {task} ({facts['category']}), seeds keyed anew."
        self._levels: list[dict[str, Any]] = facts["levels"]
        self._templates = [tuple(pair) for pair in facts["templates"]]
        self.max_level = len(self._levels)
        self._made: dict[str, None] = {}
        self._lock = RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ReasoningGymSkill, (self.task,)  # travels to the worker process of a skill server

    def levels(self) -> list[LevelInfo]:
        """Every level, from the measured table; the package is not loaded."""
        return [self._info(n) for n in range(1, self.max_level + 1)]

    def _info(self, level: int) -> LevelInfo:
        facts = self._levels[level - 1]
        distinct = facts["distinct"]
        kind = f"closed: recall of a table of {distinct}" if distinct else "open: fresh problems every trial"
        raised = ", ".join(f"{key} {value}" for key, value in facts["attributes"].items()) or "the task's own settings"
        return LevelInfo(level, raised, f"{raised}; {kind}", closed=distinct is not None, distinct=distinct,
                         max_new_tokens=facts["max_new_tokens"], threshold=self.threshold)  # fmt: skip

    def closed(self, level: int) -> bool:
        """Whether the level is a table to be known."""
        check_level(self.id, level, self.max_level)
        return self._levels[level - 1]["distinct"] is not None

    def table(self, level: int) -> list[Problem]:
        """Every question of a closed level that the survey found, in the order in which it did."""
        if not self.closed(level):
            raise no_table(level)
        return [self._problem(level, *place, "train") for place in _table(self, level)]

    def generate(self, level: int, count: int, seed: int, split: Split = "train") -> list[Problem]:
        """`count` problems, each question once until the level has no other to give.

        Raises:
            SkillError: an impossible request, or a level without a single problem of the split.
        """
        check_request(self.id, level, count, seed, split, self.max_level)
        if self.closed(level) and split != "train":
            found = self._walk(level, count, seed, split)
        else:
            found = self._drawn(level, count, seed, split)
        with self._lock:
            self._made |= {problem.canonical: None for problem in found}
            for canonical in list(self._made)[: max(0, len(self._made) - REMEMBERED)]:
                del self._made[canonical]
        return found

    def _drawn(self, level: int, count: int, seed: int, split: Split) -> list[Problem]:
        found: list[Problem] = []
        seen: set[str] = set()
        stale = missed = 0
        for place in self._stream(level, "draw", seed) if count else ():
            canonical = canonical_of(place[2]["question"])
            if self._split(canonical, level) != split:
                missed += 1
                if missed >= GIVE_UP:
                    raise SkillError(f"{self.id} level {level}: {GIVE_UP:,} questions were drawn and none belongs to "
                                     f"the {split} split; ask for another level")  # fmt: skip
                continue
            stale, missed = (stale + 1 if canonical in seen else 0), 0
            if canonical in seen and stale < STALE:
                continue
            seen.add(canonical)
            found.append(self._problem(level, *place, split))
            if len(found) == count:
                break
        return found

    def _walk(self, level: int, count: int, seed: int, split: Split) -> list[Problem]:
        places = _table(self, level)
        order: list[int] = []
        for lap in range(-(-count // len(places))):
            indices = list(range(len(places)))
            keyed_rng(self.id, self.version, "walk", level, seed, split, lap).shuffle(indices)
            order += indices
        return [self._problem(level, *places[i], split) for i in order[:count]]

    def _stream(self, level: int, *key: object) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(block seed, item, entry) without end; items without a usable answer are left out."""
        for block in numbers():
            seed = keyed_hash(self.id, self.version, level, *key, block) % 2**32
            for item in range(BLOCK):
                entry = entry_of(self.task, self._levels[level - 1]["index"], seed, item)
                if sound(entry):
                    yield seed, item, entry

    def _split(self, canonical: str, level: int | None = None) -> Split:
        """The split of a question; those of closed levels belong to training, which may use the whole table."""
        return "train" if canonical in _closed(self) else bucket(self.id, self.version, canonical)

    def _problem(self, level: int, seed: int, item: int, entry: dict[str, Any], split: Split) -> Problem:
        question = entry["question"]
        return Problem(
            skill=self.id, level=level, difficulty="plain", kind="question", operation=self.task, prompt=question,
            golden=entry["answer"], canonical=canonical_of(question), split=split,
            id=f"{SOURCE}-{self.task}-{keyed_hash(self.version, level, question) >> 64:016x}",
            primitives=PRIMITIVES.get(self.task, ()), extra={"seed": seed, "item": item})  # fmt: skip

    def problem_of(self, prompt: str) -> Problem:
        """Always SkillError: the package cannot read a question back, so an answer is marked with its problem row."""
        raise SkillError(f"prompt {prompt[:80]!r}: a question of {self.id} cannot be read back from its text; grade it "
                         "with its problem row, as generate() gave it")  # fmt: skip

    def grade(self, problem: Problem, response: str) -> Grade:
        """Marks an answer by the task's own grader, after the house's rules."""
        entry = self._entry(problem)
        golden, text = entry["answer"], response.strip()
        if not text:
            return Grade(False, 0.0, "empty answer")
        if normal(text) == normal(golden) and _lines(text) <= max(1, _lines(golden)):
            return Grade(True, 1.0, "right")
        if fault := _fault(entry["question"], golden, text):
            return Grade(False, 0.0, fault)
        if not safe(self.task, text, golden):
            return Grade(False, 0.0, "not in the form of an answer to this task")
        owner = dataset(self.task, self._levels[problem.level - 1]["index"], problem.extra["seed"])
        try:
            score = float(owner.score_answer(text, entry))
        except Exception as error:  # whatever the package's parser stumbles over is an answer it cannot read
            return Grade(False, 0.0, f"the task's grader cannot read it ({type(error).__name__})")
        score = min(1.0, max(0.0, score)) if score == score else 0.0
        return Grade(score >= CORRECT, score, "right" if score >= CORRECT else f"the task's grader gives {score:.2f}")

    def _entry(self, problem: Problem) -> dict[str, Any]:
        """The item behind a row, made again from its key; a row of other content is refused."""
        check_level(self.id, problem.level, self.max_level)
        seed, item = problem.extra.get("seed"), problem.extra.get("item")
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (seed, item))
        if problem.skill == self.id and whole and 0 <= seed < 2**32 and 0 <= item < BLOCK:
            entry = entry_of(self.task, self._levels[problem.level - 1]["index"], seed, item)
            if entry["question"] == problem.prompt:
                return entry
        raise SkillError(f"problem {problem.id!r}: its key does not make its question, so it is no problem of "
                         f"{self.id} version {self.version}; send a row made by generate()")  # fmt: skip

    def split_of(self, prompt: str) -> Split | None:
        """The split of a question of this task, or None.

        A text is recognised when it has the fixed beginning and end that the task's questions share (the `templates` of
        the survey) or when this process made it. Tasks whose questions share no words (`recognised: no` in
        docs/REASONING_GYM.md) are recognised only the second way.
        """
        text = normal(prompt)
        known = canonical_of(text) in self._made or any(
            text.startswith(head) and text.endswith(tail) and len(text) > len(head) + len(tail)
            for head, tail in self._templates)  # fmt: skip
        return self._split(canonical_of(text)) if known else None


def sound(entry: dict[str, Any]) -> bool:
    """Whether an item can be asked and learnt: a question and an answer in words."""
    question, answer = entry["question"], entry["answer"]
    return isinstance(question, str) and isinstance(answer, str) and bool(question.strip()) and bool(answer.strip())


def _lines(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())


def _fault(question: str, golden: str, text: str) -> str | None:
    """What the house refuses before a task's grader sees it."""
    if len(text) > 2 * len(golden) + 200:
        return "much longer than an answer"
    asked, given, wanted = normal(question), normal(text), normal(golden)
    if asked in given or (given in asked and 2 * len(given) >= len(asked)):
        return "an echo of the question"
    if _lines(text) > max(1, _lines(golden)):
        return "several answers: give one"
    rest = given.replace(wanted, " ", 1) if wanted in given else ""
    if re.search(r"[^\W\d_]", rest) or (wanted and wanted in rest):
        return "words around the answer: give the answer alone"
    return None


@lru_cache(maxsize=64)
def _closed_of(task: str) -> frozenset[str]:
    skill = ReasoningGymSkill(task)
    levels = [n for n in range(1, skill.max_level + 1) if skill.closed(n)]
    return frozenset(canonical_of(entry["question"]) for n in levels for _, _, entry in _table(skill, n))


def _closed(skill: ReasoningGymSkill) -> frozenset[str]:
    return _closed_of(skill.task)


@lru_cache(maxsize=128)
def _table_of(task: str, level: int) -> tuple[tuple[int, int, dict[str, Any]], ...]:
    skill = ReasoningGymSkill(task)
    facts, found = skill._levels[level - 1], {}
    for block, item in (divmod(code, BLOCK) for code in facts["table"]):
        seed = keyed_hash(skill.id, skill.version, level, "table", block) % 2**32
        entry = entry_of(task, facts["index"], seed, item)
        found.setdefault(canonical_of(entry["question"]), (seed, item, entry))
    if len(found) != facts["distinct"] or len(found) >= CLOSED_BELOW:
        raise SkillError(f"{skill.id} level {level}: {len(found)} questions where the survey counted "
                         f"{facts['distinct']}; print the survey again (docs/REASONING_GYM.md says how)")  # fmt: skip
    return tuple(found.values())


def _table(skill: ReasoningGymSkill, level: int) -> tuple[tuple[int, int, dict[str, Any]], ...]:
    return _table_of(skill.task, level)
