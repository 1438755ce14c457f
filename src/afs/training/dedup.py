"""Remove duplicate rows and say what matched what.

    result = dedup_jsonl("raw.jsonl", "clean.jsonl", near=0.8)
    print(result.summary())
    print(explain_duplicate("raw.jsonl", 17).summary())        # the nearest other row of line 17, and what they share

Exact duplicates have the same normalised text (NFKC, case folded, white space collapsed). Near duplicates have a
Jaccard similarity of shingles at or above the threshold with the row that stays (see `neardup`). Every removed row is
in `<output>.duplicates.jsonl` with the row that it matched and how similar they are; so no row is removed because of a
chain of others. Command: `afs training dedup --input raw.jsonl --output clean.jsonl --near 0.8`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from afs.jsonl import AtomicWriter, BadRow
from afs.rows import NAME, Index, RowView, copy_rows, family, parts_of, plain_files, read_at, scan, see, views
from afs.step import How, Report, Step, StepError, UsageError, expand
from afs.training.neardup import (
    LONGEST,
    Near,
    TextColumn,
    check_text,
    check_threshold,
    distinct_texts,
    normal,
    row_text,
    shingles,
    text_column,
)

KEEP = ("first", "best")


@dataclass
class DedupResult:
    """Rows that stayed, and rows removed as equal or as nearly equal."""

    kept: int
    exact: int
    near: int
    duplicates_path: Path
    report: Report

    @property
    def removed(self) -> int:
        return self.exact + self.near

    def summary(self) -> str:
        return self.report.summary()


def dedup_jsonl(
    input_path: Path | str | Sequence[Path | str],
    output_path: Path | str,
    *,
    near: float | None = None,
    keep: str = "first",
    text: str = "all",
    duplicates_to: Path | str | None = None,
    how: How | None = None,
) -> DedupResult:
    """Write the rows that are no duplicates, verbatim and in order.

    Args:
        input_path: one file, or several that are read as one.
        near: Jaccard similarity from 0.3 to 1 at which texts count as duplicates, 0.8 for edited copies; None removes
            equal texts only.
        keep: "first" keeps the first row; "best" the one of the best `quality_score`, ties by the smallest content
            hash, so that the rows that stay do not depend on the order of the file.
        text: what is compared: "all", "instruction" (with input) or "output". A row without that text stays.
        duplicates_to: where the removed rows go, default `<output>.duplicates.jsonl`.

    Raises:
        UsageError: an unknown option, or a threshold out of range.
        StepError: there is no usable row.
    """
    if keep not in KEEP:
        raise UsageError(f"no rule {keep!r} for which row stays; known: {', '.join(KEEP)}")
    check_text(text)
    if near is not None:
        check_threshold(near)
    inputs = [input_path] if isinstance(input_path, str | Path) else list(input_path)
    target = expand(output_path)
    removed_to = expand(duplicates_to) if duplicates_to else duplicates_path(target)
    parameters = {"near": near, "keep": keep, "text": text}
    with Step("dedup", inputs, [target, removed_to], parameters, how=how) as step:
        if not step.current:
            with plain_files(step.inputs) as plain:
                _run(step, plain, target, removed_to, near, keep, text)
    report = step.report
    return DedupResult(report.counts.out, report.details["exact"], report.details["near"], removed_to, report)


def duplicates_path(output: Path) -> Path:
    """`clean.jsonl.gz` → `clean.duplicates.jsonl.gz`."""
    endings = "".join(s for s in output.suffixes if s in (".jsonl", ".gz", ".zst"))
    stem = output.name.removesuffix(endings) if endings else output.name
    return output.with_name(f"{stem}.duplicates{endings or '.jsonl'}")


def _run(step: Step, plain, target: Path, removed_to: Path, near, keep: str, text: str) -> None:
    columns = {"domain": NAME, "source": NAME}
    if keep == "best":
        columns |= {"quality": "f4", "raw": "u8"}
    if near is None:
        columns |= {"text": "u8"}
    index = scan(plain, columns, _Columns(keep == "best", text if near is None else None),
                 names=[str(p) for p in step.inputs], on_bad=step.on_bad, workers=step.how.workers,
                 engine=step.how.engine, advance=step.advance)  # fmt: skip
    if not len(index):
        raise StepError(f"no usable row in {', '.join(map(str, step.inputs))}; nothing was written")
    found = find_duplicates(index, near, keep, text, step.how)
    kept = np.flatnonzero(found.of < 0)
    with step.writer(target) as out:
        copy_rows(index, kept, out)
    with step.writer(removed_to) as out:
        for record in _records(index, found, [str(p) for p in step.inputs]):
            out.write_raw(record)
    step.counts.add(index.counts)
    step.counts.out, step.counts.duplicates = len(kept), len(index) - len(kept)
    step.by_domain.update(index.tally("domain", kept))
    stayed, gone = index.tally("source", kept), index.tally("source", np.flatnonzero(found.of >= 0))
    for source in {**stayed, **gone}:
        out_rows, lost = stayed.get(source, 0), gone.get(source, 0)
        step.by_source[source] = {"read": out_rows + lost, "out": out_rows, "duplicates": lost}
    exact = int(((found.of >= 0) & (found.similarity == 1)).sum())
    step.details.update(exact=exact, near=len(index) - len(kept) - exact, distinct_texts=found.texts,
                        pairs_compared=found.pairs, pairs_read_again=found.pairs_read)  # fmt: skip
    step.note(f"{exact:,} equal and {len(index) - len(kept) - exact:,} nearly equal rows are in {removed_to} with what "
              f"they matched")  # fmt: skip


@dataclass(frozen=True)
class _Columns:
    """Domain, source, then quality and hash of the bytes (for keep="best"), then the text's fingerprint."""

    best: bool
    text: str | None

    def columns(self, views: Sequence[RowView], raws: Sequence[bytes]) -> list[list]:
        """The columns of many rows."""
        found: list[list] = [[view.domain or "general" for view in views], [family(view.source) for view in views]]
        if self.best:
            found.append([view.quality_score or 0.0 for view in views])
            found.append([int.from_bytes(hashlib.sha256(raw).digest()[:8], "little") for raw in raws])
        return found + TextColumn(self.text).columns(views, raws) if self.text else found


