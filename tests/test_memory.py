"""The rehearsal buffer of file quests, where rows come from, and the caps on what a hero wrote itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_kit import Tables, running, tiny_home, wait_for

from afs.jsonl import file_sha256
from realm import db
from realm.arena import plan
from realm.guild import campaigns
from realm.guild.skills import get_skill
from realm.quests import board, idle, memory, origin
from realm.quests.memory import KEEP_AT_LEAST, Source
from realm.temple import cleric


def chat(number, quest="q", **more):
    return {"messages": [{"role": "user", "content": f"{quest}: question {number}?"},
                         {"role": "assistant", "content": f"answer {number} of {quest}"}], **more}  # fmt: skip


class Library:
    """A campaign whose hero has finished files."""

    def __init__(self, home, engine) -> None:
        self.home, self.engine, self.clock = home, engine, 1000.0
        with db.write(engine) as connection:
            self.campaign = campaigns.ensure_active(connection, "pip", {"seed": 1})

    def finish(self, name, rows, probe=(), state="done", **columns) -> str:
        """A file quest that was trained to its end; returns its id."""
        quest = db.new_id()
        path = self.home.root / "completed" / board.file_name(quest, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = {"verdict": "accepted", "probe": None}
        if probe:
            held = self.home.queue / "probes" / path.name
            held.parent.mkdir(parents=True, exist_ok=True)
            held.write_text("".join(json.dumps(row) + "\n" for row in probe))
            report["probe"] = {"path": held.relative_to(self.home.root).as_posix(), "rows": len(probe)}
        self.clock += 10
        with db.write(self.engine) as connection:
            board.enqueue(connection, board.NewQuest(
                id=quest, name=name, kind="file", campaign_id=columns.pop("campaign", self.campaign), rows=len(rows),
                path=path.relative_to(self.home.root).as_posix(), report=report, content_sha256=file_sha256(path),
                **columns))
            connection.execute(sa.update(db.quests).where(db.quests.c.id == quest).values(
                state=state, started_at=self.clock - 5, finished_at=self.clock))
        return quest

    def measured(self, quest, *losses, before=None) -> None:
        """Held-out losses of a quest, in their order."""
        with db.write(self.engine) as connection:
            run = campaigns.current_run(connection, self.campaign)["id"]
            if before is not None:
                connection.execute(sa.insert(db.battles).values(
                    id=db.new_id(), campaign_id=self.campaign, run_id=run, quest_id=quest, hero_id="pip",
                    school="scribe", worker="w", state="done", desired="run", save_requests=0, config={},
                    loss_before=before, started_at=self.clock))
            for loss in losses:
                self.clock += 1
                connection.execute(sa.insert(db.trials).values(
                    id=db.new_id(), campaign_id=self.campaign, quest_id=quest, checkpoint_id="c", step=1, kind="file",
                    closed=False, n=20, correct=0, verdict="measured", suspicious=False, loss=loss, tokens=0,
                    started_at=self.clock, seconds=1.0))

    def catch_up(self) -> list[str]:
        return memory.catch_up(self.home, self.engine, self.campaign)

    def recall(self, count, seed=1, **more) -> list[dict]:
        return memory.recall(self.home, self.engine, self.campaign, count, seed, **more)

    def files(self) -> dict[str, str]:
        folder = memory.folder_of(self.home, self.campaign)
        return {path.name: file_sha256(path) for path in sorted(folder.glob("*.jsonl"))}


@pytest.fixture
def library(home, engine):
    return Library(home, engine)


# --- keeping ------------------------------------------------------------------------------------------------------


def test_a_finished_file_is_kept_and_drawn_from(library):
    library.finish("letters", [chat(n, "letters") for n in range(60)])
    assert library.recall(10) == [], "nothing is there before the first look"
    assert library.catch_up() == []
    assert memory.size(library.home, library.campaign) == 60
    rows = library.recall(10)
    assert len(rows) == 10 and len({r["messages"][0]["content"] for r in rows}) == 10
    assert all(r["quest"] == "letters" and r["origin"] == "human" and r["rehearsal"] for r in rows)
    assert rows == library.recall(10) and rows != library.recall(10, seed=2)


def test_a_second_look_changes_nothing(library):
    library.finish("letters", [chat(n) for n in range(30)])
    library.catch_up()
    before = library.files()
    folder = memory.folder_of(library.home, library.campaign)
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    library.catch_up()
    assert library.files() == before and {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == times


def test_the_same_content_is_one_source(library):
    rows = [chat(n) for n in range(30)]
    library.finish("one", rows)
    library.finish("two", rows)
    library.catch_up()
    assert len(library.files()) == 1 and memory.size(library.home, library.campaign) == 30
    assert len(library.recall(100)) == 30


@pytest.mark.parametrize("columns", [{"skill": "bin"}, {"state": "hold"}, {"state": "failed"}, {"school": "judge"}])
def test_what_is_not_kept(library, columns):
    """Problems of a skill are made anew; what was not trained to its end taught nothing that could be lost."""
    library.finish("other", [chat(n) for n in range(30)], **columns)
    library.catch_up()
    assert library.files() == {} and library.recall(5) == []


def test_another_campaign_has_a_buffer_of_its_own(library):
    with db.write(library.engine) as connection:
        other = campaigns.ensure_active(connection, "dio", {"seed": 2})
    library.finish("theirs", [chat(n) for n in range(30)], campaign=other)
    library.finish("ours", [chat(n, "ours") for n in range(30)])
    library.catch_up()
    assert {row["quest"] for row in library.recall(60)} == {"ours"}
    assert memory.recall(library.home, library.engine, other, 5, 1) == []
    memory.forget(library.home, library.campaign)
    memory.forget(library.home, library.campaign)
    assert memory.size(library.home, library.campaign) == 0


def test_a_file_that_was_rolled_back_is_not_rehearsed(library):
    quest = library.finish("letters", [chat(n) for n in range(30)])
    library.catch_up()
    with db.write(library.engine) as connection:
        connection.execute(sa.update(db.quests).where(db.quests.c.id == quest).values(state="hold"))
    assert library.recall(5) == []
    with db.write(library.engine) as connection:
        connection.execute(sa.update(db.quests).where(db.quests.c.id == quest).values(state="done"))
    assert len(library.recall(5)) == 5, "its rows are still there once it is done again"


def test_the_best_rows_are_kept_where_they_are_scored(library):
    library.finish("scored", [chat(n, quality_score=n / 1000) for n in range(1000)])
    library.catch_up()
    kept = [int(r["messages"][0]["content"].split()[-1].rstrip("?")) for r in library.recall(5000)]
    assert len(kept) == 400 and min(kept) == 600, "the best 40 %"


def test_without_scores_every_part_of_the_file_has_its_chance(library):
    library.finish("plain", [chat(n) for n in range(2000)])
    library.catch_up()
    kept = [int(r["messages"][0]["content"].split()[-1].rstrip("?")) for r in library.recall(5000)]
    assert len(kept) == 800
    tenths = Counter(n // 200 for n in kept)
    assert all(40 <= tenths[n] <= 125 for n in range(10)), tenths


def test_small_files_are_kept_whole(library):
    library.finish("small", [chat(n) for n in range(KEEP_AT_LEAST)])
    library.catch_up()
    assert memory.size(library.home, library.campaign) == KEEP_AT_LEAST


def test_the_buffer_is_bounded_and_fair(library, monkeypatch):
    monkeypatch.setattr(memory, "PER_CAMPAIGN", 100)
    for name, n in (("a", 20), ("b", 150), ("c", 150)):
        library.finish(name, [chat(i, name, quality_score=1 - i / 1000) for i in range(n)])
    library.catch_up()
    assert memory.size(library.home, library.campaign) == 100
    assert Counter(r["quest"] for r in library.recall(500)) == {"a": 20, "b": 40, "c": 40}
    best = sorted(r["messages"][0]["content"] for r in library.recall(500) if r["quest"] == "b")
    assert best == sorted(f"b: question {n}?" for n in range(40)), "the best of each stay"
    before = library.files()
    library.catch_up()
    assert library.files() == before


def test_rows_that_no_buffer_should_hold(library):
    rows = [chat(0), {"text": "no messages"}, chat(1, more="x" * 40_000), {"messages": "odd"}]
    library.finish("odd", rows)
    assert library.catch_up() == []
    assert [r["messages"][0]["content"] for r in library.recall(9)] == ["q: question 0?"]
    library.finish("nothing", [{"text": str(n)} for n in range(5)])
    assert library.catch_up() == [] and len(library.files()) == 2, "looked at once, empty from then on"
    assert len(library.recall(9)) == 1


def test_a_file_that_is_gone_is_passed_over(library):
    quest = library.finish("gone", [chat(n) for n in range(30)])
    with db.read(library.engine) as connection:
        (library.home.root / board.get(connection, quest)["path"]).unlink()
    assert library.catch_up() == [] and library.files() == {}


def test_trouble_is_said_and_stops_nothing(library, monkeypatch):
    library.finish("bad", [chat(n, "bad") for n in range(3)])
    library.finish("good", [chat(n, "good") for n in range(3)])
    whole = memory.keep

    def keep(path, target, quest, probes):
        if quest["name"] == "bad":
            raise OSError(28, "No space left on device")
        return whole(path, target, quest, probes)

    monkeypatch.setattr(memory, "keep", keep)
    [trouble] = library.catch_up()
    assert "bad" in trouble and "No space" in trouble
    assert {r["quest"] for r in library.recall(9)} == {"good"}


# --- held-out rows ------------------------------------------------------------------------------------------------


def test_held_out_rows_are_never_rehearsed(library):
    """Neither a quest's own, nor those of another file that holds the same question, whenever it came."""
    secret = [chat(n, "secret") for n in range(20)]
    library.finish("early", [chat(n, "early") for n in range(40)] + secret[:5])
    library.catch_up()
    library.finish("main", [chat(n, "main") for n in range(40)], probe=secret)
    other = [{"messages": [row["messages"][0], {"role": "assistant", "content": "another answer"}]} for row in secret]
    library.finish("late", [chat(n, "late") for n in range(40)] + other)
    library.catch_up()
    drawn = library.recall(500)
    assert {r["quest"] for r in drawn} == {"early", "main", "late"} and len(drawn) == 120
    assert not any("secret" in r["messages"][0]["content"] for r in drawn)


