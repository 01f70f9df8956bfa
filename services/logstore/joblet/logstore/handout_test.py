import asyncio
import errno
import json
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from joblet.common import unixsock
from joblet.common.errors import FailedPrecondition, StartError
from joblet.logstore import handout as module
from joblet.logstore import spares
from joblet.logstore.directory import new_index
from joblet.logstore.handout import PACKET_SIZE, Handout
from joblet.logstore.index import IndexReader, Kind
from joblet.logstore.layout import LogDirectory
from joblet.logstore.tickets import Tickets

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
NAME = b'{"op": "name", "spare": "%b", "job_id": "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"}'
TIMEOUT_SECONDS = 120.0


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with unixsock.connect(path, timeout_seconds=TIMEOUT_SECONDS) as client:
        yield client


def raw(client: socket.socket, packet: bytes, fds: tuple[int, ...] = ()) -> tuple[dict[str, object], tuple[int, ...]]:
    unixsock.send(client, packet, fds)
    received = unixsock.receive(client, PACKET_SIZE)
    return json.loads(received.data), received.fds


def ask(client: socket.socket, operation: str, job_id: str = JOB) -> dict[str, object]:
    answer, fds = raw(client, json.dumps({"op": operation, "job_id": job_id}).encode())
    for fd in fds:
        os.close(fd)
    return answer


def serving(directory: Path, *clients: Callable[[Path], None]) -> None:
    """Runs each client in a thread of its own against a control socket; all descriptors must be closed afterwards."""

    async def main() -> None:
        with ExitStack() as stack:
            logs = stack.enter_context(closing(LogDirectory(directory / "logs")))
            tickets = stack.enter_context(closing(Tickets()))
            handout = stack.enter_context(
                closing(Handout(directory / "run" / "control.sock", logs, lambda _: None, tickets))
            )
            server = asyncio.create_task(handout.serve())
            threads: list[Awaitable[None]] = [
                asyncio.to_thread(client, directory / "run" / "control.sock") for client in clients
            ]
            await asyncio.gather(*threads)
            server.cancel()
            await asyncio.wait([server])
            assert server.cancelled()

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert set(os.listdir("/proc/self/fd")) <= before  # what others left open may be closed by now
    assert not (directory / "run" / "control.sock").exists()


