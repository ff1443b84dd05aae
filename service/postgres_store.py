"""The PostgreSQL store: account rows locked in order, a few set-based statements a batch."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from service import postgres
from service.errors import OutcomeUnknownError, UnavailableError
from service.ledger import Account, Entry, Recorded, fold, genesis
from service.postgres_writer import UNKNOWN, ConflictError, LostError, Writer, unavailable
from service.store import Checkpoint, now_us, revision_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.ledger import Decision, Movement
    from service.money import Currency
    from service.settings import Settings
    from service.store import Revision, Timing

# The server works on the one while the service answers the other (NOTES.md, Performance).
BATCHES_AT_ONCE: Final = 2
CONFLICTS_MAX: Final = 10
PAUSE_MAX_S: Final = 0.2

Result = TypeVar("Result")

# The order of the locks is one for all processes, so that no two wait for each other.
_LOCK_ACCOUNTS: Final = """
SELECT id, user_id, balance_minor, seq, chain FROM accounts
WHERE user_id = ANY($1::text[]) ORDER BY id FOR NO KEY UPDATE
"""

# A statement of its own after the locks: under READ COMMITTED a statement sees what was committed
# when it began, and the one that waited for the locks began too early to see their holder's rows.
_LOOK_UP: Final = """
SELECT m.account_id, m.seq, m.key, m.kind, m.outcome, m.reason, m.amount_minor,
       m.balance_after_minor, m.reference, m.created_at_us, m.chain
