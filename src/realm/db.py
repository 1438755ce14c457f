"""The one database of a realm home: SQLite in WAL mode through SQLAlchemy Core (no ORM).

Who writes which table is fixed (contracts A1) and noted at each table. `connect(home)` opens it and refuses another
schema version; `migrate(home)` brings it up to date and is called only by `start-all` and `doctor --fix`.
Times are Unix seconds (float); ids are ULIDs unless said otherwise; `JSON` columns hold plain JSON.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from ulid import ULID

from realm.settings import RealmHome

SCHEMA_VERSION = "0004"
BUSY_TIMEOUT_S = 30.0  # notes/feasibility: worst transaction 0.4-0.9 s with several writers

metadata = sa.MetaData()


def _id() -> sa.Column:
    return sa.Column("id", sa.String(26), primary_key=True)


# Event log. Written by whoever writes the fact, in the same transaction. Rising integer ids, never reused.
events = sa.Table(
    "events", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("t", sa.Float, nullable=False),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("level", sa.String, nullable=False),  # deed | info | trouble
    sa.Column("text", sa.String, nullable=False),  # one plain sentence: what happened
    sa.Column("payload", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)  # fmt: skip

# Inserted by CLI and Tavern (id = idempotency key); state and result are written by the arena.
commands = sa.Table(
    "commands", metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("t", sa.Float, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("state", sa.String, nullable=False, default="pending", index=True),  # pending | done | failed
    sa.Column("result", sa.JSON),
    sa.Column("finished_at", sa.Float),
)  # fmt: skip

# Small facts of the whole realm: mode (train | rest), campaign (active id). Arena only.
realm_values = sa.Table(
    "realm_values", metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)  # fmt: skip

# Arena.
campaigns = sa.Table(
    "campaigns", metadata, _id(),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("hero_id", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # active | paused | archived
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),  # the resolved hero profile
    sa.Column("method", sa.JSON),  # goals, budget, schools, where it starts; null = the hero's own
    sa.Column("verdict", sa.JSON),  # the cap verdict with its evidence, once there is one
    sa.Column("archived_at", sa.Float),
)  # fmt: skip

# Arena. One row per mastered (skill, level); the mastered level of a skill is the highest contiguous one from 1.
levels = sa.Table(
    "levels", metadata,
    sa.Column("campaign_id", sa.String, sa.ForeignKey("campaigns.id"), primary_key=True),
    sa.Column("skill", sa.String, primary_key=True),
    sa.Column("level", sa.Integer, primary_key=True),
    sa.Column("closed", sa.Boolean, nullable=False),
    sa.Column("mastered_at", sa.Float, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("trial_id", sa.String, nullable=False),
)  # fmt: skip

# Arena. A quest is one segment of training data. Files hold the rows, this table holds the facts.
quests = sa.Table(
    "quests", metadata, _id(),
    sa.Column("campaign_id", sa.String, sa.ForeignKey("campaigns.id"), index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),  # file | idle | rehearsal
    sa.Column("lane", sa.String, nullable=False),  # high | normal | low
    sa.Column("position", sa.Float, nullable=False),  # smaller is earlier inside a lane
    sa.Column("school", sa.String, nullable=False, default="scribe"),
    sa.Column("skill", sa.String),
    sa.Column("level", sa.Integer),
    sa.Column("mix", sa.JSON),  # {level: share} for skill quests
    sa.Column("rehearsal", sa.JSON),  # {skill: {level: share}} of other skills, and {"buffer": share} of old files
    sa.Column("state", sa.String, nullable=False, index=True),
    # queued | training | done | failed | skipped | refused | hold
    sa.Column("path", sa.String),  # relative to the realm home
    sa.Column("content_sha256", sa.String, index=True),
    sa.Column("format", sa.String),
    sa.Column("rows", sa.Integer, nullable=False, default=0),
    sa.Column("tokens", sa.Integer),
    sa.Column("steps", sa.Integer),  # optimizer steps this quest asks for
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("report", sa.JSON),  # Cleric's report
    sa.Column("origin", sa.JSON),  # {kind: procedural-verified|human|…, …}
    sa.Column("error", sa.String),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
)  # fmt: skip

# Arena. A run is an unbroken line of optimizer steps; a rollback starts a new run with a parent checkpoint.
runs = sa.Table(
    "runs", metadata, _id(),
    sa.Column("campaign_id", sa.String, sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("parent_checkpoint_id", sa.String),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)  # fmt: skip

# Made by the arena (which owns `desired`, `worker`, `config`, `settled_at`); all other columns are the battle child's
# once it runs, except that the arena closes a row whose child died (state failed, error).
battles = sa.Table(
    "battles", metadata, _id(),
    sa.Column("campaign_id", sa.String, sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("run_id", sa.String, sa.ForeignKey("runs.id"), nullable=False),
    sa.Column("quest_id", sa.String, sa.ForeignKey("quests.id"), index=True),  # null: a trial without training
    sa.Column("hero_id", sa.String, nullable=False),
    sa.Column("school", sa.String, nullable=False),
    sa.Column("worker", sa.String, nullable=False, index=True),  # which battle child serves it
    sa.Column("state", sa.String, nullable=False, index=True),
    # arming | training | pausing | paused | stopping | trial | done | failed
    sa.Column("desired", sa.String, nullable=False, default="run"),  # run | pause | stop | skip
    sa.Column("save_requests", sa.Integer, nullable=False, default=0),  # arena counts up; child saves when it rose
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("outcome", sa.String),  # trained | stopped | skipped | failed (set with state done/failed)
    sa.Column("start_step", sa.Integer),
    sa.Column("step", sa.Integer),  # campaign step reached
    sa.Column("total_steps", sa.Integer),  # steps this battle will do
    sa.Column("loss_before", sa.Float),  # held-out probe loss
    sa.Column("loss_after", sa.Float),
    sa.Column("checkpoint_id", sa.String),  # checkpoint made at the end
    sa.Column("phase", sa.String),  # words while arming, for example "loading weights"
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("settled_at", sa.Float),  # arena: levels, blessing, champion and quest state are drawn from it
    sa.Column("error", sa.String),
)  # fmt: skip

# Battle child. One row per optimizer step (thinned later: then min/max/effort cover `steps` steps ending at `step`).
metrics = sa.Table(
    "metrics", metadata,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("battle_id", sa.String, nullable=False),
    sa.Column("t", sa.Float, nullable=False),
    sa.Column("loss", sa.Float, nullable=False),
    sa.Column("loss_ema", sa.Float, nullable=False),
    sa.Column("lr", sa.Float, nullable=False),
    sa.Column("grad_norm", sa.Float),
    sa.Column("tokens", sa.Integer, nullable=False),  # non-padding tokens of the step
    sa.Column("trained_tokens", sa.Integer, nullable=False),  # tokens under the loss mask
    sa.Column("step_s", sa.Float, nullable=False),
    sa.Column("floor", sa.Float, nullable=False),
    sa.Column("strain", sa.Float, nullable=False),
    sa.Column("strain_rate", sa.Float),
    sa.Column("zone", sa.String, nullable=False),
    sa.Column("hint", sa.String),
    sa.Column("effort", sa.Float, nullable=False),  # strain summed over the steps this row covers
    sa.Column("steps", sa.Integer, nullable=False, default=1),
    sa.Column("loss_min", sa.Float),
    sa.Column("loss_max", sa.Float),
    sa.Column("facts", sa.JSON(none_as_null=True)),  # what only this school can tell: {name: number}
    # Newest row, rows after a step and effort of one battle are each one look into this index, never a sort.
    sa.Index("ix_metrics_battle_step", "battle_id", "step", "effort"),
    sa.Index("ix_metrics_run_effort", "run_id", "effort"),
)  # fmt: skip

# Battle child makes a row; state, zone, path and marks are then the arena's, which does the Vault's work, except that
# whoever finds a file damaged marks the row corrupt. The row of a deleted checkpoint stays: lineage goes through it.
checkpoints = sa.Table(
    "checkpoints", metadata, _id(),
    sa.Column("hero_id", sa.String, nullable=False),
    sa.Column("campaign_id", sa.String, sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("quest_id", sa.String),
    sa.Column("battle_id", sa.String),
    sa.Column("path", sa.String, nullable=False),  # relative to the realm home; absolute in a zone outside it
    sa.Column("manifest_sha256", sa.String, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # live | corrupt | deep (an archive) | trash | gone
    sa.Column("resumable", sa.Boolean, nullable=False),  # resume/ is there
    sa.Column("pinned", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("zone", sa.String, nullable=False, default="hot", server_default="hot"),  # hot | warm | deep
    sa.Column("promoted", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Column("tags", sa.JSON),  # sorted words of a person; null = none
    sa.Column("trashed_at", sa.Float),
    sa.UniqueConstraint("hero_id", "campaign_id", "run_id", "step"),
)  # fmt: skip

# Battle child. One row of a quest as the hero sees it, token by token (`arena/token_maps.py`).
token_maps = sa.Table(
    "token_maps", metadata,
    sa.Column("battle_id", sa.String, primary_key=True),
    sa.Column("idx", sa.Integer, primary_key=True),  # 0 is the row that surprises the hero most
    sa.Column("row", sa.Integer, nullable=False),  # of the quest, from 0
    sa.Column("step", sa.Integer, nullable=False),  # campaign step of the weights
    sa.Column("policy", sa.String, nullable=False),
    sa.Column("tokens", sa.JSON, nullable=False),  # {text, trained, weight, surprisal, entropy}: a list each
)  # fmt: skip

# Battle child; the arena for kind `job`. One examination of one checkpoint at one (skill, level), or of a held-out
# probe of a file quest.
trials = sa.Table(
    "trials", metadata, _id(),
    sa.Column("campaign_id", sa.String, sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("battle_id", sa.String, index=True),
    sa.Column("quest_id", sa.String, index=True),
    sa.Column("checkpoint_id", sa.String, nullable=False, index=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("kind", sa.String, nullable=False),  # promotion|retention|scout|probe|manual|file|passive|job
    sa.Column("skill", sa.String),
    sa.Column("level", sa.Integer),
    sa.Column("closed", sa.Boolean, nullable=False, default=False),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("correct", sa.Integer, nullable=False),
    sa.Column("lower", sa.Float),  # Wilson bounds at the z that the rule of this kind uses
    sa.Column("upper", sa.Float),
    sa.Column("threshold", sa.Float),
    sa.Column("verdict", sa.String, nullable=False),  # pass | fail | undecided | held | regression | lost | measured
    sa.Column("suspicious", sa.Boolean, nullable=False, default=False),
    sa.Column("loss", sa.Float),  # mean loss of the golden answers, nats per trained token
    sa.Column("tokens", sa.Integer, nullable=False, default=0),  # generated tokens
    sa.Column("by_difficulty", sa.JSON),  # {difficulty: [correct, n]}
    sa.Column("by_primitive", sa.JSON),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)  # fmt: skip

trial_items = sa.Table(
    "trial_items", metadata,
    sa.Column("trial_id", sa.String, sa.ForeignKey("trials.id"), primary_key=True),
    sa.Column("idx", sa.Integer, primary_key=True),
    sa.Column("problem", sa.JSON, nullable=False),  # the whole Problem, so that it can be graded again
    sa.Column("response", sa.String, nullable=False),
    sa.Column("correct", sa.Boolean, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
)  # fmt: skip

# Arena (the Temple's clerk). XP is the sum of `xp`; parts hold the evidence, so it can be recomputed.
blessings = sa.Table(
    "blessings", metadata, _id(),
    sa.Column("campaign_id", sa.String, sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("quest_id", sa.String, nullable=False),
    sa.Column("battle_id", sa.String, nullable=False),
    sa.Column("ceremony", sa.Float, nullable=False),
    sa.Column("evidence", sa.Float, nullable=False),
    sa.Column("quality", sa.Float, nullable=False),
    sa.Column("effort", sa.Float, nullable=False),
    sa.Column("xp", sa.Float, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),  # blessed | partial | cursed | unproven
    sa.Column("parts", sa.JSON, nullable=False),
    sa.Column("t", sa.Float, nullable=False),
)  # fmt: skip

# Arena (the job executor). `id` is the id of the command that asked for it. `token` names the attempt whose result
# counts: None when no attempt runs.
jobs = sa.Table(
    "jobs", metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),  # 2 high | 1 normal | 0 low
    sa.Column("state", sa.String, nullable=False),  # pending | running | succeeded | failed | cancelled
    sa.Column("attempts", sa.Integer, nullable=False, default=0),  # begun
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("token", sa.String),
    sa.Column("worker", sa.String),  # who runs it, or ran it last
    sa.Column("not_before", sa.Float, nullable=False, default=0.0),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),  # of the last attempt
    sa.Column("finished_at", sa.Float),
    sa.Column("error_code", sa.String),
    sa.Column("error", sa.String),
    sa.Column("result", sa.JSON),  # {summary…, files: {name: {path, sha256, bytes}}}
    sa.Index("ix_jobs_queue", "state", "priority", "created_at"),
    sa.Index("ix_jobs_kind", "kind", "state"),
)  # fmt: skip

# Arena (the job executor). Everything that happened to a job, in order.
job_audit = sa.Table(
    "job_audit", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("t", sa.Float, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    # submitted | started | succeeded | failed | lost | released | refused | cancelled | retried
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("worker", sa.String),
    sa.Column("detail", sa.String),
)  # fmt: skip


class SchemaError(RuntimeError):
    """The database is missing or of another version; the message says which command mends it."""


def new_id() -> str:
    """A ULID: 26 characters, sortable by time."""
    return str(ULID())


def now() -> float:
    return time.time()


def _set_pragmas(raw, _record) -> None:
    cursor = raw.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
    # pysqlite would begin a transaction lazily and DEFERRED; `write` below begins it itself, IMMEDIATE.
    raw.isolation_level = None


def engine(database: Path) -> sa.Engine:
    """SQLAlchemy engine on the file, in autocommit until `write` begins a transaction."""
    arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    made = sa.create_engine(sa.URL.create("sqlite", database=str(database)), connect_args=arguments)
    sa.event.listen(made, "connect", _set_pragmas)
    return made


def migrate(home: RealmHome, wait_s: float = 30.0) -> None:
    """Create or upgrade the database with Alembic, under a file lock.

    Raises:
        SchemaError: another process holds the migration lock for longer than `wait_s`, the file is no database, or
            a newer program made it.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    home.create()
    found = schema_version(home.database)
    if is_newer(found):
        raise SchemaError(newer_words(home.database, found))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["database"] = home.database  # an option of the configuration may hold no `%`
    from filelock import FileLock, Timeout  # here, since most commands only read

    lock = FileLock(home.run / "migrate.lock", timeout=wait_s)
    try:
        with lock:
            command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaError(f"{home.database}: schema {found} cannot be brought to {SCHEMA_VERSION} ({error}); restore "
                          "the file from a backup, or choose another REALM_HOME") from error  # fmt: skip
    except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        raise SchemaError(_unreadable(home.database, error)) from error
    except Timeout as error:
        raise SchemaError(
            f"{lock.lock_file} is held by another process for over {wait_s:.0f} s; "
            "wait for the other start-all or doctor --fix to end, then repeat"
        ) from error


