"""Sparring: the hero answers fresh problems, and what it got wrong becomes rows to learn from (realm-rules §7).

    bouts = spar(problems, hero.answer, seed=7)          # asks, marks, picks one wrong answer per problem
    rows = reflections(bouts, corner)                     # the Mirror's three rows of each
    pairs = duels(bouts, corner)                          # the Judge's: golden against the hero's own wrong answer

Each wrong answer gives three rows about the *same* problem: the wrong answer judged ("It is incorrect."), the golden
one judged ("It is correct."), and the wrong one corrected. Both verdicts thus stand beside every problem exactly once,
so neither the problem nor its difficulty tells the verdict. Where the hero's own wrong answers are too few (it is good)
or absurd (it is new), a near miss stands in: the golden answer with one small slip, which the grader rejects.

Rows show the mistakes of one checkpoint (`corner` says which); they expire when the hero has gone 1,000 steps from it,
and with every rollback. Torch-free.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import orjson

from afs.jsonl import AtomicWriter
from realm.guild.skills import Problem, Skill, SkillError, all_skills, get_skill
from realm.guild.skills.base import keyed_rng
from realm.settings import RealmHome

IDENTIFY, CORRECT, CONFIRM = KINDS = (
    "sparring_identify_incorrect", "sparring_correction", "sparring_confirm_correct")  # fmt: skip
PLAIN = "sparring_plain"
ORIGIN = "procedural-verified"  # what is trained on are verdicts and golden answers; the hero's own text is only read
EXPIRES_STEPS = 1_000
WANTED = 0.5  # wrong answers per problem asked; near misses make up for what the hero's own lack
LIKE = 0.5  # an answer less alike the golden one than this (Ratcliff/Obershelp) teaches nothing about a slip
SLIPS = 16  # tries to find a near miss
FILE = "sparring.jsonl"  # in the quest's own folder while it is unfinished

ASK = "{problem}\n\nProposed answer:\n{answer}\n\n{request}"
VERDICT, MEND = "Is this answer correct?", "This answer is incorrect. Find the correct solution."
WRONG, RIGHT = "It is incorrect.", "It is correct."

Refused = Callable[[Mapping[str, Any]], str | None]
"""A row → why it may not be trained on, in a word, or None."""
Answer = Callable[[list[list[dict[str, str]]], int], list[tuple[str, int]]]
"""(conversations up to the user's turn, max new tokens) → (text, tokens written) each."""


class SparringError(ValueError):
    """Rows that cannot be sparred on or trained on; the text names the file, the rule and the next action."""


@dataclass(frozen=True)
class Corner:
    """Whose mistakes the rows show: campaign, run, the checkpoint's id ("base": the hero as it was born), its step."""

    campaign_id: str
    run_id: str
    checkpoint: str
    step: int

    def marks(self) -> dict[str, Any]:
        """What every row carries."""
        return {"campaign": self.campaign_id, "run": self.run_id, "checkpoint": self.checkpoint, "step": self.step,
                "expires_step": self.step + EXPIRES_STEPS}  # fmt: skip


@dataclass(frozen=True)
class Bout:
    """One problem asked. `wrong`: the answer that its rows judge, None: it makes none; `source`: own | near_miss."""

    problem: Problem
    answer: str
    correct: bool
    wrong: str | None = None
    source: str | None = None


@dataclass
class Score:
    """What a sparring session reports. `wrong` counts the hero's own wrong answers, `absurd` those of no use."""

    asked: int = 0
    wrong: int = 0
    absurd: int = 0
    own: int = 0
    near_miss: int = 0
    made: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, bouts: Sequence[Bout]) -> Score:
        wrong = [bout for bout in bouts if not bout.correct]
        own = sum(bout.source == "own" for bout in bouts)
        return cls(asked=len(bouts), wrong=len(wrong), own=own, near_miss=sum(b.source == "near_miss" for b in bouts),
                   absurd=sum(not _alike(b.answer, b.problem.golden) for b in wrong))  # fmt: skip


# --- what is asked ------------------------------------------------------------------------------------------------