def test_a_common_instruction_holds_nothing_out_by_itself(library):
    def row(n):
        return {"messages": [{"role": "user", "content": "Write a poem."},
                             {"role": "assistant", "content": f"poem {n}"}]}  # fmt: skip

    library.finish("poems", [row(n) for n in range(40)], probe=[row(n) for n in range(100, 120)])
    library.finish("more", [row(n) for n in range(100, 130)])
    library.catch_up()
    drawn = {r["messages"][1]["content"] for r in library.recall(500)}
    assert drawn == {f"poem {n}" for n in (*range(40), *range(120, 130))}


def test_the_callers_word_counts(library):
    library.finish("letters", [chat(n) for n in range(30)])
    library.catch_up()
    rows = library.recall(30, allowed=lambda row: "7" not in row["messages"][0]["content"])
    assert len(rows) == 27


# --- killed -------------------------------------------------------------------------------------------------------

KILLED = """
    import os, signal, sys
    from realm import db
    from realm.quests import memory
    from realm.settings import RealmHome

    home, campaign, after, seen = RealmHome(sys.argv[1]), sys.argv[2], int(sys.argv[3]), 0

    def count(event, arguments):
        global seen
        if event in ("open", "os.rename", "os.remove") and "rehearsal" in str(arguments):
            seen += 1
            if seen > after:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    memory.PER_CAMPAIGN = 60
    memory.catch_up(home, db.connect(home), campaign)
"""


