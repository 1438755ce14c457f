"""Equal and nearly equal texts: fingerprints, MinHash signatures on disk, and clusters of rows.

    index = scan(paths, {}, nothing, on_bad=…)
    ids = clusters(index, threshold=0.8)                # one cluster number per row, for splits and rehearsal

Equal means equal after NFKC, case folding and with white space collapsed. Nearly equal means a Jaccard similarity of
the two sets of shingles at or above the threshold. Shingles are runs of 5 words; of texts without spaces (fewer than
8 words, or more than 24 bytes a word) runs of 5 characters. Candidates come from MinHash bands (Broder 1997; Leskovec,
Rajaraman, Ullman, Mining of Massive Datasets, ch. 3): 96 values in 16 bands of 6 find 99.2 % of the pairs at 0.8 and
more above. A candidate whose estimate lies within 0.12 of the threshold is read again and compared shingle by shingle.

Signatures lie in a temporary file, 384 + 128 bytes per distinct text; memory holds a few numbers per row.
"""

from __future__ import annotations

import os
import struct
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import xxhash

from afs.engine import run_parts
from afs.rows import PART_BYTES, Index, RowView, see
from afs.step import How, UsageError

TEXTS = ("all", "instruction", "output")
WORDS_PER_SHINGLE = 5
CHARS_PER_SHINGLE = 5
LONGEST = 1 << 20
"""Bytes of a text that near-duplicate search looks at (equality always looks at all of it)."""
_VALUES = 96
_GREY = 0.12  # three standard deviations of the estimate at 0.8 with 96 values: sqrt(.8 * .2 / 96) = 0.041
_PACK = struct.Struct(f"{_VALUES}I").pack  # twice as fast as numpy.array of the lists
_SEED = 42
_CHUNK_ROWS = 4096
_BLOCK = 1 << 16  # bytes of text hashed at a time: the 8-byte sums stay in the processor's cache
_SPACES = bytes(range(9, 14)) + bytes(range(28, 32))
_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ" + _SPACES, b"abcdefghijklmnopqrstuvwxyz" + b" " * len(_SPACES))
_NOT_TEXT = frozenset(("sample_id", "id", "source", "domain", "timestamp", "quality_score", "embedding", "_metadata",
                       "teacher_model", "kg_entities", "kg_validated"))  # fmt: skip


def normal(text: str) -> bytes:
    """The text under NFKC and case folding, white space collapsed to single spaces, as UTF-8."""
    if text.isascii():
        folded = text.encode().translate(_FOLD)
        return b" ".join(folded.split()) if b"  " in folded else folded.strip(b" ")
    folded_text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded_text.split()).encode("utf-8", "surrogatepass")


def row_text(view: RowView, raw: bytes, which: str = "all") -> str:
    """The text of a row that is compared: all that was said (input and thinking too), or one side of it."""
    if which == "instruction":
        return f"{view.instruction}\n{view.input}" if view.input else view.instruction
    if which == "output":
        return view.output
    if not view.other:
        if view.system or view.history:  # of an Alpaca chat
            return "\n".join((*_leaves([view.system, view.history]), view.instruction, view.input or "",
                              view.thinking or "", view.output))  # fmt: skip
        if not view.input and not view.thinking:
            return f"{view.instruction}\n{view.output}"
        return "\n".join((view.instruction, view.input or "", view.thinking or "", view.output))
    # Other forms say more than the view shows (tool calls, the rejected answer): every text in the row counts.
    value = orjson.loads(raw)
    return "\n".join(_leaves({key: value[key] for key in value if key not in _NOT_TEXT}))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif value is not None:
        yield str(value)


def fingerprint(text: bytes) -> int:
    """64 bits (XXH3) of a normalised text; 0 for the empty text, which is never a duplicate of anything."""
    return xxhash.xxh3_64_intdigest(text) or 1 if text else 0


def row_texts(views: Sequence[RowView], raws: Sequence[bytes], which: str = "all") -> list[str]:
    """`row_text` of each row."""
    if which != "all":
        return [row_text(view, raw, which) for view, raw in zip(views, raws, strict=True)]
    # The usual row is said in one line, which saves a call each.
    return [row_text(view, raw) if view.input or view.thinking or view.other or view.history or view.system
            else f"{view.instruction}\n{view.output}" for view, raw in zip(views, raws, strict=True)]  # fmt: skip