def aimed(candidates: Iterable[Problem], weak: Sequence[str], count: int) -> list[Problem]:
    """`count` distinct problems (fewer when there are no more), half of them on a weak primitive where that is there.

    Args:
        candidates: more than `count` drawn problems, in their order.
        weak: names of primitives, see `guild.primitives`.
    """
    distinct = list({problem.canonical: problem for problem in candidates}.values())
    hit = [problem for problem in distinct if set(problem.primitives) & set(weak)][: (count + 1) // 2]
    chosen = {problem.canonical for problem in hit}
    rest = [problem for problem in distinct if problem.canonical not in chosen]
    return [*hit, *rest[: count - len(hit)]]


def problems_of(rows: Iterable[Mapping[str, Any]], where: str) -> list[Problem]:
    """The problems that stand in a quest's rows: whole problem rows, or prompts that a skill can read back.

    Rows of other kinds (rehearsed files) are passed over.

    Raises:
        SparringError: a problem that is not of the training split, or no problem at all.
    """
    found = []
    for number, row in enumerate(rows, 1):
        problem = problem_in(row)
        if problem is None:
            continue
        try:
            skill = get_skill(problem.skill)
        except SkillError:
            continue  # the skill went since the row was made: nobody could mark the answer
        # What the row claims is not believed: the split is asked of the skill where it can read its prompts back.
        split = skill.split_of(problem.prompt) or problem.split
        if split != "train":
            raise SparringError(f"{where}: row {number} is of the {split} split of {problem.skill}; the hero may only "
                                "spar on the training split, take the row out")  # fmt: skip
        if skill.grade(problem, problem.golden).correct:
            found.append(problem)
    if not found:
        raise SparringError(f"{where}: none of its rows is a problem of a skill that is here; the Mirror asks problems "
                            "(rows made by `training skill generate`), other rows are for the Scribe")  # fmt: skip
    return found


def problem_in(row: Mapping[str, Any]) -> Problem | None:
    """The problem that a row is: as it says itself, else as a skill reads its first turn (or its `prompt`)."""
    try:
        return Problem.from_dict(dict(row))
    except SkillError:
        pass
    turns = row.get("messages")
    text, level = turns[0]["content"] if turns else row.get("prompt"), row.get("level")
    if not isinstance(text, str):
        return None
    for skill in _skills(row.get("skill")):
        try:
            if skill.split_of(text) is not None:
                found = skill.problem_of(text)
                return replace(found, level=level) if isinstance(level, int) and 0 < level <= skill.max_level else found
        except SkillError:
            continue
    return None


def _skills(name: Any) -> list[Skill]:
    """The skill that a row names, else all that are here."""
    try:
        return [get_skill(name)] if isinstance(name, str) else list(all_skills())
    except SkillError:
        return []


# --- the session --------------------------------------------------------------------------------------------------


def spar(
    problems: Sequence[Problem], answer: Answer, seed: int, wanted: float = WANTED,
    skill_of: Callable[[str], Skill] = get_skill,
) -> list[Bout]:  # fmt: skip
    """Ask every problem, mark the answers and choose the wrong answers that rows are made of.

    Deterministic in problems, answers and seed. Every own wrong answer that is not absurd is used; absurd ones are
    replaced by near misses, and near misses of rightly answered problems fill up to `wanted` of the asked.
    """
    bouts = [bout for group in _groups(problems) for bout in _ask(group, answer, skill_of)]
    chosen = [_own(bout) for bout in bouts]
    lacking = round(wanted * len(bouts)) - sum(bout.wrong is not None for bout in chosen)
    order = list(range(len(chosen)))
    keyed_rng("sparring fill", seed).shuffle(order)
    order.sort(key=lambda i: chosen[i].correct)  # absurd answers first: their problems are the ones it cannot do
    for i in order:
        if lacking <= 0:
            break
        bout = chosen[i]
        if bout.wrong is None:
            slip = near_miss(bout.problem, skill_of(bout.problem.skill), keyed_rng("slip", seed, bout.problem.id))
            if slip is not None:
                chosen[i] = replace(bout, wrong=slip, source="near_miss")
                lacking -= 1
    return chosen


def _groups(problems: Sequence[Problem]) -> Iterator[list[Problem]]:
    """By skill and level: each has its own room for the answer."""
    groups: dict[tuple[str, int], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.skill, problem.level), []).append(problem)
    yield from (groups[key] for key in sorted(groups))


def _ask(group: list[Problem], answer: Answer, skill_of: Callable[[str], Skill]) -> Iterator[Bout]:
    skill = skill_of(group[0].skill)
    room = skill.levels()[group[0].level - 1].max_new_tokens
    texts = answer([problem.messages[:1] for problem in group], room)
    for problem, (text, _) in zip(group, texts, strict=True):
        yield Bout(problem, text, skill.grade(problem, text).correct)


