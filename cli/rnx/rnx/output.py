"""What rnx prints about jobs: the specification's lines first and to the letter, further lines after them.

Pure functions from messages to text. Texts of users (commands, names) come from other people's terminals: control
characters in them are shown escaped, so one job is always one line and no text moves the cursor.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api.job_pb2 import FileUpload, GetJobStatusRes, Job, JobAttempt, ListJobOutputsRes, OutputChunk
from joblet.common.units import MIB, NS_PER_SECOND

_HOST_NETWORK = "host"
_NETWORK_NOTES = {_HOST_NETWORK: "host (shared with system)", "none": "none (loopback only)"}


def printable(text: str) -> str:
    """`text` on one line, with everything that is not printable as a backslash escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def command_line(job: Job | GetJobStatusRes) -> str:
    return printable(" ".join([job.command, *job.args]))


def started(job: GetJobStatusRes) -> Iterator[str]:
    yield "Job started:"
    yield f"ID: {job.uuid}"
    yield f"Command: {command_line(job)}"
    yield f"Status: {job.status}"
    yield f"StartTime: {job.startTime}"
    yield f"MaxCPU: {job.maxCPU}"
    yield f"MaxMemory: {job.maxMemory}"
    yield f"Network: {network(job.network)}"
    if job.name:
        yield f"Name: {printable(job.name)}"
    if job.scheduledTime:
        yield f"Scheduled: {job.scheduledTime}"
    if job.reason:
        yield reason(job)


def canceled(job: GetJobStatusRes) -> Iterator[str]:
    yield "Job canceled:"
    yield f"ID: {job.uuid}"
    yield f"Status: {job.status}"
    yield f"EndTime: {job.endTime}"


def stopped(job: GetJobStatusRes) -> Iterator[str]:
    yield "Job stopped successfully:"
    yield f"ID: {job.uuid}"
    yield f"Status: {job.status}"
    yield f"ExitCode: {job.exitCode}"
    yield f"EndTime: {job.endTime}"


def ended(job: GetJobStatusRes) -> Iterator[str]:
    yield "Job ended:"
    yield f"ID: {job.uuid}"
    yield f"Status: {job.status}"
    yield f"ExitCode: {job.exitCode}"
    yield f"EndTime: {job.endTime}"
    if job.reason:
        yield reason(job)


def deleted(job_id: str) -> Iterator[str]:
    yield "Job deleted successfully:"
    yield f"ID: {job_id}"


def reason(job: GetJobStatusRes) -> str:
    return f"Reason: {printable(job.reason)}" + (f" ({printable(job.message)})" if job.message else "")


def status(job: GetJobStatusRes) -> Iterator[str]:
    yield f"Id: {job.uuid}"
    yield f"Command: {command_line(job)}"
    yield f"Status: {job.status}"
    yield f"Started At: {job.startTime}"
    yield f"Ended At: {job.endTime}"
    yield f"MaxCPU: {job.maxCPU}"
    yield f"MaxMemory: {job.maxMemory}"
    yield f"MaxIOBPS: {job.maxIOBPS}"
    yield f"ExitCode: {job.exitCode}"
    if job.name:
        yield f"Name: {printable(job.name)}"
    if job.scheduledTime:
        yield f"Scheduled: {job.scheduledTime}"
    if job.reason:
        yield reason(job)
    if job.signal:
        yield f"Signal: {job.signal}"
    yield f"Network: {network(job.network)}"
    if job.nodeId:
        yield f"NodeId: {printable(job.nodeId)}"


