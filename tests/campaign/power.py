"""Power loss: every write and sync of a service recorded, and the disk as a cut would leave it.

A file keeps what it was when it was last synced, and of the writes since then any: none, the first
few, all, a random few with one torn at a sector. Files that a service made are taken as made. What
the clients were told before the cut must be in every such ledger.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from service.sqlite import file_of
from tests.campaign.clients import CLIENTS, Crowd
from tests.campaign.judge import integrity, judge
from tests.campaign.site import Site
from tests.campaign.trial import TELLER, Scenario, Trial
from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from service.history import Event

IMAGES_PER_S: Final = 8
PREFIXES_MAX: Final = 12
SUBSETS: Final = 2
RESTARTS: Final = 2
SECTOR_BYTES: Final = 512
TRACE_TIMEOUT_S: Final = 30
STRACE: Final = (
    *("strace", "--daemonize", "--follow-forks", "--seccomp-bpf", "-ttt", "-xx", "-y"),
    *("-s", "1000000", "-e", "trace=pwrite64,ftruncate,fsync,fdatasync"),
)
_ANY: Final = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
_WRITE: Final = re.compile(r'pwrite64\(\d+<([^>]*)>, "((?:\\x[0-9a-f]{2})*)", \d+, (\d+)')
_CUT: Final = re.compile(r"ftruncate\(\d+<([^>]*)>, (\d+)")
_SYNC: Final = re.compile(r"(?:fsync|fdatasync)\(\d+<([^>]*)>")
_SYNCED: Final = re.compile(r"<\.\.\. (?:fsync|fdatasync) resumed>")


class Step(NamedTuple):
    """One call: a write (``data``), a truncation (``size``), or a sync that has come back."""

    at_s: float
    path: str
    offset: int = 0
    data: bytes | None = None
    size: int | None = None

    @property
    def syncs(self) -> bool:
        return self.data is None and self.size is None


def steps(trace: Path, folder: Path) -> Iterator[Step]:
    """The calls of a trace on files in that folder; a sync has the time at which it began."""
    begun: dict[str, tuple[float, str]] = {}
    for line in trace.read_text().splitlines():
        found = _ANY.match(line)
        if found is None:
            continue
        pid, at_s, call = found[1], float(found[2]), found[3]
        failed = " = -1 " in call
        if _SYNCED.match(call) and pid in begun and not failed:
            yield Step(*begun.pop(pid))
        elif match := _SYNC.match(call):
            path = _path(match[1])
            if "<unfinished" in call:
                begun[pid] = at_s, path
            elif not failed and Path(path).parent == folder:
                yield Step(at_s, path)
        elif failed:
            continue
        elif match := _WRITE.match(call):
            yield Step(at_s, _path(match[1]), int(match[3]), _bytes(match[2]))
        elif match := _CUT.match(call):
            yield Step(at_s, _path(match[1]), size=int(match[2]))


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _path(said: str) -> str:
    return _bytes(said).decode() if "\\x" in said else said


class Disk:
    """Files as they were last synced, and the writes to each since then."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.synced = {path: bytearray(held) for path, held in files.items()}
        self.pending: dict[str, list[Step]] = {}

    def take(self, step: Step) -> None:
        """A write waits for its sync; a sync makes those before it last."""
        if not step.syncs:
            self.pending.setdefault(step.path, []).append(step)
            return
        held = self.synced.setdefault(step.path, bytearray())
        for one in self.pending.pop(step.path, []):
            _apply(held, one)

    def after_a_cut(self, kept: dict[str, list[Step]]) -> dict[str, bytes]:
        """The files when power is lost and of the writes since the last sync these remain."""
        left = {path: bytearray(held) for path, held in self.synced.items()}
        for path, those in kept.items():
            held = left.setdefault(path, bytearray())
            for step in those:
                _apply(held, step)
        return {path: bytes(held) for path, held in left.items()}


def _apply(held: bytearray, step: Step) -> None:
    if step.data is None:
        del held[step.size :]
        return
    held.extend(bytes(max(0, step.offset - len(held))))
    held[step.offset : step.offset + len(step.data)] = step.data


