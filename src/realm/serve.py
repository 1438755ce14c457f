"""Runs services: one uvicorn server, one socket per service, a small dispatcher by port (contracts A5).

`python3 -m training serve tavern vault state sy bin` runs the named ones here; `serve arena` runs the hero loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial

from realm import services
from realm.settings import RealmHome


def _tavern(home: RealmHome):
    from realm.tavern.app import create_app

    return create_app(home)


def _state(home: RealmHome):
    from realm.state.router import create_state_app

    return create_state_app(home)


def _vault(home: RealmHome):
    from realm.state import orders
    from realm.state.guard import Guard
    from realm.vault.keeper import create_app

    app = create_app(home, orders.give)
    app.add_middleware(Guard, settings=home.settings)
    return app


def _skill(skill_id: str, home: RealmHome):
    from realm.guild.skills import get_skill
    from realm.guild.skills.server import create_app
    from realm.state.guard import Guard

    app = create_app(get_skill(skill_id))
    app.add_middleware(Guard, settings=home.settings)
    return app


def _oracle(home: RealmHome):
    from realm.oracle.service import create_app
    from realm.state.guard import Guard

    app = create_app(home)
    app.add_middleware(Guard, settings=home.settings)
    return app


APPS: dict[str, Callable] = {"tavern": _tavern, "vault": _vault, "state": _state, "sy": partial(_skill, "sy"),
                             "bin": partial(_skill, "bin"), "oracle": _oracle}


class PortDispatcher:
    """ASGI application that hands each request to the application of the port it came in on.

    Args:
        apps: ASGI application by TCP port.
    """

    def __init__(self, apps: dict[int, Callable]) -> None:
        self.apps = apps

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await self.apps[scope["server"][1]](scope, receive, send)

    async def _lifespan(self, receive, send) -> None:
        """One lifespan for all applications: each one's own start-up and shut-down run inside it."""
        await receive()
        try:
            async with contextlib.AsyncExitStack() as stack:
                for app in {id(app): app for app in self.apps.values()}.values():
                    await stack.enter_async_context(app.router.lifespan_context(app))
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            raise
        await send({"type": "lifespan.shutdown.complete"})


def bind(host: str, port: int, service: services.Service) -> socket.socket:
    """Listening TCP socket.

    Raises:
        OSError: the port is taken; the message names service, port and the setting that moves it.
    """
    made = socket.socket(services.family(host), socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise OSError(error.errno, services.port_message(service, port, error.strerror or str(error))) from error
    made.set_inheritable(True)
    return made


def serve(home: RealmHome, names: list[str]) -> None:
    """Serve the named services until SIGTERM or SIGINT; blocks. Under the supervisor the process leaves its note.

    Raises:
        SettingsError: `host` has no address.
        OSError: a port is taken.
        KeyError: a name that is no service.
    """
    import uvicorn

    from realm.guild.skills import attach

    attach(home.root)
    chosen = [services.by_name(name) for name in names]
    settings = home.settings
    sockets = [bind(settings.host, settings.port(service.name), service) for service in chosen]
    if services.supervised():
        # Only now: whoever comes second must not take the note of the one who holds the ports.
        for process in {service.process for service in chosen}:
            services.leave_note(home, process)
    apps = {
        bound.getsockname()[1]: APPS[service.name](home) for service, bound in zip(chosen, sockets, strict=True)
    }
    config = uvicorn.Config(
        PortDispatcher(apps), lifespan="on", log_level=settings.log_level.lower(), access_log=False,
        timeout_graceful_shutdown=2,  # event streams never end by themselves
    )  # fmt: skip
    server = uvicorn.Server(config)
    asyncio.run(server.serve(sockets=sockets))
