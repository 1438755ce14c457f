"""The house's own laws: imports, pins, packaging, ground floor."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"

# Lowest first; a package may import its own floor's other packages only where listed in design order.
FLOORS = [
    {"events", "db", "settings", "lore", "services", "migrations"},
    {"guild", "vault", "heroes"},
    {"schools", "quests", "oracle"},
    {"temple"},
    {"state", "arena", "jobs"},
    {"tavern", "cli", "serve", "supervise", "doctor"},
]
TORCH_ALLOWED = ("realm/heroes/model.py", "realm/schools/", "realm/arena/battle.py", "realm/oracle/backends",
                 "afs/discriminator")  # fmt: skip
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}


def modules():
    return sorted(path for path in SRC.rglob("*.py"))


def imported(path: Path, top_only: bool) -> set[str]:
    """Dotted names that a file imports; only at module level when `top_only`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor_of(part: str) -> int:
    for index, floor in enumerate(FLOORS):
        if part in floor:
            return index
    raise AssertionError(f"realm.{part} has no floor in the import law; place it in tests/test_house.py FLOORS")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SRC)))
def test_import_law(path):
    name = path.relative_to(SRC).as_posix()
    names = imported(path, top_only=False)
    if name.startswith("afs/"):
        assert not any(n.split(".")[0] == "realm" for n in names), "afs must not import realm"
    if name.startswith("realm/") and name != "realm/__init__.py":
        own = floor_of(name.split("/")[1].removesuffix(".py"))
        for other in {n.split(".")[1] for n in names if n.startswith("realm.")}:
            if other in {p.stem for p in (SRC / "realm").iterdir()}:
                assert floor_of(other) <= own, f"{name} (floor {own}) imports realm.{other} from a higher floor"
    if not name.startswith(TORCH_ALLOWED):
        heavy = {n.split(".")[0] for n in names} & HEAVY
        assert not heavy, f"{name} imports {heavy}; only {TORCH_ALLOWED} may"


@pytest.mark.parametrize("command", [["status", "--json"], ["hero", "list"], ["quest", "list"], ["vault", "list"]])
def test_light_commands_do_not_import_torch(command, home):
    code = ("import sys; from realm.cli import app\n"
            f"try: app({command!r})\nexcept SystemExit as e: assert e.code in (0, None), e.code\n"
            "assert not {'torch', 'transformers'} & set(sys.modules), 'torch was imported'")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout


def test_constraints_pin_every_version():
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert all("==" in line for line in lines)
    assert "torch==2.13.0" in lines
    pinned = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {"training", "guild", "dev", "gpu", "cluster"} <= set(extras)
    wanted = project["dependencies"] + extras["training"] + extras["guild"] + extras["dev"]
    for need in wanted:
        package, version = need.split("==")
        assert pinned.get(package.lower()) == version, f"{need} differs from constraints.txt"


@pytest.mark.slow
def test_wheel_holds_every_file_and_runs_alone(tmp_path):
    """Built, unpacked into a virtual environment of its own, the wheel works away from the checkout."""
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
                   check=True, capture_output=True, timeout=300)  # fmt: skip
    wheel = next(tmp_path.glob("*.whl"))
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if not n.startswith("realm_of_training-")}
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {line.removeprefix("src/") for line in tracked.stdout.splitlines()}
    assert inside == expected, f"missing {sorted(expected - inside)[:10]}, extra {sorted(inside - expected)[:10]}"
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", venv], check=True, timeout=120)
    # Dependencies are taken from this environment; only the project itself is installed anew.
    subprocess.run([venv / "bin/python", "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel],
                   check=True, timeout=120)  # fmt: skip
    site = subprocess.run([sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    probe = "import realm, sys; print(realm.__file__); from realm.cli import app; app(['hero', 'list'])"
    done = subprocess.run([venv / "bin/python", "-c", f"import sys; sys.path.append({site!r}); {probe}"],
                          capture_output=True, text=True, cwd=tmp_path, timeout=60)  # fmt: skip
    assert str(venv) in done.stdout.splitlines()[0], done.stdout + done.stderr
    assert "pip" in done.stdout and done.returncode == 0, done.stderr


def test_seed_paths_in_architecture_exist():
    """The table that maps the seed's paths to modules names only files that are there."""
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8").split("## Where the seed's names live")[1]
    cells = [line.split("|")[2] for line in text.splitlines() if line.startswith("| `")]
    named = [word for cell in cells for word in cell.split("`")[1::2]]
    assert len(named) >= 8
    for name in named:
        assert (SRC / name).exists(), f"{name} is in the table but not in src/"


def test_links_in_documents_resolve():
    """Every relative link of every document leads to a file."""
    import re

    for doc in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", doc.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (doc.parent / target).exists(), f"{doc.name} links to {target}, which is not there"
