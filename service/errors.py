"""Every way a request or a start can fail: one table of codes, and the failures themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal["applied", "refused", "burned", "not_applied", "unknown", "stored"]
Retry = Literal["same_key", "new_key", "fix_request", "never"]


@dataclass(frozen=True, slots=True)
class Code:
    """One problem code: its status, what it says of the money, what the client may do.

    ``outcome`` is ``stored`` where the answer takes it from the ledger row it speaks of.
    ``money`` and ``remedy`` are the two paragraphs of the page at ``/problems/{code}``.
    """

    name: str
    status: int
    title: str
    outcome: Outcome
    retry: Retry
    money: str
    remedy: str


_UNTOUCHED: Final = (
    "This attempt moved nothing: it was rejected before the idempotency key was looked up. "
    "It says nothing about an earlier request under the same key."
)
_MAYBE_EARLIER: Final = (
    "This attempt was not executed. An earlier attempt under the same key may have been."
)
_SAME_KEY: Final = (
    "Send the same request again with the same Idempotency-Key, after the seconds that the "
    "Retry-After header names, with growing pauses. The key makes that safe: the money "
    "moves at most once."
)
_READ_ONLY: Final = "Nothing moved: this route only reads."


def _fix(name: str, status: int, title: str, remedy: str, money: str = _UNTOUCHED) -> Code:
    return Code(name, status, title, "not_applied", "fix_request", money, remedy)


CODES: Final[dict[str, Code]] = {
    code.name: code
    for code in (
        _fix(
            "user-invalid",
            400,
            "The user header is not valid",
            "Send user_id (or X-User-Id) once, with 1 to 128 visible ASCII characters and no "
            "spaces. If both spellings are sent, their values must be equal. Keep the key.",
        ),
        _fix(
            "key-missing",
            400,
            "The Idempotency-Key header is missing",
            "Make a key (a UUID will do), store it on the device before the first send, and "
            "send it in the Idempotency-Key header with every attempt of the same operation.",
        ),
        _fix(
            "key-invalid",
            400,
            "The Idempotency-Key header is not valid",
            "Send the header once: 1 to 255 visible ASCII characters, bare or in double "
            "quotes, without spaces and without parameters. Bare, it may not hold a quote, "
            "a comma, a semicolon or a backslash.",
        ),
        _fix(
            "body-invalid",
            400,
            "The body is not the JSON object expected",
            'Send one JSON object in UTF-8, such as {"amount": "12.34"}, with no field twice '
            "and none besides amount, currency and reference. Keep the key.",
        ),
        _fix(
            "amount-invalid",
            400,
            "The amount is not a plain decimal number",
            'Send a decimal string such as "12.34": ASCII digits, at most one point, no sign, '
            "no exponent, no leading zeros, no separators. Keep the key.",
        ),
        _fix(
            "amount-precision",
            400,
            "The amount has more decimals than the currency",
            "Teller never rounds. Send no non-zero digit beyond the currency's decimals. "
            "Keep the key.",
        ),
        _fix(
            "amount-not-positive",
            400,
            "The amount is zero",
            "Send an amount greater than zero. Keep the key.",
        ),
        _fix(
            "amount-too-large",
            400,
            "The amount is too large",
            "Send at most 15 digits before the point, and no more than the service's largest "
            "amount (TELLER_AMOUNT_MAX). Keep the key.",
        ),
        _fix(
            "currency-mismatch",
            400,
            "The currency is not the service's",
            "This service keeps one currency. Send that one, or leave the field out. Keep the key.",
        ),
        _fix(
            "reference-invalid",
            400,
            "The reference is not valid",
            "Send a string of 1 to 140 characters without control, format, private-use or "
            "unassigned characters, or leave the field out. Keep the key.",
        ),
        _fix(
            "limit-invalid",
            400,
            "The limit is not valid",
            "Send a whole number from 1 to 200, or leave limit out.",
            _READ_ONLY,
        ),
        _fix(
            "filter-invalid",
            400,
            "The filter is not valid",
            "Send type as deposit, withdrawal or burn, and outcome as applied, refused or burned; "
            "each once, or not at all.",
            _READ_ONLY,
        ),
        _fix(
            "cursor-invalid",
            400,
            "The cursor is not valid",
            "Send the cursor exactly as the field next gave it, or start again without one.",
            _READ_ONLY,
        ),
        _fix(
            "user-missing",
            401,
            "No user was named",
            "Send the user in the header user_id (or X-User-Id). If you do send it, a proxy "
            "on the way drops header names with an underscore: in nginx set "
            "'underscores_in_headers on;', in Envoy set headers_with_underscores_action to "
            "ALLOW, or send X-User-Id instead. Keep the key.",
        ),
        Code(
            "insufficient-funds",
            402,
            "Insufficient funds",
            "refused",
            "new_key",
            "Nothing moved, and under this key nothing ever will: the refusal is stored, and "
            "every retry with the same key gets this same answer.",
            "Show the balance to the user. A new attempt, after a deposit say, is a new "
            "operation and needs a new Idempotency-Key.",
        ),
        Code(
            "balance-limit",
            403,
            "The deposit would pass the largest balance",
            "refused",
            "new_key",
            "Nothing moved, and under this key nothing ever will: the refusal is stored, and "
            "every retry with the same key gets this same answer.",
            "Deposit less, or withdraw first. That is a new operation with a new Idempotency-Key.",
        ),
        Code(
            "account-not-found",
            404,
            "No account for this user",
            "not_applied",
            "same_key",
            "Nothing moved, and nothing is stored under this key.",
            "Open the account (teller users add USER), then send the same request with the "
            "same Idempotency-Key: it will run. With TELLER_ACCOUNT_OPENING=on_first_deposit "
            "accounts open by themselves.",
        ),
        _fix(
            "transaction-not-found",
            404,
            "No such transaction",
            "Use a sequence number from a receipt or from GET /transactions of the same user.",
            _READ_ONLY,
        ),
        Code(
            "operation-not-found",
            404,
            "This key has not been seen",
            "unknown",
            "same_key",
            "No movement is stored under this key. A request may still be in flight.",
            "Send the operation again with the same key, or settle it for good with "
            "DELETE /operation, which burns the key.",
        ),
        _fix(
            "not-found",
            404,
            "No such address",
            "See /docs for the routes that exist.",
            "Nothing moved: no operation lives at this address.",
        ),
        _fix(
            "method-not-allowed",
            405,
            "The method is not allowed here",
            "Use one of the methods in the Allow header. See /docs.",
            "Nothing moved: the route does not answer this method.",
        ),
        Code(
            "request-timeout",
            408,
            "The body did not arrive in time",
            "unknown",
            "same_key",
            _MAYBE_EARLIER,
            _SAME_KEY,
        ),
        Code(
            "key-settled",
            409,
            "The key is settled already",
            "stored",
            "never",
            "The operation under this key was applied or refused before it could be burned. "
            "The answer carries its receipt.",
            "Take the receipt as the truth. There is nothing left to burn.",
        ),
        Code(
            "key-burned",
            410,
            "The key was burned",
            "burned",
            "new_key",
            "Nothing moved, and under this key nothing ever will: the key was burned.",
            "If the operation is still wanted, send it under a new Idempotency-Key.",
        ),
        _fix(
            "body-too-large",
            413,
            "The body is too large",
            'Send at most 16 KiB. A whole request fits in a line: {"amount": "12.34"}. '
            "Keep the key.",
        ),
        _fix(
            "media-type",
            415,
            "The body is not declared as JSON",
            "Send Content-Type: application/json, in UTF-8 and without a content encoding. "
            "Keep the key.",
        ),
        Code(
            "key-reused",
            422,
            "The key belongs to another request",
            "stored",
            "fix_request",
            "This request moved nothing. The key was used before by a request that differs in "
            "the fields named by differs; first says what became of that one.",
            "If this is a retry, send exactly what was sent first. If it is a new operation, "
            "give it a key of its own.",
        ),
        Code(
            "too-many-in-flight",
            429,
            "Too many requests of this user are waiting",
            "unknown",
            "same_key",
            _MAYBE_EARLIER,
            _SAME_KEY,
        ),
        Code(
            "internal",
            500,
            "An unexpected error",
            "unknown",
            "same_key",
            "What happened to the money is not known to this answer. The key makes a retry safe.",
            "Send the same request again with the same key. If it fails again, report the "
            "trace_id to the operator: the log names the cause.",
        ),
        Code(
            "overloaded",
            503,
            "The service is at its limit",
            "unknown",
            "same_key",
            _MAYBE_EARLIER,
            _SAME_KEY,
        ),
        Code(
            "unavailable",
            503,
            "The database cannot take the movement now",
            "unknown",
            "same_key",
            "The answer's detail says whether this attempt ran. An earlier attempt under the "
            "same key may have been applied.",
            _SAME_KEY,
        ),
        Code(
            "outcome-unknown",
            503,
            "The result of the commit is not known",
            "unknown",
            "same_key",
            "The database failed at the moment of the commit. The movement is stored once or "
            "not at all: its row is the truth, and a retry is answered from it.",
            _SAME_KEY,
        ),
    )
}


class InvalidRequestError(Exception):
    """The request was rejected before its key was looked up; nothing is stored.

    Args:
        code: a name in ``CODES`` whose status is 4xx.
        detail: what is wrong with this request, and what would be right.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = CODES[code]
        self.detail = detail


