"""The one way to open a PostgreSQL ledger: hosts, TLS, time limits; what its errors mean."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.errors import StartError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.settings import Settings

DRIVER: Final = "postgresql+asyncpg"
PORT: Final = 5432

log = logging.getLogger(__name__)

# -- what an error means --------------------------------------------------------------------

# SQLSTATE codes and classes (https://www.postgresql.org/docs/current/errcodes-appendix.html).
# Rolled back because of another transaction: the same one may pass if it is run again.
CONFLICTS: Final = frozenset({"40001", "40P01"})
COMPLETION_UNKNOWN: Final = "40003"
LOCK_NOT_AVAILABLE: Final = "55P03"
READ_ONLY: Final = "25006"
# Of the server or its machine, not of a movement; what it says is put after "The database".
REASONS: Final = {
    READ_ONLY: "is read-only: another server leads now",
    "25P03": "closed an idle transaction",
    "25P04": "ended a transaction that took too long",
    "28": "refused the login",
    "3D000": "does not exist",
    "42501": "refused the permission",
    "53": "is out of resources",
    LOCK_NOT_AVAILABLE: "is busy with another process's write",
    "57014": "did not finish a statement in time",
    "57P": "is shutting down, starting or recovering",
    "58": "could not read or write its disk",
    "XX001": "is damaged",
    "XX002": "is damaged",
}
_LOST: Final = ("08", "25P03", "25P04", "57P", READ_ONLY)


def reason(error: BaseException) -> str | None:
    """Why the database cannot work now, or None if the error speaks of a movement, or a bug."""
    state = getattr(error, "sqlstate", None) or ""
    for code in (state, state[:3], state[:2]):
        if code in REASONS:
            return REASONS[code]
    return "could not be reached" if lost(error) else None


def lost(error: BaseException) -> bool:
    """Whether the connection is gone, or of no more use."""
    if isinstance(error, OSError):
        return True
    state = getattr(error, "sqlstate", None)
    if state is None:
        # The driver's own: the connection was closed under it.
        return isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
    return bool(state.startswith(_LOST))


# -- connections ----------------------------------------------------------------------------


@asynccontextmanager
async def opened(settings: Settings, *, read_only: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine on the settings' servers: for one writer, or a pool of readers; closed at the end.

    Both read where writes go, so that a client reads what it wrote.

    Raises:
        StartError: a TLS file cannot be read.
    """
    servers = _Servers(settings, read_only=read_only)
    how: dict[str, Any] = {"poolclass": NullPool}
    if read_only:
        how = {
            "pool_size": settings.database_readers_max,
            "max_overflow": 0,
            "pool_pre_ping": True,  # a failover leaves nothing but dead connections
            "isolation_level": "AUTOCOMMIT",
        }
    engine = create_async_engine(URL.create(DRIVER), async_creator=servers.connect, **how)
    try:
        yield engine
    finally:
        await engine.dispose()


class _Servers:
    """The hosts of one URL, of which one at a time takes writes."""

    def __init__(self, settings: Settings, *, read_only: bool) -> None:
        options = dialect().create_connect_args(  # type: ignore[no-untyped-call]
            make_url(settings.database_url)
        )[1]
        self._hosts = _pairs(options.pop("host", None), options.pop("port", None))
        self._options = options
        self._read_only = read_only
        self._tls = _tls(settings)
        self._timeout_s = settings.database_connect_timeout_ms / 1000
        silence_ms = settings.database_statement_timeout_ms
        self._silence_s = silence_ms / 1000
        self._server_settings = {
            "application_name": "teller",
            "statement_timeout": str(silence_ms),
            "lock_timeout": str(settings.busy_timeout_ms),
            # A pod that vanished in the middle of a transaction must not keep its accounts locked.
            "idle_in_transaction_session_timeout": str(silence_ms),
            "tcp_user_timeout": str(silence_ms),
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
            "jit": "off",
            # Every statement finds its rows by a key. A plan made while a table is empty would
            # scan it for as long as the connection lives, and the planner cannot know how few
            # rows of a long ledger the audit asks for.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
        }

    async def connect(self, *_args: Any, **_kwargs: Any) -> Any:
        """Connect to the host that takes writes, the one used last before the others.

        Raises:
            ConnectionError: none could be used; the message says what the last one said.
        """
        failure: Exception | None = None
        for host, port in list(self._hosts):
            try:
                # A limit for each host: one that never answers must not use up the others' time.
                async with asyncio.timeout(self._timeout_s):
                    connection = await self._connect_to(host, port)
            except _REFUSALS as error:
                failure = error
                continue
            self._hosts.remove((host, port))
            self._hosts.insert(0, (host, port))
            return connection
        words = str(failure) or f"no answer in {self._timeout_s:g} s"
        raise ConnectionError(f"no server that takes writes: {words}") from failure

    async def _connect_to(self, host: str | None, port: int | None) -> Any:
        connection = await asyncpg.connect(
            **self._options,
            host=host,
            port=port,
            ssl=None if host is not None and host.startswith("/") else self._tls,
            target_session_attrs="read-write",
            server_settings=self._server_settings,
            timeout=self._timeout_s,
            # A server that falls silent closes no connection: a read would wait for ever. (The
            # writer has a guard of its own, since a COMMIT must never be cancelled.)
            command_timeout=self._silence_s if self._read_only else None,
        )
        try:
            await connection.execute(_DURABLE)
            await connection.execute(_REPLICATED)
            if self._read_only:
                await connection.execute("SET default_transaction_read_only = on")
        except BaseException:
            connection.terminate()
            raise
        return connection


_REFUSALS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

# An answer says that the movement outlives a crash, and a failover where a standby is
# synchronous, whatever the server's default is. 'remote_apply' is more than enough, and stays.
_DURABLE: Final = """
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
"""

# A commit that was cut off while it waited for the standby is visible after the server's restart
# though no standby has it; its retry, a read, would be answered without waiting. So a new
# connection first commits a message, which waits until the standby has everything before it.
_REPLICATED: Final = """
SELECT pg_logical_emit_message(true, 'teller', '')
WHERE current_setting('synchronous_standby_names') <> ''
"""


def _pairs(hosts: Any, ports: Any) -> list[tuple[str | None, int | None]]:
    if not isinstance(hosts, list):
        return [(hosts, None if ports is None else int(ports))]
    return list(zip(hosts, [int(port) for port in ports], strict=True))


def _tls(settings: Settings) -> ssl.SSLContext | str:
    """What the driver's ``ssl`` wants: a mode's name, or a context with the settings' files."""
    mode = settings.database_tls
    if mode in {"disable", "prefer"}:
        return mode
    try:
        context = ssl.create_default_context(cafile=settings.database_tls_ca)
        if settings.database_tls_certificate is not None:
            context.load_cert_chain(settings.database_tls_certificate, settings.database_tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            f"The TLS files of the database could not be used: {error}. See "
            "TELLER_DATABASE_TLS_CA, TELLER_DATABASE_TLS_CERTIFICATE and TELLER_DATABASE_TLS_KEY."
        ) from error
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context
