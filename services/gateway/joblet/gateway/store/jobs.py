"""Queries on jobs: plain functions of a Connection, run by `Database.read` and `Database.write`.

Statements are built once, so that SQLAlchemy compiles each of them once. A state changes only along
`joblet.common.states`; what events of a node do to a job is in `joblet.gateway.store.events`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from joblet.common.errors import JobNotFound, ResourceExhausted
from joblet.common.ids import MIN_PREFIX_LENGTH, is_job_id, is_prefix
from joblet.common.states import JobState, Reason, check_transition
from joblet.gateway.store.model import Job
from joblet.gateway.store.schema import ACTIVE_STATES, jobs, payloads

MAX_CANDIDATES = 10
IDS_PER_STATEMENT = 500  # SQLite allows 32,766 parameters; short lists keep one compiled statement

# Written out, not as parameters: SQLite uses a partial index only when it can see that the condition is the index's.
ACTIVE = text("state IN (" + ", ".join(f"'{state.value}'" for state in ACTIVE_STATES) + ")")

_BY_ID = select(jobs).where(jobs.c.id == bindparam("job_id"))
_BY_REQUEST = select(jobs).where(jobs.c.request_id == bindparam("wanted"))
_BY_PREFIX = (
    select(jobs)
    .where(jobs.c.id >= bindparam("low"), jobs.c.id < bindparam("high"))
    .order_by(jobs.c.id)
    .limit(MAX_CANDIDATES + 1)
)
_AFTER = select(jobs).where(jobs.c.sequence > bindparam("after")).order_by(jobs.c.sequence).limit(bindparam("count"))
_ACTIVE_COUNT = select(func.count()).select_from(jobs).where(jobs.c.node_id == bindparam("node"), ACTIVE)
_ACTIVE_COUNTS = select(jobs.c.node_id, func.count()).where(ACTIVE).group_by(jobs.c.node_id)
_ACTIVE_OF = select(jobs).where(jobs.c.node_id == bindparam("node"), ACTIVE).order_by(jobs.c.sequence)
_BY_IDS = select(jobs).where(jobs.c.id.in_(bindparam("wanted", expanding=True)))
_STATE_COUNTS = select(jobs.c.state, func.count()).group_by(jobs.c.state)
_INSERT = insert(jobs)
_INSERT_PAYLOAD = insert(payloads)
_PAYLOADS = select(payloads.c.content).where(payloads.c.job_id == bindparam("job")).order_by(payloads.c.number)
_DROP_PAYLOADS = delete(payloads).where(payloads.c.job_id.in_(bindparam("wanted", expanding=True)))
_ACKNOWLEDGE = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("wanted", expanding=True)), ~jobs.c.acknowledged)
    .values(acknowledged=True)
)
_END = (
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        state=bindparam("new_state"),
        reason=bindparam("new_reason"),
        message=bindparam("new_message"),
        exit_code=bindparam("new_exit_code"),
        ended_ns=bindparam("new_ended_ns"),
    )
)


class AmbiguousPrefix(Exception):
    """More than one job's id begins with what was asked for."""

    def __init__(self, candidates: Sequence[str]) -> None:
        super().__init__(", ".join(candidates))
        self.candidates = tuple(candidates)


class RequestTaken(Exception):
    """The request id belongs to a job already."""


def as_job(row: Sequence[Any]) -> Job:
    return Job(*row)


def find(connection: Connection, wanted: str) -> Job:
    """The one job whose id is, or begins with, `wanted`. Raises JobNotFound, AmbiguousPrefix."""
    low = wanted.lower()
    if is_job_id(low):
        row = connection.execute(_BY_ID, {"job_id": low}).first()
        if row is None:
            raise JobNotFound(wanted)
        return as_job(row)
    if not is_prefix(low):
        raise JobNotFound(wanted, hint=f"an id, or at least {MIN_PREFIX_LENGTH} characters of its beginning")
    rows = connection.execute(_BY_PREFIX, {"low": low, "high": low + "g"}).all()
    if not rows:
        raise JobNotFound(wanted)
    if len(rows) > 1:
        raise AmbiguousPrefix([row.id for row in rows])
    return as_job(rows[0])


