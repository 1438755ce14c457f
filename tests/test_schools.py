"""The register of schools, and what the torch-free parts of the realm ask of it."""

from __future__ import annotations

import hero_kit as kit
import pytest

from realm import db, lore, schools
from realm.arena import plan
from realm.heroes.profile import load_profile
from realm.quests import board


def test_every_school_has_its_lore_and_its_functions():
    assert set(schools.SCHOOLS) == set(lore.SCHOOLS) - {"oracle"}, "the Oracle's Eye is an enhancer, no school"
    families = {name: schools.load(name).FAMILY for name in schools.SCHOOLS}
    assert families["scribe"] == families["mirror"] == families["whisper"] == "sft"
    assert len({families[name] for name in ("scribe", "judge", "champion")}) == 3
    for name in schools.SCHOOLS:
        assert callable(schools.load(name).prepare) and callable(schools.load(name).train)


def test_formats_find_their_school():
    assert [schools.of_format(name) for name in ("preference", "prompt", "messages", "alpaca")] == [
        "judge", "champion", "scribe", "scribe"]  # fmt: skip
    with pytest.raises(schools.SchoolError, match="did you mean 'champion'"):
        schools.entry("champoin")
    assert schools.open_to("judge") and not schools.open_to("oracle") and not schools.open_to(None)


def test_steps_of_a_file_count_what_a_step_of_its_school_reads():
    pip = load_profile("pip")
    quest = {"steps": None, "report": None, "rows": 640}
    steps = {name: plan.quest_steps({**quest, "school": name}, pip) for name in ("scribe", "judge", "champion")}
    assert steps == {"scribe": 10, "judge": 10, "champion": 80}, "the Champion answers each prompt eight times"


def test_pairs_stay_with_the_judge(home, engine):
    with db.write(engine) as connection:
        made = board.enqueue(connection, board.NewQuest(name="a", kind="file", school="judge", format="preference"))
        with pytest.raises(board.BoardError, match="only the Judge trains on them"):
            board.assign(connection, made, "scribe", {})
        board.assign(connection, made, "judge", {})


@pytest.mark.parametrize(("school", "loss"), [("scribe", 0.004), ("judge", None)])
def test_only_a_loss_of_answers_casts_doubt_on_a_trial(home, engine, school, loss):
    """A preference of nearly 0 says nothing of what the hero would answer, so 0 right is no incident."""
    from realm.arena.battle import Worker, _Battle

    ids = kit.campaign(engine)
    order = kit.order_battle(engine, kit.micro_profile(), ids, school=school)
    worker = Worker(home, "W")
    battle = _Battle(worker, dict(kit.battle_row(engine, order)))
    battle.pulse.reading = battle.pulse.tracker.update(0.004)
    assert battle._train_loss(1) == (pytest.approx(loss) if loss else None)
    worker.orders.close()
    worker.engine.dispose()


def test_the_hint_of_a_school_without_strain_moves_no_knob(engine):
    import sqlalchemy as sa

    ids = kit.campaign(engine)
    metric = {"run_id": ids["run_id"], "t": 0.0, "loss": 0.7, "loss_ema": 0.7, "lr": 0.1, "tokens": 1, "effort": 0.7,
              "trained_tokens": 1, "step_s": 0.1, "floor": 0.0, "strain": 0.7, "zone": "overload"}  # fmt: skip
    for step, (school, hint) in enumerate([("scribe", "level_up"), ("champion", "back_off")], 1):
        with db.write(engine) as connection:
            quest = board.enqueue(connection, board.NewQuest(name="a", kind="idle", school=school, skill="bin"))
            connection.execute(sa.insert(db.battles).values(
                id=f"B{step}", **ids, quest_id=quest, hero_id="pip", school=school, worker="W", state="done",
                desired="run", save_requests=0, config={}, started_at=float(step)))  # fmt: skip
            connection.execute(sa.insert(db.metrics).values(**metric, step=step, battle_id=f"B{step}", hint=hint))
    with db.read(engine) as connection:
        assert plan.last_hint(connection, ids["campaign_id"], "bin") == "level_up"


def test_the_page_tells_the_numbers_of_judge_and_champion():
    from pathlib import Path

    from realm.schools import champion, judge

    page = " ".join((Path(__file__).resolve().parents[1] / "docs/SCHOOLS.md").read_text(encoding="utf-8").split())
    wanted = load_profile("dio").schools
    told = {name: "{" + ", ".join(f"{k}: {v}" for k, v in getattr(wanted, name).model_dump().items()) + "}"
            for name in ("judge", "champion")}  # fmt: skip
    for said in (f"answers up to {judge.ASKED_AT_MOST:,}", f"until {judge.WANTED_PAIRS} of", judge.REFERENCE_FILE,
                 f"the {champion.KEPT_AT_MOST} whose pass rate", "a half for ten steps",
                 f"`schools: {{judge: {told['judge']}}}`", f"`schools: {{champion: {told['champion']}}}`",
                 f"(PIP has {load_profile('pip').schools.judge.rate})"):  # fmt: skip
        assert said in page, said
    assert champion.SILENT_STEPS == 10 and champion.SILENT_SHARE == 0.5
