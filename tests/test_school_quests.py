"""A quest finds its school: by its rows, by a person's word, by the campaign's recipe; options travel with it."""

from __future__ import annotations

import json
import os

import orjson
import pytest
import sqlalchemy as sa
from loop_kit import Tables, wait_for
from test_hero_loop_real import end, micro, start  # noqa: F401
from test_quests_inbox import box, chat, lines

from realm import db, schools
from realm.arena import commands, practice
from realm.guild.campaigns import method
from realm.guild.skills import get_skill
from realm.quests import board, sparring
from realm.quests.inbox import drop
from realm.quests.sparring import Corner


@pytest.fixture
def tables(home):
    made = Tables(home)
    yield made
    made.engine.dispose()


def written(path, rows):
    path.write_bytes(lines(*rows))
    return path


def sparring_rows(count=8):
    problems = list({p.prompt: p for p in get_skill("attn_count").generate(2, count, 1)}.values())
    bouts = sparring.spar(problems, lambda asked, room: [("= 99", 1)] * len(asked), 1)
    return [row for three in sparring.reflections(bouts, Corner("C", "R", "CP", 3)) for row in three]


def order(home, tables, kind, payload):
    command_id = tables.send(kind, **payload)
    with db.write(tables.engine) as connection:
        commands.work(connection, home)
    told = tables.answer(command_id)
    return told["state"], told["result"]


# --- by the rows --------------------------------------------------------------------------------------------------


def test_sparring_rows_in_the_inbox_are_the_mirrors(home, tables):
    written(home.inbox / "fight.jsonl", sparring_rows())
    assert [t.state for t in box(home, tables).poll()] == ["queued"]
    quest = tables.quests()[0]
    assert quest["school"] == "mirror" and quest["report"]["reasons"] == [] and quest["rows"] == len(sparring_rows())


def test_questions_for_a_teacher_are_the_whispers(home, tables):
    exam = get_skill("attn_count").generate(2, 1, 1, "trial")[0].prompt
    rows = [{"prompt": "What is the moon?", "teacher": "http://host/v1", "model": "sage"},
            {"prompt": "And the sun?", "teacher": "http://host/v1", "model": "sage"},
            {"prompt": "And Mars?", "teacher": "other"}, {"prompt": " ", "teacher": "http://host/v1", "model": "sage"},
            {"prompt": exam, "teacher": "http://host/v1", "model": "sage"}]  # fmt: skip
    written(home.inbox / "asked.jsonl", rows)
    box(home, tables).poll()
    quest = tables.quests()[0]
    assert (quest["school"], quest["state"], quest["rows"]) == ("whisper", "queued", 2)
    assert quest["origin"]["options"] == {"teacher": "http://host/v1", "model": "sage"}
    assert {r["code"] for r in quest["report"]["reasons"]} == {"other_teacher", "format", "trial_split"}
    assert (home.root / quest["path"]).read_bytes() == lines(*rows[:2]), "bytes in, bytes out"


def test_what_schools_left_behind_is_cleared_away(home, tables):
    from realm.arena import tending

    task = next(t for t in tending.tasks(home) if t.name == "lessons")
    now = {"done": ("done", 1.0), "old": ("failed", db.now() - 9e7), "new": ("failed", db.now()),
           "on": ("queued", None)}  # fmt: skip
    with db.write(tables.engine) as connection:
        for name, (state, finished) in now.items():
            board.enqueue(connection, board.NewQuest(id=name, name=name, kind="file", state="queued"))
            board.set_state(connection, name, state, finished_at=finished)
    for name in (*now, "nobody"):
        (home.queue / "live" / name).mkdir(parents=True)
        (home.queue / "live" / name / "teacher.jsonl").write_text("x" * 10)
    answers = home.queue / "answers"
    answers.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (answers / name).write_text("x")
    for path in (answers / "a.jsonl", home.queue / "live" / "nobody"):
        os.utime(path, (1.0, 1.0))
    gone = {"queue/live/done", "queue/live/old", "queue/live/nobody", "queue/answers/a.jsonl"}
    assert {f.what for f in task.run(home, tables.engine, True)} == gone
    assert (home.queue / "live" / "done").exists(), "a dry run changes nothing"
    assert {f.what for f in task.run(home, tables.engine, False)} == gone
    assert sorted(p.name for p in home.queue.glob("live/*")) == ["new", "on"] and not (answers / "a.jsonl").exists()
    assert task.run(home, tables.engine, False) == []


