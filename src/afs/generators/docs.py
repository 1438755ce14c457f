"""Questions and answers from a project's own Markdown documents.

    DocsGenerator("~/src/project").write("docs.jsonl")
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from afs.generators.base import BaseGenerator, TrainingSample
from afs.generators.markdown import sections

SKIPPED = {".git", ".venv", "node_modules", "build", "dist", "__pycache__"}
MIN_BODY = 40


class DocsGenerator(BaseGenerator):
    """One sample per section of each Markdown file below a folder.

    Files that cannot be read are listed in `skipped`, with the reason, after `generate` has run.

    Args:
        root: folder, or one file.
        name: what `source` begins with.
    """

    def __init__(self, root: Path | str, name: str = "docs", domain: str = "docs") -> None:
        super().__init__(name, domain)
        self.root = Path(root).expanduser()
        self.skipped: list[tuple[str, str]] = []
        if not self.root.exists():
            raise FileNotFoundError(f"{self.root} does not exist; name the folder that holds the documents")

    def files(self) -> list[Path]:
        """The Markdown files, sorted by path; hidden and built folders are left out."""
        if self.root.is_file():
            return [self.root]
        return [p for p in sorted(self.root.rglob("*.md")) if not SKIPPED & set(p.relative_to(self.root).parts)]

    def generate(self) -> Iterator[TrainingSample]:
        self.skipped = []
        base = self.root if self.root.is_dir() else self.root.parent
        for path in self.files():
            where = path.relative_to(base).as_posix()
            try:
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                self.skipped.append((where, str(error)))
                continue
            for section in sections(text):
                if len(section.body) < MIN_BODY:
                    continue
                document = section.trail[0] if section.trail else where
                yield TrainingSample(
                    instruction=f"What does “{section.title}” in “{document}” say?", output=section.body,
                    domain=self.domain, source=f"{self.name}:{where}",
                    _metadata={"line": section.line, "trail": list(section.trail)},
                )  # fmt: skip
