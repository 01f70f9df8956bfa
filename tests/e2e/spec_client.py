"""A client written with the API reference alone, run as a program of its own: stubs from spec/joblet.proto on its path.

Usage: spec_client.py ADDRESS CA CERT KEY. Goes through the reference's calls on both services, prints one JSON object
per service for the test to look at, and exits 0 when every call answered.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import joblet_pb2 as pb  # type: ignore[import-not-found]  # pants: no-infer-dep
import joblet_pb2_grpc as rpc  # type: ignore[import-not-found]  # pants: no-infer-dep

UNKNOWN = "f47ac10b-58cc-4372-a567-0e02b2c3d479"


def main() -> None:
    """Call everything on both services."""
    address, ca, cert, key = sys.argv[1:]
    credentials = grpc.ssl_channel_credentials(*(Path(name).read_bytes() for name in (ca, key, cert)))
    with grpc.secure_channel(address, credentials) as channel:
        for stub in (rpc.JobletServiceStub(channel), rpc.JobServiceStub(channel)):
            print(json.dumps(exercise(stub)))


def exercise(stub: Any) -> dict[str, Any]:
    """Run, follow, look at, list and stop jobs; what was seen, by name."""
    started = stub.RunJob(
        pb.RunJobReq(command="sh", args=["-c", "echo one; echo two >&2; exit 3"], maxCPU=50), timeout=120
    )
    job_id = started.job.uuid
    output = b"".join(chunk.payload for chunk in stub.GetJobLogs(pb.GetJobLogsReq(uuid=job_id), timeout=120))
    ended = stub.GetJobStatus(pb.GetJobStatusReq(uuid=job_id), timeout=120)
    listed = [job for job in stub.ListJobs(pb.EmptyRequest(), timeout=120).jobs if job.id == job_id]
    sleeping = stub.RunJob(pb.RunJobReq(command="sleep", args=["1000"]), timeout=120).job.uuid
    stopped = stub.StopJob(pb.StopJobReq(uuid=sleeping), timeout=120).job
    return {
        "started": [started.job.status, started.job.maxCPU, started.job.maxMemory],
        "output": output.decode(),
        "ended": [ended.status, ended.exitCode, bool(ended.startTime), bool(ended.endTime), bool(ended.nodeId)],
        "listed": [[job.command, list(job.args), job.status, job.exitCode] for job in listed],
        "stopped": [stopped.status, stopped.exitCode, bool(stopped.endTime)],
        "errors": [
            error_of(lambda: stub.GetJobStatus(pb.GetJobStatusReq(uuid=UNKNOWN), timeout=120)),
            error_of(lambda: stub.RunJob(pb.RunJobReq(), timeout=120)),
            error_of(lambda: stub.StopJob(pb.StopJobReq(uuid=job_id), timeout=120)),
            error_of(lambda: list(stub.GetJobLogs(pb.GetJobLogsReq(uuid=UNKNOWN), timeout=120))),
        ],
    }


def error_of(call: Any) -> list[str]:
    """Code and text of a call that must be refused."""
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details() or ""]
    raise AssertionError("the call was not refused")


if __name__ == "__main__":
    main()
