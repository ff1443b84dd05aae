"""Ports for servers that cannot choose one themselves: free, and given to no client."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below those that the kernel gives to clients: one of them may be taken by a connection before the
# server binds it, and a client that connects to a port where nobody listens may be given that very
# port, and then talks to itself.
PORTS: Final = (12_000, 30_000)


def free_port() -> int:
    """A port that nobody has."""
    while True:
        port = random.SystemRandom().randint(*PORTS)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
