"""One launch, step by step, from a job's resources to its running command.

1. `spawn`: the spec goes into a memfd, small uploads into another, large ones are open files; jobinit starts with its
   descriptors at their fixed places.
2. `init`: a pidfd of init arrives. From here on the end of init is the end of everything the launch made.
3. `parked`: the command waits; the caller attests it from outside and writes down what is needed to find it again.
4. `go`: end of file on the control socket says that the command runs, ERROR that it could not.

Whoever leaves the `spawn` block closes the control socket: a command that was not told to go then exits without having
run (also when the executor dies), and init with it.
"""

import asyncio
import functools
import os
import resource
import select
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Final

from joblet.common import unixsock
from joblet.common.contents import Contents
from joblet.common.errors import Internal
from joblet.executor import jobspec, procfs, procmasks
from joblet.executor.attest import Expectation, capabilities_of
from joblet.executor.cgroup.driver import JobCgroup
from joblet.executor.ending import with_errno
from joblet.executor.environment import environment_of
from joblet.executor.etcfiles import HOSTNAME
from joblet.executor.job import Network, Order, Upload
from joblet.executor.jobspec import (
    GO,
    ORDER,
    ORDER_FDS,
    Fd,
    LaunchFlag,
    LaunchSpec,
    Message,
    MessageType,
    Profile,
    Stage,
)
from joblet.executor.logs import LogFiles
from joblet.executor.nursery import Nursery
from joblet.executor.userns import JOB_ID_INSIDE, UserNamespace
from joblet.executor.waiting import end

BUFFERED_WRITES: Final = "maxIOBPS: writes that the kernel delays are not limited (the node has cgroup v1)"
LANDLOCK_SCOPES: Final = 6  # the Landlock ABI that can scope abstract sockets and signals (Linux 6.12)
_TMPFS_INODES: Final = 1 << 18
_TTY_GROUP: Final = 5  # TTY_GROUP of rootfs.c
_PAGE_BYTES: Final = 4096
_MOST_FILES: Final = 1 << 16
_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """What may be kept of one job's /work, how long that may take, and what is kept of all jobs together."""

    one_bytes: int
    files: int
    seconds: float
    total_bytes: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Node:
    """What every launch on this node has in common; descriptors stay open as long as the executor."""

    nursery: Nursery
    template: int  # mount namespace
    bound_paths: tuple[str, ...]
    host_namespaces: Mapping[str, int]
    null: int  # /dev/null, read-write
    boot_id: str
    cgroup_version: int
    landlock_abi: int
    tmp_bytes: int
    work_bytes: int
    grace_seconds: float
    log_rate: int  # bytes of output per second that each job may write; 0: no limit
    contents: Contents
    outputs: "OutputLimits"


@dataclass(frozen=True, slots=True)
class Resources:
    """What one job has been given; the caller owns and releases all of it."""

    state: int  # its state directory, O_DIRECTORY
    log: LogFiles
    cgroup: JobCgroup
    user: UserNamespace
    prepared: "Prepared | None" = None  # an init that waits for this job


@dataclass(slots=True, eq=False)
class Prepared:
    """An init that waits for a job: its end of the control socket is ours, so is the pidfd until `take_pidfd`."""

    control: socket.socket
    pid: int
    user: UserNamespace
    _pidfd: int | None

    def alive(self) -> bool:
        poll = select.poll()
        poll.register(self._pid_fd(), select.POLLIN)
        return not poll.poll(0)

    def take_pidfd(self) -> int:
        """For the caller to close."""
        pidfd, self._pidfd = self._pid_fd(), None
        return pidfd

    def close(self) -> None:
        """Ends it, unless it has its job."""
        self.control.close()
        if self._pidfd is not None:
            end(self.take_pidfd())

    def _pid_fd(self) -> int:
        if self._pidfd is None:
            raise Internal("this init was given a job already")
        return self._pidfd


class LaunchError(Internal):
    """jobinit could not start the command: at which stage and with which errno (0: no system call failed)."""

    def __init__(self, stage: Stage, error: int, detail: str) -> None:
        super().__init__(f"cannot {stage.action}: {with_errno(detail, error)}")
        self.stage = stage
        self.error = error
        self.detail = detail


