"""Settings and context: where the refinery looks for sources, models and tools (`afs status`, `afs config show`).

    [context]                     # ~/.afs/config.toml
    root = "~/.context"           # memory/, history/, training/ and training/rehearsal/ lie in it
    [training]
    workers = 2
    [models]
    electra = "~/models/electra"

A value given as a flag wins over the environment (`AFS_TRAINING_WORKERS=4`), that over the file, that over the default.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afs.step import UsageError

FILE = "~/.afs/config.toml"
_PREFIX = "AFS_"


@dataclass(frozen=True)
class Setting:
    """One setting: its type and default, and what it is for."""

    kind: type
    default: Any
    text: str


# Defaults that begin with "@" lie below another setting: "@context.root/memory".
SETTINGS: dict[str, Setting] = {
    "context.root": Setting(Path, "~/.context", "root of memory, history and training caches"),
    "context.memory": Setting(Path, "@context.root/memory", "exported by memory-export"),
    "context.history": Setting(Path, "@context.root/history", "exported by history-export"),
    "context.training": Setting(Path, "@context.root/training", "training data cache, backed up"),
    "context.rehearsal": Setting(Path, "@context.training/rehearsal", "rehearsal buffers by version"),
    "models.electra": Setting(Path, "models/electra", "ELECTRA discriminator (a folder)"),
    "tools.asar": Setting(str, "asar", "65816 assembler for syntax checks"),
    "tools.restic": Setting(str, "restic", "backups"),
    "tools.rclone": Setting(str, "rclone", "transport of backups"),
    "training.workers": Setting(int, 1, "processes of a step, 0 = one per CPU"),
    "training.engine": Setting(str, "local", "local or ray"),
    "training.seed": Setting(int, 42, "seed of random choices"),
    "training.score_profile": Setting(str, "generic", "generic, dialogue or asm"),
    "training.min_quality_score": Setting(float, 0.5, "rows below are left out by exports"),
    "registry.path": Setting(Path, "~/.afs/registry.sqlite", "experiments"),
    "backup.repository": Setting(str, "", "restic repository, for example rclone:gdrive:AFS_Backups"),
}
_CHOICES = {"training.engine": ("local", "ray"), "training.score_profile": ("generic", "dialogue", "asm")}
_RANGES = {"training.workers": (0, 1024), "training.min_quality_score": (0.0, 1.0), "training.seed": (0, 2**63 - 1)}


@dataclass(frozen=True)
class Value:
    """A setting's value and where it came from: "flag", "environment NAME", "file PATH" or "default"."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Config:
    """All settings, resolved. `config["training.workers"]` is the value, `config.origin(name)` its source."""

    values: Mapping[str, Value]
    file: Path
    file_exists: bool

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise KeyError(_unknown(name, "setting"))
        return self.values[name].value

    def origin(self, name: str) -> str:
        """Where the value came from."""
        return self.values[name].origin

    def to_dict(self) -> dict[str, Any]:
        """What `afs config show --json` prints."""
        shown = {name: {"value": str(v.value) if isinstance(v.value, Path) else v.value, "origin": v.origin,
                        "text": SETTINGS[name].text} for name, v in self.values.items()}  # fmt: skip
        return {"file": str(self.file), "file_exists": self.file_exists, "settings": shown}

    def summary(self) -> str:
        """One line per setting: name, value, origin."""
        wide = max(map(len, self.values))
        long = min(48, max(len(str(v.value)) for v in self.values.values()))
        lines = [f"{self.file}{'' if self.file_exists else ' (not there: defaults apply)'}"]
        lines += [f"{name:<{wide}}  {str(v.value) or '(empty)':<{long}}  {v.origin}" for name, v in self.values.items()]
        return "\n".join(lines)


