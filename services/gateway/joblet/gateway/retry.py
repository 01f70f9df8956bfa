"""Which ends of a job are followed by another attempt, and after how long. Pure: values in, values out.

Tried again is what may go better the next time: any exit code that was not excluded, a signal, too little memory, a
node or a supervisor that was lost, a node that could not launch it. Not: success, a stop by request or timeout (who
asked for it wants the job to be over, and what took too long once will again), a command that cannot be found or
executed, a limit or an isolation that the node cannot give.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from joblet.api import job_pb2
from joblet.common.errors import InvalidArgument
from joblet.common.states import JobState, Reason
from joblet.common.units import NS_PER_SECOND

MAX_RETRIES: Final = 100
MAX_BACKOFF_SECONDS: Final = 3600
DEFAULT_BACKOFF_SECONDS: Final = 1
MAX_EXIT_CODE: Final = 255

RETRIED: Final = frozenset(
    {
        Reason.EXIT, Reason.SIGNAL, Reason.OOM, Reason.LAUNCH, Reason.SUPERVISOR_KILLED, Reason.NODE_RESTARTED,
        Reason.NODE_LOST,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Policy:
    """What is left of a job's retries; `attempt` is the number of the one that has ended, from 1."""

    retries_left: int
    attempt: int
    backoff_seconds: int
    no_retry_codes: Sequence[int]


def pause_ns(policy: Policy, state: JobState, reason: str, exit_code: int) -> int | None:
    """How long to wait before the next attempt, None when this end is the last: the backoff, twice as long after each
    attempt, an hour at most."""
    if policy.retries_left <= 0 or state is not JobState.FAILED or reason not in RETRIED:
        return None
    if exit_code in policy.no_retry_codes:
        return None
    # An exponent that is bounded, because the number of attempts may be large.
    seconds = policy.backoff_seconds << min(policy.attempt - 1, 16)
    return min(seconds, MAX_BACKOFF_SECONDS) * NS_PER_SECOND


def check(policy: job_pb2.RetryPolicy) -> None:
    """Raises InvalidArgument for what no job can be given."""
    _check_range("maxRetries", policy.maxRetries, 0, MAX_RETRIES)
    _check_range("backoffSeconds", policy.backoffSeconds, 0, MAX_BACKOFF_SECONDS)
    for code in policy.nonRetriableExitCodes:
        _check_range("nonRetriableExitCodes", code, 1, MAX_EXIT_CODE)
    if len(policy.nonRetriableExitCodes) > MAX_EXIT_CODE:
        raise InvalidArgument("invalid retry: nonRetriableExitCodes has a code twice", field="retry")
    if not policy.maxRetries and (policy.backoffSeconds or policy.nonRetriableExitCodes):
        raise InvalidArgument("invalid retry: maxRetries is 0, so there is nothing to say about retries", field="retry")


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidArgument(
            f"invalid retry: {name}: expected a number from {least} to {most}, got {value}", field="retry"
        )
