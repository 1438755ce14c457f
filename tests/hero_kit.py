"""Parts for tests of heroes and battles: small tokenizers, a micro hero, and rows as the arena inserts them."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# The same with the spans that transformers' `return_assistant_tokens_mask` marks: answer and stop token.
CHATML_MARKED = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}{{- '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
TEXT = ["Compute: add(①⓪①, ①①) = ①⓪⓪⓪\nsubtract multiply carry 0123456789 the answer is yes no\n\n" * 3,
        "system user assistant prompt text <think>\n\n</think>\n\n [INST] hello world, what is this?"]  # fmt: skip


@lru_cache(maxsize=32)
def tokenizer(special=("<|pad|>", "<|im_start|>", "<|im_end|>"), template=CHATML, eos="<|im_end|>", added=()):
    """A byte-level BPE tokenizer of 400 entries in Hugging Face form with the given control tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet,
                                  show_progress=False)  # fmt: skip
    made.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token=special[0], eos_token=eos, bos_token=special[1],
                                   additional_special_tokens=list(special))  # fmt: skip
    fast.add_tokens(list(added))
    fast.chat_template = template
    return fast


def trl_template(name: str) -> str:
    """Source of a chat template shipped inside TRL, found without importing TRL."""
    root = Path(importlib.util.find_spec("trl").submodule_search_locations[0])
    return (root / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


MICRO = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
         "intermediate_size": 64}  # fmt: skip


def micro_profile(hero_id="pip", **changes):
    """PIP's recipe with a model small enough for 2 ms steps. `changes` are laid over it, mappings key by key."""
    from realm.heroes.profile import _merge, load_profile, parse_profile

    values = load_profile("pip").model_dump()
    small = {"id": hero_id, "model": {"path_or_hub_id": f"embedded:{hero_id}", "architecture": MICRO},
             "training_defaults": {"batch_size": 4, "warmup_steps": 5, "save_steps": 1000}}  # fmt: skip
    return parse_profile(_merge(_merge(values, small), changes))


def tokenizer_folder(root: Path) -> Path:
    """The stand-in tokenizer saved as a folder below `root`, made once."""
    folder = root / "tokenizer"
    if not folder.exists():
        tokenizer().save_pretrained(str(folder))
    return folder
