"""Programs that others wrote work against the Oracle unchanged: the official `openai` client, and what lm-eval sends.

The bodies of lm-eval 0.4.13 are recorded here (`local-chat-completions` and `local-completions`); the program itself is
too heavy for the tests and was run by hand (docs/REMOTE_INFERENCE.md says how).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import oracle_kit as kit
import pytest

from realm import db
from realm.settings import RealmHome

TEXT = "add 3, 4 = 7\ncheck 7"


@pytest.fixture(scope="module")
def realm(tmp_path_factory):
    home = RealmHome(tmp_path_factory.mktemp("clients") / "realm", environ={}).create()
    db.migrate(home)
    engine = db.connect(home)
    made = kit.populated(home, engine)
    made.taught = kit.checkpoint(home, engine, made.ids, made.profile, 200, answers=TEXT)
    with kit.serving(home) as (url, oracle):
        made.url, made.oracle, made.home = url, oracle, home
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as made.client:
            yield made
    engine.dispose()


def test_openai_models(realm):
    assert {m.id for m in realm.client.models.list()} == {"current", "base", realm.first, realm.second, realm.taught}
    assert realm.client.models.retrieve("current").id == "current"


def test_openai_chat(realm):
    answer = realm.client.chat.completions.create(
        model="current", messages=kit.ASK, temperature=0, max_completion_tokens=60, logprobs=True, top_logprobs=2,
        stop=["never"], seed=1, user="me",
    )  # fmt: skip
    choice = answer.choices[0]
    assert choice.message.content == TEXT and choice.message.role == "assistant" and choice.finish_reason == "stop"
    told = choice.logprobs.content
    assert "".join(t.token for t in told) == TEXT and len(told[0].top_logprobs) == 2
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint == realm.taught


def test_openai_streams(realm):
    text, usage = "", None
    for chunk in realm.client.chat.completions.create(model="current", messages=kit.ASK, temperature=0, stream=True,
                                                      stream_options={"include_usage": True}):  # fmt: skip
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text == TEXT and usage.completion_tokens > 5
    helper = ""
    with realm.client.chat.completions.stream(model="current", messages=kit.ASK, temperature=0) as events:
        for event in events:
            helper += event.delta if event.type == "content.delta" else ""
    assert helper == TEXT


def test_openai_completions_and_errors(realm):
    answer = realm.client.completions.create(model="current", prompt=["yes", "no"], max_tokens=3, echo=True, logprobs=1)
    assert [c.text[:2] for c in answer.choices] == ["ye", "no"] and answer.choices[0].logprobs.token_logprobs[0] is None
    with pytest.raises(openai.NotFoundError) as missing:
        realm.client.chat.completions.create(model="gpt-4o", messages=kit.ASK)
    assert missing.value.code == "model_not_found" and realm.first in missing.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        realm.client.chat.completions.create(model="current", messages=kit.ASK, temperature=5)
    assert wrong.value.param == "temperature"


def test_openai_async_client_hangs_up(realm):
    async def first_piece() -> str:
        async with openai.AsyncOpenAI(base_url=f"{realm.url}/v1", api_key="any") as client:
            stream = await client.chat.completions.create(model=realm.first, messages=kit.ASK, stream=True)
            async with stream:
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        return chunk.choices[0].delta.content

    # In a thread of its own: a browser driver of other tests may have a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, first_piece()).result(60)
    kit.until(lambda: realm.oracle.busy == 0, "the writing ended")


def test_lm_eval_s_chat_body(realm):
    body = {"messages": [{"role": "user", "content": kit.ASK[0]["content"]}], "model": "current", "max_tokens": 60,
            "temperature": 0, "stop": ["Q:", "\n\n", "<|im_end|>"], "seed": 1234}  # fmt: skip
    answer = httpx.post(f"{realm.url}/v1/chat/completions", json=body, headers={"Authorization": "Bearer x"}).json()
    assert answer["choices"][0]["message"]["content"] == TEXT


def test_lm_eval_s_loglikelihood_body(realm):
    """Its sums: the continuation's log probabilities are those after the context's tokens, without the written one."""
    body = {"model": "current", "prompt": [[5, 6, 7, 8], [5, 6, 7]], "temperature": 0, "max_tokens": 1, "logprobs": 1,
            "seed": 1234, "echo": True}  # fmt: skip
    answer = httpx.post(f"{realm.url}/v1/completions", json=body).json()
    for choice, tokens, context in zip(answer["choices"], body["prompt"], (2, 1), strict=True):
        told = choice["logprobs"]
        assert len(told["token_logprobs"]) == len(tokens) + 1
        assert all(lp < 0 for lp in told["token_logprobs"][context:-1])
        greedy = [lp == max(top.values()) for lp, top in
                  zip(told["token_logprobs"][context:-1], told["top_logprobs"][context:-1], strict=True)]  # fmt: skip
        assert len(greedy) == len(tokens) - context


# --- a second machine


@pytest.fixture
def here(tmp_path, realm):
    """A realm whose Oracle knows the other one as a server: `url`, `oracle`."""
    home = RealmHome(tmp_path / "here", environ={}).create()
    (home.root / "settings.yaml").write_text(f'oracle_servers: {{big: "{realm.url}/v1", gone: "http://127.0.0.1:9/v1"}}')
    home = RealmHome(home.root, environ={})
    db.migrate(home)
    with kit.serving(home) as (url, oracle):
        yield type("Here", (), {"url": url, "oracle": oracle})


def test_another_server_s_models_answer_under_its_name(here, realm):
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key="any", max_retries=0) as client:
        assert f"big/{realm.taught}" in {m.id for m in client.models.list()}
        ask = {"messages": kit.ASK, "temperature": 0, "max_tokens": 60}
        assert client.chat.completions.create(model="big/current", **ask).choices[0].message.content == TEXT
        pieces = client.chat.completions.create(model=f"big/{realm.taught}", stream=True, **ask)
        assert "".join(c.choices[0].delta.content or "" for c in pieces if c.choices) == TEXT
        with pytest.raises(openai.NotFoundError, match=realm.first):
            client.chat.completions.create(model="big/nobody", **ask)
        with pytest.raises(openai.NotFoundError, match="did you mean 'big'"):
            client.chat.completions.create(model="bigg/current", **ask)
        with pytest.raises(openai.APIStatusError, match="does not answer") as gone:
            client.chat.completions.create(model="gone/x", **ask)
        assert gone.value.status_code == 502
    body = {"models": ["base", "big/current", "gone/x"], **ask}
    with httpx.stream("POST", f"{here.url}/oracle/compare", json=body, timeout=60) as answer:
        found = kit.events(answer)[:-1]
    texts = {name: "" for name in body["models"]}
    for event in found:
        for choice in event.get("chunk", {}).get("choices", ()):
            texts[event["channel"]] += choice["delta"].get("content") or ""
    assert texts["big/current"] == TEXT and texts["base"]
    assert [e["channel"] for e in found if "error" in e] == ["gone/x"]
    kit.until(lambda: here.oracle.busy == 0 and realm.oracle.busy == 0, "both are free again")


def test_hanging_up_here_ends_the_writing_there(here, realm):
    body = {"model": f"big/{realm.first}", "messages": kit.ASK, "stream": True, "n": 16, "temperature": 1.0}
    with httpx.stream("POST", f"{here.url}/v1/chat/completions", json=body, timeout=60) as answer:
        next(answer.iter_lines())
        assert realm.oracle.busy == 1
    kit.until(lambda: here.oracle.busy == 0 and realm.oracle.busy == 0, "both are free again")
