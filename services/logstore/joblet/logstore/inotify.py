"""Who wants to know when a file changes: one inotify(7) instance of the process, read by the event loop.

Followers of one file share one watch; it goes away with the last of them. A wake-up says only "look again": what
changed and by how much is for the follower to find out, so events may be merged and repeated freely, but none is ever
lost (after an overflow of the kernel's queue everybody is woken).

After waking its followers the loop does not look at the queue for PAUSE_SECONDS. The first output after a silence is
passed on at once; a job that writes a line every few microseconds wakes the process 500 times a second, not 100,000
times, and its lines travel together.

Needs /proc, through which a watch is set on an open file instead of a path.
"""

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from joblet.common.errors import ResourceExhausted

# linux/inotify.h
IN_MODIFY = 0x00000002
IN_ATTRIB = 0x00000004  # also: a name of it was removed
IN_IGNORED = 0x00008000
IN_Q_OVERFLOW = 0x00004000
IN_NONBLOCK = os.O_NONBLOCK
IN_CLOEXEC = os.O_CLOEXEC

PAUSE_SECONDS = 0.002
READ_SIZE = 64 * 1024  # bytes; about 4,000 events without names

_EVENT = struct.Struct("iIII")  # wd, mask, cookie, length of the name that follows

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = [ctypes.c_int]
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
_libc.inotify_rm_watch.argtypes = [ctypes.c_int, ctypes.c_int]

_LIMITS = {
    errno.EMFILE: "raise fs.inotify.max_user_instances",
    errno.ENOSPC: "raise fs.inotify.max_user_watches",
}


class Inotify:
    """Belongs to the running event loop. Raises ResourceExhausted when a limit of the kernel is used up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = _checked(_libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC))
        self._waiting: dict[int, list[asyncio.Event]] = {}  # by watch descriptor
        self._resume: asyncio.TimerHandle | None = None
        self.stopping = False
        self._loop.add_reader(self._fd, self._readable)

    @property
    def watches(self) -> int:
        return len(self._waiting)

    @contextmanager
    def watching(self, *files: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of these open files was written to or removed, and once when the service
        stops."""
        changed = asyncio.Event()
        with ExitStack() as watches:
            for file in files:
                watch = _checked(_libc.inotify_add_watch(self._fd, b"/proc/self/fd/%d" % file, IN_MODIFY | IN_ATTRIB))
                self._waiting.setdefault(watch, []).append(changed)
                watches.callback(self._forget, watch, changed)
            yield changed

    def stop(self) -> None:
        """Wakes everybody, to see that `stopping` is set."""
        self.stopping = True
        self._wake_all()

    def close(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _forget(self, watch: int, changed: asyncio.Event) -> None:
        waiting = self._waiting.get(watch)
        if waiting is None:  # the kernel removed the watch: IN_IGNORED
            return
        waiting.remove(changed)
        if not waiting:
            del self._waiting[watch]
            _checked(_libc.inotify_rm_watch(self._fd, watch))

    def _readable(self) -> None:
        data = os.read(self._fd, READ_SIZE)
        offset = 0
        while offset < len(data):
            watch, mask, _, name_length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + name_length
            self._dispatch(watch, mask)
        self._loop.remove_reader(self._fd)
        self._resume = self._loop.call_later(PAUSE_SECONDS, self._loop.add_reader, self._fd, self._readable)

    def _dispatch(self, watch: int, mask: int) -> None:
        if mask & IN_Q_OVERFLOW:
            self._wake_all()
        # A watch that was just removed may still have events in the queue; watch descriptors are never reused soon.
        waiting = self._waiting.pop(watch, []) if mask & IN_IGNORED else self._waiting.get(watch, [])
        for changed in waiting:
            changed.set()

    def _wake_all(self) -> None:
        for waiting in self._waiting.values():
            for changed in waiting:
                changed.set()


def _checked(result: int) -> int:
    if result >= 0:
        return result
    number = ctypes.get_errno()
    if number in _LIMITS:
        raise ResourceExhausted("too many log files are being followed", hint=_LIMITS[number])
    raise OSError(number, os.strerror(number))
