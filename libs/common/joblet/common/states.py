"""The states of a job, the legal changes between them and the reasons why a job ended.

The names are those of the public API (`status` in Job). The gateway and the executor both check every change here.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from joblet.common.errors import Internal


class JobState(StrEnum):
    SCHEDULED = "SCHEDULED"  # accepted, its time has not come
    PENDING = "PENDING"  # accepted, waits for room
    INITIALIZING = "INITIALIZING"  # placed on a node, isolation and limits are being set up
    RUNNING = "RUNNING"  # the command is executing
    COMPLETED = "COMPLETED"  # exit code 0
    FAILED = "FAILED"  # any other exit code, a signal, or it could not be started
    STOPPED = "STOPPED"  # by request or timeout
    CANCELED = "CANCELED"  # by request, before it ran


TERMINAL: frozenset[JobState] = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.CANCELED},
)

_ENDS = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.STOPPED})

# A node that comes back after its lease ran out puts FAILED (node-lost) right again: that is the one way out of a
# terminal state, and it does not go through this table but through the gateway's own rule for returning nodes.
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.SCHEDULED: frozenset(
            {JobState.PENDING, JobState.INITIALIZING, JobState.CANCELED, JobState.FAILED},
        ),
        JobState.PENDING: frozenset({JobState.INITIALIZING, JobState.CANCELED, JobState.FAILED}),
        # A short job's start and end may be learned together, so INITIALIZING may be followed by every end.
        # An attempt that failed may be followed by another one, which is SCHEDULED until then.
        JobState.INITIALIZING: frozenset(
            {JobState.RUNNING, JobState.PENDING, JobState.SCHEDULED, JobState.CANCELED},
        )
        | _ENDS,
        JobState.RUNNING: frozenset({JobState.SCHEDULED}) | _ENDS,
        JobState.COMPLETED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.STOPPED: frozenset(),
        JobState.CANCELED: frozenset(),
    },
)


class Reason(StrEnum):
    """Why a job is in its terminal state."""

    EXIT = "exit"
    SIGNAL = "signal"
    OOM = "oom"  # the command
    OOM_CHILD = "oom-child"  # a process that the command started
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    CANCELED = "canceled"
    NOT_FOUND = "not-found"
    NOT_EXECUTABLE = "not-executable"
    LIMIT_NOT_APPLIED = "limit-not-applied"
    ISOLATION = "isolation"
    LAUNCH = "launch-failed"
    SUPERVISOR_KILLED = "supervisor-killed"
    NODE_RESTARTED = "node-restarted"
    NODE_LOST = "node-lost"


UNKNOWN_BYTES: Final = -1
"""Instead of the number of bytes of output, between the services: there may be some, and nobody could say how much when
the end was told."""

LOST_ATTEMPT_BYTES: Final = 1 << 44
"""What an attempt of which nobody knows how much it wrote, as one that was lost with its node, takes of the offsets of
its job's output: more than a file of ext4 can have, and still a number that JSON readers keep exact after 100 retries.
"""


class IllegalTransition(Internal):
    """A change of state that the table does not have: a fault of ours, never of the caller."""

    def __init__(self, old: JobState, new: JobState) -> None:
        super().__init__(f"a job cannot change from {old} to {new}")
        self.old = old
        self.new = new


def check_transition(old: JobState, new: JobState) -> None:
    """Raises IllegalTransition unless a job may change from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(old, new)
