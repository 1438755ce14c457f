"""The job table and its executor: each job once, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import jobs_kit
import pytest
import sqlalchemy as sa
from jobs_kit import Desk, executing

from realm import db
from realm.jobs import board, executor, kinds, orders
from realm.jobs.kinds import JobError
from realm.state.orders import OrderError


@pytest.fixture(autouse=True)
def _test_kinds(monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", dict(kinds.KINDS))
    jobs_kit.register()


@pytest.fixture
def desk(home):
    made = Desk(home)
    yield made
    made.close()


# --- kinds and orders ----------------------------------------------------------------------------------------------

def test_every_kind_is_whole():
    listed = {school: [k.name for k in kinds.KINDS.values() if k.school == school and "realm" in k.work]
              for school in kinds.SCHOOLS}  # fmt: skip
    assert listed == {
        "inference": ["eval", "sparring", "inference"], "forge": ["data_gen", "data_filter", "data_convert"],
        "vault": ["archive", "retention", "sync"], "analytics": ["analytics", "report", "health_check"],
        "archaeology": ["layer_stats", "layer_drift"]}  # fmt: skip
    for kind in kinds.KINDS.values():
        assert callable(kind.function()) and kind.what.endswith(".") and kinds.LOST in kind.retryable
        assert kind.timeout_s > 0 and kind.max_pending > 0


@pytest.mark.parametrize("kind, payload, words", [
    ("evil", {}, "no kind of job is called 'evil'; did you mean 'eval'"),
    ("eval", {"skill": "bin"}, "checkpoint: Field required.*level: Field required"),
    ("eval", {"checkpoint": "x", "skill": "bin", "level": 1, "shell": "rm"}, "shell: Extra inputs"),
    ("data_gen", {"skill": "bin", "counts": {}}, "counts"),
    ("data_gen", {"skill": "bin", "counts": {1: 10**6}}, "at most 100,000 rows"),
    ("data_gen", {"skill": "bin", "counts": {31: 5}}, "level 31: bin has levels 1 to 30"),
    ("data_gen", {"skill": "bim", "counts": {1: 5}}, "did you mean 'bin'"),
    ("eval", {"checkpoint": "0" * 26, "skill": "bin", "level": 1}, "no checkpoint"),
    ("eval", {"checkpoint": "champion", "skill": "bin", "level": 1}, "no champion checkpoint yet"),
    ("data_filter", {"source": "file:../../etc/passwd"}, "a .jsonl file in one of the folders"),
    ("data_filter", {"source": "file:inbox/../../x.jsonl"}, "no such file"),
    ("data_filter", {"source": "file:settings.yaml"}, "a .jsonl file in one of the folders"),
    ("data_filter", {"source": "/etc/passwd"}, "write file:PATH"),
    ("report", {"campaign": "nobody"}, "no campaign 'nobody'"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_before_it_is_noted(desk, kind, payload, words):
    with pytest.raises(JobError, match=words):
        desk.submit(kind, **payload)
    with db.read(desk.engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(db.commands)).scalar_one() == 0


def test_a_key_makes_one_job(home, desk):
    first = desk.submit("thread_word", key="my-own-key-1", word="a")
    assert desk.submit("thread_word", key="my-own-key-1", word="a") == first == "my-own-key-1"
    with pytest.raises(OrderError, match="was used for"):
        desk.submit("thread_word", key="my-own-key-1", word="b")
    with executing(home):
        assert desk.until(first, "succeeded")["result"]["word"] == "a"
    with db.read(desk.engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(db.jobs)).scalar_one() == 1


def test_a_full_queue_refuses_waiting_orders_and_jobs_alike(home, desk):
    held = home.root / "go"
    first, second = (desk.submit("two_words", wait=str(held)) for _ in range(2))
    with pytest.raises(orders.QueueFull, match="2 two_words jobs wait, the limit is 2"):
        desk.submit("two_words")
    with executing(home):
        desk.until(first, "running"), desk.until(second, "running")
        third = desk.submit("two_words")  # those that run no longer wait
        held.touch()
        assert [desk.until(j, "succeeded")["attempts"] for j in (first, second, third)] == [1, 1, 1]


def test_orders_of_another_form_fail_with_a_reason(home, desk):
    made = [("job.submit.evil", {"payload": {}, "priority": "normal"}), ("job.submit.count", {}),
            ("job.submit.count", {"payload": {"x": 1}, "priority": "normal"}), ("job.cancel", {"job_id": "nobody"}),
            ("job.cancel", None), ("job.dance", {})]  # fmt: skip
    with db.write(desk.engine) as connection:
        for number, (kind, payload) in enumerate(made):
            connection.execute(sa.insert(db.commands).values(
                id=f"order-{number}", t=db.now(), kind=kind, payload=payload, state="pending"))  # fmt: skip
    with executing(home):
        good = desk.submit("count")
        desk.until(good, "succeeded")
    with db.read(desk.engine) as connection:
        found = connection.execute(sa.select(db.commands).order_by(db.commands.c.id)).mappings().all()
    states = {row["id"]: (row["state"], (row["result"] or {}).get("reason", "")) for row in found}
    assert states.pop(good)[0] == "done"
    assert all(state == "failed" and reason for state, reason in states.values()), states


# --- life ----------------------------------------------------------------------------------------------------------

def test_a_job_in_a_thread_and_one_in_a_process(home, desk):
    with executing(home):
        jobs = [desk.submit("thread_word", word="here"), desk.submit("child_word", word="there")]
        rows = [desk.until(job, "succeeded") for job in jobs]
    assert [row["result"]["word"] for row in rows] == ["here", "there"]
    assert rows[0]["result"]["pid"] == os.getpid() != rows[1]["result"]["pid"]
    for row in rows:
        facts = row["result"]["files"]["word.txt"]
        assert (home.root / facts["path"]).read_text() == row["result"]["word"] and facts["bytes"] in (4, 5)
        assert desk.trail(row["id"]) == ["submitted", "started", "succeeded"]
        assert row["token"] is None and row["worker"] == "this machine" and row["finished_at"] >= row["started_at"]
    assert list(home.run.glob("job-*.json")) == []
    with db.read(desk.engine) as connection:
        table = db.events
        told = connection.execute(sa.select(table.c.payload).where(table.c.kind == "job")).scalars().all()
    mine = [event["state"] for event in told if event["job_id"] == jobs[1]]
    assert mine == ["running", "succeeded"]


def test_high_priority_first_then_the_oldest(home, desk):
    order = [desk.submit("thread_word", priority) for priority in ("low", "normal", "normal", "high")]
    with executing(home, {"torch": 1, "process": 1, "thread": 1}):
        rows = [desk.until(job, "succeeded") for job in order]
    began = sorted(rows, key=lambda row: row["started_at"])
    assert [row["id"] for row in began] == [order[3], order[1], order[2], order[0]]
    spans = [(row["started_at"], row["finished_at"]) for row in began]
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False)), "one at a time"


def test_an_error_is_final_unless_the_kind_says_so(home, desk, monkeypatch):
    monkeypatch.setattr(board, "BACKOFF_S", (0.0, 0.01, 0.02))
    with executing(home):
        final, again = desk.submit("thread_word", fail="refused"), desk.submit("thread_word", fail="transport")
        rows = [desk.until(job, "failed") for job in (final, again)]
    assert [row["attempts"] for row in rows] == [1, 3]
    assert rows[0]["error_code"] == "refused" and "attempt 3 of 3" in rows[1]["error"]
    assert desk.trail(again) == ["submitted", "started", "lost", "started", "lost", "started", "failed"]


def test_a_thread_that_takes_too_long_is_given_up_and_its_late_result_refused(home, desk, monkeypatch):
    monkeypatch.setattr(board, "BACKOFF_S", (0.0, 600.0, 600.0))
    held = home.root / "go"
    with executing(home):
        job = desk.submit("quick_word", wait=str(held))
        desk.begun(job)
        deadline = time.monotonic() + 100
        while "lost" not in desk.trail(job) and time.monotonic() < deadline:
            time.sleep(0.02)
        row = desk.job(job)
        assert (row["state"], row["error_code"], row["attempts"]) == ("pending", "timeout", 1)
        while "refused" not in desk.trail(job) and time.monotonic() < deadline:
            time.sleep(0.02)  # the thread sees that it is not wanted, and ends
        assert desk.trail(job) == ["submitted", "started", "lost", "refused"]
        assert desk.job(job)["result"] is None


@pytest.mark.parametrize("kind", ["thread_word", "child_word"])
def test_cancel_at_any_time(home, desk, kind):
    held = home.root / "go"
    before = desk.submit(kind, wait=str(held))
    orders.cancel(desk.engine, before)  # noted before the order for the job itself is read
    with executing(home):
        assert desk.until(before, "cancelled")["attempts"] == 0
        job = desk.submit(kind, wait=str(held))
        pid = desk.begun(job)[0]
        orders.cancel(desk.engine, job)
        assert desk.until(job, "cancelled")["error_code"] == "cancelled"
        waiting = desk.submit(kind)
        assert desk.until(waiting, "succeeded")["attempts"] == 1, "the slot is free again"
        if kind == "child_word":
            assert not os.path.exists(f"/proc/{pid}")
        again = orders.cancel(desk.engine, waiting)
        assert "succeeded already" in _answer(desk, again)
        orders.retry(desk.engine, job)
        held.touch()
        assert desk.until(job, "succeeded")["attempts"] == 2
    assert desk.trail(job)[:5] == ["submitted", "started", "cancelled", *desk.trail(job)[3:5]]
    assert "retried" in desk.trail(job)


def _answer(desk, command_id: str) -> str:
    deadline = time.monotonic() + 100
    table = db.commands
    while time.monotonic() < deadline:
        with db.read(desk.engine) as connection:
            row = connection.execute(sa.select(table).where(table.c.id == command_id)).mappings().one()
        if row["state"] != "pending":
            return (row["result"] or {}).get("reason", "")
        time.sleep(0.01)
    raise AssertionError("no answer")


# --- what dies -----------------------------------------------------------------------------------------------------

def test_kill_9_of_a_jobs_process_costs_an_attempt(home, desk):
    held = home.root / "go"
    with executing(home):
        job = desk.submit("torch_word", wait=str(held))
        os.kill(desk.begun(job)[0], signal.SIGKILL)
        desk.begun(job, 2)
        held.touch()
        row = desk.until(job, "succeeded")
    assert row["attempts"] == 2 and row["error"] is None
    assert desk.trail(job) == ["submitted", "started", "lost", "started", "succeeded"]
    folders = [path.name for path in (home.root / "jobs" / job).iterdir()]
    assert len(folders) == 1 and f"/{folders[0]}/" in row["result"]["files"]["word.txt"]["path"]


def test_a_job_that_kills_its_worker_ends_after_its_attempts(home, desk):
    with executing(home):
        job = desk.submit("child_word", wait=str(home.root / "never"))
        for attempt in (1, 2, 3):
            os.kill(desk.begun(job, attempt)[-1], signal.SIGKILL)
        row = desk.until(job, "failed")
    assert (row["attempts"], row["error_code"]) == (3, "lost") and "signal 9" in row["error"]


def test_two_workers_and_one_killed(home, desk):
    held = home.root / "go"
    with executing(home, {"torch": 2, "process": 1, "thread": 1}):
        jobs = [desk.submit("torch_word", wait=str(held), word=word) for word in ("one", "two")]
        pids = [desk.begun(job)[0] for job in jobs]
        stale = desk.job(jobs[0])["token"]
        os.kill(pids[0], signal.SIGKILL)
        desk.begun(jobs[0], 2)
        with db.write(desk.engine) as connection:  # the killed worker's result comes all the same
            assert board.finish(connection, jobs[0], stale, lambda c: pytest.fail("it must not be kept")) is False
        held.touch()
        rows = [desk.until(job, "succeeded") for job in jobs]
        with db.write(desk.engine) as connection:
            assert board.fail(connection, jobs[0], stale, "lost", "even later") is False
    assert [row["attempts"] for row in rows] == [2, 1]
    assert [row["result"]["word"] for row in rows] == ["one", "two"]
    assert desk.trail(jobs[0]) == ["submitted", "started", "lost", "started", "refused", "succeeded", "refused"]


ARENA = """
import sys, threading
import jobs_kit
from realm.settings import RealmHome
from realm.jobs import kinds
from realm.jobs.executor import Executor
from realm.jobs.local import LocalRunner
jobs_kit.register()
home = RealmHome(sys.argv[1])
Executor(home, runners=lambda w: [LocalRunner(home, frozenset(kinds.KINDS), w, command=jobs_kit.child_command)]).run()
"""


def test_the_arena_is_killed_in_the_middle(home, desk):
    """Its job processes end, what ran is begun again, what waited still waits; nothing is done twice."""
    held = home.root / "go"
    path = os.pathsep.join([os.path.dirname(jobs_kit.__file__), *sys.path])
    arena = subprocess.Popen([sys.executable, "-c", ARENA, str(home.root)], env={**os.environ, "PYTHONPATH": path})
    try:
        jobs = [desk.submit(kind, wait=str(held)) for kind in ("torch_word", "thread_word", "torch_word")]
        child = desk.begun(jobs[0])[0]
        desk.begun(jobs[1])
    finally:
        arena.kill()
        arena.wait()
    with executing(home):
        desk.begun(jobs[0], 2)
        assert not _alive(child), "two must not work on one job"
        held.touch()
        rows = [desk.until(job, "succeeded") for job in jobs]
    assert [row["attempts"] for row in rows] == [2, 2, 1]
    assert desk.trail(jobs[0]) == ["submitted", "started", "lost", "started", "succeeded"]


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_arena_is_stopped_in_the_middle(home, desk):
    """An orderly end is nobody's fault: the attempt is not counted."""
    held = home.root / "go"
    with executing(home):
        job = desk.submit("child_word", wait=str(held))
        pid = desk.begun(job)[0]
    row = desk.job(job)
    assert (row["state"], row["attempts"]) == ("pending", 0) and not _alive(pid)
    held.touch()
    with executing(home):
        assert desk.until(job, "succeeded")["attempts"] == 1
    assert desk.trail(job) == ["submitted", "started", "released", "started", "succeeded"]


