"""Queries on jobs that wait: who is next for a node, who takes the place, what each of them is waiting behind.

The queue is the rows of state PENDING and nothing else. Whoever places one does it in one transaction that reads what
the node's jobs take of it and changes the row from PENDING to INITIALIZING; a row that is not PENDING any more is not
placed a second time. No question here reads more than the next rows of an index, but for a job's place in line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, literal, or_, select, text, tuple_, update

from joblet.common.states import JobState, Reason, check_transition
from joblet.gateway import placement, views
from joblet.gateway.placement import Capacity, Line, Load, Needs, Room
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.model import Job
from joblet.gateway.store.schema import jobs
from joblet.gateway.store.statement import Statement

ANY_NODE = ""
WAITING = frozenset({JobState.SCHEDULED, JobState.PENDING})
EXIT_CODE_CANCELED = -1  # as of a job that was stopped

# Written out for the same reason as `jobs.ACTIVE`.
PENDING = text(f"state = '{JobState.PENDING.value}'")
SCHEDULED = text(f"state = '{JobState.SCHEDULED.value}'")

_LOAD = Statement(
    select(
        func.count(),
        func.coalesce(func.sum(jobs.c.need_cpu_percent), 0),
        func.coalesce(func.sum(jobs.c.need_memory_mb), 0),
    ).where(jobs.c.node_id == bindparam("node"), job_queries.ACTIVE)
)
_FITTING = and_(
    jobs.c.need_cpu_percent <= bindparam("cpu"),
    jobs.c.need_memory_mb <= bindparam("memory"),
    jobs.c.max_processes <= bindparam("processes"),
    jobs.c.upload_bytes <= bindparam("uploads"),
)
_ORDER = (jobs.c.rank, jobs.c.queued_ns, jobs.c.sequence)
_FRONT = (-(2**31), 0, 0)  # before every place in line
_BEHIND = tuple_(*_ORDER) > tuple_(bindparam("rank"), bindparam("queued"), bindparam("sequence"))
_FIRST = Statement(
    select(*_ORDER, jobs.c.id, jobs.c.need_cpu_percent, jobs.c.need_memory_mb, jobs.c.cpu_cores)
    .where(PENDING, jobs.c.wanted_node == bindparam("wanted"), _BEHIND, _FITTING)
    .order_by(*_ORDER)
    .limit(1)
)
_ANY = Statement(select(literal(1)).select_from(jobs).where(PENDING).limit(1))
_BEFORE = or_(
    jobs.c.rank < bindparam("rank"),
    and_(
        jobs.c.rank == bindparam("rank"),
        or_(
            jobs.c.queued_ns < bindparam("queued"),
            and_(jobs.c.queued_ns == bindparam("queued"), jobs.c.sequence < bindparam("sequence")),
        ),
    ),
)
_PLACE = Statement(select(func.count()).select_from(jobs).where(PENDING, _BEFORE))
_LENGTH = Statement(select(func.count()).select_from(jobs).where(PENDING))
_FIRST_DUE = Statement(select(jobs.c.due_ns).where(SCHEDULED).order_by(jobs.c.due_ns).limit(1))
_DUE = Statement(
    select(jobs.c.id, jobs.c.due_ns, jobs.c.listing)
    .where(SCHEDULED, jobs.c.due_ns <= bindparam("now"))
    .order_by(jobs.c.due_ns)
    .limit(bindparam("count"))
)
_LET_GO = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job"), SCHEDULED)
    .values(state=JobState.PENDING, queued_ns=bindparam("new_queued"), listing=bindparam("new_listing"))
)
_CLAIM = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job"), PENDING)
    .values(
        state=JobState.INITIALIZING,
        node_id=bindparam("new_node"),
        cpu_percent=bindparam("new_cpu"),
        memory_mb=bindparam("new_memory"),
        listing=bindparam("new_listing"),
    )
)
_GIVE_BACK = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(state=JobState.PENDING, node_id="", acknowledged=False, listing=bindparam("new_listing"))
)


@dataclass(frozen=True, slots=True)
class Place:
    """A node that could take jobs; `full` and `connected` as in placement.Room. "" or 0 for what it does not say of its
    cores, of how many processes a job can have there, and of how much a job can upload."""

    node_id: str
    capacity: Capacity
    cores: str = ""
    max_processes: int = 0
    upload_bytes: int = 0
    full: bool = False
    connected: bool = True


def submit(connection: Connection, values: Mapping[str, Any], contents: Sequence[bytes], sealed: bytes,
           places: Sequence[Place]) -> Job:  # fmt: skip
    """Stores a new job: SCHEDULED if it is to come, else INITIALIZING on one of `places`, the nodes it could run on, or
    PENDING. Raises RequestTaken."""
    if values["state"] is JobState.SCHEDULED:
        return job_queries.insert_job(connection, values, contents, sealed)
    needs = Needs(values["need_cpu_percent"], values["need_memory_mb"])
    crowd = anybody(connection)  # asked first: mostly there is none, and who is first in line takes two questions
    found = [_room(connection, place, values["rank"]) for place in places] if crowd else rooms(connection, places)
    chosen = placement.choose(needs, found)
    if chosen is not None:
        largest = next(place.capacity.largest for place in places if place.node_id == chosen)
        values = {**values, "state": JobState.INITIALIZING, "node_id": chosen, **_limits(values, largest)}
    return job_queries.insert_job(connection, values, contents, sealed)


def _limits(values: Mapping[str, Any], largest: Needs) -> dict[str, int]:
    """No limit is: all that the node has."""
    return {
        "cpu_percent": values["cpu_percent"] or largest.cpu_percent,
        "memory_mb": values["memory_mb"] or largest.memory_mb,
    }


def claim(connection: Connection, place: Place) -> Job | None:
    """Gives the node its next job. None when nobody waits for it, or when it has no room for the one who is next."""
    head = _head(connection, place)
    if head is None:
        return None
    _, _, _, job_id, cpu_percent, memory_mb, _ = head
    room = Room(place.node_id, place.capacity, load(connection, place.node_id), full=place.full)
    if placement.shortage(Needs(cpu_percent, memory_mb), room) is not None:
        return None
    job = job_queries.get(connection, job_id)
    check_transition(job.state, JobState.INITIALIZING)
    limits = _limits({"cpu_percent": job.cpu_percent, "memory_mb": job.memory_mb}, place.capacity.largest)
    old = job_queries.listing_of(connection, job_id)
    listing = views.placed(old, JobState.INITIALIZING, place.node_id, **limits)
    _CLAIM.run(
        connection,
        {
            "job": job_id, "new_node": place.node_id, "new_cpu": limits["cpu_percent"],
            "new_memory": limits["memory_mb"], "new_listing": listing,
        },
    )  # fmt: skip
    return job_queries.get(connection, job_id)


def first_due(connection: Connection) -> int | None:
    """The time of the SCHEDULED job that is next."""
    row = _FIRST_DUE.first(connection, {})
    return None if row is None else row[0]


def let_go(connection: Connection, now_ns: int, count: int) -> list[str]:
    """Puts at most `count` jobs whose time has come into the queue, in line by that time; their ids."""
    due = _DUE.rows(connection, {"now": now_ns, "count": count})
    for job_id, due_ns, listing in due:
        check_transition(JobState.SCHEDULED, JobState.PENDING)
        new_listing = views.restated(listing, JobState.PENDING, "", "", 0, started_ns=0, ended_ns=0)
        _LET_GO.run(connection, {"job": job_id, "new_queued": due_ns, "new_listing": new_listing})
    return [job_id for job_id, _, _ in due]


def give_back(connection: Connection, job_id: str) -> bool:
    """Back to its place in line: its node has no room after all. False, and nothing is changed, when the job is not
    INITIALIZING or is its node's only one: nobody would say then that there is room again."""
    job = job_queries.get(connection, job_id)
    if job.state is not JobState.INITIALIZING or load(connection, job.node_id).jobs < 2:
        return False
    check_transition(job.state, JobState.PENDING)
    listing = views.placed(
        job_queries.listing_of(connection, job_id), JobState.PENDING, "",
        cpu_percent=job.cpu_percent, memory_mb=job.memory_mb,
    )  # fmt: skip
    _GIVE_BACK.run(connection, {"job": job_id, "new_listing": listing})
    return True