class NeverBorn(LaunchError):
    """Nothing came of an order to the nursery, which has probably been killed: another attempt is in order."""

    def __init__(self) -> None:
        super().__init__(Stage.CONTROL, 0, "it ended before it said INIT")


class Handshake:
    """The executor's end of the control socket of one launch. Messages are received as they come, whoever awaits them;
    `close` gives up the rest and leaves the socket alone."""

    def __init__(self, control: socket.socket, prepared: Prepared | None = None) -> None:
        self._control = control
        self._prepared = prepared
        self._arrived: deque[unixsock.Received | OSError] = deque()
        self._awaited: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control.fileno(), self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._control.fileno())
        while self._arrived:
            received = self._arrived.popleft()
            for fd in () if isinstance(received, OSError) else received.fds:
                os.close(fd)

    async def init(self) -> tuple[int, int]:
        """init's pid, vouched for by the kernel, and a pidfd, which the caller closes. As soon as init has ended, the
        number may be another process's."""
        if self._prepared is not None:
            return self._prepared.pid, self._prepared.take_pidfd()
        received = await self._receive(MessageType.INIT)
        if len(received.fds) != 1:
            raise LaunchError(Stage.CONTROL, 0, f"{len(received.fds)} descriptors came with init's message")
        return _sender(received, Stage.CONTROL), received.fds[0]

    async def parked(self) -> int:
        """The pid of the command, which waits; vouched for by the kernel."""
        return _sender(await self._receive(MessageType.PARKED), Stage.PARK)

    async def go(self) -> None:
        """Lets the command run. Returns when it does, or when it was killed at that moment: the exit record tells."""
        try:
            self._control.send(GO)
            received = await self._next()
        except (BrokenPipeError, ConnectionResetError):
            return
        if received.data:
            raise _refusal(Message.decode(received.data))

    async def _receive(self, wanted: MessageType) -> unixsock.Received:
        try:
            received = await self._next()
        except ConnectionResetError:
            received = unixsock.Received(b"", (), None)
        if not received.data:
            if wanted is MessageType.INIT:
                raise NeverBorn
            raise LaunchError(Stage.CONTROL, 0, f"it ended before it said {wanted.name}")
        message = Message.decode(received.data)
        if message.type is not wanted:
            for fd in received.fds:
                os.close(fd)
            raise _refusal(message)
        return received

    async def _next(self) -> unixsock.Received:
        if not self._arrived:
            self._awaited = self._loop.create_future()
            await self._awaited
        received = self._arrived.popleft()
        if isinstance(received, OSError):
            raise received
        return received

    def _read(self) -> None:
        try:
            received: unixsock.Received | OSError = unixsock.receive(self._control, Message.SIZE, max_fds=1)
        except BlockingIOError:
            return
        except OSError as error:
            received = error
        if isinstance(received, OSError) or not received.data:  # the last one
            self._loop.remove_reader(self._control.fileno())
        self._arrived.append(received)
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)


@contextmanager
def spawn(spec: bytes, uploads: Sequence[Upload], resources: Resources, node: Node) -> Iterator[Handshake]:
    """Starts jobinit with an encoded launch spec and the bytes of its uploads. Raises OSError when it cannot, NotFound
    when a content is not there."""
    prepared = resources.prepared
    with ExitStack() as stack:
        places = _job_places(spec, uploads, resources, node, stack)
        if prepared is not None:
            stack.callback(prepared.control.close)
            unixsock.send(prepared.control, ORDER, [places.pop(place) for place in ORDER_FDS] + list(places.values()))
            control = prepared.control
        else:
            control = _spawned({**places, Fd.USERNS: resources.user.fd}, node, stack)
        yield stack.enter_context(closing(Handshake(control, prepared)))


