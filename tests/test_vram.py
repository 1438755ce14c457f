"""The calculator around the formula: command, API, calibration that corrects itself, changes that make it fit."""

from __future__ import annotations

import json

import hero_kit as kit
import pytest
from fastapi.testclient import TestClient

from realm.arena import physics, vram
from realm.arena.physics import Machine
from realm.heroes import modes
from realm.heroes.profile import ProfileError, load_profile
from realm.state.router import create_state_app

CARD = Machine(1, "Card", 24 * 10**9, 64 * 10**9, frozenset(physics.PACKAGES))


def test_the_command_the_api_and_the_report_say_the_same(home, run):
    code, out, _ = run("vram", "--hero", "flo", "--mode", "qlora", "--batch-size", "1", "--max-length", "2048",
                       "--gb", "24", "--json")  # fmt: skip
    told = json.loads(out)
    assert code == 0 and told["mode"] == "qlora" and told["fits"] and told["published_gb"] == 6
    report = vram.report(home, "flo", "qlora", 24 * 10**9, batch_size=1, max_length=2048)
    client = TestClient(create_state_app(home), base_url="http://127.0.0.1")
    answer = client.get("/api/vram", params={"hero": "flo", "mode": "qlora", "batch_size": 1, "max_length": 2048,
                                             "gb": 24, "precision": ""})  # fmt: skip
    assert told == json.loads(json.dumps(report)) == answer.json()
    assert told["estimate"]["total"] == sum(told["estimate"]["parts"].values())
    assert client.get("/api/vram", params={"hero": "nobody"}).status_code == 422
    assert client.get("/api/vram", params={"mode": "q"}).status_code == 422
    assert client.get("/api/vram").json()["hero"] == "pip"


def test_the_command_prints_every_part_and_every_mode(run):
    code, out, _ = run("vram", "--hero", "flo", "--mode", "full", "--gb", "16")
    assert code == 0 and "It does not fit." in out
    for word in ("weights", "optimizer", "total", "Host memory", "Cheapest changes", "mode lora", *modes.MODES):
        assert word in out
    assert run("vram", "--hero", "nobody")[0] == 1
    code, _, err = run("vram", "--hero", "flo", "--gb", "-3")
    assert code == 1 and "--gb -3.0: give the GPU's memory" in err
    code, _, err = run("vram", "--batch-size", "0")
    assert code == 1 and "batch_size 0: give a whole number" in err


