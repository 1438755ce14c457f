"""Format primitives: json, table, code, list, structured.

What to write is trivial, how to write it is the task. Answers are parsed, then compared: every text that means the same
in the demanded format is right, and nothing else is.
"""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Callable, Iterable
from typing import Any

from realm.guild.skills.primitives.engine import (
    ALNUM,
    DIGITS,
    LETTERS,
    Primitive,
    Shape,
    joined,
    number_of,
    symbols_of,
)


def _answer(parse: Callable[[str], Any], golden: str, response: str) -> str | None:
    """Why an answer is wrong, or None; `parse` raises ValueError with the reason where the format is not kept."""
    try:
        found = parse(response.strip())
    except ValueError as error:
        return f"wrong format: {str(error)[:160]}"
    return None if found == parse(golden) else f"wrong content: expected {golden!r}"


# --- fmt_json: content = ((key, values) …); one value is written plain, several as an array -----------------------

WORDS = {"true": True, "false": False, "null": None}
Facts = tuple[tuple[str, tuple[str, ...]], ...]


def _json_value(word: str) -> Any:
    return WORDS[word] if word in WORDS else int(word) if word.isdigit() else word


def _json_golden(facts: Facts) -> str:
    made: dict[str, Any] = {}
    for path, words in facts:
        *outer, key = path.split(".")
        inner = made
        for name in outer:
            inner = inner.setdefault(name, {})
        values = [_json_value(word) for word in words]
        inner[key] = values[0] if len(values) == 1 else values
    return json.dumps(made)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _parse_json(text: str) -> str:
    """A text that is equal for equal values: 1, 1.0 and true differ, the order of keys does not count."""
    try:
        return json.dumps(json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant), sort_keys=True)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _draw_word(kinds: tuple[str, ...], rng: random.Random) -> str:
    kind = rng.choice([kind for kind in kinds if kind in ("digit", "number", "letter", "word")])
    pools = {"digit": DIGITS, "letter": LETTERS, "word": tuple(WORDS)}
    return str(rng.randint(10, 999)) if kind == "number" else rng.choice(pools[kind])


def _draw_facts(shape: Shape, rng: random.Random) -> Facts:
    """`n` facts; with "array" every third has 2 to 4 values, with "object" every other key is inside another."""
    keys = rng.sample(LETTERS, shape.n + 3)
    outer, keys = keys[:3], keys[3:]
    facts = []
    for key in keys:
        if "object" in shape.kinds and rng.random() < 0.5:
            key = f"{rng.choice(outer)}.{key}"
        several = rng.randint(2, 4) if "array" in shape.kinds and rng.random() < 0.33 else 1
        facts.append((key, tuple(_draw_word(shape.kinds, rng) for _ in range(several))))
    return tuple(facts)


def _read_facts(body: str) -> Facts | None:
    facts = []
    for part in body.split(", "):
        path, *words = part.split(" ")
        names = path.split(".")
        if not words or len(words) > 4 or len(names) > 2 or any(len(n) != 1 or n not in LETTERS for n in names):
            return None
        if any(not (word in WORDS or word in LETTERS or str(number_of(word)) == word) for word in words):
            return None
        facts.append((path, tuple(words)))
    paths = [path for path, _ in facts]
    outer = {path.partition(".")[0] for path in paths if "." in path}
    sound = len(set(paths)) == len(paths) and not outer & set(paths)
    return tuple(facts) if sound else None


def _kinds_of(facts: Facts) -> set[str]:
    words = [word for _, values in facts for word in values]
    kinds = {"word" if word in WORDS else "letter" if word in LETTERS else "digit" if len(word) == 1 else "number"
             for word in words}  # fmt: skip
    return kinds | ({"array"} if any(len(values) > 1 for _, values in facts) else set()) | (
        {"object"} if any("." in path for path, _ in facts) else set())  # fmt: skip


