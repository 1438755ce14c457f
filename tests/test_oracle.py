"""The Oracle service against real checkpoints over real HTTP: names, answers, streams, refusals, hostile clients."""

from __future__ import annotations

import json
import socket
import threading

import httpx
import oracle_kit as kit
import pytest

from realm import db
from realm.oracle import wire
from realm.settings import RealmHome


@pytest.fixture(scope="module")
def realm(tmp_path_factory):
    """One served realm for the tests that leave no trace: `url`, `client`, `oracle`, `first`, `second`, `home`."""
    home = RealmHome(tmp_path_factory.mktemp("oracle") / "realm", environ={}).create()
    db.migrate(home)
    engine = db.connect(home)
    made = kit.populated(home, engine)
    made.taught = kit.checkpoint(home, engine, made.ids, made.profile, 200, answers="add 3, 4 = 7\ncheck 7 <b>")
    with kit.serving(home) as (url, oracle), httpx.Client(base_url=url, timeout=60) as client:
        made.home, made.engine, made.url, made.oracle, made.client = home, engine, url, oracle, client
        yield made
    engine.dispose()


def chat(realm, model="current", check=200, **more):
    answer = realm.client.post("/v1/chat/completions", json={"model": model, "messages": kit.ASK, "temperature": 0,
                                                             "max_tokens": 12, **more})  # fmt: skip
    assert answer.status_code == check, answer.text
    return answer.json()


def complete(realm, check=200, **more):
    answer = realm.client.post("/v1/completions", json={"model": "current", "temperature": 0, **more})
    assert answer.status_code == check, answer.text
    return answer.json()


def said(answer) -> list[str]:
    return [choice["message"]["content"] for choice in answer["choices"]]


# --- names


def test_models_lists_aliases_and_checkpoints(realm):
    found = {m["id"]: m for m in realm.client.get("/v1/models").json()["data"]}
    assert set(found) == {"current", "base", realm.first, realm.second, realm.taught}
    assert found["current"]["of"] == realm.taught and found["current"]["step"] == 200
    assert realm.client.get(f"/v1/models/{realm.first}").json()["step"] == 10
    assert chat(realm)["system_fingerprint"] == realm.taught, "the answer names the weights behind an alias"


@pytest.mark.parametrize("name", ["champion", "nobody", "../../etc/passwd", "x" * 5000, "vault/pip"])
def test_a_name_that_is_not_there_lists_what_is(realm, name):
    error = chat(realm, name, check=404)["error"]
    assert error["code"] == "model_not_found" and error["param"] == "model" and len(error["message"]) < 900
    if "/" not in name:
        assert realm.first in error["message"] and "current" in error["message"]


def test_checkpoints_answer_differently_and_repeatably(realm):
    by_name = {name: said(chat(realm, name)) for name in ("base", realm.first, realm.second)}
    assert len({str(v) for v in by_name.values()}) == 3
    assert said(chat(realm, realm.first)) == by_name[realm.first]


# --- answers


def test_greedy_chat_is_the_trial_s_answer(realm):
    from realm.heroes.model import Hero

    with db.read(realm.engine) as connection:
        path = connection.execute(db.checkpoints.select().where(db.checkpoints.c.id == realm.first)).mappings().one()
    hero = Hero.load(realm.profile, realm.home.root / path["path"])
    text, written = hero.answer([kit.ASK], 12)[0]
    answer = chat(realm, realm.first)
    assert said(answer) == [text] and answer["usage"]["completion_tokens"] == written
    assert answer["choices"][0]["finish_reason"] == "length"


def test_stop_token_and_stop_words(realm):
    whole = chat(realm, realm.taught, max_tokens=60)
    assert said(whole) == ["add 3, 4 = 7\ncheck 7 <b>"] and whole["choices"][0]["finish_reason"] == "stop"
    cut = chat(realm, realm.taught, max_tokens=60, stop=["never", "check"])
    assert said(cut) == ["add 3, 4 = 7\n"] and cut["choices"][0]["finish_reason"] == "stop"
    assert said(chat(realm, realm.taught, max_tokens=60, stop="add")) == [""]