def by_request(connection: Connection, request_id: str) -> Job | None:
    row = connection.execute(_BY_REQUEST, {"wanted": request_id}).first()
    return None if row is None else as_job(row)


def insert_job(connection: Connection, values: Mapping[str, Any], contents: Sequence[bytes], maximum: int) -> Job:
    """Stores a new job. Raises RequestTaken when its request id is known: the unique index decides that in this very
    transaction, not a question before it; ResourceExhausted when its node has `maximum` jobs already."""
    node_id = values["node_id"]
    if (connection.scalar(_ACTIVE_COUNT, {"node": node_id}) or 0) >= maximum:
        if values["request_id"] and by_request(connection, values["request_id"]):
            raise RequestTaken
        raise ResourceExhausted(
            f"job creation failed: node {node_id} has maxConcurrentJobs ({maximum}) jobs",
            hint="wait for one of them to end",
        )
    try:
        result = connection.execute(_INSERT, dict(values))
    except IntegrityError as error:
        raise RequestTaken from error
    if contents:
        rows = [{"job_id": values["id"], "number": n, "content": content} for n, content in enumerate(contents)]
        connection.execute(_INSERT_PAYLOAD, rows)
    key = result.inserted_primary_key
    assert key is not None  # one row was inserted
    return Job(sequence=key[0], **values)


def page(connection: Connection, after: int, count: int) -> list[Job]:
    """At most `count` jobs in order of submission, beginning behind sequence number `after`."""
    return [as_job(row) for row in connection.execute(_AFTER, {"after": after, "count": count})]


def active_counts(connection: Connection) -> dict[str, int]:
    """How many jobs each node has that are INITIALIZING or RUNNING; nodes without any are not in it."""
    return dict(connection.execute(_ACTIVE_COUNTS).all())


def active_of(connection: Connection, node_id: str) -> list[Job]:
    return [as_job(row) for row in connection.execute(_ACTIVE_OF, {"node": node_id})]


def by_ids(connection: Connection, ids: Iterable[str]) -> dict[str, Job]:
    found: dict[str, Job] = {}
    for chunk in _chunks(ids):
        found |= {row.id: as_job(row) for row in connection.execute(_BY_IDS, {"wanted": chunk})}
    return found


def state_counts(connection: Connection) -> dict[JobState, int]:
    return dict(connection.execute(_STATE_COUNTS).all())


def contents_of(connection: Connection, job_id: str) -> list[bytes]:
    return list(connection.scalars(_PAYLOADS, {"job": job_id}))


def acknowledge(connection: Connection, ids: Iterable[str]) -> None:
    """The node has these jobs: their small uploads need not be kept any longer."""
    for chunk in _chunks(ids):
        connection.execute(_ACKNOWLEDGE, {"wanted": chunk})
        connection.execute(_DROP_PAYLOADS, {"wanted": chunk})


def end(
    connection: Connection, job_id: str, state: JobState, reason: Reason, message: str, exit_code: int, now_ns: int
) -> bool:
    """Ends a job by the gateway's own decision. False when it has ended already: nothing is changed then."""
    job = connection.execute(_BY_ID, {"job_id": job_id}).first()
    if job is None:
        raise JobNotFound(job_id)
    if as_job(job).ended:
        return False
    check_transition(job.state, state)
    connection.execute(
        _END,
        {
            "job": job_id,
            "new_state": state,
            "new_reason": reason.value,
            "new_message": message,
            "new_exit_code": exit_code,
            "new_ended_ns": now_ns,
        },
    )
    connection.execute(_DROP_PAYLOADS, {"wanted": [job_id]})
    return True


def _chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    whole = list(ids)
    for start in range(0, len(whole), IDS_PER_STATEMENT):
        yield whole[start : start + IDS_PER_STATEMENT]
