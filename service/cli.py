"""The ``teller`` command."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import uvicorn

from service import __version__, database, examination, inspection, schema
from service import migrations as schema_migrations
from service.command import EXIT_FAILED, database_option, run, settings_of
from service.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from service.relocation import Relocated
    from service.settings import Settings
    from service.teller import Teller

Result = TypeVar("Result")

# After the drain limit the answers still owed are given up; the disk gets this long to close.
CLOSE_GRACE_S: Final = 3
# A connection whose client has taken nothing of what it was sent for so long is cut.
UNREAD_TIMEOUT_MS: Final = 30_000
# The share of the drain limit after which requests that cannot be finished are answered.
ANSWERED_BY: Final = 0.9

log = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="teller")
def main() -> None:
    """Exactly-once deposits and withdrawals over HTTP.

    Settings come from TELLER_* variables and a .env file; options go above them.
    """


@main.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on. [TELLER_HOST; 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on, 0 for any free one. [TELLER_PORT; 8000]",
)
@database_option
@click.option("--seed", is_flag=True, help="First open demo accounts: alice, bob and carol.")
def serve(*, host: str | None, port: int | None, database_url: str | None, seed: bool) -> None:
    """Serve the ledger until Ctrl-C or SIGTERM.

    What was accepted by then is answered before the command ends.
    """
    settings = settings_of(host=host, port=port, database_url=database_url)
    sys.exit(run(_serve(settings, with_seed=seed)))


@main.command()
@database_option
def migrate(*, database_url: str | None) -> None:
    """Bring the database's schema up to date; one ahead of this release is left as it is."""
    settings = settings_of(database_url=database_url)

    async def work() -> str:
        async with database.opened(settings) as engine:
            return await schema_migrations.migrate(engine, settings.money())

    revision = run(work())
    note = "" if revision == schema.REVISION else f" (this release knows {schema.REVISION})"
    click.echo(f"The database is at revision {revision}{note}.")


@main.command()
@database_option
def seed(*, database_url: str | None) -> None:
    """Open demo accounts with opening balances; safe to run twice."""
    from service import seed as demo  # noqa: PLC0415

    for user, balance in _with_teller(settings_of(database_url=database_url), demo.seed).items():
        click.echo(f"{user}: {balance}")


@main.command()
@click.option("--from", "source_url", metavar="URL", required=True, help="The SQLite ledger.")
@click.option("--to", "target_url", metavar="URL", required=True, help="The PostgreSQL database.")
def copy(*, source_url: str, target_url: str) -> None:
    """Copy a SQLite ledger that nobody serves into an empty PostgreSQL database, and prove it.

    Every row is read back and its chain computed again; accounts, transactions, balances, counts,
    sums and chain heads are compared. Until they are equal, no release serves the target. The
    source is only read: do not serve it again once the target takes movements.
    """
    source, target = settings_of(database_url=source_url), settings_of(database_url=target_url)
    done = run(_copied(source, target))
    tally, rows = done.tally, done.tally.rows
    click.echo(
        f"{tally.accounts} accounts and {rows} transactions copied in {done.copied_s:.1f} s "
        f"({rows / max(done.copied_s, 0.001):.0f}/s), read back and compared in "
        f"{done.proven_s:.1f} s.\nEqual: accounts, transactions, balances, counts, sums and chain "
        f"heads (SHA-256 {tally.heads.hexdigest()})."
    )


async def _copied(source: Settings, target: Settings) -> Relocated:
    from service import relocation  # noqa: PLC0415
    from service.inspection import progress  # noqa: PLC0415

    return await relocation.relocate(source, target, progress=progress)


@main.group()
def users() -> None:
    """Accounts."""


