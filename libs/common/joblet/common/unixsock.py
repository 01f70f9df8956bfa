"""Unix sockets by path of any length, with descriptors and credentials in messages (unix(7), cmsg(3)).

The kernel's address holds 108 bytes of path. A longer one is reached through its directory: /proc/self/fd/N/name, where
N is the open directory. All sockets are close-on-exec. Messages are SOCK_SEQPACKET unless said otherwise: whole or not
at all.
"""

import array
import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from joblet.common.errors import StartError

_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_FD_SIZE = array.array("i").itemsize
# As plain numbers: those of `socket` are enums, whose operators are Python.
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_CUT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who is at the other end, as the kernel vouches for it."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Received:
    """One message; the receiver owns and closes `fds`. `credentials` only after pass_credentials; data b"" is EOF."""

    data: bytes
    fds: tuple[int, ...]
    credentials: Credentials | None


def bind(path: Path, kind: int = socket.SOCK_SEQPACKET, *, mode: int = 0o600, backlog: int = 128) -> socket.socket:
    """A listening socket at `path`; a socket file that nobody listens on is replaced.

    Raises StartError naming the path if somebody listens there, or if a socket cannot be made there.
    """
    try:
        with _address(path) as address:
            _remove_stale(path, address, kind)
            return _listening(address, kind, mode, backlog)
    except OSError as error:
        raise StartError(f"cannot listen on {path}: {(error.strerror or str(error)).lower()}") from error


def _listening(address: str, kind: int, mode: int, backlog: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        # The file that bind makes has the mode of the socket's own inode, less the umask: it is never open to others.
        os.fchmod(sock.fileno(), mode)
        sock.bind(address)
        os.chmod(address, mode)  # noqa: PTH101 - not a path to keep, and the umask may have taken something away
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(path: Path, kind: int = socket.SOCK_SEQPACKET, *, timeout_seconds: float | None = None) -> socket.socket:
    """A socket connected to the one at `path`. Raises OSError, as connect(2)."""
    with _address(path) as address:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.settimeout(timeout_seconds)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
    return sock


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """One message, `fds` with it. Raises OSError; a partial send, possible on streams only, is an OSError too."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    if sock.sendmsg([data], ancillary) != len(data):
        raise OSError(errno.EMSGSIZE, "message sent in part")


def receive(sock: socket.socket, size: int = 4096, *, max_fds: int = 16) -> Received:
    """One message of at most `size` bytes and `max_fds` descriptors, which arrive close-on-exec.

    Raises OSError EMSGSIZE if it was larger; nothing of it is kept then.
    """
    space = socket.CMSG_SPACE(max_fds * _FD_SIZE) + socket.CMSG_SPACE(_UCRED.size)
    data, ancillary, flags, _ = sock.recvmsg(size, space, _CLOEXEC)
    fds: list[int] = []
    credentials = None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received = array.array("i")
            received.frombytes(content[: len(content) - len(content) % _FD_SIZE])
            fds.extend(received)
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            credentials = Credentials(*_UCRED.unpack(content[: _UCRED.size]))
    if flags & _CUT or len(fds) > max_fds:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMSGSIZE, "message larger than allowed")
    return Received(data, tuple(fds), credentials)


recv = receive


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side has closed it (POLLHUP, poll(2)); what it sent before that can still be received."""
    poller = select.poll()
    poller.register(sock, 0)
    return bool(poller.poll(0))


def pass_credentials(sock: socket.socket) -> None:
    """From now on every message received carries its sender's credentials (SO_PASSCRED)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def peer(sock: socket.socket) -> Credentials:
    """Who connected, at the time of connect (SO_PEERCRED)."""
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


@contextmanager
def _address(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _remove_stale(path: Path, address: str, kind: int) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.lstat(address).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise StartError(f"cannot listen on {path}: it exists and is not a socket")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(address)
    if result != errno.ECONNREFUSED:
        raise StartError(f"cannot listen on {path}: address already in use")
    os.unlink(address)  # noqa: PTH108 - the directory that was looked at, whatever its path leads to now
