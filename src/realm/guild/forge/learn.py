"""Is there anything to learn? Cheap checks that need no hero, each with what it can and cannot show.

Refused without doubt: too few rows, one answer for (nearly) everything, one question with several answers, an answer
that stands at a fixed place in the question. Then a permutation test asks whether the answers depend on the questions
at all: five statistics, each compared with the same statistic after the answers were shuffled 999 times.

What the test shows: a dependence at p < 0.01 (after Bonferroni) is real with 99 % confidence. What it cannot show: that
there is none. A rule that leaves no trace in any single feature (the parity of many bits, a cipher) looks random to it.
So a skill without a found dependence is refused, unless a person vouches for the answers; the acceptance then decides.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from realm.guild.forge.rows import ForgeError, Item, conflicts, plain
from realm.guild.skills.base import keyed_hash

MIN_ROWS = 50  # distinct rows: 40 to learn from, 10 to examine
ONE_ANSWER = 0.95  # share of the most common answer
MAX_CONFLICTS = 0.05  # share of rows whose question stands with other answers too
COPIED = 0.90  # share of answers that one fixed place of the question gives
SHUFFLES = 999
SIGNIFICANT = 0.01
TEST_ROWS = 600  # sampled for the permutation test
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_HASHED = 256  # features of words and character trigrams each


def check_rows(items: Sequence[Item]) -> dict[str, Any]:
    """The checks without doubt; returns their evidence.

    Raises:
        ForgeError: too_few | one_answer | conflicting | copied, with the numbers.
    """
    if len(items) < MIN_ROWS:
        raise ForgeError("too_few", f"{len(items)} distinct rows: a skill needs at least {MIN_ROWS}; add data, or drop "
                         "the file into the inbox as a file quest", {"rows": len(items)})  # fmt: skip
    answers = Counter(plain(item.golden) for item in items)
    top, count = answers.most_common(1)[0]
    if count >= ONE_ANSWER * len(items):
        raise ForgeError("one_answer", f"{count} of {len(items)} answers are {top[:60]!r}: whoever always says this is "
                         "right, so there is nothing to learn; add rows with other answers",
                         {"answer": top[:200], "share": count / len(items)})  # fmt: skip
    torn = conflicts(items)
    if torn["share"] > MAX_CONFLICTS:
        one = torn["examples"][0]
        raise ForgeError("conflicting", f"{torn['rows']} of {len(items)} rows ask a question that stands with other "
                         f"answers too (at most {MAX_CONFLICTS:.0%} may): {one['prompt'][:60]!r} has {one['answers']} "
                         f"at {', '.join(one['where'])}; the question does not determine the answer. Mend the data",
                         torn)  # fmt: skip
    return {"rows": len(items), "distinct_answers": len(answers), "most_common_answer": top[:200],
            "most_common_share": count / len(items), "conflicts": torn}  # fmt: skip


def check_copies(items: Sequence[Item]) -> dict[str, Any]:
    """Whether one fixed place of the question holds the answer.

    Raises:
        ForgeError: copied.
    """
    best = best_place(items)
    inside = sum(plain(item.golden) in plain(item.prompt) for item in items) / len(items)
    if best["share"] >= COPIED:
        raise ForgeError("copied", f"{best['share']:.0%} of the answers are {best['place']}: the answer stands in the "
                         "question at a fixed place, so there is nothing to learn but copying; take it out of the "
                         "questions", {**best, "verbatim_somewhere": inside})  # fmt: skip
    return {**best, "verbatim_somewhere": inside}


def best_place(items: Sequence[Item]) -> dict[str, Any]:
    """The place of the question that is the answer most often: {"place": words, "share": of the rows}."""
    hits: Counter[str] = Counter()
    for item in items:
        # Letter by letter: a word in capitals is made from the question, not copied out of it.
        prompt, golden = " ".join(item.prompt.split()), " ".join(item.golden.split())
        lines, words = [" ".join(line.split()) for line in item.prompt.strip().splitlines()], prompt.split()
        places = {"the whole question": prompt, "its first line": lines[0], "its last line": lines[-1],
                  "what follows its last colon": prompt.rpartition(":")[2].strip()}  # fmt: skip
        size = max(1, len(golden.split()))
        for at in range(min(12, len(words) - size + 1)):
            places[f"its words from {at + 1} on"] = " ".join(words[at : at + size])
            end = len(words) - at
            places[f"its words up to {at + 1} from the end"] = " ".join(words[end - size : end])
        hits.update(name for name, text in places.items() if text.strip(" .,;!?\"'") == golden.strip(" .,;!?\"'"))
    if not hits:
        return {"place": None, "share": 0.0}
    place, count = hits.most_common(1)[0]
    return {"place": place, "share": count / len(items)}


# --- the permutation test ---------------------------------------------------------------------------------------------


def dependence(items: Sequence[Item], seed: int = 0) -> dict[str, Any]:
    """{"p": smallest p after Bonferroni, "dependent": p < SIGNIFICANT, "tests": {name: {"value", "p"}}, "rows"}."""
    rng = np.random.default_rng(keyed_hash("forge", "dependence", seed) % 2**63)
    if len(items) > TEST_ROWS:
        items = [items[place] for place in np.sort(rng.choice(len(items), TEST_ROWS, replace=False))]
    orders = np.array([rng.permutation(len(items)) for _ in range(SHUFFLES)])
    codes = _codes(items)
    tests = {
        "neighbours agree": _neighbours(items, codes, orders),
        "a feature tells the answer": _features(items, codes, orders),
        "numbers move together": _numbers(items, orders),
        "lengths move together": _correlation(_lengths(items)[:, :1], _lengths(items)[:, 1], orders),
        "answers share characters with their questions": _overlap(items, orders),
    }
    made = {name: {"value": float(found[0]), "p": float((1 + (found[1:] >= found[0] - 1e-12).sum()) / len(found))}
            for name, found in tests.items() if found is not None}  # fmt: skip
    smallest = min((test["p"] for test in made.values()), default=1.0)
    p = min(1.0, smallest * len(made))
    return {"p": p, "dependent": p < SIGNIFICANT, "rows": len(items), "shuffles": SHUFFLES, "tests": made}


def refuse_random(found: dict[str, Any]) -> ForgeError:
    """What the forge says when no dependence was found."""
    return ForgeError("no_dependence", f"the answers of {found['rows']} rows look as if they were drawn without regard "
                      f"to the questions (smallest p {found['p']:.2f} of {len(found['tests'])} permutation tests; "
                      f"below {SIGNIFICANT} counts). A rule that leaves no trace in single features looks the same: if "
                      "you know that there is one, pass --trust-answers and the acceptance decides", found)  # fmt: skip


def _codes(items: Sequence[Item]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(plain(item.golden), len(numbers)) for item in items])


def _hashed(text: str) -> np.ndarray:
    """Presence of hashed words and character trigrams, float32 [2 · _HASHED]."""
    found = np.zeros(2 * _HASHED, "f4")
    folded = plain(text)
    for word in re.findall(r"\w+", folded):
        found[zlib.crc32(word.encode()) % _HASHED] = 1
    for at in range(len(folded) - 2):
        found[_HASHED + zlib.crc32(folded[at : at + 3].encode()) % _HASHED] = 1
    return found


def _neighbours(items: Sequence[Item], codes: np.ndarray, orders: np.ndarray) -> np.ndarray | None:
    """Share of rows whose nearest neighbour (cosine of hashed words and trigrams) has the same answer."""
    if codes.max() + 1 > len(codes) / 2:
        return None  # hardly any answer occurs twice
    vectors = np.array([_hashed(item.prompt) for item in items])
    vectors = vectors - vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -2)
    nearest = alike.argmax(axis=1)
    return np.array([(codes == codes[nearest]).mean(), *((codes[o] == codes[o[nearest]]).mean() for o in orders)])


def _features(items: Sequence[Item], codes: np.ndarray, orders: np.ndarray) -> np.ndarray | None:
    """Largest chi-square per row of one yes-or-no feature of the question against the answers."""
    counts = np.bincount(codes)
    if len(counts) > 20 or np.sort(counts)[-2] < 5:
        return None
    table = np.concatenate([np.array([_hashed(item.prompt) for item in items]), _number_facts(items)], axis=1)
    often = table.sum(axis=0)
    table = table[:, (often >= 5) & (often <= len(items) - 5)]
    if not table.shape[1]:
        return None
    rows, share = len(items), counts / len(items)
    kept = np.concatenate([table, 1 - table], axis=1)
    expected = kept.sum(axis=0)[:, None] * share[None, :]
    found = []
    for order in [np.arange(rows), *orders]:
        seen = kept.T @ np.eye(len(counts), dtype="f4")[codes[order]]
        cells = (seen - expected) ** 2 / np.maximum(expected, 1e-9)
        half = cells.sum(axis=1)
        found.append((half[: len(half) // 2] + half[len(half) // 2 :]).max() / rows)
    return np.array(found)


def _values(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text)[:8] if len(number) <= 15]


def _number_facts(items: Sequence[Item]) -> np.ndarray:
    """Yes-or-no facts of the numbers in the questions: remainders by 2, 3, 5, 10, signs, which of two is larger."""
    made = []
    for item in items:
        values = [*_values(item.prompt)[:3]]
        facts = [len(item.prompt) % 2 == 0, len(item.prompt.split()) % 2 == 0]
        for place in range(3):
            value = values[place] if place < len(values) else float("nan")
            facts += [value % n == r for n, r in ((2, 0), (3, 0), (5, 0), (10, 0), (10, 5))] + [value < 0, value > 9]
        facts += [len(values) > 1 and values[0] > values[1], len(values) > 2 and values[1] > values[2],
                  len(values) > 1 and sum(values) % 2 == 0]  # fmt: skip
        made.append(facts)
    return np.array(made, "f4")


def _rank(values: np.ndarray) -> np.ndarray:
    ordered = np.sort(values)
    middle = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    middle = middle - middle.mean()
    norm = np.linalg.norm(middle)
    return middle / norm if norm > 0 else middle * 0


def _correlation(columns: np.ndarray, target: np.ndarray, orders: np.ndarray) -> np.ndarray | None:
    """Largest absolute Spearman correlation of a column with the target."""
    if len(set(target.tolist())) < 2:
        return None
    ranked = np.array([_rank(column) for column in columns.T])
    if not ranked.any():
        return None
    goal = _rank(target)
    return np.array([np.abs(ranked @ goal).max(), *(np.abs(ranked @ goal[order]).max() for order in orders)])


def _numbers(items: Sequence[Item], orders: np.ndarray) -> np.ndarray | None:
    """Spearman correlation of the answer's number with the question's numbers, their sum, product, extremes, count."""
    answers = [_values(item.golden) for item in items]
    asked = [_values(item.prompt) for item in items]
    if not all(answers) or not any(asked):
        return None
    columns = []
    for values in asked:
        padded = [*values, *[0.0] * 8][:4]
        whole = [sum(values), float(np.prod(values)) if values else 0.0, max(values, default=0.0),
                 min(values, default=0.0), float(len(values)), (values[0] - values[1]) if len(values) > 1 else 0.0]
        columns.append(padded + whole + [v % 10 for v in padded[:3]])  # fmt: skip
    return _correlation(np.array(columns), np.array([found[-1] for found in answers]), orders)


def _lengths(items: Sequence[Item]) -> np.ndarray:
    return np.array([[len(item.prompt), len(item.golden)] for item in items], float)


def _overlap(items: Sequence[Item], orders: np.ndarray) -> np.ndarray | None:
    """Mean share of an answer's characters (with multiplicity) and hashed words and trigrams that its question has."""
    alphabet = {char: place for place, char in enumerate(sorted({c for item in items for c in plain(item.golden)}))}
    if len(alphabet) > 400:
        return None

    def counts(text: str) -> np.ndarray:
        found = np.zeros(len(alphabet), "f4")
        for char, n in Counter(plain(text)).items():
            if char in alphabet:
                found[alphabet[char]] = n
        return found

    asked = np.array([counts(item.prompt) for item in items])
    given = np.array([counts(item.golden) for item in items])
    hashed_asked = np.array([_hashed(item.prompt) for item in items])
    hashed_given = np.array([_hashed(item.golden) for item in items])
    size, hashed_size = np.maximum(given.sum(axis=1), 1), np.maximum(hashed_given.sum(axis=1), 1)
    pairs = hashed_asked @ hashed_given.T / hashed_size[None, :]
    rows = np.arange(len(items))
    return np.array([(np.minimum(asked, given[o]).sum(axis=1) / size[o]).mean() + pairs[rows, o].mean()
                     for o in (rows, *orders)])  # fmt: skip
