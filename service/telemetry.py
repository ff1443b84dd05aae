"""What Teller says of itself: JSON log lines, an event each."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

FIELD_CHARS_MAX: Final = 2_000

_NAMES: Final = {"levelname": "level", "name": "logger"}


class Identified(Protocol):
    """What a line may belong to: ``exchange.Exchange``, by its face."""

    def ids(self) -> dict[str, str]:
        """The ids by which its lines are found, by field."""
        ...


# The request at work; uvicorn serves each in a context of its own, so nobody takes it back.
AT_WORK: Final[ContextVar[Identified | None]] = ContextVar("at_work", default=None)


class EventFormatter(JsonFormatter):
    """One JSON object a line: timestamp, level, logger, message, and the event's fields."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s", rename_fields=_NAMES)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Put the time first, and last the ids of the request and the span at work."""
        log_data["timestamp"] = timestamp(record.created)
        super().add_fields(log_data, record, message_dict)
        request = AT_WORK.get()
        if request is not None:
            log_data |= request.ids()
        at_work = trace.get_current_span().get_span_context()
        if at_work.is_valid:
            log_data["trace_id"] = format(at_work.trace_id, "032x")
            log_data["span_id"] = format(at_work.span_id, "016x")

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """The end of the traceback, where the cause is, in at most FIELD_CHARS_MAX characters."""
        return str(super().formatException(ei))[-FIELD_CHARS_MAX:]


class Lines(logging.StreamHandler["TextIO"]):
    """Where every line goes; the line of each request by a way around logging's records.

    The requests of a batch are answered in one turn of the event loop. Their lines are rendered
    after it, together and out of the answers' way, and leave in one system call.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._of_turn: list[tuple[float, str, str, Callable[[], str]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def write_event(self, logger: str, message: str, members: Callable[[], str]) -> None:
        """See ``write_event``; for the event loop's thread alone."""
        self._of_turn.append((time.time(), logger, message, members))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no event loop, no turn
            self.flush()
            return
        if len(self._of_turn) == 1 or loop is not self._loop:
            self._loop = loop
            # Two turns on: the answers' bytes leave in the next one (wire.py).
            loop.call_soon(loop.call_soon, self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line, after those of the requests before it."""
        self.flush()
        super().emit(record)

    def flush(self) -> None:
        """Write what waits; ``logging.shutdown`` calls this too, and any thread may."""
        self.acquire()
        try:
            waiting = self._of_turn[:]
            del self._of_turn[: len(waiting)]
            if waiting:
                self.stream.write("".join([_line(*event) for event in waiting]))
            super().flush()
        except Exception:  # noqa: BLE001 - as in logging: it fails nobody who logs
            self.handleError(logging.makeLogRecord({"msg": "lines not written"}))
        finally:
            self.release()


def write_event(logger: str, message: str, members: Callable[[], str]) -> None:
    """Write one INFO event where ``configure_logging`` sends lines, if it was called.

    For what each request writes: making a record and handing it on costs more than the line.

    Args:
        logger: the name of the line's logger.
        message: what happened.
        members: gives the event's fields, as JSON members joined by commas; called soon.
    """
    for handler in logging.root.handlers:
        if isinstance(handler, Lines):
            handler.write_event(logger, message, members)


def _line(at_s: float, logger: str, message: str, members: Callable[[], str]) -> str:
    return (
        f'{{"timestamp":"{timestamp(at_s)}","level":"INFO","logger":"{logger}",'
        f'"message":"{message}",{members()}}}\n'
    )


def timestamp(created_s: float) -> str:
    """RFC 3339 in UTC with microseconds, of seconds since 1970."""
    second = int(created_s)
    return f"{_second(second)}.{int((created_s - second) * 1_000_000):06d}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    """The part that a second's lines share: at 10,000 lines a second, rendered once."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send every logger of the process to one stream (stdout) as JSON lines.

    Args:
        level: the least severe level written, such as ``INFO``.
        stream: where to write; standard output unless given.
    """
    handler = Lines(stream or sys.stdout)
    handler.setFormatter(EventFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Python's own cost of a line: thread, process and caller are not fields of ours.
    logging._srcfile = None  # noqa: SLF001 - as its HOWTO advises
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # uvicorn's and the driver's chatter; their warnings and errors stay.
    for name in ("uvicorn", "uvicorn.error", "aiosqlite", "alembic", "asyncio", "httpx"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
