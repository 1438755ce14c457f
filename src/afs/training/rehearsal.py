"""Rehearsal: keep good samples of earlier versions and mix them into new data, so that a model forgets less.

    buffer = RehearsalBuffer()
    buffer.load_from_jsonl("v4_training.jsonl", version="v4")
    buffer.select_top_samples(ratio=0.3)
    mixed = buffer.merge_with_new_data(new_samples, rehearsal_ratio=0.3, shuffle=True, seed=42)

The class holds samples in memory. `build_rehearsal` and `mix_rehearsal` do the same with files of any size and are
what `afs training rehearsal-build` and `rehearsal-mix` call. `rehearsal_ratio` is the share of the final mix.

Policies: "top-quality" takes the best (with `enable_diversity` the best of each domain, in the domains' shares);
"random-stratified" draws from each domain in its share; "diverse" gives every domain the same quota (what small ones
cannot fill goes to the others) and takes one sample of each group of near-duplicates.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from afs.generators.base import TrainingSample, load_samples
from afs.jsonl import COMPRESSED, AtomicWriter
from afs.rows import NAME, Index, RowView, copy_rows, family, plain_files, read_at, scan
from afs.step import (
    MANIFEST,
    How,
    Report,
    Step,
    StepError,
    UsageError,
    code_version,
    expand,
    read_manifest,
    write_manifest,
)
from afs.training.mixing import largest_remainder, water_fill
from afs.training.neardup import check_threshold, clusters, like_any, text_column
from afs.training.splitter import _code, _subset, session_of

POLICIES = ("top-quality", "random-stratified", "diverse")
NEAR = 0.8


class ShortBuffer(UserWarning):
    """The buffer holds fewer samples than the ratio asks for; the message names the ratio reached."""


@dataclass(frozen=True)
class RehearsalBufferConfig:
    """What a buffer keeps.

    Attributes:
        quality_threshold: lowest `quality_score`.
        top_ratio: share of the samples that pass the threshold, 0 to 1.
        enable_diversity: keep the domains' shares instead of the best of all.
        max_per_domain: most samples of one domain; what is cut goes to the others.
        track_provenance: write `_metadata.rehearsal_version`, older versions into `_metadata.rehearsal_history`.
        compress: save as `.gz`.
        policy: one of `POLICIES`.
    """

    quality_threshold: float = 0.5
    top_ratio: float = 0.3
    enable_diversity: bool = True
    max_per_domain: int | None = None
    track_provenance: bool = True
    compress: bool = False
    policy: str = "top-quality"

    def __post_init__(self) -> None:
        _check_policy(self.policy)
        if not 0 < self.top_ratio <= 1:
            raise UsageError(f"top_ratio must lie above 0 and up to 1, not {self.top_ratio}; 0.3 keeps the top 30 %")
        if self.max_per_domain is not None and self.max_per_domain < 1:
            raise UsageError(f"max_per_domain must be 1 or more, not {self.max_per_domain}; None sets no limit")


def _check_policy(policy: str) -> None:
    if policy not in POLICIES:
        raise UsageError(f"no rehearsal policy {policy!r}; known: {', '.join(POLICIES)}")


# --- selection, the same for samples and for files ------------------------------------------------------------------


def passing(quality: np.ndarray, threshold: float, what: str) -> np.ndarray:
    """Places of the samples at or above the threshold.

    Raises:
        StepError: none passes; unscored data is named as such.
    """
    if threshold > 0 and len(quality) and not quality.any():
        raise StepError(f"all {len(quality):,} samples of {what} have quality_score 0.0: they are not scored. Run "
                        f"`afs training score --input … --output …` first, or set the threshold to 0")  # fmt: skip
    found = np.flatnonzero(quality >= threshold)
    if not len(found):
        best = f"; the best has {quality.max():.3f}" if len(quality) else ""
        raise StepError(f"no sample of {what} has a quality_score of {threshold} or more{best}. Lower the threshold")
    return found


def quotas(sizes: dict[str, int], total: int, most: int | None, even: bool) -> dict[str, int]:
    """Samples per domain under a limit per domain: even, or in the domains' shares; shortfall goes to the others."""
    room = {name: size if most is None else min(size, most) for name, size in sizes.items()}
    total = min(total, sum(room.values()))
    if even or not total:
        return water_fill(room, total)
    found = largest_remainder({name: float(size) for name, size in sizes.items()}, total)
    found = {name: min(n, room[name]) for name, n in found.items()}
    more = water_fill({name: room[name] - n for name, n in found.items()}, total - sum(found.values()))
    return {name: n + more[name] for name, n in found.items()}


