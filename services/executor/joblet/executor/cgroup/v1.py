"""The driver for cgroup v1 and for hybrid hosts, whose controllers are in v1 hierarchies.

A job has one directory `<own>/<parent>/<job_id>` in each hierarchy it needs, and that is its payload. Its init joins
none of them: v1 has no rule that inner nodes hold no processes, every directory costs time, and what init uses (pages
of the log among it) stays out of the job's account and limits. The cpuset hierarchy is joined only when cores were
asked for. Processes join through `tasks`, each for itself: a write to cgroup.procs waits for an RCU grace period.

Directories are not reused. A removed memory cgroup lives on in the kernel (17 KB) only while page cache of a disk is
charged to it, until reclaim or until the files go; what a job writes to its tmpfs does not stay. Reuse would have to
empty that cache first, or the next job's peak would contain it: 1.5 ms against 0.4 ms saved. But a few are made ahead
(`spare`), with the limits of the last job.

Sources: Documentation/admin-guide/cgroup-v1 (memory, cpusets, cpuacct, blkio-controller, pids), scheduler/sched-bwc.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from joblet.common.units import parse_cpu_list
from joblet.executor.cgroup import files, job, leaf, setting, spare
from joblet.executor.cgroup.devices import is_stacked
from joblet.executor.cgroup.driver import CgroupError, CgroupUsage, Device, LimitNotApplied
from joblet.executor.cgroup.hierarchies import Hierarchy
from joblet.executor.cgroup.limits import Limits
from joblet.executor.cgroup.spare import Leaves

JOINED = ("memory", "cpu", "cpuacct", "pids", "blkio")
"""The controllers of every job: for its limits, and for its usage where there is no limit."""
CPU_PERIOD_US = 100_000
_CPU_PERCENT_US = CPU_PERIOD_US // 100
NO_LIMITS = Limits()
_UNLIMITED_RATE = 1 << 62
_UNLIMITED_MEMORY_BYTES = 1 << 62
"""Above every real limit: v1 shows "no limit" as the largest whole number of pages."""


class V1Driver:
    """A CgroupDriver. `parent` as in the configuration: "joblet" below the own cgroup, "/joblet" below the mount."""

    version = 1

    def __init__(self, hierarchies: Mapping[str, Hierarchy], parent: str) -> None:
        missing = [controller for controller in JOINED if controller not in hierarchies]
        if missing:
            raise CgroupError(
                f"cgroup setup failed: controllers {', '.join(missing)} are not mounted",
                hint="mount them below /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
            )
        used = {name: hierarchies[name] for name in (*JOINED, "cpuset") if name in hierarchies}
        self._paths = {name: found.path_of(parent) for name, found in used.items()}
        self._parents = {name: found.directory(self._paths[name]) for name, found in used.items()}
        self._depth = len(parent.strip("/").split("/"))
        self._spares = spare.Spares()
        self._last: tuple[Limits, tuple[Device, ...]] | None = None  # of the newest job

    def prepare(self) -> None:
        self._make_parents()
        for directory in self._directories():
            # Also those of another executor that shares the parent: it finds them gone and goes on without.
            leaf.remove_unused(f"{directory}/{name}" for name in spare.names_in(leaf.entries(directory)))

    def _make_parents(self) -> None:
        action = ""
        try:
            for directory in self._directories():
                action = f"creating {directory}"
                leaf.ensure(directory)
                leaf.probe(directory)
            if "cpuset" in self._parents:
                action = f"preparing {self._parents['cpuset']}"
                _inherit_cpuset(self._parents["cpuset"], self._depth)
        except OSError as error:
            raise CgroupError.refused(error, action) from error

    def count_io(self, devices: Sequence[Device]) -> None:
        """Since Linux 6.10 blk-throttle, which counts on v1, sleeps on a disk until it has got its first limit there
        (blk_throtl_activated in block/blk-throttle.h). The parent gets one that is none, and loses it again."""
        path = f"{self._parents['blkio']}/blkio.throttle.read_bps_device"
        try:
            for device in devices:
                for rate in (_UNLIMITED_RATE, 0):
                    files.write(path, f"{device[0]}:{device[1]} {rate}")
        except OSError as error:
            raise CgroupError.refused(error, f"writing to {path}") from error

    def create(self, job_id: str, limits: Limits, devices: Sequence[Device]) -> "V1Job":
        return job.created(job_id, lambda: self._create(job_id, limits, devices), self._begin_again)

    def make_spare(self) -> bool:
        name = self._spares.free_name()
        if name is None or self._last is None:
            return False
        try:
            with ExitStack() as undo:
                self._spares.add(self._make(name, *self._last, undo))
                undo.pop_all()
        except OSError as error:
            raise CgroupError.refused(error, f"creating the cgroup {name}") from error
        return True

    def adopt(self, job_id: str) -> "V1Job":
        directories = {
            name: directory for name, directory in self._job_directories(job_id).items() if leaf.exists(directory)
        }
        if "memory" not in directories:
            raise job.not_there(job_id)
        return V1Job(
            job_id, directories, self._expected(job_id, directories), job.JoinFds(), _open_counter(directories)
        )

    def discard(self, job_id: str) -> None:
        leaf.discard(list(dict.fromkeys(self._job_directories(job_id).values())))

    def existing(self) -> list[str]:
        return sorted({job_id for directory in self._directories() for job_id in leaf.children(directory)})

    def close(self) -> None:
        self._drop_spares()
        leaf.remove_unused(self._directories())

    def _begin_again(self) -> None:
        """The parents are gone, or a spare is: another executor that shares them has ended, or has just begun."""
        self._drop_spares()
        self._make_parents()

    def _drop_spares(self) -> None:
        for unused in self._spares.take_all():
            self._drop(unused)

    def _drop(self, unused: Leaves) -> None:
        unused.close()
        leaf.remove_unused(f"{directory}/{unused.name}" for directory in self._directories())

    def _create(self, job_id: str, limits: Limits, devices: Sequence[Device]) -> "V1Job":
        job.check_id(job_id)
        devices = tuple(devices)
        with ExitStack() as undo:
            made = self._renamed(job_id, limits, devices, undo) or self._make(job_id, limits, devices, undo)
            undo.pop_all()
        self._last = (limits if limits.cpu_cores is None else replace(limits, cpu_cores=None), devices)
        directories = self._leaf_directories(job_id, limits)
        return V1Job(job_id, directories, self._expected(job_id, directories), made.join, made.oom_counter_fd)

    def _renamed(self, job_id: str, limits: Limits, devices: tuple[Device, ...], undo: ExitStack) -> Leaves | None:
        """A spare as the job's. A kill between two renames leaves a part of the job and a part of the spare, and the
        next executor clears away both."""
        found = self._spares.take(limits, devices)
        if found is None:
            return None
        undo.callback(self._drop, found)
        directories = self._leaf_directories(job_id, limits)
        spares = self._leaf_directories(found.name, limits)
        leaf.rename(dict.fromkeys(zip(spares.values(), directories.values(), strict=True)), undo)
        _apply(limits, devices, directories, found.limits)
        return found

    def _make(self, name: str, limits: Limits, devices: tuple[Device, ...], undo: ExitStack) -> Leaves:
        directories = self._leaf_directories(name, limits)
        each = dict.fromkeys(directories.values())
        leaf.make(each, undo)
        _apply(limits, devices, directories)
        payload = _open_tasks(each, undo)
        counter = _open_counter(directories)
        undo.callback(os.close, counter)
        event = _watch_oom(directories["memory"], counter, undo)
        return Leaves(name, limits, devices, job.JoinFds((), payload, event), counter)

    def _directories(self) -> list[str]:
        """The parents, each once: one hierarchy can carry several controllers."""
        return list(dict.fromkeys(self._parents.values()))

    def _job_directories(self, job_id: str) -> dict[str, str]:
        job.check_id(job_id)
        return {name: f"{parent}/{job_id}" for name, parent in self._parents.items()}

    def _leaf_directories(self, name: str, limits: Limits) -> dict[str, str]:
        """By controller; without cpuset when no cores are asked for, unless it shares a hierarchy."""
        return {
            controller: f"{parent}/{name}"
            for controller, parent in self._parents.items()
            if controller != "cpuset" or limits.cpu_cores is not None or self._shares_hierarchy("cpuset")
        }

    def _expected(self, job_id: str, names: Iterable[str]) -> dict[str, str]:
        return {name: f"{self._paths[name].rstrip('/')}/{job_id}" for name in names}

    def _shares_hierarchy(self, controller: str) -> bool:
        return list(self._parents.values()).count(self._parents[controller]) > 1


class V1Job(job.LeafJob):
    """A JobCgroup; `directories` are those of the payload by controller."""

    def __init__(
        self,
        job_id: str,
        directories: Mapping[str, str],
        expected_paths: Mapping[str, str],
        join: job.JoinFds,
        oom_counter_fd: int,
    ) -> None:
        super().__init__(job_id, list(dict.fromkeys(directories.values())), expected_paths, join, oom_counter_fd)
        self._by_controller = dict(directories)

    def kill(self) -> None:
        leaf.kill_all(self._directories)

    def _file(self, name: str) -> str:
        return f"{self._by_controller[name.split('.', 1)[0]]}/{name}"

    def _read_limits(self) -> Limits:
        memory_bytes = files.number(files.value(self._file("memory.limit_in_bytes")))
        quota_us = files.number(files.value(self._file("cpu.cfs_quota_us")))
        rates = [
            rate
            for operation in ("read", "write")
            for rate in files.rates(files.value(self._file(f"blkio.throttle.{operation}_bps_device"))).values()
        ]
        return Limits(
            cpu_percent=quota_us // _CPU_PERCENT_US,
            cpu_cores=parse_cpu_list(files.value(self._file("cpuset.cpus")))
            if "cpuset" in self._by_controller
            else None,
            memory_bytes=0 if memory_bytes >= _UNLIMITED_MEMORY_BYTES else memory_bytes,
            io_bytes_per_second=min(rates, default=0),
            max_processes=files.number(files.value(self._file("pids.max"))),
        )

    def _read_usage(self) -> CgroupUsage:
        user_seconds, system_seconds = self._cpu_seconds()
        moved = {"Read": 0, "Write": 0}
        for device, operation, count in files.operations(files.value(self._file("blkio.throttle.io_service_bytes"))):
            if operation in moved and not is_stacked(device):
                moved[operation] += count
        return CgroupUsage(
            cpu_user_seconds=user_seconds,
            cpu_system_seconds=system_seconds,
            peak_memory_bytes=int(files.value(self._file("memory.max_usage_in_bytes"))),
            io_read_bytes=moved["Read"],
            io_write_bytes=moved["Write"],
            oom_kills=job.oom_kills(files.value(self._file("memory.oom_control"))),
        )

    def _cpu_seconds(self) -> tuple[float, float]:
        """cpuacct.usage is exact to the nanosecond, its parts are counted in ticks: they only divide the sum."""
        total_ns = int(files.value(self._file("cpuacct.usage")))
        user_ns = int(files.value(self._file("cpuacct.usage_user")))
        system_ns = int(files.value(self._file("cpuacct.usage_sys")))
        ticked_ns = user_ns + system_ns
        exact_user_ns = total_ns * user_ns / ticked_ns if ticked_ns else total_ns
        return exact_user_ns / 1e9, (total_ns - exact_user_ns) / 1e9


def _apply(limits: Limits, devices: Sequence[Device], directories: Mapping[str, str], was: Limits = NO_LIMITS) -> None:
    """Writes, and reads back, what differs from the limits that hold already."""
    if limits.memory_bytes != was.memory_bytes:
        _limit_memory(directories["memory"], limits.memory_bytes, was.memory_bytes)
    if limits.cpu_percent != was.cpu_percent:
        cpu = directories["cpu"]
        if not was.cpu_percent:
            setting.apply_number("cpu_percent", f"{cpu}/cpu.cfs_period_us", CPU_PERIOD_US)
        setting.apply_number("cpu_percent", f"{cpu}/cpu.cfs_quota_us", limits.cpu_percent * _CPU_PERCENT_US)
    if limits.cpu_cores is not None:
        _limit_cores(directories.get("cpuset"), limits.cpu_cores)
    if limits.max_processes != was.max_processes:
        setting.apply_number("max_processes", f"{directories['pids']}/pids.max", limits.max_processes)
    if limits.io_bytes_per_second != was.io_bytes_per_second:
        _limit_io(directories["blkio"], limits.io_bytes_per_second, devices)


def _limit_memory(directory: str, limit_bytes: int, was_bytes: int) -> None:
    """memory.memsw (memory with swap) may at no time be below memory. Equal means: no swap at all."""
    paths = [f"{directory}/memory.limit_in_bytes", f"{directory}/memory.memsw.limit_in_bytes"]
    if not os.path.exists(paths[1]):  # noqa: PTH110 - for every job, and a Path costs as much as the call
        setting.require_no_swap("memory.memsw.limit_in_bytes")
        del paths[1]
    if 0 < was_bytes < limit_bytes:
        paths.reverse()
    for path in paths:
        setting.apply_bytes("memory_bytes", path, limit_bytes)
    if not was_bytes:
        setting.apply_number("memory_bytes", f"{directory}/memory.swappiness", 0)


def _limit_cores(directory: str | None, cores: tuple[int, ...]) -> None:
    if directory is None:
        raise LimitNotApplied("cpu_cores", "the cpuset controller is not mounted")
    setting.apply_cores(f"{directory}/cpuset.cpus", cores)


def _limit_io(directory: str, rate: int, devices: Sequence[Device]) -> None:
    setting.require_devices(devices)
    for device in devices:
        for operation in ("read", "write"):
            setting.apply(
                "io_bytes_per_second",
                f"{directory}/blkio.throttle.{operation}_bps_device",
                f"{device[0]}:{device[1]} {rate}",
                partial(_rate_holds, device=device, rate=rate),
            )


def _rate_holds(answer: str, device: Device, rate: int) -> bool:
    return files.rates(answer).get(device) == rate


def _inherit_cpuset(parent: str, depth: int) -> None:
    """Gives the last `depth` directories of `parent` the CPUs and memory nodes of what is above them.

    A new v1 cpuset is empty and takes no process; with clone_children the directories of jobs start with a copy.
    """
    levels = parent.split("/")
    for end in range(len(levels) - depth + 1, len(levels) + 1):
        directory, above = "/".join(levels[:end]), "/".join(levels[: end - 1])
        for name in ("cpus", "mems"):
            available = files.read(f"{above}/cpuset.effective_{name}")
            if files.read(f"{directory}/cpuset.{name}") != available:
                files.write(f"{directory}/cpuset.{name}", available.strip())
    files.write(f"{parent}/cgroup.clone_children", "1")


def _open_tasks(directories: Iterable[str], undo: ExitStack) -> tuple[int, ...]:
    opened: list[int] = []
    undo.callback(_close_all, opened)
    for directory in directories:
        opened.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
    return tuple(opened)


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _open_counter(directories: Mapping[str, str]) -> int:
    return os.open(f"{directories['memory']}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)


def _watch_oom(directory: str, counter_fd: int, undo: ExitStack) -> int:
    """An eventfd that counts up when the limit is hit; the registration lives as long as cgroup and eventfd."""
    event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    undo.callback(os.close, event_fd)
    files.write(f"{directory}/cgroup.event_control", f"{event_fd} {counter_fd}")
    return event_fd
