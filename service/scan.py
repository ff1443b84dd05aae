"""The whole ledger in order, a bounded page at a time, each page from one snapshot."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, func, select, text, tuple_

from service import database, schema
from service import reader as reading
from service.errors import StartError
from service.ledger import Account, Entry
from service.money import INT64_MAX, Currency
from service.reader import ENTRY_COLUMNS, Reader
from service.replay import Row
from service.schema import accounts, movements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.settings import Settings

PAGE_TIMEOUT_S: Final = 60.0

_HEAD_COLUMNS: Final = tuple(
    accounts.c[name] for name in ("id", "user_id", "balance_minor", "seq", "chain")
)
_HEADS: Final = (
    select(*_HEAD_COLUMNS)
    .where(accounts.c.id.between(bindparam("from_id"), bindparam("to_id")))
    .order_by(accounts.c.id)
    .limit(bindparam("limit"))
)
_ROWS: Final = (
    select(movements.c.account_id, *ENTRY_COLUMNS)
    .where(
        tuple_(movements.c.account_id, movements.c.seq)
        > tuple_(bindparam("from_id"), bindparam("after_seq")),
        movements.c.account_id <= bindparam("to_id"),
    )
    .order_by(movements.c.account_id, movements.c.seq)
    .limit(bindparam("limit"))
)

_UNTIL: Final = text(
    "SELECT max(created_at_us) FROM (SELECT created_at_us FROM movements "
    "WHERE created_at_us > :after_us ORDER BY created_at_us LIMIT :limit) AS new"
)
_RUNS: Final = """
SELECT account_id, min(seq) AS first_seq, max(seq) AS last_seq
FROM movements WHERE created_at_us > :after_us AND created_at_us <= :until_us
GROUP BY account_id
"""
_RUN: Final = (
    "CAST(run.value ->> 0 AS BIGINT)",
    "CAST(run.value ->> 1 AS BIGINT)",
    "CAST(run.value ->> 2 AS BIGINT)",
)
_ENTRY: Final = ", ".join(f"movements.{name}" for name in Entry._fields)
# The rows of runs, and each account's head as a row without a first_seq: one statement sees one
# moment, and needs no transaction around it.
_RECENT: Final = f"""
SELECT {_RUN[0]} AS account_id, {_RUN[1]} AS first_seq, {_ENTRY}
FROM {{each}} CROSS JOIN movements
WHERE account_id = {_RUN[0]} AND seq BETWEEN {_RUN[1]} - 1 AND {_RUN[2]}
UNION ALL
SELECT id, NULL, seq, user_id, NULL, NULL, NULL, NULL, balance_minor, NULL, NULL, chain
FROM accounts WHERE id IN (SELECT {_RUN[0]} FROM {{each}})
"""  # noqa: S608 - made of constants
_EACH: Final = {
    "sqlite": "json_each(:runs) AS run",
    "postgresql": "jsonb_array_elements(CAST(:runs AS jsonb)) AS run(value)",
}


class Page(NamedTuple):
    """Accounts by id, and their rows by account and sequence number, from one snapshot.

    The last account may go on in the next page, which then begins with its head read again.
    """

    heads: list[Account]
    rows: list[Row]


class Run(NamedTuple):
    """Rows of one account without a gap, by their sequence numbers."""

    account_id: int
    first_seq: int
    last_seq: int


class Recent(NamedTuple):
    """A run's rows with the one before it, and the account's head, all from one snapshot.

    See ``replay.recent_violations``.
    """

    run: Run
    head: Account | None
    entries: list[Entry]


class Scan:
    """Reads of the whole ledger, for the audit and the export."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._runs = _Listing(_RUNS, Run._fields, reader.engine.dialect.name)
        columns = ("account_id", "first_seq", *Entry._fields)
        self._recent = _Listing(_RECENT, columns, reader.engine.dialect.name)

    @property
    def one_clock(self) -> bool:
        """Whether the rows' times come in the order of their commits.

        In SQLite one machine's clock is read under the write lock; elsewhere clocks differ.
        """
        return self._reader.engine.dialect.name == "sqlite"

    async def currency(self) -> Currency:
        """The ledger's own currency. Raises StartError if the database holds no ledger."""

        async def read(connection: AsyncConnection) -> Currency | None:
            if not await connection.run_sync(
                lambda on: on.dialect.has_table(on, schema.ledger.name)
            ):
                return None
            columns = (schema.ledger.c.currency, schema.ledger.c.currency_scale)
            row = (await connection.execute(select(*columns))).one_or_none()
            return row and Currency(*row)

        found = await self._reader.read(read)
        if found is None:
            raise StartError(
                "The database is not a Teller ledger. Name the right one with --database "
                "(TELLER_DATABASE_URL), or make one: teller migrate"
            )
        return found

    async def rows_total(self) -> int:
        """How many rows the accounts' heads speak of."""

        async def read(connection: AsyncConnection) -> int:
            return int(await connection.scalar(select(func.sum(accounts.c.seq))) or 0)

        return await self._reader.read(read, timeout_s=PAGE_TIMEOUT_S)

    async def pages(self, *, rows_max: int, account_id: int | None = None) -> AsyncIterator[Page]:
        """Every account and row, or those of one account, in order.

        Args:
            rows_max: rows, and accounts, in a page at most; 2 or more.
            account_id: only this account.
        """
        from_id, after_seq = (-INT64_MAX, 0) if account_id is None else (account_id, 0)
        last_id = INT64_MAX if account_id is None else account_id
        while True:
            page, to_id = await self._page(from_id, after_seq, last_id, rows_max)
            yield page
            if to_id is None:
                return
            if page.rows and page.rows[-1].account_id == to_id:
                after_seq = page.rows[-1].entry.seq
            elif to_id != from_id:
                after_seq = 0
            from_id = to_id

    async def _page(
        self, from_id: int, after_seq: int, last_id: int, rows_max: int
    ) -> tuple[Page, int | None]:
        """A page, and the account it ends in; None at the end of the ledger."""

        async def read(connection: AsyncConnection) -> tuple[Page, int | None]:
            asked = {"from_id": from_id, "to_id": last_id, "limit": rows_max}
            found = (await connection.execute(_ROWS, asked | {"after_seq": after_seq})).all()
            to_id = found[-1][0] if len(found) == rows_max else last_id
            asked["to_id"] = to_id
            heads = [Account(*row) for row in await connection.execute(_HEADS, asked)]
            if len(heads) == rows_max and heads[-1].id < to_id:
                # Many accounts without a row: the page ends with the last of these.
                to_id = heads[-1].id
                found = [row for row in found if row[0] <= to_id]
            rows = [Row(row[0], Entry._make(row[1:])) for row in found]
            at_end = to_id == last_id and len(rows) < rows_max and len(heads) < rows_max
            return Page(heads, rows), None if at_end else to_id

        return await self._reader.read(read, timeout_s=PAGE_TIMEOUT_S, snapshot=True)

    async def new_runs(self, *, after_us: int, rows_max: int) -> tuple[list[Run], int | None]:
        """Which rows were created after a time, by account, and up to when; None: none were.

        Args:
            after_us: microseconds since 1970 UTC.
            rows_max: rows to find at most; those of one moment are not parted.
        """

        async def read(connection: AsyncConnection) -> tuple[list[Run], int | None]:
            until_us = await connection.scalar(_UNTIL, {"after_us": after_us, "limit": rows_max})
            if until_us is None:
                return [], None
            asked = {"after_us": after_us, "until_us": until_us}
            runs = [Run(*run) for run in await self._runs.read(connection, asked)]
            return runs, int(until_us)

        return await self._reader.read(read, timeout_s=PAGE_TIMEOUT_S, snapshot=True)

    async def recent(self, runs: Sequence[Run]) -> list[Recent]:
        """The rows of those runs, each with the row before it and its account's head."""

        async def read(connection: AsyncConnection) -> list[Recent]:
            heads: dict[int, Account] = {}
            entries: dict[tuple[int, int], list[Entry]] = {run[:2]: [] for run in runs}
            asked = {"runs": json.dumps(runs)}
            for row in await self._recent.read(connection, asked):
                account_id, first_seq = row[:2]
                entry = Entry._make(row[2:])
                if first_seq is None:
                    heads[account_id] = Account(
                        account_id, entry.key, entry.balance_after_minor, entry.seq, entry.chain
                    )
                else:
                    entries[account_id, first_seq].append(entry)
            return [
                Recent(run, heads.get(run.account_id), sorted(entries[run[:2]])) for run in runs
            ]

        return await self._reader.read(read, timeout_s=PAGE_TIMEOUT_S)