def choose(
    quality: np.ndarray,
    domains: np.ndarray,
    names: Sequence[str],
    total: int,
    *,
    policy: str = "top-quality",
    spread: bool = True,
    most: int | None = None,
    seed: int = 42,
) -> np.ndarray:
    """Places of at most `total` samples by policy, best first (random-stratified: in a seeded order).

    Args:
        domains: of each sample the place of its domain in `names`.
        spread: for top-quality: the best of each domain in its share; False takes the best of all.
        most: samples of one domain at most.
    """
    if policy == "random-stratified":
        order = np.random.default_rng(seed).permutation(len(quality))
    else:
        order = np.argsort(-quality, kind="stable")
    if policy == "top-quality" and not spread:
        if most is not None:
            order = order[_place_in_domain(domains[order]) < most]
        return order[:total]
    counts = np.bincount(domains, minlength=len(names))
    sizes = {name: int(n) for name, n in zip(names, counts, strict=True) if n}
    quota = quotas(sizes, total, most, policy == "diverse")
    limits = np.array([quota.get(name, 0) for name in names])
    return order[_place_in_domain(domains[order]) < limits[domains[order]]]


def _place_in_domain(domains: np.ndarray) -> np.ndarray:
    """For each element how many before it have the same domain."""
    by_domain = np.argsort(domains, kind="stable")
    ordered = domains[by_domain]
    begin = np.ones(len(ordered), bool)
    begin[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(begin)
    found = np.empty(len(domains), "i8")
    found[by_domain] = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.append(starts, len(ordered))))
    return found


def top_count(passed: int, ratio: float) -> int:
    """Samples that a share keeps: rounded down, at least one."""
    if not 0 < ratio <= 1:
        raise UsageError(f"ratio must lie above 0 and up to 1, not {ratio}")
    return max(1, floor(Fraction(repr(float(ratio))) * passed))


def old_count(new: int, ratio: float, have: int) -> int:
    """Rehearsal samples that make up `ratio` of the mix with `new` others, rounded down; ratio 1: all there are."""
    if not 0 <= ratio <= 1:
        raise UsageError(f"rehearsal_ratio is the share of the final mix, between 0 and 1, not {ratio}")
    if ratio == 1:
        return have
    share = Fraction(repr(float(ratio)))
    return floor(new * share / (1 - share))


def tag(metadata: dict[str, Any], version: str) -> dict[str, Any]:
    """The metadata with the newest version; an older one moves to the end of `rehearsal_history`."""
    found = dict(metadata)
    older = found.get("rehearsal_version")
    if older is not None and older != version:
        history = found.get("rehearsal_history")
        found["rehearsal_history"] = [*(history if isinstance(history, list) else []), older]
    found["rehearsal_version"] = version
    return found


# --- in memory ------------------------------------------------------------------------------------------------------


