"""What the executor and jobinit say to each other: descriptors, the launch spec, messages.

Same numbers as `services/executor/jobinit/jobinit.h`; these two files are the only places that have them, and
`jobspec_test.py` compares them. Sizes are bytes, times milliseconds, everything is little endian.

The executor encodes a `LaunchSpec` into a memfd, has jobinit forked off with the descriptors of `Fd`, and then reads
messages of `Message.SIZE` bytes from its end of a SOCK_SEQPACKET pair (with SO_PASSCRED set):

1. INIT from init, with init's pidfd as ancillary data.
2. PARKED from the command, whose pid is in the credentials; now it can be inspected.
3. The executor answers `GO`. End of file then means that execve succeeded (or that the job was killed at that moment:
   the exit record tells which by its STARTED flag). Closing the socket instead makes the command exit with 125.

An init prepared ahead (LaunchFlag.PREPARED) says INIT as well and then waits for ORDER, which brings what the job alone
has: its spec and descriptors. It goes on with PARKED.

ERROR can come instead of any of them; the same stage and errno stand in the exit record.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import lru_cache
from pathlib import PurePosixPath
from typing import ClassVar, Self

from joblet.common.errors import Internal, InvalidArgument

MAX_SPEC_BYTES = 8 << 20
MAX_STRINGS = 65536
MAX_CGROUP_FDS = 32
MAX_OUTPUTS = 64
MAX_HOSTNAME_BYTES = 64
"""HOST_NAME_MAX, sethostname(2)."""

_MAGIC = int.from_bytes(b"JBSP", "little")
_VERSION = 2
_HEADER = struct.Struct("<12I7Q6I2Q2I")
_UPLOAD = struct.Struct("<IIQ")
_LENGTH = struct.Struct("<I")
_REMEMBERED = 64


class Fd(IntEnum):
    """Where jobinit expects its descriptors. 0, 1 and 2 are /dev/null; so is everything a job does not need."""

    SPEC = 3
    CONTROL = 4
    TEMPLATE = 5
    USERNS = 6
    STATE = 7
    DATA = 8
    INDEX = 9
    UPLOADS = 10
    OOM_EVENT = 11
    OOM_COUNTER = 12
    NETNS = 13
    CGROUP = 14


ORDER_FDS = (Fd.SPEC, Fd.STATE, Fd.DATA, Fd.INDEX, Fd.UPLOADS, Fd.OOM_EVENT, Fd.OOM_COUNTER)
"""The places of the descriptors that come with ORDER, in this order; those of the payload's cgroups and of contents
follow."""


class MessageType(IntEnum):
    INIT = 1
    PARKED = 2
    ERROR = 3
    GO = 4
    ORDER = 5


class Stage(IntEnum):
    """Where a launch failed, in the order things happen."""

    NONE = 0
    SPEC = 1
    CGROUP_INIT = 2
    TEMPLATE = 3
    CLONE = 4
    CONTROL = 5
    RECORD = 6
    PROC = 7
    MOUNT = 8
    LOOPBACK = 9
    HOSTNAME = 10
    RLIMIT = 11
    PIPE = 12
    FORK = 13
    CGROUP = 14
    SESSION = 15
    USERNS = 16
    CREDENTIALS = 17
    UPLOAD = 18
    WORKDIR = 19
    RESOLVE = 20
    LANDLOCK = 21
    SECCOMP = 22
    PARK = 23
    EXEC = 24
    PRIVILEGES = 25
    SUPERVISE = 26

    @property
    def action(self) -> str:
        """What was being done, to follow "cannot"."""
        return _ACTIONS[self]


_ACTIONS = {
    Stage.NONE: "do nothing",
    Stage.SPEC: "read the launch spec",
    Stage.CGROUP_INIT: "join init's cgroup",
    Stage.TEMPLATE: "enter the node's mount namespace",
    Stage.CLONE: "create namespaces",
    Stage.CONTROL: "reach the executor",
    Stage.RECORD: "prepare the exit record",
    Stage.PROC: "mount /proc",
    Stage.MOUNT: "mount the job's file systems",
    Stage.LOOPBACK: "bring up the loopback interface",
    Stage.HOSTNAME: "set the host name",
    Stage.RLIMIT: "set resource limits",
    Stage.PIPE: "prepare the output pipe",
    Stage.FORK: "create the job's process",
    Stage.CGROUP: "join the job's cgroup",
    Stage.SESSION: "set up the session",
    Stage.USERNS: "enter the user namespace",
    Stage.CREDENTIALS: "give up privileges",
    Stage.UPLOAD: "write uploads",
    Stage.WORKDIR: "change to the working directory",
    Stage.RESOLVE: "find the command",
    Stage.LANDLOCK: "restrict by Landlock",
    Stage.SECCOMP: "load the seccomp program",
    Stage.PARK: "get the executor's go",
    Stage.EXEC: "execute the command",
    Stage.PRIVILEGES: "give up init's privileges",
    Stage.SUPERVISE: "supervise the job",
}


class LaunchFlag(IntFlag):
    NONE = 0
    NEW_NETWORK = 1
    """Own network namespace, with lo up; otherwise the executor's."""
    LANDLOCK = 2
    """Scope abstract unix sockets and signals; the launch fails when the kernel cannot (Landlock ABI < 6)."""
    LANDLOCK_OPTIONAL = 4
    """With LANDLOCK: a kernel that cannot is only reported, by PARKED with stage LANDLOCK."""
    PREPARED = 16
    """There is no job yet: init mounts what no job needs to be known for and waits for ORDER."""
    OOM_EVENT = 8
    """Fd.OOM_EVENT is an eventfd of memory.oom_control (cgroup v1): the whole job is killed when it fires."""


