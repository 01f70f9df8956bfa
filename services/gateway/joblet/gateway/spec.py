"""From a request to what is stored and what the executor gets: defaults applied, nothing decided twice.

`prepare` turns a RunJobReq into a Submission (0 or unset = the configured default), `check_fit` compares it with what
a node has, `new_job` makes the row, `executor_spec` turns a stored job into the executor's JobSpec, for the first
attempt and for every later one. Memory is in MB (2^20 bytes) as in the public API until it reaches the executor, which
counts bytes.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2
from joblet.common import tree
from joblet.common.config import JobletConfig
from joblet.common.errors import InvalidArgument
from joblet.common.states import JobState
from joblet.common.units import MIB
from joblet.gateway import placement, retry, schedule, validation
from joblet.gateway.placement import Capacity, Needs, UploadRoom
from joblet.gateway.store.model import Attempt, Job, Node, Upload

WORK_DIR = "/work"
FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid request with every default applied. `secrets` and `contents` are never part of the job's row."""

    request_id: str | None
    request_digest: str
    name: str
    command: str
    args: tuple[str, ...]
    cpu_percent: int
    cpu_cores: str
    memory_mb: int
    io_bytes_per_second: int
    max_processes: int
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    network: str
    work_dir: str
    uploads: tuple[Upload, ...]
    contents: tuple[bytes, ...]
    outputs: tuple[str, ...]
    timeout_seconds: int
    labels: Mapping[str, str]
    node_id: str
    priority: int
    due_ns: int  # 0: at once
    max_retries: int
    backoff_seconds: int
    no_retry_codes: tuple[int, ...]


def prepare(request: job_pb2.RunJobReq, defaults: JobletConfig, now_ns: int) -> Submission:
    """Raises InvalidArgument or Unimplemented, see `joblet.gateway.validation`."""
    validation.check_run_job(request)
    return Submission(
        request_id=request.requestId or None,
        request_digest=digest(request) if request.requestId else "",
        name=request.name,
        command=request.command,
        args=tuple(request.args),
        cpu_percent=request.maxCPU or defaults.default_cpu_limit,
        cpu_cores=request.cpuCores,
        memory_mb=request.maxMemory or defaults.default_memory_limit,
        io_bytes_per_second=request.maxIOBPS or defaults.default_io_limit,
        max_processes=request.maxProcesses or defaults.max_processes,
        environment=dict(request.environment),
        secrets=dict(request.secretEnvironment),
        network=request.network or defaults.default_network,
        work_dir=request.workDir or WORK_DIR,
        uploads=tuple(_upload(upload) for upload in request.uploads),
        contents=tuple(upload.content for upload in request.uploads),
        outputs=tuple(request.outputs),
        timeout_seconds=timeout_seconds(request.timeoutSeconds, defaults.job_timeout_seconds),
        labels=dict(request.labels),
        node_id=request.nodeId,
        priority=request.priority,
        due_ns=schedule.parse(request.schedule, now_ns),
        max_retries=request.retry.maxRetries,
        backoff_seconds=request.retry.backoffSeconds or retry.DEFAULT_BACKOFF_SECONDS,
        no_retry_codes=tuple(sorted(set(request.retry.nonRetriableExitCodes))),
    )


def timeout_seconds(wanted: int, maximum: float) -> int:
    """Whole seconds, 0 for none: `wanted`, or the configured maximum runtime, which no job may exceed."""
    limit = math.ceil(maximum)
    if limit and wanted > limit:
        raise InvalidArgument(
            "job creation failed: timeoutSeconds exceeds system limits",
            field="timeoutSeconds",
            hint=f"at most {limit} s (jobTimeout)",
        )
    return wanted or limit


def digest(request: job_pb2.RunJobReq) -> str:
    """What two requests with one request id are compared by. Of secrets only the names count: a digest of a short
    secret would give it away to anyone who can read the store."""
    body = job_pb2.RunJobReq()
    body.CopyFrom(request)
    body.ClearField("requestId")
    for name in request.secretEnvironment:
        body.secretEnvironment[name] = ""
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()


def needs(submission: Submission) -> Needs:
    """What the job takes of its node's capacity. A configured default of 0 is no limit and takes nothing."""
    return Needs(submission.cpu_percent, submission.memory_mb)


def check_fit(submission: Submission, node: Node, offered: Capacity) -> None:
    """Raises InvalidArgument when no amount of waiting would make room for the job on this node."""
    for field, (fits, has) in _fits(submission, node, offered.largest).items():
        if not fits:
            raise InvalidArgument(
                f"job creation failed: {field} exceeds system limits", field=field, hint=f"this node has {has}"
            )
    _check_upload_room(submission.uploads, placement.upload_room(node, offered.largest, submission.memory_mb))


