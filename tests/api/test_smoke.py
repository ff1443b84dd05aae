from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import headers
from tests.processes import serving

if TYPE_CHECKING:
    import httpx


async def test_a_deposit_is_answered_with_its_receipt(client: httpx.AsyncClient) -> None:
    answer = await client.post("/deposit", content=b'{"amount": "12.34"}', headers=headers("k"))
    assert answer.status_code == 201
    assert answer.json()["balance"] == "12.34"


def test_the_real_process_serves_and_stops(database_url: str) -> None:
    with serving(database_url, "--seed") as server:
        assert server.terminate() == 0