class _Listing:
    """A statement of which all rows are wanted.

    SQLite gives them as one JSON value: one step of the database however many they are. Row by row
    each would take the GIL from the event loop, and give it back. PostgreSQL's server takes longer
    to make JSON than all else that it does for them.
    """

    def __init__(self, statement: str, columns: Sequence[str], dialect: str) -> None:
        rows = statement.format(each=_EACH[dialect])
        values = ", ".join("hex(chain)" if name == "chain" else name for name in columns)
        packed = f"SELECT json_group_array(json_array({values})) FROM ({rows})"  # noqa: S608 - made of constants
        self._packed = dialect == "sqlite"
        self._chain = columns.index("chain") if "chain" in columns else None
        self.statement = text(packed if self._packed else rows)

    async def read(self, connection: AsyncConnection, asked: dict[str, Any]) -> Sequence[Any]:
        found = await connection.execute(self.statement, asked)
        if not self._packed:
            return found.all()
        rows: list[list[Any]] = json.loads(found.scalar_one())
        if self._chain is not None:
            for row in rows:
                row[self._chain] = bytes.fromhex(row[self._chain])
        return rows


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Reader]:
    """A reader of the settings' ledger, beside whatever service runs on it.

    Raises:
        StartError: the database cannot be opened safely.
    """
    async with (
        database.opened_to_read(settings) as engine,
        reading.Reader(engine).running() as reader,
    ):
        yield reader
