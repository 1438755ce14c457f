"""What each kind of job really does, on checkpoints of a micro hero that a battle wrote."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hero_kit as kit
import numpy as np
import psutil
import pytest
import sqlalchemy as sa
from jobs_kit import Desk, executing

from realm import db
from realm.arena import trial
from realm.guild import campaigns
from realm.guild.skills import Problem, get_skill
from realm.jobs import archaeology, board, cluster, kinds, settle
from realm.jobs.bench import Bench, Task, perform
from realm.jobs.depot import HomeDepot, WebDepot, data_path
from realm.jobs.kinds import JobError
from realm.quests import sparring
from realm.settings import RealmHome
from realm.temple import verdicts


@pytest.fixture(scope="module")
def played(tmp_path_factory, _empty_database):
    """(home, [base checkpoint, the one 4 steps later]) of a campaign that was played; tests copy it."""
    home = RealmHome(tmp_path_factory.mktemp("played"), environ={}).create()
    shutil.copyfile(_empty_database, home.database)
    engine = db.connect(home)
    profile, ids = kit.micro_profile(), kit.campaign(engine)
    with db.write(engine) as connection:
        campaigns.set_value(connection, "campaign", ids["campaign_id"])
    kit.born(home, profile)
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, trials=[
        {"kind": "retention", "skill": "bin", "level": 1, "closed": True, "threshold": 0.8, "seed": 1, "max_n": 1}]))
    first = row["checkpoint_id"]
    data = kit.quest(home, engine, ids, "A", kit.conversations(16))
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=data, steps=4, parent=first))
    assert row["outcome"] == "trained", row["error"]
    with db.write(engine) as connection:  # the arena has settled them: they need their checkpoints no more
        connection.execute(sa.update(db.battles).values(settled_at=db.now()))
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return home, [first, row["checkpoint_id"]]


@pytest.fixture
def desk(played, tmp_path):
    shutil.copytree(played[0].root, tmp_path / "realm", symlinks=True)
    made = Desk(RealmHome(tmp_path / "realm"))
    yield made
    made.close()


def worked(desk, kind: str, folder: str = "bench", **payload) -> tuple[Task, dict]:
    """(task, outcome) of one attempt, worked here."""
    task = Task("JOB", kind, kinds.parse(kind, payload).model_dump(mode="json", exclude_none=True), folder, 1)
    place = desk.home.root / "jobs" / folder
    place.mkdir(parents=True)
    return task, perform(Bench(task, HomeDepot(desk.home), place, desk.home))


def rows_of(desk, name: str, folder: str = "bench") -> list[dict]:
    text = (desk.home.root / "jobs" / folder / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# --- inference -----------------------------------------------------------------------------------------------------

def test_an_evaluation_is_graded_on_the_problems_it_asked(desk, played):
    checkpoint = played[1][1]
    task, outcome = worked(desk, "eval", checkpoint=checkpoint, skill="bin", level=4, items=40)
    assert outcome["state"] == "succeeded", outcome
    skill = get_skill("bin")
    spec = trial.TrialSpec("job", "bin", 4, False, skill.threshold, task.seed, 40)
    asked = [item["problem"]["id"] for item in outcome["facts"]["items"]]
    assert asked == [problem.id for problem in trial.draw(spec, skill)][: len(asked)]
    assert {item["problem"]["split"] for item in outcome["facts"]["items"]} == {"trial"}
    write = settle.judge(desk.home, task, outcome, desk.home.root / "jobs" / "bench")
    with db.write(desk.engine) as connection:
        told = write(connection)
    with db.read(desk.engine) as connection:
        row = connection.execute(sa.select(db.trials).where(db.trials.c.id == told["trial_id"])).mappings().one()
        items = connection.execute(sa.select(db.trial_items).where(
            db.trial_items.c.trial_id == told["trial_id"])).mappings().all()  # fmt: skip
    assert (row["checkpoint_id"], row["step"], row["kind"], row["n"]) == (checkpoint, 4, "job", len(items))
    assert row["correct"] == told["correct"] == sum(
        skill.grade(Problem.from_dict(item["problem"]), item["response"]).correct for item in items)  # fmt: skip
    assert told["verdict"] == row["verdict"] == "fail" and row["loss"] > 0


@pytest.mark.parametrize("lie, words", [
    (lambda items: items[0].update(correct=not items[0]["correct"]), "marked .* otherwise"),
    (lambda items: items[0]["problem"].update(id="another"), "was not asked"),
    (lambda items: items[0]["problem"].update(golden="7"), "was not asked"),
    (lambda items: items.__delitem__(slice(20, None)), "the trial was not finished|decide nothing"),
    (lambda items: items.clear(), "0 answers"),
    (lambda items: items.extend(items * 9), "answers to a trial of at most"),
])  # fmt: skip
def test_answers_that_were_not_asked_or_not_marked_so_are_refused(home, lie, words):
    skill = get_skill("bin")
    task = Task("JOB", "eval", {"checkpoint": "C", "skill": "bin", "level": 4, "items": 40, "seed": 5}, "T", 1)
    spec = trial.TrialSpec("job", "bin", 4, False, skill.threshold, 5, 40)
    items = [{"problem": p.to_dict(), "response": p.golden, "correct": True, "reason": ""}
             for p in trial.draw(spec, skill)]  # fmt: skip
    outcome = {"summary": {}, "files": {}, "facts": {"items": items, "tokens": 1, "loss": None, "started_at": 1.0,
                                                     "seconds": 1.0}}  # fmt: skip
    settle.judge(home, task, outcome, home.root)
    lie(items)
    with pytest.raises(JobError, match=words) as caught:
        settle.judge(home, task, outcome, home.root)
    assert caught.value.code == "mismatch"


def test_sparring_makes_balanced_rows_of_this_checkpoint(desk, played):
    _, outcome = worked(desk, "sparring", checkpoint=played[1][0], skill="bin", level=3, count=12)
    rows = rows_of(desk, "rows.jsonl")
    assert outcome["summary"]["asked"] == 12 and outcome["summary"]["wrong"] > 0
    assert len(rows) == outcome["summary"]["made"] > 0 and len(rows) % 3 == 0
    assert {row["checkpoint"] for row in rows} == {played[1][0]}
    assert sorted({row["type"] for row in rows}) == sorted(sparring.KINDS)
    skill = get_skill("bin")
    assert {skill.split_of(row["messages"][0]["content"].split("\n\nProposed")[0]) for row in rows} == {"train"}


def test_inference_answers_in_order(desk, played):
    prompts = ["Compute: add(①, ①)", "hello"]
    _, outcome = worked(desk, "inference", checkpoint=played[1][1], prompts=prompts, max_new_tokens=5)
    rows = rows_of(desk, "answers.jsonl")
    assert [row["prompt"] for row in rows] == prompts and all(1 <= row["tokens"] <= 5 for row in rows)
    assert outcome["summary"] == {"checkpoint": played[1][1], "step": 4, "answers": 2,
                                  "tokens": sum(row["tokens"] for row in rows)}  # fmt: skip


@pytest.mark.parametrize("kind, payload", [
    ("eval", {"skill": "bin", "level": 1}), ("sparring", {"skill": "bin", "level": 1}),
    ("inference", {"prompts": ["x"]}), ("layer_stats", {}),
])  # fmt: skip
def test_a_damaged_checkpoint_is_never_loaded(desk, played, kind, payload):
    folder = HomeDepot(desk.home).checkpoint(played[1][1])
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-7] ^= 1
    weights.write_bytes(raw)
    _, outcome = worked(desk, kind, checkpoint=played[1][1], **payload)
    assert (outcome["state"], outcome["code"]) == ("failed", "corrupt") and "model.safetensors" in outcome["text"]


# --- forge ---------------------------------------------------------------------------------------------------------

def test_generated_rows_are_those_of_the_seed_and_go_to_the_inbox(desk):
    counts = {"counts": {"2": 20, "3": 10}, "skill": "bin", "seed": 9}
    task, outcome = worked(desk, "data_gen", **counts, inbox="low")
    _, again = worked(desk, "data_gen", "other", **counts)
    assert outcome["files"] == again["files"] and outcome["summary"]["rows"] == 30
    with db.write(desk.engine) as connection:
        told = settle.judge(desk.home, task, outcome, desk.home.root / "jobs" / "bench")(connection)
    dropped = desk.home.root / told["inbox"]
    assert dropped.parent == desk.home.inbox / "low"
    assert dropped.read_bytes() == (desk.home.root / told["files"]["rows.jsonl"]["path"]).read_bytes()
    prompts = [row["messages"][0]["content"] for row in rows_of(desk, "rows.jsonl")]
    assert {get_skill("bin").split_of(prompt) for prompt in prompts} == {"train"}


def test_filter_and_convert_are_the_refinerys_own(desk):
    rows = [{"messages": [{"role": "user", "content": f"question {n % 4}"},
                          {"role": "assistant", "content": f"answer {n % 4}"}]} for n in range(12)]  # fmt: skip
    source = desk.home.inbox / "mine.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, outcome = worked(desk, "data_filter", source="file:inbox/mine.jsonl")
    assert (outcome["summary"]["rows"], outcome["summary"]["exact"]) == (4, 8)
    assert len(rows_of(desk, "rows.jsonl")) == 4 and len(rows_of(desk, "duplicates.jsonl")) == 8
    _, outcome = worked(desk, "data_convert", "second", source="file:jobs/bench/rows.jsonl", format="alpaca")
    assert outcome["state"] == "succeeded", outcome
    assert [row["instruction"] for row in rows_of(desk, "rows.jsonl", "second")] == [f"question {n}" for n in range(4)]
    _, outcome = worked(desk, "data_convert", "third", source="file:inbox/mine.jsonl", format="nonsense")
    assert outcome["state"] == "failed" and "nonsense" in outcome["text"]


def test_sources_stay_in_the_realm_home(desk, tmp_path):
    secret = tmp_path / "secret.jsonl"
    secret.write_text("{}\n")
    (desk.home.inbox / "link.jsonl").symlink_to(secret)
    with db.read(desk.engine) as connection:
        for ref in ("file:inbox/../../secret.jsonl", f"file:{secret}", "file:inbox/link.jsonl", "job:x/../../y",
                    "quest:nobody", "file:realm.db", "file:", "file:inbox/\0.jsonl", "web:http://x"):  # fmt: skip
            with pytest.raises(JobError):
                data_path(connection, desk.home, ref)
        assert data_path(connection, desk.home, "quest:QUEST" + "A".rjust(21, "0")).name == "A.jsonl"


# --- archaeology ---------------------------------------------------------------------------------------------------

def test_layers_against_numpy(desk, played):
    from safetensors.numpy import load_file

    old, new = (load_file(HomeDepot(desk.home).checkpoint(name) / "model.safetensors") for name in played[1])
    _, outcome = worked(desk, "layer_stats", checkpoint=played[1][1])
    table = {row["name"]: row for row in json.loads((desk.home.root / "jobs/bench/tensors.json").read_text())}
    assert set(table) == set(new) and outcome["summary"]["values"] == sum(v.size for v in new.values())
    for name, values in new.items():
        wide = values.astype(np.float64)
        got = table[name]
        assert [got["l2"], got["max"], got["mean"]] == pytest.approx(
            [np.linalg.norm(wide), np.abs(wide).max(), wide.mean()], rel=1e-9, abs=1e-12), name  # fmt: skip
    _, outcome = worked(desk, "layer_drift", "drift", checkpoint=played[1][1], against=played[1][0])
    table = {row["name"]: row for row in json.loads((desk.home.root / "jobs/drift/tensors.json").read_text())}
    for name, values in new.items():
        a, b = values.astype(np.float64).ravel(), old[name].astype(np.float64).ravel()
        want = [np.linalg.norm(a - b) / np.linalg.norm(b), a @ b / np.linalg.norm(a) / np.linalg.norm(b)]
        assert [table[name]["relative_l2"], table[name]["cosine"]] == pytest.approx(want, rel=1e-9), name
    whole = outcome["summary"]
    assert whole["relative_l2"] > 0 and 0 < whole["cosine"] < 1 and whole["compared"] == len(new)
    assert {"0", "embed_tokens", "norm"} <= set(whole["layers"]) and whole["most"][0]["relative_l2"] >= max(
        row["relative_l2"] or 0 for row in table.values())  # fmt: skip
    _, outcome = worked(desk, "layer_drift", "same", checkpoint=played[1][0], against=played[1][0])
    assert (outcome["summary"]["relative_l2"], round(outcome["summary"]["cosine"], 12)) == (0.0, 1.0)


def test_bfloat16_broken_and_missing_tensors(tmp_path):
    import torch
    from safetensors.torch import save_file

    values = torch.tensor([[1.5, -2.0], [0.0, 3.25]], dtype=torch.bfloat16)
    save_file({"model.layers.0.w": values, "x": torch.tensor([float("nan"), 1.0])}, str(tmp_path / "a.safetensors"))
    found = archaeology.tensors(tmp_path)
    rows = {name: archaeology._stats_of(tensor) for name, tensor in found.items()}
    assert rows["model.layers.0.w"]["l2"] == pytest.approx(float(values.float().norm()))
    assert (rows["model.layers.0.w"]["max"], rows["model.layers.0.w"]["zeros"]) == (3.25, 0.25)
    assert rows["x"]["broken"] == 1 and rows["x"]["l2"] == 1.0
    assert archaeology._measures(1.0, 0.0, 1.0, 0.0) == {"relative_l2": None, "cosine": None}
    with pytest.raises(JobError, match="holds no"):
        archaeology.tensors(tmp_path / "nothing")


# --- vault, analytics ------------------------------------------------------------------------------------------------

def test_sync_names_what_ledger_and_disk_do_not_share(desk, played):
    folder = HomeDepot(desk.home).checkpoint(played[1][0])
    stray = folder.with_name(folder.name + "0")
    shutil.copytree(folder, stray)
    (folder / "config.json").write_text("{}")
    _, outcome = worked(desk, "sync")
    assert outcome["summary"]["checked"] == 2 and list(outcome["summary"]["damaged"]) == [played[1][0]]
    assert outcome["summary"]["without_row"] == [str(stray)]
    _, outcome = worked(desk, "sync", "one", checkpoint=played[1][1])
    assert (outcome["summary"]["checked"], outcome["summary"]["damaged"]) == (1, {})


def test_archive_moves_and_what_is_needed_stays(desk, played):
    _, outcome = worked(desk, "archive", checkpoint=played[1][1], zone="deep")
    assert (outcome["state"], outcome["code"]) == ("failed", "refused") and "latest of its campaign" in outcome["text"]
    _, outcome = worked(desk, "archive", "warm", checkpoint=played[1][1], zone="warm")
    assert outcome["summary"]["zone"] == "warm", outcome
    assert "warm" in HomeDepot(desk.home).checkpoint(played[1][1]).as_posix()  # and is worked with from there
    _, outcome = worked(desk, "retention", "rules")
    assert outcome["summary"]["dry_run"] and {d["id"] for d in outcome["summary"]["decisions"]} == set(played[1])
    _, outcome = worked(desk, "retention", "go", dry_run=False)
    assert outcome["summary"]["deleted"] == []  # both are among the newest


def test_a_checkpoint_that_a_job_needs_stays_where_it_is(desk, played):
    job = desk.submit("layer_drift", checkpoint=played[1][1], against=played[1][0])
    with db.write(desk.engine) as connection:
        board.add(connection, job, kinds.KINDS["layer_drift"], {"checkpoint": played[1][1], "against": played[1][0]}, 1)
    _, outcome = worked(desk, "archive", checkpoint=played[1][0], zone="deep")
    assert outcome["state"] == "failed" and f"used by job {job}" in outcome["text"]


def test_a_health_check_is_the_temples_and_its_verdict_is_kept(desk):
    task, outcome = worked(desk, "health_check", order="quick")
    assert outcome["state"] == "succeeded", outcome
    write = settle.judge(desk.home, task, outcome, desk.home.root / "jobs" / "bench")
    with db.write(desk.engine) as connection:
        told = write(connection)
        kept = verdicts.newest(connection)["quick"]
    assert told["orders"] == {"quick": kept["status"]} and kept["checks"]


def test_analytics_and_report(desk):
    _, outcome = worked(desk, "analytics")
    assert outcome["summary"]["campaign"]["name"] == "test" and outcome["summary"]["rungs"] == 0
    _, outcome = worked(desk, "report", "report", campaign="test")
    assert set(outcome["files"]) == {"report.md", "report.json"}
    assert "test" in (desk.home.root / "jobs/report/report.md").read_text(encoding="utf-8")
    json.dumps(outcome)  # it travels as JSON


def test_names_of_checkpoints_become_ids(desk, played):
    job = desk.submit("layer_drift", checkpoint="latest", against=played[1][0])
    with executing(desk.home, runners=None) as executor:
        assert executor is not None
        row = desk.until(job, "succeeded", wait_s=60)
    assert row["payload"] == {"checkpoint": played[1][1], "against": played[1][0]}
    assert row["result"]["compared"] > 0 and row["worker"] == "this machine"


# --- checkpoints over HTTP -----------------------------------------------------------------------------------------

@contextlib.contextmanager
def _vault(folder, checkpoint_id: str, asked: list, spoil: str = ""):
    """A VaultKeeper's way to give the files of one checkpoint; `spoil` names a file that arrives damaged."""

    class Files(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix(f"/api/vault/{checkpoint_id}/files/")
            asked.append(name)
            if not (folder / name).is_file():
                self.send_error(404)
                return
            data = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("x-sha256", hashlib.sha256(data).hexdigest())
            self.end_headers()
            self.wfile.write(data[:-1] + bytes([data[-1] ^ 255]) if name == spoil else data)

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_checkpoint_travels_once_and_arrives_whole_or_not_at_all(desk, played, tmp_path):
    checkpoint, asked = played[1][1], []
    folder = HomeDepot(desk.home).checkpoint(checkpoint)
    cache = tmp_path / "cache"
    for spoil in ("model.safetensors", "manifest.json"):
        with _vault(folder, checkpoint, asked, spoil) as url, pytest.raises(JobError) as caught:
            WebDepot(url, "", cache).checkpoint(checkpoint)
        assert caught.value.code == "corrupt" and not any(path.is_file() for path in cache.rglob("*"))
    asked.clear()
    with _vault(folder, checkpoint, asked) as url:
        depot = WebDepot(url, "", cache)
        got = depot.checkpoint(checkpoint)
        assert (got / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
        assert not (got / "resume").exists() and len(asked) == len(set(asked)) >= 3
        assert depot.checkpoint(checkpoint) == got and len(asked) == len(set(asked)), "the second time from the cache"
        (got / "config.json").write_text("{}")
        depot.checkpoint(checkpoint)
        assert (got / "config.json").read_bytes() == (folder / "config.json").read_bytes(), "fetched again"
        with pytest.raises(JobError) as caught:
            depot.checkpoint("0" * 26)
        assert caught.value.code == "missing"
        with pytest.raises(JobError, match="no checkpoint's id"):
            depot.checkpoint("../../etc")
    with pytest.raises(JobError) as caught:
        WebDepot(url, "", tmp_path / "empty").checkpoint(checkpoint)
    assert caught.value.code == "transport"


# --- a cluster -----------------------------------------------------------------------------------------------------

def _until(holds, what: str, wait_s: float = 90.0):
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {wait_s} s")


class Node:
    """`training jobs worker …` as a person starts it."""

    def __init__(self, home, *words: str) -> None:
        self.log = home.logs / f"node-{words[-1]}.log"
        environ = {**os.environ, "REALM_HOME": str(home.root)}
        command = [sys.executable, "-m", "training", "jobs", "worker", *words]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*command, "--cpus", "1"], env=environ, stdout=log, stderr=log)
        _until(lambda: "Ray runtime started" in self.log.read_text(), f"the node: {self.log.read_text()[-2000:]}")

    def all(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            mine = psutil.Process(self.process.pid)
            return [mine, *mine.children(recursive=True)]
        return []

    def working(self) -> bool:
        found = []
        for process in self.all():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return any(name.startswith("ray::realm-") for name in found)

    def kill(self) -> None:
        for process in self.all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(20)


def _free_port() -> int:
    """Ray keeps 10002 to 19999 for its workers."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if not 10_000 < port < 20_000:
            return port


def _workers(desk) -> dict[str, bool]:
    with db.read(desk.engine) as connection:
        return {worker["name"]: worker["alive"] for worker in campaigns.value(connection, board.WORKERS)["workers"]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ray_node_is_lost_in_the_middle_and_another_does_the_job(desk, played, ray_alone):
    """Two workers; the one that works is killed. Its job is done once more, and a trial runs on the other one."""
    home, port = desk.home, _free_port()
    head = f"127.0.0.1:{port}"
    nodes = [Node(home, "--head", "--port", str(port), "--schools", "archaeology", "--name", "head")]
    away = frozenset(name for name, kind in kinds.KINDS.items() if kind.anywhere)
    try:
        both = {name: Node(home, "--address", head, "--schools", "forge,inference", "--name", name)
                for name in ("first", "second")}  # fmt: skip
        nodes += both.values()
        with executing(home, runners=lambda wake: [cluster.RayRunner(home, away, wake, head)]):
            job = desk.submit("data_gen", skill="bin", counts={"30": 3000}, seed=3)
            busy = _until(lambda: [name for name, node in both.items() if node.working()], "the work")
            assert len(busy) == 1 and desk.job(job)["state"] == "running"
            left = "second" if busy == ["first"] else "first"
            both[busy[0]].kill()
            row = desk.until(job, "succeeded", wait_s=120)
            assert (row["attempts"], row["worker"], row["result"]["rows"]) == (2, left, 3000)
            assert desk.trail(job) == ["submitted", "started", "lost", "started", "succeeded"]
            trial_job = desk.submit("eval", checkpoint="latest", skill="bin", level=2, items=40)
            row = desk.until(trial_job, "succeeded", "failed", wait_s=120)
            assert (row["state"], row["worker"]) == ("succeeded", left), row
            alive = {"head": True, left: True, busy[0]: False}
            _until(lambda: _workers(desk) == alive, "word that the killed worker is gone")
        with db.read(desk.engine) as connection:
            trial_id = row["result"]["trial_id"]
            kept = connection.execute(sa.select(db.trials).where(db.trials.c.id == trial_id)).mappings().one()
        assert (kept["checkpoint_id"], kept["n"]) == (played[1][1], 40)
    finally:
        for node in nodes:
            node.kill()
