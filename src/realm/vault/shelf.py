"""The knowledge shelf: documents a person drops into `knowledge/` of the realm home, searched by BM25.

    shelf = open_shelf(home)
    for passage in shelf.search("how does two's complement negate", 3):
        print(passage.place, passage.text)

The school Whisper grounds the rows that a text teacher writes in it; nothing else reads it (contracts D11). Plain text
and Markdown are cut into chunks of about 800 characters that keep their heading, file and lines. Ranking is BM25 as
Lucene computes it (k1 1.5, b 0.75; Kamphuis 2020, "Which BM25 do you mean?"), by the library bm25s. Nothing is stored:
the index of 1 MB of text is built in a second, and is never older than the files.

By hand: `python3 -m training shelf list`, `python3 -m training shelf search WORDS`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from realm.settings import RealmHome

FOLDER = "knowledge"
SUFFIXES = (".md", ".markdown", ".txt", ".text", ".rst", ".org", ".adoc")
CHUNK_CHARS = 800  # about 200 tokens: three of them leave a teacher of 4,096 tokens room to answer
MAX_BYTES = 16_000_000
GROUND_CHARS = 2_400
_WORD = re.compile(r"\w+")
_HEADING = re.compile(r"#{1,6}[ \t]+(\S.*?)[ \t]*#*")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")


class ShelfError(ValueError):
    """A document that cannot be put on the shelf or taken off it; the text names it, the rule and the next action."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a document. `source` is its path in the folder, `first` and `last` its lines, counted from 1."""

    source: str
    first: int
    last: int
    heading: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.source}:{self.first}"


@dataclass(frozen=True)
class Passage(Chunk):
    """A chunk that a search found; `score` is its BM25."""

    score: float

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "first": self.first, "last": self.last, "heading": self.heading,
                "score": round(self.score, 4), "text": self.text}  # fmt: skip


@dataclass(frozen=True)
class Document:
    """One file of the folder. `problem`: why it is not read, None for one that is."""

    name: str
    bytes: int
    chunks: int
    problem: str | None = None


class Shelf:
    """What lies on the shelf, ready to be searched."""

    def __init__(self, documents: Sequence[Document], chunks: Sequence[Chunk]) -> None:
        self.documents, self.chunks = tuple(documents), tuple(chunks)
        self._index = _index([words(f"{chunk.heading} {chunk.text}") for chunk in chunks]) if chunks else None

    def search(self, query: str, count: int = 3) -> list[Passage]:
        """The chunks that say most about a query, best first; none without a common word. Equal ones in file order."""
        asked = [word for word in words(query) if self._index and word in self._index.vocab_dict]
        if not asked or count <= 0:
            return []
        scores = self._index.get_scores(asked)
        best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
        return [Passage(**vars(self.chunks[i]), score=float(scores[i])) for i in best if scores[i] > 0]


def words(text: str) -> list[str]:
    """What BM25 counts: runs of letters and digits in small letters."""
    return _WORD.findall(text.lower())


def _index(corpus: list[list[str]]) -> Any:
    import bm25s  # takes 0.3 s; most commands need none of it

    made = bm25s.BM25(k1=1.5, b=0.75, method="lucene", dtype="float64")
    made.index(corpus, show_progress=False)
    return made


def folder(home: RealmHome) -> Path:
    """Where a person drops documents."""
    return home.root / FOLDER


def open_shelf(home: RealmHome) -> Shelf:
    """The shelf as the folder has it now; the same object while no file changes."""
    root = folder(home)
    return _open(root, tuple(_state(path) for path in _files(root)))


