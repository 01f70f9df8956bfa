import asyncio
import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from joblet.common.errors import ResourceExhausted
from joblet.logstore import inotify as module
from joblet.logstore.inotify import Inotify

TIMEOUT_SECONDS = 120.0


@contextmanager
def opened(path: Path) -> Iterator[tuple[Inotify, int]]:
    """To be used inside a loop: an Inotify and a file open for reading and writing."""
    with closing(Inotify()) as inotify, created(path) as fd:
        yield inotify, fd


@contextmanager
def created(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield fd
    finally:
        os.close(fd)


async def woken(changed: asyncio.Event) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await changed.wait()
    changed.clear()


def test_every_follower_of_a_file_is_woken_and_shares_its_watch(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path / "file") as (inotify, fd), ExitStack() as stack:
            followers = [stack.enter_context(inotify.watching(fd)) for _ in range(16)]
            assert inotify.watches == 1
            for _ in range(3):
                os.write(fd, b"x")
                for changed in followers:
                    await woken(changed)
            stack.close()
            assert inotify.watches == 0

    asyncio.run(main())


def test_a_watch_stays_until_its_last_follower_goes(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path / "file") as (inotify, fd), inotify.watching(fd) as stays:
            with inotify.watching(fd):
                pass
            assert inotify.watches == 1
            os.write(fd, b"x")
            await woken(stays)
            with inotify.watching(fd) as comes:
                os.write(fd, b"x")
                await woken(comes)

    asyncio.run(main())


def test_only_followers_of_the_written_file_are_woken(tmp_path: Path) -> None:
    async def main() -> None:
        with (
            opened(tmp_path / "file") as (inotify, fd),
            created(tmp_path / "other") as other,
            inotify.watching(fd) as quiet,
            inotify.watching(fd, other) as both,
        ):
            assert inotify.watches == 2
            os.write(other, b"x")
            await woken(both)
            assert not quiet.is_set()

    asyncio.run(main())


def test_a_deleted_file_is_still_watched_by_those_who_have_it_open(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path / "file") as (inotify, fd):
            (tmp_path / "file").unlink()
            with inotify.watching(fd) as changed:
                os.write(fd, b"x")
                await woken(changed)
            assert inotify.watches == 0

    asyncio.run(main())


def test_many_writes_wake_seldom_and_the_last_one_is_not_missed(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path / "file") as (inotify, fd), inotify.watching(fd) as changed:
            began = time.monotonic()
            wakes = 0
            seen = 0
            for _ in range(2000):
                os.write(fd, b"x")
                await asyncio.sleep(0)
                if changed.is_set():
                    changed.clear()
                    wakes += 1
                    seen = os.fstat(fd).st_size
            most = (time.monotonic() - began) / module.PAUSE_SECONDS
            while seen < 2000:
                await woken(changed)
                seen = os.fstat(fd).st_size
            assert wakes <= most + 1

    asyncio.run(main())


def test_an_overflow_of_the_queue_wakes_everybody(tmp_path: Path) -> None:
    async def main() -> None:
        with (
            opened(tmp_path / "a") as (inotify, a),
            created(tmp_path / "b") as b,
            created(tmp_path / "c") as c,
            inotify.watching(a) as unwritten,
            inotify.watching(b, c),
        ):
            # Alternating files keep the kernel from merging equal events.
            for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())):
                os.write(b, b"x")
                os.write(c, b"x")
            await woken(unwritten)

    asyncio.run(main())


def test_stopping_wakes_everybody(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path / "file") as (inotify, fd), inotify.watching(fd) as changed:
            inotify.stop()
            await woken(changed)
            assert inotify.stopping

    asyncio.run(main())


def test_a_used_up_limit_is_an_error_that_says_what_to_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        ctypes.set_errno(28)  # ENOSPC
        return -1

    async def main() -> None:
        with opened(tmp_path / "file") as (inotify, fd):
            with monkeypatch.context() as patch, pytest.raises(ResourceExhausted) as caught:
                patch.setattr(module._libc, "inotify_add_watch", refuse)
                with inotify.watching(fd):
                    pass
            assert caught.value.hint == "raise fs.inotify.max_user_watches"
            assert inotify.watches == 0

    asyncio.run(main())
