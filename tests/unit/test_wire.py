"""What the protocol gives a transport to send: one piece a turn of the event loop, in order."""

from __future__ import annotations

import asyncio
from typing import cast

from service.wire import joined


class Recorded(asyncio.Transport):
    """Notes what it is told; no socket."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append("closed")

    def is_closing(self) -> bool:
        return self.told[-1:] == ["closed"]


def of(recorded: Recorded) -> asyncio.Transport:
    return joined(cast("asyncio.Transport", recorded), asyncio.get_running_loop())


async def test_what_one_turn_writes_leaves_as_one_piece() -> None:
    recorded = Recorded()
    transport = of(recorded)
    transport.write(b"head")
    transport.write(b"body")
    assert recorded.told == []
    await asyncio.sleep(0)
    assert recorded.told == [b"headbody"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert recorded.told == [b"headbody", b"next"]


async def test_what_waits_leaves_before_the_connection_is_closed() -> None:
    recorded = Recorded()
    transport = of(recorded)
    transport.write(b"last words")
    transport.close()
    await asyncio.sleep(0)
    assert recorded.told == [b"last words", "closed"]


async def test_all_else_is_the_transport_s_own() -> None:
    recorded = Recorded()
    transport = of(recorded)
    assert not transport.is_closing()
    transport.close()
    assert transport.is_closing()
