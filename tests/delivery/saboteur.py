"""A TCP proxy that cuts connections: before a request gets through, or before its answer does."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK_BYTES: Final = 65_536
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

When = Literal["request", "answer"]


class Saboteur:
    """Between a client at ``host`` and ``target``; whatever comes in one piece is a request."""

    def __init__(self, host: str, target: str = "") -> None:
        self.host = host
        self.target = target
        self.heads: list[bytes] = []  # of every request that arrived here
        self.cuts = 0
        self._next: list[When] = []

    def cut(self, when: When, times: int = 1) -> None:
        """Reset the connection of the next requests, one each."""
        self._next = [when] * times

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        other_reader, other_writer = await asyncio.open_connection(self.target, 8000)
        doomed = asyncio.Event()
        answers = asyncio.create_task(self._answers(other_reader, writer, doomed))
        try:
            while data := await reader.read(CHUNK_BYTES):
                self.heads.append(data.partition(b"\r\n\r\n")[0])
                when = self._next.pop() if self._next else None
                if when == "request":
                    self._reset(writer)
                    return
                if when == "answer":
                    doomed.set()
                other_writer.write(data)
        except ConnectionError:
            return
        finally:
            answers.cancel()
            other_writer.close()
            writer.close()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if doomed.is_set():
                self._reset(writer)
                return
            writer.write(data)
        writer.close()

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self.cuts += 1
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()


@asynccontextmanager
async def between(host: str, target: str = "") -> AsyncIterator[Saboteur]:
    """A saboteur at that address, until the block ends."""
    saboteur = Saboteur(host, target)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(saboteur.serve(reader, writer)))

    server = await asyncio.start_server(connected, host, 8000)
    try:
        yield saboteur
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
