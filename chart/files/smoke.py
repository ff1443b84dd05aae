"""Try one Teller as a client would: a deposit, its replay, a mismatch, an overdraft, a withdrawal.

The keys hold the name of the run, so that a second run of it is a replay of the first; deposit and
withdrawal net to zero. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import NamedTuple

TIMEOUT_S = 30
# A new pod's proxy and the Service's endpoints take a moment.
PATIENCE_S = 60


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    replayed: str | None

    def field(self, name: str) -> object:
        """A field of the JSON body, or None."""
        try:
            return json.loads(self.body).get(name)
        except (ValueError, AttributeError):
            return None


def identity() -> dict[str, str]:
    """The headers that say who asks: a token, or in insecure mode the user itself."""
    if token := os.environ.get("SMOKE_TOKEN"):
        return {"Authorization": f"Bearer {token.strip()}"}
    if user := os.environ.get("SMOKE_USER"):
        return {"user_id": user}
    return {}


def ask(url: str, headers: dict[str, str], body: object = None) -> Answer:
    """Send one request, again with the same key while nothing answers."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - the chart's own URL
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return Answer(answer.status, answer.read(), answer.headers["Idempotent-Replayed"])
        except urllib.error.HTTPError as answer:
            found = Answer(answer.code, answer.read(), answer.headers["Idempotent-Replayed"])
            if found.status < 500 or time.monotonic() > give_up:  # noqa: PLR2004
                return found
        except OSError:
            if time.monotonic() > give_up:
                raise
        time.sleep(1)


def expect(what: str, *, found: object, wanted: object) -> None:
    """Go on, or end the run with what was wrong."""
    if found != wanted:
        sys.exit(f"smoke: {what}: expected {wanted!r}, got {found!r}")
    print(f"smoke: {what}: {found!r}")


def movements(base: str, run: str) -> None:
    """Move one unit in and out, with everything that must be refused or replayed between."""

    def move(path: str, key: str, amount: str) -> Answer:
        headers = {"Idempotency-Key": f"smoke-{run}-{key}", **identity()}
        return ask(f"{base}/{path}", headers, {"amount": amount})

    first = move("deposit", "deposit", "1")
    expect(
        "a deposit is applied",
        found=(first.status, first.field("outcome")),
        wanted=(201, "applied"),
    )
    again = move("deposit", "deposit", "1")
    expect("its retry is a replay", found=(again.status, again.replayed), wanted=(201, "true"))
    expect("byte for byte", found=again.body == first.body, wanted=True)
    other = move("deposit", "deposit", "2")
    expect(
        "another amount is refused",
        found=(other.status, other.field("code")),
        wanted=(422, "key-reused"),
    )
    over = move("withdraw", "overdraft", "1000")
    expect(
        "an overdraft is refused",
        found=(over.status, over.field("code")),
        wanted=(402, "insufficient-funds"),
    )
    later = move("withdraw", "overdraft", "1000")
    expect("for good", found=(later.status, later.replayed), wanted=(402, "true"))
    back = move("withdraw", "withdrawal", "1")
    expect(
        "what went in comes out",
        found=(back.status, back.field("outcome")),
        wanted=(201, "applied"),
    )


def authorization(base: str) -> None:
    """Nobody gets in without a token, not by naming a user either; the pages stay open."""
    expect("no token", found=ask(f"{base}/balance", {}).status, wanted=403)
    for header in ("user_id", "X-User-Id"):
        expect(
            f"{header} without a token",
            found=ask(f"{base}/balance", {header: "alice"}).status,
            wanted=403,
        )
    forged = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."}
    expect("a forged token", found=ask(f"{base}/balance", forged).status, wanted=401)
    expect("the problems' pages", found=ask(f"{base}/problems", {}).status, wanted=200)


def main() -> None:
    """Run one of the two tests against the URL given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--authorization", action="store_true")
    options = parser.parse_args()
    if options.authorization:
        authorization(options.url)
    else:
        movements(options.url, os.environ["SMOKE_RUN"])


if __name__ == "__main__":
    main()
