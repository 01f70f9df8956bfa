"""Where the cgroup hierarchies are mounted, and which directory in them is this process's own. Reads text only.

Sources: proc(5) on /proc/PID/mountinfo, cgroups(7) on /proc/PID/cgroup. A container's mount may show only a part of a
hierarchy (field "root"); that part is not in the path below the mount point.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

V2_REQUIRED: Final = frozenset({"cpu", "memory", "pids", "io"})
"""With these in the unified hierarchy jobs use it; otherwise the v1 hierarchies."""

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """`point` is the mount point, `own` the directory of this process's group, None when the mount does not show it."""

    point: str
    own: str | None


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """v1 by controller; `available` are the controllers of the unified hierarchy."""

    v1: Mapping[str, Hierarchy]
    unified: Hierarchy | None
    available: frozenset[str]

    @property
    def uses_v2(self) -> bool:
        return self.available >= V2_REQUIRED

    @property
    def layout(self) -> str:
        """ "v1", "hybrid", "v2" or "none"."""
        if self.v1:
            return "hybrid" if self.unified else "v1"
        return "v2" if self.unified else "none"


def parse(mountinfo: str, membership: str, controllers: str) -> Hierarchies:
    """Of /proc/self/mountinfo, /proc/self/cgroup and, "" if there is none, the unified cgroup.controllers."""
    paths = _membership(membership)
    v1: dict[str, Hierarchy] = {}
    for kind, root, point, options in _mounts(mountinfo):
        if kind == "cgroup":
            for controller in sorted(set(options.split(",")) & paths.keys()):
                v1.setdefault(controller, Hierarchy(point, _own(root, point, paths[controller])))
    unified = next(
        (
            Hierarchy(point, _own(root, point, paths.get("", "/")))
            for kind, root, point, _ in _mounts(mountinfo)
            if kind == "cgroup2"
        ),
        None,
    )
    return Hierarchies(v1, unified, frozenset(controllers.split()))


def unified_mount(mountinfo: str) -> str | None:
    return next((point for kind, _, point, _ in _mounts(mountinfo) if kind == "cgroup2"), None)


def _membership(text: str) -> dict[str, str]:
    """Controller -> path; the unified hierarchy as ""; named ones, which control nothing, are left out."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update({name: path for name in controllers.split(",") if not name.startswith("name=")})
    return paths


def _mounts(mountinfo: str) -> list[tuple[str, str, str, str]]:
    """(type, root, mount point, super options) of every mount."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        words, kinds = left.split(" "), right.split(" ")
        found.append((kinds[0], _unescaped(words[3]), _unescaped(words[4]), kinds[-1]))
    return found


def _own(root: str, point: str, path: str) -> str | None:
    if path.startswith("/..") or root.startswith("/.."):
        return None
    if root == "/":
        below = path
    elif path == root or path.startswith(f"{root}/"):
        below = path.removeprefix(root)
    else:
        return None
    return f"{point.rstrip('/')}/{below.strip('/')}".rstrip("/")


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
