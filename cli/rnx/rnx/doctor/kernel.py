"""The kernel: its version, and what jobs need of it, really tried in children that leave nothing behind."""

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rnx.doctor import probes
from rnx.doctor.attempts import Outcome, attempt
from rnx.doctor.caller import Caller, Need, explained
from rnx.doctor.findings import Finding, Status, failed, ok, warning

OLDEST: Final = (5, 12)
"""mount_setattr(2), with which the system directories of jobs are made read-only; the rest is older."""

_NO_JOBS: Final = "without it no job starts"
_OPTIONS: Final = {
    "cgroup": "CGROUPS", "ipc": "IPC_NS", "mount": "NAMESPACES", "network": "NET_NS", "pid": "PID_NS", "uts": "UTS_NS",
}  # fmt: skip
_SYSCTLS: Final = {"mount": "mnt", "network": "net"}  # where user.max_..._namespaces has another word


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing to try."""

    check: str
    probe: Callable[[], str]
    need: Need


FEATURES: Final = (
    Feature("clone3", probes.clone3, Need(Status.FAILED, _NO_JOBS, (), (5, 3))),
    Feature("pidfd", probes.pidfd, Need(Status.FAILED, _NO_JOBS, (), (5, 3))),
    Feature("bind mounts", probes.bind_mounts, Need(Status.FAILED, _NO_JOBS, since=OLDEST)),
    Feature(
        "mounts and devices",
        probes.mounts_and_devices,
        Need(Status.FAILED, _NO_JOBS, ("SYS_ADMIN", "MKNOD"), option="CONFIG_TMPFS"),
    ),
    Feature("seccomp", probes.seccomp, Need(Status.FAILED, _NO_JOBS, (), option="CONFIG_SECCOMP_FILTER")),
    Feature("splice", probes.splice, Need(Status.FAILED, "the output of jobs is moved by it", (), (2, 6))),
    Feature("fsopen", probes.new_mounts, Need(Status.WARNING, "volumes are mounted by it", since=(5, 2))),
)


def version(release: str) -> tuple[int, int]:
    """ "6.1.0-13-amd64" as (6, 1). Raises ValueError."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        raise ValueError(f"not a version of Linux: {release!r}")
    return int(match[1]), int(match[2])


def kernel(release: str) -> Finding:
    if version(release) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return failed(
            "kernel",
            f"Linux {release}",
            cause=f"jobs need system calls of Linux {wanted} (mount_setattr, close_range, clone3 into a cgroup)",
            cure=f"boot Linux {wanted} or later: `apt-get install linux-image-amd64`, or your distribution's newest",
        )
    return ok("kernel", f"Linux {release}")


def features(caller: Caller, release: str) -> Iterator[Finding]:
    for feature in FEATURES:
        yield judged(feature.check, attempt(feature.probe), feature.need, caller, release)


def judged(check: str, outcome: Outcome, need: Need, caller: Caller, release: str) -> Finding:
    return ok(check, outcome.text) if outcome.worked else explained(check, outcome, need, caller, version(release))


def namespaces(caller: Caller, release: str) -> Finding:
    """Each kind by itself; the first one that cannot be made gives the cause."""
    outcomes = {kind: attempt(partial(probes.namespace, flags)) for kind, flags in probes.NAMESPACES.items()}
    return namespaces_of(outcomes, caller, release)


def namespaces_of(outcomes: dict[str, Outcome], caller: Caller, release: str) -> Finding:
    refused = {kind: outcome for kind, outcome in outcomes.items() if not outcome.worked}
    if not refused:
        return ok("namespaces", f"{', '.join(outcomes)} can be made")
    kind, first = next(iter(refused.items()))
    limit = f"user.max_{_SYSCTLS.get(kind, kind)}_namespaces"
    need = Need(Status.FAILED, _NO_JOBS, option=f"CONFIG_{_OPTIONS[kind]}", limit=limit)
    text = f"{', '.join(refused)}: {first.text}"
    return explained("namespaces", Outcome(first.errno, text), need, caller, version(release))


def user_namespaces(first_id: int, size: int, count: int, caller: Caller, release: str) -> Finding:
    """Whether one with a range of ids can be made, and as many as jobs may run at a time."""
    check = "user namespaces"
    outcome = attempt(partial(probes.user_namespace, first_id, size))
    limit = "user.max_user_namespaces"
    if not outcome.worked:
        need = Need(Status.FAILED, _NO_JOBS, ("SETUID", "SETGID"), option="CONFIG_USER_NS", limit=limit)
        return explained(check, outcome, need, caller, version(release))
    return enough_user_namespaces(outcome.text, int(Path("/proc/sys/user/max_user_namespaces").read_text()), count)


