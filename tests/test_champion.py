"""The champion: one rule over checkpoints, trials and levels."""

import pytest
import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.vault.champion import champion


@pytest.fixture
def realm(engine):
    with db.write(engine) as connection:
        campaign = campaigns.ensure_active(connection, "pip", {}, seed=1)
    return Realm(engine, campaign)


class Realm:
    def __init__(self, engine, campaign):
        self.engine, self.campaign, self.clock = engine, campaign, 0

    def checkpoint(self, step, state="live", trials=()):
        with db.write(self.engine) as connection:
            run = campaigns.current_run(connection, self.campaign)["id"]
            made = db.new_id()
            connection.execute(sa.insert(db.checkpoints).values(
                id=made, hero_id="pip", campaign_id=self.campaign, run_id=run, step=step, path=f"vault/{step}",
                manifest_sha256="0", bytes=1, state=state, resumable=True, pinned=False, created_at=float(step)))
            for level, correct, n, kind in trials:
                self.clock += 1
                connection.execute(sa.insert(db.trials).values(
                    id=db.new_id(), campaign_id=self.campaign, checkpoint_id=made, step=step, kind=kind, skill="bin",
                    level=level, closed=False, n=n, correct=correct, verdict="pass", suspicious=False, tokens=0,
                    started_at=float(self.clock), seconds=0.1))
        return made

    def level(self, level, step):
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.levels).values(
                campaign_id=self.campaign, skill="bin", level=level, closed=False, mastered_at=0.0, step=step,
                trial_id="t"))

    def champion(self, **options):
        with db.read(self.engine) as connection:
            found = champion(connection, self.campaign, **options)
        return found.checkpoint_id if found else None


def test_no_trial_no_champion(realm):
    realm.checkpoint(100)
    assert realm.champion() is None


def test_total_level_comes_before_accuracy_and_accuracy_before_age(realm):
    first = realm.checkpoint(100, trials=[(1, 40, 40, "promotion")])
    realm.level(1, 100)
    assert realm.champion() == first
    realm.checkpoint(200, trials=[(1, 70, 80, "retention")])
    assert realm.champion() == first, "same level, lower accuracy"
    third = realm.checkpoint(300, trials=[(1, 60, 80, "retention"), (2, 39, 40, "promotion")])
    realm.level(2, 300)
    assert realm.champion() == third, "a higher total level wins even with lower accuracy"
    realm.checkpoint(400, trials=[(1, 60, 80, "retention"), (2, 39, 40, "retention")])
    assert realm.champion() == third, "equal: the earlier one"
    fifth = realm.checkpoint(500, trials=[(1, 80, 80, "retention")])
    assert realm.champion() == fifth


def test_the_probe_decides_over_trials(realm):
    realm.level(1, 50)
    realm.checkpoint(100, trials=[(1, 80, 80, "retention"), (1, 250, 500, "probe")])
    better = realm.checkpoint(200, trials=[(1, 70, 80, "retention"), (1, 300, 500, "probe")])
    assert realm.champion() == better


def test_levels_not_mastered_do_not_count(realm):
    first = realm.checkpoint(100, trials=[(1, 10, 40, "promotion")])
    realm.checkpoint(200, trials=[(2, 40, 40, "scout"), (3, 40, 40, "retention")])
    assert realm.champion() == first, "nothing mastered: accuracy 0 for both, the earlier one"


def test_corrupt_ones_are_out_and_hashes_are_asked_from_the_best_on(realm):
    realm.level(1, 50)
    second = realm.checkpoint(100, trials=[(1, 30, 40, "retention")])
    best = realm.checkpoint(200, trials=[(1, 40, 40, "retention")])
    realm.checkpoint(300, state="corrupt", trials=[(1, 40, 40, "retention")])
    asked = []

    def verifies(checkpoint_id):
        asked.append(checkpoint_id)
        return checkpoint_id != best

    assert realm.champion() == best
    assert realm.champion(verifies=verifies) == second and asked == [best, second]
    assert realm.champion(verifies=lambda _: False) is None