def _own(bout: Bout) -> Bout:
    if bout.correct or not _alike(bout.answer, bout.problem.golden):
        return bout
    return replace(bout, wrong=bout.answer, source="own")


def _alike(answer: str, golden: str) -> bool:
    if not answer.strip() or len(answer) > 3 * len(golden) + 8:
        return False
    matcher = SequenceMatcher(None, answer, golden, autojunk=False)
    return matcher.quick_ratio() >= LIKE and matcher.ratio() >= LIKE


def near_miss(problem: Problem, skill: Skill, rng: random.Random) -> str | None:
    """The golden answer with one slip (a sign changed, dropped, or swapped with its neighbour) that the grader rejects.

    The slip is in what the answer adds to the prompt: in `add(2, 3) = 5` that is the 5. None when no slip is found.
    """
    golden = problem.golden
    places = _own_places(problem.prompt, golden)
    if not places:
        return None
    signs = sorted(set(problem.prompt + golden))
    for _ in range(SLIPS):
        at = rng.choice(places)
        made = _slip(golden, at, signs, rng)
        if made != golden and made.strip() and not skill.grade(problem, made).correct:
            return made
    return None


def _own_places(prompt: str, golden: str) -> list[int]:
    """Where the letters and digits stand that the answer does not copy from the prompt; all of them when it only
    copies."""
    copied = SequenceMatcher(None, prompt, golden, autojunk=False).find_longest_match()
    inside = range(copied.b, copied.b + copied.size) if 2 * copied.size > len(golden) else range(0)
    signs = [at for at, sign in enumerate(golden) if unicodedata.category(sign)[0] in "LNS"]
    return [at for at in signs if at not in inside] or signs


def _slip(text: str, at: int, signs: Sequence[str], rng: random.Random) -> str:
    kind = rng.choice(("change", "change", "drop", "swap"))  # most real slips change a sign
    if kind == "drop":
        return text[:at] + text[at + 1 :]
    if kind == "swap":
        return text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]
    same = unicodedata.category(text[at])
    others = [sign for sign in signs if unicodedata.category(sign) == same and sign != text[at]]
    if text[at].isdecimal() and text[at].isascii():
        others = [digit for digit in "0123456789" if digit != text[at]]
    return text[:at] + rng.choice(others) + text[at + 1 :] if others else text


# --- what it gives ------------------------------------------------------------------------------------------------


def reflections(bouts: Iterable[Bout], corner: Corner) -> list[list[dict[str, Any]]]:
    """The Mirror's rows, three and three: [identify, correct, confirm] of each bout with a wrong answer."""
    return [_three(bout, corner) for bout in bouts if bout.wrong is not None]


def _three(bout: Bout, corner: Corner) -> list[dict[str, Any]]:
    problem = bout.problem
    turns = {
        IDENTIFY: (bout.wrong, VERDICT, WRONG), CORRECT: (bout.wrong, MEND, problem.golden),
        CONFIRM: (problem.golden, VERDICT, RIGHT),
    }  # fmt: skip
    rows = []
    for kind, (answer, request, reply) in turns.items():
        asked = ASK.format(problem=problem.prompt, answer=answer, request=request)
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        rows.append({"messages": messages, "type": kind, **_facts(problem), "negative": bout.source,
                     **corner.marks()})
    return rows


def duels(bouts: Iterable[Bout], corner: Corner, near_misses: bool = False) -> list[dict[str, Any]]:
    """The Judge's pairs: `prompt`, `chosen` (golden), `rejected` (the hero's own wrong answer).

    Args:
        near_misses: also pairs whose rejected answer is a near miss.
    """
    return [{"prompt": bout.problem.prompt, "chosen": bout.problem.golden, "rejected": bout.wrong,
             **_facts(bout.problem), "negative": bout.source, **corner.marks()}
            for bout in bouts if bout.source == "own" or near_misses and bout.source]  # fmt: skip


def plain(problem: Problem, corner: Corner) -> dict[str, Any]:
    """A problem with its golden answer, as the Scribe trains it; it ages with the rows beside it."""
    return {"messages": problem.messages, "type": PLAIN, **_facts(problem), **corner.marks()}


def _facts(problem: Problem) -> dict[str, Any]:
    return {"skill": problem.skill, "level": problem.level, "canonical": problem.canonical, "id": problem.id,
            "origin": ORIGIN}  # fmt: skip


