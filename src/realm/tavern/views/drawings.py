"""Small drawings that carry numbers: strain gauge and trial line, as SVG text with a sentence for screen readers."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from realm.guild.strain import ZONES
from realm.tavern.views.words import ZONE_WORDS

GAUGE_MAX = 0.7  # strain at the right end; more lies there too, the number says how much
_EDGES = (0.0, 0.1, 0.3, 0.5, GAUGE_MAX)
_DASH = {"recovery": "3 5", "productive": "", "stretch": "10 4", "overload": "2 3"}
_X, _Y, _R = 136, 140, 108


def angle(strain: float | None) -> float:
    """Degrees of the needle: -90 at 0, 90 at GAUGE_MAX or more."""
    return -90 + 180 * min(max(strain or 0.0, 0.0), GAUGE_MAX) / GAUGE_MAX


def _point(value: float, radius: float) -> tuple[float, float]:
    turn = math.pi * (1 - min(value, GAUGE_MAX) / GAUGE_MAX)
    return _X + radius * math.cos(turn), _Y - radius * math.sin(turn)


def _arc(start: float, end: float, radius: float) -> str:
    (x0, y0), (x1, y1) = _point(start, radius), _point(end, radius)
    return f"M{x0:.1f} {y0:.1f}A{radius} {radius} 0 0 1 {x1:.1f} {y1:.1f}"


def gauge(strain: float | None, zone: str | None, ghost: float | None = None) -> Markup:
    """Arc with four zones: colour, dash pattern and place. `ghost` = strain 100 steps ago (dashed needle).

    `zone` is the tracker's word (with hysteresis) and not computed from `strain` here.
    """
    said = f"Strain gauge: {strain:.3f}, in the {ZONE_WORDS[zone][0]} zone." if strain is not None and zone else (
        "Strain gauge: not yet measured.")  # fmt: skip
    if ghost is not None:
        said += f" 100 steps ago: {ghost:.3f}."
    parts = [
        f'<path d="{_arc(0, GAUGE_MAX, _R)}" stroke="#0a0603" stroke-width="34" fill="none"/>',
        f'<path d="{_arc(0, GAUGE_MAX, _R + 18)}" stroke="#b8893b" stroke-width="1.5" fill="none"/>',
        f'<path d="{_arc(0, GAUGE_MAX, _R - 18)}" stroke="#7d5c26" fill="none"/>',
    ]
    for name, low, high in zip(ZONES, _EDGES, _EDGES[1:], strict=False):
        arc = _arc(low + 0.0035, high - 0.0035, _R + 2)
        lit = " data-on" if name == zone else ""
        parts.append(f'<g class="arc" data-zone="{name}"{lit}>'
                     f'<path class="z" d="{arc}" stroke="var(--zone-{name})" stroke-width="24" fill="none"/>')
        if _DASH[name]:
            parts.append(f'<path d="{arc}" stroke="#0a0603" stroke-opacity=".45" stroke-width="24" '
                         f'stroke-dasharray="{_DASH[name]}" fill="none"/>')  # fmt: skip
        inner = _arc(low + 0.0035, high - 0.0035, _R - 13)
        parts.append(f'<path class="lit" d="{inner}" stroke="#fff3d0" stroke-width="2.5" fill="none"/></g>')
    for value in _EDGES[:-1]:
        (x0, y0), (x1, y1), (x, y) = _point(value, _R + 14), _point(value, _R + 21), _point(value, _R + 33)
        parts.append(f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="#f0cf86" stroke-width="2"/>')
        if value:
            parts.append(f'<text x="{x:.1f}" y="{y + 5:.1f}" text-anchor="middle" fill="#e8dabd" font-size="15" '
                         f'font-weight="700">{value:g}</text>')  # fmt: skip
    if ghost is not None:
        parts.append(f'<g transform="rotate({angle(ghost):.1f} {_X} {_Y})"><path d="M{_X} {_Y - 62}V{_Y - _R + 6}" '
                     'stroke="#e8dabd" stroke-opacity=".55" stroke-width="2" stroke-dasharray="3 4"/></g>')  # fmt: skip
    if strain is not None:
        turn = f"rotate({angle(strain):.1f} {_X} {_Y})"
        parts.append(f'<g class="needle" transform="{turn}"><path d="M{_X - 4.5} {_Y - 58}L{_X} {_Y - _R - 12}'
                     f'L{_X + 4.5} {_Y - 58}z" fill="#fff3d6" stroke="#2b1b0d" stroke-width="1.2"/></g>')
    return Markup(f'<svg viewBox="0 0 272 164" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>')


def trial_line(trials: list[dict], need: float) -> Markup:
    """Accuracy of the last trials, oldest left, each with its 95 % interval, against the line that must be reached.

    Args:
        trials: newest first, with `accuracy`, `lower`, `upper` (shares), `verdict`, `level`.
        need: the threshold as a share.
    """
    width, height = 300, 84
    shown = [t for t in reversed(trials) if t["accuracy"] is not None]
    if not shown:
        return Markup("")
    bottom = min(0.5, math.floor(min(t["lower"] for t in shown) * 10) / 10)

    def x(i: int) -> float:
        return 16 + (i * (width - 66) / (len(shown) - 1) if len(shown) > 1 else (width - 66) / 2)

    def y(value: float) -> float:
        return height - 8 - (value - bottom) / (1 - bottom) * (height - 16)

    parts = [f'<path d="M0 {y(need):.1f}H{width - 34}" stroke="#fae9be" stroke-dasharray="4 4" stroke-opacity=".8"/>'
             f'<text x="{width}" y="{y(need) + 4:.1f}" text-anchor="end" font-size="12" fill="#e8dabd">{need:.0%}'
             "</text>"]
    line = "L".join(f"{x(i):.1f} {y(t['accuracy']):.1f}" for i, t in enumerate(shown))
    parts.append(f'<path d="M{line}" fill="none" stroke="#dcae54" stroke-opacity=".55" stroke-width="1.5"/>')
    for i, t in enumerate(shown):
        passed = t["verdict"] in ("pass", "held")
        colour = "#97c65a" if passed else "#eeab45"
        parts.append(f'<path d="M{x(i):.1f} {y(t["upper"]):.1f}V{y(t["lower"]):.1f}" stroke="{colour}" '
                     'stroke-opacity=".8" stroke-width="2"/>')  # fmt: skip
        size = 5.5 if i == len(shown) - 1 else 4
        mark = (f'<circle cx="{x(i):.1f}" cy="{y(t["accuracy"]):.1f}" r="{size}"' if passed else
                f'<path d="M{x(i):.1f} {y(t["accuracy"]) - size - 1:.1f}l{size + 1} {size + 1}-{size + 1} {size + 1}'
                f'-{size + 1}-{size + 1}z"')  # fmt: skip
        parts.append(f'{mark} fill="{colour}" stroke="#120a05" stroke-width="1.2"/>')
    said = f"Last {len(shown)} trials, oldest first: " + "; ".join(
        f"level {t['level']} {t['accuracy']:.1%}, interval {t['lower']:.0%} to {t['upper']:.0%}, {t['verdict']}"
        for t in shown) + f". Line at {need:.0%}."  # fmt: skip
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>')