@dataclass
class Duplicates:
    """For each row the row that it repeats (-1: it stays) and their similarity; texts and pairs that were compared."""

    of: np.ndarray
    similarity: np.ndarray
    texts: int
    pairs: int = 0
    pairs_read: int = 0


def find_duplicates(
    index: Index, near: float | None = None, keep: str = "first", text: str = "all", how: How | None = None
) -> Duplicates:
    """Which rows repeat which. For keep="best" the index holds the columns `quality` and `raw` (hash of the bytes)."""
    if near is None:
        prints = text_column(index, text, how)
        distinct, text_of = distinct_texts(prints)
        return _exact(index, distinct, text_of, keep)[0]
    with Near(index, near, how, text) as signed:
        found, canon, rank = _exact(index, signed.distinct, signed.text_of, keep)
        labels = signed.components()
        _thin(signed, labels, canon, rank, found)
        found.pairs, found.pairs_read = signed.pairs_checked, signed.pairs_read
    return found


def _exact(index: Index, distinct, text_of, keep: str) -> tuple[Duplicates, np.ndarray, np.ndarray]:
    """(duplicates by equal text, the row of each text that stays, each text's rank among texts)."""
    canon = distinct.astype("i8")
    rank = np.arange(len(canon))
    if keep == "best":
        quality = index.columns["quality"]
        order = np.lexsort((index.columns["raw"], -quality, text_of))
        order = order[text_of[order] >= 0]
        begin = np.ones(len(order), bool)
        begin[1:] = text_of[order[1:]] != text_of[order[:-1]]
        canon = order[begin]
        rank[np.lexsort((index.columns["text"][canon], -quality[canon]))] = np.arange(len(canon))
    of = np.full(len(index), -1, "i8")
    full = text_of >= 0
    of[full] = canon[text_of[full]]
    of[canon] = -1
    return Duplicates(of, np.ones(len(index), "f4"), len(canon)), canon, rank


