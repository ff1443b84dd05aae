"""What Teller says of itself: JSON log lines, an event each."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

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
        """Put the time first (RFC 3339, UTC, microseconds) and keep every field in bounds."""
        created = datetime.fromtimestamp(record.created, UTC)
        log_data["timestamp"] = created.isoformat(timespec="microseconds").replace("+00:00", "Z")
        super().add_fields(log_data, record, message_dict)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """The end of the traceback, where the cause is, in at most FIELD_CHARS_MAX characters."""
        return str(super().formatException(ei))[-FIELD_CHARS_MAX:]


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send every logger of the process to one stream (stdout) as JSON lines.

    Args:
        level: the least severe level written, such as ``INFO``.
        stream: where to write; standard output unless given.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(EventFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Python's own cost of a line: thread, process and caller are not fields of ours.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # uvicorn's and the driver's chatter; their warnings and errors stay.
    for name in ("uvicorn", "uvicorn.error", "aiosqlite", "alembic", "asyncio", "httpx"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