class RehearsalBuffer:
    """Samples of earlier versions in memory.

    Attributes:
        samples: `TrainingSample`s.
        version_counts: samples loaded per version (before selection).
        last_merge: numbers of the last merge: new, wanted, used, excluded (near the new data), ratio_reached.
    """

    def __init__(
        self,
        samples: Iterable[TrainingSample] | None = None,
        config: RehearsalBufferConfig | None = None,
        version_counts: dict[str, int] | None = None,
    ) -> None:
        self.samples = list(samples or [])
        self.config = config or RehearsalBufferConfig()
        self.version_counts = dict(version_counts or {})
        self.last_merge: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def load_from_jsonl(self, path: Path | str, version: str | None = None, max_samples: int | None = None) -> int:
        """Add the samples of a file; bad rows go to its quarantine file. Returns how many were added.

        Raises:
            FileNotFoundError: no such file.
        """
        found = load_samples(path)
        if max_samples is not None:
            found = found[:max_samples]
        for sample in found:
            if version is not None and self.config.track_provenance:
                sample._metadata = tag(sample._metadata, version)
            named = version or sample._metadata.get("rehearsal_version")
            if named is not None:
                self.version_counts[named] = self.version_counts.get(named, 0) + 1
        self.samples += found
        return len(found)

    def select_top_samples(self, ratio: float | None = None, threshold: float | None = None, seed: int = 42) -> int:
        """Keep the share `ratio` of the samples that reach the threshold, by the config's policy. Returns how many.

        Raises:
            StepError: the samples are not scored, or none reaches the threshold.
        """
        config = self.config
        threshold = config.quality_threshold if threshold is None else threshold
        passed = passing(self._quality(), threshold, "the buffer")
        self.samples = [self.samples[place] for place in passed.tolist()]
        total = top_count(len(passed), config.top_ratio if ratio is None else ratio)
        if config.policy == "diverse":
            self._collapse()
        self.samples = self._chosen(self.samples, total, config.policy, seed)
        return len(self.samples)

    def diversity_sample(self, target_count: int, domain_key: str = "domain") -> int:
        """Keep `target_count` samples with even quotas per domain, the best of each. Returns how many are left."""
        names, codes = _coded([_value(sample, domain_key) for sample in self.samples])
        places = choose(self._quality(), codes, names, target_count, policy="diverse", most=self.config.max_per_domain)
        self.samples = [self.samples[place] for place in places.tolist()]
        return len(self.samples)

    def version_balance(self, target_count: int, versions: Sequence[str] | None = None) -> int:
        """Keep `target_count` samples with even quotas per version, the best of each. Returns how many are left.

        Args:
            versions: only these; default all, untagged samples as "unknown".

        Raises:
            UsageError: a version that no sample has.
        """
        tags = [str(sample._metadata.get("rehearsal_version", "unknown")) for sample in self.samples]
        if versions is not None:
            for version in versions:
                if version not in tags:
                    raise UsageError(f"no sample of version {version!r}; there are: {', '.join(sorted(set(tags)))}")
            chosen = [place for place, version in enumerate(tags) if version in versions]
            self.samples, tags = [self.samples[place] for place in chosen], [tags[place] for place in chosen]
        names, codes = _coded(tags)
        places = choose(self._quality(), codes, names, target_count, policy="diverse")
        self.samples = [self.samples[place] for place in places.tolist()]
        return len(self.samples)

    def merge_with_new_data(
        self,
        new_samples: Iterable[TrainingSample | dict[str, Any]],
        rehearsal_ratio: float = 0.3,
        shuffle: bool = True,
        seed: int | None = 42,
        near: float | None = NEAR,
    ) -> list[TrainingSample]:
        """New samples and as many of the buffer's as make up `rehearsal_ratio` of the whole.

        Samples of the buffer that are near-duplicates of new ones are left out. When too few are left, the ratio
        reached is in `last_merge` and in a `ShortBuffer` warning. With ratio 1 the mix is the buffer alone.

        Args:
            shuffle: False gives the new samples first, then the buffer's.
            seed: of the shuffle and of random-stratified; None takes a new one each time.
            near: similarity from which a sample of the buffer counts as one of the new; None mixes all.
        """
        new = [s if isinstance(s, TrainingSample) else TrainingSample.from_dict(s, place)
               for place, s in enumerate(new_samples, 1)]  # fmt: skip
        wanted = old_count(len(new), rehearsal_ratio, len(self.samples))
        if rehearsal_ratio == 1:
            new = []
        pool = self.samples
        if near is not None and new and wanted:
            alike = like_any([_text(s) for s in pool], [_text(s) for s in new], near)
            pool = [sample for sample, same in zip(pool, alike.tolist(), strict=True) if not same]
        rng = random.Random(seed)
        old = self._chosen(pool, wanted, self.config.policy, rng.getrandbits(32) if seed is None else seed)
        reached = len(old) / (len(old) + len(new)) if old or new else 0.0
        self.last_merge = {"new": len(new), "wanted": wanted, "used": len(old), "ratio_reached": reached,
                           "excluded": len(self.samples) - len(pool)}  # fmt: skip
        if len(old) < wanted:
            warnings.warn(_short(len(old), wanted, rehearsal_ratio, reached), ShortBuffer, stacklevel=2)
        mixed = new + old
        if shuffle:
            rng.shuffle(mixed)
        return mixed

    def save(self, path: Path | str) -> int:
        """Write the samples and a manifest with versions and configuration beside them. Returns how many."""
        target = _packed(expand(path), self.config)
        with AtomicWriter(target) as out:
            for sample in self.samples:
                out.write(sample.to_dict())
        write_manifest(target.with_name(target.name + MANIFEST), {
            "step": "rehearsal-save", "key": out.sha256[:16], "code": code_version(),
            "outputs": [{"path": target.name, "sha256": out.sha256, "bytes": out.bytes, "rows": out.rows}],
            "details": {"versions": self.version_counts, "config": asdict(self.config)},
        })  # fmt: skip
        return out.rows

    def stats(self) -> dict[str, Any]:
        """Counts: total, versions loaded, versions and domains held, and the range of quality."""
        quality = self._quality()
        spread = {"min": float(quality.min()), "max": float(quality.max()), "avg": float(quality.mean())} if len(
            quality) else {"min": 0.0, "max": 0.0, "avg": 0.0}  # fmt: skip
        held = Counter(str(s._metadata.get("rehearsal_version", "unknown")) for s in self.samples)
        domains = Counter(sample.domain for sample in self.samples)
        return {"total": len(self.samples), "versions": dict(self.version_counts), "held": dict(sorted(held.items())),
                "quality": spread, "domains": dict(sorted(domains.items()))}  # fmt: skip

    def _quality(self) -> np.ndarray:
        return np.array([sample.quality_score for sample in self.samples], "f8")

    def _collapse(self) -> None:
        """Keep the best of each group of near-duplicates."""
        from afs.training.neardup import text_clusters

        order = sorted(range(len(self.samples)), key=lambda place: -self.samples[place].quality_score)
        ids = text_clusters([_text(self.samples[place]) for place in order], NEAR)
        first = np.unique(ids, return_index=True)[1]
        self.samples = [self.samples[order[place]] for place in sorted(first.tolist())]

    def _chosen(self, pool: list[TrainingSample], total: int, policy: str, seed: int) -> list[TrainingSample]:
        names, codes = _coded([sample.domain for sample in pool])
        quality = np.array([sample.quality_score for sample in pool], "f8")
        places = choose(quality, codes, names, total, policy=policy, spread=self.config.enable_diversity,
                        most=self.config.max_per_domain, seed=seed)  # fmt: skip
        return [pool[place] for place in places.tolist()]


