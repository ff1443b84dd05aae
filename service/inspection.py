"""The commands that look at a ledger and never change it."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from service import audit as auditing
from service import checker, evidence, heads, history, scan
from service import export as exporting
from service.command import EXIT_UNSOUND, database_option, run, settings_of
from service.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.ledger import Account
    from service.money import Currency
    from service.replay import Findings, Violation
    from service.settings import Settings


VIOLATIONS_SHOWN_MAX: Final = 20


@click.command()
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--heads",
    "kept",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare with chain heads that --write-heads wrote and that were kept elsewhere.",
)
@click.option(
    "--write-heads",
    "write_to",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every account's chain head to a file, if the ledger is sound.",
)
def audit(
    *, database_url: str | None, as_json: bool, kept: Path | None, write_to: Path | None
) -> None:
    """Replay the whole ledger, and name the account and transaction that broke.

    It only reads, and may run beside the service. Checked are each account's sequence without
    a gap, its chain of hashes, every balance, and that refusals moved nothing. Against someone
    who rewrites an account from end to end, keep its heads elsewhere: --write-heads, --heads.

    Exit status: 0 sound, 3 not sound, 1 could not be audited, 2 wrong usage.
    """
    settings = settings_of(database_url=database_url)
    started_s = time.monotonic()
    currency, findings = run(_audited(settings, kept=kept, write_to=write_to))
    duration_s = time.monotonic() - started_s
    if as_json:
        click.echo(json.dumps(_as_json(currency, findings, duration_s)))
    else:
        _print(currency, findings, duration_s)
    sys.exit(0 if findings.sound else EXIT_UNSOUND)


async def _audited(
    settings: Settings, *, kept: Path | None, write_to: Path | None
) -> tuple[Currency, Findings]:
    with ExitStack() as files:
        kept_heads = None
        if kept is not None:
            kept_heads = heads.parsed(files.enter_context(kept.open()), str(kept))
        draft = None if write_to is None else write_to.with_name(write_to.name + ".part")
        written = None if draft is None else files.enter_context(_new_file(draft))

        def on_account(head: Account) -> None:
            if written is not None:
                heads.write(head, written)

        async with scan.opened(settings) as reader:
            ledger = scan.Scan(reader)
            currency = await ledger.currency()
            with progress("Auditing", await ledger.rows_total()) as advance:
                findings = await auditing.audit(
                    ledger, kept=kept_heads, on_account=on_account, progress=advance
                )
    if draft is not None and write_to is not None:
        # Never over good heads with those of a ledger that broke.
        if findings.sound:
            draft.replace(write_to)
        else:
            draft.unlink()
    return currency, findings


@contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    try:
        file = path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise StartError(f"{path} cannot be written: {error.strerror}.") from error
    with file:
        yield file


@contextmanager
def progress(label: str, rows_total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on standard error, where that is a terminal; it is advanced by rows."""
    if not sys.stderr.isatty():
        yield lambda _rows: None
        return
    with click.progressbar(length=rows_total, label=label, file=sys.stderr) as bar:
        yield bar.update


@click.command("check-log")
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@database_option
@click.option("--url", metavar="URL", help="Ask a running service, not the database.")
@click.option(
    "--ignore-key",
    "ignored_keys",
    metavar="KEY",
    multiple=True,
    help="A key whose row needs no line in the log, such as an opening balance's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_log(
    *,
    log: Path,
    database_url: str | None,
    url: str | None,
    ignored_keys: tuple[str, ...],
    as_json: bool,
) -> None:
    """Hold the ledger against a client's own LOG: was every movement applied exactly once?

    LOG has a JSON object a line: every request before it is sent, every answer, and every answer
    that did not come. README.md, "Check it yourself", has the format. All rows of the users in
    the log must stem from the log.

    Exit status: 0 all promises held, 3 one was broken, 1 could not be checked, 2 wrong usage.
    """
    settings = settings_of(database_url=database_url)
    verdict = run(_checked(settings, log, url, ignored_keys))
    if as_json:
        said = {
            "holds": verdict.holds,
            "keys": verdict.keys,
            "settled": verdict.settled,
            "unsettled": verdict.unsettled,
            "transactions": verdict.rows,
            "broken": dict(verdict.counts),
            "first_broken": [finding._asdict() for finding in verdict.findings],
        }
        click.echo(json.dumps(said))
    else:
        click.echo(
            f"{verdict.keys} keys ({verdict.settled} answered, {verdict.unsettled} unknown), "
            f"{verdict.rows} transactions."
        )
        for finding in verdict.findings[:VIOLATIONS_SHOWN_MAX]:
            key = "" if finding.key is None else f", key {finding.key}"
            seq = "" if finding.transaction is None else f", transaction {finding.transaction}"
            click.echo(f"{finding.kind}: account {finding.user_id}{key}{seq}: {finding.detail}")
        total = sum(verdict.counts.values())
        click.echo("Exactly once." if verdict.holds else f"BROKEN: {total} findings.")
    sys.exit(0 if verdict.holds else EXIT_UNSOUND)


