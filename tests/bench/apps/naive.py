"""The naive peer: FastAPI, one ORM session and one BEGIN IMMEDIATE transaction a request."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint, event, insert, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ACCOUNTS = 1_000

# One connection: with more of them the waiting is done by SQLite's sleeping busy handler, and
# the service is slower still.
engine = create_async_engine(
    f"sqlite+aiosqlite:///{os.environ['BENCH_FOLDER']}/naive.db",
    connect_args={"timeout": 30},
    pool_size=int(os.environ.get("BENCH_POOL", "1")),
    max_overflow=0,
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
    __table_args__ = (UniqueConstraint("account_id", "key"),)
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
        users = [{"user_id": f"u{n}", "balance_minor": 0} for n in range(ACCOUNTS)]
        await connection.execute(insert(Account), users)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


class Deposit(BaseModel):
    amount: Annotated[Decimal, Field(gt=0, max_digits=15, decimal_places=2)]


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


@app.post("/deposit", status_code=201, response_model=Receipt)
async def deposit(
    body: Deposit,
    user: Annotated[str, Depends(get_current_user)],
    key: Annotated[str, Depends(get_key)],
) -> Receipt:
    async with session_of.begin() as session:
        account = await session.scalar(select(Account).where(Account.user_id == user))
        if account is None:
            raise HTTPException(404)
        movement = await session.scalar(
            select(Movement).where(Movement.account_id == account.id, Movement.key == key)
        )
        if movement is None:
            amount_minor = int(body.amount * 100)
            account.balance_minor += amount_minor
            movement = Movement(
                account_id=account.id,
                key=key,
                amount_minor=amount_minor,
                balance_after_minor=account.balance_minor,
                created_at=datetime.now(UTC),
            )
            session.add(movement)
    return Receipt(
        transaction=movement.id,
        amount=Decimal(movement.amount_minor) / 100,
        balance=Decimal(movement.balance_after_minor) / 100,
        created_at=movement.created_at,
    )
