"""One ledger and the services on it: started, ended, replaced at the same address."""

from __future__ import annotations

import http.client
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from tests.ports import free_port
from tests.processes import started

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.postgres_server import PostgresServer
    from tests.processes import Served

ENV: Final = {
    "TELLER_ACCOUNT_OPENING": "on_first_deposit",
    "TELLER_REQUEST_LOG": "false",
    "TELLER_ANSWER_TIMEOUT_MS": "3000",
    "TELLER_BODY_TIMEOUT_MS": "2000",
    "TELLER_DRAIN_TIMEOUT_S": "5",
    "TELLER_WAL_ROWS_MAX": "300",  # checkpoints happen, and often
}
RECOVERY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 60.0
READY_TIMEOUT_S: Final = 5.0


class NotRecoveredError(Exception):
    """A service did not serve again in time; the message says what it said."""


class Site:
    """A database URL and one or more services that serve it.

    Its methods block: they run in a thread beside the clients' loop.
    """

    def __init__(
        self,
        database_url: str,
        *,
        processes: int = 1,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
        prefix: Sequence[str] = (),
        postgres: PostgresServer | None = None,
    ) -> None:
        self.database_url = database_url
        self.postgres = postgres
        self.ports = [free_port() for _ in range(processes)]
        self.servers: list[Served] = []
        self._stacks: list[ExitStack] = []
        self._env = {**ENV, **(env or {})}
        self._command = command
        self._prefix = prefix

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def start(self) -> None:
        """All services, until each is ready."""
        for port in self.ports:
            stack = ExitStack()
            self._stacks.append(stack)
            self.servers.append(self._started(stack, port))
        self.mend()

    def _started(self, stack: ExitStack, port: int) -> Served:
        how = {"env": self._env, "command": self._command, "prefix": self._prefix}
        return stack.enter_context(
            started(self.database_url, "--port", str(port), **how)  # type: ignore[arg-type]
        )

    def replace(self, index: int) -> None:
        """A new service in the place of one that has ended."""
        self._stacks[index].close()
        self._stacks[index] = ExitStack()
        self.servers[index] = self._started(self._stacks[index], self.ports[index])

    def mend(self) -> None:
        """What a supervisor does: start again what has ended, wait until all are ready.

        Raises:
            NotRecoveredError: one of them was not ready within RECOVERY_TIMEOUT_S.
        """
        deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
        if self.postgres is not None and not self.postgres.answers():
            self.postgres.start()
        while True:
            for index, server in enumerate(self.servers):
                if server.process.poll() is not None:
                    self.replace(index)
            waiting = [index for index, port in enumerate(self.ports) if not ready(port)]
            if not waiting:
                return
            if time.monotonic() > deadline_s:
                said = self.servers[waiting[0]]
                raise NotRecoveredError(f"not ready: {said.log[-3:]} {said.output()[-2_000:]}")
            time.sleep(0.05)

    def stop(self) -> list[int]:
        """SIGTERM to all; their exit statuses."""
        for server in self.servers:
            server.process.send_signal(signal.SIGTERM)
        return [server.wait(STOP_TIMEOUT_S) for server in self.servers]

    def close(self) -> None:
        """kill -9 to whatever still lives."""
        for stack in self._stacks:
            stack.close()


def ready(port: int) -> bool:
    """Whether a service at that port says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
