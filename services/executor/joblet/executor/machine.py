"""Whether this machine can run jobs, and what that takes: cgroups, the template, user namespaces.

Prepared once at start-up, before threads and grpc exist, because namespaces are made by forked children. A machine that
cannot run jobs still has an executor: it says why in its health and with every refused order.
"""

import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joblet.common.config import Config
from joblet.common.errors import Internal
from joblet.executor import jobinit_path, procfs, reserve, rootplan, syscalls, uidranges, userns
from joblet.executor.admission import Capacity
from joblet.executor.cgroup.detect import detect
from joblet.executor.cgroup.devices import block_devices_of
from joblet.executor.cgroup.driver import CgroupDriver, Device
from joblet.executor.template import build_template
from joblet.executor.uidranges import UidRanges
from joblet.executor.userns import UserNamespacePool

SYSTEM: Final = "Linux"
_PID_MAX: Final = Path("/proc/sys/kernel/pid_max")


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that exists once per executor."""

    jobinit: Path
    cgroups: CgroupDriver
    devices: tuple[Device, ...]
    template: int
    bound_paths: tuple[str, ...]
    ranges: UidRanges
    users: UserNamespacePool


def prepare(config: Config, stack: ExitStack, system: str | None = None) -> Machine:
    """Makes the machine ready; `stack` undoes it. Raises a JobletError with the text that refused orders carry,
    StartError when the executor is not complete."""
    current = platform.system() if system is None else system
    if current != SYSTEM:
        raise Internal(f"job execution requires Linux server (current: {current.lower()})")
    jobinit = jobinit_path.locate(config.executor.jobinit)
    cgroups = detect(config.executor.cgroup_parent)
    cgroups.prepare()
    stack.callback(cgroups.close)
    try:
        return _isolation(config, jobinit, cgroups, stack)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise Internal(f"failed to create isolated environment: {reason}", hint=str(error)) from error


def _isolation(config: Config, jobinit: Path, cgroups: CgroupDriver, stack: ExitStack) -> Machine:
    operations = rootplan.plan(rootplan.inspect_host())
    bound_paths = rootplan.bound_paths(operations)
    template = build_template(operations, config.executor.state_dir)
    stack.callback(os.close, template)
    syscalls.become_subreaper()
    ranges, users = _users(config, stack)
    devices = block_devices_of(_shown(bound_paths))
    cgroups.count_io(devices)
    return Machine(jobinit, cgroups, devices, template, bound_paths, ranges, users)


def _shown(bound_paths: Sequence[str]) -> list[Path]:
    """What jobs see of the host's file systems: the bound directories and what is mounted below them."""
    mounts = procfs.parse_mounts(Path("/proc/self/mountinfo").read_text())
    below = [mount.path for mount in mounts if any(mount.path.startswith(f"{path}/") for path in bound_paths)]
    return [Path(path) for path in (*bound_paths, *below)]


def _users(config: Config, stack: ExitStack) -> tuple[UidRanges, UserNamespacePool]:
    executor, count = config.executor, config.joblet.max_concurrent_jobs
    ranges = uidranges.claim(executor.uid_range_start, executor.uid_range_size, count, executor.state_dir)
    pool = UserNamespacePool()
    stack.callback(lambda: ranges.release(pool.used_bases))
    stack.callback(pool.close)
    for base in ranges.bases[: count + reserve.MOST]:
        pool.add(userns.create(base, executor.uid_range_size))
    return ranges, pool


def capacity(config: Config) -> Capacity:
    """What the machine has, as far as this process may use it. Linux only."""
    return Capacity(
        cores=cores(),
        memory_bytes=memory_bytes(),
        max_processes=max_processes(),
        max_concurrent_jobs=config.joblet.max_concurrent_jobs,
    )


def cores() -> frozenset[int]:
    """The CPUs this process may use, by number."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def max_processes() -> int:
    """The most processes and threads the kernel gives numbers to; 0 where it does not say."""
    return int(_PID_MAX.read_text()) if _PID_MAX.exists() else 0


def memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def boot_id() -> str:
    """Distinguishes one boot of the machine from the next; empty where the system has none."""
    return procfs.boot_id() if platform.system() == SYSTEM else ""
