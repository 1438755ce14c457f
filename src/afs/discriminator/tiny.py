"""A small ELECTRA without any download: a tokenizer and weights made from the training text itself.

It learns to tell replaced tokens (Clark et al. 2020, "ELECTRA", section 2) with replacements drawn from the tokens'
own frequencies instead of a generator network: a discriminator that starts from random weights and sees only whole
texts with one label learns next to nothing from some thousand of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afs.discriminator.electra import encode, torch_ready
from afs.step import expand

LABELS: dict[str, Any] = {"num_labels": 2, "id2label": {0: "real", 1: "fake"}, "label2id": {"real": 0, "fake": 1}}
_MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
REPLACED = 0.12
RATE = 1e-3
BATCH = 32


def make_tiny_base(
    folder: Path | str, texts: Sequence[str], *, seed: int = 42, max_length: int = 512, vocabulary: int = 1000,
    hidden: int = 128, layers: int = 2, epochs: int = 6, device: str = "cpu",
) -> Path:  # fmt: skip
    """Write a small ELECTRA and a tokenizer, both made from the texts alone; returns the folder.

    It is pretrained for `epochs` over the texts to tell replaced tokens. Letter case, spaces and line ends are kept;
    every digit is a token. Same texts and seed: same bytes (on a CPU).
    """
    torch = torch_ready()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import ElectraConfig, ElectraForPreTraining, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    words.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=_MARKS, initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(m, words.token_to_id(m)) for m in ("[CLS]", "[SEP]")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=max_length,
    )  # fmt: skip
    config = ElectraConfig(
        vocab_size=len(tokenizer), embedding_size=hidden // 2, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32), intermediate_size=2 * hidden, max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.08, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **LABELS,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ElectraForPreTraining(config)
        ids = encode(tokenizer, [text for text in texts if text], max_length)
        _pretrain(model.to(device), ids, tokenizer, epochs, seed, device)
    folder = expand(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _pretrain(model: Any, ids: list[list[int]], tokenizer: Any, epochs: int, seed: int, device: str) -> None:
    """Replaced-token detection, in place; a batch holds texts of like length."""
    torch = torch_ready()
    if not ids or not epochs:
        return
    rng = np.random.default_rng(seed)
    pool = np.concatenate([np.array(row[1:-1], np.int64) for row in ids])
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    batches = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    total = epochs * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1, total // 20), (total - step) / total)
    )
    model.train()
    for _ in range(epochs):
        for number in rng.permutation(len(batches)):
            rows = [ids[i] for i in batches[number]]
            real = np.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
            for at, row in enumerate(rows):
                real[at, : len(row)] = row
            mask = np.array([[1] * len(row) + [0] * (real.shape[1] - len(row)) for row in rows])
            hit = (rng.random(real.shape) < REPLACED) & (mask == 1) & (real >= len(_MARKS))
            seen = np.where(hit, rng.choice(pool, real.shape), real)
            loss = model(
                input_ids=torch.tensor(seen, device=device), attention_mask=torch.tensor(mask, device=device),
                labels=torch.tensor((seen != real).astype(np.float32), device=device),
            ).loss  # fmt: skip
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
