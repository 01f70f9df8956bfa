"""Runs jobinit alone, for its tests: an executor of a few lines that speaks the protocol and nothing else.

The environment variable JOBINIT names another binary than the built one (the sanitizer build).
"""

import array
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from joblet.common.errors import JobletError
from joblet.executor import exitrecord, jobinit_path, syscalls, userns
from joblet.executor.cgroup.detect import detect
from joblet.executor.cgroup.driver import CgroupDriver, JobCgroup
from joblet.executor.cgroup.driver_for_tests import RUN
from joblet.executor.cgroup.limits import Limits
from joblet.executor.exitrecord import ExitRecord
from joblet.executor.jobspec import GO, Fd, LaunchFlag, LaunchSpec, Message, MessageType
from joblet.executor.rootplan import inspect_host, plan
from joblet.executor.template import build_template
from joblet.executor.userns import UserNamespace

DEADLINE_SECONDS = 120.0  # only ends a wait for what never comes
MIB = 1 << 20
UID_BASE = 0x7B000000
UID_COUNT = 65536
JOBINIT = Path(os.environ.get("JOBINIT") or jobinit_path.BUILT)
"""What is tested."""
SANITIZED = JOBINIT.name.endswith("-asan")
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0"} if SANITIZED else {}
"""Leaks are looked for by a tracing thread, which a process under seccomp cannot start; there is no heap anyway."""
PATH = "/usr/local/bin:/usr/bin:/bin"
_ENTRY = struct.Struct("<QQII")
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class IndexEntry:
    bytes: int
    time_ns: int
    kind: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a job: init's own exit status (waitid), the record, the log."""

    status: int
    record: ExitRecord
    output: bytes
    index: list[IndexEntry]


class Failed(JobletError):
    """jobinit said ERROR."""

    def __init__(self, message: Message) -> None:
        super().__init__(f"{message.stage.name} {errno.errorcode.get(message.error, '0')} {message.detail}")
        self.told = message


@dataclass(frozen=True, slots=True)
class Node:
    """What all tests share: a template mount namespace, a user namespace, a cgroup driver."""

    template: int
    user: UserNamespace
    cgroups: CgroupDriver
    jobinit: Path = JOBINIT


@contextmanager
def node() -> Iterator[Node]:
    """Makes orphans of jobs children of this process meanwhile, so that they can be waited for."""
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="jbtest"))
        template = build_template(plan(inspect_host()), Path(root))
        stack.callback(os.close, template)
        user = userns.create(UID_BASE, UID_COUNT)
        stack.callback(os.close, user.fd)
        cgroups = detect(RUN)
        cgroups.prepare()
        stack.callback(cgroups.close)
        _subreaper(1)
        stack.callback(_subreaper, 0)
        yield Node(template, user, cgroups)


def _subreaper(value: int) -> None:
    syscalls._prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, value, 0, 0, 0)


