"""What a job used and its attestation in the form they have on the wire, so that a status need not make them anew.

Revision ID: 0011
Revises: 0010
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api import job_pb2

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_NS_PER_SECOND = 1_000_000_000


def upgrade() -> None:
    connection = op.get_bind()
    there = sa.text("SELECT sequence, usage, attestation FROM jobs WHERE usage IS NOT NULL OR attestation IS NOT NULL")
    rows = connection.execute(there).all()
    for name in ("usage", "attestation"):
        op.drop_column("jobs", name)
        op.add_column("jobs", sa.Column(name, sa.LargeBinary))
    fill = sa.text("UPDATE jobs SET usage = :usage, attestation = :attestation WHERE sequence = :sequence")
    for sequence, usage, attestation in rows:
        connection.execute(
            fill, {"sequence": sequence, "usage": _usage(usage), "attestation": _attestation(attestation)}
        )


def _usage(stored: str | None) -> bytes | None:
    if stored is None:
        return None
    used: dict[str, Any] = json.loads(stored)
    return job_pb2.Usage(
        cpuUserSeconds=used["cpu_user_seconds"],
        cpuSystemSeconds=used["cpu_system_seconds"],
        peakMemoryBytes=used["peak_memory_bytes"],
        ioReadBytes=used["io_read_bytes"],
        ioWriteBytes=used["io_write_bytes"],
        wallSeconds=used["wall_seconds"],
        oomKills=used["oom_kills"],
        voluntaryContextSwitches=used["voluntary_context_switches"],
        involuntaryContextSwitches=used["involuntary_context_switches"],
    ).SerializeToString()


def _attestation(stored: str | None) -> bytes | None:
    if stored is None:
        return None
    read_back: dict[str, Any] = json.loads(stored)
    seconds, nanos = divmod(read_back["time_ns"], _NS_PER_SECOND)
    time = Timestamp(seconds=seconds, nanos=nanos)
    return job_pb2.Attestation(time=time, facts=read_back["facts"]).SerializeToString()
