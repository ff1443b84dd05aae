"""uvicorn's protocol over a transport that sends what one turn of the event loop wrote at once."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Wire(HttpToolsProtocol):
    """One connection. Head and body of an answer leave in one system call and one segment.

    A request that came right behind another is served in a context of its own: uvicorn begins it
    inside the one before, whose span would be taken for the one around it.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        self._context = copy_context()
        super().connection_made(joined(transport, self.loop))

    def on_response_complete(self) -> None:
        """An answer is sent; the next request that has been read begins."""
        self._context.run(super().on_response_complete)


def joined(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> asyncio.Transport:
    """The transport, what is written to it in one turn of the loop sent at once."""
    return cast("asyncio.Transport", _Joined(transport, loop.call_soon))


class _Joined:
    """A transport whose writes wait for the end of the event loop's turn, then leave together.

    uvicorn writes head and body apart, and uvloop sends each write at once: two system calls and
    two TCP segments an answer.
    """

    __slots__ = ("_call_soon", "_parts", "_transport")

    def __init__(
        self, transport: asyncio.Transport, call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self._transport: Final = transport
        self._call_soon: Final = call_soon
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
