"""Settings: defaults, limits, and a mistake refused by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from service.errors import StartError
from service.money import INT64_MAX, Currency
from service.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No .env but the test's own."""
    monkeypatch.chdir(tmp_path)


def test_without_a_word_these_are_the_defaults() -> None:
    settings = Settings.load()
    assert settings.database_url == "sqlite+aiosqlite:///teller.db"
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.money() == Currency("USD", 2)
    assert settings.amount_max_minor() == 99_999_999_999_999_999
    assert settings.balance_max_minor() == INT64_MAX
    assert settings.account_opening == "provisioned"
    assert settings.auto_migrate
    assert settings.request_log
    assert settings.log_level == "INFO"


def test_every_setting_is_documented() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_variable_is_read_and_an_option_wins_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLER_PORT", "9000")
    monkeypatch.setenv("TELLER_CURRENCY", "KWD")
    assert Settings.load().port == 9000
    assert Settings.load(port=9001).port == 9001
    assert Settings.load(port=None).port == 9000
    assert Settings.load().money() == Currency("KWD", 3)


def test_dotenv_is_read_and_the_environment_wins_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("TELLER_PORT=9000\nTELLER_HOST=0.0.0.0\nOTHER=1\n")
    monkeypatch.setenv("TELLER_PORT", "9001")
    settings = Settings.load()
    assert (settings.host, settings.port) == ("0.0.0.0", 9001)  # noqa: S104 - not listened on


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings.load().port = 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TELLER_PROT", "Did you mean TELLER_PORT?"),
        ("TELLER_DATABSE_URL", "Did you mean TELLER_DATABASE_URL?"),
        ("TELLER_QUUX_ZZYZX", "README.md lists the settings."),
        ("teller_prot", "Did you mean TELLER_PORT?"),
        ("TELLER_", "README.md lists the settings."),
    ],
)
def test_a_mistyped_variable_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(StartError) as refused:
        Settings.load()
    assert str(refused.value) == f"{name} is not a setting of Teller. {hint}"


def test_a_mistyped_variable_of_dotenv_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TELLER_PROT=1\n")
    with pytest.raises(StartError, match="TELLER_PROT is not a setting"):
        Settings.load()


def test_what_kubernetes_injects_is_ignored_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    injected = {
        "TELLER_SERVICE_HOST": "10.0.0.1",
        "TELLER_SERVICE_PORT": "80",
        "TELLER_SERVICE_PORT_HTTP": "80",
        "TELLER_PORT": "tcp://10.0.0.1:80",
        "TELLER_PORT_80_TCP": "tcp://10.0.0.1:80",
        "TELLER_PORT_80_TCP_ADDR": "10.0.0.1",
        "TELLER_PORT_80_TCP_PORT": "80",
        "TELLER_PORT_80_TCP_PROTO": "tcp",
        "TELLER_CANARY_SERVICE_HOST": "10.0.0.2",
        "TELLER_CANARY_PORT": "tcp://10.0.0.2:80",
        "TELLER_CANARY_PORT_80_TCP_ADDR": "10.0.0.2",
    }
    for name, value in injected.items():
        monkeypatch.setenv(name, value)
    assert Settings.load().port == 8000
    assert Settings.load(port=9000).port == 9000
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [warning.message for warning in warnings] == ["kubernetes variables ignored"] * 2
    assert warnings[0].__dict__["variables"] == sorted(injected)


def test_a_port_of_dotenv_stands_where_kubernetes_injects_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("TELLER_PORT=9000\n")
    monkeypatch.setenv("TELLER_PORT", "tcp://10.0.0.1:80")
    assert Settings.load().port == 9000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TELLER_PORT", "http"),
        ("TELLER_PORT", "-1"),
        ("TELLER_PORT", "65536"),
        ("TELLER_PORT", ""),
        ("TELLER_CURRENCY", "usd"),
        ("TELLER_CURRENCY", "DOLLAR"),
        ("TELLER_CURRENCY", "ABC"),
        ("TELLER_CURRENCY_SCALE", "10"),
        ("TELLER_CURRENCY_SCALE", "-1"),
        ("TELLER_AMOUNT_MAX", "1e3"),
        ("TELLER_AMOUNT_MAX", "0"),
        ("TELLER_AMOUNT_MAX", "1.005"),
        ("TELLER_BALANCE_MAX", "-5"),
        ("TELLER_BALANCE_MAX", "99999999999999999999"),
        ("TELLER_ACCOUNT_OPENING", "always"),
        ("TELLER_AUTO_MIGRATE", "perhaps"),
        ("TELLER_LOG_LEVEL", "LOUD"),
        ("TELLER_QUEUE_DEPTH_MAX", "0"),
        ("TELLER_QUEUE_DEPTH_MAX", "1000001"),
        ("TELLER_QUEUE_DEPTH_PER_USER_MAX", "0"),
        ("TELLER_BATCH_SIZE_MAX", "0"),
        ("TELLER_BATCH_SIZE_MAX", "10001"),
        ("TELLER_BODY_TIMEOUT_MS", "0"),
        ("TELLER_ANSWER_TIMEOUT_MS", "0"),
        ("TELLER_BUSY_TIMEOUT_MS", "-1"),
        ("TELLER_DRAIN_TIMEOUT_S", "0"),
        ("TELLER_DRAIN_TIMEOUT_S", "3601"),
        ("TELLER_WAL_ROWS_MAX", "0"),
        ("TELLER_DATABASE_URL", "teller.db"),
        ("TELLER_DATABASE_URL", "mysql://localhost/teller"),
        ("TELLER_DATABASE_URL", "sqlite+aiosqlite://"),
        ("TELLER_DATABASE_URL", "sqlite+aiosqlite:///:memory:"),
        ("TELLER_DATABASE_URL", "sqlite+aiosqlite:///teller.db?mode=ro"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as refused:
        Settings.load()
    assert str(refused.value).startswith(f"{name}=")


def test_two_mistakes_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLER_PORT", "x")
    monkeypatch.setenv("TELLER_WAL_ROWS_MAX", "x")
    with pytest.raises(StartError) as refused:
        Settings.load()
    assert [line.partition("=")[0] for line in str(refused.value).splitlines()] == [
        "TELLER_PORT",
        "TELLER_WAL_ROWS_MAX",
    ]


def test_a_database_urls_password_is_not_shown_in_the_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TELLER_DATABASE_URL", "mysql://teller:hunter2@db/teller")
    with pytest.raises(StartError) as refused:
        Settings.load()
    assert "hunter2" not in str(refused.value)


def test_the_limits_are_read_at_the_currencys_scale() -> None:
    settings = Settings.load(currency="KWD", amount_max="10.5", balance_max="1000")
    assert (settings.amount_max_minor(), settings.balance_max_minor()) == (10_500, 1_000_000)
