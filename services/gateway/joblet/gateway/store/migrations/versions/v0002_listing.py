"""Every job's entry in the answer to ListJobs, as bytes, so that ListJobs reads nothing else.

Revision ID: 0002
Revises: 0001
"""

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from joblet.api import job_pb2

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NS_PER_SECOND = 1_000_000_000
_LARGEST_INT32 = 2**31 - 1


def upgrade() -> None:
    op.add_column("jobs", sa.Column("listing", sa.LargeBinary, nullable=False, server_default=sa.text("''")))
    names = (
        "sequence, id, name, command, args, cpu_percent, cpu_cores, memory_mb, io_bytes_per_second, state,"
        " submitted_ns, started_ns, ended_ns, exit_code, environment, secret_names, node_id, reason, message, labels"
    )
    connection = op.get_bind()
    fill = sa.text("UPDATE jobs SET listing = :listing WHERE sequence = :sequence")
    for row in connection.execute(sa.text(f"SELECT {names} FROM jobs")).mappings().all():
        connection.execute(fill, {"listing": _entry(row), "sequence": row["sequence"]})


def _entry(row: Any) -> bytes:
    job = job_pb2.Job(
        id=row["id"],
        name=row["name"],
        command=row["command"],
        args=json.loads(row["args"]),
        maxCPU=row["cpu_percent"],
        cpuCores=row["cpu_cores"],
        maxMemory=row["memory_mb"],
        maxIOBPS=min(row["io_bytes_per_second"], _LARGEST_INT32),
        status=row["state"],
        startTime=_time(row["started_ns"] or row["submitted_ns"]),
        endTime=_time(row["ended_ns"]),
        exitCode=row["exit_code"],
        environment=json.loads(row["environment"]),
        secret_environment=dict.fromkeys(json.loads(row["secret_names"]), "***"),
        nodeId=row["node_id"],
        reason=row["reason"],
        message=row["message"],
        labels=json.loads(row["labels"]),
    )
    return job_pb2.Jobs(jobs=[job]).SerializeToString()


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns // _NS_PER_SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if ns else ""