async def _checked(
    settings: Settings, log: Path, url: str | None, ignored_keys: tuple[str, ...]
) -> checker.Verdict:
    with log.open() as lines:
        events = list(history.parsed(lines, str(log)))
    keys: dict[str, dict[str, None]] = {}
    for event in events:
        keys.setdefault(event.user_id, {})[event.key] = None
    if url is None:
        with progress("Reading", 0) as advance:
            rows, balances = await evidence.of_database(settings, set(keys), advance)
    else:
        import httpx  # noqa: PLC0415 - only this command pays for it

        total = sum(map(len, keys.values()))
        with httpx.Client(base_url=url, timeout=30) as client, progress("Asking", total) as advance:
            rows, balances = evidence.of_service(client, keys, advance)
    return checker.check(events, rows, balances=balances, ignored_keys=ignored_keys)


@click.command()
@database_option
@click.option("--user", metavar="USER", help="Only this user's transactions.")
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(exporting.Format)),
    default="csv",
    show_default=True,
    help="CSV with a header, or a JSON object a line.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to a file, there only once it is complete; standard output unless given.",
)
def export(
    *, database_url: str | None, user: str | None, form: exporting.Format, output: Path | None
) -> None:
    """Write all transactions, or one user's, with their idempotency keys.

    It only reads, and may run beside the service. References stand as clients sent them: do not
    open the CSV in a spreadsheet that runs what begins with an equals sign.
    """
    settings = settings_of(database_url=database_url)
    written = run(_exported(settings, user, form, output))
    click.echo(f"{written} transactions.", err=True)


async def _exported(
    settings: Settings, user: str | None, form: exporting.Format, output: Path | None
) -> int:
    async with scan.opened(settings) as reader:
        ledger = scan.Scan(reader)
        await ledger.currency()
        account = None if user is None else await reader.account(user)
        if user is not None and account is None:
            raise StartError(f"There is no account of user {user!r}.")
        total = await ledger.rows_total() if account is None else account.seq
        draft = None if output is None else output.with_name(output.name + ".part")
        with ExitStack() as open_files:
            file = sys.stdout if draft is None else open_files.enter_context(_new_file(draft))
            advance = open_files.enter_context(progress("Exporting", total))
            account_id = None if account is None else account.id
            written = await exporting.export(
                ledger, file, form, account_id=account_id, progress=advance
            )
    if draft is not None and output is not None:
        draft.replace(output)
    return written


def _place(violation: Violation) -> str:
    user = "no account" if violation.user_id is None else f"account {violation.user_id}"
    where = f"{user} (id {violation.account_id})"
    return where if violation.seq is None else f"{where}, transaction {violation.seq}"


def _print(currency: Currency, findings: Findings, duration_s: float) -> None:
    rate = round(findings.rows / max(duration_s, 0.001))
    click.echo(
        f"{findings.accounts} accounts, {findings.rows} transactions replayed "
        f"in {duration_s:.1f} s ({rate}/s)."
    )
    for violation in findings.violations[:VIOLATIONS_SHOWN_MAX]:
        click.echo(f"{violation.kind}: {_place(violation)}: {violation.detail}")
    total = sum(findings.counts.values())
    if total > VIOLATIONS_SHOWN_MAX:
        click.echo(f"... and {total - VIOLATIONS_SHOWN_MAX} more.")
    if findings.sound:
        click.echo(f"Sound. All balances: {currency.text(findings.balance_minor)} {currency.code}.")
    else:
        click.echo(
            f"NOT SOUND: {total} violations; balances and rows differ by "
            f"{currency.text(findings.imbalance_minor)} {currency.code}. Keep the database as it "
            "is, take a copy, and compare with a backup."
        )


def _as_json(currency: Currency, findings: Findings, duration_s: float) -> dict[str, Any]:
    return {
        "sound": findings.sound,
        "accounts": findings.accounts,
        "transactions": findings.rows,
        "currency": currency.code,
        "currency_scale": currency.scale,
        "balance_minor": findings.balance_minor,
        "imbalance_minor": findings.imbalance_minor,
        "violations": dict(findings.counts),
        "first_violations": [
            {
                "kind": violation.kind,
                "account": violation.account_id,
                "user_id": violation.user_id,
                "transaction": violation.seq,
                "detail": violation.detail,
            }
            for violation in findings.violations
        ],
        "duration_s": round(duration_s, 3),
    }
