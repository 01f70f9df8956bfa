"""Cgroups: which version, the controllers jobs need, whether a group can be made, whether swap is counted.

A group named joblet-doctor-PID is made below this process's own group and removed at once, as the executor makes its
own below its. Nothing else is written.
"""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rnx.doctor import hierarchies
from rnx.doctor.attempts import Outcome
from rnx.doctor.caller import FILES, Caller, unknown
from rnx.doctor.findings import Finding, failed, ok, warning
from rnx.doctor.hierarchies import Hierarchies

UNIFIED_BOOT: Final = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
CONTROLLERS: Final = ("cpu", "cpuset", "memory", "pids", "io")

_V1_NAMES: Final = {"io": "blkio"}
_V1_USAGE: Final = "cpuacct"  # v1 limits CPU in one hierarchy and counts it in another
_OPTIONS: Final = {
    "cpu": "CONFIG_CFS_BANDWIDTH", "cpuset": "CONFIG_CPUSETS", "memory": "CONFIG_MEMCG", "pids": "CONFIG_CGROUP_PIDS",
    "io": "CONFIG_BLK_DEV_THROTTLING",
}  # fmt: skip
_V1_FILES: Final = {"cpu": "cpu.cfs_quota_us", "io": "blkio.throttle.read_bps_device"}  # parts that can be left out
_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM)
_LIMITS: Final = {"cpu": "CPU limits", "memory": "memory limits", "pids": "process limits", "io": "I/O limits"}


def look() -> Hierarchies:
    """This machine's. Linux only."""
    mountinfo = Path("/proc/self/mountinfo").read_text()
    point = hierarchies.unified_mount(mountinfo)
    controllers = Path(point, "cgroup.controllers").read_text() if point is not None else ""
    return hierarchies.parse(mountinfo, Path("/proc/self/cgroup").read_text(), controllers)


def version(found: Hierarchies) -> Finding:
    if found.layout == "none":
        return failed(
            "cgroup version",
            "no cgroup hierarchy is mounted",
            cause="limits and the usage of jobs are the cgroups' work",
            cure="`mount -t cgroup2 cgroup2 /sys/fs/cgroup`",
        )
    text = {
        "v2": "v2",
        "v1": "v1",
        "hybrid": f"hybrid: v1 and v2 side by side, jobs use {'v2' if found.uses_v2 else 'v1'}",
    }[found.layout]
    return ok("cgroup version", text)


def controller(name: str, found: Hierarchies, known: str, exists: Callable[[str], bool]) -> Finding:
    """`name` as v2 has it; `known` is /proc/cgroups; `exists` tells whether a file is there."""
    check = f"cgroup {name}"
    if found.uses_v2 or not found.v1:
        if name in found.available:
            return ok(check, f"{name} (v2)")
        return _missing(name, check, "the unified hierarchy has no such controller", _enable(name, known, ""))
    v1_name = _V1_NAMES.get(name, name)
    hierarchy = found.v1.get(v1_name)
    if hierarchy is None and name in found.available:
        text = f"{name} is in the unified hierarchy, others are in v1"
        return _missing(name, check, text, ("jobs use either v1 or v2", UNIFIED_BOOT))
    if hierarchy is None:
        return _missing(name, check, f"{v1_name} is not mounted", _enable(name, known, v1_name))
    if name == "cpu" and _V1_USAGE not in found.v1:
        return _missing(name, check, f"{_V1_USAGE} is not mounted", _enable(_V1_USAGE, known, _V1_USAGE))
    file = _V1_FILES.get(name)
    if file and hierarchy.own and not exists(f"{hierarchy.own}/{file}"):
        return _missing(
            name, check, f"{v1_name} has no {file}", ("", f"boot a kernel with {_OPTIONS[name]}=y, or: {UNIFIED_BOOT}")
        )
    return ok(check, f"{v1_name} (v1) at {hierarchy.point}")


def _missing(name: str, check: str, text: str, why: tuple[str, str]) -> Finding:
    cause, cure = why
    if name == "cpuset":
        lost = "jobs that ask for cores are refused"
        return warning(check, text, cause=f"{cause}; {lost}" if cause else lost, cure=cure)
    lost = f"{_LIMITS[name]} cannot be kept"
    return failed(check, text, cause=f"{cause}; {lost}" if cause else lost, cure=cure)


