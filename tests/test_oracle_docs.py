"""docs/REMOTE_INFERENCE.md tells the truth: its commands, routes, settings, limits and codes are the program's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from realm.cli.oracle import oracle_app
from realm.oracle import catalog, wire
from realm.oracle.errors import OracleError
from realm.oracle.service import Oracle, create_app
from realm.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/REMOTE_INFERENCE.md").read_text(encoding="utf-8")


def test_commands_and_routes_exist(home):
    commands = {command.name for command in oracle_app.registered_commands}
    assert set(re.findall(r"training oracle (\w+)", PAGE)) == commands
    app = create_app(home)
    routes = {route.path for route in app.routes}
    named = set(re.findall(r"`(?:GET |POST |DELETE )?(/(?:v1|oracle|health)[\w/]*)", PAGE)) - {"/oracle"}
    assert {path.replace("ID", "{name:path}") for path in named} <= routes
    app.state.oracle.close()


def test_settings_names_and_codes_are_the_program_s():
    table = dict(re.findall(r"^\| `((?:port_)?oracle\w*)` \| (\S+) \|", PAGE, re.M))
    fields = {name: str(field.default) for name, field in Settings.model_fields.items() if "oracle" in name}
    assert table == {**{k: v.removesuffix(".0") for k, v in fields.items()}, "oracle_servers": "none"}
    assert all(f"| `{alias}` |" in PAGE for alias in catalog.ALIASES)
    assert f"{wire.BODY_BYTES:,} bytes" in PAGE and f"up\nto {wire.STOPS_AT_MOST})" in PAGE
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "src/realm/oracle").rglob("*.py"))
    for code in re.findall(r"\d{3} `(\w+)`", PAGE):
        assert f'"{code}"' in source, code


def test_who_hangs_up_while_a_model_loads_keeps_no_hold_of_it(home, monkeypatch):
    """The load goes on in its thread; what it brings belongs to nobody and may be unloaded."""
    oracle = Oracle(home)
    held = []
    monkeypatch.setattr(oracle.engine, "acquire", lambda found: held.append(found) or found)
    monkeypatch.setattr(oracle.engine, "release", held.remove)
    stays, goes = oracle.admit(), oracle.admit()
    assert stays.hold("a") == "a"
    goes.release()
    with pytest.raises(OracleError, match="hung up"):
        goes.hold("b")
    assert held == ["a"] and oracle.busy == 1
    stays.release()
    stays.release()
    assert held == [] and oracle.busy == 0