def detail(job: GetJobStatusRes) -> Iterator[str]:
    """The rest of what is known, for `status --detail`."""
    yield f"Priority: {job.priority}"
    if job.remainingSeconds:
        yield f"Remaining: {job.remainingSeconds}s"
    if job.queuePosition:
        yield f"QueuePosition: {job.queuePosition} of {job.queueLength}"
    if job.retry.maxRetries:
        yield f"Retries: {job.retry.maxRetries}, the first after {job.retry.backoffSeconds}s"
    for attempt in job.attempts:
        yield f"Attempt: {_attempt(attempt)}"
    yield f"CPUCores: {job.cpuCores or 'all'}"
    yield f"MaxProcesses: {job.maxProcesses}"
    yield f"Timeout: {f'{job.timeoutSeconds}s' if job.timeoutSeconds else 'none'}"
    yield f"WorkDir: {printable(job.workDir)}"
    yield f"RequestId: {printable(job.requestId)}"
    for name, value in sorted(job.environment.items()):
        yield f"Environment: {printable(name)}={printable(value)}"
    for name, value in sorted(job.secret_environment.items()):
        yield f"SecretEnvironment: {printable(name)}={printable(value)}"
    for upload in job.uploads:
        yield f"Upload: {printable(upload.path)} ({upload.size} bytes, mode {upload.mode:04o})"
    for pattern in job.outputs:
        yield f"Output: {printable(pattern)}"
    if job.HasField("usage"):
        usage = job.usage
        yield f"CPUTime: {usage.cpuUserSeconds:.3f}s user, {usage.cpuSystemSeconds:.3f}s system"
        yield f"WallTime: {usage.wallSeconds:.3f}s"
        yield f"PeakMemory: {usage.peakMemoryBytes / MIB:.1f} MiB"
        yield f"IO: {usage.ioReadBytes} bytes read, {usage.ioWriteBytes} bytes written"
        yield f"OOMKills: {usage.oomKills}"
        switches = usage.voluntaryContextSwitches, usage.involuntaryContextSwitches
        yield f"ContextSwitches: {switches[0]} voluntary, {switches[1]} involuntary"
    for shared in job.notIsolated:
        yield f"NotIsolated: {printable(shared)}"
    if job.HasField("attestation"):
        yield f"Attested: {job.attestation.time.ToJsonString()}"
        for name, value in sorted(job.attestation.facts.items()):
            yield f"  {printable(name)}: {printable(value)}"


def _attempt(attempt: JobAttempt) -> str:
    parts = [f"{attempt.number} {attempt.status}"]
    if attempt.endTime:
        parts.append(f"ExitCode: {attempt.exitCode}")
    if attempt.reason:
        parts.append(f"Reason: {printable(attempt.reason)}")
    times = f"{attempt.startTime or '-'} to {attempt.endTime or '-'}"
    return " ".join([*parts, times, f"NodeId: {printable(attempt.nodeId)}"])


def kept_file(file: FileUpload) -> str:
    """As ls -l shows it, without owner."""
    kind = "d" if file.isDirectory else "l" if file.linkTarget else "-"
    target = f" -> {printable(file.linkTarget)}" if file.linkTarget else ""
    time = Timestamp(seconds=file.mtimeNs // NS_PER_SECOND).ToJsonString()
    return f"{kind}{file.mode:04o} {file.size:>12} {time} {printable(file.path)}{target}"


def fetched(first: OutputChunk) -> FileUpload:
    """An output that was fetched, by its first chunk, as ListJobOutputs has it."""
    return FileUpload(
        path=first.path, mode=first.mode, size=first.size, isDirectory=first.isDirectory, mtimeNs=first.mtimeNs,
        linkTarget=first.linkTarget.decode("utf-8", "backslashreplace"),
    )  # fmt: skip


def attempts_with_outputs(page: ListJobOutputsRes) -> Iterator[str]:
    """Of a job that was retried: whose outputs are shown, and whose there are besides."""
    if not page.attempt:
        return
    others = [str(some.number) for some in page.attempts if some.number != page.attempt and not some.unavailable]
    besides = f"; attempts that have outputs, too: {', '.join(others)} (--attempt)" if others else ""
    yield f"Outputs of attempt {page.attempt}{besides}"
    for some in page.attempts:
        if some.unavailable:
            yield f"Whether attempt {some.number} has outputs is not known: {some.unavailable}"


def network(name: str) -> str:
    return _NETWORK_NOTES.get(name, printable(name))


def line(job: Job) -> str:
    return f"{job.id} {job.status} StartTime: {job.startTime} Command: {command_line(job)}"


def as_dict(message: Message) -> dict[str, Any]:
    """Every field under its name in the .proto file: numbers as numbers, times as RFC 3339, bytes as base64, an absent
    message or number that may be absent as null. (protobuf's own JSON mapping writes 64-bit numbers as texts.)"""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {str(key): _value(item) for key, item in sorted(value.items())}
    if field.is_repeated:
        return [_value(item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return as_dict(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def json_list(name: str, messages: Iterable[Message], others: Mapping[str, Any] | None = None) -> Iterator[str]:
    """`{"<name>": [...]}`, an entry at a time: a long list never stands in memory as a whole. `others` are further
    fields, which come first."""
    first = "".join(f'"{key}": {json.dumps(value, ensure_ascii=False)}, ' for key, value in (others or {}).items())
    yield f'{{{first}"{name}": ['
    comma = ""
    for message in messages:
        yield comma + json.dumps(as_dict(message), ensure_ascii=False)
        comma = ","
    yield "]}"