def load_rehearsal_buffer(path: Path | str, config: RehearsalBufferConfig | None = None) -> RehearsalBuffer:
    """A saved or built buffer with its version counts (from the manifest, else from the samples' tags).

    Raises:
        FileNotFoundError: neither the file nor `<file>.gz` exists.
    """
    target = expand(path)
    packed = target.with_name(target.name + ".gz")
    if not target.exists() and packed.exists():
        target = packed
    manifest = read_manifest(target.with_name(target.name + MANIFEST)) or {}
    details = manifest.get("details", {})
    if config is None and isinstance(details.get("config"), dict):
        config = RehearsalBufferConfig(**details["config"])
    buffer = RehearsalBuffer(config=config)
    buffer.load_from_jsonl(target)
    if isinstance(details.get("versions"), dict):
        buffer.version_counts = dict(details["versions"])
    return buffer


def _text(sample: TrainingSample) -> str:
    return "\n".join((sample.instruction, sample.input, sample.thinking or "", sample.output))


def _value(sample: TrainingSample, key: str) -> str:
    found = getattr(sample, key, None)
    if found is None:
        found = sample.unknown.get(key, sample._metadata.get(key))
    return "unknown" if found is None else str(found)


def _coded(values: list[str]) -> tuple[list[str], np.ndarray]:
    names = sorted(set(values))
    places = {name: place for place, name in enumerate(names)}
    return names, np.array([places[value] for value in values], "i8")


def _packed(target: Path, config: RehearsalBufferConfig) -> Path:
    return target.with_name(target.name + ".gz") if config.compress and target.suffix not in COMPRESSED else target


def _short(used: int, wanted: int, ratio: float, reached: float) -> str:
    return (f"the buffer gives {used:,} of the {wanted:,} samples that a rehearsal ratio of {ratio} needs; the ratio "
            f"reached is {reached:.4f}")  # fmt: skip


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass
class RehearsalResult:
    """Rows written: of the buffer (`old`) and, for a mix, of the new data; the ratio reached."""

    old: int
    new: int
    ratio: float
    output: Path
    report: Report
    versions: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.old + self.new

    def summary(self) -> str:
        return self.report.summary()


