"""Bugs of the transaction: what is answered, and what is stored, before and after COMMIT."""

from __future__ import annotations

import asyncio
import json
import time
from contextvars import ContextVar
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from service import postgres_store, sqlite_store
from service.committer import Committer
from service.postgres_store import PostgresStore
from service.sqlite import driver
from service.sqlite_store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.zoo.specimen import Patch

    Execute = Callable[[Any, str, tuple[Any, ...]], Any]

# What a slower disk would take: the answer is out before COMMIT begins.
COMMIT_DELAY_S: Final = 0.005


class _Through:
    """A driver's connection with another way to execute."""

    def __init__(self, connection: Any, execute: Execute) -> None:
        self._connection = connection
        self._execute = execute

    def execute(self, sql: str, *parameters: Any) -> Any:
        return self._execute(self._connection, sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


_BATCH: ContextVar[Any] = ContextVar("batch")


def acknowledge_before_commit(patch: Patch) -> None:
    decided = Committer._decided
    on_file, on_server = SqliteStore._decide_and_write, PostgresStore._decide

    async def with_batch(self: Committer, batch: Any, movements: Any) -> Any:
        _BATCH.set((asyncio.get_running_loop(), batch))
        return await decided(self, batch, movements)

    def answer(decisions: Any) -> None:
        loop, batch = _BATCH.get()
        for waiting, decision in zip(batch, decisions, strict=True):
            loop.call_soon_threadsafe(waiting.answer, decision)

    def early_on_file(self: SqliteStore, connection: Any, movements: Any) -> Any:
        decisions = on_file(self, connection, movements)
        answer(decisions)
        time.sleep(COMMIT_DELAY_S)
        return decisions

    async def early_on_server(self: PostgresStore, *batch: Any, **how: Any) -> Any:
        decided = await on_server(self, *batch, **how)
        answer(decided.result)
        await asyncio.sleep(COMMIT_DELAY_S)
        return decided

    patch(Committer, "_decided", with_batch)
    patch(SqliteStore, "_decide_and_write", early_on_file)
    patch(PostgresStore, "_decide", early_on_server)


def _executing(patch: Patch, execute: Execute) -> None:
    true = SqliteStore._in_turn

    def in_turn(self: SqliteStore, connection: Any, *arguments: Any) -> Any:
        return true(self, _Through(connection, execute), *arguments)

    patch(SqliteStore, "_in_turn", in_turn)


def commit_error_reported_as_applied(patch: Patch) -> None:
    def execute(connection: Any, sql: str, parameters: tuple[Any, ...]) -> Any:
        try:
            return connection.execute(sql, *parameters)
        except driver.Error:
            if sql != "COMMIT":
                raise
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return None

    _executing(patch, execute)


def key_in_a_second_transaction(patch: Patch) -> None:
    waiting: list[tuple[Any, ...]] = []

    def execute(connection: Any, sql: str, parameters: tuple[Any, ...]) -> Any:
        if sql == sqlite_store._INSERT_MOVEMENTS:
            waiting.append(parameters)
            rows, _chains = parameters[0]
            return SimpleNamespace(rowcount=len(json.loads(rows)))
        if sql != sqlite_store._UPDATE_ACCOUNTS:
            return connection.execute(sql, *parameters)
        moved = connection.execute(sql, *parameters).rowcount
        _next_transaction(connection)
        connection.execute(sqlite_store._INSERT_MOVEMENTS, *waiting.pop())
        return SimpleNamespace(rowcount=moved)

    _executing(patch, execute)


def balance_in_a_second_transaction(patch: Patch) -> None:
    def execute(connection: Any, sql: str, parameters: tuple[Any, ...]) -> Any:
        if sql == sqlite_store._UPDATE_ACCOUNTS:
            _next_transaction(connection)
        return connection.execute(sql, *parameters)

    _executing(patch, execute)


def _next_transaction(connection: Any) -> None:
    connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")


def answers_mixed_up(patch: Patch) -> None:
    true = Committer._decided

    async def decided(self: Committer, batch: Any, movements: Any) -> Any:
        return (await true(self, batch, movements))[::-1]

    patch(Committer, "_decided", decided)


def key_not_scoped_by_user(patch: Patch) -> None:
    on_file = sqlite_store._LOOK_UP.replace("m.account_id = a.id AND ", "")
    on_server = postgres_store._LOOK_UP.replace("account_id = a.id AND ", "")
    patch(sqlite_store, "_LOOK_UP", on_file)
    patch(postgres_store, "_LOOK_UP", on_server)