def test_a_stream_tells_the_same_as_the_whole(realm):
    for stop in (None, "= 7"):
        body = {"model": realm.taught, "messages": kit.ASK, "temperature": 0, "max_tokens": 60, "stop": stop,
                "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
        with realm.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            found = kit.events(answer)
        *chunks, usage, done = found
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
        whole = chat(realm, realm.taught, max_tokens=60, stop=stop)
        assert [text] == said(whole) and done == "[DONE]" and usage["usage"] == whole["usage"]
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]


def test_seeds_temperature_and_n(realm):
    hot = {"temperature": 1.0, "n": 4, "max_tokens": 16}
    one, two = said(chat(realm, realm.first, seed=5, **hot)), said(chat(realm, realm.first, seed=5, **hot))
    assert one == two and len(set(one)) == 4, "same seed, same answers; each of the n its own"
    assert said(chat(realm, realm.first, seed=6, **hot)) != one
    alone = said(chat(realm, realm.first, seed=5, temperature=1.0, max_tokens=16))
    assert alone == one[:1], "n does not change the first"
    assert len({str(said(chat(realm, realm.first, temperature=1.0, max_tokens=16))) for _ in range(3)}) > 1
    nucleus = said(chat(realm, realm.first, temperature=1.5, top_p=1e-6, seed=1))
    assert nucleus == said(chat(realm, realm.first)), "a nucleus of one is greedy"


def test_logprobs_of_a_chat(realm):
    answer = chat(realm, realm.taught, max_tokens=60, logprobs=True, top_logprobs=3)
    told = answer["choices"][0]["logprobs"]["content"]
    assert "".join(t["token"] for t in told) == said(answer)[0] and len(told) == answer["usage"]["completion_tokens"]
    for token in told:
        best = token["top_logprobs"]
        assert len(best) == 3 and best[0]["logprob"] == token["logprob"] >= best[1]["logprob"], "greedy takes the best"
        assert bytes(token["bytes"]).decode() == token["token"]
    assert chat(realm)["choices"][0]["logprobs"] is None


def test_echo_scores_the_prompt_as_the_model_does(realm):
    """What lm-eval's loglikelihood reads: the sums of the prompt's own log probabilities."""
    import torch

    from realm.heroes.model import Hero

    with db.read(realm.engine) as connection:
        path = connection.execute(db.checkpoints.select().where(db.checkpoints.c.id == realm.taught)).mappings().one()
    hero = Hero.load(realm.profile, realm.home.root / path["path"])
    prompts = ["Compute: add(3, 4)", "yes no", "hello world, what is this? 0123456789"]
    answer = complete(realm, prompt=prompts, max_tokens=1, echo=True, logprobs=2, seed=1234)
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        ids = hero.tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            logs = hero.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        told = choice["logprobs"]
        assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
        own = [logs[k, token].item() for k, token in enumerate(ids[1:])]
        assert told["token_logprobs"][1:-1] == pytest.approx(own, abs=1e-4)
        assert max(told["top_logprobs"][-1].values()) == told["token_logprobs"][-1], "the written one is greedy"
        assert choice["text"].startswith(prompt) and "".join(told["tokens"]) == choice["text"]
        assert told["text_offset"] == [sum(map(len, told["tokens"][:k])) for k in range(len(told["tokens"]))]
    ids = hero.tokenizer(prompts[0])["input_ids"]
    only = complete(realm, prompt=[ids], max_tokens=0, echo=True, logprobs=0)["choices"][0]
    assert only["text"] == prompts[0] and len(only["logprobs"]["tokens"]) == len(ids)
    streamed = realm.client.post("/v1/completions", json={"model": "current", "prompt": prompts[0], "max_tokens": 3,
                                                          "temperature": 0, "echo": True, "stream": True})  # fmt: skip
    text = "".join(c["choices"][0]["text"] for c in kit.events(streamed)[:-1])
    assert text == complete(realm, prompt=prompts[0], max_tokens=3, echo=True)["choices"][0]["text"]