_JSON = Primitive(
    name="fmt_json",
    title="JSON",
    rule="A JSON object: numbers as numbers, letters as strings, `true`, `false` and `null` as what they are; "
    "several values make an array; `a.b 3` puts b inside an object a.",
    level_text="{n} facts; values: {kinds}",
    shapes=(Shape(2, kinds=("digit",)), Shape(3, kinds=("digit",)), Shape(3, kinds=("digit", "letter")),
            Shape(4, kinds=("digit", "letter", "word")), Shape(5, kinds=("number", "letter", "word")),
            Shape(4, kinds=("digit", "letter", "array")), Shape(6, kinds=("number", "letter", "word", "array")),
            Shape(4, kinds=("digit", "letter", "object")), Shape(6, kinds=("number", "letter", "word", "object")),
            Shape(8, kinds=("number", "letter", "word", "array", "object"))),
    draw=_draw_facts,
    show=lambda facts: ", ".join(joined((path, *words)) for path, words in facts),
    read=_read_facts,
    solve=_json_golden,
    fits=lambda shape, facts: len(facts) == shape.n and _kinds_of(facts) <= set(shape.kinds),
    # A fact is at most `"k": ["a", "b", "c", "d"], ` or `"o": {"k": false}, `.
    room=lambda shape: 2 + shape.n * (28 if "array" in shape.kinds else 14) + (9 * 3 if "object" in shape.kinds else 0),
    normal=lambda facts: tuple(sorted(facts)),
    mark=lambda facts, response: _answer(_parse_json, _json_golden(facts), response),
)  # fmt: skip

# --- fmt_table: content = the rows, header first ------------------------------------------------------------------

Rows = tuple[tuple[str, ...], ...]
_RULER = re.compile(r":?-{3,}:?")


def _table_golden(rows: Rows) -> str:
    ruled = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def _parse_table(text: str) -> list[list[str]]:
    rows = []
    for line in map(str.strip, text.split("\n")):
        if len(line) < 2 or line[0] != "|" or line[-1] != "|":
            raise ValueError(f"every line of the table stands between bars, got {line[:60]!r}")
        rows.append([cell.strip() for cell in line[1:-1].split("|")])
    if len(rows) < 2 or not all(_RULER.fullmatch(cell) for cell in rows[1]):
        raise ValueError("the second line must be a ruler such as | --- | --- |")
    if len({len(row) for row in rows}) != 1:
        raise ValueError("the rows have different numbers of cells")
    return [rows[0], *rows[2:]]


def _draw_rows(shape: Shape, rng: random.Random) -> Rows:
    head = tuple(rng.sample(LETTERS, shape.asked))
    return head, *(tuple(str(rng.randint(0, shape.top)) for _ in head) for _ in range(shape.n))


def _read_rows(body: str) -> Rows | None:
    head, *rest = body.split("; ")
    rows = (symbols_of(head, LETTERS), *(tuple(row.split(" ")) for row in rest))
    plain = all(str(number_of(cell)) == cell for row in rows[1:] for cell in row)
    sound = plain and rest and len(set(rows[0])) == len(rows[0]) > 1 and len({len(row) for row in rows}) == 1
    return rows if sound else None


_TABLE = Primitive(
    name="fmt_table",
    title="Table",
    rule="A Markdown table with a ruler under its header; rows are separated by semicolons.",
    level_text="{asked} columns, {n} rows, numbers to {top}",
    shapes=tuple(Shape(n, columns, top=top) for columns, n, top in (
        (2, 1, 9), (2, 2, 9), (3, 2, 9), (3, 3, 9), (4, 3, 9), (3, 3, 99), (4, 4, 99), (5, 4, 99), (5, 5, 999),
        (6, 6, 999))),
    draw=_draw_rows,
    show=lambda rows: "; ".join(map(joined, rows)),
    read=_read_rows,
    solve=_table_golden,
    fits=lambda shape, rows: (len(rows) - 1, len(rows[0])) == (shape.n, shape.asked)
    and all(int(cell) <= shape.top for row in rows[1:] for cell in row),
    room=lambda shape: (shape.n + 2) * (shape.asked * (3 + max(3, len(str(shape.top)))) + 2),
    mark=lambda rows, response: _answer(_parse_table, _table_golden(rows), response),
)  # fmt: skip

