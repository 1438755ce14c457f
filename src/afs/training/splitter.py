"""Train, val and test without leaks: what belongs together never parts, and stays where it is when the data grows.

    result = split_dataset("mixed.jsonl", "splits", train_ratio=0.8, val_ratio=0.1, seed=42)
    print(result.summary())

Rows are grouped by equal text, near-duplicates, session, and source where a source names a document. Groups, not rows,
are dealt to the splits, per stratum, to exact counts. `assignments.jsonl` in the output folder remembers the split of
every text, session and document. Command: `afs training prepare --input mixed.jsonl --output splits`.

The rules in full:

- Counts: in each stratum every split gets the floor of its share; the rows left go to the splits furthest behind over
  the strata so far (largest remainder, ties by name). For one stratum that is Hamilton's method.
- Groups of several rows are dealt first, in an order drawn from the seed: each goes to the split that is emptiest for
  its size, but one that is larger than half of a split's share only where nothing else fits. Single rows then fill the
  splits exactly. When groups are too large for exact counts, the nearest counts that were reached are reported.
- A source is a document when at most half of the smallest split, and at most 1,000 rows, name it; others are kinds
  ("oracle", "claude-export") that say nothing about what belongs together. `group_by` overrides the rule.
- Rows that an earlier run dealt keep their split, known by text and session. The new rows of a group that holds rows
  of different splits are left out, in `bridging.jsonl`: in either split they would leak. Other new rows follow their
  group. A source that was dealt as a kind stays a kind.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from xxhash import xxh3_64_intdigest

from afs.rows import NAME, Index, RowView, copy_rows, family, plain_files, read_at, scan
from afs.step import How, Report, Step, StepError, UsageError, expand
from afs.training.neardup import check_threshold, clusters, join, numbered, roots, row_texts

SPLITS = ("train", "val", "test")
MOST_OF_A_DOCUMENT = 1000
_NO_DOCUMENT = frozenset(("", "augmented", "unknown"))
_VIEWED = frozenset(RowView.__struct_fields__) - {"raw_metadata", "other"}
_EMPTY = frozenset(("teacher_model", "teacher_prompt", "timestamp", "sample_id", "input"))  # "" there is no value
_KINDS = ("text", "session", "source")
_ENDS = tuple(f'","split":"{name}"}}'.encode() for name in SPLITS)


@dataclass
class SplitResult:
    """Rows per split, per split and stratum (`stats`), and what two splits share (`leaks`, all 0)."""

    train: int
    val: int
    test: int
    stats: dict[str, dict[str, int]]
    leaks: dict[str, int]
    held_out: int
    folder: Path
    report: Report

    @property
    def total(self) -> int:
        return self.train + self.val + self.test

    def summary(self) -> str:
        lines = [self.report.summary()]
        for split in SPLITS:
            n = getattr(self, split)
            share = f" ({n / self.total:.1%})" if self.total else ""
            strata = ", ".join(f"{name} {count:,}" for name, count in list(self.stats[split].items())[:8])
            lines.append(f"  {split}: {n:,}{share}" + (f": {strata}" if strata else ""))
        lines.append(f"  leaks: {self.leaks['groups']} groups and {self.leaks['texts']} texts in more than one split")
        return "\n".join(lines)


def split_dataset(
    input_path: Path | str,
    output_dir: Path | str,
    train_ratio: float = 0.8,
    val_ratio: float = 0.1,
    test_ratio: float | None = None,
    stratify_by: str | None = "domain",
    shuffle: bool = True,
    seed: int = 42,
    *,
    near: float | None = 0.8,
    group_by: Sequence[str] | None = None,
    fresh: bool = False,
    how: How | None = None,
) -> SplitResult:
    """Write `train.jsonl`, `val.jsonl`, `test.jsonl`, `assignments.jsonl` and `manifest.json` into a folder.

    Args:
        test_ratio: default what is left of 1.
        stratify_by: a key of the rows or of their `_metadata`; None deals all rows as one stratum.
        shuffle: deal the groups in a seeded random order; False deals them in the order of the file. The rows of a
            split keep the order of the file either way (a trainer draws its own).
        near: similarity of near-duplicates; None groups equal texts only.
        group_by: any of "near", "session", "source" and other keys, taken literally. Default: near-duplicates,
            sessions, and the sources that name documents. Equal texts always stay together.
        fresh: forget the assignments of earlier runs.

    Raises:
        UsageError: ratios that are no shares of 1, an unknown key to stratify or group by.
        StepError: there is no usable row.
    """
    ratios = _ratios(train_ratio, val_ratio, test_ratio)
    if near is not None:
        check_threshold(near)
    folder = expand(output_dir)
    if folder.is_file():
        raise UsageError(f"output {folder} is a file; name a folder for train.jsonl, val.jsonl and test.jsonl")
    parameters = {"ratios": [float(r) for r in ratios], "stratify_by": stratify_by, "shuffle": shuffle, "near": near,
                  "group_by": None if group_by is None else list(group_by)}  # fmt: skip
    outputs = [folder / f"{name}.jsonl" for name in (*SPLITS, "assignments")]
    with Step("split", [input_path], outputs, parameters, seed=seed, how=how, folder=folder,
              beside=[folder / "bridging.jsonl"], afresh=fresh) as step:  # fmt: skip
        if not step.current:
            with plain_files(step.inputs) as plain:
                plan = _Plan(step, ratios, stratify_by, shuffle, seed, near, group_by, folder)
                plan.run(plain, {} if fresh else load_assignments(folder / "assignments.jsonl"))
    details = step.report.details
    rows = details["splits"]
    return SplitResult(rows["train"], rows["val"], rows["test"], details["strata"], details["leaks"],
                       details["held_out"], folder, step.report)  # fmt: skip


def _ratios(train: float, val: float, test: float | None) -> tuple[Fraction, ...]:
    given = {"train": train, "val": val} | ({} if test is None else {"test": test})
    for name, ratio in given.items():
        if not 0 <= ratio <= 1:
            raise UsageError(f"{name} ratio must lie between 0 and 1, not {ratio}")
    found = {name: Fraction(repr(float(ratio))) for name, ratio in given.items()}
    total = sum(found.values())
    if test is None:
        if total > 1:
            raise UsageError(f"train ratio {train} and val ratio {val} are more than 1 together; lower one of them")
        found["test"] = 1 - total
    elif abs(total - 1) > Fraction(1, 10**6):
        raise UsageError(f"ratios must sum to 1: train {train} + val {val} + test {test} = {float(total)}")
    else:
        found = {name: ratio / total for name, ratio in found.items()}
    return tuple(found[name] for name in SPLITS)


# --- the columns ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """Domain, source family, stratum, the keys to group by (0: none), then 64 bits (XXH3) of the text as it stands.

    The text as it stands, not its normal form: it names the row in the assignments, and normalising costs more than
    all the rest of a split. Texts that differ in case or spaces are near-duplicates, which `near` keeps together."""

    stratify_by: str | None
    keys: tuple[str, ...]

    def columns(self, views: Sequence[RowView], raws: Sequence[bytes]) -> list[list[Any]]:
        """The columns of many rows."""
        sources = [view.source for view in views]
        found: list[list[Any]] = [[view.domain or "general" for view in views], list(map(family, sources))]
        rows = list(zip(views, raws, strict=True))
        if self.stratify_by not in (None, "domain"):
            values = [row_key(view, raw, self.stratify_by) for view, raw in rows]
            found.append(["(none)" if value is None else str(value) for value in values])
        for key in self.keys:
            if key == "session":
                found.append([_code(session_of(view)) for view in views])
            elif key == "source":
                found.append(list(map(_source_code, sources)))
            else:
                found.append([_code(row_key(view, raw, key)) for view, raw in rows])
        texts = row_texts(views, raws)
        found.append([xxh3_64_intdigest(text.encode()) or 1 if text else 0 for text in texts])
        return found


def _code(value: Any) -> int:
    """32 bits of a value, 0 for none. Two values with one code are only kept together, so 32 are enough."""
    if value is None or value == "":
        return 0
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) or 1


def _source_code(source: str | None) -> int:
    return 0 if source in _NO_DOCUMENT else _code(source)


def session_of(view: RowView) -> Any:
    """The session a row belongs to: `session_id` or `session`, of its `_metadata` or its own; None for none."""
    if b"session" in bytes(view.raw_metadata):
        found = view.metadata
        for key in ("session_id", "session"):
            if found.get(key) not in (None, ""):
                return found[key]
    return view.session_id or view.session


def row_key(view: RowView, raw: bytes, key: str) -> Any:
    """The value of a key of the row, or of its `_metadata`; None when it has none."""
    if key in _VIEWED:
        found = getattr(view, key)
        return None if key in _EMPTY and found == "" else found
    value = orjson.loads(raw)
    found = value.get(key)
    return view.metadata.get(key) if found is None else found


def _keys_of(index: Index) -> list[str]:
    """Keys that exist in the first rows, for an error message."""
    found: set[str] = set()
    for raw in read_at(index, np.arange(min(len(index), 100))):
        value = orjson.loads(raw)
        inner = value.get("_metadata")
        found |= set(value) | (set(inner) if isinstance(inner, dict) else set())
    return sorted(found - {"_metadata", "instruction", "output", "input", "thinking", "embedding"})


# --- assignments of earlier runs ------------------------------------------------------------------------------------


def load_assignments(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(sorted keys, split numbers) for texts, sessions and sources; empty when there is no file.

    Raises:
        StepError: a line is no assignment; the message names it.
    """
    if not path.is_file():
        return {}
    found: dict[str, tuple[array, array]] = {}
    with open(path, "rb") as source:
        for number, raw in enumerate(source, 1):
            try:
                line = orjson.loads(raw)
                kind, _, code = line["key"].partition(":")
                keys, splits = found.setdefault(kind, (array("Q"), array("b")))
                keys.append(int(code, 16))
                splits.append(SPLITS.index(line["split"]))
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise StepError(f"{path}:{number} is no assignment ({error}); restore the file, or remove it to deal "
                                f"all rows anew") from error  # fmt: skip
    loaded = {}
    for kind, (keys, splits) in found.items():
        codes = np.frombuffer(keys, "u8")
        order = np.argsort(codes, kind="stable")
        loaded[kind] = (codes[order], np.frombuffer(splits, "i1")[order])
    return loaded


