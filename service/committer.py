"""Group commit: many movements, one transaction, one fsync."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from contextlib import asynccontextmanager
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Final

from service import traces as spans
from service.errors import (
    DiskFullError,
    InternalError,
    OperatingError,
    OutcomeUnknownError,
    OverloadedError,
    TooManyInFlightError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.trace import Span

    from service.ledger import Decision, Movement
    from service.metrics import Metrics
    from service.store import Store
    from service.traces import Traces

    Answer = asyncio.Future[Decision | OperatingError]

TICK_S: Final = 0.25
IDLE_BEFORE_CHECKPOINT_S: Final = 1.0
# A second batch is begun beside one at work from so many users on: fewer cost more as two.
BESIDE_MIN: Final = 16

_NOT_EXECUTED: Final = "This attempt was not executed. Retry with the same key."
_CUT_SHORT: Final = (
    "The service stopped during the commit: the movement is stored once or not at all. "
    "Retry with the same key."
)

log = logging.getLogger(__name__)


class _Waiting:
    """A movement, the future its request awaits, and since when (``monotonic`` seconds)."""

    __slots__ = ("future", "movement", "since_s", "span")

    def __init__(
        self,
        movement: Movement,
        future: Answer,
        since_s: float,
        span: Span | None,
    ) -> None:
        self.movement = movement
        self.future = future
        self.since_s = since_s
        self.span = span

    def answer(self, answer: Decision | OperatingError) -> None:
        # The client may have hung up; the money moved all the same.
        if not self.future.done():
            self.future.set_result(answer)


class Committer:
    """The one way to write of this process: a bounded queue before its loops of transactions.

    There are as many loops as the store works on batches at a time: one on SQLite. A request only
    awaits a future; the transaction is nobody's request, so a request that is cancelled can
    neither leave a lock behind nor take a movement back.
    """

    def __init__(
        self,
        store: Store,
        *,
        queue_depth_max: int,
        queue_depth_per_user_max: int,
        batch_size_max: int,
        answer_timeout_ms: int,
        wal_rows_max: int,
        metrics: Metrics | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._store = store
        self._queue_depth_max = queue_depth_max
        self._queue_depth_per_user_max = queue_depth_per_user_max
        self._batch_size_max = batch_size_max
        self._answer_timeout_s = answer_timeout_ms / 1000
        self._rows_max = wal_rows_max
        self._metrics = metrics
        self._traces = traces
        # Users take turns: the ring holds each user with a queue once, but those in a batch at
        # work. Two batches at work have no user in common, and so never wait for each other.
        self._ring: deque[str] = deque()
        self._queues: dict[str, deque[_Waiting]] = {}
        self._users_at_work: set[str] = set()
        # What is at work, by the loop that works on it.
        self._batches: list[list[_Waiting]] = [[] for _ in range(store.batches_max)]
        self._depth = 0
        self._rows = 0
        self._full: DiskFullError | None = None
        self._busy_at_s = 0.0
        self._oldest_since_s: float | None = None
        self._wake = asyncio.Event()
        self._retiring = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.failed = asyncio.Event()

    # -- for requests -----------------------------------------------------------------------

    def submit(self, movement: Movement) -> Answer:
        """Queue a movement; the future gives its decision, or why there is none.

        The future resolves only after the transaction is durable. It may be cancelled: the
        movement is then carried out all the same.
        """
        future: Answer = asyncio.get_running_loop().create_future()
        queue = self._queues.get(movement.user_id)
        if self._stopping or self.failed.is_set():
            future.set_result(UnavailableError(f"The service is stopping. {_NOT_EXECUTED}"))
        elif self._depth >= self._queue_depth_max:
            future.set_result(OverloadedError(f"The service is at its limit. {_NOT_EXECUTED}"))
        elif queue is not None and len(queue) >= self._queue_depth_per_user_max:
            future.set_result(
                TooManyInFlightError(f"Too many requests of this user wait. {_NOT_EXECUTED}")
            )
        else:
            if queue is None:
                queue = self._queues[movement.user_id] = deque()
                if movement.user_id not in self._users_at_work:
                    self._ring.append(movement.user_id)
            # The event loop's own clock stands still while it works, and ticks milliseconds.
            span = None if self._traces is None else spans.current()
            queue.append(_Waiting(movement, future, monotonic(), span))
            self._depth += 1
            self._wake.set()
        return future

    # -- for probes -------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the loops run and no COMMIT error is open."""
        running = self._task is not None and not self._task.done()
        return running and not self.failed.is_set()

    @property
    def draining(self) -> bool:
        """Whether the service is on its way to stop: send it nothing new."""
        return self._retiring or self._stopping

    @property
    def depth(self) -> int:
        """Movements waiting, those of the batches at work not counted."""
        return self._depth

    def oldest_age_s(self) -> float:
        """How long the oldest unanswered movement has waited, in seconds; 0 if none does."""
        since_s = self._oldest()
        return 0.0 if since_s is None else monotonic() - since_s

    def oldest_age_seen_s(self) -> float:
        """The same as of the last tick, for another thread: it goes on growing in a stuck loop."""
        since_s = self._oldest_since_s
        return 0.0 if since_s is None else monotonic() - since_s

    def _oldest(self) -> float | None:
        sinces = [waiting.since_s for batch in self._batches for waiting in batch]
        sinces += [queue[0].since_s for queue in self._queues.values()]
        return min(sinces, default=None)

    # -- life -------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Committer]:
        """Run the loop; at the end, answer everything that was accepted, then stop."""
        self._task = asyncio.create_task(self._loops(), name="committer")
        watch = asyncio.create_task(self._watch(), name="committer-watch")
        try:
            yield self
        finally:
            try:
                await self.finish()
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)

    def retire(self) -> None:
        """Say that the service will stop; what still arrives is carried out all the same."""
        self._retiring = True

    def drain(self) -> None:
        """Turn new movements away from now on; what was accepted is still carried out."""
        self._stopping = True
        self._wake.set()

    def cut_short(self) -> None:
        """Answer all that is unfinished now: near the drain limit, before connections are cut."""
        self.drain()
        self._answer_late(before_s=math.inf)

    async def finish(self) -> None:
        """Drain, and return once the last batch is answered; ``failed`` is then final."""
        self.drain()
        if self._task is not None:
            await self._task

    async def _loops(self) -> None:
        try:
            await asyncio.gather(*map(self._loop, self._batches))
        finally:
            self._give_up(UnavailableError(f"The service is stopping. {_NOT_EXECUTED}"))

    async def _loop(self, batch: list[_Waiting]) -> None:
        try:
            while not self.failed.is_set():
                if not self._ready():
                    if self._stopping and not self._ring:
                        return
                    self._wake.clear()
                    await self._wake.wait()
                    idle = (
                        not self._ring and monotonic() - self._busy_at_s > IDLE_BEFORE_CHECKPOINT_S
                    )
                    if self._checkpoint_due(idle=idle):
                        await self._checkpoint()
                    continue
                # One turn of the event loop: what it has read already comes into this batch too.
                await asyncio.sleep(0)
                if not self._ready():  # another loop has taken it
                    continue
                batch[:] = self._take()
                if self._full is not None and not await self._checkpoint():
                    # What is freed is the database file's: the log would only fill it again, and
                    # then never have the room that it takes to empty it.
                    self._answer_failed(batch, self._full)
                else:
                    self._full = None
                    await self._commit(batch)
                self._done(batch)
                if self._checkpoint_due(idle=False):
                    await self._checkpoint()
        except Exception:  # a bug of the loop itself: only a new process can take its place
            log.critical("writer failed", exc_info=True)
            self.failed.set()
        finally:
            _answer_all(batch, OutcomeUnknownError(_CUT_SHORT))
            self._done(batch)
            if self.failed.is_set():
                self._give_up(UnavailableError(f"The service is stopping. {_NOT_EXECUTED}"))

    def _ready(self) -> bool:
        """Whether a batch can begin: beside another, only if as many users wait as are at work."""
        at_work = len(self._users_at_work)
        return bool(self._ring) and (not at_work or len(self._ring) >= max(at_work, BESIDE_MIN))

    def _take(self) -> list[_Waiting]:
        """Up to a batch of what waits, one of each user in turn; the other loops' users stay."""
        users = len(self._ring) + len(self._users_at_work)
        share = min(max(users // len(self._batches), BESIDE_MIN), self._batch_size_max)
        turns = deque(self._ring.popleft() for _ in range(min(len(self._ring), share)))
        self._users_at_work.update(turns)
        batch: list[_Waiting] = []
        while turns and len(batch) < self._batch_size_max:
            user = turns.popleft()
            queue = self._queues[user]
            batch.append(queue.popleft())
            if queue:
                turns.append(user)
            else:
                del self._queues[user]
        self._depth -= len(batch)
        return batch

    def _done(self, batch: list[_Waiting]) -> None:
        """The batch is answered: its users take turns again, and the loops look again."""
        users = dict.fromkeys(waiting.movement.user_id for waiting in batch)
        self._users_at_work.difference_update(users)
        self._ring.extend(user for user in users if user in self._queues)
        batch.clear()
        self._wake.set()

    async def _commit(self, batch: list[_Waiting]) -> None:
        """Commit a batch and answer it; one that fails on a bug is halved until it is alone."""
        movements = [waiting.movement for waiting in batch]
        began_s = monotonic()
        try:
            decisions = await self._decided(batch, movements)
        except OperatingError as error:
            if isinstance(error, OutcomeUnknownError):
                log.critical("commit outcome unknown", exc_info=True)
            self._answer_failed(batch, error)
        except Exception:  # the loop must live: one bad movement is not everybody's outage
            if len(batch) == 1:
                log.exception("movement failed")
                bug = InternalError("The movement failed; it was not executed.")
                self._answer_failed(batch, bug)
                return
            if self._metrics is not None:
                self._metrics.retried("split")
            half = len(batch) // 2
            await self._commit(batch[:half])
            if self.failed.is_set():
                _answer_all(batch[half:], UnavailableError(_NOT_EXECUTED))
            else:
                await self._commit(batch[half:])
        else:
            self._rows += len(batch)
            for waiting, decision in zip(batch, decisions, strict=True):
                waiting.answer(decision)
            if self._metrics is not None:
                waits_s = [began_s - waiting.since_s for waiting in batch]
                self._metrics.committed(
                    movements, decisions, waits_s=waits_s, timing=self._store.timing
                )

    async def _decided(self, batch: list[_Waiting], movements: list[Movement]) -> list[Decision]:
        """What the store decides, under the batch's span if a request in it is sampled."""
        if self._traces is None:
            return await self._store.commit(movements)
        with self._traces.batch([waiting.span for waiting in batch], len(batch)) as span:
            decisions = await self._store.commit(movements)
            if span is not None:
                self._traces.committed(span, self._store.timing)
            return decisions

    def _answer_failed(self, batch: list[_Waiting], error: OperatingError) -> None:
        if error.restart:
            self.failed.set()
        if isinstance(error, DiskFullError):
            self._full = error
        _answer_all(batch, error)
        if self._metrics is not None:
            self._metrics.failed(error.code.name, error.cause)

    def _checkpoint_due(self, *, idle: bool) -> bool:
        return self._rows >= self._rows_max or (idle and self._rows > 0)

    async def _checkpoint(self) -> bool:
        """Have the log brought into the database file; whether that was possible."""
        self._rows = 0
        began_s = perf_counter()
        checkpoint = await self._store.checkpoint()
        if self._metrics is not None:
            self._metrics.checkpointed(checkpoint, perf_counter() - began_s)
        return checkpoint is not None

    async def _watch(self) -> None:
        """Give every movement an answer in time, and let the loop tidy up when it is idle."""
        while True:
            await asyncio.sleep(TICK_S)
            now = monotonic()
            self._oldest_since_s = self._oldest()
            if self._ring or any(self._batches):
                self._busy_at_s = now
                self._answer_late(before_s=now - self._answer_timeout_s)
            elif self._rows and now - self._busy_at_s > IDLE_BEFORE_CHECKPOINT_S:
                self._wake.set()

    def _answer_late(self, *, before_s: float) -> None:
        for waiting in [waiting for batch in self._batches for waiting in batch]:
            if waiting.since_s < before_s:
                waiting.answer(
                    UnavailableError(
                        "The database has not finished in time; the movement may still be applied. "
                        "Retry with the same key."
                    )
                )
        for user, queue in list(self._queues.items()):
            while queue and queue[0].since_s < before_s:
                queue.popleft().answer(
                    UnavailableError(f"The database is too slow to reach this. {_NOT_EXECUTED}")
                )
                self._depth -= 1
            if not queue:
                del self._queues[user]
                if user not in self._users_at_work:
                    self._ring.remove(user)

    def _give_up(self, error: OperatingError) -> None:
        for queue in self._queues.values():
            _answer_all(queue, error)
        self._queues.clear()
        self._ring.clear()
        self._depth = 0


def _answer_all(waitings: list[_Waiting] | deque[_Waiting], error: OperatingError) -> None:
    for waiting in waitings:
        waiting.answer(error)
