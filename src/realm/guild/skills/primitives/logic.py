"""Logic primitives: deduce, contrapose, chain, disjunct, biconditional.

Statements are single letters. `a > d` reads "a implies d"; what follows the semicolon is known to hold. An answer lists
what follows, never yes or no: a coin toss must not look like reasoning.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from realm.guild.skills.primitives.engine import ANSWER, LETTERS, Primitive, Shape

Rules = tuple[tuple[str, str], ...]
Literals = tuple[str, ...]
"""Letters, `not` before those that are false: ("a", "not b")."""

NOT = "not "


def negated(literal: str) -> str:
    """The opposite of a literal."""
    return literal.removeprefix(NOT) if literal.startswith(NOT) else NOT + literal


def letter(text: str) -> str:
    """One letter. ValueError for anything else."""
    if len(text) != 1 or text not in LETTERS:
        raise ValueError(f"{text[:40]!r}: not a letter")
    return text


def read_literals(text: str) -> Literals:
    """`a, not b`; every letter once."""
    found = tuple(text.split(", "))
    letters = [letter(part.removeprefix(NOT)) for part in found]
    if len(set(letters)) != len(letters):
        raise ValueError("a letter comes twice")
    return found


def show_rules(rules: Rules) -> str:
    """`a > d, b > e`."""
    return ", ".join(map(" > ".join, rules))


def read_rules(text: str) -> Rules:
    """The inverse of `show_rules`; every letter implies one thing at most."""
    rules = []
    for part in text.split(", "):
        left, arrow, right = part.partition(" > ")
        if not arrow or left == right:
            raise ValueError(f"{part[:40]!r}: not an implication")
        rules.append((letter(left), letter(right)))
    if len(dict(rules)) != len(rules):
        raise ValueError("a letter implies two things")
    return tuple(rules)


def literals_room(count: int) -> int:
    """Characters of an answer of so many literals."""
    return len(ANSWER) + count * len("not a, ")


# --- logic_deduce, logic_contrapose: content = (rules, facts) -----------------------------------------------------

Facts = tuple[Rules, Literals]


def _conclusions(content: Facts, backwards: bool) -> str:
    """What each fact entails through its rule, in the order of the facts; facts that entail nothing are passed over."""
    rules, facts = content
    entails = {negated(right): negated(left) for left, right in rules} if backwards else dict(rules)
    return ", ".join(entails[fact] for fact in facts if fact in entails)


def _drawer(backwards: bool) -> Callable[[Shape, random.Random], Facts]:
    def draw(shape: Shape, rng: random.Random) -> Facts:
        """`asked` facts that entail something and `depth` - 1 traps, each about another rule."""
        letters = rng.sample(LETTERS, 2 * shape.n)
        rules = tuple(zip(letters[::2], letters[1::2], strict=True))
        chosen = rng.sample(rules, shape.asked + shape.depth - 1)
        facts = [negated(right) if backwards else left for left, right in chosen[: shape.asked]]
        # Affirming the consequent and denying the antecedent are what people and models fall for.
        facts += [rng.choice((right, negated(left))) for left, right in chosen[shape.asked :]]
        rng.shuffle(facts)
        return rules, tuple(facts)

    return draw


def _reader(backwards: bool) -> Callable[[str], Facts | None]:
    def read(body: str) -> Facts | None:
        text, _, known = body.partition("; ")
        rules, facts = read_rules(text), read_literals(known)
        letters = [name for rule in rules for name in rule]
        known_letters = [fact.removeprefix(NOT) for fact in facts]
        # Rules share no letter and no two facts speak of one rule: every conclusion takes one step, none contradicts.
        if len(set(letters)) != len(letters) or any(set(rule) <= set(known_letters) for rule in rules):
            return None
        traps = set(dict(rules).values()) | {negated(left) for left, _ in rules}
        good = {negated(right) for _, right in rules} if backwards else set(dict(rules))
        return (rules, facts) if set(facts) <= good | traps and set(facts) & good else None

    return read


def _fits_facts(shape: Shape, content: Facts) -> bool:
    rules, facts = content
    follows = sum(fact in dict(rules) or negated(fact) in dict(rules).values() for fact in facts)
    return (len(rules), follows, len(facts) - follows) == (shape.n, shape.asked, shape.depth - 1)


_SINGLE_STEP = (Shape(5, 2), Shape(6, 2), Shape(7, 3), *(Shape(n, asked, traps + 1, text=f", {traps} traps")
                for n, asked, traps in ((7, 2, 1), (8, 2, 2), (9, 3, 2), (10, 3, 3), (11, 4, 3), (12, 4, 4),
                                        (13, 5, 5))))  # fmt: skip


_RULE = ("`a > d` reads: a implies d. Behind the semicolon stands what is known. Write what follows from each "
         "fact that something follows from, in the order of the facts. Traps are facts that nothing follows "
         "from: `d`, or `not a`.")


def _single_step(name: str, title: str, backwards: bool) -> Primitive:
    return Primitive(
        name=name,
        title=title,
        rule=_RULE,
        level_text="{n} implications, {asked} conclusions{text}",
        shapes=_SINGLE_STEP,
        draw=_drawer(backwards),
        show=lambda content: f"{show_rules(content[0])}; {', '.join(content[1])}",
        read=_reader(backwards),
        solve=lambda content: _conclusions(content, backwards),
        fits=_fits_facts,
        room=lambda shape: literals_room(shape.asked),
        normal=lambda content: (tuple(sorted(content[0])), tuple(sorted(content[1]))),
        also=("mem_recall",),
    )


# --- logic_chain: content = (rules, start) ------------------------------------------------------------------------

Chain = tuple[Rules, str]


def _follow(content: Chain) -> list[str]:
    """What follows from the start, step by step; ends where nothing more follows or a circle closes."""
    rules, at = dict(content[0]), content[1]
    found = [at]
    while (at := rules.get(at, "")) and at not in found:
        found.append(at)
    return found[1:]


def _draw_chain(shape: Shape, rng: random.Random) -> Chain:
    """A chain of `depth` implications among `n`; half of the others lead into the chain, which is no way to follow."""
    letters = rng.sample(LETTERS, 26)
    path, spare = letters[: shape.depth + 1], letters[shape.depth + 1 :]
    rules = list(zip(path, path[1:], strict=False))
    while len(rules) < shape.n:
        into = rng.random() < 0.5 or len(spare) < 2
        rules.append((spare.pop(), rng.choice(path[1:]) if into else spare.pop()))
    rng.shuffle(rules)
    return tuple(rules), path[0]


def _read_chain(body: str) -> Chain | None:
    text, _, start = body.partition("; ")
    content = (read_rules(text), letter(start))
    followed = _follow(content)
    return content if followed and followed[-1] not in dict(content[0]) else None


_CHAIN = Primitive(
    name="logic_chain",
    title="Chain",
    rule="`a > d` reads: a implies d. From the fact behind the semicolon write everything that follows, step "
    "by step.",
    level_text="a chain of {depth} among {n} implications",
    shapes=(*(Shape(n, depth=depth) for n, depth in ((4, 2), (5, 3), (6, 3), (7, 4), (8, 4), (9, 5), (10, 5), (11, 6),
                                                     (12, 7), (14, 8))),),
    draw=_draw_chain,
    show=lambda content: f"{show_rules(content[0])}; {content[1]}",
    read=_read_chain,
    solve=lambda content: ", ".join(_follow(content)),
    fits=lambda shape, content: (len(content[0]), len(_follow(content))) == (shape.n, shape.depth),
    room=lambda shape: literals_room(shape.depth),
    normal=lambda content: (tuple(sorted(content[0])), content[1]),
    also=("logic_deduce",),
    depth=lambda content: len(_follow(content)),
)  # fmt: skip

# --- logic_disjunct: content = (clauses, letters that are false) --------------------------------------------------

Clauses = tuple[tuple[tuple[str, ...], ...], Literals]


def _remaining(content: Clauses) -> list[str]:
    """The one alternative left of each clause that is decided, in the order of the clauses."""
    false = {fact.removeprefix(NOT) for fact in content[1]}
    left = [[name for name in clause if name not in false] for clause in content[0]]
    return [names[0] for names in left if len(names) == 1]


def _draw_clauses(shape: Shape, rng: random.Random) -> Clauses:
    """`asked` clauses of `depth` alternatives are decided; of every second other one too little is denied."""
    letters = rng.sample(LETTERS, shape.n * shape.depth)
    clauses = tuple(tuple(letters[i : i + shape.depth]) for i in range(0, len(letters), shape.depth))
    order = rng.sample(clauses, shape.n)
    denied = [name for clause in order[: shape.asked] for name in rng.sample(clause, shape.depth - 1)]
    if shape.depth > 2:
        denied += [rng.choice(clause) for clause in order[shape.asked :: 2]]
    rng.shuffle(denied)
    return clauses, tuple(map(negated, denied))


def _read_clauses(body: str) -> Clauses | None:
    text, _, known = body.partition("; ")
    clauses = tuple(tuple(map(letter, part.split(" or "))) for part in text.split(", "))
    denied = read_literals(known)
    letters = [name for clause in clauses for name in clause]
    widths = {len(clause) for clause in clauses}
    false = {fact.removeprefix(NOT) for fact in denied}
    sound = (len(set(letters)) == len(letters) and len(widths) == 1 and min(widths) > 1 and false <= set(letters)
             and all(fact.startswith(NOT) for fact in denied)
             and not any(set(clause) <= false for clause in clauses))  # fmt: skip
    return (clauses, denied) if sound and _remaining((clauses, denied)) else None


_DISJUNCT = Primitive(
    name="logic_disjunct",
    title="Disjunct",
    rule="At least one alternative of every clause is true. Write the one that remains of each clause that is "
    "decided, in the order of the clauses.",
    level_text="{n} clauses of {depth} alternatives, {asked} decided",
    shapes=(Shape(4, 2, 2), Shape(5, 2, 2), Shape(6, 3, 2), Shape(8, 3, 2), Shape(4, 2, 3), Shape(5, 3, 3),
            Shape(6, 3, 3), Shape(7, 4, 3), Shape(5, 3, 4), Shape(6, 4, 4)),
    draw=_draw_clauses,
    show=lambda content: f"{', '.join(map(' or '.join, content[0]))}; {', '.join(content[1])}",
    read=_read_clauses,
    solve=lambda content: ", ".join(_remaining(content)),
    fits=lambda shape, content: (len(content[0]), len(_remaining(content)), len(content[0][0])) == (
        shape.n, shape.asked, shape.depth),
    room=lambda shape: literals_room(shape.asked),
    normal=lambda content: (tuple(sorted(tuple(sorted(clause)) for clause in content[0])), tuple(sorted(content[1]))),
    also=("attn_select",),
)  # fmt: skip

# --- logic_biconditional: content = (links, facts); a link is (left, right literal) --------------------------------

IFF = " iff "
Links = tuple[Rules, Literals]


def _carried(content: Links) -> list[str]:
    """What each fact decides along its row of links, nearest first, in the order of the facts."""
    near: dict[str, list[tuple[str, bool]]] = {}
    for left, right in content[0]:
        other, same = right.removeprefix(NOT), not right.startswith(NOT)
        near.setdefault(left, []).append((other, same))
        near.setdefault(other, []).append((left, same))
    found = []
    for fact in content[1]:
        at, truth, before = fact.removeprefix(NOT), not fact.startswith(NOT), ""
        while step := [(name, same) for name, same in near.get(at, []) if name != before]:
            before, (at, same) = at, step[0]
            truth = truth == same
            found.append(at if truth else NOT + at)
    return found


def _draw_links(shape: Shape, rng: random.Random) -> Links:
    """`n` rows of `depth` links each; a fact about one end of `asked` of them."""
    letters = rng.sample(LETTERS, shape.n * (shape.depth + 1))
    rows = [letters[i : i + shape.depth + 1] for i in range(0, len(letters), shape.depth + 1)]
    links = []
    for row in rows:
        for pair in zip(row, row[1:], strict=False):
            left, right = rng.sample(pair, 2)
            links.append((left, NOT + right if "not" in shape.kinds and rng.random() < 0.5 else right))
    rng.shuffle(links)
    facts = [rng.choice((row[0], row[-1])) for row in rng.sample(rows, shape.asked)]
    return tuple(links), tuple(rng.choice((name, NOT + name)) for name in facts)


def _read_links(body: str) -> Links | None:
    text, _, known = body.partition("; ")
    links = []
    for part in text.split(", "):
        left, iff, right = part.partition(IFF)
        if not iff or left == letter(right.removeprefix(NOT)):
            return None
        links.append((letter(left), right))
    facts = read_literals(known)
    ends: dict[str, int] = {}
    rows: dict[str, str] = {}  # letter → a letter that names its row
    for left, right in links:
        other = right.removeprefix(NOT)
        one, two = rows.get(left, left), rows.get(other, other)
        if one == two:  # a circle could contradict itself
            return None
        rows = {name: one if row == two else row for name, row in {left: one, other: two, **rows}.items()}
        ends[left], ends[other] = ends.get(left, 0) + 1, ends.get(other, 0) + 1
    asked = [fact.removeprefix(NOT) for fact in facts]
    # Facts stand at the ends of different rows, so that "nearest first" is one order.
    sound = all(ends.get(name) == 1 for name in asked) and len({rows[name] for name in asked}) == len(asked)
    return (tuple(links), facts) if sound and max(ends.values()) <= 2 else None


def _normal_links(content: Links) -> Links:
    """`a iff not b` and `b iff not a` are one statement."""
    links = [(min(left, right[-1]), right[:-1] + max(left, right[-1])) for left, right in content[0]]
    return tuple(sorted(links)), tuple(sorted(content[1]))


def _fits_links(shape: Shape, content: Links) -> bool:
    links, facts = content
    sizes = (len(links), len(facts), len(_carried(content))) == (
        shape.n * shape.depth, shape.asked, shape.asked * shape.depth)  # fmt: skip
    return sizes and ("not" in shape.kinds or not any(right.startswith(NOT) for _, right in links))


_BICONDITIONAL = Primitive(
    name="logic_biconditional",
    title="Biconditional",
    rule="`a iff b`: both are true or both are false; `a iff not b`: one is true, the other false. From each "
    "fact write what is decided along its row of links, nearest first.",
    level_text="{n} rows of {depth} links, {asked} facts{text}",
    shapes=(Shape(4, 2), Shape(5, 2), Shape(6, 3),
            *(Shape(n, asked, depth, ("not",), text=", some links with not") for n, asked, depth in (
                (5, 2, 1), (7, 3, 1), (4, 2, 2), (5, 2, 2), (6, 3, 2), (5, 3, 3), (6, 3, 3)))),
    draw=_draw_links,
    show=lambda content: f"{', '.join(map(IFF.join, content[0]))}; {', '.join(content[1])}",
    read=_read_links,
    solve=lambda content: ", ".join(_carried(content)),
    fits=_fits_links,
    room=lambda shape: literals_room(shape.asked * shape.depth),
    normal=_normal_links,
    also=("logic_deduce", "logic_contrapose"),
    depth=lambda content: len(_carried(content)) // len(content[1]),
)  # fmt: skip

ALL = (
    _single_step("logic_deduce", "Deduce", backwards=False),
    _single_step("logic_contrapose", "Contrapose", backwards=True),
    _CHAIN,
    _DISJUNCT,
    _BICONDITIONAL,
)
