"""What each revision's database must hold, to the letter: Alembic's batch mode can lose it."""

from __future__ import annotations

from typing import Final

_ACCOUNTS: Final = """
CREATE TABLE accounts (
id INTEGER NOT NULL,
user_id TEXT NOT NULL,
balance_minor INTEGER NOT NULL,
seq INTEGER NOT NULL,
chain BLOB NOT NULL,
opened_at_us INTEGER NOT NULL,
CONSTRAINT pk_accounts PRIMARY KEY (id),
CONSTRAINT uq_accounts_user_id UNIQUE (user_id),
CONSTRAINT ck_accounts_user_id CHECK (length(user_id) BETWEEN 1 AND 128),
CONSTRAINT ck_accounts_never_overdrawn CHECK (balance_minor >= 0),
CONSTRAINT ck_accounts_seq CHECK (seq >= 0),
CONSTRAINT ck_accounts_chain CHECK (length(chain) = 32)
)
STRICT
"""

_LEDGER: Final = """
CREATE TABLE ledger (
id INTEGER NOT NULL CONSTRAINT ck_ledger_one_row CHECK (id = 1),
currency TEXT NOT NULL,
currency_scale INTEGER NOT NULL,
runs_from TEXT NOT NULL,
created_at_us INTEGER NOT NULL,
CONSTRAINT pk_ledger PRIMARY KEY (id),
CONSTRAINT ck_ledger_currency_scale CHECK (currency_scale BETWEEN 0 AND 9)
)
STRICT
"""

_MOVEMENTS: Final = """
CREATE TABLE movements (
account_id INTEGER NOT NULL,
seq INTEGER NOT NULL,
"key" TEXT NOT NULL,
kind TEXT NOT NULL,
outcome TEXT NOT NULL,
reason TEXT,
amount_minor INTEGER,
balance_after_minor INTEGER NOT NULL,
reference TEXT,
created_at_us INTEGER NOT NULL,
chain BLOB NOT NULL,
CONSTRAINT pk_movements PRIMARY KEY (account_id, seq),
CONSTRAINT uq_movements_account_id_key UNIQUE (account_id, "key"),
CONSTRAINT fk_movements_account_id FOREIGN KEY(account_id) REFERENCES accounts (id),
CONSTRAINT ck_movements_seq CHECK (seq >= 1),
CONSTRAINT ck_movements_key CHECK (length(key) BETWEEN 1 AND 255),
CONSTRAINT ck_movements_kind CHECK (kind IN ('deposit', 'withdrawal', 'burn')),
CONSTRAINT ck_movements_outcome CHECK (outcome IN ('applied', 'refused', 'burned')),
CONSTRAINT ck_movements_burn_is_burned CHECK ((kind = 'burn') = (outcome = 'burned')),
CONSTRAINT ck_movements_burn_has_no_amount CHECK ((kind = 'burn') = (amount_minor IS NULL)),
CONSTRAINT ck_movements_refusal_has_reason CHECK ((outcome = 'refused') = (reason IS NOT NULL)),
CONSTRAINT ck_movements_reason CHECK (reason IN ('insufficient-funds', 'balance-limit')),
CONSTRAINT ck_movements_amount_positive CHECK (amount_minor > 0),
CONSTRAINT ck_movements_never_overdrawn CHECK (balance_after_minor >= 0),
CONSTRAINT ck_movements_reference CHECK (length(reference) BETWEEN 1 AND 140),
CONSTRAINT ck_movements_chain CHECK (length(chain) = 32)
)
WITHOUT ROWID,
STRICT
"""

_TRIGGERS: Final = {
    "movements_never_updated": """
CREATE TRIGGER movements_never_updated BEFORE UPDATE ON movements
BEGIN SELECT RAISE(ABORT, 'movements are append-only'); END
""",
    "movements_never_deleted": """
CREATE TRIGGER movements_never_deleted BEFORE DELETE ON movements
BEGIN SELECT RAISE(ABORT, 'movements are append-only'); END
""",
    "movements_never_replaced": """
CREATE TRIGGER movements_never_replaced BEFORE INSERT ON movements
WHEN EXISTS (SELECT 1 FROM movements WHERE account_id = NEW.account_id AND seq = NEW.seq)
OR EXISTS (SELECT 1 FROM movements WHERE account_id = NEW.account_id AND key = NEW.key)
BEGIN SELECT RAISE(ABORT, 'movements are append-only'); END
""",
    "accounts_keep_identity": """
CREATE TRIGGER accounts_keep_identity BEFORE UPDATE OF id, user_id, opened_at_us ON accounts
BEGIN SELECT RAISE(ABORT, 'an account keeps its id, user and opening time'); END
""",
    "accounts_never_deleted": """
CREATE TRIGGER accounts_never_deleted BEFORE DELETE ON accounts
BEGIN SELECT RAISE(ABORT, 'accounts are never deleted'); END
""",
    "accounts_never_replaced": """
CREATE TRIGGER accounts_never_replaced BEFORE INSERT ON accounts
WHEN EXISTS (SELECT 1 FROM accounts WHERE id = NEW.id OR user_id = NEW.user_id)
BEGIN SELECT RAISE(ABORT, 'accounts are never replaced'); END
""",
    "ledger_never_deleted": """
CREATE TRIGGER ledger_never_deleted BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger keeps its currency'); END
""",
    "ledger_keeps_currency": """
CREATE TRIGGER ledger_keeps_currency
BEFORE UPDATE OF id, currency, currency_scale, created_at_us ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger keeps its currency'); END
""",
    "ledger_never_replaced": """
CREATE TRIGGER ledger_never_replaced BEFORE INSERT ON ledger
WHEN EXISTS (SELECT 1 FROM ledger)
BEGIN SELECT RAISE(ABORT, 'the ledger keeps its currency'); END
""",
}

# By revision: the statement behind each object, white space aside. SQLite's own indexes behind a
# PRIMARY KEY or UNIQUE have none, and alembic_version is Alembic's own table.
EXPECTED: Final[dict[str, dict[str, str | None]]] = {
    "0001": {
        "ledger": _LEDGER,
        "accounts": _ACCOUNTS,
        "movements": _MOVEMENTS,
        "ix_movements_created_at_us": (
            "CREATE INDEX ix_movements_created_at_us ON movements (created_at_us)"
        ),
        **_TRIGGERS,
        "sqlite_autoindex_accounts_1": None,
        "sqlite_autoindex_movements_2": None,
    },
}