class OperatingError(Exception):
    """The service could not carry out a request; the remedy is in its code's page.

    Answers travel as values: the committer hands one of these to every request of a batch that
    failed, so it is seldom raised.
    """

    code: Code = CODES["internal"]
    retry_after_s: int | None = 1
    restart: bool = False  # whether only a new process can go on

    def __init__(self, detail: str, *, cause: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.cause = cause  # the database's own name of its error, for metrics


class OverloadedError(OperatingError):
    """The queue is full. Remedy: clients wait and retry; raise TELLER_QUEUE_DEPTH_MAX."""

    code = CODES["overloaded"]


class TooManyInFlightError(OperatingError):
    """One user's share of the queue is full. Remedy: that client sends less at once."""

    code = CODES["too-many-in-flight"]


class UnavailableError(OperatingError):
    """The database is busy, away, full or read-only, or the service is stopping.

    Remedy: free the disk or find who holds the lock; Teller recovers by itself.
    """

    code = CODES["unavailable"]


class DiskFullError(UnavailableError):
    """Nothing more fits on the database's disk. Remedy: free space; Teller recovers by itself."""


class OutcomeUnknownError(OperatingError):
    """COMMIT failed in a way that leaves its result unknown. Remedy: retry with the same key.

    ``restart`` says that only a new process can read the truth: after a failed sync the kernel's
    view of a file is not the disk's. A database server tells by itself what is stored.
    """

    code = CODES["outcome-unknown"]

    def __init__(self, detail: str, *, restart: bool = True, cause: str | None = None) -> None:
        super().__init__(detail, cause=cause)
        self.restart = restart


class InternalError(OperatingError):
    """A bug. Remedy: the log has the traceback under the same trace id."""

    code = CODES["internal"]
    retry_after_s = None


class StartError(Exception):
    """Teller refuses to start or to go on with a command; the message names the remedy."""
