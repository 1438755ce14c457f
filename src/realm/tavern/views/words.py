"""How pages write numbers, times and names. A value that was never seen is "not yet", never 0 and never "--"."""

from __future__ import annotations

import time
from typing import Any

from realm.guild.strain import ZONES
from realm.lore import GLOSSARY, SCHOOLS, Term

NOT_YET = "not yet"
# Foes of the battle scene, three levels each. Names only: strength is the level's, and no number hangs on them.
FOES = {
    "bin": ("Hatchling Hydra", "Borrow Hydra", "Carry Hydra", "Shift Hydra", "Nibble Hydra", "Overflow Hydra",
            "Sign Hydra", "Parity Hydra", "Word Hydra", "Register Hydra"),
}  # fmt: skip
ZONE_WORDS = {
    "recovery": ("Recovery", "< 0.1", "level up"), "productive": ("Productive", "0.1 - 0.3", "continue"),
    "stretch": ("Stretch", "0.3 - 0.5", "keep watch"), "overload": ("Overload", "> 0.5", "back off"),
}  # fmt: skip
assert tuple(ZONE_WORDS) == ZONES
# Counsel for the server's hint: (title, what it means). The reason with its numbers comes from the hint itself.
COUNSEL = {
    "wait": ("Too early to say", "A hint needs ten steps of this quest."),
    "continue": ("Hold this course", "The quest is as hard as it should be."),
    "back_off": ("Back off: too hard", "The next quest will mix in easier levels."),
    "level_up": ("Ready for more", "The next quest will reach further; only a trial raises the level."),
}  # fmt: skip
STATE_WORDS = {
    "idle": ("At rest", "idle"), "arming": ("Arming", "preparing"), "training": ("In battle", "training"),
    "pausing": ("Pausing", "pausing"), "paused": ("Paused", "paused"), "stopping": ("Stopping", "stopping"),
    "trial": ("On trial", "evaluating"), "done": ("Judging", "settling"), "failed": ("Fallen", "failed"),
}  # fmt: skip


def term(key: str) -> Term:
    """One row of the glossary. Raises KeyError for a word that is not in it."""
    return GLOSSARY[key.lower()]


def number(value: float | None, digits: int = 0) -> str:
    """`1,234` or `0.2410`; NOT_YET for None."""
    return NOT_YET if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as `78.4%`; never rounded up to 100 or down to 0 while it is neither."""
    if value is None:
        return NOT_YET
    shown = f"{value * 100:.{digits}f}"
    if float(shown) == 100 and value < 1:
        shown = f"{100 - 10**-digits:.{digits}f}"
    elif float(shown) == 0 and value > 0:
        shown = f"{10**-digits:.{digits}f}"
    return shown + "%"


def gigabytes(value: float | None, digits: int = 1) -> str:
    """Bytes as decimal gigabytes without the unit."""
    return NOT_YET if value is None else f"{value / 1e9:.{digits}f}"


def size(value: float | None) -> str:
    """Bytes with a unit that fits: `812 B`, `2.0 MB`, `1.2 GB`."""
    if value is None:
        return NOT_YET
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if value >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{int(value)} B"


def duration(seconds: float | None) -> str:
    """`4m 32s`, `2h 05m`, `38s`; NOT_YET for None."""
    if seconds is None:
        return NOT_YET
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def clock(t: float | None) -> str:
    """24 h local time of the server, `14:32`; the page's script shows the browser's own."""
    return NOT_YET if t is None else time.strftime("%H:%M", time.localtime(t))


def day(t: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(t))


def iso(t: float) -> str:
    """UTC for `<time datetime>`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t))


def compact(value: float | None) -> str:
    """Rates: `9.8k`, `640`, `12`."""
    if value is None:
        return NOT_YET
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def pace(value: float | None) -> str:
    """Steps per second with about three digits: `0.61`, `9.80`, `20.0`."""
    return NOT_YET if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def parameters(size_b: float) -> str:
    """Parameter count from billions: `0.5M`, `600M`, `4B`."""
    return f"{size_b:g}B" if size_b >= 1 else f"{size_b * 1000:g}M"


def foe(skill: str | None, level: int | None, name: str | None) -> str:
    """The battle scene's name for a quest; a quest without a known skill keeps its own."""
    if skill in FOES and level:
        names = FOES[skill]
        return f"The {names[min(level - 1, 10**6) // 3 % len(names)]}"
    return name or "A trial without a foe"


def skill_level(skill: str | None, level: Any) -> str:
    """`BIN L3`, `BIN`, or nothing."""
    return "" if not skill else skill.upper() + (f" L{level}" if level else "")


def school(school_id: str | None) -> dict[str, str]:
    """Name, icon and method of a school; an unknown one shows its id."""
    known = SCHOOLS.get(school_id or "")
    if known is None:
        return {"name": school_id or "", "icon": "scroll", "method": "", "motto": ""}
    return {"name": known.name, "icon": {"scribe": "scroll", "oracle": "eye"}.get(known.id, "book"),
            "method": known.method, "motto": known.motto}  # fmt: skip