def test_killed_at_any_file_operation_the_next_look_makes_it_good(library, monkeypatch):
    for name in ("a", "b"):
        library.finish(name, [chat(n, name) for n in range(50)])
    code, after = -signal.SIGKILL, 0
    while code:
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(library.home.root), library.campaign,
                               str(after)], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
        code, after = done.returncode, after + 3
        assert code in (0, -signal.SIGKILL), done.stderr
        for path in memory.folder_of(library.home, library.campaign).glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_bytes().splitlines()]
            assert len(rows) in (30, 50) and all("messages" in row for row in rows), "whole at every instant"
    assert after > 9, "it was killed more than once"
    monkeypatch.setattr(memory, "PER_CAMPAIGN", 60)
    library.catch_up()
    assert memory.size(library.home, library.campaign) == 60 and len(library.recall(100)) == 60


# --- drawing ------------------------------------------------------------------------------------------------------


def test_a_file_that_fades_gets_more_of_the_rows(library):
    for name in ("held", "faded"):
        quest = library.finish(name, [chat(n, name) for n in range(200)])
        library.measured(quest, 1.0, *((1.9,) if name == "faded" else ()), before=2.0)
    library.catch_up()
    with db.read(library.engine) as connection:
        found = {s.name: s.deficit for s in memory.sources(connection, library.home, library.campaign)}
        facts = memory.facts(connection, library.home, library.campaign)
    assert found == {"held": 0.0, "faded": pytest.approx(0.9)}
    assert (facts.sources, facts.deficit) == (2, pytest.approx(0.9))
    drawn = Counter(r["quest"] for r in library.recall(130))
    assert drawn["faded"] == 110 and drawn["held"] == 20  # 0.2 + 0.9 against 0.2


