"""The tables, their constraints and triggers, and which revisions of them this code can run on."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

# The newest migration that this code knows, and the oldest whose schema it can run on
# after a migration by a newer release (NOTES.md, "two versions at once").
REVISION: Final = "0001"

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

# In SQLite's STRICT tables INTEGER is the 64-bit type.
_INT64 = BigInteger().with_variant(Integer(), "sqlite")

ledger = Table(
    "ledger",
    metadata,
    Column(
        "id",
        _INT64,
        CheckConstraint("id = 1", name="one_row"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("currency", Text, nullable=False),
    Column("currency_scale", Integer, nullable=False),
    Column("runs_from", Text, nullable=False),
    Column("created_at_us", _INT64, nullable=False),
    CheckConstraint("currency_scale BETWEEN 0 AND 9", name="currency_scale"),
    sqlite_strict=True,
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", _INT64, Identity(), primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("balance_minor", _INT64, nullable=False),
    Column("seq", _INT64, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("opened_at_us", _INT64, nullable=False),
    UniqueConstraint("user_id"),
    CheckConstraint("length(user_id) BETWEEN 1 AND 128", name="user_id"),
    CheckConstraint("balance_minor >= 0", name="never_overdrawn"),
    CheckConstraint("seq >= 0", name="seq"),
    CheckConstraint("length(chain) = 32", name="chain"),
    sqlite_strict=True,
)

movements = Table(
    "movements",
    metadata,
    Column("account_id", _INT64, ForeignKey("accounts.id"), primary_key=True),
    Column("seq", _INT64, primary_key=True),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("amount_minor", _INT64),
    Column("balance_after_minor", _INT64, nullable=False),
    Column("reference", Text),
    Column("created_at_us", _INT64, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    UniqueConstraint("account_id", "key"),
    CheckConstraint("seq >= 1", name="seq"),
    CheckConstraint("length(key) BETWEEN 1 AND 255", name="key"),
    CheckConstraint("kind IN ('deposit', 'withdrawal', 'burn')", name="kind"),
    CheckConstraint("outcome IN ('applied', 'refused', 'burned')", name="outcome"),
    CheckConstraint("(kind = 'burn') = (outcome = 'burned')", name="burn_is_burned"),
    CheckConstraint("(kind = 'burn') = (amount_minor IS NULL)", name="burn_has_no_amount"),
    CheckConstraint("(outcome = 'refused') = (reason IS NOT NULL)", name="refusal_has_reason"),
    CheckConstraint(
        "reason IN ('insufficient-funds', 'balance-limit')",
        name="reason",
    ),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
    CheckConstraint("balance_after_minor >= 0", name="never_overdrawn"),
    CheckConstraint("length(reference) BETWEEN 1 AND 140", name="reference"),
    CheckConstraint("length(chain) = 32", name="chain"),
    # How the audit finds the new rows of the whole database, whichever process wrote them.
    Index("ix_movements_created_at_us", "created_at_us"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
