"""A TCP proxy that misbehaves: requests and answers lost, doubled, late, cut, or in crumbs."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from tests.clients import ANSWER_TIMEOUT_S

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator
    from random import Random

MISDEEDS: Final = (
    "lost request",
    "lost answer",
    "doubled request",
    "late double",
    "delayed request",
    "delayed answer",
    "reset in request",
    "reset in answer",
    "trickled request",
    "trickled answer",
)
DELAY_S_MAX: Final = 0.4
CRUMBS: Final = 12
CRUMB_S_MAX: Final = 0.02
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RESET: Final = struct.pack("ii", 1, 0)  # linger 0: close() sends a reset

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Stands before one service; ``share`` of the requests meet a misdeed drawn at random."""

    def __init__(self, port: int, rng: Random, injected: Counter[str], *, share: float) -> None:
        self.url = ""
        self._to = port
        self._rng = rng
        self._injected = injected
        self._share = share
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve within the block; what is still under way at its end is brought to an end."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()
            # Late doubles arrive before the ledger is judged.
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service: Streams | None = None
        try:
            while request := await _message(reader):
                if service is None:
                    service = await asyncio.open_connection("127.0.0.1", self._to)
                misdeed = ""
                if self._rng.random() < self._share:
                    misdeed = self._rng.choice(MISDEEDS)
                    self._injected[misdeed] += 1
                if not await self._pass(misdeed, request, service, writer):
                    break
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            if service is not None:
                service[1].close()

    async def _pass(
        self, misdeed: str, request: bytes, service: Streams, client: asyncio.StreamWriter
    ) -> bool:
        """One request and its answer; whether the connection goes on."""
        reader, writer = service
        if misdeed == "lost request":
            return False
        if misdeed == "reset in request":
            writer.write(request[: self._rng.randrange(len(request))])
            _reset(writer)
            _reset(client)
            return False
        if misdeed == "delayed request":
            await asyncio.sleep(self._rng.random() * DELAY_S_MAX)
        if misdeed in {"doubled request", "late double"}:
            self._begin_double(request, late=misdeed == "late double")
        if misdeed == "trickled request":
            await self._trickle(request, writer)
        else:
            writer.write(request)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = await _message(reader)
        if not answer or misdeed == "lost answer":
            return False
        if misdeed == "reset in answer":
            client.write(answer[: self._rng.randrange(len(answer))])
            _reset(client)
            return False
        if misdeed == "delayed answer":
            await asyncio.sleep(self._rng.random() * DELAY_S_MAX)
        if misdeed == "trickled answer":
            await self._trickle(answer, client)
        else:
            client.write(answer)
        return True

    async def _trickle(self, message: bytes, writer: asyncio.StreamWriter) -> None:
        cuts = sorted(self._rng.randrange(len(message)) for _ in range(CRUMBS))
        for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True):
            writer.write(message[start:end])
            await writer.drain()
            await asyncio.sleep(self._rng.random() * CRUMB_S_MAX)

    def _begin_double(self, request: bytes, *, late: bool) -> None:
        wait_s = self._rng.random() * (2 * DELAY_S_MAX if late else 0.002)

        async def deliver() -> None:
            await asyncio.sleep(wait_s)
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._to)
                    writer.write(request)
                    await _message(reader)
                    writer.close()

        task = asyncio.create_task(deliver())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP/1.1 message with its body, as it came; empty at the end of the stream."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = _LENGTH.search(head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crashed machine or an impatient firewall does."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
