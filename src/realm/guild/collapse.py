"""The collapse guard: does a hero that lives on its own practice still stand on its feet? (realm-rules §13)

    verdict = judge(history(connection, campaign_id))          # "watching", "sound" or "collapse", with its evidence

A *generation* is one finished idle quest. Of each three things are measured, per (skill, level) that it practised:

* diversity of the hero's own answers in its trials, as a share of the diversity that the right answers to the very
  same problems have (so that a harder level or another mix of questions does not look like a change of the hero);
* held-out strain: the loss of the right answers in these trials;
* the loss of a frozen shard of human text (trials of kind "passive"). It is asked every ten quests at the latest and
  stands until it is asked again; where it was never asked, two measures are left, and the verdict says so.

A measure drifts when the median of the last three generations is more than 10 % worse than the median of the three
before, and every one of the three is worse than each of those three. The second half bounds false alarms whatever the
noise: by chance it holds in 1 of 20 cases. Collapse is two drifting measures of those that could be taken. What is
compared is always the same levels; a file quest or a new run begins the count anew, for then it is not idle practice
that moved the hero.

Everything here reads or computes; `arena/rollback.py` acts on it. See the state of a campaign's guard with
`python3 -m training vault guard`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns, progress

WINDOW = 3  # generations of each of the two windows
DRIFT = 0.10
NEEDED = 2  # drifting measures
HUMAN_TEXT = 2  # level of the passives suite that is human text
SLACK = 0.1  # nats per token: below this strain is recovery (realm-rules §2), and 0.01 → 0.02 is no collapse
SHARD_KNOWN = 5.0  # nats per token: a text that the hero never knew (a guess among 148 tokens) cannot be forgotten
MIN_ITEMS = 20  # answers below which their diversity says nothing
ROLLBACKS, WITHIN = 2, 20  # so many alarms in so many idle quests: the realm rests
MEASURES = ("diversity", "strain", "shard")
IDLE_KINDS = ("idle", "rehearsal")
ASKED = ("promotion", "retention", "scout", "probe")

Strata = Mapping[str, tuple[float, float]]
"""{"skill:level": (value, weight)}."""


@dataclass(frozen=True)
class Generation:
    """The three measures of one idle quest; a measure that could not be taken is empty."""

    quest_id: str
    name: str
    diversity: Strata = field(default_factory=dict)
    strain: Strata = field(default_factory=dict)
    shard: Strata = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Generation:
        strata = {m: {key: (float(v), float(w)) for key, (v, w) in values[m].items()} for m in MEASURES}
        return cls(values["quest_id"], values["name"], **strata)


@dataclass(frozen=True)
class Drift:
    """How far one measure moved. `worse`: share by which it is worse (negative = better); `apart`: each of the last
    three generations is worse than each of the three before; `levels`: what was compared."""

    measure: str
    worse: float
    apart: bool
    levels: tuple[str, ...]

    @property
    def alarming(self) -> bool:
        return self.apart and self.worse > DRIFT


@dataclass(frozen=True)
class Verdict:
    """`state`: watching (too few generations or measures) | sound | collapse."""

    state: str
    reason: str
    drifts: tuple[Drift, ...] = ()
    generations: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# --- the rule -----------------------------------------------------------------------------------------------------


def judge(generations: Sequence[Generation]) -> Verdict:
    """The verdict on the last six generations, oldest first; pure."""
    last = list(generations)[-2 * WINDOW :]
    names = tuple(g.name for g in last)
    if len(last) < 2 * WINDOW:
        return Verdict("watching", f"{len(last)} of the {2 * WINDOW} idle quests in a row that are compared", (), names)
    found = (drift("diversity", [g.diversity for g in last], falls=True),
             drift("strain", [g.strain for g in last], slack=SLACK),
             drift("shard", [_known(g.shard) for g in last], slack=SLACK))  # fmt: skip
    drifts = tuple(d for d in found if d is not None)
    missing = [m for m, d in zip(MEASURES, found, strict=True) if d is None]
    without = f" ({', '.join(missing)} could not be compared)" if missing else ""
    if len(drifts) < NEEDED:
        short = f"{len(drifts)} of the {NEEDED} measures that a verdict needs{without}"
        return Verdict("watching", short, drifts, names)
    bad = [d for d in drifts if d.alarming]
    told = ", ".join(f"{d.measure} {d.worse:+.0%} worse" for d in (bad or drifts))
    if len(bad) < NEEDED:
        return Verdict("sound", f"{len(bad)} of {len(drifts)} measures drift: {told}{without}", drifts, names)
    why = f"{told} over the last {WINDOW} idle quests, compared with the {WINDOW} before{without}"
    return Verdict("collapse", why, drifts, names)


def drift(measure: str, values: Sequence[Strata], falls: bool = False, slack: float = 0.0) -> Drift | None:
    """How far a measure moved from the first half of the generations to the second, over the levels that both have.

    Each level is taken relative to its own median in the first half, so that levels count by their weight and not by
    the size of their loss. None when a generation shares no level with the others.

    Args:
        falls: whether a smaller value is the worse one.
        slack: added to every value, so that a change of next to nothing is none.
    """
    half = len(values) // 2
    shared = sorted(key for key in set().union(*values)
                    if all(sum(key in v for v in part) * 2 > half for part in (values[:half], values[half:])))
    bases = {key: median(v[key][0] for v in values[:half] if key in v) + slack for key in shared}
    bases = {key: base for key, base in bases.items() if base > 0 and math.isfinite(base)}
    index = []
    for strata in values:
        here = [(key, *strata[key]) for key in bases if key in strata and strata[key][1] > 0]
        whole = sum(weight for _, _, weight in here)
        if not whole:
            return None
        index.append(sum(weight * (value + slack) / bases[key] for key, value, weight in here) / whole)
    sign = -1 if falls else 1
    before, after = ([sign * x for x in part] for part in (index[:half], index[half:]))
    worse = (median(after) - median(before)) / abs(median(before))
    return Drift(measure, worse, min(after) > max(before), tuple(bases))


def _known(shard: Strata) -> Strata:
    return {key: pair for key, pair in shard.items() if pair[0] < SHARD_KNOWN}


# --- diversity ----------------------------------------------------------------------------------------------------


def answer_diversity(pairs: Iterable[tuple[str, str]]) -> float | None:
    """Diversity of the answers as a share of that of the right ones, 0 to 1; None when there is nothing to compare.

    The mean of two shares: distinct pairs of neighbouring words, and the entropy of the last word (which still sees a
    hero that copies the question and ends on the same result every time). Above 1 counts as 1: noise is no virtue.

    Args:
        pairs: (answer, right answer) to the same problem.
    """
    pairs = list(pairs)
    if len(pairs) < MIN_ITEMS:
        return None
    answers, right = ([pair[side].split() for pair in pairs] for side in (0, 1))
    shares = []
    for measured in (_distinct_pairs, _last_word_entropy):
        whole = measured(right)
        if whole > 0:
            shares.append(min(1.0, measured(answers) / whole))
    return sum(shares) / len(shares) if shares else None


def _distinct_pairs(texts: Sequence[Sequence[str]]) -> float:
    seen: set[tuple[str, str]] = set()
    total = 0
    for words in texts:
        found = list(zip(["\x02", *words], [*words, "\x03"], strict=True))
        seen.update(found)
        total += len(found)
    return len(seen) / total if total else 0.0


def _last_word_entropy(texts: Sequence[Sequence[str]]) -> float:
    """In nats; 0 when all end the same."""
    counts = Counter(words[-1] if words else "" for words in texts)
    return -sum(n / len(texts) * math.log(n / len(texts)) for n in counts.values()) if len(counts) > 1 else 0.0


# --- from the tables ----------------------------------------------------------------------------------------------


def key_of(campaign_id: str) -> str:
    """Where the guard keeps what it measured and did: {"generations": {quest: measures}, "acts": […]}."""
    return f"collapse:{campaign_id}"


def notes(connection: sa.Connection, campaign_id: str) -> dict[str, Any]:
    found = campaigns.value(connection, key_of(campaign_id)) or {}
    return {"generations": dict(found.get("generations", {})), "acts": list(found.get("acts", []))}


def history(connection: sa.Connection, campaign_id: str, known: Mapping[str, Any] | None = None) -> list[Generation]:
    """The last six idle quests in a row, oldest first.

    Args:
        known: measures that were taken before, by quest id; they are not read again.
    """
    table, since = db.quests, _since(connection, campaign_id)
    query = sa.select(table).where(
        table.c.campaign_id == campaign_id, table.c.state == "done", table.c.kind.in_(IDLE_KINDS),
        table.c.finished_at > since)  # fmt: skip
    newest = connection.execute(query.order_by(table.c.finished_at.desc(), table.c.id.desc()).limit(2 * WINDOW))
    known, found, shard = known or {}, [], None
    for quest in reversed(newest.mappings().all()):
        made = Generation.from_dict(known[quest["id"]]) if quest["id"] in known else measure(connection, quest)
        if not made.shard:
            shard = _shard_before(connection, campaign_id, quest["started_at"]) if shard is None else shard
            made = replace(made, shard=shard)
        shard = made.shard
        found.append(made)
    return found


def _shard_before(connection: sa.Connection, campaign_id: str, t: float | None) -> Strata:
    """The newest measurement of the human text before a time, on the line of steps that the hero goes on from."""
    trials, table = db.trials, db.checkpoints
    parent = campaigns.parent_checkpoint(connection, campaign_id)
    line = dict(campaigns.lineage(connection, parent["run_id"], parent["step"])) if parent else {}
    query = sa.select(trials.c.skill, trials.c.loss, trials.c.n, table.c.run_id, table.c.step).join(
        table, table.c.id == trials.c.checkpoint_id).where(
        trials.c.campaign_id == campaign_id, trials.c.kind == "passive", trials.c.level == HUMAN_TEXT,
        trials.c.loss.is_not(None), trials.c.n > 0, trials.c.started_at < (t or 0.0))  # fmt: skip
    for skill, loss, n, run, step in connection.execute(query.order_by(trials.c.started_at.desc()).limit(20)):
        if step <= line.get(run, -1) and math.isfinite(loss):
            return {f"{skill}:{HUMAN_TEXT}": (loss, float(n))}
    return {}


def _since(connection: sa.Connection, campaign_id: str) -> float:
    """From when on the hero has lived on idle practice alone, in one unbroken run, since the guard last acted."""
    table = db.quests
    query = sa.select(sa.func.max(table.c.finished_at)).where(
        table.c.campaign_id == campaign_id, table.c.state == "done", table.c.kind.not_in(IDLE_KINDS))  # fmt: skip
    acts = notes(connection, campaign_id)["acts"]
    run = campaigns.current_run(connection, campaign_id)
    return max(connection.execute(query).scalar() or 0.0, acts[-1]["t"] if acts else 0.0,
               run["created_at"] if run["parent_checkpoint_id"] else 0.0)  # fmt: skip


def measure(connection: sa.Connection, quest: Mapping[str, Any]) -> Generation:
    """The measures of one finished idle quest, from the trials of its battles."""
    battles = progress.quest_battles(connection, quest["id"], quest["campaign_id"], quest["started_at"])
    table = db.trials
    query = sa.select(table).where(table.c.battle_id.in_(battles), table.c.n > 0).order_by(table.c.started_at)
    practised = _practised(quest)
    answers: dict[str, list[tuple[str, str]]] = {}
    strain: dict[str, list[tuple[float, float]]] = {}
    shard: dict[str, list[tuple[float, float]]] = {}
    for trial in connection.execute(query).mappings():
        key = f"{trial['skill']}:{trial['level']}"
        loss = trial["loss"] if trial["loss"] is not None and math.isfinite(trial["loss"]) else None
        if trial["kind"] == "passive":
            if loss is not None and trial["level"] == HUMAN_TEXT:
                shard.setdefault(key, []).append((loss, trial["n"]))
        elif trial["kind"] in ASKED and key in practised and not trial["suspicious"]:
            answers.setdefault(key, []).extend(_answers(connection, trial["id"]))
            if loss is not None:
                strain.setdefault(key, []).append((loss, trial["n"]))
    diversity = {key: (value, float(len(pairs))) for key, pairs in answers.items()
                 if (value := answer_diversity(pairs)) is not None}  # fmt: skip
    return Generation(quest["id"], quest["name"], diversity, _pooled(strain), _pooled(shard))


def _practised(quest: Mapping[str, Any]) -> set[str]:
    found = {f"{quest['skill']}:{level}" for level in quest["mix"] or ()}
    for skill, mix in (quest["rehearsal"] or {}).items():
        found |= {f"{skill}:{level}" for level in mix} if isinstance(mix, Mapping) else set()
    return found


def _answers(connection: sa.Connection, trial_id: str) -> list[tuple[str, str]]:
    items = db.trial_items
    golden = sa.func.json_extract(items.c.problem, "$.golden")
    query = sa.select(items.c.response, golden).where(items.c.trial_id == trial_id)
    return [(response, right or "") for response, right in connection.execute(query)]


def _pooled(found: Mapping[str, list[tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """One mean per level, weighted by the problems asked."""
    sums = {key: (sum(v * n for v, n in pairs), sum(n for _, n in pairs)) for key, pairs in found.items()}
    return {key: (total / n, float(n)) for key, (total, n) in sums.items() if n}


def idle_quests(connection: sa.Connection, campaign_id: str) -> int:
    """Idle quests of the campaign that were trained to their end."""
    table = db.quests
    query = sa.select(sa.func.count()).where(
        table.c.campaign_id == campaign_id, table.c.state == "done", table.c.kind.in_(IDLE_KINDS))  # fmt: skip
    return int(connection.execute(query).scalar_one())


def must_rest(acts: Sequence[Mapping[str, Any]], quests: int) -> bool:
    """Whether the alarm that is about to be acted upon, after so many idle quests, is one too many to go on."""
    return sum(quests - act["quests"] <= WITHIN for act in acts) + 1 >= ROLLBACKS
