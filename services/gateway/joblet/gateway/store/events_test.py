"""Events of a node in a real database: each once, in order, whole groups or nothing."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from joblet.common.errors import Internal
from joblet.common.states import JobState, Reason
from joblet.gateway.store import attempts
from joblet.gateway.store import events as queries
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store import nodes as node_queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.events import Applied, Ended, Event, Started
from joblet.gateway.store.model import Job
from joblet.gateway.store.testing import check_listings, description, job_values

STARTED = Started(("network: host",), b"attestation")
USAGE = b"usage"


def ended(state: JobState = JobState.COMPLETED, exit_code: int = 0, **fields: Any) -> Ended:
    plain: dict[str, Any] = {
        "signal": 0, "reason": "exit", "message": "", "started_ns": 100, "ended_ns": 200, "usage": USAGE,
        "output_bytes": 7,
    }  # fmt: skip
    return Ended(state=state, exit_code=exit_code, **(plain | fields))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with Database(f"sqlite:///{tmp_path}/gateway.db") as database, database.engine.begin() as opened:
        node_queries.heartbeat(opened, description(), 1, 1)
        yield opened
        check_listings(opened)


def insert(connection: Connection, job_id: str, **values: Any) -> None:
    job_queries.insert_job(connection, job_values(job_id, **values), [])


def job(connection: Connection, job_id: str) -> Job:
    return job_queries.by_ids(connection, [job_id])[job_id]


def test_a_life(connection: Connection) -> None:
    insert(connection, "a", submitted_ns=40)
    applied = queries.apply(connection, "n", [Event(1, "a", 100, STARTED)])
    assert applied == Applied(1, changed=["a"], started=[60])
    running = job(connection, "a")
    assert (running.state, running.started_ns, running.acknowledged) == (JobState.RUNNING, 100, True)
    assert (running.not_isolated, running.attestation) == (STARTED.not_isolated, STARTED.attestation)
    applied = queries.apply(connection, "n", [Event(2, "a", 200, ended(JobState.FAILED, 3))])
    assert applied == Applied(2, changed=["a"], ended=["a"], forget=["a"])
    over = job(connection, "a")
    assert (over.state, over.exit_code, over.reason, over.ended_ns) == (JobState.FAILED, 3, "exit", 200)
    assert (over.usage, over.output_bytes, over.attestation) == (USAGE, 7, STARTED.attestation)
    assert node_queries.last_sequence(connection, "n") == 2


@pytest.mark.parametrize("event", [STARTED, ended()])
def test_a_first_event_says_that_the_node_has_secrets_and_files(connection: Connection, event: Started | Ended) -> None:
    for job_id in ("a", "b"):
        job_queries.insert_job(connection, job_values(job_id), [b"file"], b"sealed")
    queries.apply(connection, "n", [Event(1, "a", 100, event)])
    assert (job_queries.contents_of(connection, "a"), job_queries.sealed_of(connection, "a")) == ([], b"")
    assert (job_queries.contents_of(connection, "b"), job_queries.sealed_of(connection, "b")) == ([b"file"], b"sealed")


def test_whether_jobs_wait_for_room_is_told_with_what_has_changed(connection: Connection) -> None:
    insert(connection, "a")
    insert(connection, "b", state=JobState.PENDING, node_id="")
    assert queries.apply(connection, "n", [Event(1, "a", 100, STARTED)]).crowd
    job_queries.end(connection, "b", JobState.CANCELED, Reason.CANCELED, "", -1, 150)
    assert not queries.apply(connection, "n", [Event(2, "a", 200, ended())]).crowd


def test_an_end_without_a_start(connection: Connection) -> None:
    insert(connection, "a")
    queries.apply(connection, "n", [Event(1, "a", 200, ended(JobState.FAILED, 127, reason="not-found", started_ns=0))])
    assert (job(connection, "a").state, job(connection, "a").started_ns) == (JobState.FAILED, 0)


def test_start_and_end_in_one_group(connection: Connection) -> None:
    insert(connection, "a")
    applied = queries.apply(connection, "n", [Event(1, "a", 100, STARTED), Event(2, "a", 200, ended(started_ns=0))])
    assert (applied.changed, applied.ended) == (["a", "a"], ["a"])
    over = job(connection, "a")
    assert (over.state, over.started_ns, over.acknowledged) == (JobState.COMPLETED, 100, True)
    assert (over.not_isolated, over.attestation, over.usage) == (STARTED.not_isolated, STARTED.attestation, USAGE)


def test_start_and_end_in_one_group_of_an_attempt_that_another_follows(connection: Connection) -> None:
    insert(connection, "a", max_retries=1, retries_left=1)
    group = [Event(1, "a", 100, STARTED), Event(2, "a", 200, ended(JobState.FAILED, 3, started_ns=0))]
    applied = queries.apply(connection, "n", group)
    assert (applied.changed, applied.started, applied.retried) == (
        ["a"],
        [100 - job(connection, "a").submitted_ns],
        ["a"],
    )
    waiting = job(connection, "a")
    assert (waiting.state, waiting.attestation, waiting.not_isolated) == (JobState.SCHEDULED, None, ())
    (past,) = attempts.past(connection, "a")
    assert (past.state, past.exit_code, past.started_ns, past.ended_ns) == (JobState.FAILED, 3, 100, 200)


def test_what_was_applied_is_skipped(connection: Connection) -> None:
    insert(connection, "a")
    both = [Event(1, "a", 100, STARTED), Event(2, "a", 200, ended())]
    queries.apply(connection, "n", both)
    before = job(connection, "a")
    assert queries.apply(connection, "n", both) == Applied(2)
    assert job(connection, "a") == before


def test_a_gap_raises(connection: Connection) -> None:
    insert(connection, "a")
    queries.apply(connection, "n", [Event(1, "a", 100, STARTED)])
    with pytest.raises(Internal, match="event 3 of node n follows event 1"):
        queries.apply(connection, "n", [Event(3, "a", 200, ended())])


def test_a_new_store_takes_the_first_event_there_is(connection: Connection) -> None:
    insert(connection, "a")
    assert queries.apply(connection, "n", [Event(41, "a", 100, STARTED)]).last_sequence == 41


def test_events_in_any_groups_give_the_same(tmp_path: Path) -> None:
    choice = random.Random(7)
    events = []
    for number in range(60):
        name = f"j{number // 2}"
        events.append(Event(number + 1, name, 100 + number, STARTED if number % 2 == 0 else ended(exit_code=number)))
    results = []
    for run in range(4):
        with Database(f"sqlite:///{tmp_path}/{run}.db") as database, database.engine.begin() as connection:
            node_queries.heartbeat(connection, description(), 1, 1)
            for number in range(30):
                insert(connection, f"j{number}")
            position = 0
            while position < len(events):
                back = choice.randint(0, min(5, position))  # a stream that begins again a little earlier
                size = choice.randint(1, 12)
                queries.apply(connection, "n", events[position - back : position + size])
                position += size
            results.append(job_queries.page(connection, 0, 100))
            check_listings(connection)
    assert all(result == results[0] for result in results)
    assert all(job.state is JobState.COMPLETED for job in results[0])


def test_a_job_nobody_knows(connection: Connection) -> None:
    applied = queries.apply(connection, "n", [Event(1, "x", 1, STARTED), Event(2, "x", 2, ended())])
    assert (applied.unknown, applied.last_sequence) == (["x", "x"], 2)


def test_a_job_that_was_stopped_before_its_node_had_it(connection: Connection) -> None:
    insert(connection, "a")
    job_queries.end(connection, "a", JobState.STOPPED, Reason.STOPPED, "", -1, 50)
    before = job(connection, "a")
    applied = queries.apply(connection, "n", [Event(1, "a", 100, STARTED)])
    assert (applied.orphans, applied.changed) == (["a"], [])
    applied = queries.apply(connection, "n", [Event(2, "a", 200, ended(JobState.STOPPED, -1))])
    assert (applied.forget, applied.ended, applied.changed) == (["a"], [], [])
    assert job(connection, "a") == before


def test_a_node_that_was_lost_and_found(connection: Connection) -> None:
    for name in "ab":
        insert(connection, name, state=JobState.RUNNING, started_ns=100)
    assert node_queries.mark_lost(connection, "n", 10) == ["a", "b"]
    lost = job(connection, "a")
    assert (lost.state, lost.reason, lost.exit_code) == (JobState.FAILED, "node-lost", -1)
    assert lost.message == "node n was last heard of at 1970-01-01T00:00:00Z"
    queries.settle(connection, "n", None, [], [], [("a", JobState.RUNNING)], [], 20)
    found = job(connection, "a")
    assert (found.state, found.reason, found.message, found.ended_ns, found.exit_code) == (
        JobState.RUNNING,
        "",
        "",
        0,
        0,
    )
    assert found.started_ns == 100
    queries.apply(connection, "n", [Event(1, "b", 200, ended(exit_code=0))])
    assert (job(connection, "b").state, job(connection, "b").exit_code) == (JobState.COMPLETED, 0)


def test_a_lease_that_was_renewed_meanwhile(connection: Connection) -> None:
    insert(connection, "a")
    node_queries.extend_lease(connection, "n", 10, 100)
    assert node_queries.mark_lost(connection, "n", 50) == []
    assert job(connection, "a").state is JobState.INITIALIZING


def test_settling(connection: Connection) -> None:
    for name in "abc":
        insert(connection, name)
    adopted = [Event(0, "c", 100, STARTED), Event(0, "c", 200, ended())]
    queries.settle(connection, "n", 9, ["a"], [("b", "gone")], [], adopted, 300)
    assert job(connection, "a").acknowledged
    assert (job(connection, "b").state, job(connection, "b").message) == (JobState.FAILED, "gone")
    assert (job(connection, "c").state, job(connection, "c").ended_ns) == (JobState.COMPLETED, 200)
    assert node_queries.last_sequence(connection, "n") == 9


def test_heartbeats(connection: Connection) -> None:
    node = node_queries.heartbeat(connection, description(executor_address="new:1"), 50, 100)
    assert node == node_queries.get(connection, "n")
    assert (node.registered_ns, node.last_seen_ns, node.lease_until_ns) == (1, 50, 150)
    assert (node.executor_address, node.labels) == ("new:1", {"zone": "a"})
    with pytest.raises(Internal, match="node unknown is not in the store"):
        node_queries.last_sequence(connection, "unknown")


def test_events_of_attempts_that_others_followed(connection: Connection) -> None:
    insert(connection, "a", max_retries=2, retries_left=2, state=JobState.RUNNING, node_id="n")
    applied = queries.apply(connection, "n", [Event(1, "a", 200, ended(JobState.FAILED, 3))])
    assert applied == Applied(1, retried=["a"], forget=["a"])
    second = job(connection, "a")
    assert (second.state, second.attempt, second.retries_left, second.node_id) == (JobState.SCHEDULED, 2, 1, "")
    assert second.execution not in ("", "a")
    late = [Event(2, "a", 300, STARTED), Event(3, "a", 301, ended(JobState.FAILED, 4))]
    applied = queries.apply(connection, "n", late)
    assert applied == Applied(3, orphans=["a"], forget=["a"])
    assert job(connection, "a") == second
    assert attempts.job_of(connection, "a") == ("a", False)
    assert attempts.job_of(connection, second.execution) == ("a", True)
    assert attempts.job_of(connection, "b") is None
    (first,) = attempts.past(connection, "a")
    assert (first.number, first.execution_id, first.node_id, first.exit_code, first.ended_ns) == (1, "a", "n", 3, 200)
