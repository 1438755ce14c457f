"""The conformance suite of skill servers, against BIN over real HTTP and against servers that break the contract."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import replace

import httpx
import pytest
import uvicorn

from realm.guild.skills import Grade, get_skill
from realm.guild.skills.bin import BinSkill
from realm.guild.skills.conformance import ConformanceError, check, main
from realm.guild.skills.server import COUNT_AT_MOST, close, create_app


@contextlib.contextmanager
def served(app):
    """The base URL of an app on a free port, served by a real uvicorn."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture(scope="module")
def bin_url():
    with served(create_app(get_skill("bin"))) as url:
        yield url


class LenientSkill(BinSkill):
    """Passes every answer."""

    def grade(self, problem, response):
        return Grade(True, 1.0, "everyone wins")


class LeakySkill(BinSkill):
    """Takes its public problems from training, and its seed means nothing."""

    def generate(self, level, count, seed, split="train"):
        rows = super().generate(level, count, 0, "train")
        return [replace(row, split=split) for row in rows]


class EchoSkill(BinSkill):
    """Carries the answer in the prompt."""

    def generate(self, level, count, seed, split="train"):
        rows = super().generate(level, count, seed, split)
        return [replace(row, prompt=f"{row.prompt}\n{row.golden}") for row in rows]


def test_bin_keeps_the_contract_over_http(bin_url):
    check(bin_url, levels=[1, 3, 9, 30])


def test_command_line_reports_success_and_an_absent_server(bin_url, capsys):
    assert main([]) == 2
    assert main(["http://127.0.0.1:9"]) == 1
    assert "is it running?" in capsys.readouterr().out


@pytest.mark.parametrize(("broken", "rule"), [
    (LenientSkill, "an empty answer must fail"),
    (LeakySkill, "are also given out for training"),
    (EchoSkill, "must not stand in the prompt"),
])
def test_a_broken_skill_fails(broken, rule):
    with served(create_app(broken())) as url, pytest.raises(ConformanceError) as caught:
        check(url, levels=[3])
    assert rule in str(caught.value)
    assert caught.value.failures


def test_exam_problems_are_refused_and_training_problems_are_not(bin_url):
    for split in ("trial", "probe"):
        answer = httpx.post(f"{bin_url}/generate", json={"level": 3, "count": 2, "split": split})
        assert answer.status_code == 403
        assert split in answer.json()["error"] and "'train' or 'public'" in answer.json()["error"]
    for split in ("train", "public"):
        answer = httpx.post(f"{bin_url}/generate", json={"level": 3, "count": 2, "split": split, "seed": 5}, timeout=30)
        assert answer.status_code == 200
        expected = [problem.to_dict() for problem in get_skill("bin").generate(3, 2, 5, split)]
        assert answer.json()["samples"] == expected


@pytest.mark.parametrize(("body", "said"), [
    ({"level": 31, "count": 1}, "levels 1 to 30"),
    ({"level": 1, "count": COUNT_AT_MOST + 1}, str(COUNT_AT_MOST)),
    ({"level": 1, "count": 1, "sede": 3}, "sede"),
    ({"level": 1, "count": 1, "split": "exam"}, "train, trial, probe, public"),
])
def test_refusals_name_the_value_and_the_rule(bin_url, body, said):
    answer = httpx.post(f"{bin_url}/generate", json=body, timeout=30)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


def test_forged_golden_does_not_change_the_verdict(bin_url):
    row = get_skill("bin").generate(4, 1, 0)[0].to_dict()
    forged = {**row, "golden": "anything"}
    wrong = httpx.post(f"{bin_url}/grade", json={"problem": forged, "response": "anything"}, timeout=30).json()
    right = httpx.post(f"{bin_url}/grade", json={"problem": forged, "response": row["golden"]}, timeout=30).json()
    assert (wrong["correct"], right["correct"]) == (False, True)


def test_a_problem_with_fields_of_the_wrong_type_is_refused_not_a_crash(bin_url):
    row = get_skill("bin").generate(4, 1, 0)[0].to_dict()
    answer = httpx.post(f"{bin_url}/grade", json={"problem": {**row, "prompt": 7}, "response": "x"}, timeout=30)
    assert answer.status_code == 422 and "prompt: int" in answer.json()["error"]


def test_health_answers_while_a_long_generation_runs(bin_url):
    """The event loop stays free: /health answers many times before a slow request is done."""
    done = threading.Event()
    slow_status: list[int] = []

    def slow() -> None:
        body = {"level": 9, "count": COUNT_AT_MOST}
        slow_status.append(httpx.post(f"{bin_url}/generate", json=body, timeout=120).status_code)
        done.set()

    thread = threading.Thread(target=slow)
    thread.start()
    answered = 0
    with httpx.Client(base_url=bin_url, timeout=5) as client:
        while not done.is_set() and answered < 50:
            assert client.get("/health").json()["status"] == "ok"
            answered += 1
    thread.join(120)
    assert slow_status == [200]
    assert answered >= 5


def test_pool_starts_with_the_first_request_and_ends_with_close_or_lifespan():
    app = create_app(get_skill("bin"))
    worker = app.state.worker
    with served(app) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert not worker.started
        assert httpx.get(f"{url}/eval/1", timeout=30).status_code == 200
        pids = list(worker._pool._processes)
        close(app)
        assert not worker.started and not any(_alive(pid) for pid in pids)
        assert httpx.get(f"{url}/eval/1", timeout=30).status_code == 200
        pids = list(worker._pool._processes)
    assert not worker.started and not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
