"""Settings, realm home and doctor: values, rules and next actions in every message."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from realm import cli, db, doctor, events, services
from realm.settings import RealmHome, SettingsError, load_settings, realm_home


def test_an_unknown_key_names_the_nearest(tmp_path):
    (tmp_path / "settings.yaml").write_text("port_tavrn: 1\n")
    with pytest.raises(SettingsError, match="port_tavrn.*did you mean 'port_tavern'"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("text,needle", [("- a\n", "key: value"), ("{", "not valid YAML"), ("port_bin: x", "port_bin")])
def test_a_broken_settings_file_is_named(tmp_path, text, needle):
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(SettingsError, match=needle) as caught:
        load_settings(tmp_path, {})
    assert "settings.yaml" in str(caught.value)


def test_environment_wins_over_file(tmp_path):
    (tmp_path / "settings.yaml").write_text("port_bin: 1234\nport_sy: 1235\n")
    settings = load_settings(tmp_path, {"REALM_PORT_BIN": "4321"})
    assert (settings.port_bin, settings.port_sy, settings.port_tavern) == (4321, 1235, 8888)


def test_services_need_ports_of_their_own(tmp_path):
    with pytest.raises(SettingsError, match="port_tavern and port_bin are both 7777; give") as caught:
        load_settings(tmp_path, {"REALM_PORT_TAVERN": "7777", "REALM_PORT_BIN": "7777", "REALM_TOKEN": "secret"})
    assert "secret" not in str(caught.value)


def test_ports_are_probed_on_the_hosts_own_family(tmp_path):
    assert services.family("127.0.0.1") == services.family("localhost") == socket.AF_INET
    assert services.family("::1") == socket.AF_INET6
    with pytest.raises(SettingsError, match="no-such-host.invalid"):
        services.family("no-such-host.invalid")
    try:
        holder = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        return  # this machine has no IPv6: nothing can be held there
    with holder:
        port = holder.getsockname()[1]
        settings = load_settings(tmp_path, {"REALM_HOST": "::1", "REALM_PORT_BIN": str(port),
                                            "REALM_PORT_TAVERN": "0", "REALM_PORT_STATE": "0",
                                            "REALM_PORT_SY": "0"})  # fmt: skip
        (found,) = services.taken_ports(settings)
        assert found[1] == port and "port_bin" in found[2]


def test_a_wider_host_demands_a_token(tmp_path):
    with pytest.raises(SettingsError, match="0.0.0.0.*token"):
        load_settings(tmp_path, {"REALM_HOST": "0.0.0.0"})
    assert load_settings(tmp_path, {"REALM_HOST": "0.0.0.0", "REALM_TOKEN": "s"}).token == "s"


def test_home_order(tmp_path, monkeypatch):
    assert realm_home({"REALM_HOME": str(tmp_path)}) == tmp_path
    marker = tmp_path / "marker"
    monkeypatch.setattr("realm.settings.home_marker", lambda: marker)
    assert realm_home({}) == Path("~/realm").expanduser()
    marker.write_text(f"{tmp_path / 'elsewhere'}\n")
    assert realm_home({}) == tmp_path / "elsewhere"


def test_write_is_all_or_nothing(engine):
    with pytest.raises(RuntimeError), db.write(engine) as connection:
        events.emit(connection, "mode", "told but not true", mode="rest")
        raise RuntimeError
    with db.read(engine) as connection:
        assert events.last_id(connection) == 0


def test_an_unlisted_event_kind_is_refused(engine):
    with db.write(engine) as connection, pytest.raises(ValueError, match="batle"):
        events.emit(connection, "batle", "typo")


def test_watcher_sees_other_connections_only_when_they_commit(home, engine):
    other = db.connect(home)
    watcher = events.Watcher(engine)
    assert watcher.changed() and not watcher.changed()
    with db.write(other) as connection:
        events.emit(connection, "mode", "x", mode="train")
    assert watcher.changed() and not watcher.changed()
    watcher.close()
    other.dispose()


def test_another_schema_version_is_refused(home):
    made = db.engine(home.database)
    with db.write(made) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    made.dispose()
    for refused in (db.connect, db.migrate):
        with pytest.raises(db.SchemaError, match="schema 9999 is newer.*update the program"):
            refused(home)
    row = next(row for row in doctor.examine(home, fix=True) if row.name == "Database")
    assert row.status == "fail" and row.found == "schema 9999" and "update the program" in row.fix


def test_an_older_schema_names_the_command_that_mends_it(home):
    made = db.engine(home.database)
    with db.write(made) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    made.dispose()
    with pytest.raises(db.SchemaError, match="schema 0000.*doctor --fix"):
        db.connect(home)
    with pytest.raises(db.SchemaError, match=f"schema 0000 cannot be brought to {db.SCHEMA_VERSION}.*backup"):
        db.migrate(home)


def test_a_file_that_is_no_database_is_said_in_words(tmp_path, monkeypatch, capsys):
    home = RealmHome(tmp_path / "spoilt").create()
    home.database.write_bytes(b"not a database at all, " * 100)
    for refused in (db.connect, db.migrate):
        with pytest.raises(db.SchemaError, match="realm.db cannot be read as a database.*backup.*doctor --fix"):
            refused(home)
    row = next(row for row in doctor.examine(home, fix=True) if row.name == "Database")
    assert row.status == "fail" and "backup" in row.fix
    monkeypatch.setenv("REALM_HOME", str(home.root))
    for command in ("status", "start-all"):
        monkeypatch.setattr(sys, "argv", ["training", command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1 and "cannot be read as a database" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["100%", "%(here)s", "a ? b#c"])
def test_a_home_may_have_any_name(tmp_path, name):
    home = RealmHome(tmp_path / name)
    db.migrate(home)
    assert home.database.is_file() and [p.name for p in tmp_path.iterdir()] == [name]
    db.connect(home).dispose()


def test_a_full_database_says_so(home, engine):
    """SQLite has rolled back by itself then: the error told is the first one, and the next transaction works."""
    with pytest.raises(sa.exc.OperationalError, match="database or disk is full"), db.write(engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        for number in range(2000):
            events.emit(connection, "mode", "x" * 4000, mode="rest", number=number)
    with db.write(engine) as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1073741823")
        events.emit(connection, "mode", "y", mode="rest")
    with db.read(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(db.events)).scalar_one() == 1


def test_migration_matches_the_tables(home):
    """The database that Alembic makes has exactly the columns `realm.db` declares."""
    made = db.connect(home)
    inspector = sa.inspect(made)
    for table in db.metadata.sorted_tables:
        assert {c["name"] for c in inspector.get_columns(table.name)} == {c.name for c in table.columns}, table.name
    made.dispose()


def test_doctor_finds_and_fixes(tmp_path):
    home = RealmHome(tmp_path / "fresh", {f"REALM_PORT_{s.name.upper()}": "0" for s in services.SERVICES})
    before = {row.name: row for row in doctor.examine(home)}
    assert before["Database"].status == "fail" and "doctor --fix" in before["Database"].fix
    assert before["Realm home"].status == "fail"
    after = {row.name: row for row in doctor.examine(home, fix=True)}
    assert after["Database"].status == after["Realm home"].status == "ok"
    assert {"Python", "GPU", "RAM", "Disk", "System", "torch"} <= set(after)
    assert after["torch"].found.endswith("build)")


@pytest.mark.parametrize("text,build", [
    ("__version__ = '2.13.0'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", "CPU build"),
    ("__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "CUDA 13.0 build"),
    ("__version__ = '2.13.0'\ncuda = None\nhip = '7.1'\n", "ROCm 7.1 build"), ("", "unknown build"),
])  # fmt: skip
def test_torch_build_needs_no_suffix_in_the_version(tmp_path, monkeypatch, text, build):
    """A wheel of a plain index is just `2.13.0`, whichever build it is."""
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')\n")
    (package / "version.py").write_text(text)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "2.13.0")
    row = doctor._torch()
    assert row.found == f"2.13.0 ({build})" and row.status in ("ok", "warn")


def test_doctor_json_and_exit_code(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("REALM_MIN_FREE_DISK", str(10**18))
    monkeypatch.setattr(sys, "argv", ["training", "doctor", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    data = json.loads(capsys.readouterr().out)
    disk = next(row for row in data["rows"] if row["name"] == "Disk")
    assert data["ok"] is False and disk["status"] == "fail" and "REALM_HOME" in disk["fix"]
