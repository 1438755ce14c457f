"""Questions and answers from a project's own Markdown documents.

    DocsGenerator("~/src/project").write("docs.jsonl")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from afs.generators.base import BaseGenerator, TrainingSample

SKIPPED = {".git", ".venv", "node_modules", "build", "dist", "__pycache__"}
MIN_BODY = 40
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
_FENCE = re.compile(r"^\s*(```|~~~)")


@dataclass(frozen=True)
class Section:
    """A heading and the text below it, up to the next heading; `trail` holds the headings above, outermost first."""

    title: str
    level: int
    trail: tuple[str, ...]
    body: str
    line: int


def sections(text: str) -> Iterator[Section]:
    """The sections of a Markdown text. Lines in code fences are never headings."""
    fence: str | None = None
    above: list[tuple[int, str]] = []
    title, level, line, body = "", 0, 1, []
    for number, row in enumerate(text.splitlines(), 1):
        mark = _FENCE.match(row)
        if mark and (fence is None or mark.group(1) == fence):
            fence = None if fence else mark.group(1)
        heading = None if fence or mark else _HEADING.match(row)
        if not heading:
            body.append(row)
            continue
        if level:
            yield Section(title, level, tuple(t for _, t in above), "\n".join(body).strip(), line)
        new = len(heading.group(1))
        above = [*above, (level, title)] if level else above
        above = [(deep, t) for deep, t in above if deep < new]
        title, level, line, body = heading.group(2), new, number, []
    if level:
        yield Section(title, level, tuple(t for _, t in above), "\n".join(body).strip(), line)


class DocsGenerator(BaseGenerator):
    """One sample per section of each Markdown file below a folder.

    Args:
        root: folder, or one file.
        name: what `source` begins with.
    """

    def __init__(self, root: Path | str, name: str = "docs", domain: str = "docs") -> None:
        super().__init__(name, domain)
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise FileNotFoundError(f"{self.root} does not exist; name the folder that holds the documents")

    def files(self) -> list[Path]:
        """The Markdown files, sorted by path; hidden and built folders are left out."""
        if self.root.is_file():
            return [self.root]
        return [p for p in sorted(self.root.rglob("*.md")) if not SKIPPED & set(p.relative_to(self.root).parts)]

    def generate(self) -> Iterator[TrainingSample]:
        base = self.root if self.root.is_dir() else self.root.parent
        for path in self.files():
            where = path.relative_to(base).as_posix()
            for section in sections(path.read_text(encoding="utf-8")):
                if len(section.body) < MIN_BODY:
                    continue
                document = section.trail[0] if section.trail else where
                yield TrainingSample(
                    instruction=f"What does “{section.title}” in “{document}” say?", output=section.body,
                    domain=self.domain, source=f"{self.name}:{where}",
                    _metadata={"line": section.line, "trail": list(section.trail)},
                )  # fmt: skip