@dataclass(frozen=True)
class TextColumn:
    """A scan's extractor of one column: the fingerprint of the row's text."""

    which: str = "all"

    def columns(self, views: Sequence[RowView], raws: Sequence[bytes]) -> list[list[int]]:
        """The column of many rows."""
        return [[fingerprint(normal(text)) for text in row_texts(views, raws, self.which)]]


def check_text(which: str) -> None:
    """Raises UsageError unless `which` is one of `TEXTS`."""
    if which not in TEXTS:
        raise UsageError(f"no text {which!r} to compare; known: {', '.join(TEXTS)}")


def check_threshold(threshold: float) -> None:
    """Raises UsageError unless 0.3 <= threshold <= 1."""
    if not 0.3 <= threshold <= 1:
        raise UsageError(f"similarity must lie between 0.3 and 1, not {threshold}; 0.8 finds edited copies")


# --- shingles -------------------------------------------------------------------------------------------------------

_BASE = 0x9E3779B97F4A7C15


@lru_cache(maxsize=1)
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers of the base and of its inverse modulo 2**64."""
    found = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        steps = np.full(size, base, "u8")
        steps[0] = 1
        found.append(np.multiply.accumulate(steps))
    return found[0], found[1]


def _hash_spans(symbols: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """64-bit hashes of the spans [start, end) of a symbol array, from prefix sums of a polynomial modulo 2**64."""
    size = max(_BLOCK * 2, 1 << len(symbols).bit_length())
    power, inverse = _powers(size)
    sums = np.empty(len(symbols) + 1, "u8")
    sums[0] = 0
    np.multiply(symbols, power[: len(symbols)], out=sums[1:])
    np.cumsum(sums[1:], out=sums[1:])
    found = (sums[ends] - sums[starts]) * inverse[starts]
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):  # the finaliser of MurmurHash3, whose bits are all good
        found ^= found >> np.uint64(33)
        found *= np.uint64(factor)
    found ^= found >> np.uint64(33)
    return found


def by_words_of(texts: Sequence[bytes]) -> np.ndarray:
    """Which texts are cut into words: 8 or more of them, of 24 bytes or less on average."""
    sizes = np.array([len(t) for t in texts], "i8")
    ends = np.cumsum(sizes + 1)
    spaces = np.flatnonzero(np.frombuffer(b"\n".join([*texts, b""]), "u1") == 32)
    words = np.diff(np.searchsorted(spaces, ends), prepend=0) + 1
    return (words >= 8) & (sizes <= 24 * words)


def _word_spans(block: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(symbols, starts, ends, shingles per text) of texts that each end in a line feed and hold single spaces."""
    symbols = np.frombuffer(block, "u1")
    ends = np.flatnonzero((symbols == 32) | (symbols == 10))
    last = np.flatnonzero(symbols[ends] == 10)
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    whole = np.ones(len(ends), bool)
    for back in range(WORDS_PER_SHINGLE - 1):
        whole[last - back] = False
    first = np.flatnonzero(whole)
    per_text = np.diff(last, prepend=-1) - (WORDS_PER_SHINGLE - 1)
    return symbols, starts[first], ends[first + WORDS_PER_SHINGLE - 1], per_text