FROM unnest($1::bigint[], $2::text[]) AS asked (account_id, key)
JOIN movements AS m ON m.account_id = asked.account_id AND m.key = asked.key
"""

_OPEN_ACCOUNTS: Final = """
INSERT INTO accounts (user_id, balance_minor, seq, chain, opened_at_us)
SELECT user_id, 0, 0, chain, $3 FROM unnest($1::text[], $2::bytea[]) AS new (user_id, chain)
ON CONFLICT (user_id) DO NOTHING
RETURNING id, user_id
"""

_WRITE: Final = """
WITH written AS (
    INSERT INTO movements (account_id, seq, key, kind, outcome, reason, amount_minor,
                           balance_after_minor, reference, created_at_us, chain)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[],
                         $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::bigint[],
                         $11::bytea[])
    RETURNING 1
), moved AS (
    UPDATE accounts SET balance_minor = head.balance_minor, seq = head.seq, chain = head.chain
    FROM unnest($12::bigint[], $13::bigint[], $14::bigint[], $15::bytea[])
        AS head (id, balance_minor, seq, chain)
    WHERE accounts.id = head.id
    RETURNING 1
)
SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM moved)
"""


class PostgresStore:
    """The ledger in one PostgreSQL database, of which any number may be at work at once.

    See ``Store`` for the promises. Unlike a file, a server outlives the process: when a COMMIT's
    answer is lost, the row tells what became of it, and no restart is needed.
    """

    def __init__(
        self,
        writers: AsyncEngine,
        readers: AsyncEngine,
        *,
        currency: Currency,
        balance_max_minor: int,
        open_on_first: bool,
        silence_max_s: float,
        settle_max_s: float,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._writers = [Writer(writers, silence_max_s) for _ in range(BATCHES_AT_ONCE)]
        self._idle = self._writers[::-1]
        self._turns = asyncio.Semaphore(len(self._writers))
        self.batches_max: Final = len(self._writers)
        self.readers: Final = readers
        self._currency = currency
        self._balance_max_minor = balance_max_minor
        self._open_on_first = open_on_first
        self._settle_max_s = settle_max_s
        self._clock_us = clock_us
        self.timing: Timing | None = None

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        """See ``Store.commit``: run again where that is safe, within bounds."""
        in_doubt: list[list[Decision]] = []

        async def work(driver: Any) -> tuple[list[Decision], int]:
            return await self._decide_and_write(driver, movements)

        decisions = await self._run(work, in_doubt)
        for attempt in reversed(in_doubt):
            decisions = [
                then if _same_row(then, now) else now
                for then, now in zip(attempt, decisions, strict=True)
            ]
        return decisions

    async def open_accounts(self, users: Sequence[str]) -> list[str]:
        """See ``Store.open_accounts``."""
        wanted = list(dict.fromkeys(users))

        async def work(driver: Any) -> tuple[list[str], int]:
            opened = await self._open(driver, wanted, self._clock_us())
            return [user for user in wanted if user in opened], time.time_ns()

        return await self._run(work, [])

    async def checkpoint(self) -> Checkpoint | None:
        """Nothing: the server has its own housekeeping."""
        return Checkpoint(0, 0)

    async def revision(self) -> Revision:
        """See ``Store.revision``."""
        return await revision_of(self.readers)

    async def close(self) -> None:
        """Give the writing connections back."""
        for writer in self._writers:
            await writer.close()

    # -- one transaction, and whether it may be run again -----------------------------------

    async def _run(
        self, work: Callable[[Any], Awaitable[tuple[Result, int]]], in_doubt: list[Result]
    ) -> Result:
        """Run ``work`` in a transaction until its result is known, or give up.

        Args:
            work: the statements between BEGIN and COMMIT, as for ``Writer.transaction``.
            in_doubt: takes what each COMMIT that never answered would have stored.
        """
        loop = asyncio.get_running_loop()
        async with self._writing() as writer:
            give_up_at_s = loop.time() + self._settle_max_s
            for attempt in itertools.count(1):
                try:
                    result, self.timing = await writer.transaction(work, in_doubt)
                except Exception as error:
                    if in_doubt:
                        if type(error) not in _TRIES_MAX or loop.time() > give_up_at_s:
                            raise OutcomeUnknownError(UNKNOWN, restart=False) from error
                    elif self._beside_another(error) and loop.time() < give_up_at_s:
                        pass  # this process's own batch has the locks, and will have an end
                    elif attempt >= _TRIES_MAX.get(type(error), 1):
                        if isinstance(error, ConflictError | LostError):
                            raise unavailable(error.__cause__ or error) from error
                        raise
                else:
                    return result
                pause_s = min(PAUSE_MAX_S, 0.005 * 2**attempt)
                await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 - spreads retries
        raise AssertionError("unreachable")

    def _beside_another(self, error: Exception) -> bool:
        """Whether it is a lock that was waited for too long, and another batch is at work here."""
        waited = isinstance(error, UnavailableError) and error.cause == postgres.LOCK_NOT_AVAILABLE
        return waited and len(self._writers) - len(self._idle) > 1

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Writer]:
        """A writing connection for one transaction; the first one as long as one is enough."""
        async with self._turns:
            writer = self._idle.pop()
            try:
                yield writer
            finally:
                self._idle.append(writer)
                self._idle.sort(key=self._writers.index, reverse=True)

    # -- the statements ---------------------------------------------------------------------

    async def _decide_and_write(
        self, driver: Any, movements: Sequence[Movement]
    ) -> tuple[list[Decision], int]:
        """The decisions, and when the accounts were locked."""
        users = list({m.user_id: None for m in movements})
        accounts = {row[1]: Account(*row) for row in await driver.fetch(_LOCK_ACCOUNTS, users)}
        locked_ns = time.time_ns()
        now = self._clock_us()
        if self._open_on_first and len(accounts) < len(users):
            missing = [user for user in users if user not in accounts]
            opened = await self._open(driver, missing, now)
            if len(opened) < len(missing):
                # Another process opened one of them meanwhile: begin again, and lock it in order.
                raise ConflictError
            accounts |= opened
        names = {account.id: user for user, account in accounts.items()}
        asked = [(accounts[m.user_id].id, m.key) for m in movements if m.user_id in accounts]
        rows = await driver.fetch(_LOOK_UP, [a[0] for a in asked], [a[1] for a in asked])
        folded = fold(
            movements,
            accounts=accounts,
            firsts={(names[row[0]], row[2]): Entry(*row[1:]) for row in rows},
            balance_max_minor=self._balance_max_minor,
            now_us=now,
        )
        if folded.entries:
            new = zip(*[(account.id, *entry) for account, entry in folded.entries], strict=True)
            heads = zip(
                *[(a.id, a.balance_minor, a.seq, a.chain) for a in folded.accounts], strict=True
            )
            counts = await driver.fetchrow(_WRITE, *new, *heads)
            if tuple(counts) != (len(folded.entries), len(folded.accounts)):
                raise AssertionError(f"{tuple(counts)} of {len(folded.entries)} rows were written")
        return folded.decisions, locked_ns

    async def _open(self, driver: Any, users: list[str], now: int) -> dict[str, Account]:
        # In one order in all processes, as the locks are.
        chains = {user: genesis(user, self._currency) for user in sorted(users)}
        rows = await driver.fetch(_OPEN_ACCOUNTS, list(chains), list(chains.values()), now)
        return {user: Account(id_, user, 0, 0, chains[user]) for id_, user in rows}


@asynccontextmanager
async def opened(
    settings: Settings, writers: AsyncEngine, *, clock_us: Callable[[], int] = now_us
) -> AsyncIterator[PostgresStore]:
    """The store on a migrated database; its writing connections are opened by batches."""
    async with postgres.opened(settings, read_only=True) as readers:
        store = PostgresStore(
            writers,
            readers,
            currency=settings.money(),
            balance_max_minor=settings.balance_max_minor(),
            open_on_first=settings.account_opening == "on_first_deposit",
            silence_max_s=settings.database_statement_timeout_ms / 1000,
            settle_max_s=settings.answer_timeout_ms / 1000,
            clock_us=clock_us,
        )
        try:
            yield store
        finally:
            await store.close()


# How often a transaction that is known to be undone is tried, by what undid it. An idle connection
# may have been lost long ago: the next one decides.
_TRIES_MAX: Final[dict[type[Exception], int]] = {
    ConflictError: CONFLICTS_MAX,
    LostError: 2,
    UnavailableError: 1,
    OutcomeUnknownError: 1,
}


def _same_row(then: Decision, now: Decision) -> bool:
    """Whether the row found now is the one that the earlier attempt was the first to write."""
    return (
        isinstance(then, Recorded)
        and isinstance(now, Recorded)
        and not then.replayed
        and now.entry == then.entry
    )
