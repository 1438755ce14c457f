"""Does the assembly in an answer assemble? Asked of asar, or of `ca65 --cpu 65816` as a checker of syntax.

    validator = AsarValidator(AsarConfig(include_paths=("~/src/game",), prelude=("Core/symbols.asm",)))
    validator.validate("```asm\\nLDA #$10\\n```").verdict        # "passed", "failed" or "skipped"

Every block is assembled in a temporary folder of its own, under a file name that is ours, with limits on time, memory
and file size. Files outside the project context cannot be read: asar can take a directive apart into defines, so
whatever could put one together is refused as well. Names that only the project could define are stubbed; what is
judged is the block, not the lack of its includes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from afs.discriminator.blocks import Block, code_blocks
from afs.discriminator.opcodes import split_comment
from afs.step import UsageError, content_hash, expand

TOOLS = {"asar": ("asar", "asar.exe", "asar-cli"), "ca65": ("ca65",)}
NO_CODE = "not applicable: no 65816 assembly in the output"
MEMORY, FILE_SIZE = 2 << 30, 64 << 20
MOST_ERRORS = 50


@dataclass(frozen=True)
class AsarConfig:
    """How blocks are assembled.

    Attributes:
        tool: "asar", or "ca65" to check syntax and addressing only.
        path: of the program; None looks on PATH.
        include_paths: folders of the project that `incsrc` and `incbin` may read.
        prelude: source files put before each block (defines, labels, macros), within the include paths or named whole.
        defines: name -> value, put before each block.
        mapping: asar's memory map.
        stub_undefined: define labels and defines that a block lacks instead of failing it.
        timeout: seconds per run.
        workers: assemblers at a time.
    """

    tool: str = "asar"
    path: Path | str | None = None
    include_paths: tuple[Path | str, ...] = ()
    prelude: tuple[Path | str, ...] = ()
    defines: tuple[tuple[str, str], ...] = ()
    mapping: str = "lorom"
    stub_undefined: bool = True
    timeout: float = 10.0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.tool not in TOOLS:
            raise UsageError(f"no assembler {self.tool!r}; known: {', '.join(TOOLS)}")
        if self.timeout <= 0 or self.workers < 1:
            raise UsageError(f"timeout must be above 0 and workers 1 or more, not {self.timeout} and {self.workers}")
        if self.mapping not in ("lorom", "hirom", "exlorom", "exhirom", "sa1rom", "fullsa1rom", "sfxrom", "norom"):
            raise UsageError(f"no memory map {self.mapping!r}; use lorom or hirom, as the game is built")


@dataclass(frozen=True)
class AsmError:
    """One error. `line` is the line of the answer (0 when it lies in the context), `file` "" for the answer itself.

    Attributes:
        category: instruction, addressing, label, define, macro, directive, range, syntax, forbidden, timeout or other.
    """

    line: int
    category: str
    message: str
    file: str = ""
    column: int = 0


@dataclass(frozen=True)
class BlockResult:
    """One block: `verdict` "passed", "failed" or "skipped" (the context that it needs is missing)."""

    line: int
    verdict: str
    errors: tuple[AsmError, ...] = ()
    stubbed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validation:
    """An answer: failed when one of its blocks failed, skipped with a reason when none could be judged."""

    verdict: str
    reason: str = ""
    blocks: tuple[BlockResult, ...] = ()

    @property
    def errors(self) -> tuple[AsmError, ...]:
        return tuple(error for block in self.blocks for error in block.errors)


@dataclass(frozen=True)
class AsarValidator:
    """Assembles the blocks of answers (see the module)."""

    config: AsarConfig = field(default_factory=AsarConfig)

    def program(self) -> str | None:
        """Where the assembler is, None when it is not here."""
        if self.config.path is not None:
            return shutil.which(str(expand(self.config.path)))
        return next((found for name in TOOLS[self.config.tool] if (found := shutil.which(name))), None)

    def missing(self) -> str:
        """Why nothing can be assembled here, "" when it can."""
        if self.program():
            return ""
        if self.config.path is not None:
            return f"{self.config.path} is no program that can be run"
        hint = "install it (Debian and Ubuntu: apt-get install cc65)" if self.config.tool == "ca65" else "install it"
        return f"{self.config.tool} is not on PATH: {hint}, or leave the signal out"

    def tool_version(self) -> str:
        """What the program says about itself, as one word for `scorer@version`."""
        with tempfile.TemporaryDirectory(prefix="afs-asm-") as folder:
            _code, output = _run([self.program(), "--version"], Path(folder), self.config.timeout)
        found = re.search(r"\d+(?:\.\d+)+", output)
        return found.group() if found else "0"

    def context_key(self) -> str:
        """A hash of everything besides the answer that decides a verdict; equal for every copy of the context."""
        c = self.config
        digest = hashlib.sha256(repr((c.tool, c.mapping, c.defines, c.stub_undefined)).encode())
        for path in self._prelude():
            digest.update(path.read_bytes())
        for root in self._roots():
            for path in sorted(root.rglob("*")):
                name = path.relative_to(root).as_posix()
                if path.is_file() and not path.is_symlink() and ".git" not in name.split("/"):
                    found = content_hash(path) if os.access(path, os.R_OK) else "unreadable"
                    digest.update(f"{name}:{found}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:8]

    def validate(self, text: str) -> Validation:
        """The verdict on the assembly in an answer.

        Raises:
            UsageError: there is no assembler (see `missing`), or a file of the context does not exist.
        """
        why = self.missing()
        if why:
            raise UsageError(why)
        blocks = code_blocks(text)
        if not blocks:
            return Validation("skipped", NO_CODE)
        found = tuple(self._block(block) for block in blocks)
        kinds = {block.verdict for block in found}
        if "failed" in kinds:
            return Validation("failed", "", found)
        if "passed" in kinds:
            return Validation("passed", "", found)
        return Validation("skipped", f"not applicable: {found[0].errors[0].message}", found)

    def validate_all(self, texts: Sequence[str]) -> list[Validation]:
        """Verdicts in the order of the texts, with `config.workers` assemblers at a time."""
        if self.config.workers == 1:
            return [self.validate(text) for text in texts]
        with ThreadPoolExecutor(self.config.workers) as pool:
            return list(pool.map(self.validate, texts))

    # --- one block --------------------------------------------------------------------------------------------------

    def _roots(self) -> list[Path]:
        roots = [expand(path).resolve() for path in self.config.include_paths]
        for root in roots:
            if not root.is_dir():
                raise UsageError(f"include path {root} is no folder; name the project's source folder")
        return roots

    def _prelude(self) -> list[Path]:
        found = []
        for name in self.config.prelude:
            path = expand(name)
            inside = [root / path for root in self._roots()]
            chosen = next((p for p in [path, *inside] if p.is_file()), None)
            if chosen is None:
                raise UsageError(f"prelude {name} does not exist, neither here nor in the include paths")
            found.append(chosen.resolve())
        return found

    def _block(self, block: Block) -> BlockResult:
        roots = self._roots()
        # What ends a line here (\\f, U+2028, …) ends none for the assembler: both must see the same lines.
        block = replace(block, text="\n".join(block.text.splitlines()))
        forbidden = [AsmError(line + block.line - 1, "forbidden", why) for line, why in refused(block.text, roots)]
        if forbidden:
            return BlockResult(block.line, "failed", tuple(forbidden))
        stubs: dict[str, None] = {}
        for _round in range(6):  # asar stops at 20 errors
            with tempfile.TemporaryDirectory(prefix="afs-asm-") as folder:
                errors, lost = self._assemble(Path(folder), block, roots, stubs)
            new = [name for name in lost if name not in stubs]
            if not errors:
                return BlockResult(block.line, "passed", (), tuple(stubs))
            if not new or not self.config.stub_undefined:
                break
            stubs.update(dict.fromkeys(new))
        # A macro or function of the project cannot be stubbed: nothing is known about the block then.
        unknown = self.config.stub_undefined and all(_LOST.match(e.message) and e.category != "label" for e in errors)
        return BlockResult(block.line, "skipped" if unknown else "failed", tuple(errors), tuple(stubs))

    def _assemble(
        self, folder: Path, block: Block, roots: list[Path], stubs: dict[str, None]
    ) -> tuple[list[AsmError], list[str]]:
        """Errors of one run, and the undefined names among them."""
        header = list(self._header(block.text, stubs))
        source = folder / ("main.asm" if self.config.tool == "asar" else "main.s")
        source.write_text("\n".join([*header, block.text]) + "\n", encoding="utf-8", errors="replace")
        if self.config.tool == "asar":
            # Glued: asar takes what follows a lone -I for the source file.
            include = [f"-I{root}" for root in roots]
            command = [self.program(), *include, str(source), str(folder / "out.sfc")]
        else:
            include = [part for root in roots for part in ("-I", str(root))]
            unknown = ["-U"] if self.config.stub_undefined else []
            command = [self.program(), "--cpu", "65816", *unknown, *include, "-o", str(folder / "out.o"),
                       str(source)]  # fmt: skip
        code, output = _run(command, folder, self.config.timeout)
        if code is None:
            late = AsmError(block.line, "timeout", f"no answer within {self.config.timeout:g} s")
            return [late], []
        found = list(_errors(output, source.name, len(header), block.line))
        if code and not found:
            last = output.strip().splitlines()[-1:] or [f"exit code {code}"]
            found = [AsmError(0, "other", last[0][:300])]
        return found[:MOST_ERRORS], [name for error in found if (name := _undefined(error, block.text))]

    def _header(self, code: str, stubs: dict[str, None]) -> Iterator[str]:
        asar = self.config.tool == "asar"
        if asar:
            yield self.config.mapping
            yield from (f"!{name} = {value}" for name, value in self.config.defines)
            yield from (f"{name} = $10" if name.startswith("!") else f"{name} = $008000" for name in stubs)
            yield from (f'incsrc "{path}"' for path in self._prelude())
            if not re.search(r"^\s*(?:org|freecode|freedata|freespace)\b", code, re.MULTILINE | re.IGNORECASE):
                yield "org $008000"
        else:
            # How wide the registers are is decided elsewhere in a game; the wide setting takes both.
            yield from (".a16", ".i16")
            yield from (f"{name} = {value}" for name, value in self.config.defines)
            yield from (f'.include "{path}"' for path in self._prelude())


# --- what is refused ------------------------------------------------------------------------------------------------

_FILES = re.compile(r"\b(incbin|incsrc|include|includeonce|table|readfile\d?|canreadfile\d?|canread\d?|filesize|"
                    r"getfilestatus|macpack|import_file)\b", re.IGNORECASE)  # fmt: skip
_NAMED = re.compile(r"^\s*\.?(incbin|incsrc|include)\s+(?:\"([^\"]+)\"|([^\s\":,(]+))", re.IGNORECASE)
_GLUED = re.compile(r"\w!\{?\w|!\{[^}]*\}\w|\w<\w+>|<\w+>\w")
_MADE = re.compile(r"^\s*(?:[!%<]|\w*[!<])")
_HIDDEN = re.compile(r"!\w+\s*[:?+#]?=\s*\"[^\"]*:")
_GIVEN = re.compile(r"^\s*!\w+\s*(?:[:?+#]?=)")


def refused(code: str, roots: Sequence[Path]) -> list[tuple[int, str]]:
    """(line, reason) of everything in a block that could read a file outside the project context.

    Files: only a plain name that lies within one of the roots. asar puts defines and macro arguments in before it
    looks for commands, so `!x` where a command stands, glued to a word, or with a command separator in its value is
    refused too.
    """
    found = []
    for number, line in enumerate(code.splitlines(), 1):
        plain, _ = split_comment(line)
        if line.rstrip().endswith("\\"):
            found.append((number, "a line that goes on in the next one"))
            continue
        if _HIDDEN.search(plain):
            found.append((number, "a define that holds a command separator"))
            continue
        for statement in re.split(r"\s:(?=\s)", plain):
            why = _refusal(statement, roots)
            if why:
                found.append((number, why))
                break
    return found


def _refusal(statement: str, roots: Sequence[Path]) -> str:
    if _FILES.search(statement):
        named = _NAMED.match(statement)
        if not named:
            return "a command that reads files stands where its file cannot be checked"
        name = named.group(2) or named.group(3)
        return "" if _inside(name, roots) else f"{named.group(1)} of {name!r}: not a file of the project context"
    given = _GIVEN.match(statement)
    if given:
        value = statement[given.end() :]
        return "a define made of quoted defines" if "!" in value and '"' in value else ""
    if _MADE.match(statement) and not re.match(r"^\s*%\w+\s*\(", statement):
        return "a define or macro argument where a command stands"
    return "a define or macro argument glued to a word" if _GLUED.search(statement) else ""


def _inside(name: str, roots: Sequence[Path]) -> bool:
    if "!" in name or "<" in name or Path(name).is_absolute() or "\\" in name:
        return False
    for root in roots:
        path = (root / name).resolve()
        if path.is_file() and path.is_relative_to(root):
            return True
    return False


# --- running and reading --------------------------------------------------------------------------------------------


def _run(command: list[str], folder: Path, timeout: float) -> tuple[int | None, str]:
    """Exit code (None: out of time) and output. The child has its own session and limits, and no input."""
    log = folder / "log.txt"
    with open(log, "wb") as out:
        child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                 env={"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C"},
                                 start_new_session=True)  # fmt: skip
        _limit(child.pid, timeout)
        try:
            code: int | None = child.wait(timeout)
        except subprocess.TimeoutExpired:
            _end(child)
            code = None
    with open(log, "rb") as output:
        return code, output.read(1 << 20).decode("utf-8", "replace")


def _limit(pid: int, timeout: float) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the time-out stays
        return
    if not hasattr(resource, "prlimit"):
        return
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        resource.prlimit(pid, resource.RLIMIT_CPU, (int(timeout) + 1, int(timeout) + 1))
    except ProcessLookupError:  # it has ended already
        return


def _end(child: subprocess.Popen) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


# asar: `main.asm:3: error: (E5060): Unknown command. [lda $10,z]`; ca65: `main.s(3): Error: …` or `main.s:3: Error: …`.
_ERROR = re.compile(
    r"^(?P<file>[^\s:(][^:(\n]*?)[:(](?P<line>\d+)(?::(?P<column>\d+))?\)?: *"
    r"(?P<kind>(?:fatal )?error|warning|note): *(?:\((?P<code>[EW]\w*)\): *)?(?P<text>.*)$",
    re.MULTILINE | re.IGNORECASE,
)
_CATEGORIES = (
    ("forbidden", "permission|not allowed"),
    ("macro", "macro|function"),
    ("define", r"\bdefines?\b"),
    ("label", r"label|symbol"),
    ("range", "range|out of bounds|too big|too far|overflow|bank cross"),
    ("addressing", r"addressing|'[xy]' expected|address size|invalid (?:size|opcode length|mode)"),
    ("instruction", "unknown command|unknown opcode|unknown instruction|':' expected|invalid instruction|mnemonic"),
    ("directive", "directive|control command|could not open|cannot open|not found|file"),
    ("syntax", "syntax|unexpected|trailing|expected|paren|bracket|invalid number|mismatch|garbage|malformed"),
)


def _errors(output: str, own: str, header: int, first: int) -> Iterator[AsmError]:
    for found in _ERROR.finditer(output):
        if found["kind"].lower() in ("warning", "note"):
            continue
        name, text = Path(found["file"]).name, found["text"].strip()[:300]
        line = int(found["line"]) - header + first - 1
        mine = name == own and line >= first
        yield AsmError(line if mine else 0, categorise(text), text, "" if name == own else name,
                       int(found["column"] or 0))  # fmt: skip


def categorise(message: str) -> str:
    """The category of an assembler's message."""
    low = message.lower()
    return next((name for name, words in _CATEGORIES if re.search(words, low)), "other")