@given(weights=st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0.2, 1.2), st.integers(0, 50))),
       count=st.integers(0, 200))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_quotas_sum_to_what_there_is(weights, count):
    sizes = {name: n for name, (_, n) in weights.items()}
    quota = memory._quotas({name: w for name, (w, _) in weights.items()}, sizes, count)
    assert sum(quota.values()) == min(count, sum(sizes.values()))
    assert all(0 <= quota[name] <= sizes[name] for name in sizes)


def test_a_draw_goes_through_the_whole_file_over_time(library):
    library.finish("letters", [chat(n) for n in range(60)])
    library.catch_up()
    seen = {r["row"] for seed in range(30) for r in library.recall(10, seed)}
    assert len(seen) == 60


def test_nothing_is_drawn_of_nothing(library):
    assert memory.draw([], 10, 1) == [] and library.recall(0) == []
    with db.read(library.engine) as connection:
        assert memory.facts(connection, library.home, library.campaign).sources == 0


def test_a_source_that_shrank_under_the_hand(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(chat(1)) + "\n")
    source = Source("x", "q", "x", 0.0, path)
    assert len(memory.draw([source], 5, 1)) == 1


# --- deficits and old probes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "losses", "deficit"), [
    (2.0, [1.0], 0.0), (2.0, [1.0, 1.5], 0.5), (2.0, [1.0, 3.0], 1.0), (2.0, [1.0, 1.5, 1.0], 0.0),
    (2.0, [2.5], 0.0), (None, [1.0, 2.0], 0.0), (2.0, [1.5, 1.0], 0.0)])  # fmt: skip
def test_deficits(library, before, losses, deficit):
    quest = library.finish("letters", [chat(1)])
    library.measured(quest, *losses, before=before)
    with db.read(library.engine) as connection:
        assert memory.deficits(connection, library.campaign) == {quest: pytest.approx(deficit)}


def test_old_probes_are_measured_in_turn(library):
    probe = [chat(n, "probe") for n in range(20)]
    quests = []
    for name in ("a", "b", "c"):
        quests.append(library.finish(name, [chat(n, name) for n in range(3)], probe=probe))
        library.measured(quests[-1], 1.0)

    def due(**more):
        with db.read(library.engine) as connection:
            return [p["quest_id"] for p in memory.due_probes(connection, library.home, library.campaign, **more)]

    assert due() == [], "measured less than three quests ago"
    library.finish("d", [chat(n, "d") for n in range(3)])
    assert due() == quests[:1]
    for name in ("e", "f"):
        library.finish(name, [chat(n, name) for n in range(3)])
    assert due() == quests[:2], "the longest unmeasured first, two at the most"
    assert due(without=quests[0]) == quests[1:]
    library.measured(quests[0], 1.1)
    assert due() == quests[1:]
    for path in (library.home.queue / "probes").iterdir():
        path.unlink()
    assert due() == []


