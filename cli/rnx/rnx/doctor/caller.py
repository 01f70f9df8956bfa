"""Who runs the checks: user id, capabilities, what confines it. And what a refusal means to that caller.

A check that is refused because the caller lacks a capability tells nothing about the machine: the lack is named once,
by the check `privileges`, and the refused check becomes a warning that it could not be tried.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rnx.doctor.attempts import NO_ERRNO, Outcome
from rnx.doctor.findings import Finding, Status, failed, ok, warning

# Bit numbers of linux/capability.h
NUMBERS: Final[Mapping[str, int]] = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "SYS_CHROOT": 18,
    "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_RESOURCE": 24, "MKNOD": 27,
}  # fmt: skip

# What fails without each. Found by dropping them one by one from a whole system and running jobs.
REQUIRED: Final[Mapping[str, str]] = {
    "SYS_ADMIN": "namespaces and mounts",
    "SYS_CHROOT": "entering the mount namespace that jobs start from",
    "SETUID": "the user ids of jobs",
    "SETGID": "the group ids of jobs",
    "DAC_OVERRIDE": "cgroups, and files that belong to jobs",
    "MKNOD": "/dev/null and its like in jobs",
    "KILL": "stopping jobs",
    "SYS_PTRACE": "verifying the isolation of a job before its command runs",
    "NET_ADMIN": "the loopback interface of network none",
}
OPTIONAL: Final[Mapping[str, str]] = {
    "CHOWN": "directories that belong to a job's user",
    "FOWNER": "the modes of what belongs to a job's user",
    "SYS_RESOURCE": "resource limits of jobs above those of the executor",
}

FILES: Final = ("DAC_OVERRIDE",)
"""What it takes to write where root's modes do not allow it, as in the root of a cgroup hierarchy."""

