"""A small 65816 code base of our own, written by a seeded generator: valid for ca65 and for the opcode table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_VERBS = "load store move check update draw clear reset spawn hit turn open close wait count copy".split()
_NOUNS = "hero door chest timer enemy sprite tile palette music menu item camera shadow flag room score".split()
_ALU = "lda sta adc sbc and ora eor cmp".split()
_FORMS = ("${d:02X}", "${a:04X}", "${d:02X},x", "${a:04X},x", "${a:04X},y", "(${d:02X}),y", "[${d:02X}]",
          "(${d:02X},x)")  # fmt: skip
_BRANCHES = "beq bne bcc bcs bmi bpl bra".split()
_SIMPLE = "inx iny dex dey tax tay txa tya pha pla clc sec xba nop".split()


def routine(rng: np.random.Generator, number: int) -> str:
    """One routine of 6 to 18 instructions with a loop of its own."""
    name = f"{_VERBS[rng.integers(16)]}_{_NOUNS[rng.integers(16)]}_{number}"
    lines = [f"; {name.replace('_', ' ')}", f"{name}:", "    php", "    rep #$30"]
    lines += [f"    ldx #${rng.integers(0x10000):04X}", f"{name}_loop:"]
    for _ in range(int(rng.integers(3, 14))):
        kind = rng.integers(5)
        if kind < 2:
            form = _FORMS[rng.integers(len(_FORMS))].format(d=int(rng.integers(256)), a=int(rng.integers(0x2000)))
            comment = f" ; {_NOUNS[rng.integers(16)]}" if rng.integers(3) == 0 else ""
            lines.append(f"    {_ALU[rng.integers(8)]} {form}{comment}")
        elif kind == 2:
            op = ("lda", "cmp", "and", "adc")[rng.integers(4)]
            lines.append(f"    {op} #${rng.integers(0x10000):04X}")
        elif kind == 3:
            lines.append(f"    {_SIMPLE[rng.integers(len(_SIMPLE))]}")
        else:
            lines.append(f"    {('stz', 'inc', 'dec', 'stx', 'sty')[rng.integers(5)]} ${rng.integers(0x2000):04X}")
    lines += ["    dex", f"    {_BRANCHES[rng.integers(7)]} {name}_loop", "    plp", "    rts"]
    return "\n".join(lines)


def write_code_base(folder: Path, files: int = 12, routines: int = 12, seed: int = 1) -> Path:
    """Write `files` .asm files below a folder; returns the folder."""
    rng = np.random.default_rng(seed)
    number = 0
    for file in range(files):
        path = folder / f"bank_{file // 4:02d}" / f"part_{file:02d}.asm"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = []
        for _ in range(routines):
            number += 1
            made.append(routine(rng, number))
        text = "\n\n".join(made) + "\n"
        path.write_text(text.upper() if file % 5 == 4 else text, encoding="utf-8")
    return folder
