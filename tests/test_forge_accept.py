"""Acceptance of a forged skill: the rule over counts, real losses of a real small hero, and the commands."""

from __future__ import annotations

import json
import math
import sqlite3

import forge_kit as kit
import pytest
from hero_kit import micro_profile

from realm import db
from realm.arena import forging
from realm.guild.forge import ForgeError, gain
from realm.guild.forge.build import Request, build
from realm.guild.forge.rows import Item
from realm.guild.modules.skill import ModuleSkill
from realm.guild.skills import all_skills
from realm.settings import RealmHome


@pytest.fixture(scope="module")
def additions(tmp_path_factory):
    """A proposal with a rule; tests copy nothing and change nothing in it."""
    folder = tmp_path_factory.mktemp("forge")
    build(Request(kit.write(folder / "data.jsonl", kit.additions()), "planted"), folder / "out")
    return folder / "out"


def state_of(root):
    """Every file of a home with its bytes; the database, which reading puts into WAL mode, by its rows."""
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*")
             if path.is_file() and not path.name.startswith("realm.db")}  # fmt: skip
    made = sqlite3.connect(root / "realm.db")
    found["realm.db"] = "\n".join(made.iterdump()).encode()
    made.close()
    return found


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "n", "common", "accepted", "words"),
    [
        (0, 200, 200, 100, True, "rose from 0.000 to 1.000"),
        (100, 112, 200, 20, False, "may be luck"),
        (0, 100, 200, 100, False, "the answers alone"),  # a hero that says the most common answer, and nothing else
        (0, 112, 200, 100, False, "the answers alone"),
        (0, 118, 200, 100, True, "rose"),
        (0, 39, 39, 5, False, "too few"),
        (150, 150, 200, 20, False, "may be luck"),
        (150, 100, 200, 20, False, "may be luck"),
    ],
)
def test_rule(before, after, n, common, accepted, words):
    verdict = gain.judge(before, after, n, "yes", common)
    assert verdict.accepted is accepted and words in verdict.why


def test_difference_as_published():
    """Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.2 [0.0524, 0.3339]."""
    value, lower, upper = gain.difference(gain.Share.of(48, 80), gain.Share.of(56, 70))
    assert (round(value, 4), round(lower, 4), round(upper, 4)) == (0.2, 0.0524, 0.3339)


def test_nothing_asked_is_no_verdict():
    with pytest.raises(ValueError, match="nothing was measured"):
        gain.judge(0, 0, 0, "", 0)


# --- the hero ---------------------------------------------------------------------------------------------------------


def test_losses_and_answers_of_a_real_hero(home):
    from realm.heroes.model import make_embedded

    profile = micro_profile()
    hero = forging.AskedHero(profile, make_embedded(profile, home), None)
    items = [Item("What is 1 + 1?", "2", "f", 1), Item("What is 1 + 1?", "2 and more", "f", 2),
             Item("word " * 2000, "too long", "f", 3)]  # fmt: skip
    losses = hero.losses(items)
    guess = math.log(hero.vocabulary)
    assert all(0.5 * guess < loss < 2 * guess for loss in losses[:2]) and losses[0] != losses[1]
    assert math.isnan(losses[2])
    rows, _ = hero.hero.render([forging._messages("What is 1 + 1?", "2")])
    assert losses[0] == hero.hero.loss(rows)
    answers = hero.answers(["What is 1 + 1?", "word " * 2000, "Say b"], 5)
    assert len(answers) == 3 and answers[1] == "" and all(isinstance(text, str) for text in answers)
    assert answers[0] == hero.answers(["What is 1 + 1?"], 5)[0], "an answer does not depend on its neighbours"


def test_whoever_is_asked_leaves_no_trace(home):
    before = state_of(home.root)
    found = forging.stock(home)
    assert (found.profile.id, found.folder, found.checkpoint) == ("pip", None, None)
    with forging.asked_hero(home) as hero:
        assert not math.isnan(hero.losses([Item("a", "b", "f", 1)])[0])
    assert state_of(home.root) == before


def test_a_home_that_is_not_there_is_not_made(tmp_path):
    where = RealmHome(tmp_path / "nowhere", {})
    forging.stock(where)
    assert not (tmp_path / "nowhere").exists()


