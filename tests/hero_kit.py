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
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}{{- '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
TEXT = ["Compute: add(①⓪①, ①①) = ①⓪⓪⓪\nsubtract multiply carry 0123456789 the answer is yes no\n\n" * 3,
        "system user assistant prompt text <think>\n\n</think>\n\n [INST] hello world, what is this?"]  # fmt: skip


@lru_cache(maxsize=32)
def tokenizer(special=("<|pad|>", "<|im_start|>", "<|im_end|>"), template=CHATML, eos="<|im_end|>", added=()):
    """A byte-level BPE tokenizer of 400 entries in Hugging Face form with the given control tokens and template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    # Qwen's and Llama 3's way to split: newlines stay together, whatever follows them.
    pieces = pre_tokenizers.Split(
        Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"
    )
    made.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False,
                                                                                   use_regex=False)])  # fmt: skip
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
    from realm.heroes.profile import load_profile, merge, parse_profile

    values = load_profile("pip").model_dump()
    small = {"id": hero_id, "model": {"path_or_hub_id": f"embedded:{hero_id}", "architecture": MICRO},
             "training_defaults": {"batch_size": 4, "warmup_steps": 5, "save_steps": 1000}}  # fmt: skip
    return parse_profile(merge(merge(values, small), changes))


def tokenizer_folder(root: Path) -> Path:
    """The stand-in tokenizer saved as a folder below `root`, made once."""
    folder = root / "tokenizer"
    if not folder.exists():
        tokenizer().save_pretrained(str(folder))
    return folder


# --- Battles: rows as the arena inserts them, and a child process of one's own -------------------------------------

def born(home, profile) -> Path:
    """The hero's base weights with the stand-in tokenizer."""
    from realm.heroes.model import make_embedded

    return make_embedded(profile, home, tokenizer_folder(home.root))


def conversations(n: int, start: int = 0) -> list[list[dict[str, str]]]:
    """Sums of small numbers with their answers, of different lengths."""
    rows = []
    for i in range(start, start + n):
        a, b = (7 * i) % 23, (11 * i) % 17
        answer = f"{a} + {b} = {a + b}" + (f"\ncheck {a + b}" if i % 3 == 0 else "")
        rows.append([{"role": "user", "content": f"Compute: add({a}, {b})"}, {"role": "assistant", "content": answer}])
    return rows


def campaign(engine, seed: int = 7, hero_id: str = "pip") -> dict[str, str]:
    """A campaign with one run; returns {"campaign_id", "run_id"}. Ids are fixed, because data order hangs on them."""
    import sqlalchemy as sa

    from realm import db

    ids = {"campaign_id": f"CAMPAIGN{seed:018d}", "run_id": f"RUN{seed:023d}"}
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.campaigns).values(id=ids["campaign_id"], name="test", hero_id=hero_id,
                                                          state="active", created_at=0.0, seed=seed, config={}))
        connection.execute(sa.insert(db.runs).values(id=ids["run_id"], campaign_id=ids["campaign_id"], reason="test",
                                                     created_at=0.0))  # fmt: skip
    return ids


def quest(home, engine, ids, name: str, rows: list, whole: bool = False) -> dict:
    """A quest file in the queue and its row; returns what `battles.config["data"]` holds plus the quest's id.

    `rows` are conversations, or with `whole` the rows as they stand in the file.
    """
    import hashlib
    import json

    import sqlalchemy as sa

    from realm import db

    path = home.queue / "normal" / f"{name}.jsonl"
    raw = "".join(json.dumps(m if whole else {"messages": m}, ensure_ascii=False) + "\n" for m in rows).encode()
    path.write_bytes(raw)
    quest_id = f"QUEST{name:>021}"
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.quests).values(
            id=quest_id, campaign_id=ids["campaign_id"], name=name, kind="file", lane="normal", position=0.0,
            state="training", path=f"queue/normal/{name}.jsonl", rows=len(rows), created_at=0.0))  # fmt: skip
    return {"quest_id": quest_id, "path": f"queue/normal/{name}.jsonl", "sha256": hashlib.sha256(raw).hexdigest(),
            "rows": len(rows)}  # fmt: skip


