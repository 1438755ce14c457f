"""`training oracle …`: ask checkpoints, compare them, see which there are.

The Oracle service is asked when it runs; else the same application answers inside this command, which loads the model.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, open_db, say, table
from realm.settings import RealmHome

oracle_app = typer.Typer(no_args_is_help=True, help="Ask checkpoints and compare them.")

Temperature = Annotated[float, typer.Option(help="0 is greedy, up to 2.")]
Tokens = Annotated[int | None, typer.Option("--max-tokens", help="Default: as many as the context holds.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
System = Annotated[str, typer.Option(help="System words before the question.")]
Prompt = Annotated[str, typer.Argument(help="The question; - reads it from standard input.")]


@oracle_app.command("models")
def models(as_json: Json = False) -> None:
    """Every name that can be asked: aliases, checkpoints, models of other servers."""

    async def listed() -> dict[str, Any]:
        async with _client() as client:
            return _checked(await client.get("/v1/models"))

    found = asyncio.run(listed())["data"]
    rows = [[m["id"], m.get("of", ""), m.get("hero", m["owned_by"]), m.get("step"), m.get("bytes")] for m in found]
    say(found, as_json, table(rows, ["model", "is", "hero", "step", "bytes"]) if rows else "nothing to ask yet")


@oracle_app.command("ask")
def ask(
    prompt: Prompt, model: Annotated[str, typer.Option(help="`oracle models` names them.")] = "current",
    temperature: Temperature = 0.0, max_tokens: Tokens = None, seed: Seed = None, system: System = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Ask one model and print its answer as it comes."""
    body = _body(prompt, system, temperature, max_tokens, seed) | {"model": model}

    async def whole() -> dict[str, Any]:
        async with _client() as client:
            return _checked(await client.post("/v1/chat/completions", json=body))

    async def streamed() -> None:
        async for chunk in _events("/v1/chat/completions", body | {"stream": True}):
            for choice in chunk.get("choices", ()):
                print(choice["delta"].get("content") or "", end="", flush=True)
        print()

    if as_json:
        print(json.dumps(asyncio.run(whole()), indent=2, ensure_ascii=False))
    else:
        asyncio.run(streamed())


@oracle_app.command("compare")
def compare(
    prompt: Prompt, model: Annotated[list[str], typer.Option("--model", help="Two to four; repeat the option.")],
    temperature: Temperature = 0.0, max_tokens: Tokens = None, seed: Seed = 0, system: System = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Ask two to four models the same and show the answers together; exit code 1 when one of them could not answer."""
    body = _body(prompt, system, temperature, max_tokens, seed) | {"models": model}
    found: dict[str, dict[str, Any]] = {name: {"text": "", "error": None, "usage": None} for name in model}

    async def gathered() -> None:
        async for event in _events("/oracle/compare", body):
            answer = found[event["channel"]]
            if "error" in event:
                answer["error"] = event["error"]["message"]
                continue
            answer["usage"] = event["chunk"].get("usage") or answer["usage"]
            for choice in event["chunk"].get("choices", ()):
                answer["text"] += choice["delta"].get("content") or ""

    asyncio.run(gathered())
    lines = []
    for name, answer in found.items():
        lines += [f"== {name}", answer["text"] if answer["error"] is None else f"error: {answer['error']}"]
    say(found, as_json, "\n".join(lines))
    raise typer.Exit(1 if any(answer["error"] for answer in found.values()) else 0)


def _body(prompt: str, system: str, temperature: float, max_tokens: int | None, seed: int | None) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": sys.stdin.read() if prompt == "-" else prompt})
    made = {"messages": messages, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    return {key: value for key, value in made.items() if value is not None}


@asynccontextmanager
async def _client():
    """A client of the running service, else of the application in this process."""
    import httpx

    from realm import services

    home = RealmHome()
    open_db(home).dispose()
    settings = home.settings
    host = services.reachable_host(settings)
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.port('oracle')}"
    headers = {"authorization": f"Bearer {settings.token}"} if settings.token.isascii() and settings.token else {}
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=None) as client:
        if await _runs(client, home):
            yield client
            return
    from realm.oracle.service import create_app

    app = create_app(home)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
            yield client


async def _runs(client, home: RealmHome) -> bool:
    """Whether the service on the Oracle's port is this realm's; a stranger there is none of ours."""
    import httpx

    try:
        health = await client.get("/health", timeout=5.0)
        return health.status_code == 200 and health.json().get("home") == str(home.root)
    except (httpx.HTTPError, ValueError):
        return False


async def _events(path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async with _client() as client, client.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            await response.aread()
            _checked(response)
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if not line.startswith("data: ") or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event and "channel" not in event:
                raise Refused(event["error"]["message"])
            yield event


def _checked(response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError as error:
        raise Refused(f"the Oracle answers {response.status_code}: {response.text[:300]}") from error
    if response.status_code != 200:
        raise Refused(found["error"]["message"] if "error" in found else str(found))
    return found
