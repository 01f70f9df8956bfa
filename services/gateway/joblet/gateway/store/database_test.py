"""The database itself: migrations, indices, files, and what kill -9 leaves of a transaction."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Connection, create_engine, text

from joblet.api import job_pb2
from joblet.common.errors import ConfigError, Unavailable
from joblet.common.states import JobState
from joblet.gateway import views
from joblet.gateway.store import events, listing, migrations, queue
from joblet.gateway.store import jobs as queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.schema import metadata
from joblet.gateway.store.statement import Statement
from joblet.gateway.store.testing import check_listings, job_values

TIMEOUT_SECONDS = 240.0

WRITER = """
import asyncio, sys
from joblet.gateway.store import jobs as queries
from joblet.gateway.store import listing
from joblet.gateway.store.database import Database
from joblet.gateway.store.testing import job_values

database = Database(sys.argv[1])
asyncio.run(database.write(queries.insert_job, job_values("committed"), [b"content"]))

def half(connection):
    queries.insert_job(connection, job_values("half"), [b"content"])
    for number in range(5000):  # more than SQLite's page cache holds: parts of it are in the files by now
        queries._INSERT_PAYLOAD.run(connection, {"job_id": "half", "number": number + 1, "content": bytes(4096)})
    print("in the middle", flush=True)
    sys.stdin.read()

asyncio.run(database.write(half))
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/gateway.db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


