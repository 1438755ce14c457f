"""The Skill Forge: planted data is recognised for what it is, and every row is accounted for."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from dataclasses import replace

import forge_kit as kit
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild.forge import ForgeError, difficulty, graders, holdout, learn, rows, tags
from realm.guild.forge.build import Request, build, module_hash, sweep
from realm.guild.modules.manifest import Grader
from realm.guild.modules.skill import ModuleSkill
from realm.guild.modules.validate import check
from realm.guild.primitives import PRIMITIVES


def items_of(pairs):
    return [rows.Item(q, a, "data.jsonl", n) for n, (q, a) in enumerate(pairs, 1)]


def forge(tmp_path, pairs, skill_id="planted", **more):
    source = kit.write(tmp_path / "data.jsonl", pairs)
    return build(Request(source, skill_id, **more), tmp_path / "out"), tmp_path / "out"


def refused(tmp_path, pairs, **more):
    with pytest.raises(ForgeError) as caught:
        forge(tmp_path, pairs, **more)
    assert not (tmp_path / "out").exists(), "a refused proposal leaves nothing behind"
    assert [p.name for p in tmp_path.iterdir()] == ["data.jsonl"], "no staging folder is left"
    return caught.value


def held_and_learnt(out, made):
    module = out / made["module"]
    held = [json.loads(line) for line in (out / "held_out.jsonl").read_text().splitlines()]
    learnt = [json.loads(line) for path in sorted(module.glob("data/*.jsonl")) for line in open(path)]
    return held, learnt


# --- a rule is found --------------------------------------------------------------------------------------------------


def test_template_becomes_generator(tmp_path):
    made, out = forge(tmp_path, kit.additions())
    assert made["rule"]["cases"] == [{"wording": "What is {a} + {b}?", "answer": "a + b", "learnt_from": 210,
                                      "verified_on": 90}]  # fmt: skip
    assert made["grader"]["chosen"] == {"type": "numeric"}
    skill = ModuleSkill(out / "planted", "planted")
    assert skill.max_level == len(made["levels"]["levels"]) >= 2
    fresh = [p for level in range(1, skill.max_level + 1) for p in skill.generate(level, 100, seed=5)]
    assert len({p.prompt for p in fresh} - {question for question, _ in kit.additions()}) > 100, "beyond the data"
    for problem in fresh:
        right = sum(int(word) for word in problem.prompt.strip("?").split() if word.isdigit())
        assert problem.golden == str(right) and skill.grade(problem, str(right)).correct
        assert not skill.grade(problem, str(right + 1)).correct
    assert check(out / "planted").errors == []


def test_each_word_of_a_template_has_a_rule_of_its_own(tmp_path):
    made, _ = forge(tmp_path, kit.operations())
    found = {case["wording"].split()[2]: case["answer"] for case in made["rule"]["cases"]}
    assert found == {"plus": "a + c", "minus": "a - c", "times": "a * c"}


def test_one_wrong_row_and_no_rule(tmp_path):
    """A rule that explains all but one row is none; the rows still make a skill."""
    pairs = kit.additions()
    pairs[17] = (pairs[17][0], "9999")
    made, out = forge(tmp_path, pairs)
    assert not made["rule"]["found"] and made["rule"]["why_not"]
    assert ModuleSkill(out / "planted", "planted").content.levels[1].made == []


def test_a_rule_that_fails_on_held_out_rows_is_none(tmp_path):
    items = items_of(kit.additions())
    held, _ = holdout.hold_out(items, [1] * len(items), 0)
    place = held.index(True)
    items[place] = replace(items[place], golden="9999")
    from realm.guild.forge import rule

    assert "held-out" in rule.find(items, held)


# --- rows make the skill ----------------------------------------------------------------------------------------------


def test_rows_of_classes(tmp_path):
    made, out = forge(tmp_path, kit.classified())
    assert made["grader"]["chosen"] == {"type": "exact"} and made["dependence"]["dependent"]
    held, learnt = held_and_learnt(out, made)
    questions = [row["messages"][0]["content"] for row in (*held, *learnt)]
    assert sorted(questions) == sorted({q for q, _ in kit.classified()}), "every distinct row is on one side"
    in_module = [json.loads(line) for path in sorted((out / "planted/eval").glob("*.jsonl")) for line in open(path)]
    assert sorted(map(str, in_module)) == sorted(map(str, held)), "eval/ is what is held out"
    skill = ModuleSkill(out / "planted", "planted")
    assert {skill.split_of(row["messages"][0]["content"]) for row in learnt} == {"train"}
    assert {skill.split_of(row["messages"][0]["content"]) for row in held} == {"trial", "probe", "public"}
    assert all(count >= 40 for count in made["holdout"]["trial_questions"].values()), "every trial can be passed"
    assert check(out / "planted").errors == []


def test_json_answers(tmp_path):
    made, out = forge(tmp_path, kit.objects())
    assert made["grader"]["chosen"] == {"type": "json"}
    assert made["primitives"][0]["primitive"] == "fmt_json"
    skill = ModuleSkill(out / "planted", "planted")
    question, answer = kit.objects()[0]
    turned = json.dumps(dict(reversed(json.loads(answer).items())))
    assert turned != answer and skill.grade(skill.problem_of(question), turned).correct


def test_set_answers(tmp_path):
    made, out = forge(tmp_path, kit.sets())
    assert made["grader"]["chosen"] == {"type": "set", "separator": ", "}
    skill = ModuleSkill(out / "planted", "planted")
    question, answer = kit.sets()[0]
    problem = skill.problem_of(question)
    turned = ", ".join(reversed(answer.split(", ")))
    assert skill.grade(problem, turned).correct
    assert not skill.grade(problem, turned.rpartition(", ")[0]).correct, "a member is missing"


def test_order_that_says_something_is_no_set():
    pairs = [(f"Sort {c} {b} {a} please", f"{a}, {b}, {c}") for a in range(10, 20) for b in range(20, 24)
             for c in range(30, 33)]  # fmt: skip
    assert graders.choose(items_of(pairs)).grader.type == "exact"


def test_answers_in_several_dresses_are_a_pattern():
    pairs = [(f"question {n} of {n * 7 % 31}", ["Yes", "yes.", "No", "no."][n % 4]) for n in range(80)]
    chosen = graders.choose(items_of(pairs))
    assert (chosen.grader.type, chosen.grader.pattern) == ("regex", "{golden}[.!]?")
    assert {item.golden for item in chosen.items} == {"Yes", "yes", "No", "no"}
    assert graders.right(chosen.grader, chosen.items[0], "YES!")
    assert not graders.right(chosen.grader, chosen.items[0], "no")


def test_codes_are_no_numbers():
    pairs = [(f"code of {n}", f"{n:04d}") for n in range(60)]
    chosen = graders.choose(items_of(pairs))
    assert chosen.grader.type == "exact" and "leading zeros" in chosen.tried[0]["why"]


def test_verification_finds_a_grader_that_accepts_too_much_and_one_that_accepts_too_little():
    items = items_of([(f"q{n}", f"answer {n}") for n in range(30)])
    loose = graders.verify(Grader(type="regex", pattern="answer \\d+"), items)
    assert any("accepts" in fault for fault in loose)
    assert "rejects its own answer" in graders.verify(Grader(type="numeric"), items)[0] or "no number" in \
        graders.verify(Grader(type="numeric"), items)[0]  # fmt: skip


# --- nothing learnable ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "code", "words"),
    [
        (kit.additions(20), "too_few", "20 distinct rows"),
        ([(f"question {n}", "yes") for n in range(200)], "one_answer", "200 of 200"),
        ([(f"question {n % 100}", f"{n % 7}") for n in range(400)], "conflicting", "other answers too"),
        ([(f"Text {n * 37} says that the answer is {n * n}", f"{n * n}") for n in range(200)], "copied", "100%"),
        (kit.free_text(), "free_text", "file quest"),
        (kit.random_labels(), "no_dependence", "--trust-answers"),
        (kit.random_numbers(), "no_dependence", "--trust-answers"),
        (kit.classified(120), "too_few", "level rule"),
    ],
)
def test_nothing_to_learn_is_said(tmp_path, pairs, code, words):
    error = refused(tmp_path, pairs)
    assert error.code == code and words in str(error)
    assert error.evidence["source"]["rows"]["read"] == len(pairs)


def test_a_change_of_case_is_something_to_learn(tmp_path):
    """It was refused as copied: places were compared without regard to case."""
    draw = random.Random(4)
    words = sorted({"".join(draw.choice("abcdefgh") for _ in range(draw.randint(4, 8))) for _ in range(300)})
    made, _ = forge(tmp_path, [(f"Write {word} in capitals", word.upper()) for word in words])
    assert made["verdict"] == "proposed"


def test_a_person_may_vouch_for_random_looking_answers(tmp_path):
    made, _ = forge(tmp_path, kit.random_labels(), trust_answers=True)
    assert made["verdict"] == "proposed" and not made["dependence"]["dependent"]


def test_a_hero_at_its_ceiling(tmp_path):
    class Master:
        id, checkpoint, vocabulary = "master", None, 1000

        def losses(self, items):
            return [0.01] * len(items)

        def answers(self, prompts, room):
            known = dict(kit.parity())
            return [known[prompt] for prompt in prompts]

    source = kit.write(tmp_path / "data.jsonl", kit.parity())
    with pytest.raises(ForgeError) as caught:
        build(Request(source, "planted"), tmp_path / "out", Master())
    assert caught.value.code == "ceiling" and "nothing left to learn" in str(caught.value)


def test_dependence_is_rarely_seen_where_there_is_none():
    """The test's false alarms: at most 2 of 20 draws at p < 0.01 (expected 0.2)."""
    found = [learn.dependence(items_of(kit.random_labels(120, seed)), seed)["dependent"] for seed in range(20)]
    assert sum(found) <= 2


