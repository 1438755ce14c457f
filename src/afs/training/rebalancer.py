"""Mix inputs by weights: exact counts per group, rows verbatim.

    afs training rebalance --input oracle.jsonl --input memory.jsonl --output mixed.jsonl \\
      --weight oracle=0.6 --weight memory=0.4

A weight's name is looked for as a source, a domain, an alias, the beginning of a source and the name of an input
file, in this order; the first kind that finds rows is taken and printed. A name that finds nothing, or rows that two
names want, stop the run before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from afs.jsonl import file_stem
from afs.rows import NAME, Index, RowView, copy_rows, family, plain_files, scan
from afs.step import How, Report, Step, StepError, UsageError, expand
from afs.training.mixing import largest_remainder

__all__ = ["ALIASES", "GROUPS", "GroupResult", "RebalanceResult", "parse_weights", "rebalance_dataset",
           "rebalance_datasets"]  # fmt: skip
GROUPS = ("source", "domain")
MAX_REPEATS = 4
"""Repeating data up to 4 times costs next to nothing against fresh data (Muennighoff et al. 2023, arXiv 2305.16264)."""


def _is_rehearsal(view: RowView) -> bool:
    return bool(view.metadata.get("rehearsal_version"))


ALIASES: dict[str, tuple[str, Callable[[str, bool], bool]]] = {
    "oracle": ("domain oracle_*", lambda domain, _kept: domain.startswith("oracle_")),
    "rehearsal": ("_metadata.rehearsal_version", lambda _domain, kept: kept),
}
"""Logical names: what they stand for, and the test by a row's domain and whether a rehearsal buffer kept it."""

_LEVELS = {"source": ("source", "domain", "alias", "prefix", "file"),
           "domain": ("domain", "source", "alias", "prefix", "file")}  # fmt: skip


@dataclass(frozen=True)
class GroupResult:
    """One group: what its name matched, what it had, was asked for and got.

    Attributes:
        rows, eligible: rows of the group, and those that reach the quality threshold.
        got: rows written, copies included; `repeats` of them are copies beyond the first.
        most: how often the most used row was written.
    """

    name: str
    weight: float
    kind: str
    matched: str
    rows: int
    eligible: int
    got: int
    repeats: int
    most: int


@dataclass(frozen=True)
class RebalanceResult:
    """What rebalancing gave."""

    report: Report
    groups: tuple[GroupResult, ...]

    @property
    def total_output(self) -> int:
        """Rows written, copies included."""
        return self.report.details["rows_written"]

    @property
    def total_input(self) -> int:
        return self.report.counts.read

    @property
    def mapping(self) -> dict[str, str]:
        """Weight name -> what it matched."""
        return {g.name: g.matched for g in self.groups}

    @property
    def group_counts_out(self) -> dict[str, int]:
        return {g.name: g.got for g in self.groups}

    def summary(self) -> str:
        """Counts, then one line per group."""
        return self.report.summary()


def parse_weights(texts: Iterable[str]) -> dict[str, float]:
    """`["oracle=0.4", …]` as a mapping.

    Raises:
        UsageError: a text is no NAME=NUMBER, or a name comes twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise UsageError(f"weight {text!r} must look like NAME=NUMBER, for example oracle=0.4")
        if name.strip() in found:
            raise UsageError(f"weight {name.strip()!r} is given twice; give it once")
        found[name.strip()] = weight
    return found


# --- what a row is --------------------------------------------------------------------------------------------------


def _begins(text: str, name: str) -> bool:
    """Whether `name` is the beginning of `text`, up to the end of a word."""
    return text.startswith(name) and not text[len(name) : len(name) + 1].isalnum()


class _Look:
    """The columns of a row; travels to worker processes. `names` are the weights' names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.rehearsal = "rehearsal" in self.names
        # A running number at a source's end decides nothing, unless a name is that source or ends in a separator.
        self.exact = frozenset(self.names)
        self.by_family = all(name[-1:].isalnum() for name in self.names)
    def columns(self, views: Sequence[RowView], raws: Sequence[bytes]) -> list[list]:
        """Marks, source families, domains and scores of many rows."""
        sources = [view.source or "unknown" for view in views]
        domains = [view.domain or "general" for view in views]
        families = list(map(family, sources))
        kept = [False] * len(views)
        if self.rehearsal:
            kept = [b"rehearsal_version" in bytes(view.raw_metadata) and _is_rehearsal(view) for view in views]
        groups = families
        if not self.by_family or not self.exact.isdisjoint(sources):
            groups = [s if not self.by_family or s in self.exact else f
                      for s, f in zip(sources, families, strict=True)]  # fmt: skip
        keys = list(zip(groups, domains, kept, strict=True))
        marks = {key: self._marks(*key) for key in set(keys)}
        scores = [math.nan if view.quality_score is None else view.quality_score for view in views]
        return [[marks[key] for key in keys], families, domains, scores]

    def _marks(self, source: str, domain: str, kept: bool) -> str:
        """Per weight the letters of the kinds that it matches."""
        marks = []
        for name in self.names:
            alias = ALIASES.get(name)
            marks.append(
                ("s" if source == name else "p" if _begins(source, name) else "")
                + ("d" if domain == name else "")
                + ("a" if alias and alias[1](domain, kept) else "")
            )
        return ",".join(marks)


