"""The inbox with the real gate: files become quests once, nothing is lost, a kill between any two steps is repaired."""

import json
import os

import orjson
import pytest
from loop_kit import Tables

from afs.jsonl import original_bytes
from realm.guild.skills import all_skills
from realm.quests import board
from realm.quests import inbox as inbox_module
from realm.quests.inbox import Inbox, drop
from realm.settings import RealmHome
from realm.temple import cleric


def gate(source, target, quarantine, probe, name, seed):
    return cleric.examine(source, target, quarantine, name=name, skills=all_skills(), probe=probe, seed=seed)


class Kill(BaseException):
    """Stands for kill -9: nothing in the program catches it."""


@pytest.fixture
def tables(home):
    made = Tables(home)
    yield made
    made.engine.dispose()


def box(home, tables, **more):
    return Inbox(home, tables.engine, gate, more.pop("stable_s", 0.0), more.pop("unfinished_s", 0.0))


def lines(*rows):
    return b"".join(orjson.dumps(r) + b"\n" for r in rows)


def chat(n):
    return {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"it is {n}"}]}


ODD = b'{"messages":  [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\\u00e4"}]}\n'


def test_lanes_formats_and_bytes(home, tables):
    (home.inbox / "plain.jsonl").write_bytes(ODD)
    (home.inbox / "high" / "alpaca.jsonl").write_bytes(lines({"instruction": "Q", "input": "", "output": "A"}))
    (home.inbox / "low" / "mixed.jsonl").write_bytes(lines(chat(1), {"text": "a tale"}))
    taken = box(home, tables).poll()
    assert [t.state for t in taken] == ["queued"] * 3
    found = {q["name"]: q for q in tables.quests()}
    assert {n: q["lane"] for n, q in found.items()} == {"plain": "normal", "alpaca": "high", "mixed": "low"}
    assert {n: q["format"] for n, q in found.items()} == {"plain": "messages", "alpaca": "alpaca",
                                                          "mixed": "messages+text"}  # fmt: skip
    assert all((q["school"], q["kind"], q["origin"]["kind"]) == ("scribe", "file", "human") for q in found.values())
    path = home.root / found["plain"]["path"]
    assert path.read_bytes() == ODD and path.parent == home.queue / "normal"
    assert json.loads((home.root / found["alpaca"]["path"]).read_text())["messages"][1]["content"] == "A"
    assert not [p for p in home.inbox.rglob("*") if p.is_file()]
    originals = {p.name.split("-", 1)[1] for p in (home.root / "completed/originals").iterdir()}
    assert originals == {"alpaca.jsonl", "mixed.jsonl"}, "what was changed is kept as it came"
    assert {e["payload"]["file"] for e in tables.events("cleric")} == {"plain.jsonl", "alpaca.jsonl", "mixed.jsonl"}


def test_bad_rows_are_kept_with_place_reason_and_bytes(home, tables):
    rows = [b'{"messages": [', b'{"prompt": "Q", "completion": "A"}', b'{"prompt": "Q", "completion": ""}', b"\xff{}",
            b'{"what": 1}', b'{"prompt": "Q2", "completion": "A"}', b'{"prompt": "Q", "completion": "A"}']  # fmt: skip
    rows += [orjson.dumps({"prompt": f"more {n}", "completion": "A"}) for n in range(3)]
    (home.inbox / "x.jsonl").write_bytes(b"\n".join(rows))
    box(home, tables).poll()
    quest = tables.quests()[0]
    report = quest["report"]
    assert (quest["state"], report["verdict"]) == ("queued", "accepted-with-warnings")
    assert report["rows"] == {"in": 10, "out": 5, "filtered": 0, "duplicate": 1, "quarantined": 4, "blank": 0,
                              "probe": 0, "train": 5}  # fmt: skip
    records = [json.loads(x) for x in (home.root / report["quarantine"]).read_text().splitlines()]
    offsets = [sum(len(r) + 1 for r in rows[:n]) for n in range(len(rows))]
    assert [(r["line"], r["offset"], r["fate"]) for r in records] == [
        (1, 0, "quarantined"), (3, offsets[2], "quarantined"), (4, offsets[3], "quarantined"),
        (5, offsets[4], "quarantined"), (7, offsets[6], "duplicate")]  # fmt: skip
    assert [original_bytes(r) for r in records] == [rows[n] for n in (0, 2, 3, 4, 6)]
    assert all(r["file"] == "x.jsonl" and r["reason"] for r in records)
    assert "turn 2 (assistant) is empty" in records[1]["reason"] and "UTF-8" in records[2]["reason"]


def test_a_refused_file_lies_in_failed_with_its_report(home, tables):
    bad = b"{nope\n" * 3 + lines(chat(1))
    (home.inbox / "bad.jsonl").write_bytes(bad)
    assert box(home, tables).poll()[0].state == "refused"
    quest = tables.quests()[0]
    assert (home.root / quest["path"]).read_bytes() == bad and quest["path"].startswith("failed/")
    report = json.loads((home.root / f"{quest['path']}.report.json").read_text())
    assert report["verdict"] == "refused"
    assert "3 of 4 rows" in report["next_action"] and "line 1" in report["next_action"]
    assert not list(home.queue.rglob("*.jsonl"))
    (home.inbox / "empty.jsonl").write_bytes(b"\n\n")
    box(home, tables).poll()
    assert "no rows" in tables.quests()[1]["error"]


