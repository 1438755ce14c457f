"""Training samples from a 65816 assembly code base and its documents.

    python3 -m afs.oracle.training_generator --oracle-path ~/src/hobby/oracle-of-secrets --output raw.jsonl --limit 1000

A subclass adds a kind of its own with a method `generate_<kind>_samples`; it is found by its name:

    class Mine(OracleTrainingGenerator):
        def generate_sprite_samples(self) -> Iterator[TrainingSample]:
            for path in (self.docs_path / "Sprites").rglob("*.md"): ...
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from afs.generators.base import BaseGenerator, GenerationResult, SampleError, TrainingSample
from afs.generators.markdown import plain
from afs.jsonl import AtomicWriter, BadRow
from afs.oracle import assembly, documents, explain
from afs.oracle.files import BROKEN, Parsed, Tree, read_source

ASSEMBLY = (".asm", ".s", ".inc")
_KINDS = ("docs", "table", "asm", "memory", "quest", "architecture", "constant")
_SMALL_WORDS = {"a", "an", "and", "in", "of", "on", "the", "to"}


class OracleTrainingGenerator(BaseGenerator):
    """Samples from an assembly code base: documents, routines, memory, quests, architecture, constants.

    Each kind is one method `generate_<kind>_samples`; those of subclasses run after the built-in ones, in the order
    of their definition. The order of samples is fixed: by kind, path, line.

    Args:
        oracle_path: the code base; `~` is expanded. A plain disassembly without documents will do.
        project: what instructions call it; default the heading of its README, else the folder's name.
        include_archive: read archive and planning folders as well.

    Attributes:
        oracle_path, docs_path: the code base and its documents (`Docs` in any case; it may not exist).
        problems: files that could not be read, after a run.
        left_out: why and how often something was left out, after a run.

    Raises:
        FileNotFoundError: the code base is no folder.
    """

    def __init__(self, oracle_path: Path | str, project: str | None = None, include_archive: bool = False) -> None:
        super().__init__(name="oracle", domain="oracle")
        self.oracle_path = Path(oracle_path).expanduser()
        if not self.oracle_path.is_dir():
            raise FileNotFoundError(f"{self.oracle_path} is no folder; name the folder that holds the code base")
        self.include_archive = include_archive
        self.problems: list[BadRow] = []
        self.left_out: dict[str, int] = {}
        found = sorted(p.name for p in self.oracle_path.iterdir() if p.name.lower() == "docs" and p.is_dir())
        self.docs_path = self.oracle_path / ("Docs" if "Docs" in found or not found else found[0])
        self.project = project or self._project()
        self._assembly = Parsed(self.oracle_path, assembly.parse, self._report)
        self._documents = Parsed(self.oracle_path, documents.parse, self._report)

    # --- files ------------------------------------------------------------------------------------------------------

    @cached_property
    def tree(self) -> Tree:
        """The files of the code base."""
        return Tree(self.oracle_path, (*ASSEMBLY, ".md"), self.include_archive, self._report)

    @property
    def files(self) -> list[str]:
        """Relative paths of the assembly files and documents that are read."""
        return [*self._paths(*ASSEMBLY), *self._document_paths()]

    def _paths(self, *endings: str) -> list[str]:
        return [path for path in self.tree.files if path.lower().endswith(endings)]

    def _document_paths(self) -> list[str]:
        folder = self.docs_path.name + "/"
        return [path for path in self._paths(".md") if path.startswith(folder)]

    def assembly_files(self) -> Iterator[assembly.Assembly]:
        """The assembly files, parsed, in the order of their paths."""
        return (found for path in self._paths(*ASSEMBLY) if (found := self._assembly.get(path)) is not None)

    def documents(self, *kinds: str) -> Iterator[documents.Document]:
        """The documents, parsed, in the order of their paths; of these kinds only (see `documents.kind_of`)."""
        for path in self._document_paths():
            if (not kinds or documents.kind_of(path) in kinds) and (found := self._documents.get(path)) is not None:
                yield found

    def _report(self, row: BadRow) -> None:
        self.problems.append(row)

    def _omit(self, reason: str, count: int = 1) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + count

    def _project(self) -> str:
        for name in ("README.md", "Readme.md", "readme.md"):
            path = self.oracle_path / name
            if path.is_file() and not path.is_symlink():
                text = read_source(self.oracle_path, name, lambda _row: None) or ""
                heading = next((s for s in documents.parse(name, text).sections if s.level == 1), None)
                if heading and BROKEN not in heading.title and len(heading.title) <= 60:
                    return plain(heading.title)
        words = re.split(r"[-_\s]+", self.oracle_path.resolve().name)
        return " ".join(w if i and w in _SMALL_WORDS else w[:1].upper() + w[1:] for i, w in enumerate(words) if w)

    # --- running ----------------------------------------------------------------------------------------------------

    def hooks(self) -> dict[str, Callable[[], Iterable[TrainingSample]]]:
        """Kind -> bound method of every `generate_<kind>_samples`, the built-in ones first."""
        names: dict[str, None] = {f"generate_{kind}_samples": None for kind in _KINDS}
        for owner in reversed(type(self).__mro__):
            names.update((name, None) for name in vars(owner) if name.startswith("generate_"))
        found = {name: getattr(self, name, None) for name in names}
        return {_kind(name): hook for name, hook in found.items() if callable(hook)}

    def generate(self) -> Iterator[TrainingSample]:
        """All samples, kind after kind."""
        return (sample for _, sample in self.samples())

    def samples(self, limit: int | None = None) -> Iterator[tuple[str, TrainingSample]]:
        """Kind and sample. With a limit, each kind gives one in turn, so that they share it evenly; what a short kind
        leaves goes to the others. Each call reads the files anew.

        Raises:
            SampleError: a hook yields something else than a TrainingSample.
        """
        self.__dict__.pop("tree", None)
        self.__dict__.pop("_values", None)
        self.problems.clear()
        self.left_out.clear()
        self._assembly = Parsed(self.oracle_path, assembly.parse, self._report)
        self._documents = Parsed(self.oracle_path, documents.parse, self._report)
        if self.tree.set_aside:
            self._omit("files in archive and planning folders", len(self.tree.set_aside))
        once = _Once(self._omit)
        streams = {kind: _checked(kind, hook(), once) for kind, hook in self.hooks().items()}
        if limit is None:
            for kind, stream in streams.items():
                yield from ((kind, sample) for sample in stream)
            return
        given = 0
        while streams:
            for kind, stream in list(streams.items()):
                if given >= limit:
                    return
                sample = next(stream, None)
                if sample is None:
                    del streams[kind]
                else:
                    given += 1
                    yield kind, sample

    def write(self, path: Path | str, limit: int | None = None) -> GenerationResult:
        """Write the samples as JSONL, atomically; `limit` is shared over the kinds."""
        result = GenerationResult()
        with AtomicWriter(Path(path).expanduser()) as out:
            for _, sample in self.samples(limit):
                out.write(sample.to_dict())
                result.samples += 1
                result.by_domain[sample.domain] = result.by_domain.get(sample.domain, 0) + 1
        result.sha256 = out.sha256
        return result

    def _sample(self, kind: str, ask: str, answer: str, source: str, line: int, **about: Any) -> TrainingSample:
        return TrainingSample(instruction=ask, output=answer, domain=f"oracle_{kind}", source=source,
                              _metadata={"line": line, **about})  # fmt: skip

    # --- documents --------------------------------------------------------------------------------------------------

    def generate_docs_samples(self) -> Iterator[TrainingSample]:
        """What is [topic]? -> the section."""
        for document in self.documents("", "memory", "quest"):
            told = {quest.line for quest in documents.quests(document)} if document.kind == "quest" else ()
            for section in document.sections:
                if section.line in told:
                    continue
                answer = documents.answer(section)
                if len(answer) < documents.MIN_BODY:
                    self._omit("sections that are empty or too short")
                    continue
                topic, where = document.topic(section)
                yield self._sample("docs", f"What is “{topic}” in “{where}” of {self.project}?", answer, document.path,
                                   section.line, section=topic, level=section.level)  # fmt: skip

    def generate_table_samples(self) -> Iterator[TrainingSample]:
        """What does the table say about [key]? -> the other cells of the row."""
        for document in self.documents():
            for section, table, index in documents.rows(document):
                row, line = table.rows[index], section.line + table.lines[index]
                key = next(i for i, cell in enumerate(row) if any(map(str.isalnum, cell)))
                topic, where = document.topic(section)
                cells = [f"{plain(title)}: {cell}" if title.strip() else cell
                         for i, (title, cell) in enumerate(zip(table.header, row, strict=True))
                         if i != key and cell.strip("-–— ")]  # fmt: skip
                if not cells:
                    continue
                column = f"{plain(table.header[key])} " if table.header[key].strip() else ""
                name = plain(row[key])
                ask = f"In {self.project}, what does the table under “{where} › {topic}” say about {column}“{name}”?"
                answer = f"{column}{name}: " + "; ".join(cells).rstrip(".") + "."
                yield self._sample("lookup", ask, answer, document.path, line, section=topic, key=name)

    def generate_quest_samples(self) -> Iterator[TrainingSample]:
        """How do I progress [quest]? -> its steps; and what comes after each step."""
        for document in self.documents("quest"):
            for quest in documents.quests(document):
                about = {"quest": quest.title, "steps": len(quest.steps)}
                yield self._sample("quest", f"How do I progress through “{quest.title}” in {self.project}? "
                                   f"({quest.where})", quest.text, document.path, quest.line, **about)  # fmt: skip
                for number, (step, after) in enumerate(zip(quest.steps, quest.steps[1:], strict=False), 1):
                    yield self._sample(
                        "quest", f"In “{quest.title}” ({quest.where}) of {self.project}, what comes after step "
                        f"{number}, “{_short(step)}”?", f"Step {number + 1}: {after}", document.path, quest.line,
                        **about, step=number + 1,
                    )  # fmt: skip

    def generate_architecture_samples(self) -> Iterator[TrainingSample]:
        """How does [system] work? -> the section."""
        for document in self.documents("architecture"):
            for section in document.sections:
                answer = documents.answer(section)
                if len(answer) < documents.MIN_BODY:
                    self._omit("sections that are empty or too short")
                    continue
                topic, where = document.topic(section)
                yield self._sample("architecture", f"How does “{topic}” in “{where}” of {self.project} work?", answer,
                                   document.path, section.line, section=topic)  # fmt: skip

    # --- code -------------------------------------------------------------------------------------------------------

    def generate_asm_samples(self) -> Iterator[TrainingSample]:
        """What does [routine] do? -> its comments and structure; the same for macros and structs."""
        for source in self.assembly_files():
            found = [*((r.line, "routine", r) for r in source.routines), *((m.line, "macro", m) for m in source.macros),
                     *((s.line, "struct", s) for s in source.structs)]  # fmt: skip
            for line, what, item in sorted(found, key=lambda entry: entry[0]):
                if what == "routine":
                    ask, answer = f"What does `{item.name}` do", explain.routine_answer(source, item)
                elif what == "macro":
                    ask, answer = f"What does the macro `%{item.name}` do", explain.macro_answer(source, item)
                else:
                    ask = f"What is the layout of the struct `{item.name}`"
                    answer = explain.struct_answer(source, item)
                if answer is None:
                    self._omit("labels without comment and with less than three instructions, empty macros and structs")
                else:
                    yield self._sample("asm", f"{ask} in {self.project}?", answer, source.path, line, name=item.name,
                                       what=what)  # fmt: skip

    def generate_memory_samples(self) -> Iterator[TrainingSample]:
        """What address stores [variable]? and back, from memory maps, equates and structs."""
        for document in self.documents():
            for place in documents.places(document):
                note = f" {place.note[0].upper()}{place.note[1:].rstrip('.')}." if place.note else ""
                about = f"{note} (“{place.where}”)"
                yield from self._memory(place.name, place.address, about, document.path, place.line)
        for source in self.assembly_files():
            for equate in source.equates:
                address = _address(equate)
                if address and len(self._values[equate.define, equate.name]) == 1:
                    yield from self._memory(equate.name, address, _about(equate, source.path), source.path, equate.line)
            for struct in source.structs:
                for name, offset, size, note in struct.fields if struct.base is not None else ():
                    if offset is not None:
                        told = f" It is a field of the struct `{struct.name}`"
                        told += (f", {explain.sized(size)}" if size else "") + (f": {note}." if note else ".")
                        yield from self._memory(f"{struct.name}.{name}", f"${struct.base + offset:06X}", told,
                                                source.path, struct.line)  # fmt: skip

    def _memory(self, name: str, address: str, about: str, source: str, line: int) -> Iterator[TrainingSample]:
        area = _area(address)
        meta = {"address": address, "name": name}
        yield self._sample("memory", f"What address stores `{name}` in {self.project}?",
                           f"`{name}` is at `{address}`{area}.{about}", source, line, **meta)  # fmt: skip
        yield self._sample("memory", f"What is stored at `{address}` in {self.project}?",
                           f"`{address}`{area} holds `{name}`.{about}", source, line, **meta)  # fmt: skip

    def generate_constant_samples(self) -> Iterator[TrainingSample]:
        """What is the value of [constant]? from `!name = value`, and equates that are no addresses. A name with several
        values is asked for once, and the answer tells them all."""
        told: set[tuple[bool, str]] = set()
        for source in self.assembly_files():
            for equate in source.equates:
                values = self._values[equate.define, equate.name]
                if not equate.define and _address(equate) and len(values) == 1:
                    continue
                if (equate.define, equate.name) in told:
                    self._omit("repeated definitions of a name")
                    continue
                told.add((equate.define, equate.name))
                name = f"!{equate.name}" if equate.define else equate.name
                answer = f"`{name}` is `{equate.value}`.{_about(equate, source.path)}"
                if len(values) > 1:
                    answer = f"`{name}` is defined more than once: " + "; ".join(
                        f"`{value}` in `{path}` (line {line})" for value, (path, line) in values.items()) + "."
                ask = f"What is the value of `{name}` in {self.project}?"
                yield self._sample("constants", ask, answer, source.path, equate.line, name=name, value=equate.value)

    @cached_property
    def _values(self) -> dict[tuple[bool, str], dict[str, tuple[str, int]]]:
        """(is a define, name) -> each value with the first place that gives it."""
        found: dict[tuple[bool, str], dict[str, tuple[str, int]]] = {}
        for source in self.assembly_files():
            for equate in source.equates:
                values = found.setdefault((equate.define, equate.name), {})
                values.setdefault(equate.value, (source.path, equate.line))
        return found


class _Once:
    """Drops equal pairs, and tells apart the questions of different answers by file and line."""

    def __init__(self, omit: Callable[[str], None]) -> None:
        self.omit = omit
        self._pairs: set[str] = set()
        self._asked: set[bytes] = set()

    def take(self, sample: TrainingSample) -> TrainingSample | None:
        if BROKEN in sample.instruction or BROKEN in sample.output:
            self.omit("samples that would hold bytes that are no UTF-8")
            return None
        if sample.sample_id in self._pairs:
            self.omit("equal samples")
            return None
        self._pairs.add(sample.sample_id)
        ask = sample.instruction
        for more in ("", f" ({sample.source})", f" ({sample.source}, line {sample._metadata['line']})"):
            key = blake2b((ask + more).encode(), digest_size=16).digest()
            if key not in self._asked:
                self._asked.add(key)
                return replace(sample, instruction=ask + more, sample_id="") if more else sample
        self.omit("second answers to a question on the same line")
        return None


def _checked(kind: str, found: Iterable[TrainingSample], once: _Once) -> Iterator[TrainingSample]:
    for sample in found:
        if not isinstance(sample, TrainingSample):
            raise SampleError(f"generate_{kind}_samples gave {type(sample).__name__}; it must yield TrainingSample "
                              "objects")  # fmt: skip
        # What a subclass makes is its own business.
        taken = once.take(sample) if kind in _KINDS else sample
        if taken is not None:
            yield taken


def _kind(name: str) -> str:
    return name.removeprefix("generate_").removesuffix("_samples")


def _short(step: str) -> str:
    first = plain(step.split("\n")[0]).replace("**", "")
    return first if len(first) <= 60 else first[:57].rsplit(" ", 1)[0] + " …"


def _address(equate: assembly.Equate) -> str | None:
    """The address that an equate names, as `$` and hex digits; None when its value is no address.

    `NAME = $0B7C` names an address by asar's convention; a define does when it lies in WRAM or cartridge RAM.
    """
    value = equate.value
    if not re.match(r"\$[0-9A-Fa-f]{2,6}$", value):
        return None
    if equate.define and not (len(value) == 7 and value[1:3].upper() in ("7E", "7F", "70")):
        return None
    return "$" + value[1:].upper()


def _area(address: str) -> str:
    digits = address[1:]
    number = int(digits, 16) if len(digits) <= 6 else -1
    if len(digits) <= 2:
        return " (direct page)"
    bank, low = number >> 16, number & 0xFFFF
    if bank in (0x7E, 0x7F) or (bank & 0x7F < 0x40 and low < 0x2000):
        return " (work RAM)"
    if bank & 0x7F < 0x40 and low < 0x6000:
        return " (hardware register)"
    return " (save RAM)" if 0x70 <= bank < 0x7E and low < 0x8000 else " (ROM)" if low >= 0x8000 else ""


def _about(equate: assembly.Equate, path: str) -> str:
    note = f" {equate.note[0].upper()}{equate.note[1:].rstrip('.')}." if equate.note else ""
    heading = f" under “{equate.heading}”" if equate.heading else ""
    return f"{note} It is defined in `{path}`{heading}."


def main(argv: list[str] | None = None) -> int:
    """`python3 -m afs.oracle.training_generator`; returns the exit code."""
    from afs.oracle.command import main as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