@dataclass(frozen=True)
class _Columns:
    """Domain, source family, quality and session of a row."""

    def columns(self, views: Sequence[RowView], raws: Sequence[bytes]) -> list[list]:
        """The columns of many rows."""
        sessions = [_code(session_of(view)) for view in views]
        return [[view.domain or "general" for view in views], [family(view.source) for view in views],
                [view.quality_score or 0.0 for view in views], sessions]  # fmt: skip


_DTYPES = {"domain": NAME, "source": NAME, "quality": "f8", "session": "u4"}


def build_rehearsal(
    inputs: Path | str | Sequence[Path | str],
    versions: str | Sequence[str],
    output: Path | str,
    *,
    config: RehearsalBufferConfig | None = None,
    min_score: float | None = None,
    seed: int = 42,
    how: How | None = None,
) -> RehearsalResult:
    """Write a buffer of the best rows of earlier data, best first, each tagged with its version.

    Args:
        versions: one per input, or one for all.
        min_score: default the config's threshold.

    Raises:
        UsageError: not one version per input.
        StepError: the data is not scored, or no row reaches the threshold.
    """
    config = config or RehearsalBufferConfig()
    files = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    named = [versions] * len(files) if isinstance(versions, str) else list(versions)
    if len(named) == 1:
        named *= len(files)
    if len(named) != len(files):
        raise UsageError(f"{len(files)} inputs but {len(named)} versions; give one --version per --input")
    threshold = config.quality_threshold if min_score is None else min_score
    target = _packed(expand(output), config)
    parameters = {"versions": named, "threshold": threshold, "config": asdict(config)}
    with Step("rehearsal-build", files, [target], parameters, seed=seed, how=how) as step:
        if not step.current:
            with plain_files(step.inputs) as plain:
                index = _scanned(step, plain, step.on_bad)
                chosen = _best(index, config, threshold, seed, step)
                with step.writer(target) as out:
                    _write_tagged(index, chosen, named if config.track_provenance else None, out)
            _count(step, index, chosen, np.zeros(0, "i8"))
            held = np.bincount(index.file[chosen], minlength=len(files))
            tally: Counter[str] = Counter()
            for version, rows in zip(named, held.tolist(), strict=True):
                tally[version] += rows
            step.details.update(versions=dict(tally), config=asdict(config))
            step.note(f"kept {len(chosen):,} of {len(index):,} rows: " + ", ".join(
                f"{version} {rows:,}" for version, rows in tally.items()))  # fmt: skip
    report = step.report
    return RehearsalResult(report.counts.out, 0, 1.0, target, report, report.details["versions"])


def _scanned(step: Step, plain: list[Path], on_bad) -> Index:
    how = step.how
    return scan(plain, _DTYPES, _Columns(), names=[str(p) for p in step.inputs], on_bad=on_bad, workers=how.workers,
                engine=how.engine, advance=step.advance)  # fmt: skip


def _best(index: Index, config: RehearsalBufferConfig, threshold: float, seed: int, step: Step) -> np.ndarray:
    if not len(index):
        raise StepError("the inputs hold no usable row; nothing was written")
    passed = passing(index.columns["quality"], threshold, ", ".join(str(p) for p in step.inputs))
    total = top_count(len(passed), config.top_ratio)
    if config.policy == "diverse":
        passed = _one_per_cluster(index, passed, step.how)
    places = choose(index.columns["quality"][passed], index.columns["domain"][passed], index.texts("domain"), total,
                    policy=config.policy, spread=config.enable_diversity, most=config.max_per_domain,
                    seed=seed)  # fmt: skip
    return passed[places]


def _one_per_cluster(index: Index, rows: np.ndarray, how: How) -> np.ndarray:
    """The best row of each group of near-duplicates, in the rows' order."""
    ids = clusters(_subset(index, rows), NEAR, how)
    order = np.lexsort((-index.columns["quality"][rows], ids))
    first = np.ones(len(order), bool)
    first[1:] = ids[order[1:]] != ids[order[:-1]]
    return rows[np.sort(order[first])]


