"""Which addresses a piece of 65816 assembly refers to, and which of them are known.

    known = SymbolTable.load(["Core/ram.asm"])         # NAME = $7E0022, !name = $7EF36C, !define name $2100
    coverage("LDA.b $22 : STA $2100", known)           # Coverage(total=2, known=2, unknown=())

An address is the operand of an instruction that reads or writes data. Immediates (`#$22`), jump targets, comments,
bank bytes (`MVN $7E,$7F`) and dollars in prose are none. Text without such an operand is "not applicable", not 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

# SNES I/O registers by Nintendo's names, in address order from the first address; "-" is a hole.
# Source: public register lists of the S-PPU1/2, S-CPU (5A22) and its DMA unit.
_BLOCKS = {
    0x2100: """INIDISP OBSEL OAMADDL OAMADDH OAMDATA BGMODE MOSAIC BG1SC BG2SC BG3SC BG4SC BG12NBA BG34NBA BG1HOFS
        BG1VOFS BG2HOFS BG2VOFS BG3HOFS BG3VOFS BG4HOFS BG4VOFS VMAIN VMADDL VMADDH VMDATAL VMDATAH M7SEL M7A M7B M7C
        M7D M7X M7Y CGADD CGDATA W12SEL W34SEL WOBJSEL WH0 WH1 WH2 WH3 WBGLOG WOBJLOG TM TS TMW TSW CGWSEL CGADSUB
        COLDATA SETINI MPYL MPYM MPYH SLHV OAMDATAREAD VMDATALREAD VMDATAHREAD CGDATAREAD OPHCT OPVCT STAT77 STAT78
        APUIO0 APUIO1 APUIO2 APUIO3""",
    0x2180: "WMDATA WMADDL WMADDM WMADDH",
    0x4016: "JOYSER0 JOYSER1",
    0x4200: """NMITIMEN WRIO WRMPYA WRMPYB WRDIVL WRDIVH WRDIVB HTIMEL HTIMEH VTIMEL VTIMEH MDMAEN HDMAEN MEMSEL - -
        RDNMI TIMEUP HVBJOY RDIO RDDIVL RDDIVH RDMPYL RDMPYH JOY1L JOY1H JOY2L JOY2H JOY3L JOY3H JOY4L JOY4H""",
}
_DMA = "DMAP BBAD A1TL A1TH A1B DASL DASH DASB A2AL A2AH NTRL"  # $43x0 to $43xA of each of the eight channels


def _registers() -> dict[int, str]:
    found = {}
    for first, names in _BLOCKS.items():
        found.update({first + i: name for i, name in enumerate(names.split()) if name != "-"})
    for channel in range(8):
        found.update({0x4300 + 16 * channel + i: f"{name}{channel}" for i, name in enumerate(_DMA.split())})
    return found


REGISTERS = _registers()
"""I/O registers of banks $00-$3F and $80-$BF: 16-bit address -> name."""

_DATA = frozenset(
    "ADC AND ASL BIT CMP CPX CPY DEC EOR INC LDA LDX LDY LSR ORA ROL ROR SBC STA STX STY STZ TRB TSB".split()
)


def _reference(names: str) -> re.Pattern[str]:
    """Groups: mnemonic, hex digits, name, index register.

    One character set begins every match, which `re` skips to; no part runs past the next one, so time is linear.
    """
    return re.compile(
        # An instruction begins a line, follows a label or asar's `:` separator, or opens an inline code span; a
        # comment is taken whole, so that nothing inside it is an instruction.
        r"[\n:`;/](?:(?<=;)[^\n]*|(?<=/)/[^\n]*|(?<![;/])[ \t]*(?:[.+\-#][\w.+\-]*[ \t]+)?"
        rf"([A-Za-z]{{3}})(?:\.[BWLbwl])?[ \t]+[\[(]?(?:[AFZafz]:)?(?:\$([0-9A-Fa-f]{{1,6}})|({names}))"
        # What may follow an operand; prose ("and $50 more") ends otherwise.
        r"[\])]?(?:,[ \t]*([SXYsxy])[\])]?(?:,[ \t]*[Yy])?)?(?=[ \t\r]*(?:[\n;:`]|//|\Z)))"
    )


_NUMBERS = _reference("(?!)")
_NUMBERS_AND_NAMES = _reference(r"!?[A-Za-z_][\w.]*")
_WORDS = {"and", "bit", "dec", "inc"}  # mnemonics that are words too: in lower case no proof of assembly
_EQUATE = re.compile(
    r"^[ \t]*(?:!?([A-Za-z_][\w.]*)[ \t]*(?:[:?+#]?=|[ \t]equ[ \t])|[!.#]?define[ \t]+!?([A-Za-z_]\w*)[ \t]*=?)"
    r"[ \t]*\"?\$([0-9A-Fa-f]{1,6})\"?[ \t\r]*(?:(?:;|//).*)?$",
    re.MULTILINE | re.IGNORECASE,
)
_DEFINED = re.compile(r"^[ \t]*(![A-Za-z_]\w*)[ \t]*[:?+#]?=", re.MULTILINE)


class Coverage(NamedTuple):
    """Distinct addresses that a text refers to, how many are known, and the others as written in canonical form."""

    total: int
    known: int
    unknown: tuple[str, ...]

    @property
    def share(self) -> float:
        """Known / total, or nan when there is no address."""
        return self.known / self.total if self.total else float("nan")


NONE = Coverage(0, 0, ())


@dataclass(frozen=True, eq=False)
class SymbolTable:
    """Names (case folded) and addresses (24 bits) of a project's own equates. Compared and hashed as an object."""

    by_name: dict[str, int]
    addresses: frozenset[int]
    seen: dict[str, Any] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"by_name": self.by_name, "addresses": self.addresses, "seen": {}}

    @classmethod
    def load(cls, paths: Iterable[Path | str]) -> SymbolTable:
        """Equates in the files; of a folder, in its .asm, .inc and .s files. `~` is expanded.

        Raises:
            ValueError: a path does not exist, or there is no equate in any of the files.
        """
        found: dict[str, int] = {}
        paths = [Path(path).expanduser() for path in paths]
        for path in paths:
            if not path.exists():
                raise ValueError(f"symbol file {path} does not exist; name a file or a folder of .asm files")
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file != path and file.suffix not in (".asm", ".inc", ".s"):
                    continue
                for name, defined, value in _EQUATE.findall(file.read_text("utf-8", errors="replace")):
                    found[(name or defined).casefold()] = canonical(int(value, 16))
        if paths and not found:
            raise ValueError(f"no equate (NAME = $7E0022, !name = $7EF36C) in {', '.join(map(str, paths))}")
        return cls(found, frozenset(found.values()))

    def __len__(self) -> int:
        return len(self.by_name)