def _thin(signed: Near, labels: np.ndarray, canon: np.ndarray, rank: np.ndarray, found: Duplicates) -> None:
    """In each cluster, best text first: a text goes when one that stays is near; its rows then match that one."""
    sizes = np.bincount(labels, minlength=len(labels))
    crowded = np.flatnonzero(sizes[labels] > 1)
    crowded = crowded[np.lexsort((rank[crowded], labels[crowded]))]
    twin = np.full(len(labels), -1, "i8")
    alike = np.ones(len(labels), "f4")
    for group in np.split(crowded, np.flatnonzero(np.diff(labels[crowded])) + 1):
        stay: list[int] = []
        for one in group.tolist():
            if stay:
                others = np.array(stay)
                values = signed.similar(np.full(len(others), one), others)
                best = int(np.argmax(values))
                if values[best] >= signed.threshold:
                    # 1.0 is kept for equal texts: one word moved can leave the set of shingles the same.
                    twin[one], alike[one] = others[best], min(values[best], 0.9999)
                    continue
            stay.append(one)
    rows = np.flatnonzero(signed.text_of >= 0)
    gone = rows[twin[signed.text_of[rows]] >= 0]
    texts = signed.text_of[gone]
    found.of[gone] = canon[twin[texts]]
    found.similarity[gone] = alike[texts]


def _records(index: Index, found: Duplicates, names: list[str]) -> Iterator[bytes]:
    """One line per removed row: where it was, what it matched, how similar, and the row itself verbatim."""
    gone = np.flatnonzero(found.of >= 0)
    kept = found.of[gone]
    lines = line_numbers(index, np.concatenate([gone, kept]))
    where = zip(gone.tolist(), kept.tolist(), lines[: len(gone)].tolist(), lines[len(gone) :].tolist(),
                read_at(index, gone), read_at(index, kept), strict=True)  # fmt: skip
    for row, twin, line, twin_line, raw, twin_raw in where:
        alike = float(found.similarity[row])
        head = {
            "kind": "exact" if alike == 1 else "near",
            "similarity": round(alike, 4),
            "file": names[index.file[row]],
            "line": line,
            "offset": int(index.offset[row]),
            "matched": {"file": names[index.file[twin]], "line": twin_line, "sample_id": _id(twin_raw)},
        }
        yield orjson.dumps(head)[:-1] + b',"row":' + raw + b"}"


def _id(raw: bytes) -> str | None:
    value = orjson.loads(raw)
    found = value.get("sample_id", value.get("id"))
    return found if isinstance(found, str) else None


def line_numbers(index: Index, rows: np.ndarray) -> np.ndarray:
    """1-based lines of rows in their files, by counting line feeds up to each."""
    found = np.zeros(len(rows), "i8")
    for number, path in enumerate(index.paths):
        mine = np.flatnonzero(index.file[rows] == number)
        mine = mine[np.argsort(index.offset[rows[mine]], kind="stable")]
        at, line = 0, 1
        with open(path, "rb") as source:
            for place, offset in zip(mine.tolist(), index.offset[rows[mine]].tolist(), strict=True):
                while at < offset:
                    block = source.read(min(1 << 20, offset - at))
                    line += block.count(b"\n")
                    at += len(block)
                found[place] = line
    return found


# --- explanation ----------------------------------------------------------------------------------------------------


@dataclass
class Explanation:
    """A row, the other row that is most like it, and what they share."""

    line: int
    sample_id: str | None
    twin_line: int | None
    twin_id: str | None
    similarity: float
    exact: bool
    threshold: float | None = None
    shared: list[str] = field(default_factory=list)
    only_here: list[str] = field(default_factory=list)
    only_there: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        """For a person: the twin, the similarity and up to 10 shingles of each kind."""
        if self.twin_line is None:
            return f"line {self.line} ({self.sample_id}) shares nothing with any other row"
        kind = "equal" if self.exact else f"similar by {self.similarity:.3f}"
        if self.threshold is not None and not self.exact:
            kind += f" ({'duplicates' if self.similarity >= self.threshold else 'no duplicates'} at {self.threshold})"
        found = [f"line {self.line} ({self.sample_id}) and line {self.twin_line} ({self.twin_id}): {kind}"]
        for title, parts in (("shared", self.shared), ("only here", self.only_here), ("only there", self.only_there)):
            found.append(f"  {title}: {len(parts)} shingles")
            found += [f"    {part}" for part in parts[:10]]
        return "\n".join(found)


