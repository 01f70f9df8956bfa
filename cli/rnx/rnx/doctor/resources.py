"""What the machine has left: directories that can be written, disk, memory, time, limits on files and processes.

Sizes in bytes unless the name says otherwise. A directory that does not exist yet is judged by the one it would be
made in.
"""

import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rnx.doctor.caller import FILES, Caller, unknown
from rnx.doctor.findings import Finding, failed, ok, warning

MIB: Final = 1 << 20
SERVICES_MIB: Final = 256  # what the idle services take together
FIRST_YEAR: Final = 2025  # before the first release
_LAST_YEAR: Final = 2100
_FILES_PER_JOB: Final = 24  # descriptors that executor and logstore keep for one running job, with some room
_FILES_IDLE: Final = 512


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of the configuration. Below `least_bytes` free it fails, below `low_bytes` it warns."""

    check: str
    path: Path
    key: str  # of the configuration, by which it can be moved
    least_bytes: int = 64 * MIB
    low_bytes: int = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Room:
    """What a file system has left; `inodes` is None where they are not counted (btrfs)."""

    free_bytes: int
    free_inodes: int | None


_LEAST_INODES, _LOW_INODES = 1_000, 20_000


def directory(place: Place, caller: Caller) -> Finding:
    """Whether files can be made there, and what is left. The one that is made has no name, or is removed at once."""
    existing = nearest(place.path)
    where = str(place.path) if existing == place.path else f"{place.path} (to be made in {existing})"
    try:
        with tempfile.TemporaryFile(prefix=".joblet-doctor-", dir=existing) as file:
            file.write(b"\0")
        usage = os.statvfs(existing)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM) and caller.cannot_tell(FILES):
            return unknown(place.check, caller, FILES)
        return _unwritable(place, existing, where, error)
    room = Room(usage.f_bavail * usage.f_frsize, usage.f_favail if usage.f_files else None)
    return left(place, where, existing, room)


def left(place: Place, where: str, existing: Path, room: Room) -> Finding:
    """`where` is the text for the directory; `existing` the one whose file system was asked."""
    inodes = "" if room.free_inodes is None else f", {room.free_inodes} files"
    found = f"{where}: writable, {size(room.free_bytes)}{inodes} free"
    scarce = room.free_inodes if room.free_inodes is not None else _LOW_INODES
    cure = f"`du -xh {existing} | sort -h | tail` shows what is large; free some, or set {place.key} to another disk"
    if room.free_bytes < place.least_bytes:
        return failed(place.check, found, cause=f"less than {size(place.least_bytes)} free", cure=cure)
    if scarce < _LEAST_INODES:
        few = f"`df -i {existing}`: remove files, or set {place.key} to another disk"
        return failed(place.check, found, cause=f"room for less than {_LEAST_INODES} further files", cure=few)
    if room.free_bytes < place.low_bytes or scarce < _LOW_INODES:
        return warning(place.check, found, cause="it will soon be full", cure=cure)
    return ok(place.check, found)


def _unwritable(place: Place, existing: Path, where: str, error: OSError) -> Finding:
    said = (error.strerror or str(error)).lower()
    mounted = _mount_point(existing)
    elsewhere = f"or set {place.key} to another directory"
    why = {
        errno.EROFS: ("the file system is mounted read-only", f"`mount -o remount,rw {mounted}`, {elsewhere}"),
        errno.ENOSPC: ("the disk is full", f"`df -h {mounted}; df -i {mounted}`: free some, {elsewhere}"),
        errno.ENOTDIR: (f"{existing} is not a directory", f"`mv {existing} {existing}.old`, {elsewhere}"),
    }
    cause, cure = why.get(error.errno or 0, (said, f"`ls -ld {existing}; lsattr -d {existing}`, {elsewhere}"))
    return failed(place.check, f"{where}: {said}", cause=cause, cure=cure)


def nearest(path: Path) -> Path:
    """`path`, or the part of it that exists."""
    return next(candidate for candidate in (path, *path.parents) if os.path.lexists(candidate))


def _mount_point(path: Path) -> Path:
    return next(candidate for candidate in (path, *path.parents) if candidate.is_mount() or candidate == Path("/"))


def memory(meminfo: str, job_mib: int) -> Finding:
    """`meminfo` is /proc/meminfo, `job_mib` what a job gets that does not ask."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    found = f"{size(free)} of {size(int(fields['MemTotal'].split()[0]) * 1024)} available"
    cure = "`ps -eo rss,comm --sort -rss | head` shows who has it; end something, or give the machine more"
    if free < SERVICES_MIB * MIB:
        return failed("memory", found, cause=f"Joblet's services take up to {SERVICES_MIB} MiB", cure=cure)
    if free < (SERVICES_MIB + job_mib) * MIB:
        return warning(
            "memory", found, cause=f"not enough for one job of {job_mib} MiB (joblet.defaultMemoryLimit)", cure=cure
        )
    return ok("memory", found)


def clock(year: int, synchronized: bool | None) -> Finding:
    """`synchronized` is what the kernel says of its clock, None when it could not be asked."""
    if not FIRST_YEAR <= year <= _LAST_YEAR:
        return failed(
            "clock",
            f"the year is {year}",
            cause="the clock is not set: certificates count as expired or not yet valid",
            cure='`timedatectl set-ntp true`, or `date -s "2030-12-31 12:00"` with the right time',
        )
    if synchronized is False:
        return warning(
            "clock",
            f"the year is {year}, nothing keeps the clock right",
            cause="no time service runs; times of jobs drift apart between nodes",
            cure="`timedatectl set-ntp true`, or `apt-get install chrony`",
        )
    return ok("clock", f"the year is {year}, " + ("kept right" if synchronized else "whether it is kept is unknown"))


def open_files(hard: int, jobs: int) -> Finding:
    """`hard` is the hard RLIMIT_NOFILE, -1 for none; `jobs` how many may run at a time."""
    needed = _FILES_IDLE + jobs * _FILES_PER_JOB
    found = "no limit" if hard < 0 else f"{hard} per process"
    cure = f"`ulimit -n {max(needed, 65536)}` before the executor is started; systemd: LimitNOFILE=1048576"
    if 0 <= hard < _FILES_IDLE:
        return failed("open files", found, cause=f"the services need {_FILES_IDLE} each", cure=cure)
    if 0 <= hard < needed:
        return warning(
            "open files", found, cause=f"{jobs} jobs at a time (joblet.maxConcurrentJobs) take {needed}", cure=cure
        )
    return ok("open files", found)


def processes(pid_max: int, threads_max: int, running: int, per_job: int) -> Finding:
    """kernel.pid_max, kernel.threads-max, how many tasks there are, and how many a job may have."""
    room = min(pid_max, threads_max) - running
    found = f"pid_max {pid_max}, threads-max {threads_max}, {running} running"
    cure = "`sysctl -w kernel.pid_max=4194304 kernel.threads-max=1000000`"
    if pid_max < per_job:
        return failed(
            "processes",
            found,
            cause=f"a job may have {per_job} (joblet.maxProcesses), more than there can be",
            cure=cure,
        )
    if room < per_job:
        return warning(
            "processes",
            found,
            cause=f"one job with all its {per_job} (joblet.maxProcesses) would use them up",
            cure=cure,
        )
    return ok("processes", found)


def running_tasks(loadavg: str) -> int:
    """Of /proc/loadavg, whose fourth field is RUNNABLE/ALL (proc(5))."""
    return int(loadavg.split()[3].split("/")[1])


def size(count: int) -> str:
    """ "512 MiB", "12.3 GiB"."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit in ("bytes", "KiB", "MiB") else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
