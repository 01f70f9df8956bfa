"""The one tree of errors of Joblet.

Each class knows its gRPC code, carries typed attributes and, where the reader can mend it, a hint. The guard in
`joblet.common.rpc` turns an error into a status, `joblet.common.lifecycle` and rnx turn it into an exit code. Nobody
matches on texts.

    JobletError
    ├── InvalidArgument            INVALID_ARGUMENT     also a ValueError, so parsers raise it directly
    │   └── ConfigError            INVALID_ARGUMENT     problems: every fault of a configuration file
    ├── NotFound                   NOT_FOUND
    │   └── JobNotFound            NOT_FOUND            job_id
    ├── AlreadyExists              ALREADY_EXISTS
    ├── FailedPrecondition         FAILED_PRECONDITION
    │   ├── JobNotRunning          FAILED_PRECONDITION  job_id, state
    │   ├── JobNotEnded            FAILED_PRECONDITION  job_id, state
    │   └── StartError             FAILED_PRECONDITION  a service cannot start: port taken, role table incomplete ...
    ├── OutOfRange                 OUT_OF_RANGE
    ├── Unauthenticated            UNAUTHENTICATED
    ├── PermissionDenied           PERMISSION_DENIED
    ├── ResourceExhausted          RESOURCE_EXHAUSTED
    ├── DeadlineExceeded           DEADLINE_EXCEEDED
    ├── Unavailable                UNAVAILABLE
    ├── Unimplemented              UNIMPLEMENTED        feature
    └── Internal                   INTERNAL
        └── states.IllegalTransition

This module imports nothing of grpc: rnx and tools need the names without paying for the library.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """The status codes of gRPC by name (grpc/grpc doc/statuscodes.md)."""

    OK = "OK"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class JobletError(Exception):
    """Any failure that has a name. `str(error)` is the message as a user sees it; the hint travels beside it.

    `field` is the field of the request that could not be used as it is, if the failure is about one.
    """

    code: Code
    default_code: ClassVar[Code] = Code.UNKNOWN

    def __init__(
        self, message: str, *, field: str | None = None, hint: str | None = None, code: Code | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint
        self.code = code or self.default_code


class InvalidArgument(JobletError, ValueError):
    default_code = Code.INVALID_ARGUMENT


class ConfigError(InvalidArgument):
    """A configuration that cannot be used; `problems` has one line for each fault, all of them at once."""

    def __init__(self, problems: Sequence[str], *, source: str | None = None, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        where = f" in {source}" if source else ""
        if len(self.problems) == 1:
            text = f"invalid configuration{where}: {self.problems[0]}"
        else:
            text = f"invalid configuration{where}:" + "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(text, hint=hint)


class NotFound(JobletError):
    default_code = Code.NOT_FOUND


class JobNotFound(NotFound):
    def __init__(self, job_id: str, *, hint: str | None = None) -> None:
        super().__init__(f"job not found: {job_id}", hint=hint)
        self.job_id = job_id


class AlreadyExists(JobletError):
    default_code = Code.ALREADY_EXISTS


class FailedPrecondition(JobletError):
    default_code = Code.FAILED_PRECONDITION


class JobNotRunning(FailedPrecondition):
    def __init__(self, job_id: str, state: str, *, hint: str | None = None) -> None:
        super().__init__(f"job is not running: {job_id} (current status: {state})", hint=hint)
        self.job_id = job_id
        self.state = state


class JobNotEnded(FailedPrecondition):
    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(
            f"job has not ended: {job_id} (current status: {state})", hint="stop or cancel it first, or wait for it"
        )
        self.job_id = job_id
        self.state = state


class StartError(FailedPrecondition):
    """A service cannot start as configured; the text names the port, file or method at fault."""


class OutOfRange(JobletError):
    default_code = Code.OUT_OF_RANGE


class Unauthenticated(JobletError):
    default_code = Code.UNAUTHENTICATED


class PermissionDenied(JobletError):
    default_code = Code.PERMISSION_DENIED


class ResourceExhausted(JobletError):
    default_code = Code.RESOURCE_EXHAUSTED


class DeadlineExceeded(JobletError):
    default_code = Code.DEADLINE_EXCEEDED


class Unavailable(JobletError):
    default_code = Code.UNAVAILABLE


class Unimplemented(JobletError):
    """Something that does not exist yet, named by `feature` ("volumes", "method RunWorkflow")."""

    default_code = Code.UNIMPLEMENTED

    def __init__(self, feature: str, *, hint: str | None = None) -> None:
        super().__init__(f"{feature} is not implemented yet", hint=hint)
        self.feature = feature


class Internal(JobletError):
    default_code = Code.INTERNAL


_BY_CODE: dict[Code, type[JobletError]] = {
    kind.default_code: kind
    for kind in (
        InvalidArgument, NotFound, AlreadyExists, FailedPrecondition, OutOfRange, Unauthenticated, PermissionDenied,
        ResourceExhausted, DeadlineExceeded, Unavailable, Unimplemented, Internal,
    )
}  # fmt: skip


def from_code(code: Code, message: str, *, hint: str | None = None, field: str | None = None) -> JobletError:
    """The error that a status received from another process stands for; its message is taken over unchanged."""
    kind = _BY_CODE.get(code, JobletError)
    error = kind.__new__(kind)
    JobletError.__init__(error, message, field=field, hint=hint, code=code)
    if isinstance(error, Unimplemented):
        error.feature = message.removesuffix(" is not implemented yet")
    return error
