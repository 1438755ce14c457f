"""Shared fixtures: every test has a realm home of its own, and CI turns skips into failures."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from realm import db
from realm.settings import RealmHome

# Time limits on single examples fail on a busy machine and say nothing about the code.
settings.register_profile("realm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("realm")


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """No test may touch a person's realm: HOME and REALM_HOME are temporary folders."""
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("REALM_HOME", str(tmp_path / "realm"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def ray_alone():
    """One cluster at a time: two that start together on two cores keep each other waiting for minutes."""
    with FileLock(Path(tempfile.gettempdir()) / "realm-tests-ray.lock"):
        yield


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory):
    """A migrated database, made once: Alembic takes 0.8 s, a copy of the file none."""
    made = RealmHome(tmp_path_factory.mktemp("migrated"), environ={})
    db.migrate(made)
    assert not made.database.with_name("realm.db-wal").exists(), "everything is in the one file that is copied"
    return made.database


@pytest.fixture
def home(tmp_path, _empty_database) -> RealmHome:
    """A fresh realm home with folders and database."""
    made = RealmHome(tmp_path / "realm").create()
    shutil.copyfile(_empty_database, made.database)
    return made


@pytest.fixture
def engine(home):
    made = db.connect(home)
    yield made
    made.dispose()


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("quest", "list")` → (exit code, standard output, standard error); a traceback fails the test."""
    from realm import cli

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["training", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("REALM_NO_SKIP") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although REALM_NO_SKIP is set: {report.longrepr}"
