"""Attestation: before a job's command runs, its isolation and limits are read back from outside and compared.

The parked command has everything already but its own program. `expectation` says what must hold, `mismatches` compares
(pure), `attest` reads and decides. Nothing passes by being absent: each expected fact must be there and equal, and no
mount but the expected ones may exist.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from joblet.common.errors import Internal
from joblet.common.units import format_cpu_list
from joblet.executor.cgroup.driver import JobCgroup
from joblet.executor.cgroup.limits import Limits
from joblet.executor.jobspec import Profile
from joblet.executor.procfs import Mount, Process, ResourceLimits, read_process, read_status

_CAPABILITY_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_PAGE_BYTES: Final = 4096
_REMEMBERED: Final = 1024
_PRIVATE: Final = frozenset({"nosuid", "nodev"})
_ALL_SIGNALS: Final = "fffffffffffbfeff"  # but KILL and STOP; the command unblocks them when it executes
# 0, 1, 2, the control socket and the pipe to init (FD_CONTROL, FD_LAUNCH_WRITE of jobinit.h), which close by execve.
_PARKED_DESCRIPTORS: Final = frozenset({0, 1, 2, 4, 51})
_OUTPUT: Final = "pipe 0222 0"  # written by the job by any name, read back by nobody
# Of what /proc/PID/limits says; a lower ceiling of the executor's own is as good.
_RESOURCE_LIMITS: Final = {
    "Max core file size": 0, "Max locked memory": 64 << 10, "Max pending signals": 4096, "Max msgqueue size": 819200,
    "Max nice priority": 0, "Max realtime priority": 0,
}  # fmt: skip
_INIT_STATUS: Final = ("NSsid", "NSpid", "Groups")
_COMPARED_SETTINGS: Final = frozenset({"size", "nr_inodes", "mode", "uid", "gid", "max", "ptmxmode"})
# What jobinit mounts for one job: mount point -> (file system, options it must have).
_JOB_MOUNTS: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "/proc": ("proc", _PRIVATE | {"noexec"}),
    "/dev/pts": ("devpts", frozenset({"nosuid", "noexec"})),
    "/dev/shm": ("tmpfs", _PRIVATE),
    "/tmp": ("tmpfs", _PRIVATE),
    "/work": ("tmpfs", _PRIVATE),
}
_PAGES: Final = os.sysconf("SC_PHYS_PAGES")
_TMPFS_DEFAULTS: Final = {"size": f"{_PAGES // 2 * 4}k", "nr_inodes": str(_PAGES)}
# CAP_CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, SETGID 6, SETUID 7, SETFCAP 31 (capabilities(7)), DESIGN section 5.
BUILD_CAPABILITIES: Final = sum(1 << number for number in (0, 1, 3, 4, 6, 7, 31))


class AttestationFailed(Internal):
    """What was read back is not what was ordered; the command was not started. `mismatches` names every difference."""

    def __init__(self, mismatches: tuple[str, ...]) -> None:
        super().__init__("isolation could not be verified: " + "; ".join(mismatches))
        self.mismatches = mismatches


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must be true of the parked command. Ids are those of the host; capability sets are bit masks."""

    init_pid: int
    host_id: int
    id_map: str
    user_namespace: int  # inode number
    template: int  # inode number of the mount namespace that all jobs start from
    shared_namespaces: frozenset[str]  # equal to the host's; all others must differ
    host_namespaces: Mapping[str, int]
    capabilities: tuple[tuple[str, int], ...]  # by the kernel's name of the set
    bound_paths: tuple[str, ...]  # system directories of the host, read-only
    proc_masks: frozenset[str]  # parts of /proc that must be mounted over
    settings: Mapping[str, Mapping[str, str]]  # of the job's own file systems, by mount point
    nofile: int
    seccomp_filters: int
    cgroups: Mapping[str, str]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Observation:
    process: Process
    init: Mapping[str, str]  # of its status what _INIT_STATUS names
    limits: Limits


def capabilities_of(profile: Profile) -> tuple[tuple[str, int], ...]:
    """The five sets a command of this profile has while parked."""
    has = {"CapPrm", "CapEff", "CapBnd"} if profile is Profile.BUILD else frozenset()
    return tuple((name, BUILD_CAPABILITIES if name in has else 0) for name in _CAPABILITY_SETS)


def attest(pid: int, cgroup: JobCgroup, expected: Expectation) -> dict[str, str]:
    """The facts about the parked command `pid`, to be stored with the job. Raises AttestationFailed."""
    try:
        directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            init = read_status(expected.init_pid, *_INIT_STATUS)
            observed = Observation(read_process(directory), init, cgroup.read_back())
        finally:
            os.close(directory)
    except OSError as error:
        raise AttestationFailed((f"process {pid} cannot be read: {error}",)) from error
    found = tuple(mismatches(observed, expected))
    if found:
        raise AttestationFailed(found)
    return facts(observed, expected)