def test_preference_files_go_to_the_judge(home, tables):
    pair = lines({"prompt": "Q", "chosen": "A", "rejected": "B"})
    (home.inbox / "pairs.jsonl").write_bytes(pair)
    assert box(home, tables).poll()[0].state == "queued"
    quest = tables.quests()[0]
    assert (quest["school"], quest["format"], quest["state"]) == ("judge", "preference", "queued")
    assert (home.root / quest["path"]).read_bytes() == pair and not quest["report"]["warnings"]


def test_prompts_that_a_skill_can_mark_go_to_the_champion(home, tables):
    from realm.guild.skills import get_skill

    skill = get_skill("bin")
    made, exam = skill.generate(3, 3, 0), skill.generate(3, 1, 0, "trial")[0]
    rows = [{"prompt": p.prompt} for p in [*made, exam]]
    (home.inbox / "prompts.jsonl").write_bytes(lines(*rows, {"prompt": "Why is the sky blue?"}))
    assert box(home, tables).poll()[0].state == "queued"
    quest = tables.quests()[0]
    assert (quest["school"], quest["format"], quest["rows"], quest["skill"]) == ("champion", "prompt", 3, "bin")
    written = [json.loads(line) for line in (home.root / quest["path"]).read_bytes().splitlines()]
    assert [row["messages"] for row in written] == [p.messages for p in made]
    fates = {r["code"]: r["fate"] for r in quest["report"]["reasons"]}
    assert fates == {"trial_split": "filtered", "no_grader": "quarantined"}