def test_the_gate_takes_held_out_problems_of_other_skills_out(tmp_path):
    """BIN's trial questions are nobody's training data, whatever the forge is given."""
    skill = next(s for s in all_skills() if s.id == "bin")
    held = [(p.prompt, p.golden) for p in skill.generate(9, 5, 0, "trial")]
    from realm.guild.forge.rows import read

    source = kit.write(tmp_path / "data.jsonl", [*held, *kit.classified(60)])
    found = read(source, forging.gate([skill], "module:planted"))
    assert found.counts.filtered == 5 and ("filtered", "trial_split") in found.reasons
    assert not {item.prompt for item in found.items} & {prompt for prompt, _ in held}


def test_the_passives_are_forged_into_nothing(tmp_path):
    """The gate asked the shelf only, and the canary suite stands on no shelf: it could have been made a skill."""
    from realm.guild.forge.rows import read
    from realm.guild.skills import get_skill

    items = [(p.prompt, p.golden) for p in get_skill("passives").table(1)]
    source = kit.write(tmp_path / "data.jsonl", [*items, *kit.classified(60)])
    found = read(source, forging.gate(all_skills(), "module:planted"))
    assert found.reasons[("filtered", "probe_split")]["count"] == len(items)


# --- rows of the segment ----------------------------------------------------------------------------------------------


def test_no_row_of_the_segment_is_asked_afterwards(additions):
    skill = ModuleSkill(additions / "planted", "planted")
    proposal = forging.read_proposal(additions)
    held = forging._questions(proposal, skill)
    rows = forging.training_rows(skill, held, 500, 0)
    assert len(rows) == 500
    canonicals = {problem.canonical for problem in held}
    assert not {skill.problem_of(row[0]["content"]).canonical for row in rows} & canonicals
    by_level = [skill.problem_of(row[0]["content"]).split for row in rows]
    assert set(by_level) == {"train"}


def test_changed_files_are_not_accepted(additions, tmp_path):
    import shutil

    for name, words in (("planted/skills/planted.yaml", "not the module"), ("held_out.jsonl", "not the file"),
                        ("report.json", "no proposal")):  # fmt: skip
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(additions, copy)
        (copy / name).write_text((copy / name).read_text() + "\n# more" if name != "report.json" else "{}")
        with pytest.raises(ForgeError, match=words):
            forging.read_proposal(copy)
    with pytest.raises(ForgeError, match="forge skill --from"):
        forging.read_proposal(tmp_path)


def test_a_report_cannot_lead_out_of_its_folder(additions, tmp_path):
    import shutil

    shutil.copytree(additions, tmp_path / "copy")
    file = tmp_path / "copy" / "report.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "module": "../../etc"}))
    with pytest.raises(ForgeError, match="no plain name"):
        forging.read_proposal(tmp_path / "copy")


# --- commands ---------------------------------------------------------------------------------------------------------


def test_command_proposes_and_says_why(run, home, tmp_path):
    source = kit.write(tmp_path / "My Data.jsonl", kit.parity())
    code, out, err = run("forge", "skill", "--from", str(source), "--no-hero")
    assert (code, err) == (0, "")
    folder = home.root / "forge" / "my-data"
    assert f"proposed module:my-data in {folder}" in out and "if a % 2 ==" in out
    code, out, _ = run("forge", "report", str(folder))
    assert code == 0 and out.startswith("# Forge report: my-data")
    code, _, err = run("forge", "skill", "--from", str(source), "--no-hero")
    assert code == 1 and "--replace" in err
    code, out, _ = run("module", "validate", str(folder / "my-data"))
    assert code == 0 and "sound" in out


def test_command_says_that_there_is_nothing_to_learn(run, home, tmp_path):
    source = kit.write(tmp_path / "few.jsonl", kit.parity(10))
    code, out, err = run("forge", "skill", "--from", str(source), "--no-hero")
    assert (code, out) == (1, "") and "10 distinct rows" in err and "Traceback" not in err
    code, out, _ = run("forge", "skill", "--from", str(source), "--no-hero", "--json")
    assert code == 1 and json.loads(out)["code"] == "too_few"
    code, _, err = run("forge", "skill", "--from", str(tmp_path / "none"), "--no-hero")
    assert code == 1 and "does not exist" in err
    code, _, err = run("forge", "accept", str(tmp_path))
    assert code == 1 and "no proposal" in err
    assert not (home.root / "forge").exists()


