"""Logic primitives: deduce, contrapose, chain, disjunct, biconditional."""

from __future__ import annotations

ALL = ()
