"""Short-lived children in which things are tried: whatever they change about themselves ends with them."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

ATTEMPT_SECONDS: Final = 30  # of the child; a call that does not come back is a finding too
_FAILED: Final = b"!"
_MESSAGE_BYTES: Final = 1024

Work = Callable[[], str]
"""Returns what it found, or raises the OSError that says why not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`errno` is 0 when it worked; `text` is then what was found, otherwise the call and what it said."""

    errno: int
    text: str

    @property
    def worked(self) -> bool:
        return self.errno == 0


NO_ERRNO: Final = -1
"""The errno of an attempt that ended without one: killed, timed out, or failed for a reason of its own."""


def attempt(work: Work) -> Outcome:
    """Does `work` in a forked child. Needs a process with a single thread."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, writer)
    os.close(writer)
    try:
        message = _read_all(reader)
    finally:
        os.close(reader)
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Outcome(NO_ERRNO, f"the attempt was ended by {signal.Signals(os.WTERMSIG(status)).name}")
    if message.startswith(_FAILED):
        code, _, text = message[1:].decode(errors="replace").partition(" ")
        return Outcome(int(code), text)
    return Outcome(0, message.decode(errors="replace"))


@contextmanager
def mapped_user_namespace(first_id: int, size: int) -> Iterator[int]:
    """The descriptor of a new user namespace in which ids 0..size-1 are `first_id`.. of the host; then it is gone.

    As for jobs, no further one may be made inside it. OSErrors of the steps carry their name.
    """
    unshared_reader, unshared_writer = os.pipe()
    mapped_reader, mapped_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(unshared_reader)
        os.close(mapped_writer)
        _child(lambda: _inside(unshared_writer, mapped_reader), unshared_writer)
    os.close(unshared_writer)
    os.close(mapped_reader)
    try:
        _expect_step(unshared_reader)
        for name in ("uid_map", "gid_map"):
            _write(f"/proc/{pid}/{name}", f"0 {first_id} {size}\n")
        os.write(mapped_writer, b"m")
        _expect_step(unshared_reader)
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield namespace
        finally:
            os.close(namespace)
    finally:
        os.close(mapped_writer)  # the child reads its end, and ends
        os.close(unshared_reader)
        os.waitpid(pid, 0)


def _inside(report: int, mapped: int) -> str:
    from rnx.doctor import syscalls

    syscalls.unshare(syscalls.CLONE_NEWUSER)
    os.write(report, b".")
    if os.read(mapped, 1):
        _write("/proc/sys/user/max_user_namespaces", "0")
        os.write(report, b".")
        os.read(mapped, 1)
    return ""


def _expect_step(reader: int) -> None:
    message = os.read(reader, _MESSAGE_BYTES)
    if message != b".":
        code, _, text = message[1:].decode(errors="replace").partition(" ")
        raise OSError(int(code or NO_ERRNO), text or "the child ended")


def _write(path: str, text: str) -> None:
    """One write(2), for files in which it is a command; the OSError names the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _child(work: Work, report: int) -> None:
    # Whatever happens, the child must never return into the parent's code.
    try:
        for ending in (signal.SIGALRM, signal.SIGINT):
            signal.signal(ending, signal.SIG_DFL)
        signal.alarm(ATTEMPT_SECONDS)
        os.write(report, work().encode()[:_MESSAGE_BYTES])
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        call = f"{error.filename}: " if error.filename else ""
        os.write(report, _FAILED + f"{error.errno or NO_ERRNO} {call}{said}".encode()[: _MESSAGE_BYTES - 1])
    except BaseException:  # noqa: BLE001 - a fault of ours: shown, and told as a failure
        traceback.print_exc()
        os.write(report, _FAILED + f"{NO_ERRNO} the attempt failed".encode())
    finally:
        os._exit(0)


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, _MESSAGE_BYTES):
        parts.append(part)
    return b"".join(parts)