_COLUMNS = {"marks": NAME, "source": NAME, "domain": NAME, "quality": "f4"}
_MARK = {"source": "s", "domain": "d", "alias": "a", "prefix": "p"}


@dataclass
class _Group:
    name: str
    weight: float
    kind: str
    matched: str
    rows: np.ndarray  # places in the index


def _named_groups(index: Index, weights: Mapping[str, float], group_by: str, paths: Sequence[Path]) -> list[_Group]:
    """A group of rows per weight.

    Raises:
        UsageError: a name finds nothing, or two names want the same rows.
    """
    marks = [text.split(",") for text in index.texts("marks")]
    codes = index.columns["marks"]
    claims: list[tuple[str, str, np.ndarray]] = []
    for place, name in enumerate(weights):
        for kind in _LEVELS[group_by]:
            if kind == "file":
                files = [n for n, path in enumerate(paths) if _begins(file_stem(path), name)]
                chosen = np.isin(index.file, files)
                matched = "file " + ", ".join(paths[n].name for n in files)
            else:
                hit = np.array([_MARK[kind] in found[place] for found in marks], bool)
                chosen = hit[codes] if len(codes) else np.zeros(0, bool)
                matched = ALIASES[name][0] if kind == "alias" and chosen.any() else f"{kind} {name}"
                matched = f"source {name}*" if kind == "prefix" else matched
            if chosen.any():
                claims.append((kind, matched, chosen))
                break
        else:
            raise UsageError(_unmatched(name, index, paths))
    _settle_rehearsal(list(weights), claims)
    _refuse_shared(list(weights), claims)
    return [_Group(name, weight, kind, matched, np.flatnonzero(chosen))
            for (name, weight), (kind, matched, chosen) in zip(weights.items(), claims, strict=True)]  # fmt: skip


def _settle_rehearsal(names: list[str], claims: list[tuple[str, str, np.ndarray]]) -> None:
    """Rows kept from an earlier version still carry its sources and domains; they count as rehearsal only."""
    if "rehearsal" in names and claims[names.index("rehearsal")][0] == "alias":
        kept = claims[names.index("rehearsal")][2]
        for name, (_kind, _matched, chosen) in zip(names, claims, strict=True):
            if name != "rehearsal":
                chosen &= ~kept


def _refuse_shared(names: list[str], claims: list[tuple[str, str, np.ndarray]]) -> None:
    for a in range(len(names)):
        if not claims[a][2].any():
            raise UsageError(f"weight {names[a]!r} matches only rows that count as rehearsal; leave one of the two out")
        for b in range(a):
            shared = int((claims[a][2] & claims[b][2]).sum())
            if shared:
                one, two = (f"{names[i]!r} ({claims[i][1]})" for i in (b, a))
                raise UsageError(f"ambiguous: {shared:,} rows belong to both weights {one} and {two}; use names that "
                                 f"do not overlap, such as exact sources or domains")  # fmt: skip


def _unmatched(name: str, index: Index, paths: Sequence[Path]) -> str:
    sources, domains = list(index.tally("source")), list(index.tally("domain"))
    stems = [file_stem(path) for path in paths]
    close = get_close_matches(name, [*sources, *domains, *stems], 3)
    hint = f"; close: {', '.join(dict.fromkeys(close))}" if close else ""
    return (f"weight {name!r} matches nothing{hint}. Sources: {_few(sources)}. Domains: {_few(domains)}. "
            f"Files: {_few(stems)}")  # fmt: skip


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _natural_groups(index: Index, group_by: str) -> list[_Group]:
    """One group per source (without running numbers) or domain, all of equal weight."""
    codes, names = index.columns[group_by], index.texts(group_by)
    order = sorted(range(len(names)), key=names.__getitem__)
    return [_Group(names[code], 1.0, group_by, f"{group_by} {names[code]}", np.flatnonzero(codes == code))
            for code in order]  # fmt: skip


# --- how many of each -----------------------------------------------------------------------------------------------