# --- fmt_code: content = the lines; a line is (what it makes, parameters, expression) ------------------------------

Expression = Any
"""A letter or a number as text, or (function, argument …)."""
Lines = tuple[tuple[str, str, Expression], ...]
_CODE = re.compile(r"[A-Za-z0-9_(),=:\s]*")
_INDENT = "    "


def _show_expression(expression: Expression, top: bool = True) -> str:
    """`f 3 (g a)`: the function, then its arguments, an inner call in brackets."""
    if isinstance(expression, str):
        return expression
    name, *arguments = expression
    text = joined([name, *(_show_expression(argument, top=False) for argument in arguments)])
    return text if top else f"({text})"


def _show_line(line: tuple[str, str, Expression]) -> str:
    made, parameters, expression = line
    if parameters:
        return f"{made} of {joined(parameters)} is {_show_expression(expression)}"
    return (f"{made} is " if made else "") + _show_expression(expression)


def _call(expression: Expression) -> str:
    if isinstance(expression, str):
        return expression
    name, *arguments = expression
    return f"{name}({', '.join(map(_call, arguments))})"


def _code_golden(lines: Lines) -> str:
    written = []
    for made, parameters, expression in lines:
        if parameters:
            written += [f"def {made}({', '.join(parameters)}):", f"{_INDENT}return {_call(expression)}"]
        else:
            written.append((f"{made} = " if made else "") + _call(expression))
    return "\n".join(written)


def _parse_code(text: str) -> str:
    """The syntax tree as text; nothing is ever run."""
    if not _CODE.fullmatch(text):
        raise ValueError("only names, numbers and ( ) , = : belong into this code")
    try:
        return ast.dump(ast.parse(text))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"no Python: {error}") from error


def _draw_expression(rng: random.Random, arguments: int, depth: int, atoms: str) -> Expression:
    """A call of `arguments` arguments; from depth 2 on one of them is a call of two."""
    found: list[Expression] = [rng.choice(atoms) for _ in range(arguments)]
    if depth > 1:
        found[rng.randrange(arguments)] = _draw_expression(rng, 2, depth - 1, atoms)
    return (rng.choice(LETTERS), *found)


def _draw_code(shape: Shape, rng: random.Random) -> Lines:
    """`asked` lines in the given forms, each a call of `n` arguments nested `depth` deep."""
    lines = []
    for _ in range(shape.asked):
        form = rng.choice(shape.kinds)
        made = "" if form == "call" else rng.choice(LETTERS)
        parameters = "".join(rng.sample(LETTERS, 2)) if form == "def" else ""
        lines.append((made, parameters, _draw_expression(rng, shape.n, shape.depth, parameters or shape.symbols)))
    return tuple(lines)


_WORD = re.compile(r"[()]|[^() ]+")


def _read_expression(text: str) -> Expression:
    """The inverse of `_show_expression`."""
    stack: list[list[Expression]] = [[]]
    for word in _WORD.findall(text):
        if word == "(":
            stack.append([])
        elif word == ")":
            inner = stack.pop()
            if not stack or len(inner) < 2:
                raise ValueError("brackets do not match")
            stack[-1].append(tuple(inner))
        else:
            stack[-1].append(*symbols_of(word, ALNUM))
    if len(stack) != 1 or len(stack[0]) < 2 or len(stack) > 8:
        raise ValueError("no call")
    return _with_names(tuple(stack[0]))


def _with_names(expression: Expression) -> Expression:
    """The expression, when every function is named by a letter."""
    if isinstance(expression, tuple):
        if not isinstance(expression[0], str) or expression[0] not in LETTERS:
            raise ValueError("a function has a letter for a name")
        for argument in expression[1:]:
            _with_names(argument)
    return expression


