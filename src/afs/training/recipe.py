"""The whole refinery from one file: sources → score → dedup → mix → rehearsal → split → convert → card → delivery.

    afs training run recipe.toml

Every step is content-addressed (see `afs.step`), so a run that was interrupted goes on where it was, and a run that
has nothing to do says so. Sections that the recipe does not name are left out. An example with every key is
`docs/recipe.toml`.
"""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from afs import plugins
from afs.generators.base import BaseGenerator
from afs.jsonl import COMPRESSED, AtomicWriter, Row, file_sha256, file_stem
from afs.step import (
    How,
    Mapped,
    Report,
    Step,
    StepError,
    UsageError,
    code_version,
    expand,
    map_rows,
    write_manifest,
)

_TEXT, _NUMBER, _TEXTS, _TABLE = (str,), (int, float), (list,), (dict,)
_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "": {"name": _TEXT, "out": _TEXT, "seed": (int,), "title": _TEXT, "license": _TEXT, "description": _TEXT,
         "source": (list,), "score": _TABLE, "dedup": _TABLE, "mix": _TABLE, "rehearsal": _TABLE, "split": _TABLE,
         "convert": _TABLE, "deliver": _TABLE},
    "source": {"name": _TEXT, "generator": _TEXT, "path": _TEXT, "input": _TEXT, "limit": (int,)},
    "score": {"profile": _TEXT, "min_score": _NUMBER, "electra": _TEXT, "symbols": _TEXTS, "use_asar": (bool,),
              "use_electra": (bool,)},
    "dedup": {"near": _NUMBER, "text": _TEXT},
    "mix": {"weights": _TABLE, "group_by": _TEXT, "max_total": (int,), "allow_oversample": (bool,),
            "max_repeats": (int,), "min_quality_score": _NUMBER},
    "rehearsal": {"buffer": _TEXT, "ratio": _NUMBER, "policy": _TEXT},
    "split": {"train": _NUMBER, "val": _NUMBER, "test": _NUMBER, "stratify_by": _TEXT, "near": _NUMBER,
              "group_by": _TEXTS},
    "convert": {"formats": _TEXTS, "thinking": _TEXT, "system": _TEXT, "allow_loss": (bool,)},
    "deliver": {"file": _TEXT, "to": _TEXT},
}  # fmt: skip
_WORDS = {_TEXT: "a text", (int,): "a whole number", _NUMBER: "a number", (list,): "a list", _TABLE: "a table",
          (bool,): "true or false"}  # fmt: skip
_NEEDED = {"rehearsal": "buffer", "deliver": "to"}


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe; `raw` is the file's content, `folder` where relative paths begin."""

    name: str
    out: Path
    seed: int
    raw: dict[str, Any]
    folder: Path

    def path(self, text: str) -> Path:
        """A path of the recipe: absolute, from `~`, or from the recipe's folder."""
        found = expand(text)
        return found if found.is_absolute() else self.folder / found


@dataclass
class RecipeResult:
    """The reports of all steps, in order, and the files at the end."""

    name: str
    out: Path
    reports: list[Report] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    delivered: list[Path] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "out": str(self.out), "files": [str(p) for p in self.files],
                "delivered": [str(p) for p in self.delivered], "skipped": self.skipped,
                "steps": [{**r.to_dict(), "current": r.current} for r in self.reports]}  # fmt: skip

    def summary(self) -> str:
        """One line per step, then where the result lies."""
        lines = [f"skipped {text}" for text in self.skipped]
        lines += [report.summary().splitlines()[0] for report in self.reports]
        lines.append(f"{self.name}: card and manifest in {self.out}")
        lines += [f"delivered: {path}" for path in self.delivered]
        return "\n".join(lines)


