#!/usr/bin/env python3
"""A stand-in for asar's interface: options -I<folder>, source, output; errors in asar's format, then exit code 1.

It knows the opcode table, labels, defines and macros, and reads included files like the real one does. A line `; hang`
makes it wait for ever, `; chatter` makes it print a warning.
"""

import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from afs.discriminator.opcodes import check, split_comment  # noqa: E402


def main() -> int:
    arguments, roots = sys.argv[1:], []
    if arguments == ["--version"]:
        print("Asar 1.91, originally developed by Alcaro")
        return 0
    while arguments[0].startswith("-I"):
        roots.append(Path(arguments.pop(0)[2:]))
    source, target = map(Path, arguments)
    lines = []

    def read(path: Path) -> None:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            named = re.match(r'\s*(incsrc|incbin) "?([^"\s]+)"?', line)
            if named:
                found = [p for p in (Path(named[2]), *(r / named[2] for r in roots)) if p.is_file()]
                if not found:
                    lines.append((path, number, line, f"File '{named[2]}' wasn't found."))
                elif named[1] == "incsrc":
                    read(found[0])
                continue
            lines.append((path, number, line, ""))

    read(source)
    text = "\n".join(line for _, _, line, _ in lines)
    labels = set(re.findall(r"^\s*([A-Za-z_]\w*)(?::|\s*=)", text, re.M))
    labels |= {name for name in re.findall(r"^\s*(\.\w+)", text, re.M)}
    defines = set(re.findall(r"^\s*!(\w+)\s*=", text, re.M))
    macros = set(re.findall(r"^\s*macro (\w+)", text, re.M))
    errors = 0
    for path, number, line, wrong in lines:
        if "; hang" in line:
            time.sleep(60)
        if "; chatter" in line:
            print(f"{path}:{number}: warning: (W1018): xkas support is being deprecated.", file=sys.stderr)
        code = split_comment(line)[0]
        used = re.search(r"\b(?:b\w\w|j\w\w)\s+(\.?[A-Za-z_]\w*)\s*$", code, re.I)
        for name in re.findall(r"!(\w+)(?!\w*\s*=)", code):
            if name not in defines:
                wrong = wrong or f"Define '{name}' wasn't found."
        called = re.match(r"\s*%(\w+)\(", code)
        if called and called[1] not in macros:
            wrong = wrong or f"Macro '{called[1]}' wasn't found."
        if used and used[1] not in labels and not used[1].startswith("!"):
            wrong = wrong or f"Label '{used[1]}' wasn't found."
        if check(code).kind == "invalid":
            wrong = wrong or f"Unknown command. [{code.strip()}]"
        if wrong:
            errors += 1
            print(f"{path}:{number}: error: (E5060): {wrong}", file=sys.stderr)
    if not errors:
        target.write_bytes(b"\0" * 16)
    return 1 if errors else 0


sys.exit(main())
