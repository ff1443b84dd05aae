"""A short exactly-once trial of any contestant: after every fault each key is one movement.

Clients send until they have an answer; afterwards the ledger is counted. What is looked for:

- ``killed``: the service dies by SIGKILL under load, again and again, and comes back.
- ``hung-up``: a client closes its connection while its request is at work, and sends it again.
- ``two-users``: two users happen to choose the same key.
- ``exact``: amounts that a float cannot hold, and the same key with another such amount.
- ``duplicates``: the same request many times at once.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from tests.bench import process
from tests.bench.audit import WrongLedgerError
from tests.bench.contestants import DURABLE, grounded, launched
from tests.bench.targets import Found
from tests.bench.verdict import Sent, Trial, judged
from tests.clients import Wire
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.bench.contestants import Contestant
    from tests.bench.process import Ground
    from tests.bench.targets import Plan

CLIENTS: Final = 16
DUPLICATES: Final = 8
AT_ONCE: Final = 3
# How long a claim outlives its process where a peer has such a lease: what a retry meets after it
# does not depend on the length, and their defaults of 30 and 60 s would only be waited for.
LEASE_S: Final = 3
PATIENCE_S: Final = 4 * LEASE_S
RETRY_S: Final = 0.05
ALIVE_S: Final = (0.3, 0.9)
FINAL: Final = {400, 403, 404, 413, 422}
LARGE: Final = "90071992547409.93"
NEXT_TO_LARGE: Final = "90071992547409.94"

_ROWS: Final = (
    "SELECT user_id, key, count(*), sum(amount_minor) FROM movements "
    "JOIN accounts ON accounts.id = movements.account_id GROUP BY user_id, key"
)


class Service:
    """A contestant that is killed and started again on the same ledger and port."""

    def __init__(self, contestant: Contestant, folder: Path, ground: Ground) -> None:
        self._contestant = contestant
        self._folder = folder
        self._ground = ground
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.up_since_s = inf

    def start(self) -> None:
        self._process = launched(
            self._contestant,
            self._folder,
            self._port,
            ground=self._ground,
            env={"BENCH_LEASE_S": str(LEASE_S)},
        )
        self.up_since_s = monotonic()

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        self.up_since_s = inf
        process.stop(self._process, sign)

    def movements(self) -> dict[tuple[str, str], tuple[int, int]]:
        """How many movements each user's key has, and their sum in minor units; at rest."""
        return {
            (user, key): (int(many), int(minor)) for user, key, many, minor in self.asked(_ROWS)
        }

    def asked(self, sql: str) -> list[tuple[Any, ...]]:
        """What its ledger answers; at rest."""
        return self._contestant.ask(self._folder, self._ground.env, sql)


def tried(contestant: Contestant, *, kills: int, keys: int, seed: int = 0) -> Trial:
    """Run the whole trial on a fresh ledger.

    Args:
        contestant: who.
        kills: how often its process is killed under load.
        keys: in each of the other cases.
        seed: of the moments at which it is killed and clients hang up.
    """
    with tempfile.TemporaryDirectory(prefix="teller-bench-") as fresh:
        folder = Path(fresh)
        with grounded(contestant, folder) as ground:
            service = Service(contestant, folder, ground)
            service.start()
            try:
                done = asyncio.run(_all(service, random.Random(seed), kills, keys))
            finally:
                service.stop()
            return judged(done, service.movements())


def compared(plan: Plan) -> Found:
    """Every durable contestant's trial.

    Raises:
        WrongLedgerError: Teller itself has a violation.
    """

    def tried_(contestant: Contestant) -> Trial:
        trial = tried(contestant, kills=plan.kills, keys=20 * plan.kills)
        plan.say(f"trial of {contestant.title}: {trial.violations} of {trial.keys} keys wrong")
        return trial

    # Nothing is timed: they run beside each other.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        trials = list(zip(DURABLE, pool.map(tried_, DURABLE), strict=True))
    for contestant, trial in trials:
        if contestant.app is None and trial.violations:
            raise WrongLedgerError(f"{contestant.title} in the trial: {trial.as_json()}")
    found = {contestant.name: trial.as_json() for contestant, trial in trials}
    return Found([], {"trials": found})