# --- expiry -------------------------------------------------------------------------------------------------------


def is_sparring(row: Mapping[str, Any]) -> bool:
    """Whether a row was made by sparring (it says which checkpoint's mistakes it shows)."""
    return row.get("type") in (*KINDS, PLAIN) or "expires_step" in row


def expired(row: Mapping[str, Any], campaign_id: str, run_id: str, step: int) -> str | None:
    """Why a sparring row shows nothing of the hero at this step any more, or None while it does.

    A row without sound marks counts as expired: nobody can tell whose mistakes it shows. So do all rows of a run that
    was rolled back: most of those weights are gone.
    """
    made, ends = row.get("step"), row.get("expires_step")
    if not isinstance(made, int) or not isinstance(ends, int) or not row.get("checkpoint"):
        return "it does not say which checkpoint it came from"
    if (row.get("campaign"), row.get("run")) != (campaign_id, run_id):
        return f"it came from campaign {row.get('campaign')}, run {row.get('run')}, which is not the one that is played"
    if step < made:
        return f"it came from step {made:,}, the hero is at {step:,}"
    return f"it came from step {made:,} and expired at step {ends:,}" if step >= ends else None


@dataclass(frozen=True)
class Stale:
    """A sparring file none of whose rows may be trained on any more. `path` is relative to the realm home."""

    path: str
    bytes: int
    reason: str


def stale_files(home: RealmHome, reached: Mapping[str, tuple[str, int]]) -> list[Stale]:
    """The sparring files that can go, for the groundskeeper.

    Args:
        reached: {campaign: (its run, the step its hero has reached)}; files of other campaigns are stale. A battle that
            goes on with such a quest spars anew.
    """
    found = []
    for path in sorted((home.queue / "live").glob(f"*/{FILE}")):
        row = _first_row(path)
        campaign = str(row.get("campaign"))
        reason = ("its campaign is not played any more" if campaign not in reached
                  else expired(row, campaign, *reached[campaign]))  # fmt: skip
        if reason:
            size = sum(part.stat().st_size for part in (path, score_path(path)) if part.exists())
            found.append(Stale(path.relative_to(home.root).as_posix(), size, reason))
    return found


def _first_row(path: Path) -> dict[str, Any]:
    """All rows of a file come from one checkpoint."""
    with open(path, "rb") as file:
        line = file.readline()
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) else {}


def delete_stale(home: RealmHome, stale: Iterable[Stale]) -> int:
    """Delete what `stale_files` found; returns the bytes that were freed."""
    freed = 0
    for file in stale:
        path = home.root / file.path
        score_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        freed += file.bytes
    return freed


# --- the file of a session ----------------------------------------------------------------------------------------


def score_path(path: Path) -> Path:
    """What the session reports, beside its rows; it comes last, so rows without it were cut off by a kill."""
    return path.with_suffix(".json")


def write_rows(
    path: Path, groups: Iterable[Sequence[Mapping[str, Any]]], score: Score, refused: Refused = lambda row: None
) -> Score:  # fmt: skip
    """Write the groups of rows all of whose rows are taken; the others are counted by their reason. Appears whole.

    A group (the three rows of one bout) is taken or left as one, so that the verdicts stay balanced.
    """
    left: dict[str, int] = {}
    score_path(path).unlink(missing_ok=True)  # of an older session, whose rows these replace
    with AtomicWriter(path) as out:
        for group in groups:
            reason = next(filter(None, map(refused, group)), None)
            if reason:
                left[reason] = left.get(reason, 0) + 1
                continue
            for row in group:
                out.write(dict(row))
    done = replace(score, made=out.rows, left_out=left)
    with AtomicWriter(score_path(path)) as out_score:
        out_score.write({**asdict(done), "sha256": out.sha256})
    return done


def read_session(path: Path) -> tuple[list[dict[str, Any]], Score] | None:
    """(rows, score) of a session that was finished, None when there is none.

    Raises:
        SparringError: somebody changed the file since.
    """
    told = score_path(path)
    if not (path.is_file() and told.is_file()):
        return None
    raw, facts = path.read_bytes(), orjson.loads(told.read_bytes())
    if hashlib.sha256(raw).hexdigest() != facts.pop("sha256"):
        raise SparringError(f"{path} was changed since the sparring that made it; delete it, the quest then spars anew")
    return [orjson.loads(line) for line in raw.splitlines()], Score(**facts)
