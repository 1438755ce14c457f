"""Third-party parts by entry point: `afs.scorers`, `afs.converters`, `afs.generators`.

A package names them in its `pyproject.toml`:

    [project.entry-points."afs.converters"]
    mine = "my_package:MineFormat"
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

GROUPS = ("afs.scorers", "afs.converters", "afs.generators")


class PluginError(RuntimeError):
    """A plug-in that cannot be loaded; the message names its package and what went wrong."""


def names(group: str) -> list[str]:
    """Names of the installed plug-ins of a group, sorted; none is loaded."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The object behind one plug-in.

    Raises:
        KeyError: no installed package offers it.
        PluginError: it cannot be imported, or two packages offer the name.
    """
    found = list(entry_points(group=group, name=name))
    if not found:
        raise KeyError(f"no plug-in {name!r} in {group}; installed: {', '.join(names(group)) or 'none'}")
    if len(found) > 1:
        packages = ", ".join(sorted(p.dist.name for p in found if p.dist))
        raise PluginError(f"{len(found)} packages offer {name!r} in {group} ({packages}); uninstall all but one")
    try:
        return found[0].load()
    except Exception as error:
        package = found[0].dist.name if found[0].dist else "?"
        raise PluginError(f"plug-in {name!r} of {package} in {group} cannot be loaded: {error!r}") from error