@pytest.mark.parametrize("pairs", [kit.classified(150), kit.sets(150), kit.objects(150), kit.additions(150)])
def test_dependence_is_seen_where_there_is_one(pairs):
    assert learn.dependence(items_of(pairs))["dependent"]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_every_row_has_one_fate(tmp_path):
    good = [json.dumps({"instruction": q, "output": a}) for q, a in kit.classified(60)]
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    brief = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x?"},
             {"role": "assistant", "content": "y"}]  # fmt: skip
    lines = [*good, "not json", json.dumps({"strange": 1}), json.dumps({"messages": turns}), "", good[0],
             json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}), json.dumps({"text": "none"})]  # fmt: skip
    (folder / "a.jsonl").write_text("\n".join(lines))
    with gzip.open(folder / "deep" / "b.jsonl.gz", "wt") as out:
        out.write(json.dumps({"messages": brief}) + "\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\0\1\2")
    (folder / "binary.jsonl").write_bytes(bytes(range(256)) * 4)
    found = rows.read(folder)
    counts = found.counts
    assert counts.read == counts.out + counts.filtered + counts.duplicates + counts.quarantined
    distinct = len(set(good))
    assert (counts.out, counts.filtered, counts.duplicates, counts.blank) == (distinct + 1, 3, 61 - distinct, 1)
    assert len(found.quarantine) == counts.read - counts.out
    where = {(record["file"], record["line"]): record["reason"] for record in found.quarantine}
    assert "bad JSON" in where["a.jsonl", 61] and "known training format" in where["a.jsonl", 62]
    assert [other["file"] for other in found.ignored] == ["picture.png"]
    assert found.items[-1].prompt == "Be brief.\n\nx?"