def test_rows_of_two_schools_in_one_file_are_told_apart(home, tables):
    written(home.inbox / "both.jsonl", [*sparring_rows(), chat(1)])
    box(home, tables).poll()
    quest = tables.quests()[0]
    assert quest["school"] == "mirror" and quest["report"]["reasons"][0]["code"] == "other_school"


# --- by a person's word -------------------------------------------------------------------------------------------


def test_a_file_brings_its_school_and_options(home, tables, tmp_path):
    source = written(tmp_path / "a.jsonl", [chat(1), chat(2)])
    path = drop(home, source, "high", "whisper", {"teacher": "models/sage", "hard": 0.1})
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["a.jsonl"]
    assert [t.state for t in box(home, tables).poll()] == ["queued"]
    quest = tables.quests()[0]
    assert (quest["school"], quest["lane"]) == ("whisper", "high")
    assert quest["origin"]["options"] == {"teacher": "models/sage", "hard": 0.1}
    assert list(path.parent.iterdir()) == [], "nothing is left for the next file of this name"
    with pytest.raises(schools.SchoolError, match="no school 'wisper'; did you mean 'whisper'"):
        drop(home, source, "high", "wisper")


def test_a_wish_is_not_another_files(home, tables, tmp_path):
    one, two = (written(tmp_path / name, [chat(n)]) for n, name in enumerate(("a.jsonl", "b.jsonl")))
    drop(home, one, "normal", "mirror")
    box(home, tables).poll()
    drop(home, one, "normal", "mirror")  # the same bytes: no second quest
    assert [t.state for t in box(home, tables).poll()] == ["duplicate"]
    two.rename(tmp_path / "a.jsonl")
    drop(home, tmp_path / "a.jsonl")
    box(home, tables).poll()
    assert [q["school"] for q in tables.quests()] == ["mirror", "scribe"]


@pytest.mark.parametrize("wish", [b"", b"[]", b'{"school": "nowhere", "options": {}}', b'{"school": "mirror"}'])
def test_a_broken_wish_is_no_wish(home, tables, wish):
    path = written(home.inbox / "a.jsonl", [chat(1)])
    (path.parent / ".a.jsonl.school").write_bytes(wish)
    box(home, tables).poll()
    assert [q["school"] for q in tables.quests()] == ["scribe"]


def test_a_waiting_quest_changes_its_school(home, tables):
    written(home.inbox / "a.jsonl", [chat(1), chat(2)])
    box(home, tables).poll()
    quest_id = tables.quests()[0]["id"]
    state, _ = order(home, tables, "quest.school", {"quest_id": quest_id, "school": "mirror", "options": {"ask": 5}})
    quest = tables.quests()[0]
    assert state == "done" and (quest["school"], quest["origin"]["options"]) == ("mirror", {"ask": 5})
    assert quest["origin"]["file"] == "inbox/a.jsonl", "what else is known of it stays"
    for payload, says in (({"school": "judje"}, "no school 'judje'"), ({"school": "mirror", "options": 3}, "options 3"),
                          ({"quest_id": "nope", "school": "mirror"}, "no quest nope")):  # fmt: skip
        state, result = order(home, tables, "quest.school", {"quest_id": quest_id, **payload})
        assert state == "failed" and says in result["reason"]
    with db.write(tables.engine) as connection:
        board.set_state(connection, quest_id, "queued", started_at=1.0)
    state, result = order(home, tables, "quest.school", {"quest_id": quest_id, "school": "scribe"})
    assert state == "failed" and "has begun in the school mirror" in result["reason"]
    with db.write(tables.engine) as connection:
        board.set_state(connection, quest_id, "done")
    state, result = order(home, tables, "quest.school", {"quest_id": quest_id, "school": "scribe"})
    assert state == "failed" and "is done" in result["reason"]