def resolve(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | str | None = None,
) -> Config:
    """All settings from flags, environment, file and defaults, in this order of authority.

    Args:
        flags: by name ("training.workers"); None values count as not given.
        environ: default the process's environment. `AFS_CONFIG` names another file.
        file: default `~/.afs/config.toml`; a file named here must exist.

    Raises:
        UsageError: an unknown key (the nearest is named), a wrong type, a value out of range, or broken TOML.
    """
    environ = os.environ if environ is None else environ
    named = file or environ.get("AFS_CONFIG")
    path = Path(named or FILE).expanduser()
    if named and not path.is_file():
        raise UsageError(f"configuration file {path} does not exist; leave it out to use the defaults")
    given: dict[str, Value] = {}
    for name, value in _from_file(path).items():
        given[name] = Value(_typed(name, value, f"{path}: "), f"file {path}")
    for name, value in _from_environment(environ).items():
        variable = _variable(name)
        given[name] = Value(_parsed(name, value, variable), f"environment {variable}")
    for name, value in (flags or {}).items():
        if name not in SETTINGS:
            raise UsageError(_unknown(name, "setting"))
        if value is not None:
            given[name] = Value(_typed(name, value, ""), "flag")
    values: dict[str, Value] = {}
    for name, setting in SETTINGS.items():
        values[name] = given.get(name) or Value(_default(setting, values), "default")
    return Config(values, path, path.is_file())


def _default(setting: Setting, before: Mapping[str, Value]) -> Any:
    value = setting.default
    if isinstance(value, str) and value.startswith("@"):
        parent, _, rest = value[1:].partition("/")
        return before[parent].value / rest
    return Path(value).expanduser() if setting.kind is Path else value


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}; see `afs config show` for the names") from error
    found: dict[str, Any] = {}
    for section, inside in content.items():
        if section not in {name.partition(".")[0] for name in SETTINGS} or not isinstance(inside, dict):
            sections = sorted({name.partition(".")[0] for name in SETTINGS})
            near = get_close_matches(section, sections, 1)
            hint = f"; did you mean [{near[0]}]?" if near else f"; known: {', '.join(f'[{s}]' for s in sections)}"
            raise UsageError(f"{path}: unknown section or key {section!r}{hint}")
        for key, value in inside.items():
            name = f"{section}.{key}"
            if name not in SETTINGS:
                raise UsageError(f"{path}: {_unknown(name, 'key')}")
            found[name] = value
    return found


def _variable(name: str) -> str:
    return _PREFIX + name.replace(".", "_").upper()


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = {_variable(name): name for name in SETTINGS}
    sections = tuple({f"{_PREFIX}{name.partition('.')[0].upper()}_" for name in SETTINGS})
    found = {}
    for variable, value in environ.items():
        if variable in known:
            found[known[variable]] = value
        elif variable.startswith(sections):
            near = get_close_matches(variable, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}"
            raise UsageError(f"unknown setting {variable} in the environment{hint}")
    return found


def _unknown(name: str, what: str) -> str:
    near = get_close_matches(name, SETTINGS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SETTINGS)}"
    return f"unknown {what} {name!r}; {hint}"


def _parsed(name: str, text: str, variable: str) -> Any:
    kind = SETTINGS[name].kind
    try:
        value = kind(text) if kind in (int, float) else text
    except ValueError:
        raise UsageError(f"{variable}={text!r} must be a{'n integer' if kind is int else ' number'}") from None
    return _typed(name, value, f"{variable}: ")


def _typed(name: str, value: Any, where: str) -> Any:
    kind = SETTINGS[name].kind
    words = {Path: "a path (text)", str: "a text", int: "an integer", float: "a number"}
    accepted = {Path: (str, Path), str: (str,), int: (int,), float: (int, float)}[kind]
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise UsageError(f"{where}{name} must be {words[kind]}, not {value!r}")
    if kind is Path:
        if not str(value):
            raise UsageError(f"{where}{name} must not be empty")
        return Path(value).expanduser()
    if name in _CHOICES and value not in _CHOICES[name]:
        raise UsageError(f"{where}{name} must be one of {', '.join(_CHOICES[name])}, not {value!r}")
    low, high = _RANGES.get(name, (value, value))
    if kind in (int, float) and not low <= value <= high:
        raise UsageError(f"{where}{name} must be from {low} to {high}, not {value}")
    return kind(value)


