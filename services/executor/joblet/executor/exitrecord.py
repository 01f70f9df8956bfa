"""The exit record: how a job ended, as its init wrote it.

File `exit` in the job's state directory, 160 bytes, little endian, written to the preallocated `exit.tmp` and renamed,
so it is there completely or not at all:

    magic "JBEX" | u32 version = 1 | i32 exit_code | i32 signal | u32 reason | u32 stage | i32 errno | u32 flags
    | i64 start_ns | i64 end_ns | u64 user_us | u64 system_us | u64 maxrss_bytes | u64 oom_kills
    | u64 voluntary switches | u64 involuntary switches | char detail[60] | u32 crc32 of all before

Times are CLOCK_REALTIME nanoseconds. CPU time and memory are those of getrusage(RUSAGE_CHILDREN): every process init
has waited for, directly or through others. Unlike an append-only file it has no torn tail to mend: anything else than
exactly one valid record is damage. Layout: `struct record` in jobinit.h.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Self

from joblet.common.errors import Internal
from joblet.executor.jobspec import Stage

NAME = "exit"
TEMPORARY_NAME = "exit.tmp"
SIZE = 160

_MAGIC = b"JBEX"
_VERSION = 1
_LAYOUT = struct.Struct("<4sIiiIIiIqqQQQQQQ60sI")


class EndReason(IntEnum):
    EXIT = 1
    SIGNAL = 2
    OOM = 3
    TIMEOUT = 4
    STOPPED = 5
    LAUNCH_FAILED = 6
    OOM_CHILD = 7
    """Another process of the job than its command was the one that had no memory."""


class RecordFlag(IntFlag):
    STARTED = 1
    """The command got its go and was about to execve."""
    OOM_EVENT = 2
    """The kernel announced an out-of-memory kill to init (cgroup v1)."""
    FORCED = 4
    """The grace period ran out and the job was killed."""


class DamagedRecord(Internal):
    """The file is there but is not a valid record."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    exit_code: int
    """0..255, 128+n for a signal, -1 when stopped or timed out."""
    signal: int
    """The signal that ended the main process, 0 if none."""
    reason: EndReason
    stage: Stage
    """With LAUNCH_FAILED: where, and `error` the errno."""
    error: int
    flags: RecordFlag
    start_ns: int
    end_ns: int
    user_us: int
    system_us: int
    maxrss_bytes: int
    oom_kills: int
    voluntary_switches: int
    involuntary_switches: int
    detail: str

    @property
    def started(self) -> bool:
        return RecordFlag.STARTED in self.flags

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises DamagedRecord unless `data` is exactly one valid record."""
        if len(data) != SIZE:
            raise DamagedRecord(f"exit record has {len(data)} bytes instead of {SIZE}")
        magic, version, code, signal, reason, stage, error, flags, *rest = _LAYOUT.unpack(data)
        start, end, user, system, maxrss, oom_kills, voluntary, involuntary, detail, crc = rest
        if (magic, version) != (_MAGIC, _VERSION):
            raise DamagedRecord(f"exit record begins with {magic!r} version {version}")
        if crc != zlib.crc32(data[:-4]):
            raise DamagedRecord("exit record has a wrong checksum")
        try:
            return cls(
                code, signal, EndReason(reason), Stage(stage), error, RecordFlag(flags),
                start, end, user, system, maxrss, oom_kills, voluntary, involuntary,
                os.fsdecode(detail.partition(b"\0")[0]),
            )  # fmt: skip
        except ValueError as problem:
            raise DamagedRecord(f"exit record makes no sense: {problem}") from problem

    def encode(self) -> bytes:
        """The bytes jobinit would write (golden file, tests of readers)."""
        data = _LAYOUT.pack(
            _MAGIC, _VERSION, self.exit_code, self.signal, self.reason, self.stage, self.error, self.flags,
            self.start_ns, self.end_ns, self.user_us, self.system_us, self.maxrss_bytes,
            self.oom_kills, self.voluntary_switches, self.involuntary_switches,
            os.fsencode(self.detail)[:59], 0,
        )  # fmt: skip
        return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def read(state_dir: Path) -> ExitRecord | None:
    """The record of the job whose state directory this is; None when there is none (yet). Raises DamagedRecord."""
    try:
        descriptor = os.open(f"{state_dir}/{NAME}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return ExitRecord.decode(os.read(descriptor, SIZE + 1))
    finally:
        os.close(descriptor)