def order_battle(engine, profile, ids, worker="W", data=None, steps=0, begin=0, parent=None, floor=0.0, trials=(),
                 probe=None, **config) -> str:  # fmt: skip
    """Insert a battles row in state "arming"; returns its id."""
    import sqlalchemy as sa

    from realm import db

    quest_id = data["quest_id"] if data else None
    values = {
        "hero": profile.model_dump(mode="json"), "school": "scribe", **ids, "quest_id": quest_id, "seed": 7,
        "parent_checkpoint_id": parent, "data": {k: data[k] for k in ("path", "sha256", "rows")} if data else None,
        "steps": steps, "quest_start_step": begin, "floor": floor, "skill": None, "level": None,
        "trials": list(trials), "probe": probe, **config,
    }  # fmt: skip
    battle_id = db.new_id()
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.battles).values(
            id=battle_id, campaign_id=ids["campaign_id"], run_id=ids["run_id"], quest_id=quest_id, hero_id=profile.id,
            school="scribe", worker=worker, state="arming", desired="run", save_requests=0, config=values,
            started_at=db.now()))  # fmt: skip
    return battle_id


def battle_row(engine, battle_id):
    import sqlalchemy as sa

    from realm import db

    with engine.connect() as connection:
        return connection.execute(sa.select(db.battles).where(db.battles.c.id == battle_id)).mappings().one()


def want(engine, battle_id, **columns) -> None:
    """Set what the arena owns: desired, save_requests."""
    import sqlalchemy as sa

    from realm import db

    with db.write(engine) as connection:
        connection.execute(sa.update(db.battles).where(db.battles.c.id == battle_id).values(**columns))


def serve_here(home, engine, battle_id):
    """Serve one battle in this process with a new worker, as a freshly started child would; returns its row."""
    from realm.arena.battle import Worker

    worker = Worker(home, "W")
    worker.serve(dict(battle_row(engine, battle_id)))
    worker.orders.close()
    worker.engine.dispose()
    return battle_row(engine, battle_id)


def curve(engine, run_id) -> list[tuple]:
    """The run's loss curve without clock times."""
    import sqlalchemy as sa

    from realm import db

    m = db.metrics.c
    columns = (m.step, m.loss, m.loss_ema, m.lr, m.grad_norm, m.tokens, m.trained_tokens, m.floor, m.strain,
               m.strain_rate, m.zone, m.hint, m.effort)  # fmt: skip
    with engine.connect() as connection:
        return [tuple(r) for r in connection.execute(sa.select(*columns).where(m.run_id == run_id).order_by(m.step))]


def weights_hash(home, engine, checkpoint_id) -> str:
    """sha256 of the checkpoint's weights file as its manifest has it."""
    import json

    import sqlalchemy as sa

    from realm import db

    with engine.connect() as connection:
        path = connection.execute(sa.select(db.checkpoints.c.path).where(db.checkpoints.c.id == checkpoint_id)).scalar()
    files = json.loads((home.root / path / "manifest.json").read_text())["files"]
    return next(files[name]["sha256"] for name in ("model.safetensors", "adapter_model.safetensors") if name in files)


def in_fork(home, battle_id) -> int:
    """Serve one battle in a forked process with connections of its own; returns its pid. It has nothing to import."""
    import os

    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        from realm import db

        serve_here(home, db.connect(home), battle_id)
        status = 0
    finally:
        os._exit(status)


class RealChild:
    """`python -m realm.arena.battle` as the arena starts it; ended by its pid when the block is left."""

    def __init__(self, home, worker="W") -> None:
        import os
        import subprocess
        import sys

        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OMP_NUM_THREADS": "1",
               "OMP_WAIT_POLICY": "passive"}  # fmt: skip
        command = [sys.executable, "-m", "realm.arena.battle", "--home", str(home.root), "--worker", worker]
        self.process = subprocess.Popen(command, env=env)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def until(engine, battle_id, holds, seconds: float = 240.0):
    """Poll a battle's row until `holds(row)`; returns the row, fails with the row after `seconds`."""
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        row = battle_row(engine, battle_id)
        if holds(row):
            return row
        time.sleep(0.01)
    raise AssertionError(f"battle did not get there in {seconds} s: {dict(row)}")
