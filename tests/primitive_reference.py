"""Answers to primitive prompts worked out another way, from the text alone: what the tests hold the goldens against."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from functools import reduce
from itertools import product


def answer(prompt: str) -> str:
    """The answer without its `= `; the format primitives' whole answer."""
    name, _, body = prompt.partition(": ")
    return globals()[f"_{name}"](body)


def _seq_continue(body):
    terms = [int(word) for word in body.split()]
    for period in range(1, len(terms) // 2 + 1):
        tile = terms[:period] * (len(terms) + 3)
        if tile[: len(terms)] == terms:
            return " ".join(map(str, tile[len(terms) : len(terms) + 3]))
    rows = [terms]  # a difference table, built down to zeros and extended from there
    while any(rows[-1]):
        rows.append([b - a for a, b in zip(rows[-1], rows[-1][1:], strict=False)])
    assert len(rows) <= 4 and len(rows[-1]) >= 2, "neither a cycle nor a step nor a growing step"
    for _ in range(3):
        for row, below in zip(rows[-2::-1], rows[::-1], strict=False):
            row.append(row[-1] + below[-1])
        rows[-1].append(0)
    return " ".join(map(str, rows[0][-3:]))


def _seq_reverse(body):
    found = deque()
    for item in body.split(" "):
        found.appendleft(item)
    return " ".join(found)


def _seq_transform(body):
    moves, items = body.split(": ")
    row = deque(items.split(" "))
    for move in moves.split(", "):
        if move in ("left", "right"):
            row.rotate(-1 if move == "left" else 1)
        elif move == "swap":
            row[0], row[-1] = row[-1], row[0]
        elif move == "flip":
            row.reverse()
        else:
            row.popleft()
    return " ".join(row)


def _seq_interleave(body):
    lists = [part.split() for part in body.split("/")]
    return " ".join(lists[i % len(lists)][i // len(lists)] for i in range(sum(map(len, lists))))


def _seq_extract(body):
    how, items = body.split(" in ")
    numbers = [int(word) for word in how.split() if word.isdigit()]
    if "to" in how:
        places = range(numbers[0], numbers[1] + 1)
    else:
        places = [p for p in range(1, 99) if p >= numbers[1] and (p - numbers[1]) % numbers[0] == 0]
    return " ".join(item for place, item in enumerate(items.split(), 1) if place in places)


def entailed(clauses: list[list[str]]) -> set[str]:
    """Every literal that follows from the clauses (a clause: literals of which one holds), by trying all worlds.

    Worlds are tried for each group of connected letters on its own.
    """
    groups: list[set[str]] = []
    for clause in clauses:
        touched = {literal[-1] for literal in clause}
        apart = [group for group in groups if not group & touched]
        groups = [*apart, touched.union(*(group for group in groups if group & touched))]
    found = set()
    for group in groups:
        letters = sorted(group)
        own = [clause for clause in clauses if clause[0][-1] in group]
        worlds = []
        for values in product((True, False), repeat=len(letters)):
            world = dict(zip(letters, values, strict=True))
            if all(any((not literal.startswith("-")) == world[literal[-1]] for literal in clause) for clause in own):
                worlds.append(world)
        assert worlds, "what is known contradicts itself"
        for name in letters:
            if len({world[name] for world in worlds}) == 1:
                found.add(name if worlds[0][name] else "-" + name)
    return found


def _literal(text: str) -> str:
    return text.replace("not ", "-")


def _opposite(literal: str) -> str:
    return literal[1:] if literal.startswith("-") else "-" + literal


def closure(prompt: str) -> set[str]:
    """What follows from a logic prompt beyond what it says, by trying all worlds: {"a", "-b"}."""
    name, _, body = prompt.partition(": ")
    text, _, known = body.partition("; ")
    facts = [_literal(fact) for fact in known.split(", ")]
    clauses = [[fact] for fact in facts]
    for part in text.split(", "):
        if name == "logic_disjunct":
            clauses.append(part.split(" or "))
        elif name == "logic_biconditional":
            left, right = part.split(" iff ")
            right = _literal(right)
            clauses += [[_opposite(left), right], [left, _opposite(right)]]
        else:
            left, right = part.split(" > ")
            clauses.append([_opposite(left), right])
    return entailed(clauses) - set(facts)


def _ordered(body, backwards):
    text, known = body.split("; ")
    rules = [part.split(" > ") for part in text.split(", ")]
    found = []
    for fact in known.split(", "):
        for left, right in rules:
            if not backwards and fact == left:
                found.append(right)
            if backwards and fact == f"not {right}":
                found.append(f"not {left}")
    return ", ".join(found)


def _logic_deduce(body):
    return _ordered(body, backwards=False)


def _logic_contrapose(body):
    return _ordered(body, backwards=True)


def _logic_chain(body):
    text, at = body.split("; ")
    found = []
    while match := re.search(rf"\b{at} > (\w)", text):
        at = match[1]
        found.append(at)
    return ", ".join(found)


def _logic_disjunct(body):
    text, known = body.split("; ")
    for fact in known.split(", "):
        text = re.sub(rf"\b{fact[-1]}\b", "", text)
    clauses = [re.findall(r"\b[a-z]\b", part) for part in text.split(",")]
    return ", ".join(clause[0] for clause in clauses if len(clause) == 1)


def _logic_biconditional(body):
    text, known = body.split("; ")
    truth, order = {}, []
    for fact in known.split(", "):
        truth[fact[-1]] = "not" not in fact
        grown, links = True, [(part[0], part[-1], "not" not in part) for part in text.split(", ")]
        while grown:
            grown = False
            for one, two, same in links:
                for a, b in ((one, two), (two, one)):
                    if a in truth and b not in truth:
                        truth[b], grown = truth[a] == same, True
                        order.append(b)
    return ", ".join(name if truth[name] else f"not {name}" for name in order)


def _mem_recall(body):
    return " ".join(re.search(rf"\b{key}\d", body)[0] for key in body.split("; ")[1].split())


def _mem_context(body):
    *contexts, asked = body.split("; ")
    found = []
    for place in asked.split():
        line = next(text for text in contexts if text[0] == place[0])
        found.append(place[0] + re.search(rf"\b{place[1]}\d", line)[0])
    return " ".join(found)


def _mem_compose(body):
    *tables, asked = body.split("; ")

    def longer(trail, table):
        return trail + next(pair[1] for pair in table.split() if pair[0] == trail[-1])

    return " ".join(reduce(longer, tables, key) for key in asked.split())


def _mem_update(body):
    first, changes, asked = body.split("; ")
    found = []
    for key in asked.split():
        value = 0
        for word in (first + " " + changes).split():
            if word[0] == key:
                value = value + int(word[1:]) if word[1] in "+-" else int(word[1:])
        found.append(f"{key}{value}")
    return " ".join(found)


def _attn_select(body):
    marks, items = body.split(" in ")
    return " ".join(re.findall(rf"[{marks.replace(' ', '')}](\d)", items))


def _attn_count(body):
    wanted, items = body.split(" in ")
    counted = Counter(items.split())
    return " ".join(str(counted[item]) for item in wanted.split())


def _attn_compare(body):
    one, two = (part.split() for part in body.split("/"))
    return " ".join(str(place + 1) for place in range(len(one)) if one[place] != two[place]) or "none"


def _attn_filter(body):
    conditions, items = body.split(" in ")
    kept = [int(item) for item in items.split()]
    for condition in conditions.split(" and "):
        word, *bound = condition.split()
        if bound:
            limit = int(bound[0])
            kept = [n for n in kept if {"above": n > limit, "below": n < limit, "not": n != limit}[word]]
        else:
            kept = [n for n in kept if n % 2 == (word == "odd")]
    return " ".join(map(str, kept)) or "none"


def _attn_rank(body):
    direction, items = body.split(": ")
    left, found = [int(item) for item in items.split()], []
    while left:
        found.append((min if direction == "up" else max)(left))
        left.remove(found[-1])
    return " ".join(map(str, found))


def _xfm_encode(body):
    return " ".join(f"{len(run[0])}{run[1]}" for run in re.findall(r"((\w)\2*)", body.replace(" ", "")))


def _xfm_decode(body):
    return " ".join(" ".join(part[-1] * int(part[:-1])) for part in body.split())


def _xfm_map(body):
    operations, items = body.split(": ")
    found = []
    for item in items.split():
        value = int(item)
        for sign, by in re.findall(r"([-+*]) (\d+)", operations):
            value = {"+": value + int(by), "-": value - int(by), "*": value * int(by)}[sign]
        found.append(str(value))
    return " ".join(found)


def _xfm_reduce(body):
    name, items = body.split(": ")
    numbers = [int(item) for item in items.split()]
    whole = {"sum": sum, "max": max, "min": min}[name]
    return " ".join(str(whole(numbers[: end + 1])) for end in range(len(numbers)))


def _xfm_substitute(body):
    table, items = body.split("; ")
    return " ".join(next((pair for pair in table.split() if pair[0] == item), item) for item in items.split())


def _fmt_json(body):
    found = {}
    for part in body.split(", "):
        path, *words = part.split()
        values = [word if word.isalpha() and len(word) == 1 else json.loads(word) for word in words]
        value = values[0] if len(values) == 1 else values
        if "." in path:
            found.setdefault(path[0], {})[path[2]] = value
        else:
            found[path] = value
    return json.dumps(found)


def _fmt_table(body):
    rows = [part.split() for part in body.split("; ")]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def _fmt_code(body):
    lines = []
    for line in body.split("; "):
        made, found, call = line.rpartition(" is ")
        code = f"({call})"
        while inner := re.search(r"\((\w) ([^()]*)\)", code):  # `(f 3 7)` becomes `f[3, 7]`, innermost first
            code = f"{code[: inner.start()]}{inner[1]}[{_commas(inner[2])}]{code[inner.end() :]}"
        code = code.replace("[", "(").replace("]", ")")
        if " of " in made:
            name, parameters = made.split(" of ")
            lines.append(f"def {name}({', '.join(parameters.split())}):\n    return {code}")
        else:
            lines.append(f"{made} = {code}" if found else code)
    return "\n".join(lines)


def _commas(text):
    """Blanks outside of square brackets become commas."""
    depth, made = 0, ""
    for sign in text:
        depth += (sign == "[") - (sign == "]")
        made += ", " if sign == " " and not depth else sign
    return made


def _fmt_list(body):
    style, items = body.split(": ")
    lines = []
    for number, item in enumerate(items.split(", "), 1):
        words, _, beneath = item.rstrip(")").partition(" (")
        lines.append((f"{number}. " if style == "numbers" else "- ") + words)
        lines += [(" " * (3 if style == "numbers" else 2)) + f"- {word}" for word in beneath.split()]
    return "\n".join(lines)


def _fmt_structured(body):
    leaves = [part.split() for part in body.split(", ")]

    def outline(entries, depth):
        lines = []
        for key in dict.fromkeys(path[0] for path, _ in entries):
            below = [(path[2:], value) for path, value in entries if path[0] == key]
            if below[0][0]:
                lines += ["  " * depth + f"{key}:", *outline(below, depth + 1)]
            else:
                lines.append("  " * depth + f"{key}: {below[0][1]}")
        return lines

    return "\n".join(outline(leaves, 0))