def explain_duplicate(
    path: Path | str, which: str | int, *, near: float | None = 0.8, text: str = "all"
) -> Explanation:
    """The row of an id or a line number against all others, shingle by shingle, without any estimate.

    Raises:
        UsageError: no usable row has this id or line.
    """
    check_text(text)
    source = expand(path)
    if not source.is_file():
        raise UsageError(f"input {source} does not exist")
    with plain_files([source]) as plain:
        line, raw = _find(plain[0], which)
        wanted = normal(row_text(see(raw), raw, text))
        mine = shingles([wanted]).of(0)
        best: tuple[float, int, bytes] = (0.0, 0, b"")
        batch: list[tuple[int, bytes, bytes]] = []
        for other, other_raw, view in _numbered(plain[0]):
            if other != line:
                batch.append((other, other_raw, normal(row_text(view, other_raw, text))))
            if len(batch) >= 256:
                best, batch = _nearest(wanted, mine, batch, best), []
        best = _nearest(wanted, mine, batch, best) if batch else best
    alike, twin, twin_raw = best
    if not twin:
        return Explanation(line, _id(raw), None, None, 0.0, False)
    other = normal(row_text(see(twin_raw), twin_raw, text))
    here, there = _cut_up(wanted), _cut_up(other)
    return Explanation(line, _id(raw), twin, _id(twin_raw), min(alike, 1.0), wanted == other, near,
                       [s for s in here if s in there], [s for s in here if s not in there],
                       [s for s in there if s not in here])  # fmt: skip


def _nearest(wanted: bytes, mine: np.ndarray, batch, best: tuple[float, int, bytes]) -> tuple[float, int, bytes]:
    found = shingles([normalised for _, _, normalised in batch])
    hits = np.concatenate([[0], np.cumsum(np.isin(found.hashes, mine))])
    touched = np.flatnonzero(np.diff(hits[found.offsets]) > 0)
    for place in touched.tolist():
        line, raw, normalised = batch[place]
        theirs = found.of(place)
        both = len(np.intersect1d(mine, theirs, assume_unique=True))
        # An equal text beats every other, also one with the same shingles.
        alike = 2.0 if normalised == wanted else both / (len(mine) + len(theirs) - both)
        if alike > best[0]:
            best = (alike, line, raw)
    return best


def _numbered(path: Path) -> Iterator[tuple[int, bytes, RowView]]:
    from afs.jsonl import Counts

    before = 0
    for part in parts_of([path], [str(path)]):
        counts = Counts()
        ignored: list[BadRow] = []
        for line, _offset, raw, view in views(part, ignored.append, counts):
            yield before + line, raw, view
        before += counts.read + counts.blank


def _find(path: Path, which: str | int) -> tuple[int, bytes]:
    wanted = str(which)
    by_line: tuple[int, bytes] | None = None
    for line, raw, view in _numbered(path):
        if wanted and (view.sample_id == wanted or (wanted.encode() in raw and _id(raw) == wanted)):
            return line, raw
        if wanted.isdigit() and line == int(wanted):
            by_line = (line, raw)
            if isinstance(which, int):
                return by_line
    if by_line is None:
        raise UsageError(f"no usable row of {path} has the id or line {which!r}; give a sample_id or a line number")
    return by_line


def _cut_up(text: bytes) -> dict[str, None]:
    """The shingles of a normalised text as texts, in order."""
    from afs.training.neardup import CHARS_PER_SHINGLE, WORDS_PER_SHINGLE, by_words_of

    text = text[:LONGEST]
    if bool(by_words_of([text])[0]):
        words = text.decode("utf-8", "replace").split(" ")
        size = WORDS_PER_SHINGLE
        return dict.fromkeys(" ".join(words[at : at + size]) for at in range(len(words) - size + 1))
    letters = text.decode("utf-8", "replace")
    return dict.fromkeys(letters[at : at + CHARS_PER_SHINGLE] for at in range(max(len(letters) - 4, 1)))


# --- planted duplicates, for the benchmark --------------------------------------------------------------------------

PLANTED = ("exact", "spaced", "edited", "decoy")


