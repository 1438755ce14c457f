"""A made 65816 code base and made ToolBench rows of any size, the same for a seed: for benchmarks of the sources.

    from benchmarks.code_bases import make_code_base, make_toolbench
    make_code_base(folder, megabytes=6)
    make_toolbench(folder, rows=30_000)

The code base has the density of a large patch of a Super Nintendo game: about 240 bytes of source per sample. Equal
seeds and sizes give equal bytes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

_RULER = "; " + "=" * 57
_CODE = ("LDA.w {v}, X", "STA.w {v}", "CMP.b #${h}", "BNE .l{k}", "JSL {f}", "AND.b #$0F", "CLC : ADC.b #$10",
         "STA.l $7EF{h}0", "TAX", "PHX", "PLX", "DEC.w {v}, X : BPL .l{k}")  # fmt: skip


class _Words:
    """Made words, names and sentences."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = ["".join(self.rng.choices(letters, k=self.rng.randint(3, 9))) for _ in range(3000)]

    def say(self, count: int) -> str:
        return " ".join(self.rng.choices(self.words, k=count)).capitalize()

    def name(self) -> str:
        return "".join(word.capitalize() for word in self.rng.choices(self.words, k=2))


def make_code_base(folder: Path | str, megabytes: float = 6.0, seed: int = 7) -> int:
    """Write code, equates and documents, about `megabytes` in all; returns the bytes written."""
    words, total, number = _Words(seed), 0, 0
    routines = [f"{words.name()}_{words.name()}" for _ in range(1500)]
    while total < megabytes * 1e6:
        for where, text in _files(words, routines, number):
            path = Path(folder) / where
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            total += len(text)
        number += 1
    return total


def _files(words: _Words, routines: list[str], number: int) -> Iterator[tuple[str, str]]:
    """One round: twelve files of code, one of equates, a dozen documents."""
    rng = words.rng
    variables = [f"{words.name()}_{number}" for _ in range(500)]
    for index in range(12):
        body = [_RULER, f"; {words.say(6)}", _RULER, ""]
        for name in rng.sample(routines, 10):
            body += _routine(words, f"{name}_{number}_{index}", variables, routines)
        yield f"Sprites/s{number}_{index}.asm", "\n".join(body)
    yield f"Core/c{number}.asm", "\n".join(_equates(words, variables, number))
    for index in range(12):
        # One document in twelve is about quests, one about a system.
        kind = ("Quest", "System", "Doc")[min(index, 2)]
        yield f"Docs/{('Technical', 'World', 'Guides')[index % 3]}/{kind}_{number}_{index}.md", _document(words)


def _routine(words: _Words, name: str, variables: list[str], routines: list[str]) -> list[str]:
    rng = words.rng
    lines = [_RULER, f"; {words.say(9)}", f"; {words.say(7)}", "", f"{name}:", "{"]
    for _ in range(rng.randint(15, 60)):
        code = rng.choice(_CODE).format(v=rng.choice(variables), h=f"{rng.randint(16, 255):02X}", k=rng.randrange(5),
                                        f=rng.choice(routines))  # fmt: skip
        lines.append(f"  {code} ; {words.say(4)}" if rng.random() < 0.12 else f"  {code}")
        if rng.random() < 0.08:
            lines.append(f"  .l{rng.randrange(5)}")
    table = [f"  db ${rng.randrange(256):02X}, ${rng.randrange(256):02X} ; 0x{i:02X}"
             for i in range(rng.randint(0, 30))]  # fmt: skip
    return [*lines, "  RTL", "", "  .table", *table, "}", ""]


def _equates(words: _Words, variables: list[str], number: int) -> Iterator[str]:
    for index, name in enumerate(variables):
        if index % 25 == 0:
            yield from ("", _RULER, f"; {words.say(3)} ($7EF{index:03X})", _RULER, f"; {words.say(8)}", "")
        yield f"{name:<28}= $7E{(number * 500 + index) % 65536:04X}   ; {words.say(6)}"
    for index in range(125):
        yield f"!{words.name()}_{number}_{index} = ${index:02X}  ; bit {index % 8} - {words.say(5)}"


def _document(words: _Words) -> str:
    rng = words.rng
    parts = [f"# {words.say(3)}", words.say(30)]
    for _ in range(16):
        parts += [f"## {words.say(3)}", *(f"{words.say(rng.randint(30, 90))}." for _ in range(rng.randint(1, 4)))]
        if rng.random() < 0.3:
            rows = [f"| {words.name()} | `${i:02X}` | {words.say(6)} |" for i in range(rng.randint(4, 14))]
            parts.append("\n".join(["| Name | Value | Notes |", "|---|---|---|", *rows]))
        if rng.random() < 0.3:
            parts.append("\n".join(["```asm", *["  LDA.b #$00 ; x"] * 12, "```"]))
        if rng.random() < 0.2:
            parts.append("\n".join(f"{i}. {words.say(9)}" for i in range(1, 6)))
    return "\n\n".join(parts) + "\n"


def make_toolbench(folder: Path | str, rows: int = 30_000, seed: int = 7) -> int:
    """Write `toolllama_G123_dfs_train.json` in the layout of the original release; returns the bytes written. Of seven
    rows about four end in an answer."""
    words = _Words(seed)
    system = f"You are AutoGPT. {words.say(600)}"
    path = Path(folder) / "toolllama_G123_dfs_train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        out.write("[")
        for number in range(rows):
            row = {"id": f"Step {number}: {words.say(5)}", "conversations": list(_talk(words, system, number))}
            out.write((", " if number else "") + json.dumps(row))
        out.write("]")
    return path.stat().st_size


def _talk(words: _Words, system: str, number: int) -> Iterator[dict[str, str]]:
    rng = words.rng
    yield {"from": "system", "value": f"{system} {number}"}
    yield {"from": "user", "value": f"\n{words.say(40)}\nBegin!\n"}
    for _ in range(rng.randint(1, 5)):
        given = json.dumps({"q": words.say(3), "n": {"a": [1, 2]}}, indent=2)
        yield {"from": "assistant", "value": f"\nThought: {words.say(20)}\nAction: {words.name()}_for_{words.name()}\n"
                                             f"Action Input: {given}"}  # fmt: skip
        found = json.dumps({"data": [{"x": words.say(5)} for _ in range(12)]})
        yield {"from": "function", "value": json.dumps({"error": "", "response": found})}
    if number % 3:
        end = "give_answer" if number % 7 else "give_up_and_restart"
        given = json.dumps({"return_type": end, "final_answer": words.say(80)}, indent=2)
        yield {"from": "assistant", "value": f"\nThought: done\nAction: Finish\nAction Input: {given}"}
