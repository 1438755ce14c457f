"""Modules as skills: the contract over HTTP, splits, closed levels, and a module trained and examined for real."""

from __future__ import annotations

import pickle
from collections import Counter
from copy import deepcopy

import hero_kit
import module_kit as kit
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from realm import db
from realm.arena import commands, plan
from realm.guild import campaigns, skills
from realm.guild.modules import archive, shelf
from realm.guild.modules.generator import GeneratorError, Made
from realm.guild.modules.manifest import Generator
from realm.guild.modules.skill import ModuleSkill
from realm.guild.skills import SPLITS, SkillError
from realm.guild.skills.base import keyed_rng
from realm.guild.skills.conformance import check
from realm.guild.skills.server import Worker, create_app
from realm.quests import idle
from realm.temple import cleric


class _Here(Worker):
    """Runs in this process: the contract is tested here, the worker process elsewhere."""

    async def run(self, function, *args):
        return function(*args)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return ModuleSkill(kit.folder(tmp_path_factory.mktemp("tiny")), "tiny-sums")


@pytest.fixture(scope="module")
def pattern():
    return ModuleSkill(shelf.shipped() / "pattern-master", "pattern-master")


@pytest.fixture(scope="module")
def carry():
    return ModuleSkill(shelf.shipped() / "carry-drill", "carry-drill")


@pytest.mark.parametrize("name", ["tiny", "pattern", "carry"])
def test_conformance(name, request):
    with TestClient(create_app(request.getfixturevalue(name), _Here())) as client:
        check(client)


@pytest.mark.parametrize("name", ["tiny", "pattern", "carry"])
def test_splits_share_no_problem(name, request):
    skill = request.getfixturevalue(name)
    for level in range(1, skill.max_level + 1):
        if skill.closed(level):
            continue
        found = {split: skill.generate(level, 60, 5, split) for split in SPLITS}
        for split, problems in found.items():
            assert {p.split for p in problems} == {split}
            assert {skill.split_of(p.prompt) for p in problems} == {split}
        for a in SPLITS:
            for b in SPLITS:
                shared = {p.canonical for p in found[a]} & {p.canonical for p in found[b]}
                assert a == b or not shared, (level, a, b, shared)


def test_every_problem_is_recognised_and_marked(pattern, carry, tiny):
    for skill in (pattern, carry, tiny):
        for level in range(1, skill.max_level + 1):
            room = skill.levels()[level - 1].max_new_tokens
            for problem in skill.generate(level, 50, 1, "train"):
                again = skill.problem_of(problem.prompt)
                assert (again.canonical, again.golden) == (problem.canonical, problem.golden)
                assert skill.grade(problem, problem.golden).correct and not skill.grade(problem, "nonsense").correct
                assert len(problem.golden.encode()) <= room


def test_a_walk_through_rows_repeats_none(pattern):
    first = pattern.generate(1, 300, 9, "train")
    assert len({p.canonical for p in first}) == 300
    assert first[:50] == pattern.generate(1, 50, 9, "train")
    assert Counter(p.canonical for p in pattern.generate(1, 600, 9, "train")).most_common(1)[0][1] == 2


def test_evaluation_rows_are_never_trained_on(pattern):
    for level in pattern.content.levels.values():
        trained = {p.prompt for p in pattern.generate(level.entry.level, 600, 0, "train")}
        held = {item.prompt for items in level.held.values() for item in items}
        assert len(held) == 330 and not trained & held and len(level.held["trial"]) >= 200


def test_closed_and_open_levels(carry):
    infos = carry.levels()
    assert [info.closed for info in infos] == [True, False, False, False]
    assert infos[0].distinct == len(carry.table(1)) == 405 and infos[0].threshold == 0.90
    table = {p.canonical for p in carry.table(1)}
    for level in (2, 3, 4):
        for split in ("trial", "probe"):
            assert not table & {p.canonical for p in carry.generate(level, 60, 0, split)}
    trial = carry.generate(1, 405, 3, "trial")
    assert {p.canonical for p in trial} == table, "a closed level is examined whole"
    for problem in carry.generate(4, 50, 0, "train"):
        a, b = (int(word) for word in problem.prompt.replace("?", " ").replace(".", " ").split() if word.isdigit())
        assert all(a % m + b % m >= m for m in (10, 100, 1000, 10_000)) and problem.golden == str(a + b)


