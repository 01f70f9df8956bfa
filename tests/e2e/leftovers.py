"""What a test run left on the machine: processes, mounts, cgroups, links, network namespaces, sockets.

A snapshot is a set of lines, so the difference of two snapshots names exactly what is new. Inits of jobs are counted
only: an executor prepares some ahead, and they are others each time. Cgroups that it makes ahead go with their parent.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path


def snapshot() -> frozenset[str]:
    """Everything of ours that can outlive a test, one line each."""
    return frozenset().union(_processes(), _mounts(), _cgroups(), _links(), _unix_sockets(), _loops())


def since(before: frozenset[str]) -> frozenset[str]:
    """What is new, but for inits that an executor of then has prepared meanwhile."""
    then = {line.partition(":")[0] for line in before if line.startswith("process ")}
    return frozenset(line for line in snapshot() - before if line.partition(" of ")[2] not in then)


def _processes() -> set[str]:
    found, inits = set(), Counter[str]()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if line.startswith("jobinit"):
            inits[parent] += 1
            found.add(f"process jobinit, number {inits[parent]} of process {parent}")
        elif "joblet." in line or "joblet-" in line or "rnx local" in line:
            found.add(f"process {entry.name}: {line}")
    return found


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"mount {line.split()[4]}" for line in lines}


def _cgroups() -> set[str]:
    """Below this process's own cgroups: services started by a test are there, and others' runs beside it are not."""
    found = set()
    for own in own_cgroups():
        for directory, names, _ in os.walk(own):
            ours = (name for name in names if "joblet" in f"{directory}/{name}" and not name.startswith(".spare-"))
            found |= {f"cgroup {directory}/{name}" for name in ours}
    return found


def own_cgroups() -> list[Path]:
    # "4:memory:/a/b" is /sys/fs/cgroup/memory/a/b; "0::/a" is v2, alone or beside v1.
    root, found = Path("/sys/fs/cgroup"), []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        hierarchies = [root / controllers.removeprefix("name=")] if controllers else [root / "unified", root]
        found.append(next(hierarchy for hierarchy in hierarchies if hierarchy.is_dir()) / path.lstrip("/"))
    return found


def _links() -> set[str]:
    return {f"link {name}" for name in os.listdir("/sys/class/net")}  # - names only


def _unix_sockets() -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {f"socket {line.split(maxsplit=7)[7]}" for line in lines if "joblet" in line or "logs.sock" in line}


def _loops() -> set[str]:
    found = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # detached while we looked
            found.add(f"loop {path}: {path.read_text().strip()}")
    return found