def mismatches(observed: Observation, expected: Expectation) -> Iterator[str]:
    """Every difference in words; nothing when all is as it must be."""
    process = observed.process
    yield from _status_mismatches(process.status, expected)
    for name, text in (("uid_map", process.uid_map), ("gid_map", process.gid_map)):
        if text != expected.id_map:
            yield f"{name} is {text or 'empty'}, not {expected.id_map}"
    yield from _session_mismatches(process.status, observed.init)
    yield from _namespace_mismatches(process.namespaces, expected)
    yield from _mount_mismatches(process.mounts, expected)
    yield from _process_mismatches(process, expected)
    for controller, path in expected.cgroups.items():
        if process.cgroups.get(controller) != path:
            yield f"cgroup {controller or 'v2'} is {process.cgroups.get(controller, 'missing')}, not {path}"
    yield from _limit_mismatches(observed.limits, expected.limits)


def facts(observed: Observation, expected: Expectation) -> dict[str, str]:
    """What is kept of a passed attestation, where the status read is the one expected."""
    process, limits = observed.process, observed.limits
    return {
        **_shown_status(expected.host_id, expected.capabilities, expected.seccomp_filters),
        "uid_map": process.uid_map,
        "gid_map": process.gid_map,
        **{f"ns.{name}": str(inode) for name, inode in process.namespaces.items()},
        "ns.shared": " ".join(sorted(expected.shared_namespaces)),
        "mounts": _paths(process.mounts),
        **{f"cgroup.{name or 'v2'}": process.cgroups[name] for name in expected.cgroups},
        "limit.cpuPercent": str(limits.cpu_percent),
        "limit.cpuCores": format_cpu_list(limits.cpu_cores or ()),
        "limit.memoryBytes": str(limits.memory_bytes),
        "limit.ioBytesPerSecond": str(limits.io_bytes_per_second),
        "limit.processes": str(limits.max_processes),
    }


def _status_mismatches(status: Mapping[str, str], expected: Expectation) -> Iterator[str]:
    ordered = _expected_status(expected.host_id, expected.capabilities, expected.seccomp_filters)
    own = {"PPid": str(expected.init_pid)}
    for wanted in (own, ordered):
        if wanted.items() <= status.items():
            continue
        for name, value in wanted.items():
            if status.get(name) != value:
                yield f"{name} is {status.get(name, 'missing')}, not {value or 'empty'}"


@lru_cache(maxsize=_REMEMBERED)
def _expected_status(
    host_id: int, capabilities: tuple[tuple[str, int], ...], seccomp_filters: int
) -> Mapping[str, str]:
    """Remembered, as what follows: there are only so many users of jobs."""
    ids = "\t".join([str(host_id)] * 4)
    return {
        "Uid": ids,
        "Gid": ids,
        "Groups": "",
        **{name: f"{mask:016x}" for name, mask in capabilities},
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "Seccomp_filters": str(seccomp_filters),
        "SigBlk": _ALL_SIGNALS,
        "SigIgn": "0" * 16,
        "SigCgt": "0" * 16,
        "Umask": "0022",
        "Threads": "1",
    }


@lru_cache(maxsize=_REMEMBERED)
def _shown_status(host_id: int, capabilities: tuple[tuple[str, int], ...], seccomp_filters: int) -> Mapping[str, str]:
    status = _expected_status(host_id, capabilities, seccomp_filters)
    return {name: " ".join(value.split()) for name, value in status.items()}


def _session_mismatches(command: Mapping[str, str], init: Mapping[str, str]) -> Iterator[str]:
    # The last of the numbers is that of the innermost pid namespace; init is 1 there.
    for name, status in (("the command", command), ("init", init)):
        if status.get("NSsid", "").split()[-1:] != status.get("NSpid", "missing").split()[-1:]:
            yield f"{name} has no session of its own"
    if init.get("Groups") != "":
        yield f"Groups of init is {init.get('Groups', 'missing')}, not empty"


def _process_mismatches(process: Process, expected: Expectation) -> Iterator[str]:
    if process.descriptors != _PARKED_DESCRIPTORS:
        yield f"open descriptors are {_numbers(process.descriptors)}, not {_numbers(_PARKED_DESCRIPTORS)}"
    if process.output != _OUTPUT:
        yield f"output is {process.output}, not {_OUTPUT}"
    if not process.directory_inside:
        yield "working directory is on no mount of the job"
    if process.oom_score_adj != "500":
        yield f"oom_score_adj is {process.oom_score_adj}, not 500"
    if process.personality != "00000000":
        yield f"personality is {process.personality}, not 0"
    yield from _resource_faults(process.rlimits, expected.nofile)


@lru_cache(maxsize=_REMEMBERED)
def _resource_faults(rlimits: ResourceLimits, nofile: int) -> tuple[str, ...]:
    found = {name: (soft, hard) for name, soft, hard in rlimits}
    faults = []
    for name, most in {**_RESOURCE_LIMITS, "Max open files": nofile}.items():
        soft_and_hard = found.get(name, ("missing", "missing"))
        if not all(value.isdigit() and int(value) <= most for value in soft_and_hard):
            faults.append(f"{name} is {' and '.join(soft_and_hard)}, not {most}")
    return tuple(faults)