def test_symmetry_and_wording_do_not_change_the_split(carry):
    for problem in carry.generate(3, 30, 2, "trial"):
        a, b = (word for word in problem.prompt.replace("?", " ").replace(".", " ").split() if word.isdigit())
        for prompt in (f"{a} + {b} = ?", f"Add {b} and {a}.", f"What is {b} plus {a}?"):
            assert carry.split_of(prompt) == "trial"
    assert carry.split_of("2 + 2 = ?") is None and carry.split_of("hello") is None


def test_grading_goes_by_the_prompt_not_by_what_a_request_says(tiny):
    problem = tiny.generate(2, 1, 0)[0]
    forged = deepcopy(problem.to_dict()) | {"golden": "= 0"}
    assert not tiny.grade(type(problem).from_dict(forged), "= 0").correct or problem.golden == "= 0"
    with pytest.raises(SkillError, match="no problem of module:tiny-sums"):
        tiny.grade(type(problem).from_dict(forged | {"prompt": "else"}), "= 0")


def test_requests_that_cannot_be_served(tiny):
    for arguments in ((0, 1, 0), (3, 1, 0), (1, -1, 0), (1, 1, 0, "exam"), (True, 1, 0), (1, 1, "x")):
        with pytest.raises(SkillError):
            tiny.generate(*arguments)
    with pytest.raises(SkillError, match="this one is open"):
        tiny.table(1)


def test_a_skill_travels_to_a_worker_without_its_rows(pattern):
    raw = pickle.dumps(pattern)
    assert len(raw) < 5_000
    assert pickle.loads(raw).generate(1, 3, 0) == pattern.generate(1, 3, 0)


def test_another_version_is_another_split(tmp_path):
    one = ModuleSkill(kit.folder(tmp_path / "a"), "tiny-sums")
    two = ModuleSkill(kit.folder(tmp_path / "b", kit.files({**kit.MANIFEST, "version": "2.0"})), "tiny-sums")
    prompts = [p.prompt for p in one.generate(2, 200, 0, "train")]
    assert {two.split_of(prompt) for prompt in prompts} == set(SPLITS)


def test_several_skills_and_mixed_levels(tmp_path):
    manifest = {**deepcopy(kit.MANIFEST), "skills": [{"id": "doubles", "levels": [1], "max_level": 1},
                                                     {"id": "tiny-sums", "levels": [1, 2], "max_level": 2}],
                "data": [{"path": "data/level1.jsonl", "skill_level": "doubles:1", "examples": 30}]}  # fmt: skip
    skill = deepcopy(kit.SKILL)
    skill["levels"].append({**deepcopy(skill["levels"][0]), "level": 1})
    content = {**kit.files(manifest, skill),
               "eval/test.jsonl": kit.jsonl(kit.rows(1000, 90, level=1, skill="doubles"))}  # fmt: skip
    archive.install(kit.folder(tmp_path / "src", content), tmp_path / "modules")
    skills.attach(tmp_path)
    try:
        assert {"module:tiny-sums/doubles", "module:tiny-sums/tiny-sums"} <= set(skills.skill_ids())
        assert skills.get_skill("module:tiny-sums/doubles").generate(1, 30, 0)[0].kind == "row"
        assert skills.get_skill("module:tiny-sums/tiny-sums").max_level == 2
        with pytest.raises(SkillError, match="use one of module:tiny-sums/doubles"):
            skills.get_skill("module:tiny-sums")
        with pytest.raises(SkillError, match="has no skill 'other'"):
            skills.get_skill("module:tiny-sums/other")
        with TestClient(create_app(skills.get_skill("module:tiny-sums/doubles"), _Here())) as client:
            check(client)
    finally:
        skills.attach(None)


