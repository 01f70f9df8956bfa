"""Logs that the logstore has made ahead, with their descriptors here: a job takes one without waiting for it.

What becomes of them when a process is killed is told in the logstore's spares.py. One that waits here is given back by
closing it. The stock is filled a moment after a launch has taken the most of it, by one request for all that lack.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from joblet.common import log
from joblet.common.errors import Internal
from joblet.common.unixsock import Received
from joblet.executor.logrequests import Request, checked

STOCK: Final = 8
_LOW: Final = STOCK // 2
_PAUSE_SECONDS: Final = 0.005  # so that filling up does not compete with the launch that emptied it

_log = log.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Spare:
    name: str
    output: int
    index: int

    def close(self) -> None:
        os.close(self.output)
        os.close(self.index)


class SpareLogs:
    """`send` makes one attempt with a request: the answer to come, or the OSError that met it."""

    def __init__(self, send: "Callable[[Request], asyncio.Future[Received]]") -> None:
        self._send = send
        self._stock: list[Spare] = []
        self._drops = 0
        self._pause: asyncio.TimerHandle | None = None
        self._asked: asyncio.Future[Received] | None = None
        self._closed = False

    def take(self) -> Spare | None:
        """For the caller to close. None: there is none."""
        while self._stock:
            spare = self._stock.pop(0)
            if os.fstat(spare.output).st_nlink:
                return spare
            _log.warn("a log made ahead was removed by somebody", spare=spare.name)
            spare.close()
        return None

    def drop(self) -> None:
        """Gives back what waits: its connection is gone, and the next logstore may have another directory."""
        self._drops += 1
        while self._stock:
            self._stock.pop().close()

    def refill(self) -> None:
        """Soon, without waiting for it."""
        if not self._closed and self._pause is None and self._asked is None and len(self._stock) <= _LOW:
            self._pause = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._ask)

    def close(self) -> None:
        """Gives back what waits, and what is still to come."""
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        if self._asked is not None:
            self._asked.cancel()
        self.drop()

    def _ask(self) -> None:
        self._pause = None
        count, drops = STOCK - len(self._stock), self._drops
        request: Request = {"op": "prepare", "count": count}
        self._asked = self._send(request)
        self._asked.add_done_callback(lambda answer: self._arrived(request, count, drops, answer))

    def _arrived(self, request: Request, count: int, drops: int, answer: "asyncio.Future[Received]") -> None:
        self._asked = None
        if answer.cancelled():
            return
        try:
            received = answer.result()
            names = checked(request, received, 2 * count)["spares"]
        except (OSError, Internal) as error:
            _log.warn("no logs could be made ahead", error=error)
            return
        self._stock += map(Spare, names, received.fds[::2], received.fds[1::2])
        if self._closed or drops != self._drops:  # the connection went after the answer had come
            self.drop()
