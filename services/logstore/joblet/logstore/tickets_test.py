import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from joblet.logstore import tickets as module
from joblet.logstore.tickets import Tickets

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
OTHER = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def tickets() -> Iterator[Tickets]:
    before = set(os.listdir("/proc/self/fd"))
    with closing(Tickets()) as tickets:
        yield tickets
    assert set(os.listdir("/proc/self/fd")) <= before  # what others left open may be closed by now


def is_open(receiver: socket.socket) -> bool:
    try:
        return receiver.recv(1) != b""
    except BlockingIOError:
        return True


def test_a_ticket_serves_once(tickets: Tickets) -> None:
    ticket, fd = tickets.offer(JOB)
    with socket.socket(fileno=fd) as receiver:
        sender = tickets.take(ticket, JOB)
        assert sender is not None
        with sender:
            sender.send(b"output")
        assert receiver.recv(10) == b"output"
        assert tickets.take(ticket, JOB) is None


def test_a_ticket_of_another_job_or_of_nobody_is_none(tickets: Tickets) -> None:
    ticket, fd = tickets.offer(JOB)
    with socket.socket(fileno=fd) as receiver:
        assert tickets.take("", JOB) is None
        assert tickets.take("0" * 32, JOB) is None
        assert is_open(receiver)
        assert tickets.take(ticket, OTHER) is None
        assert not is_open(receiver)
        assert tickets.take(ticket, JOB) is None


def test_what_is_not_used_in_time_is_closed(tickets: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    late, first = tickets.offer(JOB)
    with socket.socket(fileno=first) as receiver:
        assert is_open(receiver)
        _, second = tickets.offer(JOB)
        os.close(second)
        assert not is_open(receiver)
        assert tickets.take(late, JOB) is None


def test_the_oldest_goes_when_there_are_too_many(tickets: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    offers = [tickets.offer(JOB) for _ in range(3)]
    for _, fd in offers:
        os.close(fd)
    taken = [tickets.take(ticket, JOB) for ticket, _ in offers]
    assert [sender is not None for sender in taken] == [False, True, True]
    for sender in taken[1:]:
        assert sender is not None
        sender.close()
