"""What the services meet when they start: their ports, and the executable with which jobs begin."""

import errno
import importlib.util
import os
import re
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from rnx.doctor.findings import Finding, failed, ok

_LISTENING: Final = "0A"  # TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)
_OURS: Final = re.compile(r"(^|/)joblet[.-](gateway|executor|logstore|runtime)(\.pex|/__main__\.py)?$")
_PACKAGE: Final = "joblet.executor"
_PEX: Final = "joblet-executor.pex"
_IN_PEX: Final = "joblet/executor/bin/jobinit"
_INSTALLED: Final = Path("/opt/joblet/bin")

# e_machine of the ELF header (elf.h), by what uname calls the machine
_MACHINES: Final = {62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens; `ours` when it is one of Joblet's services."""

    pid: int
    name: str
    ours: bool


Bind = Callable[[str], OSError | None]
Find = Callable[[int], Holder | None]
"""By the port, who listens there."""


def ports(addresses: Mapping[str, str], bind: Bind, find: Find) -> Finding:
    """`addresses` are host:port by key of the configuration; `bind` says why one cannot be had, `find` who has it."""
    taken: list[str] = []
    causes: list[str] = []
    keys: list[str] = []
    own = 0
    for key, address in addresses.items():
        error = bind(address)
        if error is None:
            continue
        port = int(address.rpartition(":")[2])
        holder = find(port) if error.errno == errno.EADDRINUSE else None
        if holder is not None and holder.ours:
            own += 1
            continue
        taken.append(f"{address} ({key})")
        who = f"{holder.name} (pid {holder.pid}) has {port}" if holder else (error.strerror or str(error)).lower()
        causes.append(who)
        keys.append(key)
    if taken:
        return failed(
            "ports",
            f"cannot be had: {', '.join(taken)}",
            cause="; ".join(dict.fromkeys(causes)),
            cure=f"`ss -ltnp` shows who listens; end it, or change {', '.join(keys)}",
        )
    used = f", {own} of them used by Joblet already" if own else ""
    return ok("ports", f"{len(addresses) - own} of {len(addresses)} are free{used}")


def bind(address: str) -> OSError | None:
    """Tries host:port for a moment, without listening there."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: only a listener is in the way, not connections of a server that has ended (socket(7)).
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return error
    return None


def holder(port: int, config: Path | None) -> Holder | None:
    """Who listens on the TCP port; None when that cannot be seen. `config` is the file that is examined."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in listening(_text(Path("/proc/net", table)), port)}
    for process in Path("/proc").iterdir() if inodes else ():
        if process.name.isdigit() and not inodes.isdisjoint(_sockets(process)):
            command = _text(process / "cmdline")
            name = _text(process / "comm").strip() or "a process that has just ended"
            return Holder(int(process.name), name, is_ours(command, config))
    return None


def listening(table: str, port: int) -> Iterator[str]:
    """The inodes of listening sockets in /proc/net/tcp or tcp6."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def is_ours(command: str, config: Path | None) -> bool:
    """Whether a command line, its words ended by NUL, is that of a service: by its name, or by its configuration.

    A PEX runs as `python .../pex --config FILE`: of its name nothing is left.
    """
    words = command.rstrip("\0").split("\0")
    named = [after for word, after in pairwise(words) if word == "--config"]
    return any(_OURS.search(word) for word in words) or (config is not None and str(config) in named)


def _sockets(process: Path) -> Iterator[str]:
    """The inodes of its sockets; none when it has ended, or is another user's and we are not root."""
    try:
        entries = list((process / "fd").iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            target = str(entry.readlink())
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def _text(path: Path) -> str:
    """Empty when the file has gone with its process, or is not there (a kernel without IPv6)."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def jobinit(configured: Path | None, machine: str, candidates: Iterable[Path] | None = None) -> Finding:
    """The executable that is PID 1 of every job; `machine` as uname has it."""
    places = [configured] if configured else list(candidates if candidates is not None else places_of_jobinit())
    place = next((place for place in places if place.exists()), None)
    if place is None:
        looked = ", ".join(map(str, places)) or "there is no joblet-executor on this machine"
        text = "not found" if configured is None else f"{configured} does not exist"
        return failed(
            "jobinit",
            text,
            cause=f"looked for it: {looked}",
            cure="`make jobinit` in a checkout, or name it as executor.jobinit in the configuration",
        )
    if place.suffix == ".pex":
        return _packed(place)
    if not place.is_file() or not os.access(place, os.X_OK):
        return failed(
            "jobinit",
            f"{place} cannot be executed",
            cause="it has no mode for that, is no file, or its file system is mounted noexec",
            cure=f"`chmod 0755 {place}`; `findmnt -T {place}` shows whether it is noexec",
        )
    built_for = elf_machine(place.read_bytes()[:20])
    if built_for != machine:
        return failed(
            "jobinit",
            f"{place} is built for {built_for}",
            cause=f"this machine is {machine}",
            cure="`make jobinit` on this machine",
        )
    return ok("jobinit", str(place))


def _packed(pex: Path) -> Finding:
    if zipfile.is_zipfile(pex):
        with zipfile.ZipFile(pex) as archive:
            if _IN_PEX in archive.namelist():
                return ok("jobinit", f"inside {pex}")
    return failed(
        "jobinit", f"not in {pex}", cause=f"the file has no {_IN_PEX}", cure="make it again with `make package`"
    )


def places_of_jobinit() -> list[Path]:
    """Where the executor of this installation finds it: in its package, in its checkout, in its PEX."""
    places = []
    try:
        spec = importlib.util.find_spec(_PACKAGE)
    except ModuleNotFoundError:
        spec = None
    for package in map(Path, spec.submodule_search_locations or ()) if spec else ():
        # services/executor/joblet/executor: the checkout's top is four levels up
        places += [package / "bin/jobinit", package.resolve().parents[3] / "build/jobinit/jobinit"]
    on_path = shutil.which(_PEX)
    beside = [Path(word).absolute().parent / _PEX for word in (sys.argv[0], sys.executable) if word]
    return [*places, *beside, *([Path(on_path)] if on_path else []), _INSTALLED / _PEX]


def elf_machine(header: bytes) -> str:
    """For which machine an executable is built, from its first 20 bytes (elf(5))."""
    if header[:4] != b"\x7fELF" or len(header) < 20:
        return "something that is no Linux executable"
    number = int.from_bytes(header[18:20], "little")
    return _MACHINES.get(number, f"machine number {number}")