def _write_tagged(index: Index, chosen: np.ndarray, versions: list[str] | None, out: Any) -> None:
    if versions is None:
        copy_rows(index, chosen, out)
        return
    for raw, file in zip(read_at(index, chosen), index.file[chosen].tolist(), strict=True):
        out.write_raw(_tagged(raw, versions[file]))


_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def _tagged(raw: bytes, version: str) -> bytes:
    """The row with its version; every other value keeps its own bytes, numbers of any size and escapes included."""
    row: dict[str, Any] = _raw_fields(raw)
    old = bytes(row.get("_metadata", b"null"))
    metadata = dict(_raw_fields(old)) if old[:1] == b"{" else {}
    seen = {key: msgspec.json.decode(metadata[key]) for key in _TAGS if key in metadata}
    row["_metadata"] = {**metadata, **tag(seen, version)}
    return _encode(row)


_TAGS = ("rehearsal_version", "rehearsal_history")


def _count(step: Step, index: Index, out: np.ndarray, twins: np.ndarray) -> None:
    """Fates of all rows of the index: written, left out as near-duplicates, the rest filtered."""
    fate = np.zeros(len(index), "i1")
    fate[out], fate[twins] = 1, 2
    step.counts.add(index.counts)
    step.counts.out, step.counts.duplicates = len(out), len(twins)
    step.counts.filtered = len(index) - len(out) - len(twins)
    step.by_domain.update(index.tally("domain", out))
    names = ("filtered", "out", "duplicates")
    tallies = {name: index.tally("source", np.flatnonzero(fate == code)) for code, name in enumerate(names)}
    for source in sorted({s for tally in tallies.values() for s in tally}):
        fates = {name: tally[source] for name, tally in tallies.items() if source in tally}
        step.by_source[source] = {"read": sum(fates.values()), **fates}


def mix_rehearsal(
    buffer: Path | str,
    new_data: Path | str | Sequence[Path | str],
    output: Path | str,
    rehearsal_ratio: float = 0.3,
    *,
    exclude: Path | str | Sequence[Path | str] = (),
    shuffle: bool = True,
    seed: int = 42,
    policy: str = "top-quality",
    near: float | None = NEAR,
    how: How | None = None,
) -> RehearsalResult:
    """Write all new rows and as many rows of the buffer as make up `rehearsal_ratio` of the whole, verbatim.

    Rows of the buffer stay out that are near-duplicates of a new row, of each other, or of a row in `exclude`, or
    that share a session with a row in `exclude`. A short buffer is reported with the ratio reached. With ratio 1 the
    mix is the buffer alone.

    Args:
        exclude: validation and test files, or folders of splits (their `val.jsonl` and `test.jsonl`).
        shuffle: False writes the new rows first, then those of the buffer.
        near: similarity of near-duplicates; None leaves out only the texts and sessions of `exclude`.

    Raises:
        UsageError: a ratio outside 0 to 1, an unknown policy, a folder without splits.
        StepError: no usable row, or the buffer has nothing left to give.
    """
    _check_policy(policy)
    old_count(0, rehearsal_ratio, 0)
    if near is not None:
        check_threshold(near)
    fresh = [new_data] if isinstance(new_data, str | Path) else list(new_data)
    kept_out = _held_out(exclude)
    target = expand(output)
    parameters = {"ratio": rehearsal_ratio, "policy": policy, "shuffle": shuffle, "near": near, "new": len(fresh)}
    with Step("rehearsal-mix", [buffer, *fresh, *kept_out], [target], parameters, seed=seed, how=how) as step:
        if not step.current:
            with plain_files(step.inputs) as plain:
                _mix(step, plain, 1 + len(fresh), target, rehearsal_ratio, shuffle, policy, near)
    done = step.report.details
    return RehearsalResult(done["used"], done["new"], done["ratio_reached"], target, step.report)


def _held_out(exclude: Path | str | Sequence[Path | str]) -> list[Path]:
    found = []
    for name in [exclude] if isinstance(exclude, str | Path) else exclude:
        path = expand(name)
        if not path.is_dir():
            found.append(path)
            continue
        splits = [path / f"{split}.jsonl" for split in ("val", "valid", "test") if (path / f"{split}.jsonl").is_file()]
        if not splits:
            raise UsageError(f"{path} holds neither val.jsonl nor test.jsonl; name a folder of splits, or the files")
        found += splits
    return found


