"""A client's own log: every request before it is sent, every answer, and every one that failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from service.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

What = Literal["invoked", "ok", "refused", "not_applied", "unknown"]
_HTTP_OK: Final = frozenset({200, 201})
_HTTP_CONFLICT: Final = 409


class Event(NamedTuple):
    """One line of a client's log.

    ``at_s`` is a monotonic clock's time in seconds, one clock for the whole log. ``body`` is, for
    ``invoked``, what was asked (type, amount, reference); for ``ok`` and ``refused``, the answer.
    """

    what: What
    at_s: float
    user_id: str
    key: str
    body: dict[str, Any]


def invoked(
    at_s: float,
    user_id: str,
    key: str,
    operation: str,
    *,
    amount: str | None = None,
    reference: str | None = None,
) -> Event:
    """The line of a request about to be sent; ``operation`` is deposit, withdrawal or burn."""
    body = {"type": operation, "amount": amount, "reference": reference}
    return Event("invoked", at_s, user_id, key, body)


def answered(
    at_s: float, user_id: str, key: str, status: int | None, body: bytes | None = None
) -> Event:
    """The line of an answer, or of its absence (``status`` None: a time-out, a reset).

    Whatever is not an answer of Teller's, such as a proxy's 502, is ``unknown``.
    """
    try:
        answer = json.loads(body or b"")
    except ValueError:
        answer = None
    outcome = answer.get("outcome") if isinstance(answer, dict) else None
    what: What = "unknown"
    if not isinstance(answer, dict) or status is None:
        answer = {}
    elif status in _HTTP_OK and outcome in {"applied", "refused", "burned"}:
        what = "ok" if outcome == "applied" or answer.get("type") == "burn" else "refused"
    elif status == _HTTP_CONFLICT and isinstance(answer.get("receipt"), dict):
        # A burn that came too late: the answer carries the truth.
        answer = answer["receipt"]
        what = "ok" if answer.get("outcome") == "applied" else "refused"
    elif answer.get("code") == "key-reused" or outcome == "not_applied":
        what = "not_applied"
    elif outcome in {"refused", "burned"}:
        what = "refused"
    return Event(what, at_s, user_id, key, answer if what in {"ok", "refused"} else {})


def line(event: Event) -> str:
    """The event as a JSON line of the log, without its line feed."""
    said: dict[str, Any] = {"event": event.what, "at_s": event.at_s}
    said |= {"user_id": event.user_id, "key": event.key}
    if event.what == "invoked":
        said |= event.body
    elif event.body:
        said["answer"] = event.body
    return json.dumps(said)


def parsed(lines: Iterable[str], name: str) -> Iterator[Event]:
    """The events of a log, one at a time. Raises StartError naming the file and the line."""
    for number, text in enumerate(lines, start=1):
        try:
            said = json.loads(text)
            what, user_id, key = said.pop("event"), said.pop("user_id"), said.pop("key")
            at_s = said.pop("at_s")
            body = said if what == "invoked" else said.get("answer", {})
            fits = (
                what in get_args(What)
                and isinstance(at_s, (int, float))
                and isinstance(user_id, str)
                and isinstance(key, str)
                and isinstance(body, dict)
                and (what != "invoked" or isinstance(body.get("type"), str))
                and (what not in {"ok", "refused"} or isinstance(body.get("transaction"), int))
            )
        except (ValueError, KeyError, AttributeError, TypeError):
            fits = False
        if not fits:
            raise StartError(
                f"{name}, line {number} is not a line of a client's log. README.md, "
                '"Check it yourself", says what one looks like.'
            )
        yield Event(what, at_s, user_id, key, body)
