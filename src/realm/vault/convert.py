"""Weights in another form, and the proof that they answer the same: 20 greedy answers, token for token.

*merged*: an adapter merged into its base (PEFT's `merge_and_unload`), against the adapter beside its base.
*gguf*: read back from the file through transformers' own GGUF loader, weights and tokenizer, against the checkpoint.
*gguf-ids*: the same weights for programs that send token ids: the file's tokenizer is not asked, the hero's own lies
beside it. GGUF knows a fixed list of ways to cut text into words; a tokenizer with a rule of its own, as the embedded
heroes have, cannot be said in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realm.guild.skills import get_skill
from realm.heroes import chat
from realm.heroes.profile import parse_profile
from realm.vault import gguf_file
from realm.vault.catalog import VaultError

ASKED = 20
ROOM = 64  # new tokens per answer
FILE = "model.gguf"


def write(
    source: Path, target: Path, kind: str, quantize: str, profile: Mapping[str, Any], name: str
) -> dict[str, Any]:  # fmt: skip
    """Write converted weights into `target` and prove them; returns {asked, same, tokens}.

    Raises:
        VaultError: answers or tokens differ, or the family cannot be written.
    """
    from realm.heroes import model as heroes

    adapted = heroes.is_adapter(source)
    if kind == "merged" and not adapted:
        raise VaultError("the checkpoint holds whole weights, no adapter: there is nothing to merge (use --format hf)")
    recipe = parse_profile(dict(profile), "the checkpoint's hero") if profile else None
    template = recipe.chat.template if recipe else "tokenizer"
    thinking = recipe.chat.thinking if recipe else False
    hero = heroes.Hero.load(recipe, source) if adapted and recipe else None
    tokenizer = hero.tokenizer if hero else heroes.load_tokenizer(source, template)
    prompts = [chat.prompt_ids(messages, tokenizer, thinking) for messages in questions()]
    wanted = heroes.generate_batch(hero.model if hero else heroes.load_model(source), tokenizer, prompts, ROOM)
    merged = heroes.load_model(source)
    if kind == "merged":
        heroes.save_model(merged, tokenizer, target)
        given = heroes.generate_batch(heroes.load_model(target), tokenizer, prompts, ROOM)
        return _proof(prompts, prompts, wanted, given)
    weights = {key: value.detach().float().cpu().numpy() for key, value in merged.state_dict().items()}
    gguf_file.write(target / FILE, weights, merged.config, tokenizer, name, quantize)
    again, reader = heroes.load_gguf(target / FILE, merged.config)
    asked = prompts
    if kind == "gguf-ids":
        tokenizer.save_pretrained(str(target))
    else:
        texts = [chat.prompt_text(messages, tokenizer, thinking) for messages in questions()]
        asked = [reader(text, add_special_tokens=False)["input_ids"] for text in texts]
    return _proof(prompts, asked, wanted, heroes.generate_batch(again, tokenizer, asked, ROOM))


def questions() -> list[list[dict[str, str]]]:
    """The problems that are asked: the same for every export."""
    problems = [*get_skill("bin").generate(3, ASKED // 2, 0), *get_skill("sy").generate(1, ASKED // 2, 0)]
    return [[message for message in problem.messages if message["role"] != "assistant"] for problem in problems]


def _proof(
    own: Sequence[Sequence[int]], asked: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]],
    given: Sequence[Sequence[int]],
) -> dict[str, Any]:  # fmt: skip
    other_words = [i for i, pair in enumerate(zip(own, asked, strict=True)) if list(pair[0]) != list(pair[1])]
    if other_words:
        raise VaultError(f"the export does not count: GGUF cuts {len(other_words)} of {len(own)} prompts into other "
                         "tokens than the hero's tokenizer, which has a rule of its own; use --format gguf-ids for "
                         "programs that send token ids, or --format hf")  # fmt: skip
    differ = [i for i, pair in enumerate(zip(wanted, given, strict=True)) if list(pair[0]) != list(pair[1])]
    if differ:
        raise VaultError(f"the export does not count: {len(differ)} of {len(wanted)} greedy answers differ, first that "
                         f"of prompt {differ[0] + 1}; choose a finer --quantize (f32 is exact)")  # fmt: skip
    return {"asked": len(wanted), "same": len(wanted) - len(differ), "tokens": sum(map(len, wanted))}