class Profile(IntEnum):
    DEFAULT = 1
    """An ordinary user without any capability."""
    BUILD = 2
    """Root of the user namespace with what package managers need (chown, setuid, ...), for building runtimes."""


class UploadKind(IntEnum):
    """What an upload is and where its bytes lie."""

    FILE = 0
    """In Fd.UPLOADS, one after the other in the order of the table."""
    DIRECTORY = 1
    LINK = 2
    """Its target lies in Fd.UPLOADS as well."""
    LEAVE = 3
    """Nothing more goes into this directory: it gets its mode."""
    CONTENT = 4
    """A file in a descriptor of its own; those follow the cgroups' in the order of the table."""
    TREE = 5
    """A directory with what is in it, likewise (`joblet.common.tree`). Its path may be "."."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file or directory below /work."""

    path: str
    mode: int
    size: int = 0
    kind: UploadKind = UploadKind.FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """Everything jobinit has to know about one job. `encode` raises InvalidArgument naming the field."""

    command: str
    """Path, or name to be found in the job's PATH."""
    args: Sequence[str] = ()
    env: Mapping[str, str]
    hostname: str
    workdir: str = "/work"
    host_uid: int
    """The job's user seen from outside; owns /work."""
    host_gid: int
    uid: int = 1000
    gid: int = 1000
    profile: Profile = Profile.DEFAULT
    flags: LaunchFlag = LaunchFlag.NONE
    cgroup_version: int
    init_fds: int
    """How many descriptors of the init leaf start at Fd.CGROUP; those of the payload leaf follow. v2: one each."""
    payload_fds: int
    timeout_ms: int = 0
    """0: none."""
    grace_ms: int = 100
    tmp_bytes: int
    work_bytes: int
    shm_bytes: int
    tmpfs_inodes: int
    """Files in each of /tmp, /work and /dev/shm."""
    nofile: int = 1024
    log_rate: int = 0
    """Bytes of output per second, at most; 0: no limit."""
    uploads: Sequence[Upload] = ()
    outputs: Sequence[str] = ()
    """Patterns of what is kept of /work after the end (`jobinit/glob.c`), and how much and how long at most."""
    output_bytes: int = 0
    output_ms: int = 0
    output_files: int = 0

    @property
    def contents(self) -> int:
        """How many uploads come with a descriptor of their own."""
        return sum(upload.kind >= UploadKind.CONTENT for upload in self.uploads)

    def encode(self) -> bytes:
        """The binary form for Fd.SPEC. Directories that uploads need are added with mode 0755."""
        self._check()
        uploads = list(_with_directories(self.uploads))
        argv = [self.command, *self.args]
        env = [f"{name}={value}" for name, value in self.env.items()]
        body = bytearray()
        for text in (self.hostname, self.workdir, *argv, *env):
            body += _string(text)
        for upload in uploads:
            body += _UPLOAD.pack(upload.mode, upload.kind, upload.size) + _string(upload.path)
        for pattern in self.outputs:
            body += _string(pattern)
        size = _HEADER.size + len(body)
        if size > MAX_SPEC_BYTES or len(argv) + len(env) > MAX_STRINGS:
            raise InvalidArgument("command, arguments, environment and uploads are too large", field="args")
        return self._header(size, len(argv), len(env), len(uploads)) + bytes(body)

    def _header(self, size: int, argc: int, envc: int, uploads: int) -> bytes:
        try:
            return _HEADER.pack(
                _MAGIC, _VERSION, size, self.flags,
                self.cgroup_version, self.init_fds, self.payload_fds, self.profile,
                self.uid, self.gid, self.host_uid, self.host_gid,
                self.timeout_ms, self.grace_ms,
                self.tmp_bytes, self.work_bytes, self.shm_bytes, self.tmpfs_inodes, self.nofile,
                argc, envc, uploads, self.log_rate,
                self.contents, len(self.outputs), self.output_bytes, self.output_ms, self.output_files, 0,
            )  # fmt: skip
        except struct.error as error:
            raise InvalidArgument(f"a number of the launch spec is out of range: {error}") from error

    def _check(self) -> None:
        if not self.command:
            raise InvalidArgument("command is empty", field="command")
        if not 0 < len(os.fsencode(self.hostname)) <= MAX_HOSTNAME_BYTES:
            raise InvalidArgument(f"host name must have 1 to {MAX_HOSTNAME_BYTES} bytes", field="hostname")
        if not self.workdir.startswith("/"):
            raise InvalidArgument("working directory must be absolute", field="workdir")
        if any(not name or "=" in name for name in self.env):
            raise InvalidArgument("names of environment variables must not be empty or contain =", field="env")
        if self.init_fds + self.payload_fds + self.contents > MAX_CGROUP_FDS:
            raise InvalidArgument(f"more than {MAX_CGROUP_FDS} descriptors of cgroups and contents", field="init_fds")
        if len(self.outputs) > MAX_OUTPUTS:
            raise InvalidArgument(f"more than {MAX_OUTPUTS} outputs", field="outputs")
        for field in ("tmp_bytes", "work_bytes", "shm_bytes", "tmpfs_inodes"):
            if getattr(self, field) <= 0:
                raise InvalidArgument(f"{field} must be positive (0 means unlimited to tmpfs(5))", field=field)


