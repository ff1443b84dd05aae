"""The command that looks for what breaks a service from outside: before it, and under it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from service import doctor as doctoring
from service import volume
from service.command import EXIT_FAILED, EXIT_UNSOUND, database_option, run, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from service.doctor import Finding
    from service.settings import Settings


@click.command()
@click.argument("url", required=False)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Send with every request, such as 'Authorization: Bearer ...'; may be repeated.",
)
@database_option
def doctor(*, url: str | None, headers: tuple[str, ...], database_url: str | None) -> None:
    """Find what breaks Teller behind a proxy at URL, or the disk under --database.

    Through the proxies before it: do both spellings of the user header arrive, the key, whole
    bodies, and the answer's headers; do the clocks agree; does /docs work. Only requests that
    are refused are sent: nothing is stored, nothing moves.

    Exit status: 0 well, 3 something found, 1 unreachable, 2 wrong usage.
    """
    if (url is None) == (database_url is None):
        raise click.UsageError("Name a URL, or a --database, and not both.")
    findings: Iterable[Finding]
    if url is not None:
        findings = _through(url, headers)
    else:
        findings = run(_under(settings_of(database_url=database_url)))
    sound = True
    for finding in findings:  # each is told as soon as it is known
        sound &= _told(finding)
    sys.exit(0 if sound else EXIT_UNSOUND)


def _through(url: str, headers: tuple[str, ...]) -> Iterator[Finding]:
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"{url} is not a URL: begin with http:// or https://")
    sent = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            raise click.UsageError(f"{header} is not a header: write 'Name: value'")
        sent[name.strip()] = value.strip()
    try:
        yield from doctoring.examine(url, headers=sent)
    except doctoring.Unreachable as error:
        click.echo(f"teller: {error}", err=True)
        sys.exit(EXIT_FAILED)


async def _under(settings: Settings) -> list[Finding]:
    return [finding async for finding in volume.examine(settings)]


def _told(finding: Finding) -> bool:
    click.echo(f"{'ok  ' if finding.ok else 'FIX '} {finding.name}: {finding.seen}")
    for proxy, line in finding.remedy.items():
        click.echo(f"       {proxy}: {line}")
    return finding.ok
