"""The ledger computed again: a real campaign (stand-in child, real arena) agrees, and every forgery is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from loop_kit import Tables, running, tiny_home, wait_for

from realm import db
from realm.guild import campaigns
from realm.settings import RealmHome
from realm.temple.audit import SHOWN, audit

NEEDED = 4  # levels of the played campaign


@pytest.fixture(scope="module")
def played(tmp_path_factory, _empty_database) -> Path:
    """Four levels of BIN, mastered by quests of a stand-in child and settled by the real arena; made once."""
    home = RealmHome(tmp_path_factory.mktemp("played"), environ={}).create()
    shutil.copyfile(_empty_database, home.database)
    home = tiny_home(home, accuracy={"1": 1.0, "2": 1.0, "3": 1.0, "4": 0.97}, base=0.0)
    tables = Tables(home)
    with running(home):
        wait_for(lambda: len(tables.rows(db.levels)) >= NEEDED, what="four levels")
        wait_for(lambda: len(tables.rows(db.blessings)) >= 3, what="three blessings")
    with tables.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    tables.engine.dispose()
    return home.database


@pytest.fixture
def realm(home, played):
    """A copy of the played campaign, and its engine."""
    shutil.copyfile(played, home.database)
    made = Book(home)
    yield made
    made.engine.dispose()


class Book:
    def __init__(self, home: RealmHome) -> None:
        self.home, self.engine = home, db.connect(home)
        with db.read(self.engine) as connection:
            self.campaign = campaigns.active(connection)["id"]

    def report(self, regrade: bool = False):
        with db.read(self.engine) as connection:
            return audit(connection, self.campaign, regrade)

    def whats(self, regrade: bool = False) -> list[tuple[str, str]]:
        return [(d.about.split(" (")[0].split()[0], d.what) for d in self.report(regrade).differences]

    def do(self, statement) -> None:
        with db.write(self.engine) as connection:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            assert connection.execute(statement).rowcount, "the forgery must change something"

    def level_trial(self, level: int) -> str:
        with db.read(self.engine) as connection:
            return connection.execute(sa.select(db.levels.c.trial_id).where(db.levels.c.level == level)).scalar_one()


# --- what agrees --------------------------------------------------------------------------------------------------


def test_an_honest_campaign_agrees_whole(realm):
    report = realm.report(regrade=True)
    assert report.differences == [] and report.unchecked == []
    assert report.levels >= NEEDED and report.blessings >= 3 and report.xp == pytest.approx(report.recomputed_xp)
    with db.read(realm.engine) as connection:
        assert report.answers == connection.execute(sa.select(sa.func.count()).select_from(db.trial_items)).scalar()
        assert report.trials == connection.execute(sa.select(sa.func.count()).where(
            db.trials.c.skill.is_not(None))).scalar()  # fmt: skip


def test_recompute_never_writes(realm, run):
    realm.do(sa.update(db.levels).where(db.levels.c.level == 2).values(trial_id="gone"))
    with realm.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    before = realm.home.database.read_bytes()
    assert run("ledger", "recompute", "--regrade")[0] == 1
    assert run("ledger", "show")[0] == 0
    assert realm.home.database.read_bytes() == before
    wal = realm.home.database.with_name("realm.db-wal")
    assert not wal.exists() or wal.stat().st_size == 0


# --- forgeries ----------------------------------------------------------------------------------------------------


def test_forged_experience(realm):
    realm.do(sa.update(db.blessings).values(xp=db.blessings.c.xp + 5))
    report = realm.report()
    assert {d.what for d in report.differences} == {"xp"} and len(report.differences) == report.blessings
    assert report.xp == pytest.approx(report.recomputed_xp + 5 * report.blessings)


def test_forged_effort_in_the_metrics(realm):
    with db.read(realm.engine) as connection:
        battle = connection.execute(sa.select(db.blessings.c.battle_id).limit(1)).scalar_one()
    realm.do(sa.update(db.metrics).where(db.metrics.c.battle_id == battle).values(effort=db.metrics.c.effort + 1))
    assert ("blessing", "effort") in realm.whats()


@pytest.mark.parametrize("parts", [{}, [], {"checks": [{"name": "x"}], "levels": [], "probe": None, "retention": []},
                                   {"checks": [], "levels": [3], "probe": None, "retention": []}])  # fmt: skip
def test_parts_that_cannot_be_read_are_named(realm, parts):
    realm.do(sa.update(db.blessings).values(parts=parts))
    found = realm.report()
    assert {d.what for d in found.differences} >= {"parts"} and found.recomputed_xp == 0.0


def test_forged_evidence_of_a_blessing(realm):
    with db.read(realm.engine) as connection:
        row = connection.execute(sa.select(db.blessings)).mappings().first()
    parts = json.loads(json.dumps(row["parts"]))
    parts["levels"][0]["accuracy"] = 0.123
    realm.do(sa.update(db.blessings).where(db.blessings.c.id == row["id"]).values(parts=parts))
    assert any("evidence: accuracy" in what for _, what in realm.whats())


def test_a_level_without_its_trial(realm):
    realm.do(sa.update(db.levels).where(db.levels.c.level == 2).values(trial_id="gone"))
    (found,) = realm.report().differences
    assert (found.about, found.what, found.stored) == ("level bin L2", "trial that proves it", "gone")


def test_a_level_by_a_trial_that_does_not_pass(realm):
    realm.do(sa.update(db.levels).where(db.levels.c.level == 3).values(trial_id=realm.level_trial(1)))
    assert ("level", "level of its trial") in realm.whats()


def test_a_level_after_a_gap(realm):
    realm.do(sa.delete(db.levels).where(db.levels.c.level == 2))
    assert ("level", "L2 mastered before it") in realm.whats()


def test_a_level_beyond_the_skill(realm):
    row = {"campaign_id": realm.campaign, "skill": "bin", "level": 99, "closed": False, "mastered_at": 1.0, "step": 1,
           "trial_id": realm.level_trial(4)}  # fmt: skip
    realm.do(sa.insert(db.levels).values(**row))
    assert {what for _, what in realm.whats()} >= {"level", "L98 mastered before it"}


@pytest.mark.parametrize(("change", "what"), [
    ({"kind": "scout"}, "kind of its trial"), ({"suspicious": True}, "its trial is suspicious"),
    ({"step": 7}, "step of its trial"), ({"verdict": "fail"}, "verdict"),
])  # fmt: skip
def test_a_trial_changed_after_it_proved_a_level(realm, change, what):
    realm.do(sa.update(db.trials).where(db.trials.c.id == realm.level_trial(3)).values(**change))
    assert any(found.startswith(what) for _, found in realm.whats())


def test_counts_that_the_answers_do_not_bear_out(realm):
    trial = realm.level_trial(4)
    realm.do(sa.update(db.trials).where(db.trials.c.id == trial).values(correct=20))
    found = dict(reversed(realm.whats()))
    assert "verdict of its trial (20 of 40)" in {what for _, what in realm.whats()}
    assert {"trial", "level"} <= set(found)
    realm.do(sa.update(db.trials).where(db.trials.c.id == trial).values(correct=90, n=40))
    assert ("trial", "counts") in realm.whats(), "more right than asked is named, not fatal"


def test_answers_marked_wrongly_are_found_by_marking_again(realm):
    trial = realm.level_trial(1)
    items = db.trial_items
    realm.do(sa.update(items).where(items.c.trial_id == trial, items.c.idx < SHOWN + 3).values(response="nonsense"))
    assert realm.report().differences == [], "only marking again can tell"
    found = [d for d in realm.report(regrade=True).differences if d.about.startswith("trial")]
    assert len(found) == SHOWN + 1 and found[0].stored is True and found[0].found is False
    assert found[-1].found == 3 and "trial run --skill bin --level 1" in found[0].action


@pytest.mark.parametrize("problem", [{}, [], "x", {"skill": "bin", "level": "three"}, 7])
def test_a_stored_problem_that_cannot_be_read(realm, problem):
    items = db.trial_items
    realm.do(sa.update(items).where(items.c.trial_id == realm.level_trial(2), items.c.idx == 5).values(
        problem=problem))  # fmt: skip
    (found,) = [d for d in realm.report(regrade=True).differences if d.what == "stored problem"]
    assert found.action.startswith("answer 5: ")


def test_a_skill_that_is_gone_is_unchecked_not_different(realm):
    trial = realm.level_trial(4)
    realm.do(sa.update(db.trials).where(db.trials.c.id == trial).values(skill="gone-module"))
    report = realm.report(regrade=True)
    assert any("gone-module" in line for line in report.unchecked)


def test_a_champion_that_is_not_the_best(realm):
    with db.write(realm.engine) as connection:
        campaigns.set_value(connection, f"champion:{realm.campaign}", "somebody")
    (found,) = realm.report().differences
    assert (found.about, found.stored) == ("champion", "somebody") and "battle resume" in found.action


# --- the command --------------------------------------------------------------------------------------------------


def test_recompute_prints_and_answers_in_json(realm, run):
    code, out, _ = run("ledger", "recompute")
    assert code == 0 and "nothing differs" in out and "title        Apprentice, Bit Counter" in out
    code, out, _ = run("ledger", "recompute", realm.campaign, "--regrade", "--json")
    data = json.loads(out)
    assert code == 0 and data["same"] is True and data["regraded"] is True and data["answers"] > 500
    assert data["progression"]["title"]["total_level"] == NEEDED
    realm.do(sa.update(db.blessings).values(xp=db.blessings.c.xp * 2 + 1))
    code, out, _ = run("ledger", "recompute")
    assert code == 1 and "DIFFERENT    blessing of quest" in out and "next       " in out
    code, out, _ = run("ledger", "recompute", "--json")
    assert code == 1 and json.loads(out)["same"] is False


def test_show_sums_to_the_stored_experience(realm, run):
    code, out, _ = run("ledger", "show", "--json")
    data = json.loads(out)
    assert code == 0 and data["xp"] == pytest.approx(realm.report().xp)
    assert [(x["skill"], x["level"]) for x in data["levels"]] == [("bin", n) for n in range(1, NEEDED + 1)]
    code, out, _ = run("ledger", "show", "tiny-1")
    assert code == 0 and out.count("blessed") == sum(b["verdict"] == "blessed" for b in data["blessings"])
    assert "bin L3" in out and "achievements" in out


def test_unknown_campaigns_are_refused(realm, run):
    code, _, err = run("ledger", "recompute", "nobody")
    assert code == 1 and "'nobody'" in err and "tiny-1" in err
    with db.write(realm.engine) as connection:
        row = dict(connection.execute(sa.select(db.campaigns)).mappings().first())
        connection.execute(sa.insert(db.campaigns).values(**{**row, "id": db.new_id()}))
    code, _, err = run("ledger", "show", "tiny-1")
    assert code == 1 and "not unique" in err


def test_a_realm_without_a_campaign(home, run):
    for words in (("ledger", "show"), ("ledger", "recompute")):
        code, _, err = run(*words)
        assert code == 1 and "no campaign yet" in err and "start-all" in err


def test_status_tells_title_and_debuffs(realm, run):
    code, out, _ = run("status")
    assert code == 0 and "title      Apprentice, Bit Counter" in out and "debuff" not in out
    fell = {"kind": "retention", "level": 1, "verdict": "lost", "correct": 3}
    realm.do(sa.update(db.trials).where(db.trials.c.id == realm.level_trial(4)).values(**fell))
    code, out, _ = run("status")
    assert "debuff     Fragmented Thoughts: bin L1 (3 of 40) no longer held" in out