def test_many_prompts_at_once_are_the_single_answers(realm):
    prompts = ["yes", "no, the answer is 12", "Compute: add(3, 4)", "0123"]
    together = complete(realm, prompt=prompts, max_tokens=9, n=2)["choices"]
    assert [c["index"] for c in together] == list(range(8))
    for k, prompt in enumerate(prompts):
        alone = complete(realm, prompt=prompt, max_tokens=9)["choices"][0]["text"]
        assert together[2 * k]["text"] == together[2 * k + 1]["text"] == alone


# --- comparing


def test_compare_streams_a_channel_for_each(realm):
    body = {"models": ["base", realm.first, realm.taught], "messages": kit.ASK, "temperature": 0, "max_tokens": 40}
    with realm.client.stream("POST", "/oracle/compare", json=body) as answer:
        *found, done = kit.events(answer)
    texts = {name: "" for name in body["models"]}
    for event in found:
        for choice in event["chunk"]["choices"]:
            texts[event["channel"]] += choice["delta"].get("content") or ""
    assert done == "[DONE]" and texts == {n: said(chat(realm, n, max_tokens=40))[0] for n in texts}
    for models in (["base"], ["base", "base"], ["base"] * 5):
        assert realm.client.post("/oracle/compare", json={**body, "models": models}).status_code == 400
    assert realm.client.post("/oracle/compare", json={**body, "models": ["base", "nobody"]}).status_code == 404
    assert realm.oracle.busy == 0


# --- refusals


@pytest.mark.parametrize(("change", "words"), [
    ({"mesages": []}, "'messages'"), ({"temperature": 3}, "temperature = 3"), ({"temperature": "hot"}, "temperature"),
    ({"n": 0}, "n = 0"), ({"n": 1000}, "n = 1000"), ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "role = 'wizard'"),
    ({"messages": [{"role": "user", "content": None}]}, "content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}]}, "image_url"),
    ({"messages": [{"role": "user", "content": "a <|im_end|> b"}]}, "control token"),
    ({"max_tokens": 0}, "at least one"), ({"max_tokens": 5000}, "context holds"), ({"top_p": 0}, "top_p"),
    ({"tools": [{"type": "function"}]}, "tools"), ({"presence_penalty": 1.0}, "presence_penalty"),
    ({"logit_bias": {"5": 100}}, "logit_bias"), ({"stop": [""]}, "stop"), ({"stop": ["a"] * 20}, "stop"),
    ({"top_logprobs": 2}, "needs logprobs"), ({"seed": 2**70}, "seed"), ({"model": 7}, "model"),
    ({"model": ""}, "model"),
])  # fmt: skip
def test_wrong_requests_are_named(realm, change, words):
    error = chat(realm, check=400, **change)["error"]
    assert words in error["message"] and error["type"] == "invalid_request_error" and len(error["message"]) < 2000


@pytest.mark.parametrize(("change", "words"), [
    ({}, "prompt is missing"), ({"prompt": ""}, "empty"), ({"prompt": []}, "prompt"),
    ({"prompt": [[10**9]]}, "vocabulary"),
    ({"prompt": [-1]}, "prompt"), ({"prompt": ["x"] * 200}, "prompt"), ({"prompt": ["x"] * 100, "n": 2}, "128"),
    ({"prompt": "x", "best_of": 3}, "best_of"), ({"prompt": "x", "suffix": "y"}, "suffix"),
    ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
])  # fmt: skip
def test_wrong_completions_are_named(realm, change, words):
    assert words in complete(realm, check=400, **change)["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000,
                                  b'{"a":' * 50_000 + b"1" + b"}" * 50_000])  # fmt: skip
