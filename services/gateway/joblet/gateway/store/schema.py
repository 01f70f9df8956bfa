"""The tables, for SQLite and PostgreSQL alike. Changes to them are migrations: a test compares both.

Composite values are JSON. `jobs_active` keeps the two questions of every RunJob small: what the jobs of a node take of
it, and which of them it should know. `jobs_waiting` is the queue: for each node that jobs may be bound to (and for "",
any node) those that wait, in their order; `jobs_due` is the schedule.

What goes on as it came is stored as it goes over the wire: `usage` and `attestation`, a node's words on a job. So is
`listing`, a job's entry in the answer to ListJobs (`joblet.gateway.views.entry`): whatever changes what it shows
changes it in the same statement. Ids are compared bytewise, so that a prefix is a range of the primary index.
"""

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)

from joblet.common.states import JobState
from joblet.gateway.store.model import NodeState, Upload

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

Sequence = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in a column of this very type
Id = Text().with_variant(Text(collation="C"), "postgresql")

ACTIVE_STATES = (JobState.INITIALIZING, JobState.RUNNING)


class StateText(TypeDecorator[JobState]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: JobState | None, dialect: Dialect) -> str | None:
        return None if value is None else value.value

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _STATES.__getitem__


class NodeStateText(TypeDecorator[NodeState]):
    impl = Text
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> NodeState | None:
        return None if value is None else NodeState(value)


class Json(TypeDecorator[Any]):
    """JSON text; the empty object and the empty list cost no parsing.

    The processors themselves, not TypeDecorator's hooks, which put two calls around each value.
    """

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return _encode

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _decode


class Texts(Json):
    """A tuple of texts, or of numbers."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _decode_tuple


class Uploads(Json):
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return _encode_uploads

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _decode_uploads


_ENCODER = json.JSONEncoder(separators=(",", ":"))  # json.dumps makes a new one at every call


_STATES = {state.value: state for state in JobState}


def _encode(value: Any) -> str | None:
    if value:
        return _ENCODER.encode(value)
    return None if value is None else "{}" if value == {} else "[]"


def _decode(value: str | None) -> Any:
    if value == "{}":
        return {}
    return None if value is None else json.loads(value)


def _decode_tuple(value: str) -> tuple[Any, ...]:
    return () if value == "[]" else tuple(json.loads(value))


def _encode_uploads(uploads: Iterable[Upload]) -> str | None:
    return _encode([[u.path, u.mode, u.size, u.is_directory, u.digest, u.link_target] for u in uploads])


def _decode_uploads(value: str) -> tuple[Upload, ...]:
    return () if value == "[]" else tuple(Upload(*fields) for fields in json.loads(value))


nodes = Table(
    "nodes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("state", NodeStateText, nullable=False),
    Column("executor_address", Text, nullable=False),
    Column("logstore_address", Text, nullable=False),
    Column("runtime_address", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("cpu_cores", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("labels", Json, nullable=False),
    Column("version", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("registered_ns", BigInteger, nullable=False),
    Column("last_seen_ns", BigInteger, nullable=False),
    Column("lease_until_ns", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False, server_default=text("0")),
    Column("cores", Text, nullable=False, server_default=text("''")),
    Column("max_processes", Integer, nullable=False, server_default=text("0")),
    Column("work_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("content_bytes", BigInteger, nullable=False, server_default=text("0")),
)

jobs = Table(
    "jobs",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("id", Id, nullable=False, unique=True),
    Column("request_id", Text, unique=True),
    Column("request_digest", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("state", StateText, nullable=False),
    Column("acknowledged", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("exit_code", Integer, nullable=False),
    Column("signal", Integer, nullable=False),
    Column("submitted_ns", BigInteger, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger, nullable=False),
    Column("output_bytes", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("args", Texts, nullable=False),
    Column("cpu_percent", Integer, nullable=False),
    Column("cpu_cores", Text, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("io_bytes_per_second", BigInteger, nullable=False),
    Column("max_processes", Integer, nullable=False),
    Column("environment", Json, nullable=False),
    Column("secret_names", Texts, nullable=False),
    Column("network", Text, nullable=False),
    Column("work_dir", Text, nullable=False),
    Column("uploads", Uploads, nullable=False),
    Column("timeout_seconds", BigInteger, nullable=False),
    Column("labels", Json, nullable=False),
    Column("not_isolated", Texts, nullable=False),
    Column("usage", LargeBinary),
    Column("attestation", LargeBinary),
    Column("wanted_node", Text, nullable=False, server_default=text("''")),
    Column("rank", Integer, nullable=False, server_default=text("0")),
    Column("queued_ns", BigInteger, nullable=False, server_default=text("0")),
    Column("due_ns", BigInteger, nullable=False, server_default=text("0")),
    Column("need_cpu_percent", Integer, nullable=False, server_default=text("0")),
    Column("need_memory_mb", Integer, nullable=False, server_default=text("0")),
    Column("max_retries", Integer, nullable=False, server_default=text("0")),
    Column("backoff_seconds", Integer, nullable=False, server_default=text("0")),
    Column("no_retry_codes", Texts, nullable=False, server_default=text("'[]'")),
    Column("retries_left", Integer, nullable=False, server_default=text("0")),
    Column("attempt", Integer, nullable=False, server_default=text("1")),
    Column("execution_id", Text, nullable=False, server_default=text("''")),
    Column("outputs", Texts, nullable=False, server_default=text("'[]'")),
    Column("upload_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("listing", LargeBinary, nullable=False, server_default=text("''")),
    sqlite_autoincrement=True,
)
_active = jobs.c.state.in_([state.value for state in ACTIVE_STATES])
Index(
    "jobs_active", jobs.c.node_id, jobs.c.state, jobs.c.need_cpu_percent, jobs.c.need_memory_mb,
    sqlite_where=_active, postgresql_where=_active,
)  # fmt: skip
_waiting = jobs.c.state == JobState.PENDING.value
Index(
    "jobs_waiting", jobs.c.wanted_node, jobs.c.rank, jobs.c.queued_ns, jobs.c.sequence,
    sqlite_where=_waiting, postgresql_where=_waiting,
)  # fmt: skip
_scheduled = jobs.c.state == JobState.SCHEDULED.value
Index("jobs_due", jobs.c.state, jobs.c.due_ns, sqlite_where=_scheduled, postgresql_where=_scheduled)
_with_end = text("ended_ns > 0")
Index("jobs_ended", jobs.c.ended_ns, sqlite_where=_with_end, postgresql_where=_with_end)
Index("jobs_state", jobs.c.state, jobs.c.queued_ns, jobs.c.rank)

_executed = jobs.c.execution_id != ""
Index("jobs_execution", jobs.c.execution_id, sqlite_where=_executed, postgresql_where=_executed)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("execution_id", Id, nullable=False, unique=True),
    Column("node_id", Text, nullable=False),
    Column("state", StateText, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("exit_code", Integer, nullable=False),
    Column("signal", Integer, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger, nullable=False),
    Column("output_bytes", BigInteger, nullable=False),
)

# The contents of small files that ride along in RunJob, until the node has taken the job: a gateway that is killed
# before that can still hand the job over. Number -1 has the secrets, encrypted (`joblet.gateway.vault`).
payloads = Table(
    "payloads",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

# Deleted jobs that their node has not forgotten yet (`joblet.gateway.forgetting`).
deletions = Table(
    "deletions",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("node_id", Text, nullable=False, index=True),
)
