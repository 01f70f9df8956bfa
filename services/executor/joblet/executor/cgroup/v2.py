"""The driver for cgroup v2.

    <base>/joblet-executor      the executor itself, when <base> may not hold processes
    <base>/<parent>/init        the inits of all jobs: no limit, never removed
    <base>/<parent>/<job_id>    the payload of one job

<base> is the executor's own cgroup. One `init` for all instead of one a job: a directory with five controllers costs
time at both ends, and pages of a log stay in memory, and their cgroup with them, long after the job. Controllers are
enabled from the mount down to <parent>. v2 wants no processes in a cgroup that gives controllers to its children; only
the true root is free of that rule. So the executor moves itself into a leaf, and in a container, where the root of the
namespace is what it may use, everybody else too. A job joins by CLONE_INTO_CGROUP with the directory.

Source: Documentation/admin-guide/cgroup-v2.rst.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from errno import EBUSY, ESRCH
from functools import partial
from pathlib import Path

from joblet.common.units import format_cpu_list, parse_cpu_list
from joblet.executor.cgroup import files, job, leaf, setting
from joblet.executor.cgroup.devices import is_stacked
from joblet.executor.cgroup.driver import CgroupError, CgroupUsage, Device, LimitNotApplied
from joblet.executor.cgroup.hierarchies import UNIFIED, Hierarchy
from joblet.executor.cgroup.limits import Limits

REQUIRED = ("cpu", "io", "memory", "pids")
OPTIONAL = ("cpuset",)
"""Needed only by jobs that ask for cores."""
EXECUTOR_LEAF = "joblet-executor"
INIT_LEAF = "init"
CPU_PERIOD_US = 100_000
_CPU_PERCENT_US = CPU_PERIOD_US // 100
_INIT_CPU_WEIGHT = 10_000
"""The most there is: inits only pump output, and share one cgroup beside every busy job (cpu.weight 100)."""
_MOVE_ROUNDS = 10


class V2Driver:
    """A CgroupDriver. `parent` as in the configuration: "joblet" below the own cgroup, "/joblet" below the mount."""

    version = 2

    def __init__(self, hierarchy: Hierarchy, parent: str) -> None:
        # After a restart inside the leaf the base is what is above it.
        base = hierarchy.moved(hierarchy.own.removesuffix(f"/{EXECUTOR_LEAF}") or "/")
        self._root = hierarchy.mount_point
        self._path = base.path_of(parent)
        self._parent = hierarchy.directory(self._path)

    def prepare(self) -> None:
        try:
            leaf.ensure(self._parent)
            leaf.probe(self._parent)
            for directory in self._chain():
                self._enable(directory)
            leaf.ensure(f"{self._parent}/{INIT_LEAF}")
            files.write(f"{self._parent}/{INIT_LEAF}/cpu.weight", str(_INIT_CPU_WEIGHT))
        except OSError as error:
            raise CgroupError.refused(error, f"preparing {self._parent} ({error.filename})") from error

    def count_io(self, devices: Sequence[Device]) -> None:
        """v2 always counts (io.stat)."""

    def create(self, job_id: str, limits: Limits, devices: Sequence[Device]) -> "V2Job":
        return job.created(job_id, lambda: self._create(job_id, limits, devices), self.prepare)

    def make_spare(self) -> bool:
        """v2 renames no cgroup (kernfs_rename is for v1 only), so none can be made ahead."""
        return False

    def adopt(self, job_id: str) -> "V2Job":
        directory = self._job_directory(job_id)
        if not leaf.exists(directory):
            raise job.not_there(job_id)
        return V2Job(job_id, directory, self._expected(job_id), job.JoinFds(), _open_counter(directory))

    def discard(self, job_id: str) -> None:
        leaf.discard([self._job_directory(job_id)])

    def existing(self) -> list[str]:
        return [name for name in leaf.children(self._parent) if name != INIT_LEAF]

    def close(self) -> None:
        if not self.existing():
            leaf.remove_unused([f"{self._parent}/{INIT_LEAF}", self._parent])

    def _create(self, job_id: str, limits: Limits, devices: Sequence[Device]) -> "V2Job":
        directory = self._job_directory(job_id)
        with ExitStack() as undo:
            init = _open_directory(f"{self._parent}/{INIT_LEAF}", undo)
            leaf.make([directory], undo)
            _apply(limits, devices, directory)
            payload = _open_directory(directory, undo)
            counter = _open_counter(directory)
            undo.callback(os.close, counter)
            made = V2Job(job_id, directory, self._expected(job_id), job.JoinFds((init,), (payload,)), counter)
            undo.pop_all()
        return made

    def _job_directory(self, job_id: str) -> str:
        job.check_id(job_id)
        if job_id == INIT_LEAF:
            raise ValueError(f"not a job id: {job_id!r}")
        return f"{self._parent}/{job_id}"

    def _expected(self, job_id: str) -> dict[str, str]:
        return {UNIFIED: f"{self._path.rstrip('/')}/{job_id}"}

    def _chain(self) -> list[str]:
        """Every directory from the mount point down to the parent."""
        parent, root = Path(self._parent), Path(self._root)
        return [str(level) for level in reversed((parent, *parent.parents)) if level.is_relative_to(root)]

    def _enable(self, directory: str) -> None:
        """Gives what jobs need to the children of `directory`, emptying it of processes where v2 wants that."""
        available = set(files.read(f"{directory}/cgroup.controllers").split())
        missing = [controller for controller in REQUIRED if controller not in available]
        if missing:
            raise CgroupError(
                f"cgroup setup failed: {directory} has no controllers {', '.join(missing)}",
                hint="delegate them to the executor (systemd: Delegate=yes)",
            )
        enabled = set(files.read(f"{directory}/cgroup.subtree_control").split())
        wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in available and name not in enabled]
        if wanted:
            self._vacate(directory)
            files.write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))

    def _vacate(self, directory: str) -> None:
        if not Path(directory, "cgroup.type").exists():
            return  # the true root may hold processes
        for _ in range(_MOVE_ROUNDS):
            pids = self._movable(directory)
            if not pids:
                break
            leaf.ensure(f"{directory}/{EXECUTOR_LEAF}")
            for pid in pids:
                _move(pid, f"{directory}/{EXECUTOR_LEAF}")
        left = leaf.pids_in([directory])
        if left:
            raise CgroupError(
                f"cgroup setup failed: {os.strerror(EBUSY).lower()}",
                hint=f"processes {', '.join(map(str, left))} are in {directory}: give the executor a cgroup of its own "
                'or a parent at the top (cgroupParent: "/joblet")',
            )

    def _movable(self, directory: str) -> list[int]:
        pids = leaf.pids_in([directory])
        if directory == self._root:
            return [pid for pid in pids if pid != 0]
        return [pid for pid in pids if pid == os.getpid()]


class V2Job(job.LeafJob):
    """A JobCgroup whose payload is one directory."""

    def __init__(
        self, job_id: str, directory: str, expected_paths: dict[str, str], join: job.JoinFds, oom_counter_fd: int
    ) -> None:
        super().__init__(job_id, [directory], expected_paths, join, oom_counter_fd)
        self._directory = directory

    def kill(self) -> None:
        leaf.kill_all(self._directories)

    def _file(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _read_limits(self) -> Limits:
        quota_us, period_us = files.value(self._file("cpu.max")).split()
        cpuset = self._file("cpuset.cpus")
        cores = files.read(cpuset).strip() if Path(cpuset).exists() else ""
        rates = [
            files.number(values[key])
            for values in files.by_device(files.value(self._file("io.max"))).values()
            for key in ("rbps", "wbps")
        ]
        return Limits(
            cpu_percent=files.number(quota_us) * 100 // int(period_us),
            cpu_cores=parse_cpu_list(cores) if cores else None,
            memory_bytes=files.number(files.value(self._file("memory.max"))),
            io_bytes_per_second=min(rates, default=0),
            max_processes=files.number(files.value(self._file("pids.max"))),
        )

    def _read_usage(self) -> CgroupUsage:
        cpu = files.keyed(files.value(self._file("cpu.stat")))
        moved = [
            values
            for device, values in files.by_device(files.value(self._file("io.stat"))).items()
            if values and not is_stacked(device)
        ]
        return CgroupUsage(
            cpu_user_seconds=cpu["user_usec"] / 1e6,
            cpu_system_seconds=cpu["system_usec"] / 1e6,
            peak_memory_bytes=self._peak_memory_bytes(),
            io_read_bytes=sum(int(values["rbytes"]) for values in moved),
            io_write_bytes=sum(int(values["wbytes"]) for values in moved),
            oom_kills=job.oom_kills(files.value(self._file("memory.events"))),
        )

    def _peak_memory_bytes(self) -> int | None:
        try:
            return int(files.value(self._file("memory.peak")))
        except FileNotFoundError:
            return None  # before 5.19


def _apply(limits: Limits, devices: Sequence[Device], directory: str) -> None:
    if limits.memory_bytes:
        _limit_memory(directory, limits.memory_bytes)
    if limits.cpu_percent:
        quota = f"{limits.cpu_percent * _CPU_PERCENT_US} {CPU_PERIOD_US}"
        setting.apply("cpu_percent", f"{directory}/cpu.max", quota, lambda answer: answer.strip() == quota)
    if limits.cpu_cores is not None:
        _limit_cores(directory, limits.cpu_cores)
    if limits.max_processes:
        setting.apply_number("max_processes", f"{directory}/pids.max", limits.max_processes)
    if limits.io_bytes_per_second:
        _limit_io(directory, limits.io_bytes_per_second, devices)


def _limit_memory(directory: str, limit_bytes: int) -> None:
    setting.apply_bytes("memory_bytes", f"{directory}/memory.max", limit_bytes)
    setting.apply_number("memory_bytes", f"{directory}/memory.oom.group", 1)
    swap = f"{directory}/memory.swap.max"
    if Path(swap).exists():
        setting.apply("memory_bytes", swap, "0", lambda answer: answer.strip() == "0")
    else:
        setting.require_no_swap("memory.swap.max")


def _limit_cores(directory: str, cores: tuple[int, ...]) -> None:
    """v2 takes any list and gives what is there, so the list in effect has to be compared."""
    setting.apply_cores(f"{directory}/cpuset.cpus", cores)
    effective = files.read(f"{directory}/cpuset.cpus.effective").strip()
    if parse_cpu_list(effective) != cores:
        raise LimitNotApplied("cpu_cores", f"of the cores {format_cpu_list(cores)} the executor has only {effective}")


def _limit_io(directory: str, rate: int, devices: Sequence[Device]) -> None:
    setting.require_devices(devices)
    for device in devices:
        setting.apply(
            "io_bytes_per_second",
            f"{directory}/io.max",
            f"{device[0]}:{device[1]} rbps={rate} wbps={rate}",
            partial(_io_holds, device=device, rate=rate),
        )


def _io_holds(answer: str, device: Device, rate: int) -> bool:
    values = files.by_device(answer).get(device, {})
    return values.get("rbps") == values.get("wbps") == str(rate)


def _open_directory(directory: str, undo: ExitStack) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    undo.callback(os.close, fd)
    return fd


def _open_counter(directory: str) -> int:
    return os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)


def _move(pid: int, directory: str) -> None:
    try:
        files.write(f"{directory}/cgroup.procs", str(pid))
    except OSError as error:
        if error.errno != ESRCH:  # ended meanwhile
            raise
