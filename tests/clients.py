"""A keep-alive HTTP client on a bare socket: quick enough to load a service from one process."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

ANSWER_TIMEOUT_S = 30.0


class Reply(NamedTuple):
    """One answer, read whole; the names of its header fields are in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection, with one request on it at a time; it never retries.

    A request raises ConnectionError when no whole answer came, for whatever reason: what it
    asked for is then unknown, and a new wire is needed.
    """

    def __init__(
        self, url: str, *, timeout_s: float = ANSWER_TIMEOUT_S, name: str | None = None
    ) -> None:
        """``name`` is the Host to ask for, where the URL's own is but the way there."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._name = name or f"{self._host}:{self._port}"
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes, fields: Mapping[str, str]) -> Reply:
        return await self.request("POST", path, body, fields)

    async def get(self, path: str, fields: Mapping[str, str] | None = None) -> Reply:
        return await self.request("GET", path, b"", fields or {})

    async def request(
        self, method: str, path: str, body: bytes, fields: Mapping[str, str]
    ) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._name}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        lines += [f"content-length: {len(body)}", "", ""]
        try:
            async with asyncio.timeout(self._timeout_s):
                self._writer.write("\r\n".join(lines).encode() + body)
                return await self._read()
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            raise ConnectionError(f"no whole answer: {error!r}") from error

    async def _read(self) -> Reply:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:-2])
        fields = {name.lower(): value for name, value in pairs}
        body = await self._reader.readexactly(int(fields["content-length"]))
        return Reply(int(head[0].split(" ", 2)[1]), fields, body)


async def request(
    url: str, method: str, path: str, body: bytes = b"", fields: Mapping[str, str] | None = None
) -> Reply:
    """One request on a wire of its own."""
    async with Wire(url) as wire:
        return await wire.request(method, path, body, fields or {})
