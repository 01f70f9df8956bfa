"""Jobs in a real database."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from joblet.common.errors import JobNotFound
from joblet.common.states import IllegalTransition, JobState, Reason
from joblet.gateway.store import jobs as queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.model import Job, Node, Upload
from joblet.gateway.store.schema import jobs, nodes
from joblet.gateway.store.testing import check_listings, job_values

A = "aaaa0000-0000-4000-8000-000000000001"
AB = "aaaa0000-0000-4000-8000-000000000002"
B = "bbbb0000-0000-4000-8000-000000000001"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with Database(f"sqlite:///{tmp_path}/gateway.db") as database, database.engine.begin() as opened:
        yield opened
        check_listings(opened)


def insert(connection: Connection, job_id: str, *contents: bytes, **values: Any) -> Job:
    return queries.insert_job(connection, job_values(job_id, **values), contents)


def test_columns_are_the_fields_of_the_models() -> None:
    assert [column.name for column in jobs.columns] == [*Job._fields, "listing"]
    assert [column.name for column in nodes.columns] == [field.name for field in fields(Node)]


def test_everything_comes_back_as_it_was(connection: Connection) -> None:
    inserted = insert(
        connection, A, request_id="r", request_digest="d", args=("a", "é\n"), environment={"A": "1"},
        secret_names=("T",), uploads=(Upload("a/b", 0o644, 3, False), Upload("d", 0o755, 0, True)),
        labels={"k": "v"}, not_isolated=("network: host",), usage=b"u\0", attestation=b"a\xff",
        io_bytes_per_second=2**40, state=JobState.RUNNING, acknowledged=True,
    )  # fmt: skip
    assert queries.find(connection, A) == inserted


def test_finding_by_id_and_prefix(connection: Connection) -> None:
    for job_id in (A, AB, B):
        insert(connection, job_id)
    assert queries.find(connection, A).id == A
    assert queries.find(connection, A.upper()).id == A
    assert queries.find(connection, "bbbb").id == B
    assert queries.find(connection, B[:-1]).id == B
    with pytest.raises(queries.AmbiguousPrefix) as caught:
        queries.find(connection, "aaaa0000")
    assert caught.value.candidates == (A, AB)


@pytest.mark.parametrize("wanted", ["cccc", "aaa", "", "aaaa%", "AAAA_", "g" * 8, A + "0", A[:-1] + "9", "aaaa\n"])
def test_not_found(connection: Connection, wanted: str) -> None:
    insert(connection, A)
    with pytest.raises(JobNotFound) as caught:
        queries.find(connection, wanted)
    assert caught.value.message == f"job not found: {wanted}"


def test_request_ids_are_unique(connection: Connection) -> None:
    insert(connection, A, request_id="r")
    insert(connection, AB)
    insert(connection, B)  # any number without one
    with pytest.raises(queries.RequestTaken):
        insert(connection, "c", request_id="r")
    known = queries.by_request(connection, "r")
    assert known is not None
    assert known.id == A


def test_contents_are_kept_until_the_node_has_the_job(connection: Connection) -> None:
    insert(connection, "a", b"one", b"", b"three")
    insert(connection, "b", b"other")
    assert queries.contents_of(connection, "a") == [b"one", b"", b"three"]
    queries.acknowledge(connection, ["a", "unknown"])
    assert queries.contents_of(connection, "a") == []
    assert queries.contents_of(connection, "b") == [b"other"]
    rows = queries.by_ids(connection, ["a", "b", "unknown"])
    assert {job_id: job.acknowledged for job_id, job in rows.items()} == {"a": True, "b": False}


def test_ending_by_the_gateway(connection: Connection) -> None:
    insert(connection, "a", b"content")
    assert queries.end(connection, "a", JobState.FAILED, Reason.LAUNCH, "no room", 125, 77)
    job = queries.by_ids(connection, ["a"])["a"]
    assert (job.state, job.reason, job.message, job.exit_code, job.ended_ns) == (
        JobState.FAILED, "launch-failed", "no room", 125, 77,
    )  # fmt: skip
    assert queries.contents_of(connection, "a") == []
    assert not queries.end(connection, "a", JobState.STOPPED, Reason.STOPPED, "", -1, 78)
    assert queries.by_ids(connection, ["a"])["a"] == job


def test_only_along_the_table_of_transitions(connection: Connection) -> None:
    insert(connection, "a", state=JobState.RUNNING)
    with pytest.raises(IllegalTransition, match="from RUNNING to CANCELED"):
        queries.end(connection, "a", JobState.CANCELED, Reason.STOPPED, "", -1, 5)


def test_pages_are_in_order_of_submission(connection: Connection) -> None:
    for job_id in "cab":
        insert(connection, job_id)
    first = queries.page(connection, 0, 2)
    assert [job.id for job in first] == ["c", "a"]
    assert [job.id for job in queries.page(connection, first[-1].sequence, 2)] == ["b"]


def test_many_ids_at_once(connection: Connection) -> None:
    for number in range(1203):
        insert(connection, f"j{number}")
    ids = [f"j{number}" for number in range(1203)]
    assert set(queries.by_ids(connection, ids)) == set(ids)
    queries.acknowledge(connection, ids)
    assert all(job.acknowledged for job in queries.active_of(connection, "n"))
    assert queries.state_counts(connection) == {JobState.INITIALIZING: 1203}