def _enable(name: str, known: str, v1_name: str) -> tuple[str, str]:
    """Cause and cure, by what /proc/cgroups says about the controller; `v1_name` is "" where v2 is used."""
    rows = {line.split()[0]: line.split() for line in known.splitlines() if line and not line.startswith("#")}
    row = rows.get(_V1_NAMES.get(name, name))
    if row is None:
        option = _OPTIONS.get(name, f"CONFIG_CGROUP_{name.upper()}")
        return "the kernel is built without it", f"boot a kernel with {option}=y"
    if row[3] == "0":
        parameter = f"cgroup_enable={row[0]}"
        return "it is switched off at boot", f"add {parameter} to the kernel's command line and boot again"
    if v1_name:
        place = f"/sys/fs/cgroup/{v1_name}"
        mount = f"`mkdir -p {place} && mount -t cgroup -o {v1_name} cgroup {place}`"
        return "it is there and not mounted", f"{mount}, or: {UNIFIED_BOOT}"
    return (
        "it is not given to this part of the hierarchy",
        f"outside a container: {UNIFIED_BOOT}; systemd: Delegate=yes",
    )


def groups(found: Hierarchies, caller: Caller) -> Finding:
    """Whether a group can be made and removed in every hierarchy that jobs use."""
    check = "cgroup groups"
    used = _used(found)
    hidden = [point for point, own in used.items() if own is None]
    if not used:
        return failed(check, "nowhere to make one", cause="see cgroup version", cure="mend cgroup version first")
    if hidden:
        return failed(
            check,
            f"{hidden[0]} does not show the group of this process",
            cause="the cgroup file system was mounted from outside this cgroup namespace",
            cure="start the container with `docker run --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw`",
        )
    outcomes = {own: make_and_remove(Path(own)) for own in used.values() if own is not None}
    return groups_of(outcomes, caller)


def groups_of(outcomes: dict[str, Outcome], caller: Caller) -> Finding:
    """`outcomes` by the directory in which a group was tried."""
    check = "cgroup groups"
    refused = {directory: outcome for directory, outcome in outcomes.items() if not outcome.worked}
    if not refused:
        where = next(iter(outcomes)) if len(outcomes) == 1 else f"{len(outcomes)} hierarchies"
        return ok(check, f"made and removed in {where}")
    directory, outcome = next(iter(refused.items()))
    if outcome.errno in (errno.EACCES, errno.EPERM) and caller.cannot_tell(FILES):
        return unknown(check, caller, FILES)
    causes = {
        errno.EROFS: ("it is mounted read-only, as in containers", "start with `docker run --privileged`"),
        errno.EAGAIN: (
            "the number of groups is limited above",
            f"raise cgroup.max.descendants and cgroup.max.depth above {directory}",
        ),
        errno.ENOSPC: (
            "a new group there gets no cores or memory nodes, or the number of groups is reached",
            "give the group above them: cpuset.cpus and cpuset.mems must not be empty",
        ),
    }
    refusal = (
        f"{caller.confinement} refuses it",
        "start outside a container, or in a systemd unit with Delegate=yes",
    )
    cause, cure = causes.get(outcome.errno, refusal)
    places = ", ".join(refused)
    return failed(check, f"none can be made in {places}: {outcome.text}", cause=cause, cure=cure)


def make_and_remove(directory: Path) -> Outcome:
    """A group of our own, which is empty and so always removable."""
    trial = directory / f"joblet-doctor-{os.getpid()}"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)  # nobody may end us in between
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        return Outcome(error.errno or errno.EIO, (error.strerror or str(error)).lower())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Outcome(0, str(directory))


def _used(found: Hierarchies) -> dict[str, str | None]:
    """Mount point -> own directory of the hierarchies that jobs use."""
    if found.uses_v2 or not found.v1:
        return {found.unified.point: found.unified.own} if found.unified else {}
    names = {_V1_USAGE, *(_V1_NAMES.get(name, name) for name in CONTROLLERS)}
    return {hierarchy.point: hierarchy.own for name, hierarchy in found.v1.items() if name in names}


def swap(found: Hierarchies, swaps: str) -> Finding:
    """`swaps` is /proc/swaps. A job must not go on in swap past its memory limit."""
    if len(swaps.splitlines()) < 2:
        return ok("swap accounting", "not needed: no swap is in use")
    file = _swap_file(found)
    if file is not None:
        return ok("swap accounting", f"swap is counted ({file.name})")
    return failed(
        "swap accounting",
        "swap is in use and not counted",
        cause="the memory limit of a job could be passed by swapping, so jobs with one are refused",
        cure="`swapoff -a`, or add swapaccount=1 to the kernel's command line and boot again",
    )


def _swap_file(found: Hierarchies) -> Path | None:
    """The file that limits swap; the root of v2 has none, so its children are asked."""
    if found.uses_v2 and found.unified:
        places = [Path(found.unified.own or found.unified.point), Path(found.unified.point)]
        candidates = [place / "memory.swap.max" for place in places]
        candidates += sorted(Path(found.unified.point).glob("*/memory.swap.max"))
    else:
        own = found.v1["memory"].own if "memory" in found.v1 else None
        candidates = [Path(own, "memory.memsw.limit_in_bytes")] if own else []
    return next((file for file in candidates if file.exists()), None)
