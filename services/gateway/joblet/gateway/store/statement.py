"""Statements that run often, without SQLAlchemy's machinery around each execution: it costs several times what SQLite
takes for a row.

They are built from the tables of `joblet.gateway.store.schema` like any other and compiled once for each dialect; their
text runs on the driver's own connection (PEP 249), values pass through the processors of their columns' types. What
depends on the values of parameters (an IN list of any length) needs SQLAlchemy's execution and is refused.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import CompileError, DatabaseError, IntegrityError
from sqlalchemy.sql.compiler import SQLCompiler

Core = Select[Any] | Insert | Update | Delete
Processor = Callable[[Any], Any]


class Statement:
    """`columns` are those that an INSERT gives values for; their names are its parameters."""

    def __init__(self, core: Core, columns: Sequence[str] | None = None) -> None:
        self._core = core
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """All rows. Raises SQLAlchemy's DatabaseError, and its IntegrityError for a constraint."""
        compiled = self._for(connection.dialect)
        found = compiled.execute(connection, parameters).fetchall()
        return [compiled.row(row) for row in found] if compiled.results else found

    def first(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """The first row or None; the statement must not find many. Raises as `rows` does."""
        found = self.rows(connection, parameters)
        return found[0] if found else None

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> None:
        """For what it does. Raises as `rows` does."""
        self._for(connection.dialect).execute(connection, parameters)

    def text(self, dialect: Dialect) -> tuple[str, Sequence[str]]:
        """SQL, and the names of its parameters in their order."""
        compiled = self._for(dialect)
        return compiled.text, compiled.names

    def _for(self, dialect: Dialect) -> "_Compiled":
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._core, self._columns, dialect)
        return compiled


class _Compiled:
    """One statement for one dialect."""

    def __init__(self, core: Core, columns: Sequence[str] | None, dialect: Dialect) -> None:
        compiled = core.compile(dialect=dialect, column_keys=columns)
        assert isinstance(compiled, SQLCompiler)
        if compiled.post_compile_params:
            raise CompileError(f"this statement's text depends on its parameters: {compiled}")
        self.text = str(compiled)
        self.names: Sequence[str] = compiled.positiontup or list(compiled.binds)
        self._positional = compiled.positional
        self._fixed: dict[str, Any] = {
            name: bind.value for name, bind in compiled.binds.items() if name in self.names and not bind.required
        }
        self._parameters = _some(
            compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect) for name in self.names
        )
        found = core.selected_columns if isinstance(core, Select) else core.returning_column_descriptions
        types = [column["type"] if isinstance(column, Mapping) else column.type for column in found]
        self.results = _some(kind.dialect_impl(dialect).result_processor(dialect, None) for kind in types)
        assert dialect.dbapi is not None
        self._integrity_error: type[Exception] = dialect.dbapi.IntegrityError
        self._database_error: type[Exception] = dialect.dbapi.DatabaseError

    def execute(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self.text, self._values(parameters))
        except self._integrity_error as error:
            raise IntegrityError(self.text, None, error) from error
        except self._database_error as error:
            raise DatabaseError(self.text, None, error) from error
        return cursor

    def _values(self, parameters: Mapping[str, Any]) -> Any:
        given = {**self._fixed, **parameters} if self._fixed else parameters
        values = list(map(given.__getitem__, self.names))
        for number, process in self._parameters:
            values[number] = process(values[number])
        return values if self._positional else dict(zip(self.names, values, strict=True))

    def row(self, row: Sequence[Any]) -> Sequence[Any]:
        values = list(row)
        for number, process in self.results:
            values[number] = process(values[number])
        return values


def _some(processors: Iterable[Processor | None]) -> list[tuple[int, Processor]]:
    """Those that there are, with their numbers."""
    return [(number, processor) for number, processor in enumerate(processors) if processor is not None]