def test_a_full_disk_holds_results_back_and_loses_none(home, desk, monkeypatch):
    monkeypatch.setattr(executor, "FAULT_WAIT_S", 0.05)
    full = threading.Event()
    real = executor.board.finish

    def finish(*arguments):
        if full.is_set():
            error = sqlite3.OperationalError("database or disk is full")
            raise sa.exc.OperationalError("UPDATE", {}, error)
        return real(*arguments)

    monkeypatch.setattr(executor.board, "finish", finish)
    full.set()
    with executing(home):
        job = desk.submit("thread_word")
        desk.begun(job)
        time.sleep(0.3)
        assert desk.job(job)["state"] == "running"
        full.clear()
        row = desk.until(job, "succeeded")
    assert row["attempts"] == 1 and len(desk.begun(job)) == 1


def test_a_result_of_the_wrong_form_is_its_workers_fault(home, desk):
    class Liar:
        name = "liar"

        def __init__(self):
            self.got = []

        def room(self):
            return [(frozenset({"count"}), 1)]

        def start(self, task):
            self.got.append(task)

        def ended(self):
            found = [(task, {"state": "succeeded", "summary": {}, "files": {"x": {"bytes": 3}}}) for task in self.got]
            self.got = []
            return found

        def kill(self, token): ...
        def workers(self):
            return []

        def close(self): ...

    with executing(home, runners=lambda wake: [Liar()]):
        row = desk.until(desk.submit("count"), "failed")
    assert row["error_code"] == "lost" and row["attempts"] == 3 and "not the file" in row["error"]


