"""What Teller counts: Prometheus metrics of its requests, movements, batches and files."""

from __future__ import annotations

import os
import platform
import time
from bisect import bisect_left
from collections import Counter as Counts
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from service.errors import CODES, StartError
from service.ledger import KeyReused, KeySettled, Recorded
from service.replay import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from service.ledger import Decision, Movement
    from service.replay import Kind
    from service.store import Checkpoint, Timing

# OpenTelemetry's advice for http.server.request.duration, with 1 and 2.5 ms in front of it:
# a deposit takes that long.
DURATION_BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1),
    *(0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
PHASE_BUCKETS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
RESULTS: Final = ("new", "replay", "mismatch", "burned", "settled", "no_account")
MOVED: Final = (
    *(("deposit", "applied"), ("deposit", "refused")),
    *(("withdrawal", "applied"), ("withdrawal", "refused")),
    ("burn", "burned"),
)

# A second series beside every counter that says when it was made: nobody asks, and each scrape
# would carry it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Audited(Protocol):
    """What a continuous audit shows of itself: ``audit.AuditState``, by its face."""

    rows_checked_total: int
    imbalance_minor: int
    last_pass_at_s: float | None

    @property
    def tail_age_s(self) -> float:
        """For how long new rows may have gone unchecked, in seconds."""
        ...

    @property
    def violations(self) -> Counts[Kind]:
        """The known violations by kind."""
        ...


class Metrics:
    """The metrics of one teller, in a registry of their own. No label ever names a user.

    Written by the event loop alone; read by the listener's thread at a scrape.
    """

    def __init__(self, *, version: str, engine: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("teller_build", "The release that runs.", registry=registry).info(
            {"version": version, "python": platform.python_version(), "engine": engine}
        )
        self._request_duration = Histogram(
            "http_server_request_duration_seconds",
            "Time from a request's headers to its answer.",
            ("http_request_method", "http_route", "http_response_status_code"),
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self._problems = Counter(
            "teller_problems",
            "Answers that are problems, by their code.",
            ("code",),
            registry=registry,
        )
        self._movements = Counter(
            "teller_movements",
            "Rows written to the ledger; a replay writes none.",
            ("operation", "outcome"),
            registry=registry,
        )
        self._results = Counter(
            "teller_idempotency_results",
            "What the key of a movement was found to be; a replay is a double prevented.",
            ("result",),
            registry=registry,
        )
        self._queue_wait = Waits(
            "teller_queue_wait_seconds",
            "Time a movement waited for its batch to begin.",
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self._batch_size = Histogram(
            "teller_batch_movements",
            "Movements in a committed batch.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        phases = Histogram(
            "teller_batch_phase_seconds",
            "Time of a batch's transaction by phase: lock waits for the write lock, decide reads, "
            "decides and writes, commit is COMMIT with its fsync (on PostgreSQL with the write).",
            ("phase",),
            buckets=PHASE_BUCKETS_S,
            registry=registry,
        )
        self._lock, self._decide, self._commit = map(phases.labels, ("lock", "decide", "commit"))
        self._batch_failures = Counter(
            "teller_batch_failures",
            "Batches that were not committed, by the code their requests were answered with.",
            ("code",),
            registry=registry,
        )
        self._database_errors = Counter(
            "teller_database_errors",
            "Errors of the database under a batch, by its own name, such as SQLITE_BUSY.",
            ("error",),
            registry=registry,
        )
        self._retries = Counter(
            "teller_batch_retries",
            "Batches tried again: split to isolate a failing movement, or at the database's wish.",
            ("reason",),
            registry=registry,
        )
        self._checkpoints = Counter(
            "teller_checkpoints",
            "Checkpoints of the write-ahead log: complete, partial (a reader held it), failed.",
            ("result",),
            registry=registry,
        )
        self._checkpoint_duration = Histogram(
            "teller_checkpoint_duration_seconds",
            "Time of a checkpoint; no batch commits meanwhile.",
            buckets=PHASE_BUCKETS_S,
            registry=registry,
        )
        self._pools: dict[str, Gauge] = {}
        # labels() costs more than counting: each child is looked up once.
        self._requests: dict[tuple[str, str, int], Histogram] = {}
        for code in CODES:
            self._problems.labels(code)
        for moved in MOVED:
            self._movements.labels(*moved)
        for result in RESULTS:
            self._results.labels(result)
        for code in ("unavailable", "outcome-unknown", "internal"):
            self._batch_failures.labels(code)
        for result in ("complete", "partial", "failed"):
            self._checkpoints.labels(result)
        self._retries.labels("split")

    # -- what the rooms report --------------------------------------------------------------

    def request(
        self,
        method: str,
        route: str,
        status: int,
        duration_s: float,
        *,
        code: str | None,
        exemplar: dict[str, str] | None = None,
    ) -> None:
        """Count one answered request.

        Args:
            method: of HTTP; one that is not of RFC 9110 counts as ``_OTHER``.
            route: the route's pattern, never the path: paths have no end.
            status: as answered, 499 if the client had gone.
            duration_s: in seconds.
            code: of the problem answered, if it was one.
            exemplar: the ids of the request's trace, if it is sampled.
        """
        labels = (method if method in METHODS else "_OTHER", route, status)
        child = self._requests.get(labels)
        if child is None:
            child = self._requests[labels] = self._request_duration.labels(*labels)
        child.observe(duration_s, exemplar)
        if code is not None:
            self._problems.labels(code).inc()

    def committed(
        self,
        movements: Sequence[Movement],
        decisions: Sequence[Decision],
        *,
        waits_s: Sequence[float],
        timing: Timing | None,
    ) -> None:
        """Count one committed batch: its size, its phases, and what became of each movement."""
        self._batch_size.observe(len(movements))
        self._queue_wait.observe_all(waits_s)
        # Most batches hold new movements alone: those are counted without a call for each.
        found = Counts(
            [
                "new"
                if type(decision) is Recorded and not decision.replayed
                else result_of(movement, decision)
                for movement, decision in zip(movements, decisions, strict=True)
            ]
        )
        moved = Counts(
            [
                (decision.entry.kind, decision.entry.outcome)
                for decision in decisions
                if type(decision) is Recorded and not decision.replayed
            ]
        )
        for result, count in found.items():
            self._results.labels(result).inc(count)
        for labels, count in moved.items():
            self._movements.labels(*labels).inc(count)
        if timing is not None:
            self._lock.observe(timing.lock_s)
            self._decide.observe(timing.decide_s)
            self._commit.observe(timing.commit_s)

    def failed(self, code: str, cause: str | None) -> None:
        """Count a batch that was not committed, and the database's error if that was the cause."""
        self._batch_failures.labels(code).inc()
        if cause is not None:
            self._database_errors.labels(cause).inc()

    def retried(self, reason: str) -> None:
        """Count a batch that is tried again; ``reason`` is one of a few fixed words."""
        self._retries.labels(reason).inc()

    def checkpointed(self, checkpoint: Checkpoint | None, duration_s: float) -> None:
        """Count a checkpoint of the write-ahead log; None is one that failed."""
        if checkpoint is None:
            result = "failed"
        else:
            result = "complete" if checkpoint.complete else "partial"
        self._checkpoints.labels(result).inc()
        self._checkpoint_duration.observe(duration_s)

    # -- what is read at a scrape -----------------------------------------------------------

    def watch_queue(self, depth: Callable[[], int], oldest_age_s: Callable[[], float]) -> None:
        """Show the queue: movements waiting, and the age of the oldest in seconds."""
        self._gauge("teller_queue_depth", "Movements waiting for a batch.", depth)
        self._gauge(
            "teller_queue_oldest_age_seconds",
            "Age of the oldest movement without an answer.",
            oldest_age_s,
        )

    def watch_limit(self, queue_depth_max: int) -> None:
        """Show the depth at which movements are shed."""
        self._gauge(
            "teller_queue_depth_max",
            "Movements that may wait; more are shed.",
            lambda: queue_depth_max,
        )

    def watch_pool(self, name: str, taken: Callable[[], int], size: int) -> None:
        """Show a pool's connections: those in use, of those there may be."""
        for metric, help_, read in (
            ("teller_pool_connections", "Connections to the database in use.", taken),
            ("teller_pool_connections_max", "Connections there may be.", lambda: size),
        ):
            if metric not in self._pools:
                self._pools[metric] = Gauge(metric, help_, ("pool",), registry=self.registry)
            self._pools[metric].labels(name).set_function(read)

    def watch_audit(self, audit: Audited) -> None:
        """Show what the continuous audit knows; a scrape takes it as it stands."""
        violations = Gauge(
            "teller_ledger_violations",
            "Things found that cannot be so in a sound ledger.",
            ("kind",),
            registry=self.registry,
        )
        for kind in KINDS:
            violations.labels(kind).set_function(partial(_of_kind, audit, kind))
        self._gauge(
            "teller_ledger_imbalance_minor",
            "Balances less what the movements come to, in minor units, by the last full pass.",
            lambda: audit.imbalance_minor,
        )
        self._gauge(
            "teller_ledger_audit_timestamp_seconds",
            "Up to when every new row is audited, in seconds since 1970.",
            lambda: time.time() - audit.tail_age_s,
        )
        self._gauge(
            "teller_ledger_audit_pass_timestamp_seconds",
            "When the last full pass ended, in seconds since 1970; 0 before the first has.",
            lambda: audit.last_pass_at_s or 0,
        )
        self._gauge(
            "teller_ledger_audited_rows",
            "Rows that this process has audited since it started.",
            lambda: audit.rows_checked_total,
        )

    def watch_file(self, path: Path) -> None:
        """Show a SQLite ledger's file, its write-ahead log and its volume, in bytes.

        Their sizes are asked of the folder: opening them would drop the process's locks.
        """
        self._gauge("teller_database_size_bytes", "Size of the ledger's file.", lambda: _size(path))
        wal = Path(f"{path}-wal")
        self._gauge("teller_wal_size_bytes", "Size of the write-ahead log.", lambda: _size(wal))
        if not hasattr(os, "statvfs"):  # Windows
            return
        self._gauge(
            "teller_volume_available_bytes",
            "Free space on the ledger's volume.",
            lambda: os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize,
        )
        self._gauge(
            "teller_volume_size_bytes",
            "Size of the ledger's volume.",
            lambda: os.statvfs(path.parent).f_blocks * os.statvfs(path.parent).f_frsize,
        )

    def _gauge(self, name: str, help_: str, read: Callable[[], float]) -> None:
        Gauge(name, help_, registry=self.registry).set_function(read)


class Waits(Histogram):
    """A histogram that takes many values at a time, as a batch has them."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Observe each value; one change a bucket, not a call a value."""
        bounds = self._upper_bounds
        for bucket, count in Counts([bisect_left(bounds, value) for value in values]).items():
            self._buckets[bucket].inc(count)
        self._sum.inc(sum(values))


def result_of(movement: Movement, decision: Decision) -> str:
    """One of RESULTS: what a movement's key was found to be."""
    if isinstance(decision, Recorded):
        if not decision.replayed:
            return "new"
        met_a_burn = decision.entry.kind == "burn" and movement.kind != "burn"
        return "burned" if met_a_burn else "replay"
    if isinstance(decision, KeyReused):
        return "mismatch"
    return "settled" if isinstance(decision, KeySettled) else "no_account"


@contextmanager
def listening(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Serve the metrics at ``/metrics`` from a thread of its own; gives the port, ended after.

    A thread answers even while the event loop does not: that is when one looks.

    Raises:
        StartError: the port cannot be had.
    """
    try:
        server, thread = prometheus_client.start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise StartError(
            f"Cannot listen on {host} port {port} for metrics: {error.strerror}. "
            "Choose another with TELLER_METRICS_PORT."
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _of_kind(audit: Audited, kind: Kind) -> int:
    return audit.violations[kind]


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
