"""The PostgreSQL store: a batch is two set-based statements, or five where it locks first."""

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
from service.postgres_writer import (
    UNKNOWN,
    ConflictError,
    Decided,
    LostError,
    Writer,
    unavailable,
)
from service.store import Checkpoint, now_us, revision_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.ledger import Decision, Movement
    from service.money import Currency
    from service.postgres_writer import Work
    from service.settings import Settings
    from service.store import Revision, Timing

# The server works on the one while the service answers the other (NOTES.md, Performance).
BATCHES_AT_ONCE: Final = 2
CONFLICTS_MAX: Final = 10
# A server that is there ends a statement at its limit; one that is not is hung up on after that.
SILENCE_MARGIN_S: Final = 0.5
# So many batches at most lock first before one is tried again without.
LOCKING_MAX: Final = 63
PAUSE_MAX_S: Final = 0.2

Result = TypeVar("Result")

# The order of the locks is one for all processes, so that no two wait for each other.
_LOCK_ACCOUNTS: Final = """
SELECT 1 FROM accounts WHERE user_id = ANY(string_to_array($1, E'\\n'))
ORDER BY id FOR NO KEY UPDATE
"""

# After the locks, where there are any, as a statement of its own: under READ COMMITTED a statement
# sees what was committed when it began, and the one that waited for the locks began too early to
# see their holder's rows. Each key is looked up by itself (LIMIT): a plan made while the ledger is
# empty would else read all rows of an account for it.
_LOOK_UP: Final = """
SELECT a.id, a.user_id, a.balance_minor, a.seq, a.chain,
       m.key, m.seq, m.kind, m.outcome, m.reason, m.amount_minor,
       m.balance_after_minor, m.reference, m.created_at_us, m.chain
FROM unnest(string_to_array($1, E'\\n'), string_to_array($2, E'\\n')) AS asked (user_id, key)
JOIN accounts AS a ON a.user_id = asked.user_id
LEFT JOIN LATERAL (
    SELECT * FROM movements WHERE account_id = a.id AND key = asked.key LIMIT 1
) AS m ON true
"""

_OPEN_ACCOUNTS: Final = """
INSERT INTO accounts (user_id, balance_minor, seq, chain, opened_at_us)
SELECT user_id, 0, 0, chain, $3 FROM unnest($1::text[], $2::bytea[]) AS new (user_id, chain)
ON CONFLICT (user_id) DO NOTHING
RETURNING id, user_id
"""

