"""Which benchmarks there are. A new one is a module with `run(options) -> list[Row]` and one line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from benchmarks.table import Row


@dataclass(frozen=True)
class Options:
    """What the command line asks of every benchmark.

    `quick`: fewer and smaller rounds, under a minute. `more`: words that only the named benchmark understands.
    """

    quick: bool = False
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """`module` has `run(options)`; `by_default`: runs when no name is given; `takes_more`: reads `options.more`."""

    name: str
    about: str
    by_default: bool = True
    takes_more: bool = False

    def run(self, options: Options) -> list[Row]:
        return importlib.import_module(f"benchmarks.{self.name}").run(options)


BENCHMARKS = (
    Benchmark("battle_speed", "tokens per CPU-second of a battle against a bare loop and TRL's SFTTrainer"),
    Benchmark("overhead", "what events, strain and ledger cost beside the training"),
    Benchmark("startup", "start-all to the first page and the first optimizer step; status and doctor"),
    Benchmark("memory", "memory of everything start-all made, during a battle"),
    Benchmark("oracle", "the Oracle's first token, its batches beside transformers' generate, its memory"),
    Benchmark("gate", "how often a hero of known true accuracy is promoted, beside naive rules"),
    Benchmark("jobs", "what a job costs beside its work, on this machine"),
    Benchmark("refinery", "the refinery beside a plain pass; who loses rows", by_default=False, takes_more=True),
    Benchmark("first_levels", "how fast PIP masters levels, seed by seed", by_default=False, takes_more=True),
    Benchmark("chunked_loss", "large vocabularies: logits in parts against logits made whole", by_default=False),
    Benchmark("oracle_eye", "token weights against none, clean and corrupted", by_default=False, takes_more=True),
    Benchmark("climb", "the Guild against simpler curricula at equal budgets", by_default=False, takes_more=True),
)


def by_name(name: str) -> Benchmark:
    """Raises KeyError with the known names."""
    for benchmark in BENCHMARKS:
        if benchmark.name == name:
            return benchmark
    raise KeyError(f"no benchmark {name!r}; known: {', '.join(b.name for b in BENCHMARKS)}")


def run_named(name: str, options: Options) -> list[Row]:
    """`run` of one benchmark by name: what a fresh process is told to do."""
    return by_name(name).run(options)
