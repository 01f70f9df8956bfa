"""How a job ended, decided from what is known: values in, an Outcome out.

First what the executor itself refused (attestation, deadline), then what init wrote down (`exitrecord`), and without a
record what the executor heard or asked for. A command that never ran has no start time.
"""

import os
import signal
from dataclasses import dataclass, replace
from errno import ENOENT
from typing import Final

from joblet.common.states import JobState, Reason
from joblet.executor.cgroup.driver import CgroupUsage
from joblet.executor.exitrecord import EndReason, ExitRecord
from joblet.executor.job import Outcome, Usage
from joblet.executor.jobspec import Stage

EXIT_STOPPED: Final = -1
EXIT_UNKNOWN: Final = -1
EXIT_LAUNCH: Final = 125
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
_SIGNAL_BASE: Final = 128

_COMMAND: Final = frozenset({Stage.RESOLVE, Stage.EXEC})
_LIMITS: Final = frozenset({Stage.CGROUP_INIT, Stage.CGROUP})
_WISHES: Final = frozenset({Stage.UPLOAD, Stage.WORKDIR})  # of the job, not of its isolation
_OURS: Final = frozenset({Stage.NONE, Stage.SPEC, Stage.CONTROL, Stage.RECORD, Stage.PARK, Stage.SUPERVISE})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a command was not started."""

    reason: Reason
    message: str
    exit_code: int = EXIT_LAUNCH


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known at the end of a job. `record` None: init left none; `cgroup` None: its counters are gone."""

    command: str
    memory_bytes: int
    timeout_seconds: int
    started_ns: int  # when the executor saw it start; 0: it did not see that
    now_ns: int
    record: ExitRecord | None
    refused: Failure | None  # by the executor, before the command ran
    heard: Failure | None  # from jobinit, or why there is no init any more
    stop_requested: bool
    overdue: bool  # it ran past its timeout, and the executor has killed its processes
    cgroup: CgroupUsage | None
    output_bytes: int


def outcome_of(evidence: Evidence) -> Outcome:
    """The job's end."""
    state, reason, exit_code, signal_number, message = _end(evidence)
    record = evidence.record
    ran = evidence.refused is None and (evidence.started_ns > 0 or (record is not None and record.started))
    if record is not None and record.reason is EndReason.LAUNCH_FAILED:
        ran = False
    started_ns = 0
    if ran:
        started_ns = evidence.started_ns or (record.start_ns if record is not None else 0)
    ended_ns = record.end_ns if record is not None else evidence.now_ns
    return Outcome(
        state=state, exit_code=exit_code, signal=signal_number, reason=reason, message=message,
        started_ns=started_ns, ended_ns=ended_ns, usage=_usage(evidence, started_ns, ended_ns),
        output_bytes=evidence.output_bytes,
    )  # fmt: skip


def launch_failure(command: str, stage: Stage, error: int, detail: str) -> Failure:
    """jobinit's error in the words a user reads."""
    why = with_errno(detail, error)
    if stage in _COMMAND:
        if error == ENOENT and stage is Stage.RESOLVE:
            return Failure(Reason.NOT_FOUND, f"command not found: {command}", EXIT_NOT_FOUND)
        if error == ENOENT:
            return Failure(Reason.NOT_FOUND, f"interpreter of the command not found: {command}", EXIT_NOT_FOUND)
        text = f"command cannot be executed: {command}: {os.strerror(error).lower()}"
        return Failure(Reason.NOT_EXECUTABLE, text, EXIT_NOT_EXECUTABLE)
    if stage in _LIMITS:
        return Failure(Reason.LIMIT_NOT_APPLIED, f"limits cannot be applied: cannot {stage.action}: {why}")
    if stage in _WISHES:
        return Failure(Reason.LAUNCH, f"cannot {stage.action}: {why}")
    if stage in _OURS:
        return Failure(Reason.LAUNCH, f"job could not be started: cannot {stage.action}: {why}")
    refused = os.strerror(error).lower() if error else why
    return Failure(Reason.ISOLATION, f"failed to create isolated environment: {refused} (cannot {stage.action})")


def with_errno(detail: str, error: int) -> str:
    """The detail and what the errno says, as far as there are any."""
    return ": ".join(part for part in (detail, os.strerror(error).lower() if error else "") if part)


_End = tuple[JobState, Reason, int, int, str]