def _mix(step: Step, plain, mixed_files: int, target: Path, ratio: float, shuffle: bool, policy: str, near) -> None:
    """Files 0: the buffer; 1 … mixed_files - 1: new data; the others: held out."""
    outside = {str(p) for p in step.inputs[mixed_files:]}
    index = _scanned(step, plain, lambda bad: None if bad.file in outside else step.on_bad(bad))
    pool, new = np.flatnonzero(index.file == 0), np.flatnonzero((index.file > 0) & (index.file < mixed_files))
    if not len(pool) or not (len(new) or ratio == 1):
        raise StepError(f"no usable row in {step.inputs[0] if not len(pool) else step.inputs[1]}; nothing was written")
    wanted = old_count(len(new), ratio, len(pool))
    taken = new if ratio < 1 else new[:0]
    near = near if wanted else None  # a mix without rehearsal needs no signatures
    free, like_new, like_held = _free(index, pool, taken, mixed_files, near, step.how)
    if wanted and not len(free):
        raise StepError(f"all {len(pool):,} rows of the buffer {step.inputs[0]} are near-duplicates of the new data "
                        f"({like_new:,}) or of what is held out ({like_held:,}); use other data, or a buffer of an "
                        f"earlier version")  # fmt: skip
    chosen = free[choose(index.columns["quality"][free], index.columns["domain"][free], index.texts("domain"), wanted,
                         policy=policy, seed=step.seed or 0)]  # fmt: skip
    order = np.concatenate([taken, chosen])
    if shuffle:
        order = np.random.default_rng(step.seed or 0).permutation(order)
    with step.writer(target) as out:
        copy_rows(index, order, out)
    twins = np.setdiff1d(pool, free, assume_unique=True)
    _count(step, _mixed_only(index, mixed_files), order, twins)
    reached = len(chosen) / len(order) if len(order) else 0.0
    each_other = len(twins) - like_new - like_held
    step.details.update(new=len(taken), wanted=wanted, used=len(chosen), ratio_reached=reached,
                        excluded={"new": like_new, "held_out": like_held, "each_other": each_other})  # fmt: skip
    step.note(f"{len(chosen):,} of the buffer and {len(taken):,} new rows: rehearsal ratio {reached:.4f}")
    if len(twins):
        step.note(f"left out of the buffer: {like_new:,} near-duplicates of new rows, {like_held:,} of rows held out, "
                  f"{each_other:,} of each other")  # fmt: skip
    if len(chosen) < wanted:
        step.note(_short(len(chosen), wanted, ratio, reached))


def _free(
    index: Index, pool: np.ndarray, new: np.ndarray, mixed_files: int, near: float | None, how: How
) -> tuple[np.ndarray, int, int]:
    """(rows of the buffer that may be used, rows like new ones, rows like held-out ones or of their sessions)."""
    held = np.flatnonzero(index.file >= mixed_files)
    sessions = np.unique(index.columns["session"][held])
    of_session = np.isin(index.columns["session"][pool], sessions[sessions != 0])
    if near is None:
        as_held = of_session
        if len(held):  # what a model is judged by is never trained on, however little is looked for
            texts = text_column(index, "all", how)
            as_held = as_held | ((texts[pool] != 0) & np.isin(texts[pool], texts[held]))
        return pool[~as_held], 0, int(as_held.sum())
    ids = clusters(index, near, how)
    as_held = of_session | np.isin(ids[pool], ids[held])
    as_new = ~as_held & np.isin(ids[pool], ids[new])
    free = pool[~as_held & ~as_new]
    order = np.lexsort((-index.columns["quality"][free], ids[free]))
    first = np.ones(len(order), bool)
    first[1:] = ids[free][order[1:]] != ids[free][order[:-1]]
    return free[np.sort(order[first])], int(as_new.sum()), int(as_held.sum())


def _mixed_only(index: Index, mixed_files: int) -> Index:
    """The index without the held-out files, which are looked at and are no input rows of the mix."""
    from afs.jsonl import Counts

    found = _subset(index, np.flatnonzero(index.file < mixed_files))
    found.counts = Counts()
    for counts in index.counts_by_file[:mixed_files]:
        found.counts.add(counts)
    return found
