"""Primitive tags of a BIN problem.

The first four are spokes of the primitive profile (logic_chain and xfm_encode primary, attn_count and fmt_code
secondary); the finer tags say which habit of the algorithm a problem exercises.
"""

from __future__ import annotations

from realm.guild.skills.bin.operations import OPERATIONS, Link
from realm.guild.skills.bin.questions import Question
from realm.guild.skills.bin.work import carries

SPOKES = ("logic_chain", "xfm_encode", "attn_count", "fmt_code")
_COUNTING_STYLES = ("properties", "error_detection", "overflow")


def primitives(question: Question) -> tuple[str, ...]:
    """Spokes first, then finer tags, each once, in a stable order."""
    families = {OPERATIONS[link.op].family for link in question.links}
    spokes = []
    if len(question.links) > 1 or "compare" in families or question.style not in ("compute", "properties"):
        spokes.append("logic_chain")
    if families - {"compare"} or question.key:
        spokes.append("xfm_encode")
    if question.style in _COUNTING_STYLES or families & {"shift", "scale"}:
        spokes.append("attn_count")
    if question.difficulty in ("hard", "expert") or question.key:
        spokes.append("fmt_code")
    finer = dict.fromkeys(tag for link in question.links for tag in link_tags(link))
    if question.key:
        finer["symbol_key"] = None
    return (*spokes, *finer)


def link_tags(link: Link) -> tuple[str, ...]:
    """The finer tags of one link."""
    family = OPERATIONS[link.op].family
    tags = {"signed": ("signed",), "bitwise": ("bitwise",), "compare": ("compare",), "scale": ("shift",),
            "shift": ("shift",)}.get(family, ())
    if link.op in ("tobinary", "todecimal"):
        return ("to_binary" if link.op == "tobinary" else "to_decimal",)
    if link.op.startswith("multiply") and family != "scale":
        return (*tags, "multiply")
    a, b = (*link.args, 1)[:2]
    if link.op in ("add", "add_signed", "increment"):
        return (*tags, "carry" if carries(a, b, borrow=False) else "no_carry")
    if link.op in ("subtract", "subtract_signed", "decrement"):
        return (*tags, "borrow" if carries(a, b, borrow=True) else "no_borrow")
    return tags