def test_a_level_of_rows_and_generators_draws_from_both(tmp_path):
    skill = deepcopy(kit.SKILL)
    skill["levels"].append({**deepcopy(skill["levels"][0]), "level": 1})
    mixed = ModuleSkill(kit.folder(tmp_path, kit.files(skill=skill)), "tiny-sums")
    kinds = Counter(p.kind for p in mixed.generate(1, 60, 0))
    assert kinds["row"] > 10 and kinds["generated"] > 10 and not mixed.closed(1)
    assert mixed.generate(1, 20, 0) == mixed.generate(1, 60, 0)[:20]


# --- generators -------------------------------------------------------------------------------------------------------

VARIABLES = st.one_of(
    st.tuples(st.integers(-99, 99), st.integers(0, 99)).map(lambda x: {"type": "int", "min": x[0], "max": x[0] + x[1]}),
    st.lists(st.text("abc d-,", min_size=1, max_size=4), min_size=1, max_size=4, unique=True).map(
        lambda x: {"type": "choice", "values": x}),
    st.integers(1, 4).map(lambda n: {"type": "list", "min": -5, "max": 20, "max_length": n}),
    st.integers(1, 4).map(lambda n: {"type": "string", "alphabet": "ab,1-", "max_length": n}),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), VARIABLES, min_size=1), st.text(" ,:-ab1?", max_size=3),
       st.integers(0, 1000))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_what_is_drawn_is_read_back(variables, gap, seed):
    prompt = gap.join("{" + name + "}" for name in variables)
    made = Made(Generator(operation="op", prompts=(prompt, "x" + prompt), variables=variables,
                          answer=f"text({next(iter(variables))})"))  # fmt: skip
    rng = keyed_rng("test", seed)
    for _ in range(5):
        drawn = made.draw(rng)
        if drawn is not None:
            assert made.parse(drawn.prompt) is not None
            assert made.parse(drawn.prompt).canonical == drawn.canonical


def test_enumeration_is_the_whole_space():
    nine = {"type": "int", "min": 1, "max": 9}
    made = Made(Generator(operation="op", prompts=("{a} {b}",), answer="a", where="a != b", symmetric=(("a", "b"),),
                          variables={"a": nine, "b": nine}))  # fmt: skip
    assert made.combinations == 81 and len(list(made.enumerate())) == 36
    with pytest.raises(GeneratorError, match="symmetric"):
        Made(Generator(operation="op", prompts=("{a}",), answer="a", symmetric=(("a", "z"),),
                       variables={"a": nine}))  # fmt: skip


# --- trained for real -------------------------------------------------------------------------------------------------

def test_a_module_is_trained_and_examined(home, engine):
    """An idle quest of a module: made, gated, trained by the real battle code, examined on its held-out rows."""
    archive.install(shelf.shipped() / "pattern-master", home.root / "modules")
    skills.attach(home.root)
    try:
        skill = skills.get_skill("module:pattern-master")
        path = home.queue / "normal" / "lesson.jsonl"
        order = idle.IdleOrder(skill.id, skill.version, {1: 30, 2: 30}, seed=5)
        facts = idle.write(order, path, skill)
        assert facts["rows"] == 60 and cleric.check_idle(path, skill) is not None
        profile = hero_kit.micro_profile(training_defaults={"max_length": 1024})
        ids = hero_kit.campaign(engine)
        hero_kit.born(home, profile)
        rows = [p.messages for p in idle.problems(order, skill)]
        data = hero_kit.quest(home, engine, ids, "lesson", rows)
        trial = {"kind": "promotion", "skill": skill.id, "level": 1, "closed": False, "threshold": skill.threshold,
                 "seed": 3, "max_n": 40}  # fmt: skip
        row = hero_kit.serve_here(home, engine, hero_kit.order_battle(engine, profile, ids, data=data, steps=3,
                                                                      trials=[trial]))  # fmt: skip
        assert (row["state"], row["outcome"]) == ("done", "trained"), row["error"]
        with engine.connect() as connection:
            made = connection.execute(sa.select(db.trials)).mappings().one()
            items = connection.execute(sa.select(db.trial_items)).mappings().all()
        assert (made["skill"], made["n"], made["verdict"]) == (skill.id, 40, "fail")
        trained = {messages[0]["content"] for messages in rows}
        for item in items:
            assert item["problem"]["split"] == "trial" and item["problem"]["prompt"] not in trained
            assert skill.grade(skill.problem_of(item["problem"]["prompt"]), item["response"]).correct == item["correct"]
    finally:
        skills.attach(None)


