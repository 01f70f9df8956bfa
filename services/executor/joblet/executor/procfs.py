"""What /proc says of one process, read through a descriptor of its directory, so that a reused pid cannot be meant.

Reads and parses only (proc(5), namespaces(7), user_namespaces(7)); `attest` judges.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

NAMESPACES: Final = ("pid", "mnt", "ipc", "uts", "cgroup", "net", "user")
_CHUNK_BYTES: Final = 65536
_ONE_PIECE_BYTES: Final = 16384
_REMEMBERED: Final = 1024


class Mount(NamedTuple):
    """A line of mountinfo. `settings` are the options of the file system itself, such as "size=64k". A tuple, since
    what is known of it is looked up for all of a job's mounts at once."""

    path: str
    options: frozenset[str]
    filesystem: str
    root: str  # the directory of the file system that is mounted
    settings: frozenset[str] = frozenset()
    propagates: bool = False  # shared with, or fed by, another mount namespace


ResourceLimits = tuple[tuple[str, str, str], ...]
"""Each the kernel's heading, such as "Max open files", soft and hard limit."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as read at one moment. Ids of namespaces are inode numbers; values of `status` are stripped."""

    status: Mapping[str, str]
    uid_map: str
    gid_map: str
    namespaces: Mapping[str, int]
    mounts: tuple[Mount, ...]
    cgroups: Mapping[str, str]
    rlimits: "ResourceLimits"
    oom_score_adj: str
    personality: str
    descriptors: frozenset[int]
    output: str  # kind, permissions and owner of descriptors 1 and 2, such as "pipe 0222 0"
    directory_inside: bool  # its working directory lies on one of `mounts`


def read_process(directory: int) -> Process:
    """The process whose /proc/PID is open as `directory`. Raises OSError (ESRCH, ENOENT) when it has ended."""
    mounts = read("mountinfo", directory)
    return Process(
        status=parse_status(read_at_once("status", directory)),
        uid_map=" ".join(read_at_once("uid_map", directory).split()),
        gid_map=" ".join(read_at_once("gid_map", directory).split()),
        namespaces=namespaces_of(directory),
        mounts=parse_mounts(mounts),
        cgroups=parse_cgroups(read_at_once("cgroup", directory)),
        rlimits=parse_limits(read_at_once("limits", directory)),
        oom_score_adj=read_at_once("oom_score_adj", directory).strip(),
        personality=read_at_once("personality", directory).strip(),
        descriptors=_descriptors(directory),
        output=" ".join(sorted({_description(directory, f"fd/{number}") for number in (1, 2)})),
        directory_inside=f"\n{_mount_of(directory, 'cwd')} " in f"\n{mounts}",
    )


def read_status(pid: int, *names: str) -> dict[str, str]:
    """/proc/PID/status, or some of it, of a process that the caller knows to be the one it means."""
    text = read_at_once(f"/proc/{pid}/status")
    return _picked(text, names) if names else parse_status(text)


def namespaces_of(directory: int) -> dict[str, int]:
    """The inode number of each namespace, from links such as "pid:[4026531836]"."""
    links = {name: os.readlink(f"ns/{name}", dir_fd=directory) for name in NAMESPACES}  # noqa: PTH115 - pathlib has no dir_fd
    return {name: int(link[len(name) + 2 : -1]) for name, link in links.items()}


def own_namespaces() -> dict[str, int]:
    directory = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return namespaces_of(directory)
    finally:
        os.close(directory)


def parse_status(text: str) -> dict[str, str]:
    # Without a generator, which would take a third of the time again: a job's launch comes here three times.
    return {(parts := line.partition(":"))[0]: parts[2].strip() for line in text.splitlines()}


def _picked(text: str, names: tuple[str, ...]) -> dict[str, str]:
    """As `parse_status`, only these; one that is not there is left out."""
    found = {}
    for name in names:
        _, is_there, rest = f"\n{text}".partition(f"\n{name}:")
        if is_there:
            found[name] = rest.partition("\n")[0].strip()
    return found


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """mountinfo: id parent major:minor root mount-point options [tags ...] - filesystem source super-options."""
    return tuple(_mount(line.split(" ", 3)[3]) for line in text.splitlines())