def test_open_gives_the_descriptors_of_output_and_index(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        request = json.dumps({"op": "open", "job_id": JOB}).encode()
        with connected(path) as control:
            for expected in (b"one", b"two"):
                answer, (output, index) = raw(control, request)
                assert answer == {"ok": True}
                os.write(output, expected)
                assert (tmp_path / "logs" / JOB / "output").read_bytes() == expected
                assert Path(f"/proc/self/fd/{index}").readlink() == tmp_path / "logs" / JOB / "index"
                os.close(output)
                os.close(index)

    serving(tmp_path, client)


def test_spares_come_with_descriptors_and_get_the_names_of_jobs(tmp_path: Path) -> None:
    other = "00000000-0000-4000-8000-000000000001"

    def client(path: Path) -> None:
        with connected(path) as control:
            answer, fds = raw(control, b'{"op": "prepare", "count": 8}')
            spares = answer.pop("spares")
            assert answer == {"ok": True}
            assert isinstance(spares, list)
            assert len(set(spares)) == 8 and len(fds) == 16
            for spare, job_id in zip(spares, (JOB, other), strict=False):
                request = json.dumps({"op": "name", "spare": spare, "job_id": job_id}).encode()
                assert raw(control, request) == raw(control, request) == ({"ok": True}, ())  # it may be repeated
            for number, job_id in enumerate((JOB, other)):
                os.write(fds[2 * number], job_id.encode())
                assert (tmp_path / "logs" / job_id / "output").read_text() == job_id
                index = Path(f"/proc/self/fd/{fds[2 * number + 1]}").readlink()
                assert index == tmp_path / "logs" / job_id / "index"
            assert ask(control, "size") == {"ok": True, "bytes": len(JOB), "ended": False}
            for fd in fds:
                os.close(fd)

    serving(tmp_path, client)


def test_spares_that_cannot_be_made_leave_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def third_time_full(*arguments: object) -> int:
        nonlocal made
        made += 1
        if made == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return new_index(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(spares, "new_index", third_time_full)

    def client(path: Path) -> None:
        with connected(path) as control:
            request = b'{"op": "prepare", "count": 4}'
            assert raw(control, request) == ({"ok": False, "error": "[Errno 28] No space left on device"}, ())

    serving(tmp_path, client)  # looks at the descriptors
    with closing(LogDirectory(tmp_path / "logs")) as logs:
        assert logs.spares.sweep() == 3
    assert list((tmp_path / "logs").iterdir()) == []


def test_stream_gives_a_ticket_and_the_descriptor_of_a_socket(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        request = json.dumps({"op": "stream", "job_id": UNKNOWN}).encode()  # whether there is such a job says the call
        with connected(path) as control:
            answers = [raw(control, request) for _ in range(2)]
        tickets = {str(answer["ticket"]) for answer, _ in answers}
        assert [len(ticket) for ticket in tickets] == [32, 32]
        for answer, (fd,) in answers:
            assert answer.keys() == {"ok", "ticket"}
            with socket.socket(fileno=fd) as receiver:
                assert (receiver.family, receiver.type) == (socket.AF_UNIX, socket.SOCK_STREAM)

    serving(tmp_path, client)


def test_finish_and_size_answer_with_bytes(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        with connected(path) as control:
            assert ask(control, "open") == {"ok": True}
            output = tmp_path / "logs" / JOB / "output"
            output.write_bytes(b"hello")
            assert ask(control, "size") == {"ok": True, "bytes": 5, "ended": False}
            assert ask(control, "finish") == {"ok": True, "bytes": 5}
            assert ask(control, "finish") == {"ok": True, "bytes": 5}
            assert ask(control, "size") == {"ok": True, "bytes": 5, "ended": True}
            assert ask(control, "open") == {"ok": False, "error": f"the output of job {JOB} has ended"}
            with (tmp_path / "logs" / JOB / "index").open("rb") as index:
                assert [entry.kind for entry in IndexReader(index.fileno()).poll()] == [Kind.END]

    serving(tmp_path, client)


def test_only_logs_that_nothing_was_written_to_are_discarded(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        with connected(path) as control:
            log = tmp_path / "logs" / JOB
            assert ask(control, "open") == {"ok": True}
            for _ in range(2):
                assert ask(control, "discard") == {"ok": True}
                assert not log.exists()
            assert ask(control, "open") == {"ok": True}
            (log / "output").write_bytes(b"hello")
            assert ask(control, "discard") == {"ok": False, "error": f"job {JOB} has written output already"}
            (log / "output").write_bytes(b"")
            assert ask(control, "finish") == {"ok": True, "bytes": 0}
            assert ask(control, "discard") == {"ok": False, "error": f"the output of job {JOB} has ended"}
            assert (log / "index").exists()

    serving(tmp_path, client)


def test_nothing_is_discarded_for_who_is_gone(tmp_path: Path) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(LogDirectory(tmp_path / "logs")) as logs, here, there:
        logs.open_for_writing(JOB).close()
        assert not unixsock.is_closed(here)
        there.send(b"what is still to be read")
        there.close()
        with pytest.raises(FailedPrecondition, match="who asked for it is gone"):
            logs.discard(JOB, lambda: not unixsock.is_closed(here))
    assert (tmp_path / "logs" / JOB / "index").exists()


@pytest.mark.parametrize("operation", ["finish", "size"])
def test_unknown_jobs_are_named(tmp_path: Path, operation: str) -> None:
    def client(path: Path) -> None:
        with connected(path) as control:
            assert ask(control, operation, UNKNOWN) == {"ok": False, "error": f"job not found: {UNKNOWN}"}

    serving(tmp_path, client)


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        (b"{", "a request is one JSON object"),
        (b"\xff\xfe\x00", "a request is one JSON object"),
        (b"[" * PACKET_SIZE, "a request is one JSON object"),
        (b"[]", 'a request is an object with the key "op"'),
        (b'{"job_id": "x"}', 'a request is an object with the key "op"'),
        (b'{"op": "open"}', 'a request has the keys "op" and "job_id"'),
        (b'{"op": "open", "job_id": "x", "path": "/etc"}', 'a request has the keys "op" and "job_id"'),
        (b'{"op": "format", "job_id": "x"}', "op is one of open, prepare, name, finish, discard, size, stream"),
        (b'{"op": ["open"], "job_id": "x"}', "op is one of open, prepare, name, finish, discard, size, stream"),
        (b'{"op": "open", "job_id": 7}', "job_id is a string"),
        (b'{"op": "open", "job_id": "../../etc"}', "invalid job id: '../../etc'"),
        (b'{"op": "prepare", "job_id": "x"}', 'a request has the keys "op" and "count"'),
        (b'{"op": "prepare", "count": "1"}', "count is a whole number"),
        (b'{"op": "prepare", "count": true}', "count is a whole number"),
        (b'{"op": "prepare", "count": 0}', "count is 1 to 8"),
        (b'{"op": "prepare", "count": 9}', "count is 1 to 8"),
        (b'{"op": "name", "job_id": "x"}', 'a request has the keys "op" and "spare" and "job_id"'),
        (b'{"op": "name", "spare": "spare-0123456789abcdef", "job_id": "../x"}', "invalid job id: '../x'"),
        (NAME % b"../../etc", "invalid name of a spare log: '../../etc'"),
        (NAME % b"00000000-0000-4000-8000-000000000000", f"invalid name of a spare log: '{UNKNOWN}'"),
        (NAME % b"spare-0123456789abcdef", "there is no spare log spare-0123456789abcdef"),
        (b"x" * (PACKET_SIZE + 1), "a request has at most 4096 bytes and no descriptors"),
    ],
)
def test_a_bad_request_is_answered_and_the_connection_goes_on(tmp_path: Path, packet: bytes, error: str) -> None:
    def client(path: Path) -> None:
        with connected(path) as control:
            assert raw(control, packet) == ({"ok": False, "error": error}, ())
            assert ask(control, "open") == {"ok": True}

    serving(tmp_path, client)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [JOB]


def test_random_packets_are_all_answered(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        noise = random.Random(1)
        with connected(path) as control:
            for _ in range(300):
                answer, _ = raw(control, noise.randbytes(noise.randrange(1, 200)))
                assert answer["ok"] is False
            assert ask(control, "open") == {"ok": True}

    serving(tmp_path, client)


def test_descriptors_sent_along_are_refused_and_closed(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        reading, writing = os.pipe()
        with connected(path) as control:
            answer, _ = raw(control, b'{"op": "open", "job_id": "x"}', (writing,))
            assert answer == {"ok": False, "error": "a request has at most 4096 bytes and no descriptors"}
            os.close(writing)
            assert os.read(reading, 1) == b""  # no other copy of the writing end is left
        os.close(reading)

    serving(tmp_path, client)


def test_an_error_of_the_disk_is_answered(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        with connected(path) as control:
            (tmp_path / "logs" / JOB).write_bytes(b"in the way")
            answer = ask(control, "open")
            assert answer["ok"] is False and "Not a directory" in str(answer["error"])

    serving(tmp_path, client)


def test_peers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Each client keeps its own connection open until all have been answered."""
    clients = 8
    answered = [0] * clients

    def client(number: int, path: Path) -> None:
        with connected(path) as control:
            for _ in range(20):
                assert ask(control, "open", f"0000000{number}-0000-4000-8000-000000000000") == {"ok": True}
                answered[number] += 1

    def keep_open_and_silent(path: Path) -> None:
        with connected(path) as silent, ExitStack() as stack:
            unixsock.send(silent, b'{"op": "size", "job_id": "x"}')  # asks and never reads
            for number in range(clients):
                stack.callback(client, number, path)

    serving(tmp_path, keep_open_and_silent, *[lambda path, n=n: client(n, path) for n in range(clients)])
    assert answered == [40] * clients


def test_more_connections_than_allowed_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 2)

    def client(path: Path) -> None:
        with connected(path) as first, connected(path) as second, connected(path) as third:
            assert ask(first, "open") == ask(second, "open") == {"ok": True}
            assert "more than 2 connections" in str(json.loads(unixsock.receive(third).data)["error"])

    serving(tmp_path, client)


def test_a_peer_that_asks_and_never_reads_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_TIMEOUT_SECONDS", 0.1)

    def client(path: Path) -> None:
        with connected(path) as control, pytest.raises(ConnectionError):
            while True:
                unixsock.send(control, b'{"op": "size", "job_id": "x"}')

    serving(tmp_path, client)


def test_the_socket_is_private_and_taken_only_once(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        with closing(LogDirectory(tmp_path / "other")) as logs, pytest.raises(StartError):
            Handout(path, logs, lambda _: None, Tickets())
        with connected(path) as control:
            assert ask(control, "open") == {"ok": True}

    serving(tmp_path, client)
