"""Where modules are: those installed in a realm home (`modules/<id>/`), and those that are shipped.

    shelf.skill_ids(shelf.folder_of(home))       # ['module:pattern-master', …]

A skill is read again when its module was installed again, so a running realm sees what the command line installs.
"""

from __future__ import annotations

import logging
from difflib import get_close_matches
from pathlib import Path

from realm.guild.modules.manifest import MANIFEST, Manifest, ModuleError, read_manifest
from realm.guild.modules.skill import ModuleSkill
from realm.guild.skills.base import SkillError

logger = logging.getLogger(__name__)

Stamp = tuple[int, int, int]
_manifests: dict[Path, tuple[Stamp, Manifest | ModuleError]] = {}
_skills: dict[tuple[Path, str], tuple[Stamp, ModuleSkill]] = {}


def folder_of(home: Path) -> Path:
    """The modules of a realm home."""
    return Path(home) / "modules"


def shipped() -> Path:
    """The modules that come with the Realm; in a checkout `quests/modules/` leads there."""
    return Path(__file__).resolve().parents[2] / "quests" / "modules"


def folders(shelf: Path) -> list[Path]:
    """The folders of the modules on a shelf, by id. Names that begin with a dot are the installer's."""
    if not shelf.is_dir():
        return []
    return sorted(path for path in shelf.iterdir() if not path.name.startswith(".") and path.is_dir())


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a module's folder, read again when the module was installed again. Raises ModuleError."""
    stamp = _stamp(folder)
    known = _manifests.get(folder)
    if known is None or known[0] != stamp:
        known = (stamp, _read(folder))
        _manifests[folder] = known
        if isinstance(known[1], ModuleError):
            logger.warning("module %s is left out: %s", folder, known[1])
    if isinstance(known[1], ModuleError):
        raise known[1]
    return known[1]


def _read(folder: Path) -> Manifest | ModuleError:
    try:
        manifest = read_manifest(folder)
    except ModuleError as error:
        return error
    except OSError as error:
        return ModuleError(f"{folder}: cannot be read ({error.strerror}); install the module again")
    if manifest.id != folder.name:
        return ModuleError(f"{folder}: the manifest says id {manifest.id!r}; rename the folder or install it again")
    lacking = [entry.path for entry in manifest.data if not (folder / entry.path).is_file()]
    if lacking:
        return ModuleError(f"{folder}: {lacking[0]} is missing; install the module again")
    return manifest


def skill_ids(shelf: Path) -> list[str]:
    """Ids of the skills of all modules on a shelf that can be read; a broken one is logged once and left out."""
    found = []
    for folder in folders(shelf):
        try:
            manifest = manifest_of(folder)
        except ModuleError:
            continue  # logged by manifest_of; `training module list` shows it
        found += [manifest.skill_id(entry.id) for entry in manifest.skills]
    return found


def open_skill(shelf: Path | None, name: str) -> ModuleSkill:
    """The skill behind `module:<name>`; `name` is `module` or `module/skill`.

    Raises:
        SkillError: no such module here, or one that cannot be read.
    """
    module, _, skill = name.partition("/")
    known = [] if shelf is None else [folder.name for folder in folders(shelf)]
    if shelf is None or module not in known:
        near = get_close_matches(module, known, n=1)
        hint = f"did you mean 'module:{near[0]}'?" if near else \
            f"installed: {', '.join(known) or 'none'}; `training module install` adds one"
        raise SkillError(f"skill 'module:{name}': no module {module!r} is installed; {hint}")
    folder = shelf / module
    stamp = _stamp(folder)
    cached = _skills.get((folder, name))
    if cached is not None and cached[0] == stamp:
        return cached[1]
    try:
        manifest = manifest_of(folder)
        made = ModuleSkill(folder, skill or manifest.skills[0].id, manifest)
    except ModuleError as error:
        raise SkillError(f"skill 'module:{name}': {error}") from error
    if made.id != f"module:{name}":
        raise SkillError(f"skill 'module:{name}': the module has several skills; use one of "
                         f"{', '.join(manifest.skill_id(entry.id) for entry in manifest.skills)}")  # fmt: skip
    _skills[folder, name] = (stamp, made)
    return made


def open_module(shelf: Path, module: str) -> list[ModuleSkill]:
    """All skills of an installed module. Raises SkillError."""
    if module not in [folder.name for folder in folders(shelf)]:
        open_skill(shelf, module)  # raises with the nearest id
    try:
        manifest = manifest_of(shelf / module)
    except ModuleError as error:
        raise SkillError(f"module {module!r}: {error}") from error
    return [open_skill(shelf, manifest.skill_id(entry.id).removeprefix("module:")) for entry in manifest.skills]


def _stamp(folder: Path) -> Stamp:
    """Changes whenever a module is installed: that makes a new folder and a new manifest."""
    try:
        here, file = folder.stat(), (folder / MANIFEST).stat()
    except OSError:
        return (0, 0, 0)
    return (here.st_ino, file.st_ino, file.st_mtime_ns)