def test_three_changes_make_it_fit_each_with_its_own_estimate(home):
    told = vram.report(home, "flo", "lora", here=CARD, batch_size=4, max_length=1024, gradient_checkpointing=False)
    assert not told["fits"] and len(told["cheaper"]) == 3 and all(row["fits"] for row in told["cheaper"])
    assert told["cheaper"][0]["change"] == "gradient_checkpointing: true"
    batch = next(row for row in told["cheaper"] if row["change"].startswith("batch_size"))
    rows = int(batch["change"].split()[1])
    again = vram.report(home, "flo", "lora", here=CARD, batch_size=rows, max_length=1024, gradient_checkpointing=False,
                        gradient_accumulation=4 // rows)  # fmt: skip
    assert again["estimate"]["corrected"] == batch["total"] and again["fits"]
    more = vram.report(home, "flo", "lora", here=CARD, batch_size=2 * rows, max_length=1024,
                       gradient_checkpointing=False)  # fmt: skip
    assert not more["fits"], "a larger batch would have fitted too"


def test_changes_this_machine_cannot_do_are_not_offered(home):
    small = Machine(0, "", 0, 3 * 10**9, frozenset(), "no NVIDIA GPU is seen here")
    told = vram.report(home, "dio", "adamw", here=small)
    assert not told["fits"] and told["cheaper"]
    assert not any(name in row["change"] for row in told["cheaper"] for name in ("qlora", "deepspeed", "full"))


def test_a_hero_too_large_for_the_host_does_not_fit(home):
    told = vram.report(home, "flo", "deepspeed", here=CARD)
    assert told["estimate"]["total"] < 24e9 and not told["host_fits"] and not told["fits"]


def test_measured_pairs_correct_later_estimates(home):
    profile = modes.with_mode(load_profile("dio"), "lora")
    first = physics.estimate_of(profile, home, CARD)
    assert vram.corrected(home, profile, first).corrected == first.total
    for ratio in (1.1, 1.2, 1.4):
        vram.note_pair(home, profile, first, round(ratio * first.total), "battle")
    now = vram.corrected(home, profile, first)
    assert (now.correction, now.pairs) == (pytest.approx(1.2), 3) and now.total == first.total
    assert abs(now.corrected / first.total - 1.2) < 1e-6
    other = modes.with_mode(load_profile("dio"), "qlora")
    assert vram.corrected(home, other, first).pairs == 0, "another mode is another error"
    huge = physics.estimate_of(profile, home, CARD, batch_size=512, gradient_checkpointing=False)
    assert vram.corrected(home, profile, huge).pairs == 0, "far larger loads say nothing"
    for _ in range(vram.PAIRS_USED):
        vram.note_pair(home, profile, first, 100 * first.total, "battle")
    assert vram.corrected(home, profile, first).correction == vram.CORRECTION[1]


def test_a_torn_line_of_the_store_is_left_out(home):
    profile = load_profile("pip")
    found = physics.estimate_of(profile, home)
    vram.note_pair(home, profile, found, 5 * 10**8, "battle")
    with vram.pairs_file(home).open("a") as file:
        file.write('{"estimate": 12, "meas\n[1]\n{"estimate": 0, "measured": 3}\n')
    vram.note_pair(home, profile, found, 6 * 10**8, "battle")
    assert [row["measured"] for row in vram.pairs(home)] == [5 * 10**8, 6 * 10**8]


def test_a_battle_notes_what_it_took(home, engine):
    profile = kit.micro_profile()
    kit.born(home, profile)
    ids = kit.campaign(engine)
    data = kit.quest(home, engine, ids, "A", kit.conversations(9))
    assert kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=data, steps=3))["state"] == "done"
    (pair,) = vram.pairs(home)
    assert (pair["hero"], pair["mode"], pair["device"], pair["source"]) == ("pip", "full + muon", "cpu", "battle")
    assert pair["measured"] > 10**8 and pair["estimate"] > physics.HOST_PROCESS["cpu"]


def test_dry_run_measures_two_steps_of_the_longest_rows(home, run, tmp_path):
    profile = kit.micro_profile()
    kit.born(home, profile)
    (home.heroes / "pip.yaml").write_text(
        "model: {architecture: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
        "num_key_value_heads: 2, head_dim: 16, intermediate_size: 64}}\n")
    code, out, err = run("vram", "--hero", "pip", "--mode", "lora", "--batch-size", "2", "--max-length", "64",
                         "--dry-run", "--json")  # fmt: skip
    told = json.loads(out)["dry_run"]
    assert code == 0 and told["longest"] == 64 and told["measured"] > 10**8, err
    (pair,) = vram.pairs(home)
    assert (pair["source"], pair["measured"], pair["estimate"]) == ("dry run", told["measured"], told["estimate"])
    assert not any(home.vault.iterdir()), "a dry run saves nothing"
    code, _, err = run("vram", "--hero", "pip", "--mode", "qlora", "--dry-run")
    assert code == 1 and "needs a GPU" in err
    code, _, err = run("vram", "--dry-run", "--data", str(tmp_path / "gone.jsonl"))
    assert code == 1 and "there is no such file" in err


def test_unknown_shapes_are_refused_by_name(home):
    (home.heroes / "odd.yaml").write_text("extends: dio\nname: ODD\nmodel: {path_or_hub_id: some/where}\n")
    with pytest.raises(ProfileError, match="the shape of some/where is not known"):
        vram.report(home, "odd")