def test_after_a_file_practice_holds_rows_of_it(home):
    """The whole way: inbox, battle, buffer, and an idle quest with a share of the file's rows."""
    home = tiny_home(home, accuracy={"1": 0.2})
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f"I say {n}."} for n in range(60)]
    (home.inbox / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with running(home):
        tables = Tables(home)

        def practised():
            file = tables.quests(db.quests.c.kind == "file", db.quests.c.state == "done")
            idle = tables.quests(db.quests.c.kind == "idle", db.quests.c.state == "done")
            return [q for q in idle if file and (q["report"]["origins"].get("human") or 0) > 0]

        [quest, *_] = wait_for(practised, 60, "an idle quest with rows of the file")
    assert quest["rehearsal"]["buffer"] > 0 and quest["rows"] == 40
    assert sum(quest["report"]["origins"].values()) == 40
    assert quest["origin"]["buffer"] == quest["report"]["origins"]["human"]
    assert not [e for e in tables.events("alert") if e["payload"].get("code") == "hero_loop"]


def test_plain_text_out_of_the_buffer_passes_the_gate_of_idle_quests(tmp_path):
    """Text without a question has an empty user turn; as a row of the buffer it must not stop idle generation."""
    old = {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "some text"}],
           "origin": "human", "rehearsal": "x"}  # fmt: skip
    skill = get_skill("bin")
    idle.write(idle.IdleOrder("bin", skill.version, {4: 5}, 1), tmp_path / "x.jsonl", remembered=[old])
    assert cleric.check_idle(tmp_path / "x.jsonl", skill)["rows"]["out"] == 6
    old["messages"][1]["content"] = " "
    idle.write(idle.IdleOrder("bin", skill.version, {4: 5}, 1), tmp_path / "x.jsonl", remembered=[old])
    with pytest.raises(cleric.GateError, match="is empty"):
        cleric.check_idle(tmp_path / "x.jsonl", skill)


def test_an_exam_that_came_later_is_not_drawn_and_the_quest_stays_as_large(library):
    """Rows with a trial problem of a skill are passed over when drawn; the order is filled up with the skill's own."""
    skill = get_skill("bin")
    leaks = [{"messages": [{"role": "user", "content": f"Please: {p.prompt}"}, {"role": "assistant", "content": "?"}]}
             for p in skill.generate(9, 20, 1, "trial")]  # fmt: skip
    library.finish("mixed", [chat(n, "fine") for n in range(10)] + leaks)
    library.catch_up()
    order = idle.IdleOrder("bin", skill.version, {4: 30, 5: 10}, 7, buffer=20)
    draft = plan.write_draft(library.home, order, library.campaign, library.engine)
    assert draft.facts["rows"] == 60 and draft.facts["origins"] == {"human": 10, "procedural-verified": 50}
    assert draft.order == order and draft.made.counts == {4: 40, 5: 10} and draft.made.buffer == 10
    assert plan.write_draft(library.home, order).facts["rows"] == 60, "without a buffer the skill fills all of it"


# --- origins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "said"), [
    ({}, "human"), ({"origin": "self-verified"}, "self-verified"), ({"origin": "wikipedia"}, "human"),
    ({"origin": 7}, "human"), ({"teacher_model": "big"}, "teacher"), ({"teacher_model": ""}, "human"),
    ({"_metadata": {"origin": "self-unverified"}}, "self-unverified"), ({"_metadata": None}, "human"),
    ({"origin": "human", "teacher_model": "big"}, "human")])  # fmt: skip
def test_origin_of_a_row(row, said):
    assert origin.origin_of(row) == said


