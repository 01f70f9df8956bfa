"""Between the messages of ExecutorService and the values of this package; orders are checked here."""

import posixpath
import stat
from collections.abc import Iterable
from typing import Final

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2
from joblet.common.contents import is_digest
from joblet.common.errors import InvalidArgument, JobletError
from joblet.common.ids import is_job_id
from joblet.common.units import NS_PER_SECOND, parse_cpu_list
from joblet.executor.admission import check_limits
from joblet.executor.cgroup.limits import Limits
from joblet.executor.environment import check_environment, work_dir_of
from joblet.executor.job import Earlier, Event, Network, Order, Outcome, Record, Started, Upload, Usage
from joblet.executor.jobspec import Profile, UploadKind, is_safe_path

_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755
_PROFILES: Final = {profile.name.lower(): profile for profile in Profile}
_LARGEST_TIMEOUT_SECONDS: Final = 100 * 365 * 24 * 3600


def order_from(spec: executor_pb2.JobSpec, default_max_processes: int) -> Order:
    """The checked order. Raises InvalidArgument naming the field."""
    if not is_job_id(spec.job_id):
        raise InvalidArgument(f"invalid job id: {spec.job_id!r}", field="job_id")
    if spec.shown_id and not is_job_id(spec.shown_id):
        raise InvalidArgument(f"invalid job id: {spec.shown_id!r}", field="shown_id")
    _check_command(spec.command, spec.args)
    check_environment(spec.environment, "environment")
    check_environment(spec.secret_environment, "secretEnvironment")
    if not 0 <= spec.timeout_seconds <= _LARGEST_TIMEOUT_SECONDS:
        raise InvalidArgument(f"invalid timeout: {spec.timeout_seconds} s", field="timeoutSeconds")
    limits = Limits(
        cpu_percent=spec.cpu_percent,
        cpu_cores=parse_cpu_list(spec.cpu_cores) if spec.cpu_cores else None,
        memory_bytes=spec.memory_bytes,
        io_bytes_per_second=spec.io_bytes_per_second,
        max_processes=spec.max_processes or default_max_processes,
    )
    check_limits(limits)
    return Order(
        job_id=spec.job_id,
        command=spec.command,
        args=tuple(spec.args),
        limits=limits,
        environment=dict(spec.environment),
        secrets=dict(spec.secret_environment),
        network=_network(spec.network),
        work_dir=work_dir_of(spec.work_dir),
        uploads=tuple(_upload(upload) for upload in spec.uploads),
        timeout_seconds=spec.timeout_seconds,
        profile=_profile(spec.profile),
        request_id=spec.request_id,
        shown_id=spec.shown_id or spec.job_id,
        attempt=spec.attempt,
        outputs=tuple(spec.outputs),
        earlier=tuple(_earlier(attempt) for attempt in spec.earlier_attempts),
    )


def node_job(record: Record) -> executor_pb2.NodeJob:
    return executor_pb2.NodeJob(
        job_id=record.job_id,
        status=record.state,
        started_ns=record.started_ns,
        outcome=None if record.outcome is None else outcome_message(record.outcome),
        not_isolated=record.not_isolated,
    )


def refusal(error: JobletError) -> executor_pb2.Refusal:
    return executor_pb2.Refusal(code=error.code, message=error.message, field=error.field or "", hint=error.hint or "")


def event_message(event: Event) -> executor_pb2.JobEvent:
    message = executor_pb2.JobEvent(sequence=event.sequence, job_id=event.job_id, time_ns=event.time_ns)
    if isinstance(event.body, Outcome):
        _fill_outcome(message.ended, event.body)
    else:
        _fill_started(message.started, event.body)
    return message


def outcome_message(outcome: Outcome) -> executor_pb2.Outcome:
    message = executor_pb2.Outcome()
    _fill_outcome(message, outcome)
    return message


