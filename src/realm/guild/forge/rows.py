"""The rows that a skill is made from: files read, bad lines named, duplicates removed, every row accounted for.

A source is one JSONL file or a folder of them (`.jsonl`, also `.gz` and `.zst`), in any training format that the Cleric
knows. Each row becomes one question with one answer; what cannot be is quarantined or filtered with file, line and
reason, and the counts balance: read = kept + filtered + duplicates + quarantined.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from afs.jsonl import BadRow, Counts, Row, read_rows
from afs.training.converters import ConversionError, detect, is_preference, to_messages
from afs.training.neardup import text_clusters
from realm.guild.modules.content import normal

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
MAX_LINE = 8 * 1024 * 1024  # bytes, the Cleric's limit
MAX_ROWS = 200_000  # held in memory; a skill needs some thousands
NEAR = 0.8  # Jaccard similarity of shingles from which a row is a copy, see afs.training.neardup
NEAR_TOGETHER = 0.6  # from which two questions stay on one side of the split: one word changed in 20
TEMPLATE_SHARE = 0.10  # a cluster of near texts with more rows than this is a template, not copies of one text
COMMON_SHARE = 0.5  # a word in this share of a cluster's prompts belongs to the template
GROUP_KEYS = ("group", "session_id", "conversation_id")
EXAMPLES = 3
_WORD = re.compile(r"\d+(?:\.\d+)?|\w+")

Check = Callable[[Row], str | None]
"""A gate in front of the forge: what is wrong with a row ("code: reason"), or None."""


class ForgeError(ValueError):
    """The forge cannot make a skill of this; the text names the value, the rule and the next action."""

    def __init__(self, code: str, text: str, evidence: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.code, self.evidence = code, evidence or {}


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its answer. `group`: rows that must stay on one side of a split share it."""

    prompt: str
    golden: str
    file: str
    line: int
    group_key: str | None = None