# Holds each account if it still has the head that was decided from, and only then writes. Rows
# come as lines of fields with tabs between, as no field holds a control character: the driver
# takes longer for eleven arrays than for all else that it does. A count that is not as it should
# be divides by zero, which undoes the statement.
_WRITE: Final = """
WITH held AS (
    SELECT accounts.id FROM (
        SELECT string_to_array(line, E'\\t') AS f
        FROM unnest(string_to_array($1, E'\\n')) AS line OFFSET 0) AS head
    JOIN accounts ON accounts.id = f[1]::bigint AND accounts.seq = f[2]::bigint
    ORDER BY accounts.id FOR NO KEY UPDATE OF accounts
), new AS (
    SELECT f[1]::bigint AS account_id, f[2]::bigint AS seq, f[3] AS key, f[4] AS kind,
           f[5] AS outcome, f[6] AS reason, f[7]::bigint AS amount_minor,
           f[8]::bigint AS balance_minor, f[9] AS reference, decode(f[10], 'hex') AS chain
    FROM (
        SELECT string_to_array(line, E'\\t', '') AS f
        FROM unnest(string_to_array($2, E'\\n')) AS line OFFSET 0) AS entry
    WHERE (SELECT count(*) FROM held) = $4
), written AS (
    INSERT INTO movements (account_id, seq, key, kind, outcome, reason, amount_minor,
                           balance_after_minor, reference, created_at_us, chain)
    SELECT account_id, seq, key, kind, outcome, reason, amount_minor, balance_minor, reference,
           $3, chain
    FROM new
    RETURNING 1
), moved AS (
    UPDATE accounts SET balance_minor = last.balance_minor, seq = last.seq, chain = last.chain
    FROM (SELECT DISTINCT ON (account_id) * FROM new ORDER BY account_id, seq DESC) AS last
    WHERE accounts.id = last.account_id
    RETURNING 1
)
SELECT CASE WHEN (SELECT count(*) FROM held) = $4 THEN 1 / (
    (SELECT count(*) FROM written) = $5 AND (SELECT count(*) FROM moved) = $6)::integer END
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
        self._contention = _Contention()
        self.timing: Timing | None = None

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        """See ``Store.commit``: run again where that is safe, within bounds."""
        in_doubt: list[list[Decision]] = []

        async def work(driver: Any, *, locking: bool) -> Decided[list[Decision]]:
            return await self._decide(driver, movements, locking=locking)

        decisions = await self._run(work, in_doubt, locking=self._contention.locks_first())
        for attempt in reversed(in_doubt):
            decisions = [
                then if _same_row(then, now) else now
                for then, now in zip(attempt, decisions, strict=True)
            ]
        return decisions

    async def open_accounts(self, users: Sequence[str]) -> list[str]:
        """See ``Store.open_accounts``."""
        wanted = list(dict.fromkeys(users))

        async def work(driver: Any, *, locking: bool) -> Decided[list[str]]:  # noqa: ARG001 - always
            opened = await self._open(driver, wanted, self._clock_us())
            return Decided([user for user in wanted if user in opened], None, _nothing)

        return await self._run(work, [], locking=True)

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

    async def _run(self, work: Work[Result], in_doubt: list[Result], *, locking: bool) -> Result:
        """Run ``work`` in a transaction until its result is known, or give up.

        Args:
            work: as for ``Writer.transaction``.
            in_doubt: takes what each commit that never answered would have stored.
            locking: whether between BEGIN and COMMIT the first time; it is so when run again.
        """
        loop = asyncio.get_running_loop()
        async with self._writing() as writer:
            give_up_at_s = loop.time() + self._settle_max_s
            overtaken_ns: int | None = None
            for attempt in itertools.count(1):
                began_ns = time.time_ns()
                try:
                    result, timing = await writer.transaction(work, in_doubt, locking=locking)
                except Exception as error:
                    if in_doubt:
                        if type(error) not in _TRIES_MAX or loop.time() > give_up_at_s:
                            raise OutcomeUnknownError(UNKNOWN, restart=False) from error
                    elif not locking and isinstance(error, ConflictError):
                        self._contention.overtaken()
                        locking, overtaken_ns = True, began_ns
                        continue
                    elif attempt >= _TRIES_MAX.get(type(error), 1):
                        if isinstance(error, ConflictError | LostError):
                            raise unavailable(error.__cause__ or error) from error
                        raise
                else:
                    if not locking:
                        self._contention.kept_up()
                    # What was in vain was for want of the locks.
                    self.timing = timing._replace(began_ns=overtaken_ns or timing.began_ns)
                    return result
                locking = True
                pause_s = min(PAUSE_MAX_S, 0.005 * 2**attempt)
                await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 - spreads retries
        raise AssertionError("unreachable")

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

    async def _decide(
        self, driver: Any, movements: Sequence[Movement], *, locking: bool
    ) -> Decided[list[Decision]]:
        """Decide from the accounts and keys as they are; the write fails if they are not any more.

        Between BEGIN and COMMIT the accounts are locked first, and stay as they are.
        """
        users = list({m.user_id: None for m in movements})
        if locking:
            await driver.fetch(_LOCK_ACCOUNTS, "\n".join(users))
        locked_ns = time.time_ns() if locking else None
        asked = [(m.user_id, m.key) for m in movements]
        rows = await driver.fetch(_LOOK_UP, *map("\n".join, zip(*asked, strict=True)))
        now = self._clock_us()  # not before the rows that these come after
        accounts = {row[1]: Account(*row[:5]) for row in rows}
        if self._open_on_first and len(accounts) < len(users):
            missing = [user for user in users if user not in accounts]
            opened = await self._open(driver, missing, now) if locking else {}
            if len(opened) < len(missing):
                # To be opened, or opened meanwhile by another process: lock it in order first.
                raise ConflictError
            accounts |= opened
        heads = [f"{account.id}\t{account.seq}" for account in accounts.values()]
        folded = fold(
            movements,
            accounts=accounts,
            firsts={
                (row[1], row[5]): Entry(row[6], row[5], *row[7:])
                for row in rows
                if row[5] is not None
            },
            balance_max_minor=self._balance_max_minor,
            now_us=now,
        )
        lines = [_line(account, entry) for account, entry in folded.entries]
        counts = len(heads), len(lines), len(folded.accounts)

        async def write() -> None:
            packed = "\n".join(heads), "\n".join(lines)
            if await driver.fetchval(_WRITE, *packed, now, *counts) is None:
                raise ConflictError  # somebody wrote to one of the accounts meanwhile

        return Decided(folded.decisions, locked_ns, write)

    async def _open(self, driver: Any, users: list[str], now: int) -> dict[str, Account]:
        # In one order in all processes, as the locks are.
        chains = {user: genesis(user, self._currency) for user in sorted(users)}
        rows = await driver.fetch(_OPEN_ACCOUNTS, list(chains), list(chains.values()), now)
        return {user: Account(id_, user, 0, 0, chains[user]) for id_, user in rows}


class _Contention:
    """Whether a batch locks before it reads: more of them, the more often others were quicker."""

    def __init__(self) -> None:
        self._locking = 0
        self._left = 0

    def locks_first(self) -> bool:
        """Whether the next batch does."""
        if self._left == 0:
            return False
        self._left -= 1
        return True

    def overtaken(self) -> None:
        """A batch that did not lock came too late."""
        self._left = self._locking = min(2 * self._locking + 1, LOCKING_MAX)

    def kept_up(self) -> None:
        """A batch that did not lock was committed."""
        self._locking //= 2


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
            silence_max_s=settings.database_statement_timeout_ms / 1000 + SILENCE_MARGIN_S,
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


def _line(account: Account, entry: Entry) -> str:
    """The row as ``_WRITE`` takes it."""
    seq, key, kind, outcome, reason, amount_minor, balance_minor, reference, _, chain = entry
    return (
        f"{account.id}\t{seq}\t{key}\t{kind}\t{outcome}\t{reason or ''}\t"
        f"{'' if amount_minor is None else amount_minor}\t{balance_minor}\t{reference or ''}\t"
        f"{chain.hex()}"
    )


async def _nothing() -> None:
    pass


def _same_row(then: Decision, now: Decision) -> bool:
    """Whether the row found now is the one that the earlier attempt was the first to write."""
    return (
        isinstance(then, Recorded)
        and isinstance(now, Recorded)
        and not then.replayed
        and now.entry == then.entry
    )