def _read_code(body: str) -> Lines:
    lines = []
    for text in body.split("; "):
        head, found, rest = text.partition(" is ")
        made, of, parameters = head.partition(" of ") if found else ("", "", "")
        names = symbols_of(parameters, LETTERS) if of else ()
        if len(set(names)) != len(names) or found and len(symbols_of(made, LETTERS)) != 1:
            raise ValueError("a parameter comes twice, or more than one thing is made")
        lines.append((made, "".join(names), _read_expression(rest if found else text)))
    return tuple(lines)


def _depth(expression: Expression) -> int:
    return 0 if isinstance(expression, str) else 1 + max(map(_depth, expression[1:]))


def _form(line: tuple[str, str, Expression]) -> str:
    return "def" if line[1] else "assign" if line[0] else "call"


def _fits_code(shape: Shape, lines: Lines) -> bool:
    return len(lines) == shape.asked and all(
        _form(line) in shape.kinds and len(line[2]) == shape.n + 1 and _depth(line[2]) == shape.depth
        and (bool(line[1]) or set(_atoms(line[2])) <= set(shape.symbols)) for line in lines)  # fmt: skip


def _atoms(expression: Expression) -> Iterable[str]:
    for argument in expression[1:]:
        yield from [argument] if isinstance(argument, str) else _atoms(argument)


_CODE_SHAPES = tuple(Shape(n, asked, depth, kinds, symbols=symbols) for n, asked, depth, kinds, symbols in (
    (2, 1, 1, ("call",), ALNUM), (3, 1, 1, ("call",), ALNUM), (3, 1, 1, ("call", "assign"), ALNUM),
    (2, 1, 2, ("call", "assign"), DIGITS), (3, 1, 2, ("call", "assign"), ALNUM),
    (2, 1, 1, ("def",), DIGITS), (2, 1, 2, ("def",), DIGITS), (2, 2, 1, ("assign", "def"), ALNUM),
    (3, 2, 2, ("call", "assign", "def"), ALNUM), (3, 3, 3, ("call", "assign", "def"), ALNUM),
))  # fmt: skip

_CODE_PRIMITIVE = Primitive(
    name="fmt_code",
    title="Code",
    rule="Python. `f 3 7` is a call, brackets are inner calls, `x is f 3` an assignment, `f of a b is g a b` a "
    "function definition that returns; semicolons separate lines.",
    level_text="{asked} lines ({kinds}) with calls of {n} arguments, {depth} deep",
    shapes=_CODE_SHAPES,
    draw=_draw_code,
    show=lambda lines: "; ".join(map(_show_line, lines)),
    read=_read_code,
    solve=_code_golden,
    fits=_fits_code,
    room=lambda shape: shape.asked * (32 + 3 * shape.n + 10 * shape.depth),
    kind=lambda lines: _form(lines[0]) if len(lines) == 1 else "lines",
    depth=lambda lines: max(_depth(line[2]) for line in lines),
    mark=lambda lines, response: _answer(_parse_code, _code_golden(lines), response),
)

# --- fmt_list: content = (style, items); an item is (words, what stands beneath it) --------------------------------

Items = tuple[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]]
STYLES = ("numbers", "bullets")
_ITEM = re.compile(r"(?:([0-9]{1,3})\.|([-*+])) +(\S.*)")
_BENEATH = re.compile(r"( {2,4})([-*+]) +(\S.*)")


def _list_golden(content: Items) -> str:
    style, items = content
    lines = []
    for number, (words, beneath) in enumerate(items, 1):
        mark = f"{number}." if style == "numbers" else "-"
        lines.append(f"{mark} {joined(words)}")
        lines += [f"{' ' * (len(mark) + 1)}- {word}" for word in beneath]
    return "\n".join(lines)