@pytest.mark.parametrize("make", ["missing", "empty", "other", "binary", "blank"])
def test_folders_without_data(tmp_path, make):
    folder = tmp_path / "data"
    if make != "missing":
        folder.mkdir()
    if make == "other":
        (folder / "notes.txt").write_text("hello")
    if make == "binary":
        (folder / "a.jsonl").write_bytes(bytes(range(256)) * 100)
    if make == "blank":
        (folder / "a.jsonl").write_text("\n\n  \n")
    with pytest.raises(ForgeError) as caught:
        build(Request(folder, "planted"), tmp_path / "out")
    assert caught.value.code == ("too_few" if make in ("binary", "blank") else "no_data")


def test_damaged_archive_is_named(tmp_path):
    whole = gzip.compress(b'{"instruction": "a", "output": "b"}\n' * 100)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ForgeError, match="a.jsonl.gz"):
        rows.read(tmp_path / "a.jsonl.gz")


def test_a_gate_in_front_takes_rows_out(tmp_path):
    source = kit.write(tmp_path / "data.jsonl", kit.classified(100))
    found = rows.read(source, lambda row: "trial_split: belongs to the trial split of bin" if row.line == 3 else None)
    assert found.counts.filtered == 1 and found.reasons["filtered", "trial_split"]["examples"][0]["line"] == 3


# --- duplicates and the split -----------------------------------------------------------------------------------------


def test_numbers_make_problems_and_words_make_copies():
    long = "please tell me at once and without any delay what the sum of the numbers {} and {} would be, my friend"
    texts = [long.format(3, 4), long.format(3, 5), long.format(3, 4).replace("my friend", "friend")]
    groups = rows.near_groups(texts).tolist()
    assert groups[0] == groups[2] != groups[1]