def cancel(connection: Connection, job_id: str, now_ns: int) -> bool:
    """Takes a job out that has not been placed. False when it is on a node, or over: nothing is changed then."""
    if job_queries.state_of(connection, job_id) not in WAITING:
        return False
    return job_queries.end(connection, job_id, JobState.CANCELED, Reason.CANCELED, "", EXIT_CODE_CANCELED, now_ns)


def load(connection: Connection, node_id: str) -> Load:
    return Load(*_LOAD.rows(connection, {"node": node_id})[0])


def anybody(connection: Connection) -> bool:
    """Whether there is a queue at all."""
    return _ANY.first(connection, {}) is not None


def length(connection: Connection) -> int:
    count: int = _LENGTH.rows(connection, {})[0][0]
    return count


def line(connection: Connection, job: Job) -> Line:
    """Of a job that is PENDING."""
    before = _PLACE.rows(connection, {"rank": job.rank, "queued": job.queued_ns, "sequence": job.sequence})[0][0]
    return Line(before + 1, length(connection))


def rooms(connection: Connection, places: Sequence[Place]) -> list[Room]:
    """The nodes as they are, whoever waits for them."""
    return [_as_room(connection, place, taken=False) for place in places]


def _room(connection: Connection, place: Place, rank: int) -> Room:
    """The node as a new job of this rank finds it, which stands behind all others of its rank."""
    head = _head(connection, place)
    return _as_room(connection, place, taken=head is not None and head[0] <= rank)


def _as_room(connection: Connection, place: Place, *, taken: bool) -> Room:
    load_ = load(connection, place.node_id)
    return Room(
        place.node_id, place.capacity, load_, taken=taken, full=place.full, connected=place.connected,
        upload_bytes=place.upload_bytes,
    )  # fmt: skip


def _head(connection: Connection, place: Place) -> Any:
    """Of those who could ever run on the node, the first in line: rank, queued_ns, sequence, id, needs and cores."""
    heads = [_first(connection, place, wanted) for wanted in (ANY_NODE, place.node_id)]
    return min((head for head in heads if head is not None), default=None)


def _first(connection: Connection, place: Place, wanted: str) -> Any:
    """The same of those who are bound to this node, or to none. Lists of cores are no question for the database."""
    largest = place.capacity.largest
    fitting = {
        "cpu": largest.cpu_percent, "memory": largest.memory_mb, "processes": place.max_processes or 2**31 - 1,
        "uploads": place.upload_bytes or 2**63 - 1,
    }  # fmt: skip
    behind = _FRONT
    while True:
        rank, queued, sequence = behind
        where = {"wanted": wanted, "rank": rank, "queued": queued, "sequence": sequence}
        row = _FIRST.first(connection, {**where, **fitting})
        if row is None or placement.has_cores(row[6], place.cores):
            return None if row is None else tuple(row)
        behind = tuple(row[:3])
