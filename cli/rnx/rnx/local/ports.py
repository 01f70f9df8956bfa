"""TCP ports on the loopback interface: is one free, who has it, which ones to take for the services."""

import errno
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

LOOPBACK = "127.0.0.1"
FIRST, LAST = 20_000, 32_767  # below the ports the kernel gives to outgoing connections (ip(7), ip_local_port_range)

_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)


def is_free(port: int) -> bool:
    """Whether a service could listen there now. Raises OSError if that has another reason than the port being taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a server that has ended do not block the port, a listener does (socket(7)).
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def pick(count: int, seed: int, taken: Collection[int]) -> list[int]:
    """`count` free ports that are not in `taken`. `seed` says where the search begins: directories start apart."""
    found: list[int] = []
    span = LAST - FIRST + 1
    for step in range(span + 1):
        if len(found) == count:
            return found
        port = FIRST + (seed + step) % span
        if port not in taken and is_free(port):
            found.append(port)
    raise OSError(errno.EADDRINUSE, f"no {count} free ports between {FIRST} and {LAST}")


def owner(port: int) -> str | None:
    """ "name (pid 123)" of the process that listens on the port, None if it cannot be seen."""
    inodes = set(_listening_inodes(port))
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and any(inode in inodes for inode in _socket_inodes(process)):
            return f"{_name(process)} (pid {process.name})"
    return None


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:  # ended meanwhile
        return "a process that has just ended"


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():  # a kernel without IPv6
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _socket_inodes(process: Path) -> Iterator[str]:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:  # ended, or another user's
        return
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]