# -- the cases ----------------------------------------------------------------------------------


async def _all(
    service: Service, dice: random.Random, kills: int, keys: int
) -> dict[str, list[list[Sent]]]:
    """What was sent in each case; a group of sendings belongs to one claim about them."""
    return {
        "two-users": await _each(keys, lambda n: _two_users(service, n)),
        "duplicates": await _each(keys, lambda n: _duplicates(service, n)),
        "hung-up": await _each(keys, lambda n: _hung_up(service, n, dice.uniform(0, 0.02))),
        "exact": [await _exact(service)],
        "killed": await _killed(service, dice, kills),
    }


async def _each(many: int, case: Callable[[int], Awaitable[list[Sent]]]) -> list[list[Sent]]:
    places = asyncio.Semaphore(CLIENTS)

    async def one(n: int) -> list[Sent]:
        async with places:
            return await case(n)

    return await asyncio.gather(*(one(n) for n in range(many)))


async def _two_users(service: Service, n: int) -> list[Sent]:
    return [await _sent(service, f"u{2 * n + i}", f"two-{n}") for i in range(2)]


async def _duplicates(service: Service, n: int) -> list[Sent]:
    return await asyncio.gather(
        *(_sent(service, f"u{n}", f"duplicate-{n}") for _ in range(DUPLICATES))
    )


async def _hung_up(service: Service, n: int, after_s: float) -> list[Sent]:
    user, key = f"u{n}", f"hung-up-{n}"
    async with Wire(service.url, timeout_s=after_s) as wire:
        with suppress(ConnectionError):  # its patience ends in the middle of its request
            await wire.post("/deposit", b'{"amount":"1.25"}', _fields(user, key))
    return [await _sent(service, user, key)]


async def _exact(service: Service) -> list[Sent]:
    """A large amount as a string and as a number; the number's neighbour under the same key."""
    return [
        await _sent(service, "u900", "string", f'"{LARGE}"'),
        await _sent(service, "u901", "number", LARGE),
        await _sent(service, "u902", "neighbour", f'"{LARGE}"'),
        await _sent(service, "u902", "neighbour", f'"{NEXT_TO_LARGE}"'),
        await _sent(service, "u903", "number-neighbour", LARGE),
        await _sent(service, "u903", "number-neighbour", NEXT_TO_LARGE),
    ]


async def _killed(service: Service, dice: random.Random, kills: int) -> list[list[Sent]]:
    over = asyncio.Event()

    async def client(number: int) -> list[Sent]:
        sent: list[Sent] = []
        while not over.is_set():
            user, key = f"u{number}", f"killed-{number}-{len(sent)}"
            sent.append(await _sent(service, user, key))
        return sent

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    for _ in range(kills):
        await asyncio.sleep(dice.uniform(*ALIVE_S))
        await asyncio.to_thread(service.stop, signal.SIGKILL)
        await asyncio.to_thread(service.start)
    over.set()
    return [[one] for sent in await asyncio.gather(*clients) for one in sent]


async def _sent(service: Service, user: str, key: str, amount: str = '"1.25"') -> Sent:
    """Send it again until it is answered for good; patience is counted while the service runs."""
    body = f'{{"amount":{amount}}}'.encode()
    began_s = monotonic()
    while monotonic() < max(began_s, service.up_since_s) + PATIENCE_S:
        with suppress(OSError):
            async with Wire(service.url, timeout_s=PATIENCE_S) as wire:
                reply = await wire.post("/deposit", body, _fields(user, key))
                if reply.status in {200, 201, *FINAL}:
                    return Sent(user, key, reply)
        await asyncio.sleep(RETRY_S)
    return Sent(user, key, None)


def _fields(user: str, key: str) -> Mapping[str, str]:
    return {"user_id": user, "idempotency-key": key, "content-type": "application/json"}


def main() -> None:
    """``python -m tests.bench.trial NAME...``: the trials of those alone, as JSON."""
    import sys  # noqa: PLC0415

    for contestant in DURABLE:
        if contestant.name in sys.argv[1:]:
            found = tried(contestant, kills=5, keys=100)
            sys.stdout.write(json.dumps({contestant.name: found.as_json()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