def schema_version(database: Path) -> str | None:
    """Alembic revision of the file, or None when there is no database yet.

    Raises:
        SchemaError: the file cannot be read as a database.
    """
    if not database.exists():
        return None
    made = engine(database)
    try:
        with made.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        raise SchemaError(_unreadable(database, error)) from error
    finally:
        made.dispose()


def is_newer(version: str | None) -> bool:
    """Whether a later program made this schema; revisions are rising four-digit numbers."""
    return version is not None and re.fullmatch(r"\d{4}", version) is not None and version > SCHEMA_VERSION


def newer_words(database: Path, version: str | None) -> str:
    """What to say of a database that this program is too old for."""
    return (f"{database}: schema {version} is newer than this program's {SCHEMA_VERSION}; update the program "
            "(git pull, then make play), or choose another REALM_HOME")  # fmt: skip


def _unreadable(database: Path, error: Exception) -> str:
    reason = str(getattr(error, "orig", error))
    return (f"{database} cannot be read as a database ({reason}); restore it from a backup, or move it away and run "
            "`python3 -m training doctor --fix`, which makes an empty one")  # fmt: skip


def connect(home: RealmHome) -> sa.Engine:
    """Open the realm's database.

    Raises:
        SchemaError: no database, or another schema version than this program's.
    """
    version = schema_version(home.database)
    if is_newer(version):
        raise SchemaError(newer_words(home.database, version))
    if version != SCHEMA_VERSION:
        found = "no database" if version is None else f"schema {version}"
        raise SchemaError(
            f"{home.database}: {found}, this program needs schema {SCHEMA_VERSION}; "
            "run `python3 -m training doctor --fix`"
        )
    return engine(home.database)


@contextmanager
def write(made: sa.Engine) -> Iterator[sa.Connection]:
    """One `BEGIN IMMEDIATE` transaction: committed at the end of the block, rolled back on any error."""
    with made.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            # SQLite itself rolls back on some errors (disk full): a second ROLLBACK would fail and hide the first.
            if connection.connection.in_transaction:
                connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


@contextmanager
def read(made: sa.Engine) -> Iterator[sa.Connection]:
    """One consistent snapshot for several SELECTs."""
    with made.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        try:
            yield connection
        finally:
            if connection.connection.in_transaction:
                connection.exec_driver_sql("ROLLBACK")
