"""How every ``teller`` command begins and ends: settings, event loop, refusals, exit statuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError

from service import telemetry
from service.errors import OperatingError, StartError
from service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNSOUND: Final = 3  # what was looked at is not as it must be

log = logging.getLogger(__name__)

database_option = click.option(
    "--database",
    "database_url",
    metavar="URL",
    help="Where the ledger is. [TELLER_DATABASE_URL; sqlite+aiosqlite:///teller.db]",
)


def settings_of(**given: Any) -> Settings:
    """The settings with the command's options above them, and the log set up; or exit 2."""
    try:
        settings = Settings.load(**given)
    except StartError as error:
        refuse(error, EXIT_USAGE)
    telemetry.configure_logging(settings.log_level, _log_stream())
    return settings


def _log_stream() -> Any:
    """``serve`` logs to standard output; a command's own words go there, its log beside them."""
    context = click.get_current_context()
    return sys.stdout if context.info_name == "serve" else sys.stderr


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end on the fastest loop there is; a refusal becomes one line and exit 1."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # there is no uvloop on Windows
        import uvloop  # noqa: PLC0415

        factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)
    except StartError as error:
        refuse(error, EXIT_FAILED)
    except BrokenPipeError:
        # Whoever read the output has gone: click ends the command quietly.
        raise
    except (SQLAlchemyError, OperatingError, OSError) as error:
        log.debug("command failed", exc_info=True)
        cause = getattr(error, "orig", None) or getattr(error, "detail", None) or error
        refuse(StartError(f"The database could not be used: {cause}"), EXIT_FAILED)


def refuse(error: StartError, code: int) -> NoReturn:
    """Say why on standard error, and leave."""
    click.echo(f"teller: {error}", err=True)
    sys.exit(code)
