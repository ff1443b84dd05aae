"""The audit: every row replayed on demand, and inside the service without an end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from service import heads
from service.errors import OperatingError
from service.replay import VIOLATIONS_KEPT_MAX, Replay, Violation, recent_violations
from service.scan import Run
from service.store import now_us

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from service.ledger import Account
    from service.money import Currency
    from service.replay import Findings, Kind
    from service.scan import Recent, Scan

ROWS_PER_PAGE: Final = 5_000

# Inside the service: small pages, far apart, so that no request waits for one.
TAIL_PERIOD_S: Final = 2.0
TAIL_ROWS_PER_WINDOW: Final = 16_384
TAIL_ROWS_PER_PAGE: Final = 256
TAIL_PAUSE_S: Final = 0.005
PASS_ROWS_PER_PAGE: Final = 256
PASS_PAUSE_S: Final = 0.1
BETWEEN_PASSES_S: Final = 60.0
# Several machines' clocks, and commits that come later than their rows' times.
CLOCK_SKEW_US: Final = 5_000_000

log = logging.getLogger(__name__)


async def audit(
    scan: Scan,
    *,
    kept: Iterator[heads.Head] | None = None,
    on_account: Callable[[Account], None] | None = None,
    progress: Callable[[int], object] = lambda _rows: None,
) -> Findings:
    """Replay the whole ledger as it stands, beside whatever writes to it; memory is bounded.

    Args:
        scan: of the ledger.
        kept: chain heads kept elsewhere, to compare with.
        on_account: called with every account's head once it is replayed.
        progress: called with the number of rows of each page.
    """
    replay = Replay(await scan.currency())
    comparison = None if kept is None else heads.Comparison(kept, replay.findings)

    def account_done(head: Account) -> None:
        if comparison is not None:
            comparison.account(head)
        if on_account is not None:
            on_account(head)

    replay.on_row = None if comparison is None else comparison.row
    replay.on_account = account_done
    async for page in scan.pages(rows_max=ROWS_PER_PAGE):
        replay.page(page.heads, page.rows)
        progress(len(page.rows))
    findings = replay.finish()
    if comparison is not None:
        comparison.finish()
    return findings


@dataclass(slots=True)
class AuditState:
    """What the continuous audit knows, ready for metrics and probes.

    ``imbalance_minor`` is as of the last full pass, see ``replay.Findings``.
    ``last_pass_at_s`` is in seconds since 1970 UTC; None before the first pass has ended.
    """

    rows_checked_total: int = 0
    imbalance_minor: int = 0
    last_pass_at_s: float | None = None
    last_pass_duration_s: float | None = None
    tail_current_at_s: float = field(default_factory=time.monotonic)
    _tail: dict[Violation, None] = field(default_factory=dict)
    _pass: dict[Violation, None] = field(default_factory=dict)
    _before_pass: list[Violation] = field(default_factory=list)

    @property
    def tail_age_s(self) -> float:
        """For how long new rows may have gone unchecked, in seconds."""
        return time.monotonic() - self.tail_current_at_s

    @property
    def violations(self) -> Counter[Kind]:
        """The known violations by kind: of new rows, and of the latest full pass."""
        return Counter(violation.kind for violation in {**self._tail, **self._pass})

    def add(self, violations: Iterable[Violation], *, of_tail: bool) -> None:
        """Keep the violations that are new, VIOLATIONS_KEPT_MAX at most, and log each."""
        known = self._tail if of_tail else self._pass
        for violation in violations:
            if violation in known or len(known) >= VIOLATIONS_KEPT_MAX:
                continue
            known[violation] = None
            if violation not in (self._pass if of_tail else self._tail):
                # Never an amount beside a user: `teller audit` tells an operator the rest.
                log.error(
                    "audit violation",
                    extra={
                        "kind": violation.kind,
                        "account_id": violation.account_id,
                        "transaction": violation.seq,
                    },
                )

    def begin_pass(self) -> None:
        """A full pass begins: it will meet every row known now, if that is still wrong."""
        self._before_pass = list(self._tail)

    def end_pass(self, findings: Findings, duration_s: float) -> None:
        """A full pass has ended: what it did not find again is no longer so."""
        self._pass = dict.fromkeys(findings.violations)
        for violation in self._before_pass:
            del self._tail[violation]
        self.imbalance_minor = findings.imbalance_minor
        self.last_pass_at_s = time.time()
        self.last_pass_duration_s = duration_s


class _Audited(NamedTuple):
    """Rows of one account without a gap, and up to when rows were looked for when it grew."""

    first_seq: int
    last_seq: int
    until_us: int

    def with_(self, run: Run, until_us: int) -> _Audited:
        """What is audited once the run is: both, or the run alone where rows lie between."""
        if run.first_seq > self.last_seq + 1 or run.last_seq < self.first_seq - 1:
            return _Audited(run.first_seq, run.last_seq, until_us)
        return _Audited(
            min(self.first_seq, run.first_seq),
            max(self.last_seq, run.last_seq),
            max(self.until_us, until_us),
        )


class Auditor:
    """The continuous audit of a service: new rows within seconds, all rows again and again.

    Args:
        scan: of the ledger.
        currency: the ledger's own.
        state: where the findings go.
    """

    def __init__(self, scan: Scan, currency: Currency, state: AuditState) -> None:
        self._scan = scan
        self._currency = currency
        self.state = state
        self._after_us = now_us()
        # What was audited of the rows that are found again, by account.
        self._audited: dict[int, _Audited] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Auditor]:
        """Audit until the end of the block."""
        tasks = [
            asyncio.create_task(_for_ever(self.check_new, TAIL_PERIOD_S), name="audit-tail"),
            asyncio.create_task(_for_ever(self.check_all, BETWEEN_PASSES_S), name="audit-pass"),
        ]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def check_new(self) -> None:
        """Check every row created since the last call, whichever process wrote it."""
        try:
            await self._check_new()
        except BaseException:
            # The database may be another one next time, a standby that lacks what was audited.
            self._audited.clear()
            raise

    async def _check_new(self) -> None:
        started_s = time.monotonic()
        skew_us = 0 if self._scan.one_clock else CLOCK_SKEW_US
        # After a clock was set back, new rows are older than the last one seen.
        after_us = min(self._after_us, now_us()) - skew_us
        rows = TAIL_ROWS_PER_WINDOW
        # The rest of a window that is not full is the next call's: few rows cost as much as a page.
        while rows >= TAIL_ROWS_PER_WINDOW:
            runs, until_us = await self._scan.new_runs(
                after_us=after_us, rows_max=TAIL_ROWS_PER_WINDOW
            )
            if until_us is None:
                break
            rows = sum(run.last_seq - run.first_seq + 1 for run in runs)
            new = [run for run in map(self._unaudited, runs) if run is not None]
            for page in _paged(new, TAIL_ROWS_PER_PAGE):
                for recent in await self._scan.recent(page):
                    self.state.add(self._violations(recent), of_tail=True)
                    self.state.rows_checked_total += len(recent.entries)
                await asyncio.sleep(TAIL_PAUSE_S)
            for run in runs:
                known = self._audited.get(run.account_id)
                self._audited[run.account_id] = (
                    known.with_(run, until_us)
                    if known
                    else _Audited(run.first_seq, run.last_seq, until_us)
                )
            self._audited = {
                account_id: known
                for account_id, known in self._audited.items()
                if known.until_us > until_us - skew_us
            }
            self._after_us = after_us = until_us
        self.state.tail_current_at_s = started_s

    def _unaudited(self, run: Run) -> Run | None:
        """The run without what was audited: rows of the last seconds are found again each time."""
        known = self._audited.get(run.account_id)
        if known is None or run.first_seq < known.first_seq:
            return run
        if run.last_seq <= known.last_seq:
            return None
        return run._replace(first_seq=max(run.first_seq, known.last_seq + 1))

    async def check_all(self) -> None:
        """Replay the whole ledger once, slowly."""
        started_s = time.monotonic()
        self.state.begin_pass()
        replay = Replay(self._currency)
        known = 0
        async for page in self._scan.pages(rows_max=PASS_ROWS_PER_PAGE):
            replay.page(page.heads, page.rows)
            self.state.add(replay.findings.violations[known:], of_tail=False)
            known = len(replay.findings.violations)
            self.state.rows_checked_total += len(page.rows)
            await asyncio.sleep(PASS_PAUSE_S)
        findings = replay.finish()
        self.state.add(findings.violations[known:], of_tail=False)
        self.state.end_pass(findings, time.monotonic() - started_s)

    def _violations(self, recent: Recent) -> list[Violation]:
        run = recent.run
        if recent.head is None:
            return [Violation("row-orphaned", run.account_id, None, run.first_seq, "")]
        return recent_violations(
            recent.head, recent.entries, first_new_seq=run.first_seq, currency=self._currency
        )


def _paged(runs: Iterable[Run], rows_max: int) -> Iterator[list[Run]]:
    """The runs in pages of about so many rows, a longer one in pieces.

    Many rows of one account are read for little more than the account's head and the row before
    them, so that a page holds few accounts rather than few moments.
    """
    page: list[Run] = []
    rows = 0
    for account_id, first_seq, last_seq in runs:
        for first in range(first_seq, last_seq + 1, rows_max):
            piece = Run(account_id, first, min(first + rows_max - 1, last_seq))
            page.append(piece)
            rows += piece.last_seq - first + 2
            if rows >= rows_max:
                yield page
                page, rows = [], 0
    if page:
        yield page


async def _for_ever(check: Callable[[], Awaitable[None]], period_s: float) -> None:
    while True:
        await asyncio.sleep(min(period_s, TAIL_PERIOD_S))
        try:
            await check()
        except OperatingError as error:
            log.warning("audit could not read", extra={"error": error.detail})
        except Exception:  # the audit must live: what it cannot judge today it may tomorrow
            log.exception("audit failed")
        await asyncio.sleep(max(0.0, period_s - TAIL_PERIOD_S))