@users.command("add")
@click.argument("names", metavar="USER...", nargs=-1, required=True)
@database_option
def users_add(*, names: tuple[str, ...], database_url: str | None) -> None:
    """Open an account with balance zero for each USER; one that is open stays as it is."""
    for name in names:
        if not re.fullmatch("[!-~]{1,128}", name):
            raise click.UsageError(
                f"{name!r} is not a user id: 1 to 128 visible ASCII characters, without spaces."
            )

    async def work(teller: Teller) -> list[str]:
        return await teller.store.open_accounts(names)

    opened = _with_teller(settings_of(database_url=database_url), work)
    for name in dict.fromkeys(names):
        click.echo(f"{name}: {'opened' if name in opened else 'was open already'}")


main.add_command(inspection.audit)
main.add_command(inspection.check_log)
main.add_command(inspection.export)
main.add_command(examination.doctor)


# -- serving --------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn's server under Teller's own signals: it must not end before the ledger closes."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again when it is done, before the drain.
        yield


async def _serve(settings: Settings, *, with_seed: bool) -> int:
    from service import seed as demo  # noqa: PLC0415
    from service.app import create_app, freeze_garbage  # noqa: PLC0415
    from service.teller import serving  # noqa: PLC0415
    from service.wire import Wire  # noqa: PLC0415

    async with serving(settings) as teller:
        if with_seed:
            await demo.seed(teller)
        listener = _listen(settings.host, settings.port)
        server = _Server(
            uvicorn.Config(
                create_app(teller),
                http=Wire,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,  # nothing here asks for the client's address
                timeout_graceful_shutdown=settings.drain_timeout_s,
            )
        )
        _stop_on_signals(server, teller, settings.drain_timeout_s)
        watch = asyncio.create_task(_stop_on_failure(server, teller))
        address = _address(listener)
        log.info("serving", extra={"address": address, "version": __version__})
        if sys.stderr.isatty():
            click.echo(f"Teller listens on {address} (API: {address}/docs)", err=True)
        freeze_garbage()
        await server.serve(sockets=[listener])
        watch.cancel()
        await teller.committer.finish()
        if teller.committer.failed.is_set():
            # Not closed cleanly on purpose: the next process reads the truth from disk.
            log.critical("stopped for a restart")
            _leave(EXIT_FAILED)
    log.info("stopped")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StartError(
            f"Cannot listen on {host} port {port}: {error.strerror}. "
            "Choose another with --host and --port (TELLER_HOST, TELLER_PORT)."
        ) from error
    if sys.platform == "linux":
        # uvicorn waits without a limit for a client that reads nothing; the kernel need not.
        # Every connection inherits it (tcp(7)).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop_on_signals(server: uvicorn.Server, teller: Teller, drain_timeout_s: int) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit:
            # A second Ctrl-C: whoever sends it has waited enough.
            server.force_exit = True
            return
        log.info("stopping")
        teller.committer.retire()
        server.should_exit = True
        # Whoever still waits gets an answer that says what is known, not a cut connection.
        loop.call_later(ANSWERED_BY * drain_timeout_s, teller.committer.cut_short)
        # A disk that never answers must not keep the process: what is not committed was
        # never acknowledged.
        loop.call_later(drain_timeout_s + CLOSE_GRACE_S, _give_up_draining, drain_timeout_s)

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


async def _stop_on_failure(server: uvicorn.Server, teller: Teller) -> None:
    await teller.committer.failed.wait()
    # Everything accepted is answered by now; only bodies still on their way could hold it up.
    server.config.timeout_graceful_shutdown = CLOSE_GRACE_S
    server.should_exit = True


def _give_up_draining(drain_timeout_s: int) -> None:
    log.critical(
        "stopped at the drain limit with a commit unfinished",
        extra={"drain_timeout_s": drain_timeout_s},
    )
    _leave(EXIT_FAILED)


def _leave(code: int) -> None:
    logging.shutdown()
    os._exit(code)


# -- a ledger to work on ----------------------------------------------------------------------


def _with_teller(
    settings: Settings, work: Callable[[Teller], Coroutine[Any, Any, Result]]
) -> Result:
    from service.teller import opened  # noqa: PLC0415

    async def on_teller() -> Result:
        async with opened(settings) as teller:
            return await work(teller)

    return run(on_teller())
