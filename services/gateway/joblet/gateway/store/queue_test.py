"""The queue in a real database: its order, its claims, and that neither grows with its length."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from joblet.common.states import JobState, Reason
from joblet.gateway.placement import Capacity, Line, Load, Needs
from joblet.gateway.store import jobs as queries
from joblet.gateway.store import queue
from joblet.gateway.store.database import Database
from joblet.gateway.store.model import Job
from joblet.gateway.store.queue import Place
from joblet.gateway.store.testing import check_listings, job_values

ROOMY = Capacity(jobs=1000, cpu_percent=100_000, memory_mb=1_000_000, largest=Needs(400, 8192))
SMALL = Capacity(jobs=2, cpu_percent=400, memory_mb=1024, largest=Needs(400, 1024))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with Database(f"sqlite:///{tmp_path}/gateway.db") as database, database.engine.begin() as opened:
        yield opened
        check_listings(opened)


def submit(connection: Connection, job_id: str, *places: Place, **values: Any) -> Job:
    fields = {"node_id": "", "state": JobState.PENDING} | values
    return queue.submit(connection, job_values(job_id, **fields), [], b"", places)


def waiting(connection: Connection, job_id: str, **values: Any) -> Job:
    return submit(connection, job_id, **values)


def names(id_: int) -> str:
    return f"{id_:08x}-0000-4000-8000-000000000000"


A, B, C, D = (names(number) for number in range(4))


def test_a_new_job_goes_to_a_node_with_room(connection: Connection) -> None:
    first = submit(connection, A, Place("n", SMALL))
    assert (first.state, first.node_id) == (JobState.INITIALIZING, "n")
    assert submit(connection, B, Place("n", SMALL)).state is JobState.INITIALIZING
    assert submit(connection, C, Place("n", SMALL)).state is JobState.PENDING
    assert queue.load(connection, "n") == Load(2, 200, 1024)
    assert queue.line(connection, queries.find(connection, C)) == Line(1, 1)


def test_nobody_overtakes_within_a_priority(connection: Connection) -> None:
    submit(connection, A, Place("n", SMALL), need_memory_mb=600)
    assert submit(connection, B, Place("n", SMALL), need_memory_mb=600).state is JobState.PENDING
    assert submit(connection, C, Place("n", SMALL), need_memory_mb=1).state is JobState.PENDING
    assert submit(connection, D, Place("n", SMALL), need_memory_mb=1, rank=-1).state is JobState.INITIALIZING
    assert queue.claim(connection, Place("n", SMALL)) is None
    queries.end(connection, D, JobState.FAILED, Reason.LAUNCH, "", 125, 9)
    assert queue.claim(connection, Place("n", SMALL)) is None  # B has to wait for A, and C for B
    queries.end(connection, A, JobState.FAILED, Reason.LAUNCH, "", 125, 9)
    assert [job.id for job in claims(connection, Place("n", SMALL))] == [B, C]


def claims(connection: Connection, place: Place) -> list[Job]:
    taken = []
    while (job := queue.claim(connection, place)) is not None:
        taken.append(job)
    return taken


def test_the_order_is_priority_then_time_then_submission(connection: Connection) -> None:
    for job_id, rank, queued_ns in ((A, 0, 7), (B, 5, 1), (C, 0, 3), (D, 0, 7)):
        waiting(connection, job_id, rank=rank, queued_ns=queued_ns)
    lines = {job_id: queue.line(connection, queries.find(connection, job_id)).place for job_id in (A, B, C, D)}
    assert lines == {C: 1, A: 2, D: 3, B: 4}
    assert [job.id for job in claims(connection, Place("n", ROOMY))] == [C, A, D, B]


def test_a_node_is_held_up_only_by_those_who_need_it(connection: Connection) -> None:
    waiting(connection, A, wanted_node="away")
    waiting(connection, B, need_memory_mb=4096)  # too big for n, ever
    waiting(connection, C)
    waiting(connection, D, wanted_node="n")
    assert [job.id for job in claims(connection, Place("n", SMALL))] == [C, D]
    assert [job.id for job in claims(connection, Place("big", ROOMY))] == [B]
    assert [job.id for job in claims(connection, Place("away", ROOMY))] == [A]


def test_cores_and_processes_that_only_some_nodes_have(connection: Connection) -> None:
    waiting(connection, A, cpu_cores="4-5")
    waiting(connection, B, max_processes=5000)
    waiting(connection, C, cpu_cores="0,1")
    two = Place("n", SMALL, cores="0-1", max_processes=4096)
    assert [job.id for job in claims(connection, two)] == [C]
    assert [job.id for job in claims(connection, Place("m", ROOMY, cores="0-7", max_processes=9999))] == [A, B]
    waiting(connection, D, cpu_cores="6")
    assert [job.id for job in claims(connection, Place("unknown", ROOMY))] == [D]


def test_uploads_that_only_some_nodes_can_take(connection: Connection) -> None:
    waiting(connection, A, upload_bytes=1 << 30)
    waiting(connection, B, upload_bytes=1 << 20)
    assert [job.id for job in claims(connection, Place("n", SMALL, upload_bytes=1 << 20))] == [B]
    assert [job.id for job in claims(connection, Place("m", ROOMY, upload_bytes=1 << 30))] == [A]
    waiting(connection, C, upload_bytes=1 << 40)
    assert [job.id for job in claims(connection, Place("unknown", ROOMY))] == [C]


def test_a_claimed_job_has_its_node_and_its_limits(connection: Connection) -> None:
    waiting(connection, A, cpu_percent=0, memory_mb=0, need_cpu_percent=0, need_memory_mb=0)
    job = queue.claim(connection, Place("n", SMALL))
    assert job is not None
    assert (job.state, job.node_id, job.cpu_percent, job.memory_mb) == (JobState.INITIALIZING, "n", 400, 1024)
    assert queue.load(connection, "n") == Load(1, 0, 0)
    assert queue.claim(connection, Place("n", SMALL)) is None


def test_a_full_node_takes_nobody(connection: Connection) -> None:
    waiting(connection, A)
    assert queue.claim(connection, Place("n", ROOMY, full=True)) is None
    assert submit(connection, B, Place("n", ROOMY, full=True), rank=-1).state is JobState.PENDING


def test_back_into_line(connection: Connection) -> None:
    submit(connection, A, Place("n", ROOMY))
    assert not queue.give_back(connection, A)  # nobody else is there whose end would make room
    submit(connection, B, Place("n", ROOMY))
    assert queue.give_back(connection, B)
    job = queries.find(connection, B)
    assert (job.state, job.node_id) == (JobState.PENDING, "")
    assert not queue.give_back(connection, B)


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.SCHEDULED])
def test_canceling(connection: Connection, state: JobState) -> None:
    waiting(connection, A, state=state)
    assert queue.cancel(connection, A, 77)
    job = queries.find(connection, A)
    assert (job.state, job.reason, job.exit_code, job.ended_ns) == (JobState.CANCELED, "canceled", -1, 77)
    assert not queue.cancel(connection, A, 78)
    submit(connection, B, Place("n", ROOMY))
    assert not queue.cancel(connection, B, 78)
    assert not queue.anybody(connection)


def test_secrets_stay_until_the_node_has_the_job(connection: Connection) -> None:
    fields = {"node_id": "", "state": JobState.PENDING}
    queue.submit(connection, job_values(A, **fields), [b"file"], b"sealed", [])
    job = queue.claim(connection, Place("n", ROOMY))
    assert job is not None
    assert (queries.sealed_of(connection, A), queries.contents_of(connection, A)) == (b"sealed", [b"file"])
    queries.acknowledge(connection, [A])
    assert (queries.sealed_of(connection, A), queries.contents_of(connection, A)) == (b"", [])


def test_random_queues_are_served_in_order(connection: Connection) -> None:
    """Against the plain definition: sort those who wait, take the first that could ever run there, if it fits."""
    chance = random.Random(7)
    place = Place("n", Capacity(jobs=4, cpu_percent=800, memory_mb=2048, largest=Needs(400, 2048)))
    running: list[Job] = []
    line: list[Job] = []
    for number in range(400):
        fields: dict[str, Any] = {
            "need_memory_mb": chance.choice([128, 512, 2048, 4096]),
            "rank": chance.randrange(-2, 3),
            "queued_ns": number,
            "wanted_node": chance.choice(["", "n", "m"]),
        }
        job = submit(connection, names(number), *([place] if fields["need_memory_mb"] <= 2048 else []), **fields)
        if job.state is JobState.PENDING:
            line.append(job)
        else:
            ahead = [other for other in line if fits(other) and other.rank <= job.rank]
            assert not ahead, (job, ahead)
            running.append(job)
        if running and chance.random() < 0.6:
            ended = running.pop(chance.randrange(len(running)))
            queries.end(connection, ended.id, JobState.FAILED, Reason.LAUNCH, "", 125, 9)
        for claimed in claims(connection, place):
            expected = min((one for one in line if fits(one)), key=lambda one: (one.rank, one.queued_ns, one.sequence))
            assert claimed.id == expected.id
            line.remove(expected)
            running.append(claimed)
        assert len(running) <= 4
        assert sum(one.need_memory_mb for one in running) <= 2048
    assert len(line) > 100


def fits(job: Job) -> bool:
    return job.wanted_node in ("", "n") and job.need_memory_mb <= 2048


def test_the_work_of_a_claim_does_not_grow_with_the_queue(connection: Connection) -> None:
    """In steps of SQLite's virtual machine, which do not depend on the machine's load."""
    few = _steps_of_a_claim(connection, range(10))
    many = _steps_of_a_claim(connection, range(10, 5000))
    assert many < 2 * few, (few, many)


def _steps_of_a_claim(connection: Connection, numbers: range) -> int:
    for number in numbers:
        waiting(connection, names(number), queued_ns=number, wanted_node="" if number % 2 else "away")
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(count, 1)
    try:
        assert queue.claim(connection, Place("n", ROOMY)) is not None
    finally:
        driver.set_progress_handler(None, 1)
    return steps
