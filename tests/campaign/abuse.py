"""Clients that behave badly, and more load than a service can take."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tests.campaign.clients import Crowd, Line, Operation, fields_of, invocation, p99
from tests.campaign.site import Site
from tests.campaign.trial import Scenario, Trial
from tests.clients import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    Deed = Callable[[Trial, Random, list[asyncio.StreamWriter]], Awaitable[str]]

IDLE_MAX: Final = 400
PIPELINED: Final = 400
RECEIVED_BYTES: Final = 4_096
BODY_TIMEOUT_S: Final = 10
BODY_BYTES: Final = 20_000
HEADER_BYTES: Final = 200_000
CRUMB_S: Final = 0.004

# Its capacity is lowered, so that one process of clients can offer three times as much.
SMALL: Final = {
    "TELLER_BATCH_SIZE_MAX": "4",
    "TELLER_QUEUE_DEPTH_MAX": "32",
    "TELLER_QUEUE_DEPTH_PER_USER_MAX": "24",
    "TELLER_WAL_ROWS_MAX": "100000",
}
SLOW_SYNC_US: Final = 30_000
SLOW: Final = (
    *("strace", "--daemonize", "--follow-forks", "--seccomp-bpf", "--output=/dev/null"),
    *("--trace=fsync,fdatasync", f"--inject=fsync,fdatasync:delay_exit={SLOW_SYNC_US}"),
)
SUSTAINED_CLIENTS: Final = 24
OFFERED_TIMES: Final = 3
RECOVERY_TIMEOUT_S: Final = 10
GREEDY_CLIENTS: Final = 48
MODEST_EVERY_S: Final = 0.05
SHED_PAUSE_S: Final = 0.1


# -- clients that behave badly ----------------------------------------------------------------


async def misbehave(trial: Trial, until: asyncio.Event) -> None:
    """Beside the crowd: hang up, never read, send crumbs, half a body, too much of everything."""
    rng = trial.part()
    held: list[asyncio.StreamWriter] = []
    deeds: tuple[Deed, ...] = (_hang_up, _never_read, _crumbs, _half_a_body, _too_much, _idle)
    places = asyncio.Semaphore(IDLE_MAX)
    async with asyncio.TaskGroup() as group:
        while not until.is_set():
            await asyncio.sleep(rng.uniform(0.0, 0.03))
            group.create_task(_one(rng.choice(deeds), trial, rng, held, places))
    for writer in held:
        writer.transport.abort()


async def _one(
    deed: Deed,
    trial: Trial,
    rng: Random,
    held: list[asyncio.StreamWriter],
    places: asyncio.Semaphore,
) -> None:
    if deed in {_never_read, _idle} and len(held) >= IDLE_MAX:
        return
    async with places:
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            trial.injected[await deed(trial, rng, held)] += 1


async def _opened(trial: Trial) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket()
    connection.setblocking(False)  # noqa: FBT003 - socket's own signature
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", trial.site.ports[0]))
    return await asyncio.open_connection(sock=connection, limit=RECEIVED_BYTES)


def _request(operation: Operation, body: bytes) -> bytes:
    lines = ["POST /deposit HTTP/1.1", "host: campaign"]
    lines += [f"{name}: {value}" for name, value in fields_of(operation).items()]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def _deposit(trial: Trial) -> Operation:
    """A new deposit, its sending in the log; the crowd settles it in the end."""
    crowd = trial.crowd
    while (operation := crowd.new_operation()).kind != "deposit":
        pass
    crowd.log.append(invocation(operation))
    return operation


async def _hang_up(trial: Trial, rng: Random, _held: object) -> str:
    operation = _deposit(trial)
    _, writer = await _opened(trial)
    writer.write(_request(operation, trial.crowd.body(operation)))
    await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01]))
    writer.transport.abort()
    return "client hung up"


async def _never_read(trial: Trial, _rng: Random, held: list[asyncio.StreamWriter]) -> str:
    reader, writer = await _opened(trial)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    user = trial.crowd.users[0]
    one = f"GET /transactions?limit=200 HTTP/1.1\r\nhost: campaign\r\nuser_id: {user}\r\n\r\n"
    writer.write(one.encode() * PIPELINED)
    held.append(writer)
    return "client never reads"


async def _crumbs(trial: Trial, _rng: Random, _held: object) -> str:
    operation = _deposit(trial)
    reader, writer = await _opened(trial)
    for byte in _request(operation, trial.crowd.body(operation)):
        writer.write(bytes([byte]))
        await asyncio.sleep(CRUMB_S)
    trial.crowd.took(operation, await _reply(reader))
    writer.close()
    return "body in crumbs"


async def _half_a_body(trial: Trial, _rng: Random, _held: object) -> str:
    operation = _deposit(trial)
    reader, writer = await _opened(trial)
    request = _request(operation, trial.crowd.body(operation))
    writer.write(request[:-3])
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            reply = await _reply(reader)
    except TimeoutError:
        trial.crowd.accuse(f"half a body of {operation} was waited for longer than told")
        raise
    if reply.status != 408:
        trial.crowd.accuse(f"half a body of {operation} was answered {reply.status}")
    trial.crowd.took(operation, reply)
    writer.close()
    return "body that stops"


async def _too_much(trial: Trial, rng: Random, _held: object) -> str:
    operation = Operation(trial.crowd.users[0], f"much{rng.random()}", "deposit", "1", None)
    trial.crowd.log.append(invocation(operation))
    reader, writer = await _opened(trial)
    if rng.random() < 0.5:
        said, request = (
            "body too large",
            _request(operation, b" " * BODY_BYTES + b'{"amount": "1"}'),
        )
    else:
        said, request = "header too large", b"GET / HTTP/1.1\r\nx: " + b"x" * HEADER_BYTES
    with suppress(OSError):  # it may be cut off while it sends
        writer.write(request)
        await writer.drain()
    reply = Reply(0, {}, b"")
    with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(BODY_TIMEOUT_S):
            reply = await _reply(reader)
    if reply.status and not 400 <= reply.status < 500:
        trial.crowd.accuse(f"{said}: {reply}")
    trial.crowd.took(operation, reply)
    writer.transport.abort()
    return said


async def _idle(trial: Trial, rng: Random, held: list[asyncio.StreamWriter]) -> str:
    _, writer = await _opened(trial)
    held.append(writer)
    if rng.random() < 0.5:
        writer.write(b"POST /deposit HTTP/1.1\r\nhost: camp")
        return "half a header, then silence"
    return "idle connection"


async def _reply(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = {
        name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])
    }
    body = await reader.readexactly(int(fields.get("content-length", "0")))
    return Reply(int(head[0].split(" ", 2)[1]), fields, body)


# -- more load than it can take ---------------------------------------------------------------


async def overload(trial: Trial) -> None:
    """What it sustains, then three times as much, then what it does once that is over."""
    await _serve_small(trial)
    crowd = trial.crowd
    await crowd.open()
    until = asyncio.Event()
    working = asyncio.create_task(_closed_loop(crowd, SUSTAINED_CLIENTS, until))
    before = crowd.statuses[201] + crowd.statuses[402]
    await asyncio.sleep(trial.seconds / 3)
    sustained = (crowd.statuses[201] + crowd.statuses[402] - before) / (trial.seconds / 3)
    until.set()
    await working
    shed_before = crowd.statuses[503] + crowd.statuses[429]
    taken_before = crowd.statuses[201] + crowd.statuses[402]
    began_s = time.monotonic()
    await _open_loop(crowd, OFFERED_TIMES * sustained, trial.seconds * 2 / 3)
    taken = crowd.statuses[201] + crowd.statuses[402] - taken_before
    shed = crowd.statuses[503] + crowd.statuses[429] - shed_before
    took_s = time.monotonic() - began_s
    trial.injected["three times the load"] += 1
    if not shed:
        crowd.accuse(f"nothing of {OFFERED_TIMES * sustained:.0f}/s was shed")
    recovered_s = await _recovered(crowd)
    trial.figures |= {
        "sustained_per_s": round(sustained),
        "offered_per_s": round(OFFERED_TIMES * sustained),
        "taken_per_s": round(taken / took_s),
        "shed": shed,
        "recovered_after_s": round(recovered_s, 2),
    }
    await _settle_at_full_speed(trial)


async def _serve_small(trial: Trial) -> None:
    prefix = SLOW if trial.engine == "sqlite" else ()
    trial.site = Site(
        trial.site.database_url, env=SMALL, prefix=prefix, postgres=trial.site.postgres
    )
    hunting = trial.crowd.hunting
    trial.crowd = Crowd(trial.site.urls, trial.part())
    trial.crowd.hunting = hunting
    await asyncio.to_thread(trial.site.start)


async def _settle_at_full_speed(trial: Trial) -> None:
    """What was shed is settled by a service without the lowered limits."""
    await asyncio.to_thread(trial.site.stop)
    await asyncio.to_thread(trial.site.close)
    trial.site = Site(trial.site.database_url, postgres=trial.site.postgres)
    await asyncio.to_thread(trial.site.start)
    await trial.end()


async def _closed_loop(crowd: Crowd, clients: int, until: asyncio.Event) -> None:
    async def one() -> None:
        line = Line()
        while not until.is_set():
            await crowd.send(line, crowd.new_operation())
        await line.close()

    await asyncio.gather(*(one() for _ in range(clients)))


async def _open_loop(crowd: Crowd, rate: float, seconds: float) -> None:
    """Requests leave on a schedule, whether or not others were answered."""
    idle: list[Line] = []
    sending: set[asyncio.Task[None]] = set()

    async def one() -> None:
        line = idle.pop() if idle else Line()
        await crowd.send(line, crowd.new_operation())
        idle.append(line)

    began_s = time.monotonic()
    sent = 0
    while (passed_s := time.monotonic() - began_s) < seconds:
        while sent < passed_s * rate:
            sent += 1
            task = asyncio.create_task(one())
            sending.add(task)
            task.add_done_callback(sending.discard)
        await asyncio.sleep(0.005)
    await asyncio.gather(*sending)
    for line in idle:
        await line.close()


async def _recovered(crowd: Crowd) -> float:
    """Seconds until a new operation is answered; no more load is offered."""
    began_s = time.monotonic()
    line = Line()
    while (await crowd.send(line, crowd.new_operation())).what == "unknown":
        if time.monotonic() - began_s > RECOVERY_TIMEOUT_S:
            crowd.accuse(f"not recovered {RECOVERY_TIMEOUT_S} s after an overload")
            break
        await asyncio.sleep(0.1)
    await line.close()
    return time.monotonic() - began_s


async def greedy(trial: Trial) -> None:
    """One user with dozens of requests at once, beside one with a request now and then."""
    await _serve_small(trial)
    crowd = trial.crowd
    await crowd.open()
    until = asyncio.Event()
    latencies: dict[str, list[float]] = {"greedy": [], "modest": []}
    shed = {"greedy": 0, "modest": 0}

    async def one(name: str, user: str, pause_s: float) -> None:
        line = Line()
        while not until.is_set():
            began_s = time.monotonic()
            event = await crowd.send(line, crowd.new_operation(user))
            if event.what == "unknown":
                shed[name] += 1
                await asyncio.sleep(SHED_PAUSE_S)
            else:
                latencies[name].append((time.monotonic() - began_s) * 1000)
            await asyncio.sleep(pause_s)
        await line.close()

    crowds = [one("greedy", crowd.users[0], 0) for _ in range(GREEDY_CLIENTS)]
    working = asyncio.gather(*crowds, one("modest", crowd.users[1], MODEST_EVERY_S))
    await asyncio.sleep(trial.seconds)
    until.set()
    await working
    trial.injected["greedy user"] += 1
    for name, found in latencies.items():
        trial.figures |= {
            f"{name}_answered": len(found),
            f"{name}_shed": shed[name],
            f"{name}_p99_ms": round(p99(found), 1),
        }
    await _settle_at_full_speed(trial)


ABUSE: Final = Scenario(
    "abuse",
    "clients that hang up, never read, trickle, stop, send too much",
    aside=misbehave,
)
OVERLOAD: Final = Scenario(
    "overload", "three times what it sustains", engines=("sqlite",), play=overload
)
GREEDY: Final = Scenario("greedy", "a greedy user beside a modest one", play=greedy)
