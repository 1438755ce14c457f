#!/usr/bin/env python3
"""Trains the tokenizer of the embedded hero on the text of the shipped skills.

    python3 scripts/train_tokenizer.py            writes src/realm/heroes/tokenizer/
    python3 scripts/train_tokenizer.py --check    fails where the committed files differ from a fresh training

Byte-level BPE, so that any UTF-8 text survives the round trip, with a pre-tokenizer that isolates every digit and every
glyph of the symbol keys: numbers become one token per digit and never merge with a neighbour. Words of the skills that
are frequent enough enter the vocabulary whole (`ignore_merges` looks a piece up before it merges); the rest of the
budget is spent on ordinary merges. The vocabulary is small on purpose: at hidden size 96 every 100 entries cost 9,600
weights, and the logits of a batch are the largest activation of the step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from realm.guild.skills import get_skill
from realm.guild.skills.bin.notation import DIGITS, KEY_DIGITS, KEY_NAMES

FOLDER = Path(__file__).resolve().parent.parent / "src" / "realm" / "heroes" / "tokenizer"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, END = SPECIAL[0], SPECIAL[2]
VOCABULARY = 448
WORDS_AT_MOST = 120
SAMPLES_PER_LEVEL = 1_500
SINGLE = "0123456789" + DIGITS + KEY_DIGITS + KEY_NAMES
# Skills whose text the vocabulary is made for; others are written with its letters.
TAUGHT = ("bin",)
ROLES = ("system", "user", "assistant")

# One token per digit and glyph; a tag, an infix sign with its blanks, a separator with its blank, a word, a sign.
PATTERN = (
    f"[{SINGLE}]"
    r"| \[[a-z-]+\]"
    r"| (?:==|[=+\-*/<>]) "
    r"|[,:;] "
    r"| ?[A-Za-z]+(?:_[A-Za-z0-9]+)*"
    r"|[()\[\]]"
    rf"|\n| |[^\sA-Za-z{SINGLE}]"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def corpus() -> list[str]:
    """Prompts and answers of every shipped skill at every level; the seed is fixed, the text is the same every time."""
    texts = list(ROLES)
    for skill in map(get_skill, TAUGHT):
        for level in range(1, skill.max_level + 1):
            for problem in skill.generate(level, SAMPLES_PER_LEVEL, seed=20_240):
                texts += [problem.prompt, problem.golden]
    return texts


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Isolates the pieces of PATTERN, then maps bytes to printable characters."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


def train() -> Tokenizer:
    """The trained tokenizer: special tokens, 256 bytes, glyphs, frequent words, merges."""
    texts = corpus()
    splitter = pre_tokenizer()
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole = [byte_level.pre_tokenize_str(glyph)[0][0] for glyph in SINGLE if not glyph.isascii()]
    words = [piece for piece, _ in counts.most_common() if len(piece) > 1 and piece not in whole][:WORDS_AT_MOST]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *alphabet, *whole, *words])}
    merges = []
    for left, right in learn_merges(counts, VOCABULARY):
        if len(vocabulary) >= VOCABULARY and left + right not in vocabulary:
            break
        if left in vocabulary and right in vocabulary:
            vocabulary.setdefault(left + right, len(vocabulary))
            merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    return tokenizer


def learn_merges(counts: Counter[str], size: int) -> list[tuple[str, str]]:
    """Ordinary BPE merges over the words of the corpus, most useful first."""
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=size + 256, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    letters = [piece.lstrip("Ġ") for piece in counts for _ in range(4) if piece.isascii() or piece.startswith("Ġ")]
    learner.train_from_iterator([piece for piece in letters if piece.isalpha()], trainer)
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def files(tokenizer: Tokenizer) -> dict[str, str]:
    """File name → text, in the Hugging Face layout."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": [SPECIAL[1]],
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "model_max_length": 1024,
        "padding_side": "left",
        "chat_template": CHAT_TEMPLATE,
    }
    special = {"eos_token": END, "pad_token": PAD, "additional_special_tokens": [SPECIAL[1]]}
    dump = {"ensure_ascii": False, "indent": 1, "sort_keys": True}
    return {
        "tokenizer.json": json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1) + "\n",
        "tokenizer_config.json": json.dumps(config, **dump) + "\n",
        "special_tokens_map.json": json.dumps(special, **dump) + "\n",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments = parser.parse_args()
    made = files(train())
    if arguments.check:
        stale = [name for name, text in made.items() if (FOLDER / name).read_text(encoding="utf-8") != text]
        if stale:
            print(f"{', '.join(stale)}: differs from a fresh training; run scripts/train_tokenizer.py and commit")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{FOLDER}: {len(json.loads(made['tokenizer.json'])['model']['vocab'])} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