@lru_cache(maxsize=_REMEMBERED)
def _mount(described: str) -> Mount:
    """A line without its numbers, which nobody asks for: the rest is the same for job after job."""
    before, _, after = described.partition(" - ")
    root, path, options, *tags = before.split(" ")
    filesystem, _, settings = after.split(" ")
    propagates = any(tag.startswith(("shared:", "master:")) for tag in tags)
    return Mount(
        _unescaped(path), frozenset(options.split(",")), filesystem, root, frozenset(settings.split(",")), propagates
    )


@lru_cache(maxsize=_REMEMBERED)
def parse_limits(text: str) -> ResourceLimits:
    """proc_pid_limits(5): a heading, then lines of fixed columns (name 26 wide, soft, hard, units)."""
    found = []
    for line in text.splitlines()[1:]:
        soft, hard, *_ = line[26:].split()
        found.append((line[:26].rstrip(), soft, hard))
    return tuple(found)


def _description(directory: int, name: str) -> str:
    """Such as "pipe 0222 0": kind, permissions, owner."""
    status = os.stat(name, dir_fd=directory)  # noqa: PTH116 - pathlib has no dir_fd
    kind = "pipe" if stat.S_ISFIFO(status.st_mode) else "file"
    return f"{kind} {stat.S_IMODE(status.st_mode):04o} {status.st_uid}"


def _mount_of(directory: int, name: str) -> str:
    """The id of the mount that a link of /proc/PID leads to, in whatever mount namespace (proc_pid_fdinfo(5))."""
    descriptor = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    try:
        return _picked(read_at_once(f"/proc/self/fdinfo/{descriptor}"), ("mnt_id",))["mnt_id"]
    finally:
        os.close(descriptor)


def parse_cgroups(text: str) -> dict[str, str]:
    """Controller -> path; a hierarchy with several controllers counts for each, "" is the unified hierarchy."""
    lines = (line.split(":", 2) for line in text.splitlines())
    return {controller: path for _, controllers, path in lines for controller in controllers.split(",")}


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (clock ticks since boot), None when there is no such process."""
    try:
        text = read_at_once(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text[text.rindex(")") + 2 :].split()[19])  # the name, in parentheses, may hold anything


def same_program(pid: int, other: int) -> bool:
    """Whether two processes execute the same file; false when one of them is gone."""
    try:
        return Path(f"/proc/{pid}/exe").samefile(f"/proc/{other}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return False


def boot_id() -> str:
    return read("/proc/sys/kernel/random/boot_id").strip()


def _descriptors(directory: int) -> frozenset[int]:
    listed = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return frozenset(map(int, os.listdir(listed)))
    finally:
        os.close(listed)


def read(name: str, directory: int | None = None) -> str:
    """A whole file, relative to a directory if there is one. Not by pathlib, whose way costs more than the kernel's."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts = []
        while part := os.read(descriptor, _CHUNK_BYTES):
            parts.append(part)
        return b"".join(parts).decode(errors="surrogateescape")
    finally:
        os.close(descriptor)


def read_at_once(name: str, directory: int | None = None) -> str:
    """As `read`, a file that the kernel writes in one piece (single_open() in fs/seq_file.c, as for status or limits,
    but not for mountinfo) or in short lines that go into a page (uid_map): only what fills the buffer may go on."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        data = part = os.read(descriptor, _ONE_PIECE_BYTES)
        while len(part) == _ONE_PIECE_BYTES:
            data += (part := os.read(descriptor, _ONE_PIECE_BYTES))
        return data.decode(errors="surrogateescape")
    finally:
        os.close(descriptor)


def _unescaped(path: str) -> str:
    # The kernel writes blank, tab, newline and backslash as three octal digits.
    if "\\" not in path:
        return path
    for code in ("040", "011", "012", "134"):
        path = path.replace(f"\\{code}", chr(int(code, 8)))
    return path
