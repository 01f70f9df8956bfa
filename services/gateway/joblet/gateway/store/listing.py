"""Which jobs ListJobs shows: all by prepared statements, some by a statement made for what is wanted."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, literal, select

from joblet.common.states import JobState
from joblet.gateway.store.schema import jobs
from joblet.gateway.store.statement import Statement

_COLUMNS = (jobs.c.sequence, jobs.c.listing)
_AFTER = Statement(
    select(*_COLUMNS).where(jobs.c.sequence > bindparam("cursor")).order_by(jobs.c.sequence).limit(bindparam("count"))
)
_BEFORE = Statement(
    select(*_COLUMNS)
    .where(jobs.c.sequence < bindparam("cursor"))
    .order_by(jobs.c.sequence.desc())
    .limit(bindparam("count"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a job must meet to be listed; empty or None: anything. `name` is a glob, times are of submission."""

    states: tuple[JobState, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    node_id: str = ""
    name: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    newest_first: bool = False
    id_prefix: str = ""


def rows(connection: Connection, wanted: Wanted, cursor: int, count: int) -> list[Any]:
    """At most `count` jobs behind the sequence number `cursor`: of each its number and its entry, bytes."""
    conditions = _conditions(wanted)
    if not conditions:
        plain = _BEFORE if wanted.newest_first else _AFTER
        return plain.rows(connection, {"cursor": cursor, "count": count})
    behind, order = (
        (jobs.c.sequence < cursor, jobs.c.sequence.desc())
        if wanted.newest_first
        else (jobs.c.sequence > cursor, jobs.c.sequence.asc())
    )
    statement = select(*_COLUMNS).where(behind, *conditions).order_by(order).limit(count)
    return [tuple(row) for row in connection.execute(statement)]


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [_has_label(name, value) for name, value in wanted.labels]
    if wanted.states:
        conditions.append(jobs.c.state.in_(wanted.states))
    if wanted.node_id:
        conditions.append(jobs.c.node_id == wanted.node_id)
    if wanted.name:
        conditions.append(jobs.c.name.op("GLOB", is_comparison=True)(wanted.name))
    if wanted.since_ns is not None:
        conditions.append(jobs.c.submitted_ns >= wanted.since_ns)
    if wanted.until_ns is not None:
        conditions.append(jobs.c.submitted_ns < wanted.until_ns)
    if wanted.id_prefix:
        conditions += [jobs.c.id >= wanted.id_prefix, jobs.c.id < wanted.id_prefix + "g"]
    return conditions


def _has_label(name: str, value: str) -> ColumnElement[bool]:
    label = func.json_each(jobs.c.labels).table_valued("key", "value")
    return select(literal(1)).select_from(label).where(label.c.key == name, label.c.value == value).exists()
