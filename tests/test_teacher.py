"""A teacher behind HTTP that lies, stalls, sends rubbish, or is not there: each has its sentence, none hangs."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from realm.quests.teacher import MAX_BYTES, Answer, Endpoint, Teacher, TeacherError

ASK = [[{"role": "user", "content": f"question {i}"}] for i in range(6)]


def said(text, reason="stop", **more):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}],
                       **more}).encode()  # fmt: skip


@contextmanager
def endpoint(reply, **more):
    """A real server; `reply(body, handler, n)` gives (status, headers, bytes) or writes by itself and gives None."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append((body, dict(self.headers), self.path))
            answer = reply(body, self, len(seen))
            if answer is not None:
                status, headers, raw = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "sage", **{"timeout_s": 5.0, **more}), seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answers(at, questions=ASK[:1], notes=None, **more):
    with Teacher(at, notes, retry_s=(0.01, 0.01)) as teacher:
        return teacher.answers(questions, **more)


def refusal(reply, **more):
    with endpoint(reply, **more) as (at, seen), pytest.raises(TeacherError) as error:
        answers(at)
    return str(error.value), len(seen)


def test_answers_come_in_order_and_the_request_is_openais(monkeypatch):
    monkeypatch.setenv("REALM_TEACHER_KEY", "sesame")
    with endpoint(lambda body, *_: (200, {}, said(body["messages"][-1]["content"].upper()))) as (at, seen):
        found = answers(at, ASK)
    assert found == [Answer(f"QUESTION {i}") for i in range(6)]
    body, headers, path = seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer sesame"
    assert body["model"] == "sage" and body["stream"] is False and body["messages"] in ASK


@pytest.mark.parametrize("text,expected", [
    ("  fine \n", Answer("fine")), ("", Answer("", "empty")), (None, Answer("", "empty")), (" \n", Answer("", "empty")),
    ("<think>hm\nhm</think>\n\n4", Answer("4")), ("<think>only</think>", Answer("", "empty")),
    ("a <think>b</think>", Answer("a <think>b</think>")), (["parts"], Answer("", "empty")), (7, Answer("", "empty")),
])  # fmt: skip
def test_what_is_read_of_an_answer(text, expected):
    with endpoint(lambda *_: (200, {}, said(text))) as (at, _):
        assert answers(at) == [expected]


def test_an_answer_that_was_cut_is_told():
    with endpoint(lambda *_: (200, {}, said("half an ans", "length"))) as (at, _):
        assert answers(at) == [Answer("half an ans", "cut")]


@pytest.mark.parametrize("raw", [
    b"", b"ok", b"null", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": null}', b'{"error": 1}',
    b'{"choices": [{"message": null}]}', b"\xff\xfe\x00", b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    b'data: {"choices": [{"delta": {"content": "stream"}}]}',
])  # fmt: skip
def test_rubbish_is_named(raw):
    text, asked = refusal(lambda *_: (200, {}, raw))
    assert "/v1/chat/completions answered with no chat completion" in text and "OpenAI-compatible" in text
    assert asked == 1, "rubbish does not get better by asking again"


def test_a_web_page_is_named():
    text, _ = refusal(lambda *_: (200, {"content-type": "text/html"}, b"\n<!DOCTYPE html><title>Log in</title>"))
    assert "answered with a web page" in text and "Log in" in text and "mostly ends in /v1" in text


@pytest.mark.parametrize("status,says", [
    (401, "REALM_TEACHER_KEY"), (403, "REALM_TEACHER_KEY"), (404, "no model 'sage': see http"), (400, "Mend the model"),
    (422, "Mend the model"), (302, "It points to http://evil.example/"),
])  # fmt: skip
def test_refusals_are_final_and_say_what_to_do(status, says):
    text, asked = refusal(lambda *_: (status, {"location": "http://evil.example/"}, b'{"error": "no such thing"}'))
    assert says in text and "no such thing" in text and asked == 1, "a redirect is not followed with the key in hand"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(status):
    def reply(body, handler, n):
        return (status, {"retry-after": "0.01"}, b"busy") if n < 3 else (200, {}, said("at last"))

    with endpoint(reply) as (at, seen):
        assert answers(at) == [Answer("at last")] and len(seen) == 3
    text, asked = refusal(lambda *_: (status, {"retry-after": "soon"}, b"busy"))
    assert f"HTTP {status}" in text and "'busy', 3 tries" in text and asked == 3