def load_recipe(path: Path | str) -> Recipe:
    """Read and check a recipe.

    Raises:
        UsageError: no such file, bad TOML, an unknown key (the message names the nearest), or a missing one.
    """
    path = expand(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"recipe {path} does not exist; an example is docs/recipe.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is no TOML file: {error}") from None
    _check_keys(raw, "", path)
    for section, content in raw.items():
        if section in _KEYS:
            for item in content if isinstance(content, list) else [content]:
                if not isinstance(item, dict):
                    raise UsageError(f"recipe {path}: [{section}] must be a table, found {item!r}")
                _check_keys(item, section, path)
                if section in _NEEDED and _NEEDED[section] not in item:
                    raise UsageError(f"recipe {path}: [{section}] needs the key {_NEEDED[section]!r}")
    if not raw.get("source"):
        raise UsageError(f"recipe {path}: it needs at least one [[source]] with generator and path, or input")
    for source in raw["source"]:
        if ("input" in source) == ("generator" in source) or ("generator" in source and "path" not in source):
            raise UsageError(f"recipe {path}: source {source.get('name')!r} needs either `input`, or `generator` and "
                             f"`path`")  # fmt: skip
        if "limit" in source and "input" in source:
            raise UsageError(f"recipe {path}: source {source.get('name')!r} is a file, of which all rows are taken; "
                             f"`limit` goes with a generator, and `max_total` in [mix] with all")  # fmt: skip
        if "name" not in source:
            raise UsageError(f"recipe {path}: every [[source]] needs a name (it is its weight's name too)")
    names = [source["name"] for source in raw["source"]]
    if len(set(names)) < len(names):
        raise UsageError(f"recipe {path}: two sources have one name ({', '.join(names)}); give each its own")
    folder = path.resolve().parent
    name = raw.get("name", path.stem)
    out = expand(raw.get("out", f"training_data/{name}"))
    return Recipe(name, out if out.is_absolute() else folder / out, int(raw.get("seed", 42)), raw, folder)


