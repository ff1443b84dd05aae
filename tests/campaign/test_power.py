"""The disk that a power cut leaves: what was synced lasts, what was not may be gone or torn."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.campaign.power import Disk, Step, steps, variants

if TYPE_CHECKING:
    from pathlib import Path

LOG = "/ledger/ledger.db-wal"


def write(offset: int, data: bytes, path: str = LOG) -> Step:
    return Step(0.0, path, offset, data)


def test_what_was_written_before_a_sync_outlasts_the_cut_and_what_came_after_may_not() -> None:
    disk = Disk({LOG: b"0000"})
    for step in (write(2, b"11"), Step(0.0, LOG), write(4, b"2222")):
        disk.take(step)
    assert disk.after_a_cut({}) == {LOG: b"0011"}
    assert disk.after_a_cut(disk.pending) == {LOG: b"00112222"}


def test_a_sync_of_one_file_says_nothing_of_another() -> None:
    disk = Disk({})
    for step in (write(0, b"log"), write(0, b"file", "/ledger/ledger.db"), Step(0.0, LOG)):
        disk.take(step)
    assert disk.after_a_cut({}) == {LOG: b"log"}


def test_a_cut_leaves_nothing_each_first_part_everything_and_torn_subsets() -> None:
    disk = Disk({})
    for number in range(3):
        disk.take(write(1_024 * number, bytes([number + 1]) * 1_024))
    left = [disk.after_a_cut(kept).get(LOG, b"") for kept in variants(disk, Random(1))]
    assert [len(held) for held in left[:4]] == [0, 1_024, 2_048, 3_072]
    assert len(left) == 6
    # Of one write only the first sector arrived.
    assert all(sum(held.count(bytes([n])) for n in (1, 2, 3)) % 1_024 == 512 for held in left[4:])


def test_a_trace_is_read_with_its_interrupted_calls_and_without_failed_ones(
    tmp_path: Path,
) -> None:
    trace = tmp_path / "trace"
    log = tmp_path / "ledger.db-wal"
    hexed = "".join(f"\\x{byte:02x}" for byte in str(log).encode())
    trace.write_text(
        f'7 10.0 pwrite64(5<{hexed}>, "\\x61\\x62", 2, 8) = 2\n'
        f"7 11.0 fdatasync(5<{hexed}> <unfinished ...>\n"
        f'8 11.5 pwrite64(5<{hexed}>, "\\x63", 1, 0) = -1 ENOSPC (No space left on device)\n'
        "7 12.0 <... fdatasync resumed>) = 0\n"
        f"7 13.0 ftruncate(5<{hexed}>, 4) = 0\n"
        f"7 14.0 fsync(5<{hexed}>) = -1 EIO (Input/output error)\n"
        "7 15.0 +++ exited with 0 +++\n"
    )
    assert list(steps(trace, tmp_path)) == [
        Step(10.0, str(log), 8, b"ab"),
        Step(11.0, str(log)),
        Step(13.0, str(log), size=4),
    ]