def variants(disk: Disk, rng: Random) -> Iterator[dict[str, list[Step]]]:
    """What may remain of the writes since the last sync, the likeliest to hurt first."""
    writes = [step for those in disk.pending.values() for step in those]
    yield {}
    cuts = range(1, len(writes) + 1)
    chosen = cuts if len(cuts) <= PREFIXES_MAX else sorted(rng.sample(cuts, PREFIXES_MAX))
    for cut in chosen:
        yield _by_path(writes[:cut])
    for _ in range(SUBSETS if writes else 0):
        some = [step for step in writes if rng.random() < 0.5] or writes[-1:]
        torn = rng.randrange(len(some))
        data = some[torn].data
        if data is not None and len(data) > SECTOR_BYTES:
            cut = SECTOR_BYTES * rng.randrange(1, len(data) // SECTOR_BYTES)
            some[torn] = some[torn]._replace(data=data[:cut])
        yield _by_path(some)


def _by_path(those: list[Step]) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for step in those:
        found.setdefault(step.path, []).append(step)
    return found


# -- the scenario -----------------------------------------------------------------------------


async def play(trial: Trial) -> None:
    """Record a service under load until it is killed, then cut the power at many moments."""
    folder, url = trial.folder, trial.site.database_url
    await asyncio.to_thread(_make, url)
    before = _files(folder)
    trace = folder / "trace"
    trial.site = Site(url, prefix=(*STRACE, "-o", str(trace)), command=trial.command or TELLER)
    crowd = trial.crowd = Crowd(trial.site.urls, trial.part())
    await asyncio.to_thread(trial.site.start)
    wall_s = time.time() - time.monotonic()
    await crowd.open()
    until = asyncio.Event()
    asyncio.get_running_loop().call_later(trial.seconds / 2, until.set)
    await crowd.work(CLIENTS, until)
    await asyncio.to_thread(trial.site.servers[0].kill)
    await _ended(trace, trial.site.servers[0].process.pid)
    recorded = list(steps(trace, folder))
    whole = Disk(before)
    for step in recorded:
        whole.take(step)
    now, traced = _files(folder), whole.after_a_cut(whole.pending)
    for path in now:
        assert traced.get(path, b"") == now[path], f"the trace does not give {path}"
    trial.figures |= {"syncs": sum(step.syncs for step in recorded), "steps": len(recorded)}
    await _cut(trial, recorded, Disk(before), wall_s)


def _make(url: str) -> None:
    with serving(url) as server:
        assert server.terminate() == 0


def _files(folder: Path) -> dict[str, bytes]:
    """The database and its log; the index of the log is made anew from it."""
    return {str(path): path.read_bytes() for path in folder.glob("ledger.db*")
            if path.suffix == ".db" or path.name.endswith("-wal")}  # fmt: skip


async def _ended(trace: Path, pid: int) -> None:
    deadline_s = time.monotonic() + TRACE_TIMEOUT_S
    while f"{pid}" not in (text := await asyncio.to_thread(trace.read_text)) or "+++" not in text:
        assert time.monotonic() < deadline_s, "strace did not end its record"
        await asyncio.sleep(0.1)


async def _cut(trial: Trial, recorded: list[Step], disk: Disk, wall_s: float) -> None:
    """Cut at as many moments as there is time for: before a sync has come back, or anywhere."""
    rng = trial.part()
    syncs = [number for number, step in enumerate(recorded) if step.syncs]
    moments = syncs or rng.sample(range(len(recorded)), min(100, len(recorded)))
    many = int(trial.seconds * IMAGES_PER_S)
    chosen = set(rng.sample(moments, min(len(moments), max(1, many // 4))))
    restarts = set(rng.sample(sorted(chosen), min(RESTARTS, len(chosen))))
    log = trial.crowd.log
    for number, step in enumerate(recorded):
        if trial.hunting and trial.broken:
            return
        if number in chosen:
            known = [event for event in log if event.at_s < step.at_s - wall_s]
            for kept in variants(disk, rng):
                files = disk.after_a_cut(kept)
                trial.injected["power cut"] += 1
                await _judge_image(trial, files, known)
            if number in restarts:
                trial.injected["power cut and restart"] += 1
                await _restart_on(trial, files, known)
        disk.take(step)


def _lay(trial: Trial, files: dict[str, bytes]) -> str:
    """The files in a folder of their own; the URL of the ledger there."""
    image = trial.folder / f"image-{trial.injected.total()}"
    image.mkdir()
    for path, held in files.items():
        (image / Path(path).name).write_bytes(held)
    return f"sqlite+aiosqlite:///{image / 'ledger.db'}"


async def _judge_image(trial: Trial, files: dict[str, bytes], known: list[Event]) -> None:
    url = _lay(trial, files)
    broken = integrity(url)  # it recovers the log, as a start does
    if not broken:
        found = await judge(url, known, trial.crowd.users)
        trial.rows = max(trial.rows, found.rows)
        broken = found.broken
    trial.broken += broken
    _remove(url)


async def _restart_on(trial: Trial, files: dict[str, bytes], known: list[Event]) -> None:
    """The real service on the disk after the cut: every key known by then settles."""
    url = _lay(trial, files)
    site = Site(url)
    crowd = Crowd(site.urls, trial.part())
    places = {(event.user_id, event.key) for event in known} & trial.crowd.operations.keys()
    answered = {(one.user_id, one.key) for one in known if one.what in {"ok", "refused"}}
    crowd.operations = {place: trial.crowd.operations[place] for place in places}
    crowd.log, crowd.unsettled = list(known), places - answered
    try:
        await asyncio.to_thread(site.start)
        await crowd.settle()
        await asyncio.to_thread(site.stop)
        trial.broken += crowd.broken + (await judge(url, crowd.log, crowd.users)).broken
    finally:
        await asyncio.to_thread(site.close)
    _remove(url)


def _remove(url: str) -> None:
    for path in (image := file_of(url).parent).iterdir():
        path.unlink()
    image.rmdir()


POWER: Final = Scenario(
    "power",
    "power lost at any sync: files cut at any write since the last, torn, restarted",
    engines=("sqlite",),
    play=play,
)
