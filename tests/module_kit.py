"""Small quest modules for tests: one of rows, one of generators, as folders and as zips."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import yaml

MANIFEST = {
    "id": "tiny-sums", "name": "Tiny Sums", "version": "1.0", "author": "tests", "license": "MIT",
    "description": "Sums with rows and with generators.",
    "skills": [{"id": "tiny-sums", "levels": [1, 2], "max_level": 2}],
    "data": [{"path": "data/level1.jsonl", "skill_level": 1, "examples": 30, "difficulty": 0.2}],
    "evaluation": {"eval_set": "eval/test.jsonl"},
}  # fmt: skip
SKILL = {
    "name": "Tiny Sums", "grader": {"type": "exact"},
    "levels": [{"level": 2, "name": "made", "generators": [{
        "operation": "plus", "prompts": ["{a} and {b} make?", "Sum of {a} and {b}?"], "answer": "'= ' + text(a + b)",
        "variables": {"a": {"type": "int", "min": 0, "max": 99}, "b": {"type": "int", "min": 0, "max": 99}},
        "symmetric": [["a", "b"]]}]}],
}  # fmt: skip


def rows(first: int, count: int, **more) -> list[dict]:
    return [{"prompt": f"Double {n}. Write it behind `=`.", "golden": f"= {2 * n}", **more}
            for n in range(first, first + count)]  # fmt: skip


def jsonl(values: list[dict]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def files(manifest: dict | None = None, skill: dict | None = None) -> dict[str, bytes]:
    """{path: bytes} of a sound module; change what a test needs."""
    return {
        "manifest.yaml": yaml.safe_dump(manifest or MANIFEST, sort_keys=False).encode(),
        "README.md": b"# Tiny sums\n",
        "skills/tiny-sums.yaml": yaml.safe_dump(json.loads(json.dumps(skill or SKILL)), sort_keys=False).encode(),
        "data/level1.jsonl": jsonl(rows(0, 30)),
        "eval/test.jsonl": jsonl(rows(1000, 90, level=1)),
    }


def folder(root: Path, content: dict[str, bytes] | None = None, name: str = "tiny-sums") -> Path:
    made = root / name
    for path, raw in (content or files()).items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_bytes(raw)
    return made


def zipped(path: Path, content: dict[str, bytes] | None = None, top: str = "", **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, raw in (content or files()).items():
            archive.writestr(top + name, raw)
    return path
