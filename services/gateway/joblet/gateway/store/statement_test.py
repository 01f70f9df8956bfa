"""Statements on the driver's own connection do what SQLAlchemy's execution does."""

from collections.abc import Iterator

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    create_engine,
    delete,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import CompileError, DatabaseError, IntegrityError

from joblet.gateway.store import jobs as queries
from joblet.gateway.store.schema import Json
from joblet.gateway.store.statement import Statement

table = Table(
    "t",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("done", Boolean, nullable=False),
    Column("facts", Json),
)
INSERT = Statement(insert(table).returning(table.c.id), ["name", "done", "facts"])
ALL = Statement(select(table).order_by(table.c.id))
BY_NAME = Statement(select(table.c.facts).where(table.c.name == bindparam("wanted")))
FINISH = Statement(update(table).where(table.c.name == bindparam("wanted"), ~table.c.done).values(done=True))


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    table.metadata.create_all(engine)
    with engine.begin() as opened:
        yield opened
    engine.dispose()


def test_values_pass_through_their_types(connection: Connection) -> None:
    assert [tuple(row) for row in INSERT.rows(connection, {"name": "a", "done": False, "facts": {"k": [1]}})] == [(1,)]
    INSERT.run(connection, {"name": "b", "done": True, "facts": None})
    assert [tuple(row) for row in ALL.rows(connection, {})] == [(1, "a", False, {"k": [1]}), (2, "b", True, None)]
    assert [tuple(row) for row in ALL.rows(connection, {})] == [tuple(row) for row in connection.execute(select(table))]


def test_one_row(connection: Connection) -> None:
    INSERT.run(connection, {"name": "a", "done": False, "facts": {}})
    assert list(BY_NAME.first(connection, {"wanted": "a"})) == [{}]
    assert BY_NAME.first(connection, {"wanted": "x"}) is None


def test_fixed_values(connection: Connection) -> None:
    INSERT.run(connection, {"name": "a", "done": False, "facts": {}})
    FINISH.run(connection, {"wanted": "a"})
    assert ALL.first(connection, {})[2] is True


def test_errors_are_sqlalchemys(connection: Connection) -> None:
    INSERT.run(connection, {"name": "a", "done": False, "facts": {}})
    with pytest.raises(IntegrityError):
        INSERT.run(connection, {"name": "a", "done": False, "facts": {}})
    connection.execute(text("DROP TABLE t"))
    with pytest.raises(DatabaseError) as caught:
        ALL.rows(connection, {})
    assert str(caught.value.orig) == "no such table: t"


def test_a_missing_parameter_is_not_null(connection: Connection) -> None:
    for statement in (INSERT, BY_NAME, FINISH):
        with pytest.raises(KeyError):
            statement.run(connection, {})


def test_a_text_that_depends_on_parameters_is_refused(connection: Connection) -> None:
    some = Statement(delete(table).where(table.c.id.in_(bindparam("ids", expanding=True))))
    with pytest.raises(CompileError, match="depends on its parameters"):
        some.run(connection, {"ids": [1]})


def test_every_statement_on_jobs_is_one_for_postgresql_too() -> None:
    dialect = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
    for name, statement in vars(queries).items():
        if isinstance(statement, Statement):
            sql = str(statement._core.compile(dialect=dialect, column_keys=statement._columns))
            assert "jobs" in sql or "payloads" in sql, name
