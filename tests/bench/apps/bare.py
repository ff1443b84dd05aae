"""A bare ASGI callable: reads the body, answers the same bytes. What the server itself costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

BODY: Final = (
    b'{"transaction":1,"type":"deposit","amount":"1.25","balance":"1.25","currency":"USD",'
    b'"reference":null,"outcome":"applied","created_at":"2026-01-02T03:04:05.678901Z"}'
)
HEADERS: Final = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(BODY)),
]


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 201, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