def test_old_jobs_are_forgotten_with_their_trails(home, desk):
    with executing(home):
        old, kept = desk.submit("count"), desk.submit("thread_word", wait=str(home.root / "go"))
        desk.until(old, "succeeded"), desk.begun(kept)
        with db.write(desk.engine) as connection:
            assert board.prune(connection, db.now() + 1) == [old]
        assert desk.trail(old) == [] and desk.trail(kept) == ["submitted", "started"]
        (home.root / "go").touch()


@pytest.mark.slow
@pytest.mark.timeout(900)  # 40 s on a quiet core; sixteen writers on a busy machine take their time
def test_ten_thousand_jobs_from_sixteen_writers(home, desk):
    """Each done exactly once."""
    each, made = 625, [[] for _ in range(16)]

    def write(number: int) -> None:
        mine = Desk(home)
        made[number] = [mine.submit("count") for _ in range(each)]
        mine.close()

    with executing(home):
        writers = [threading.Thread(target=write, args=(n,)) for n in range(16)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        wanted = {job for part in made for job in part}
        assert len(wanted) == 10_000
        deadline = time.monotonic() + 600
        table = db.jobs
        while time.monotonic() < deadline:
            with db.read(desk.engine) as connection:
                left = connection.execute(sa.select(sa.func.count()).where(table.c.state != "succeeded")).scalar_one()
                rows = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            if rows == 10_000 and left == 0:
                break
            time.sleep(0.2)
    with db.read(desk.engine) as connection:
        found = connection.execute(sa.select(table.c.id, table.c.state, table.c.attempts)).all()
        trail = connection.execute(sa.select(db.job_audit.c.what, sa.func.count()).group_by(db.job_audit.c.what)).all()
    assert {row.id for row in found} == wanted
    assert {(row.state, row.attempts) for row in found} == {("succeeded", 1)}
    assert dict(map(tuple, trail)) == {"submitted": 10_000, "started": 10_000, "succeeded": 10_000}


# --- API and commands ----------------------------------------------------------------------------------------------

@pytest.fixture
def client(home):
    from starlette.testclient import TestClient

    from realm.state.router import create_state_app

    with TestClient(create_state_app(home), base_url="http://localhost") as made:
        yield made


def test_api_from_order_to_file(home, client, desk):
    refused = client.post("/api/jobs", json={"kind": "thread_word", "payload": {"wrd": "x"}})
    assert refused.status_code == 422 and "its fields are word, wait, fail" in refused.json()["detail"]
    assert client.post("/api/jobs", json={"kind": "thread_word", "hidden": 1}).status_code == 422
    told = client.post("/api/jobs", json={"kind": "thread_word", "payload": {"word": "hi"}},
                       headers={"Idempotency-Key": "a-key-of-mine"})  # fmt: skip
    job = told.json()["job_id"]
    assert told.status_code == 202 and job == told.json()["command_id"] == "a-key-of-mine"
    seen = client.get(f"/api/jobs/{job}").json()
    assert (seen["state"], seen["noted"], seen["trail"]) == ("pending", True, [])
    assert client.get("/api/jobs").json()["jobs"][0]["id"] == job
    with executing(home):
        desk.until(job, "succeeded")
    seen = client.get(f"/api/jobs/{job}").json()
    assert [line["what"] for line in seen["trail"]] == ["submitted", "started", "succeeded"] and not seen["noted"]
    assert client.get(f"/api/jobs/{job}/files/word.txt").text == "hi"
    for name in ("other.txt", "..%2f..%2frealm.db", "log.txt"):
        assert client.get(f"/api/jobs/{job}/files/{name}").status_code == 404
    assert client.get("/api/jobs/nobody").status_code == client.post("/api/jobs/nobody/cancel").status_code == 404
    assert {kind["kind"] for kind in client.get("/api/jobs/kinds").json()} >= {"eval", "layer_drift", "sync"}
    [worker] = client.get("/api/workers").json()
    assert worker["name"] == "this machine" and worker["alive"] is False


def test_api_says_when_to_come_again(client, desk):
    for _ in range(2):
        assert client.post("/api/jobs", json={"kind": "two_words"}).status_code == 202
    full = client.post("/api/jobs", json={"kind": "two_words"})
    assert full.status_code == 429 and full.headers["retry-after"] == "30" and "limit is 2" in full.json()["detail"]


def test_pages_of_the_list(home, client, desk):
    with executing(home):
        made = [desk.submit("count") for _ in range(7)]
        for job in made:
            desk.until(job, "succeeded")
    seen, cursor = [], ""
    while True:
        page = client.get(f"/api/jobs?limit=3&state=succeeded&kind=count{cursor}").json()
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert sorted(seen) == sorted(made) and len(seen) == 7
    assert client.get("/api/jobs?state=failed").json()["jobs"] == []
    assert client.get("/api/jobs?cursor=nobody").status_code == 422


def test_commands_wait_and_tell(home, run, desk):
    with executing(home):
        code, out, _ = run("jobs", "submit", "thread_word", "word=12 feet", "--wait", "20")
        assert code == 0 and '"word": "12 feet"' in out
        code, out, _ = run("jobs", "submit", "thread_word", "fail=refused", "--wait", "20")
        assert code == 1 and "told to fail" in out
    code, out, _ = run("jobs", "list", "--state", "failed")
    assert code == 0 and out.count("thread_word") == 1
    for words, said in ((["submit", "thread_word", "word"], "write name=value"), (["list", "--state", "x"], "none of"),
                        (["submit", "thread_word", "--payload", "[1]"], "write an object"),
                        (["submit", "thread_word", "--payload", "{"], "no JSON"), (["show", "nobody"], "no job nobody"),
                        (["worker"], "--address"), (["worker", "--head", "--address", "x"], "--address"),
                        (["worker", "--head", "--schools", "vault"], "write a school"),
                        (["worker", "--head", "--schools", "forge=0"], "write a school")):  # fmt: skip
        code, _, err = run("jobs", *words)
        assert code == 1 and said in err, (words, err)
