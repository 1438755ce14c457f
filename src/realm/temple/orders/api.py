"""Order of the API: every documented route of every service answers to its own schema.

Documents are the services' OpenAPI. Reads are made for real; of what changes something only the address is tried (a
GET on it must be 405), except that skills are asked to make and to mark a problem. A service that does not run is
asked in this process, where its application is at hand, and warns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from realm import services
from realm.temple.orders.check import Asked, Check, Order
from realm.temple.orders.weaver import START

if TYPE_CHECKING:  # 0.3 s of imports that the hero loop, which only asks other orders, does without
    import httpx

DOCUMENTS = ("/openapi.json", "/api/openapi.json")
TIMEOUT_S = 20.0
# What to put for a parameter, by its name; others get a word that nothing is called, and may answer 404 or 422.
KNOWN: Mapping[str, Any] = {"level": 1, "battle_id": "current", "count": 2, "limit": 2}
MAKE = {"level": 1, "count": 1, "seed": 1, "split": "public"}

Ask = Callable[..., "httpx.Response"]


def _routes(asked: Asked) -> Iterator[Check]:
    import httpx

    headers = {"Authorization": f"Bearer {asked.home.settings.token}"} if asked.home.settings.token else {}
    for service in services.SERVICES:
        port = asked.home.settings.port(service.name)
        host = services.reachable_host(asked.home.settings)
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        named = {**headers, "Host": f"localhost:{port}"}
        try:
            with httpx.Client(base_url=base, headers=named, timeout=TIMEOUT_S, trust_env=False) as client:
                yield _service(service, _over_http(client), True)
        except httpx.TransportError as error:
            yield _asleep(asked, service, headers, f"{type(error).__name__}: {error}" if str(error) else repr(error))


def _asleep(asked: Asked, service: services.Service, headers: Mapping[str, str], why: str) -> Check:
    """A service that gives no answer: asked in this process, which is at best a warning."""
    name = f"routes of {service.name}"
    if not asked.apps or service.name not in asked.apps:
        return Check(name, "warn", f"{service.title} does not answer ({why})", START)
    app = asked.apps[service.name](asked.home)
    try:
        found = _service(service, _in_process(app, headers), False)
    finally:
        close = getattr(getattr(app.state, "hub", None), "close", None)
        if close:
            close()
    if found.status == "fail":
        return found
    return Check(name, "warn", f"{service.title} does not answer ({why}); in this process {found.details}", START)


def _over_http(client: httpx.Client) -> Ask:
    def ask(method: str, path: str, **options: Any) -> httpx.Response:
        with client.stream(method, path, **options) as answer:
            if "json" in answer.headers.get("content-type", ""):
                answer.read()
            else:
                next(answer.iter_raw(), b"")  # the first piece: an event stream never ends
            return answer

    return ask


def _in_process(app: Any, headers: Mapping[str, str]) -> Ask:
    import httpx

    def ask(method: str, path: str, **options: Any) -> httpx.Response:
        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
                return await client.request(method, path, **options)

        return asyncio.run(one())

    return ask


def _service(service: services.Service, ask: Ask, streams: bool) -> Check:
    name = f"routes of {service.name}"
    document = next((a.json() for path in DOCUMENTS if (a := ask("GET", path)).status_code == 200), None)
    if document is None:
        status = ask("GET", "/").status_code
        if status >= 500:
            return Check(name, "fail", f"/ answers {status}", START)
        return Check(name, "ok", f"answers ({status} at /); it publishes no schema to hold it to")
    faults, count = [], 0
    for path, operations in document["paths"].items():
        if path.endswith("/stream") and not streams:
            continue
        faults += [f"{path}: {fault}" for fault in _route(ask, document, path, operations)]
        count += 1
    if faults:
        more = f" (+{len(faults) - 3} more)" if len(faults) > 3 else ""
        return Check(name, "fail", "; ".join(faults[:3]) + more, "read the end of its log in logs/; install this "
                     f"program again if it stays, then {START}")  # fmt: skip
    return Check(name, "ok", f"{count} routes answer to their schema")


def _route(ask: Ask, document: Mapping[str, Any], path: str, operations: Mapping[str, Any]) -> Iterator[str]:
    if "get" in operations:
        yield from _read(ask, document, path, operations["get"])
    elif path == "/generate":
        yield from _judge(document, operations["post"], ask("POST", path, json=MAKE), False)
    elif path == "/grade":
        problem = ask("POST", "/generate", json=MAKE).json()["samples"][0]
        body = {"problem": problem, "response": problem["golden"]}
        yield from _judge(document, operations["post"], ask("POST", path, json=body), False)
    else:
        filled, _guessed = _fill(path, next(iter(operations.values())), document)
        status = ask("GET", filled).status_code
        if status != 405:
            yield f"GET on an order answers {status} instead of 405"


def _read(ask: Ask, document: Mapping[str, Any], path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    filled, guessed = _fill(path, operation, document)
    query = {p["name"]: _value(p, document)[0] for p in operation.get("parameters", ())
             if p["in"] == "query" and p.get("required")}  # fmt: skip
    guessed |= any(_value(p, document)[1] for p in operation.get("parameters", ()) if p["name"] in query)
    yield from _judge(document, operation, ask("GET", filled, params=query), guessed)


def _fill(path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[str, bool]:
    """(the path with its parameters filled in, whether one of them is a guess)."""
    guessed = False
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            value, guess = _value(parameter, document)
            guessed |= guess
            path = path.replace(f"{{{parameter['name']}}}", quote(str(value), safe=""))
    return path, guessed


def _value(parameter: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[Any, bool]:
    """(a value for a parameter, whether it is a guess)."""
    schema = parameter.get("schema", {})
    if "enum" in schema:
        return schema["enum"][0], False
    # What is called "current" may not be there yet, so even that may answer 404.
    if parameter["name"] in KNOWN:
        return KNOWN[parameter["name"]], isinstance(KNOWN[parameter["name"]], str)
    return (1 if schema.get("type") in ("integer", "number") else "no-such-thing"), True


def _judge(
    document: Mapping[str, Any], operation: Mapping[str, Any], answer: httpx.Response, guessed: bool
) -> Iterator[str]:  # fmt: skip
    """What is wrong with an answer, by the document."""
    from jsonschema import Draft202012Validator

    status = answer.status_code
    if guessed and 400 <= status < 500:
        if "json" not in answer.headers.get("content-type", ""):
            yield f"refuses with {status} and no JSON"
        return
    described = operation["responses"].get(str(status))
    if described is None or status >= 400:
        yield f"answers {status}"
        return
    schema = described.get("content", {}).get("application/json", {}).get("schema")
    if not schema or "json" not in answer.headers.get("content-type", ""):
        return
    whole = {"components": document.get("components", {}), **schema}
    for error in list(Draft202012Validator(whole).iter_errors(answer.json()))[:1]:
        yield f"{'/'.join(map(str, error.absolute_path)) or 'the answer'}: {error.message[:160]}"


API = Order("api", "API", "every documented route answers to its schema", False, (_routes,))
