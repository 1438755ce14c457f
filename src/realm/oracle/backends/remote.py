"""Answers from another machine: any server with OpenAI's interface (vLLM, llama.cpp, another realm's Oracle), by URL.

    oracle_servers: {big: "http://192.168.1.20:8000/v1"}     (in settings.yaml; none is configured by default)

A model of such a server is asked as `big/<its name there>`; the request goes on as it is, with that name, and so does
the answer. A key, where the server wants one, is read from the environment: REALM_ORACLE_KEY_BIG. No redirects, no
proxies of the environment. Torch-free.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from realm.oracle.errors import OracleError
from realm.settings import RealmHome, nearest

CONNECT_S = 3.0
LIST_S = 3.0
ANSWER_S = 600.0  # without a byte
LIST_BYTES = 4_000_000


def split(home: RealmHome, name: str) -> tuple[str, str] | None:
    """(server, model there) of a name such as `big/qwen`; None for a checkpoint of this realm.

    Raises:
        OracleError: 404, no such server.
    """
    server, slash, model = name.partition("/")
    if not slash:
        return None
    servers = home.settings.oracle_servers
    if server not in servers or not model:
        hint = nearest(server, list(servers)) if servers else "; none is configured (oracle_servers in settings.yaml)"
        raise OracleError(404, f"no server {server[:80]!r} for model {name[:80]!r}{hint}; /v1/models lists what can be "
                          "asked", "model_not_found", "model")  # fmt: skip
    return server, model


def _client(home: RealmHome, server: str, timeout_s: float) -> httpx.AsyncClient:
    key = os.environ.get(f"REALM_ORACLE_KEY_{server.upper().replace('-', '_')}", "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=home.settings.oracle_servers[server].rstrip("/") + "/", headers=headers,
                             timeout=httpx.Timeout(timeout_s, connect=CONNECT_S), trust_env=False)  # fmt: skip


@asynccontextmanager
async def answer(home: RealmHome, server: str, path: str, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
    """The server's answer, its body not read yet; leaving the block hangs up, which ends the writing there.

    Raises:
        OracleError: 502, the server does not answer.
    """
    async with _client(home, server, ANSWER_S) as client:
        try:
            response = await client.send(client.build_request("POST", path, json=body), stream=True)
        except httpx.HTTPError as error:
            raise _lost(home, server, error) from error
        try:
            yield response
        finally:
            await response.aclose()


async def chunks(home: RealmHome, server: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """A streamed chat completion, chunk by chunk.

    Raises:
        OracleError: the server refuses, breaks off or sends what is no chunk.
    """
    async with answer(home, server, "chat/completions", body) as response:
        if response.status_code != 200:
            raise _refused(server, response.status_code, await response.aread())
        try:
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                yield json.loads(data)
        except (httpx.HTTPError, ValueError) as error:
            raise _lost(home, server, error) from error


async def models(home: RealmHome, server: str) -> list[dict[str, Any]]:
    """What the server says it has, under the names it is asked by here; empty when it does not say so in time."""
    try:
        async with _client(home, server, LIST_S) as client, client.stream("GET", "models") as response:
            text = b""
            async for piece in response.aiter_bytes():
                text += piece
                if len(text) > LIST_BYTES:
                    return []
        found = json.loads(text)["data"]
        return [{"id": f"{server}/{entry['id']}", "object": "model", "created": int(entry.get("created") or 0),
                 "owned_by": server} for entry in found if isinstance(entry["id"], str)]  # fmt: skip
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        # A machine that is off is a normal state: its models are not listed, and asking one says why.
        return []


def _lost(home: RealmHome, server: str, error: Exception) -> OracleError:
    return OracleError(502, f"server {server!r} at {home.settings.oracle_servers[server]} does not answer "
                       f"({type(error).__name__}: {error}); start it, or mend oracle_servers in settings.yaml",
                       "server_unreachable", "model")  # fmt: skip


def _refused(server: str, status: int, body: bytes) -> OracleError:
    try:
        found = json.loads(body)["error"]
        said = found["message"] if isinstance(found, dict) else str(found)
    except (ValueError, KeyError, TypeError):
        said = body[:300].decode("utf-8", "replace")
    return OracleError(status if 400 <= status < 600 else 502, f"server {server!r} answers {status}: {said[:1000]}",
                       "server_refused", "model")  # fmt: skip