@given(st.dictionaries(st.sampled_from(origin.ORIGINS), st.integers(0, 300)), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_no_origin_stays_above_its_cap(counts, verified, unverified):
    caps = {"self-verified": verified, "self-unverified": unverified}
    stay = origin.room(counts, caps)
    whole = sum(n for o, n in counts.items() if o not in caps) + sum(stay.values())
    for name, cap in caps.items():
        assert 0 <= stay[name] <= counts.get(name, 0)
        assert stay[name] <= cap * whole + 1e-6
    if cap_free := [o for o in caps if caps[o] >= 1]:
        assert all(stay[o] == counts.get(o, 0) for o in cap_free)


def test_the_default_caps():
    assert origin.room({"human": 10, "self-verified": 30, "self-unverified": 5}) == {
        "self-verified": 10, "self-unverified": 0}  # fmt: skip
    assert origin.room({"self-verified": 30}) == {"self-verified": 0, "self-unverified": 0}, "never instead of others"
    assert origin.room({"procedural-verified": 10, "teacher": 5}) == {"self-verified": 0, "self-unverified": 0}


@pytest.mark.parametrize("caps", [{"self-verified": 1.1}, {"robot": 0.5}, {"human": -0.1}])
def test_bad_caps_are_named(caps):
    with pytest.raises(ValueError, match="caps are shares"):
        origin.room({"human": 1}, caps)


def test_which_rows_go_is_drawn_by_key():
    rows = [(n, "self-verified") for n in range(100)]
    gone = origin.over_cap(rows, {"human": 40, "self-verified": 100}, seed=1)
    assert len(gone) == 60 and gone == origin.over_cap(rows, {"human": 40, "self-verified": 100}, seed=1)
    assert gone != origin.over_cap(rows, {"human": 40, "self-verified": 100}, seed=2)
    assert not set(range(40, 100)) <= set(gone), "not the last ones"


# --- the Cleric's word on origins ---------------------------------------------------------------------------------


def examined(tmp_path, rows, **more):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = cleric.examine(source, tmp_path / "out.jsonl", tmp_path / "bad.jsonl", name="in.jsonl", skills=[], **more)
    out = tmp_path / "out.jsonl"
    return report, [json.loads(x) for x in out.read_text().splitlines()] if out.exists() else []


def test_origins_are_counted_and_rows_stay_as_they_are(tmp_path):
    rows = [chat(0), chat(1, teacher_model="big"), chat(2, origin="procedural-verified"), chat(3, origin="web")]
    report, out = examined(tmp_path, rows)
    assert report["origins"] == {"procedural-verified": 1, "human": 2, "teacher": 1} and out == rows
    assert report["origin_caps"] is None and report["sha256"] == file_sha256(tmp_path / "in.jsonl")


def test_what_nobody_checked_is_filtered(tmp_path):
    report, out = examined(tmp_path, [chat(n) for n in range(5)] + [chat(9, origin="self-unverified")])
    assert len(out) == 5 and report["rows"]["filtered"] == 1 and report["verdict"] == "accepted-with-warnings"
    [reason] = report["reasons"]
    assert reason["code"] == "self_unverified_cap" and "max_self_unverified" in reason["examples"][0]["text"]
    bad = json.loads((tmp_path / "bad.jsonl").read_text())
    assert bad["line"] == 6 and json.loads(bad["raw"])["origin"] == "self-unverified"


def test_a_file_above_the_cap_is_trimmed_to_it(tmp_path):
    rows = [chat(n, origin="self-verified") for n in range(30)] + [chat(n, "human") for n in range(10)]
    report, out = examined(tmp_path, rows)
    assert report["origins"] == {"human": 10, "self-verified": 10} and len(out) == 20
    assert report["rows"] | {"in": 40, "out": 20, "filtered": 20} == report["rows"]
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 20
    assert report["balance"]["most_common_answer_share"] == pytest.approx(1 / 20), "numbers are those of what stays"
    again, same = examined(tmp_path, rows)
    assert same == out and again == report


def test_a_file_of_nothing_else_is_refused_with_the_reason(tmp_path):
    report, out = examined(tmp_path, [chat(n, origin="self-verified") for n in range(30)])
    assert report["verdict"] == "refused" and out == [] and "self-verified" in report["next_action"]


def test_copies_do_not_slip_past_the_cap(tmp_path):
    rows = [chat(n % 15, origin="self-verified") for n in range(30)] + [chat(n, "human") for n in range(5)]
    report, out = examined(tmp_path, rows)
    assert report["origins"] == {"human": 5, "self-verified": 5} and len(out) == 10


def test_a_cap_set_by_hand_is_recorded(tmp_path):
    rows = [chat(n, origin="self-unverified") for n in range(30)] + [chat(n, "human") for n in range(10)]
    report, out = examined(tmp_path, rows, caps={"self-verified": 0.5, "self-unverified": 1.0})
    assert len(out) == 40 and report["origin_caps"]["self-unverified"] == 1.0
    assert any("set by hand" in warning for warning in report["warnings"])


@given(st.lists(st.tuples(st.sampled_from(origin.ORIGINS), st.integers(0, 25)), min_size=1, max_size=60),
       st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([0.0, 0.3]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_file_leaves_the_gate_above_a_cap(tmp_path_factory, rows, verified, unverified):
    caps = {"self-verified": verified, "self-unverified": unverified}
    report, out = examined(tmp_path_factory.mktemp("caps"), [chat(n, origin=said) for said, n in rows], caps=caps)
    counts = origin.count(out)
    for name, cap in caps.items():
        assert counts.get(name, 0) <= cap * len(out) + 1e-6
    numbers = report["rows"]
    assert numbers["in"] == len(rows) == sum(numbers[k] for k in ("out", "filtered", "duplicate", "quarantined"))
    if report["verdict"] != "refused":
        assert report["origins"] == counts and len(out) == numbers["out"]
