"""Format primitives: json, table, code, list, structured."""

from __future__ import annotations

ALL = ()