def _end(evidence: Evidence) -> _End:
    record = evidence.record
    if evidence.refused is not None:
        return _failed(evidence.refused)
    if record is not None:
        return _recorded(evidence, record)
    if evidence.stop_requested:
        message = "killed, it did not end in time" if evidence.started_ns else ""
        return JobState.STOPPED, Reason.STOPPED, EXIT_STOPPED, 0, message
    if evidence.heard is not None:
        return _failed(evidence.heard)
    message = "the process that supervised the job was killed; the job was killed with it"
    return JobState.FAILED, Reason.SUPERVISOR_KILLED, EXIT_UNKNOWN, 0, message


def _failed(failure: Failure) -> _End:
    return JobState.FAILED, failure.reason, failure.exit_code, 0, failure.message


def _recorded(evidence: Evidence, record: ExitRecord) -> _End:
    if evidence.stop_requested and not record.started:
        return JobState.STOPPED, Reason.STOPPED, EXIT_STOPPED, 0, ""
    match record.reason:
        case EndReason.EXIT if record.exit_code == 0:
            return JobState.COMPLETED, Reason.EXIT, 0, 0, ""
        case EndReason.EXIT:
            return JobState.FAILED, Reason.EXIT, record.exit_code, 0, ""
        case EndReason.STOPPED:
            return JobState.STOPPED, Reason.STOPPED, EXIT_STOPPED, 0, ""
        case EndReason.TIMEOUT:
            return _timed_out(evidence)
        case EndReason.SIGNAL if evidence.overdue and record.signal == signal.SIGKILL:
            return _timed_out(evidence)
        case EndReason.OOM:
            message = f"out of memory: the limit is {evidence.memory_bytes >> 20} MB"
            code = _SIGNAL_BASE + signal.SIGKILL
            return JobState.FAILED, Reason.OOM, code, signal.SIGKILL, message
        case EndReason.OOM_CHILD:
            message = f"out of memory in a child of the command: the limit is {evidence.memory_bytes >> 20} MB"
            return JobState.FAILED, Reason.OOM_CHILD, record.exit_code, record.signal, message
        case EndReason.LAUNCH_FAILED:
            # What was heard live is the same error with all of its text.
            told = launch_failure(evidence.command, record.stage, record.error, record.detail)
            return _failed(replace(told, message=evidence.heard.message) if evidence.heard else told)
        case EndReason.SIGNAL:
            message = f"ended by {_signal_name(record.signal)}"
            if not record.started:
                return JobState.FAILED, Reason.LAUNCH, EXIT_LAUNCH, record.signal, f"{message} before the command ran"
            return JobState.FAILED, Reason.SIGNAL, _SIGNAL_BASE + record.signal, record.signal, message


def _timed_out(evidence: Evidence) -> _End:
    message = f"ran longer than its timeout of {evidence.timeout_seconds} s"
    return JobState.STOPPED, Reason.TIMEOUT, EXIT_STOPPED, 0, message


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal without a name of its own


def _usage(evidence: Evidence, started_ns: int, ended_ns: int) -> Usage:
    record, cgroup = evidence.record, evidence.cgroup
    usage = Usage(wall_seconds=max(0, ended_ns - started_ns) / 1e9 if started_ns else 0.0)
    if record is not None:
        usage = replace(
            usage, cpu_user_seconds=record.user_us / 1e6, cpu_system_seconds=record.system_us / 1e6,
            peak_memory_bytes=record.maxrss_bytes, oom_kills=record.oom_kills,
            voluntary_context_switches=record.voluntary_switches,
            involuntary_context_switches=record.involuntary_switches,
        )  # fmt: skip
        if record.reason in (EndReason.OOM, EndReason.OOM_CHILD):
            # On cgroup v1 init hears of it and kills the job before the kernel has killed and counted anything.
            usage = replace(usage, oom_kills=max(1, usage.oom_kills))
    if cgroup is not None:
        # The cgroup counts what no wait() sees: killed descendants, page cache, tmpfs.
        usage = replace(
            usage, cpu_user_seconds=cgroup.cpu_user_seconds, cpu_system_seconds=cgroup.cpu_system_seconds,
            peak_memory_bytes=cgroup.peak_memory_bytes or usage.peak_memory_bytes,
            io_read_bytes=cgroup.io_read_bytes, io_write_bytes=cgroup.io_write_bytes,
            oom_kills=max(cgroup.oom_kills, usage.oom_kills),
        )  # fmt: skip
    return usage
