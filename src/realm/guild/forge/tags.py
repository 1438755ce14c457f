"""Which of the 29 primitives a skill exercises, guessed from what is visible, each guess with a confidence.

    0.9   the rule behind the answers says so: `sorted(…)` is attn_rank, `reverse(…)` is seq_reverse
    0.8   the answers have the form: a Markdown table, JSON, code
    0.5 + 0.3 · share of the questions that use a telling word ("backwards", "sort", "how many")

Required by the manifest from 0.7 on, optional from 0.4 on. A guess is a proposal: correct it in `manifest.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from realm.guild.forge.rows import Item
from realm.guild.modules.manifest import Grader

REQUIRED, OPTIONAL = 0.7, 0.4
FROM_RULE, FROM_FORM, FROM_WORDS, PER_SHARE = 0.9, 0.8, 0.5, 0.3
LEAST_SHARE = 0.2  # of the questions that must use a telling word

_RULES = (
    (r"\bsorted\(", "attn_rank"), (r"\breverse\((?!sorted)", "seq_reverse"), (r"\bcount\(", "attn_count"),
    (r"\bfor \w+ in \w+ if ", "attn_filter"), (r"\bsum\(|\blen\(", "xfm_reduce"),
    (r"\[[^\]]+ for \w+ in \w+\]", "xfm_map"), (r"\[[^\]]*:[^\]]*\]", "seq_extract"), (r"\bmax\(|\bmin\(", "attn_rank"),
    (r" if .+ else ", "attn_compare"), (r"[-+*/%]", "xfm_reduce"), (r"\bbase\(|\bnumber\(", "xfm_substitute"),
)  # fmt: skip
_WORDS = (
    (r"next (number|letter|term|item)|continue the (sequence|series|pattern)|comes? next", "seq_continue"),
    (r"\brevers|backward", "seq_reverse"), (r"\brotate|\bshift(ed)? (left|right)|\bswap", "seq_transform"),
    (r"interleav|alternat", "seq_interleave"), (r"every (second|third|other)|\bsubstring\b|\bextract", "seq_extract"),
    (r"\bif .+ then\b.*\b(follow|conclude|true)\b", "logic_deduce"), (r"contrapositive", "logic_contrapose"),
    (r"\bimpl(y|ies)\b.*\bimpl(y|ies)\b", "logic_chain"), (r"\beither\b.+\bor\b", "logic_disjunct"),
    (r"if and only if|\biff\b", "logic_biconditional"), (r"\bremember|\brecall", "mem_recall"),
    (r"\bin (this|the) (context|room|file|document)", "mem_context"),
    (r"\bnow (has|is|holds)|then (gives|gets|loses)", "mem_update"),
    (r"\bas json\b|json object", "fmt_json"), (r"\bmarkdown table|\bas a table", "fmt_table"),
    (r"\bwrite (a|the) (function|call|code)|\bdef\b", "fmt_code"), (r"\bbullet|numbered list", "fmt_list"),
    (r"\boutline\b|\bindent", "fmt_structured"), (r"\bwhich of\b|\bpick\b|\bselect\b|\bchoose\b", "attn_select"),
    (r"\bhow many\b|\bcount\b|\bnumber of\b", "attn_count"),
    (r"\bcompare|\bdiffer|\b(larger|smaller|greater|longer) than", "attn_compare"),
    (r"\bfilter\b|\bkeep (only|the)\b|\bremove\b", "attn_filter"),
    (r"\bsort\b|\border\b|\brank|\blargest|\bsmallest", "attn_rank"),
    (r"run[- ]length|\bencode|\bcompress", "xfm_encode"), (r"\bdecode|\bexpand|\bunpack", "xfm_decode"),
    (r"\b(each|every) (item|number|element|word)", "xfm_map"),
    (r"\bsum\b|\btotal\b|\bproduct\b|\badd\b|\bplus\b|\bminus\b|\btimes\b|\d\s*[-+*×]\s*\d|\bcompute\b", "xfm_reduce"),
    (r"\breplace|\bsubstitut|\btranslate|\bcipher", "xfm_substitute"),
)  # fmt: skip


NAMES = tuple(dict.fromkeys(name for _, name in (*_RULES, *_WORDS)))
"""Every name that a rule or a word can give."""


def guess(items: Sequence[Item], grader: Grader, answers: Sequence[str] = ()) -> list[dict[str, Any]]:
    """[{"primitive", "confidence", "why"}], the surest first; only names of the 29.

    Args:
        answers: expressions of the rule, if one was found.
    """
    found: dict[str, tuple[float, str]] = {}

    def note(name: str, confidence: float, why: str) -> None:
        if confidence > found.get(name, (0.0, ""))[0]:
            found[name] = (round(confidence, 2), why)

    for expression in answers:
        for pattern, name in _RULES:
            if re.search(pattern, expression):
                note(name, FROM_RULE, f"the rule is {expression}")
                break
    for name, share, why in _forms(items, grader):
        note(name, FROM_FORM * share, why)
    for pattern, name in _WORDS:
        share = sum(bool(re.search(pattern, item.prompt, re.IGNORECASE)) for item in items) / len(items)
        if share >= LEAST_SHARE:
            note(name, FROM_WORDS + PER_SHARE * share, f"{share:.0%} of the questions match /{pattern}/")
    ordered = sorted(found.items(), key=lambda pair: (-pair[1][0], pair[0]))
    return [{"primitive": name, "confidence": confidence, "why": why} for name, (confidence, why) in ordered]


def _forms(items: Sequence[Item], grader: Grader) -> list[tuple[str, float, str]]:
    def share(pattern: str) -> float:
        return sum(bool(re.search(pattern, item.golden, re.MULTILINE)) for item in items) / len(items)

    found = [("fmt_json", 1.0, "every answer is JSON")] if grader.type == "json" else []
    for name, pattern, what in (("fmt_table", r"^\|.*\|$", "a Markdown table"),
                                ("fmt_list", r"^(\d+\.|[-*]) ", "a list"),
                                ("fmt_code", r"^\s*(def |return |import |print\()", "code")):  # fmt: skip
        if (part := share(pattern)) >= 0.5:
            found.append((name, part, f"{part:.0%} of the answers hold {what}"))
    return found


def manifest_lists(guesses: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(required, optional) for the manifest."""
    required = tuple(g["primitive"] for g in guesses if g["confidence"] >= REQUIRED)
    optional = tuple(g["primitive"] for g in guesses if OPTIONAL <= g["confidence"] < REQUIRED)
    return required, optional