async def prepare(network: Network, user: UserNamespace, node: Node) -> Prepared:
    """An init that waits for a job of this network in this user namespace. Raises OSError and LaunchError."""
    with ExitStack() as undo, ExitStack() as stack:
        spec = _prepared_spec(network, user.base, node.cgroup_version, node.tmp_bytes, node.work_bytes)
        spec_fd = _memory_file("joblet-spec", [spec], stack)
        control = _spawned({Fd.SPEC: spec_fd, Fd.USERNS: user.fd}, node, undo)
        pid, pidfd = await stack.enter_context(closing(Handshake(control))).init()
        undo.pop_all()
        return Prepared(control, pid, user, pidfd)


def launch_spec(order: Order, resources: Resources, node: Node) -> LaunchSpec:
    """The order in jobinit's words."""
    memory_bytes = order.limits.memory_bytes
    inside = id_inside(order.profile)
    host = resources.user.base + inside
    return LaunchSpec(
        command=order.command,
        args=order.args,
        env=environment_of(order),
        hostname=HOSTNAME,
        workdir=order.work_dir,
        host_uid=host,
        host_gid=host,
        uid=inside,
        gid=inside,
        profile=order.profile,
        flags=_flags(order.network, node.landlock_abi, resources.cgroup.oom_event_fd is not None),
        cgroup_version=node.cgroup_version,
        init_fds=len(resources.cgroup.init_fds),
        payload_fds=len(resources.cgroup.payload_fds),
        timeout_ms=order.timeout_seconds * 1000,
        grace_ms=round(node.grace_seconds * 1000),
        tmp_bytes=node.tmp_bytes,
        work_bytes=node.work_bytes,
        shm_bytes=memory_bytes,
        tmpfs_inodes=_TMPFS_INODES,
        nofile=_most_files(),
        log_rate=node.log_rate,
        outputs=order.outputs,
        output_bytes=node.outputs.one_bytes,
        output_ms=round(node.outputs.seconds * 1000),
        output_files=node.outputs.files,
        uploads=[jobspec.Upload(upload.path, upload.mode, upload.size, upload.kind) for upload in order.uploads],
    )


@functools.lru_cache(maxsize=_REMEMBERED)
def _prepared_spec(network: Network, base: int, cgroup_version: int, tmp_bytes: int, work_bytes: int) -> bytes:
    """What every job's spec has that fits: jobinit compares the two. There are only so many users of jobs."""
    host = base + JOB_ID_INSIDE
    spec = LaunchSpec(
        command="none",
        env={},
        hostname=HOSTNAME,
        host_uid=host,
        host_gid=host,
        uid=JOB_ID_INSIDE,
        gid=JOB_ID_INSIDE,
        flags=LaunchFlag.PREPARED | (LaunchFlag.NEW_NETWORK if network is Network.NONE else LaunchFlag.NONE),
        cgroup_version=cgroup_version,
        init_fds=0,
        payload_fds=0,
        tmp_bytes=tmp_bytes,
        work_bytes=work_bytes,
        shm_bytes=1,
        tmpfs_inodes=_TMPFS_INODES,
        nofile=_most_files(),
    )
    return spec.encode()


