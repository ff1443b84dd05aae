"""Bugs in the rules of the ledger: how a movement is decided, and what its key is worth."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from service import ledger, postgres_store, sqlite_store
from service.ledger import Fold, KeySettled, Movement, Recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.ledger import Account, Decision, Entry
    from tests.zoo.specimen import Patch

    Keys = dict[tuple[str, str], Entry]


class Asked(NamedTuple):
    """A movement about to be decided, with what the ledger knows then.

    ``found`` are the keys that the database had when the batch began, ``seen`` those and the
    batch's own so far. ``fold`` decides movements as the service truly does.
    """

    movement: Movement
    account: Account | None
    found: Keys
    seen: Keys
    fold: Callable[[Sequence[Movement], Keys], Fold]

    @property
    def holder(self) -> tuple[str, str]:
        return self.movement.user_id, self.movement.key

    def truly(self) -> Fold:
        """Decided as it should be."""
        return self.fold([self.movement], self.seen)

    def without_a_row(self) -> Fold:
        """Decided as it should be, and nothing of it kept."""
        account = self.account
        head = account and (account.balance_minor, account.seq, account.chain)
        decisions = self.truly().decisions
        if account and head:
            account.balance_minor, account.seq, account.chain = head
        return Fold(decisions, [], [])

    def again(self) -> Fold:
        """Executed although the key has its row: as in a ledger without a unique key."""
        assert self.account is not None
        key = f"{self.movement.key[:200]}~{self.account.seq + 1}"
        done = self.fold([self.movement._replace(key=key)], {})
        entry = done.entries[0][1]._replace(key=self.movement.key)
        return done._replace(decisions=[Recorded(entry, replayed=False)])


def deciding(patch: Patch, step: Callable[[Asked], Fold]) -> None:
    """Let ``step`` decide each movement of a batch, in both stores."""
    for store in (sqlite_store, postgres_store):
        patch(store, "fold", partial(_fold, step))


def _fold(
    step: Callable[[Asked], Fold],
    movements: Sequence[Movement],
    *,
    accounts: dict[str, Account],
    firsts: Keys,
    **how: Any,
) -> Fold:
    def fold(some: Sequence[Movement], keys: Keys) -> Fold:
        return ledger.fold(some, accounts=accounts, firsts=keys, **how)

    seen = dict(firsts)
    decisions: list[Decision] = []
    entries: list[tuple[Account, Entry]] = []
    for movement in movements:
        done = step(Asked(movement, accounts.get(movement.user_id), firsts, seen, fold))
        decisions += done.decisions
        entries += done.entries
        for account, entry in done.entries:
            seen[account.user_id, entry.key] = entry
    return Fold(decisions, entries, list({account.id: account for account, _ in entries}.values()))


# The store at work, for what a process wrongly keeps in its memory.
_STORE: ContextVar[Any] = ContextVar("store")


def remembering(patch: Patch, name: str) -> Callable[[], dict[Any, Any]]:
    """Give each store a memory of its own, lost when it is closed; returns how to reach it."""
    on_file, on_server = sqlite_store.SqliteStore, postgres_store.PostgresStore
    patch(on_file, "_decide_and_write", _known(on_file._decide_and_write))
    patch(on_server, "_decide", _known(on_server._decide))

    def memory() -> dict[Any, Any]:
        kept: dict[Any, Any] = vars(_STORE.get()).setdefault(name, {})
        return kept

    return memory


def _known(true: Any) -> Any:
    def decide_and_write(self: Any, *arguments: Any, **how: Any) -> Any:
        # In the context of the batch, which its coroutine or its thread has for itself.
        _STORE.set(self)
        return true(self, *arguments, **how)

    return decide_and_write


# -- what a key is worth --------------------------------------------------------------------


def replay_re_executes(patch: Patch) -> None:
    def step(asked: Asked) -> Fold:
        first = asked.seen.get(asked.holder)
        same = first is not None and not ledger.differs(first, asked.movement)
        return asked.again() if same and asked.movement.kind != "burn" else asked.truly()

    deciding(patch, step)


def one_key_twice_in_a_batch(patch: Patch) -> None:
    def step(asked: Asked) -> Fold:
        if asked.holder in asked.seen and asked.holder not in asked.found:
            return asked.again()
        return asked.truly()

    deciding(patch, step)


def keys_kept_in_memory(patch: Patch) -> None:
    memory = remembering(patch, "zoo_keys")

    def step(asked: Asked) -> Fold:
        keys = memory()
        if asked.holder in asked.seen and asked.holder not in keys:
            done = asked.again()
        else:
            done = asked.truly()
        if isinstance(done.decisions[0], Recorded):
            keys[asked.holder] = done.decisions[0].entry
        return done

    deciding(patch, step)


def refusal_not_stored(patch: Patch) -> None:
    def step(asked: Asked) -> Fold:
        account, movement = asked.account, asked.movement
        if account is None or movement.kind != "withdrawal" or asked.holder in asked.seen:
            return asked.truly()
        covered = (movement.amount_minor or 0) <= account.balance_minor
        return asked.truly() if covered else asked.without_a_row()

    deciding(patch, step)


def burn_not_stored(patch: Patch) -> None:
    def step(asked: Asked) -> Fold:
        return asked.without_a_row() if asked.movement.kind == "burn" else asked.truly()

    deciding(patch, step)


def burn_beats_applied(patch: Patch) -> None:
    true = ledger.answer_from

    def answer_from(first: Entry, movement: Movement) -> Decision:
        answer = true(first, movement)
        if isinstance(answer, KeySettled):
            burned = first._replace(kind="burn", outcome="burned", reason=None, amount_minor=None)
            return Recorded(burned, replayed=False)
        return answer

    patch(ledger, "answer_from", answer_from)


def mismatch_ignored(patch: Patch) -> None:
    patch(ledger, "differs", lambda _first, _movement: ())


def reference_not_compared(patch: Patch) -> None:
    true = ledger.differs

    def differs(first: Entry, movement: Movement) -> tuple[str, ...]:
        return tuple(name for name in true(first, movement) if name != "reference")

    patch(ledger, "differs", differs)


def replay_says_the_balance_of_now(patch: Patch) -> None:
    def step(asked: Asked) -> Fold:
        done = asked.truly()
        decision = done.decisions[0]
        if isinstance(decision, Recorded) and decision.replayed and asked.account:
            entry = decision.entry._replace(balance_after_minor=asked.account.balance_minor)
            return done._replace(decisions=[Recorded(entry, replayed=True)])
        return done

    deciding(patch, step)


# -- balances and numbers -------------------------------------------------------------------


def overdraft_check_skipped(patch: Patch) -> None:
    true = ledger.decide

    def decide(account: Account, movement: Movement, *, now_us: int, **how: Any) -> Entry:
        entry = true(account, movement, now_us=now_us, **how)
        if entry.reason != "insufficient-funds":
            return entry
        # What is missing is forgiven: below zero the database itself would refuse it.
        entry = entry._replace(outcome="applied", reason=None, balance_after_minor=0)
        return entry._replace(chain=ledger.chained(account.chain, entry))

    patch(ledger, "decide", decide)


def balance_from_a_stale_read(patch: Patch) -> None:
    memory = remembering(patch, "zoo_balances")

    def step(asked: Asked) -> Fold:
        balances, user = memory(), asked.movement.user_id
        if asked.account:
            asked.account.balance_minor = balances.get(user, asked.account.balance_minor)
        done = asked.truly()
        if asked.account:
            balances[user] = asked.account.balance_minor
        return done

    deciding(patch, step)


def sequence_from_memory(patch: Patch) -> None:
    memory = remembering(patch, "zoo_numbers")

    def step(asked: Asked) -> Fold:
        numbers, user = memory(), asked.movement.user_id
        if asked.account:
            asked.account.seq = numbers.get(user, asked.account.seq)
        done = asked.truly()
        if asked.account:
            numbers[user] = asked.account.seq
        return done

    deciding(patch, step)