def _check_upload_room(uploads: Sequence[Upload], room: UploadRoom) -> None:
    total = upload_bytes(uploads)
    if total <= room.size:
        return
    largest = max(uploads, key=lambda upload: upload.size)
    raise InvalidArgument(
        f"job creation failed: uploads of {total / MIB:.1f} MB do not fit into the job's /work:"
        f" {tree.quoted(largest.path.encode())} has {largest.size / MIB:.1f} MB",
        field="uploads", hint=f"{room.setting} leaves {room.size // MIB} MB; /work lies in the job's memory",
    )  # fmt: skip


def upload_bytes(uploads: Iterable[Upload]) -> int:
    """What they take in the job's /work, as its node counts it."""
    return sum(upload.size or len(upload.link_target.encode()) for upload in uploads)


def _fits(submission: Submission, node: Node, largest: Needs) -> Mapping[str, tuple[bool, str]]:
    """By field: whether the node has as much as asked for, and how much it has. What its heartbeat does not say is left
    for the node to refuse."""
    processes = node.max_processes or submission.max_processes
    return {
        "maxMemory": (submission.memory_mb <= largest.memory_mb, f"{largest.memory_mb} MB"),
        "maxCPU": (submission.cpu_percent <= largest.cpu_percent, f"{largest.cpu_percent}, 100 for each core"),
        "cpuCores": (placement.has_cores(submission.cpu_cores, node.cores), f"the cores {node.cores}"),
        "maxProcesses": (submission.max_processes <= processes, f"at most {processes} processes"),
    }


def new_job(submission: Submission, job_id: str, now_ns: int) -> dict[str, Any]:
    """The columns of a new row but for its sequence number; the job has no node yet."""
    taken = needs(submission)
    return {
        "id": job_id,
        "request_id": submission.request_id,
        "request_digest": submission.request_digest,
        "node_id": "",
        "state": JobState.SCHEDULED if submission.due_ns else JobState.PENDING,
        "acknowledged": False,
        "reason": "",
        "message": "",
        "exit_code": 0,
        "signal": 0,
        "submitted_ns": now_ns,
        "started_ns": 0,
        "ended_ns": 0,
        "output_bytes": 0,
        "name": submission.name,
        "command": submission.command,
        "args": submission.args,
        "cpu_percent": submission.cpu_percent,
        "cpu_cores": submission.cpu_cores,
        "memory_mb": submission.memory_mb,
        "io_bytes_per_second": submission.io_bytes_per_second,
        "max_processes": submission.max_processes,
        "environment": submission.environment,
        "secret_names": tuple(sorted(submission.secrets)),
        "network": submission.network,
        "work_dir": submission.work_dir,
        "uploads": submission.uploads,
        "outputs": submission.outputs,
        "upload_bytes": upload_bytes(submission.uploads),
        "timeout_seconds": submission.timeout_seconds,
        "labels": submission.labels,
        "not_isolated": (),
        "usage": None,
        "attestation": None,
        "wanted_node": submission.node_id,
        "rank": -submission.priority,
        "queued_ns": now_ns,
        "due_ns": submission.due_ns,
        "need_cpu_percent": taken.cpu_percent,
        "need_memory_mb": taken.memory_mb,
        "max_retries": submission.max_retries,
        "backoff_seconds": submission.backoff_seconds,
        "no_retry_codes": submission.no_retry_codes,
        "retries_left": submission.max_retries,
        "attempt": 1,
        "execution_id": "",
    }


def executor_spec(
    job: Job, secrets: Mapping[str, str], contents: Sequence[bytes], earlier: Iterable[Attempt] = ()
) -> executor_pb2.JobSpec:
    """`contents` are those of `job.uploads`, in their order; `earlier` are attempts that the job's node had."""
    return executor_pb2.JobSpec(
        job_id=job.execution,
        shown_id=job.id,
        attempt=job.attempt if job.max_retries else 0,
        command=job.command,
        args=job.args,
        cpu_percent=job.cpu_percent,
        cpu_cores=job.cpu_cores,
        memory_bytes=job.memory_mb * MIB,
        io_bytes_per_second=job.io_bytes_per_second,
        max_processes=job.max_processes,
        environment=job.environment,
        secret_environment=secrets,
        network=job.network,
        work_dir=job.work_dir,
        uploads=[
            job_pb2.FileUpload(
                path=upload.path,
                content=content,
                mode=upload.mode,
                size=upload.size,
                isDirectory=upload.is_directory,
                digest=upload.digest,
                linkTarget=upload.link_target,
            )
            for upload, content in zip(job.uploads, contents, strict=True)
        ],  # fmt: skip
        timeout_seconds=job.timeout_seconds,
        profile="default",
        request_id=job.request_id or "",
        outputs=job.outputs,
        earlier_attempts=[
            executor_pb2.EarlierAttempt(number=attempt.number, job_id=attempt.execution_id) for attempt in earlier
        ],
    )


def _upload(upload: job_pb2.FileUpload) -> Upload:
    return Upload(
        path=upload.path.rstrip("/"),
        mode=upload.mode or (DIRECTORY_MODE if upload.isDirectory else FILE_MODE),
        size=upload.size if upload.digest else len(upload.content),
        is_directory=upload.isDirectory,
        digest=upload.digest,
        link_target=upload.linkTarget,
    )
