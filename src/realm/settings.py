"""Where the realm lives and how it is set up: one frozen `Settings`, read once at the edge.

Values come from, in rising order: defaults here, `$REALM_HOME/settings.yaml`, environment variables
`REALM_<FIELD>` (for example `REALM_PORT_TAVERN=18888`). An unknown key is an error that names the nearest one.
See it with `python3 -m training status`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

LANES = ("high", "normal", "low")
# Folders a person may look into; made by `RealmHome.create`.
HOME_FOLDERS = (
    "inbox", *(f"inbox/{lane}" for lane in LANES), *(f"queue/{lane}" for lane in LANES),
    "completed", "failed", "quarantine", "models", "vault", "campaigns", "heroes", "knowledge", "logs", "run",
)  # fmt: skip


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the value, the rule and the next action."""


class Settings(BaseModel):
    """Everything a person may set. Ports are TCP ports on `host`; sizes are bytes; times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port_tavern: int = Field(8888, ge=0, le=65535)
    port_vault: int = Field(8767, ge=0, le=65535)
    port_state: int = Field(8866, ge=0, le=65535)
    port_sy: int = Field(8080, ge=0, le=65535)
    port_bin: int = Field(8090, ge=0, le=65535)
    port_oracle: int = Field(8765, ge=0, le=65535)
    token: str = Field("", description="demanded from every client when host is not loopback")
    default_hero: str = "pip"
    jobs_ray: str = Field("", description="host:port of a Ray head that runs jobs; empty: this machine only")
    idle_generation: bool = Field(True, description="make quests from the skills when the board is empty")
    min_free_disk: int = Field(500_000_000, description="a checkpoint is refused below this many free bytes")
    vault_warm: str = Field("", description="folder of the warm zone; empty: zones/warm in the realm home")
    vault_deep: str = Field("", description="folder of the deep zone (archives); empty: zones/deep in the realm home")
    retention: bool = Field(True, description="move checkpoints that nothing protects to the trash, hourly")
    retention_keep: int = Field(30, ge=1, description="the newest checkpoints of each campaign stay")
    retention_daily: int = Field(14, ge=0, description="the last checkpoint of a day stays for so many days")
    retention_days: float = Field(90, ge=0, description="older ones go even then; 0 = no limit by age")
    retention_bytes: int = Field(50_000_000_000, ge=0, description="above this size of hot and warm zone the oldest "
                                 "go; 0 = no limit by size")  # fmt: skip
    retention_min_hours: float = Field(1, ge=0, description="younger checkpoints stay whatever the other rules say")
    trash_hours: float = Field(6, ge=0, description="deleted checkpoints can be restored for so long")
    keep_log_days: float = Field(30, gt=0, description="events, orders and old log files are kept for so many days")
    keep_metrics_days: float = Field(7, gt=0, description="older step metrics are thinned: sums stay exact")
    max_log_bytes: int = Field(10_000_000, gt=0, description="a log file is rotated above this size")
    max_self_verified: float = Field(0.5, ge=0, le=1, description="largest share of a file's rows that a hero wrote "
                                     "itself and a grader checked")  # fmt: skip
    max_self_unverified: float = Field(0.0, ge=0, le=1, description="the same for rows that nobody checked")
    max_inbox_bytes: int = Field(4_000_000_000, description="larger inbox files are refused")
    log_level: str = "INFO"
    skill_servers: dict[str, str] = Field(default_factory=dict, description="skills on other servers: {name: URL}")

    oracle_servers: dict[str, str] = Field(default_factory=dict, description="other machines that answer for the "
                                           "Oracle: {name: http://HOST:PORT/v1}")  # fmt: skip
    oracle_models: int = Field(4, ge=1, description="models the Oracle keeps in memory at once")
    oracle_min_free: int = Field(500_000_000, ge=0, description="bytes of memory that loading a model must leave free")
    oracle_keep_s: float = Field(900, gt=0, description="an idle model leaves memory after so many seconds")
    oracle_queue: int = Field(64, ge=1, description="questions the Oracle takes at once; more are told to come back")

    @field_validator("skill_servers", "oracle_servers", mode="before")
    @classmethod
    def _servers_as_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return yaml.safe_load(value)  # as an environment variable holds them
        except yaml.YAMLError as error:
            raise ValueError("write {name: URL, …}, as in settings.yaml") from error

    @field_validator("skill_servers", "oracle_servers")
    @classmethod
    def _servers_are_web_addresses(cls, servers: dict[str, str]) -> dict[str, str]:
        for name, url in servers.items():
            parts = urlsplit(url)
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
                raise ValueError(f"{name!r} names a server; use small letters, digits, - and _")
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError(f"{name}: {url!r} is no http or https address; write http://HOST:PORT")
            if parts.username or parts.password:
                raise ValueError(f"{name}: its address holds a password; servers are asked without one")
        return servers

    @field_validator("vault_warm", "vault_deep")
    @classmethod
    def _zones_are_whole_paths(cls, folder: str) -> str:
        if folder and not Path(folder).expanduser().is_absolute():
            raise ValueError("name a whole path, such as /mnt/nas/realm-warm, or leave it empty")
        return folder

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        by_port: dict[int, str] = {}
        for key in (name for name in type(self).model_fields if name.startswith("port_")):
            port = getattr(self, key)
            if port and port in by_port:
                raise ValueError(f"{by_port[port]} and {key} are both {port}; give every service a port of its own")
            by_port[port] = key
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the services; else every client must send the token."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    def port(self, service: str) -> int:
        """Port of a service by its short name (tavern, vault, state, sy, bin, oracle)."""
        return getattr(self, f"port_{service}")


def nearest(word: str, known: list[str]) -> str:
    """A hint such as `; did you mean 'port_bin'?`, or nothing when no known word is close."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else f"; known: {', '.join(sorted(known))}"


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Pydantic's findings as sentences that name the key, the value, the rule and the nearest known key."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if not key:
            # A rule about several keys: its sentence names them, and the whole input would show the token.
            lines.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
        elif item["type"] == "extra_forbidden":
            known = _known_keys(model, item["loc"])
            lines.append(f"{where}: unknown key '{key}'{nearest(str(item['loc'][-1]), known)}")
        else:
            lines.append(f"{where}: {key} = {item.get('input')!r}: {item['msg']}")
    return "\n".join(lines)


