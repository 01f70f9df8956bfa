"""What the executor sees of control groups: two Protocols, the values they exchange and their errors.

There are two drivers, `v1.V1Driver` (v1 and hybrid hosts) and `v2.V2Driver`; `detect.detect()` chooses. Everything
here is synchronous. `create` takes under a millisecond; `remove`, `kill` and `discard` may wait for processes to go, so
call them from a thread. A driver may be used by several threads. Paths in texts and in `expected_paths` are those of
/proc/PID/cgroup as the executor sees it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from joblet.common.errors import FailedPrecondition, Internal
from joblet.executor.cgroup.limits import API_NAMES, Limits

Device = tuple[int, int]
"""A block device as (major, minor)."""


class CgroupError(Internal):
    """Control groups cannot be used as needed. The kernel's refusal reads "cgroup setup failed: permission denied"."""

    @classmethod
    def refused(cls, error: OSError, action: str) -> "CgroupError":
        """The error for a failed system call while `action` (for example "creating /sys/fs/cgroup/cpu/joblet")."""
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        return cls(
            f"cgroup setup failed: {reason}", hint=f"{action}; the executor must run as root in a cgroup it may write"
        )


class LimitNotApplied(FailedPrecondition):
    """The kernel did not take a limit, or took another value. `field` is a field of `Limits`."""

    def __init__(self, field: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"limit {API_NAMES[field]} cannot be applied: {why}", hint=hint)
        self.field = field
        self.why = why


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What the payload has used so far, by the kernel's counters.

    peak_memory_bytes is None where the kernel does not keep it (v2 before 5.19). Bytes read and written are those that
    reached a block device; on v1 written pages that the kernel flushes later are not counted for the job.
    """

    cpu_user_seconds: float
    cpu_system_seconds: float
    peak_memory_bytes: int | None
    io_read_bytes: int
    io_write_bytes: int
    oom_kills: int


class JobCgroup(Protocol):
    """The control groups of one job: the limited `payload`, and a place outside of it for the job's init.

    init_fds        v1: `tasks` files init writes "0" into (may be empty); v2: one directory for CLONE_INTO_CGROUP
    payload_fds     the same for the command
    oom_event_fd    v1: eventfd, readable when the memory limit was hit (before the kill is counted) and also when the
                    cgroup is removed: believe `oom_counter_fd`; v2: None, the kernel kills the whole payload
    oom_counter_fd  a file whose line "oom_kill N" counts kills (v1 memory.oom_control, v2 memory.events); pread it
    expected_paths  controller -> path that /proc/PID/cgroup must show for the payload ("" is the unified hierarchy)

    An adopted cgroup has no init_fds, payload_fds or oom_event_fd: nothing joins it any more and its init has them.
    """

    @property
    def job_id(self) -> str: ...
    @property
    def init_fds(self) -> tuple[int, ...]: ...
    @property
    def payload_fds(self) -> tuple[int, ...]: ...
    @property
    def oom_event_fd(self) -> int | None: ...
    @property
    def oom_counter_fd(self) -> int: ...
    @property
    def expected_paths(self) -> Mapping[str, str]: ...

    def read_back(self) -> Limits:
        """The limits as the kernel reports them now; memory is rounded down to whole pages."""

    def usage(self) -> CgroupUsage:
        """Counters of the payload; call before `remove`."""

    def close_join_fds(self) -> None:
        """Closes init_fds, payload_fds and oom_event_fd: after the launch only init needs them."""

    def close(self) -> None:
        """Closes every descriptor; `usage`, `read_back`, `kill` and `remove` keep working. May be called twice."""

    def kill(self) -> None:
        """SIGKILL for every process of the payload, without a race against fork. CgroupError if some survive."""

    def remove(self) -> None:
        """Closes and removes the job's directories; missing ones are fine. CgroupError when processes stay in them."""


class CgroupDriver(Protocol):
    @property
    def version(self) -> int:
        """1 (also for hybrid hosts) or 2."""

    def prepare(self) -> None:
        """Makes and checks the parent, enables what is needed and removes spares that an earlier executor left; once,
        before anything else. Raises CgroupError."""

    def count_io(self, devices: Sequence[Device]) -> None:
        """Makes the kernel count what jobs read and write on these disks; once, after `prepare`. Raises CgroupError."""

    def create(self, job_id: str, limits: Limits, devices: Sequence[Device]) -> JobCgroup:
        """Makes the job's cgroups with `limits` written and read back; `devices` are what io_bytes_per_second is for.

        Raises LimitNotApplied or CgroupError and leaves nothing behind then.
        """

    def make_spare(self) -> bool:
        """Makes one more cgroup ahead of a job like the last, for `create` to use; false when there are enough, or none
        can be. From the thread that calls `create`. Raises as `create`."""

    def adopt(self, job_id: str) -> JobCgroup:
        """The cgroup of a job that an earlier executor started. CgroupError if there is none."""

    def existing(self) -> list[str]:
        """Ids of all jobs that have directories, sorted; also half-made ones. Spares are nobody's."""

    def discard(self, job_id: str) -> None:
        """Kills and removes whatever is there of a job, also half of it. CgroupError when processes stay."""

    def close(self) -> None:
        """Removes its spares, and the parent if nothing is left in it."""