def _check_keys(found: dict[str, Any], section: str, path: Path) -> None:
    for key in found:
        if key not in _KEYS[section]:
            near = get_close_matches(key, _KEYS[section], 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(_KEYS[section]))}"
            raise UsageError(f"recipe {path}: unknown key {key!r} in {f'[{section}]' if section else 'the top'}{hint}")
        value, types = found[key], _KEYS[section][key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            where = f"[{section}] {key}" if section else key
            wanted = "[[source]], with two brackets" if key == "source" else _WORDS[types]
            raise UsageError(f"recipe {path}: {where} must be {wanted}, found {value!r}")


def make_generator(name: str, path: Path | str) -> BaseGenerator:
    """The generator of this name on a source: built-in `docs`, `code` or `oracle`, or a plug-in (`afs.generators`).

    Raises:
        UsageError: no such generator.
        FileNotFoundError: the source is not there.
    """
    from afs.generators.code import CodeGenerator
    from afs.generators.docs import DocsGenerator
    from afs.oracle.training_generator import OracleTrainingGenerator

    known: dict[str, Callable[[Path], BaseGenerator]] = {
        "docs": DocsGenerator, "code": CodeGenerator, "oracle": OracleTrainingGenerator}  # fmt: skip
    if name in known:
        return known[name](expand(path))
    if name in plugins.names("afs.generators"):
        return plugins.load("afs.generators", name)(expand(path))
    offered = sorted({*known, *plugins.names("afs.generators")})
    raise UsageError(f"no generator {name!r}; known: {', '.join(offered)}")


def run_recipe(path: Path | str, how: How | None = None) -> RecipeResult:
    """Run a recipe from its sources to the delivered file.

    Raises:
        UsageError: the recipe is wrong, or a file that it names is missing.
        StepError: a step failed; the steps before it are kept and not done again.
    """
    how = how or How()
    recipe = load_recipe(path)
    if how.dry_run:
        raise UsageError("a recipe's steps need each other's outputs, so there is no dry run; `out` in the recipe "
                         "may name a temporary folder")  # fmt: skip
    result = RecipeResult(recipe.name, recipe.out)
    work = recipe.out / "steps"
    work.mkdir(parents=True, exist_ok=True)
    run = _Run(recipe, how, result, work)
    files = run.sources()
    files = run.score(files)
    files = run.dedup(files)
    current = run.mix(files)
    current = run.rehearsal(current)
    run.split(current)
    run.convert()
    _write_card(recipe, result)
    run.deliver()
    return result


@dataclass
class _Run:
    recipe: Recipe
    how: How
    result: RecipeResult
    work: Path

    def _section(self, name: str) -> dict[str, Any] | None:
        return self.recipe.raw.get(name)

    def _done(self, report: Report) -> None:
        self.result.reports.append(report)

    def sources(self) -> dict[str, Path]:
        """A JSONL file per source: the one that is named, or what the generator makes (replaced when it differs)."""
        files = {}
        for source in self.recipe.raw["source"]:
            if "input" in source:
                files[source["name"]] = self.recipe.path(source["input"])
                if not files[source["name"]].is_file():
                    raise UsageError(f"source {source['name']!r}: {files[source['name']]} is no file; check `input`")
                continue
            target = self.work / f"{source['name']}.jsonl"
            fresh = self.work / f"{source['name']}.new.jsonl"
            generator = make_generator(source["generator"], self.recipe.path(source["path"]))
            made = generator.write(fresh, limit=source.get("limit"))
            self.result.skipped += [f"{source['name']}: {where}: {why}" for where, why in made.skipped]
            if not made.samples:
                raise StepError(f"source {source['name']!r}: generator {source['generator']!r} found nothing in "
                                f"{source['path']}; check the path")  # fmt: skip
            if target.exists() and file_sha256(target) == made.sha256:
                fresh.unlink()
            else:
                fresh.replace(target)
            files[source["name"]] = target
        return files

    def score(self, files: dict[str, Path]) -> dict[str, Path]:
        section = self._section("score")
        if section is None:
            return files
        from afs.training.scoring import ScoringConfig, score_jsonl

        options = {key: section[key] for key in ("use_asar", "use_electra") if key in section}
        electra = self.recipe.path(section["electra"]) if "electra" in section else None
        config = ScoringConfig.from_profile(
            section.get("profile", "generic"), electra_model_path=electra,
            symbols=tuple(str(self.recipe.path(s)) for s in section.get("symbols", ())), **options,
        )  # fmt: skip
        scored = {}
        for name, path in files.items():
            scored[name] = self.work / f"{name}_scored.jsonl"
            self._done(score_jsonl(path, scored[name], config=config, min_score=section.get("min_score"),
                                   how=self.how).report)  # fmt: skip
        return scored

    def dedup(self, files: dict[str, Path]) -> dict[str, Path]:
        section = self._section("dedup")
        if section is None:
            return files
        from afs.training.dedup import dedup_jsonl

        clean = {}
        for name, path in files.items():
            clean[name] = self.work / f"{name}_unique.jsonl"
            self._done(dedup_jsonl(path, clean[name], near=section.get("near"), text=section.get("text", "all"),
                                   how=self.how).report)  # fmt: skip
        return clean

    def mix(self, files: dict[str, Path]) -> Path:
        section = self._section("mix")
        if section is None:
            # No mix was asked for: all rows of all sources.
            return self._join(list(files.values()), "mixed") if len(files) > 1 else next(iter(files.values()))
        from afs.training.rebalancer import rebalance_dataset

        section = dict(section)
        # A weight names a source of the recipe; the step knows it by its file.
        if len({file_stem(path) for path in files.values()}) < len(files):
            files = {name: self._join([path], name) for name, path in files.items()}
        stems = {name: file_stem(path) for name, path in files.items()}
        weights = section.pop("weights", None)
        if weights is not None:
            weights = {stems.get(name, name): share for name, share in weights.items()}
        target = self.work / "mixed.jsonl"
        self._done(rebalance_dataset(list(files.values()), target, weights=weights, seed=self.recipe.seed,
                                     how=self.how, **section).report)  # fmt: skip
        return target

    def _join(self, files: list[Path], name: str) -> Path:
        """All rows of the files, verbatim, in one plain file of the working folder."""
        target = self.work / f"{name}.jsonl"
        if files == [target]:
            return target
        with Step("join", files, [target], {}, how=self.how) as step:
            if not step.current:
                with step.writer(target) as out:
                    map_rows(step, _keep, {"out": out})
                if not step.counts.out:
                    raise StepError(f"no usable row in {', '.join(map(str, files))}; nothing was written")
        self._done(step.report)
        return target

    def rehearsal(self, current: Path) -> Path:
        section = self._section("rehearsal")
        if section is None:
            return current
        from afs.training.rehearsal import mix_rehearsal

        target = self.work / "with_rehearsal.jsonl"
        policy = {"policy": section["policy"]} if "policy" in section else {}
        self._done(mix_rehearsal(self.recipe.path(section["buffer"]), current, target,
                                 rehearsal_ratio=section.get("ratio", 0.3), seed=self.recipe.seed, how=self.how,
                                 **policy).report)  # fmt: skip
        return target

    def split(self, current: Path) -> None:
        section = self._section("split")
        if section is None:
            target = self.recipe.out / f"{self.recipe.name}.jsonl"
            if current.suffix in COMPRESSED:
                current = self._join([current], "unpacked")
            if not target.exists() or file_sha256(target) != file_sha256(current):
                _copy(current, target)
            self.result.files.append(target)
            return
        from afs.training.splitter import split_dataset

        options = {key: section[key] for key in ("stratify_by", "near") if key in section}
        if "group_by" in section:
            options["group_by"] = tuple(section["group_by"])
        done = split_dataset(current, self.recipe.out / "splits", train_ratio=section.get("train", 0.8),
                             val_ratio=section.get("val", 0.1), test_ratio=section.get("test"),
                             seed=self.recipe.seed, how=self.how, **options)  # fmt: skip
        self._done(done.report)
        self.result.files += [self.recipe.out / "splits" / f"{name}.jsonl" for name in ("train", "val", "test")]

    def convert(self) -> None:
        section = self._section("convert")
        if section is None:
            return
        from afs.training.converters import convert_file

        for form in section.get("formats", []):
            for path in [p for p in self.result.files if p.exists() and p.stat().st_size]:
                ending = "parquet" if form == "parquet" else "jsonl"
                target = path.with_name(f"{path.name.removesuffix('.jsonl')}_{form}.{ending}")
                options = {key: section[key] for key in ("thinking", "system", "allow_loss") if key in section}
                self._done(convert_file(path, target, format=form, how=self.how, **options).report)

    def deliver(self) -> None:
        section = self._section("deliver")
        if section is None:
            return
        folder = self.recipe.path(section["to"])
        if not folder.is_dir():
            raise UsageError(f"[deliver] to = {str(folder)!r} is no folder; for the Realm it is <home>/inbox/high, "
                             f"which `python3 -m training start-all` makes")  # fmt: skip
        source = self.recipe.out / section.get("file", "splits/train.jsonl")
        if not source.is_file():
            raise UsageError(f"[deliver] file = {section.get('file')!r} is not in {self.recipe.out}")
        target = folder / f"{self.recipe.name}-{file_sha256(source)[:8]}.jsonl"
        _copy(source, target)
        self.result.delivered.append(target)


def _keep(rows: list[Row]) -> list[Mapped]:
    return [Mapped("out", {"out": row.raw}) for row in rows]


def _copy(source: Path, target: Path) -> None:
    """Copy in pieces, atomically: a watcher of the folder never sees half a file."""
    with open(source, "rb") as file, AtomicWriter(target) as out:
        while block := file.read(1 << 20):
            out.write_bytes(block, block.count(b"\n"))
    shutil.copymode(source, target)


def _write_card(recipe: Recipe, result: RecipeResult) -> None:
    """`README.md` in the form of a Hugging Face dataset card, and `manifest.json` that ties everything together."""
    files = []
    for path in result.files:
        with open(path, "rb") as source:
            rows = sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))
        files.append({"path": path.relative_to(recipe.out).as_posix(), "rows": rows, "bytes": path.stat().st_size,
                      "sha256": file_sha256(path)})  # fmt: skip
    manifest = {
        "name": recipe.name, "seed": recipe.seed, "code": code_version(), "recipe": recipe.raw, "files": files,
        "steps": [{"step": r.step, "key": r.key, "counts": asdict(r.counts), "notes": r.notes} for r in result.reports],
        "key": hashlib.sha256("".join(f["sha256"] for f in files).encode()).hexdigest()[:16], "outputs": files,
    }  # fmt: skip
    write_manifest(recipe.out / "manifest.json", manifest)
    with AtomicWriter(recipe.out / "README.md") as out:
        out.write_raw(_card(recipe, result, files).encode())


