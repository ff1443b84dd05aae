"""The ledger: accounts, movements, and the triggers that keep them append-only.

Revision: 0001
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# In SQLite's STRICT tables INTEGER is the 64-bit type.
INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    ledger = op.create_table(
        "ledger",
        sa.Column(
            "id",
            INT64,
            sa.CheckConstraint("id = 1", name="one_row"),
            nullable=False,
            autoincrement=False,
        ),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("currency_scale", sa.Integer, nullable=False),
        sa.Column("runs_from", sa.Text, nullable=False),
        sa.Column("created_at_us", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("currency_scale BETWEEN 0 AND 9", name="currency_scale"),
        sqlite_strict=True,
    )
    op.create_table(
        "accounts",
        sa.Column("id", INT64, sa.Identity(), nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("balance_minor", INT64, nullable=False),
        sa.Column("seq", INT64, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.Column("opened_at_us", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("user_id"),
        sa.CheckConstraint("length(user_id) BETWEEN 1 AND 128", name="user_id"),
        sa.CheckConstraint("balance_minor >= 0", name="never_overdrawn"),
        sa.CheckConstraint("seq >= 0", name="seq"),
        sa.CheckConstraint("length(chain) = 32", name="chain"),
        sqlite_strict=True,
    )
    op.create_table(
        "movements",
        sa.Column("account_id", INT64, nullable=False),
        sa.Column("seq", INT64, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("amount_minor", INT64),
        sa.Column("balance_after_minor", INT64, nullable=False),
        sa.Column("reference", sa.Text),
        sa.Column("created_at_us", INT64, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "seq"),
        sa.UniqueConstraint("account_id", "key"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"]),
        sa.CheckConstraint("seq >= 1", name="seq"),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name="key"),
        sa.CheckConstraint("kind IN ('deposit', 'withdrawal', 'burn')", name="kind"),
        sa.CheckConstraint("outcome IN ('applied', 'refused', 'burned')", name="outcome"),
        sa.CheckConstraint("(kind = 'burn') = (outcome = 'burned')", name="burn_is_burned"),
        sa.CheckConstraint("(kind = 'burn') = (amount_minor IS NULL)", name="burn_has_no_amount"),
        sa.CheckConstraint(
            "(outcome = 'refused') = (reason IS NOT NULL)", name="refusal_has_reason"
        ),
        sa.CheckConstraint("reason IN ('insufficient-funds', 'balance-limit')", name="reason"),
        sa.CheckConstraint("amount_minor > 0", name="amount_positive"),
        sa.CheckConstraint("balance_after_minor >= 0", name="never_overdrawn"),
        sa.CheckConstraint("length(reference) BETWEEN 1 AND 140", name="reference"),
        sa.CheckConstraint("length(chain) = 32", name="chain"),
        sqlite_strict=True,
        # Clustered by account: one account's rows lie beside each other.
        sqlite_with_rowid=False,
    )
    op.create_index("ix_movements_created_at_us", "movements", ["created_at_us"])
    sqlite = op.get_context().dialect.name == "sqlite"
    for trigger in SQLITE_TRIGGERS if sqlite else POSTGRESQL_TRIGGERS:
        op.execute(trigger)
    # The currency is asked of the settings only here: from now on the database knows it.
    currency = context.config.attributes["currency"]
    op.bulk_insert(
        ledger,
        [
            {
                "id": 1,
                "currency": currency.code,
                "currency_scale": currency.scale,
                "runs_from": revision,
                "created_at_us": time.time_ns() // 1000,
            }
        ],
    )


def downgrade() -> None:
    raise RuntimeError("A ledger is never taken down by a migration; keep the file.")


# The BEFORE INSERT checks stop INSERT OR REPLACE from any connection: REPLACE fires delete
# triggers only where recursive_triggers is on (sqlite.org/lang_conflict.html).
SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER movements_never_updated BEFORE UPDATE ON movements
    BEGIN SELECT RAISE(ABORT, 'movements are append-only'); END
    """,
    """
    CREATE TRIGGER movements_never_deleted BEFORE DELETE ON movements
    BEGIN SELECT RAISE(ABORT, 'movements are append-only'); END
    """,
    """
    CREATE TRIGGER movements_never_replaced BEFORE INSERT ON movements
    WHEN EXISTS (SELECT 1 FROM movements WHERE account_id = NEW.account_id AND seq = NEW.seq)
      OR EXISTS (SELECT 1 FROM movements WHERE account_id = NEW.account_id AND key = NEW.key)
    BEGIN SELECT RAISE(ABORT, 'movements are append-only'); END
    """,
    """
    CREATE TRIGGER accounts_keep_identity BEFORE UPDATE OF id, user_id, opened_at_us ON accounts
    BEGIN SELECT RAISE(ABORT, 'an account keeps its id, user and opening time'); END
    """,
    """
    CREATE TRIGGER accounts_never_deleted BEFORE DELETE ON accounts
    BEGIN SELECT RAISE(ABORT, 'accounts are never deleted'); END
    """,
    """
    CREATE TRIGGER accounts_never_replaced BEFORE INSERT ON accounts
    WHEN EXISTS (SELECT 1 FROM accounts WHERE id = NEW.id OR user_id = NEW.user_id)
    BEGIN SELECT RAISE(ABORT, 'accounts are never replaced'); END
    """,
    """
    CREATE TRIGGER ledger_never_deleted BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger keeps its currency'); END
    """,
    """
    CREATE TRIGGER ledger_keeps_currency
    BEFORE UPDATE OF id, currency, currency_scale, created_at_us ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger keeps its currency'); END
    """,
    """
    CREATE TRIGGER ledger_never_replaced BEFORE INSERT ON ledger
    WHEN EXISTS (SELECT 1 FROM ledger)
    BEGIN SELECT RAISE(ABORT, 'the ledger keeps its currency'); END
    """,
)

# Where a statement is refused as such, it is refused even if it would touch no row. A second
# INSERT of a key, or of an account, fails on its unique constraint; ON CONFLICT DO UPDATE is an
# UPDATE to a trigger.
POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION teller_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'restrict_violation'; END $$
    """,
    """
    CREATE TRIGGER movements_never_updated BEFORE UPDATE ON movements
    FOR EACH STATEMENT EXECUTE FUNCTION teller_refuse('movements are append-only')
    """,
    """
    CREATE TRIGGER movements_never_deleted BEFORE DELETE OR TRUNCATE ON movements
    FOR EACH STATEMENT EXECUTE FUNCTION teller_refuse('movements are append-only')
    """,
    """
    CREATE TRIGGER accounts_keep_identity BEFORE UPDATE OF id, user_id, opened_at_us ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION
        teller_refuse('an account keeps its id, user and opening time')
    """,
    """
    CREATE TRIGGER accounts_never_deleted BEFORE DELETE OR TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION teller_refuse('accounts are never deleted')
    """,
    """
    CREATE TRIGGER ledger_never_deleted BEFORE DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION teller_refuse('the ledger keeps its currency')
    """,
    """
    CREATE TRIGGER ledger_keeps_currency
    BEFORE UPDATE OF id, currency, currency_scale, created_at_us ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION teller_refuse('the ledger keeps its currency')
    """,
)
