"""Short-lived children of the executor that change their own namespaces, forked at start-up before any thread exists.

Child and parent talk over a SOCK_SEQPACKET pair, one short message each way at a time: the child says where it has
arrived, the parent answers or, by closing, sends it away. A failure in the child arrives in the parent as the OSError
it was.
"""

import errno
import gc
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_FAILED: Final = b"!"
_MESSAGE_BYTES: Final = 4096

Work = Callable[[socket.socket], None]


@dataclass(frozen=True, slots=True)
class Worker:
    """A running child, `pid`, and the parent's end of the pair."""

    pid: int
    channel: socket.socket

    def expect(self, word: bytes) -> None:
        """Waits until the child says `word`. Raises the OSError it failed with, EPROTO if it ended early."""
        message = self.channel.recv(_MESSAGE_BYTES)
        if message == word:
            return
        if message.startswith(_FAILED):
            code, _, text = message[1:].decode(errors="replace").partition(" ")
            raise OSError(int(code), text)
        raise OSError(errno.EPROTO, f"the helper process ended early, with {message!r} instead of {word!r}")

    def say(self, word: bytes) -> None:
        self.channel.send(word)


@contextmanager
def worker(work: Work) -> Iterator[Worker]:
    """Runs `work(channel)` in a forked child; it ends when `work` returns and is reaped when the block is left."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _child(work, theirs)
    theirs.close()
    try:
        yield Worker(pid, ours)
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _child(work: Work, channel: socket.socket) -> None:
    # Whatever happens, the child must never return into the parent's code; a collection would run its finalizers, which
    # may wait for threads that a fork does not take along.
    gc.disable()
    try:
        work(channel)
    except OSError as error:
        # error.args[1] is the plain text; str() repeats the number and quotes the operands.
        operands = f": {error.filename}" if error.filename else ""
        text = f"{error.strerror or error}{operands}"
        channel.send(_FAILED + f"{error.errno or 0} {text}".encode()[: _MESSAGE_BYTES - 1])
    except BaseException:  # noqa: BLE001 - a fault of ours: shown, and the parent sees the early end
        traceback.print_exc()
    finally:
        os._exit(0)
