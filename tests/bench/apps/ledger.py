"""The ledger under the naive service and under the peers: an ORM, one transaction a deposit."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Header, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import BigInteger, ForeignKey, event, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

ACCOUNTS = 1_000
FOLDER = os.environ["BENCH_FOLDER"]

# One connection: with more of them the waiting is done by SQLite's sleeping busy handler, and
# the service is slower still.
engine = create_async_engine(
    f"sqlite+aiosqlite:///{FOLDER}/naive.db",
    connect_args={"timeout": 30},
    pool_size=int(os.environ.get("BENCH_POOL", "1")),
    max_overflow=0,
    pool_timeout=300,
)
session_of = async_sessionmaker(engine, expire_on_commit=False)


@event.listens_for(engine.sync_engine, "connect")
def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


@event.listens_for(engine.sync_engine, "begin")
def _on_begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(unique=True)
    balance_minor: Mapped[int] = mapped_column(BigInteger, default=0)


class Movement(Base):
    __tablename__ = "movements"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    key: Mapped[str]
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    balance_after_minor: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        if (await connection.execute(select(Account.id).limit(1))).first() is None:
            users = [{"user_id": f"u{n}", "balance_minor": 0} for n in range(ACCOUNTS)]
            await connection.execute(insert(Account), users)
    yield
    await engine.dispose()


class Deposit(BaseModel):
    amount: Annotated[Decimal, Field(gt=0, max_digits=17, decimal_places=2)]

    @property
    def amount_minor(self) -> int:
        return int(self.amount * 100)


class Receipt(BaseModel):
    transaction: int
    amount: Decimal
    balance: Decimal
    created_at: datetime


async def get_current_user(
    user_id: Annotated[str, Header(convert_underscores=False, max_length=128)],
) -> str:
    return user_id


async def get_key(idempotency_key: Annotated[str, Header(max_length=255)]) -> str:
    return idempotency_key


async def account_of(session: AsyncSession, user: str) -> Account:
    account = await session.scalar(select(Account).where(Account.user_id == user))
    if account is None:
        raise HTTPException(404)
    return account


def paid_in(session: AsyncSession, account: Account, amount_minor: int, key: str) -> Movement:
    account.balance_minor += amount_minor
    movement = Movement(
        account_id=account.id,
        key=key,
        amount_minor=amount_minor,
        balance_after_minor=account.balance_minor,
        created_at=datetime.now(UTC),
    )
    session.add(movement)
    return movement


def receipt(movement: Movement) -> Receipt:
    return Receipt(
        transaction=movement.id,
        amount=Decimal(movement.amount_minor) / 100,
        balance=Decimal(movement.balance_after_minor) / 100,
        created_at=movement.created_at,
    )
