"""The Oracle: time to the first token, batches beside transformers' `generate`, memory with and without a model.

The first token is timed through HTTP on the shipped hero, model loaded. A batch is the trial's kind of work: many
questions, greedy answers. Its peer is `generate` with its default settings, on the same left-padded batch and once for
each question alone; answers that end at different lengths are made by a stop token that some questions reach early. The
Oracle's batch goes through its own engine (rows, text, thread), not through the bare loop. CPU seconds, interleaved.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator

import httpx

from benchmarks.live_realm import live_realm
from benchmarks.memory import sample
from benchmarks.registry import Options
from benchmarks.table import Row
from realm import db
from realm.heroes.model import torch
from realm.oracle import catalog, rows
from realm.oracle.engine import Engine
from realm.oracle.writing import Writer
from realm.settings import RealmHome

FIRST_TOKEN_S = 0.150
TIMES_GENERATE = 2.0
LOADED_MB, ASLEEP_MB = 1500.0, 1000.0
TOKENS = 64
ASK = [{"role": "user", "content": "Compute: add(①⓪①, ①①)"}]


def run(options: Options) -> list[Row]:
    """Batches first, in this process; then a realm of its own for HTTP and memory."""
    rounds = 3 if options.quick else 7
    found = []
    with engine() as (oracle, model):
        for many in (16, 128) if options.quick else (1, 16, 128):
            found += batches(oracle, model, many, rounds)
    return found + served(10 if options.quick else 40)


@contextlib.contextmanager
def engine() -> Iterator[tuple[Engine, object]]:
    """An engine with the shipped hero loaded."""
    with tempfile.TemporaryDirectory() as folder:
        home = RealmHome(folder, environ={}).create()
        db.migrate(home)
        database = db.connect(home)
        oracle = Engine(home)
        try:
            with oracle.lease(catalog.resolve(home, database, "base")) as model:
                yield oracle, model
        finally:
            oracle.close()
            database.dispose()


def questions(model, many: int) -> list[list[int]]:
    """Prompts of one to four problems, so that they differ in length."""
    rng = random.Random(many)
    text = [" ".join(f"add({rng.randrange(99)}, {rng.randrange(99)})" for _ in range(1 + k % 4)) for k in range(many)]
    return [model.chat_ids([{"role": "user", "content": each}]) for each in text]


def batches(oracle: Engine, model, many: int, rounds: int) -> list[Row]:
    """Tokens per CPU-second of the same greedy answers, three ways, for equal and for natural lengths."""
    prompts = questions(model, many)
    # Equal: nobody stops. Natural: each question stops after its own number of tokens, from 2 to TOKENS.
    equal = [TOKENS] * many
    rng = random.Random(7)
    natural = [rng.randrange(2, TOKENS + 1) for _ in range(many)]
    found = []
    for kind, lengths in (("equal lengths", equal), ("natural lengths", natural)):
        if many == 1 and kind == "natural lengths":
            continue
        arms: dict[str, Callable[[], None]] = {
            "Oracle": lambda lengths=lengths: written(oracle, model, prompts, lengths),
            "generate, the same batch": lambda lengths=lengths: generated(model, prompts, lengths),
        }
        if many > 1:
            arms["generate, one by one"] = lambda lengths=lengths: [
                generated(model, [prompt], [length]) for prompt, length in zip(prompts, lengths, strict=True)
            ]
        spent: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, arm in arms.items():
                begun = time.process_time()
                arm()
                spent[name].append(time.process_time() - begun)
        total = sum(lengths)
        own = tuple(total / seconds for seconds in spent.pop("Oracle"))
        for name, seconds in spent.items():
            ratios = tuple(mine / (total / peer) for mine, peer in zip(own, seconds, strict=True))
            found.append(Row(f"{many} questions, {kind}", own, "tokens/CPU-s", "high", f"≥ {TIMES_GENERATE} × {name}",
                             TIMES_GENERATE, ratios))  # fmt: skip
    return found


def written(oracle: Engine, model, prompts: list[list[int]], lengths: list[int]) -> None:
    """The Oracle's way, from token ids to text."""
    made = [rows.Row(k, prompt, length, 0.0, 1.0, 0, None, False, Writer(model.tokenizer))
            for k, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))]  # fmt: skip
    oracle.submit(model, made)
    while not all(row.over for row in made):
        time.sleep(0.001)


def generated(model, prompts: list[list[int]], lengths: list[int]) -> None:
    """transformers' way: left padding, its default cache, until every answer has ended, then text."""
    width = max(map(len, prompts))
    pad = model.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    many = max(lengths)
    out = model.hero.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=many, min_new_tokens=many,
                                    do_sample=False)  # fmt: skip
    answers = [answer[:length] for answer, length in zip(out[:, width:].tolist(), lengths, strict=True)]
    model.tokenizer.batch_decode(answers, skip_special_tokens=True)


def served(asks: int) -> list[Row]:
    """A realm as start-all makes it, without training: memory asleep and awake, and the first token over HTTP."""
    with live_realm() as live:
        live.cli("start-all", "--no-arena")
        url = live.url("oracle", "")
        live.wait("the Oracle answers", lambda: live.port_open("oracle"))
        asleep = sample(live)
        with httpx.Client(base_url=url, timeout=120) as client:
            begun = time.perf_counter()
            first_token(client)
            cold = time.perf_counter() - begun
            times = tuple(first_token(client) for _ in range(asks))
        awake = sample(live)
        own = [process for process in live.processes() if "oracle" in process.cmdline()[-1:]]
        threads = sum(process.num_threads() for process in own)
    rows_ = [
        Row("first token over HTTP, model loaded", tuple(1000 * t for t in times), "ms", "low",
            f"≤ {1000 * FIRST_TOKEN_S:.0f} ms", 1000 * FIRST_TOKEN_S),
        Row("first token, torch and model loaded by it", (cold,), "s"),
        Row("Oracle process asleep, PSS", (asleep.pss.get("oracle", 0) / 1e6,), "MB"),
        Row("Oracle process with the hero loaded, PSS", (awake.pss.get("oracle", 0) / 1e6,), "MB"),
        Row("all processes without a battle, Oracle asleep, PSS", (asleep.total / 1e6,), "MB", "low",
            f"≤ {ASLEEP_MB:,.0f} MB with a battle", ASLEEP_MB),
        Row("all processes without a battle, hero loaded, PSS", (awake.total / 1e6,), "MB", "low",
            f"≤ {LOADED_MB:,.0f} MB with a battle", LOADED_MB),
        Row("threads of the Oracle process", (float(threads),), ""),
    ]  # fmt: skip
    return rows_


def first_token(client: httpx.Client) -> float:
    """Seconds from sending a question to its first piece of text."""
    body = {"model": "base", "messages": ASK, "temperature": 1.0, "seed": 1, "max_tokens": 8, "stream": True}
    begun = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if '"content":"' in line and '"content":""' not in line:
                return time.perf_counter() - begun
    raise RuntimeError(f"no text came: status {answer.status_code}")
