"""Sockets on which a reader of this machine gets output without TLS: made for it by `handout`, used by ReadLogs.

A ticket is 16 random bytes in hexadecimal. It stands for the sending end of one socket, whose other end was passed to
whoever asked for it; it gives no right to anything. What is sent, and whether, is decided by the call that brings the
ticket, which is authenticated and authorized like every other.
"""

import secrets
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from joblet.common import framed

MOST = 256  # not used yet; then the oldest go
SECONDS = 10.0  # for the call to come


@dataclass(frozen=True, slots=True)
class _Offer:
    job_id: str
    sender: socket.socket
    until: float  # monotonic seconds


class Tickets:
    """From any thread. An offer that nobody takes up is closed when the next one is made after its time."""

    def __init__(self) -> None:
        self._offers: OrderedDict[str, _Offer] = OrderedDict()  # the oldest first
        self._lock = Lock()

    def offer(self, job_id: str) -> tuple[str, int]:
        """A ticket for one reading of this job's log, and the descriptor of the receiving end, which the caller
        closes."""
        sender, receiver = framed.pair()
        ticket, now = secrets.token_hex(16), time.monotonic()
        with self._lock:
            while self._offers and (len(self._offers) >= MOST or self._oldest().until <= now):
                self._offers.popitem(last=False)[1].sender.close()
            self._offers[ticket] = _Offer(job_id, sender, now + SECONDS)
        return ticket, receiver.detach()

    def take(self, ticket: str, job_id: str) -> socket.socket | None:
        """The sending end, which the caller closes; None for a ticket that is not known (any more), or was given for
        another job."""
        with self._lock:
            offer = self._offers.pop(ticket, None)
        if offer is None:
            return None
        if offer.job_id == job_id and offer.until > time.monotonic():
            return offer.sender
        offer.sender.close()
        return None

    def close(self) -> None:
        with self._lock:
            for offer in self._offers.values():
                offer.sender.close()
            self._offers.clear()

    def _oldest(self) -> _Offer:
        return next(iter(self._offers.values()))
