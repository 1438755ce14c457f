"""Answers written in this process by transformers: batches over a KV cache, one token of every row at a time.

The cache is the heroes' own (`heroes.model.Decoder`): buffers made ahead, rows that end leave the batch. Only
safetensors are read, and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from realm.heroes import chat
from realm.heroes.model import Decoder, Hero, device, make_embedded, pad_rows, plain_head
from realm.oracle import memory
from realm.oracle.catalog import Found
from realm.oracle.errors import OracleError
from realm.oracle.rows import Row, Told
from realm.settings import RealmHome

GREEDY_BELOW = 1e-4  # a temperature that only divides numbers out of range
SCORED_NUMBERS = 32_000_000  # log probabilities held at once while prompts are scored: 128 MB


def free_memory() -> tuple[int, str]:
    """(bytes that could still be taken, where)."""
    where = device()
    if where.type == "cuda":
        return torch.cuda.mem_get_info(where)[0], "the GPU"
    return memory.free_memory(), "this machine"


def give_back() -> None:
    """After an unload: what the allocators keep for later goes back to the system."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()
        return
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc keeps freed weights otherwise
        libc.malloc_trim(0)


class LocalModel:
    """A loaded hero and what requests must know of it."""

    def __init__(self, found: Found, home: RealmHome) -> None:
        folder = make_embedded(found.profile, home) if found.profile.embedded and not found.step else found.folder
        self.found = found
        self.hero = Hero.load(found.profile, folder)
        self.tokenizer = self.hero.tokenizer
        self.stop_id = chat.stop_id(self.tokenizer)
        config = self.hero.model.config
        self.context = min(found.profile.model.context_length, getattr(config, "max_position_embeddings", 1 << 30))
        self.vocabulary = config.vocab_size
        self.plain = plain_head(self.hero.model)
        self.size = sum(p.numel() * p.element_size() for p in self.hero.model.parameters())
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.token_bytes = 2 * config.num_hidden_layers * heads * size * memory.FP32_BYTES  # of the cache

    def chat_ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of a conversation up to where the answer begins.

        Raises:
            OracleError: 400, the template refuses it or a text forges the conversation's structure.
        """
        try:
            chat.check_texts(messages, self.tokenizer)
            return chat.prompt_ids(messages, self.tokenizer, self.found.profile.chat.thinking)
        except chat.RenderError as error:
            raise OracleError(400, str(error), "invalid_value", "messages") from error

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a bare text, with the tokenizer's own first token where it has one."""
        begins = self.tokenizer.bos_token
        return self.tokenizer(text, add_special_tokens=not (begins and text.startswith(begins)))["input_ids"]

    def token_text(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


class Generation:
    """Rows of one model that were begun together. Call `step` until it returns False."""

    def __init__(self, model: LocalModel, rows: Sequence[Row]) -> None:
        self.model, self.rows = model, list(rows)
        self._decoder: Decoder | None = None
        self._writing: list[Row] = []

    @torch.inference_mode()
    def step(self) -> bool:
        """One token for every row; the first one also scores the prompts that asked for it."""
        with self.model.hero.autocast():
            if self._decoder is None:
                score_prompts(self.model, [row for row in self.rows if row.score and not row.over])
                for row in self.rows:
                    if row.limit == 0 and not row.over:
                        row.close("length")
                self._writing = [row for row in self.rows if not row.over]
                if not self._writing:
                    return False
                self._decoder = Decoder(self.model.hero.model, [row.prompt for row in self._writing],
                                        max(row.limit for row in self._writing))  # fmt: skip
            return self._advance(self._decoder)

    def _advance(self, decoder: Decoder) -> bool:
        logits = decoder.logits().float()
        rows = [self._writing[k] for k in decoder.rows]
        if not rows[0].tokens and not bool(torch.isfinite(logits).all()):
            raise OracleError(503, f"{self.model.found.id} answers with numbers that are not finite: its training broke"
                              "; ask an earlier checkpoint", "broken_weights", "model")  # fmt: skip
        chosen = choose(logits, rows)
        tokens, told = chosen.tolist(), tell(logits, chosen, rows)
        for row, token, said in zip(rows, tokens, told, strict=True):
            if not row.over:
                row.take(token, said, self.model.stop_id)
        done = {k for k, row in enumerate(self._writing) if row.over}
        if len(done) == len(self._writing):
            return False
        decoder.push(chosen, done)
        return True


def choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """The next token of each row: int64 [rows].

    Temperature 0 takes the likeliest one. Else the row's own random number u picks the first token at which the summed
    probability reaches u; with top_p < 1 tokens are summed from the likeliest down to a mass of top_p (nucleus
    sampling, Holtzman 2020).
    """
    chosen = logits.argmax(-1)
    for nucleus in (False, True):
        hot = [k for k, row in enumerate(rows)
               if row.temperature >= GREEDY_BELOW and (row.top_p < 1) is nucleus and not row.over]  # fmt: skip
        if not hot:
            continue
        column = lambda values: torch.tensor(values, device=logits.device)[:, None]  # noqa: E731
        probs = (logits[hot] / column([rows[k].temperature for k in hot])).softmax(-1)
        order = None
        if nucleus:
            probs, order = probs.sort(-1, descending=True)
            before = probs.cumsum(-1) - probs
            probs = probs.masked_fill(before >= column([rows[k].top_p for k in hot]), 0.0)
        summed = probs.cumsum(-1)
        u = column([rows[k].rng.random() for k in hot]) * summed[:, -1:]
        picked = (summed > u).int().argmax(-1)
        chosen[hot] = picked if order is None else order.gather(-1, picked[:, None])[:, 0]
    return chosen


def tell(logits: Tensor, chosen: Tensor, rows: Sequence[Row]) -> list[Told | None]:
    """Log probabilities (temperature 1, natural log) of the chosen tokens, for the rows that asked for them."""
    found: list[Told | None] = [None] * len(rows)
    asked = [k for k, row in enumerate(rows) if row.top is not None and not row.over]
    if asked:
        logs = logits[asked].log_softmax(-1)
        for k, said in zip(asked, _told(logs, chosen[asked], max(rows[k].top for k in asked)), strict=True):
            found[k] = Told(said.token, said.logprob, said.top[: rows[k].top])
    return found


def _told(logs: Tensor, tokens: Tensor, top: int) -> list[Told]:
    """`logs` [n, vocabulary], `tokens` int64 [n]."""
    own = logs.gather(-1, tokens[:, None])[:, 0].tolist()
    best = logs.topk(min(top, logs.shape[-1]), -1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [Told(token, logprob, tuple(zip(ids, values, strict=True)))
            for token, logprob, (ids, values) in zip(tokens.tolist(), own, pairs, strict=True)]  # fmt: skip


def score_prompts(model: LocalModel, rows: Sequence[Row]) -> None:
    """Fill `scored` of each row: the log probability of every prompt token after those before it; the first has none.

    Prompts that several rows share (n > 1) are read once.
    """
    by_prompt: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(tuple(row.prompt), []).append(row)
    prompts = sorted(by_prompt, key=len)
    where = next(model.hero.model.parameters()).device
    while prompts:
        many = max(1, SCORED_NUMBERS // (len(prompts[0]) * model.vocabulary))
        part, prompts = prompts[:many], prompts[many:]
        tensors = [(torch.tensor(prompt), torch.tensor(prompt)) for prompt in part]
        ids = pad_rows(tensors)[0].to(where)
        hidden = None
        if model.plain:
            hidden = model.hero.model.model(input_ids=ids, use_cache=False).last_hidden_state
        else:
            logits = model.hero.model(input_ids=ids, use_cache=False).logits
        for k, prompt in enumerate(part):
            top = max(row.top or 0 for row in by_prompt[prompt])
            said: list[Told | None] = [None]
            stride = max(1, SCORED_NUMBERS // model.vocabulary)
            for begin in range(0, len(prompt) - 1, stride):
                upto = min(begin + stride, len(prompt) - 1)
                own = (logits[k, begin:upto] if hidden is None else
                       model.hero.model.get_output_embeddings()(hidden[k, begin:upto]))  # fmt: skip
                said += _told(own.float().log_softmax(-1), ids[k, begin + 1 : upto + 1], top)
            for row in by_prompt[prompt]:
                row.scored = [s and Told(s.token, s.logprob, s.top[: row.top]) for s in said]
