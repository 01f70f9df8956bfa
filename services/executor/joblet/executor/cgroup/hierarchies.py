"""Where the cgroup hierarchies are mounted and where in them this process lives. Reads /proc only.

Sources: proc(5) on /proc/PID/mountinfo, cgroups(7) on /proc/PID/cgroup, cgroup_namespaces(7). In a container the mount
shows only a part of the hierarchy (field "root"), so a path in /proc/PID/cgroup is a directory below the mount point
only after that part has been taken off.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from joblet.executor.cgroup import files
from joblet.executor.cgroup.driver import CgroupError

UNIFIED = ""
"""The name of the v2 hierarchy where a controller's name is expected, as in /proc/PID/cgroup."""

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy, seen from this process.

    controllers   those of a v1 hierarchy, sorted ("cpu", "cpuacct"); empty for v2
    mount_point   directory of the mount
    root          the path the mount point shows
    own           this process's path, as in /proc/self/cgroup
    """

    controllers: tuple[str, ...]
    mount_point: str
    root: str
    own: str

    def directory(self, path: str) -> str:
        """The directory of `path`, which is given as in /proc/PID/cgroup."""
        return _join(self.mount_point, path.removeprefix(self.root) if self.root != "/" else path)

    def moved(self, own: str) -> "Hierarchy":
        """The same hierarchy with another own cgroup."""
        return replace(self, own=own)

    def path_of(self, parent: str) -> str:
        """The path `parent` means: below the own cgroup, or, when it begins with "/", below the mount's root."""
        return _join(self.root if parent.startswith("/") else self.own, parent)


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Every hierarchy this process can reach: v1 by controller, and v2 if it is mounted."""

    v1: Mapping[str, Hierarchy]
    unified: Hierarchy | None


def discover() -> Hierarchies:
    """Reads the two files of this process. CgroupError when a mount does not show the own cgroup."""
    return parse(files.read("/proc/self/mountinfo"), membership(files.read("/proc/self/cgroup")))


def membership(text: str) -> dict[str, str]:
    """/proc/PID/cgroup as controller -> path; named hierarchies as "name=systemd", v2 as "" (UNIFIED)."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def parse(mountinfo: str, own: Mapping[str, str]) -> Hierarchies:
    v1: dict[str, Hierarchy] = {}
    unified = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, root, mount_point, *_ = left.split(" ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup":
            controllers = tuple(sorted(set(options.split(",")) & own.keys()))
            if controllers and controllers[0] not in v1 and not controllers[0].startswith("name="):
                found = _hierarchy(controllers, root, mount_point, own[controllers[0]])
                v1.update((controller, found) for controller in controllers)
        elif kind == "cgroup2" and unified is None and UNIFIED in own:
            unified = _hierarchy((), root, mount_point, own[UNIFIED])
    return Hierarchies(v1, unified)


def _hierarchy(controllers: tuple[str, ...], root: str, mount_point: str, own: str) -> Hierarchy:
    root, mount_point = _unescape(root), _unescape(mount_point)
    if own.startswith("/..") or root.startswith("/.."):
        raise _not_shown(mount_point, own)
    if root != "/" and own != root and not own.startswith(root + "/"):
        raise _not_shown(mount_point, own)
    return Hierarchy(controllers, mount_point, root, own)


def _not_shown(mount_point: str, own: str) -> CgroupError:
    return CgroupError(
        f"cgroup setup failed: {mount_point} does not show the executor's own cgroup {own}",
        hint="mount the cgroup filesystem inside the executor's own cgroup namespace",
    )


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _join(first: str, second: str) -> str:
    second = second.strip("/")
    return f"{first.rstrip('/')}/{second}" if second else first
