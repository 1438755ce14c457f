"""The 29 primitives: atomic operations that skills are composed of, and what trials say about each of them.

Skills are abilities, primitives are the base stats beneath them: a profile over primitives shows *why* a skill is weak.
Every primitive is also a skill of its own (`realm.guild.skills.primitives`), so that a weak one can be practised.

Try it: `python3 -m training primitive list`, and `python3 -m training primitive profile` in a realm with trials.
"""

from __future__ import annotations

from types import MappingProxyType

GROUPS = MappingProxyType({
    "seq": "Sequence",
    "logic": "Logic",
    "mem": "Memory",
    "fmt": "Format",
    "attn": "Attention",
    "xfm": "Transform",
})  # fmt: skip
"""{prefix: name of the group}, in the order of the radar."""

PRIMITIVES = MappingProxyType({
    "seq_continue": "find the rule of a sequence and write what comes next",
    "seq_reverse": "write a sequence backwards",
    "seq_transform": "rearrange a sequence by a chain of moves",
    "seq_interleave": "weave several sequences into one, taking turns",
    "seq_extract": "cut out a run, or every k-th item, by position",
    "logic_deduce": "from 'a implies d' and 'a' conclude 'd' (modus ponens)",
    "logic_contrapose": "from 'a implies d' and 'not d' conclude 'not a' (modus tollens)",
    "logic_chain": "follow implications from a fact to the end, in order",
    "logic_disjunct": "from 'a or b' and 'not a' conclude 'b'",
    "logic_biconditional": "carry truth and falsehood over 'a iff b', in both directions",
    "mem_recall": "give back values that were stated beside their keys",
    "mem_context": "give back the value that a key has in one context and not in another",
    "mem_compose": "look a value up, and look up what was found",
    "mem_update": "keep track of values that change",
    "fmt_json": "write given facts as a JSON object",
    "fmt_table": "write given rows as a Markdown table",
    "fmt_code": "write given calls and definitions as code",
    "fmt_list": "write given items as a numbered or bulleted list",
    "fmt_structured": "write given paths as an indented outline",
    "attn_select": "pick the items that carry a mark",
    "attn_count": "count how often an item occurs",
    "attn_compare": "find the places where two sequences differ",
    "attn_filter": "keep the items that meet a condition, in order",
    "attn_rank": "put items in order of size",
    "xfm_encode": "shorten a sequence to runs: how many of what",
    "xfm_decode": "write out a sequence from its runs",
    "xfm_map": "apply one operation to every item",
    "xfm_reduce": "fold a sequence into one value, showing each step",
    "xfm_substitute": "replace every item by what a table says",
})  # fmt: skip
"""{name: what it is, in plain words}: the one table of the 29 names, in the order of the radar."""


def group_of(name: str) -> str:
    """The prefix of a primitive's group, for example "seq"."""
    return name.partition("_")[0]