def _numbers(descriptors: frozenset[int]) -> str:
    return " ".join(map(str, sorted(descriptors)))


def _namespace_mismatches(found: Mapping[str, int], expected: Expectation) -> Iterator[str]:
    for name, host in expected.host_namespaces.items():
        if name in expected.shared_namespaces:
            if found.get(name) != host:
                yield f"{name} namespace is not the node's"
        elif found.get(name, host) == host:
            yield f"{name} namespace is the node's"
    if found.get("mnt") == expected.template:
        yield "mnt namespace is the one that all jobs start from"
    if found.get("user") != expected.user_namespace:
        yield "user namespace is not the one prepared for the job"


def _mount_mismatches(mounts: tuple[Mount, ...], expected: Expectation) -> Iterator[str]:
    yield from _mount_faults(mounts, expected.bound_paths, expected.proc_masks)
    for path, found in _compared_settings(mounts, frozenset(expected.settings)):
        if found != expected.settings[path]:
            yield from _setting_mismatches(path, found, expected.settings[path])


def _setting_mismatches(path: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(found.keys() | wanted.keys()):
        # tmpfs does not print what equals its own default (mm/shmem.c, shmem_show_options).
        value = found.get(name, _TMPFS_DEFAULTS.get(name))
        if value != wanted.get(name):
            yield f"mount {path} has {name}={value or ''}, not {wanted.get(name, 'none')}"


@lru_cache(maxsize=_REMEMBERED)
def _compared_settings(mounts: tuple[Mount, ...], paths: frozenset[str]) -> tuple[tuple[str, Mapping[str, str]], ...]:
    """Of each mount at these paths what is compared. Remembered, as what follows: job after job has the same mounts."""
    found = []
    for mount in mounts:
        if mount.path in paths:
            pairs = (setting.partition("=") for setting in mount.settings)
            found.append((mount.path, {name: value for name, _, value in pairs if name in _COMPARED_SETTINGS}))
    return tuple(found)


@lru_cache(maxsize=_REMEMBERED)
def _paths(mounts: tuple[Mount, ...]) -> str:
    return " ".join(mount.path for mount in mounts)


@lru_cache(maxsize=_REMEMBERED)
def _mount_faults(
    mounts: tuple[Mount, ...], bound_paths: tuple[str, ...], proc_masks: frozenset[str]
) -> tuple[str, ...]:
    paths = {mount.path for mount in mounts}
    expected = ("/", "/dev", *bound_paths, *_JOB_MOUNTS, *sorted(proc_masks))
    missing = [f"mount {wanted} is missing" for wanted in expected if wanted not in paths]
    return (*missing, *(fault for mount in mounts for fault in _one_mount(mount, bound_paths)))


def _one_mount(mount: Mount, bound_paths: tuple[str, ...]) -> Iterator[str]:
    filesystem, needed = mount.filesystem, _PRIVATE | {"ro"}
    if mount.path in _JOB_MOUNTS:
        filesystem, needed = _JOB_MOUNTS[mount.path]
    elif mount.path == "/":
        filesystem = "tmpfs"
    elif mount.path == "/dev":
        filesystem, needed = "tmpfs", frozenset({"ro", "nosuid", "noexec"})
    elif mount.path.startswith("/proc/"):
        # Masks: a read-only part of proc itself, an empty tmpfs, or /dev/null on a file (a device, so without nodev).
        filesystem, needed = mount.filesystem, frozenset() if _is_null(mount) else frozenset({"ro"})
        if mount.filesystem not in ("proc", "tmpfs"):
            yield f"mount {mount.path} is of {mount.filesystem}"
    elif not _below(mount.path, bound_paths):
        yield f"mount {mount.path} ({mount.filesystem}) is not expected"
        return
    if mount.filesystem != filesystem:
        yield f"mount {mount.path} is of {mount.filesystem}, not {filesystem}"
    if mount.propagates:
        yield f"mount {mount.path} is shared with other mount namespaces"
    missing = needed - mount.options
    if missing:
        yield f"mount {mount.path} lacks {','.join(sorted(missing))}"


def _is_null(mount: Mount) -> bool:
    return mount.filesystem == "tmpfs" and mount.root == "/null"


def _below(path: str, directories: tuple[str, ...]) -> bool:
    return any(path == directory or path.startswith(f"{directory}/") for directory in directories)


def _limit_mismatches(found: Limits, ordered: Limits) -> Iterator[str]:
    pairs = {
        "cpu percent": (found.cpu_percent, ordered.cpu_percent),
        "cpu cores": (found.cpu_cores if ordered.cpu_cores else None, ordered.cpu_cores),
        "memory bytes": (found.memory_bytes, ordered.memory_bytes // _PAGE_BYTES * _PAGE_BYTES),
        "io bytes per second": (found.io_bytes_per_second, ordered.io_bytes_per_second),
        "processes": (found.max_processes, ordered.max_processes),
    }
    for name, (is_value, wanted) in pairs.items():
        if is_value != wanted:
            yield f"limit of {name} is {is_value}, not {wanted}"
