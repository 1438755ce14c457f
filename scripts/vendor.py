"""Fetch the browser libraries once, on a maintainer's machine: `python scripts/vendor.py` (needs npm).

Copies the named files and licences of each package into the tree and writes `vendor.lock.json` with version and sha256
of every file; `tests/test_tavern.py` holds the files to it. Users never need npm: the files are part of the package.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAVERN = ROOT / "src/realm/tavern/static/vendor"
TESTS = ROOT / "tests/browser/vendor"


@dataclass(frozen=True)
class Package:
    """`files` maps a path in the npm package to the name it gets here."""

    name: str
    version: str
    licence: str
    folder: Path
    files: dict[str, str]


PACKAGES = (
    Package("htmx.org", "4.0.1", "0BSD", TAVERN,
            {"dist/htmx.min.js": "htmx.min.js", "LICENSE": "LICENSE-htmx.txt"}),
    Package("uplot", "1.6.32", "MIT", TAVERN,
            {"dist/uPlot.iife.min.js": "uPlot.iife.min.js", "dist/uPlot.min.css": "uPlot.min.css",
             "LICENSE": "LICENSE-uPlot.txt"}),
    Package("axe-core", "4.14.1", "MPL-2.0", TESTS,
            {"axe.min.js": "axe.min.js", "LICENSE": "LICENSE-axe.txt"}),
)  # fmt: skip


def fetch(package: Package, into: Path) -> dict[str, bytes]:
    """The package's files by their name here."""
    subprocess.run(["npm", "pack", f"{package.name}@{package.version}", "--silent"], cwd=into, check=True)
    archive = next(into.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        return {name: tar.extractfile(f"package/{path}").read() for path, name in package.files.items()}


def main() -> None:
    locks: dict[Path, list[dict]] = {}
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            found = fetch(package, Path(folder))
        package.folder.mkdir(parents=True, exist_ok=True)
        sums = {}
        for name, data in found.items():
            (package.folder / name).write_bytes(data)
            sums[name] = hashlib.sha256(data).hexdigest()
        locks.setdefault(package.folder, []).append(
            {"name": package.name, "version": package.version, "licence": package.licence, "sha256": sums})  # fmt: skip
        print(f"{package.name} {package.version}: {', '.join(sums)}")
    for folder, packages in locks.items():
        (folder / "vendor.lock.json").write_text(json.dumps({"packages": packages}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
