"""Rows of the store as the public API's messages. Secrets are names with a mask, uploads are without content."""

from collections.abc import Iterable

from joblet.api import job_pb2
from joblet.common.states import JobState
from joblet.common.units import NS_PER_SECOND, rfc3339
from joblet.gateway.placement import Line, Why
from joblet.gateway.store.model import Attempt, Job, output_known

MASK = "***"


def status(job: Job) -> job_pb2.GetJobStatusRes:
    """Until the command runs, startTime is the time of submission."""
    message = job_pb2.GetJobStatusRes(
        uuid=job.id,
        name=job.name,
        command=job.command,
        maxCPU=job.cpu_percent,
        cpuCores=job.cpu_cores,
        maxMemory=job.memory_mb,
        maxIOBPS=job.io_bytes_per_second,
        status=job.state.value,
        startTime=rfc3339(job.started_ns or job.submitted_ns),
        endTime=rfc3339(job.ended_ns),
        exitCode=job.exit_code,
        network=job.network,
        workDir=job.work_dir,
        nodeId=job.node_id,
        reason=job.reason,
        message=job.message,
        signal=job.signal,
        timeoutSeconds=job.timeout_seconds,
        requestId=job.request_id or "",
        maxProcesses=job.max_processes,
        priority=job.priority,
        scheduledTime=rfc3339(job.due_ns),
    )
    _add_composites(message, job)
    if job.not_isolated:
        message.notIsolated.extend(job.not_isolated)
    if job.outputs:
        message.outputs.extend(job.outputs)
    for upload in job.uploads:
        message.uploads.add(
            path=upload.path, mode=upload.mode, size=upload.size, isDirectory=upload.is_directory,
            digest=upload.digest, linkTarget=upload.link_target,
        )  # fmt: skip
    if job.usage is not None:
        message.usage.MergeFromString(job.usage)
    if job.attestation is not None:
        message.attestation.MergeFromString(job.attestation)
    return message


def add_waiting(message: job_pb2.GetJobStatusRes, why: Why, line: Line) -> None:
    """To the status of a job that waits for room."""
    message.reason, message.message = why.reason.value, why.message
    message.queuePosition, message.queueLength = line.place, line.length


def remaining_seconds(job: Job, now_ns: int) -> int:
    """Until a running job's timeout, rounded up and at least 1; 0 when it has none or does not run."""
    if job.state is not JobState.RUNNING or not job.timeout_seconds:
        return 0
    return max(1, job.timeout_seconds - (now_ns - job.started_ns) // NS_PER_SECOND)


def add_attempts(message: job_pb2.GetJobStatusRes, job: Job, past: Iterable[Attempt]) -> None:
    """To the status of a job that may be retried: the ended attempts, and the present one once it has a node."""
    message.attempt = job.attempt
    message.retry.maxRetries, message.retry.backoffSeconds = job.max_retries, job.backoff_seconds
    message.retry.nonRetriableExitCodes.extend(job.no_retry_codes)
    for attempt in past:
        message.attempts.append(_attempt(attempt.number, attempt))
    if job.node_id:
        message.attempts.append(_attempt(job.attempt, job))


def _attempt(number: int, attempt: Attempt | Job) -> job_pb2.JobAttempt:
    return job_pb2.JobAttempt(
        number=number,
        status=attempt.state.value,
        startTime=rfc3339(attempt.started_ns),
        endTime=rfc3339(attempt.ended_ns),
        exitCode=attempt.exit_code,
        signal=attempt.signal,
        reason=attempt.reason,
        message=attempt.message,
        nodeId=attempt.node_id,
        outputBytes=attempt.output_bytes if output_known(attempt) else None,
    )


def listed(job: Job) -> job_pb2.Job:
    """One entry of ListJobs. Its maxIOBPS is 32 bits wide; a configured default above that is shown as the largest."""
    message = job_pb2.Job(
        id=job.id,
        name=job.name,
        command=job.command,
        maxCPU=job.cpu_percent,
        cpuCores=job.cpu_cores,
        maxMemory=job.memory_mb,
        maxIOBPS=min(job.io_bytes_per_second, 2**31 - 1),
        status=job.state.value,
        startTime=rfc3339(job.started_ns or job.submitted_ns),
        endTime=rfc3339(job.ended_ns),
        exitCode=job.exit_code,
        nodeId=job.node_id,
        reason=job.reason,
        message=job.message,
        priority=job.priority,
        scheduledTime=rfc3339(job.due_ns),
    )
    _add_composites(message, job)
    return message


def _add_composites(message: job_pb2.GetJobStatusRes | job_pb2.Job, job: Job) -> None:
    """Those that are empty are left alone: an empty map takes as long to give as four plain fields."""
    if job.args:
        message.args.extend(job.args)
    if job.environment:
        message.environment.update(job.environment)
    if job.secret_names:
        message.secret_environment.update(masked(job.secret_names))
    if job.labels:
        message.labels.update(job.labels)


def entry(job: Job) -> bytes:
    """One job as a `Jobs` message of its own. Such messages behind one another are one message with all their jobs:
    so protocol buffers define merging, and ListJobs need not build anything."""
    return job_pb2.Jobs(jobs=[listed(job)]).SerializeToString()


def restated(
    old: bytes, state: JobState, reason: str, message: str, exit_code: int, *, started_ns: int, ended_ns: int
) -> bytes:
    """An entry after a change of state; `started_ns` 0 leaves the time that it shows."""
    page = job_pb2.Jobs.FromString(old)
    job = page.jobs[0]
    job.status = state.value
    job.reason = reason
    job.message = message
    job.exitCode = exit_code
    job.endTime = rfc3339(ended_ns)
    if started_ns:
        job.startTime = rfc3339(started_ns)
    return page.SerializeToString()


def placed(old: bytes, state: JobState, node_id: str, *, cpu_percent: int, memory_mb: int) -> bytes:
    """An entry of a job that has been given to a node, or taken back from it (`node_id` "")."""
    page = job_pb2.Jobs.FromString(old)
    job = page.jobs[0]
    job.status, job.nodeId, job.maxCPU, job.maxMemory = state.value, node_id, cpu_percent, memory_mb
    return page.SerializeToString()


def masked(names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, MASK)
