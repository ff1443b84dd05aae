"""A teller at work: the rooms of one running service, opened and closed in order."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service import migrations, sqlite, sqlite_store
from service.committer import Committer
from service.reader import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.money import Currency
    from service.settings import Settings
    from service.store import Store


@dataclass(frozen=True, slots=True)
class Teller:
    """What the routes and commands of a running service need."""

    settings: Settings
    currency: Currency
    amount_max_minor: int
    body_timeout_s: float
    store: Store
    committer: Committer
    reader: Reader


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Teller]:
    """Open guard, schema, store and committer; at the end drain and close them the other way.

    Raises:
        StartError: the ledger cannot be served; the message says why and what to do.
    """
    path = sqlite.file_of(settings.database_url)
    async with sqlite.guarded(path), sqlite.opened(settings) as writers:
        await migrations.make_ready(writers, settings)
        async with sqlite_store.opened(settings, writers) as store:
            committer = Committer(
                store,
                queue_depth_max=settings.queue_depth_max,
                queue_depth_per_user_max=settings.queue_depth_per_user_max,
                batch_size_max=settings.batch_size_max,
                answer_timeout_ms=settings.answer_timeout_ms,
                wal_rows_max=settings.wal_rows_max,
            )
            async with committer.running(), Reader(store.readers).running() as reader:
                yield Teller(
                    settings=settings,
                    currency=settings.money(),
                    amount_max_minor=settings.amount_max_minor(),
                    body_timeout_s=settings.body_timeout_ms / 1000,
                    store=store,
                    committer=committer,
                    reader=reader,
                )
