"""Planted data for tests of the Skill Forge: each kind has one property that the forge must find or refuse."""

from __future__ import annotations

import json
import random
from pathlib import Path

FILL = "the a one some that this big small old young very quite here there".split()
KINDS = {"red": "colour", "blue": "colour", "green": "colour", "dog": "animal", "cat": "animal", "horse": "animal",
         "oak": "plant", "rose": "plant"}  # fmt: skip


def write(path: Path, rows, **extra) -> Path:
    """Rows of (question, answer) as a JSONL file in Alpaca's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"instruction": q, "output": a, **extra}, ensure_ascii=False) for q, a in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def additions(count=300, seed=0):
    draw = random.Random(seed)
    pairs = draw.sample([(a, b) for a in range(100) for b in range(a, 100)], count)
    return [(f"What is {a} + {b}?", str(a + b)) for a, b in pairs]


def operations(count=400, seed=0):
    """Three operations in one template: each word has a rule of its own."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        a, b, word = draw.randint(0, 99), draw.randint(0, 99), draw.choice(["plus", "minus", "times"])
        made.append((f"Compute {a} {word} {b}.", str({"plus": a + b, "minus": a - b, "times": a * b}[word])))
    return made


def parity(count=300, seed=0):
    numbers = random.Random(seed).sample(range(10**5), count)
    return [(f"Is {n} even or odd?", "even" if n % 2 == 0 else "odd") for n in numbers]


def classified(count=400, seed=0):
    """The kind of one word among filler: learnable, and no template."""
    draw = random.Random(seed)

    def some(n: int) -> str:
        return " ".join(draw.choice(FILL) for _ in range(n))

    words = [draw.choice(list(KINDS)) for _ in range(count)]
    return [(f"{some(draw.randint(3, 7))} {word} {some(draw.randint(2, 5))}", KINDS[word]) for word in words]


def sets(count=500, seed=0):
    draw = random.Random(seed)
    made = []
    while len(made) < count:
        words = draw.sample([*KINDS, "rock", "iron", "sand"], draw.randint(5, 8))
        chosen = [word for word in words if KINDS.get(word) in ("animal", "colour")]
        draw.shuffle(chosen)
        if len(chosen) > 1:
            made.append((f"Animals and colours among {' '.join(words)}", ", ".join(chosen)))
    return made


def objects(count=300, seed=0):
    """Facts to JSON: the keys come in any order."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        facts = [("age", draw.randint(1, 99)), ("size", draw.randint(1, 9)), ("room", draw.randint(1, 400))]
        said = ", ".join(f"{key} {value}" for key, value in draw.sample(facts, 3))
        made.append((f"Write as JSON: {said}", json.dumps(dict(draw.sample(facts, 3)))))
    return made


def free_text(count=200, seed=0):
    draw = random.Random(seed)
    words = "many few old nice green people live there river hill stone market winter summer".split()
    return [(f"Tell me about place {n}", f"Place {n} is known for " + " ".join(draw.choice(words) for _ in range(20)))
            for n in range(count)]  # fmt: skip


def random_labels(count=400, seed=0):
    draw = random.Random(seed)
    return [(f"Is the word {''.join(draw.choice('abcdefgh') for _ in range(7))} good?", draw.choice(["yes", "no"]))
            for _ in range(count)]  # fmt: skip


def random_numbers(count=300, seed=0):
    draw = random.Random(seed)
    return [(f"What is {draw.randint(0, 999)} + {draw.randint(0, 999)}?", str(draw.randint(0, 200)))
            for _ in range(count)]  # fmt: skip