def test_migrations_make_the_schema(url: str, database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_listings_and_needs_are_made_for_the_jobs_there_are(url: str) -> None:
    old = job_values(
        "a", args='["x"]', environment='{"A":"1"}', secret_names='["T"]', labels='{"k":"v"}', uploads="[]",
        not_isolated="[]", state="COMPLETED", submitted_ns=7, ended_ns=10**9,
    )  # fmt: skip
    with _at_revision(url, "0001") as connection:
        first = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(jobs)") if row[1] != "sequence"]
        marks = ", ".join("?" * len(first))
        values = tuple(old[name] for name in first)
        connection.exec_driver_sql(f"INSERT INTO jobs ({', '.join(first)}) VALUES ({marks})", values)
    with Database(url) as upgraded:
        asyncio.run(upgraded.read(check_listings))
        (job,) = asyncio.run(upgraded.read(queries.page, 0, 10))
        assert (job.need_cpu_percent, job.need_memory_mb, job.queued_ns, job.wanted_node) == (100, 512, 7, "")


def test_what_nodes_said_of_their_jobs_is_shown_as_before(url: str) -> None:
    used = {
        "cpu_user_seconds": 0.1, "cpu_system_seconds": 0.2, "peak_memory_bytes": 3, "io_read_bytes": 4,
        "io_write_bytes": 5, "wall_seconds": 0.6, "oom_kills": 7, "voluntary_context_switches": 8,
        "involuntary_context_switches": 9,
    }  # fmt: skip
    facts = {"CapEff": "0", "ns.pid": "5"}
    read_back = json.dumps({"time_ns": 3 * 10**9 + 4, "facts": facts})
    rows = {"a": (json.dumps(used), read_back), "b": (json.dumps(used), None), "c": (None, None)}
    with _at_revision(url, "0010") as connection:
        for job_id, (usage, attestation) in rows.items():
            values = job_values(
                job_id, usage=usage, attestation=attestation, state="COMPLETED",
                **dict.fromkeys(("args", "secret_names", "uploads", "not_isolated", "no_retry_codes", "outputs"), "[]"),
                **dict.fromkeys(("environment", "labels"), "{}"),
            )  # fmt: skip
            names = ", ".join(values)
            marks = ", ".join("?" * len(values))
            connection.exec_driver_sql(f"INSERT INTO jobs ({names}) VALUES ({marks})", tuple(values.values()))
    with Database(url) as upgraded:
        a, b, c = (views.status(job) for job in asyncio.run(upgraded.read(queries.page, 0, 10)))
    assert a.usage == b.usage == job_pb2.Usage(
        cpuUserSeconds=0.1, cpuSystemSeconds=0.2, peakMemoryBytes=3, ioReadBytes=4, ioWriteBytes=5, wallSeconds=0.6,
        oomKills=7, voluntaryContextSwitches=8, involuntaryContextSwitches=9,
    )  # fmt: skip
    assert a.attestation == job_pb2.Attestation(time=Timestamp(seconds=3, nanos=4), facts=facts)
    assert not any((b.HasField("attestation"), c.HasField("attestation"), c.HasField("usage")))


@contextmanager
def _at_revision(url: str, revision: str) -> Iterator[Connection]:
    """A database as an earlier version left it."""
    config = Config()
    config.set_main_option("script_location", str(migrations.FOLDER))
    Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    engine = create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        yield connection
    engine.dispose()


def test_opening_again_changes_nothing(url: str) -> None:
    with Database(url) as first:
        asyncio.run(first.write(queries.insert_job, job_values("a"), []))
    with Database(url) as second:
        assert [job.id for job in asyncio.run(second.read(queries.page, 0, 10))] == ["a"]


def test_a_newer_database_is_refused(url: str) -> None:
    with Database(url) as database, database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="was written by another version"):
        Database(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://db/joblet", "postgresql is not available yet, only sqlite is"),
        ("sqlite://", "expected"),
        ("sqlite:///:memory:", "expected"),
        ("sqlite:///x.db?mode=ro", "expected"),
        ("nonsense", "Could not parse"),
    ],
)
def test_other_databases_are_refused_by_name(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Database(url)


def test_only_the_owner_can_read_it(tmp_path: Path, database: Database) -> None:
    assert stat.S_IMODE((tmp_path / "state/gateway.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (queue._LOAD, "COVERING INDEX jobs_active"),
        (queue._FIRST, "INDEX jobs_waiting (wanted_node=? AND (rank,queued_ns)>(?,?))"),
        (queue._FIRST_DUE, "COVERING INDEX jobs_due (state=?)"),
        (queue._DUE, "INDEX jobs_due (state=? AND due_ns<?)"),
        (queue._ANY, "COVERING INDEX jobs_state (state=?)"),
        (events._BEFORE, "COVERING INDEX jobs_state (state=?)"),
        (queue._PLACE, "COVERING INDEX jobs_state (state=?)"),
        (queue._LENGTH, "COVERING INDEX jobs_state (state=?)"),
        (queries._BY_ID, "sqlite_autoindex_jobs_1"),
        (queries._BY_PREFIX, "sqlite_autoindex_jobs_1"),
        (queries._BY_REQUEST, "sqlite_autoindex_jobs_2"),
        (queries._ACTIVE_OF, "INDEX jobs_active"),
        (queries._STATE_COUNTS, "COVERING INDEX jobs_state"),
        (queries._AFTER, "INTEGER PRIMARY KEY"),
        (listing._AFTER, "INTEGER PRIMARY KEY"),
        (listing._BEFORE, "INTEGER PRIMARY KEY"),
    ],
)
def test_every_question_has_its_index(database: Database, statement: Statement, index: str) -> None:
    parameters = {
        "job_id": "a",
        "low": "a",
        "high": "b",
        "wanted": "r",
        "node": "n",
        "after": 0,
        "cursor": 0,
        "count": 1,
    }
    sql, names = statement.text(database.engine.dialect)
    with database.engine.connect() as connection:
        values = tuple(parameters.get(name, 11) for name in names)
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all()
    assert any(index in str(row) for row in plan), plan


def test_kill_in_the_middle_of_a_transaction(url: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = tmp_path / "stderr"  # a file: nothing that is printed there has to be read in time
    with (
        said.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", WRITER, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment,
        ) as child,
    ):  # fmt: skip
        try:
            assert child.stdout is not None
            first = child.stdout.readline()
            code = None if first else child.wait(TIMEOUT_SECONDS)  # stdout has ended, and so does the child
        finally:
            child.kill()
            child.wait(TIMEOUT_SECONDS)
    assert first == b"in the middle\n", f"the writer ended with {code}, or printed something else: {said.read_text()}"
    with Database(url) as database:
        assert [job.id for job in asyncio.run(database.read(queries.page, 0, 10))] == ["committed"]
        assert asyncio.run(database.read(queries.contents_of, "committed")) == [b"content"]
        assert asyncio.run(database.read(queries.contents_of, "half")) == []
        asyncio.run(database.write(queries.insert_job, job_values("half"), []))


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    def half(connection: object) -> None:
        queries.insert_job(connection, job_values("half"), [b"x"])  # type: ignore[arg-type]
        raise RuntimeError("no further")

    with pytest.raises(RuntimeError, match="no further"):
        asyncio.run(database.write(half))
    assert asyncio.run(database.read(queries.page, 0, 10)) == []
    assert asyncio.run(database.read(queries.state_counts)) == {}


def test_another_writer_that_does_not_let_go(url: str, database: Database) -> None:
    asyncio.run(database.read(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout=1")))
    other = create_engine(url)
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="^the gateway's store failed: database is locked$"):
            asyncio.run(database.write(queries.insert_job, job_values("a", command="secret"), []))
        assert asyncio.run(database.read(queries.state_counts)) == {}
    other.dispose()
    asyncio.run(database.write(queries.insert_job, job_values("a"), []))
    assert asyncio.run(database.read(queries.state_counts)) == {JobState.INITIALIZING: 1}
