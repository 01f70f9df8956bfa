"""ListJobs: filters, order and pages, against a real store; what is wrong with a request, from the request alone."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Connection

from joblet.api import job_pb2
from joblet.common.errors import InvalidArgument
from joblet.common.states import JobState
from joblet.common.units import NS_PER_SECOND
from joblet.gateway.listing import Listings, filters
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.testing import job_values

MESSAGE_BYTES = 4 * 1024 * 1024
JOBS: list[dict[str, Any]] = [
    {"name": "nightly-1", "labels": {"team": "a", "env": "prod"}, "node_id": "one", "state": JobState.COMPLETED},
    {"name": "nightly-2", "labels": {"team": "b"}, "node_id": "two", "state": JobState.FAILED},
    {"name": "Nightly", "labels": {"team": "a", 'od"d $key': "x%y_"}, "node_id": "one", "state": JobState.RUNNING},
    {"name": "", "labels": {}, "node_id": "two", "state": JobState.INITIALIZING},
]


def time(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)


def request(**fields: Any) -> job_pb2.EmptyRequest:
    return job_pb2.EmptyRequest(**fields)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """The jobs above, submitted at 0 s, 10 s, 20 s and 30 s; their ids begin with 0, 1, 2 and 3."""
    with Database(f"sqlite:///{tmp_path}/gateway.db") as opened:
        for number, fields in enumerate(JOBS):
            add(opened, job_id(number), submitted_ns=number * 10 * NS_PER_SECOND, **fields)
        yield opened


def job_id(number: int) -> str:
    return f"{number:x}0000000-0000-4000-8000-000000000000"


def _remove(connection: Connection, name: str) -> None:
    connection.exec_driver_sql("DELETE FROM jobs WHERE id = ?", (name,))


def add(database: Database, identity: str, **fields: Any) -> None:
    asyncio.run(database.write(job_queries.insert_job, job_values(identity, **fields), [], b""))


def page(database: Database, wanted: job_pb2.EmptyRequest) -> job_pb2.Jobs:
    return job_pb2.Jobs.FromString(asyncio.run(Listings(database, MESSAGE_BYTES).page(wanted)))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, "0123"),
        ({"newestFirst": True}, "3210"),
        ({"statuses": ["FAILED", "RUNNING"]}, "12"),
        ({"statuses": ["CANCELED"]}, ""),
        ({"labels": {"team": "a"}}, "02"),
        ({"labels": {"team": "a", "env": "prod"}}, "0"),
        ({"labels": {'od"d $key': "x%y_"}}, "2"),
        ({"labels": {"team": "A"}}, ""),
        ({"nodeId": "two", "newestFirst": True}, "31"),
        ({"name": "nightly-?"}, "01"),
        ({"name": "[Nn]ightly*"}, "012"),
        ({"name": "nightly"}, ""),
        ({"name": "n%"}, ""),
        ({"since": time(10)}, "123"),
        ({"since": time(10), "until": time(30)}, "12"),
        ({"until": time(0)}, ""),
        ({"idPrefix": "2"}, "2"),
        ({"idPrefix": "20000000-0"}, "2"),
        ({"idPrefix": "f"}, ""),
        ({"statuses": ["RUNNING"], "labels": {"team": "a"}, "nodeId": "one", "since": time(1)}, "2"),
    ],
)
def test_filters(database: Database, fields: dict[str, Any], found: str) -> None:
    assert [job.id[0] for job in page(database, request(**fields)).jobs] == list(found)
    assert page(database, request(**fields)).nextPageToken == ""


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"statuses": ["running"]}, "invalid statuses: expected one of SCHEDULED, PENDING"),
        ({"labels": {"": "x"}}, "a label has no name"),
        ({"labels": {str(number): "" for number in range(65)}}, "invalid labels: 65 of them, more than 64"),
        ({"name": "x" * 256}, "invalid name: longer than 255 bytes"),
        ({"idPrefix": "A"}, "invalid idPrefix"),
        ({"idPrefix": "0" * 37}, "invalid idPrefix"),
        ({"pageToken": "12", "newestFirst": True}, "invalid pageToken"),
        ({"pageToken": "-12"}, "invalid pageToken"),
        ({"pageToken": "--12", "newestFirst": True}, "invalid pageToken"),
        ({"since": time(10), "until": time(10)}, "since must be before until"),
        ({"pageSize": -1}, "pageSize must not be negative: -1"),
    ],
)
def test_what_is_refused(database: Database, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        page(database, request(**fields))


def test_a_filter_of_a_newer_client_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="EmptyRequest has a field number 99"):
        filters(job_pb2.EmptyRequest.FromString(b"\x9a\x06\x01x"))


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_stay_whole_while_jobs_come_and_go(database: Database, newest_first: bool) -> None:
    """Every job that is there all the time is on exactly one page."""
    choice = random.Random(3)
    steady = [f"a{number:07x}-0000-4000-8000-000000000000" for number in range(120)]
    passing = []
    for name in steady:
        add(database, name, labels={"kind": "steady"})
        passing.append(name.replace("a", "b", 1))
        add(database, passing[-1], labels={"kind": "passing"})
    for wanted in ({}, {"labels": {"kind": "steady"}}):
        seen: list[str] = []
        token = ""
        while True:
            answer = page(database, request(pageToken=token, pageSize=7, newestFirst=newest_first, **wanted))
            seen += [job.id for job in answer.jobs if job.id in steady]
            token = answer.nextPageToken
            if not token:
                break
            add(database, f"c{choice.randrange(16**7):07x}-0000-4000-8000-000000000000")
            asyncio.run(database.write(_remove, passing.pop(choice.randrange(len(passing)))))
        assert seen == (steady[::-1] if newest_first else steady)
