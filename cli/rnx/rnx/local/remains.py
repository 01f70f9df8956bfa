"""What a local Joblet may have left on the machine once its services have ended, and removing it.

Jobs run on without their services, by design; so a supervisor or an executor that was killed leaves them, their
cgroups and perhaps mounts. All of it can be told from other people's by this directory: cgroups by their parent's name,
processes by the configuration they were started with, mounts and sockets by their path.
"""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rnx.local import processes
from rnx.local.layout import Layout

PATIENCE_SECONDS = 5.0  # for killed processes to leave their cgroup
_PAUSE_SECONDS = 0.02


@dataclass(slots=True)
class Removed:
    """What was found and removed, in words, and what could not be."""

    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def remove(layout: Layout) -> Removed:
    """Kills and removes everything of this directory. Call it with the lock held and the services gone."""
    found = Removed()
    for pid in processes_of(layout):
        identity = processes.identity(pid)
        if identity is not None:
            processes.end(identity, PATIENCE_SECONDS)
            found.removed.append(f"process {pid}")
    for cgroup in list(cgroups(layout.cgroup_parent)):
        _remove_cgroup(cgroup, found)
    for mount in reversed(_mounts_below(layout.directory)):
        _unmount(mount, found)
    if layout.socket.exists():
        layout.socket.unlink()
    return found


def processes_of(layout: Layout) -> Iterator[int]:
    """Services and what they forked: the configuration's path is one of their arguments.

    It is one of the supervisor's too, which runs `rnx local down` as its last act.
    """
    wanted = os.fsencode(layout.config)
    not_these = {str(os.getpid()), str(os.getppid())}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name not in not_these:
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # ended meanwhile
                continue
            if (b"--config", wanted) in itertools.pairwise(arguments):
                yield int(entry.name)


def cgroups(name: str) -> Iterator[Path]:
    """The directories of that name in every mounted hierarchy (v1 has one per controller)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] in ("cgroup", "cgroup2"):
            mount = fields.split()[4].encode().decode("unicode_escape")
            for directory, names, _ in os.walk(mount):
                if name in names:
                    names.remove(name)
                    yield Path(directory, name)


def _remove_cgroup(cgroup: Path, found: Removed) -> None:
    """Kills what is in it and removes it from the leaves up. A killed process needs a moment to leave."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while cgroup.exists():
        killed = [pid for directory, _, _ in os.walk(cgroup) for pid in _members(Path(directory))]
        for pid in killed:
            _kill(pid, found)
        try:
            for directory, _, _ in os.walk(cgroup, topdown=False):
                Path(directory).rmdir()
        except OSError as error:  # EBUSY: processes are still leaving
            if time.monotonic() > deadline:
                found.left.append(f"cgroup {error.filename}: {error.strerror}")
                return
            time.sleep(_PAUSE_SECONDS)
        else:
            found.removed.append(f"cgroup {cgroup}")


def _members(cgroup: Path) -> list[int]:
    try:
        return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]
    except OSError:  # removed meanwhile, or a threaded cgroup (cgroups(7)), whose processes stand in its parent
        return []


def _kill(pid: int, found: Removed) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    words = f"process {pid}"
    if words not in found.removed:
        found.removed.append(words)


def _mounts_below(directory: Path) -> list[Path]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    paths = [Path(point.encode().decode("unicode_escape")) for point in points]
    return [path for path in paths if directory in path.parents]


def _unmount(mount: Path, found: Removed) -> None:
    import subprocess

    done = subprocess.run(["umount", str(mount)], capture_output=True, text=True, check=False)
    if done.returncode:
        found.left.append(f"mount {mount}: {done.stderr.strip()}")
    else:
        found.removed.append(f"mount {mount}")