def _files(root: Path) -> list[Path]:
    found = (path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def _state(path: Path) -> tuple[str, int, int]:
    state = path.lstat()
    return str(path), state.st_size, state.st_mtime_ns


@lru_cache(maxsize=2)
def _open(root: Path, states: tuple[tuple[str, int, int], ...]) -> Shelf:
    documents, chunks = [], []
    for name, size, _ in states:
        path = Path(name)
        source = path.relative_to(root).as_posix()
        try:
            own = list(chunk(read_text(path), source))
            documents.append(Document(source, size, len(own), None if own else "it holds no text"))
            chunks.extend(own)
        except (ShelfError, OSError) as error:
            documents.append(Document(source, size, 0, str(error)))
    return Shelf(documents, chunks)


def read_text(path: Path) -> str:
    """The text of a document.

    Raises:
        ShelfError: a file of another kind, a link, too large, or not UTF-8.
    """
    if path.is_symlink():
        # What stands on the shelf is sent to a teacher: a link could lead to anything on this machine.
        raise ShelfError(f"{path.name} is a link; put the document itself into the folder")
    if path.suffix.lower() not in SUFFIXES:
        raise ShelfError(f"{path.name} is no {', '.join(SUFFIXES)} file; convert it to plain text first")
    if path.stat().st_size > MAX_BYTES:
        raise ShelfError(f"{path.name} has {path.stat().st_size:,} bytes, the limit is {MAX_BYTES:,}; split it")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ShelfError(f"{path.name} is not UTF-8 (byte {error.start:,}); save it as UTF-8 text") from error
    if "\0" in text:
        raise ShelfError(f"{path.name} holds zero bytes, so it is no text; convert it to plain text first")
    return text


def chunk(text: str, source: str) -> Iterator[Chunk]:
    """Cut a text at blank lines, headings and, where a paragraph is too long, at sentences."""
    heading, pending, first, last = "", "", 0, 0
    for number, end, paragraph in _paragraphs(text):
        title = _HEADING.fullmatch(paragraph)
        if pending and (title or len(pending) + len(paragraph) + 2 > CHUNK_CHARS):
            yield Chunk(source, first, last, heading, pending)
            pending = ""
        if title:
            heading = title.group(1)
            continue
        for piece in _pieces(paragraph):
            if pending and len(pending) + len(piece) + 2 > CHUNK_CHARS:
                yield Chunk(source, first, last, heading, pending)
                pending = ""
            first = first if pending else number
            pending, last = f"{pending}\n\n{piece}" if pending else piece, end
    if pending:
        yield Chunk(source, first, last, heading, pending)


def _paragraphs(text: str) -> Iterator[tuple[int, int, str]]:
    """(first line, last line, text) of each paragraph; a Markdown heading is one of its own."""
    lines, begin = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        alone = _HEADING.fullmatch(line) is not None
        if lines and (alone or not line.strip()):
            yield begin, number - 1, "\n".join(lines)
            lines = []
        if alone:
            yield number, number, line.strip()
        elif line.strip():
            begin = begin if lines else number
            lines.append(line.rstrip())
    if lines:
        yield begin, begin + len(lines) - 1, "\n".join(lines)


def _pieces(paragraph: str) -> Iterator[str]:
    """A paragraph in pieces of at most CHUNK_CHARS: at sentence ends, else between words, else anywhere."""
    if len(paragraph) <= CHUNK_CHARS:
        yield paragraph
        return
    pending = ""
    for sentence in _SENTENCE.split(paragraph):
        if pending and len(pending) + 1 + len(sentence) > CHUNK_CHARS:
            yield pending
            pending = ""
        while len(sentence) > CHUNK_CHARS:
            cut = sentence.rfind(" ", 1, CHUNK_CHARS)
            cut = cut if cut > 0 else CHUNK_CHARS
            yield sentence[:cut].rstrip()
            sentence = sentence[cut:].lstrip()
        pending = f"{pending} {sentence}" if pending else sentence
    if pending:
        yield pending


def ground(passages: Sequence[Passage]) -> str:
    """The passages as a teacher reads them, numbered and with their places; "" for none. At most 2,400 characters."""
    told, used = [], 0
    for number, passage in enumerate(passages, 1):
        text = passage.text[: GROUND_CHARS - used]
        if not text:
            break
        used += len(text)
        about = f"{passage.place}, {passage.heading}" if passage.heading else passage.place
        told.append(f"[{number}] ({about})\n{text}")
    return "\n\n".join(told)


def add(home: RealmHome, path: Path) -> str:
    """Copy a document onto the shelf and return its name there; it appears whole.

    Raises:
        ShelfError: no document that can be read, or the name is taken by another text.
    """
    if not path.is_file():
        raise ShelfError(f"{path} is not a file; give the path of a text document")
    if path.name.startswith("."):
        raise ShelfError(f"{path.name} begins with a dot, which the shelf passes over; rename it")
    text = read_text(path.resolve())
    target = folder(home) / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.read_bytes() != path.read_bytes():
        raise ShelfError(f"{path.name} is on the shelf already with another text; remove that one or rename this")
    if not any(chunk(text, path.name)):
        raise ShelfError(f"{path.name} holds no text; there is nothing to search in it")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.copyfile(path, temporary)
    os.replace(temporary, target)
    return target.name


def remove(home: RealmHome, name: str) -> None:
    """Take a document off the shelf (its file is deleted).

    Raises:
        ShelfError: no such document.
    """
    known = [document.name for document in open_shelf(home).documents]
    if name not in known:
        raise ShelfError(f"no document {name!r} on the shelf; there are: {', '.join(known) or 'none'}")
    (folder(home) / name).unlink()