def test_near_duplicates_stay_together():
    """Twins with one word changed and another answer: no pair is on both sides."""
    pairs = []
    for number, (question, answer) in enumerate(kit.classified(120)):
        long = f"{question} and then in the year of the great flood it was said by all that number {number} came"
        pairs += [(long, answer), (long.replace("great", "grand"), "other")]
    items = items_of(pairs)
    groups = rows.groups_of(items)
    assert all(groups[n] == groups[n + 1] for n in range(0, len(items), 2))
    held, _ = holdout.hold_out(items, [1] * len(items), 0)
    assert all(held[n] == held[n + 1] for n in range(0, len(items), 2)) and 0 < sum(held) < len(held)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=40, max_size=120), st.integers(0, 5))
def test_shared_keys_never_part(keys, seed):
    items = [rows.Item(f"word {chr(97 + n % 26)}{n} here", f"a{n}", "f", n, f"session_id=s{key}")
             for n, key in enumerate(keys)]  # fmt: skip
    try:
        held, _ = holdout.hold_out(items, [1] * len(items), seed)
    except ForgeError as error:
        assert error.code == "one_group"
        return
    inside = {key for key, mine in zip(keys, held, strict=True) if mine}
    assert not inside & {key for key, mine in zip(keys, held, strict=True) if not mine}


def test_one_session_cannot_be_split():
    items = [rows.Item(f"question {n}", f"a{n}", "f", n, "session_id=1") for n in range(100)]
    with pytest.raises(ForgeError) as caught:
        holdout.hold_out(items, [1] * 100, 0)
    assert caught.value.code == "one_group"


# --- difficulty and levels --------------------------------------------------------------------------------------------


def test_loss_counts_only_when_the_hero_knows_something():
    items = items_of(kit.additions(100))
    easy = list(np.linspace(0.1, 2.0, 100))
    knows = difficulty.measure(items, difficulty.HeroLosses("h", "c", easy, 1000))
    guesses = difficulty.measure(items, difficulty.HeroLosses("h", "c", [6.9] * 50 + [7.1] * 50, 1000))
    without = difficulty.measure(items)
    assert (knows.weight, guesses.weight, without.weight) == (0.5, 0.0, 0.0)
    assert np.array_equal(guesses.values, without.values)
    expected = 0.5 * np.linspace(0, 1, 100) + 0.5 * without.values
    assert np.allclose(knows.values, expected)


def test_ranks_are_mid_ranks_and_nan_is_the_middle():
    assert difficulty.ranks([1, 1, 2, float("nan")]).tolist() == [0.25, 0.25, 1.0, 0.5]


def test_nesting_counts_the_deepest_bracket():
    assert [difficulty.nesting(text) for text in ("a", "(a)", "([{}])", ")(", "(()")] == [0, 1, 3, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=400), st.integers(1, 10), st.integers(1, 60))
def test_levels_are_ordered_large_enough_and_never_cut_through_equals(values, wanted, least):
    hard = np.array(values) / 30
    found, why = difficulty.levels(hard, wanted, least)
    sizes = Counter(found)
    assert sorted(sizes) == list(range(1, max(found) + 1)) and max(found) <= wanted
    assert len(sizes) == 1 or min(sizes.values()) >= least
    assert len({(v, level) for v, level in zip(values, found, strict=True)}) == len(set(values)), why
    order = np.argsort(hard, kind="stable")
    assert np.all(np.diff(np.array(found)[order]) >= 0)


@pytest.mark.parametrize("wanted", [0, 11, -1])
def test_impossible_numbers_of_levels(tmp_path, wanted):
    assert "1 to 10" in str(refused(tmp_path, kit.additions(), levels=wanted))


# --- the proposal -----------------------------------------------------------------------------------------------------


def test_same_data_same_proposal(tmp_path):
    source = kit.write(tmp_path / "data.jsonl", kit.classified())
    hashes = set()
    for name in ("one", "two"):
        build(Request(source, "planted"), tmp_path / name)
        hashes.add((module_hash(tmp_path / name / "planted"), (tmp_path / name / "held_out.jsonl").read_bytes()))
    assert len(hashes) == 1


def test_an_earlier_proposal_is_replaced_only_when_asked(tmp_path):
    source = kit.write(tmp_path / "data.jsonl", kit.additions())
    target = tmp_path / "out"
    build(Request(source, "planted"), target)
    with pytest.raises(ForgeError, match="--replace"):
        build(Request(source, "planted"), target)
    build(Request(source, "planted", levels=1), target, replace_old=True)
    assert ModuleSkill(target / "planted", "planted").max_level == 1
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ForgeError, match="no proposal"):
        build(Request(source, "planted"), other, replace_old=True)
    assert (other / "thesis.txt").read_text() == "years of work"