EMPTY = SymbolTable({}, frozenset())


def canonical(address: int) -> int:
    """One number per place: bank $00-$3F and $80-$BF mirrors of low WRAM and of I/O become one."""
    bank, low = address >> 16, address & 0xFFFF
    if bank & 0x7F < 0x40:
        if low < 0x2000:
            return 0x7E0000 | low
        if low < 0x8000:
            return low
    return address


def kind(address: int) -> str:
    """What lies at an address: "wram", "register", "sram", "rom" or "nothing" (LoROM and HiROM maps)."""
    return _kind(canonical(address))


def _kind(address: int) -> str:
    bank, low = address >> 16, address & 0xFFFF
    if bank in (0x7E, 0x7F):
        return "wram"
    if low >= 0x8000 or bank >= 0xC0 or 0x40 <= bank < 0x70:
        return "rom"
    if bank & 0x7F < 0x40:
        # $6000-$7FFF is cartridge RAM on HiROM boards.
        return "register" if low in REGISTERS else "sram" if low >= 0x6000 else "nothing"
    return "sram"


def coverage(text: str, symbols: SymbolTable = EMPTY) -> Coverage:
    """Addresses that the assembly in `text` refers to, and how many of them are known.

    Known are WRAM, cartridge RAM, the registers and what `symbols` names. Addresses in ROM count only when a symbol
    names them: no table could know the others. With symbols, operands that are names count as well: a name in the
    table is known, a `!name` that neither the table nor the text defines is not.
    """
    if "$" not in text and not symbols.by_name:
        return NONE
    return _extract(text, symbols)


@lru_cache(maxsize=256)
def _extract(text: str, symbols: SymbolTable) -> Coverage:
    places: dict[int | str, bool] = {}
    proof, named, seen = False, bool(symbols.by_name), symbols.seen
    for line in text.split("\n"):
        # Half of the lines of a routine hold no number at all, and many come again in other samples.
        if named or "$" in line:
            found = seen.get(line)
            if found is None:
                found = _look_at(line, symbols)
            is_proof, pairs = found
            if pairs:
                places.update(pairs)
            proof = proof or is_proof
    if named:
        for name in _DEFINED.findall(text):
            places.pop(name, None)
    if not proof or not places:
        return NONE
    known = sum(places.values())
    if known == len(places):
        return Coverage(known, known, ())
    unknown = tuple(p if isinstance(p, str) else f"${p:06X}" for p, known in places.items() if not known)
    return Coverage(len(places), known, unknown)


_Seen = tuple[bool, tuple[tuple[int | str, bool], ...]]


def _look_at(line: str, symbols: SymbolTable) -> _Seen:
    """(whether the line is certainly assembly, its places and whether they are known); remembered."""
    proof, pairs = False, []
    for mnemonic, number, name, index in (_NUMBERS_AND_NAMES if symbols.by_name else _NUMBERS).findall("\n" + line):
        if mnemonic in _DATA:
            proof = True
        elif mnemonic.upper() in _DATA:
            proof = proof or mnemonic.lower() not in _WORDS
        else:
            continue
        if index in ("S", "s"):  # an offset on the stack
            continue
        if name:
            address = symbols.by_name.get(name.lstrip("!").casefold())
            if address is not None:
                pairs.append((address, True))
            elif name.startswith("!"):
                pairs.append((name, False))
            continue
        address = canonical(int(number, 16))
        what, in_table = _kind(address), address in symbols.addresses
        if in_table or what != "rom":
            pairs.append((address, in_table or what != "nothing"))
    if len(symbols.seen) >= _MAX_SEEN:
        symbols.seen.clear()
    found = symbols.seen[line] = proof, tuple(pairs)
    return found


_MAX_SEEN = 1 << 14
"""Lines that are remembered, some 5 MB."""
