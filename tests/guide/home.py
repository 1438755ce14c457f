"""A home folder as the guide's reader has it: logs, a code base, ToolBench, models of earlier versions."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import orjson
from asm_kit import routine

from afs.generators.base import TrainingSample
from afs.jsonl import AtomicWriter

ROOT = Path(__file__).parent.parent.parent
WORDS = ("accumulator address bank cartridge dungeon enemy frame graphics hookshot index interrupt jump level loop "
         "memory opcode overworld palette pointer quest register routine screen scroll sprite stack table tile timer "
         "variable vector wait window zero").split()  # fmt: skip


def samples(path: Path, count: int, seed: int, domains: tuple[str, ...], source: str, thinking: bool = False,
            assembly: bool = False) -> None:  # fmt: skip
    """Rows with different texts, scores from 0 to 1 and no near-duplicates; `assembly`: the answers are routines."""
    rng = random.Random(seed)
    dice = np.random.default_rng(seed)
    with AtomicWriter(path) as out:
        for n in range(count):
            text = routine(dice, n) if assembly else " ".join(rng.choices(WORDS, k=rng.randint(12, 90)))
            out.write(TrainingSample(
                instruction=f"What about {rng.choice(WORDS)} {n} of {source}?", output=f"{text}.",
                thinking=f"Think of {rng.choice(WORDS)}." if thinking and n % 3 == 0 else None,
                domain=domains[n % len(domains)], source=f"{source}_{n:04d}", quality_score=round(rng.random(), 4),
            ).to_dict())  # fmt: skip


def make_home(home: Path) -> Path:
    """Fill a home folder; returns the working folder in it."""
    work = home / "src" / "lab" / "afs"
    data, models = work / "training_data", work / "models"
    samples(models / "veran_v4_training.jsonl", 500, 4, ("asm", "docs", "quest"), "veran4")
    samples(models / "veran_v5_new.jsonl", 120, 5, ("asm", "docs"), "veran5")
    samples(models / "majora_v1_training.jsonl", 200, 1, ("oracle_docs", "oracle_asm"), "majora1")
    samples(models / "v1_training.jsonl", 100, 9, ("asm", "docs"), "v1")
    samples(data / "oracle_majora_v1.jsonl", 150, 2, ("oracle_docs", "oracle_asm"), "notes")
    samples(data / "memory_export.jsonl", 100, 3, ("memory",), "mem")
    samples(data / "raw.jsonl", 120, 6, ("asm", "general"), "raw", thinking=True, assembly=True)
    notes = home / "my_data"
    notes.mkdir()
    for n in range(2):
        (notes / f"{n}.txt").write_text(f"note {n}")
    shutil.copytree(ROOT / "docs", work / "docs")
    shutil.copytree(ROOT / "src", work / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    code_base(home)
    toolbench(home)
    logs(home)
    discriminator(models / "electra")
    return work


def code_base(home: Path) -> None:
    """The miniature 65816 code base, with a document about sprites for the subclass of the guide."""
    target = home / "src" / "hobby" / "oracle-of-secrets"
    shutil.copytree(ROOT / "tests" / "fixtures" / "oracle_mini" / "classic", target)
    sprites = target / "Docs" / "Sprites"
    sprites.mkdir(exist_ok=True)
    (sprites / "Making.md").write_text("# Making a sprite\n\nBegin with the header macro.\n")


def toolbench(home: Path) -> None:
    """ToolBench in its parquet layout, in one file; every fourth talk gives up without an answer."""
    import duckdb

    folder = home / "data" / "toolbench" / "data"
    folder.mkdir(parents=True)
    rng = random.Random(8)
    talks = []
    for n in range(80):
        city = f"{rng.choice(WORDS).title()}ville {n}"
        say = " ".join(rng.choices(WORDS, k=40))
        final = {"return_type": "give_answer", "final_answer": f'In {city} it is "{say}", all in all.'}
        if n % 4 == 3:
            final = {"return_type": "give_up_and_restart"}
        turns = [
            ("system", "You may call tools."), ("user", f"What is the weather in {city}?\nBegin!"),
            ("assistant", f'Thought: look it up\nAction: weather\nAction Input: {{"city": "{city}"}}'),
            ("function", orjson.dumps({"error": "", "response": say}).decode()),
            ("assistant", f"Thought: done\nAction: Finish\nAction Input: {orjson.dumps(final).decode()}"),
        ]  # fmt: skip
        talks.append((f"Step {n}: weather", [who for who, _ in turns], [text for _, text in turns]))
    base = duckdb.connect()
    base.execute("CREATE TABLE talks (id VARCHAR, conversations STRUCT(\"from\" VARCHAR[], \"value\" VARCHAR[]))")
    for name, who, said in talks:
        base.execute("INSERT INTO talks VALUES (?, {'from': ?::VARCHAR[], 'value': ?::VARCHAR[]})", [name, who, said])
    base.execute(f"COPY talks TO '{folder / 'train-00000-of-00001.parquet'}' (FORMAT parquet)")


def logs(home: Path) -> None:
    """Memory and history of a context, a Claude Code session, a Gemini session."""
    rng = random.Random(9)

    def say(count: int = 30) -> str:
        return " ".join(rng.choices(WORDS, k=count))

    write(home / ".context" / "memory" / "notes.jsonl",
          *({"instruction": f"Which {rng.choice(WORDS)} matters in case {n}?", "output": say()} for n in range(120)))
    write(home / ".context" / "history" / "events_20260114.jsonl",
          *({"id": f"e{n}", "timestamp": f"2026-01-14T10:00:{n:02d}Z", "type": "model", "source": "cli", "op": "ask",
             "payload": {"prompt": f"Explain {rng.choice(WORDS)} {n}", "response": say()}} for n in range(20)))
    claude: list[dict] = []
    for n in range(6):
        common = {"sessionId": "s1", "cwd": "/work", "timestamp": f"2026-01-14T11:0{n}:00Z", "version": "2.0.0",
                  "isSidechain": False}  # fmt: skip
        claude.append({**common, "type": "user", "uuid": f"u{n}", "parentUuid": f"a{n - 1}" if n else None,
                       "message": {"role": "user", "content": f"How does the {rng.choice(WORDS)} {n} work?"}})
        claude.append({**common, "type": "assistant", "uuid": f"a{n}", "parentUuid": f"u{n}",
                       "message": {"id": f"m{n}", "role": "assistant", "model": "x", "stop_reason": "end_turn",
                                   "content": [{"type": "text", "text": say()}]}})  # fmt: skip
    write(home / ".claude" / "projects" / "-work" / "s1.jsonl", *claude)
    gemini: list[dict] = [{"sessionId": "g1", "projectHash": "p", "startTime": "2026-01-14T12:00:00Z"}]
    for n in range(6):
        gemini.append({"id": f"u{n}", "type": "user", "content": f"What about the {rng.choice(WORDS)} {n}?"})
        gemini.append({"id": f"g{n}", "type": "gemini", "content": say()})
    write(home / ".gemini" / "tmp" / "p" / "chats" / "session-2026-01-14T12-00-g1.jsonl", *gemini)


def discriminator(folder: Path) -> None:
    """A tiny discriminator, trained on generated routines until it tells some of them from broken ones."""
    from asm_kit import write_code_base

    from afs.discriminator import TrainConfig, make_data, train_discriminator

    code = write_code_base(folder.parent / "code", files=12, routines=8)
    data = folder.parent / "electra.jsonl"
    make_data([code], data)
    train_discriminator(data, folder, config=TrainConfig(base_model="tiny", epochs=8, batch_size=16, device="cpu"))


def write(path: Path, *rows: dict) -> None:
    """JSON lines, folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
