"""A BIN question: what is asked of which links, how it is worded, and the one golden answer that follows from it.

Prompt and answer are both functions of a Question, and a prompt can be parsed back into its Question. Grading and
split_of therefore need the prompt alone: a forged golden answer or a relabelled row changes nothing.

Every answer holds the line `expression = value`, in auxiliary tasks followed by a verdict: `add(①, ①) = ①⓪, even`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from realm.guild.skills.bin.levels import DIFFICULTIES, TAGS
from realm.guild.skills.bin.notation import (
    BLANK,
    HOLE,
    SymbolKey,
    parse_chain,
    parse_header,
    read_number,
    show,
    show_chain,
    show_link,
    show_value,
)
from realm.guild.skills.bin.operations import (
    OPERATIONS,
    SOLVABLE,
    Link,
    decimal_check,
    exact_signed,
    solve_operand,
    valid,
)
from realm.guild.skills.bin.work import work

STYLES = {
    "compute": "Compute",
    "true_false": "True or false",
    "error_detection": "Find the error",
    "fill_blank": "Fill the blank",
    "comparison": "Compare",
    "properties": "Property",
    "overflow": "Overflow",
    "reverse": "Solve",
}
AUXILIARY = tuple(style for style in STYLES if style != "compute")
PROPERTIES = ("parity", "length", "ones")
CHECK = "Check: "


@dataclass(frozen=True, slots=True)
class Question:
    """`claim` is the shown result (a false one, one with a blank, or the number to compare with); `argument` is the
    property asked for, the width for overflow, or the hidden operand's index for reverse."""

    links: tuple[Link, ...]
    difficulty: str = "easy"
    style: str = "compute"
    claim: str = ""
    argument: str = ""
    key: SymbolKey | None = None

    @property
    def last(self) -> Link:
        return self.links[-1]

    def prompt(self) -> str:
        """The text the hero sees."""
        head = STYLES[self.style] + (f" {self.argument}" if self.style == "properties" else "")
        if self.style == "overflow":
            head += f" in {self.argument} bits"
        text = f"{head}{TAGS[self.difficulty]}: {self._body()}"
        return f"{self.key.header()}\n{self.key.from_plain(text)}" if self.key else text

    def _body(self) -> str:
        expression = show_chain(self.links)
        if self.style in ("true_false", "error_detection", "fill_blank"):
            return f"{expression} = {self.claim}"
        if self.style == "comparison":
            return f"{expression} with {self.claim}"
        if self.style == "reverse":
            return f"{show_link(self.last, hidden=int(self.argument))} = {show_value(self.last)}"
        return expression

    def final_line(self) -> str:
        """`expression = value`, with the verdict of an auxiliary task, in plain BIN."""
        verdict = self.verdict()
        return f"{show_chain(self.links)} = {show_value(self.last)}" + (f", {verdict}" if verdict else "")

    def answer_lines(self) -> list[str]:
        """The golden answer in plain BIN, line by line."""
        if self.difficulty == "easy":
            return [self.final_line()]
        if self.difficulty == "medium":
            steps = [f"{show_link(link)} = {show_value(link)}" for link in self.links[:-1]]
            return [*steps, self.final_line(), CHECK + "; ".join(map(decimal_check, self.links))]
        return [*(f"{show_link(link)}: {work(link)} = {show_value(link)}" for link in self.links), self.final_line()]

    def golden(self) -> str:
        """The golden answer as the hero should write it."""
        text = "\n".join(self.answer_lines())
        return self.key.from_plain(text) if self.key else text

    def verdict(self) -> str:
        """What an auxiliary task asks for beside the value; empty for plain questions."""
        shown = show_value(self.last)
        if self.style == "true_false":
            return "true" if self.claim == shown else "false"
        if self.style == "error_detection":
            wrong = [i for i, pair in enumerate(zip(reversed(self.claim), reversed(shown), strict=True), 1)
                     if pair[0] != pair[1]]
            return f"error at {wrong[0]}" if wrong else "no error"
        if self.style == "comparison":
            value, other = int(self.last.value), read_number(self.claim, OPERATIONS[self.last.op].result)[0]
            return "equal" if value == other else ("less" if value < other else "greater")
        if self.style == "properties":
            return property_verdict(int(self.last.value), shown, self.argument)
        if self.style == "overflow":
            return "overflow" if overflows(self.last, int(self.argument)) else "fits"
        return ""

    def canonical(self) -> str:
        """The problem's identity: its links; style, tag, key and level do not count."""
        return ">".join(link.canonical for link in self.links)


def property_verdict(value: int, shown: str, prop: str) -> str:
    """Parity, number of digits, or number of ones of a result."""
    if prop == "parity":
        return "odd" if value & 1 else "even"
    return f"length {len(shown)}" if prop == "length" else f"ones {value.bit_count()}"


def overflows(link: Link, width: int) -> bool:
    """Whether the exact result leaves the range of `width` bits (two's complement for signed operations)."""
    if OPERATIONS[link.op].family == "signed":
        exact = exact_signed(link.op, link.args, link.width)
        return not -(1 << (width - 1)) <= exact < 1 << (width - 1)
    return int(link.value) >> width > 0


_HEADS = "|".join(re.escape(text) for text in STYLES.values())
_PROMPT = re.compile(rf"({_HEADS})(?: ({'|'.join(PROPERTIES)})| in (\d\d?) bits)?( \[[a-z-]+\])?: (.+)")
_STYLE_OF = {text: style for style, text in STYLES.items()}
_DIFFICULTY_OF = {TAGS[difficulty]: difficulty for difficulty in DIFFICULTIES}