_LOST = re.compile(r"^(?P<what>Label|Define|Macro|Function|Struct) '(?P<name>[^']+)' wasn't found")


def _undefined(error: AsmError, code: str) -> str | None:
    """The name that an error is about, when it can be stubbed: a global label, or a define with its mark."""
    found = _LOST.match(error.message)
    if not found or found["what"] not in ("Label", "Define"):
        return None
    name = found["name"]
    if found["what"] == "Define":
        return "!" + name.lstrip("!")
    # asar calls the local label .x of Main "Main_x": it can only be in the block itself.
    parent, _, local = name.rpartition("_")
    own = re.search(rf"\.{re.escape(local)}\b", code) and re.search(rf"\b{re.escape(parent)}:", code)
    return None if own or name.startswith(".") else name


# --- the signal of the quality score -------------------------------------------------------------------------------


class AsarScorer:
    """The signal "asar" of `afs.training.scoring` (protocol `Scorer`): 1.0 assembles, 0.0 does not, nan no verdict."""

    name = "asar"
    needs = ("output",)

    def __init__(self, config: AsarConfig | None = None) -> None:
        self.validator = AsarValidator(config or AsarConfig())
        if self.validator.missing():
            self.version = "0"
        else:
            tool = self.validator.config.tool
            self.version = f"1+{tool}{self.validator.tool_version()}-{self.validator.context_key()}"

    def missing(self) -> str:
        return self.validator.missing()

    def score(self, batch: Sequence[Any]) -> Any:
        """`Values` of the items' outputs."""
        from afs.training.signals import Values

        found = self.validator.validate_all([item.output for item in batch])
        values = {"passed": 1.0, "failed": 0.0, "skipped": float("nan")}
        return Values([values[v.verdict] for v in found], [v.reason if v.verdict == "skipped" else "" for v in found])


def asar_scorer(config: Any) -> AsarScorer:
    """The scorer for a `ScoringConfig` (entry point `asar` of `afs.scorers`)."""
    return AsarScorer(getattr(config, "asar", None) or AsarConfig())