def test_files_that_are_not_ready_wait(home, tables, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(inbox_module.time, "monotonic", lambda: clock[0])
    inbox = box(home, tables, stable_s=0.5, unfinished_s=5.0)
    path = home.inbox / "slow.jsonl"
    path.write_bytes(lines(chat(1)))
    (home.inbox / "up.jsonl.part").write_bytes(b"{")
    (home.inbox / ".hidden.jsonl").write_bytes(b"{")

    def after(seconds):
        clock[0] += seconds
        return [t.file for t in inbox.poll()]

    assert after(0) == [] and after(0.4) == []
    with open(path, "ab") as file:
        file.write(lines(chat(2)))
    assert after(0.4) == [], "it grew: the wait begins anew"
    assert after(0.6) == ["inbox/slow.jsonl"]
    path.write_bytes(lines(chat(3))[:-9])
    assert after(0) == [] and after(2) == [], "the last line has no end: an upload may go on"
    assert after(3.1) == ["inbox/slow.jsonl"]
    assert sorted(p.name for p in home.inbox.iterdir() if p.is_file()) == [".hidden.jsonl", "up.jsonl.part"]


def test_other_files_are_left_and_told_once(home, tables):
    (home.inbox / "notes.txt").write_text("hello")
    inbox = box(home, tables)
    assert [t.state for t in inbox.poll()] == ["waiting"] and inbox.poll() == []
    box(home, tables).poll()
    alerts = [e["payload"] for e in tables.events("alert")]
    assert len(alerts) == 1 and alerts[0]["code"] == "inbox_not_jsonl" and "jsonl" in alerts[0]["fix"].lower()
    assert (home.inbox / "notes.txt").exists() and not tables.quests()


def test_too_large_and_unreadable(home, tables):
    (home.root / "settings.yaml").write_text("max_inbox_bytes: 50\n")
    (home.inbox / "large.jsonl").write_bytes(lines(chat(1)))
    box(RealmHome(home.root), tables).poll()
    assert "Split it or raise the limit" in tables.quests()[0]["error"]


def test_an_error_in_one_file_keeps_no_other_waiting(home, tables):
    def broken(source, *rest):
        if source.name == "a.jsonl":
            raise RuntimeError("a bug")
        return gate(source, *rest)

    for name in ("a", "b"):
        (home.inbox / f"{name}.jsonl").write_bytes(lines(chat(name)))
    inbox = Inbox(home, tables.engine, broken, 0.0, 0.0)
    assert [t.state for t in inbox.poll()] == ["waiting", "queued"] and inbox.poll() == []
    assert (home.inbox / "a.jsonl").exists()
    assert "a bug" in tables.events("alert")[0]["payload"]["why"]


def test_the_same_bytes_twice(home, tables):
    for name in ("one", "two"):
        (home.inbox / f"{name}.jsonl").write_bytes(lines(chat(1)))
    assert [t.state for t in box(home, tables).poll()] == ["queued", "duplicate"]
    assert len(tables.quests()) == 1
    left = [p for p in (home.root / "failed").iterdir() if p.name.endswith("duplicate-two.jsonl")]
    assert left[0].read_bytes() == lines(chat(1))
    assert json.loads(left[0].with_name(left[0].name + ".report.json").read_text())["duplicate_of"]
    # A refused file may be tried again, for example after a skill was added.
    for _ in range(2):
        (home.inbox / "bad.jsonl").write_bytes(b"{\n")
        box(home, tables).poll()
    assert len([q for q in tables.quests() if q["state"] == "refused"]) == 2


STEPS = ["examine", "record_before", "record_after", "put_away_end"]


@pytest.mark.parametrize("content", [lines(chat(1), chat(2)), lines({"prompt": "Q", "completion": "A"}), b"{\n{\n"],
                         ids=["verbatim", "normalised", "refused"])  # fmt: skip
@pytest.mark.parametrize("step", STEPS)
def test_killed_between_any_two_steps(home, tables, monkeypatch, content, step):
    path = home.inbox / "high" / "x.jsonl"
    path.write_bytes(content)
    inbox = box(home, tables)

    def kill(*_a, **_k):
        raise Kill

    with monkeypatch.context() as patch:
        if step == "examine":
            def half(source, target, *rest):
                target.with_name(f".{target.name}.staging.part").write_bytes(b"half")
                raise Kill

            inbox.gate = half
        elif step == "record_before":
            patch.setattr(inbox, "_record", kill)
        elif step == "record_after":
            patch.setattr(inbox, "_put_away", kill)
        else:
            real = os.replace
            patch.setattr(inbox_module.os, "replace", lambda a, b: kill() if a == path else real(a, b))
            unlink = type(path).unlink
            patch.setattr(type(path), "unlink", lambda p, **more: kill() if p == path else unlink(p, **more))
        with pytest.raises(Kill):
            inbox.poll()
    assert path.exists(), "the original is the last to move"
    box(home, tables).poll()
    box(home, tables).poll()
    quests = tables.quests()
    assert len(quests) == 1 and not path.exists()
    quest = quests[0]
    assert (home.root / quest["path"]).is_file()
    everything = [p for p in home.root.rglob("*.jsonl") if p.is_file()]
    assert any(p.read_bytes() == content for p in everything), "the bytes that came are still there"
    in_queue = [p for p in home.queue.rglob("*.jsonl")]
    assert len(in_queue) == (0 if quest["state"] == "refused" else 1)
    assert len(tables.events("cleric")) == 1, "told once"


def test_a_file_that_changes_while_it_is_examined_is_taken_again(home, tables):
    path = home.inbox / "x.jsonl"
    path.write_bytes(lines(chat(1)))

    def slow(source, *rest):
        report = gate(source, *rest)
        if path.stat().st_size < 200:
            with open(path, "ab") as file:
                file.write(lines(chat(2), chat(3)))
        return report

    inbox = Inbox(home, tables.engine, slow, 0.0, 0.0)
    assert inbox.poll()[0].state == "waiting" and not tables.quests() and not list(home.queue.rglob("*.jsonl"))
    assert inbox.poll()[0].state == "queued" and tables.quests()[0]["rows"] == 3


def test_drop_copies_whole_and_never_overwrites(home, tmp_path):
    source = tmp_path / "mine.jsonl"
    source.write_bytes(lines(chat(1)))
    first, second = drop(home, source, "high"), drop(home, source, "high")
    assert (first.name, second.name) == ("mine.jsonl", "mine-2.jsonl") and first.read_bytes() == source.read_bytes()
    assert not [p for p in home.inbox.rglob(".*") if p.is_file()]
    with pytest.raises(board.BoardError, match="lane"):
        drop(home, source, "urgent")
    for name in ("notes.txt", "rows.json", ".hidden.jsonl"):
        other = source.with_name(name)
        other.write_text("{}\n")
        with pytest.raises(board.BoardError, match=f"{name} (is no .jsonl file.*convert|has a name.*rename)"):
            drop(home, other)


def test_trial_problems_never_pass(home, tables):
    from realm.guild.skills import get_skill

    skill = get_skill("bin")
    held = skill.generate(4, 30, 7, "trial") + skill.generate(4, 10, 7, "probe")
    kept = skill.generate(4, 60, 7, "train")
    rows = [{"prompt": p.prompt, "response": p.golden} for p in [*held, *kept]]
    (home.inbox / "leak.jsonl").write_bytes(lines(*rows))
    box(home, tables).poll()
    quest = tables.quests()[0]
    report = quest["report"]
    assert report["rows"]["filtered"] == len({p.prompt for p in held}) or report["rows"]["filtered"] == len(held)
    assert quest["skill"] == "bin", "a file of one skill's problems is a skill quest"
    text = (home.root / quest["path"]).read_text()
    trained = {json.loads(x)["messages"][0]["content"] for x in text.splitlines()}
    assert trained and not trained & {p.prompt for p in held}
    assert any("trial split of bin" in e["text"] for r in report["reasons"] for e in r["examples"])


def test_an_id_is_the_same_after_a_kill(home, tables):
    path = home.inbox / "x.jsonl"
    path.write_bytes(lines(chat(1)))
    os.utime(path, (1.7e9, 1.7e9))
    inbox = box(home, tables)
    assert inbox._quest_id("a" * 64, path) == inbox._quest_id("a" * 64, path)
    assert inbox._quest_id("a" * 64, path) != inbox._quest_id("b" * 64, path)