def _parse_list(text: str) -> list[Any]:
    """[style, [item, [what stands beneath it]] …]; numbers count from 1, one kind of bullet per depth."""
    found: list[Any] = []
    bullets: tuple[set[str], set[str]] = (set(), set())
    for line in map(str.rstrip, text.split("\n")):
        inner = _BENEATH.fullmatch(line)
        outer = _ITEM.fullmatch(line)
        if outer:
            if outer[1] and outer[1] != str(len(found) + 1):
                raise ValueError(f"item {len(found) + 1} has the number {outer[1]}")
            bullets[0].add(outer[2] or "1.")
            found.append([" ".join(outer[3].split()), []])
        elif inner and found:
            bullets[1].add(inner[2])
            found[-1][1].append(inner[3])
        else:
            raise ValueError(f"no item of a list: {line[:60]!r}")
    if len(bullets[0]) != 1 or len(bullets[1]) > 1:
        raise ValueError("a list has one kind of mark")
    return ["numbers" if bullets[0] == {"1."} else "bullets", found]


def _draw_list(shape: Shape, rng: random.Random) -> Items:
    """`n` items of `asked` words; at depth 2 half of them have 1 to 3 items beneath."""
    items = []
    for _ in range(shape.n):
        beneath = rng.randint(1, 3) if shape.depth > 1 and rng.random() < 0.5 else 0
        items.append((tuple(rng.choices(LETTERS, k=shape.asked)), tuple(rng.choices(LETTERS, k=beneath))))
    return rng.choice(shape.kinds), tuple(items)


def _show_list(content: Items) -> str:
    style, items = content
    return f"{style}: " + ", ".join(
        joined(words) + (f" ({joined(beneath)})" if beneath else "") for words, beneath in items)  # fmt: skip


def _read_list(body: str) -> Items | None:
    style, _, text = body.partition(": ")
    items = []
    for part in text.split(", "):
        words, bracket, beneath = part.removesuffix(")").partition(" (")
        if bool(bracket) != part.endswith(")"):
            return None
        items.append((symbols_of(words, LETTERS), symbols_of(beneath, LETTERS) if bracket else ()))
    return (style, tuple(items)) if style in STYLES else None


_LIST = Primitive(
    name="fmt_list",
    title="List",
    rule="`numbers`: a list counted from 1. `bullets`: a bulleted list. Letters in brackets stand beneath "
    "their item as bullets, indented.",
    level_text="{n} items of {asked} letters ({kinds}), {depth} deep",
    shapes=tuple(Shape(n, asked, depth, STYLES) for n, asked, depth in (
        (3, 1, 1), (4, 1, 1), (5, 1, 1), (6, 1, 1), (4, 2, 1), (6, 2, 1), (8, 3, 1), (3, 1, 2), (4, 2, 2), (6, 3, 2))),
    draw=_draw_list,
    show=_show_list,
    read=_read_list,
    solve=_list_golden,
    fits=lambda shape, content: content[0] in shape.kinds and len(content[1]) == shape.n
    and all(len(words) == shape.asked and len(under) <= (3 if shape.depth > 1 else 0) for words, under in content[1]),
    room=lambda shape: shape.n * (4 + 2 * shape.asked + (3 * 7 if shape.depth > 1 else 0)),
    kind=lambda content: content[0],
    mark=lambda content, response: _answer(_parse_list, _list_golden(content), response),
)  # fmt: skip

# --- fmt_structured: content = ((path, value) …), all paths of one length ------------------------------------------

Paths = tuple[tuple[str, str], ...]
_STEP = "  "
_ENTRY = re.compile(r"((?:  )*)([a-z]):(?: +([0-9]+))?")


