"""A teller at work: the rooms of one running service, opened and closed in order."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.pool import QueuePool

import service
from service import database, migrations, traces
from service.audit import Auditor, AuditState
from service.committer import Committer
from service.reader import Reader
from service.scan import Scan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.metrics import Metrics
    from service.money import Currency
    from service.settings import Settings
    from service.store import Store
    from service.traces import Traces

log = logging.getLogger(__name__)


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
    audit: AuditState
    metrics: Metrics | None = None
    traces: Traces | None = None


@asynccontextmanager
async def opened(settings: Settings, *, tracing: Traces | None = None) -> AsyncIterator[Teller]:
    """Open guard, schema, store and committer; at the end drain and close them the other way.

    Raises:
        StartError: the ledger cannot be served; the message says why and what to do.
    """
    async with database.opened(settings) as writers:
        await migrations.make_ready(writers, settings)
        metrics = _metrics(settings)
        async with database.store_on(settings, writers) as store:
            committer = Committer(
                store,
                queue_depth_max=settings.queue_depth_max,
                queue_depth_per_user_max=settings.queue_depth_per_user_max,
                batch_size_max=settings.batch_size_max,
                answer_timeout_ms=settings.answer_timeout_ms,
                wal_rows_max=settings.wal_rows_max,
                metrics=metrics,
                traces=tracing,
            )
            if metrics is not None:
                metrics.watch_limit(settings.queue_depth_max)
                metrics.watch_queue(lambda: committer.depth, committer.oldest_age_seen_s)
                _watch_pool(metrics, store.readers)
            async with (
                committer.running(),
                Reader(store.readers).running() as reader,
                _auditing(settings, reader) as audit,
            ):
                if metrics is not None and settings.audit:
                    metrics.watch_audit(audit)
                yield Teller(
                    settings=settings,
                    currency=settings.money(),
                    amount_max_minor=settings.amount_max_minor(),
                    body_timeout_s=settings.body_timeout_ms / 1000,
                    store=store,
                    committer=committer,
                    reader=reader,
                    audit=audit,
                    metrics=metrics,
                    traces=tracing,
                )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Teller]:
    """A teller seen from outside: opened, traced as OTEL_* ask for, its metrics on their port.

    Raises:
        StartError: the ledger cannot be served, or what is asked for cannot be had.
    """
    with traces.exporting(database.engine_of(settings)) as tracing:
        async with opened(settings, tracing=tracing) as teller:
            with listening(teller):
                yield teller


@asynccontextmanager
async def _auditing(settings: Settings, reader: Reader) -> AsyncIterator[AuditState]:
    """The continuous audit at work, unless the settings switch it off."""
    state = AuditState()
    if not settings.audit:
        yield state
        return
    async with Auditor(Scan(reader), settings.money(), state).running():
        yield state


@contextmanager
def listening(teller: Teller) -> Iterator[None]:
    """Serve the teller's metrics, if it has some, beside whatever serves its requests.

    Raises:
        StartError: the port cannot be had.
    """
    if teller.metrics is None or teller.settings.metrics_port is None:
        yield
        return
    from service import metrics  # noqa: PLC0415

    host = teller.settings.host
    with metrics.listening(teller.metrics, host, teller.settings.metrics_port) as port:
        log.info("metrics listening", extra={"host": host, "port": port})
        yield


def _watch_pool(metrics: Metrics, readers: AsyncEngine) -> None:
    pool = readers.pool
    if isinstance(pool, QueuePool):
        metrics.watch_pool("readers", pool.checkedout, pool.size())


def _metrics(settings: Settings) -> Metrics | None:
    """The metrics, if a port is set to ask for them at; their library is imported only then."""
    if settings.metrics_port is None:
        return None
    from service.metrics import Metrics  # noqa: PLC0415

    path = database.file_of(settings)
    metrics = Metrics(version=service.__version__, engine=database.engine_of(settings))
    if path is not None:
        metrics.watch_file(path)
    return metrics