def _string(text: str) -> bytes:
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise InvalidArgument("text contains a NUL byte", field="args")
    return _LENGTH.pack(len(raw)) + raw + b"\0"


def _with_directories(uploads: Iterable[Upload]) -> Iterator[Upload]:
    """The table as it is, each missing parent directory just before its first use, and at the end the modes of all
    directories, the innermost first: a directory's mode may forbid to reach what is in it."""
    modes: dict[str, int] = {}
    for upload in uploads:
        if not is_safe_path(upload.path) and not (upload.kind is UploadKind.TREE and upload.path == "."):
            raise InvalidArgument(f"upload path must stay below the working directory: {upload.path}", field="uploads")
        for parent in reversed(PurePosixPath(upload.path).parents):
            if str(parent) != "." and str(parent) not in modes:
                modes[str(parent)] = 0o755
                yield Upload(str(parent), 0o755, kind=UploadKind.DIRECTORY)
        if upload.kind is UploadKind.DIRECTORY:
            if upload.size:
                raise InvalidArgument(f"a directory has no content: {upload.path}", field="uploads")
            modes[upload.path] = upload.mode
        elif upload.kind is UploadKind.TREE and upload.path != ".":
            modes[upload.path] = upload.mode
        yield upload
    for path in sorted(modes, key=lambda path: path.count("/"), reverse=True):
        yield Upload(path, modes[path], kind=UploadKind.LEAVE)


def is_safe_path(path: str) -> bool:
    """Relative, without empty, `.` or `..` components: the same rule jobinit applies again."""
    return all(part not in ("", ".", "..") for part in path.split("/")) and len(os.fsencode(path)) < 4096


@dataclass(frozen=True, slots=True)
class Message:
    """One packet on Fd.CONTROL. `error` is an errno, 0 when no system call failed."""

    SIZE: ClassVar[int] = 272
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIiI256s")

    type: MessageType
    stage: Stage = Stage.NONE
    error: int = 0
    detail: str = ""

    def encode(self) -> bytes:
        return self._LAYOUT.pack(self.type, self.stage, self.error, 0, os.fsencode(self.detail)[:255])

    @classmethod
    @lru_cache(maxsize=_REMEMBERED)
    def decode(cls, data: bytes) -> Self:
        """Raises Internal for anything that is not exactly one message. Remembered: most say the same."""
        if len(data) != cls.SIZE:
            raise Internal(f"message from jobinit has {len(data)} bytes instead of {cls.SIZE}")
        kind, stage, error, _, detail = cls._LAYOUT.unpack(data)
        try:
            return cls(MessageType(kind), Stage(stage), error, os.fsdecode(detail.partition(b"\0")[0]))
        except ValueError as problem:
            raise Internal(f"message from jobinit makes no sense: {problem}") from problem


GO = Message(MessageType.GO).encode()
ORDER = Message(MessageType.ORDER).encode()
