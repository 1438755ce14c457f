"""The Skill Forge's side of the arena: the hero that is asked how hard data is, and the acceptance of a forged skill.

    python3 -m training forge skill --from DATA          # asks the newest checkpoint of the active campaign
    python3 -m training forge accept FOLDER              # trains a copy for some steps; the campaign is not touched

Everything is read from the realm and written to a temporary home: battle code, checkpoints and database of the
acceptance are the real ones, but none of the running campaign's. Torch is loaded through `heroes.model` when a hero is
first asked.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from afs.jsonl import Row, file_sha256
from realm import db
from realm.arena import plan
from realm.guild import campaigns
from realm.guild.forge import ForgeError, gain, report
from realm.guild.forge.build import module_hash
from realm.guild.forge.rows import Check, Item, asked, plain
from realm.guild.modules.skill import ModuleSkill
from realm.guild.skills import Problem, Skill, SkillError, get_skill
from realm.guild.skills.base import keyed_rng
from realm.heroes.chat import RenderError
from realm.heroes.profile import HeroProfile, load_profile, weights_folder
from realm.quests import board
from realm.settings import RealmHome
from realm.temple.cleric import Gate, Rejection
from realm.vault import checkpoints

WORKER = "forge"
STEPS = 300
ASKED = 240  # held-out questions, before and after


@dataclass(frozen=True)
class Stock:
    """A hero as it is now: its recipe, the folder of its weights (None: an embedded hero's base weights, to be made)
    and the checkpoint that they are (None: base weights)."""

    profile: HeroProfile
    folder: Path | None
    checkpoint: str | None
    seed: int

    @property
    def words(self) -> str:
        """For reports."""
        return f"{self.profile.id} {f'at checkpoint {self.checkpoint}' if self.checkpoint else 'with base weights'}"


def stock(home: RealmHome, hero_id: str | None = None) -> Stock:
    """The hero to ask: the active campaign's newest checkpoint when the campaign is this hero's, else base weights.

    Nothing is written, not even an alert for a checkpoint that is damaged.

    Raises:
        ProfileError: no such hero, or its weights are not here.
        ForgeError: the newest checkpoint does not verify.
    """
    row, campaign = _newest(home)
    wanted = hero_id or (campaign["hero_id"] if campaign else home.settings.default_hero)
    profile = load_profile(wanted, home)
    if campaign is not None and campaign["hero_id"] == wanted and row is not None:
        folder = home.root / row["path"]
        problems = checkpoints.verify(folder, row["manifest_sha256"])
        if problems:
            raise ForgeError("checkpoint", f"checkpoint {row['id']} cannot be asked: {problems[0]}; mend it, or pass "
                             "--no-hero")  # fmt: skip
        return Stock(profile, folder, row["id"], campaign["seed"])
    folder = None if profile.embedded else weights_folder(profile, home)
    return Stock(profile, folder, None, campaign["seed"] if campaign else profile.seed)


def _newest(home: RealmHome) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(newest live checkpoint, active campaign) of the realm, None where there is none."""
    if not home.database.exists():
        return None, None
    engine = db.connect(home)
    try:
        with db.read(engine) as connection:
            campaign = campaigns.active(connection)
            return (campaigns.parent_checkpoint(connection, campaign["id"]) if campaign else None), campaign
    finally:
        engine.dispose()


class AskedHero:
    """`forge.build.Hero` over loaded weights."""

    def __init__(self, profile: HeroProfile, folder: Path, checkpoint: str | None) -> None:
        from realm.heroes.model import Hero

        self.hero = Hero.load(profile, folder)
        self.id, self.checkpoint, self.vocabulary = profile.id, checkpoint, len(self.hero.tokenizer)

    def losses(self, items: Sequence[Item]) -> list[float]:
        """Nats per answer token, NaN for a row that this hero cannot render."""
        found = []
        for item in items:
            rows, _ = self.hero.render([_messages(item.prompt, item.golden)])
            found.append(self.hero.loss(rows) if rows else math.nan)
        return found

    def answers(self, prompts: Sequence[str], room: int) -> list[str]:
        """Greedy answers; "" to a prompt that does not fit."""
        limit = self.hero.profile.model.context_length
        fits = [place for place, prompt in enumerate(prompts) if self._length(prompt) + room <= limit]
        given = self.hero.answer([_messages(prompts[place]) for place in fits], room)
        found = dict(zip(fits, (text for text, _ in given), strict=True))
        return [found.get(place, "") for place in range(len(prompts))]

    def _length(self, prompt: str) -> int:
        from realm.heroes import chat

        try:
            return len(chat.prompt_ids(_messages(prompt), self.hero.tokenizer, self.hero.profile.chat.thinking))
        except RenderError:
            return self.hero.profile.model.context_length


def _messages(prompt: str, golden: str | None = None) -> list[dict[str, str]]:
    answer = [] if golden is None else [{"role": "assistant", "content": golden}]
    return [{"role": "user", "content": prompt}, *answer]


@contextlib.contextmanager
def throwaway() -> Iterator[RealmHome]:
    """A realm home that is gone afterwards, with a database."""
    with tempfile.TemporaryDirectory(prefix="forge-") as folder:
        made = RealmHome(Path(folder) / "realm", {}).create()
        db.migrate(made)
        yield made


@contextlib.contextmanager
def asked_hero(home: RealmHome, hero_id: str | None = None) -> Iterator[AskedHero]:
    """The loaded hero of `stock`."""
    found = stock(home, hero_id)
    with throwaway() as aside:
        yield AskedHero(found.profile, _base(found, aside), found.checkpoint)


def _base(found: Stock, aside: RealmHome) -> Path:
    """Folder of the weights; an embedded hero that has no checkpoint is born in the temporary home."""
    if found.folder is not None:
        return found.folder
    from realm.heroes.model import make_embedded

    return make_embedded(found.profile, aside)


def gate(skills: Sequence[Skill], own: str) -> Check:
    """The Cleric's checks for the forge: roles, formats, no held-out problem of other skills, no item of the passives.

    Args:
        own: id of the skill that is forged; an installed earlier version of it must not filter its own data.
    """
    examiners = {skill.id: skill for skill in (*skills, get_skill("passives")) if skill.id != own}
    made = Gate(list(examiners.values()), None)

    def check(row: Row) -> str | None:
        try:
            made.passes(row)
        except Rejection as no:
            return None if no.fate == "duplicate" else f"{no.code}: {no.text}"
        return None

    return check


# --- acceptance -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forged:
    """A proposal on disk whose files are as the forge wrote them."""

    folder: Path
    report: dict[str, Any]
    held_out: tuple[dict[str, Any], ...]

    @property
    def module(self) -> Path:
        return self.folder / self.report["module"]


def read_proposal(folder: Path) -> Forged:
    """The proposal in a folder.

    Raises:
        ForgeError: none is there, or a file was changed since: the evidence would not belong to it.
    """
    file = folder / report.REPORT
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        module, name = made["module_sha256"], made["module"]
        if Path(name).name != name:
            raise ValueError(f"module {name!r} is no plain name")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ForgeError("no_proposal", f"{folder} holds no proposal of the forge ({error}); make one with `python3 -m "
                         "training forge skill --from DATA`") from error  # fmt: skip
    held = folder / report.HELD_OUT
    if not (folder / name).is_dir() or module_hash(folder / name) != module:
        raise ForgeError("changed", f"{folder / name} is not the module that the report speaks of; forge it again, or "
                         "install it yourself with `python3 -m training module install`")  # fmt: skip
    if not held.is_file() or file_sha256(held) != made.get("held_out_sha256"):
        raise ForgeError("changed", f"{held} is not the file that the report speaks of; forge it again")
    return Forged(folder, made, tuple(json.loads(line) for line in held.read_bytes().splitlines()))


def accept(
    folder: Path, home: RealmHome, hero_id: str | None = None, steps: int = STEPS, say: Callable[[str], None] = print,
    change: Callable[[HeroProfile], HeroProfile] = lambda profile: profile,
) -> dict[str, Any]:  # fmt: skip
    """A short campaign segment with the forged skill in a home of its own; the verdict goes into the report.

    Args:
        steps: optimizer steps of the segment.
        say: told what is being done.
        change: another recipe than the hero's own, for tests.

    Raises:
        ForgeError: no sound proposal, or the battle failed.
    """
    if steps < 1:
        raise ForgeError("steps", f"steps {steps}: a segment has at least 1 optimizer step; the default is {STEPS}")
    proposal = read_proposal(folder)
    found = stock(home, hero_id)
    profile = change(found.profile)
    skill = ModuleSkill(proposal.module, proposal.report["id"])
    held = _questions(proposal, skill)
    started = time.perf_counter()
    with throwaway() as aside:
        base = _base(Stock(profile, found.folder, found.checkpoint, found.seed), aside)
        profile = profile.model_copy(update={"model": profile.model.model_copy(update={"path_or_hub_id": str(base)})})
        say(f"asking {found.words}: {len(held)} held-out questions")
        before = _measure(AskedHero(profile, base, found.checkpoint), skill, held)
        rows = training_rows(skill, held, steps * profile.rows_per_step, found.seed)
        say(f"training a copy for {steps} steps on {len(rows)} rows")
        trained = _fight(aside, profile, rows, steps, found.seed)
        after = _measure(AskedHero(profile, trained, None), skill, held)
    answer, common = Counter(plain(problem.golden) for problem in held).most_common(1)[0]
    verdict = gain.judge(sum(before), sum(after), len(held), answer, common)
    made = {**verdict.to_dict(), "hero": found.words, "steps": steps, "rows": len(rows),
            "seconds": round(time.perf_counter() - started, 1), "by_level": _by_level(held, before, after)}  # fmt: skip
    noted = {**proposal.report, "verdict": "accepted" if verdict.accepted else "not accepted", "acceptance": made}
    report.write(noted, folder)
    return noted


def _questions(proposal: Forged, skill: ModuleSkill) -> list[Problem]:
    """At most ASKED held-out problems, the same for every call."""
    rows = list(proposal.held_out)
    if len(rows) > ASKED:
        rows = keyed_rng("forge", "asked", proposal.report["module_sha256"]).sample(rows, ASKED)
    try:
        return [skill.problem_of(row["messages"][0]["content"]) for row in rows]
    except (SkillError, KeyError, IndexError, TypeError) as error:
        raise ForgeError("changed", f"{proposal.folder}: a held-out row is no problem of its module ({error}); forge "
                         "it again") from error  # fmt: skip


def training_rows(skill: Skill, held: Sequence[Problem], count: int, seed: int) -> list[list[dict[str, str]]]:
    """Conversations of the training split, every level alike, none of them a question that will be asked.

    Raises:
        ForgeError: nothing is left to train on.
    """
    closed = {problem.canonical for problem in held} | {asked(problem.prompt) for problem in held}
    made: list[Problem] = []
    for level in range(1, skill.max_level + 1):
        share = count // skill.max_level + (level <= count % skill.max_level)
        left = _without(skill.generate(level, share, seed), closed)
        for lap in range(1, 9):
            if len(left) >= share or not left:
                break
            left += _without(skill.generate(level, share, seed + lap), closed)
        if not left:
            raise ForgeError("nothing_left", f"level {level} of {skill.id}: every problem of training is also a "
                             "held-out question; forge it again with more data")  # fmt: skip
        made += [left[place % len(left)] for place in range(share)]
    keyed_rng("forge", "order", skill.id, seed).shuffle(made)
    return [problem.messages for problem in made]


def _without(problems: Sequence[Problem], closed: set[str]) -> list[Problem]:
    return [p for p in problems if p.canonical not in closed and asked(p.prompt) not in closed]


def _measure(hero: AskedHero, skill: Skill, held: Sequence[Problem]) -> list[bool]:
    room = max(info.max_new_tokens for info in skill.levels())
    answers = hero.answers([problem.prompt for problem in held], room)
    return [skill.grade(problem, answer).correct for problem, answer in zip(held, answers, strict=True)]


def _by_level(held: Sequence[Problem], before: Sequence[bool], after: Sequence[bool]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for problem, was, now in zip(held, before, after, strict=True):
        one = found.setdefault(str(problem.level), {"n": 0, "before": 0, "after": 0})
        one["n"] += 1
        one["before"] += was
        one["after"] += now
    return dict(sorted(found.items()))


def _fight(aside: RealmHome, profile: HeroProfile, rows: list[list[dict[str, str]]], steps: int, seed: int) -> Path:
    """One quest, fought by the battle child's own code in this process; returns the folder of its checkpoint.

    Raises:
        ForgeError: the battle did not end as trained.
    """
    from realm.arena import battle

    path = aside.queue / "high" / "forged.jsonl"
    path.write_text("".join(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    engine = db.connect(aside)
    try:
        with db.write(engine) as connection:
            campaign_id = campaigns.ensure_active(connection, profile.id, profile.model_dump(mode="json"), seed)
            campaign = campaigns.get(connection, campaign_id)
            quest_id = board.enqueue(connection, board.NewQuest(
                id=db.new_id(), name="forged", kind="file", lane="high", campaign_id=campaign_id,
                path=path.relative_to(aside.root).as_posix(), rows=len(rows), steps=steps,
                content_sha256=file_sha256(path), format="messages"))  # fmt: skip
            quest = board.get(connection, quest_id)
            config = plan.battle_config(connection, campaign, profile, quest, [])
            battle_id = plan.start_battle(connection, WORKER, config, quest)
            query = sa.select(db.battles).where(db.battles.c.id == battle_id)
            row = dict(connection.execute(query).mappings().one())
        worker = battle.Worker(aside, WORKER)
        try:
            worker.serve(row)
        finally:
            worker.orders.close()
            worker.engine.dispose()
        with db.read(engine) as connection:
            ended = connection.execute(query).mappings().one()
            if ended["outcome"] != "trained":
                raise ForgeError("battle", f"the segment ended as {ended['outcome']}: {ended['error']}; nothing was "
                                 "accepted")  # fmt: skip
            last = connection.execute(sa.select(db.checkpoints.c.path).where(
                db.checkpoints.c.id == ended["checkpoint_id"])).scalar_one()  # fmt: skip
        return aside.root / last
    finally:
        engine.dispose()
