"""What a job's root directory is made of, as a list of operations: deciding is pure, `apply` acts.

The list is made from the host's layout (`plan`), compared without privileges in tests and executed by `template` in a
private mount namespace. Paths of operations are relative to the new root. What depends on the job (/proc, /dev/pts,
/dev/shm, /tmp, /work) is mounted by jobinit; here are only its mount points.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from joblet.executor import etcfiles, syscalls

_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICES: Final = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0),
}  # fmt: skip
_DEVICE_LINKS: Final = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}  # fmt: skip
_DIRECTORIES: Final = (
    "etc", "home", "media", "mnt", "opt", "proc", "run", "srv", "sys", "sys/devices", "sys/devices/system",
    "sys/devices/system/cpu", "tmp", "usr", "var", "var/cache", "var/lib", "var/log", "work",
)  # fmt: skip
_READ_ONLY: Final = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


class Operation(Protocol):
    """One step towards the new root; `apply` raises OSError naming what failed."""

    def apply(self, root: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """An own small file system, read-only once `Seal` has run."""

    path: str
    flags: int
    size_bytes: int

    def apply(self, root: Path) -> None:
        options = f"mode=0755,size={self.size_bytes},nr_inodes=8192"
        syscalls.mount("joblet", str(root / self.path), "tmpfs", self.flags, options)


@dataclass(frozen=True, slots=True)
class Seal:
    """Makes a Tmpfs read-only."""

    path: str
    flags: int

    def apply(self, root: Path) -> None:
        syscalls.remount_read_only(str(root / self.path), self.flags)


@dataclass(frozen=True, slots=True)
class Directory:
    path: str
    mode: int = 0o755

    def apply(self, root: Path) -> None:
        (root / self.path).mkdir()
        (root / self.path).chmod(self.mode)


@dataclass(frozen=True, slots=True)
class Link:
    path: str
    target: str

    def apply(self, root: Path) -> None:
        (root / self.path).symlink_to(self.target)


@dataclass(frozen=True, slots=True)
class ReadOnlyBind:
    """A directory of the host with everything below it: read-only, no set-uid, no devices."""

    source: str
    path: str

    def apply(self, root: Path) -> None:
        syscalls.bind_tree(self.source, str(root / self.path), _READ_ONLY)


@dataclass(frozen=True, slots=True)
class Device:
    path: str
    major: int
    minor: int

    def apply(self, root: Path) -> None:
        os.mknod(root / self.path, stat.S_IFCHR | 0o666, os.makedev(self.major, self.minor))
        (root / self.path).chmod(0o666)


@dataclass(frozen=True, slots=True)
class Etc:
    """The /etc of jobs: see etcfiles."""

    source: str

    def apply(self, root: Path) -> None:
        etcfiles.populate(Path(self.source), root / "etc")


@dataclass(frozen=True, slots=True)
class Host:
    """What the plan depends on: for each top-level system name, its link target, or None for a directory."""

    system: tuple[tuple[str, str | None], ...]


def inspect_host(root: Path = Path("/")) -> Host:
    """Looks at the host's top level; a name that is missing there is missing in jobs too."""
    found: list[tuple[str, str | None]] = []
    for name in _SYSTEM:
        path = root / name
        if path.is_symlink():
            found.append((name, str(path.readlink())))
        elif path.is_dir():
            found.append((name, None))
    return Host(tuple(found))


def plan(host: Host) -> tuple[Operation, ...]:
    """The operations that make the root of jobs, in order."""
    root_flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    device_flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC
    return (
        Tmpfs(".", root_flags, 32 << 20),
        *(Directory(path) for path in _DIRECTORIES),
        Directory("root", 0o700),
        Link("var/tmp", "/tmp"),
        Link("var/run", "/run"),
        ReadOnlyBind("/usr", "usr"),
        *_system(host.system),
        ReadOnlyBind("/sys/devices/system/cpu", "sys/devices/system/cpu"),
        Etc("/etc"),
        Directory("dev"),
        Tmpfs("dev", device_flags, 64 << 10),
        Directory("dev/pts"),
        Directory("dev/shm", 0o1777),
        *(Device(f"dev/{name}", *numbers) for name, numbers in _DEVICES.items()),
        *(Link(f"dev/{name}", target) for name, target in _DEVICE_LINKS.items()),
        Seal("dev", device_flags),
        Seal(".", root_flags),
    )


def bound_paths(operations: Sequence[Operation]) -> tuple[str, ...]:
    """The absolute paths in a job at which host directories are bound."""
    return tuple(f"/{operation.path}" for operation in operations if isinstance(operation, ReadOnlyBind))


def _system(names: Sequence[tuple[str, str | None]]) -> list[Operation]:
    steps: list[Operation] = []
    for name, target in names:
        if target is None:
            steps += [Directory(name), ReadOnlyBind(f"/{name}", name)]
        else:
            steps.append(Link(name, target))
    return steps
