"""The diversity filter of generated rows: fresh questions instead of repeated ones, and a word when there are too few
(realm-rules §13).

    kept, report = diverse(problems, redraw, closed, past)     # as many rows as came in, in the same places

A question is known by its canonical problem, so another wording or symbol key of the same problem is a near-duplicate.
One that stands earlier in the quest or in one of the last quests gives its place to a freshly drawn question of the
same skill, level, operation and difficulty: the mix stays what the curriculum ordered, and so does the count. Repeats
stay where they are meant: closed levels are tables that have to be known, and an operation with few questions (eight
increments of three bits) has nothing else to give. Draws are bounded (1/16 of the rows): where more is repeated than
that can mend, the questions are few, not the luck bad.

Rows with a checked answer are not thinned for looking alike: a skill's grammar is its template. `filter_texts` is for
text that a model wrote: near-duplicates by MinHash go, and what exceeds the ceiling of one template.

Everything is counted: made = kept + filtered, each with its reason. A floor that is missed is an alert with the next
action, in the report; the quest is never smaller in silence. Version 1; measured cost: 1 to 3 % of making the quest.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from afs.jsonl import AtomicWriter
from realm.guild.skills import Problem
from realm.guild.skills.base import keyed_rng
from realm.settings import RealmHome

VERSION = 1
RECENT = 8  # quests whose questions count as known; 4 bytes a question
SAMPLE = 200  # prompts that distinct-n and templates are measured on: both depend on how many are looked at
DRAWN = 16  # at least so many fresh questions are drawn where one is needed, or 1/16 of the rows

Redraw = Callable[[str, int, int], Sequence[Problem]]
"""(skill, level, count) → training problems, a prefix of any longer call."""


@dataclass(frozen=True)
class Rules:
    """`distinct`: least share of different questions among the rows of an open level; `pairs`: least share of distinct
    word pairs over 200 prompts; `template`: largest share of one template (model text only); `near`: Jaccard
    similarity of near-duplicates (model text only)."""

    distinct: float = 0.5
    pairs: float = 0.02
    template: float = 0.5
    near: float = 0.8


def question(problem: Problem) -> int:
    """A 32-bit signature of what is asked; two of 8,000 questions collide once in 130 quests, which costs one row."""
    text = f"{problem.skill}\x1f{problem.canonical or problem.prompt}"
    return xxhash.xxh32_intdigest(text.encode("utf-8", "surrogatepass"))


# --- problems -----------------------------------------------------------------------------------------------------


def diverse(
    problems: Iterable[Problem], redraw: Redraw, closed: Callable[[str, int], bool],
    past: Collection[int] = frozenset(), rules: Rules = Rules(), seed: int = 0,
) -> tuple[list[Problem], dict[str, Any]]:  # fmt: skip
    """The problems with repeated questions replaced by fresh ones, and the report; pure.

    Args:
        closed: (skill, level) → whether it is a table to be known, whose rows repeat by design.
        past: signatures of the last quests' questions.
        seed: keys the sample that distinct-n is measured on.
    """
    kept = list(problems)
    tables = {key: closed(*key) for key in {(p.skill, p.level) for p in kept}}
    known, seen = past if isinstance(past, (set, frozenset)) else frozenset(past), set()
    repeats: dict[tuple[str, int], list[int]] = defaultdict(list)
    reasons: dict[int, str] = {}
    by_design = Counter()
    for index, problem in enumerate(kept):
        sign, key = question(problem), (problem.skill, problem.level)
        if tables[key]:
            by_design["closed"] += sign in seen
        elif sign in seen or sign in known:
            repeats[key].append(index)
            reasons[index] = "repeat" if sign in seen else "repeat_of_earlier"
        seen.add(sign)
    sizes = Counter((p.skill, p.level) for p in kept)
    filtered, replaced, drawn = Counter(), {}, 0
    for key, places in sorted(repeats.items()):
        fresh = redraw(*key, max(DRAWN, sizes[key] // 16))
        drawn += len(fresh)
        swaps = _swaps(kept, places, fresh, seen, known)
        for index, place in swaps:
            kept[index] = fresh[place]
            filtered[reasons.pop(index)] += 1
        filtered["not_needed"] += len(fresh) - len(swaps)
        by_design["few_questions"] += len(places) - len(swaps)
        if swaps:
            replaced[f"{key[0]}:{key[1]}"] = [list(swap) for swap in swaps]
    report = {"version": VERSION, "made": len(kept) + drawn, "kept": len(kept), "filtered": dict(+filtered),
              "repeats_by_design": dict(+by_design), "replaced": replaced}  # fmt: skip
    report |= _measure(kept, tables, rules, seed)
    if report["made"] != report["kept"] + sum(filtered.values()):
        raise AssertionError(f"rows went missing in the diversity filter: {report}; this is a bug, report it")
    return kept, report


def _swaps(
    kept: Sequence[Problem], places: Sequence[int], fresh: Sequence[Problem], seen: set[int], known: Collection[int]
) -> list[tuple[int, int]]:  # fmt: skip
    """[(place in the quest, place among the fresh ones)], like for like; what is taken counts as seen from then on."""
    pool: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for place, problem in enumerate(fresh):
        sign = question(problem)
        if sign not in seen and sign not in known and problem.split == "train":
            pool[problem.operation, problem.difficulty].append((place, sign))
    found = []
    for index in places:
        same = pool.get((kept[index].operation, kept[index].difficulty), [])
        while same:
            place, sign = same.pop(0)
            if sign not in seen:
                seen.add(sign)
                found.append((index, place))
                break
    return found


def replay(problems: Iterable[Problem], redraw: Redraw, replaced: Mapping[str, Sequence[Sequence[int]]]):
    """The rows of an earlier quest again, from what its report says was replaced; needs no past."""
    kept = list(problems)
    sizes = Counter((p.skill, p.level) for p in kept)
    for key, swaps in replaced.items():
        skill, _, level = key.rpartition(":")
        fresh = redraw(skill, int(level), max(DRAWN, sizes[skill, int(level)] // 16))
        for index, place in swaps:
            kept[index] = fresh[place]
    return kept


def _measure(
    kept: Sequence[Problem], tables: Mapping[tuple[str, int], bool], rules: Rules, seed: int
) -> dict[str, Any]:
    """distinct (share of different questions in open levels), pairs (distinct-2), top_template, and the alert."""
    questions: dict[tuple[str, int], list[int]] = defaultdict(list)
    for problem in kept:
        if not tables[problem.skill, problem.level]:
            questions[problem.skill, problem.level].append(question(problem))
    rows = sum(map(len, questions.values()))
    distinct = sum(len(set(signs)) for signs in questions.values()) / rows if rows else None
    opened = [p.prompt for p in kept if not tables[p.skill, p.level]]
    sample = keyed_rng("diversity", seed).sample(opened, min(SAMPLE, len(opened)))
    pairs, template = distinct_pairs(sample), top_template(sample)
    alert = None
    for (skill, level), signs in sorted(questions.items()):
        share = len(set(signs)) / len(signs)
        if len(signs) >= DRAWN and share < rules.distinct:
            alert = _alert(skill, level, f"only {len(set(signs))} different questions in {len(signs)} rows "
                           f"({share:.0%}, the floor is {rules.distinct:.0%})")  # fmt: skip
            break
    if alert is None and len(sample) >= DRAWN and pairs is not None and pairs < rules.pairs:
        name = next((p.skill, p.level) for p in kept if not tables[p.skill, p.level])
        alert = _alert(*name, f"{pairs:.1%} distinct word pairs over {len(sample)} questions, the floor is "
                              f"{rules.pairs:.0%}")  # fmt: skip
    return {"distinct": distinct, "pairs": pairs, "top_template": template, "alert": alert}


def _alert(skill: str, level: int, why: str) -> dict[str, Any]:
    return {"code": "diversity", "what": f"making fresh practice of {skill} level {level}", "why": why,
            "fix": f"The quest keeps its rows, repeats among them. Give {skill} more variety at level {level}, or mark "
                   "the level as closed (a table to be known)."}  # fmt: skip


def distinct_pairs(texts: Sequence[str]) -> float | None:
    """distinct-2: share of different pairs of neighbouring words; None without a pair."""
    seen: set[tuple[str, str]] = set()
    total = 0
    for text in texts:
        words = text.split()
        total += max(0, len(words) - 1)
        seen.update(zip(words, words[1:], strict=False))
    return len(seen) / total if total else None


_PLAIN = re.compile(r"[^\W\d_]+[:,.;?!]*")


def template_of(text: str) -> str:
    """The text with everything that is no plain word replaced by `#`."""
    return " ".join(word.casefold() if _PLAIN.fullmatch(word) else "#" for word in text.split())


def top_template(texts: Sequence[str]) -> float | None:
    """Share of the most common template; None without texts."""
    counts = Counter(map(template_of, texts))
    return counts.most_common(1)[0][1] / len(texts) if texts else None


# --- text that a model wrote --------------------------------------------------------------------------------------


def filter_texts(
    rows: Sequence[Mapping[str, Any]], rules: Rules = Rules(), seed: int = 0
) -> tuple[list[int], dict[str, Any]]:
    """(places of the rows that stay, report) of generated text without a canonical problem.

    Near-duplicates of an earlier question go, then rows of the most common template above its ceiling, drawn by key.
    """
    from afs.training.neardup import normal, shingles, signatures

    prompts = [next((m["content"] for m in row["messages"] if m["role"] == "user"), "") for row in rows]
    texts = [normal(text) for text in prompts]
    stay, filtered = [], Counter()
    if texts:
        signed, parts = signatures(texts), shingles(texts)
        buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for place in range(len(texts)):
            keys = [(band, signed[place, band : band + 4].tobytes()) for band in range(0, signed.shape[1], 4)]
            near = {other for key in keys for other in buckets.get(key, ())}
            if any(_jaccard(parts.of(place), parts.of(other)) >= rules.near for other in sorted(near)):
                filtered["near_duplicate"] += 1
                continue
            stay.append(place)
            for key in keys:
                buckets[key].append(place)
    gone = set(_above_ceiling(prompts, stay, rules.template, seed))
    if gone:
        stay = [place for place in stay if place not in gone]
        filtered["template"] = len(gone)
    return stay, {"version": VERSION, "made": len(rows), "kept": len(stay), "filtered": dict(filtered)}


def _jaccard(one: Any, two: Any) -> float:
    from afs.training.neardup import jaccard

    return jaccard(one, two)


def _above_ceiling(prompts: Sequence[str], stay: Sequence[int], ceiling: float, seed: int) -> list[int]:
    """Places of the most common template that must go for it to be at most `ceiling` of what is left."""
    templates = {place: template_of(prompts[place]) for place in stay}
    if len(stay) < DRAWN or ceiling >= 1:
        return []
    top, n = Counter(templates.values()).most_common(1)[0]
    room = int(ceiling / (1 - ceiling) * (len(stay) - n))
    if n <= max(room, DRAWN):
        return []
    own = [place for place, template in templates.items() if template == top]
    keyed_rng("template", seed).shuffle(own)
    return own[max(room, DRAWN) :]


# --- what the last quests asked -----------------------------------------------------------------------------------


def _folder(home: RealmHome, campaign_id: str) -> Path:
    return home.root / "campaigns" / campaign_id / "questions"


def remember(home: RealmHome, campaign_id: str, quest_id: str, signs: Iterable[int]) -> None:
    """Note the signatures of a quest's questions (4 bytes each); those of the last 8 quests are kept."""
    folder = _folder(home, campaign_id)
    packed = array("I", sorted(set(signs)))
    with AtomicWriter(folder / f"{quest_id}.u32") as out:
        out.write_bytes(packed.tobytes(), len(packed))
    for old in sorted(folder.glob("*.u32"))[:-RECENT]:  # ids rise with time
        old.unlink(missing_ok=True)


def recent(home: RealmHome, campaign_id: str) -> frozenset[int]:
    """Signatures of the questions of the campaign's last quests; a file that is cut short counts as far as it goes."""
    found: set[int] = set()
    for path in sorted(_folder(home, campaign_id).glob("*.u32"))[-RECENT:]:
        raw, signs = path.read_bytes(), array("I")
        signs.frombytes(raw[: len(raw) // 4 * 4])
        found.update(signs)
    return frozenset(found)