@dataclass
class Source:
    """What was read. `quarantine` holds every row that is not in `items`, with its fate and original bytes."""

    items: list[Item] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    formats: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    ignored: list[dict[str, str]] = field(default_factory=list)
    reasons: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, fate: str, code: str, reason: str, row: BadRow) -> None:
        """Note the fate of a row; the caller counts it."""
        entry = self.reasons.setdefault((fate, code), {"fate": fate, "code": code, "count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append({"file": row.file, "line": row.line, "reason": reason})
        self.quarantine.append({**row.to_dict(), "fate": fate, "reason": reason})

    def to_dict(self) -> dict[str, Any]:
        """For the report: counts that balance, and the reasons with their first examples."""
        c = self.counts
        rows = {"read": c.read, "kept": c.out, "filtered": c.filtered, "duplicate": c.duplicates,
                "quarantined": c.quarantined, "blank": c.blank}  # fmt: skip
        reasons = sorted(self.reasons.values(), key=lambda r: (-r["count"], r["fate"], r["code"]))
        return {"files": self.files, "ignored": self.ignored, "formats": dict(self.formats), "rows": rows,
                "reasons": reasons}  # fmt: skip


def find_files(source: Path) -> tuple[list[Path], list[dict[str, str]]]:
    """(JSONL files in a stable order, the other files with the reason why they are left out).

    Raises:
        ForgeError: there is no such path, or no JSONL file in it.
    """
    if not source.exists():
        raise ForgeError("no_data", f"{source} does not exist; name a JSONL file or a folder of JSONL files")
    if source.is_file():
        return [source], []
    found, ignored = [], []
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source).as_posix()
        if any(part.startswith(".") for part in Path(name).parts):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(source.resolve()):
            ignored.append({"file": name, "reason": "a link that leads out of the folder"})
        elif name.endswith(ENDINGS):
            found.append(path)
        else:
            ignored.append({"file": name, "reason": f"its name ends in none of {', '.join(ENDINGS)}"})
    if not found:
        what = f"{len(ignored)} other files" if ignored else "nothing"
        raise ForgeError("no_data", f"{source} holds no JSONL file ({what}); write one JSON object per line into a "
                         "file that ends in .jsonl", {"ignored": ignored[:20]})  # fmt: skip
    return found, ignored


def read(source: Path, check: Check | None = None) -> Source:
    """Every question with its answer, without duplicates.

    Args:
        check: a gate in front, see `Check`; the arena passes the Cleric's.

    Raises:
        ForgeError: no data, or more than `MAX_ROWS` rows.
    """
    files, ignored = find_files(source)
    made = Source(ignored=ignored)
    base = source if source.is_dir() else source.parent
    raws: list[bytes] = []
    for path in files:
        made.files.append(path.relative_to(base).as_posix())
        _read_file(path, made, raws, check)
    _drop_duplicates(made, raws)
    made.counts.check()
    return made


def _read_file(path: Path, made: Source, raws: list[bytes], check: Check | None) -> None:
    name, counts = made.files[-1], Counts()

    def on_bad(row: BadRow) -> None:
        made.refuse("quarantined", row.reason.split(":")[0].replace(" ", "_"), row.reason, row)

    try:
        for row in read_rows(path, on_bad, counts, MAX_LINE, name):
            bad = BadRow(name, row.line, row.offset, len(row.raw), "", row.raw)
            found = _item(row, name, check)
            if isinstance(found, tuple):
                fate, code, reason = found
                made.refuse(fate, code, reason, bad)
                counts.filtered += fate == "filtered"
                counts.quarantined += fate == "quarantined"
                continue
            counts.out += 1
            made.formats[str(detect(row.value))] += 1
            made.items.append(found)
            raws.append(row.raw)
            if len(made.items) > MAX_ROWS:
                raise ForgeError("too_many", f"{path}: more than {MAX_ROWS:,} rows; a skill needs some thousands: "
                                 "give a sample of the data")  # fmt: skip
    except (OSError, EOFError) as error:
        raise ForgeError("unreadable", f"{path} cannot be read: {error}") from error
    made.counts.add(counts)


def _item(row: Row, name: str, check: Check | None) -> Item | tuple[str, str, str]:
    """The question, or (fate, code, reason)."""
    kind = detect(row.value)
    if kind is None:
        keys = ", ".join(sorted(map(str, row.value))[:8]) or "none"
        return "quarantined", "unknown_format", f"no known training format has the keys: {keys}"
    if is_preference(kind):
        return "filtered", "preference", "a pair of answers, not one right answer; drop it into the inbox instead"
    if (fault := check(row) if check else None) is not None:
        code, _, reason = fault.partition(": ")
        return ("filtered" if code.endswith("_split") else "quarantined"), code, reason
    try:
        messages = to_messages(row.value, kind)["messages"]
    except ConversionError as error:
        return "quarantined", "format", str(error)
    roles = [message["role"] for message in messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        return "filtered", "turns", f"turns {'+'.join(roles) or 'none'}: a skill asks one question and marks one answer"
    prompt, golden = "\n\n".join(m["content"].strip() for m in messages[:-1]), messages[-1]["content"].strip()
    if not messages[-2]["content"].strip():
        return "filtered", "no_question", "the question is empty; plain text is trained as a file quest"
    if not golden:
        return "quarantined", "empty", "the answer is empty"
    group = next((f"{k}={row.value[k]}" for k in GROUP_KEYS if row.value.get(k)), None)
    return Item(prompt, golden, name, row.line, group)


# --- duplicates -----------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """An answer as it is compared: case folded, white space collapsed."""
    return " ".join(text.casefold().split())


def asked(text: str) -> str:
    """A question as it is compared; modules compare theirs in the same way."""
    return normal(text) or plain(text)


def content(text: str, common: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Numbers and words of a text without the common ones, in a stable order."""
    return tuple(sorted(word for word in _WORD.findall(text.casefold()) if word not in common))


def numbers_of(text: str) -> tuple[str, ...]:
    """The numbers of a text as they are written, in a stable order."""
    return tuple(sorted(re.findall(r"\d+(?:\.\d+)?", text)))


def near_groups(texts: Sequence[str], threshold: float = NEAR) -> np.ndarray:
    """A number per text; near-duplicates share one.

    Near: similarity of shingles of at least the threshold, and the same numbers, for "3 + 4" and "3 + 5" are two
    problems. A cluster with more than `TEMPLATE_SHARE` of the texts is a template filled in with words; in it texts are
    near only when they agree in every word that is not in at least `COMMON_SHARE` of them.
    """
    if not len(texts):
        return np.zeros(0, "i8")
    clusters = text_clusters(list(texts), threshold)
    sizes = np.bincount(clusters)
    limit = max(10, TEMPLATE_SHARE * len(texts))
    common: dict[int, frozenset[str]] = {}
    for number in np.flatnonzero(sizes > limit).tolist():
        members = np.flatnonzero(clusters == number).tolist()
        seen = Counter(word for place in members for word in set(_WORD.findall(texts[place].casefold())))
        common[number] = frozenset(w for w, n in seen.items() if n >= COMMON_SHARE * len(members) and not w.isdigit())
    keys: dict[tuple, int] = {}
    found = []
    for text, cluster in zip(texts, clusters.tolist(), strict=True):
        kept = content(text, common[cluster]) if cluster in common else numbers_of(text)
        found.append(keys.setdefault((cluster, kept), len(keys)))
    return np.array(found, "i8")


def _drop_duplicates(made: Source, raws: list[bytes]) -> None:
    """Equal rows, and near ones with the same answer: the first stays."""
    items = made.items
    seen: dict[tuple[str, str], int] = {}
    twin: dict[int, tuple[str, int]] = {}
    for place, item in enumerate(items):
        first = seen.setdefault((asked(item.prompt), plain(item.golden)), place)
        if first != place:
            twin[place] = ("exact", first)
    rest = [place for place in range(len(items)) if place not in twin]
    firsts: dict[tuple[int, str], int] = {}
    for place, group in zip(rest, near_groups([items[p].prompt for p in rest]).tolist(), strict=True):
        first = firsts.setdefault((group, plain(items[place].golden)), place)
        if first != place and asked(items[first].prompt) != asked(items[place].prompt):
            twin[place] = ("near", first)
    for place, (code, first) in twin.items():
        item, other = items[place], items[first]
        row = BadRow(item.file, item.line, 0, len(raws[place]), "", raws[place])
        made.refuse("duplicate", code, f"the same question and answer as {other.file}:{other.line}", row)
    made.items = [item for place, item in enumerate(items) if place not in twin]
    made.counts.out -= len(twin)
    made.counts.duplicates += len(twin)


def groups_of(items: Sequence[Item]) -> list[int]:
    """A group per item: equal or near prompts, and rows with one group, session or conversation id, are together."""
    parent = list(range(len(items)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[Any, int] = {}
    near = near_groups([item.prompt for item in items], NEAR_TOGETHER).tolist()
    for place, item in enumerate(items):
        keys = [("near", near[place]), ("prompt", asked(item.prompt))]
        keys += [("key", item.group_key)] if item.group_key else []
        for key in keys:
            one, two = root(first.setdefault(key, place)), root(place)
            parent[max(one, two)] = min(one, two)
    return [root(place) for place in range(len(items))]


def conflicts(items: Sequence[Item]) -> dict[str, Any]:
    """Prompts that stand with two or more different answers: rows in conflict, their share and examples."""
    answers: dict[str, dict[str, Item]] = defaultdict(dict)
    rows: Counter[str] = Counter()
    for item in items:
        answers[asked(item.prompt)].setdefault(plain(item.golden), item)
        rows[asked(item.prompt)] += 1
    torn = [prompt for prompt, found in answers.items() if len(found) > 1]
    count = sum(rows[prompt] for prompt in torn)
    examples = [{"prompt": next(iter(answers[p].values())).prompt[:200],
                 "answers": [i.golden[:80] for i in answers[p].values()][:4],
                 "where": [f"{i.file}:{i.line}" for i in answers[p].values()][:4]}
                for p in torn[:EXAMPLES]]  # fmt: skip
    return {"prompts": len(torn), "rows": count, "share": count / len(items) if items else 0.0, "examples": examples}


def write_quarantine(made: Source, path: Path) -> None:
    """Every row that is not in the skill, one JSON line each with file, line, fate, reason and the row itself."""
    with open(path, "wb") as out:
        for record in made.quarantine:
            out.write(orjson.dumps(record) + b"\n")