def _look_up(known: tuple[np.ndarray, np.ndarray] | None, keys: np.ndarray) -> np.ndarray:
    """The split of each key, -1 where there is none."""
    if known is None or not len(known[0]):
        return np.full(len(keys), -1, "i1")
    place = np.minimum(np.searchsorted(known[0], keys), len(known[0]) - 1)
    return np.where(known[0][place] == keys, known[1][place], -1).astype("i1")


def _merged(known, keys: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Old and new assignments, one per key, by key."""
    keys, first = np.unique(keys.astype("u8"), return_index=True)
    splits = splits[first]
    if known is not None:
        fresh = _look_up(known, keys) < 0
        keys, splits = np.concatenate([known[0], keys[fresh]]), np.concatenate([known[1], splits[fresh]])
        order = np.argsort(keys, kind="stable")
        keys, splits = keys[order], splits[order]
    return keys, splits


# --- the plan -------------------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """One run: scan, group, deal, write."""

    step: Step
    ratios: tuple[Fraction, ...]
    stratify_by: str | None
    shuffle: bool
    seed: int
    near: float | None
    group_by: Sequence[str] | None
    folder: Path
    used: list[str] = field(default_factory=list)

    def run(self, plain: list[Path], known: dict) -> None:
        index, keys = self._scan(plain)
        groups = self._groups(index, keys, known)
        split, held = self._follow(index, keys, groups, known)
        self._deal(index, groups, split, held)
        leaks = self._leaks(index, keys, groups, split, held)
        self._write(index, split, held)
        self._write_assignments(index, keys, split, known)
        self._report(index, split, held, leaks)

    def _scan(self, plain: list[Path]) -> tuple[Index, tuple[str, ...]]:
        wanted = ("near", "session", "source") if self.group_by is None else tuple(dict.fromkeys(self.group_by))
        self.by_near = self.near is not None and "near" in wanted
        keys = tuple(key for key in wanted if key not in ("near", "text", "exact"))
        columns = {"domain": NAME, "family": NAME}
        if self.stratify_by not in (None, "domain"):
            columns["stratum"] = NAME
        columns |= {f"key {key}": "u4" for key in keys}
        columns["said"] = "u8"
        how = self.step.how
        index = scan(plain, columns, _Columns(self.stratify_by, keys),
                     names=[str(p) for p in self.step.inputs], on_bad=self.step.on_bad, workers=how.workers,
                     engine=how.engine, advance=self.step.advance)  # fmt: skip
        self.step.counts.add(index.counts)
        if not len(index):
            raise StepError(f"no usable row in {self.step.inputs[0]}; nothing was written")
        if index.names.get("stratum") == ["(none)"]:
            raise UsageError(f"no row has the key {self.stratify_by!r} to stratify by; there are: "
                             f"{', '.join(_keys_of(index))}. --no-stratify deals all rows as one stratum")  # fmt: skip
        for key in keys:
            if key not in ("session", "source") and not index.columns[f"key {key}"].any():
                raise UsageError(f"no row has the key {key!r} to group by; there are: {', '.join(_keys_of(index))}")
        return index, keys

    def _groups(self, index: Index, keys: tuple[str, ...], known: dict) -> np.ndarray:
        """A group number per row."""
        self.used = [f"near-duplicates (similarity {self.near})" if self.by_near else "equal texts"]
        first = clusters(index, self.near, self.step.how) if self.by_near else index.columns["said"]
        for key in keys:
            codes = index.columns[f"key {key}"]
            if key == "source" and self.group_by is None:
                self._keep_documents(codes, _look_up(known.get("text"), index.columns["said"]))
            elif codes.any():
                self.used.append(key)
        return _united([first, index.columns["said"], *(index.columns[f"key {key}"] for key in keys)])

    def _keep_documents(self, codes: np.ndarray, earlier: np.ndarray) -> None:
        """Clear the codes of sources that are kinds: too large, or dealt as kinds by an earlier run."""
        smallest = min(ratio for ratio in self.ratios if ratio)
        limit = min(MOST_OF_A_DOCUMENT, max(1, floor(smallest * len(codes) / 2)))
        values, inverse, sizes = np.unique(codes, return_inverse=True, return_counts=True)
        lowest, highest = np.full(len(values), 9, "i1"), np.full(len(values), -1, "i1")
        dealt = np.flatnonzero(earlier >= 0)
        np.minimum.at(lowest, inverse[dealt], earlier[dealt])
        np.maximum.at(highest, inverse[dealt], earlier[dealt])
        kinds = ((sizes > limit) | ((highest >= 0) & (lowest != highest))) & (values != 0)
        codes[kinds[inverse]] = 0
        documents = int((~kinds & (sizes > 1) & (values != 0)).sum())
        self.step.details["sources"] = {"documents": documents, "kinds": int(kinds.sum()), "most_rows": limit}
        if documents:
            self.used.append(f"source ({documents:,} documents of at most {limit:,} rows)")

    def _follow(self, index: Index, keys, groups: np.ndarray, known: dict) -> tuple[np.ndarray, np.ndarray]:
        """(split of the rows that earlier runs decide, -1 of the others; rows that join groups of different splits).

        A row is of old when its text is known and its session, if it has one, is known in the same split.
        """
        by_text = _look_up(known.get("text"), index.columns["said"])
        if not known:
            return by_text, np.zeros(len(index), bool)
        count = int(groups.max()) + 1
        known_text = by_text >= 0
        old = known_text.copy()
        by_session = np.full(len(index), -1, "i1")
        if "session" in keys:
            sessions = index.columns["key session"]
            by_session = np.where(sessions != 0, _look_up(known.get("session"), sessions.astype("u8")), -1)
            old &= (sessions == 0) | (by_session == by_text)
        lowest, highest = np.full(count, 9, "i1"), np.full(count, -1, "i1")
        for votes in (by_text, by_session):
            rows = np.flatnonzero(votes >= 0)
            np.minimum.at(lowest, groups[rows], votes[rows])
            np.maximum.at(highest, groups[rows], votes[rows])
        torn = (highest >= 0) & (lowest != highest)
        held = torn[groups] & ~old
        split = np.where(old, by_text, np.where(torn[groups], -1, highest[groups])).astype("i1")
        if "source" in keys:
            codes = index.columns["key source"]
            votes = np.where(codes != 0, _look_up(known.get("source"), codes.astype("u8")), -1)
            asked = np.flatnonzero((split < 0) & ~held & (votes >= 0))
            of_group = np.full(count, -1, "i1")
            of_group[groups[asked][::-1]] = votes[asked][::-1]  # the first row's vote counts
            split = np.where((split < 0) & ~held, of_group[groups], split).astype("i1")
        self.step.note(f"{int((known_text & ~held).sum()):,} rows keep the split that "
                       f"{self.folder / 'assignments.jsonl'} gives their text")  # fmt: skip
        return split, held

    def _deal(self, index: Index, groups: np.ndarray, split: np.ndarray, held: np.ndarray) -> None:
        """Give every group without a split one; fills `split`."""
        labels, names = self._strata(index)
        chosen = np.flatnonzero(~held)
        sizes = np.bincount(groups[chosen], minlength=int(groups.max()) + 1)
        open_rows = chosen[split[chosen] < 0]
        of_group = np.full(len(sizes), -1, "i1")
        # All rows of a group count for the stratum of most of them, so that whole groups can fill a stratum exactly.
        stratum = _main_stratum(groups[chosen], labels[chosen], len(sizes))
        labels = stratum[groups]
        rank = self._rank(index, groups, len(sizes))
        totals = np.bincount(labels[chosen], minlength=len(names))
        targets = stratum_targets({name: int(totals[place]) for place, name in enumerate(names)}, self.ratios)
        fixed = chosen[split[chosen] >= 0]
        given = np.zeros((len(names), 3), "i8")
        np.add.at(given, (labels[fixed], split[fixed]), 1)
        waiting = np.zeros(len(sizes), bool)
        waiting[groups[open_rows]] = True
        order = np.flatnonzero(waiting)
        order = order[np.lexsort((rank[order], stratum[order]))]
        del rank, fixed, waiting
        for batch in np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1):
            if len(batch):
                place = int(stratum[batch[0]])
                goal = [targets[names[place]][name] for name in SPLITS]
                deal_groups(batch, sizes[batch], goal, given[place], of_group)
        self._at_least_one(order, sizes, of_group, given)
        split[open_rows] = of_group[groups[open_rows]]
        wanted = {name: sum(row[name] for row in targets.values()) for name in SPLITS}
        reached = np.bincount(split[chosen], minlength=3)
        self.step.details["targets"] = wanted
        off = {name: int(reached[place]) - wanted[name] for place, name in enumerate(SPLITS)}
        if any(off.values()):
            parts = ", ".join(f"{name} {n:+,}" for name, n in off.items() if n)
            self.step.note(f"exact counts cannot be reached with whole groups and earlier assignments: {parts}")

    def _strata(self, index: Index) -> tuple[np.ndarray, list[str]]:
        if self.stratify_by is None:
            return np.zeros(len(index), "u4"), ["all"]
        column = "domain" if self.stratify_by == "domain" else "stratum"
        return index.columns[column], index.texts(column)

    def _rank(self, index: Index, groups: np.ndarray, count: int) -> np.ndarray:
        """What orders the groups: a seeded hash of a group's smallest fingerprint, or its place in the file."""
        if not self.shuffle:
            return np.arange(count, dtype="u8")  # groups are numbered by their first rows
        smallest = np.full(count, np.iinfo("u8").max, "u8")
        np.minimum.at(smallest, groups, index.columns["said"])
        return seeded_hash(smallest, self.seed)

    def _at_least_one(self, order: np.ndarray, sizes, of_group, given: np.ndarray) -> None:
        """A split that should have rows and has none takes the smallest group of the largest split, if that has two."""
        for place in range(3):
            total = given.sum(axis=0)
            if not self.ratios[place] or total[place]:
                continue
            largest = int(np.argmax(total))
            movable = order[of_group[order] == largest]
            if len(movable) < 2:
                continue
            group = movable[np.argmin(sizes[movable])]
            of_group[group] = place
            given[0, largest] -= sizes[group]
            given[0, place] += sizes[group]

    def _leaks(self, index: Index, keys, groups: np.ndarray, split: np.ndarray, held: np.ndarray) -> dict[str, int]:
        """Groups and texts with rows in two splits, counted over the rows as they are written."""
        rows = np.flatnonzero(~held)
        if held.any():
            # Without the bridging rows, what they joined falls apart again: group the rest anew.
            rest = _subset(index, rows)
            first = clusters(rest, self.near, self.step.how) if self.by_near else rest.columns["said"]
            groups = _united([first, rest.columns["said"], *(rest.columns[f"key {key}"] for key in keys)])
        else:
            groups = groups[rows]
        texts = numbered(index.columns["text" if self.by_near else "said"][rows])
        return {"groups": _shared(groups, split[rows]), "texts": _shared(texts, split[rows])}

    def _write(self, index: Index, split: np.ndarray, held: np.ndarray) -> None:
        for place, name in enumerate(SPLITS):
            rows = np.flatnonzero((split == place) & ~held)
            with self.step.writer(self.folder / f"{name}.jsonl") as out:
                copy_rows(index, rows, out)
        bridging = self.folder / "bridging.jsonl"
        if held.any():
            with self.step.writer(bridging) as out:
                copy_rows(index, np.flatnonzero(held), out)
            self.step.note(f"{held.sum():,} new rows join groups of different splits and are left out, in {bridging}")
        elif not self.step.how.dry_run:
            bridging.unlink(missing_ok=True)

    def _write_assignments(self, index: Index, keys, split: np.ndarray, known: dict) -> None:
        rows = np.flatnonzero(split >= 0)
        with self.step.writer(self.folder / "assignments.jsonl") as out:
            for kind in _KINDS:
                if kind == "text":
                    codes, of = index.columns["said"][rows], split[rows]
                elif kind in keys:
                    codes = index.columns[f"key {kind}"][rows]
                    codes, of = codes[codes != 0], split[rows][codes != 0]
                else:
                    codes, of = np.zeros(0, "u8"), np.zeros(0, "i1")
                codes, of = _merged(known.get(kind), codes, of)
                head = f'{{"key":"{kind}:'.encode()
                for at in range(0, len(codes), 4096):
                    digits = codes[at : at + 4096].astype(">u8").tobytes().hex().encode()
                    out.write_all([head + digits[16 * n : 16 * n + 16] + _ENDS[place]
                                   for n, place in enumerate(of[at : at + 4096].tolist())])  # fmt: skip

    def _report(self, index: Index, split: np.ndarray, held: np.ndarray, leaks: dict[str, int]) -> None:
        step = self.step
        written = split.copy()
        written[held] = -1
        rows = np.bincount(written[written >= 0], minlength=3)
        out = np.flatnonzero(written >= 0)
        step.counts.out, step.counts.filtered = len(out), len(index) - len(out)
        step.by_domain.update(index.tally("domain", out))
        stayed, left = index.tally("family", out), index.tally("family", np.flatnonzero(written < 0))
        for source in {**stayed, **left}:
            kept, lost = stayed.get(source, 0), left.get(source, 0)
            step.by_source[source] = {"read": kept + lost, "out": kept, "filtered": lost}
        labels, names = self._strata(index)
        strata = {}
        for place, name in enumerate(SPLITS):
            tally = Counter({names[n]: int(c) for n, c in enumerate(np.bincount(labels[written == place])) if c})
            strata[name] = dict(sorted(tally.items()))
        step.details.update(splits={name: int(rows[place]) for place, name in enumerate(SPLITS)}, strata=strata,
                            leaks=leaks, held_out=int(held.sum()), grouped_by=self.used)  # fmt: skip
        step.note(f"kept together: {', '.join(self.used)}")
        if any(leaks.values()):
            step.note(f"LEAK: earlier assignments put {leaks['groups']:,} groups into two splits that belong together "
                      f"now; --fresh deals all rows anew")  # fmt: skip


def _subset(index: Index, rows: np.ndarray) -> Index:
    columns = {name: values[rows] for name, values in index.columns.items()}
    return Index(index.paths, index.file[rows], index.offset[rows], index.length[rows], columns, index.names,
                 index.counts, index.counts_by_file)  # fmt: skip


def _united(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Group numbers of rows that share a key, directly or over others; 0 in a key of 32 bits is no key."""
    parent = np.arange(len(keys[0]), dtype="i4")
    for codes in keys:
        rows = np.flatnonzero(codes) if codes.dtype == np.dtype("u4") else np.arange(len(codes))
        if not len(rows):
            continue
        _, first, inverse = np.unique(codes[rows], return_index=True, return_inverse=True)
        leader = rows[first][inverse]
        del first, inverse
        apart = roots(parent, leader) != roots(parent, rows)
        leader, rows = leader[apart], rows[apart]
        join(parent, leader, rows)
    return numbered(roots(parent, np.arange(len(parent))))


def _main_stratum(groups: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The stratum of most rows of each group (ties: the one that appears first in the data)."""
    found = np.zeros(count, "i4")
    found[groups[::-1]] = labels[::-1]  # the first row's stays
    # Only the few groups of several strata need counting; sorting all rows would take 60 bytes each.
    mixed = np.zeros(count, bool)
    mixed[groups[labels != found[groups]]] = True
    rows = np.flatnonzero(mixed[groups])
    if len(rows):
        pairs, sizes = np.unique(np.stack([groups[rows], labels[rows].astype("i4")]), axis=1, return_counts=True)
        order = np.lexsort((-pairs[1], sizes))  # the best last, so that it is written last
        found[pairs[0][order]] = pairs[1][order]
    return found


def _shared(groups: np.ndarray, split: np.ndarray) -> int:
    """How many groups have rows in more than one split."""
    count = int(groups.max()) + 1 if len(groups) else 0
    return int((sum(np.bincount(groups[split == place], minlength=count) > 0 for place in range(3)) > 1).sum())


def seeded_hash(keys: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 of the keys under a seed: an order that does not depend on the other keys."""
    found = keys ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    return found ^ (found >> np.uint64(31))


def stratum_targets(sizes: dict[str, int], ratios: Sequence[Fraction]) -> dict[str, dict[str, int]]:
    """Rows of each split in each stratum: within one of the exact share, summing to the stratum's size.

    Units beyond the floors go to the splits furthest behind the exact shares of all strata so far (by name), so that
    many small strata together come out exact too. For one stratum this is the largest remainder, ties by name.
    """
    behind = dict.fromkeys(SPLITS, Fraction(0))
    found = {}
    for name in sorted(sizes):
        shares = {split: ratio * sizes[name] for split, ratio in zip(SPLITS, ratios, strict=True)}
        counts = {split: floor(share) for split, share in shares.items()}
        for split in SPLITS:
            behind[split] += shares[split] - counts[split]
        left = sizes[name] - sum(counts.values())
        partly = sorted((s for s in SPLITS if shares[s] != counts[s]), key=lambda s: (-behind[s], s))
        for split in partly[:left]:
            counts[split] += 1
            behind[split] -= 1
        found[name] = counts
    return found


def deal_groups(
    groups: np.ndarray, sizes: np.ndarray, goal: Sequence[int], given: np.ndarray, of_group: np.ndarray
) -> None:
    """Deal the groups of one stratum, in their order, to the splits; fills `of_group` and adds to `given`.

    Args:
        sizes: rows of each group.
        goal: rows that each split should have in the end.
        given: rows that each split has.
    """
    several = sizes > 1
    for group, size in zip(groups[several].tolist(), sizes[several].tolist(), strict=True):
        best = max(range(3), key=lambda place: _fit(size, goal[place], int(given[place])))
        of_group[group] = best
        given[best] += size
    singles = groups[~several]
    need = np.maximum(np.array(goal) - given, 0)
    if need.sum() != len(singles):
        # Too large groups or earlier rows overfilled a split (or left rows out): what is left is shared alike.
        from afs.training.mixing import largest_remainder

        weights = {name: float(n) for name, n in zip(SPLITS, need if need.any() else np.array(goal), strict=True)}
        counts = largest_remainder(weights, len(singles))
        need = np.array([counts[name] for name in SPLITS])
    places = np.repeat(np.arange(3), need)
    of_group[singles] = places
    given += need


def _fit(size: int, goal: int, given: int) -> tuple:
    """How well a group fits a split: without filling more than half of it, at all, and by the share still empty."""
    room = goal - given
    if size <= room and 2 * size <= goal:
        return 2, room / goal, room
    return (1, room, 0) if size <= room else (0, room, 0)