def test_an_unmet_requirement_is_an_error_at_use(tmp_path, home, engine):
    """Asked for by a person: refused with what is missing. By priority: it waits until the campaign is ready."""
    manifest = {**kit.MANIFEST, "requirements": {"min_level": 1, "prerequisites": ["bin:1"]}}
    archive.install(kit.folder(tmp_path / "src", kit.files(manifest)), home.root / "modules")
    skills.attach(home.root)
    try:
        name = "module:tiny-sums"
        with db.write(engine) as connection:
            campaign = campaigns.ensure_active(connection, "pip", {"seed": 0})
            assert set(plan.skill_states(connection, campaign, {"bin": 1.0, name: 1.0})) == {"bin"}
            with pytest.raises(SkillError, match="needs bin at level 1, the campaign has 0"):
                commands.HANDLERS["idle.generate"](connection, home, {"skill": name})
            connection.execute(sa.insert(db.levels).values(campaign_id=campaign, skill="bin", level=1, closed=True,
                                                           mastered_at=1.0, step=1, trial_id="t"))  # fmt: skip
            assert set(plan.skill_states(connection, campaign, {"bin": 1.0, name: 1.0})) == {"bin", name}
            assert commands.HANDLERS["idle.generate"](connection, home, {"skill": name})
    finally:
        skills.attach(None)


def test_the_gate_takes_exam_rows_of_a_module_out_of_any_file(tmp_path, home):
    archive.install(kit.folder(tmp_path / "src"), home.root / "modules")
    skills.attach(home.root)
    try:
        skill = skills.get_skill("module:tiny-sums")
        exam = [p for level in (1, 2) for p in skill.generate(level, 10, 0, "trial")]
        lesson = skill.generate(2, 20, 0, "train")
        source = tmp_path / "leak.jsonl"
        source.write_bytes(kit.jsonl([{"messages": p.messages} for p in [*lesson, *exam]]))
        report = cleric.examine(source, tmp_path / "out.jsonl", tmp_path / "bad.jsonl", name="leak.jsonl",
                                skills=skills.all_skills())  # fmt: skip
        assert report["rows"]["filtered"] == len({p.prompt for p in exam})
        assert {"trial_split"} <= {reason["code"] for reason in report["reasons"]}
    finally:
        skills.attach(None)


@pytest.mark.parametrize("of", ["bin", "passives"])
def test_a_module_cannot_practise_what_another_skill_examines(home, tmp_path, of):
    """Its rows were only asked about its own exam: a trial problem of BIN in data/ would have been trained on."""
    other = skills.get_skill(of)
    exam = other.table(1)[0] if of == "passives" else other.generate(9, 1, 0, "trial")[0]
    content = kit.files()
    content["data/level1.jsonl"] = kit.jsonl([*kit.rows(0, 29), {"prompt": exam.prompt, "golden": exam.golden}])
    archive.install(kit.folder(tmp_path, content), home.root / "modules")
    skills.attach(home.root)
    try:
        skill, path = skills.get_skill("module:tiny-sums"), tmp_path / "idle.jsonl"
        idle.write(idle.IdleOrder(skill.id, skill.version, {1: 30}, seed=5), path, skill)
        with pytest.raises(cleric.GateError, match=f"split of {of}"):
            cleric.check_idle(path, skill)
    finally:
        skills.attach(None)