CHECK: Final = "privileges"
_SECCOMP_FILTERED: Final = 2  # Seccomp: in /proc/PID/status
_REFUSED: Final = (errno.EPERM, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Caller:
    uid: int
    capabilities: frozenset[str]  # those of NUMBERS that are in effect
    filtered: bool = False  # a seccomp filter is in effect
    profile: str = ""  # of the security module, "" for none or unconfined

    def lacks(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name not in self.capabilities]

    def cannot_tell(self, takes: tuple[str, ...]) -> bool:
        """Whether a refusal says nothing about the machine, because `takes` are needed and not there."""
        return self.uid != 0 or bool(self.lacks(takes))

    @property
    def confinement(self) -> str:
        """What may refuse although the capabilities are there."""
        known = [f'the security profile "{self.profile}"'] if self.profile else []
        known += ["a seccomp filter"] if self.filtered else []
        return " or ".join(known) or "the kernel's configuration or a security module"


def parse(status: str, profile: str = "") -> Caller:
    """`status` is /proc/self/status (proc(5)), `profile` /proc/self/attr/current."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    effective = int(fields["CapEff"], 16)
    name = profile.strip("\0\n ")
    return Caller(
        uid=int(fields["Uid"].split()[1]),
        capabilities=frozenset(name for name, bit in NUMBERS.items() if effective >> bit & 1),
        filtered=int(fields.get("Seccomp", "0")) == _SECCOMP_FILTERED,
        profile="" if name in ("unconfined", "kernel") else name,
    )


def current() -> Caller:
    """This process. Linux only."""
    try:
        profile = Path("/proc/self/attr/current").read_text(errors="replace")
    except OSError:  # EINVAL: no security module
        profile = ""
    return parse(Path("/proc/self/status").read_text(), profile)


def privileges(caller: Caller) -> Finding:
    """Whether the caller has what the executor needs; the same user and bounds are assumed for it."""
    missing = caller.lacks(tuple(REQUIRED))
    who = "root" if caller.uid == 0 else f"user id {caller.uid}"
    if caller.uid != 0:
        return failed(
            CHECK,
            f"{who}, not root",
            cause="the executor makes namespaces, mounts and cgroups, which takes root",
            cure="run `sudo rnx doctor`, and start the executor as root",
        )
    if missing:
        return failed(
            CHECK,
            f"root without {', '.join(f'CAP_{name}' for name in missing)}",
            cause="needed for " + "; ".join(REQUIRED[name] for name in missing),
            cure=_grant(missing),
        )
    optional = caller.lacks(tuple(OPTIONAL))
    if optional:
        return warning(
            CHECK,
            f"root without {', '.join(f'CAP_{name}' for name in optional)}",
            cause="wanted for " + "; ".join(OPTIONAL[name] for name in optional),
            cure=_grant(optional),
        )
    return ok(CHECK, "root with all capabilities a node needs")


def _grant(names: list[str]) -> str:
    added = " ".join(f"--cap-add {name}" for name in names)
    return f"start outside a container or with `docker run {added}`; systemd: no CapabilityBoundingSet= in the unit"


@dataclass(frozen=True, slots=True)
class Need:
    """What one thing takes, for explaining why it is refused.

    status   of the finding when it is not there
    takes    capabilities
    since    first Linux that has it
    option   of the kernel's build
    limit    the sysctl that bounds it, "" for none
    purpose  what does not work without it
    """

    status: Status
    purpose: str
    takes: tuple[str, ...] = ("SYS_ADMIN",)
    since: tuple[int, int] = (0, 0)
    option: str = ""
    limit: str = ""


def explained(check: str, outcome: Outcome, need: Need, caller: Caller, kernel: tuple[int, int]) -> Finding:
    """The finding for an attempt that did not work."""
    if outcome.errno in _REFUSED and caller.cannot_tell(need.takes):
        return unknown(check, caller, need.takes)
    cause, cure = _why(outcome, need, caller, kernel)
    return Finding(check, need.status, outcome.text, f"{cause}; {need.purpose}" if need.purpose else cause, cure)


def unknown(check: str, caller: Caller, takes: tuple[str, ...]) -> Finding:
    """It could not be tried by this caller, who is not root or lacks some of `takes`."""
    missing = ", ".join(f"CAP_{name}" for name in caller.lacks(takes))
    without = missing if caller.uid == 0 else f"root (user id {caller.uid})"
    return warning(
        check, f"cannot be tried without {without}", cause=f"see {CHECK}", cure=f"mend {CHECK}, then look again"
    )


def _why(outcome: Outcome, need: Need, caller: Caller, kernel: tuple[int, int]) -> tuple[str, str]:
    since, limit = _version(need.since), need.limit
    if outcome.errno in _REFUSED:
        return (
            f"{caller.confinement} refuses it",
            "start outside a container, or with `docker run --privileged`; otherwise ask who set up the confinement",
        )
    if outcome.errno == errno.ENOSYS and kernel < need.since:
        return f"this kernel is too old, it came with Linux {since}", f"boot Linux {since} or later"
    if outcome.errno == errno.ENOSYS and caller.filtered:
        return "a seccomp filter hides it", "start with `docker run --security-opt seccomp=unconfined`"
    if outcome.errno == errno.ENOSPC and limit:
        path = f"/proc/sys/{limit.replace('.', '/')}"
        return f"the limit in {path} is reached", f"see `sysctl {limit}`, raise it with `sysctl -w {limit}=65536`"
    if outcome.errno in (errno.EROFS,):
        return "/proc/sys or /sys is mounted read-only, as in containers", "start with `docker run --privileged`"
    if outcome.errno == NO_ERRNO:
        return "it ended in an unexpected way", "run `dmesg | tail` and look for the reason"
    built = f"this kernel is built without {need.option}" if need.option else "this kernel cannot do it"
    return built, f"boot a kernel with {need.option}=y" if need.option else f"boot Linux {since} or later"


def _version(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))