def parse_prompt(text: str) -> Question | None:
    """The Question a prompt asks, or None where the text is no BIN prompt. Never raises."""
    header, newline, rest = text.strip().partition("\n")
    key = None
    if newline:
        key = parse_header(header.strip())
        if key is None or key.foreign(rest):
            return None
    plain = key.to_plain(rest.strip()) if key else header
    match = _PROMPT.fullmatch(plain)
    if not match or (match[4] or "") not in _DIFFICULTY_OF:
        return None
    style, difficulty = _STYLE_OF[match[1]], _DIFFICULTY_OF[match[4] or ""]
    if bool(match[2]) != (style == "properties") or bool(match[3]) != (style == "overflow"):
        return None
    return _parse_body(style, difficulty, match[2] or match[3] or "", match[5], key)


_BEGINS = re.compile(_PROMPT.pattern.removesuffix("(.+)") + r"(?=[^\s(]{1,30}\()", re.I)
_CALLED = re.compile(r": [^\s(]{1,30}\(")  # quick to look for
_KEY = re.compile(r"\bKey: (\S=⓪ \S=①(?: \S=[a-z_0-9]+)*)", re.I)
_ENDS = re.compile(r"\b|(?<=[^\w\s])(?=[^\w\s])")  # where a question may end: beside a word and between two signs
LONGEST_BODY = 1_000  # characters; the longest of 32 bits has under 400
KEYS_LOOKED_AT = 3


def embedded(text: str) -> list[Question]:
    """Every question that stands somewhere in a text, in any case, with words before and behind it.

    A question goes as far as it can be read: `⓪` is the beginning of `⓪①`, and would be another claim.
    """
    if _CALLED.search(text) is None:
        return []
    found, keys = [], list(_KEY.finditer(text))
    heads = list(_BEGINS.finditer(text))
    for number, head in enumerate(heads, 1):
        after = heads[number].start() if number < len(heads) else len(text)
        words = head[0].lower()
        words = words[:1].upper() + words[1:]
        body = text[head.end() : min(after, head.end() + LONGEST_BODY)].partition("\n")[0]
        above = [f"Key: {key[1]}\n" for key in keys if key.end() <= head.start()][-KEYS_LOOKED_AT:]
        question = next((q for start in (*reversed(above), "") if (q := _longest(start + words, body))), None)
        if question is not None:
            found.append(question)
    return found


def _longest(head: str, body: str) -> Question | None:
    for end in reversed([*(mark.start() for mark in _ENDS.finditer(body)), len(body)]):
        question = parse_prompt(head + body[:end])
        if question is not None:
            return question
    return None


def _parse_body(style: str, difficulty: str, argument: str, body: str, key: SymbolKey | None) -> Question | None:
    if style == "reverse":
        return _parse_reverse(difficulty, body, key)
    separator = {"comparison": " with ", "true_false": " = ", "error_detection": " = ", "fill_blank": " = "}.get(style)
    expression, found, claim = body.partition(separator) if separator else (body, "", "")
    links = parse_chain(expression)
    if links is None or (separator and not found):
        return None
    op = OPERATIONS[links[-1].op]
    if style != "compute" and (len(links) > 1 or op.result not in "nw"):
        return None
    if style == "comparison" and op.result != "n":
        return None
    if style == "overflow" and not (op.overflows and int(argument) >= 1 and links[0].width in (0, int(argument))):
        return None
    if separator and not _claim_fits(style, claim, links[-1]):
        return None
    return Question(links, difficulty, style, claim, argument, key)


def _claim_fits(style: str, claim: str, link: Link) -> bool:
    """Whether the shown result could stand beside this link: same digits, right width, one blank where one is due."""
    shown, kind = show_value(link), OPERATIONS[link.op].result
    if style == "fill_blank":
        at = claim.find(BLANK)
        return len(claim) == len(shown) and at >= 0 and claim[:at] + shown[at] + claim[at + 1:] == shown
    number = read_number(claim, kind)
    if number is None or (kind == "w" and number[1] != link.width):
        return False
    if style == "error_detection":
        return len(claim) == len(shown) and sum(a != b for a, b in zip(claim, shown, strict=True)) <= 1
    return True


_EQUATION = re.compile(r"([a-z_0-9]+)\(([^()]*)\) = (\S+)")


def _parse_reverse(difficulty: str, body: str, key: SymbolKey | None) -> Question | None:
    match = _EQUATION.fullmatch(body)
    if not match or match[1] not in SOLVABLE:
        return None
    op, texts = OPERATIONS[match[1]], match[2].split(", ")
    value = read_number(match[3], op.result)
    if texts.count(HOLE) != 1 or len(texts) != len(op.kinds) or value is None:
        return None
    args: list[int | None] = []
    width = value[1] if op.word else 0
    for text, kind in zip(texts, op.kinds, strict=True):
        number = None if text == HOLE else read_number(text, kind)
        if (number is None and text != HOLE) or (number and op.word and number[1] != width):
            return None
        args.append(number and number[0])
    hidden = args.index(None)
    guess = solve_operand(op.name, tuple(args), value[0], width)
    if guess is None:
        return None
    link = Link(op.name, tuple(guess if i == hidden else a for i, a in enumerate(args)), width)
    return Question((link,), difficulty, "reverse", "", str(hidden), key) if valid(link) else None


def show_claim(value: int, link: Link) -> str:
    """A claimed result, written like the real one."""
    return show(value, OPERATIONS[link.op].result, link.width)
