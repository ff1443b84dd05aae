"""`teller doctor` against a real service, real nginx and real Envoy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from service.cli import main
from service.volume import file_system
from tests.doctor.proxies import envoy, nginx
from tests.ports import free_port
from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

ALL_OK = """\
ok   the service answers: POST /deposit is answered by Teller: user-missing.
ok   header user id: The header user_id arrives.
ok   header x user id: The header X-User-Id arrives.
ok   who sets the user: The client's own user header reaches Teller. Right from inside; if this \
address is the clients', anybody can be anybody: let the proxy set it from the token.
ok   header idempotency key: Idempotency-Key arrives, bare and quoted.
ok   headers of the answer: Idempotent-Replayed, X-Request-Id and the problem come back.
ok   bodies: Bodies of 16384 bytes arrive whole, chunked too.
ok   methods: GET, POST and DELETE arrive.
ok   clock: The clocks agree.
ok   documentation: /docs, its files, /openapi.json and /problems work.
"""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    ledger = tmp_path_factory.mktemp("ledger") / "teller.db"
    with serving(f"sqlite+aiosqlite:///{ledger}") as server:
        yield server.url


def doctor(*arguments: str) -> Result:
    """`teller doctor`, called in this process."""
    return CliRunner().invoke(main, ["doctor", *arguments])


def findings(ran: Result) -> list[str]:
    """The lines that name something to mend."""
    return [line for line in ran.stdout.splitlines() if line.startswith("FIX")]


def test_straight_before_the_service_all_is_well(upstream: str) -> None:
    ran = doctor(upstream)
    assert ran.stdout == ALL_OK
    assert ran.exit_code == 0


def test_it_stores_nothing(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'teller.db'}"
    with serving(url, env={"TELLER_ACCOUNT_OPENING": "on_first_deposit"}) as server:
        assert doctor(server.url).exit_code == 0
    ran = subprocess.run(
        [sys.executable, "-m", "service", "audit", "--database", url],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.startswith("0 accounts, 0 transactions replayed")


def test_nginx_as_it_comes_drops_user_id_and_the_line_for_it_is_named(
    upstream: str, tmp_path: Path
) -> None:
    with nginx(tmp_path, upstream) as url:
        ran = doctor(url)
    assert findings(ran) == ["FIX  header user id: The header user_id is dropped."]
    assert "       nginx: underscores_in_headers on;\n" in ran.stdout
    assert ran.exit_code == 3


def test_nginx_with_that_line_passes(upstream: str, tmp_path: Path) -> None:
    with nginx(tmp_path, upstream, "underscores_in_headers on;") as url:
        assert findings(doctor(url)) == []


def test_nginx_that_cuts_bodies_and_swallows_problems_is_found(
    upstream: str, tmp_path: Path
) -> None:
    options = (
        "underscores_in_headers on; client_max_body_size 8k; proxy_hide_header Idempotent-Replayed;"
    )
    with nginx(tmp_path, upstream, options) as url:
        ran = doctor(url)
    assert findings(ran)[0] == (
        "FIX  headers of the answer: Lost or changed on the way back: Idempotent-Replayed."
    )
    assert findings(ran)[1].startswith(
        "FIX  bodies: A body of 16384 bytes does not arrive whole: 413 by nginx"
    )
    assert len(findings(ran)) == 2


def test_nginx_that_blanks_the_key_is_found(upstream: str, tmp_path: Path) -> None:
    options = 'underscores_in_headers on; proxy_set_header Idempotency-Key "";'
    with nginx(tmp_path, upstream, options) as url:
        ran = doctor(url)
    assert (
        "FIX  header idempotency key: Idempotency-Key: teller-doctor does not arrive: key-missing."
        in findings(ran)
    )


@pytest.mark.parametrize(
    ("action", "found"),
    [
        ("ALLOW", []),
        ("DROP_HEADER", ["FIX  header user id: The header user_id is dropped."]),
        (
            "REJECT_REQUEST",
            [
                "FIX  header user id: A request with the header user_id is rejected: "  # noqa: ISC004
                "400 by envoy, content-type text/plain."
            ],
        ),
    ],
)
def test_envoy_s_way_with_underscores_is_found(
    upstream: str, tmp_path: Path, action: str, found: list[str]
) -> None:
    with envoy(tmp_path, upstream, action) as url:
        ran = doctor(url)
    assert findings(ran) == found
    assert ("       Envoy: common_http_protocol_options" in ran.stdout) == bool(found)


def test_an_address_where_nothing_answers_is_exit_1() -> None:
    ran = doctor(f"http://127.0.0.1:{free_port()}")
    assert ran.exit_code == 1
    assert "does not answer" in ran.stderr
    assert "Check the address, the port and the certificate." in ran.stderr


def test_another_service_than_teller_is_named(tmp_path: Path) -> None:
    with nginx(tmp_path, "http://127.0.0.1:1") as url:
        ran = doctor(url)
    assert findings(ran)[0].startswith(
        "FIX  the service answers: Not Teller: POST /deposit is 502 by nginx"
    )


@pytest.mark.parametrize("arguments", [(), ("teller.example",), ("http://x", "--header", "none")])
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    assert doctor(*arguments).exit_code == 2


def test_a_healthy_ledger_beside_a_running_service(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'teller.db'}"
    with serving(url):
        ran = doctor("--database", url)
    assert "ok   ledger: USD with 2 decimals, revision 0001. Locks are free.\n" in ran.stdout
    assert "ok   library: SQLite 3.5" in ran.stdout


def test_a_path_without_a_ledger_says_so(tmp_path: Path) -> None:
    ran = doctor("--database", f"sqlite+aiosqlite:///{tmp_path / 'none.db'}")
    assert ran.exit_code == 3
    assert f"FIX  ledger: There is no ledger at {tmp_path / 'none.db'}." in ran.stdout


MOUNTS = """\
22 1 0:21 / / rw - overlay overlay rw
30 22 0:40 / /data rw,relatime shared:1 - nfs4 server:/export rw
31 30 8:1 / /data/disk\\040one rw - ext4 /dev/sda1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/teller.db", ("overlay", "/")),
        ("/data/teller.db", ("nfs4", "/data")),
        ("/data/disk one/teller.db", ("ext4", "/data/disk one")),
        ("/database/teller.db", ("overlay", "/")),
    ],
)
def test_the_file_system_under_a_path_is_the_innermost_mount(
    path: str, kind: tuple[str, str]
) -> None:
    assert file_system(Path(path), MOUNTS) == kind
