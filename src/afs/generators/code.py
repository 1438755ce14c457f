"""Questions and answers from a Python code base: what a function or class is for, and how it is written.

    CodeGenerator("~/src/project/src").write("code.jsonl")
"""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

from afs.generators.base import BaseGenerator, TrainingSample
from afs.generators.docs import SKIPPED

MAX_LINES = 40


class CodeGenerator(BaseGenerator):
    """Two samples per documented function or class: its purpose, and (up to 40 lines) its code.

    Files that do not parse are listed in `skipped`, with the reason, after `generate` has run.
    """

    def __init__(self, root: Path | str, name: str = "code", domain: str = "code") -> None:
        super().__init__(name, domain)
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is no folder; name the folder that holds the code")
        self.skipped: list[tuple[str, str]] = []

    def generate(self) -> Iterator[TrainingSample]:
        self.skipped = []
        for path in sorted(self.root.rglob("*.py")):
            where = path.relative_to(self.root).as_posix()
            if SKIPPED & set(Path(where).parts):
                continue
            try:
                with tokenize.open(path) as file:  # knows the byte-order mark and the encoding line
                    text = file.read()
                tree = ast.parse(text)
            except (SyntaxError, ValueError, OSError, RecursionError) as error:
                self.skipped.append((where, str(error)))
                continue
            lines = text.split("\n")  # as the parser counts them: a form feed ends no line
            for name, node in _documented(tree):
                yield from self._samples(where, name, node, lines)

    def _samples(self, where: str, name: str, node: ast.AST, lines: list[str]) -> Iterator[TrainingSample]:
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        source = f"{self.name}:{where}"
        about = {"name": name, "kind": kind, "line": node.lineno}
        yield TrainingSample(
            instruction=f"What is the {kind} `{name}` in `{where}` for?", output=ast.get_docstring(node),
            domain=self.domain, source=source, _metadata={**about, "asked": "purpose"},
        )  # fmt: skip
        first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
        code = lines[first - 1 : node.end_lineno]
        if kind == "function" and len(code) <= MAX_LINES:
            yield TrainingSample(
                instruction=f"Show the code of `{name}` in `{where}`.", output="\n".join(code), domain=self.domain,
                source=source, _metadata={**about, "asked": "code"},
            )  # fmt: skip


def _documented(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Functions and classes with a docstring, methods under their class's name, in the order of the file."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if ast.get_docstring(node):
                yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(tree.body, "")