def test_commands(run, home, tables, tmp_path):
    source = written(tmp_path / "a.jsonl", [chat(1)])
    words = ("--school", "mirror", "--option", "ask=9", "--option", "weak=[shift]")
    code, _, err = run("quest", "add", str(source), *words)
    assert code == 0, err
    box(home, tables).poll()
    quest = tables.quests()[0]
    assert quest["origin"]["options"] == {"ask": 9, "weak": ["shift"]}
    assert run("quest", "school", quest["id"], "scribe")[0] == 0
    words = ("--skill", "bin", "--level", "3", "--school", "mirror", "--option", "plain=0")
    assert run("quest", "practise", *words)[0] == 0
    with db.read(tables.engine) as connection:
        payloads = connection.execute(sa.select(db.commands.c.payload).order_by(db.commands.c.t)).scalars().all()
    assert payloads == [{"quest_id": quest["id"], "school": "scribe", "options": {}},
                        {"skill": "bin", "level": 3, "school": "mirror", "options": {"plain": 0}}]  # fmt: skip
    bad = ((("--option", "a=1"), "name it with --school"), (("--school", "mirror", "--option", "a"), "write KEY=VALUE"),
           (("--school", "mirro"), "did you mean 'mirror'"),
           (("--school", "mirror", "--option", "a=["), "put it in quotes"))  # fmt: skip
    for words, says in bad:
        code, _, err = run("quest", "add", str(source), *words)
        assert code == 1 and says in err, err


# --- by the recipe ------------------------------------------------------------------------------------------------


def test_schools_of_a_recipe_take_turns():
    def campaign(*names):
        return {"method": method.parse({"schools": list(names)}).model_dump(mode="json")}

    assert [practice.school_of({"method": None}, n) for n in range(3)] == ["scribe"] * 3
    assert [practice.school_of(campaign("scribe", "mirror"), n) for n in range(4)] == ["scribe", "mirror"] * 2
    assert practice.school_of(campaign("whisper"), 0) == "scribe", "no teacher stands in a recipe"
    assert practice.school_of(campaign("whisper", "mirror"), 5) == "mirror"


@pytest.mark.slow
def test_a_mirror_quest_from_the_command_to_the_report(micro, tables, run):  # noqa: F811
    (micro.root / "settings.yaml").write_text("default_hero: micro\nidle_generation: false\n")
    process = start(micro)
    try:
        wait_for(lambda: tables.rows(db.campaigns), 60, "the first campaign")
        code, out, err = run("quest", "practise", "--skill", "attn_count", "--level", "1", "--school", "mirror",
                             "--option", "ask=60", "--json")  # fmt: skip
        assert code == 0, err
        wait_for(lambda: tables.quests(db.quests.c.state == "done"), 240, "the mirror quest done")
    finally:
        end(process)
    quest = tables.quests()[0]
    assert quest["school"] == "mirror" and quest["origin"]["options"] == {"ask": 60, "weak": []}
    lesson = quest["report"]["lessons"][0]
    assert lesson["what"] == "sparring" and lesson["asked"] == 60 and lesson["made"] > 60
    told = json.loads(run("quest", "report", quest["id"])[1])
    assert told["lessons"] == [lesson]
    assert tables.rows(db.battles)[0]["school"] == "mirror" and not (micro.queue / "live" / quest["id"]).exists()
    assert orjson.loads(orjson.dumps(lesson))["wrong"] <= 60
