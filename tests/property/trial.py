"""A trial: one ledger, its tellers over HTTP in process, and the model that each answer must meet.

Whatever the service says that the model does not is a ``Broken``. At the end the clients' own log
is held against the rows (``service.checker``), and the rows against each other (the audit).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from service import checker, history, scan
from service.evidence import quoted
from service.replay import Replay
from service.teller import opened
from tests.conftest import client_of
from tests.faults.seeded import FULL, failing, seeded
from tests.property.cut import Cut, answers_before
from tests.property.model import Answer, Model, Request, receipt, text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import httpx

    from service.history import Event
    from service.settings import Settings
    from service.teller import Teller

BALANCE_MAX = 1_000_000
PATHS = {"deposit": "/deposit", "withdrawal": "/withdraw", "burn": "/operation"}


class Broken(AssertionError):  # noqa: N818 - a promise is what it speaks of
    """An answer, a row or a log that no sound ledger can give."""


class _Open(NamedTuple):
    teller: Teller
    client: httpx.AsyncClient
    close: AsyncExitStack


class Trial:
    """See above; every request goes to a teller by its place in ``tellers``.

    Args:
        make_settings: of the ledger, as the fixture of that name.
        users: who have accounts, of whom nothing was stored before.
        by_model: whether the model judges each answer; if not, log and rows must tell all.
    """

    def __init__(
        self, make_settings: Callable[..., Settings], users: list[str], *, by_model: bool = True
    ) -> None:
        self.by_model = by_model
        self.settings = make_settings(balance_max=text(BALANCE_MAX), audit=False)
        self.users = users
        self.model = Model(users, BALANCE_MAX)
        self.tellers: list[_Open] = []
        self.events: list[Event] = []
        self._said: dict[tuple[str, str, int], bytes] = {}

    # -- the tellers ------------------------------------------------------------------------

    async def open(self) -> None:
        """One more teller on the ledger."""
        async with AsyncExitStack() as stack:
            teller = await stack.enter_async_context(opened(self.settings))
            client = await stack.enter_async_context(client_of(teller))
            await teller.store.open_accounts(self.users)
            self.tellers.append(_Open(teller, client, stack.pop_all()))

    async def close(self, at: int) -> None:
        """Stop that teller as SIGTERM would."""
        await self.tellers.pop(at).close.aclose()

    async def restart(self, at: int) -> None:
        await self.close(at)
        await self.open()

    # -- requests ---------------------------------------------------------------------------

    async def ask(
        self, request: Request, *, at: int = 0, spelling: str = "{}", currency: str | None = None
    ) -> httpx.Response:
        """Send a request and log it; the answer is not looked at."""
        where = (request.user, request.key)
        amount = None if request.type == "burn" else text(request.amount)
        self.events.append(
            history.invoked(
                *(time.monotonic(), *where, request.type),
                amount=amount,
                reference=request.reference,
            )
        )
        body: dict[str, Any] = {"amount": spelling.format(amount), "reference": request.reference}
        if currency is not None:
            body["currency"] = currency
        headers = {"user_id": request.user, "Idempotency-Key": quoted(request.key)}
        method = "DELETE" if request.type == "burn" else "POST"
        try:
            answer = await self.tellers[at].client.request(
                *(method, PATHS[request.type]),
                headers=headers,
                json=None if request.type == "burn" else body,
            )
        except BaseException:
            self.events.append(history.answered(time.monotonic(), *where, None))
            raise
        self.events.append(
            history.answered(time.monotonic(), *where, answer.status_code, answer.content)
        )
        return answer

    async def send(self, request: Request, **how: Any) -> None:
        """Send a request; its answer must be the model's."""
        answer = await self.ask(request, **how)
        self.check(request, self.model.take(request), answer)

    async def send_wrong_currency(self, request: Request, *, at: int = 0) -> None:
        """Send a request in another currency: nothing of it may be kept."""
        answer = await self.ask(request, at=at, currency="EUR")
        self._equal(answer.status_code, 400, request, "status")
        self._equal(answer.json()["code"], "currency-mismatch", request, "code")

    async def send_at_once(self, requests: Sequence[tuple[Request, int]]) -> None:
        """Send requests together; the numbers of the new rows say in which order they stand."""
        tasks = [asyncio.ensure_future(self.ask(one, at=at)) for one, at in requests]
        answers = await asyncio.gather(*tasks)
        self._take_all([request for request, _ in requests], answers)

    def _take_all(self, requests: Sequence[Request], answers: Sequence[httpx.Response]) -> None:
        together = list(zip(requests, answers, strict=True))
        new = [pair for pair in together if _is_new(pair[1])]
        for request, answer in sorted(new, key=lambda pair: _transaction(pair[1])):
            self.check(request, self.model.take(request), answer)
        for request, answer in together:
            if not _is_new(answer):
                held = (request.user, request.key) in self.model.keys
                self._equal(held, request.user in self.model.rows, request, "row of a replay")
                self.check(request, self.model.take(request), answer)

    # -- faults -----------------------------------------------------------------------------

    async def fail_commit(self, requests: Sequence[Request], *, at: int = 0) -> None:
        """COMMIT fails and is rolled back, as on a full disk: who was new is told 503."""
        with seeded(self.tellers[at].teller, before=failing("COMMIT", FULL)):
            answers = await asyncio.gather(*(self.ask(one, at=at) for one in requests))
        for request, answer in zip(requests, answers, strict=True):
            self._equal(answer.status_code, 503, request, "status though COMMIT failed")
        for request in requests:
            await self.send(request, at=at)

    async def crash(
        self, requests: Sequence[Request], *, at: int = 0, verb: str, after: bool
    ) -> None:
        """Cut that teller off its database at a statement, start another, settle what is open."""
        gone = self.tellers[at]
        cut = Cut(gone.teller, verb=verb, after=after)
        tasks = [asyncio.ensure_future(self.ask(one, at=at)) for one in requests]
        told = await answers_before(cut, tasks)
        self.tellers.remove(gone)
        gone.teller.committer.cut_short()
        await gone.teller.committer.finish()
        await cut.close()
        await gone.close.aclose()
        await self.open()
        await self._settle(requests, told)

    async def _settle(
        self, requests: Sequence[Request], told: Sequence[httpx.Response | None]
    ) -> None:
        """Ask what became of each key; then send it again, and it must be as was told."""
        told_of = {
            (request.user, request.key): answer
            for request, answer in zip(requests, told, strict=True)
            if answer is not None and answer.status_code < 500 and answer.status_code != 404
        }
        at = len(self.tellers) - 1
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for request in requests:
            answer = await self._operation(request.user, request.key, at)
            if answer.status_code == 200:
                found[request.user, request.key] = answer.json()
        stored = sorted(found.items(), key=lambda item: item[1]["transaction"])
        for holder, row in stored:
            if holder in self.model.keys:
                continue
            mine = [one for one in requests if (one.user, one.key) == holder and _fits(one, row)]
            self._equal(len(mine) > 0, expected=True, whose=holder, what=f"asked for: {row}")
            self.model.take(mine[0] if mine else requests[0])
        for holder, answer in told_of.items():
            self._equal(
                holder in self.model.keys,
                expected=True,
                whose=holder,
                what=f"stored as told: {answer.text}",
            )
            if answer.status_code not in {409, 422}:
                self._said.setdefault((*holder, answer.status_code), answer.content)
        for request in requests:
            await self.send(request, at=at)

    # -- reads ------------------------------------------------------------------------------

    async def _operation(self, user: str, key: str, at: int) -> httpx.Response:
        headers = {"user_id": user, "Idempotency-Key": quoted(key)}
        return await self.tellers[at].client.get("/operation", headers=headers)

    async def read_operation(self, user: str, key: str, *, at: int = 0) -> None:
        answer = await self._operation(user, key, at)
        row = self.model.keys.get((user, key))
        self._equal(
            answer.status_code, 404 if row is None else 200, (user, key), "status of operation"
        )
        if row is not None:
            self._receipt_is(answer.json(), receipt(row))

    async def read_balance(self, user: str, *, at: int = 0) -> None:
        answer = await self.tellers[at].client.get("/balance", headers={"user_id": user})
        expected = {
            "balance": text(self.model.balance(user)),
            "currency": "USD",
            "transaction": len(self.model.rows[user]),
        }
        self._equal(answer.json(), expected, user, "balance")

    async def read_pages(self, user: str, *, limit: int, at: int = 0) -> None:
        """Follow the pages to the end: every row once, newest first."""
        rows: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": limit}
        while True:
            answer = await self.tellers[at].client.get(
                "/transactions", params=query, headers={"user_id": user}
            )
            page = answer.json()
            rows += page["transactions"]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        expected = self.model.rows[user][::-1]
        self._equal(
            [r["transaction"] for r in rows], [r.transaction for r in expected], user, "pages"
        )
        for said, row in zip(rows, expected, strict=self.by_model):
            self._receipt_is(said, receipt(row))

    # -- the judgement ----------------------------------------------------------------------

    def check(self, request: Request, expected: Answer, answer: httpx.Response) -> None:
        """Hold an answer against the model's."""
        if not self.by_model:
            return
        self._equal(answer.status_code, expected.status, request, f"status of {answer.text}")
        said = answer.json()
        if expected.status == 404:
            self._equal(said["code"], "account-not-found", request, "code")
            return
        row = expected.row
        assert row is not None
        self._equal(said["outcome"], row.outcome, request, "outcome")
        if expected.status == 422:
            self._equal(tuple(said["differs"]), expected.differs, request, "differs")
            self._equal(said["first"]["transaction"], row.transaction, request, "first")
            return
        if expected.status == 409:
            self._receipt_is(said["receipt"], receipt(row))
            return
        replayed = answer.headers["Idempotent-Replayed"]
        self._equal(replayed, "true" if expected.replayed else "false", request, "replayed")
        if expected.status in {200, 201}:
            self._receipt_is(said, receipt(row))
        else:
            for name in ("transaction", "balance", *(["amount"] if "amount" in said else [])):
                self._equal(said[name], receipt(row)[name], request, name)
        first = self._said.setdefault((request.user, request.key, expected.status), answer.content)
        self._equal(answer.content, first, request, "bytes of a replay")

    def _receipt_is(self, said: dict[str, Any], expected: dict[str, object]) -> None:
        untimed = {name: value for name, value in said.items() if name != "created_at"}
        self._equal(untimed, expected, expected["transaction"], "receipt")

    def _equal(self, got: object, expected: object, whose: object, what: str) -> None:
        if self.by_model and got != expected:
            raise Broken(f"{whose}: {what} is {got!r} where the model has {expected!r}")

    async def finish(self) -> None:
        """Close everything, then let the checker and the audit judge."""
        while self.tellers:
            await self.close(0)
        for finding in await self.findings():
            raise Broken(finding)

    async def findings(self) -> list[str]:
        """What the checker and the audit find in the closed ledger, of these users."""
        rows: list[checker.Row] = []
        balances: dict[str, str] = {}
        async with scan.opened(self.settings) as reader:
            ledger = scan.Scan(reader)
            currency = await ledger.currency()
            replay = Replay(currency)
            for account in [await reader.account(user) for user in self.users]:
                assert account is not None
                balances[account.user_id] = currency.text(account.balance_minor)
                async for page in ledger.pages(rows_max=5_000, account_id=account.id):
                    replay.page(page.heads, page.rows)
                    rows += [
                        checker.row_of_entry(account.user_id, row.entry, currency)
                        for row in page.rows
                    ]
        verdict = checker.check(self.events, rows, balances=balances)
        found = [f"checker: {finding}" for finding in verdict.findings]
        return found + [f"audit: {violation}" for violation in replay.finish().violations]

    async def abandon(self) -> None:
        """Close everything after a failure, and judge nothing more."""
        while self.tellers:
            await self.close(0)


def _is_new(answer: httpx.Response) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "false" and answer.status_code != 400


def _transaction(answer: httpx.Response) -> int:
    number: int = answer.json()["transaction"]
    return number


def _fits(request: Request, row: dict[str, Any]) -> bool:
    amount = None if request.type == "burn" else text(request.amount)
    return (request.type, amount, request.reference) == (
        *(row["type"], row["amount"], row["reference"]),
    )