def test_bad_json_is_refused(realm, body):
    answer = realm.client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["code"] in ("invalid_json", "invalid_value")


def test_a_huge_body_is_cut_off(realm):
    def forever():
        for _ in range(100):
            yield b" " * 1_000_000

    answer = realm.client.post("/v1/chat/completions", content=forever())
    assert answer.status_code == 413 and f"{wire.BODY_BYTES:,}" in answer.json()["error"]["message"]


def test_guard_and_unknown_addresses(realm):
    assert realm.client.get("/v1/models", headers={"host": "evil.example"}).status_code == 421
    foreign = realm.client.post("/v1/completions", json={}, headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403
    missing = realm.client.get("/v1/embeddings")
    assert missing.status_code == 404 and "/v1/chat/completions" in missing.json()["error"]["message"]
    assert realm.client.get("/v1/chat/completions").status_code == 405


# --- hostile clients


def _raw(realm, body: dict) -> socket.socket:
    data = json.dumps(body).encode()
    host, port = realm.url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)))
    made.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                 b"content-length: %d\r\n\r\n%s" % (len(data), data))
    return made


def _writing(realm) -> bool:
    return any(not row.over for generation in realm.oracle.engine._running for row in generation.rows)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_stops_the_writing(realm, stream):
    """The answer would take a thousand tokens; the place in the queue, the rows and the model are given back."""
    body = {"model": realm.first, "messages": kit.ASK, "stream": stream, "n": 16, "temperature": 1.0}
    made = _raw(realm, body)
    kit.until(lambda: _writing(realm), "the answer has begun")
    if stream:
        assert b"data: " in made.recv(4000) + made.recv(4000)
    made.close()
    kit.until(lambda: realm.oracle.busy == 0 and not _writing(realm), "everything is given back")
    assert all(entry["users"] == 0 for entry in realm.oracle.engine.status())


def test_more_than_the_queue_holds_are_told_to_come_back(realm):
    object.__setattr__(realm.home, "settings", realm.home.settings.model_copy(update={"oracle_queue": 2}))
    try:
        busy = [_raw(realm, {"model": realm.first, "messages": kit.ASK, "n": 16, "stream": True}) for _ in range(2)]
        kit.until(lambda: realm.oracle.busy == 2, "both are taken")
        refused = realm.client.post("/v1/chat/completions", json={"model": realm.first, "messages": kit.ASK})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        for each in busy:
            each.close()
        kit.until(lambda: realm.oracle.busy == 0, "both gave their place back")
        chat(realm)
    finally:
        object.__setattr__(realm.home, "settings", realm.home.settings.model_copy(update={"oracle_queue": 64}))


def test_many_at_once_all_get_their_own_answer(realm):
    prompts = [[{"role": "user", "content": f"Compute: add({k}, {k % 3})"}] for k in range(24)]
    alone = [said(chat(realm, realm.first, messages=p))[0] for p in prompts]
    found = [""] * len(prompts)

    def one(k: int) -> None:
        with httpx.Client(base_url=realm.url, timeout=60) as client:
            body = {"model": realm.first, "messages": prompts[k], "temperature": 0, "max_tokens": 12}
            found[k] = said(client.post("/v1/chat/completions", json=body).json())[0]

    threads = [threading.Thread(target=one, args=(k,)) for k in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone and realm.oracle.busy == 0


def test_a_new_question_does_not_wait_for_a_long_one(realm):
    """A thousand tokens are being written; the short answer comes before they are done."""
    body = {"model": realm.first, "messages": kit.ASK, "n": 16, "temperature": 1.0}
    long = _raw(realm, body)
    kit.until(lambda: _writing(realm), "the long one has begun")
    assert said(chat(realm, realm.second, max_tokens=3))
    assert _writing(realm), "the long one is still under way"
    long.close()
    kit.until(lambda: realm.oracle.busy == 0, "given back")
