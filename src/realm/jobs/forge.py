"""School of the Forge: rows of a skill, and files through the refinery's own steps (`afs`)."""

from __future__ import annotations

from realm.guild.skills import get_skill
from realm.jobs import kinds
from realm.jobs.bench import Bench, Result
from realm.quests import idle

ROWS = "rows.jsonl"


def generate(payload: kinds.DataGen, bench: Bench) -> Result:
    """Rows of a skill's training split, graded and made diverse as those of an idle quest (`quests/idle.py`)."""
    skill = get_skill(payload.skill)
    order = idle.IdleOrder(skill.id, skill.version, dict(payload.counts), bench.task.seed)
    made = idle.write(order, bench.folder / ROWS)
    return Result({"skill": skill.id, "version": skill.version, "seed": order.seed, "rows": made["rows"],
                   "distinct": made["distinct"], "diversity": made["diversity"]}, files=(ROWS,))  # fmt: skip


def filter_rows(payload: kinds.DataFilter, bench: Bench) -> Result:
    """`afs training dedup`, then `afs training score` with a threshold where one is asked for."""
    from afs.training.dedup import dedup_jsonl
    from afs.training.scoring import score_jsonl

    source, kept = bench.source(payload.source), bench.folder / ROWS
    removed = bench.folder / "duplicates.jsonl"
    distinct = kept if payload.min_score is None else bench.folder / "distinct.jsonl"
    first = dedup_jsonl(source, distinct, near=payload.near, keep=payload.keep, duplicates_to=removed)
    summary = {"source": payload.source, "exact": first.exact, "near": first.near, "rows": first.kept}
    if payload.min_score is None:
        return Result(summary, files=(ROWS, removed.name))
    rejected = bench.folder / "rejected.jsonl"
    scored = score_jsonl(distinct, kept, min_score=payload.min_score, rejected=rejected)
    distinct.unlink()
    return Result({**summary, "rows": scored.report.counts.out, "filtered": scored.report.counts.filtered},
                  files=(ROWS, removed.name, rejected.name))  # fmt: skip


def convert(payload: kinds.DataConvert, bench: Bench) -> Result:
    """`afs training convert`."""
    from afs.training.converters.files import convert_file

    source, target = bench.source(payload.source), bench.folder / ROWS
    done = convert_file(source, target, payload.format, payload.thinking, payload.system, None, payload.allow_loss)
    files = tuple(sorted(path.name for path in bench.folder.iterdir() if path.suffix == ".jsonl"))
    return Result({"source": payload.source, "format": payload.format, "rows": done.report.counts.out}, files=files)