def test_unknown_hero_is_named(run, home, tmp_path):
    source = kit.write(tmp_path / "data.jsonl", kit.parity())
    code, _, err = run("forge", "skill", "--from", str(source), "--hero", "pipp")
    assert code == 1 and "pipp" in err and "Traceback" not in err


@pytest.mark.slow
def test_learnable_data_is_accepted_and_installed(run, home, tmp_path):
    """The whole way on the embedded hero: forge, ask it, train a copy, accept, install; nothing else is touched."""
    source = kit.write(tmp_path / "parity.jsonl", kit.parity(400))
    code, out, err = run("forge", "skill", "--from", str(source))
    assert code == 0, err
    folder = home.root / "forge" / "parity"
    before = state_of(home.root)
    code, out, err = run("forge", "accept", str(folder), "--steps", "200")
    assert code == 0 and "not installed: a person confirms" in out, err
    made = json.loads((folder / "report.json").read_text())["acceptance"]
    assert made["accepted"] and made["after"]["lower"] > made["chance"]["share"] and made["gain"]["lower"] > 0
    changed = {name for name, raw in state_of(home.root).items() if before.get(name) != raw}
    assert changed <= {f"forge/parity/{name}" for name in ("report.json", "REPORT.md")}, "nothing else was written"
    code, out, err = run("forge", "accept", str(folder), "--steps", "200", "--yes", "--json")
    assert code == 0 and json.loads(out)["installed"], err
    code, out, _ = run("skill", "levels", "module:parity")
    assert code == 0 and "level 1" in out


@pytest.mark.slow
def test_random_labels_are_not_accepted(run, home, tmp_path):
    """Even when a person vouches for them: the gain over silence is real, the gain over the answers alone is not."""
    source = kit.write(tmp_path / "noise.jsonl", kit.random_labels())
    code, _, err = run("forge", "skill", "--from", str(source))
    assert code == 1 and "no_dependence" in err
    code, _, err = run("forge", "skill", "--from", str(source), "--trust-answers")
    assert code == 0, err
    code, out, _ = run("forge", "accept", str(home.root / "forge" / "noise"), "--steps", "200", "--yes")
    assert code == 1 and "not accepted" in out and "nothing was installed" in out
    made = json.loads((home.root / "forge/noise/report.json").read_text())["acceptance"]
    assert made["gain"]["lower"] > 0, "it learnt to say yes or no"
    assert made["after"]["lower"] <= made["chance"]["share"]
    assert not (home.root / "modules" / "noise").exists()


@pytest.mark.slow
def test_the_newest_checkpoint_of_the_campaign_is_asked_and_kept(home, engine, additions):
    """A campaign with a checkpoint: its weights are read, copied and left as they were."""
    from realm.guild import campaigns
    from realm.heroes.model import load_model, load_tokenizer, make_embedded, save_model
    from realm.vault import checkpoints

    profile = micro_profile()
    base = make_embedded(profile, home)
    with db.write(engine) as connection:
        campaign_id = campaigns.ensure_active(connection, "pip", profile.model_dump(mode="json"))
        run_id = campaigns.current_run(connection, campaign_id)["id"]
    made = checkpoints.save(
        home, engine, checkpoints.Place("pip", campaign_id, run_id, 7), why="test", facts={},
        write_weights=lambda folder: save_model(load_model(base), load_tokenizer(base), folder),
        write_resume=lambda folder: {"format": 1})  # fmt: skip
    found = forging.stock(home)
    assert (found.checkpoint, found.folder) == (made.id, made.folder)
    before = state_of(home.root)
    noted = forging.accept(additions, home, steps=3, say=lambda text: None, change=lambda _: profile)
    assert not noted["acceptance"]["accepted"] and noted["acceptance"]["hero"] == f"pip at checkpoint {made.id}"
    assert state_of(home.root) == before
    next(iter(made.folder.glob("*.safetensors"))).write_bytes(b"damaged")
    with pytest.raises(ForgeError, match="--no-hero"):
        forging.stock(home)