def _known_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)


def load_settings(home: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Read `settings.yaml` of a realm home plus `REALM_*` variables.

    Raises:
        SettingsError: unknown key, wrong type or a file that is not a YAML mapping.
    """
    environ = os.environ if environ is None else environ
    file = home / "settings.yaml"
    values: dict[str, Any] = {}
    if file.exists():
        try:
            loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise SettingsError(f"{file}: not valid YAML ({error}); mend the file or delete it") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise SettingsError(f"{file}: expected 'key: value' lines, found {type(loaded).__name__}; mend the file")
        values = loaded or {}
    for field in Settings.model_fields:
        name = f"REALM_{field.upper()}"
        if name in environ:
            values[field] = environ[name]
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(explain(error, Settings, str(file))) from error
    if not settings.loopback and not settings.token:
        raise SettingsError(
            f"host = {settings.host!r} is not loopback and no token is set; set `token:` in {file} "
            "(every client must then send it) or bind to 127.0.0.1"
        )
    return settings


def home_marker() -> Path:
    """File beside the checkout's `pyproject.toml` in which `bootstrap_dev.sh` notes this checkout's realm home."""
    return Path(__file__).resolve().parents[2] / ".realm-home"


def realm_home(environ: Mapping[str, str] | None = None) -> Path:
    """`$REALM_HOME`, else the home that bootstrap set up for this checkout, else `~/realm` (contracts A6)."""
    environ = os.environ if environ is None else environ
    if environ.get("REALM_HOME"):
        return Path(environ["REALM_HOME"]).expanduser().resolve()
    marker = home_marker()
    if marker.is_file():
        return Path(marker.read_text(encoding="utf-8").strip()).expanduser().resolve()
    return Path("~/realm").expanduser().resolve()


class RealmHome:
    """Paths inside one realm home, and the settings read from it."""

    def __init__(self, root: Path | str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.root = Path(root).expanduser().resolve() if root is not None else realm_home(environ)
        self.settings = load_settings(self.root, environ)

    def create(self) -> RealmHome:
        """Make every folder a realm home has; safe to call again."""
        for folder in HOME_FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        return self

    @property
    def database(self) -> Path:
        return self.root / "realm.db"

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    @property
    def queue(self) -> Path:
        return self.root / "queue"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def vault(self) -> Path:
        return self.root / "vault"

    @property
    def exports(self) -> Path:
        """Weights made for other programs; `vault export` writes here."""
        return self.root / "exports"

    @property
    def imports(self) -> Path:
        """Folders waiting to become checkpoints; `vault import` puts them here."""
        return self.root / "imports"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def heroes(self) -> Path:
        """Folder for a person's own hero YAML files; shipped ones are package data."""
        return self.root / "heroes"