def _tree(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path, value in pairs:
        inner = root
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return root


def _outline(tree: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in tree.items():
        lines.append(f"{indent}{key}:" + (f" {value}" if isinstance(value, str) else ""))
        lines += _outline(value, indent + _STEP) if isinstance(value, dict) else []
    return lines


def _structured_golden(pairs: Paths) -> str:
    return "\n".join(_outline(_tree(pairs)))


def _parse_outline(text: str) -> dict[str, Any]:
    """The tree; two blanks per depth, every key once in its place, the order of keys does not count."""
    root: dict[str, Any] = {}
    path: list[dict[str, Any]] = [root]
    for line in map(str.rstrip, text.split("\n")):
        match = _ENTRY.fullmatch(line)
        if not match:
            raise ValueError(f"no line of the outline: {line[:60]!r}; two blanks per depth, `key:` or `key: value`")
        depth = len(match[1]) // len(_STEP)
        if depth >= len(path):
            raise ValueError(f"{line[:60]!r} is deeper than what it stands under")
        if match[2] in path[depth]:
            raise ValueError(f"the key {match[2]!r} comes twice in one place")
        inner: Any = match[3] if match[3] else {}
        path[depth][match[2]] = inner
        path = path[: depth + 1] + ([inner] if isinstance(inner, dict) else [])
    return root


def _draw_paths(shape: Shape, rng: random.Random) -> Paths:
    """`n` leaves, `depth` keys deep, under `asked` top keys; from `asked` 3 on in any order."""
    tops = rng.sample(LETTERS, shape.asked)
    found: dict[str, str] = {}
    while len(found) < shape.n:
        top = tops[len(found)] if len(found) < shape.asked else rng.choice(tops)
        inner = [rng.choice(LETTERS[:4]) for _ in range(shape.depth - 2)]
        found.setdefault("".join([top, *inner, rng.choice(LETTERS)]), str(rng.randint(0, shape.top)))
    pairs = sorted(found.items(), key=lambda pair: tops.index(pair[0][0]))
    if shape.asked > 2:
        rng.shuffle(pairs)
    return tuple(pairs)


def _read_paths(body: str) -> Paths | None:
    pairs = []
    for part in body.split(", "):
        path, _, value = part.partition(" ")
        names = path.split(".")
        if any(len(name) != 1 or name not in LETTERS for name in names) or str(number_of(value)) != value:
            return None
        pairs.append(("".join(names), value))
    depths = {len(path) for path, _ in pairs}
    return tuple(pairs) if len(dict(pairs)) == len(pairs) and len(depths) == 1 and 2 <= min(depths) <= 8 else None


_STRUCTURED = Primitive(
    name="fmt_structured",
    title="Structured",
    rule="An indented outline, two blanks per depth: `a.b 3` is `a:` and beneath it `  b: 3`.",
    level_text="{n} paths of {depth} keys under {asked} top keys, numbers to {top}",
    shapes=tuple(Shape(n, asked, depth, top=top) for n, asked, depth, top in (
        (2, 1, 2, 9), (3, 2, 2, 9), (4, 2, 2, 9), (5, 2, 2, 9), (5, 3, 2, 9), (4, 2, 3, 9), (6, 3, 3, 9), (8, 3, 3, 99),
        (8, 4, 3, 99), (10, 4, 4, 99))),
    draw=_draw_paths,
    show=lambda pairs: ", ".join(f"{'.'.join(path)} {value}" for path, value in pairs),
    read=_read_paths,
    solve=_structured_golden,
    fits=lambda shape, pairs: (len(pairs), len(pairs[0][0]), len({path[0] for path, _ in pairs})) == (
        shape.n, shape.depth, shape.asked) and all(int(value) <= shape.top for _, value in pairs),
    room=lambda shape: shape.n * shape.depth * (2 * shape.depth + 3) + shape.n * 3,
    normal=lambda pairs: tuple(sorted(pairs)),
    depth=lambda pairs: len(pairs[0][0]),
    mark=lambda pairs, response: _answer(_parse_outline, _structured_golden(pairs), response),
)  # fmt: skip

ALL = (_JSON, _TABLE, _CODE_PRIMITIVE, _LIST, _STRUCTURED)
