"""The handshake with a stand-in for jobinit at the other end of the socket."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from joblet.common import unixsock
from joblet.executor.jobspec import GO, Message, MessageType, Stage
from joblet.executor.launch import Handshake, LaunchError

PARKED = Message(MessageType.PARKED).encode()


def shaken(scenario: Callable[[Handshake, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        unixsock.pass_credentials(ours)
        with ours, theirs, closing(Handshake(ours)) as handshake:
            await scenario(handshake, theirs)

    asyncio.run(run())


def test_messages_are_taken_in_their_order_whenever_they_came() -> None:
    async def scenario(handshake: Handshake, jobinit: socket.socket) -> None:
        with closing(socket.socket(socket.AF_UNIX)) as passed:
            unixsock.send(jobinit, Message(MessageType.INIT).encode(), [passed.fileno()])
        jobinit.send(PARKED)
        pid, pidfd = await handshake.init()
        os.close(pidfd)
        assert (pid, await handshake.parked()) == (os.getpid(), os.getpid())
        going = asyncio.ensure_future(handshake.go())
        await asyncio.sleep(0)
        assert jobinit.recv(1000) == GO
        jobinit.shutdown(socket.SHUT_WR)
        await going

    shaken(scenario)


def test_an_end_that_came_before_it_was_waited_for() -> None:
    async def scenario(handshake: Handshake, jobinit: socket.socket) -> None:
        jobinit.send(PARKED)
        jobinit.close()
        await handshake.parked()
        await handshake.go()  # killed at that moment, or running: the exit record tells

    shaken(scenario)


def test_an_error_instead_of_what_was_waited_for() -> None:
    async def scenario(handshake: Handshake, jobinit: socket.socket) -> None:
        jobinit.send(Message(MessageType.ERROR, Stage.MOUNT, 28, "/tmp").encode())
        with pytest.raises(LaunchError, match="mount the job's file systems") as failure:
            await handshake.parked()
        assert (failure.value.stage, failure.value.error) == (Stage.MOUNT, 28)

    shaken(scenario)


def test_descriptors_that_nobody_waited_for_are_closed() -> None:
    async def scenario(handshake: Handshake, jobinit: socket.socket) -> None:
        reading, writing = os.pipe()
        unixsock.send(jobinit, Message(MessageType.INIT).encode(), [writing])
        os.close(writing)
        for _ in range(3):
            await asyncio.sleep(0)
        handshake.close()
        assert os.read(reading, 1) == b""  # no write end is left
        os.close(reading)

    shaken(scenario)
