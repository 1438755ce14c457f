"""Who may talk to the realm's pages and API: host allow-list, same-origin writes, token, security headers.

A page of another site must not be able to read or steer training: the Host list stops DNS rebinding, the origin rule
stops cross-site writes, the Content-Security-Policy keeps foreign script out should a name ever be shown unescaped.
"""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

from realm.settings import Settings

SAFE = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
COOKIE = "realm_token"
CSP = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'; style-src-attr 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; worker-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """ASGI middleware around one application of the realm."""

    def __init__(self, app, settings: Settings) -> None:
        self.app = app
        self.token = settings.token
        self.loopback = settings.loopback

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal:
            await _refuse(send, *refusal)
            return
        extra = list(HEADERS)
        if not self.loopback and parse_qs(scope["query_string"].decode("latin-1")).get("token"):
            cookie = f"{COOKIE}={self._cookie()}; Path=/; HttpOnly; SameSite=Strict"
            extra.append((b"set-cookie", cookie.encode("latin-1")))

        async def dressed(message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", [])}
                added = [(name, value) for name, value in extra if name not in present]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, dressed)

    def _refusal(self, scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        """(status, sentence) when the request must not pass."""
        host = headers.get(b"host", "")
        if self.loopback and _name(host) not in LOOPBACK:
            return 421, f"host {host!r} is not this realm's; open http://localhost:{scope['server'][1]}"
        if not self.loopback and not self._knows_token(scope, headers):
            return 401, "this realm is open beyond this machine and asks for its token; add ?token=... once"
        if scope["method"] not in SAFE and not _same_origin(headers, host):
            return 403, "orders are taken from the realm's own pages only, not from another site"
        return None

    def _knows_token(self, scope, headers: dict[bytes, str]) -> bool:
        offered = [headers.get(b"authorization", "").removeprefix("Bearer ")]
        offered += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if any(hmac.compare_digest(value.encode(), self.token.encode()) for value in offered):
            return True
        cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._cookie().encode())

    def _cookie(self) -> str:
        """A token may hold any character, a cookie may not: the cookie is a hash of it."""
        return hashlib.sha256(b"realm cookie " + self.token.encode()).hexdigest()


def _name(host: str) -> str:
    """Host without its port; IPv6 keeps its brackets."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.rsplit(":", 1)[0]


def _same_origin(headers: dict[bytes, str], host: str) -> bool:
    """A browser always says where a write comes from; a client that says nothing is no browser (curl, scripts)."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get(b"origin")
    return origin is None or origin.split("://", 1)[-1] == host


async def _refuse(send, status: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
