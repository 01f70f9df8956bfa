"""Output over the socket of this machine's logstore: the same bytes, and by TLS whenever that cannot be."""

import asyncio
import json
import random
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from joblet.api import job_pb2
from joblet.api.job_pb2 import GetJobLogsReq
from joblet.common import framed, unixsock
from joblet.gateway import localstream
from joblet.gateway.logs_test import running_job
from joblet.gateway.testing import FakeNode, World, failure, output, world

DATA = random.Random(1).randbytes(3_000_000)

Answer = Callable[[socket.socket], None]


class Control:
    """A control socket where the gateway looks for one. Its tickets are those that `node` knows."""

    def __init__(self, listener: socket.socket, node: FakeNode | None) -> None:
        self._listener = listener
        self._node = node
        self._kept = ExitStack()
        self.asked = 0
        self.answer: Answer = self.offer

    def accept(self) -> None:
        peer, _ = self._listener.accept()
        self.asked += 1
        self._kept.enter_context(peer)
        unixsock.receive(peer)  # there already: it was sent in the same step
        self.answer(peer)

    def offer(self, peer: socket.socket) -> None:
        sender, receiver = framed.pair()
        ticket = secrets.token_hex(16)
        if self._node is None:
            self._kept.enter_context(sender)
        else:
            self._node.senders[ticket] = sender
        with receiver:
            unixsock.send(peer, json.dumps({"ok": True, "ticket": ticket}).encode(), (receiver.fileno(),))

    def close(self) -> None:
        self._kept.close()


@contextmanager
def control(it: World, node: FakeNode | None) -> Iterator[Control]:
    with unixsock.bind(it.config.gateway.logstore_socket) as listener:
        served = Control(listener, node)
        asyncio.get_running_loop().add_reader(listener, served.accept)
        try:
            yield served
        finally:
            asyncio.get_running_loop().remove_reader(listener)
            served.close()


def unix_sockets() -> int:
    """Open in this process, which also has those of asyncio and grpc (proc(5), /proc/net/unix)."""
    known = {f"socket:[{line.split()[6]}]" for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the directory's own
            found += str(fd.readlink()) in known
    return found


async def read(it: World, job_id: str) -> bytes:
    client = await it.client()
    return await output(client.GetJobLogs(GetJobLogsReq(uuid=job_id, noFollow=True)))


def test_history_then_live_then_the_end_by_the_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            client = await it.client("viewer-client")
            before = unix_sockets()
            with control(it, it.node) as served:
                it.node.print(job, DATA[:1_000_000])
                request = GetJobLogsReq(uuid=job.spec.job_id)
                readers = [asyncio.ensure_future(output(client.GetJobLogs(request))) for _ in range(5)]
                for position in range(1_000_000, 3_000_000, 100_000):
                    it.node.print(job, DATA[position : position + 100_000])
                    await asyncio.sleep(0)
                it.node.ended(job, "COMPLETED", 0)
                for reader in readers:
                    assert await reader == DATA
                assert (served.asked, len(it.node.read_requests), it.node.senders) == (5, 5, {})
            assert unix_sockets() == before

    asyncio.run(scenario())


def test_a_logstore_that_is_killed_again_and_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            client = await it.client()
            with control(it, it.node) as served:
                reader = asyncio.ensure_future(output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id))))
                for position in range(0, len(DATA), 500_000):
                    it.node.print(job, DATA[position : position + 500_000])
                    seen = len(it.node.read_requests)
                    await it.node.logstore_down()
                    await it.node.logstore_up()
                    async with asyncio.timeout(120):
                        while len(it.node.read_requests) == seen:
                            await asyncio.sleep(0.01)
                it.node.ended(job, "COMPLETED", 0)
                assert await reader == DATA
                assert it.node.read_requests == sorted(it.node.read_requests)
                assert served.asked >= len(it.node.read_requests)
                assert it.gateway.nodes.link(it.node.node_id).elsewhere_until == 0

    asyncio.run(scenario())


def test_the_logstore_of_another_machine_answers_by_the_call_and_is_offered_no_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, DATA)
            with control(it, None) as served:
                assert await read(it, job.spec.job_id) == DATA
                assert it.node.last_read.ticket
                assert await read(it, job.spec.job_id) == DATA
                assert not it.node.last_read.ticket
                assert served.asked == 1

    asyncio.run(scenario())


ANSWERS: dict[str, Answer] = {
    "silence": lambda _: None,
    "an end": lambda peer: peer.close(),
    "a refusal": lambda peer: unixsock.send(peer, b'{"ok": false, "error": "no"}'),
    "no socket": lambda peer: unixsock.send(peer, b'{"ok": true, "ticket": "0"}'),
    "two sockets": lambda peer: unixsock.send(peer, b'{"ok": true, "ticket": "0"}', (0, 1)),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_control_socket_that_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(localstream, "ANSWER_SECONDS", 0.05)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, DATA)
            before = unix_sockets()
            with control(it, it.node) as served:
                served.answer = ANSWERS[answer]
                assert await read(it, job.spec.job_id) == DATA
                assert served.asked == 1
            assert unix_sockets() == before

    asyncio.run(scenario())


def test_refusals_come_by_the_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, b"short")
            client = await it.client()
            with control(it, it.node):
                beyond = client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id, offset=6))
                assert await failure(output(beyond)) == ("OUT_OF_RANGE", "offset 6 is beyond the end")

    asyncio.run(scenario())


def test_a_message_that_is_cut_short_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut(sender: socket.socket, message: bytes) -> None:
        sender.sendall((len(message) + bool(message)).to_bytes(4, "big") + message)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, b"short")
            with control(it, it.node):
                monkeypatch.setattr(framed, "send", cut)
                text = "the logstore sent a message that is cut short"
                assert await failure(read(it, job.spec.job_id)) == ("INTERNAL", text)

    asyncio.run(scenario())


def test_a_socket_that_begins_with_something_else_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(sender: socket.socket, message: bytes) -> None:
        sender.sendall(b"HTTP" + message)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, b"short")
            with control(it, it.node):
                monkeypatch.setattr(framed, "send", other)
                text = "the logstore began with something else than an empty message"
                assert await failure(read(it, job.spec.job_id)) == ("INTERNAL", text)

    asyncio.run(scenario())


def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, DATA)
            client = await it.client()
            with control(it, it.node):
                before = unix_sockets()
                calls = [client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id)) for _ in range(10)]
                for call in calls:
                    await call.read()
                assert it.node.readers == 10
                for call in calls:
                    call.cancel()
                async with asyncio.timeout(120):
                    while it.node.readers or unix_sockets() > before + 10:  # the other ends of what `control` accepted
                        await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_client_that_takes_nothing_is_sent_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, reader_timeout_seconds=0.5) as it:
            job = await running_job(it)
            it.node.print(job, b"x" * 64_000_000)
            client = await it.client()
            with control(it, it.node):
                stuck = client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id))
                await stuck.read()
                async with asyncio.timeout(120):
                    while it.node.readers:
                        await asyncio.sleep(0.01)
                received = 0
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    while isinstance(chunk := await stuck.read(), job_pb2.DataChunk):
                        received = chunk.offset + len(chunk.payload)
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert 0 < received < 64_000_000

    asyncio.run(scenario())