def _most_files() -> int:
    return min(_MOST_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def expectation(order: Order, resources: Resources, node: Node, init_pid: int) -> Expectation:
    """What attestation must find."""
    return Expectation(
        init_pid=init_pid,
        host_id=resources.user.base + id_inside(order.profile),
        id_map=resources.user.map_line,
        user_namespace=resources.user.inode,
        shared_namespaces=frozenset({"net"}) if order.network is Network.HOST else frozenset(),
        host_namespaces=node.host_namespaces,
        capabilities=capabilities_of(order.profile),
        bound_paths=node.bound_paths,
        cgroups=resources.cgroup.expected_paths,
        limits=order.limits,
        template=os.fstat(node.template).st_ino,
        proc_masks=procmasks.present(),
        settings=_settings(order, resources, node),
        nofile=_most_files(),
        seccomp_filters=_own_seccomp_filters() + 1,
    )


def _settings(order: Order, resources: Resources, node: Node) -> dict[str, dict[str, str]]:
    """What the kernel tells of the file systems that jobinit's rootfs.c mounts for this job."""
    base, owner = resources.user.base, str(resources.user.base + id_inside(order.profile))
    return {
        "/tmp": _tmpfs(node.tmp_bytes),
        "/work": {**_tmpfs(node.work_bytes), "mode": "700", "uid": owner, "gid": owner},
        "/dev/shm": _tmpfs(order.limits.memory_bytes),
        "/dev/pts": {"gid": str(base + _TTY_GROUP), "mode": "620", "ptmxmode": "666", "max": "256"},
    }


def _tmpfs(size_bytes: int) -> dict[str, str]:
    return {"size": f"{-(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES // 1024}k", "nr_inodes": str(_TMPFS_INODES)}


@functools.cache
def _own_seccomp_filters() -> int:
    """Of this process: the node may be a container."""
    return int(procfs.read_status(os.getpid())["Seccomp_filters"])


def id_inside(profile: Profile) -> int:
    """The command's uid and gid in its user namespace."""
    return 0 if profile is Profile.BUILD else JOB_ID_INSIDE


def not_isolated(order: Order, node: Node) -> tuple[str, ...]:
    """What the job shares with its node, and where a limit cannot hold, in words."""
    unlimited = order.limits.io_bytes_per_second and node.cgroup_version == 1
    gaps = (BUFFERED_WRITES,) if unlimited else ()
    return (*_shared(order, node), *gaps)


def _shared(order: Order, node: Node) -> tuple[str, ...]:
    if order.network is not Network.HOST:
        return ()
    shared = ["network: the node's interfaces and everything that listens on its loopback addresses can be reached"]
    if node.landlock_abi < LANDLOCK_SCOPES:
        shared.append("abstract unix sockets of the node can be reached (its kernel has no Landlock scoping)")
    return tuple(shared)


@functools.cache
def _flags(network: Network, landlock_abi: int, oom_event: bool) -> LaunchFlag:
    flags = LaunchFlag.OOM_EVENT if oom_event else LaunchFlag.NONE
    if network is Network.NONE:
        flags |= LaunchFlag.NEW_NETWORK
    elif landlock_abi >= LANDLOCK_SCOPES:
        flags |= LaunchFlag.LANDLOCK
    return flags


def _job_places(
    spec: bytes, uploads: Sequence[Upload], resources: Resources, node: Node, stack: ExitStack
) -> dict[int, int]:
    """The descriptors that this job alone has, by place; `stack` closes those made here."""
    cgroup = resources.cgroup
    small = [upload.content for upload in uploads if upload.content]
    files = [stack.enter_context(node.contents.open(upload.digest)) for upload in uploads if upload.digest]
    behind = (*cgroup.init_fds, *cgroup.payload_fds, *(file.fileno() for file in files))
    return {
        Fd.SPEC: _memory_file("joblet-spec", [spec], stack),
        Fd.STATE: resources.state,
        Fd.DATA: resources.log.output,
        Fd.INDEX: resources.log.index,
        Fd.UPLOADS: _memory_file("joblet-uploads", small, stack) if small else node.null,
        Fd.OOM_EVENT: node.null if cgroup.oom_event_fd is None else cgroup.oom_event_fd,
        Fd.OOM_COUNTER: cgroup.oom_counter_fd,
        **{Fd.CGROUP + place: fd for place, fd in enumerate(behind)},
    }


def _spawned(places: Mapping[int, int], node: Node, stack: ExitStack) -> socket.socket:
    """Starts jobinit; our end of the control socket, which `stack` closes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.enter_context(ours)
    ours.setblocking(False)
    unixsock.pass_credentials(ours)
    with theirs:
        node.nursery.spawn({**places, Fd.CONTROL: theirs.fileno()})
    return ours


def _memory_file(name: str, contents: Sequence[bytes], stack: ExitStack) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    for content in contents:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _sender(received: unixsock.Received, stage: Stage) -> int:
    if received.credentials is None:
        raise LaunchError(stage, 0, "a message came without credentials")
    return received.credentials.pid


def _refusal(message: Message) -> LaunchError:
    if message.type is MessageType.ERROR:
        return LaunchError(message.stage, message.error, message.detail)
    return LaunchError(Stage.CONTROL, 0, f"unexpected message {message.type.name}")