# Messages inside of others are filled in their place: protobuf copies one by encoding and decoding it.
def _fill_outcome(message: executor_pb2.Outcome, outcome: Outcome) -> None:
    message.status = outcome.state
    message.exit_code = outcome.exit_code
    message.signal = outcome.signal
    message.reason = outcome.reason
    message.message = outcome.message
    message.started_ns = outcome.started_ns
    message.ended_ns = outcome.ended_ns
    message.output_bytes = outcome.output_bytes
    _fill_usage(message.usage, outcome.usage)


def _fill_started(message: executor_pb2.JobStarted, started: Started) -> None:
    message.SetInParent()  # also when all that follows is empty
    message.not_isolated.extend(started.not_isolated)
    time = message.attestation.time
    time.seconds, time.nanos = divmod(started.attested_ns, NS_PER_SECOND)
    message.attestation.facts.update(started.facts)


def _fill_usage(message: job_pb2.Usage, usage: Usage) -> None:
    message.SetInParent()
    message.cpuUserSeconds = usage.cpu_user_seconds
    message.cpuSystemSeconds = usage.cpu_system_seconds
    message.peakMemoryBytes = usage.peak_memory_bytes
    message.ioReadBytes = usage.io_read_bytes
    message.ioWriteBytes = usage.io_write_bytes
    message.wallSeconds = usage.wall_seconds
    message.oomKills = usage.oom_kills
    message.voluntaryContextSwitches = usage.voluntary_context_switches
    message.involuntaryContextSwitches = usage.involuntary_context_switches


def _check_command(command: str, args: Iterable[str]) -> None:
    if not command:
        raise InvalidArgument("invalid command: command is empty", field="command")
    if "\0" in command or any("\0" in argument for argument in args):
        raise InvalidArgument("invalid command: it holds a NUL byte", field="command")


def _earlier(attempt: executor_pb2.EarlierAttempt) -> Earlier:
    if not is_job_id(attempt.job_id):
        raise InvalidArgument(f"invalid job id: {attempt.job_id!r}", field="earlier_attempts")
    return Earlier(attempt.number, attempt.job_id)


def _network(name: str) -> Network:
    try:
        return Network(name)
    except ValueError:
        allowed = ", ".join(Network)
        raise InvalidArgument(f"unknown network: {name!r} (this node has: {allowed})", field="network") from None


def _profile(name: str) -> Profile:
    if name and name not in _PROFILES:
        raise InvalidArgument(f"unknown profile: {name!r} (there are: {', '.join(_PROFILES)})", field="profile")
    return _PROFILES[name or "default"]


def _upload(upload: job_pb2.FileUpload) -> Upload:
    kind = _upload_kind(upload)
    path = posixpath.normpath(upload.path) if upload.path.endswith("/") else upload.path
    if "\0" in path or not (is_safe_path(path) or (kind is UploadKind.TREE and path == ".")):
        raise InvalidArgument(f"upload path must stay below the job's directory: {upload.path!r}", field="uploads")
    content = upload.linkTarget.encode() or upload.content
    if upload.content and kind is not UploadKind.FILE:
        raise InvalidArgument(f"an upload has two contents, or is a directory: {upload.path!r}", field="uploads")
    mode = stat.S_IMODE(upload.mode) & 0o777
    directory = kind in (UploadKind.DIRECTORY, UploadKind.TREE)
    return Upload(
        path, mode or (_DIRECTORY_MODE if directory else _FILE_MODE), content, kind, upload.digest,
        upload.size if upload.digest else len(content),
    )  # fmt: skip


def _upload_kind(upload: job_pb2.FileUpload) -> UploadKind:
    if upload.digest:
        if not is_digest(upload.digest):
            raise InvalidArgument(f"not a digest: {upload.digest!r}", field="uploads")
        return UploadKind.TREE if upload.isDirectory else UploadKind.CONTENT
    if upload.linkTarget:
        return UploadKind.LINK
    return UploadKind.DIRECTORY if upload.isDirectory else UploadKind.FILE
