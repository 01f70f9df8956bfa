"""What rnx itself can find wrong, and the exit code of every failure.

    JobletError (joblet.common)
    ├── InvalidArgument
    │   └── BadUsage          a flag, file or configuration that rnx refuses before anything is sent
    ├── DeadlineExceeded
    │   └── StillRunning      the time to wait for a job is over
    └── Unavailable
        ├── CannotConnect     no connection: nobody listens, name unknown, no answer, TLS does not fit
        ├── BadCertificate    the client's or the server's certificate is missing or refused; explained by `diagnose`
        └── NoAnswer          connected, but the call did not end in time or the connection was lost

An UNAVAILABLE that the server itself answers over a working connection stays a plain Unavailable (exit code 1).
"""

import json

from joblet.common.errors import (
    Code,
    ConfigError,
    DeadlineExceeded,
    InvalidArgument,
    JobletError,
    NotFound,
    Unauthenticated,
    Unavailable,
)

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_CONNECTION = 3
EXIT_NOT_FOUND = 4
EXIT_TIMEOUT = 124  # as timeout(1)
EXIT_UNKNOWN = 125  # rnx itself failed where the exit code would have been a job's; as env(1), timeout(1)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class BadUsage(InvalidArgument):
    """Refused before anything is sent."""


class StillRunning(DeadlineExceeded):
    """The time to wait for a job is over, and it has not ended."""


class CannotConnect(Unavailable):
    """The server was not reached or does not talk TLS as it should."""


class BadCertificate(Unavailable):
    """A certificate keeps client and server apart. The code is the specification's for it, UNAUTHENTICATED."""

    default_code = Code.UNAUTHENTICATED


class NoAnswer(Unavailable):
    """Connected, but the call did not end in time or the connection went away and did not come back."""


def exit_code(error: JobletError, *, of_waiting: bool = False) -> int:
    """`of_waiting`: the exit code would have been the job's, so rnx's own failures share one that jobs hardly use."""
    if isinstance(error, StillRunning):
        return EXIT_TIMEOUT
    if of_waiting:
        return EXIT_UNKNOWN
    if isinstance(error, ConfigError | BadUsage):
        return EXIT_USAGE
    if isinstance(error, CannotConnect | BadCertificate | NoAnswer | Unauthenticated):
        return EXIT_CONNECTION
    if isinstance(error, NotFound):
        return EXIT_NOT_FOUND
    return EXIT_ERROR


def as_text(error: JobletError) -> str:
    """`Error: ...` on the first line, the hint on the next."""
    return f"Error: {error.message}" + (f"\nHint: {error.hint}" if error.hint else "")


def as_json(error: JobletError) -> str:
    """The specification's error response; a hint is its one detail."""
    details = [{"hint": error.hint}] if error.hint else []
    return json.dumps({"code": error.code, "message": error.message, "details": details}, indent=2, ensure_ascii=False)
