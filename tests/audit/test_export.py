"""`teller export`: every row once, exact, whole files only."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from service import export as exporting
from service.cli import main
from service.ledger import Movement
from service.teller import opened
from tests.audit import ledgers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from service.settings import Settings


def export(database_url: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["export", "--database", database_url, *options])


async def test_csv_holds_every_row_by_account_and_number(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    await ledgers.filled(make_settings())
    result = await asyncio.to_thread(export, database_url)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "user_id,transaction,type,outcome,reason,amount,balance,currency,"
        "reference,created_at,idempotency_key"
    )
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [
        (row["user_id"], row["transaction"], row["type"], row["outcome"], row["amount"])
        for row in rows
    ] == [
        ("alice", "1", "deposit", "applied", "100.00"),
        ("alice", "2", "withdrawal", "applied", "30.00"),
        ("alice", "3", "withdrawal", "refused", "9000.00"),
        ("alice", "4", "burn", "burned", ""),
        ("alice", "5", "deposit", "applied", "0.05"),
        ("bob", "1", "deposit", "applied", "5.00"),
        ("bob", "2", "deposit", "applied", "7.00"),
    ]
    assert rows[2]["reason"] == "insufficient-funds"
    assert (rows[2]["balance"], rows[2]["currency"]) == ("70.00", "USD")
    assert (rows[2]["reference"], rows[2]["idempotency_key"]) == ("for w2", "w2")
    assert rows[2]["created_at"].endswith("Z")
    assert result.stderr == "7 transactions.\n"


async def test_json_lines_of_one_user(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    await ledgers.filled(make_settings())
    result = await asyncio.to_thread(export, database_url, "--user", "bob", "--format", "jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows[0].pop("created_at").endswith("Z")
    assert rows[0] == {
        "user_id": "bob",
        "transaction": 1,
        "type": "deposit",
        "outcome": "applied",
        "reason": None,
        "amount": "5.00",
        "balance": "5.00",
        "currency": "USD",
        "reference": "for d1",
        "idempotency_key": "d1",
    }
    assert [row["transaction"] for row in rows] == [1, 2]


async def test_awkward_text_comes_back_from_both_forms(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    reference = '=1+1,"x", \N{SNOWMAN}'
    async with opened(make_settings()) as teller:
        await teller.store.open_accounts(['a,"b"'])
        movement = Movement('a,"b"', 'k,"1"', "deposit", 1, reference)
        await teller.committer.submit(movement)
    as_csv = (await asyncio.to_thread(export, database_url)).stdout
    as_json = (await asyncio.to_thread(export, database_url, "--format", "jsonl")).stdout
    for row in (next(csv.DictReader(io.StringIO(as_csv))), json.loads(as_json)):
        assert (row["user_id"], row["idempotency_key"]) == ('a,"b"', 'k,"1"')
        assert row["reference"] == reference


@pytest.mark.parametrize("rows_per_page", [2, 3, 100])
async def test_a_file_is_there_only_once_it_is_complete(
    make_settings: Callable[..., Settings],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows_per_page: int,
) -> None:
    monkeypatch.setattr(exporting, "ROWS_PER_PAGE", rows_per_page)
    await ledgers.filled(make_settings())
    output = tmp_path / "ledger.csv"
    result = await asyncio.to_thread(export, database_url, "--output", str(output))
    assert (result.exit_code, result.stdout) == (0, "")
    assert len(output.read_text().splitlines()) == 8
    assert not output.with_name("ledger.csv.part").exists()


async def test_a_user_without_account_is_named(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    await ledgers.filled(make_settings())
    result = await asyncio.to_thread(export, database_url, "--user", "nobody")
    assert result.exit_code == 1
    assert result.stderr == "teller: There is no account of user 'nobody'.\n"


async def test_a_reader_that_goes_away_ends_the_export_quietly(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    async with opened(make_settings()) as teller:
        await teller.store.open_accounts(["alice"])
        for start in range(0, 3_000, 250):
            await asyncio.gather(
                *(
                    ledgers.move(teller, "alice", f"k{number}", "deposit", 1)
                    for number in range(start, start + 250)
                )
            )

    def head() -> tuple[str, str]:
        command = [sys.executable, "-m", "service", "export", "--database", database_url]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.readline()
            process.stdout.close()
            return first, process.stderr.read()

    first, words = await asyncio.to_thread(head)
    assert first.startswith("user_id,")
    assert words == ""