# --- status -------------------------------------------------------------------------------------------------------

_FOLDERS = {
    "context.root": "mkdir -p {path}",
    "context.memory": "mkdir -p {path}   # then `afs training memory-export` finds its entries there",
    "context.history": "mkdir -p {path}   # then `afs training history-export` finds its events there",
    "context.training": "mkdir -p {path}",
    "context.rehearsal": "afs training rehearsal-build --input OLD.jsonl --version v1 --output {path}/v1.jsonl",
}
_TOOLS = {
    "tools.asar": "install asar 1.91 and put it on PATH, or set tools.asar; scores go without the asar signal",
    "tools.restic": "apt-get install restic (or brew install restic); needed for `afs backup`",
    "tools.rclone": "apt-get install rclone, then `rclone config` for a remote; needed for Google Drive",
}
_LOGS = {"claude": ("CLAUDE_CONFIG_DIR", "~/.claude", "projects"), "codex": ("CODEX_HOME", "~/.codex", "sessions"),
         "gemini": ("GEMINI_HOME", "~/.gemini", "tmp")}  # fmt: skip
_EXTRAS = {"torch": "training", "transformers": "training", "trl": "training", "datasets": "training", "ray": "cluster"}


@dataclass(frozen=True)
class Item:
    """One thing that the refinery can use. `action` says what to do when it is missing."""

    group: str
    name: str
    found: bool
    where: str
    action: str


@dataclass(frozen=True)
class Status:
    """What is configured, found and missing."""

    config: Config
    items: tuple[Item, ...]

    @property
    def missing(self) -> list[Item]:
        """What is not there; none of it is needed to start."""
        return [item for item in self.items if not item.found]

    def to_dict(self) -> dict[str, Any]:
        """What `afs status --json` prints."""
        return {"config": self.config.to_dict(), "items": [vars(item) for item in self.items],
                "missing": [item.name for item in self.missing]}  # fmt: skip

    def summary(self) -> str:
        """A line per thing, and below a missing one what to do."""
        known = "" if self.config.file_exists else " (not there: defaults apply)"
        lines = [f"configuration: {self.config.file}{known}"]
        group = None
        for item in self.items:
            if item.group != group:
                group = item.group
                lines.append(group)
            lines.append(f"  {'found  ' if item.found else 'missing'}  {item.name:<18} {item.where}")
            if not item.found:
                lines.append(f"           → {item.action}")
        lines.append(f"{len(self.items) - len(self.missing)} found, {len(self.missing)} missing")
        return "\n".join(lines)


def status(config: Config | None = None, environ: Mapping[str, str] | None = None) -> Status:
    """What is configured, found and missing, with the next action for each missing thing."""
    environ = os.environ if environ is None else environ
    config = config or resolve(environ=environ)
    items = []
    for name, action in _FOLDERS.items():
        path = config[name]
        items.append(Item("context", name, path.is_dir(), str(path), action.format(path=path)))
    for name, (variable, home, inside) in _LOGS.items():
        root = Path(environ.get(variable) or home).expanduser()
        action = f"nothing to do unless you use it; set {variable} when its logs lie elsewhere"
        items.append(Item("agent logs", name, (root / inside).is_dir(), str(root / inside), action))
    model = config["models.electra"]
    items.append(Item("models", "models.electra", (model / "config.json").is_file(), str(model),
                      f"afs discriminator train --input DATA --output {model}; scores go without the ELECTRA signal"))
    for name, action in _TOOLS.items():
        path = shutil.which(config[name], path=environ.get("PATH"))
        items.append(Item("tools", name, path is not None, path or f"{config[name]} (not on PATH)", action))
    for package, extra in _EXTRAS.items():
        # Looked up by name only: importing torch takes seconds.
        there = find_spec(package) is not None
        items.append(Item("extras", package, there, "installed" if there else "not installed",
                          f'pip install "realm-of-training[{extra}]"'))  # fmt: skip
    key = bool(environ.get("VAST_API_KEY")) or any(
        Path(p).expanduser().is_file() for p in ("~/.config/vastai/vast_api_key", "~/.vast_api_key"))  # fmt: skip
    items.append(Item("cloud", "vast.ai key", key, "set" if key else "not set",
                      "export VAST_API_KEY=…, or `vastai set api-key …`; needed for cloud training only"))
    return Status(config, tuple(items))


