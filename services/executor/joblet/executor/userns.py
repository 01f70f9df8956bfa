"""User namespaces for jobs, prepared ahead: one for each uid range, held as a descriptor that jobinit enters.

A namespace maps all but the last id of one host range to 0.. and allows no user namespace below itself (0 in
/proc/sys/user/max_user_namespaces, see namespaces(7)): a nested one would give every capability back. The last id owns
the namespace: what the kernel counts for each user (inotify's instances and watches, pending signals, bytes of message
queues) it counts for the owners of the namespaces above as well, and as root's own a job could use up what services of
the machine need. Nobody ever runs under that id, and no job can take it. A namespace
serves one job at a time and is used again afterwards; no process, mount or IPC object is left in it then, and jobs
cannot keep keys because seccomp refuses them the key calls.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joblet.common.errors import ResourceExhausted
from joblet.executor import syscalls
from joblet.executor.workers import worker

JOB_ID_INSIDE: Final = 1000


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """`fd` is /proc/PID/ns/user of the namespace; ids 0.. inside are `base`.. on the host."""

    base: int
    size: int
    fd: int
    inode: int

    @property
    def map_line(self) -> str:
        return f"0 {self.base} {self.size}"


def create(base: int, size: int) -> UserNamespace:
    """A new namespace with all but the last of `size` ids from `base` on. Raises OSError.

    Must be called while the process has a single thread.
    """

    mapped = size - 1

    def enter(channel: socket.socket) -> None:
        syscalls.keep_capabilities()
        os.seteuid(base + mapped)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        channel.send(b"unshared")
        if channel.recv(16) != b"mapped":
            return
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        channel.send(b"closed")
        channel.recv(1)

    with worker(enter) as child:
        child.expect(b"unshared")
        process = Path(f"/proc/{child.pid}")
        (process / "uid_map").write_text(f"0 {base} {mapped}\n")
        (process / "gid_map").write_text(f"0 {base} {mapped}\n")
        child.say(b"mapped")
        child.expect(b"closed")
        fd = os.open(process / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
        return UserNamespace(base, mapped, fd, os.fstat(fd).st_ino)


class UserNamespacePool:
    """Hands out each namespace to one job at a time. `release` may be called by any thread."""

    def __init__(self) -> None:
        self._by_base: dict[int, UserNamespace] = {}
        self._free: list[UserNamespace] = []
        self._used: set[int] = set()

    def add(self, namespace: UserNamespace) -> None:
        """One more; from now on the pool closes it."""
        self._by_base[namespace.base] = namespace
        self._free.append(namespace)

    @property
    def exhausted(self) -> bool:
        return not self._free

    @property
    def used_bases(self) -> frozenset[int]:
        return frozenset(self._used)

    def acquire(self) -> UserNamespace:
        """A free namespace, the longest unused first. Raises ResourceExhausted."""
        if not self._free:
            raise ResourceExhausted("every user id range of this node is in use by a running job")
        namespace = self._free.pop(0)
        self._used.add(namespace.base)
        return namespace

    def adopt(self, base: int) -> None:
        """Marks a range as used by a job that an earlier executor started."""
        self._used.add(base)
        self._free = [namespace for namespace in self._free if namespace.base != base]

    def release(self, base: int) -> None:
        """The job that used the range has ended. A range this executor has no namespace for is only forgotten."""
        if base not in self._used:
            return
        self._used.discard(base)
        namespace = self._by_base.get(base)
        if namespace is not None:
            self._free.append(namespace)

    def close(self) -> None:
        for namespace in self._by_base.values():
            os.close(namespace.fd)
        self._by_base.clear()
        self._free.clear()
