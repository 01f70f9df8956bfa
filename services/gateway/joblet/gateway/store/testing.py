"""For tests: rows with nothing special about them."""

from typing import Any

from sqlalchemy import Connection

from joblet.api import job_pb2
from joblet.common.states import JobState
from joblet.gateway import views
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store import listing
from joblet.gateway.store.listing import Wanted
from joblet.gateway.store.model import Job
from joblet.gateway.store.nodes import Description

DEFAULTS: dict[str, Any] = {
    "request_id": None, "request_digest": "", "node_id": "n", "state": JobState.INITIALIZING, "acknowledged": False,
    "reason": "", "message": "", "exit_code": 0, "signal": 0, "submitted_ns": 1, "started_ns": 0, "ended_ns": 0,
    "output_bytes": 0, "name": "", "command": "true", "args": (), "cpu_percent": 100, "cpu_cores": "",
    "memory_mb": 512, "io_bytes_per_second": 0, "max_processes": 1024, "environment": {}, "secret_names": (),
    "network": "host", "work_dir": "/work", "uploads": (), "timeout_seconds": 3600, "labels": {}, "not_isolated": (),
    "usage": None, "attestation": None, "wanted_node": "", "rank": 0, "queued_ns": 1, "due_ns": 0,
    "need_cpu_percent": 100, "need_memory_mb": 512, "max_retries": 0, "backoff_seconds": 0, "no_retry_codes": (),
    "retries_left": 0, "attempt": 1, "execution_id": "", "outputs": (), "upload_bytes": 0,
}  # fmt: skip


def job_values(job_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": job_id} | DEFAULTS | fields


def job_row(job_id: str, **fields: Any) -> Job:
    return Job(**({"sequence": 1} | job_values(job_id, **fields)))


def check_listings(connection: Connection) -> None:
    """Every job's entry in ListJobs says what its row says."""
    for sequence, entry in listing.rows(connection, Wanted(), 0, 10_000):
        (row,) = job_queries.page(connection, sequence - 1, 1)
        assert list(job_pb2.Jobs.FromString(entry).jobs) == [views.listed(row)]


def description(node_id: str = "n", **fields: Any) -> Description:
    plain: dict[str, Any] = {
        "node_id": node_id, "executor_address": "h:1", "logstore_address": "h:2", "runtime_address": "h:3",
        "boot_id": "b", "cpu_cores": 2, "memory_bytes": 1 << 30, "labels": {"zone": "a"}, "version": "1",
        "system": "linux", "cores": "0-1", "max_processes": 32768, "work_bytes": 1 << 30,
        "content_bytes": 1 << 40,
    }  # fmt: skip
    return Description(**(plain | fields))