def test_nobody_there():
    with pytest.raises(TeacherError, match="no answer .*3 tries; start the teacher or mend its address"):
        answers(Endpoint("http://127.0.0.1:9/v1", "sage", timeout_s=2))
    with pytest.raises(TeacherError, match="no answer"):
        answers(Endpoint("http://no-such-host.invalid/v1", "sage", timeout_s=2))


def drip(first: bytes):
    """Sends bytes for ever, one at a time: no single read takes long, the answer never ends."""
    def reply(body, handler, n):
        handler.send_response(200)
        handler.end_headers()
        try:
            handler.wfile.write(first)
            for _ in range(200):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    return reply


def test_a_teacher_that_stalls_does_not_hold_the_quest():
    begun = time.monotonic()
    text, asked = refusal(drip(b'{"choices": ['), timeout_s=0.3)
    assert "not finished after 0 s" in text and asked == 3 and time.monotonic() - begun < 9
    gate = threading.Event()
    text, _ = refusal(lambda *_: gate.wait(2) and None, timeout_s=0.3)
    gate.set()
    assert "ReadTimeout" in text


def test_an_answer_without_end_is_not_read_to_its_end():
    def reply(body, handler, n):
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(2 * MAX_BYTES // 65536 + 2):
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    text, asked = refusal(reply)
    assert f"more than {MAX_BYTES:,} bytes" in text and asked == 1


def test_told_to_stop_it_leaves_at_once_and_keeps_what_came(tmp_path):
    gate = threading.Event()

    def reply(body, handler, n):
        if body["messages"][0]["content"] != "question 0":
            gate.wait(10)
        return 200, {}, said("yes")

    notes = tmp_path / "notes.jsonl"
    with endpoint(reply, timeout_s=20, parallel=2) as (at, seen):
        begun = time.monotonic()
        stop = threading.Timer(0.5, gate.set)
        stop.start()
        assert answers(at, ASK, notes, interrupted=lambda: time.monotonic() - begun > 0.3) is None
        stop.join()
        assert time.monotonic() - begun < 5 and len(seen) < len(ASK)
        first = len(seen)
        assert answers(at, ASK, notes) == [Answer("yes")] * 6
    assert len(seen) <= first + 6 and sum(b["messages"] == ASK[0] for b, _, _ in seen) == 1, "asked nothing twice"


def test_answers_are_noted_and_a_torn_line_is_asked_again(tmp_path):
    notes = tmp_path / "a" / "notes.jsonl"
    with endpoint(lambda body, h, n: (200, {}, said(f"answer {n}"))) as (at, seen):
        first = answers(at, ASK[:3], notes)
        assert answers(at, ASK[:3], notes) == first and len(seen) == 3
        lines = notes.read_bytes().splitlines()
        assert len(lines) == 3 and b"question" not in notes.read_bytes()
        notes.write_bytes(b"\n".join(lines[:2]) + b"\n" + lines[2][:10])
        again = answers(at, ASK[:3], notes)
        assert len(seen) == 4 and sum(a == b for a, b in zip(first, again, strict=True)) == 2
        assert answers(at, ASK[:3], notes) == again and len(seen) == 4, "noted behind the torn line"
    with endpoint(lambda body, h, n: (200, {}, said("other"))) as (elsewhere, _):
        assert answers(elsewhere, ASK[:1], notes) == [Answer("other")], "another teacher is another answer"


@pytest.mark.parametrize("url,says", [
    ("localhost:8000", "no http or https address"), ("file:///etc/passwd", "no http or https address"), ("", "no http"),
    ("http://user:secret@host/v1", "REALM_TEACHER_KEY"), ("http://host/v1?key=secret", "REALM_TEACHER_KEY"),
])  # fmt: skip
def test_addresses_that_are_none(url, says):
    with pytest.raises(TeacherError, match=says) as error:
        Endpoint(url, "m")
    assert "secret" not in str(error.value)
    with pytest.raises(TeacherError, match="no model is named"):
        Endpoint("http://host/v1", " ")


def test_an_address_may_be_written_whole():
    assert Endpoint("http://host/v1/chat/completions", "m").chat == Endpoint("http://host/v1/", "m").chat
