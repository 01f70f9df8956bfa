"""Cgroups of v1 made ahead of the jobs that will have them.

A directory of v1 can be renamed within its parent, and what was opened or registered in it goes along. So directories,
limits and descriptors can be there before the order comes; then the directories get the job's name, and only limits
that differ are written: some 40 us for what takes 300 us. Nothing has ever joined a spare, so its counters are at zero,
and it serves one job. Its name begins with a dot, which no job's does. What a killed executor leaves of spares, half
renamed ones included, goes when the next one prepares its parents; each costs the kernel about 50 KB until then.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from joblet.executor.cgroup import job
from joblet.executor.cgroup.driver import Device
from joblet.executor.cgroup.limits import API_NAMES, Limits

STOCK: Final = 4
PREFIX: Final = ".spare-"


@dataclass(frozen=True, slots=True, eq=False)
class Leaves:
    """The directories `name`, one in each hierarchy of a job, with the limits that hold and what is open of them."""

    name: str
    limits: Limits
    devices: tuple[Device, ...]
    join: job.JoinFds
    oom_counter_fd: int

    def fits(self, limits: Limits, devices: Sequence[Device]) -> bool:
        """Whether its limits can be made these: one can be changed, not taken away. Cores are another hierarchy's."""
        return (
            limits.cpu_cores is None
            and self.devices == tuple(devices)
            and all(getattr(limits, name) or not getattr(self.limits, name) for name in API_NAMES)
        )

    def close(self) -> None:
        for fd in (*self.join.all(), self.oom_counter_fd):
            os.close(fd)


class Spares:
    """Those of one driver."""

    def __init__(self) -> None:
        self._names = [f"{PREFIX}{os.urandom(4).hex()}-{number}" for number in range(STOCK)]
        self._unused: list[Leaves] = []

    def free_name(self) -> str | None:
        """For one more; None when there are enough."""
        taken = {leaves.name for leaves in self._unused}
        return next((name for name in self._names if name not in taken), None)

    def add(self, leaves: Leaves) -> None:
        self._unused.append(leaves)

    def take(self, limits: Limits, devices: Sequence[Device]) -> Leaves | None:
        """One with these limits or, if there is none, with others that can be made these."""
        same = [leaves for leaves in self._unused if leaves.limits == limits]
        taken = next((leaves for leaves in (*same, *self._unused) if leaves.fits(limits, devices)), None)
        if taken is not None:
            self._unused.remove(taken)
        return taken

    def take_all(self) -> list[Leaves]:
        unused, self._unused = self._unused, []
        return unused


def names_in(entries: Iterable[str]) -> list[str]:
    """Which of a parent's directories are spares, of any driver."""
    return [name for name in entries if name.startswith(PREFIX)]