def _char_spans(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `_word_spans`, over characters; a text of fewer than 5 is one shingle."""
    joined = "".join(t.decode("utf-8", "surrogatepass") for t in texts)
    symbols = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    sizes = np.array([len(t.decode("utf-8", "surrogatepass")) for t in texts], "i8")
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype("i8")
    per_text = np.maximum(sizes - (CHARS_PER_SHINGLE - 1), np.minimum(sizes, 1))
    shift = np.concatenate([[0], np.cumsum(per_text)[:-1]])
    starts = np.arange(per_text.sum()) + np.repeat(begins - shift, per_text)
    ends = np.minimum(starts + CHARS_PER_SHINGLE, np.repeat(begins + sizes, per_text))
    return symbols, starts, ends, per_text


class Shingles(NamedTuple):
    """Shingle hashes of several texts one after the other: text i has hashes[offsets[i] : offsets[i + 1]]."""

    hashes: np.ndarray
    offsets: np.ndarray

    def of(self, place: int) -> np.ndarray:
        """The distinct hashes of one text, sorted."""
        return np.unique(self.hashes[self.offsets[place] : self.offsets[place + 1]])


def shingles(texts: Sequence[bytes]) -> Shingles:
    """Shingle hashes of normalised texts. An empty text has none."""
    texts = [t if len(t) <= LONGEST else _cut(t) for t in texts]
    by_words = by_words_of(texts)
    counts = np.zeros(len(texts), "i8")
    blocks = []
    for places in (np.flatnonzero(by_words), np.flatnonzero(~by_words)):
        chosen = [texts[place] for place in places]
        if not chosen:
            blocks.append(np.zeros(0, "u8"))
            continue
        spans = _word_spans(b"\n".join([*chosen, b""])) if by_words[places[0]] else _char_spans(chosen)
        blocks.append(_hash_spans(*spans[:3]))
        counts[places] = spans[3]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if not len(blocks[0]) or not len(blocks[1]):
        return Shingles(blocks[0] if len(blocks[0]) else blocks[1], offsets)
    mixed = np.empty(offsets[-1], "u8")
    of_words = np.repeat(by_words, counts)
    mixed[of_words], mixed[~of_words] = blocks
    return Shingles(mixed, offsets)


def _cut(text: bytes) -> bytes:
    return text[:LONGEST].decode("utf-8", "ignore").strip(" ").encode()


def jaccard(one: np.ndarray, two: np.ndarray) -> float:
    """Similarity of two sorted sets of hashes; 0 when both are empty."""
    both = len(np.intersect1d(one, two, assume_unique=True))
    either = len(one) + len(two) - both
    return both / either if either else 0.0


def similarity(one: str, two: str) -> float:
    """Jaccard similarity of two texts as this module sees them, 0 to 1."""
    found = shingles([normal(one), normal(two)])
    return jaccard(found.of(0), found.of(1))


# --- signatures -----------------------------------------------------------------------------------------------------


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, values per band): the widest bands that still find 99 % of the pairs at the threshold."""
    for width in range(16, 0, -1):
        bands = _VALUES // width
        if 1 - (1 - threshold**width) ** bands >= 0.99:
            return bands, width
    return _VALUES, 1


class _Chunk(NamedTuple):
    """Neighbouring rows of one file: where they begin, and their lengths."""

    path: str
    offsets: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class _Sign:
    """Reads the rows of a chunk; gives fingerprints, signatures and band keys. Travels to worker processes."""

    which: str
    bands: int
    width: int

    def __call__(self, chunk: _Chunk) -> tuple[np.ndarray, bytes, np.ndarray]:
        prints, signed, keys = [], [], []
        for texts in _blocks(chunk, self.which):
            prints += [fingerprint(text) for text in texts]
            values = signatures(texts)
            signed.append(values)
            keys.append(_band_keys(values, self.bands, self.width))
        return np.array(prints, "u8"), np.concatenate(signed).tobytes(), np.concatenate(keys, axis=1)


def _blocks(chunk: _Chunk, which: str) -> Iterator[list[bytes]]:
    """Normalised texts of a chunk's rows, about 64 KB at a time."""
    begin, end = int(chunk.offsets[0]), int(chunk.offsets[-1]) + int(chunk.lengths[-1])
    with open(chunk.path, "rb") as source:
        data = os.pread(source.fileno(), end - begin, begin)
    texts: list[bytes] = []
    size = 0
    for offset, length in zip((chunk.offsets - begin).tolist(), chunk.lengths.tolist(), strict=True):
        raw = data[offset : offset + length]
        texts.append(_text_of(raw, which))
        size += len(texts[-1])
        if size > _BLOCK:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def _text_of(raw: bytes, which: str) -> bytes:
    view = see(raw)
    if isinstance(view, str):
        raise OSError(f"an input changed while it was read: {view}")
    return normal(row_text(view, raw, which))


def signatures(texts: Sequence[bytes]) -> np.ndarray:
    """MinHash signatures of normalised texts, shape [texts, 96], uint32."""
    from rensa import RMinHash

    found = shingles(texts)
    made = RMinHash.digest_matrix_from_flat_token_hashes(found.hashes, found.offsets.astype("u8"), _VALUES, _SEED)
    return np.frombuffer(b"".join([_PACK(*row) for row in made.to_rows()]), "u4").reshape(len(texts), _VALUES)


def _band_keys(values: np.ndarray, bands: int, width: int) -> np.ndarray:
    """One 64-bit key per band, shape [bands, texts]."""
    parts = values[:, : bands * width].reshape(len(values), bands, width).astype("u8")
    factors = np.random.default_rng(_SEED).integers(1, 1 << 62, width).astype("u8") * np.uint64(2) + np.uint64(1)
    keys = (parts * factors).sum(axis=2, dtype="u8")
    keys ^= keys >> np.uint64(29)
    return np.ascontiguousarray((keys * np.uint64(_BASE)).T)


class Near:
    """Signatures of the rows of an index, on disk for the time of the block.

    Entering reads every row once. If the index has no column `text` yet (see `TextColumn`), it has one afterwards.

    Args:
        threshold: Jaccard similarity from which two texts are near.

    Attributes:
        distinct: place in the index of the first row of each distinct text; empty texts are left out.
        text_of: for every row the place of its text in `distinct`, -1 for an empty text.
        pairs_checked, pairs_read: candidates that were compared by signature, and of these by their shingles.
    """

    def __init__(self, index: Index, threshold: float, how: How | None = None, which: str = "all") -> None:
        check_threshold(threshold)
        check_text(which)
        self.index, self.threshold, self.how, self.which = index, threshold, how or How(), which
        self.bands, self.width = bands_for(threshold)
        self.pairs_checked = self.pairs_read = 0
        self._read = lru_cache(maxsize=2048)(self._read_shingles)

    def __enter__(self) -> Near:
        self._stack = ExitStack()
        try:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="afs-near-")))
            prints = self._sign()
            self.index.columns.setdefault("text", prints)
            self.distinct, self.text_of = distinct_texts(prints)
            self._signed = self._stack.enter_context(open(self._folder / "signatures", "rb")).fileno()
            self._files = [self._stack.enter_context(open(path, "rb")).fileno() for path in self.index.paths]
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._read.cache_clear()
        self._stack.close()

    def _sign(self) -> np.ndarray:
        found = np.zeros(len(self.index), "u8")
        at = 0
        sign = _Sign(self.which, self.bands, self.width)
        with open(self._folder / "signatures", "wb") as signed, ExitStack() as stack:
            keys = [stack.enter_context(open(self._folder / f"band{n}", "wb")) for n in range(self.bands)]
            for prints, block, by_band in run_parts(sign, self._chunks(), self.how.workers, self.how.engine):
                found[at : at + len(prints)] = prints
                at += len(prints)
                signed.write(block)
                for file, band in zip(keys, by_band, strict=True):
                    file.write(band.tobytes())
        return found

    def _chunks(self) -> Iterator[_Chunk]:
        """The index in runs of at most 4,096 rows that begin within 4 MB of one file."""
        index, at = self.index, 0
        while at < len(index):
            offsets = index.offset[at : at + _CHUNK_ROWS]
            same = index.file[at : at + _CHUNK_ROWS] == index.file[at]
            close = same & (offsets - offsets[0] < PART_BYTES)
            size = len(offsets) if close.all() else int(np.argmin(close))
            yield _Chunk(str(index.paths[index.file[at]]), offsets[:size], index.length[at : at + size])
            at += size

    def signed(self, texts: np.ndarray) -> np.ndarray:
        """Signatures of texts by their places in `distinct`."""
        size = _VALUES * 4
        block = b"".join([os.pread(self._signed, size, row * size) for row in self.distinct[texts].tolist()])
        return np.frombuffer(block, "u4").reshape(len(texts), _VALUES)

    def _read_shingles(self, text: int) -> np.ndarray:
        row = int(self.distinct[text])
        index = self.index
        raw = os.pread(self._files[index.file[row]], int(index.length[row]), int(index.offset[row]))
        return shingles([_text_of(raw, self.which)]).of(0)

    def exact(self, one: int, two: int) -> float:
        """Jaccard similarity of two texts, read from the file."""
        self.pairs_read += 1
        return jaccard(self._read(one), self._read(two))

    def similar(self, ones: np.ndarray, twos: np.ndarray) -> np.ndarray:
        """Similarity of pairs of texts: estimated, and read from the file where the estimate is close to call."""
        found = np.empty(len(ones))
        for at in range(0, len(ones), _CHUNK_ROWS):
            a, b = ones[at : at + _CHUNK_ROWS], twos[at : at + _CHUNK_ROWS]
            estimate = (self.signed(a) == self.signed(b)).mean(axis=1)
            for place in np.flatnonzero(np.abs(estimate - self.threshold) < _GREY).tolist():
                estimate[place] = self.exact(int(a[place]), int(b[place]))
            found[at : at + len(a)] = estimate
        self.pairs_checked += len(ones)
        return found

    def components(self) -> np.ndarray:
        """For each distinct text the smallest place of a text that chains of near pairs lead to."""
        parent = np.arange(len(self.distinct), dtype="i4")
        for band in range(self.bands):
            ones, twos = self._candidates(np.fromfile(self._folder / f"band{band}", "u8")[self.distinct])
            apart = roots(parent, ones) != roots(parent, twos)
            ones, twos = ones[apart], twos[apart]
            near = self.similar(ones, twos) >= self.threshold
            join(parent, ones[near], twos[near])
        return roots(parent, np.arange(len(parent)))

    def _candidates(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of texts that share a band's key: each with the first of its bucket and with its neighbour.

        Two pairs per text keep a bucket of n texts at 2n comparisons. Buckets are ordered by fingerprint, so the pairs
        do not depend on the order of the rows.
        """
        ordered = np.sort(keys)
        shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if not len(shared):
            return np.zeros(0, "i8"), np.zeros(0, "i8")
        slot = np.minimum(np.searchsorted(shared, keys), len(shared) - 1)
        chosen = np.flatnonzero(shared[slot] == keys)
        prints = self.index.columns["text"][self.distinct[chosen]]
        chosen = chosen[np.lexsort((prints, keys[chosen]))]
        new = np.ones(len(chosen), bool)
        new[1:] = keys[chosen[1:]] != keys[chosen[:-1]]
        begin = np.flatnonzero(new)[np.cumsum(new) - 1]
        later = np.flatnonzero(~new)
        further = later[begin[later] != later - 1]
        ones = np.concatenate([chosen[later - 1], chosen[begin[further]]])
        twos = np.concatenate([chosen[later], chosen[further]])
        return ones, twos


def distinct_texts(prints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first row of each distinct text that is not empty, in order; the text of each row or -1)."""
    _, first, inverse = np.unique(prints, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    full = prints[first[order]] != 0
    places = np.empty(len(order), "i4")
    places[order] = np.where(full, np.cumsum(full, dtype="i4") - 1, -1)
    return first[order][full].astype("u4"), places[inverse]


def roots(parent: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The representatives of places in a union-find forest."""
    found = parent[places]
    while True:
        above = parent[found]
        if np.array_equal(above, found):
            return found
        found = above


def join(parent: np.ndarray, ones: np.ndarray, twos: np.ndarray) -> None:
    """Unite pairs; the smaller place represents a set, so the result does not depend on the order of the pairs."""
    for at in range(0, len(ones), _CHUNK_ROWS):  # as Python numbers only a few at a time: they take 80 bytes a pair
        for one, two in zip(ones[at : at + _CHUNK_ROWS].tolist(), twos[at : at + _CHUNK_ROWS].tolist(), strict=True):
            one, two = _root(parent, one), _root(parent, two)
            if one != two:
                parent[max(one, two)] = min(one, two)


def _root(parent: np.ndarray, place: int) -> int:
    above = int(parent[place])
    while above != place:
        higher = int(parent[above])
        parent[place] = higher
        place, above = above, higher
    return place


def numbered(labels: np.ndarray) -> np.ndarray:
    """Labels as numbers 0, 1, … in order of first appearance, int32."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    place = np.empty(len(first), "i4")
    place[np.argsort(first, kind="stable")] = np.arange(len(first), dtype="i4")
    return place[inverse]


def clusters(index: Index, threshold: float | None = 0.8, how: How | None = None, which: str = "all") -> np.ndarray:
    """A cluster number per row, 0, 1, … in order of the clusters' first rows.

    Rows of equal text share a cluster; with a threshold, texts that chains of near pairs connect do too. A row of
    empty text is alone.

    Args:
        index: for threshold None it should hold the column `text` of `TextColumn(which)`, which saves reading the rows
            again; with a threshold that column is made here.
        threshold: Jaccard similarity, or None for equal texts only.
    """
    if threshold is None:
        labels = numbered(text_column(index, which, how)).astype("i8")
    else:
        with Near(index, threshold, how, which) as near:
            found = near.components().astype("i8")
            labels = found[near.text_of] if len(found) else np.zeros(len(index), "i8")
    empty = index.columns["text"] == 0
    labels[empty] = len(index) + np.flatnonzero(empty)
    return numbered(labels)


def text_column(index: Index, which: str, how: How | None) -> np.ndarray:
    """The column `text`, read from the rows when the scan did not make it."""
    if "text" not in index.columns:
        with Near(index, 1.0, how, which):
            pass
    return index.columns["text"]


# --- texts in memory ------------------------------------------------------------------------------------------------


def _pairs_of(keys: np.ndarray, left: int) -> np.ndarray:
    """Pairs of places that share a band's key, each with the first few of its bucket; shape [pairs, 2].

    With `left` above 0 only pairs of a place below it and one at or above it.
    """
    order = np.argsort(keys, kind="stable")
    new = np.ones(len(order), bool)
    new[1:] = keys[order[1:]] != keys[order[:-1]]
    found = []
    for bucket in np.split(order, np.flatnonzero(new)[1:]):
        if len(bucket) > 1:
            ones, others = (bucket[bucket < left], bucket[bucket >= left]) if left else (bucket, bucket)
            found += [(one, other) for one in ones.tolist() for other in others[:8].tolist() if one != other]
    return np.array(found, "i8").reshape(-1, 2)


def _signed(texts: Sequence[str]) -> tuple[list[bytes], np.ndarray]:
    normalised = [normal(text) for text in texts]
    made = [signatures(normalised[at : at + 64]) for at in range(0, len(normalised), 64)]
    return normalised, np.concatenate(made) if made else np.zeros((0, _VALUES), "u4")


def _near_pairs(texts: Sequence[str], threshold: float, left: int = 0) -> set[tuple[int, int]]:
    check_threshold(threshold)
    normalised, values = _signed(texts)
    bands, width = bands_for(threshold)
    found: set[tuple[int, int]] = set()
    checked: set[tuple[int, int]] = set()

    @lru_cache(maxsize=4096)
    def hashes(place: int) -> np.ndarray:
        return shingles([normalised[place]]).of(0)

    full = np.array([bool(text) for text in normalised], bool)
    for keys in _band_keys(values, bands, width) if len(values) else ():
        for one, two in map(tuple, _pairs_of(keys, left).tolist()):
            if (one, two) not in checked and full[one] and full[two]:
                checked.add((one, two))
                estimate = (values[one] == values[two]).mean()
                if estimate >= threshold - _GREY and (
                    normalised[one] == normalised[two] or jaccard(hashes(one), hashes(two)) >= threshold
                ):
                    found.add((one, two))
    return found


def like_any(texts: Sequence[str], others: Sequence[str], threshold: float) -> np.ndarray:
    """Which texts are equal or near to one of the others."""
    found = np.zeros(len(texts), bool)
    if len(texts) and len(others):
        same = {normal(other) for other in others} - {b""}
        found[[place for place, text in enumerate(texts) if normal(text) in same]] = True
        found[[one for one, _ in _near_pairs([*texts, *others], threshold, len(texts))]] = True
    return found


def text_clusters(texts: Sequence[str], threshold: float) -> np.ndarray:
    """As `clusters`, for texts in memory."""
    parent = np.arange(len(texts), dtype="i4")
    pairs = np.array(sorted(_near_pairs(texts, threshold)), "i8").reshape(-1, 2)
    join(parent, pairs[:, 0], pairs[:, 1])
    return numbered(roots(parent, np.arange(len(parent))))
