from __future__ import annotations

from tests.bench.verdict import AS_IF, Movements, Sent, judged, total
from tests.clients import Reply


def sent(key: str, status: int | None = 201, *, transaction: int = 1, user: str = "u1") -> Sent:
    if status is None:
        return Sent(user, key, None)
    body = b'{"transaction":%d,"balance":"1.25"}' % transaction
    return Sent(user, key, Reply(status, {}, body))


def wrong(case: str, group: list[Sent], movements: Movements) -> dict[str, int]:
    return judged({case: [group]}, movements).cases[case].wrong


def test_one_movement_of_the_amount_is_right() -> None:
    assert wrong("killed", [sent("a")], {("u1", "a"): (1, 125)}) == {}


def test_a_movement_made_twice_is_a_violation() -> None:
    assert wrong("killed", [sent("a")], {("u1", "a"): (2, 250)}) == {"applied more than once": 1}


def test_a_movement_that_was_answered_and_is_not_there_is_a_violation() -> None:
    assert wrong("killed", [sent("a")], {}) == {"answered, not applied": 1}


def test_a_request_that_is_never_answered_is_a_violation() -> None:
    movements = {("u1", "a"): (1, 125)}
    assert wrong("hung-up", [sent("a", None)], movements) == {"never answered": 1}


def test_another_users_movement_is_not_this_users() -> None:
    group = [sent("a"), sent("a", user="u2")]
    assert wrong("two-users", group, {("u1", "a"): (1, 125)}) == {"answered, not applied": 1}


def test_duplicates_that_are_told_of_two_transactions_are_a_violation() -> None:
    group = [sent("a", transaction=1), sent("a", transaction=2)]
    movements = {("u1", "a"): (1, 125)}
    assert wrong("duplicates", group, movements) == {"different answers": 1}


def test_an_amount_that_went_through_a_float_is_a_violation() -> None:
    large = 9_007_199_254_740_993
    group = [
        sent("string", user="u900"),
        sent("number", user="u901"),
        sent("neighbour", user="u902"),
        sent("neighbour", 422, user="u902"),
        sent("number-neighbour", user="u903"),
        sent("number-neighbour", user="u903"),
    ]
    movements = {
        ("u900", "string"): (1, large),
        ("u901", "number"): (1, large + 1),
        ("u902", "neighbour"): (1, large),
        ("u903", "number-neighbour"): (1, large),
    }
    assert wrong("exact", group, movements) == {"another amount": 1, AS_IF: 1}


def test_the_sum_of_a_trial_names_each_violation_and_its_case() -> None:
    trial = judged({"killed": [[sent("a")], [sent("b")]]}, {("u1", "a"): (1, 125)})
    assert total({"peer": trial.as_json()}) == {
        "peer": (2, 1, "1 answered, not applied (killed)"),
    }
