"""The real nursery: what it forks off, what it passes on, and what remains when it is killed."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from joblet.common import unixsock
from joblet.executor import jobinit_path, syscalls
from joblet.executor.descriptors import reserve_low_descriptors
from joblet.executor.jobinit_for_tests import until
from joblet.executor.jobspec import Fd, Message, MessageType, Stage
from joblet.executor.nursery import Nursery

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def null(stack: ExitStack) -> int:
    return reserve_low_descriptors(stack)


@pytest.fixture
def nursery(stack: ExitStack, null: int) -> Nursery:
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    stack.callback(os.close, namespace)
    return stack.enter_context(closing(Nursery(jobinit_path.BUILT, namespace, null)))


def answer(nursery: Nursery, spec: int, *others: tuple[int, int]) -> Message:
    """What a jobinit with this spec says, and that it has no more to say."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.settimeout(120)
        with theirs:
            nursery.spawn({Fd.CONTROL: theirs.fileno(), Fd.SPEC: spec, **dict(others)})
        message = Message.decode(unixsock.receive(ours, Message.SIZE).data)
        assert ours.recv(1) == b""
    return message


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descriptors(pid: int) -> list[str]:
    return sorted(str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())


def test_each_is_a_process_of_its_own_that_leaves_nothing(nursery: Nursery, null: int) -> None:
    said = [answer(nursery, null) for _ in range(3)]
    assert [(message.type, message.stage) for message in said] == [(MessageType.ERROR, Stage.SPEC)] * 3
    before, pid = descriptors(nursery.pid), nursery.pid
    for _ in range(20):
        answer(nursery, null)
    until(lambda: children(nursery.pid) == [], "those that have ended are gone")
    until(lambda: descriptors(nursery.pid) == before, "what came with them is closed")
    assert nursery.pid == pid


def test_the_nursery_has_nothing_but_what_every_job_gets(nursery: Nursery, null: int) -> None:
    answer(nursery, null)
    found = descriptors(nursery.pid)
    assert {name.partition(":")[0] for name in found} == {"/dev/null", "mnt", "socket"}
    assert Path(f"/proc/{nursery.pid}/environ").read_bytes() == b""
    assert os.getsid(nursery.pid) == nursery.pid


def test_one_that_was_killed_is_replaced(nursery: Nursery, null: int) -> None:
    answer(nursery, null)
    killed = nursery.pid
    os.kill(killed, signal.SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    assert answer(nursery, null).type is MessageType.ERROR
    assert nursery.pid != killed
    assert not Path(f"/proc/{killed}").exists()


def test_it_leaves_with_the_executor(null: int) -> None:
    """Which does not even close the socket when it is killed."""
    syscalls.become_subreaper()
    told, tells = os.pipe()
    executor = os.fork()
    if executor == 0:
        try:
            orphan = Nursery(jobinit_path.BUILT, null, null)
            answer(orphan, null)
            os.write(tells, str(orphan.pid).encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(tells)
    with os.fdopen(told) as told_by:
        pid = int(told_by.read())
    os.waitpid(executor, 0)
    assert os.waitpid(pid, 0) == (pid, 0)


@pytest.mark.parametrize(
    ("places", "descriptors"), [(b"\3\4", 1), (b"\3", 0), (b"\3" * 100, 100)], ids=["too few", "none", "too many"]
)
def test_what_is_not_the_executors_ends_it(nursery: Nursery, null: int, places: bytes, descriptors: int) -> None:
    answer(nursery, null)
    ended = nursery.pid
    unixsock.send(nursery._connected(), places, [null] * descriptors)
    os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
    assert answer(nursery, null).type is MessageType.ERROR
    assert nursery.pid != ended
