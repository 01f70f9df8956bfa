"""What `rnx run` was asked for, and the request it sends: every value checked before anything leaves this machine."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rnx import params
from rnx.errors import BadUsage

if TYPE_CHECKING:
    from joblet.api.job_pb2 import RunJobReq


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags:
    """The flags of `rnx run`, a field for each under the name that click gives it; None or empty for one not given."""

    max_cpu: int | None  # per cent of one CPU
    max_memory: int | None  # MiB
    max_iobps: int | None
    max_processes: int | None
    cpu_cores: str | None
    network: str | None
    assignments: tuple[str, ...]  # NAME=VALUE, or NAME for the value that rnx itself was given
    env_files: tuple[Path, ...]
    secret_assignments: tuple[str, ...]
    secret_env_files: tuple[Path, ...]
    name: str | None
    labels: tuple[str, ...]  # NAME=VALUE
    workdir: str | None
    timeout: int | None  # seconds
    files: tuple[Path, ...]
    directories: tuple[Path, ...]
    outputs: tuple[str, ...]  # patterns
    request_id: str | None
    priority: int | None
    schedule: str | None  # an instant, RFC 3339
    retries: int | None
    retry_backoff: int | None  # seconds
    no_retry_on: tuple[int, ...] | None  # exit codes


def build(flags: RunFlags, command: str, arguments: tuple[str, ...]) -> "RunJobReq":
    """All but the uploads. Raises BadUsage by the name of what cannot be sent."""
    from joblet.api.job_pb2 import RunJobReq
    from joblet.common.ids import new_job_id

    environment, secrets = _environments(flags)
    labels = params.labels(flags.labels)
    request_id = flags.request_id or new_job_id()
    texts = [command, *arguments, *environment, *environment.values(), *secrets, *labels, *labels.values()]
    texts += flags.outputs
    texts += [text for text in (flags.network, flags.name, flags.workdir, request_id) if text]
    for text in texts:
        params.checked_text("an argument", text)
    for name, secret in secrets.items():
        params.checked_secret(name, secret)
    request = RunJobReq(
        command=command,
        args=arguments,
        maxCPU=flags.max_cpu or 0,
        maxMemory=flags.max_memory or 0,
        maxIOBPS=flags.max_iobps or 0,
        maxProcesses=flags.max_processes or 0,
        cpuCores=flags.cpu_cores or "",
        network=flags.network or "",
        environment=environment,
        secretEnvironment=secrets,
        name=flags.name or "",
        labels=labels,
        workDir=flags.workdir or "",
        timeoutSeconds=flags.timeout or 0,
        requestId=request_id,
        priority=flags.priority or 0,
        schedule=flags.schedule or "",
        outputs=flags.outputs,
    )
    _add_retries(request, flags)
    if request.ByteSize() > params.MAX_REQUEST_BYTES - params.UPLOADS_BYTES:
        raise params.too_large(f"a request of {request.ByteSize()} bytes")
    return request


def _add_retries(request: "RunJobReq", flags: RunFlags) -> None:
    if not flags.retries and (flags.retry_backoff or flags.no_retry_on):
        flag = "--retry-backoff" if flags.retry_backoff else "--no-retry-on"
        raise BadUsage(f"{flag} goes with --retries N", hint="without it, a job has one attempt")
    if flags.retries:
        request.retry.maxRetries = flags.retries
        request.retry.backoffSeconds = flags.retry_backoff or 0
        request.retry.nonRetriableExitCodes.extend(flags.no_retry_on or ())


def _environments(flags: RunFlags) -> tuple[dict[str, str], dict[str, str]]:
    """What everybody may see, and what nobody may."""
    from rnx import environment

    plain = environment.Source("--env", "--env-file", flags.assignments, flags.env_files)
    secret = environment.Source("--secret-env", "--secret-env-file", flags.secret_assignments, flags.secret_env_files)
    both = environment.variables(plain, os.environ), environment.variables(secret, os.environ)
    environment.refuse_both(*both)
    return both
