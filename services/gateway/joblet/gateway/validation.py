"""Everything that can be wrong with a request to run a job, decided from the request alone.

Pure: no store, no node, no configuration. Nothing a client sends is accepted in silence: every field of RunJobReq is
either understood here or refused by name, unknown fields too. Raises InvalidArgument (naming the field) or
Unimplemented. Limits come from execve(2): one string of argv or envp is at most 128 KiB with its NUL.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from google.protobuf import unknown_fields

from joblet.api import job_pb2
from joblet.common.contents import is_digest
from joblet.common.errors import InvalidArgument, Unimplemented
from joblet.common.tree import link_problem, path_problem
from joblet.common.units import parse_cpu_list
from joblet.gateway import retry

DANGEROUS: Final = frozenset("\0\r\n;&|`$()<>")
MAX_COMMAND_BYTES: Final = 4095  # PATH_MAX less the NUL
MAX_STRING_BYTES: Final = 128 * 1024 - 1  # MAX_ARG_STRLEN less the NUL
MAX_ARGUMENTS_BYTES: Final = 1024 * 1024  # argv and envp together, well below the kernel's quarter of the stack limit
MAX_NAME_BYTES: Final = 255
MAX_LABELS: Final = 64
MAX_REQUEST_ID_BYTES: Final = 128
MAX_UPLOADS: Final = 4096
MAX_PRIORITY: Final = 1000
MAX_OUTPUTS: Final = 64
MAX_STREAMED_UPLOADS: Final = 16  # each is an open file of the job's init
INT32_MAX: Final = 2**31 - 1

OWN_VARIABLES: Final = frozenset({"JOB_ID", "JOB_ATTEMPT"})  # they say which job it is, whatever the caller sets
NETWORKS: Final = frozenset({"host", "none"})

# What a request may use today, and what belongs to later work and is refused when it is set. Together they are every
# field of RunJobReq; a test compares them with the descriptor.
SUPPORTED: Final = frozenset(
    {
        "command", "args", "maxCPU", "maxMemory", "maxIOBPS", "cpuCores", "name", "environment", "secretEnvironment",
        "network", "workDir", "uploads", "timeoutSeconds", "requestId", "labels", "nodeId", "maxProcesses",
        "priority", "schedule", "retry", "outputs",
    }
)  # fmt: skip
LATER: Final[Mapping[str, str]] = {
    "volumes": "volumes",
    "runtime": "runtimes",
    "gpuCount": "GPUs",
    "gpuMemoryMB": "GPUs",
    "nodeSelector": "placement by labels",
}

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_ENVIRONMENT_HINT = 'letters, digits, "_", "." and "-", beginning with a letter or "_"'
_REQUEST_ID = re.compile(rf"[!-~]{{1,{MAX_REQUEST_ID_BYTES}}}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_run_job(request: job_pb2.RunJobReq) -> None:
    """Raises InvalidArgument or Unimplemented unless `request` is one that a node with enough room could run."""
    _check_nothing_unknown(request)
    _check_later(request)
    _check_command(request.command)
    _check_limits(request)
    _check_environment(request.environment, "environment")
    _check_environment(request.secretEnvironment, "secretEnvironment")
    both = sorted(request.environment.keys() & request.secretEnvironment.keys())
    if both:
        raise InvalidArgument(f"{both[0]} is set in environment and in secretEnvironment", field="secretEnvironment")
    _check_arguments(request)
    _check_names(request)
    _check_priority(request.priority)
    retry.check(request.retry)
    _check_work_dir(request.workDir)
    _check_network(request.network)
    _check_uploads(request.uploads)
    _check_outputs(request.outputs)


def _check_nothing_unknown(request: job_pb2.RunJobReq) -> None:
    for name, message in (("RunJobReq", request), *(("FileUpload", upload) for upload in request.uploads)):
        unknown = unknown_fields.UnknownFieldSet(message)
        if len(unknown):
            raise InvalidArgument(
                f"{name} has a field number {unknown[0].field_number} that this gateway does not know",
                hint="the client is newer than the gateway",
            )


def _check_later(request: job_pb2.RunJobReq) -> None:
    for descriptor, _ in request.ListFields():
        if descriptor.name in LATER:
            raise Unimplemented(f"{descriptor.name} ({LATER[descriptor.name]})")


def _check_command(command: str) -> None:
    if not command.strip():
        raise InvalidArgument("invalid command: command is empty", field="command")
    if not DANGEROUS.isdisjoint(command):
        raise InvalidArgument(
            "invalid command: command contains dangerous characters",
            field="command",
            hint='the command is one program; for more, run "sh" with the arguments "-c" and a script',
        )
    if len(command.encode()) > MAX_COMMAND_BYTES:
        raise InvalidArgument(f"invalid command: command is longer than {MAX_COMMAND_BYTES} bytes", field="command")


def _check_limits(request: job_pb2.RunJobReq) -> None:
    for field in ("maxCPU", "maxMemory", "maxIOBPS", "timeoutSeconds", "maxProcesses"):
        value: int = getattr(request, field)
        if value < 0:
            raise InvalidArgument(f"{field} must not be negative: {value}", field=field)
    if request.cpuCores:
        try:
            parse_cpu_list(request.cpuCores)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid cpuCores: {error}", field="cpuCores") from error


def _check_environment(environment: Mapping[str, str], field: str) -> None:
    """The values are never part of a message: they may be secret."""
    for name, value in environment.items():
        if not _ENVIRONMENT_NAME.fullmatch(name):
            raise InvalidArgument(
                f"invalid {field}: {_quoted(name)} is not a name of a variable", field=field, hint=_ENVIRONMENT_HINT
            )
        if name in OWN_VARIABLES:
            raise InvalidArgument(f"invalid {field}: {name} is set by Joblet", field=field)
        if "\0" in value:
            raise InvalidArgument(f"invalid {field}: the value of {name} contains NUL", field=field)
        if len(name) + 1 + len(value.encode()) > MAX_STRING_BYTES:
            raise InvalidArgument(f"invalid {field}: {name} is longer than {MAX_STRING_BYTES} bytes", field=field)


def _check_arguments(request: job_pb2.RunJobReq) -> None:
    total = 0
    for number, argument in enumerate(request.args, start=1):
        if "\0" in argument:
            raise InvalidArgument(f"invalid args: argument {number} contains NUL", field="args")
        size = len(argument.encode())
        if size > MAX_STRING_BYTES:
            raise InvalidArgument(
                f"invalid args: argument {number} is longer than {MAX_STRING_BYTES} bytes", field="args"
            )
        total += size + 1
    for environment in (request.environment, request.secretEnvironment):
        total += sum(len(name) + len(value.encode()) + 2 for name, value in environment.items())
    if total > MAX_ARGUMENTS_BYTES:
        raise InvalidArgument(
            f"args and environment together are {total} bytes, more than {MAX_ARGUMENTS_BYTES}", field="args"
        )


def _check_names(request: job_pb2.RunJobReq) -> None:
    _check_word(request.name, "name")
    _check_word(request.nodeId, "nodeId")
    if request.requestId and not _REQUEST_ID.fullmatch(request.requestId):
        raise InvalidArgument(
            f"invalid requestId: expected at most {MAX_REQUEST_ID_BYTES} printable ASCII characters without blanks",
            field="requestId",
        )
    if len(request.labels) > MAX_LABELS:
        raise InvalidArgument(f"invalid labels: {len(request.labels)} of them, more than {MAX_LABELS}", field="labels")
    for key, value in request.labels.items():
        if not key:
            raise InvalidArgument("invalid labels: a label has no name", field="labels")
        _check_word(key, "labels")
        _check_word(value, "labels")


def _check_word(text: str, field: str) -> None:
    if _CONTROL.search(text):
        raise InvalidArgument(f"invalid {field}: {_quoted(text)} contains control characters", field=field)
    if len(text.encode()) > MAX_NAME_BYTES:
        raise InvalidArgument(f"invalid {field}: longer than {MAX_NAME_BYTES} bytes", field=field)


def _check_priority(priority: int) -> None:
    if abs(priority) > MAX_PRIORITY:
        raise InvalidArgument(
            f"invalid priority: expected a number from -{MAX_PRIORITY} to {MAX_PRIORITY}, got {priority}",
            field="priority",
            hint="of the jobs that wait for room, those with a higher one go first",
        )


def _check_work_dir(path: str) -> None:
    if not path:
        return
    if "\0" in path:
        raise InvalidArgument("invalid workDir: it contains NUL", field="workDir")
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid workDir: {_quoted(path)} is not an absolute path", field="workDir")
    if len(path.encode()) > MAX_COMMAND_BYTES:
        raise InvalidArgument(f"invalid workDir: longer than {MAX_COMMAND_BYTES} bytes", field="workDir")


def _check_network(network: str) -> None:
    if network and network not in NETWORKS:
        raise Unimplemented(f"network {_quoted(network)} (networks other than host and none)")


def _check_uploads(uploads: Iterable[job_pb2.FileUpload]) -> None:
    directories: dict[str, bool] = {}
    streamed = 0
    for number, upload in enumerate(uploads):
        if number == MAX_UPLOADS:
            raise InvalidArgument(f"invalid uploads: more than {MAX_UPLOADS} files", field="uploads")
        streamed += bool(upload.digest)
        if streamed > MAX_STREAMED_UPLOADS:
            raise InvalidArgument(
                f"invalid uploads: more than {MAX_STREAMED_UPLOADS} with a digest", field="uploads",
                hint="put files into one directory and upload that",
            )  # fmt: skip
        _check_upload_path(upload)
        _check_upload_source(upload)
        if upload.mode & ~0o777:
            raise _bad_upload(upload.path, f"mode {upload.mode:o} has more than permission bits")
        if not upload.digest and upload.size not in (0, len(upload.content)):
            raise _bad_upload(upload.path, f"size {upload.size} is not that of its content, {len(upload.content)}")
        path = upload.path.rstrip("/")
        if path in directories:
            raise _bad_upload(upload.path, "it is there twice")
        directories[path] = upload.isDirectory
    for path in directories:
        for parent in _parents(path):
            if not directories.get(parent, True):
                raise _bad_upload(path, f"{_quoted(parent)} is a file")


def _check_outputs(patterns: Sequence[str]) -> None:
    """Patterns of paths below /work; what they mean is in docs/files.md."""
    if len(patterns) > MAX_OUTPUTS:
        raise InvalidArgument(f"invalid outputs: {len(patterns)} patterns, more than {MAX_OUTPUTS}", field="outputs")
    for pattern in patterns:
        why = path_problem(pattern.encode())
        if why:
            raise InvalidArgument(f"invalid outputs: {_quoted(pattern)}: {why}", field="outputs")


def _check_upload_source(upload: job_pb2.FileUpload) -> None:
    """Where its bytes come from: the message, an upload, or nowhere."""
    if upload.isDirectory and upload.content:
        raise _bad_upload(upload.path, "a directory has no content")
    if upload.linkTarget:
        if upload.isDirectory or upload.content or upload.digest:
            raise _bad_upload(upload.path, "a link is no directory and has no content")
        why = link_problem(upload.path.encode(), upload.linkTarget.encode())
        if why:
            raise _bad_upload(upload.path, why)
    if upload.digest and upload.content:
        raise _bad_upload(upload.path, "it has content and a digest")
    if upload.digest and not is_digest(upload.digest):
        raise _bad_upload(upload.path, 'its digest is not "sha256:" and 64 hexadecimal digits')


def _check_upload_path(upload: job_pb2.FileUpload) -> None:
    path = upload.path
    if path == "." and upload.isDirectory and upload.digest:
        return  # a tree may go into /work itself
    if not path:
        raise InvalidArgument("invalid uploads: a file has no path", field="uploads")
    if "\0" in path:
        raise _bad_upload(path, "the path contains NUL")
    if path.startswith("/"):
        raise _bad_upload(path, "the path is absolute")
    parts = path.rstrip("/").split("/")
    if ".." in parts:
        raise _bad_upload(path, 'the path contains ".."')
    if "" in parts or "." in parts:
        raise _bad_upload(path, 'the path contains an empty part or "."')
    if len(path.encode()) > MAX_COMMAND_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise _bad_upload(path[:64], "the path is too long")


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _bad_upload(path: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid uploads: {_quoted(path)}: {why}", field="uploads")


def _quoted(text: str) -> str:
    """`text` in quotes with everything escaped that could garble a terminal or a log line, cut to 64 characters."""
    printable = text[:64].encode("unicode_escape").decode("ascii")
    return f'"{printable}"'
