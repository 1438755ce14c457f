"""The ablation of token weights: what its numbers mean; the committed page is the stored runs, its commands exist."""

from __future__ import annotations

import math
import re

import pytest
from benchmarks import oracle_eye

from realm.guild.skills import get_skill

PAGE = (oracle_eye.ROOT / "docs" / "ORACLES_EYE.md").read_text(encoding="utf-8")


def made(policy, seed, *accuracies, labels="clean"):
    curve = [{"step": 15 * (i + 1), "target": a} for i, a in enumerate(accuracies)]
    return {"task": "learn", "labels": labels, "policy": policy, "seed": seed, "steps": 150, "code": "0", "loss": 0.1,
            "curve": curve, "effective_share": 1.0, "cpu_s": 1.0}  # fmt: skip


def test_the_committed_page_is_the_stored_runs():
    runs = oracle_eye.load(oracle_eye.STORE)
    assert runs, "no stored run: `python -m benchmarks oracle_eye` makes them"
    assert PAGE == oracle_eye.page(runs), "print it again: python -m benchmarks.oracle_eye > docs/ORACLES_EYE.md"


def test_a_verdict_needs_every_seed():
    runs = [made("uniform", s, 0.5, 0.9) for s in (0, 1, 2)]
    runs += [made("eaft", s, 0.6 + s / 10, 0.9) for s in (0, 1, 2)] + [made("dft", s, 0.5, 0.8) for s in (0, 1)]
    runs += [made("focal", s, 0.4 + 0.1 * s, 0.9) for s in (0, 1, 2)]
    found = {(policy, measure.about): said for _, _, policy, measure, _, _, said in oracle_eye.judged(runs)}
    mean, end = (measure.about for measure in oracle_eye.MEASURES["learn"])
    assert found["eaft", mean] == "better" and found["eaft", end] == "undecided"
    assert found["dft", mean] == "too few seeds" and found["focal", mean] == "undecided"
    assert oracle_eye.verdict([-0.1, -0.2, -0.3]) == "worse" and oracle_eye.verdict([-0.1, -0.2, -0.3], -1) == "better"
    assert "**Not run yet**: learn-clean-dft-2," not in oracle_eye.page(runs) and "learn-clean-dft-2" in \
        oracle_eye.page(runs)  # fmt: skip


def test_a_default_must_win_every_task_on_clean_and_corrupted_answers():
    def run(task, labels, policy, seed, good):
        return {**made(policy, seed, good, good, labels=labels), "task": task, "loss": 1 - good,
                "curve": [{"step": 1, "target": good, "old": good}]}  # fmt: skip

    keys = [(task, labels, seed) for task in oracle_eye.TASKS for labels in oracle_eye.LABELS for seed in (0, 1, 2)]
    runs = [run(*key[:2], "uniform", key[2], 0.5) for key in keys] + [run(*k[:2], "eaft", k[2], 0.6) for k in keys]
    assert oracle_eye.winners(runs) == ["eaft"] and oracle_eye.winners(runs[:-1]) == []
    runs[-1] = run(*keys[-1][:2], "eaft", keys[-1][2], 0.4)
    assert oracle_eye.winners(runs) == [] and "stays uniform" in oracle_eye.page(runs)


def test_steps_to_a_level_and_the_area_under_the_curve():
    run = made("uniform", 0, 0.2, 0.85, 0.7)
    assert (oracle_eye.steps_to(run), oracle_eye.steps_to(run, 0.9)) == (30, math.inf)
    assert oracle_eye.area(run) == pytest.approx((0.2 + 0.85 + 0.7) / 3)


def test_a_tenth_of_the_answers_is_wrong_and_the_questions_stay():
    found = oracle_eye.problems("seq_reverse", 400, 0)
    rows = oracle_eye.corrupted(found, 0)
    skill = get_skill("seq_reverse")
    wrong = [not skill.grade(p, row[-1]["content"]).correct for p, row in zip(found, rows, strict=True)]
    assert sum(wrong) == 40
    assert [row[:-1] for row in rows] == [p.messages[:-1] for p in found]
    assert rows == oracle_eye.corrupted(found, 0) != oracle_eye.corrupted(found, 1)
    assert oracle_eye.corrupted(found, 0, 0.0) == [p.messages for p in found]


def test_commands_and_numbers_of_the_page_exist():
    from realm.arena import token_maps
    from realm.cli.battle import battle_app
    from realm.cli.quest import quest_app
    from realm.heroes.modes import LOGITS_AT_ONCE
    from realm.heroes.profile import OracleEye

    known = {"battle": battle_app, "quest": quest_app}
    for group, command in re.findall(r"-m training (\w+) (\w+)", PAGE):
        assert command in {c.name for c in known[group].registered_commands}
    shipped = re.search(r"```yaml\noracle_eye:\n(.*?)```", PAGE, re.S)[1]
    values = dict(re.findall(r"^  (\w+): (\S+)", shipped, re.M))
    assert values == {name: str(value) for name, value in OracleEye().model_dump().items()}
    assert LOGITS_AT_ONCE == 2**25 and f"newest {token_maps.KEPT_BATTLES} battles" in PAGE
    assert f"{token_maps.ALARM_STEPS} steps in a row" in " ".join(PAGE.split())


@pytest.mark.slow
def test_one_run_from_birth_to_its_result(tmp_path):
    """Twenty steps: the hero is born, trained with weights on corrupted rows, looked at and told."""
    run = oracle_eye.run_one("learn", "corrupted", "eaft", 0, steps=20)
    assert [look["step"] for look in run["curve"]] == [15, 20]
    assert 0 < run["effective_share"] < 1 and run["trained_tokens"] > 0 and math.isfinite(run["loss"])
    assert "eaft" in oracle_eye.page([run])