# --- discover -----------------------------------------------------------------------------------------------------

_SKIPPED = {"node_modules", "__pycache__", ".git", ".venv", "venv", "site-packages", ".cache", ".tox"}
_ROOTS = {".context": "context", ".claude": "claude logs", ".codex": "codex logs", ".gemini": "gemini logs"}


@dataclass(frozen=True)
class Found:
    """A folder of interest. `holds` names what is in it; `repository` is the git work tree around a context."""

    kind: str
    path: Path
    holds: tuple[str, ...]
    repository: Path | None = None


@dataclass(frozen=True)
class Discovery:
    """What lies below a folder; false when nothing was found."""

    root: Path
    depth: int
    found: tuple[Found, ...]
    unreadable: tuple[Path, ...]

    def __bool__(self) -> bool:
        return bool(self.found)

    def to_dict(self) -> dict[str, Any]:
        """What `afs context discover --json` prints."""
        return {"root": str(self.root), "depth": self.depth, "unreadable": [str(p) for p in self.unreadable],
                "found": [{"kind": f.kind, "path": str(f.path), "holds": list(f.holds),
                           "repository": str(f.repository) if f.repository else None} for f in self.found]}  # fmt: skip

    def summary(self) -> str:
        """A line per folder, with what it holds."""
        lines = []
        for f in self.found:
            repository = f" (repository {f.repository})" if f.repository else ""
            lines.append(f"{f.kind:<12} {f.path}{repository}: {', '.join(f.holds) or 'empty'}")
        lines += [f"not readable: {path}" for path in self.unreadable]
        if not self.found:
            lines.append(f"no .context, .claude, .codex or .gemini folder within {self.depth} folders below "
                         f"{self.root}; look deeper with --max-depth, or make one: mkdir -p ~/.context/memory")
        return "\n".join(lines)


def discover(path: Path | str = ".", max_depth: int = 4) -> Discovery:
    """Contexts and agent logs in a folder and at most `max_depth` folders below it, sorted by path.

    Links to folders are not followed, so there are no loops; folders of packages and caches are skipped.

    Raises:
        UsageError: no such folder, or a negative depth.
    """
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; give --path an existing one")
    if max_depth < 0:
        raise UsageError(f"--max-depth must be 0 or more, not {max_depth}")
    found: list[Found] = []
    unreadable: list[Path] = []
    if root.name in _ROOTS:
        found.append(_look(root, None))
    waiting = [(root, 0, _repository_of(root))]
    while waiting:
        folder, depth, repository = waiting.pop()
        try:
            inside = sorted(e.name for e in os.scandir(folder) if e.is_dir(follow_symlinks=False))
        except PermissionError:
            unreadable.append(folder)
            continue
        if ".git" in inside or (folder / ".git").is_file():
            repository = folder
        for name in inside:
            if name in _ROOTS:
                found.append(_look(folder / name, repository))
            elif name not in _SKIPPED and depth < max_depth:
                waiting.append((folder / name, depth + 1, repository))
    return Discovery(root, max_depth, tuple(sorted(found, key=lambda f: str(f.path))), tuple(sorted(unreadable)))


def _repository_of(folder: Path) -> Path | None:
    return next((p for p in folder.parents if (p / ".git").exists()), None)


def _look(path: Path, repository: Path | None) -> Found:
    try:
        holds = sorted(e.name for e in os.scandir(path) if e.is_dir(follow_symlinks=False))
    except PermissionError:
        holds = ["(not readable)"]
    return Found(_ROOTS[path.name], path, tuple(holds), repository if path.name == ".context" else None)
