"""The quest board: order, moves, attempts, files that follow their quest's state."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm import db, events
from realm.quests import board
from realm.quests.board import BoardError, NewQuest


def add(engine, home=None, name="q", lane="normal", kind="file", **more):
    with db.write(engine) as connection:
        quest_id = more.pop("id", None) or db.new_id()
        path = None
        if home is not None:
            path = f"queue/{lane}/{board.file_name(quest_id, name)}"
            (home.root / path).write_text("{}\n")
        return board.enqueue(connection, NewQuest(name=name, kind=kind, lane=lane, path=path, id=quest_id, **more))


def do(engine, function, *arguments, **more):
    with db.write(engine) as connection:
        return function(connection, *arguments, **more)


def order(engine):
    with db.read(engine) as connection:
        return [q["name"] for q in board.waiting(connection)]


def test_lanes_then_places(engine):
    ids = {name: add(engine, name=name, lane=lane)
           for name, lane in [("l", "low"), ("n1", "normal"), ("h", "high"), ("n2", "normal")]}  # fmt: skip
    assert order(engine) == ["h", "n1", "n2", "l"]
    do(engine, board.move, ids["l"], "normal", first=True)
    do(engine, board.move, ids["h"], "low")
    assert order(engine) == ["l", "n1", "n2", "h"]
    do(engine, board.hold, ids["l"])
    with db.read(engine) as connection:
        assert board.head(connection)["name"] == "n1"
        assert board.counts(connection) == {"high": 0, "normal": 2, "low": 1}
        assert board.head(connection, ("idle",)) is None
    do(engine, board.unhold, ids["l"])
    with db.read(engine) as connection:
        assert board.head(connection)["name"] == "l", "at its old place"


@given(st.lists(st.tuples(st.sampled_from(["add", "move", "head", "hold", "unhold"]),
                          st.sampled_from(["high", "normal", "low"]), st.integers(0, 9)), max_size=25))  # fmt: skip
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_board_is_a_queue_per_lane(engine, steps):
    """Against a model of three lists."""
    with db.write(engine) as connection:
        connection.execute(board.quests.delete())
    model = {"high": [], "normal": [], "low": []}
    held = set()
    for number, (step, lane, pick) in enumerate(steps):
        names = [n for lanes in model.values() for n in lanes]
        if step == "add" or not names:
            add(engine, name=f"q{number}", lane=lane, id=f"id-q{number}")
            model[lane].append(f"q{number}")
            continue
        name = names[pick % len(names)]
        old = next(x for x in model if name in model[x])
        if step == "move":
            do(engine, board.move, f"id-{name}", lane)
            model[old].remove(name)
            model[lane].append(name)
        elif step == "head" and name not in held:
            do(engine, board.back_to_head, f"id-{name}", "test")
            model[old].remove(name)
            model[old].insert(0, name)
        elif step == "hold" and name not in held:
            do(engine, board.hold, f"id-{name}")
            held.add(name)
        elif step == "unhold" and name in held:
            do(engine, board.unhold, f"id-{name}")
            held.remove(name)
    expected = [*model["high"], *model["normal"], *model["low"]]
    assert order(engine) == expected
    with db.read(engine) as connection:
        first = board.head(connection)
    assert (first["name"] if first else None) == next((n for n in expected if n not in held), None)


def test_three_lost_attempts_fail_a_quest_and_a_stop_costs_none(engine):
    quest = add(engine)
    assert do(engine, board.back_to_head, quest, "stopped") == "queued"
    states = [do(engine, board.back_to_head, quest, "died", attempt_lost=True) for _ in range(3)]
    assert states == ["queued", "queued", "failed"]
    with db.read(engine) as connection:
        found = board.get(connection, quest)
        told = [e.payload["state"] for e in events.newest(connection) if e.kind == "quest"]
    assert (found["attempts"], found["error"]) == (3, "died") and found["finished_at"]
    assert told == ["failed", "queued", "queued", "queued", "queued"]


def test_moves_that_make_no_sense_are_refused_in_words(engine):
    quest = add(engine)
    do(engine, board.set_state, quest, "training")
    for function in (board.hold, board.unhold, board.withdraw, board.retry):
        with pytest.raises(BoardError, match="is training"):
            do(engine, function, quest)
    with pytest.raises(BoardError, match="lane 'top' does not exist"):
        do(engine, board.move, quest, "top")
    with pytest.raises(BoardError, match="no quest nobody"):
        do(engine, board.get, "nobody")
    closed = add(engine, school="alchemist", state="hold")
    with pytest.raises(BoardError, match="school alchemist"):
        do(engine, board.unhold, closed)
    lost = add(engine, state="failed")
    with pytest.raises(BoardError, match="no file"):
        do(engine, board.retry, lost)


def test_files_follow_their_quest(engine, home):
    quest = add(engine, home, name="my data (v2).jsonl")
    with db.read(engine) as connection:
        path = board.locate(home, board.get(connection, quest))
    assert path.parent == home.queue / "normal" and path.name == f"{quest}-my_data_v2.jsonl"
    for state, folder in [("done", "completed"), ("failed", "failed"), ("queued", "queue/normal"),
                          ("skipped", "failed"), ("refused", "failed"), ("training", "queue/normal")]:  # fmt: skip
        do(engine, board.set_state, quest, state)
        where = do(engine, board.settle_file, home, quest)
        assert where == home.root / folder / path.name and where.is_file()
        assert do(engine, board.settle_file, home, quest) == where, "safe to repeat"
    # A crash between rename and commit: the table still has the old path, the file is found all the same.
    where.rename(home.root / "completed" / path.name)
    with db.read(engine) as connection:
        assert board.locate(home, board.get(connection, quest)) == home.root / "completed" / path.name
    assert do(engine, board.settle_file, home, quest) == home.queue / "normal" / path.name


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "ü ñ", "", "....", "x" * 300, "⓪" * 90, "C:\\x"])
def test_file_names_are_safe(name):
    made = board.file_name("0" * 26, name)
    assert made.endswith(".jsonl") and "/" not in made and "\\" not in made and len(made.encode()) <= 255
    assert not made.removeprefix("0" * 26 + "-").startswith(".")


def test_same_content_is_recognised(engine):
    first = add(engine, content_sha256="a" * 64)
    second = add(engine, content_sha256="a" * 64)
    with db.read(engine) as connection:
        assert {q["id"] for q in board.by_content(connection, "a" * 64)} == {first, second}
        assert board.by_content(connection, "b" * 64) == []


@pytest.mark.parametrize("name,partial", [
    ("x.jsonl", False), (".x.jsonl", True), ("x.jsonl.part", True), ("x.jsonl~", True), ("x.crdownload", True),
    ("part.jsonl", False)])  # fmt: skip
def test_partial_uploads_have_known_names(name, partial):
    assert board.is_partial(name) is partial
