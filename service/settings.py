"""One frozen Settings: everything TELLER_* can say, checked before anything opens."""

from __future__ import annotations

import logging
import os
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from service import money
from service.errors import InvalidRequestError, StartError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL

PREFIX: Final = "TELLER_"
DOTENV: Final = ".env"

# What Kubernetes injects into a pod for a Service named teller, or teller-something.
_INJECTED: Final = re.compile(
    r"TELLER_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)"
)
_INJECTED_PORT: Final = re.compile(r"TELLER_(?:\w+_)?PORT")
_PASSWORD: Final = re.compile(r"(://[^/@]*?:).*(@)")

log = logging.getLogger(__name__)

Decimals = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,14})(\.[0-9]{1,9})?$")]


class Settings(BaseSettings):
    """The settings; each is read from the variable of its name in capitals, after ``TELLER_``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=DOTENV,
        env_file_encoding="utf-8",
        extra="ignore",  # unknown names are refused by load(), with a better message
        frozen=True,
    )

    database_url: str = Field(
        "sqlite+aiosqlite:///teller.db",
        description="Where the ledger is: a SQLite path, relative to the working directory, or "
        "`postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE`; several PostgreSQL servers as "
        "`...@/DATABASE?host=A:5432&host=B:5432`.",
    )
    database_tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer",
        description="TLS to PostgreSQL, with libpq's words; `verify-full` also checks the name.",
    )
    database_tls_ca: str | None = Field(
        None, description="A file with the CA of PostgreSQL's certificate; the system's unless set."
    )
    database_tls_certificate: str | None = Field(
        None, description="A file with the client certificate for PostgreSQL."
    )
    database_tls_key: str | None = Field(
        None, description="A file with the key of that certificate, unless it holds both."
    )
    database_connect_timeout_ms: int = Field(
        3_000, ge=1, description="How long connecting to one PostgreSQL server may take."
    )
    database_statement_timeout_ms: int = Field(
        10_000,
        ge=1,
        description="How long PostgreSQL may work on a statement or stay silent; then 503.",
    )
    database_readers_max: int = Field(
        4,
        ge=1,
        le=1_000,
        description="Connections to PostgreSQL for reads, beside the two that write.",
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="The port; 0 takes any free one.")
    currency: str = Field(
        "USD",
        pattern="^[A-Z]{3}$",
        description="ISO 4217 code of the ledger's one currency; fixed when the database is made.",
    )
    currency_scale: int | None = Field(
        None,
        ge=0,
        le=9,
        description="Decimals of one minor unit; ISO 4217's own unless set.",
    )
    amount_max: Decimals | None = Field(
        None,
        description="Largest amount of one movement; the widest that 15 digits and int64 hold "
        "unless set.",
    )
    balance_max: Decimals | None = Field(
        None, description="Largest balance a deposit may reach; what int64 holds unless set."
    )
    account_opening: Literal["provisioned", "on_first_deposit"] = Field(
        "provisioned",
        description="Whether unknown users get 404, or an account by their first movement.",
    )
    auto_migrate: bool = Field(
        default=True, description="Whether `serve` brings the schema up to date by itself."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="The port of Prometheus metrics at `/metrics`, 0 for any free one; none "
        "unless set.",
    )
    audit: bool = Field(
        default=True, description="Whether the service audits its ledger, slowly, while it serves."
    )
    request_log: bool = Field(default=True, description="Whether each request writes a log line.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least severe log line written."
    )
    queue_depth_max: int = Field(
        8192, ge=1, le=1_000_000, description="Movements waiting at most; more are shed with 503."
    )
    queue_depth_per_user_max: int = Field(
        2048,
        ge=1,
        le=1_000_000,
        description="One user's movements waiting at most; more are shed with 429.",
    )
    batch_size_max: int = Field(
        256, ge=1, le=10_000, description="Movements in one transaction at most."
    )
    body_timeout_ms: int = Field(
        10_000, ge=1, description="How long a request's body may take to arrive; then 408."
    )
    answer_timeout_ms: int = Field(
        15_000, ge=1, description="How long a movement may wait for its commit; then 503."
    )
    busy_timeout_ms: int = Field(
        5_000, ge=0, description="How long a batch waits for another process's write; then 503."
    )
    drain_timeout_s: int = Field(
        20, ge=1, le=3600, description="How long a stopping service may answer what it accepted."
    )
    wal_rows_max: int = Field(
        4_000, ge=1, description="Rows written at most before the write-ahead log is checkpointed."
    )

    @field_validator("database_url")
    @classmethod
    def _known_engine(cls, url: str) -> str:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ValueError("not a database URL; try sqlite+aiosqlite:///teller.db") from error
        if parsed.drivername.startswith("postgres"):
            return _known_postgres(parsed)
        if parsed.drivername != "sqlite+aiosqlite":
            raise ValueError(
                f"{parsed.drivername!r} is not supported; use sqlite+aiosqlite:///PATH "
                "or postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE"
            )
        if parsed.database in {None, "", ":memory:"} or parsed.query:
            raise ValueError(
                "a ledger lives in a file: use sqlite+aiosqlite:///PATH, without options"
            )
        return url

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """The settings of the environment and ``.env``, with those given put above them.

        Raises:
            StartError: a variable is unknown, or a value is not valid; it names both and a remedy.
        """
        dotenv = {k.upper(): v for k, v in dotenv_values(DOTENV).items()}
        ignored = _check_names({**dotenv, **os.environ})
        given = {name: value for name, value in given.items() if value is not None}
        for name in ("port", "metrics_port"):
            variable = PREFIX + name.upper()
            if variable in ignored:
                # What .env says stands: the variable that hides it is not anybody's wish.
                written = dotenv.get(variable) or "tcp://"
                default = cls.model_fields[name].default
                given.setdefault(name, default if written.startswith("tcp://") else written)
        try:
            settings = cls(**given)
            settings.money()
            settings.amount_max_minor()
            settings.balance_max_minor()
        except ValidationError as error:
            raise StartError(_in_words(error)) from error
        if ignored:
            log.warning("kubernetes variables ignored", extra={"variables": sorted(ignored)})
        return settings

    def money(self) -> money.Currency:
        """The currency with its scale. Raises StartError for an unknown one."""
        return money.currency(self.currency, self.currency_scale)

    def amount_max_minor(self) -> int:
        """The largest amount of one movement, in minor units."""
        largest = self.money().largest_minor()
        return self._minor("amount_max", self.amount_max, largest)

    def balance_max_minor(self) -> int:
        """The largest balance a deposit may reach, in minor units."""
        return self._minor("balance_max", self.balance_max, money.INT64_MAX)

    def _minor(self, name: str, value: str | None, widest: int) -> int:
        if value is None:
            return widest
        try:
            return self.money().minor(value, widest)
        except InvalidRequestError as error:
            raise StartError(f"{PREFIX}{name.upper()}={value}: {error.detail}") from error


def _known_postgres(parsed: URL) -> str:
    if parsed.drivername not in {"postgresql+asyncpg", "postgresql", "postgres"}:
        raise ValueError(f"{parsed.drivername!r} is not supported; use postgresql+asyncpg")
    if not parsed.database:
        raise ValueError("name the database: postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE")
    unknown = sorted(set(parsed.query) - {"host"})
    if unknown:
        raise ValueError(
            f"the option {unknown[0]!r} is not understood; TLS and time limits are settings of "
            "their own (TELLER_DATABASE_TLS, TELLER_DATABASE_CONNECT_TIMEOUT_MS)"
        )
    hosts = parsed.query.get("host", ())
    if not isinstance(hosts, str) and any(":" not in host for host in hosts):
        raise ValueError("each of several hosts needs its port: ?host=A:5432&host=B:5432")
    return parsed.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def _check_names(variables: Mapping[str, str | None]) -> set[str]:
    """The names to ignore. Raises StartError for one that no setting has."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    ignored = set()
    for name, value in variables.items():
        if not name.upper().startswith(PREFIX):
            continue
        injected_port = _INJECTED_PORT.fullmatch(name) and (value or "").startswith("tcp://")
        if injected_port or (name not in known and _INJECTED.fullmatch(name)):
            ignored.add(name)
        elif name.upper() not in known:
            # Without the prefix, which all names share: it would make any two look alike.
            near = get_close_matches(
                name.upper().removeprefix(PREFIX), map(str.upper, Settings.model_fields), n=1
            )
            hint = f"Did you mean {PREFIX}{near[0]}?" if near else "README.md lists the settings."
            raise StartError(f"{name} is not a setting of Teller. {hint}")
    return ignored


def _in_words(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = PREFIX + str(problem["loc"][0]).upper()
        field = Settings.model_fields[str(problem["loc"][0])]
        # A password in the URL is not for the log that this line ends up in.
        given = _PASSWORD.sub(r"\1***\2", str(problem["input"]))
        lines.append(f"{name}={given}: {problem['msg']}. {field.description}")
    return "\n".join(lines)