def plant(
    input_path: Path | str, output_path: Path | str, *, every: int = 20, seed: int = 0, limit: int | None = None
) -> dict[str, int]:
    """Copy a file and put an altered copy after every n-th row; returns the copies per kind.

    Kinds in turn: "exact" (the same text, another id), "spaced" (capitals and double spaces), "edited" (words replaced
    so that about nine in ten shingles survive: similarity above 0.8) and "decoy" (more words replaced: below 0.7, must
    stay). Only rows with an output of 60 words or more get copies. A copy says so in `_metadata.planted`.
    """
    rng = np.random.default_rng(seed)
    made = dict.fromkeys(PLANTED, 0)
    copies = 0
    with plain_files([expand(input_path)]) as plain, AtomicWriter(expand(output_path)) as out:
        for count, (_line, raw, view) in enumerate(_numbered(plain[0])):
            if limit is not None and count >= limit:
                break
            out.write_raw(raw)
            words = view.output.split()
            if count % every or len(words) < 60:
                continue
            kind = PLANTED[copies % len(PLANTED)]
            copies += 1
            made[kind] += 1
            value = orjson.loads(raw)
            value["output"] = _altered(view.output, words, kind, rng)
            value["sample_id"] = f"{value.get('sample_id', count)}-{kind}"
            value["_metadata"] = {**view.metadata, "planted": kind}
            out.write(value)
    return made


def _altered(text: str, words: list[str], kind: str, rng: np.random.Generator) -> str:
    if kind == "exact":
        return text
    if kind == "spaced":
        return "  ".join(words).upper()
    # A replaced word costs 5 shingles of n: similarity (n - 5k) / (n + 5k).
    edits = max(1, int(len(words) * (1 / 14 if kind == "edited" else 1 / 3) / 5))
    step = len(words) // edits
    for place in range(int(rng.integers(step)), len(words), step):
        words[place] = f"altered{rng.integers(1 << 30)}"
    return " ".join(words)


@dataclass(frozen=True)
class Planted:
    """Recall (planted copies that were removed) and precision (removed rows that are planted copies)."""

    recall: float
    precision: float
    by_kind: dict[str, dict[str, int]]
    others_removed: int


def measure_planted(folder: Path | str, rows: int = 5000, near: float = 0.8, seed: int = 0) -> Planted:
    """Write random rows into the folder, plant copies (`plant`), remove duplicates, and count what was found."""
    place = expand(folder)
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 10))) for _ in range(3000)]
    with AtomicWriter(place / "base.jsonl") as out:
        for number in range(rows):
            asked, said = (" ".join(words[n] for n in rng.integers(len(words), size=size)) for size in (15, 110))
            out.write({"instruction": asked, "output": said, "sample_id": f"row{number}"})
    plant(place / "base.jsonl", place / "planted.jsonl", every=5, seed=seed)
    result = dedup_jsonl(place / "planted.jsonl", place / "unique.jsonl", near=near)
    return check_planted(place / "unique.jsonl", result.duplicates_path)


def check_planted(output_path: Path | str, duplicates: Path | str) -> Planted:
    """What became of the copies of `plant` in an output of `dedup_jsonl` and its duplicates file."""
    stayed, gone = dict.fromkeys(PLANTED, 0), dict.fromkeys(PLANTED, 0)
    others = 0
    with plain_files([expand(output_path), expand(duplicates)]) as (kept_file, gone_file):
        for _line, raw, view in _numbered(kept_file):
            if b'"planted"' in raw and (kind := view.metadata.get("planted")) in stayed:
                stayed[kind] += 1
        with open(gone_file, "rb") as source:
            for raw in source:
                kind = (orjson.loads(raw)["row"].get("_metadata") or {}).get("planted")
                if kind in gone:
                    gone[kind] += 1
                else:
                    others += 1
    true = [kind for kind in PLANTED if kind != "decoy"]
    caught, missed = sum(gone[k] for k in true), sum(stayed[k] for k in true)
    removed = caught + gone["decoy"] + others
    return Planted(
        recall=caught / (caught + missed) if caught + missed else float("nan"),
        precision=caught / removed if removed else float("nan"),
        by_kind={kind: {"removed": gone[kind], "kept": stayed[kind]} for kind in PLANTED},
        others_removed=others,
    )
