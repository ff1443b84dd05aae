from __future__ import annotations

from tests.bench.syncs import Syncs, counted

READ = '1.{:06} read(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, "POST /deposit HTTP/1.1"..., 262144) = 200'
SYNC = "1.{:06} fdatasync(7</folder/{}>) = 0"
ANSWER = '1.{:06} write(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, "HTTP/1.1 201 Created"..., 300) = 300'


def test_an_answer_after_the_sync_of_its_ledger_is_durable() -> None:
    lines = [READ.format(1), SYNC.format(2, "ledger.db-wal"), ANSWER.format(3)]
    assert counted(lines, "ledger.db-wal") == Syncs(answers=1, durable=1, before=1, after=0)


def test_an_answer_before_the_sync_of_its_ledger_is_not_durable() -> None:
    lines = [
        *(READ.format(1), ANSWER.format(2), SYNC.format(3, "ledger.db-wal")),
        *(READ.format(4), ANSWER.format(5)),
    ]
    assert counted(lines, "ledger.db-wal") == Syncs(answers=2, durable=0, before=0, after=1)


def test_the_sync_of_another_file_makes_no_movement_durable() -> None:
    lines = [READ.format(1), SYNC.format(2, "keys.db-wal"), ANSWER.format(3)]
    assert counted(lines, "ledger.db-wal") == Syncs(answers=1, durable=0, before=1, after=0)
