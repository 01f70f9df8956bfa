"""The engine: one connection, used on the event loop's own thread. A second one for what is only read would have to
fetch the pages again that every write has changed.

Queries are plain functions of a Connection (`joblet.gateway.store.jobs`, `.nodes`, `.events`); `read` and `write` run
them. On SQLite a statement takes some tens of microseconds, less than handing it to a thread, so `await` never
suspends. PostgreSQL answers over a network: there the same functions run in threads with pooled connections; only this
module will know. Until then other databases are refused by name.

Durable means here: survives `kill -9` of the gateway (WAL, synchronous=NORMAL: a commit is in the page cache). After a
loss of power the last commits may be missing, the database is whole.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.pool import NullPool

from joblet.common.errors import ConfigError, Unavailable
from joblet.gateway.store import migrations

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_MS = 5000
# In pages of the log and KiB. Every job changes the same few pages several times: the later the log is carried over
# into the database, the less there is to carry. ListJobs of 10,000 jobs reads about 11 MB.
_SIZES = ("wal_autocheckpoint=4000", "cache_size=-16000")


class Database:
    """Open it, then `await read(query, ...)` and `await write(query, ...)`. Errors of the database: Unavailable."""

    def __init__(self, url: str) -> None:
        parsed = _checked(url)
        self._path = Path(parsed.database or "")
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.touch(mode=0o600)
        self.engine = _engine(parsed)
        migrations.upgrade(self.engine, url)
        # It begins no transactions of its own: `write` does, and reads need none.
        self._connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    @property
    def directory(self) -> Path:
        return self._path.parent

    async def read(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Sees everything that was written before."""
        try:
            return query(self._connection, *args, **kwargs)
        except DatabaseError as error:
            raise unavailable(error.orig) from error

    async def write(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One transaction: all of it is durable when this returns, none of it when it raises.

        SQLAlchemy's own costs more than the statements of a job. Takes the write lock at once, as `_begin` does.
        """
        try:
            driver = self._connection.connection
            driver.cursor().execute("BEGIN IMMEDIATE")
            try:
                result = query(self._connection, *args, **kwargs)
                driver.commit()
            except BaseException:
                driver.rollback()
                raise
            return result
        except DatabaseError as error:
            raise unavailable(error.orig) from error
        except sqlite3.DatabaseError as error:
            raise unavailable(error) from error

    def close(self) -> None:
        self._connection.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError([f"gateway.database: {error}"]) from error
    if parsed.get_backend_name() != "sqlite":
        raise ConfigError([f"gateway.database: {parsed.get_backend_name()} is not available yet, only sqlite is"])
    if not parsed.database or parsed.database == ":memory:" or parsed.query:
        raise ConfigError(['gateway.database: expected "sqlite:///" and the path of a file'])
    return parsed


def _engine(url: URL) -> Engine:
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    """Transactions are begun by `_begin`, not by the driver's guess from the text of a statement."""
    connection.isolation_level = None
    for pragma in (
        *_SIZES,
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "secure_delete=ON",  # what is deleted is overwritten: a deleted job leaves no trace in free pages
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    """Takes the write lock at once: a transaction that reads first and writes later could not get it any more."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def unavailable(error: BaseException | None) -> Unavailable:
    """Without the statement and its parameters: those belong to users."""
    return Unavailable(f"the gateway's store failed: {error}")