def test_primitives_are_only_of_the_29():
    assert set(tags.NAMES) <= set(PRIMITIVES), "every name that a guess can give is one of the 29"
    sort = tags.guess(items_of([(f"Sort: {n}, {n - 1}", "x") for n in range(50)]), Grader(), ["sorted(a)"])
    assert sort[0] == {"primitive": "attn_rank", "confidence": 0.9, "why": "the rule is sorted(a)"}
    half = [(f"Reverse the word w{n}" if n % 2 else f"Say w{n}", "x") for n in range(100)]
    assert tags.guess(items_of(half), Grader())[0]["confidence"] == 0.65
    assert tags.manifest_lists([{"primitive": "a", "confidence": 0.7}, {"primitive": "b", "confidence": 0.4},
                                {"primitive": "c", "confidence": 0.39}]) == (("a",), ("b",))  # fmt: skip


def test_what_a_killed_forge_left_is_cleared(tmp_path):
    """Killed while writing: a staging folder. Killed while replacing: the earlier proposal lies aside."""
    staging, aside = tmp_path / ".out-staging-x", tmp_path / ".out-old-x"
    (staging / "planted").mkdir(parents=True)
    (aside / "out").mkdir(parents=True)
    (aside / "out" / "report.json").write_text("{}")
    sweep(tmp_path / "out")
    assert staging.exists() and aside.exists(), "young folders may be at work"
    sweep(tmp_path / "out", age_s=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "report.json").exists()


def test_report_tells_the_evidence_of_every_choice(tmp_path):
    made, out = forge(tmp_path, kit.classified())
    text = (out / "REPORT.md").read_text()
    for words in ("rows read from 1 files", "do the answers depend", "No rule was found", "Difficulty =", "Held out",
                  "**exact**", "Not held yet"):  # fmt: skip
        assert words in text
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(made))


@pytest.mark.parametrize("wanted", ["Bad Name", "../up", "a", "x" * 41, "-x"])
def test_bad_ids_are_refused(tmp_path, wanted):
    source = kit.write(tmp_path / "data.jsonl", kit.additions())
    with pytest.raises(ForgeError) as caught:
        build(Request(source, wanted), tmp_path / "out")
    assert caught.value.code == "id"


def test_document_states_the_numbers_of_the_code():
    from pathlib import Path

    from realm.arena import forging
    from realm.guild.forge import build as made
    from realm.guild.forge import gain, rule, search
    from realm.guild.modules.validate import LEAST_TRIAL

    text = " ".join((Path(__file__).parents[1] / "docs" / "FORGE.md").read_text(encoding="utf-8").split())
    for words in (
        f"similarity of shingles ≥ {rows.NEAR}", f"similarity ≥ {rows.NEAR_TOGETHER}",
        f"fewer than {learn.MIN_ROWS} distinct", f"one answer for {learn.ONE_ANSWER:.0%}".replace("%", " %"),
        f"more than {learn.MAX_CONFLICTS:.0%}".replace("%", " %"), f"in {learn.COPIED:.0%}".replace("%", " %"),
        f"w = {difficulty.LOSS_WEIGHT}", f"below {difficulty.KNOWS_NOTHING} · ln",
        f"{holdout.SHARE:.0%}".replace("%", " %"),
        f"more than {rows.TEMPLATE_SHARE:.0%}".replace("%", " %"), f"(at least {rule.MIN_EVIDENCE})",
        f"(at least {rule.MIN_VERIFIED})", f"up to {search.CLASSES} words", f"against {learn.SHUFFLES} shuffles",
        f"below {learn.SIGNIFICANT}", f"{difficulty.DEFAULT_LEVELS} unless",
        f"at least {difficulty.MIN_LEVEL_ROWS} rows", f"({difficulty.RULE_LEVEL_ROWS} with a rule",
        f"first look needs {LEAST_TRIAL}", f"Required from {tags.REQUIRED}",
        f"optional from {tags.OPTIONAL}", f"lower bound is {made.CEILING:.2f}", f"up to {forging.ASKED} held-out",
        f"for {forging.STEPS} optimizer steps", f"At least {gain.LEAST_ASKED} questions",
    ):  # fmt: skip
        assert words in text, words
