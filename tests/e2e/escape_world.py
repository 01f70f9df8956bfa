"""The machine that the corpus attacks: objects to be found on it, and another job. All of it is the tests' own."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from local_system import LocalSystem, wait_for

MARK = "the machine's"
"""What the files of the machine say that a job must not get at."""
CANARY = "jbtest-canary-5b1e"
NEIGHBOUR_FILE = "jbtest-neighbour"
_IPC_CREAT, _IPC_RMID = 0o1000, 0

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def world(system: LocalSystem, programs: Path) -> Iterator[Mapping[str, str]]:
    """What cases.toml names in braces; taken away again at the end."""
    with ExitStack() as stack:
        shown = _directory("/usr/local/lib", stack)  # jobs see it
        tag = shown.name
        (shown / "file").write_text(f"{MARK}\n")
        shutil.copy(programs / "set_uid", shown)
        (shown / "set_uid").chmod(0o4755)
        hidden = _directory("/var", stack)
        (hidden / "marker").write_text(f"{MARK}\n")
        job_socket = f"{tag}-job"
        neighbour = _neighbour(system, job_socket, stack)
        names = {
            "marker": str(hidden / "marker"),
            "system": str(shown),
            "socket": _listener(socket.AF_UNIX, str(hidden / "socket"), stack),
            "abstract": _listener(socket.AF_UNIX, f"\0{tag}", stack)[1:],
            "port": _listener(socket.AF_INET, ("127.0.0.1", 0), stack),
            "key": str(next(system.certificates.glob("ca-key.pem"))),
            "journal": str(system.directory / "state/executor/journal.db"),
            "log": str(system.directory / "state/logstore" / neighbour / "output"),
            "neighbour": NEIGHBOUR_FILE,
            "job_socket": job_socket,
            "canary": CANARY,
            "process": str(_process(stack)),
            "shm_key": str(_shared_memory(stack)),
            "disk": _disk(),
            "host_name": os.uname().nodename,
        }
        (hidden / "socket").chmod(0o777)
        yield names


def _directory(parent: str, stack: ExitStack) -> Path:
    path = Path(tempfile.mkdtemp(prefix="jbtest-", dir=parent))
    stack.callback(shutil.rmtree, path)
    path.chmod(0o755)
    return path


def _listener(family: int, address: str | tuple[str, int], stack: ExitStack) -> str:
    """Connections to it succeed without anybody answering."""
    server = stack.enter_context(socket.socket(family))
    server.bind(address)
    server.listen(64)
    return str(server.getsockname()[1]) if isinstance(address, tuple) else address


def _process(stack: ExitStack) -> int:
    """A process of the machine with a secret in its environment."""
    process = subprocess.Popen(["sleep", "1000"], env={"SECRET": CANARY}, cwd="/")
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process.pid


def _shared_memory(stack: ExitStack) -> int:
    """The key of a segment that everybody may attach."""
    key = 0x6A620000 | os.getpid() & 0xFFFF
    identifier = _libc.shmget(key, 4096, _IPC_CREAT | 0o666)
    assert identifier >= 0, os.strerror(ctypes.get_errno())
    stack.callback(_libc.shmctl, identifier, _IPC_RMID, None)
    return key


def _disk() -> str:
    """Numbers, as "major:minor", of a disk that root may open here: a machine may forbid it even to root."""
    for name in (*(line.split()[3] for line in Path("/proc/partitions").read_text().splitlines()[2:]), "loop0"):
        try:
            descriptor = os.open(f"/dev/{name}", os.O_RDONLY)
        except OSError:
            continue
        device = os.fstat(descriptor).st_rdev
        os.close(descriptor)
        return f"{os.major(device)}:{os.minor(device)}"
    raise AssertionError("no disk can be opened, not even /dev/loop0")


def _neighbour(system: LocalSystem, address: str, stack: ExitStack) -> str:
    program = Path(__file__).resolve().parent / "escape/neighbour.py"
    job_id = system.run("--network=host", f"--upload={program}", "python3", "neighbour.py", NEIGHBOUR_FILE, address)
    stack.callback(system.output, "job", "stop", job_id)
    wait_for("the neighbour is ready", lambda: b"ready" in system.rnx("job", "log", "--no-follow", job_id).stdout)
    return job_id