def _target(stock: Mapping[str, int], weights: Mapping[str, float], max_total: int | None, repeats: int) -> int:
    """The largest total that keeps the exact shares, each row used at most `repeats` times.

    Without a limit, repeating stops at the number of rows that there are.
    """
    exact = {name: Fraction(repr(float(weight))) for name, weight in weights.items() if weight}
    whole = sum(exact.values())
    reach = min(math.floor(stock[name] * repeats * whole / weight) for name, weight in exact.items())
    if max_total is not None:
        return min(reach, max_total)
    return min(reach, sum(stock[name] for name in exact)) if repeats > 1 else reach


def _choose(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the rows: each one floor(count / rows) times, then a sample without replacement."""
    if not count:
        return rows[:0]
    full, rest = divmod(count, len(rows))
    sampled = rng.choice(rows, rest, replace=False, shuffle=False) if rest else rows[:0]
    return np.concatenate([np.tile(rows, full), np.sort(sampled)])


def rebalance_dataset(
    inputs: Path | str | Sequence[Path | str],
    output: Path | str,
    *,
    weights: Mapping[str, float] | None = None,
    group_by: str = "source",
    max_total: int | None = None,
    allow_oversample: bool = False,
    max_repeats: int = MAX_REPEATS,
    min_quality_score: float | None = None,
    include_unweighted: bool = False,
    seed: int = 42,
    shuffle: bool = True,
    how: How | None = None,
) -> RebalanceResult:
    """Write a mix of the inputs in which every group has its exact share.

    Without oversampling the total is the largest that the scarcest group allows. With it, the total is `max_total`
    or the number of rows of all groups; every row is used floor(k) times and the rest is sampled.

    Args:
        weights: share per name (see the module), any positive scale; None = equal shares per source or domain.
        group_by: what is looked for first, and what the groups are without weights.
        max_total: most rows in the output.
        max_repeats: most copies of a row when oversampling.
        min_quality_score: rows below it, or without a score, are left out.
        include_unweighted: rows of no group are added, all of them, on top of the groups' total.
        shuffle: random order; otherwise the inputs' order.

    Raises:
        UsageError: wrong settings, a weight that matches nothing or rows that two want, unscored rows with a
            threshold. Nothing is written.
        StepError: nothing is left to write.
    """
    paths = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    _check(paths, weights, group_by, max_total, max_repeats, min_quality_score, seed)
    parameters = {
        "weights": dict(weights) if weights else None, "group_by": group_by, "max_total": max_total,
        "allow_oversample": allow_oversample, "max_repeats": max_repeats if allow_oversample else 1,
        "min_quality_score": min_quality_score, "include_unweighted": include_unweighted, "shuffle": shuffle,
        # A weight may match a file's name, so the names decide the output too.
        "files": [file_stem(expand(p)) for p in paths],
    }  # fmt: skip
    with Step("rebalance", paths, [output], parameters, seed=seed, how=how) as step:
        if step.current:
            return _result(step.report)
        with plain_files(step.inputs) as plain:
            index = scan(plain, _COLUMNS, _Look(tuple(weights or ())), names=[str(p) for p in step.inputs],
                         on_bad=step.on_bad, workers=step.how.workers, engine=step.how.engine,
                         advance=step.advance)  # fmt: skip
            if not len(index):
                raise StepError(f"the inputs hold no row that can be used ({index.counts.quarantined:,} bad rows)")
            groups = (_named_groups(index, weights, group_by, step.inputs) if weights
                      else _natural_groups(index, group_by))  # fmt: skip
            good = _good_enough(index, min_quality_score)
            order, results, unweighted = _plan(index, groups, good, parameters, seed)
            _account(step, index, order, results, unweighted, parameters)
            with step.writer(output) as out:
                copy_rows(index, order, out)
    return _result(step.report)


rebalance_datasets = rebalance_dataset


def _check(paths, weights, group_by, max_total, max_repeats, min_quality_score, seed) -> None:
    if not paths:
        raise UsageError("no input; name at least one .jsonl file")
    resolved = [expand(p).resolve() for p in paths]
    for path, found in zip(paths, resolved, strict=True):
        if resolved.count(found) > 1:
            raise UsageError(f"input {path} is named twice; its rows would count twice. Raise its weight instead")
    if group_by not in GROUPS:
        raise UsageError(f"group_by must be one of {', '.join(GROUPS)}, not {group_by!r}")
    for name, weight in (weights or {}).items():
        if not math.isfinite(weight) or weight < 0:
            raise UsageError(f"weight of {name!r} must be a number of 0 or more, not {weight}")
    if weights and not any(weights.values()):
        raise UsageError("all weights are 0; give at least one group a positive weight")
    if max_total is not None and max_total < 1:
        raise UsageError(f"max_total must be 1 or more, not {max_total}")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, not {seed}")
    if max_repeats < 1:
        raise UsageError(f"max_repeats must be 1 or more, not {max_repeats}")
    if min_quality_score is not None and not math.isfinite(min_quality_score):
        raise UsageError(f"min_quality_score must be a number, not {min_quality_score}")


def _good_enough(index: Index, threshold: float | None) -> np.ndarray:
    """Which rows reach the threshold; 0.0 and null mean not scored."""
    quality = index.columns["quality"]
    if threshold is None:
        return np.ones(len(index), bool)
    if threshold > 0 and not (quality > 0).any():
        raise UsageError(f"no row has a quality score, so none reaches {threshold}; run `afs training score` first")
    # Compared as 32-bit numbers, or 0.7 would not reach 0.7.
    return np.nan_to_num(quality, nan=0.0) >= np.float32(threshold)


def _plan(
    index: Index, groups: list[_Group], good: np.ndarray, parameters: dict[str, Any], seed: int
) -> tuple[np.ndarray, list[GroupResult], int]:
    """Places of the rows to write in order, what each group gives, and how many rows of no group are added."""
    stock = {g.name: int(good[g.rows].sum()) for g in groups}
    for g in groups:
        if g.weight and not stock[g.name]:
            raise UsageError(f"none of the {len(g.rows):,} rows of {g.name!r} reaches min_quality_score "
                             f"{parameters['min_quality_score']}; lower it or leave the group out")  # fmt: skip
    extra = np.zeros(0, np.int64)
    if parameters["include_unweighted"]:
        free = good.copy()
        for g in groups:
            free[g.rows] = False
        extra = np.flatnonzero(free)
    limit = parameters["max_total"]
    if limit is not None:
        limit -= len(extra)
        if limit < 1:
            raise UsageError(f"max_total {parameters['max_total']} leaves no room: {len(extra):,} rows belong to no "
                             f"weight and include_unweighted keeps them")  # fmt: skip
    weights = {g.name: g.weight for g in groups}
    counts = largest_remainder(weights, _target(stock, weights, limit, parameters["max_repeats"]))
    chosen, results = [extra], []
    for place, g in enumerate(sorted(groups, key=lambda g: g.name)):
        rng = np.random.default_rng([seed, place])
        count, have = counts[g.name], stock[g.name]
        chosen.append(_choose(g.rows[good[g.rows]], count, rng))
        results.append(GroupResult(g.name, g.weight, g.kind, g.matched, len(g.rows), have, count,
                                   max(0, count - have), -(-count // have) if have else 0))  # fmt: skip
    order = np.sort(np.concatenate(chosen))
    if not len(order):
        raise StepError("the shares leave no row to write; the scarcest group is too small, or allow oversampling")
    if parameters["shuffle"]:
        np.random.default_rng([seed, len(groups)]).shuffle(order)
    by_name = {r.name: r for r in results}
    return order, [by_name[g.name] for g in groups], len(extra)


def _account(step, index: Index, order: np.ndarray, results: list[GroupResult], unweighted: int, parameters) -> None:
    """Counts, details and notes. Copies are counted apart, so that out + filtered are the rows that were read."""
    used = np.zeros(len(index), bool)
    used[order] = True
    step.counts.add(index.counts)
    step.counts.out = int(used.sum())
    step.counts.filtered = len(index) - step.counts.out
    kept = index.tally("source", used)
    step.by_source = {name: {"read": n, "out": kept.get(name, 0), "filtered": n - kept.get(name, 0)}
                      for name, n in index.tally("source").items()}  # fmt: skip
    step.by_domain = index.tally("domain", order)
    total = sum(r.got for r in results)
    repeats = len(order) - step.counts.out
    step.details.update(rows_written=len(order), repeats=repeats, unweighted=unweighted,
                        groups=[asdict(r) for r in results])  # fmt: skip
    width = max(len(r.name) for r in results)
    for r in results:
        more = f", {r.repeats:,} repeats (a row at most {r.most} times)" if r.repeats else ""
        step.note(f"  {r.name:<{width}}  weight {r.weight:g} -> {r.matched}; {r.got:,} of {r.eligible:,} rows"
                  f" ({r.got / max(total, 1):.1%} of the mix){more}")  # fmt: skip
    step.note(f"{len(order):,} rows written" + (f", {repeats:,} of them repeats" if repeats else ""))
    limit = parameters["max_total"]
    if limit is not None and len(order) < limit:
        step.note(f"fewer than max_total {limit:,}: the scarcest group allows no more"
                  + ("" if parameters["allow_oversample"] else "; allow oversampling to go on"))  # fmt: skip
    left = len(index) - sum(r.rows for r in results)
    if left:
        step.note(f"{left:,} rows belong to no weight" + (" and were added" if unweighted else " and were left out"))


def _result(report: Report) -> RebalanceResult:
    return RebalanceResult(report, tuple(GroupResult(**g) for g in report.details["groups"]))
