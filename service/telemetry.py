"""What Teller says of itself: JSON log lines, an event each."""

from __future__ import annotations

import logging
import sys
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from typing import TextIO

FIELD_CHARS_MAX: Final = 2_000

_NAMES: Final = {"levelname": "level", "name": "logger"}


class EventFormatter(JsonFormatter):
    """One JSON object a line: timestamp, level, logger, message, and the event's fields."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s", rename_fields=_NAMES)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Put the time first and the trace at work last, if there is one."""
        log_data["timestamp"] = timestamp(record.created)
        super().add_fields(log_data, record, message_dict)
        at_work = trace.get_current_span().get_span_context()
        if at_work.is_valid:
            log_data["trace_id"] = format(at_work.trace_id, "032x")
            log_data["span_id"] = format(at_work.span_id, "016x")

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """The end of the traceback, where the cause is, in at most FIELD_CHARS_MAX characters."""
        return str(super().formatException(ei))[-FIELD_CHARS_MAX:]


class Lines(logging.StreamHandler["TextIO"]):
    """Where every line goes; the line of each request by a way around logging's records."""

    def write_event(self, logger: str, message: str, members: str) -> None:
        """Write one INFO event, its fields being JSON members already, joined by commas."""
        line = (
            f'{{"timestamp":"{timestamp(time.time())}","level":"INFO","logger":"{logger}",'
            f'"message":"{message}",{members}}}\n'
        )
        self.acquire()  # the lines of other threads
        try:
            self.stream.write(line)
            self.flush()
        except (OSError, ValueError):  # as in logging: it fails no request
            self.handleError(logging.makeLogRecord({"msg": message}))
        finally:
            self.release()


def write_event(logger: str, message: str, members: str) -> None:
    """Write one INFO event where ``configure_logging`` sends lines, if it was called.

    For what each request writes: making a record and handing it on costs more than the line.
    """
    for handler in logging.root.handlers:
        if isinstance(handler, Lines):
            handler.write_event(logger, message, members)


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