class Job:
    """One launch. Leaving the block ends whatever is left of it and removes its cgroup."""

    def __init__(self, node: Node, directory: Path, limits: Limits) -> None:
        self.node = node
        self.directory = directory
        self.pidfd = -1
        self.command = -1
        self.outer = -1
        self._outer_status = -1
        self.init_cpu_seconds = 0.0
        """Of init itself, known after its end."""
        self._stack = ExitStack()
        directory.mkdir(exist_ok=True)
        self.cgroup: JobCgroup = node.cgroups.create(directory.name, limits, [])
        self._stack.callback(node.cgroups.discard, directory.name)
        self._stack.callback(self.cgroup.close)
        self.control, self.far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stack.callback(self.control.close)
        self._stack.callback(self.far_control.close)
        self._stack.callback(self._end_processes)
        self.control.settimeout(DEADLINE_SECONDS)
        self.control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def spec(self, *argv: str, **changes: object) -> LaunchSpec:
        """A sensible spec for the command, with fields replaced by `changes`."""
        flags = LaunchFlag.LANDLOCK | LaunchFlag.LANDLOCK_OPTIONAL
        if self.cgroup.oom_event_fd is not None:
            flags |= LaunchFlag.OOM_EVENT
        spec = LaunchSpec(
            command=argv[0], args=argv[1:], env={"PATH": PATH}, hostname="jbtest",
            host_uid=UID_BASE + 1000, host_gid=UID_BASE + 1000, flags=flags,
            cgroup_version=self.node.cgroups.version,
            init_fds=len(self.cgroup.init_fds), payload_fds=len(self.cgroup.payload_fds),
            tmp_bytes=64 * MIB, work_bytes=64 * MIB, shm_bytes=16 * MIB, tmpfs_inodes=4096,
        )  # fmt: skip
        return replace(spec, **changes)  # type: ignore[arg-type]

    def spawn(self, spec: bytes, uploads: bytes = b"", log: Path | None = None, contents: Sequence[bytes] = ()) -> None:
        """Starts jobinit on `spec`. The log lies in `log`, else in the job's directory."""
        self.log = log or self.directory
        null = os.open("/dev/null", os.O_RDWR)
        places = {
            Fd.SPEC: _memory(spec),
            Fd.CONTROL: os.dup(self.far_control.fileno()),
            Fd.TEMPLATE: os.dup(self.node.template),
            Fd.USERNS: os.dup(self.node.user.fd),
            Fd.STATE: os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY),
            Fd.DATA: os.open(self.log / "output", os.O_WRONLY | os.O_CREAT, 0o600),
            Fd.INDEX: os.open(self.log / "index", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            Fd.UPLOADS: _memory(uploads),
            Fd.OOM_EVENT: os.dup(null if self.cgroup.oom_event_fd is None else self.cgroup.oom_event_fd),
            Fd.OOM_COUNTER: os.dup(self.cgroup.oom_counter_fd),
            Fd.NETNS: os.dup(null),
        }
        joins = (*self.cgroup.init_fds, *self.cgroup.payload_fds)
        places_all: dict[int, int] = {int(place): fd for place, fd in places.items()}
        behind = [*(os.dup(fd) for fd in joins), *(_memory(content) for content in contents)]
        places_all |= {Fd.CGROUP + n: fd for n, fd in enumerate(behind)}
        try:
            self.outer = _spawn(self.node.jobinit, places_all, null)
        finally:
            for fd in (*places_all.values(), null):
                os.close(fd)
            self.far_control.close()

    def init(self) -> int:
        """Waits for INIT; init's pidfd."""
        message, fds, _ = self._receive(MessageType.INIT)
        assert message.detail == ""
        (self.pidfd,) = fds
        return self.pidfd

    def parked(self) -> Message:
        """Waits for PARKED; `command` is then the command's pid."""
        message, _, self.command = self._receive(MessageType.PARKED)
        return message

    def go(self) -> None:
        """Raises Failed when the command could not be executed."""
        self.control.send(GO)
        message = self.control.recv(Message.SIZE)
        if message:
            raise Failed(Message.decode(message))

    def start(
        self, spec: LaunchSpec, uploads: bytes = b"", log: Path | None = None, contents: Sequence[bytes] = ()
    ) -> None:
        """The whole launch."""
        self.spawn(spec.encode(), uploads, log, contents)
        self.init()
        self.parked()
        self.go()

    def stop(self) -> None:
        signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def wait_end(self, seconds: float = DEADLINE_SECONDS) -> int:
        """init's exit status."""
        assert readable(self.pidfd, seconds), "init did not end"
        self.outer_status()  # until outer has ended too, init is its child, not ours
        ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert ended.si_code == os.CLD_EXITED, ended
        _, _, usage = os.wait4(ended.si_pid, 0)
        record = exitrecord.read(self.directory)
        self.init_cpu_seconds = (
            usage.ru_utime + usage.ru_stime - ((record.user_us + record.system_us) / 1e6 if record else 0)
        )
        return ended.si_status

    def end(self, seconds: float = DEADLINE_SECONDS) -> Ended:
        status = self.wait_end(seconds)
        record = exitrecord.read(self.directory)
        assert record is not None
        assert not (self.directory / exitrecord.TEMPORARY_NAME).exists()
        return Ended(status, record, self.output(), read_index(self.log / "index"))

    def run(self, spec: LaunchSpec, uploads: bytes = b"") -> Ended:
        self.start(spec, uploads)
        return self.end()

    def output(self) -> bytes:
        return (self.log / "output").read_bytes()

    def outer_status(self) -> int:
        """Waits for outer; its exit status."""
        if self.outer > 0:
            self._outer_status = os.waitstatus_to_exitcode(os.waitpid(self.outer, 0)[1])
            self.outer = -1
        return self._outer_status

    def _receive(self, wanted: MessageType) -> tuple[Message, list[int], int]:
        data, ancillary, _, _ = self.control.recvmsg(Message.SIZE, 512, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        pid = -1
        for _, kind, content in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(content)
            elif kind == socket.SCM_CREDENTIALS:
                pid = struct.unpack("=iII", content)[0]
        message = Message.decode(data)
        if message.type is not wanted:
            raise Failed(message)
        return message, list(fds), pid

    def _end_processes(self) -> None:
        self.control.close()
        self.outer_status()
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            os.close(self.pidfd)


def _spawn(jobinit: Path, places: Mapping[int, int], null: int) -> int:
    # Sources first move above the places, so that no dup2 overwrites one that is still needed.
    with ExitStack() as stack:
        actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
        for place, fd in places.items():
            source = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
            stack.callback(os.close, source)
            actions.append((os.POSIX_SPAWN_DUP2, source, place))
        return os.posix_spawn(jobinit, ["jobinit"], ENVIRONMENT, file_actions=actions)


def _memory(content: bytes) -> int:
    fd = os.memfd_create("jbtest")
    while content:
        content = content[os.write(fd, content) :]
    return fd


def readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def until(true: Callable[[], bool], what: str) -> None:
    """Polls for something that gives no event."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def prints(job: Job, wanted: bytes) -> None:
    """Waits until the log has `wanted`."""
    until(lambda: wanted in job.output(), f"job did not print {wanted!r}")


def read_index(path: Path) -> list[IndexEntry]:
    """Every entry, checked; the file has no header because the logstore writes that."""
    data = path.read_bytes()
    assert len(data) % _ENTRY.size == 0
    entries = []
    for start in range(0, len(data), _ENTRY.size):
        raw = data[start : start + _ENTRY.size]
        size, time_ns, kind, crc = _ENTRY.unpack(raw)
        assert crc == zlib.crc32(raw[:20])
        entries.append(IndexEntry(size, time_ns, kind))
    return entries


def unlimited() -> Limits:
    return Limits(cpu_percent=0, cpu_cores=None, memory_bytes=512 * MIB, io_bytes_per_second=0, max_processes=2000)


def errno_of(failed: Failed) -> str:
    return errno.errorcode.get(failed.told.error, "0")
