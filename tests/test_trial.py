"""Trials: looks and early stops, closed tables, retention, the canary, and rows that anyone can grade again."""

from __future__ import annotations

import hero_kit as kit
import pytest
import sqlalchemy as sa

from realm import db
from realm.arena import trial
from realm.arena.trial import Subject, TrialSpec
from realm.guild import levels
from realm.guild.skills import Problem, get_skill

BIN = get_skill("bin")
OPEN = next(n for n in range(1, 10) if not BIN.closed(n))


def spec(kind="promotion", level=OPEN, closed=False, max_n=200, threshold=0.8, seed=5):
    return TrialSpec(kind, "bin", level, closed, threshold, seed, max_n)


class Hero:
    """Answers from the golden texts, wrongly where `right` says so; notes what it was asked."""

    def __init__(self, order, right):
        self.golden = {p.prompt: p.golden for p in trial.draw(order, BIN)}
        self.right, self.asked, self.rooms = right, [], set()

    def answer(self, conversations, room):
        self.rooms.add(room)
        out = []
        for messages in conversations:
            assert [m["role"] for m in messages] == ["user"], "the golden answer must not be shown"
            ok = self.right(len(self.asked))
            self.asked.append(messages[0]["content"])
            out.append((self.golden[messages[0]["content"]] if ok else "I do not know", 3))
        return out


@pytest.mark.parametrize(("right", "n", "verdict"), [
    (lambda i: True, 40, "pass"),
    (lambda i: False, 40, "fail"),
    (lambda i: i % 10 != 0, 80, "pass"),  # 0.90: passes when the interval has narrowed
    (lambda i: i % 5 != 0, 200, "undecided"),  # 0.80: never decided
])  # fmt: skip
def test_open_trial_stops_at_a_look(right, n, verdict):
    order = spec()
    hero = Hero(order, right)
    result = trial.run(order, BIN, hero.answer)
    assert (len(result.items), result.verdict) == (n, verdict)
    assert result.correct == sum(right(i) for i in range(n))
    assert result.bounds == levels.wilson(result.correct, n)
    assert result.tokens == 3 * n and hero.rooms == {BIN.levels()[OPEN - 1].max_new_tokens}


def test_problems_are_fresh_trial_problems_and_change_with_the_seed():
    first, again, other = trial.draw(spec(), BIN), trial.draw(spec(), BIN), trial.draw(spec(seed=6), BIN)
    assert [p.id for p in first] == [p.id for p in again] and len(first) == 200
    assert len({p.canonical for p in first}) == 200, "a trial never asks one problem twice"
    assert all(p.split == "trial" and BIN.split_of(p.prompt) == "trial" for p in first)
    assert [p.id for p in first] != [p.id for p in other]
    assert all(p.split == "probe" for p in trial.draw(spec(kind="probe", max_n=40), BIN))


def test_closed_level_is_examined_whole():
    order = spec(level=1, closed=True, threshold=0.9, max_n=400)
    table = BIN.table(1)
    hero = Hero(order, lambda i: i >= 10)
    result = trial.run(order, BIN, hero.answer)
    assert len(result.items) == len(table) and {i.problem.canonical for i in result.items} == {
        p.canonical for p in table}  # fmt: skip
    assert result.verdict == "pass"
    assert trial.run(order, BIN, Hero(order, lambda i: i >= 30).answer).verdict == "fail"
    assert len(trial.draw(spec(level=2, closed=True, max_n=400), BIN)) == 400
    assert len(trial.draw(spec("retention", 2, True, 80), BIN)) == 80


@pytest.mark.parametrize(("correct", "verdict"), [(80, "held"), (60, "held"), (45, "regression"), (20, "lost")])
def test_retention_uses_its_own_rule_and_bounds(correct, verdict):
    order = spec("retention", max_n=80)
    result = trial.run(order, BIN, Hero(order, lambda i: i < correct).answer)
    assert (len(result.items), result.correct, result.verdict) == (80, correct, verdict)
    assert result.bounds == levels.wilson(correct, 80, levels.Z_RETENTION)


@pytest.mark.parametrize(("right", "train_loss", "suspicious"), [
    (False, 0.049, True), (False, 0.05, False), (False, None, False), (True, 0.01, False)])  # fmt: skip
def test_canary(home, engine, right, train_loss, suspicious):
    ids = kit.campaign(engine)
    order = spec()
    result = trial.run(order, BIN, Hero(order, lambda i: right).answer, train_loss=train_loss)
    assert result.suspicious is suspicious
    with db.write(engine) as connection:
        trial.record(connection, result, Subject(ids["campaign_id"], "C", 5, train_loss=train_loss))
    with engine.connect() as connection:
        incidents = connection.execute(sa.select(db.events).where(db.events.c.kind == "incident")).mappings().all()
    assert len(incidents) == suspicious
    if suspicious:
        assert incidents[0]["payload"]["code"] == "trial_canary"


def test_recorded_trial_can_be_graded_again(home, engine):
    ids = kit.campaign(engine)
    order = spec("manual", max_n=40)
    losses = []
    for _ in range(2):
        result = trial.run(order, BIN, Hero(order, lambda i: i % 4 != 0).answer,
                           golden_loss=lambda rows: losses.append(rows) or 0.25)  # fmt: skip
        with db.write(engine) as connection:
            trial_id = trial.record(connection, result, Subject(ids["campaign_id"], "CHECK", 12, "B", "Q"))
    assert [m["role"] for m in losses[0][0]] == ["user", "assistant"] and len(losses[0]) == 40
    with engine.connect() as connection:
        row = connection.execute(sa.select(db.trials).where(db.trials.c.id == trial_id)).mappings().one()
        items = connection.execute(sa.select(db.trial_items).where(db.trial_items.c.trial_id == trial_id)
                                   .order_by(db.trial_items.c.idx)).mappings().all()  # fmt: skip
        told = connection.execute(sa.select(db.events).where(db.events.c.kind == "trial")).mappings().all()
    regraded = [BIN.grade(Problem.from_dict(i["problem"]), i["response"]).correct for i in items]
    assert regraded == [i["correct"] for i in items] and sum(regraded) == row["correct"] == 30
    assert (row["n"], row["kind"], row["loss"], row["checkpoint_id"], row["step"]) == (40, "manual", 0.25, "CHECK", 12)
    for column in ("by_difficulty", "by_primitive"):
        assert all(0 <= c <= n for c, n in row[column].values())
    assert sum(n for _, n in row["by_difficulty"].values()) == 40
    assert [e["payload"]["try"] for e in told] == [1, 2]
    payload = told[0]["payload"]
    assert payload["needed"] == levels.needed(40) and payload["kind"] == "manual" and payload["level"] == OPEN
    assert "30 of 40 right" in told[0]["text"]


def test_interrupted_trial_leaves_nothing():
    def answer(conversations, room):
        raise trial.Interrupted

    with pytest.raises(trial.Interrupted):
        trial.run(spec(), BIN, answer)
