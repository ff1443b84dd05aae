"""The queue of processes before the write lock: fair, and nobody's death or sleep stops it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from service.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Another process which takes the turn, says so, and keeps it.
KEEPER = """
import sys, time
from pathlib import Path
from service.turn import Turn
with Turn(Path(sys.argv[1]), timeout_s=30).taken():
    print("taken", flush=True)
    time.sleep(60)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")


@contextmanager
def keeper(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", KEEPER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_process_that_dies_with_the_turn_blocks_nobody(tmp_path: Path) -> None:
    with (
        keeper(tmp_path / "ledger.db") as process,
        closing(Turn(tmp_path / "ledger.db", timeout_s=60)) as turn,
    ):
        threading.Timer(0.1, process.kill).start()
        with turn.taken() as held:
            assert held
        assert process.wait() == -signal.SIGKILL


def test_a_process_that_sleeps_with_the_turn_is_passed_after_the_time_limit(
    tmp_path: Path,
) -> None:
    with (
        keeper(tmp_path / "ledger.db") as process,
        closing(Turn(tmp_path / "ledger.db", timeout_s=0.2)) as turn,
    ):
        process.send_signal(signal.SIGSTOP)
        with turn.taken() as held:
            assert not held


def test_who_has_written_comes_after_who_waits(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    order: list[str] = []
    with closing(Turn(path, timeout_s=30)) as one, closing(Turn(path, timeout_s=30)) as two:

        def second() -> None:
            with two.taken():
                order.append("two")

        waiting = threading.Thread(target=second)
        with one.taken():
            order.append("one")
            waiting.start()
            # Until the other stands in the queue.
            while _free(path.with_name("ledger.db.next")):
                pass
        with one.taken():
            order.append("one again")
        waiting.join()
    assert order == ["one", "two", "one again"]


def _free(path: Path) -> bool:
    import fcntl  # noqa: PLC0415 - not there on Windows

    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