def _card(recipe: Recipe, result: RecipeResult, files: list[dict[str, Any]]) -> str:
    raw = recipe.raw
    splits = {Path(f["path"]).stem: f for f in files}
    hub_names = {"val": "validation", "test": "test"}  # as the Hub calls its splits
    configs = "\n".join(f"  - split: {hub_names.get(name, 'train')}\n    path: {f['path']}"
                        for name, f in splits.items() if f["rows"])  # fmt: skip
    last = result.reports[-1] if result.reports else None
    domains = next((r.by_domain for r in reversed(result.reports) if r.by_domain), {})
    lines = [
        "---", f"license: {raw.get('license', 'other')}", f"pretty_name: {raw.get('title', recipe.name)}",
        "configs:", "- config_name: default", "  data_files:", configs, "---", "",
        f"# {raw.get('title', recipe.name)}", "", raw.get("description", "Made by a recipe of the refinery."), "",
        "| file | rows | bytes | sha256 |", "|---|---|---|---|",
        *[f"| {f['path']} | {f['rows']:,} | {f['bytes']:,} | `{f['sha256'][:16]}` |" for f in files], "",
        "## How it was made", "", "| step | in | out | filtered | duplicate | quarantined |",
        "|---|---|---|---|---|---|",
        *[f"| {r.step} | {r.counts.read:,} | {r.counts.out:,} | {r.counts.filtered:,} | {r.counts.duplicates:,} | "
          f"{r.counts.quarantined:,} |" for r in result.reports], "",
        *(["## Domains", "", *[f"- {name}: {n:,}" for name, n in domains.items()], ""] if domains else []),
        f"Seed {recipe.seed}; the manifest beside this card names every input by its hash.",
    ]  # fmt: skip
    if last is not None and last.notes:
        lines += ["", "## Notes", "", *[f"- {note}" for r in result.reports for note in r.notes]]
    return "\n".join(lines)