def enough_user_namespaces(mapped: str, allowed: int, count: int) -> Finding:
    """`count` is how many jobs may run at a time; each has one."""
    if allowed < count:
        return failed(
            "user namespaces",
            f"{allowed} allowed, {count} needed",
            cause="one for each job that may run at a time (joblet.maxConcurrentJobs) is made when the executor starts",
            cure=f"`sysctl -w user.max_user_namespaces={max(count * 2, 4096)}`, or lower joblet.maxConcurrentJobs",
        )
    return ok("user namespaces", f"{mapped}, {allowed} allowed")


def idmapped_mounts(directory: Path, first_id: int, size: int, caller: Caller, release: str) -> Finding:
    outcome = attempt(partial(probes.idmapped_mounts, str(directory), first_id, size))
    need = Need(Status.WARNING, "volumes need them", ("SYS_ADMIN", "SETUID", "SETGID"), OLDEST)
    if outcome.errno == errno.EINVAL:
        return warning(
            "idmapped mounts",
            f"not on the file system of {directory}",
            cause="this kernel cannot do them for this kind of file system; volumes need them",
            cure=f"`findmnt -T {directory}` shows which it is; use ext4, xfs or btrfs, or boot Linux 6.3 or later",
        )
    return judged("idmapped mounts", outcome, need, caller, release)


def overlayfs(caller: Caller, release: str, filesystems: str, modules: str) -> Finding:
    """Tried only when it is there already: a mount would load the module, and that would stay.

    `filesystems` is /proc/filesystems, `modules` modules.dep of this kernel or "".
    """
    if "overlay" in filesystems.split():
        need = Need(Status.WARNING, "runtimes need it", ("SYS_ADMIN", "DAC_OVERRIDE"), option="CONFIG_OVERLAY_FS")
        return judged("overlayfs", attempt(probes.overlayfs), need, caller, release)
    if re.search(r"/overlay\.ko\b", modules):
        return ok("overlayfs", "there as a module, which is loaded when it is first used")
    return warning(
        "overlayfs",
        "not there",
        cause="this kernel is built without CONFIG_OVERLAY_FS, or its modules are not installed; runtimes need it",
        cure="try `modprobe overlay`; otherwise boot a kernel with CONFIG_OVERLAY_FS=y",
    )


def landlock(outcome: Outcome, caller: Caller, release: str) -> Finding:
    """`outcome` is that of `probes.landlock`."""
    open_host = "jobs on network host reach abstract sockets of the machine"
    if outcome.errno == errno.EOPNOTSUPP:
        return warning(
            "landlock",
            "switched off",
            cause=f"landlock is not among the security modules of this boot; {open_host}",
            cure='add "landlock" to the list lsm= of the kernel\'s command line (`cat /sys/kernel/security/lsm`)',
        )
    if not outcome.worked:
        need = Need(Status.WARNING, open_host, (), (5, 13), "CONFIG_SECURITY_LANDLOCK")
        return explained("landlock", outcome, need, caller, version(release))
    if int(outcome.text) < probes.LANDLOCK_SCOPES_ABI:
        return warning(
            "landlock",
            f"ABI {outcome.text}, without scoping",
            cause=f"scoping came with ABI {probes.LANDLOCK_SCOPES_ABI} (Linux 6.12); {open_host}",
            cure="boot Linux 6.12 or later, or run jobs with --network none",
        )
    return ok("landlock", f"ABI {outcome.text}, sockets and signals can be scoped")


def inotify(instances: int, watches: int) -> Finding:
    """fs.inotify.max_user_*: the logstore has one instance, and two watches for each job that is followed."""
    few_instances, few_watches = 16, 8192
    found = f"{instances} instances, {watches} watches per user"
    low = [
        f"fs.inotify.{name}={wanted}"
        for name, limit, least, wanted in (
            ("max_user_instances", instances, few_instances, 128),
            ("max_user_watches", watches, few_watches, 65536),
        )
        if limit < least
    ]
    if low:
        return warning(
            "inotify", found, cause="root's other programs may leave none to followers of logs",
            cure=f"`sysctl -w {' '.join(low)}`",
        )  # fmt: skip
    return ok("inotify", found)
